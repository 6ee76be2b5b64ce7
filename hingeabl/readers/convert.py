"""Files of any input format, written in DocRED's schema or as spans."""

from __future__ import annotations

import json
from collections.abc import Sequence

from hingeabl.errors import UserError
from hingeabl.files import atomic_write_text
from hingeabl.outputs import check_outputs
from hingeabl.readers.align import to_spans
from hingeabl.readers.any_format import read_paths

ENDINGS = (".json", ".jsonl", ".json.gz", ".jsonl.gz")
LINES = (".jsonl", ".jsonl.gz")
SPANS = tuple(f".spans{ending}" for ending in ENDINGS)


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
