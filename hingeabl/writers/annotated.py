"""Predictions with their documents, as text with mentions at character offsets: for annotation tools, and readable by
prepro.py and predict.py.

The text of a document that was read from plain text is the original one; that of others is its tokens, joined by
spaces.
"""

from __future__ import annotations

import re
import unicodedata
import zipfile
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any, TextIO, cast

from hingeabl.data.schema import Document
from hingeabl.readers.align import to_spans
from hingeabl.writers.json_csv_cypher import JsonLines, JsonList
from hingeabl.writers.writer import Entry, Writer

ZIP_TIME = (1980, 1, 1, 0, 0, 0)  # the time of files in an archive, so that equal predictions give equal bytes
PREDICTION_FIELDS = ("r", "relation", "confidence", "evidence")


def with_labels(document: Document, entries: Sequence[Entry]) -> dict[str, Any]:
    """A document as spans, see to_spans, with its predictions as labels {h, t, r, relation}, and confidence and
    evidence if a prediction has them."""
    labels = [
        {
            "h": entry["h_idx"],
            "t": entry["t_idx"],
            **{field: entry[field] for field in PREDICTION_FIELDS if field in entry},
        }
        for entry in entries
    ]
    spans = to_spans({**document, "labels": labels})
    for entity in spans["entities"]:
        for mention in entity["mentions"]:
            mention["text"] = spans["text"][mention["start"] : mention["end"]]
    return spans


class SpansList(JsonList):
    """Documents in the format spans, as a list."""

    def add(self, documents: Sequence[Document], entries: Sequence[Sequence[Entry]]) -> None:
        """Write documents with their predictions."""
        for document, predictions in zip(documents, entries, strict=True):
            self.item(with_labels(document, predictions))


class SpansLines(SpansList, JsonLines):
    """Documents in the format spans, one a line."""


class Brat(Writer):
    """brat's two files of each document, NAME.txt and NAME.ann, in a zip archive."""

    def begin(self) -> None:
        """Open the archive."""
        self.archive = zipfile.ZipFile(cast(TextIO, self.output).buffer, "w", zipfile.ZIP_DEFLATED)
        self.names: Counter[str] = Counter()

    def add(self, documents: Sequence[Document], entries: Sequence[Sequence[Entry]]) -> None:
        """Write the files of documents, named by their titles."""
        for document, predictions in zip(documents, entries, strict=True):
            spans = with_labels(document, predictions)
            name = self.name_of(spans["title"])
            for ending, content in ((".txt", spans["text"]), (".ann", "".join(lines_of(spans)))):
                self.archive.writestr(zipfile.ZipInfo(name + ending, ZIP_TIME), content)

    def name_of(self, title: str) -> str:
        """A file name made from a title, unique in the archive, also where a disk ignores case."""
        base = re.sub(r"[^\w.-]+", "_", title).encode()[:100].decode(errors="ignore").strip("._") or "document"
        name, key = base, same_on_disk(base)
        while self.names[same_on_disk(name)]:
            self.names[key] += 1
            name = f"{base}_{self.names[key]}"
        self.names[same_on_disk(name)] = 1
        return name

    def end(self) -> None:
        """Close the archive."""
        self.archive.close()

    def drop(self) -> None:
        """Close the archive, which would otherwise be closed after its file."""
        self.archive.close()


def same_on_disk(name: str) -> str:
    """What is equal for two file names that macOS or Windows takes for one."""
    return unicodedata.normalize("NFC", name).casefold()


def lines_of(spans: dict[str, Any]) -> Iterator[str]:
    """The lines of an .ann file: mentions, mentions of one entity as equivalent, and relations between the first ones,
    each with a note of its name and confidence."""
    keys: list[list[str]] = []
    count = 0
    for entity in spans["entities"]:
        keys.append([])
        for mention in entity["mentions"]:
            count += 1
            keys[-1].append(f"T{count}")
            entity_type = re.sub(r"\s+", "_", mention.get("type") or "Entity")
            offsets = f"{mention['start']} {mention['end']}"
            yield f"T{count}\t{entity_type} {offsets}\t{' '.join(mention['text'].split())}\n"
        if len(keys[-1]) > 1:
            yield f"*\tEquiv {' '.join(keys[-1])}\n"
    named = [label for label in spans["labels"] if keys[label["h"]] and keys[label["t"]]]
    for number, label in enumerate(named, 1):
        name = re.sub(r"\s+", "_", label["r"])
        yield f"R{number}\t{name} Arg1:{keys[label['h']][0]} Arg2:{keys[label['t']][0]}\n"
        confidence = f", confidence {label['confidence']:.2f}" if "confidence" in label else ""
        yield f"#{number}\tAnnotatorNotes R{number}\t{' '.join(label['relation'].split())}{confidence}\n"
