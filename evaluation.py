"""The official Re-DocRED evaluator: F1, Ign F1, evidence F1, breakdowns, macro scores, prediction patterns, and where
the threshold lies.

python evaluation.py --predictions result.json --gold dev_revised.json --train train_revised.json [--json OUT]

docs/metrics.md defines every figure with a worked example.
"""

from __future__ import annotations

from hingeabl.start import start

start(__name__)  # first, as it reports a missing package in one line

import argparse
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hingeabl.core import one_module
from hingeabl.data.checks import check_labels, check_training_file, print_findings
from hingeabl.data.predictions import Prediction, check_predictions, doubts_about, read_predictions, write_codalab
from hingeabl.data.schema import Document
from hingeabl.errors import UserError, print_warning, run_command_line
from hingeabl.files import read_json, write_json
from hingeabl.outputs import check_outputs
from hingeabl.readers.documents import load_documents

# The ten most frequent relations, as the official evaluator lists them: country, located in, country of citizenship,
# contains, performer, publication date, member of, has part, country of origin, part of.
FREQUENT = frozenset("P17 P131 P27 P150 P175 P577 P463 P527 P495 P361".split())

PATTERNS = ("correct", "FP", "FN_CRK", "FN_IRK")  # of an ordered pair (Figure 2), see pattern_of_each
PERCENTILES = (5, 25, 50, 75, 95)  # of the relative offset, see threshold_diagnostics
COUNTS = ("n_predictions", *PATTERNS)
SHARES = ("precision", "recall", "f1", "ign_f1", "macro_f1", "macro_ign_f1")  # among others
SHIFT = 16  # a triple's number: its pair's, shifted by so many bits, plus its relation's


@dataclass(frozen=True)
class Gold:
    """A split prepared for scoring, once for any number of predictions.

    documents        title -> number of the document
    entities         int64 [documents]
    first_pairs      int64 [documents]: pair (h, t) of a document has the number first_pairs + h * entities + t
    same_sentence    bool [pairs]: whether a sentence mentions both entities
    relations        relation -> its number, for each relation that has a gold triple
    triples          int64 [triples], ascending: the gold triples' numbers
    in_train         bool [triples]: whether the training file states it for some names of the two entities
    evidence         [triples]: evidence sentences
    total_evidence   evidence sentences of all labels
    """

    documents: dict[str, int]
    entities: np.ndarray
    first_pairs: np.ndarray
    same_sentence: np.ndarray
    relations: dict[str, int]
    triples: np.ndarray
    in_train: np.ndarray
    evidence: list[frozenset[int]]
    total_evidence: int


def train_facts(documents: Iterable[Document]) -> set[tuple[str, str, str]]:
    """(head mention name, tail mention name, relation) of every label and every pair of its entities' mentions."""
    facts: set[tuple[str, str, str]] = set()
    for document in documents:
        names = [{mention["name"] for mention in entity} for entity in document["vertexSet"]]
        for label in document.get("labels", []):
            facts.update((head, tail, label["r"]) for head in names[label["h"]] for tail in names[label["t"]])
    return facts


def read_facts(path: str) -> set[tuple[str, str, str]]:
    """Facts as DocRED's evaluation keeps them, train_annotated.fact: a JSON list of [head name, tail name, relation].
    Raises UserError for any other file."""
    facts = read_json(path)
    if not isinstance(facts, list):
        raise UserError(f"{path}: is no list of facts; pass a JSON list of [head, tail, relation]")
    for number, fact in enumerate(facts):
        if not (isinstance(fact, list) and len(fact) == 3 and all(isinstance(part, str) for part in fact)):
            raise UserError(f"{path}: fact {number}: is not [head, tail, relation], three texts; correct it")
    return set(map(tuple, facts))


def prepare_gold(gold: list[Document], facts: set[tuple[str, str, str]]) -> Gold:
    """Index a labelled split against the training file's facts (train_facts). Titles must be distinct."""
    entities = np.array([len(document["vertexSet"]) for document in gold], dtype=np.int64)
    first_pairs = np.cumsum(entities**2) - entities**2
    same_sentence: list[bool] = []
    relations: dict[str, int] = {}
    gold_triples: dict[int, tuple[bool, frozenset[int]]] = {}
    total_evidence = 0
    for document, first, count in zip(gold, first_pairs.tolist(), entities.tolist(), strict=True):
        vertices, labels = document["vertexSet"], document.get("labels", [])
        sentences = [{mention["sent_id"] for mention in entity} for entity in vertices]
        same_sentence.extend(not head.isdisjoint(tail) for head in sentences for tail in sentences)
        names = [{mention["name"] for mention in entity} for entity in vertices]
        for label in labels:
            relation = relations.setdefault(label["r"], len(relations))
            seen = any((head, tail, label["r"]) in facts for head in names[label["h"]] for tail in names[label["t"]])
            evidence = label.get("evidence", ())
            gold_triples[first + label["h"] * count + label["t"] << SHIFT | relation] = seen, frozenset(evidence)
            total_evidence += len(evidence)
    triples = sorted(gold_triples)
    return Gold(
        {document["title"]: number for number, document in enumerate(gold)},
        entities,
        first_pairs,
        np.array(same_sentence, dtype=bool),
        relations,
        np.array(triples, dtype=np.int64),
        np.array([gold_triples[triple][0] for triple in triples], dtype=bool),
        [gold_triples[triple][1] for triple in triples],
        total_evidence,
    )


def official_evaluate(
    predictions: list[Prediction], gold: list[Document], train_documents: list[Document]
) -> dict[str, float]:
    """Score predictions [{title, h_idx, t_idx, r, evidence?}, ...] as the official Re-DocRED evaluator does.

    Returns fractions between 0 and 1: precision, recall, f1, ign_precision, ign_f1, evidence_f1, then precision_,
    recall_ and f1_ of freq, long_tail, intra and inter, macro_f1, macro_ign_f1; and n_predictions. Raises UserError for
    an invalid prediction.
    """
    return score_predictions(predictions, prepare_gold(gold, train_facts(train_documents)))


def score_predictions(predictions: list[Prediction], gold: Gold, where: str = "predictions") -> dict[str, float]:
    """official_evaluate on a prepared split; `where` starts the message about an invalid prediction."""
    numbers, relations = number_predictions(predictions, gold, where)
    triples, first = np.unique(numbers, return_index=True)  # duplicates count once, with the first one's evidence
    rows = np.searchsorted(gold.triples, triples)
    correct = np.append(gold.triples, np.iinfo(np.int64).max)[rows] == triples
    seen = np.append(gold.in_train, False)[rows] & correct
    in_gold = triples >= 0  # whether the document and the entities exist

    precision, recall, f1 = precision_recall_f1(correct.sum(), len(triples), len(gold.triples))
    ign_precision = (correct.sum() - seen.sum()) / (len(triples) - seen.sum() + 1e-5)
    correct_evidence = known_evidence = 0
    if any("evidence" in entry for entry in predictions):
        evidence = [frozenset(predictions[index].get("evidence", ())) for index in first]
        correct_evidence = sum(len(evidence[index] & gold.evidence[rows[index]]) for index in np.flatnonzero(correct))
        titled = [predictions[index]["title"] in gold.documents for index in first]
        known_evidence = sum(len(evidence[index]) for index in np.flatnonzero(titled))
    scores = {
        "precision": precision,
        "recall": recall,
        "f1": f1,
        "ign_precision": ign_precision,
        "ign_f1": harmonic_mean(ign_precision, recall),
        "evidence_f1": precision_recall_f1(correct_evidence, known_evidence, gold.total_evidence + 1)[2],
    }

    frequent = np.array([relation in FREQUENT for relation in relations], dtype=bool)
    relation_of, gold_relation_of = (numbers & (1 << SHIFT) - 1 for numbers in (triples, gold.triples))
    for yes, no, of_known, of_gold in (
        ("freq", "long_tail", frequent[relation_of[in_gold]], frequent[gold_relation_of]),
        ("intra", "inter", gold.same_sentence[triples[in_gold] >> SHIFT], gold.same_sentence[gold.triples >> SHIFT]),
    ):
        for group, members, gold_members in ((yes, of_known, of_gold), (no, ~of_known, ~of_gold)):
            figures = precision_recall_f1((correct[in_gold] & members).sum(), members.sum(), gold_members.sum())
            scores.update(zip((f"precision_{group}", f"recall_{group}", f"f1_{group}"), figures, strict=True))

    chosen = (relation_of[correct], relation_of[seen], relation_of, gold_relation_of)
    scores |= macro_scores(*(np.bincount(numbers, minlength=len(relations)) for numbers in chosen))
    return {"n_predictions": len(predictions)} | {name: float(value) for name, value in scores.items()}


def number_predictions(predictions: list[Prediction], gold: Gold, where: str) -> tuple[np.ndarray, list[str]]:
    """The numbers int64 [predictions] of the predicted triples, as in Gold, negative for titles and entities that Gold
    does not have; and the relations in the order of their numbers, those of Gold first. Raises UserError as
    check_predictions does."""
    try:
        titles, heads, tails, named = (
            [entry[field] for entry in predictions] for field in ("title", "h_idx", "t_idx", "r")
        )
        plain = all(set(map(type, values)) <= {str} for values in (titles, named))
        plain &= all(set(map(type, values)) <= {int} for values in (heads, tails))
        head, tail = np.array(heads, dtype=np.int64), np.array(tails, dtype=np.int64)
    except (TypeError, KeyError, ValueError, OverflowError):
        plain = False
    if not (plain and isinstance(predictions, list)) or any("evidence" in entry for entry in predictions):
        check_predictions(predictions, where)
    relations = dict(gold.relations)
    relation = np.array([relations.setdefault(name, len(relations)) for name in named], dtype=np.int64)
    if len(relations) > 1 << SHIFT:
        raise UserError(f"{where}: names more than {1 << SHIFT:,} relations; is it a file of predictions?")
    document = np.array([gold.documents.get(title, -1) for title in titles], dtype=np.int64)
    if (np.minimum(head, tail) < 0).any():
        check_predictions(predictions, where)
    entities = np.append(gold.entities, 0)[document]  # 0 for an unknown title
    pair = np.append(gold.first_pairs, 0)[document] + head * entities + tail
    unknown: dict[tuple[str, int, int], int] = {}
    for index in np.flatnonzero(np.maximum(head, tail) >= entities):
        pair[index] = -1 - unknown.setdefault((titles[index], heads[index], tails[index]), len(unknown))
    return pair << SHIFT | relation, list(relations)


def triples_by_document(
    predictions: list[Prediction], gold: Gold, where: str = "predictions"
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(correct, predicted, gold) int64 [documents]: each document's triples, whose sums make micro F1. Predictions for
    unknown titles are left out. Raises UserError as score_predictions does."""
    triples = np.unique(number_predictions(predictions, gold, where)[0])
    triples = triples[triples >= 0]

    def count(numbers: np.ndarray) -> np.ndarray:
        document = np.searchsorted(gold.first_pairs, numbers >> SHIFT, side="right") - 1
        return np.bincount(document, minlength=len(gold.entities))

    return count(triples[np.isin(triples, gold.triples)]), count(triples), count(gold.triples)


def macro_scores(correct: np.ndarray, seen: np.ndarray, predicted: np.ndarray, gold: np.ndarray) -> dict[str, float]:
    """Unweighted mean of F1 and Ign F1 over the relations that have a gold triple, from counts int64 [relations]."""
    f1, ign_f1 = [], []
    columns = (counts.tolist() for counts in (correct, seen, predicted, gold))
    for n_correct, n_seen, n_predicted, n_gold in zip(*columns, strict=True):
        if n_gold:
            f1.append(precision_recall_f1(n_correct, n_predicted, n_gold)[2])
            ign_f1.append(harmonic_mean((n_correct - n_seen) / (n_predicted - n_seen + 1e-5), n_correct / n_gold))
    count = max(len(f1), 1)
    return {"macro_f1": sum(f1) / count, "macro_ign_f1": sum(ign_f1) / count}


def precision_recall_f1(correct: int, predicted: int, gold: int) -> tuple[float, float, float]:
    """Precision, recall and F1 from counts, each 0 where its denominator is."""
    precision = correct / predicted if predicted else 0.0
    recall = correct / gold if gold else 0.0
    return precision, recall, harmonic_mean(precision, recall)


def harmonic_mean(precision: float, recall: float) -> float:
    """F1, 0 where both are 0."""
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


def are_scores(scores: Any) -> bool:
    """Whether this is a valid entry for a split in a run's scores.json: counts and shares, or {} without labels."""
    if not isinstance(scores, dict) or not scores:
        return scores == {}
    counts = {name: value for name, value in scores.items() if name in COUNTS}
    shares = [value for name, value in scores.items() if name not in COUNTS]
    return (
        scores.keys() >= {*COUNTS, *SHARES}
        and all(type(value) is int and value >= 0 for value in counts.values())
        and all(type(value) in (int, float) and 0 <= value <= 1 for value in shares)
    )


def pattern_of_each(scores: Tensor, labels: Tensor, threshold: Tensor | float) -> Tensor:
    """The pattern of Figure 2 that each ordered pair shows: int64 [pairs], indices into PATTERNS; from scores and
    labels [pairs, classes] and a threshold [pairs].

    Relations are classes from 1; a relation is predicted if its score exceeds the threshold, any number per pair.
    correct: the predicted set is the gold set. FN: nothing is predicted for a pair with gold relations; FN_CRK if every
    gold relation outranks every other relation, else FN_IRK. FP: every other wrong pair.
    """
    relations, positive = scores[:, 1:], labels[:, 1:].bool()
    threshold = torch.as_tensor(threshold, dtype=scores.dtype, device=scores.device).expand(len(scores))
    predicted = relations > threshold[:, None]
    correct = (predicted == positive).all(dim=1)
    false_negative = positive.any(dim=1) & ~predicted.any(dim=1)
    lowest_gold = relations.masked_fill(~positive, float("inf")).amin(dim=1)
    highest_other = relations.masked_fill(positive, float("-inf")).amax(dim=1)
    ranked = lowest_gold > highest_other
    patterns = torch.full_like(correct, PATTERNS.index("FP"), dtype=torch.int64)
    patterns[false_negative & ranked] = PATTERNS.index("FN_CRK")
    patterns[false_negative & ~ranked] = PATTERNS.index("FN_IRK")
    patterns[correct] = PATTERNS.index("correct")
    return patterns


def prediction_patterns(scores: Tensor, labels: Tensor, threshold: Tensor | float) -> dict[str, int]:
    """How many pairs show each of PATTERNS; arguments as in pattern_of_each."""
    counts = pattern_of_each(scores, labels, threshold).bincount(minlength=len(PATTERNS))
    return dict(zip(PATTERNS, counts.tolist(), strict=True))


def threshold_diagnostics(scores: Tensor, labels: Tensor, threshold: Tensor) -> dict[str, float]:
    """Where the threshold lies between positives and negatives; scores and labels [pairs, classes], threshold [pairs].

    Among a pair's relations, classes from 1, P is the mean score of the gold ones and N that of the others. The
    relative offset is (threshold - N) / (P - N): 0 at the negatives' mean, 1 at the positives'. The ordering is
    violated if P is under the threshold or N above it. Only pairs with a gold relation count, except those whose
    relations are all gold or whose P equals N.

    Returns ro_mean, ro_std (over pairs, divided by n), ro_p5, ro_p25, ro_p50, ro_p75 and ro_p95 (percentiles), ovr (the
    share of violations), and the numbers of pairs ro_pairs and ro_left_out. Raises UserError if no pair counts.
    """
    positive = labels[:, 1:].bool()
    related = positive.any(dim=1)
    relations, positive, threshold = scores[related, 1:].double(), positive[related], threshold[related].double()
    p = (relations * positive).sum(dim=1) / positive.sum(dim=1)
    n = (relations * ~positive).sum(dim=1) / (~positive).sum(dim=1)  # NaN where all are gold
    counted = ~positive.all(dim=1) & (p != n)
    p, n, threshold = p[counted], n[counted], threshold[counted]
    if not len(p):
        raise UserError("the threshold has no place: no pair has gold and other relations of different mean scores")
    offset = (threshold - n) / (p - n)
    percentiles = offset.quantile(offset.new_tensor(PERCENTILES) / 100).tolist()
    return {
        "ro_mean": offset.mean().item(),
        "ro_std": offset.std(correction=0).item(),
        **{f"ro_p{percent}": value for percent, value in zip(PERCENTILES, percentiles, strict=True)},
        "ovr": ((p < threshold) | (n > threshold)).double().mean().item(),
        "ro_pairs": len(offset),
        "ro_left_out": int(related.sum()) - len(offset),
    }


def format_scores(scores: dict[str, float]) -> str:
    """One figure per line, fractions in percent."""
    return "\n".join(
        f"{name:<20}{value:>10,}" if isinstance(value, int) else f"{name:<20}{100 * value:>10.2f}"
        for name, value in scores.items()
    )


def main() -> None:
    """Score a predictions file and print every figure."""
    parser = argparse.ArgumentParser(description="Score predictions as the official Re-DocRED evaluator does.")
    parser.add_argument(
        "--predictions", required=True, help="JSON list of {title, h_idx, t_idx, r, evidence?}, or one a line"
    )
    parser.add_argument("--gold", help="labelled file in DocRED's schema")
    parser.add_argument("--train", help="training file: its facts are what Ign F1 ignores")
    parser.add_argument("--train_facts", help="JSON list of [head, tail, relation] that Ign F1 ignores, too or instead")
    parser.add_argument("--codalab", metavar="FILE.zip", help="write the upload of DocRED's competition")
    parser.add_argument("--json", metavar="OUT", help="also write the figures to this file, as fractions")
    args = parser.parse_args()
    check_outputs(
        {"--json": (args.json, (".json",)), "--codalab": (args.codalab, (".zip",))},
        {f"--{name}": getattr(args, name) for name in ("predictions", "gold", "train", "train_facts")},
    )
    is_scored = not args.codalab or any((args.gold, args.train, args.train_facts, args.json))
    for name in ("gold", "train") if is_scored else ():
        if not (getattr(args, name) or (name == "train" and args.train_facts)):
            raise UserError(f"--{name} is missing; name the {'labelled' if name == 'gold' else 'training'} file")
    if args.codalab:
        write_codalab(args.codalab, read_predictions(args.predictions), args.predictions)
    if not is_scored:
        return
    documents = load_documents(args.gold, unique_titles=True)
    train_documents = load_documents(args.train) if args.train else []
    check_labels(args.gold, documents, required=True)
    if args.train:
        check_labels(args.train, train_documents, required=True)
    facts = train_facts(train_documents) | (read_facts(args.train_facts) if args.train_facts else set())
    gold = prepare_gold(documents, facts)
    predictions = read_predictions(args.predictions)
    scores = score_predictions(predictions, gold, args.predictions)
    relations = {label["r"] for document in documents for label in document.get("labels", [])}
    relations |= {relation for _, _, relation in facts}
    counts = {document["title"]: len(document["vertexSet"]) for document in documents}
    if args.train:
        print_findings(
            check_training_file((args.gold, args.train), documents, train_documents, int(gold.in_train.sum()))
        )
    for doubt in doubts_about(predictions, counts, relations):
        print_warning(f"{args.predictions}: {doubt}")
    print(format_scores(scores))
    if args.json:
        write_json(args.json, scores)


one_module(__name__)
if __name__ == "__main__":
    run_command_line(main)
