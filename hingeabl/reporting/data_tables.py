"""Tables 5 and 6, of data files."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

from hingeabl.data.checks import refuse_empty
from hingeabl.data.statistics import statistics as data_statistics
from hingeabl.errors import UserError
from hingeabl.files import read_json
from hingeabl.readers.documents import load_documents
from hingeabl.reporting.corpora import official_split
from hingeabl.reporting.records import SPLITS
from hingeabl.reporting.tables import PAPER, Cell, Column, Row, Table

DATA_COLUMNS = {  # row of tables 5 and 6: its name, the digits the paper prints, and how it follows from the statistics
    "documents": ("# Documents", 0, lambda stats: stats["documents"]),
    "relations": ("# Relations", 0, lambda stats: stats["relations seen"]),
    "words": ("Avg. # Words", 1, lambda stats: stats["words / doc"]),
    "entities": ("Avg. # Entities", 1, lambda stats: stats["entities / doc"]),
    "pairs": ("Avg. # Entity Pairs", 1, lambda stats: stats["ordered pairs"] / max(stats["documents"], 1)),
    "na": ("NA %", 0, lambda stats: stats["NA %"]),
    "triples": ("Avg. # Triples", 1, lambda stats: stats["triples / doc"]),
    "sentences": ("Avg. # Sentences", 1, lambda stats: stats["sentences / doc"]),
}


def table_of_data(number: int, paths: list[str]) -> Table:
    """Table 5 or 6 of data files: a row for each file (the paper has columns), and in table 5 one for all together.

    The paper's figures stand beside the files of Re-DocRED, known by their checksums; in table 5 beside the row of all
    where these are its three files.
    """
    paper = read_json(PAPER)["tables"][str(number)]
    keys = list(next(iter(paper["columns"].values())))
    columns = tuple(Column(key, DATA_COLUMNS[key][0], DATA_COLUMNS[key][1], None, DATA_COLUMNS[key][2]) for key in keys)
    documents = {Path(path).name: load_documents(path) for path in paths}
    if len(documents) < len(paths):
        raise UserError(f"table {number}: two files have the same name; pass files of different names")
    splits = []
    for path, contents in zip(paths, documents.values(), strict=True):
        refuse_empty(path, contents)
        splits.append(official_split(path))
    rows = [
        data_row(name, contents, columns, paper["columns"].get(split, {}))
        for (name, contents), split in zip(documents.items(), splits, strict=True)
    ]
    is_redocred = sorted(splits) == sorted(SPLITS)
    if number == 5:
        all_documents = list(itertools.chain.from_iterable(documents.values()))
        rows.append(data_row("all of these", all_documents, columns, paper["columns"]["all"] if is_redocred else {}))
    title = paper["title"] if is_redocred else "Statistics of data files"
    has_paper_values = any(cell.paper is not None for row in rows for cell in row.cells.values())
    return Table(number, title, ", ".join(documents), columns, rows, [], [], "paper" if has_paper_values else "")


def data_row(name: str, documents: list[Any], columns: tuple[Column, ...], paper: dict[str, float]) -> Row:
    """Statistics of documents as a row."""
    stats = data_statistics(documents)
    return Row(name, [], {column.key: Cell(column.value(stats), None, paper.get(column.key)) for column in columns})
