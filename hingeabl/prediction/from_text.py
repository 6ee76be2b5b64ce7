"""How good relations from raw text are: documents with gold entities are read as text, and what is found is compared.

Three ways show where what is lost: with the gold entities; with the gold mentions, joined by the rules; and from the
text alone. Mentions are spans of characters in the text of join_tokens.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from hingeabl.core.evaluation import harmonic_mean
from hingeabl.data.schema import Document
from hingeabl.prediction.predictor import Predictor
from hingeabl.readers.joining import gold_of, join_tokens, mention_spans
from hingeabl.readers.mentions import Found
from hingeabl.readers.text import Text, document_of_found, documents_of_texts

Span = tuple[int, int]
WAYS = ("gold entities", "gold mentions", "text alone")


class Entity(NamedTuple):
    """An entity's spans, its type (the most frequent of its mentions'), and its mentions' names in small letters."""

    spans: frozenset[Span]
    type: str
    names: frozenset[str]


class Reading(NamedTuple):
    """What a document holds, or what was found in it: typed mentions, entities, and triples (head, relation, tail) of
    the entities' numbers."""

    mentions: frozenset[tuple[int, int, str]]
    entities: tuple[Entity, ...]
    triples: frozenset[tuple[int, str, int]]


def reading_of(text: str, entities: Iterable[Sequence[tuple[int, int, str]]], triples: Iterable[Any]) -> Reading:
    """The reading of entities' mentions (start, end, type) and triples (head, relation, tail)."""
    entities, found = list(entities), []
    for mentions in entities:
        kind = Counter(kind for _, _, kind in mentions).most_common(1)[0][0]
        names = frozenset(" ".join(text[start:end].casefold().split()) for start, end, _ in mentions)
        found.append(Entity(frozenset((start, end) for start, end, _ in mentions), kind, names))
    return Reading(frozenset(one for own in entities for one in own), tuple(found), frozenset(triples))


def predicted(predictor: Predictor, documents: list[Document]) -> list[set[tuple[int, str, int]]]:
    """The triples that the model predicts for each document."""
    entries = predictor.predict(documents).of_each_document()
    return [{(entry["h_idx"], entry["r"], entry["t_idx"]) for entry in own} for own in entries]


def readings_of(documents: Sequence[Document], way: str, predictor: Predictor) -> list[Reading]:
    """What is found in documents in one of WAYS, by the run and the reader of text of `predictor`."""
    placed = [join_tokens(document["sents"]) for document in documents]
    texts = [
        Text(text, document["title"], document["title"]) for (text, _), document in zip(placed, documents, strict=True)
    ]
    if way == "gold entities":
        spans = [mention_spans(document, places) for document, (_, places) in zip(documents, placed, strict=True)]
        given = [{key: value for key, value in document.items() if key != "labels"} for document in documents]
    else:
        if way == "gold mentions":
            given = [
                document_of_found(text, Found(*gold_of(document)[1:]))
                for text, document in zip(texts, documents, strict=True)
            ]
        else:
            given = list(documents_of_texts(texts, predictor.choices.text_model))
        spans = [
            [[(one["start"], one["end"], one["type"]) for one in entity] for entity in document["vertexSet"]]
            for document in given
        ]
    triples = predicted(predictor, given)
    return [reading_of(text.text, own, found) for text, own, found in zip(texts, spans, triples, strict=True)]


def gold_reading(document: Document) -> Reading:
    """What a labelled document holds."""
    text, places = join_tokens(document["sents"])
    triples = {(label["h"], label["r"], label["t"]) for label in document.get("labels", ())}
    return reading_of(text, mention_spans(document, places), triples)


def compare(found: Sequence[Reading], gold: Sequence[Reading]) -> dict[str, dict[str, float]]:
    """Precision, recall and F1 in percent over all documents, of

    mention span, mention typed    mentions at the same characters, and of the same type
    entity, entity typed           entities with exactly the same mentions, and of the same type
    b-cubed                        of entities: the share of a mention's entity that is right, averaged over mentions
    triple strict                  relation, and head and tail with exactly the gold mentions
    triple by name                 relation, and head and tail each with a name of the gold entity
    """
    pairs = list(zip(found, gold, strict=True))
    kinds: dict[str, Any] = {
        "mention span": lambda one: {mention[:2] for mention in one.mentions},
        "mention typed": lambda one: one.mentions,
        "entity": lambda one: {entity.spans for entity in one.entities},
        "entity typed": lambda one: {entity[:2] for entity in one.entities},
        "triple strict": lambda one: {
            (one.entities[head].spans, relation, one.entities[tail].spans) for head, relation, tail in one.triples
        },
    }
    scores = {}
    for name, keys in kinds.items():
        own = [(keys(one), keys(true)) for one, true in pairs]
        right = sum(len(one & true) for one, true in own)
        scores[name] = rates(right, sum(len(one) for one, _ in own), right, sum(len(true) for _, true in own))
    scores["b-cubed"] = b_cubed(pairs)
    scores["triple by name"] = rates(
        sum(matched(one, true) for one, true in pairs),
        sum(len(one.triples) for one, _ in pairs),
        sum(matched(true, one) for one, true in pairs),
        sum(len(true.triples) for _, true in pairs),
    )
    return scores


def rates(right: float, found: float, hit: float, gold: float) -> dict[str, float]:
    """Precision, right of what was found, and recall, hit of what is gold, with F1, in percent."""
    precision, recall = 100 * right / max(found, 1), 100 * hit / max(gold, 1)
    return {"precision": precision, "recall": recall, "f1": harmonic_mean(precision, recall)}


def b_cubed(pairs: Sequence[tuple[Reading, Reading]]) -> dict[str, float]:
    """B-cubed precision and recall; a mention that the other side does not have counts 0."""
    sums = [[0.0, 0] for _ in range(2)]
    for pair in pairs:
        for side, (one, other) in enumerate((pair, pair[::-1])):
            there = {span: entity.spans for entity in other.entities for span in entity.spans}
            for entity in one.entities:
                shared = sum(len(entity.spans & there.get(span, frozenset())) for span in entity.spans)
                sums[side][0] += shared / len(entity.spans)
                sums[side][1] += len(entity.spans)
    (right, found), (hit, gold) = sums
    return rates(right, found, hit, gold)


def matched(one: Reading, other: Reading) -> int:
    """How many triples of one reading the other one has too, where entities are the same if they share a name."""
    there: dict[str, list[tuple[int, int]]] = {}
    for head, relation, tail in other.triples:
        there.setdefault(relation, []).append((head, tail))

    def same(own: int, its: int) -> bool:
        return bool(one.entities[own].names & other.entities[its].names)

    return sum(
        any(same(head, h) and same(tail, t) for h, t in there.get(relation, ())) for head, relation, tail in one.triples
    )


def score_from_text(documents: Sequence[Document], predictor: Predictor) -> dict[str, dict[str, dict[str, float]]]:
    """The scores of `compare` for each of WAYS."""
    gold = list(map(gold_reading, documents))
    return {way: compare(readings_of(documents, way, predictor), gold) for way in WAYS}
