"""Documents of any input format, as a stream in DocRED's schema."""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, cast

from hingeabl.data.cdr import is_cdr, read_cdr
from hingeabl.data.schema import Document, check_document, check_types
from hingeabl.data.stream import CHUNK, TOKEN, Rewound, read_objects, stream_documents
from hingeabl.errors import UserError
from hingeabl.files import GZIP, ZIP, cannot_read, encoding_of, refuse_foreign
from hingeabl.readers.brat import read_brat
from hingeabl.readers.lines import read_lines
from hingeabl.readers.pubtator import read_pubtator
from hingeabl.readers.spans import read_spans
from hingeabl.readers.text import read_text

FORMATS = ("docred", "spans", "text", "pubtator", "brat", "cdr")
PUBTATOR = re.compile(r"\s*[^|\s]+\|[ta]\|")
QUOTE = '"'  # alone, of a string that the text ends in
VALUE = re.compile(r"\s*:\s*(.)")  # after a key: how its value begins


def detect(start: bytes, name: str) -> str:
    """The format of a file, one of FORMATS, by its first bytes and its name; docred for what none can read.

    brat: NAME.ann, or NAME.txt with NAME.ann beside it. spans: the first object has a string `text` and no vertexSet.
    text: .txt. Raises UserError for other text that begins with a letter or a digit.
    """
    path = Path(name.removesuffix(".gz"))
    if path.suffix == ".ann" or (path.suffix == ".txt" and path.with_suffix(".ann").exists()):
        return "brat"
    try:
        text = decoded(start)
    except zlib.error:
        return "docred"  # whose reader says what is wrong
    if (kind := kind_of(text)) is not None:
        return kind
    if path.suffix == ".txt":
        return "text"
    refuse_foreign(text[:1000], name)
    if text.lstrip()[:1].isalnum():
        raise UserError(f"{name}: its format is not recognised; pass --format, one of {', '.join(FORMATS)}")
    return "docred"


def decoded(start: bytes) -> str:
    """The text that a file's first bytes are, unpacked if they are packed. Raises zlib.error where that fails."""
    if start.startswith(GZIP):
        start = zlib.decompressobj(16 + zlib.MAX_WBITS).decompress(start, CHUNK)
    return start.decode(encoding_of(start), "ignore")


def kind_of(text: str) -> str | None:
    """The format of a file, one of FORMATS, by its text alone; None for plain text."""
    if text.lstrip()[:1] in ("{", "["):
        keys = _first_keys(text)
        return "spans" if keys.get("text") == QUOTE and "vertexSet" not in keys else "docred"
    if PUBTATOR.match(text):
        return "pubtator"
    if is_cdr(text):
        return "cdr"
    return "docred" if text.startswith(ZIP.decode()) else None


def _first_keys(text: str) -> dict[str, str]:
    """The keys of the first JSON object, as far as the text goes, with the first character of each one's value."""
    keys: dict[str, str] = {}
    open_brackets = ""
    for token in TOKEN.finditer(text):
        kind = token[0]
        if kind in ("{", "["):
            open_brackets += kind
        elif kind in ("}", "]"):
            open_brackets = open_brackets[:-1]
            if "{" not in open_brackets:
                break
        elif kind == QUOTE:  # looking for the end of each one further would take long
            break
        elif open_brackets in ("{", "[{") and (value := VALUE.match(text, token.end())):
            keys[kind[1:-1]] = value[1]
    return keys


def read_format(file: BinaryIO, name: str, kind: str | None, typed: bool, labels: bool = False) -> Iterator[Document]:
    """Checked documents in DocRED's schema, as they are read, without their labels unless `labels`.

    `kind` is one of FORMATS, None to recognise it; `name` opens messages, and for brat is the path. `typed` is for
    typed entity markers, which need each mention to have one of DocRED's types. After the last document, one line on
    stderr tells what was doubtful, if anything. Raises UserError with file, document, place and remedy.
    """
    if kind is None:
        try:
            start = file.read(CHUNK)
        except OSError as error:
            raise cannot_read(name, error) from None
        kind = detect(start, name)
        file = cast(BinaryIO, Rewound(start, file))
    if kind == "docred" and not labels:
        yield from stream_documents(file, name, typed)
        return
    for number, document in enumerate(_read(file, name, kind, labels)):
        if not labels:
            document.pop("labels", None)
        where = f"{name}: document {number}"
        check_document(document, where, labels=labels)
        if typed:
            check_types(document, f"{where} ({document['title']!r})")
        yield document


def _read(file: BinaryIO, name: str, kind: str, labels: bool) -> Iterator[Document]:
    """Unchecked documents, or those that are checked but for their labels."""
    if kind == "spans":
        return read_spans(file, name, labels)
    readers: dict[str, Any] = {"docred": read_objects, "text": read_text, "pubtator": read_pubtator, "brat": read_brat}
    if kind == "cdr":
        return read_cdr(read_lines(file, name), name)
    if kind not in readers:
        raise UserError(f"{name}: {kind!r} is no format; choose one of {', '.join(FORMATS)}")
    return readers[kind](file, name)
