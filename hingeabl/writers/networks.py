"""Predictions as GraphML and as pictures, by networkx, with the whole graph in memory."""

from __future__ import annotations

import io
import json
import re
from typing import IO, Any, TextIO, cast

from hingeabl.errors import UserError, print_warning
from hingeabl.writers.writer import Entry, OutputEntity, Writer, edge_properties

NOT_XML = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
LARGEST_PICTURE = 300  # entities: the layout's time grows with their square, and no one could read more


class NetworkX(Writer):
    """A format that keeps the whole graph in memory, as networkx.MultiDiGraph: the nodes are the entities' ids."""

    package = "networkx"

    def __init__(self, output: IO[Any]) -> None:
        super().__init__(output)
        self.graph = self.module.MultiDiGraph()

    def entity(self, entity: OutputEntity) -> None:
        """Keep a node."""
        properties = entity._asdict()
        self.graph.add_node(properties.pop("id"), **properties)

    def relation(self, head: OutputEntity, tail: OutputEntity, entry: Entry) -> None:
        """Keep an edge."""
        self.graph.add_edge(head.id, tail.id, self.graph.number_of_edges(), **edge_properties(entry))


class GraphMl(NetworkX):
    """GraphML. It has no lists, so mentions and types are JSON strings."""

    def begin(self) -> None:
        """No character has been replaced yet."""
        self.replaced = 0

    def allowed(self, value: Any) -> Any:
        """A property as GraphML can hold it."""
        text = json.dumps(value, ensure_ascii=False) if isinstance(value, list) else value
        if not isinstance(text, str):
            return text
        text, count = NOT_XML.subn("\ufffd", text)
        self.replaced += count
        return text

    def entity(self, entity: OutputEntity) -> None:
        """Keep a node."""
        super().entity(OutputEntity(*map(self.allowed, entity)))

    def relation(self, head: OutputEntity, tail: OutputEntity, entry: Entry) -> None:
        """Keep an edge."""
        super().relation(head, tail, {field: self.allowed(value) for field, value in entry.items()})

    def end(self) -> None:
        """Write the graph, and warn of characters that XML does not allow."""
        file = io.BytesIO()
        self.module.write_graphml_xml(self.graph, file)
        self.output.write(file.getvalue().decode().replace("\r", "&#13;") + "\n")  # else a reader takes it for \n
        if self.replaced:
            print_warning(f"GraphML: {self.replaced:,} control characters, which XML does not allow, are U+FFFD there")


class Picture(NetworkX):
    """A picture of the graph: an entity is a point with its name; an arrow is labelled with its relations."""

    form = "svg"

    def add(self, documents: Any, entries: Any) -> None:
        """Keep documents. Raises UserError if they have more entities than a picture can show."""
        super().add(documents, entries)
        if len(self.graph) > LARGEST_PICTURE:
            raise UserError(
                f"--output: a picture shows at most {LARGEST_PICTURE:,} entities, and the documents have more; pass "
                "fewer documents, or name a .graphml file"
            )

    def end(self) -> None:
        """Draw the graph, with the same layout each time."""
        from hingeabl.reporting.graph_picture import draw_graph  # matplotlib is slow to import

        draw_graph(self.graph, cast(TextIO, self.output).buffer, self.form)


class Png(Picture):
    """The picture in pixels."""

    form = "png"
