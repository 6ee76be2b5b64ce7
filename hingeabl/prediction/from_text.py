"""How good relations from raw text are: documents with gold entities are read as text, and the output is compared.

Three settings show which step loses how much: with the gold entities; with the gold mentions, joined by the rules; and
from the text alone. Mentions are spans of characters in the text of join_tokens.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from hingeabl.core.evaluation import harmonic_mean
from hingeabl.data.schema import Document
from hingeabl.prediction.predictor import Predictor
from hingeabl.readers.joining import gold_of, join_tokens, mention_spans
from hingeabl.readers.mentions import Detection
from hingeabl.readers.text import Text, document_of_detection, documents_of_texts

Span = tuple[int, int]
INPUT_MODES = ("gold entities", "gold mentions", "text alone")


class Entity(NamedTuple):
    """An entity's spans, its type (the most frequent of its mentions'), and its mentions' names in small letters."""

    spans: frozenset[Span]
    type: str
    names: frozenset[str]


class ExtractedDocument(NamedTuple):
    """A document's gold annotation, or the system's output for it: typed mentions, entities, and triples (head,
    relation, tail) of the entities' numbers."""

    mentions: frozenset[tuple[int, int, str]]
    entities: tuple[Entity, ...]
    triples: frozenset[tuple[int, str, int]]


def extract_document(
    text: str, entities: Iterable[Sequence[tuple[int, int, str]]], triples: Iterable[Any]
) -> ExtractedDocument:
    """From the entities' mentions (start, end, type) and the triples (head, relation, tail)."""
    entities, typed_entities = list(entities), []
    for mentions in entities:
        entity_type = next((kind for kind, _ in Counter(kind for *_, kind in mentions).most_common(1)), "")
        names = frozenset(" ".join(text[start:end].casefold().split()) for start, end, _ in mentions)
        typed_entities.append(Entity(frozenset((start, end) for start, end, _ in mentions), entity_type, names))
    all_mentions = frozenset(mention for mentions in entities for mention in mentions)
    return ExtractedDocument(all_mentions, tuple(typed_entities), frozenset(triples))


def predicted_triples(predictor: Predictor, documents: list[Document]) -> list[set[tuple[int, str, int]]]:
    """The triples that the model predicts for each document."""
    entries_by_document = predictor.predict(documents).entries_by_document()
    return [{(entry["h_idx"], entry["r"], entry["t_idx"]) for entry in entries} for entries in entries_by_document]


def extract_documents(documents: Sequence[Document], way: str, predictor: Predictor) -> list[ExtractedDocument]:
    """The output of `predictor`, its run and its reader of text, for documents in one of INPUT_MODES."""
    placed = [join_tokens(document["sents"]) for document in documents]
    texts = [
        Text(text, document["title"], document["title"]) for (text, _), document in zip(placed, documents, strict=True)
    ]
    if way == "gold entities":
        spans = [mention_spans(document, places) for document, (_, places) in zip(documents, placed, strict=True)]
        inputs = [{key: value for key, value in document.items() if key != "labels"} for document in documents]
    else:
        if way == "gold mentions":
            inputs = [
                document_of_detection(text, Detection(*gold_of(document)[1:]))
                for text, document in zip(texts, documents, strict=True)
            ]
        else:
            inputs = list(documents_of_texts(texts, predictor.choices.text_model))
        spans = [
            [[(m["start"], m["end"], m["type"]) for m in mentions] for mentions in document["vertexSet"]]
            for document in inputs
        ]
    triples = predicted_triples(predictor, inputs)
    parts = zip(texts, spans, triples, strict=True)
    return [extract_document(text.text, mentions, predicted) for text, mentions, predicted in parts]


def gold_document(document: Document) -> ExtractedDocument:
    """The gold annotation of a labelled document."""
    text, places = join_tokens(document["sents"])
    triples = {(label["h"], label["r"], label["t"]) for label in document.get("labels", ())}
    return extract_document(text, mention_spans(document, places), triples)


def compare(predictions: Sequence[ExtractedDocument], gold: Sequence[ExtractedDocument]) -> dict[str, dict[str, float]]:
    """Precision, recall and F1 in percent over all documents, of

    mention span, mention typed    mentions at the same characters, and of the same type
    entity, entity typed           entities with exactly the same mentions, and of the same type
    b-cubed                        of entities: the share of a mention's entity that is right, averaged over mentions
    triple strict                  relation, and head and tail with exactly the gold mentions
    triple by name                 relation, and head and tail each with a name of the gold entity
    """
    pairs = list(zip(predictions, gold, strict=True))
    keys_of: dict[str, Any] = {
        "mention span": lambda doc: {mention[:2] for mention in doc.mentions},
        "mention typed": lambda doc: doc.mentions,
        "entity": lambda doc: {entity.spans for entity in doc.entities},
        "entity typed": lambda doc: {entity[:2] for entity in doc.entities},
        "triple strict": lambda doc: {
            (doc.entities[head].spans, relation, doc.entities[tail].spans) for head, relation, tail in doc.triples
        },
    }
    scores = {}
    for name, keys in keys_of.items():
        key_sets = [(keys(predicted), keys(labelled)) for predicted, labelled in pairs]
        right = sum(len(ours & theirs) for ours, theirs in key_sets)
        scores[name] = rates(right, sum(len(x) for x, _ in key_sets), right, sum(len(x) for _, x in key_sets))
    scores["b-cubed"] = b_cubed(pairs)
    scores["triple by name"] = rates(
        sum(matched(predicted, labelled) for predicted, labelled in pairs),
        sum(len(predicted.triples) for predicted, _ in pairs),
        sum(matched(labelled, predicted) for predicted, labelled in pairs),
        sum(len(labelled.triples) for _, labelled in pairs),
    )
    return scores


def rates(right: float, predicted: float, recalled: float, gold: float) -> dict[str, float]:
    """Precision, right / predicted, recall, recalled / gold, and F1, in percent."""
    precision, recall = 100 * right / max(predicted, 1), 100 * recalled / max(gold, 1)
    return {"precision": precision, "recall": recall, "f1": harmonic_mean(precision, recall)}


def b_cubed(pairs: Sequence[tuple[ExtractedDocument, ExtractedDocument]]) -> dict[str, float]:
    """B-cubed precision and recall; a mention that the other side does not have counts 0."""
    sums = [[0.0, 0] for _ in range(2)]
    for pair in pairs:
        for side, (reading, other) in enumerate((pair, pair[::-1])):
            spans_in_other = {span: entity.spans for entity in other.entities for span in entity.spans}
            for entity in reading.entities:
                shared = sum(len(entity.spans & spans_in_other.get(span, frozenset())) for span in entity.spans)
                sums[side][0] += shared / max(len(entity.spans), 1)
                sums[side][1] += len(entity.spans)
    (right, predicted), (recalled, gold) = sums
    return rates(right, predicted, recalled, gold)


def matched(reading: ExtractedDocument, other: ExtractedDocument) -> int:
    """How many triples of `reading` are in `other` too; entities are the same if they share a name."""
    pairs_by_relation: dict[str, list[tuple[int, int]]] = {}
    for head, relation, tail in other.triples:
        pairs_by_relation.setdefault(relation, []).append((head, tail))

    def share_a_name(entity: int, other_entity: int) -> bool:
        return bool(reading.entities[entity].names & other.entities[other_entity].names)

    return sum(
        any(share_a_name(head, h) and share_a_name(tail, t) for h, t in pairs_by_relation.get(relation, ()))
        for head, relation, tail in reading.triples
    )


def score_from_text(documents: Sequence[Document], predictor: Predictor) -> dict[str, dict[str, dict[str, float]]]:
    """The scores of `compare` for each of INPUT_MODES."""
    gold = list(map(gold_document, documents))
    return {way: compare(extract_documents(documents, way, predictor), gold) for way in INPUT_MODES}
