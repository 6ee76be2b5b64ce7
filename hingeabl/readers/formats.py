"""Recognises a file's format by its first bytes and its name."""

from __future__ import annotations

import re
import shlex
import zlib
from pathlib import Path

from hingeabl.data.stream import CHUNK, TOKEN
from hingeabl.errors import UserError
from hingeabl.files import GZIP, ZIP, encoding_of, refuse_non_data
from hingeabl.readers.cdr import is_cdr

FORMATS = ("docred", "spans", "text", "pubtator", "brat", "cdr", "doccano", "labelstudio", "dwie")
FORMAT_NAMES = {
    "spans": "text with mentions at character offsets",
    "text": "plain text",
    "pubtator": "in PubTator's format",
    "brat": "one of brat's two files",
    "doccano": "an export of doccano",
    "labelstudio": "an export of Label Studio",
    "dwie": "an article of DWIE's own release",
}
JSON_FORMATS = ("docred", "spans", "text")  # formats that text in brackets may be mistaken for
JSON_STARTS = ('{"', "{}", "[{", "[]")  # without white space
TEXT_SUFFIXES = (".txt", ".text", ".md", ".markdown", ".rst")  # suffixes of plain text
MENTION_KEYS = {"entities", "mentions", "spans", "annotations", "sents", "labels", "pairs"}  # keys beside a text
PUBTATOR = re.compile(r"\s*[^|\s]+\|[ta]\|")
QUOTE = '"'  # a token that is only a quote opens a string that the text cuts off
VALUE = re.compile(r"\s*:\s*(.)")  # after a key: the first character of its value
JSON_VALUE = re.compile(r"(?:null|true|false|NaN|-?Infinity|-?\d[-+.\deE]*)\s*\Z")
DOCCANO = re.compile(r'"start_offset"\s*:|"labels?"\s*:\s*\[\s*\[\s*\d+\s*,\s*\d+\s*,\s*"')  # its two layouts


def detect(start: bytes, name: str) -> str:
    """The format of a file, one of FORMATS, by its first bytes and its name; docred if no reader fits.

    brat: NAME.ann, or NAME.txt with NAME.ann beside it. spans: the first object has a string `text` and no vertexSet.
    text: a suffix in TEXT_SUFFIXES, or such an object without keys for mentions. Raises UserError for other text that
    begins with a letter or a digit.
    """
    if is_brat_file(name):
        return "brat"
    try:
        text = decoded(start)
    except zlib.error:
        return "docred"  # its reader reports the error
    file_format = format_of_text(text)
    if suffix_of(name) in TEXT_SUFFIXES and (
        file_format is None or (file_format in JSON_FORMATS and not starts_as_json(text))
    ):
        return "text"
    if file_format is not None:
        return file_format
    refuse_non_data(text[:1000], name)
    if text.lstrip()[:1].isalnum():
        raise UserError(f"{name}: its format is not recognised; pass --format, one of {', '.join(FORMATS)}")
    return "docred"


def starts_as_json(text: str) -> bool:
    """Whether a text begins like a JSON object or a list of objects; text in brackets does not."""
    return "".join(text[:1000].split()).startswith(JSON_STARTS)


def refuse_other_format(text: str, path: str | Path) -> None:
    """Raise UserError for a file with this text that is in neither DocRED's schema nor CDR's; the message names the
    format and how to convert it."""
    start = text[:CHUNK]
    file_format = "brat" if is_brat_file(str(path)) else format_of_text(start)
    if file_format is None and start.strip():
        if suffix_of(str(path)) in TEXT_SUFFIXES:
            file_format = "text"
        elif start.lstrip()[:1].isalnum() and not JSON_VALUE.match(start.strip()):
            raise UserError(
                f"{path}: is not JSON, and DocRED's schema is needed here; if it is plain text, {conversion(path)} "
                "--format text"
            )
    if file_format in FORMAT_NAMES:
        raise UserError(
            f"{path}: is {FORMAT_NAMES[file_format]}, and DocRED's schema is needed here; {conversion(path)}"
        )


def conversion(path: str | Path) -> str:
    """The command that converts a file."""
    output = Path(without_gz(str(path))).with_suffix("").name.removesuffix(".spans")
    return f"convert it: python prepro.py {shlex.quote(str(path))} --convert {shlex.quote(output)}.docred.json"


def is_brat_file(name: str) -> bool:
    """Whether a path is one of brat's two files: NAME.ann, or NAME.txt with NAME.ann beside it."""
    path = Path(without_gz(name))
    return path.suffix.lower() == ".ann" or (path.suffix.lower() == ".txt" and other_file_of(path).exists())


def other_file_of(path: Path) -> Path:
    """The .txt file beside one of brat's .ann files, and the other way round; .TXT and .ANN, if they are there."""
    suffix = ".txt" if path.suffix.lower() == ".ann" else ".ann"
    upper = path.with_suffix(suffix.upper())
    return upper if upper.exists() and not path.with_suffix(suffix).exists() else path.with_suffix(suffix)


def suffix_of(name: str) -> str:
    """A file name's suffix in lower case, without .gz."""
    return Path(without_gz(name.lower())).suffix


def without_gz(name: str) -> str:
    """A file name without .gz at its end, in upper or lower case."""
    return name[:-3] if name.lower().endswith(".gz") else name


def decoded(start: bytes) -> str:
    """The text of a file's first bytes, unpacked if they are packed. Raises zlib.error if that fails."""
    if start.startswith(GZIP):
        start = zlib.decompressobj(16 + zlib.MAX_WBITS).decompress(start, CHUNK)
    return start.decode(encoding_of(start), "ignore")


def format_of_text(text: str) -> str | None:
    """The format of a file, one of FORMATS, by its text alone; None for plain text, "text" for JSON objects with text
    alone."""
    if text.lstrip()[:1] in ("{", "["):
        return _format_of_json(text)
    if PUBTATOR.match(text):
        return "pubtator"
    if is_cdr(text):
        return "cdr"
    return "docred" if text.startswith(ZIP.decode()) else None


def _format_of_json(text: str) -> str:
    keys, is_whole = _first_keys(text)
    if "vertexSet" in keys:
        return "docred"
    if "annotation_id" in keys or (keys.get("data") == "{" and {"annotations", "completions"} & keys.keys()):
        return "labelstudio"
    if keys.get("text") != QUOTE:
        return "dwie" if {"mentions", "concepts"} <= keys.keys() else "docred"
    if "Comments" in keys or DOCCANO.search(text):
        return "doccano"
    return "text" if is_whole and not keys.keys() & MENTION_KEYS else "spans"


def _first_keys(text: str) -> tuple[dict[str, str], bool]:
    """The keys of the first JSON object, as far as the text goes, each with the first character of its value; and
    whether the object is complete."""
    keys: dict[str, str] = {}
    open_brackets = ""
    for token in TOKEN.finditer(text):
        symbol = token[0]
        if symbol in ("{", "["):
            open_brackets += symbol
        elif symbol in ("}", "]"):
            open_brackets = open_brackets[:-1]
            if "{" not in open_brackets:
                return keys, True
        elif symbol == QUOTE:  # the text ends in this string; to search on would be slow
            break
        elif open_brackets in ("{", "[{") and (value := VALUE.match(text, token.end())):
            keys[symbol[1:-1]] = value[1]
    return keys, False
