"""The figures of the paper's Tables 5 and 6 for files of documents, and the relations in the files."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from hingeabl.data.relations import means_no_relation
from hingeabl.data.schema import Document
from hingeabl.errors import UserError


def statistics(documents: Sequence[Document]) -> dict[str, float]:
    """The figures for a list of documents; pairs are all ordered pairs h != t, or those that a document lists."""
    count = len(documents)
    triples = {
        (index, label["h"], label["t"], label["r"])
        for index, document in enumerate(documents)
        for label in document.get("labels", [])
    }
    per_pair = Counter(triple[:3] for triple in triples)
    entities = [len(document["vertexSet"]) for document in documents]
    pairs = sum(map(count_pairs, documents))
    entities_in_pairs = [
        len({entity for pair in document["pairs"] for entity in pair}) if "pairs" in document else number
        for document, number in zip(documents, entities, strict=True)
    ]

    def average(total: int) -> float:
        return total / count if count else 0.0

    return {
        "documents": count,
        "ordered pairs": pairs,
        "pairs with a relation": len(per_pair),
        "NA %": 100 * (1 - len(per_pair) / pairs) if pairs else 0.0,
        "words / doc": average(sum(len(sentence) for document in documents for sentence in document["sents"])),
        "entities / doc": average(sum(entities)),
        "entities in pairs": sum(entities_in_pairs),
        "triples / doc": average(len(triples)),
        "sentences / doc": average(sum(len(document["sents"]) for document in documents)),
        "relations seen": len({triple[3] for triple in triples}),
        "most relations on one pair": max(per_pair.values(), default=0),
    }


def relation_rates(documents: Iterable[Document], rel2id: dict[str, int]) -> list[float]:
    """Each relation's share of the pairs of labelled documents, in the order of the classes from 1."""
    pairs = 0
    label_counts: Counter[str] = Counter()
    for document in documents:
        pairs += count_pairs(document)
        labels = document.get("labels", [])
        label_counts.update(relation for _, _, relation in {(label["h"], label["t"], label["r"]) for label in labels})
    ordered = sorted(rel2id, key=lambda relation: rel2id[relation])
    return [label_counts[relation] / max(pairs, 1) for relation in ordered[1:]]


def count_pairs(document: Document) -> int:
    """How many pairs of a document are scored: those that it lists, or every ordered pair of two entities."""
    entities = len(document["vertexSet"])
    return len(document["pairs"]) if "pairs" in document else entities * (entities - 1)


def print_statistics(columns: dict[str, dict[str, float]]) -> None:
    """Print statistics by path as a table, one column per file."""
    names = [Path(path).name for path in columns]
    widths = [max(len(name), 12) for name in names]
    print("".ljust(26), *(name.rjust(width) for name, width in zip(names, widths, strict=True)), sep="  ")
    for figure in next(iter(columns.values())):
        values = [column[figure] for column in columns.values()]
        cells = [f"{value:,.3f}" if value % 1 else f"{value:,.0f}" for value in values]
        print(figure.ljust(26), *(cell.rjust(width) for cell, width in zip(cells, widths, strict=True)), sep="  ")


def make_rel2id(documents: Iterable[Document], where: str) -> dict[str, int]:
    """A rel2id file for documents: "Na" as class 0, then the relations of their labels in alphabetical order. Raises
    UserError, starting with `where`, if there are no labels, or if a relation's name means "no relation"."""
    relations = sorted({label["r"] for document in documents for label in document.get("labels", [])})
    if not relations:
        raise UserError(f"{where}: has no labels, so there are no relations to number; pass the training file")
    if none := next(filter(means_no_relation, relations), None):
        raise UserError(
            f"{where}: labels have the relation {none!r}, which reads as no relation; remove these labels, or rename it"
        )
    return {"Na": 0} | {relation: number for number, relation in enumerate(relations, 1)}
