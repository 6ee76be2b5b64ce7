"""Tables 5 and 6, of data files."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

from hingeabl.data.checks import refuse_empty
from hingeabl.data.documents import load_documents
from hingeabl.data.statistics import statistics as data_statistics
from hingeabl.errors import UserError
from hingeabl.files import read_json
from hingeabl.reporting.corpora import official_split
from hingeabl.reporting.records import SPLITS
from hingeabl.reporting.tables import PAPER, Cell, Figure, Row, Table

DATA_FIGURES = {  # row of tables 5 and 6: its name, the digits the paper prints, and how it follows from the statistics
    "documents": ("# Documents", 0, lambda found: found["documents"]),
    "relations": ("# Relations", 0, lambda found: found["relations seen"]),
    "words": ("Avg. # Words", 1, lambda found: found["words / doc"]),
    "entities": ("Avg. # Entities", 1, lambda found: found["entities / doc"]),
    "pairs": ("Avg. # Entity Pairs", 1, lambda found: found["ordered pairs"] / max(found["documents"], 1)),
    "na": ("NA %", 0, lambda found: found["NA %"]),
    "triples": ("Avg. # Triples", 1, lambda found: found["triples / doc"]),
    "sentences": ("Avg. # Sentences", 1, lambda found: found["sentences / doc"]),
}


def table_of_data(number: int, paths: list[str]) -> Table:
    """Table 5 or 6 of data files: a row for each file (the paper has columns), and in table 5 one for all together.

    The paper's figures stand beside the files of Re-DocRED, known by their checksums; in table 5 beside the row of all
    where these are its three files.
    """
    paper = read_json(PAPER)["tables"][str(number)]
    keys = list(next(iter(paper["columns"].values())))
    figures = tuple(Figure(key, DATA_FIGURES[key][0], DATA_FIGURES[key][1], None, DATA_FIGURES[key][2]) for key in keys)
    documents = {Path(path).name: load_documents(path) for path in paths}
    if len(documents) < len(paths):
        raise UserError(f"table {number}: two files have the same name; pass files of different names")
    splits = []
    for path, found in zip(paths, documents.values(), strict=True):
        refuse_empty(path, found)
        splits.append(official_split(path))
    rows = [
        data_row(name, found, figures, paper["columns"].get(split, {}))
        for (name, found), split in zip(documents.items(), splits, strict=True)
    ]
    whole = sorted(splits) == sorted(SPLITS)
    if number == 5:
        together = list(itertools.chain.from_iterable(documents.values()))
        rows.append(data_row("all of these", together, figures, paper["columns"]["all"] if whole else {}))
    title = paper["title"] if whole else "Statistics of data files"
    shown = any(cell.paper is not None for row in rows for cell in row.cells.values())
    return Table(number, title, ", ".join(documents), figures, rows, [], [], "paper" if shown else "")


def data_row(name: str, documents: list[Any], figures: tuple[Figure, ...], paper: dict[str, float]) -> Row:
    """Statistics of documents as a row."""
    found = data_statistics(documents)
    return Row(name, [], {figure.key: Cell(figure.value(found), None, paper.get(figure.key)) for figure in figures})
