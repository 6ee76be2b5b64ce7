"""A table, or a list of runs, as text, Markdown, LaTeX, HTML, JSON or CSV."""

from __future__ import annotations

import csv
import html
import io
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from hingeabl.reporting.comparisons import Difference, SeedDifference, verdict
from hingeabl.reporting.names import row_title
from hingeabl.reporting.records import Run
from hingeabl.reporting.tables import Cell, Table, one_set_of_seeds

COMMIT_CHARACTERS = 12  # characters of it that are shown


@dataclass(frozen=True)
class RunList:
    """A list of runs: `runs` has a dictionary of facts_of for each, with the same keys (None for an unknown value); a
    dev F1 is a fraction, a time is in seconds."""

    title: str
    runs: list[dict[str, Any]]
    notes: list[str]

    def texts(self) -> list[list[str]]:
        """The head, and a line for each run, as they are shown."""
        return [list(COLUMNS), *([show(run) for show in COLUMNS.values()] for run in self.runs)]


def list_of_runs(runs: list[Run], unfinished: list[Path]) -> RunList:
    """The list of runs, by experiment and seed."""
    rows = sorted(map(facts_of, runs), key=lambda facts: (facts["experiment"], facts["seed"]))
    notes = [f"not finished, left out: {folder}" for folder in unfinished]
    return RunList("Runs: what they cost, and where they were trained", rows, notes)


def facts_of(run: Run) -> dict[str, Any]:
    """What the list shows of a run. The last two folders above it name its experiment."""
    above = run.folder.resolve().parent
    environment = run.config.get("environment")
    return {
        "experiment": f"{above.parent.name}/{above.name}",
        "loss": run.loss,
        "seed": run.seed,
        "steps": run.timing.get("steps"),
        "seconds": run.timing.get("seconds"),
        "dev_f1": run.scores["dev"].get("f1"),
        "precision": run.config.get("precision"),
        "device": run.config.get("device"),
        "commit": environment.get("git_commit") if isinstance(environment, dict) else None,
    }


def one_line(value: Any) -> str:
    """A fact on one line, "" for None."""
    return "" if value is None else " ".join(str(value).split())


def short_commit(commit: Any) -> str:
    """The beginning of a commit's name, and "-dirty" where the clone had changes that are not in it."""
    name, *rest = one_line(commit).split("-")
    return "-".join([name[:COMMIT_CHARACTERS], *rest])


COLUMNS: dict[str, Callable[[dict[str, Any]], str]] = {  # a column's head, and what it shows of a run
    "experiment": lambda run: run["experiment"],
    "loss": lambda run: run["loss"],
    "seed": lambda run: str(run["seed"]),
    "steps": lambda run: "" if run["steps"] is None else f"{run['steps']:,.0f}",
    "minutes": lambda run: "" if run["seconds"] is None else f"{run['seconds'] / 60:.1f}",
    "dev F1": lambda run: "" if run["dev_f1"] is None else f"{100 * run['dev_f1']:.2f}",
    "precision": lambda run: one_line(run["precision"]),
    "device": lambda run: one_line(run["device"]),
    "commit": lambda run: short_commit(run["commit"]),
}


class Style(NamedTuple):
    """How a format writes the best figures, names, and the sign before a standard deviation."""

    bold: Callable[[str], str]
    escape: Callable[[str], str] = str
    plus_minus: str = "±"


class Sheet(NamedTuple):
    """What a format writes: a title, tables by heading ("" for the first), whose first line is the head and whose first
    `left` columns are left-aligned, and notes."""

    title: str
    tables: dict[str, list[list[str]]]
    left: int
    notes: list[str]


def sheet_of(table: Table | RunList, style: Style) -> Sheet:
    """A table, or a list of runs, as texts in a format's style."""
    if isinstance(table, RunList):
        return Sheet(table.title, {"": [list(map(style.escape, line)) for line in table.texts()]}, 2, table.notes)
    differences = {"Differences of test F1": comparison_lines(table)} if table.comparisons else {}
    if table.over_seeds:
        differences["Differences over seeds"] = over_seeds_lines(table)
    return Sheet(caption(table), {"": lines_of(table, style)} | differences, 1, table.notes)


def cell_texts(cell: Cell, digits: int, plus_minus: str) -> tuple[str, str, str]:
    """(ours, the published one, the difference), "" for a missing one."""
    paper = "" if cell.paper is None else f"{cell.paper:.{digits}f}"
    if cell.mean is None:
        return "", paper, ""
    ours = f"{cell.mean:.{digits}f}" + (f" {plus_minus} {cell.std:.{digits}f}" if cell.std is not None else "")
    if cell.paper is None:
        return ours, "", ""
    return ours, paper, f"{round(cell.mean, digits) - cell.paper:+.{digits}f}"


def lines_of(table: Table, style: Style) -> list[list[str]]:
    """The table as texts, its head first: a name, the number of runs (their seeds if these differ from row to row),
    for each column our value, the published one and the difference (only ours in a table without published ones), and
    the published ones' source if they have one."""
    of_runs = any(row.seeds for row in table.rows)
    count = "runs" if one_set_of_seeds(table.rows) else "seeds"
    sourced = any(row.source for row in table.rows)
    column_count = 3 if table.published else 1  # of ours, published, difference
    head = ["", *([count] if of_runs else [])]
    for column in table.columns:
        head += [style.escape(column.name), table.published, "diff."][:column_count]
    lines = [head + ["source"] * sourced]
    for row in table.rows:
        seeds = str(len(row.seeds)) if count == "runs" else listed(row.seeds)
        line = [style.escape(row_title(row.name)), *([seeds] if of_runs else [])]
        for column in table.columns:
            ours, *others = cell_texts(row.cells[column.key], column.digits, style.plus_minus)
            line += [style.bold(ours) if row.cells[column.key].best else ours, *others][:column_count]
        lines.append(line + [style.escape(row.source)] * sourced)
    return lines


def listed(seeds: list[int]) -> str:
    """Seeds as text."""
    return ", ".join(map(str, seeds))


def comparison_lines(table: Table) -> list[list[str]]:
    """Head and rows of the comparisons: the pair and its seeds, the difference of test F1, its intervals, p, and what
    it means."""
    return [[*pair_head(table), "F1 diff.", "over seeds", "95 % interval", "p", ""]] + [
        [
            *pair_cells(table, difference),
            f"{100 * difference.comparison.difference:+.2f}",
            percent(difference.comparison.over_seeds) if difference.comparison.over_seeds else "",
            percent((difference.comparison.low, difference.comparison.high)),
            f"{difference.p:.4f}",
            verdict(difference.comparison, difference.p),
        ]
        for difference in table.comparisons
    ]


def over_seeds_lines(table: Table) -> list[list[str]]:
    """Head and rows of the differences over seeds: the pair and its seeds, and for each score the difference and its
    interval."""
    columns = [column for column in table.columns if column.key in table.over_seeds[0].scores]
    lines = [pair_head(table) + [text for column in columns for text in (f"{column.name} diff.", "95 % interval")]]
    for row in table.over_seeds:
        line = pair_cells(table, row)
        for column in columns:
            difference, low, high = row.scores[column.key]
            line += [f"{difference:+.{column.digits}f}", span(low, high, column.digits)]
        lines.append(line)
    return lines


def pair_head(table: Table) -> list[str]:
    """The head of pair_cells."""
    return ["second against first"] + ["seeds"] * (not one_set_of_seeds(table.rows))


def pair_cells(table: Table, pair: Difference | SeedDifference) -> list[str]:
    """The names of two rows, and their seeds where the table's rows differ in them."""
    seeds = " and ".join(dict.fromkeys(map(listed, reversed(pair.seeds))))
    return [f"{row_title(pair.second)} against {row_title(pair.first)}"] + [seeds] * (not one_set_of_seeds(table.rows))


def percent(interval: tuple[float, float]) -> str:
    """An interval of F1, in percent."""
    return span(100 * interval[0], 100 * interval[1], 2)


def span(low: float, high: float, digits: int) -> str:
    """An interval of a score."""
    return f"{low:+.{digits}f} to {high:+.{digits}f}"


def caption(table: Table) -> str:
    """One line: the table's number, title, split and the runs it is made of."""
    seeds = next((row.seeds for row in table.rows if row.seeds), [])
    if not seeds:
        behind = ""
    elif not one_set_of_seeds(table.rows):
        behind = ", seeds as each row says, mean and standard deviation where there are several"
    elif len(seeds) > 1:
        behind = f", seeds {listed(seeds)}, mean and standard deviation over runs"
    else:
        behind = f", seed {seeds[0]}"
    return f"Table {table.number}. {table.title}: {table.setting}{behind}"


def as_text(table: Table | RunList) -> str:
    """For a terminal; the best figures carry a star."""
    sheet = sheet_of(table, Style(lambda text: f"{text} *"))
    tables = [part for heading, lines in sheet.tables.items() for part in (heading, aligned(lines, sheet.left)) if part]
    return "\n\n".join([sheet.title, *tables, *sheet.notes])


def aligned(lines: list[list[str]], left: int = 1) -> str:
    """Columns padded to their width, the first `left` of them left-aligned."""
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    return "\n".join(
        "  ".join(
            text.ljust(width) if column < left else text.rjust(width)
            for column, (text, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )


def as_markdown(table: Table | RunList) -> str:
    """GitHub's tables; the best figures are bold."""
    sheet = sheet_of(table, Style(lambda text: f"**{text}**", markdown))
    tables = [markdown_rows(lines, sheet.left) for lines in sheet.tables.values()]
    return "\n\n".join([f"**{sheet.title}**", *tables, *sheet.notes])


def markdown(text: str) -> str:
    """Text for a cell of GitHub's tables."""
    return text.replace("|", r"\|")


def markdown_rows(lines: list[list[str]], left: int = 1) -> str:
    """One of GitHub's tables, its head first; the first `left` columns are left-aligned."""
    columns = len(lines[0])
    rule = ["---"] * left + ["---:"] * (columns - left)
    return "\n".join(f"| {' | '.join(line)} |" for line in [lines[0], rule, *lines[1:]])


def as_latex(table: Table | RunList) -> str:
    """A table environment with booktabs' rules, without the comparisons."""
    sheet = sheet_of(table, Style(lambda text: rf"\textbf{{{text}}}", latex, r"$\pm$"))
    head, *rows = [" & ".join(line) + r" \\" for line in sheet.tables[""]]
    return "\n".join(
        [
            r"\begin{table}",
            r"\centering",
            rf"\begin{{tabular}}{{{'l' * sheet.left}{'r' * (len(sheet.tables[''][0]) - sheet.left)}}}",
            r"\toprule",
            head,
            r"\midrule",
            *rows,
            r"\bottomrule",
            r"\end{tabular}",
            rf"\caption{{{latex(sheet.title)}}}",
            r"\end{table}",
        ]
    )


def latex(text: str) -> str:
    """Text for LaTeX: its special characters escaped."""
    for character in "%_#&":
        text = text.replace(character, "\\" + character)
    return text


def as_html(table: Table | RunList) -> str:
    """A fragment of a page; the best figures are bold."""
    sheet = sheet_of(table, Style(lambda text: f"<b>{text}</b>", html.escape))
    tables = [html_rows(lines, heading or sheet.title) for heading, lines in sheet.tables.items()]
    return "\n".join([*tables, *(f'<p class="note">{html.escape(note)}</p>' for note in sheet.notes)])


def html_rows(lines: list[list[str]], title: str) -> str:
    """A table of lines that are HTML, the head first."""
    head, *body = ["".join(f"<td>{text}</td>" for text in line) for line in lines]
    return (
        f'<div class="scroll"><table><caption>{html.escape(title)}</caption>'
        f"<thead><tr>{head.replace('td>', 'th>')}</tr></thead>"
        f"<tbody>{''.join(f'<tr>{line}</tr>' for line in body)}</tbody></table></div>"
    )


def as_json(table: Table | RunList) -> str:
    """Everything, unrounded."""
    if isinstance(table, RunList):
        return json.dumps({"table": "runs", **vars(table)}, indent=2)
    return json.dumps(
        {
            "table": table.number,
            "title": table.title,
            "setting": table.setting,
            "rows": [
                {"name": row.name, "seeds": row.seeds}
                | ({"source": row.source} if row.source else {})
                | {key: vars(cell) for key, cell in row.cells.items()}
                for row in table.rows
            ],
            "comparisons": [
                {"first": difference.first, "second": difference.second, "seeds": difference.seeds}
                | vars(difference.comparison)
                | {"corrected_p": difference.p, "verdict": verdict(difference.comparison, difference.p)}
                for difference in table.comparisons
            ],
            "over_seeds": [
                {"first": row.first, "second": row.second, "seeds": row.seeds}
                | {key: score._asdict() for key, score in row.scores.items()}
                for row in table.over_seeds
            ],
            "notes": table.notes,
        },
        indent=2,
    )


def as_csv(table: Table | RunList) -> str:
    """One line per row: name, seeds, and mean, standard deviation and published value of every figure,
    unrounded; then the published values' source in a table that names some. Of a list of runs, one line per run."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    if isinstance(table, RunList):
        writer.writerows([list(table.runs[0]), *(run.values() for run in table.runs)])
        return text.getvalue().rstrip("\n")
    parts = ("mean", "std", "paper")
    sourced = any(row.source for row in table.rows)
    head = ["name", "seeds", *(f"{column.key}_{part}" for column in table.columns for part in parts)]
    writer.writerow(head + ["source"] * sourced)
    for row in table.rows:
        cells = (getattr(row.cells[column.key], part) for column in table.columns for part in parts)
        line = [row.name, " ".join(map(str, row.seeds)), *("" if cell is None else cell for cell in cells)]
        writer.writerow(line + [row.source] * sourced)
    return text.getvalue().rstrip("\n")


WITHOUT_NOTES = ("latex", "csv")
WRITERS = {"text": as_text, "markdown": as_markdown, "latex": as_latex, "html": as_html, "json": as_json, "csv": as_csv}
