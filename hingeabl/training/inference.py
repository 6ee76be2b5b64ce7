"""Scoring documents: large batches of similar length, without gradients."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor
from tqdm import tqdm

from hingeabl.core.evaluation import PATTERNS, prediction_patterns
from hingeabl.core.losses import Loss
from hingeabl.core.model import DocREModel
from hingeabl.core.prepro import Feature
from hingeabl.core.utils import autocast, collate_fn, to_device
from hingeabl.errors import UserError, naming_batch
from hingeabl.modeling.encoder import max_window
from hingeabl.modeling.evidence import evidence_sentences
from hingeabl.training import parallel

CPU_BUDGET = 4096  # tokens and pairs of a batch on the CPU: larger tensors take new memory each time, which costs 20 %
ALONE = "lower --max_seq_length (in a training, with another --output_dir) or pass --device cpu"  # a document


class ScoredBatch(NamedTuple):
    """A batch, on the CPU: its documents' indices, scores float32 [pairs, outputs], labels [pairs, classes] or None,
    and the attention over sentences float32 [pairs, sentences] if features have their sentences' ends, else None. For a
    document that is scored in parts, these are its pairs from `first` on."""

    indices: list[int]
    scores: Tensor
    labels: Tensor | None
    attention: Tensor | None
    first: int = 0


class Predictions(NamedTuple):
    """The predictions of `predict`.

    entries   [{title, h_idx, t_idx, r}, ...] in the documents' order; also `evidence`, a list of sentence numbers, if
              features have their sentences' ends
    patterns  the counts of prediction patterns, {} if a document has no labels
    pairs     for each pair with a gold or predicted relation, in the documents' order: "document" int32 [n], its index
              in the list; "entities" int32 [n, 2], head and tail; "scores" float32 [n, outputs], see Loss
    counts    how many entries each document has; gather leaves them out
    """

    entries: list[dict[str, Any]]
    patterns: dict[str, int]
    pairs: dict[str, Tensor]
    counts: tuple[int, ...] = ()

    def entries_by_document(self) -> list[list[dict[str, Any]]]:
        """The entries of each document, even if several documents have the same title."""
        entries = iter(self.entries)
        return [list(itertools.islice(entries, count)) for count in self.counts]


def batches_by_size(features: list[Feature], budget: int) -> list[list[int]]:
    """Indices of documents, the longest first, in batches whose tokens and pairs together stay within `budget`, or of
    a single document that exceeds it."""
    batches: list[list[int]] = []
    room = 0
    for index in sorted(range(len(features)), key=lambda index: -len(features[index]["input_ids"])):
        entities = len(features[index]["entity_pos"])
        size = len(features[index]["input_ids"]) + entities * (entities - 1)
        if not batches or size > room:
            batches.append([])
            room = budget
        batches[-1].append(index)
        room -= size
    return batches


@torch.no_grad()
def score(
    model: DocREModel,
    features: list[Feature],
    device: torch.device,
    precision: str,
    budget: int,
    title: str = "",
    remedy: str = "",
    in_parts: bool = True,
) -> Iterator[ScoredBatch]:
    """Score documents in batches.

    `budget`, and on the CPU also CPU_BUDGET, limits the tokens and pairs of a batch (scores do not depend on it),
    `title` stands before the progress bar, `remedy` is what to do if a batch does not fit into memory (default: smaller
    batches or documents). With `in_parts`, a document longer than two windows that is a batch by itself comes some
    pairs at a time.
    """
    model.eval()
    budget = min(budget, CPU_BUDGET) if device.type == "cpu" else budget
    with autocast(device, precision):
        half_weights = model.half_weights(device)
    with (
        tqdm(total=len(features), desc=title, unit="doc", leave=False, delay=1, disable=len(features) < 2) as progress,
        half_weights,
    ):
        for indices in batches_by_size(features, budget):
            batch = collate_fn([features[index] for index in indices])
            labels, _ = batch.pop("labels", None), batch.pop("evidence", None)
            titles, first = [features[index]["title"] for index in indices], 0
            smaller = "lower --test_batch_size" if len(titles) > 1 else ALONE
            lone_and_long = len(indices) == 1 and batch["lengths"][0] > 2 * max_window(model.model)[0]
            inputs = to_device(batch, device)
            outputs = model.score_in_parts(**inputs) if in_parts and lone_and_long else (model(**i) for i in [inputs])
            while True:
                with naming_batch(batch, titles, remedy or smaller), autocast(device, precision):
                    output = next(outputs, None)
                if output is None:
                    break
                scores, attention = output if isinstance(output, tuple) else (output, None)
                scores = scores.cpu()  # the only wait for a GPU
                attention = None if attention is None else attention.cpu()
                labels_of_part = None if labels is None else labels[first : first + len(scores)]
                yield ScoredBatch(indices, scores, labels_of_part, attention, first)
                first += len(scores)
            progress.update(len(indices))


def predict(
    model: DocREModel,
    features: list[Feature],
    loss: Loss,
    relations: dict[int, str],
    device: torch.device,
    precision: str,
    num_labels: int,
    budget: int,
    title: str = "",
    with_scores: bool = False,
    remedy_if_not_finite: str = "pass --precision fp32 or --device cpu",
) -> Predictions:
    """The relations of documents, and their scores.

    `relations` names the classes, `num_labels` limits the relations of a pair; other arguments as in `score`.
    `with_scores` adds {score, threshold, margin} to each entry, margin being score - threshold. Raises UserError naming
    a document whose scores are not finite, with `remedy_if_not_finite`.
    """
    entries_of: list[list[dict[str, Any]]] = [[] for _ in features]  # of each document
    patterns: Counter[str] = Counter()
    related: list[tuple[Tensor, Tensor]] = []
    for indices, scores, labels, attention, first in score(model, features, device, precision, budget, title):
        part = slice(first, first + len(scores))  # a document may come in parts
        pairs = [(index, head, tail) for index in indices for head, tail in features[index]["hts"][part]]
        class_scores, threshold = loss.with_one_threshold(scores)
        chosen = loss.predict(scores, num_labels)[:, 1:].nonzero()
        details: list[dict[str, Any]] = [{}] * len(chosen)
        check_finite(scores, [features[index]["title"] for index, _, _ in pairs], remedy_if_not_finite)
        if with_scores:
            details = margins(scores, loss.threshold(scores), chosen)
        if attention is not None:
            evidence = evidence_sentences(attention[chosen[:, 0]])
            details = [{"evidence": numbers} | detail for numbers, detail in zip(evidence, details, strict=True)]
        for (row, column), detail in zip(chosen.tolist(), details, strict=True):
            index, head, tail = pairs[row]
            entry = {"title": features[index]["title"], "h_idx": head, "t_idx": tail, "r": relations[column + 1]}
            entries_of[index].append(entry | detail)
        positive = (class_scores[:, 1:] > threshold[:, None]).any(dim=1)
        if labels is not None:
            patterns.update(prediction_patterns(class_scores, labels, threshold))
            positive |= labels[:, 1:].any(dim=1)
        related.append((torch.tensor(pairs, dtype=torch.int32).reshape(-1, 3)[positive], scores[positive]))
    labelled = all("labels" in feature for feature in features)
    entries = [entry for document in entries_of for entry in document]
    counts = tuple(map(len, entries_of))
    return Predictions(entries, dict(patterns) if labelled else {}, in_order(related), counts)


def in_order(parts: list[tuple[Tensor, Tensor]]) -> dict[str, Tensor]:
    """Predictions.pairs from the batches' (document, head and tail) int32 [n, 3] and scores [n, classes]."""
    if not parts:
        return {}
    pairs, scores = (torch.cat(tensors) for tensors in zip(*parts, strict=True))
    order = pairs[:, 0].argsort(stable=True)
    pairs = pairs[order]
    return {
        "document": pairs[:, 0].contiguous(),
        "entities": pairs[:, 1:].contiguous(),
        "scores": scores[order].float(),
    }


def gather(
    local: Predictions, features: list[Feature], rel2id: dict[str, int], loss: Loss, device: torch.device
) -> Predictions:
    """In rank 0 the Predictions of all documents, from the `local` ones of every process; none in other ranks.

    Of n processes, rank r has predicted the documents r, r + n, r + 2n, ... of `features`. With several processes,
    titles must differ. The processes exchange tensors on `device`.
    """
    count = parallel.world_size()
    if count == 1:
        return local
    titles, relations = [feature["title"] for feature in features], {number: name for name, number in rel2id.items()}
    number_of = {title: number for number, title in enumerate(titles)}
    rows = [[number_of[e["title"]], e["h_idx"], e["t_idx"], rel2id[e["r"]]] for e in local.entries]
    entries = parallel.gather_rows(torch.tensor(rows, dtype=torch.int64).reshape(-1, 4), device)
    sentences = [[*row, number] for row, e in zip(rows, local.entries, strict=True) for number in e.get("evidence", ())]
    evidence = parallel.gather_rows(torch.tensor(sentences, dtype=torch.int64).reshape(-1, 5), device)
    patterns = torch.tensor([local.patterns.get(name, 0) for name in PATTERNS], device=device)
    patterns = parallel.sum_over_processes(patterns)
    pairs, scores = torch.empty(0, 3, dtype=torch.int32), torch.empty(0, loss.outputs(len(rel2id)))
    if local.pairs:
        document = local.pairs["document"][:, None] * count + parallel.rank()
        pairs, scores = torch.cat([document, local.pairs["entities"]], dim=1), local.pairs["scores"]
    parts = list(zip(parallel.gather_rows(pairs, device), parallel.gather_rows(scores, device), strict=True))
    if parallel.rank():
        return Predictions([], {}, {})
    all_rows = sorted((row for part in entries for row in part.tolist()), key=lambda row: row[0])
    all_entries = [
        {"title": titles[d], "h_idx": head, "t_idx": tail, "r": relations[r]} for d, head, tail, r in all_rows
    ]
    if "sentence_ends" in features[0]:
        numbers: dict[tuple[int, ...], list[int]] = {}
        for *row, number in (sentence for part in evidence for sentence in part.tolist()):
            numbers.setdefault(tuple(row), []).append(number)
        for entry, row in zip(all_entries, all_rows, strict=True):
            entry["evidence"] = numbers.get(tuple(row), [])
    labelled = all("labels" in feature for feature in features)
    return Predictions(
        all_entries, dict(zip(PATTERNS, patterns.tolist(), strict=True)) if labelled else {}, in_order(parts)
    )


def check_finite(scores: Tensor, titles: list[str], remedy: str) -> None:
    """Raise UserError naming the first document with a score [pairs, classes] that is NaN or infinite, and the remedy;
    `titles` holds each pair's."""
    finite = scores.isfinite().all(dim=1).tolist()
    if not all(finite):
        raise UserError(f"document {titles[finite.index(False)]!r}: a score is not finite; {remedy}")


def margins(scores: Tensor, threshold: Tensor, chosen: Tensor) -> list[dict[str, Any]]:
    """{score, threshold, margin} of chosen relations, int64 [chosen, 2]: a pair and a relation, counted from 0 for
    class 1. Scores [pairs, outputs], threshold [pairs] or [pairs, relations]; margin is score - threshold."""
    rows, columns = chosen.unbind(1)
    limits = threshold[rows] if threshold.dim() == 1 else threshold[rows, columns]
    scores_and_limits = zip(scores[rows, columns + 1].tolist(), limits.tolist(), strict=True)
    return [{"score": score, "threshold": limit, "margin": score - limit} for score, limit in scores_and_limits]
