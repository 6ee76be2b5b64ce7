"""Files: JSON and safetensors, checked when read, and written completely or not at all."""

from __future__ import annotations

import codecs
import contextlib
import gzip
import hashlib
import io
import json
import math
import os
import re
import shutil
import tempfile
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any

import torch
import ujson
from safetensors import SafetensorError
from safetensors.torch import save_file

from hingeabl.core import ROOT
from hingeabl.errors import UserError, first_line, print_warning, remedy_of

META = ROOT / "meta"
TIMING = "timing.json"  # of a run: its optimizer steps and seconds
GZIP = b"\x1f\x8b"  # the first bytes of a gzip file
ZIP = b"PK\x03\x04"  # the first bytes of a zip archive
SPACE = re.compile(r"[ \t\r\n]*")
NON_DATA_STARTS = {  # how files that are not data begin, in lower case: what is wrong with them
    "version https://git-lfs": "is a git-lfs pointer, not the file itself; run git lfs pull",
    "<!doctype html": "is a web page, not data; download the raw file",
    "<html": "is a web page, not data; download the raw file",
    "<?xml": "is XML, not data; download the raw file",
    "%pdf-": "is a PDF, not its text; save the text as a .txt file",
}
SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")


def predictions_file(folder: Path, split: str) -> Path:
    """A run's file of predictions in dev or test."""
    return folder / ("result.json" if split == "test" else "result_dev.json")


def are_numbers(values: Iterable[Any], most: float = math.inf) -> bool:
    """Whether values read from JSON are finite numbers from 0 to `most`."""
    return all(type(number) in (int, float) and 0 <= number <= most and number < math.inf for number in values)


def read_json(path: str | Path) -> Any:
    """Parse one JSON file, see read_text. Raises UserError if it is missing, unreadable or broken; NaN and Infinity
    count as broken."""
    return parse_json(read_text(path), str(path))


def read_text(path: str | Path) -> str:
    """A file's text without its byte order mark: UTF-8, or UTF-16 if it has a mark; with or without gzip.

    Raises UserError if the file is missing, cannot be read or unpacked, is not such text, or is in NON_DATA_STARTS.
    """
    try:
        data = Path(path).read_bytes()
        data = gzip.decompress(data) if data.startswith(GZIP) else data
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise UserError(f"{path}: cannot be unpacked ({first_line(error)}); download it again") from None
    except OSError as error:
        raise cannot_read(path, error) from None
    try:
        text = data.decode(encoding_of(data))
    except UnicodeDecodeError as error:
        raise not_text(str(path), error, error.start) from None
    refuse_non_data(text[:1000], str(path))
    return text


def cannot_read(path: str | Path, error: OSError) -> UserError:
    """The error for a file that cannot be opened or read."""
    if isinstance(error, FileNotFoundError):
        return UserError(f"{path}: no such file; check the path")
    if isinstance(error, IsADirectoryError):
        inside = listed(json_files(path))
        return UserError(f"{path}: is a folder; pass a file{f' in it: {inside}' if inside else ''}")
    return UserError(f"{path}: cannot be read ({error.strerror}); check the path and its permissions")


def files_below(folder: str | Path) -> Iterator[Path]:
    """The files in a folder and its subfolders, without hidden folders. Links to folders are followed, each folder is
    entered once; warnings count those that cannot be read, and links whose file is not there."""
    closed: list[OSError] = []
    broken: list[Path] = []
    entered = {os.path.realpath(folder)}
    for root, folders, names in os.walk(folder, onerror=closed.append, followlinks=True):
        places = {name: os.path.realpath(os.path.join(root, name)) for name in sorted(folders) if name[0] != "."}
        new = {place: name for name, place in reversed(places.items()) if place not in entered}
        folders[:] = sorted(new.values())
        entered.update(new)
        paths = [Path(root, name) for name in names]
        broken += (path for path in paths if path.is_symlink() and not path.exists() and path.name[0] != ".")
        yield from (path for path in paths if path.is_file())
    if broken:
        print_warning(f"{folder}: {len(broken):,} links lead to no file and are left out, such as {broken[0]}")
    if closed:
        print_warning(
            f"{folder}: {len(closed):,} folders cannot be read and are left out, such as {closed[0].filename}"
        )


def json_files(folder: str | Path) -> list[str]:
    """The names of the JSON files in a folder, sorted, with .jsonl and .gz ones."""
    return sorted(file.name for file in Path(folder).glob("*.json*") if file.is_file())


def listed(names: Sequence[str]) -> str:
    """Names for a message: the first eight, and how many more there are."""
    return ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")


def refuse_non_data(start: str, where: str) -> None:
    """Raise UserError, starting with `where`, if text begins as NON_DATA_STARTS lists."""
    start = start.lstrip().lower()
    for beginning, problem in NON_DATA_STARTS.items():
        if start.startswith(beginning):
            raise UserError(f"{where}: {problem}")


def refuse_non_data_file(path: str | Path) -> None:
    """Apply refuse_non_data to a file, text or binary. Raises UserError also if it cannot be read."""
    try:
        with Path(path).open("rb") as file:
            start = file.read(1000)
    except OSError as error:
        raise cannot_read(path, error) from None
    refuse_non_data(start.decode("utf-8", "replace"), str(path))


def refuse_non_data_files(folder: str | Path) -> None:
    """Apply refuse_non_data_file to each readable file in a folder; no error if the folder does not exist."""
    for path in sorted(Path(folder).glob("*")) if folder else ():
        if path.is_file() and os.access(path, os.R_OK):
            refuse_non_data_file(path)


def parse_list(text: str, path: str | Path, item: str, form: str, may_be_empty: bool = False) -> list[Any]:
    """The objects in a file's text, unchecked: a JSON list, a single object, or one after the other (JSON Lines).

    In messages `item` names one object, and `form` the whole file. With `may_be_empty`, an empty .jsonl file gives [].
    Raises UserError for anything else.
    """
    first = text.lstrip()[:1]
    if not first:
        if may_be_empty and ".jsonl" in Path(path).suffixes:
            return []
        raise UserError(f"{path}: is empty; it must hold {form}")
    if first == "{":
        return list(parse_objects(text, str(path), item))
    objects = parse_json(text, str(path), item)
    if not isinstance(objects, list):
        raise UserError(f"{path}: must hold {form}")
    return objects


def encoding_of(start: bytes) -> str:
    """The encoding by a file's first bytes: UTF-16 if they are its byte order mark, else UTF-8."""
    return "utf-16" if start.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) else "utf-8-sig"


def not_text(where: str, error: UnicodeDecodeError, byte: int) -> UserError:
    """The error for text in another encoding, or for an archive; `byte` is the offset of the bad byte."""
    if error.object[: len(ZIP)] == ZIP:
        return UserError(f"{where}: is a zip archive; unpack it first")
    return UserError(f"{where}: not UTF-8 text ({error.reason} at byte {byte}); save it as UTF-8")


def parse_json(text: str, where: str, item: str = "entry") -> Any:
    """Parse JSON text. Raises UserError, starting with `where`, for broken JSON, for NaN and Infinity, and for an
    object with the same key twice; in a list the message names `item` and its number."""
    try:
        value = json.loads(text, **STRICT)  # ujson is as fast but takes some broken JSON
    except RepeatedKey as error:
        raise UserError(f"{where}: {item_with_repeated_key(text, item)}{error}") from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"{where}: broken JSON ({error}); repair the file or download it again") from None
    if SURROGATE.search(text):
        refuse_lone_surrogates(value, where)
    return value


def parse_objects(text: str, where: str, item: str = "document") -> Iterator[Any]:
    """Parse JSON objects that follow one another, as in JSON Lines. Raises UserError at the first broken one; the
    message starts with `where`, `item` and the object's number."""
    decoder = json.JSONDecoder(**STRICT)
    has_surrogates = SURROGATE.search(text)
    position, number = 0, 0
    while (position := SPACE.match(text, position).end()) < len(text):  # type: ignore[union-attr]
        prefix = f"{where}: {item} {number}"
        try:
            value, position = decoder.raw_decode(text, position)
        except RepeatedKey as error:
            raise UserError(f"{prefix}: {error}") from None
        except (ValueError, RecursionError) as error:
            raise UserError(f"{prefix}: broken JSON ({error}); repair the file or download it again") from None
        if has_surrogates:
            refuse_lone_surrogates(value, prefix)
        yield value
        number += 1


def refuse_lone_surrogates(value: Any, where: str) -> None:
    """Raise UserError, starting with `where`, for a lone surrogate (half of a UTF-16 pair): JSON allows it, text does
    not."""
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        surrogate = error.object[error.start].encode("unicode_escape").decode()
        raise UserError(f"{where}: holds {surrogate}, half of a character; repair the text there") from None


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def _finite(text: str) -> float:
    if math.isinf(value := float(text)):
        raise ValueError(f"{text} is beyond all numbers")
    return value


class RepeatedKey(ValueError):
    """An object has the same key twice; a plain parser would silently keep only the last."""


def _each_key_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    unique = dict(pairs)
    if len(unique) < len(pairs):
        key = Counter(key for key, _ in pairs).most_common(1)[0][0]
        raise RepeatedKey(f"the key {key!r} is there twice in one object; remove or rename one")
    return unique


def item_with_repeated_key(text: str, item: str) -> str:
    """Which item of a list has an object with a key twice, with its title, for a message; "" if the JSON is not a
    list."""
    repeated = []

    def note(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        if len(dict(pairs)) < len(pairs):
            repeated.append(pairs)
        return dict(pairs) | {"": bool(repeated)}  # True from the first such object on, and for those around it

    with contextlib.suppress(ValueError, RecursionError):
        parsed = json.loads(text, object_pairs_hook=note)
        for number, entry in enumerate(parsed if isinstance(parsed, list) else ()):
            if isinstance(entry, dict) and entry[""]:
                return f"{item} {number}{f' ({title!r})' if (title := entry.get('title')) else ''}: "
    return ""


STRICT: Any = {"object_pairs_hook": _each_key_once, "parse_constant": _refuse_constant, "parse_float": _finite}


def name_in_utf8(name: str) -> str:
    """A file's name as it can be written to a file: a byte that is not UTF-8 becomes \\x and two digits."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")


def write_json(path: str | Path, value: Any, indent: int = 2) -> None:
    """Write a JSON file completely or not at all: under a temporary name, then renamed. indent 0 puts it on one line.

    Raises UserError if that fails.
    """
    with atomic_write(path) as file:
        file.write(ujson.dumps(value, indent=indent, ensure_ascii=False, escape_forward_slashes=False) + "\n")


@contextlib.contextmanager
def atomic_write(path: str | Path, mode: str = "w") -> Iterator[IO[Any]]:
    """Open a file for writing, as text or, with mode "wb", as bytes, completely or not at all: it has a temporary name,
    is renamed at the end and removed on any exception, as are folders that were created for it.

    Raises UserError if it cannot be written.
    """
    path = Path(path)
    if path.is_dir():
        raise UserError(f"{path}: is a folder; name a file in it")
    created = [folder for folder in path.parents if not folder.exists()]
    temporary = path.with_name(path.name + ".tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open(mode, encoding=None if "b" in mode else "utf-8") as file:
            yield file
        fsync_and_rename(temporary, path)
    except BaseException as error:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
            for folder in created:
                folder.rmdir()
        if isinstance(error, OSError):
            raise UserError(f"{path}: cannot be written ({error.strerror}); {remedy_of(error)}") from None
        raise


@contextlib.contextmanager
def atomic_write_text(path: str | Path) -> Iterator[IO[str]]:
    """atomic_write for text, packed by gzip if its name ends in .gz."""
    if not str(path).lower().endswith(".gz"):
        with atomic_write(path) as file:
            yield file
        return
    with (
        atomic_write(path, "wb") as raw,
        gzip.GzipFile("", "wb", 6, raw, mtime=0) as packed,
        io.TextIOWrapper(packed, encoding="utf-8") as text,
    ):
        yield text


def fsync_and_rename(temporary: Path, path: Path) -> None:
    """Flush a written file to disk and rename it, so that even a power cut leaves either the old file or the whole new
    one."""
    for target in (temporary, path.parent):
        descriptor = os.open(target, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        if target is temporary:
            os.replace(temporary, path)


def save_tensors(path: Path, tensors: dict[str, torch.Tensor], metadata: dict[str, str] | None = None) -> None:
    """Write safetensors completely or not at all. Raises UserError if that fails."""
    scratch = path.with_name(f".{path.name}.tmp")  # a folder, as safetensors has temporary files of random names
    temporary = scratch / path.name
    try:
        shutil.rmtree(scratch, ignore_errors=True)  # left by a killed process
        scratch.mkdir()
        save_file(tensors, temporary, metadata)
        temporary.chmod(scratch.stat().st_mode & 0o666)  # safetensors lets only the owner read
        fsync_and_rename(temporary, path)
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path}: cannot be written ({first_line(error)}); {remedy_of(error)}") from None
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def sha256_of_file(path: str | Path) -> str:
    """SHA-256 of a file, in hexadecimal. Raises UserError if it cannot be read."""
    sha256 = hashlib.sha256()
    try:
        with Path(path).open("rb") as file:
            while chunk := file.read(2**20):
                sha256.update(chunk)
    except OSError as error:
        raise cannot_read(path, error) from None
    return sha256.hexdigest()


def make_folder(path: str | Path) -> Path:
    """Create a folder and its parents. Raises UserError if that fails or the folder is not writable."""
    path = Path(path)
    if path.is_file():
        raise UserError(f"{path}: is a file, and a folder is wanted here; name another one")
    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            return path
    except OSError as error:
        raise UserError(f"{path}: cannot be written to ({error.strerror}); {remedy_of(error)}") from None
