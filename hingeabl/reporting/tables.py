"""The figures of the paper's tables, and of five more, from finished runs and data files; report.py prints them."""

from __future__ import annotations

import itertools
import statistics
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from hingeabl.core.evaluation import PERCENTILES
from hingeabl.core.losses import loss_names
from hingeabl.data.checks import refuse_empty
from hingeabl.data.documents import load_documents
from hingeabl.data.statistics import statistics as data_statistics
from hingeabl.errors import UserError
from hingeabl.files import META, digest, read_json
from hingeabl.reporting.records import OTHER_SCORES, Run, count_by_document, file_of, same_experiment
from hingeabl.reporting.significance import Comparison, Counts, compare, holm, smallest_p

PAPER = META / "paper_results.json"
LATER_RESULTS = META / "later_results.json"
OF_OTHERS = read_json(LATER_RESULTS)["tables"]["3_later"]["rows"]
LATER = tuple(loss for loss in loss_names() if loss in OF_OTHERS)  # losses of other papers: not in this one's tables
BACKBONES = ("atlop", "docunet", "kd_docre")
MORE_TABLES = (
    "3_later",
    "precision",
    "other_labels",
    "inter",
    "thresholds",
)  # that the paper lacks, with LATER's losses
EVERY_BACKBONE = (2, "thresholds")  # tables that take runs of every backbone; the others take ATLOP's


@dataclass(frozen=True)
class Figure:
    """A table's column: its key in meta/paper_results.json, its name, the digits the paper prints, whether more is
    better (None for neither), and how it follows from a run's scores."""

    key: str
    name: str
    digits: int
    higher: bool | None
    value: Callable[[dict[str, float]], float]


@dataclass(frozen=True)
class Cell:
    """Mean and standard deviation of a figure over seeds (None for one seed; both None without a run), the published
    value (None without)."""

    mean: float | None
    std: float | None
    paper: float | None
    best: bool = False


@dataclass(frozen=True)
class Row:
    """A table's row: name, seeds it is made of, cells by key, and where its published figures come from."""

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
    figures: tuple[Figure, ...]
    rows: list[Row]
    comparisons: list[tuple[str, str, Comparison, float]]  # names, comparison, corrected p-value
    notes: list[str]
    published: str = "paper"  # heads the column of published figures; "" for a table without it


def percent(key: str, name: str, higher: bool = True) -> Figure:
    """A score that the evaluator gives as a share."""
    return Figure(key, name, 2, higher, lambda scores: 100 * scores[key])


def plain(key: str, name: str, digits: int) -> Figure:
    """A figure that is shown as it is, neither high nor low being better."""
    return Figure(key, name, digits, None, lambda scores: scores[key])


def pattern_share(part: tuple[str, ...], whole: tuple[str, ...]) -> Callable[[dict[str, float]], float]:
    """100 * the pairs of some patterns / the pairs of others."""

    def share(scores: dict[str, float]) -> float:
        total = sum(scores[name] for name in whole)
        return 100 * sum(scores[name] for name in part) / total if total else 0.0

    return share


FN = ("FN_CRK", "FN_IRK")
WRONG = ("FP", *FN)
FIGURES: dict[int | str, tuple[str, tuple[Figure, ...]]] = {  # split and columns of each table
    1: ("dev", tuple(plain(name, name, 0) for name in WRONG)),
    2: ("test", (percent("f1", "F1"), percent("ign_f1", "Ign F1"))),
    3: ("test", (percent("f1", "F1"), percent("ign_f1", "Ign F1"))),
    4: (
        "dev",
        (
            Figure("wrong", "F/(T+F) %", 2, False, pattern_share(WRONG, (*WRONG, "correct"))),
            Figure("fn_of_wrong", "FN/F %", 2, None, pattern_share(FN, WRONG)),
            Figure("crk_of_fn", "FN_CRK/FN %", 2, False, pattern_share(("FN_CRK",), FN)),
        ),
    ),
    7: ("test", (percent("macro_f1", "macro F1"), percent("macro_ign_f1", "macro Ign F1"))),
    "3_later": ("test", (percent("f1", "F1"), percent("ign_f1", "Ign F1"))),
    "precision": (
        "test",
        (
            percent("precision", "precision"),
            percent("recall", "recall"),
            percent("f1", "F1"),
            percent("ign_f1", "Ign F1"),
            *(plain(name, name, 0) for name in WRONG),
        ),
    ),
    "other_labels": ("test", (percent("precision", "precision"), percent("recall", "recall"), percent("f1", "F1"))),
    "inter": (
        "test",
        (
            percent("precision", "precision"),
            percent("recall", "recall"),
            percent("f1", "F1"),
            percent("f1_intra", "intra F1"),
            percent("f1_inter", "inter F1"),
            *(plain(name, name, 0) for name in WRONG),
        ),
    ),
    "thresholds": (
        "test",
        (
            *(plain(f"ro_p{p}", f"RO {p} %", 3) for p in PERCENTILES),
            plain("ro_mean", "RO mean", 3),
            plain("ro_std", "RO std", 3),
            percent("ovr", "OVR %", higher=False),
            plain("ro_pairs", "pairs", 0),
            plain("ro_left_out", "left out", 0),
        ),
    ),
}


def groups_of(number: int | str, runs: list[Run]) -> dict[str, list[Run]]:
    """The runs that belong in one of tables 1 to 4 and 7 or of MORE_TABLES, by row, each row's by seed; {} where none
    does."""
    groups = {}
    losses = [loss for loss in loss_names() if number in MORE_TABLES or loss not in LATER]
    for backbone, loss in itertools.product(BACKBONES, losses):
        chosen = [run for run in runs if (run.backbone, run.loss) == (backbone, loss) and is_in(number, run)]
        name = f"{backbone}/{loss}" if number in EVERY_BACKBONE else loss
        if chosen and (number in EVERY_BACKBONE or backbone == "atlop") and (number != 1 or loss == "atl"):
            groups[name] = sorted(chosen, key=lambda run: run.seed)
    return groups


def is_in(number: int | str, run: Run) -> bool:
    """Whether a run has the scores that a table shows."""
    if number == "other_labels":
        return bool(run.other_labels)
    return bool(run.scores[FIGURES[number][0]]) and (number != "thresholds" or "ro_mean" in run.scores["test"])


def table_of_runs(number: int | str, runs: list[Run], unfinished: list[Path]) -> Table:
    """One of tables 1 to 4 and 7 or of MORE_TABLES. Raises UserError where no run belongs in it."""
    split, figures = FIGURES[number]
    published = published_figures(number)
    groups = groups_of(number, runs)
    if not groups:
        left = f"; not finished: {', '.join(map(str, unfinished))}" if unfinished else ""
        raise UserError(f"table {number}: none of the runs belongs in it; it takes {what_belongs(number)}{left}")
    same_experiment([run for group in groups.values() for run in group])
    if number == "other_labels":
        groups = {name: [with_other_labels(run) for run in group] for name, group in groups.items()}
        figures += figures_with_other_labels([run for group in groups.values() for run in group])
    rows = [make_row(name, group, split, figures, published["rows"].get(name, {})) for name, group in groups.items()]
    rows = mark_best(rows, figures)
    if number in MORE_TABLES:
        rows += [published_row(name, figures, row) for name, row in published["rows"].items() if name not in groups]
    comparisons, more = compare_groups(number, groups) if number in (2, 3, "3_later", "inter") else ([], [])
    notes = [f"not finished, left out: {folder}" for folder in unfinished]
    others = sorted({run.loss for run in runs} & {*LATER})
    if others and number not in MORE_TABLES:
        notes.append(f"not of the paper, left out: {', '.join(others)}")
    notes += different_trainings([run for group in groups.values() for run in group])
    notes += more + published.get("notes", [])
    setting = f"{split}, {Path(next(iter(groups.values()))[0].config['settings']['model_name_or_path']).name}"
    setting += f" (the paper's: {published['encoder']})" if "encoder" in published else ""
    heading = "paper" if number not in MORE_TABLES else "published" if number == "3_later" else ""
    return Table(number, published["title"], setting, figures, rows, comparisons, notes, heading)


def with_other_labels(run: Run) -> Run:
    """The run, its test scores with those of `other_labels`, named "<file>/f1" and the like."""
    more = {f"{file}/{name}": scores[name] for file, scores in run.other_labels.items() for name in OTHER_SCORES}
    return replace(run, scores={**run.scores, "test": {**run.scores["test"], **more}})


def figures_with_other_labels(runs: list[Run]) -> tuple[Figure, ...]:
    """The columns of the runs' files of other labels. Raises UserError unless all runs were scored with the same."""

    def files(run: Run) -> dict[str, str]:
        return {file: scores["sha256"] for file, scores in run.other_labels.items()}

    for run in runs[1:]:
        if files(run) != files(runs[0]):
            raise UserError(
                f"{runs[0].folder} and {run.folder}: were scored with other labels of different files; write their "
                "records again with report.py --record FOLDER RUN --also FILE"
            )
    heads = dict(zip(OTHER_SCORES, ("precision", "recall", "F1"), strict=True))
    return tuple(
        percent(f"{file}/{name}", f"{head}, {Path(file).stem}")
        for file in runs[0].other_labels
        for name, head in heads.items()
    )


def different_trainings(runs: list[Run]) -> list[str]:
    """Notes on runs that were trained longer, or at another precision, than others of their table."""
    values = {
        "precision": Counter(str(run.config.get("precision")) for run in runs),
        "num_train_epochs": Counter(str(run.config["settings"].get("num_train_epochs")) for run in runs),
    }
    return [
        f"the runs differ in {name}: "
        + ", ".join(f"{value} ({count} of {len(runs)} runs)" for value, count in sorted(counted.items()))
        for name, counted in values.items()
        if len(counted) > 1
    ]


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
    return f"{backbone} with any loss" + ("" if number in MORE_TABLES else f" but {', '.join(LATER)}")


def make_row(name: str, runs: list[Run], split: str, figures: tuple[Figure, ...], published: dict[str, Any]) -> Row:
    """Mean and standard deviation of every figure over the runs' seeds."""
    cells = {}
    for figure in figures:
        values = [figure.value(run.scores[split]) for run in runs]
        std = statistics.stdev(values) if len(values) > 1 else None
        cells[figure.key] = Cell(statistics.mean(values), std, published.get(figure.key))
    return Row(name, [run.seed for run in runs], cells, published.get("source", ""))


def published_row(name: str, figures: tuple[Figure, ...], published: dict[str, Any]) -> Row:
    """A row of published figures alone."""
    cells = {figure.key: Cell(None, None, published.get(figure.key)) for figure in figures}
    return Row(name, [], cells, published["source"])


def mark_best(rows: list[Row], figures: tuple[Figure, ...]) -> list[Row]:
    """The rows, with the best cell of every column marked where there are several."""
    if len(rows) < 2:
        return rows
    marked = [Row(row.name, row.seeds, dict(row.cells), row.source) for row in rows]
    for figure in figures:
        if figure.higher is None:
            continue
        means = [mean for row in rows if (mean := row.cells[figure.key].mean) is not None]
        best = max(means) if figure.higher else min(means)
        for row in marked:
            cell = row.cells[figure.key]
            row.cells[figure.key] = Cell(cell.mean, cell.std, cell.paper, cell.mean == best)
    return marked


def compare_groups(
    number: int | str, groups: dict[str, list[Run]]
) -> tuple[list[tuple[str, str, Comparison, float]], list[str]]:
    """Every pair of rows compared on test F1 (in table 2, of rows that share a backbone), and notes to print."""
    pairs = [
        (first, second)
        for first, second in itertools.combinations(groups, 2)
        if number != 2 or first.split("/")[0] == second.split("/")[0]
    ]
    if not pairs:
        return [], []
    for run in itertools.chain.from_iterable(groups.values()):
        path, wanted = file_of(run, "test")
        if run.test_documents is None and (not Path(path).exists() or digest(path) != wanted):
            return [], [f"differences not tested: {path}, the runs' test file, is not there or has changed"]
    counts = {}
    for name, runs in groups.items():
        correct, predicted, gold = zip(*map(count_by_document, runs), strict=True)
        counts[name] = Counts(np.array(correct), np.array(predicted), gold[0])
    found = [compare(counts[first], counts[second]) for first, second in pairs]
    corrected = holm([comparison.p_value for comparison in found])
    fewest = sorted(len(runs) for runs in groups.values())[:2]
    notes = [
        "p: paired permutation test over documents, micro F1 computed anew, Holm's correction for "
        f"{len(pairs)} comparison(s); interval: bootstrap over documents and seeds, 95 %.",
        f"With {fewest[0]} and {fewest[-1]} seeds, a test over seeds alone could not reach a p below "
        f"{smallest_p(fewest[0], fewest[-1]):.3g}.",
    ]
    results = [(*pair, comparison, p) for pair, comparison, p in zip(pairs, found, corrected, strict=True)]
    return results, notes


def verdict(comparison: Comparison, p_value: float) -> str:
    """Whether a difference is more than noise: p under 0.05 after correction, and 0 outside the interval."""
    if p_value < 0.05 and (comparison.low > 0 or comparison.high < 0):
        return "higher" if comparison.difference > 0 else "lower"
    return "within the noise"


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

    A file's paper figures are those of the split that its name begins with.
    """
    paper = read_json(PAPER)["tables"][str(number)]
    keys = list(next(iter(paper["columns"].values())))
    figures = tuple(Figure(key, DATA_FIGURES[key][0], DATA_FIGURES[key][1], None, DATA_FIGURES[key][2]) for key in keys)
    documents = {Path(path).name: load_documents(path) for path in paths}
    if len(documents) < len(paths):
        raise UserError(f"table {number}: two files have the same name; pass files of different names")
    for path, found in zip(paths, documents.values(), strict=True):
        refuse_empty(path, found)
    rows = []
    for name, found in documents.items():
        split = next((split for split in paper["columns"] if name.startswith(split)), "")
        rows.append(data_row(name, found, figures, paper["columns"].get(split, {})))
    if number == 5:
        together = list(itertools.chain.from_iterable(documents.values()))
        rows.append(data_row("all of these", together, figures, paper["columns"]["all"]))
    return Table(number, paper["title"], ", ".join(documents), figures, rows, [], [])


def data_row(name: str, documents: list[Any], figures: tuple[Figure, ...], paper: dict[str, float]) -> Row:
    """Statistics of documents as a row."""
    found = data_statistics(documents)
    return Row(name, [], {figure.key: Cell(figure.value(found), None, paper.get(figure.key)) for figure in figures})
