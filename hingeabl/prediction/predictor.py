"""A trained run that predicts the relations of documents, or of a text."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from hingeabl.core.prepro import Feature, featurize
from hingeabl.core.utils import pick_device, pick_precision
from hingeabl.data.checks import check_cuts
from hingeabl.data.pairs import near_pairs, pairs_sharing_a_window
from hingeabl.data.relations import RELATION_NAMES
from hingeabl.data.schema import Document, check_document, check_types
from hingeabl.errors import UserError, print_warning
from hingeabl.files import read_json, refuse_lone_surrogates
from hingeabl.modeling.encoder import WINDOW, cut, max_window
from hingeabl.prediction.choices import DEFAULT, PredictionOptions
from hingeabl.readers.documents import MentionCounts
from hingeabl.readers.text import document_of_text, load_spacy
from hingeabl.training.fitted import CONFIDENCE, TYPES, joins_learned_types, read_confidence, read_types
from hingeabl.training.hub import SHIPPED
from hingeabl.training.inference import Predictions, predict
from hingeabl.training.saved_run import TrainedRun, open_run
from hingeabl.writers.writer import Entry, OutputEntity, entities_of

PRECISIONS = (None, "fp32", "bf16", "fp16")
LONGEST_PATH = 1000  # characters
REMEDY = (
    "train.py --load_path RUN --output_dir NEW writes it to NEW; copy it to the run's folder, or leave the option out"
)


class Relation(NamedTuple):
    """A predicted relation: two entities, the relation's name between them, its name in rel2id, and its scores; margin
    is score - threshold, above 0; confidence the probability that it is right, None if the run has no confidence.json.
    """

    head: OutputEntity
    relation: str
    tail: OutputEntity
    r: str
    score: float
    threshold: float
    margin: float
    confidence: float | None = None

    def __str__(self) -> str:
        sure = f"margin {self.margin:.2f}" if self.confidence is None else f"confidence {self.confidence:.2f}"
        return f"{self.head.name} | {self.relation} | {self.tail.name} ({sure})"


def plain_document(text: str, text_model: str | None = None) -> Document:
    """The document of a plain text, see documents_of_texts. Raises UserError for half a character, and for an obvious
    mistake: the path of a file, or JSON."""
    refuse_lone_surrogates(text, "text")
    if len(text) < LONGEST_PATH and os.path.isfile(text):
        raise UserError(f"text {text!r}: is the path of a file; pass the file's content")
    if text.lstrip()[:1] in ("{", "["):
        with contextlib.suppress(ValueError):  # it is no JSON, and so a text
            json.loads(text)
            raise UserError("text: is JSON; pass what json.loads makes of it, if that is a document in DocRED's schema")
    return document_of_text(text, "text", "text", text_model)


def relations_of(document: Document, entries: list[Entry]) -> list[Relation]:
    """The predictions of a document with its entities."""
    entities = entities_of(document, 0)
    scores = ("r", "score", "threshold", "margin", "confidence")
    return [
        Relation(
            entities[entry["h_idx"]],
            entry["relation"],
            entities[entry["t_idx"]],
            *(entry.get(field) for field in scores),  # type: ignore[arg-type]
        )
        for entry in entries
    ]


class Predictor:
    """A run, ready to predict. Its counts start at `clear`: `documents`, `entities` and `predictions`, `mentions` with
    the doubtful ones, and `cut`, the documents longer than max_seq_length with the mentions and entities lost."""

    def __init__(
        self,
        run: TrainedRun | None = None,
        precision: str | None = None,
        test_batch_size: int | None = None,
        choices: PredictionOptions = DEFAULT,
    ) -> None:
        """`run` defaults to the model of this repository, `precision` and `test_batch_size` to the run's own, as in
        train.py --load_path. Raises UserError for `choices` that need a file which the run lacks."""
        choices.check()
        self.run = run = run or open_run(SHIPPED, pick_device(None))
        self.choices, self.loss = choices, replace(run.loss, shift=choices.shift)
        if choices.text_model is not None:
            load_spacy(choices.text_model)  # a wrong name fails before any work
        self.confidence = read_confidence(run.folder)
        if choices.min_confidence and self.confidence is None:
            raise UserError(f"min_confidence: {run.folder} has no {CONFIDENCE}; {REMEDY}")
        learned_types = read_types(run.folder)
        if choices.types == "learned" and learned_types is None:
            raise UserError(f"types learned: {run.folder} has no {TYPES}; {REMEDY}")
        types_option = choices.types or read_json(run.folder / "config.json").get("decision", {}).get("types", "any")
        self.types = learned_types if types_option == "learned" else None
        self.relations = {index: relation for relation, index in run.rel2id.items()}
        self.names: dict[str, str] = read_json(RELATION_NAMES)
        self.device = next(run.model.parameters()).device
        self.precision = pick_precision(precision or run.settings.precision, self.device)
        self.budget = (test_batch_size or run.settings.test_batch_size) * WINDOW
        self.max_seq_length = choices.max_seq_length or sys.maxsize  # in word pieces; beyond, documents are cut
        self.typed = run.settings.entity_marker == "typed"
        self.clear()

    def clear(self) -> None:
        """Set all counts to 0."""
        self.documents = self.entities = self.predictions = 0
        self.cut: Counter[str] = Counter()
        self.mentions = MentionCounts()

    @classmethod
    def from_run(
        cls,
        name: str | Path = SHIPPED,
        device: str | None = None,
        precision: str | None = None,
        test_batch_size: int | None = None,
        **choices: Any,
    ) -> Predictor:
        """The predictor of a finished run: its seed folder, or its name on the hub, owner/name[@revision]; by default
        the model of this repository. `choices` are fields of PredictionOptions. Raises UserError for invalid options,
        and if the run cannot be loaded."""
        options = PredictionOptions(**choices)
        options.check()
        if precision not in PRECISIONS:
            raise UserError(f"precision {precision!r}: is none of {', '.join(map(repr, PRECISIONS))}; correct it")
        if test_batch_size is not None and test_batch_size < 1:
            raise UserError(f"test_batch_size {test_batch_size}: must be a whole number above 0; correct it")
        return cls(open_run(name, pick_device(device)), precision, test_batch_size, options)

    def __call__(self, text: str | Document) -> list[Relation]:
        """The relations of a plain text, whose entities are found too, or of a document in DocRED's schema.

        Raises UserError if `text_model` cannot be loaded, for an argument of another type, for a document that breaks
        the schema, and for scores that are not finite.
        """
        if not isinstance(text, (str, dict)):
            raise UserError(
                f"a {type(text).__name__} is no text and no document; pass a string, or a document in DocRED's schema; "
                "several documents go to predict"
            )
        document = self.checked(self.read(text) if isinstance(text, str) else text, "document")
        return relations_of(document, self.predict([document], repr(document["title"][:60])).entries)

    def read(self, text: str) -> Document:
        """The document of a plain text, see plain_document."""
        return plain_document(text, self.choices.text_model)

    def checked(self, document: Document, where: str) -> Document:
        """The document without its labels. Raises UserError, opening with `where`, if it breaks the schema."""
        check_document(document, where, labels=False)
        refuse_lone_surrogates([document["title"], document["sents"]], where)
        if self.typed:
            check_types(document, f"{where} ({document['title']!r})")
        return {name: value for name, value in document.items() if name != "labels"}

    def predict(self, documents: list[Document], where: str = "documents") -> Predictions:
        """Predictions of documents in DocRED's schema, see predict_group; sets all counts to 0 first, and prints the
        warnings of `warn`. Raises UserError for a document that breaks the schema, and for scores that are not finite.
        """
        if not isinstance(documents, list):
            raise UserError(f"{where}: are a {type(documents).__name__}; pass a list of documents in DocRED's schema")
        checked = [self.checked(document, f"{where}: document {number}") for number, document in enumerate(documents)]
        self.clear()
        predictions = self.predict_group(checked)
        self.warn(where)
        return predictions

    def predict_group(self, documents: list[Document]) -> Predictions:
        """Predictions of checked documents without labels; the caller calls `warn` afterwards.

        The entries {title, h_idx, t_idx, r, relation, score, threshold, margin}, with `evidence` and `confidence` if
        the run predicts them, are in the documents' order: `relation` is r's name, or r if it has none; margin is
        score - threshold, above 0. Raises UserError for scores that are not finite.
        """
        settings = self.run.settings
        near = self.choices.max_distance
        features = featurize(
            documents,
            self.run.tokenizer,
            self.run.rel2id,
            self.max_seq_length,
            settings.entity_marker,
            with_evidence=settings.evidence_weight is not None,
        )
        for document, feature in zip(documents, features, strict=True):
            if near is not None:  # the entities stay: models with a map of all pairs see them
                feature["hts"] = near_pairs(document, near)
            self.leave_out_pairs(feature)
        self.documents += len(features)
        self.mentions.add(documents)
        self.entities += sum(len(document["vertexSet"]) for document in documents)
        for lost in check_cuts("", features, self.max_seq_length):
            self.cut.update(documents=lost["count"], mentions=lost["mentions"], entities=lost["entities"])
        how = (self.device, self.precision, settings.num_labels, self.budget)
        predictions = predict(
            self.run.model, features, self.loss, self.relations, *how, title="scoring", with_scores=True
        )
        kept = [
            [named for entry in entries if (named := self.named(entry, document))]
            for document, entries in zip(documents, predictions.entries_by_document(), strict=True)
        ]
        flat = list(itertools.chain.from_iterable(kept))
        predictions = predictions._replace(entries=flat, counts=tuple(map(len, kept)))
        self.predictions += len(predictions.entries)
        return predictions

    def leave_out_pairs(self, feature: Feature) -> None:
        """In a document longer than those of the training, drop the pairs whose entities attend to no common token:
        their context is 0, which no training pair had."""
        length = len(feature["input_ids"])
        if length > self.run.settings.max_seq_length:
            windows = cut(0, length, *max_window(self.run.model.model))
            feature["hts"] = pairs_sharing_a_window(feature, [(window.start, window.stop) for window in windows])

    def warn(self, where: str) -> None:
        """Warn on stderr of doubtful mentions and of what cut documents lost; each line opens with `where`."""
        self.mentions.warn(where)
        if self.cut:
            print_warning(
                f"{where}: {self.cut['documents']:,} of {self.documents:,} documents are longer than "
                f"max_seq_length, {self.max_seq_length:,} word pieces, and are cut: {self.cut['mentions']:,} of "
                f"{self.mentions.total:,} mentions are lost, and {self.cut['entities']:,} of {self.entities:,} "
                "entities have no mention left"
            )

    def named(self, entry: dict[str, Any], document: Document) -> Entry | None:
        """The prediction with its relation's name, after the relation, and its confidence; None if `choices` exclude
        it."""
        if self.types is not None and not joins_learned_types(self.types, document, entry):
            return None
        scores = {field: entry.pop(field) for field in ("score", "threshold", "margin")}
        if self.confidence is not None:
            scores["confidence"] = self.confidence.of(scores["margin"] + self.choices.shift)
            if scores["confidence"] < self.choices.min_confidence:
                return None
        return {**entry, "relation": self.names.get(entry["r"], entry["r"]), **scores}
