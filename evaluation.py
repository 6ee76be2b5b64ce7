"""The official Re-DocRED evaluator: F1, Ign F1, evidence F1, breakdowns, macro scores, prediction patterns.

    python evaluation.py --predictions result.json --gold dev_revised.json --train train_revised.json [--json OUT]

docs/metrics.md defines every figure with a worked example.
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from prepro import Document, load_documents
from utils import UserError, read_json, run_command_line, write_json

# The ten most frequent relations, as the official evaluator lists them: country, located in, country of citizenship,
# contains, performer, publication date, member of, has part, country of origin, part of.
FREQUENT = frozenset("P17 P131 P27 P150 P175 P577 P463 P527 P495 P361".split())

Prediction = dict[str, Any]
Triple = tuple[str, int, int, str]  # title, head entity, tail entity, relation


@dataclass(frozen=True)
class Gold:
    """A split prepared for scoring, once for any number of predictions.

    evidence          each gold triple's evidence sentences
    in_train          the gold triples that the training file states of some names of the two entities
    sentences         per title, per entity: the sentences of its mentions
    total_evidence    evidence sentences of all labels
    """

    evidence: dict[Triple, frozenset[int]]
    in_train: frozenset[Triple]
    sentences: dict[str, list[frozenset[int]]]
    total_evidence: int


def train_facts(documents: Iterable[Document]) -> set[tuple[str, str, str]]:
    """(head mention name, tail mention name, relation) of every label and every pair of its entities' mentions."""
    facts = set()
    for document in documents:
        names = [{mention["name"] for mention in entity} for entity in document["vertexSet"]]
        for label in document.get("labels", []):
            facts.update((head, tail, label["r"]) for head in names[label["h"]] for tail in names[label["t"]])
    return facts


def prepare_gold(gold: list[Document], train_documents: list[Document]) -> Gold:
    """Index a labelled split against the training file. Titles must be distinct."""
    facts = train_facts(train_documents)
    evidence: dict[Triple, frozenset[int]] = {}
    in_train, sentences, total_evidence = set(), {}, 0
    for document in gold:
        title, entities = document["title"], document["vertexSet"]
        sentences[title] = [frozenset(mention["sent_id"] for mention in entity) for entity in entities]
        names = [{mention["name"] for mention in entity} for entity in entities]
        for label in document.get("labels", []):
            triple = (title, label["h"], label["t"], label["r"])
            evidence[triple] = frozenset(label.get("evidence", ()))
            total_evidence += len(label.get("evidence", ()))
            if any((head, tail, label["r"]) in facts for head in names[label["h"]] for tail in names[label["t"]]):
                in_train.add(triple)
    return Gold(evidence, frozenset(in_train), sentences, total_evidence)


def official_evaluate(
    predictions: list[Prediction], gold: list[Document], train_documents: list[Document]
) -> dict[str, float]:
    """Score predictions [{title, h_idx, t_idx, r, evidence?}, ...] as the official Re-DocRED evaluator does.

    Returns fractions between 0 and 1: precision, recall, f1, ign_precision, ign_f1, evidence_f1, then
    precision_, recall_ and f1_ of freq, long_tail, intra and inter, macro_f1, macro_ign_f1; and n_predictions.
    Raises UserError for a prediction that is not one.
    """
    return score_predictions(predictions, prepare_gold(gold, train_documents))


def score_predictions(predictions: list[Prediction], gold: Gold, where: str = "predictions") -> dict[str, float]:
    """official_evaluate on a prepared split; `where` opens the message about a bad prediction."""
    check_predictions(predictions, gold, where)
    evidence: dict[Triple, frozenset[int]] = {}
    for entry in predictions:  # duplicates count once, with the first one's evidence
        triple = (entry["title"], entry["h_idx"], entry["t_idx"], entry["r"])
        evidence.setdefault(triple, frozenset(entry.get("evidence", ())))

    predicted = list(evidence)
    correct = [triple for triple in predicted if triple in gold.evidence]
    seen = [triple for triple in correct if triple in gold.in_train]

    precision, recall, f1 = precision_recall_f1(len(correct), len(predicted), len(gold.evidence))
    ign_precision = (len(correct) - len(seen)) / (len(predicted) - len(seen) + 1e-5)
    correct_evidence = sum(len(evidence[triple] & gold.evidence[triple]) for triple in correct)
    known_evidence = sum(len(sentences) for triple, sentences in evidence.items() if triple[0] in gold.sentences)
    scores = {
        "n_predictions": len(predictions),
        "precision": precision,
        "recall": recall,
        "f1": f1,
        "ign_precision": ign_precision,
        "ign_f1": harmonic_mean(ign_precision, recall),
        "evidence_f1": precision_recall_f1(correct_evidence, known_evidence, gold.total_evidence + 1)[2],
    }

    def by_frequency(triple: Triple) -> str:
        return "freq" if triple[3] in FREQUENT else "long_tail"

    def by_distance(triple: Triple) -> str:
        entities = gold.sentences[triple[0]]
        return "inter" if entities[triple[1]].isdisjoint(entities[triple[2]]) else "intra"

    known = [triple for triple in predicted if triple[0] in gold.sentences]
    for groups, group_of in ((("freq", "long_tail"), by_frequency), (("intra", "inter"), by_distance)):
        counts = [Counter(map(group_of, triples)) for triples in (correct, known, gold.evidence)]
        for group in groups:
            figures = precision_recall_f1(*(count[group] for count in counts))
            scores.update(zip((f"precision_{group}", f"recall_{group}", f"f1_{group}"), figures, strict=True))
    return scores | macro_scores(correct, seen, predicted, list(gold.evidence))


def macro_scores(
    correct: list[Triple], seen: list[Triple], predicted: list[Triple], gold: list[Triple]
) -> dict[str, float]:
    """Unweighted mean of F1 and Ign F1 over the relations that have a gold triple."""
    correct_of, seen_of, predicted_of, gold_of = (
        Counter(triple[3] for triple in triples) for triples in (correct, seen, predicted, gold)
    )
    f1, ign_f1 = [], []
    for relation, total in gold_of.items():
        right, known = correct_of[relation], seen_of[relation]
        f1.append(precision_recall_f1(right, predicted_of[relation], total)[2])
        ign_precision = (right - known) / (predicted_of[relation] - known + 1e-5)
        ign_f1.append(harmonic_mean(ign_precision, right / total))
    count = max(len(gold_of), 1)
    return {"macro_f1": sum(f1) / count, "macro_ign_f1": sum(ign_f1) / count}


def precision_recall_f1(correct: int, predicted: int, gold: int) -> tuple[float, float, float]:
    """Precision, recall and F1 from counts, each 0 where its denominator is."""
    precision = correct / predicted if predicted else 0.0
    recall = correct / gold if gold else 0.0
    return precision, recall, harmonic_mean(precision, recall)


def harmonic_mean(precision: float, recall: float) -> float:
    """F1, 0 where both are 0."""
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


def check_predictions(predictions: Any, gold: Gold, where: str) -> None:
    """Raise UserError, opening with `where`, at the first entry that is no prediction. An unknown title is one."""
    if not isinstance(predictions, list):
        raise UserError(f"{where}: must be a list of {{title, h_idx, t_idx, r}}")
    for index, entry in enumerate(predictions):
        if not (isinstance(entry, dict) and isinstance(entry.get("title"), str) and isinstance(entry.get("r"), str)):
            raise UserError(f"{where}: entry {index}: needs title and r as strings, h_idx and t_idx as entity numbers")
        entities = gold.sentences.get(entry["title"])
        for field in ("h_idx", "t_idx"):
            number = entry.get(field)
            if type(number) is not int or number < 0 or (entities is not None and number >= len(entities)):
                has = "" if entities is None else f" of a document that has {len(entities)}"
                raise UserError(
                    f"{where}: entry {index} ({entry['title']!r}): {field}: {number!r} is no entity{has}; "
                    "score predictions against the file they were made from"
                )
        evidence = entry.get("evidence", [])
        if not isinstance(evidence, list) or not all(type(sentence) is int for sentence in evidence):
            raise UserError(f"{where}: entry {index} ({entry['title']!r}): evidence: must list sentence numbers")


def prediction_patterns(scores: Tensor, labels: Tensor, threshold: Tensor | float) -> dict[str, int]:
    """Count the patterns of Figure 2 over ordered pairs, from scores [pairs, classes] against a threshold [pairs].

    Relations are classes 1 on; one is predicted where its score exceeds the threshold, without a limit on their number.
    correct: the predicted set is the gold set. FN: nothing is predicted for a pair with gold relations; FN_CRK where
    every gold relation outranks every other relation, FN_IRK else. FP: every other wrong pair.
    """
    relations, positive = scores[:, 1:], labels[:, 1:].bool()
    threshold = torch.as_tensor(threshold, dtype=scores.dtype, device=scores.device).expand(len(scores))
    predicted = relations > threshold[:, None]
    correct = (predicted == positive).all(dim=1)
    false_negative = positive.any(dim=1) & ~predicted.any(dim=1)
    lowest_gold = relations.masked_fill(~positive, float("inf")).amin(dim=1)
    highest_other = relations.masked_fill(positive, float("-inf")).amax(dim=1)
    ranked = lowest_gold > highest_other
    return {
        "correct": int(correct.sum()),
        "FP": int((~correct & ~false_negative).sum()),
        "FN_CRK": int((false_negative & ranked).sum()),
        "FN_IRK": int((false_negative & ~ranked).sum()),
    }


def format_scores(scores: dict[str, float]) -> str:
    """One figure a line, fractions in percent."""
    return "\n".join(
        f"{name:<20}{value:>10,}" if isinstance(value, int) else f"{name:<20}{100 * value:>10.2f}"
        for name, value in scores.items()
    )


def main() -> None:
    """Score a predictions file and print every figure."""
    parser = argparse.ArgumentParser(description="Score predictions as the official Re-DocRED evaluator does.")
    parser.add_argument("--predictions", required=True, help="JSON list of {title, h_idx, t_idx, r, evidence?}")
    parser.add_argument("--gold", required=True, help="labelled file in DocRED's schema")
    parser.add_argument("--train", required=True, help="training file: its facts are what Ign F1 ignores")
    parser.add_argument("--json", metavar="OUT", help="also write the figures to this file, as fractions")
    args = parser.parse_args()
    documents, train_documents = load_documents(args.gold, unique_titles=True), load_documents(args.train)
    for path, found in ((args.gold, documents), (args.train, train_documents)):
        if not any(document.get("labels") for document in found):
            raise UserError(f"{path}: has no labels; pass a labelled file")
    gold = prepare_gold(documents, train_documents)
    scores = score_predictions(read_json(args.predictions), gold, args.predictions)
    print(format_scores(scores))
    if args.json:
        write_json(args.json, scores)


if __name__ == "__main__":
    run_command_line(main)
