"""Documents from a JSON file as a stream, one at a time, so that the file may be of any size.

A file holds a list of documents in DocRED's schema, one document, or documents one after the other (JSON Lines): UTF-8,
or UTF-16 with its byte order mark, with or without gzip.
"""

from __future__ import annotations

import codecs
import gzip
import re
import zlib
from collections.abc import Iterator
from typing import Any, BinaryIO

from hingeabl.data.schema import Document, check_document, check_types
from hingeabl.errors import UserError, first_line
from hingeabl.files import GZIP, SPACE, cannot_read, encoding_of, not_text, parse_json, refuse_non_data

CHUNK = 2**20  # bytes read at once
LARGEST = 2**24  # characters of one object or line: if it is longer, a quote or a bracket is probably missing
TOKEN = re.compile(r'"[^"\\]*(?:\\.[^"\\]*)*"|["{}\[\]]', re.DOTALL)  # a string, the quote of a cut one, a bracket


class JsonText:
    """A file's text, of which only the current object and the rest of the last chunk are kept in memory."""

    def __init__(self, file: BinaryIO, name: str, chunk: int = CHUNK) -> None:
        """`name` starts messages, `chunk` is how many bytes are read at once."""
        self.file, self.name, self.chunk = file, name, chunk
        self.decoder: codecs.IncrementalDecoder | None = None  # known from the first bytes
        self.read = 0  # bytes
        self.text = ""
        self.position = 0  # of the next character in the text; earlier ones are dropped when more is read

    def read_more(self) -> bool:
        """Add a chunk to the text; False at the file's end. Raises UserError if it can't be read or is not UTF-8."""
        try:
            data = self.file.read(max(self.chunk, 2))
            if self.decoder is None:
                if data.startswith(GZIP):
                    self.file = gzip.GzipFile(fileobj=Rewound(data, self.file))  # type: ignore[call-overload]
                    data = self.file.read(max(self.chunk, 2))
                self.decoder = codecs.getincrementaldecoder(encoding_of(data))()
            self.read += len(data)
            more = self.decoder.decode(data, not data)
        except UnicodeDecodeError as error:
            raise not_text(self.name, error, self.read - len(error.object) + error.start) from None
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            raise UserError(f"{self.name}: cannot be unpacked ({first_line(error)}); download it again") from None
        except OSError as error:
            raise cannot_read(self.name, error) from None
        self.text = self.text[self.position :] + more
        self.position = 0
        return bool(data)

    def peek(self) -> str:
        """The next character that is not white space, "" at the file's end."""
        while True:
            space = SPACE.match(self.text, self.position)  # also where there is none
            self.position = space.end() if space else self.position
            if self.position < len(self.text):
                return self.text[self.position]
            if not self.read_more():
                return ""

    def skip(self, character: str) -> bool:
        """Skip the next character if it is this one, and say whether it was."""
        matches = self.peek() == character
        self.position += matches
        return matches

    def take_object(self, where: str) -> str:
        """The text from the bracket here to the one that closes it. Raises UserError, starting with `where`, at the
        file's end."""
        depth = seen = 0  # `seen` characters are searched already
        while True:
            for token in TOKEN.finditer(self.text, self.position + seen):
                symbol = token[0]
                if symbol == '"':
                    break
                seen = token.end() - self.position
                if symbol in "{[":
                    depth += 1
                elif symbol in "}]":
                    depth -= 1
                    if not depth:
                        object_text = self.text[self.position : self.position + seen]
                        self.position += seen
                        return object_text
            if len(self.text) - self.position > LARGEST:
                raise UserError(f"{where}: has no end within {LARGEST:,} characters; is a quote or bracket missing?")
            if not self.read_more():
                raise UserError(f"{where}: broken JSON (the file ends there); repair the file or download it again")


class Rewound:
    """A readable file whose first bytes were read already."""

    def __init__(self, start: bytes, file: BinaryIO) -> None:
        self.start, self.file = start, file

    def read(self, size: int = -1) -> bytes:
        """The next bytes, at most `size` of them."""
        if not self.start:
            return self.file.read(size)
        data, self.start = (self.start, b"") if size < 0 else (self.start[:size], self.start[size:])
        return data


def read_object_texts(file: BinaryIO, name: str, chunk: int = CHUNK) -> Iterator[tuple[str, str]]:
    """The objects of a JSON list, or those that follow one another, as they are read: for each, the opening words of
    messages about it, and its text, not parsed.

    `name` starts messages, `chunk` is how many bytes are read at once. Raises UserError for anything else.
    """
    text = JsonText(file, name, chunk)
    if not text.peek():
        raise UserError(f"{name}: is empty; it must hold a list of documents, like DocRED's files, or one document")
    refuse_non_data(text.text[text.position :][:1000], name)
    listed, number = text.skip("["), 0
    goes_on = not (listed and text.peek() == "]")
    while goes_on:
        where = f"{name}: document {number}"
        if text.peek() not in ("{", ""):
            raise UserError(f"{where}: is not an object with title, sents and vertexSet; found {text.peek()!r}")
        yield where, text.take_object(where)
        number += 1
        goes_on = text.skip(",") if listed else bool(text.peek())
    if listed and not text.skip("]"):
        actual = repr(text.peek()) if text.peek() else "the file ends"
        raise UserError(f"{name}: broken JSON ({actual} where , or ] must follow document {number - 1}); is it whole?")
    if text.peek():
        raise UserError(f"{name}: broken JSON ({text.peek()!r} after the end of the list); remove it")


def read_objects(file: BinaryIO, name: str, chunk: int = CHUNK) -> Iterator[Any]:
    """The objects of read_object_texts, parsed. Raises UserError for anything else."""
    for where, text in read_object_texts(file, name, chunk):
        yield parse_json(text, where)


def stream_documents(file: BinaryIO, name: str, typed: bool = False, chunk: int = CHUNK) -> Iterator[Document]:
    """Checked documents without their labels, as they are read; `typed` is for typed entity markers, which need each
    mention's type. Raises UserError with file, document, field and remedy."""
    for number, document in enumerate(read_objects(file, name, chunk)):
        document.pop("labels", None)
        where = f"{name}: document {number}"
        check_document(document, where, labels=False)
        if typed:
            check_types(document, f"{where} ({document['title']!r})")
        yield document
