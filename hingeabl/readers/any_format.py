"""Documents of any input format, as a stream in DocRED's schema; and converted, written in that schema or as spans."""

from __future__ import annotations

import itertools
import json
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO, cast

from hingeabl.data.schema import Document, GeneratedTitle, check_document, check_types
from hingeabl.data.stream import CHUNK, Rewound, read_objects, stream_documents
from hingeabl.errors import UserError, print_warning
from hingeabl.files import atomic_write_text, cannot_read, files_below, listed
from hingeabl.outputs import check_outputs
from hingeabl.readers.align import to_spans, warn
from hingeabl.readers.brat import read_brat
from hingeabl.readers.cdr import read_cdr
from hingeabl.readers.decoding import read_lines
from hingeabl.readers.dwie import read_dwie
from hingeabl.readers.exports import read_doccano, read_label_studio
from hingeabl.readers.formats import FORMATS, TEXT_SUFFIXES, detect, suffix_of, without_gz
from hingeabl.readers.offsets import Counts
from hingeabl.readers.pubtator import read_pubtator
from hingeabl.readers.spans import read_spans
from hingeabl.readers.text import Text, documents_of_texts, read_texts

READERS: dict[str, Any] = {
    "pubtator": read_pubtator,
    "brat": read_brat,
    "doccano": read_doccano,
    "labelstudio": read_label_studio,
    "dwie": read_dwie,
}
ENDINGS = (".json", ".jsonl", ".json.gz", ".jsonl.gz")
LINES = (".jsonl", ".jsonl.gz")
SPANS = tuple(f".spans{ending}" for ending in ENDINGS)


def read_format(
    file: BinaryIO,
    name: str,
    file_format: str | None,
    typed: bool,
    labels: bool = False,
    text_model: str | None = None,
    counts: Counts | None = None,
) -> Iterator[Document]:
    """Checked documents in DocRED's schema, as they are read, without their labels unless `labels`.

    `file_format` is one of FORMATS, None to recognise it; `name` starts messages, and is the path for brat. `typed` is
    for typed entity markers, which need each mention to have one of DocRED's types. `text_model` reads plain text, see
    documents_of_texts. After the last document, one line on stderr sums up the warnings, if any; with `counts` they are
    counted there instead. Raises UserError with file, document, field and remedy.
    """
    counted, repeated = Counts() if counts is None else counts, RepeatedTitles()
    found, file = detected(file, name, file_format)
    for document in with_documents(_checked(file, name, found, typed, labels, counted), text_model):
        repeated.add(document["title"])
        yield document
    if counts is None:
        warn(name, counted)
        repeated.warn(name)


def read_paths(
    paths: Sequence[str], file_format: str | None, typed: bool, labels: bool = False, text_model: str | None = None
) -> Iterator[Document]:
    """read_format for several files, with one line of warnings for all that have one format. A folder stands for the
    files in it, see files_of. A document in a folder that has no title of its own gets its file's path there, and from
    the file's second document on also its number."""
    counts: dict[str, Counts] = defaultdict(Counts)  # of each format, whose programs count offsets in the same way
    repeated = RepeatedTitles()

    def items() -> Iterator[Document | Text]:
        for source in paths:
            for path in files_of(source, file_format):
                with open_file(path) as opened:
                    found, file = detected(opened, path, file_format)
                    for number, item in enumerate(_checked(file, path, found, typed, labels, counts[found])):
                        title = title_of(item)
                        if path != source and isinstance(title, GeneratedTitle):
                            inside = Path(without_gz(path)).with_suffix("").relative_to(source).as_posix()
                            title = GeneratedTitle(f"{inside} {number}" if number else inside)
                        repeated.add(title)
                        yield item._replace(title=title) if isinstance(item, Text) else item | {"title": title}

    yield from with_documents(items(), text_model)
    name = paths[0] if len(paths) == 1 else f"{paths[0]} and {len(paths) - 1:,} more"
    for of_format in counts.values():
        warn(name, of_format)
    repeated.warn(name)


def title_of(item: Document | Text) -> str:
    """The title of a document or a text."""
    return item.title if isinstance(item, Text) else item["title"]


class RepeatedTitles:
    """The titles of several documents."""

    def __init__(self) -> None:
        self.titles: set[int] = set()  # their hashes: a file may have millions
        self.repeated: dict[str, None] = {}

    def add(self, title: str) -> None:
        """Count a document's title."""
        if hash(title) in self.titles:
            self.repeated[title] = None
        self.titles.add(hash(title))

    def warn(self, name: str) -> None:
        """Warn on stderr if there are any."""
        if self.repeated:
            print_warning(
                f"{name}: {len(self.repeated):,} titles are of several documents ({listed(list(self.repeated))}); "
                "predictions name documents by their titles, and files that are scored need distinct ones: rename them"
            )


def files_of(path: str, file_format: str | None) -> list[str]:
    """A file's own path, or the input files in a folder and its subfolders: brat's .ann files, or plain texts if there
    are none or `file_format` says so. Hidden files are ignored. Raises UserError for a folder without such a file."""
    folder = Path(path)
    if not folder.is_dir():
        return [path]
    if file_format not in (None, "brat", "text"):
        raise UserError(f"{path}: is a folder, which is read as brat or text alone; pass the files in it")
    files = sorted(
        file
        for file in files_below(folder)
        if file.suffix != ".tmp"  # an output that is being written
        and not file.name.startswith(".")
    )
    annotations = [file for file in files if file.suffix.lower() == ".ann"]
    texts = [file for file in files if suffix_of(file.name) in TEXT_SUFFIXES]
    if file_format == "text" or (file_format is None and not annotations):
        chosen = texts
        others = [file.name for file in files if suffix_of(file.name) not in TEXT_SUFFIXES]
        if chosen and others:
            problem = f"{len(others):,} files are no texts and are left out, such as {others[0]}"
            print_warning(f"{path}: {problem}; pass them one by one")
    else:
        chosen, annotated = annotations, {file.with_suffix("") for file in annotations}
        alone = [file for file in texts if file.with_suffix("") not in annotated]
        if alone:
            print_warning(
                f"{path}: {len(alone):,} texts have no .ann file beside them and are left out, such as {alone[0].name}"
            )
        read = {*annotations, *texts, *(file for file in files if file.suffix == ".conf")}  # .conf: brat's settings
        if others := [file.name for file in files if file not in read]:
            print_warning(
                f"{path}: {len(others):,} files are not brat's and are left out, such as {others[0]}; "
                "pass them one by one"
            )
    if not chosen:
        hint = f"; it has {listed([file.name for file in files])}: pass these" if files else ""
        raise UserError(
            f"{path}: is a folder without {'texts' if file_format == 'text' else '.ann files or texts'}{hint}"
        )
    return [str(file) for file in chosen]


def open_file(path: str) -> BinaryIO:
    """A file open for reading. Raises UserError if it cannot be opened."""
    try:
        return Path(path).open("rb")
    except OSError as error:
        raise cannot_read(path, error) from None


def with_documents(items: Iterable[Document | Text], text_model: str | None) -> Iterator[Document]:
    """Documents unchanged and, in their places, those made from texts; consecutive texts are read together."""
    for are_texts, group in itertools.groupby(items, lambda item: isinstance(item, Text)):
        if are_texts:
            yield from documents_of_texts(group, text_model)  # type: ignore[arg-type]
        else:
            yield from group  # type: ignore[misc]


def detected(file: BinaryIO, name: str, file_format: str | None) -> tuple[str, BinaryIO]:
    """The format, recognised if it is None, and the file, still to be read from its beginning."""
    if file_format is not None:
        return file_format, file
    try:
        start = file.read(CHUNK)
    except OSError as error:
        raise cannot_read(name, error) from None
    return detect(start, name), cast(BinaryIO, Rewound(start, file))


def _checked(
    file: BinaryIO, name: str, file_format: str, typed: bool, labels: bool, counts: Counts
) -> Iterator[Document | Text]:
    """read_format without its warning line, counting in `counts`, and without turning texts into documents."""
    if file_format == "docred" and not labels:
        yield from stream_documents(file, name, typed)
        return
    if file_format == "text":
        yield from read_texts(file, name)
        return
    for number, document in enumerate(_read(file, name, file_format, labels, counts)):
        if not labels:
            document.pop("labels", None)
        where = f"{name}: document {number}"
        check_document(document, where, labels=labels)
        if typed:
            check_types(document, f"{where} ({document['title']!r})")
        yield document


def _read(file: BinaryIO, name: str, file_format: str, labels: bool, counts: Counts) -> Iterator[Document]:
    """Documents, unchecked or checked except for their labels."""
    if file_format not in FORMATS:
        raise UserError(f"{name}: {file_format!r} is no format; choose one of {', '.join(FORMATS)}")
    if file_format == "spans":
        return read_spans(file, name, counts, labels)
    if file_format == "cdr":
        return read_cdr(read_lines(file, name), name)
    if file_format == "docred":
        return read_objects(file, name)
    return READERS[file_format](file, name, counts)


def convert(paths: Sequence[str], output: str, file_format: str | None) -> dict[str, int]:
    """Write the documents of files or folders, see read_paths, with their labels to `output`, completely or not at all,
    and return the counts of documents, entities, mentions and labels.

    The output's ending sets its format: .jsonl one document a line, .gz packed, .spans.json and the like spans, else
    DocRED's schema. `file_format` is the input's format, None to recognise it. Raises UserError for an output that must
    not be written, or an input that cannot be read or has no documents.
    """
    if output == "-":
        raise UserError(f"--convert -: is not standard output; name a file that ends in {' or '.join(ENDINGS)}")
    check_outputs(
        {"--convert": (output, ENDINGS)}, {"FILE" if len(paths) == 1 else f"FILE {path}": path for path in paths}
    )
    as_lines, as_spans = output.lower().endswith(LINES), output.lower().endswith(SPANS)
    counts = dict.fromkeys(("documents", "entities", "mentions", "labels"), 0)
    with atomic_write_text(output) as text:
        for document in read_paths(paths, file_format, typed=False, labels=True):
            opening = "" if as_lines else ",\n" if counts["documents"] else "[\n"
            text.write(opening + json.dumps(to_spans(document) if as_spans else document, ensure_ascii=False))
            text.write("\n" if as_lines else "")
            counts["documents"] += 1
            counts["entities"] += len(document["vertexSet"])
            counts["mentions"] += sum(map(len, document["vertexSet"]))
            counts["labels"] += len(document.get("labels", []))
        if not counts["documents"]:
            raise UserError(
                f"{', '.join(paths)}: holds no documents, so there is nothing to convert; is it the right file?"
            )
        text.write("" if as_lines else "\n]\n")
    return counts
