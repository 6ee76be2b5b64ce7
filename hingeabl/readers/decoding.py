"""A text file's lines as a stream."""

from __future__ import annotations

import codecs
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from hingeabl.data.stream import LARGEST, JsonText
from hingeabl.errors import UserError

MARKS = (codecs.BOM_UTF8, codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


def opens_with_mark(path: Path) -> bool:
    """Whether a file begins with a byte order mark. Raises OSError if it cannot be read."""
    with path.open("rb") as file:
        return file.read(3).startswith(MARKS)


def read_lines(file: BinaryIO, name: str) -> Iterator[str]:
    """The lines without their ends, \\n or \\r\\n. Raises UserError as read_all does, and for a line longer than
    LARGEST."""
    text = JsonText(file, name)
    number = 1
    while True:
        end = text.text.find("\n", text.position)
        if end >= 0:
            yield text.text[text.position : end].removesuffix("\r")
            text.position = end + 1
            number += 1
        elif len(text.text) - text.position > LARGEST:
            raise UserError(f"{name}: line {number}: is longer than {LARGEST:,} characters; is this the right file?")
        elif not text.read_more():
            break
    if text.position < len(text.text):
        yield text.text[text.position :]


def read_all(file: BinaryIO, name: str) -> str:
    """The whole text with its line ends unchanged; UTF-8, or UTF-16 with its mark, with or without gzip. Raises
    UserError if it cannot be read or is not such text."""
    text = JsonText(file, name)
    parts = []
    while text.read_more():
        parts.append(text.text)
        text.position = len(text.text)
    return "".join(parts)
