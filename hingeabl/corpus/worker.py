"""A worker: it holds the model and turns a block of documents into a part of the output."""

from __future__ import annotations

import contextlib
import io
import json
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch

from hingeabl.corpus.sources import Raw, need_pyarrow
from hingeabl.data.schema import Document, GeneratedTitle
from hingeabl.errors import UserError, first_line
from hingeabl.files import not_text
from hingeabl.prediction.answers import captured_warnings, temporary_vocabulary
from hingeabl.prediction.predictor import Predictor
from hingeabl.readers.align import warn
from hingeabl.readers.any_format import read_format
from hingeabl.readers.formats import format_of_text
from hingeabl.readers.offsets import Counts
from hingeabl.writers.writer import Entry, entities_of

Row = dict[str, Any]


@dataclass
class Part:
    """The output for a block of documents.

    data         the rows, as a file of the output's form
    documents    number of predicted documents
    predictions  number of predictions
    errors       {file, document, message} of each document that could not be predicted
    warnings     one line each
    """

    data: bytes = b""
    documents: int = 0
    predictions: int = 0
    errors: list[dict[str, Any]] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


class Worker:
    """The class of Ray's actors. Nothing is loaded before `ready`."""

    def __init__(self, load_path: str, form: str, threads: int, options: dict[str, Any]) -> None:
        """`form` is "jsonl" or "parquet"; `options` are those of Predictor.from_run."""
        self.load_path, self.form, self.threads, self.options = load_path, form, threads, options

    def ready(self) -> None:
        """Load the model. Raises UserError if it cannot be loaded."""
        torch.set_num_threads(self.threads)
        self.predictor = Predictor.from_run(self.load_path, **self.options)

    def part(self, number: int, block: list[Raw]) -> Part:
        """The part of that number, from a block of documents. Documents that cannot be read or predicted go into its
        errors; nothing is raised."""
        return part_of(self.predictor, f"part {number}", block, self.form)


def part_of(predictor: Predictor, name: str, block: list[Raw], form: str) -> Part:
    """The part for a block of documents; its warnings begin with `name`."""
    part = Part()
    with captured_warnings() as part.warnings:
        documents: list[tuple[Raw, Document]] = []
        counts: dict[str, Counts] = defaultdict(Counts)  # of each file
        model = predictor.choices.text_model
        with temporary_vocabulary(model) if model else contextlib.nullcontext():
            for raw in block:
                with recording_errors(part, raw):
                    documents.append((raw, read_document(raw, predictor.typed, model, counts[raw.file])))
        documents = list(without_misread(documents, counts, name, part))
        rows = list(predicted_rows(predictor, documents, part))
        predictor.warn(name)
    part.documents, part.predictions = len(rows), sum(len(row["predictions"]) for row in rows)
    part.data = encoded(rows, form)
    return part


def without_misread(
    documents: list[tuple[Raw, Document]], counts: dict[str, Counts], name: str, part: Part
) -> Iterator[tuple[Raw, Document]]:
    """Print the warnings on each file's documents; those of a file in which most stated texts are not at their offsets
    are errors, and the others are left."""
    misread = {}
    for file, counted in counts.items():
        try:
            warn(f"{file}, {name}", counted)
        except UserError as error:
            misread[file] = error
    for raw, document in documents:
        with recording_errors(part, raw):
            if raw.file in misread:
                raise misread[raw.file]
            yield raw, document


@contextlib.contextmanager
def recording_errors(part: Part, raw: Raw) -> Iterator[None]:
    """Record any exception raised within as an error of that document, so that the other documents go on."""
    try:
        yield
    except Exception as error:
        message = str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {first_line(error)}"
        part.errors.append({"file": raw.file, "document": raw.number, "message": " ".join(message.split())})


def predicted_rows(predictor: Predictor, read_documents: list[tuple[Raw, Document]], part: Part) -> Iterator[Row]:
    """The row of each document. If the group cannot be predicted at once, its documents are predicted one by one."""
    documents = [document for _, document in read_documents]
    predictor.clear()
    try:
        entries_by_document = predictor.predict_group(documents).entries_by_document()
    except (UserError, RuntimeError, MemoryError):  # of some document in it
        predictor.clear()
        for raw, document in read_documents:
            with recording_errors(part, raw):
                [entries] = predictor.predict_group([document]).entries_by_document()
                yield row_of(raw, document, entries)
        return
    for (raw, document), entries in zip(read_documents, entries_by_document, strict=True):
        yield row_of(raw, document, entries)


def row_of(raw: Raw, document: Document, entries: list[Entry]) -> Row:
    """The output for a document: {file, document, title, entities: [{id, name, mentions, types}], predictions}, these
    as in predict.py's output without the title."""
    entities = [
        {"id": entity.id, "name": entity.name, "mentions": entity.mentions, "types": entity.types}
        for entity in entities_of(document, raw.number)
    ]
    predictions = [{key: value for key, value in entry.items() if key != "title"} for entry in entries]
    source = {"file": raw.file, "document": raw.number, "title": str(document["title"])}
    return source | {"entities": entities, "predictions": predictions}


def read_document(raw: Raw, typed: bool, text_model: str | None, counts: Counts) -> Document:
    """The checked document; `text_model` reads plain text, see documents_of_texts; what is doubtful is counted in
    `counts`. Raises UserError with its file, its number and the remedy."""
    where = f"{raw.file}: document {raw.number}"
    if raw.kind == "problem":
        raise UserError(raw.data.decode())
    if raw.kind == "text":
        return titled(read_single_document(raw.data, raw.file, "text", typed, text_model, counts), raw.title)
    try:
        text = raw.data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise not_text(where, error, error.start) from None
    file_format = format_of_text(text) or "docred"
    if file_format == "text" and raw.format in ("spans", "doccano"):
        file_format = raw.format  # a text without mentions in a file of mentions
    try:
        document = read_single_document(text.encode(), raw.file, file_format, typed, text_model, counts)
    except UserError as error:  # to the reader it is the first document of a file
        raise UserError(str(error).replace(f"{raw.file}: document 0", where, 1)) from None
    made = isinstance(document["title"], GeneratedTitle)
    return titled(document, f"document {raw.number}") if made else document


def read_single_document(
    data: bytes, name: str, file_format: str, typed: bool, text_model: str | None, counts: Counts
) -> Document:
    """The one document of that format in some bytes. Raises UserError, opening with `name`."""
    documents = list(read_format(io.BytesIO(data), name, file_format, typed, text_model=text_model, counts=counts))
    if len(documents) != 1:
        raise UserError(f"{name}: holds {len(documents)} documents in the place of one; write one object a line")
    return documents[0]


def titled(document: Document, title: str) -> Document:
    """The document with a title that was made for it."""
    return document | {"title": GeneratedTitle(title)}


def encoded(rows: list[Row], form: str) -> bytes:
    """The rows as a file: JSON Lines, or Parquet."""
    if form == "jsonl":
        return "".join(json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n" for row in rows).encode()
    file = io.BytesIO()
    need_pyarrow("parquet").write_table(need_pyarrow("lib").Table.from_pylist(rows, schema()), file)
    return file.getvalue()


def schema() -> Any:
    """The columns of Parquet, see row_of; confidence and evidence are null if the run does not predict them."""
    arrow: Any = need_pyarrow("lib")
    text, number, real = arrow.string(), arrow.int32(), arrow.float64()
    texts, numbers = arrow.list_(text), arrow.list_(number)
    entity = {"id": text, "name": text, "mentions": texts, "types": texts}
    prediction = {"h_idx": number, "t_idx": number, "r": text, "relation": text}
    prediction |= dict.fromkeys(("score", "threshold", "margin", "confidence"), real) | {"evidence": numbers}
    columns = {"file": text, "document": arrow.int64(), "title": text}
    columns |= {"entities": arrow.list_(arrow.struct(entity)), "predictions": arrow.list_(arrow.struct(prediction))}
    return arrow.schema([arrow.field(name, column_type) for name, column_type in columns.items()])
