"""The figures of the paper's tables, and of six more, from finished runs and data files; report.py prints them."""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from hingeabl.core.evaluation import PERCENTILES
from hingeabl.core.losses import loss_names
from hingeabl.data.checks import refuse_empty
from hingeabl.data.statistics import statistics as data_statistics
from hingeabl.errors import UserError
from hingeabl.files import META, read_json
from hingeabl.readers.documents import load_documents
from hingeabl.reporting.comparisons import (
    OVER_SEEDS,
    Difference,
    SeedDifference,
    compare_groups,
    compare_over_seeds,
    different_trainings,
)
from hingeabl.reporting.names import BACKBONES, corpus_of, loss_title, model_title, names_of_files, official_split
from hingeabl.reporting.records import OTHER_SCORES, SPLITS, Run, data_file, same_experiment

PAPER = META / "paper_results.json"
LATER_RESULTS = META / "later_results.json"
LATER_ROWS = read_json(LATER_RESULTS)["tables"]["3_later"]["rows"]
OTHER_PAPERS = tuple(loss for loss in loss_names() if loss in LATER_ROWS)  # losses of other papers, not in this one's
MORE_TABLES = ("3_later", "precision", "other_labels", "inter", "thresholds", "shift")  # not the paper's
COMPARED_ON_F1 = (2, 3, "3_later", "inter")
COMPARED_OVER_SEEDS = {  # the scores that a table compares over seeds, by column key
    2: ("ign_f1",),
    3: ("ign_f1",),
    4: ("wrong", "fn_of_wrong", "crk_of_fn"),
    7: ("macro_f1", "macro_ign_f1"),
    "thresholds": ("ro_p50", "ovr"),
}
EVERY_BACKBONE = (2, "thresholds", "shift")  # tables that take runs of every backbone; the others take ATLOP's


@dataclass(frozen=True)
class Column:
    """A table's column: its key in meta/paper_results.json, its name, the digits the paper prints, whether higher is
    better (None for neither), and how it is computed from a run's scores."""

    key: str
    name: str
    digits: int
    higher: bool | None
    value: Callable[[dict[str, float]], float]


@dataclass(frozen=True)
class Cell:
    """Mean and standard deviation over seeds (None for one seed; both None without a run), and the published value or
    None."""

    mean: float | None
    std: float | None
    paper: float | None
    best: bool = False


@dataclass(frozen=True)
class Row:
    """A table's row: its name, the runs' seeds, cells by column key, and where its published figures come from."""

    name: str
    seeds: list[int]
    cells: dict[str, Cell]
    source: str = ""


@dataclass(frozen=True)
class Table:
    """A table of the paper with our figures, or one of MORE_TABLES."""

    number: int | str
    title: str
    setting: str  # split, and encoder here and in the paper
    columns: tuple[Column, ...]
    rows: list[Row]
    comparisons: list[Difference]  # of test F1
    over_seeds: list[SeedDifference]  # of other scores, by column key
    notes: list[str]
    published: str = "paper"  # heads the column of published figures; "" for a table without it


def percentage(key: str, name: str, higher: bool = True) -> Column:
    """A score that the evaluator gives as a share."""
    return Column(key, name, 2, higher, lambda scores: 100 * scores[key])


def number_column(key: str, name: str, digits: int) -> Column:
    """A number that is shown unscaled; neither high nor low is better."""
    return Column(key, name, digits, None, lambda scores: scores[key])


def pattern_share(part: tuple[str, ...], whole: tuple[str, ...]) -> Callable[[dict[str, float]], float]:
    """100 * the pairs of some patterns / the pairs of others."""

    def share(scores: dict[str, float]) -> float:
        total = sum(scores[name] for name in whole)
        return 100 * sum(scores[name] for name in part) / total if total else 0.0

    return share


FN = ("FN_CRK", "FN_IRK")
WRONG = ("FP", *FN)
F1, IGN_F1 = percentage("f1", "F1"), percentage("ign_f1", "Ign F1")
PRECISION_RECALL_F1 = (percentage("precision", "precision"), percentage("recall", "recall"), F1)
WRONG_PAIRS = tuple(number_column(name, name, 0) for name in WRONG)
TABLE_COLUMNS: dict[int | str, tuple[str, tuple[Column, ...]]] = {  # split and columns of each table
    1: ("dev", WRONG_PAIRS),
    2: ("test", (F1, IGN_F1)),
    3: ("test", (F1, IGN_F1)),
    4: (
        "dev",
        (
            Column("wrong", "F/(T+F) %", 2, False, pattern_share(WRONG, (*WRONG, "correct"))),
            Column("fn_of_wrong", "FN/F %", 2, None, pattern_share(FN, WRONG)),
            Column("crk_of_fn", "FN_CRK/FN %", 2, False, pattern_share(("FN_CRK",), FN)),
        ),
    ),
    7: ("test", (percentage("macro_f1", "macro F1"), percentage("macro_ign_f1", "macro Ign F1"))),
    "3_later": ("test", (F1, IGN_F1)),
    "precision": ("test", (*PRECISION_RECALL_F1, IGN_F1, *WRONG_PAIRS)),
    "other_labels": ("test", PRECISION_RECALL_F1),
    "inter": (
        "test",
        (*PRECISION_RECALL_F1, percentage("f1_intra", "intra F1"), percentage("f1_inter", "inter F1"), *WRONG_PAIRS),
    ),
    "thresholds": (
        "test",
        (
            *(number_column(f"ro_p{p}", f"RO {p} %", 3) for p in PERCENTILES),
            number_column("ro_mean", "RO mean", 3),
            number_column("ro_std", "RO std", 3),
            percentage("ovr", "OVR %", higher=False),
            number_column("ro_pairs", "pairs", 0),
            number_column("ro_left_out", "left out", 0),
        ),
    ),
    "shift": (
        "test",
        (
            F1,
            number_column("shift", "shift", 3),
            percentage("f1_shifted", "F1 shifted"),
            percentage("precision_shifted", "precision"),
            percentage("recall_shifted", "recall"),
            number_column("ece", "ECE", 3),
        ),
    ),
}


def groups_of(number: int | str, runs: list[Run]) -> dict[str, list[Run]]:
    """The runs that belong in one of tables 1 to 4 and 7 or of MORE_TABLES, by row, each row's by seed; {} if none
    does. Backbones of a fork come after the paper's, by name."""
    groups = {}
    backbones = [*BACKBONES, *sorted({run.backbone for run in runs} - BACKBONES.keys())]
    for backbone, loss in itertools.product(backbones, loss_names()):
        of_both = [run for run in runs if (run.backbone, run.loss) == (backbone, loss)]
        chosen = [run for run in of_both if belongs_in(number, run) and is_in(number, run)]
        name = f"{backbone}/{loss}" if number in EVERY_BACKBONE else loss
        if chosen:
            groups[name] = sorted(chosen, key=lambda run: run.seed)
    return groups


def belongs_in(number: int | str, run: Run) -> bool:
    """Whether a table shows runs of such a loss and backbone."""
    is_shown = run.loss == "atl" if number == 1 else number in MORE_TABLES or run.loss not in OTHER_PAPERS
    return is_shown and run.loss in loss_names() and (number in EVERY_BACKBONE or run.backbone == "atlop")


def is_in(number: int | str, run: Run) -> bool:
    """Whether a run has the scores that a table shows."""
    if number == "other_labels":
        return bool(run.other_labels)
    needed = {"thresholds": "ro_mean", "shift": "f1_shifted"}.get(str(number))
    return bool(run.scores[TABLE_COLUMNS[number][0]]) and (needed is None or needed in run.scores["test"])


def table_of_runs(number: int | str, runs: list[Run], unfinished: list[Path]) -> Table:
    """One of tables 1 to 4 and 7 or of MORE_TABLES. Raises UserError if no run belongs in it."""
    split, columns = TABLE_COLUMNS[number]
    groups = groups_of(number, runs)
    if not groups:
        unfinished_text = f"; not finished: {', '.join(map(str, unfinished))}" if unfinished else ""
        raise UserError(
            f"table {number}: none of the runs belongs in it; it takes {what_belongs(number)}{unfinished_text}"
        )
    shown = [run for group in groups.values() for run in group]
    same_experiment(shown)
    corpus = corpus_of(shown[0])
    published = published_figures(number) if corpus else without_figures(published_figures(number))
    if number == "other_labels":
        groups = {name: [with_other_labels(run) for run in group] for name, group in groups.items()}
        columns += columns_with_other_labels(shown)
    rows = [row_of_runs(name, group, split, columns, published["rows"].get(name, {})) for name, group in groups.items()]
    rows = mark_best(rows, columns)
    if number in MORE_TABLES:
        rows += [published_row(name, columns, row) for name, row in published["rows"].items() if name not in groups]
    comparisons, more = compare_groups(groups) if number in COMPARED_ON_F1 else ([], [])
    compared = COMPARED_OVER_SEEDS.get(number, ())
    scores = {column.key: value_of(column, split) for column in columns if column.key in compared}
    over_seeds = compare_over_seeds(groups, scores)
    notes = [f"not finished, left out: {folder}" for folder in unfinished]
    others = sorted({run.loss for run in runs} & {*OTHER_PAPERS})
    if others and number not in MORE_TABLES:
        notes.append(f"not of the paper, left out: {', '.join(map(loss_title, others))}")
    models = {run.backbone for run in runs} - {"atlop"}
    if models and number not in EVERY_BACKBONE:
        notes.append(f"not ATLOP, left out: {', '.join(map(model_title, sorted(models)))}")
    if unknown := sorted({run.loss for run in runs} - set(loss_names())):
        notes.append(f"none of the losses in losses.py, left out: {', '.join(unknown)}")
    wanted = [run for run in runs if belongs_in(number, run)]
    if without := sum(not is_in(number, run) for run in wanted):
        notes.append(f"without the scores of this table, left out: {without} of {len(wanted)} runs")
    notes += different_trainings(shown) + differing_seeds(rows)
    notes += more + [OVER_SEEDS] * bool(over_seeds)
    notes += published.get("notes", []) + ([corpus.note] if corpus and corpus.note else [])
    setting = split if corpus else f"{split} of {names_of_files(shown[0])}"
    setting += f", {Path(shown[0].config['settings']['model_name_or_path']).name}"
    setting += f" (the paper's: {published['encoder']})" if "encoder" in published else ""
    heading = "paper" if number not in MORE_TABLES else "published" if number == "3_later" else ""
    return Table(
        number, published["title"], setting, columns, rows, comparisons, over_seeds, notes, heading if corpus else ""
    )


def value_of(column: Column, split: str) -> Callable[[Run], float]:
    """What a column shows of a run."""
    return lambda run: column.value(run.scores[split])


def without_figures(published: dict[str, Any]) -> dict[str, Any]:
    """A table of meta/ for other documents than those that its figures are of."""
    notes = [] if any(published["rows"].values()) else published.get("notes", [])
    return {"title": published["title"], "rows": {}, "notes": notes}


def one_set_of_seeds(rows: list[Row]) -> bool:
    """Whether all rows with runs have the same seeds."""
    return len({tuple(row.seeds) for row in rows if row.seeds}) < 2


def differing_seeds(rows: list[Row]) -> list[str]:
    """A note where the rows have different seeds."""
    text = "The rows have different seeds, so none is marked as the best, and means do not compare."
    return [] if one_set_of_seeds(rows) else [text]


def with_other_labels(run: Run) -> Run:
    """The run, its test scores with those of `other_labels`, named "<file>/f1" and the like."""
    more = {f"{file}/{name}": scores[name] for file, scores in run.other_labels.items() for name in OTHER_SCORES}
    return replace(run, scores={**run.scores, "test": {**run.scores["test"], **more}})


def columns_with_other_labels(runs: list[Run]) -> tuple[Column, ...]:
    """The columns of the runs' files of other labels. Raises UserError unless all runs were scored with the same."""

    def files(run: Run) -> dict[str, str]:
        return {file: scores["sha256"] for file, scores in run.other_labels.items()}

    for run in runs[1:]:
        if files(run) != files(runs[0]):
            raise UserError(
                f"{runs[0].folder} and {run.folder}: were scored with other labels of different files; write their "
                "records again with report.py --record FOLDER RUN --also FILE"
            )
    titles = dict(zip(OTHER_SCORES, ("precision", "recall", "F1"), strict=True))
    return tuple(
        percentage(f"{file}/{name}", f"{title}, {Path(file).stem}")
        for file in runs[0].other_labels
        for name, title in titles.items()
    )


def published_figures(number: int | str) -> dict[str, Any]:
    """A table of meta/: title, encoder and rows, and notes where it has some. Table 3's rows are in 3_later too."""
    paper = read_json(PAPER)["tables"]
    if number not in MORE_TABLES:
        return paper[str(number)]
    table = read_json(LATER_RESULTS)["tables"][number]
    if number == "3_later":
        of_paper = {name: row | {"source": "Wang et al. 2023"} for name, row in paper["3"]["rows"].items()}
        table["rows"] = of_paper | table["rows"]
    return table


def what_belongs(number: int | str) -> str:
    """Which runs a table takes, for a message."""
    if number == 1:
        return "ATLOP with loss atl"
    if number == "other_labels":
        return "records of ATLOP that report.py --record FOLDER RUN --also FILE wrote"
    backbone = "any backbone" if number in EVERY_BACKBONE else "ATLOP"
    if number == "thresholds":
        backbone += " with more than one relation,"
    if number == "shift":
        backbone += " with a calibration,"
    return f"{backbone} with any loss" + ("" if number in MORE_TABLES else f" but {', '.join(OTHER_PAPERS)}")


def row_of_runs(name: str, runs: list[Run], split: str, columns: tuple[Column, ...], published: dict[str, Any]) -> Row:
    """A row whose cells are mean and standard deviation over the runs' seeds."""
    cells = {}
    for column in columns:
        values = list(map(value_of(column, split), runs))
        std = statistics.stdev(values) if len(values) > 1 else None
        cells[column.key] = Cell(statistics.mean(values), std, published.get(column.key))
    return Row(name, [run.seed for run in runs], cells, published.get("source", ""))


def published_row(name: str, columns: tuple[Column, ...], published: dict[str, Any]) -> Row:
    """A row that has published figures only."""
    cells = {column.key: Cell(None, None, published.get(column.key)) for column in columns}
    return Row(name, [], cells, published["source"])


def mark_best(rows: list[Row], columns: tuple[Column, ...]) -> list[Row]:
    """The rows, with the best cell of every column marked where there are several, all of the same seeds."""
    if len(rows) < 2 or not one_set_of_seeds(rows):
        return rows
    marked = [Row(row.name, row.seeds, dict(row.cells), row.source) for row in rows]
    for column in columns:
        if column.higher is None:
            continue
        means = [mean for row in rows if (mean := row.cells[column.key].mean) is not None]
        best = max(means) if column.higher else min(means)
        for row in marked:
            cell = row.cells[column.key]
            row.cells[column.key] = Cell(cell.mean, cell.std, cell.paper, cell.mean == best)
    return marked


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
    return Table(number, title, ", ".join(documents), columns, rows, [], [], [], "paper" if has_paper_values else "")


def tables_of_files(run: Run) -> list[Table]:
    """Tables 5 and 6 of a run's data files, as far as these are still there."""
    paths = [path for path, is_present in (data_file(run, split) for split in SPLITS) if is_present]
    return [table_of_data(5, paths), table_of_data(6, paths)] if paths else []


def data_row(name: str, documents: list[Any], columns: tuple[Column, ...], paper: dict[str, float]) -> Row:
    """Statistics of documents as a row."""
    stats = data_statistics(documents)
    return Row(name, [], {column.key: Cell(column.value(stats), None, paper.get(column.key)) for column in columns})
