"""Files beside a run's weights for its use: how probable its predictions are, the threshold that is best on dev, and
which types of entities each relation joins."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from torch import Tensor

from hingeabl.core.evaluation import Gold, score_predictions
from hingeabl.core.losses import Loss
from hingeabl.data.schema import Document
from hingeabl.errors import UserError
from hingeabl.files import are_numbers, read_json, write_json

CONFIDENCE, TYPES = "confidence.json", "types.json"
BINS = 10  # of the expected calibration error
Types = dict[str, set[tuple[str, str]]]  # for each relation the types of (head, tail) in the training labels


class Confidence(NamedTuple):
    """The probability that a prediction with a margin is right: 1 / (1 + exp(-(slope * margin + intercept)))."""

    slope: float
    intercept: float

    def of(self, margin: float) -> float:
        """The probability for a margin, score - threshold."""
        value = self.slope * margin + self.intercept
        return 1 / (1 + math.exp(-value)) if value > -700 else 0.0


def fit_confidence(margins: np.ndarray, right: np.ndarray) -> Confidence:
    """Platt scaling (1999): logistic regression of `right` bool [n] on `margins` float [n], with his targets, which
    keep the fit finite if all predictions are right or all are wrong."""
    from scipy.optimize import minimize  # here: importing it takes half a second

    count = int(right.sum())
    target = np.where(right, (count + 1) / (count + 2), 1 / (len(right) - count + 2))

    def cross_entropy(weights: np.ndarray) -> tuple[float, np.ndarray]:
        value = weights[0] * margins + weights[1]
        error = 1 / (1 + np.exp(-value)) - target
        gradient = np.array([error @ margins, error.sum()]) / len(margins)
        return float(np.mean(np.logaddexp(0, value) - target * value)), gradient

    return Confidence(*map(float, minimize(cross_entropy, np.zeros(2), jac=True, method="L-BFGS-B").x))


def bin_of(confidence: np.ndarray) -> np.ndarray:
    """The number of each probability's bin, of BINS bins of equal width."""
    return np.minimum((confidence * BINS).astype(int), BINS - 1)


def calibration_error(confidence: np.ndarray, right: np.ndarray) -> float:
    """The expected calibration error of BINS bins of equal width: the mean distance of a bin's mean confidence from its
    share of right predictions, weighted by the bins' sizes (Naeini et al., 2015)."""
    bins = bin_of(confidence)
    gaps = [abs(float(confidence[bins == bin].sum() - right[bins == bin].sum())) for bin in range(BINS)]
    return sum(gaps) / max(len(right), 1)


def predicted_triples(
    pairs: dict[str, Tensor], loss: Loss, num_labels: int
) -> tuple[list[tuple[int, int, int, int]], np.ndarray]:
    """The predicted triples (document, head, tail, class) in inference.Predictions.pairs, and their margins float64
    [n]."""
    if not pairs:
        return [], np.zeros(0)
    scores, threshold = loss.with_one_threshold(pairs["scores"])
    rows, classes = loss.predict(pairs["scores"], num_labels)[:, 1:].nonzero().unbind(1)
    margins = scores[rows, classes + 1] - threshold[rows]
    documents, entities = pairs["document"][rows].tolist(), pairs["entities"][rows].tolist()
    triples = [
        (document, head, tail, relation + 1)
        for document, (head, tail), relation in zip(documents, entities, classes.tolist(), strict=True)
    ]
    return triples, margins.double().numpy()


def best_shift(margins: np.ndarray, right: np.ndarray, gold: int) -> tuple[float, float]:
    """The number, at least 0, that added to the threshold gives the highest F1, and that F1; from predictions with
    margins [n] and `right` bool [n], and the number of `gold` triples."""
    order = np.argsort(-margins, kind="stable")
    correct = np.cumsum(right[order])
    f1 = 2 * correct / (np.arange(1, len(order) + 1) + gold)
    f1[:-1][margins[order][:-1] == margins[order][1:]] = -1  # no threshold lies between equal margins
    last = len(order) - 1 - int(f1[::-1].argmax())  # the lowest of several equally good thresholds
    if last == len(order) - 1:
        return 0.0, float(f1[last])
    return float(margins[order[last : last + 2]].mean()), float(f1[last])


def gold_triples(documents: Sequence[Document], rel2id: dict[str, int]) -> set[tuple[int, int, int, int]]:
    """The labels of documents, (document, head, tail, class)."""
    return {
        (number, label["h"], label["t"], rel2id[label["r"]])
        for number, document in enumerate(documents)
        for label in document["labels"]
    }


def types_of_pair(document: Document, head: int, tail: int) -> set[tuple[str, str]]:
    """The types (head, tail) of two entities, each mention's with each mention's; none if mentions have no types, or
    what is there is not a string."""
    head_types, tail_types = (
        {kind for mention in document["vertexSet"][entity] if isinstance(kind := mention.get("type"), str)}
        for entity in (head, tail)
    )
    return set(itertools.product(head_types, tail_types))


def learned_types(documents: Iterable[Document]) -> Types:
    """The types that each relation joins in labelled documents."""
    types: Types = {}
    for document in documents:
        for label in document.get("labels", ()):
            types.setdefault(label["r"], set()).update(types_of_pair(document, label["h"], label["t"]))
    return types


def joins_learned_types(types: Types, document: Document, entry: dict[str, Any]) -> bool:
    """Whether a prediction joins types that its relation joins in `types`; also true if the entities have no types, or
    no pair of their types has both in `types`."""
    predicted = types_of_pair(document, entry["h_idx"], entry["t_idx"])
    if not predicted.isdisjoint(types.get(entry["r"], ())):
        return True
    all_types = set(itertools.chain.from_iterable(itertools.chain.from_iterable(types.values())))
    return not any(all_types.issuperset(pair) for pair in predicted)


def write_confidence_and_types(
    folder: Path,
    train: list[Document],
    dev: list[Document],
    gold: Gold,
    entries: list[dict[str, Any]],
    pairs: dict[str, Tensor],
    loss: Loss,
    rel2id: dict[str, int],
    num_labels: int,
) -> None:
    """Fit the confidence and the best shift to the predictions in dev, `pairs` and `entries`, learn the types from
    train, and write them to a run's folder; no confidence if nothing was predicted, no types if train has none."""
    margins, right, gold_count = margins_and_right(dev, pairs, loss, rel2id, num_labels)
    if len(margins):
        confidence = fit_confidence(margins, right)
        counts = {"predictions": len(margins), "right": int(right.sum())}
        shift, f1 = best_shift(margins, right, gold_count)
        shift_figures = {"best_shift": shift, "dev_f1_shifted": f1}
        write_json(folder / CONFIDENCE, {**confidence._asdict(), **counts, **shift_figures})
    types = learned_types(train)
    if not any(types.values()):
        return
    by_title = {document["title"]: document for document in dev}
    kept = [entry for entry in entries if joins_learned_types(types, by_title[entry["title"]], entry)]
    f1, f1_learned = (score_predictions(predictions, gold)["f1"] for predictions in (entries, kept))
    lists = {relation: sorted(map(list, pairs)) for relation, pairs in sorted(types.items())}
    write_json(folder / TYPES, {"dev_f1": f1, "dev_f1_learned": f1_learned, "types": lists}, indent=0)


def margins_and_right(
    documents: list[Document], pairs: dict[str, Tensor], loss: Loss, rel2id: dict[str, int], num_labels: int
) -> tuple[np.ndarray, np.ndarray, int]:
    """The predictions' margins float64 [n], which of them are right bool [n], and how many triples are labelled."""
    triples, margins = predicted_triples(pairs, loss, num_labels)
    labels = gold_triples(documents, rel2id)
    return margins, np.array([triple in labels for triple in triples], dtype=bool), len(labels)


def add_test_error(
    folder: Path, test: list[Document], pairs: dict[str, Tensor], loss: Loss, rel2id: dict[str, int], num_labels: int
) -> None:
    """Add to a folder's confidence, if it has one, its calibration_error on the predictions in test."""
    confidence = read_confidence(folder)
    margins, right, _ = margins_and_right(test, pairs, loss, rel2id, num_labels)
    if confidence is None or not len(margins):
        return
    error = calibration_error(np.array(list(map(confidence.of, margins))), right)
    write_json(folder / CONFIDENCE, read_json(folder / CONFIDENCE) | {"test_ece": error})


def read_confidence(folder: Path) -> Confidence | None:
    """The confidence of a run's folder, None if it has none. Raises UserError if the file is broken."""
    path = folder / CONFIDENCE
    if not path.exists():
        return None
    content = read_json(path)
    numbers: list[Any] = [content.get(name) for name in Confidence._fields] if isinstance(content, dict) else []
    if not numbers or not all(type(number) in (int, float) and math.isfinite(number) for number in numbers):
        raise UserError(f"{path}: holds no slope and intercept; copy the run again")
    return Confidence(*numbers)


def types_help(folder: Path) -> bool:
    """Whether a folder has learned types, and they do not lower dev F1."""
    content = read_json(folder / TYPES) if (folder / TYPES).exists() else None
    f1: list[Any] = [content.get(name) for name in ("dev_f1", "dev_f1_learned")] if isinstance(content, dict) else []
    return bool(f1) and are_numbers(f1, most=1) and f1[1] >= f1[0]


def read_types(folder: Path) -> Types | None:
    """The learned types of a run's folder, None if it has none. Raises UserError if the file is broken."""
    path = folder / TYPES
    if not path.exists():
        return None
    content = read_json(path)
    try:
        return {relation: {(head, tail) for head, tail in pairs} for relation, pairs in content["types"].items()}
    except (TypeError, KeyError, ValueError, AttributeError):
        raise UserError(f"{path}: holds no types of relations; copy the run again") from None
