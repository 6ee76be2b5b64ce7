"""Documents of any input format, as a stream in DocRED's schema."""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, cast

from hingeabl.data.schema import Document, check_document, check_types
from hingeabl.data.stream import Rewound, read_objects, stream_documents
from hingeabl.errors import UserError
from hingeabl.files import GZIP, cannot_read, encoding_of
from hingeabl.readers.brat import read_brat
from hingeabl.readers.pubtator import read_pubtator
from hingeabl.readers.spans import read_spans

FORMATS = ("docred", "spans", "text", "pubtator", "brat")
START = 2**16  # bytes that tell the format
PUBTATOR = re.compile(r"\s*[^|\s]+\|[ta]\|")
JSON_KEYS = re.compile(  # the first of them tells the format; in a string, quotes would have a backslash before
    r'(?<!\\)"(?:(?P<docred>vertexSet"|sents"\s*:\s*\[\s*\[\s*"|entities"\s*:\s*\[\s*\[)'
    r'|(?P<spans>text"\s*:\s*"|entities"\s*:\s*\[\s*\{))'
)


def detect(start: bytes, name: str) -> str:
    """The format of a file, one of FORMATS, by its first bytes and its name; docred where nothing tells another."""
    path = Path(name)
    if path.suffix == ".ann" or (path.suffix == ".txt" and path.with_suffix(".ann").exists()):
        return "brat"
    if start.startswith(GZIP):
        try:
            start = zlib.decompressobj(16 + zlib.MAX_WBITS).decompress(start, START)
        except zlib.error:
            return "docred"  # whose reader says what is wrong
    text = start.decode(encoding_of(start), "ignore")
    if PUBTATOR.match(text):
        return "pubtator"
    if text.lstrip()[:1] in ("{", "["):
        found = JSON_KEYS.search(text)
        return "spans" if found and found["spans"] else "docred"
    return "text" if path.suffix == ".txt" else "docred"


def read_format(file: BinaryIO, name: str, kind: str | None, typed: bool, labels: bool = False) -> Iterator[Document]:
    """Checked documents in DocRED's schema, as they are read, without their labels unless `labels`.

    `kind` is one of FORMATS, None to recognise it; `name` opens messages, and for brat is the path. `typed` is for
    typed entity markers, which need each mention to have one of DocRED's types. After the last document, one line on
    stderr tells what was doubtful, if anything. Raises UserError with file, document, place and remedy.
    """
    if kind is None:
        try:
            start = file.read(START)
        except OSError as error:
            raise cannot_read(name, error) from None
        kind = detect(start, name)
        file = cast(BinaryIO, Rewound(start, file))
    if kind == "docred" and not labels:
        yield from stream_documents(file, name, typed)
        return
    for number, document in enumerate(_read(file, name, kind)):
        if not labels:
            document.pop("labels", None)
        where = f"{name}: document {number}"
        check_document(document, where, labels=labels)
        if typed:
            check_types(document, f"{where} ({document['title']!r})")
        yield document


def _read(file: BinaryIO, name: str, kind: str) -> Iterator[Document]:
    """Unchecked documents."""
    if kind == "text":
        from hingeabl.readers.text import read_text  # only where it is asked for

        return read_text(file, name)
    if kind not in FORMATS:
        raise UserError(f"{name}: {kind!r} is no format; choose one of {', '.join(FORMATS)}")
    readers = {"docred": read_objects, "spans": read_spans, "pubtator": read_pubtator, "brat": read_brat}
    return readers[kind](file, name)
