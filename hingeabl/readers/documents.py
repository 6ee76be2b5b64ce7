"""Files of documents in DocRED's schema, read with every field checked."""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hingeabl.data.schema import Document, check_document, check_types
from hingeabl.errors import UserError, print_warning
from hingeabl.files import parse_list, read_text
from hingeabl.readers.cdr import is_cdr, read_cdr
from hingeabl.readers.formats import conversion, refuse_other_format

NAMES_MAY_DIFFER = 0.01  # share of mentions: Re-DocRED's own files have 0.02 to 0.06 %, DWIE's 0.3 %


def read_documents(path: str | Path) -> list[Any]:
    """The documents in a file, unchecked: CDR's or GDA's format, see read_cdr, or JSON, see parse_list. Raises
    UserError for another of FORMATS, with the command that converts it."""
    if Path(path).is_dir() and any(Path(path).rglob("*.ann")):
        raise UserError(f"{path}: is a folder of brat's files, and a file is needed here; {conversion(path)}")
    text = read_text(path)
    refuse_other_format(text, path)
    if is_cdr(text):
        return list(read_cdr(text.split("\n"), str(path)))
    return parse_list(text, path, "document", "a list of documents, like DocRED's files, or one a line")


def load_documents(
    path: str | Path, rel2id: dict[str, int] | None = None, unique_titles: bool = False, typed: bool = False
) -> list[Document]:
    """Read and check one file in DocRED's schema, and return its documents unchanged but for dropped labels.

    If `rel2id` is given, labels must name its relations. `unique_titles` is for files that are scored, where the title
    identifies a document; `typed` for typed entity markers, which need each mention's type. A label with h = t is
    dropped; a warning says how many, and how many labels are there twice. Suspicious mentions are counted on stderr,
    see MentionCounts. Raises UserError with file, document, field and remedy.
    """
    documents = read_documents(path)
    seen: dict[str, int] = {}
    self_labels = repeated = 0
    for index, document in enumerate(documents):
        check_document(document, f"{path}: document {index}", rel2id)
        title = document["title"]
        if typed:
            check_types(document, f"{path}: document {index} ({title!r})")
        if unique_titles and title in seen:
            raise UserError(
                f"{path}: documents {seen[title]} and {index}: both have the title {title!r}, "
                "and a file that is scored needs distinct ones; rename or remove one"
            )
        seen[title] = index
        if "labels" in document:
            kept = [label for label in document["labels"] if label["h"] != label["t"]]
            self_labels += len(document["labels"]) - len(kept)
            document["labels"] = kept
            repeated += len(kept) - len({(label["h"], label["t"], label["r"]) for label in kept})
    if self_labels:
        print_warning(f"{path}: {self_labels:,} labels whose head and tail are the same entity are left out")
    if repeated:
        print_warning(f"{path}: {repeated:,} labels repeat another one of their document, and count once")
    mentions = MentionCounts()
    mentions.add(documents)
    mentions.warn(str(path))
    return documents


@dataclass
class MentionCounts:
    """Counts of suspicious mentions in documents, which may come in groups: entities without a mention, mentions at the
    same position as another one of their entity, and mentions whose name differs from the text at their position."""

    empty: int = 0
    total: int = 0
    twice: int = 0
    twice_at: str = ""
    differ: int = 0
    example: str = ""

    def add(self, documents: list[Document]) -> None:
        """Count those in checked documents."""
        for document in documents:
            for entity, mentions in enumerate(document["vertexSet"]):
                self.empty += not mentions
                spans = {(mention["sent_id"], *mention["pos"]) for mention in mentions}
                if len(spans) < len(mentions):
                    self.twice += len(mentions) - len(spans)
                    self.twice_at = self.twice_at or f"document {document['title']!r}, vertexSet[{entity}]"
                for number, mention in enumerate(mentions):
                    self.total += 1
                    start, end = mention["pos"]
                    tokens = document["sents"][mention["sent_id"]][start:end]
                    if "".join(tokens) == mention["name"].replace(" ", ""):
                        continue  # nearly all
                    if plain_text("".join(tokens)) == plain_text(mention["name"]):
                        continue
                    self.differ += 1
                    self.example = self.example or (
                        f"document {document['title']!r}, vertexSet[{entity}][{number}]: name {mention['name']!r}, but "
                        f"tokens {start} to {end} of sentence {mention['sent_id']} are {' '.join(tokens)!r}"
                    )

    def warn(self, where: str) -> None:
        """Print warnings to stderr: entities without a mention, repeated mentions, and names that differ from the text
        if their share exceeds NAMES_MAY_DIFFER."""
        if self.empty:
            print_warning(
                f"{where}: {self.empty:,} entities have no mention; they keep their number and get a zero embedding"
            )
        if self.twice:
            print_warning(
                f"{where}: {self.twice:,} of {self.total:,} mentions ({self.twice / self.total:.1%}) are at "
                f"the place of another one of their entity ({self.twice_at}); they are kept and count again, as in "
                "ATLOP's program"
            )
        if self.differ > NAMES_MAY_DIFFER * self.total:
            print_warning(
                f"{where}: {self.differ:,} of {self.total:,} mentions ({self.differ / self.total:.1%}) have a "
                f"name that is not the text at pos ({self.example}); pos is [start, end) in tokens of the sentence, "
                "not in characters, not in tokens of the document, and without the end"
            )


def plain_text(text: str) -> str:
    """Letters and digits alone, in lower case."""
    return "".join(filter(str.isalnum, text)).casefold()


@contextlib.contextmanager
def garbage_collection_paused() -> Iterator[None]:
    """For reading a corpus, which makes a million objects that are not garbage: the collector would walk through them
    again and again.

    Objects that exist at the end are also excluded from later collections.
    """
    running = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        if running:
            gc.enable()
