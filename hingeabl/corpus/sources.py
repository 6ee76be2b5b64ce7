"""The documents of a folder, a glob or a file, as bytes that are not parsed yet, always in the same order.

Local files need no further package; Parquet, and addresses such as s3://bucket/folder, need pyarrow.
"""

from __future__ import annotations

import contextlib
import fnmatch
import functools
import glob
import gzip
import hashlib
import itertools
import json
import math
import posixpath
import zlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, cast

from hingeabl.data.stream import CHUNK, LARGEST, Rewound, read_object_texts
from hingeabl.errors import UserError, first_line, need, print_warning
from hingeabl.files import GZIP, cannot_read, encoding_of, files_below, listed, name_in_utf8
from hingeabl.readers.formats import (
    FORMAT_NAMES,
    JSON_FORMATS,
    TEXT_SUFFIXES,
    decoded,
    format_of_text,
    starts_as_json,
    suffix_of,
    without_gz,
)

KINDS = dict.fromkeys((".json", ".jsonl", ".ndjson"), "json") | {".parquet": "parquet"}
KINDS |= dict.fromkeys(TEXT_SUFFIXES, "text")
INSTALL = "pip install -r scripts/requirements/ray.txt"
ROWS = 100  # of a Parquet file that are read at once


class Source(NamedTuple):
    """A file: its name below the folder or the glob's fixed part, its kind ("json", "text" or "parquet"), and how to
    open it."""

    name: str
    kind: str
    open: Callable[[], BinaryIO]


class Raw(NamedTuple):
    """A document that is not parsed yet, or the message that a file could not be read further.

    file    the name of its source
    number  of the document in the file, from 0
    kind    what `data` is: "json", a JSON object; "text", plain text; or "problem", the message
    data    bytes, UTF-8 unless a text file has another encoding
    title   of a text
    format  that of a JSON object's file, as its beginning shows it; "" if it does not, and in Parquet
    """

    file: str
    number: int
    kind: str
    data: bytes
    title: str = ""
    format: str = ""


def find_sources(pattern: str) -> list[Source]:
    """The files that --input names, sorted by name: all in a folder and below it, those of a glob, or one.

    Hidden files do not count; files of other kinds are left out with a warning. Raises UserError if there is none,
    or if pyarrow is missing or cannot open the address.
    """
    openers = dict(sorted((_remote_files if "://" in pattern else _local_files)(pattern)))
    sources = [Source(name, kind, file) for name, file in openers.items() if (kind := KINDS.get(suffix_of(name)))]
    others = sorted(openers.keys() - {source.name for source in sources})
    readable = f"{', '.join(KINDS)}, packed by gzip or not"
    if not sources:
        more = f"; it has {listed(others)}" if others else ""
        raise UserError(f"--input {pattern}: no file is there that ends in one of {readable}{more}; check the path")
    if others:
        print_warning(
            f"--input {pattern}: {len(others):,} files are left out, such as {others[0]}; read are "
            f"{readable}; prepro.py --convert makes documents of other formats"
        )
    return sources


def fixed_part(pattern: str) -> str:
    """The folder of a path, up to the first wildcard of a glob."""
    whole = "".join(itertools.takewhile(lambda character: character not in "*?[", pattern))
    folder = whole.rpartition("/")[0] or "/" * whole.startswith("/")
    return pattern.rstrip("/") if whole == pattern else folder


def is_hidden(name: str) -> bool:
    """Whether a name, or that of a folder in its path, begins with a dot, or the file is still being written (.tmp)."""
    return name.endswith(".tmp") or any(part.startswith(".") for part in name.split("/"))


def _local_files(pattern: str) -> Iterator[tuple[str, Callable[[], BinaryIO]]]:
    path = Path(pattern)
    if path.is_dir():
        base, paths = path, list(files_below(path))
    elif path.exists():
        base, paths = path.parent, [path]
    else:
        base = Path(fixed_part(pattern) if glob.has_magic(pattern) else path.parent)
        found = [Path(name) for name in dict.fromkeys(glob.glob(pattern, recursive=True))]
        paths = [name for name in found if name.is_file()]
        if broken := [name for name in found if not name.exists()]:
            print_warning(f"--input {pattern}: {len(broken):,} links lead to no file, such as {broken[0]}")
    for file in paths:
        name = file.relative_to(base).as_posix()
        if not is_hidden(name):
            yield name_in_utf8(name), _opener(file)


def _opener(path: Path) -> Callable[[], BinaryIO]:
    return lambda: path.open("rb")


def need_pyarrow(module: str) -> Any:
    """A module of pyarrow. Raises UserError with the command that installs it."""
    problem = "pyarrow is not installed, which Parquet and places such as s3:// need"
    return need(f"pyarrow.{module}", f"{problem}; {INSTALL}")


def _remote_files(location: str) -> Iterator[tuple[str, Callable[[], BinaryIO]]]:
    fs = need_pyarrow("fs")
    try:
        system, base = fs.FileSystem.from_uri(fixed_part(location))
        pattern = base + location.removeprefix(fixed_part(location))
        pattern = pattern if glob.has_magic(location) else pattern.rstrip("/")
        [info] = system.get_file_info([base])
        if info.type == fs.FileType.File:
            base, infos = posixpath.dirname(base), [info]
        else:
            infos = system.get_file_info(fs.FileSelector(base, recursive=True, allow_not_found=True))
    except (OSError, ValueError) as error:  # pyarrow's ArrowInvalid is a ValueError
        raise UserError(f"--input {location}: cannot be opened ({first_line(error)}); check the address") from None
    for info in infos:
        name = posixpath.relpath(info.path, base)
        is_wanted = pattern in (base, info.path) or fits(info.path, pattern)
        if info.type == fs.FileType.File and is_wanted and not is_hidden(name):
            yield name, functools.partial(system.open_input_file, info.path)


def fits(path: str, pattern: str) -> bool:
    """Whether a file's path fits a glob as in glob.glob: ** is any number of folders, and at the end all that is in
    them. None fits a glob that ends in /."""

    def parts_fit(names: list[str], patterns: list[str]) -> bool:
        if patterns in ([], ["**"]):
            return bool(names) == bool(patterns)
        if patterns[0] == "**":
            return parts_fit(names, patterns[1:]) or (bool(names) and parts_fit(names[1:], patterns))
        return bool(names) and fnmatch.fnmatchcase(names[0], patterns[0]) and parts_fit(names[1:], patterns[1:])

    return not pattern.endswith("/") and parts_fit(*([x for x in y.split("/") if x] for y in (path, pattern)))


def checksums(sources: Iterable[Source]) -> dict[str, str]:
    """SHA-256 of each file, by its name. Raises UserError for one that cannot be read."""
    digests = {}
    for source in sources:
        result = hashlib.sha256()
        try:
            with source.open() as file:
                while chunk := file.read(CHUNK):
                    result.update(chunk)
        except OSError as error:
            raise cannot_read(source.name, error) from None
        digests[source.name] = result.hexdigest()
    return digests


def read_sources(sources: Iterable[Source]) -> Iterator[Raw]:
    """The documents of all files. A file that cannot be read to its end ends with a "problem"; the next file
    follows."""
    readers = {"json": _read_json, "text": _read_text, "parquet": _read_parquet}
    for source in sources:
        number = 0
        try:
            with source.open() as file:
                for number, (kind, data, more) in enumerate(readers[source.kind](file, source.name), 1):
                    yield Raw(source.name, number - 1, kind, data, **more)
        except (UserError, OSError, EOFError, ValueError, zlib.error) as error:
            message = str(error) if isinstance(error, UserError) else f"{source.name}: cannot be read further ({error})"
            yield Raw(source.name, number, "problem", message.encode())


def _read_text(file: BinaryIO, name: str) -> Iterator[tuple[str, bytes, dict[str, str]]]:
    data = file.read()
    text = ""
    with contextlib.suppress(zlib.error):  # its reader reports the error
        text = decoded(data[:CHUNK])
    file_format = _format_by_object(text, False) if starts_as_json(text) else format_of_text(text)
    if file_format and file_format != "text" and (starts_as_json(text) or file_format not in JSON_FORMATS):
        what = FORMAT_NAMES.get(file_format, f"in the format {file_format}")
        raise UserError(f"{name}: is {what}, no plain text; prepro.py --convert makes documents of it")
    yield "text", data, {"title": Path(without_gz(name)).with_suffix("").as_posix()}


def _read_json(file: BinaryIO, name: str) -> Iterator[tuple[str, bytes, dict[str, str]]]:
    """The objects of a list, of lines, or one after the other. Broken lines are passed on; parsing them fails later."""
    start = file.read(CHUNK)
    unpacked = cast(BinaryIO, Rewound(start, file))
    if start.startswith(GZIP):
        unpacked = cast(BinaryIO, gzip.GzipFile(fileobj=unpacked))
        start = unpacked.read(CHUNK)
        unpacked = cast(BinaryIO, Rewound(start, unpacked))
    if is_lines(start, name):
        more = {"format": _format_by_object(decoded(start), True)}
        yield from (("json", line, more) for line in _lines(unpacked, name) if line.strip())
    else:
        more = {"format": _format_by_object(decoded(start), False)}
        yield from (("json", text.encode(), more) for _, text in read_object_texts(unpacked, name))


def _format_by_object(text: str, by_lines: bool) -> str:
    """The format of a file, from the first whole JSON object in its beginning; "" if there is none. With `by_lines`, an
    object begins at the first brace of a line."""
    place = text.find("{")
    while place >= 0:
        with contextlib.suppress(ValueError, RecursionError):
            json.JSONDecoder().raw_decode(text, place)
            return format_of_text(text[place:]) or ""
        line_end = text.find("\n", place) if by_lines else -1
        place = text.find("{", line_end) if line_end >= 0 else -1
    return ""


def is_lines(start: bytes, name: str) -> bool:
    """Whether a JSON file has an object on each line, by its first bytes and its name."""
    if encoding_of(start) == "utf-16" or not start.strip() or start.removeprefix(b"\xef\xbb\xbf").lstrip()[:1] == b"[":
        return False
    if suffix_of(name) != ".json":
        return True
    try:
        json.loads(start.lstrip().split(b"\n")[0])
    except (ValueError, RecursionError):
        return False
    return True


def _lines(file: BinaryIO, name: str) -> Iterator[bytes]:
    rest = b""
    while chunk := file.read(CHUNK):
        *whole, rest = (rest + chunk).split(b"\n")
        yield from whole
        if len(rest) > LARGEST:
            raise UserError(f"{name}: a line is longer than {LARGEST:,} bytes; is this the right file?")
    yield rest


def _read_parquet(file: BinaryIO, name: str) -> Iterator[tuple[str, bytes, dict[str, str]]]:
    """The rows as JSON objects. Bytes are text in UTF-8; columns that are null there, not a finite number, or other
    bytes are left out."""
    table = need_pyarrow("parquet").ParquetFile(file)
    for batch in table.iter_batches(ROWS):
        for row in batch.to_pylist():
            values = {key: value for key, cell in row.items() if (value := _value_of(cell)) is not None}
            yield "json", json.dumps(values, ensure_ascii=False, default=_text_of).encode(), {}


def _value_of(cell: Any) -> Any:
    """A cell's value, None for what JSON has not."""
    if isinstance(cell, bytes):
        with contextlib.suppress(UnicodeDecodeError):
            return cell.decode()
        return None
    return None if isinstance(cell, float) and not math.isfinite(cell) else cell


def _text_of(value: Any) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)


def blocks_of(documents: Iterable[Raw], size: int) -> Iterator[tuple[int, list[Raw]]]:
    """The documents in blocks of `size`, the last one being smaller, each with its number from 0."""
    documents = iter(documents)
    return enumerate(iter(lambda: list(itertools.islice(documents, size)), []))
