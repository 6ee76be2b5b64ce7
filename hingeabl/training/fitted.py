"""What a run keeps beside its weights for those who use it: how probable its predictions are, the threshold that is
best on dev, and which types of entities each relation joins."""

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
from hingeabl.files import read_json, write_json

CONFIDENCE, TYPES = "confidence.json", "types.json"
BINS = 10  # of the expected calibration error
Types = dict[str, set[tuple[str, str]]]  # the types of (head, tail) that each relation was seen with


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
    keep the fit finite where all predictions are right or all are wrong."""
    from scipy.optimize import minimize  # here: importing it takes half a second

    count = int(right.sum())
    target = np.where(right, (count + 1) / (count + 2), 1 / (len(right) - count + 2))

    def cross_entropy(weights: np.ndarray) -> tuple[float, np.ndarray]:
        value = weights[0] * margins + weights[1]
        error = 1 / (1 + np.exp(-value)) - target
        return float(np.mean(np.logaddexp(0, value) - target * value)), np.array([error @ margins, error.sum()]) / len(
            margins
        )

    return Confidence(*map(float, minimize(cross_entropy, np.zeros(2), jac=True, method="L-BFGS-B").x))


def bin_of(confidence: np.ndarray) -> np.ndarray:
    """The one of BINS bins of equal width that each probability lies in."""
    return np.minimum((confidence * BINS).astype(int), BINS - 1)


def calibration_error(confidence: np.ndarray, right: np.ndarray) -> float:
    """The expected calibration error of BINS bins of equal width: the mean distance of a bin's mean confidence from its
    share of right predictions, weighted by the bins' sizes (Naeini et al., 2015)."""
    place = bin_of(confidence)
    gaps = [abs(float(confidence[place == bin].sum() - right[place == bin].sum())) for bin in range(BINS)]
    return sum(gaps) / max(len(right), 1)


def predicted_triples(
    pairs: dict[str, Tensor], loss: Loss, num_labels: int
) -> tuple[list[tuple[int, int, int, int]], np.ndarray]:
    """The predictions of inference.Predictions.pairs: (document, head, tail, class) of each, and their margins
    float64 [n]."""
    if not pairs:
        return [], np.zeros(0)
    scores, threshold = loss.comparable(pairs["scores"])
    rows, classes = loss.predict(pairs["scores"], num_labels)[:, 1:].nonzero().unbind(1)
    margins = scores[rows, classes + 1] - threshold[rows]
    documents, entities = pairs["document"][rows].tolist(), pairs["entities"][rows].tolist()
    triples = [
        (document, head, tail, number + 1)
        for document, (head, tail), number in zip(documents, entities, classes.tolist(), strict=True)
    ]
    return triples, margins.double().numpy()


def best_shift(margins: np.ndarray, right: np.ndarray, gold: int) -> tuple[float, float]:
    """The number, 0 or more, that raises the threshold to the highest F1, and that F1: of predictions with their
    margins [n], `right` bool [n], of `gold` triples."""
    order = np.argsort(-margins, kind="stable")
    correct = np.cumsum(right[order])
    f1 = 2 * correct / (np.arange(1, len(order) + 1) + gold)
    last = len(order) - 1 - int(f1[::-1].argmax())  # the lowest threshold of several that are as good
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
    """The types (head, tail) of two entities: one of each mention; none where mentions have no type."""
    of_head, of_tail = (
        {one["type"] for one in document["vertexSet"][entity] if "type" in one} for entity in (head, tail)
    )
    return {(first, second) for first in of_head for second in of_tail}


def learned_types(documents: Iterable[Document]) -> Types:
    """The types that each relation joins in labelled documents."""
    found: Types = {}
    for document in documents:
        for label in document.get("labels", ()):
            found.setdefault(label["r"], set()).update(types_of_pair(document, label["h"], label["t"]))
    return found


def fits(types: Types, document: Document, entry: dict[str, Any]) -> bool:
    """Whether a prediction joins types that its relation was seen with; so it does where the entities have none, or
    none that any relation was seen with."""
    own = types_of_pair(document, entry["h_idx"], entry["t_idx"])
    if not own.isdisjoint(types.get(entry["r"], ())):
        return True
    seen = set(itertools.chain.from_iterable(itertools.chain.from_iterable(types.values())))
    return not any(seen.issuperset(pair) for pair in own)


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
    """Fit the confidence and the best shift to what was predicted in dev, `pairs` and `entries`, learn the types from
    train, and write all to a run's folder. Nothing was predicted: no confidence is written."""
    triples, margins = predicted_triples(pairs, loss, num_labels)
    if triples:
        known = gold_triples(dev, rel2id)
        right = np.array([triple in known for triple in triples])
        found = fit_confidence(margins, right)
        counts = {"predictions": len(triples), "right": int(right.sum())}
        shift, f1 = best_shift(margins, right, len(known))
        of_shift = {"best_shift": shift, "dev_f1_shifted": f1}
        write_json(folder / CONFIDENCE, {**found._asdict(), **counts, **of_shift})
    types = learned_types(train)
    if not any(types.values()):
        return
    of_title = {document["title"]: document for document in dev}
    kept = [entry for entry in entries if fits(types, of_title[entry["title"]], entry)]
    f1, f1_learned = (score_predictions(some, gold)["f1"] for some in (entries, kept))
    listed = {relation: sorted(map(list, pairs)) for relation, pairs in sorted(types.items())}
    write_json(folder / TYPES, {"dev_f1": f1, "dev_f1_learned": f1_learned, "types": listed}, indent=0)


def add_test_error(
    folder: Path, test: list[Document], pairs: dict[str, Tensor], loss: Loss, rel2id: dict[str, int], num_labels: int
) -> None:
    """Add to a folder's confidence, if it has one, its calibration_error on what was predicted in test."""
    confidence = read_confidence(folder)
    triples, margins = predicted_triples(pairs, loss, num_labels)
    if confidence is None or not triples:
        return
    known = gold_triples(test, rel2id)
    right = np.array([triple in known for triple in triples])
    error = calibration_error(np.array(list(map(confidence.of, margins))), right)
    write_json(folder / CONFIDENCE, read_json(folder / CONFIDENCE) | {"test_ece": error})


def read_confidence(folder: Path) -> Confidence | None:
    """The confidence of a run's folder, None where it holds none. Raises UserError where the file is broken."""
    path = folder / CONFIDENCE
    if not path.exists():
        return None
    found = read_json(path)
    numbers: list[Any] = [found.get(name) for name in Confidence._fields] if isinstance(found, dict) else []
    if not numbers or not all(type(number) in (int, float) and math.isfinite(number) for number in numbers):
        raise UserError(f"{path}: holds no slope and intercept; copy the run again")
    return Confidence(*numbers)


def types_help(folder: Path) -> bool:
    """Whether a folder has types that each relation was seen with, and dev F1 does not fall with them."""
    path = folder / TYPES
    return path.exists() and read_json(path)["dev_f1_learned"] >= read_json(path)["dev_f1"]


def read_types(folder: Path) -> Types | None:
    """The types that each relation was seen with, of a run's folder; None where it holds none. Raises UserError where
    the file is broken."""
    path = folder / TYPES
    if not path.exists():
        return None
    found = read_json(path)
    try:
        return {relation: {(head, tail) for head, tail in pairs} for relation, pairs in found["types"].items()}
    except (TypeError, KeyError, ValueError, AttributeError):
        raise UserError(f"{path}: holds no types of relations; copy the run again") from None
