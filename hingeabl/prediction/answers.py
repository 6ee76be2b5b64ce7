"""From the bytes of a request to its answer: documents, predictions and warnings, or a file in a requested format."""

from __future__ import annotations

import contextlib
import gzip
import io
import json
import re
import sys
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from hingeabl.core.prepro import count_entities
from hingeabl.data.schema import Document
from hingeabl.data.stream import CHUNK
from hingeabl.errors import UserError, first_line
from hingeabl.files import GZIP, encoding_of, parse_json
from hingeabl.prediction.predictor import Predictor
from hingeabl.readers.any_format import read_format
from hingeabl.readers.formats import FORMATS, JSON_FORMATS, format_of_text, starts_as_json
from hingeabl.readers.offsets import MARK
from hingeabl.readers.text import load_spacy
from hingeabl.training.inference import Predictions
from hingeabl.writers.by_extension import FORMS
from hingeabl.writers.networks import Picture

NAME = "input"  # of every request in messages, and for the readers: no file's name, and without an ending
SERVED = tuple(kind for kind in FORMATS if kind != "brat")  # brat has a second file beside the first
MENTION = ("name", "sent_id", "pos", "type", "start", "end")
WARNING_PREFIXES = ("WARNING: ", "note: ")  # lines on stderr that are for the user


@dataclass(frozen=True)
class Limits:
    """What a request may hold, how many requests may wait beside the current one, and the seconds until a request is
    given up. The model's time and memory grow with the pairs of entities: n entities have n (n - 1). A picture takes
    much longer than the model: `max_drawn` limits its entities and relations."""

    max_bytes: int = 2**20
    max_characters: int = 100_000
    max_documents: int = 100
    max_pairs: int = 40_000
    max_drawn: int = 300
    max_waiting: int = 16
    timeout: float = 60.0


@dataclass(frozen=True)
class Answer:
    """The content of an answer, and its warnings, one line each."""

    content: bytes
    warnings: list[str]


def answer(predictor: Predictor, body: bytes, file_format: str | None, extension: str | None, limits: Limits) -> Answer:
    """The answer to a request's body, a text or a file of documents, packed by gzip or not.

    `file_format` is one of SERVED, None to recognise it. With `extension`, a key of FORMS, the content is such a file,
    else JSON: {documents: [{title, sents, vertexSet, predictions}], warnings}, the predictions being predict.py's.
    Raises UserError if the body cannot be read or exceeds the limits.
    """
    with captured_warnings() as warnings:
        documents = documents_of(body, file_format, predictor.typed, limits, predictor.choices.text_model)
        predictions = predictor.predict(documents, NAME)
        if extension:
            check_picture(documents, predictions, extension, limits)
            content = written(documents, predictions, extension)
    if not extension:
        content = as_json(documents, predictions, warnings)
    return Answer(content, warnings)


@contextlib.contextmanager
def captured_warnings() -> Iterator[list[str]]:
    """A list that holds, at the end, the warnings that were printed on stderr meanwhile. Other lines are printed to
    stderr at the end, without progress bars."""
    warnings: list[str] = []
    stderr = io.StringIO()
    try:
        with contextlib.redirect_stderr(stderr):
            yield warnings
    finally:
        for line in re.sub(r".*\r", "", stderr.getvalue()).split("\n"):
            start = next((start for start in WARNING_PREFIXES if line.startswith(start)), None)
            if start:
                warnings.append(line.removeprefix(start))
            elif line.strip():
                print(line, file=sys.stderr)


def documents_of(
    body: bytes, file_format: str | None, typed: bool, limits: Limits, text_model: str | None = None
) -> list[Document]:
    """The checked documents of a request; `text_model` reads plain text. Raises UserError if the body cannot be read or
    exceeds the limits."""
    data = unpacked(body, limits.max_bytes)
    if file_format is None:
        data, file_format = recognised(data)
    if file_format not in SERVED:
        raise UserError(f"{NAME}: {file_format!r} cannot be read here; choose one of {', '.join(SERVED)}")
    if file_format == "text":
        text = text_alone(data, may_have_title=True) or data.decode(encoding_of(data), "ignore")
        check_characters(len(text), limits)
    with temporary_vocabulary(text_model) if file_format == "text" and text_model else contextlib.nullcontext():
        return limited(read_format(io.BytesIO(data), NAME, file_format, typed, text_model=text_model), limits)


def unpacked(body: bytes, max_bytes: int) -> bytes:
    """The body, unpacked if it is packed. Raises UserError if that fails or gives too much."""
    if not body.startswith(GZIP):
        return body
    try:
        with gzip.GzipFile(fileobj=io.BytesIO(body)) as file:
            data = file.read(max_bytes + 1)
    except (EOFError, zlib.error, OSError) as error:
        raise UserError(f"{NAME}: cannot be unpacked ({first_line(error)}); send it as it is") from None
    if len(data) > max_bytes:
        raise UserError(f"{NAME}: has more than {max_bytes:,} bytes when it is unpacked; split it")
    if data.startswith(GZIP):
        raise UserError(f"{NAME}: is packed twice; unpack it first")
    return data


def recognised(data: bytes) -> tuple[bytes, str]:
    """The data and its format. Data of no other format is plain text; of {"text": ...} without a title only the text is
    returned."""
    beginning = data[:CHUNK].decode(encoding_of(data), "ignore")
    file_format = format_of_text(beginning) or "text"
    if file_format in JSON_FORMATS and not starts_as_json(beginning):
        return data, "text"
    if file_format == "text":
        text = text_alone(data)
        if text is not None and not text.startswith(MARK) and not starts_as_json(text):  # itself plain text
            return text.encode(), "text"
    return data, file_format


def text_alone(data: bytes, may_have_title: bool = False) -> str | None:
    """The text of data that is one JSON object {"text": ...}, None of other data and, unless it may have one, of an
    object with a title."""
    with contextlib.suppress(UserError, UnicodeDecodeError):  # which the reader of the format tells with its place
        value = parse_json(data.decode(encoding_of(data)), NAME)
        if isinstance(value, dict) and (may_have_title or value.get("title") is None):
            return value["text"] if isinstance(value.get("text"), str) else None
    return None


@contextlib.contextmanager
def temporary_vocabulary(text_model: str) -> Iterator[None]:
    """At the end, spaCy's pipeline forgets the words that it had not seen before, so that memory does not grow."""
    with load_spacy(text_model).memory_zone():
        yield


def limited(documents: Iterator[Document], limits: Limits) -> list[Document]:
    """The documents, read only as far as the limits allow. Raises UserError if there are more, or none."""
    accepted: list[Document] = []
    characters = pairs = 0
    for document in documents:
        accepted.append(document)
        if len(accepted) > limits.max_documents:
            raise UserError(f"{NAME}: has more than {limits.max_documents:,} documents, which is the limit; split it")
        characters += sum(len(token) for sentence in document["sents"] for token in sentence)
        check_characters(characters, limits)
        entities = count_entities(document)
        pairs += entities * (entities - 1)  # the model makes a context for each, listed or not
        if pairs > limits.max_pairs:
            raise UserError(
                f"{NAME}: document {len(accepted) - 1} ({document['title'][:60]!r}) has {len(document['vertexSet']):,} "
                f"entities, and with it there are {pairs:,} pairs of entities; the limit is {limits.max_pairs:,}; "
                "split it"
            )
    if not accepted:
        raise UserError(f"{NAME}: holds no documents, so there is nothing to predict")
    return accepted


def check_characters(count: int, limits: Limits) -> None:
    """Raise UserError for more characters than the limits allow."""
    if count > limits.max_characters:
        raise UserError(f"{NAME}: has {count:,} characters; the limit is {limits.max_characters:,}; split it")


def check_picture(documents: list[Document], predictions: Predictions, extension: str, limits: Limits) -> None:
    """Raise UserError if the output is a picture and has more entities and relations than the limits allow."""
    count = sum(len(document["vertexSet"]) for document in documents) + len(predictions.entries)
    if issubclass(FORMS[extension], Picture) and count > limits.max_drawn:
        raise UserError(
            f"{NAME}: there are {count:,} entities and relations, and a picture has at most {limits.max_drawn:,} here; "
            "send fewer documents, or take form=graphml"
        )


def written(documents: list[Document], predictions: Predictions, extension: str) -> bytes:
    """A file with that extension, a key of FORMS. Raises UserError as the writer does."""
    file = io.BytesIO()
    with io.TextIOWrapper(file, encoding="utf-8", newline="") as output:
        with FORMS[extension](output) as writer:
            writer.add(documents, predictions.entries_by_document())
        output.flush()
        return file.getvalue()


def as_json(documents: list[Document], predictions: Predictions, warnings: list[str]) -> bytes:
    """What the page shows, see `answer`."""
    shown: list[dict[str, Any]] = [
        {
            "title": document["title"],
            "sents": document["sents"],
            "vertexSet": [
                [{field: mention[field] for field in MENTION if field in mention} for mention in mentions]
                for mentions in document["vertexSet"]
            ],
            "predictions": entries,
        }
        for document, entries in zip(documents, predictions.entries_by_document(), strict=True)
    ]
    return json.dumps({"documents": shown, "warnings": warnings}, ensure_ascii=False, allow_nan=False).encode()
