"""A finished run's scores and predictions for each pair that has a gold or a predicted relation; figures and the page
of errors show them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from hingeabl.core.evaluation import pattern_of_each
from hingeabl.core.losses import Loss
from hingeabl.data.predictions import check_predictions
from hingeabl.data.relations import load_rel2id
from hingeabl.data.schema import Document
from hingeabl.errors import UserError, first_line
from hingeabl.files import predictions_file, read_json, refuse_non_data_file
from hingeabl.reporting.records import Run, documents_of, file_of

Evidence = dict[tuple[int, int, int], list[int]]  # sentences by document, head and tail


@dataclass(frozen=True)
class Pairs:
    """The pairs of a split, n of them, in the documents' order.

    documents   all of the split's
    rel2id      the relations' classes
    document    int64 [n]: each pair's place in documents
    entities    int64 [n, 2]: its head and tail entity
    scores      float32 [n, classes]; with a loss that has several thresholds, above the relation's own
    threshold   float32 [n]: what a relation's score must exceed
    labels      bool [n, classes]: the gold relations, without class 0
    predicted   bool [n, classes]: the predicted relations, without class 0
    pattern     int64 [n]: place in evaluation.PATTERNS
    evidence    the sentences predicted as evidence by (document, head, tail), None of a run that predicts none
    """

    documents: list[Document]
    rel2id: dict[str, int]
    document: Tensor
    entities: Tensor
    scores: Tensor
    threshold: Tensor
    labels: Tensor
    predicted: Tensor
    pattern: Tensor
    evidence: Evidence | None = None


def rows_of_pairs(pairs: Pairs, chosen: Tensor) -> Pairs:
    """The pairs that are `chosen`, bool [n]."""
    rows = ("document", "entities", "scores", "threshold", "labels", "predicted", "pattern")
    return replace(pairs, **{name: getattr(pairs, name)[chosen] for name in rows})


def read_pairs(run: Run, split: str) -> Pairs:
    """The pairs of a run's dev or test split. Raises UserError if files are missing, broken or do not fit."""
    settings = run.config["settings"]
    from hingeabl.training.saved_run import loss_of_run  # here: it imports the model, which takes seconds

    if not run.folder.is_dir():
        raise UserError(f"{run.folder}: a record holds no scores of pairs; pass the run's folder")
    margin, num_labels = settings.get("margin"), settings.get("num_labels")
    if type(margin) not in (int, float, type(None)) or type(num_labels) is not int or num_labels < 1:
        raise UserError(f"{run.folder}/config.json: margin or num_labels is not a run's; copy the run again")
    documents = list(documents_of(*file_of(run, split)))
    rel2id = load_rel2id(run.folder / "rel2id.json")
    loss = loss_of_run(run.config, run.folder, run.loss, margin, rel2id)
    pair_scores = read_pair_scores(run.folder / f"pair_scores_{split}.safetensors", loss.outputs(len(rel2id)))
    try:
        labels = gold_labels(documents, rel2id, pair_scores["document"], pair_scores["entities"])
    except KeyError:
        raise UserError(
            f"{run.folder}: its pair scores are not those of its {split} file; train the run again"
        ) from None
    pairs = evaluate_pairs(documents, rel2id, pair_scores, labels, loss, num_labels)
    return replace(pairs, evidence=read_evidence(run, split, documents))


def read_evidence(run: Run, split: str, documents: list[Document]) -> Evidence | None:
    """Pairs.evidence of a run's dev or test split. Raises UserError if its file of predictions is broken."""
    if run.config["settings"].get("evidence_weight") is None:
        return None
    path = predictions_file(run.folder, split)
    predictions = read_json(path)
    check_predictions(predictions, str(path))
    document_number = {document["title"]: number for number, document in enumerate(documents)}
    return evidence_of([(document_number.get(entry["title"], -1), entry) for entry in predictions])


def evidence_of(entries: Iterable[tuple[int, dict[str, Any]]]) -> Evidence:
    """Pairs.evidence of predictions, each with its document's number."""
    return {(number, entry["h_idx"], entry["t_idx"]): entry.get("evidence", []) for number, entry in entries}


def evaluate_pairs(
    documents: list[Document],
    rel2id: dict[str, int],
    pair_scores: dict[str, Tensor],
    labels: Tensor,
    loss: Loss,
    num_labels: int,
) -> Pairs:
    """Pairs from inference.Predictions.pairs, their labels bool [n, classes], and the rule of the run."""
    scores, threshold = loss.with_one_threshold(pair_scores["scores"])
    predicted = loss.predict(pair_scores["scores"], num_labels) > 0
    predicted[:, 0] = False
    pattern = pattern_of_each(scores, labels, threshold)
    document, entities = pair_scores["document"].long(), pair_scores["entities"].long()
    return Pairs(documents, rel2id, document, entities, scores, threshold, labels, predicted, pattern)


def read_pair_scores(path: Path, num_classes: int) -> dict[str, Tensor]:
    """inference.Predictions.pairs as train.py wrote them. Raises UserError if the file is missing or broken."""
    try:
        tensors = load_file(path)
        shapes = [tuple(tensors[name].shape) for name in ("document", "entities", "scores")]
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; the run is older than such files, train it again") from None
    except (SafetensorError, OSError, KeyError) as error:
        refuse_non_data_file(path)
        raise UserError(
            f"{path}: does not hold the scores of pairs ({first_line(error)}); train the run again"
        ) from None
    count, dtypes = shapes[0][:1], [tensors[name].dtype for name in ("document", "entities", "scores")]
    if shapes != [count, (*count, 2), (*count, num_classes)] or dtypes != [torch.int32, torch.int32, torch.float32]:
        raise UserError(f"{path}: does not hold the scores of pairs of {num_classes} classes; train the run again")
    if not tensors["scores"].isfinite().all():
        remedy = (
            "train.py --load_path RUN --output_dir NEW --precision fp32 writes it to NEW; copy it to the run's folder"
        )
        raise UserError(f"{path}: a score is not finite; {remedy}")
    return tensors


def rows_by_pair(document: Tensor, entities: Tensor) -> dict[tuple[int, ...], int]:
    """(number of the document, head, tail) -> row, of Pairs.document and Pairs.entities."""
    keys = zip(document.tolist(), *entities.T.tolist(), strict=True)
    return {key: row for row, key in enumerate(keys)}


def gold_labels(documents: list[Document], rel2id: dict[str, int], document: Tensor, entities: Tensor) -> Tensor:
    """Pairs.labels. Raises KeyError if a gold pair has no row, or a row is no pair of these documents or the second
    of one."""
    row_of_pair = rows_by_pair(document, entities)
    sizes = [len(document["vertexSet"]) for document in documents]
    for number, head, tail in row_of_pair:
        if not (0 <= number < len(sizes) and 0 <= head < sizes[number] and 0 <= tail < sizes[number] and head != tail):
            raise KeyError(number)
    if len(row_of_pair) < len(document):
        raise KeyError("a pair appears twice")
    labels = torch.zeros(len(document), len(rel2id), dtype=torch.bool)
    for number, pair_document in enumerate(documents):
        for label in pair_document.get("labels", []):
            labels[row_of_pair[number, label["h"], label["t"]], rel2id[label["r"]]] = True
    return labels
