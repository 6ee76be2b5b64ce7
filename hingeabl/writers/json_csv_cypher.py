"""Predictions as JSON, CSV and Cypher, written as they come."""

from __future__ import annotations

import csv
import json
import re
from typing import Any

from hingeabl.errors import UserError
from hingeabl.writers.writer import Entry, OutputEntity, Writer, edge_properties


class JsonList(Writer):
    """The predictions, as a list."""

    opening, separator, closing, empty = "[\n", ",\n", "\n]\n", "[]\n"

    def begin(self) -> None:
        """Write nothing yet: the opening depends on whether there is a prediction."""
        self.count = 0

    def relation(self, head: OutputEntity, tail: OutputEntity, entry: Entry) -> None:
        """Write a prediction as it is."""
        self.item(entry)

    def item(self, value: dict[str, Any]) -> None:
        """Write an item of the list."""
        self.output.write((self.separator if self.count else self.opening) + json.dumps(value, ensure_ascii=False))
        self.count += 1

    def end(self) -> None:
        """Close the list, or the last line."""
        self.output.write(self.closing if self.count else self.empty)


class JsonLines(JsonList):
    """The predictions, one a line."""

    opening, separator, closing, empty = "", "\n", "\n", ""


class Csv(Writer):
    """The predictions with the names and ids of their entities, one a line, as in RFC 4180."""

    def begin(self) -> None:
        """Write the header."""
        self.rows = csv.writer(self.output)
        self.rows.writerow(
            "title h_idx head t_idx tail r relation score threshold margin head_id tail_id confidence".split()
        )

    def relation(self, head: OutputEntity, tail: OutputEntity, entry: Entry) -> None:
        """Write a row."""
        scores = [entry[field] for field in ("score", "threshold", "margin")]
        pair = [entry["h_idx"], head.name, entry["t_idx"], tail.name]
        row = [entry["title"], *pair, entry["r"], entry["relation"], *scores, head.id, tail.id]
        try:
            self.rows.writerow([*row, entry.get("confidence", "")])
        except csv.Error:
            raise UserError(
                f"document {entry['title']!r}: has a NUL character, which Python 3.10 cannot write as CSV; remove it, "
                "choose another output format or use Python 3.11"
            ) from None


def escaped(text: str, special: dict[str, str]) -> str:
    r"""Text with its `special` characters replaced, and others that are not printable, up to U+FFFF, as \uXXXX."""

    def replaced(match: re.Match[str]) -> str:
        is_plain = match[0].isprintable() or match[0] > "\uffff"
        return special.get(match[0]) or (match[0] if is_plain else f"\\u{ord(match[0]):04X}")

    return re.sub(r"[^\w ]", replaced, text)


CYPHER_SPECIAL = {"\\": "\\\\", "'": "\\'", "\n": "\\n", "\r": "\\r", "\t": "\\t"}


def cypher(value: Any) -> str:
    """A string, number, list or map as a Cypher literal, on one line."""
    if isinstance(value, str):
        return f"'{escaped(value, CYPHER_SPECIAL)}'"
    if isinstance(value, list):
        return f"[{', '.join(map(cypher, value))}]"
    if isinstance(value, dict):
        return f"{{{', '.join(f'{key}: {cypher(item)}' for key, item in value.items())}}}"
    return repr(value)


def cypher_name(name: str) -> str:
    """A name in backticks, "_" for an empty one, which Cypher does not have."""
    return f"`{escaped(name or '_', {'`': '``', chr(92): chr(92) + 'u005C'})}`"


class Cypher(Writer):
    """Statements that create the graph, one a line; running them again changes nothing."""

    def entity(self, entity: OutputEntity) -> None:
        """Write a statement that creates a node."""
        properties = entity._asdict()
        key = cypher({"id": properties.pop("id")})
        self.output.write(f"MERGE (n:Entity {key}) SET n += {cypher(properties)};\n")

    def relation(self, head: OutputEntity, tail: OutputEntity, entry: Entry) -> None:
        """Write a statement that creates an edge."""
        ends = f"(h:Entity {cypher({'id': head.id})}), (t:Entity {cypher({'id': tail.id})})"
        edge = f"(h)-[e:{cypher_name(entry['r'])}]->(t)"
        self.output.write(f"MATCH {ends} MERGE {edge} SET e += {cypher(edge_properties(entry))};\n")
