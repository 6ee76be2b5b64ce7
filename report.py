"""The paper's tables from run folders, each figure beside the paper's.

    python report.py --table 3 runs/bert_atl runs/bert_hingeabl_released ...
    python report.py --table 6 dataset/redocred/*.json

Tables 1 to 4 and 7 take folders of runs (or folders of such folders), tables 5 and 6 data files. Tables 2 and 3 also
test which differences are more than noise (see significance.py).
"""

from __future__ import annotations

import argparse
import csv
import io
import json
from collections.abc import Callable

from tables import Cell, Table, read_runs, table_of_data, table_of_runs, verdict
from utils import run_command_line


def cell_texts(cell: Cell, digits: int, plus_minus: str) -> tuple[str, str, str]:
    """(ours, the paper's, the difference), "" for what there is not."""
    ours = f"{cell.mean:.{digits}f}" + (f" {plus_minus} {cell.std:.{digits}f}" if cell.std is not None else "")
    if cell.paper is None:
        return ours, "", ""
    return ours, f"{cell.paper:.{digits}f}", f"{round(cell.mean, digits) - cell.paper:+.{digits}f}"


def lines_of(table: Table, bold: Callable[[str], str], plus_minus: str) -> list[list[str]]:
    """The table as texts, its head first: a name, the number of runs, and for each figure ours, the paper's and the
    difference."""
    of_runs = any(row.seeds for row in table.rows)
    head = ["", *(["runs"] if of_runs else [])]
    for figure in table.figures:
        head += [figure.name, "paper", "diff."]
    lines = [head]
    for row in table.rows:
        line = [row.name, *([str(len(row.seeds))] if of_runs else [])]
        for figure in table.figures:
            ours, paper, difference = cell_texts(row.cells[figure.key], figure.digits, plus_minus)
            line += [bold(ours) if row.cells[figure.key].best else ours, paper, difference]
        lines.append(line)
    return lines


def comparison_lines(table: Table) -> list[list[str]]:
    """Head and rows of the comparisons: the pair, the difference of test F1, its interval, p, and what it means."""
    if not table.comparisons:
        return []
    return [["second against first", "F1 diff.", "95 % interval", "p", ""]] + [
        [
            f"{second} against {first}",
            f"{100 * found.difference:+.2f}",
            f"{100 * found.low:+.2f} to {100 * found.high:+.2f}",
            f"{p:.4f}",
            verdict(found, p),
        ]
        for first, second, found, p in table.comparisons
    ]


def caption(table: Table) -> str:
    """One line: the table's number, title, split and the runs behind it."""
    seeds = sorted({seed for row in table.rows for seed in row.seeds})
    behind = f", seeds {', '.join(map(str, seeds))}, mean and standard deviation over runs" if seeds else ""
    return f"Table {table.number}. {table.title}: {table.setting}{behind}"


def as_text(table: Table) -> str:
    """For a terminal; the best figures carry a star."""
    parts = [caption(table), aligned(lines_of(table, lambda text: f"{text} *", "±"))]
    if table.comparisons:
        parts += ["Differences of test F1", aligned(comparison_lines(table))]
    return "\n\n".join([*parts, *table.notes])


def aligned(lines: list[list[str]]) -> str:
    """Columns of equal width, the first on the left."""
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    return "\n".join(
        "  ".join(
            text.rjust(width) if column else text.ljust(width)
            for column, (text, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )


def as_markdown(table: Table) -> str:
    """GitHub's tables; the best figures are bold."""

    def rows(lines: list[list[str]]) -> str:
        rule = ["---", *["---:"] * (len(lines[0]) - 1)]
        return "\n".join(
            f"| {' | '.join(text.replace('|', chr(92) + '|') for text in line)} |"
            for line in [lines[0], rule, *lines[1:]]
        )

    parts = [f"**{caption(table)}**", rows(lines_of(table, lambda text: f"**{text}**", "±"))]
    parts += [rows(comparison_lines(table))] if table.comparisons else []
    return "\n\n".join([*parts, *table.notes])


def as_latex(table: Table) -> str:
    """A table environment with booktabs' rules, without the comparisons."""
    head, *lines = lines_of(table, lambda text: rf"\textbf{{{text}}}", "PLUSMINUS")
    rows = [" & ".join(map(latex, line)) + r" \\" for line in [head, *lines]]
    return "\n".join(
        [
            r"\begin{table}",
            r"\centering",
            rf"\begin{{tabular}}{{l{'r' * (len(head) - 1)}}}",
            r"\toprule",
            rows[0],
            r"\midrule",
            *rows[1:],
            r"\bottomrule",
            r"\end{tabular}",
            rf"\caption{{{latex(caption(table))}}}",
            r"\end{table}",
        ]
    )


def latex(text: str) -> str:
    """Text for LaTeX: its special characters escaped."""
    for character in "%_#&":
        text = text.replace(character, "\\" + character)
    return text.replace("PLUSMINUS", r"$\pm$")


def as_json(table: Table) -> str:
    """Everything, unrounded."""
    return json.dumps(
        {
            "table": table.number,
            "title": table.title,
            "setting": table.setting,
            "rows": [
                {"name": row.name, "seeds": row.seeds} | {key: vars(cell) for key, cell in row.cells.items()}
                for row in table.rows
            ],
            "comparisons": [
                {"first": first, "second": second, **vars(found), "corrected_p": p, "verdict": verdict(found, p)}
                for first, second, found, p in table.comparisons
            ],
            "notes": table.notes,
        },
        indent=2,
    )


def as_csv(table: Table) -> str:
    """A line a row: name, seeds, and mean, standard deviation and paper's value of every figure, unrounded."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    parts = ("mean", "std", "paper")
    writer.writerow(["name", "seeds", *(f"{figure.key}_{part}" for figure in table.figures for part in parts)])
    for row in table.rows:
        cells = (getattr(row.cells[figure.key], part) for figure in table.figures for part in parts)
        writer.writerow([row.name, " ".join(map(str, row.seeds)), *("" if cell is None else cell for cell in cells)])
    return text.getvalue().rstrip("\n")


WRITERS = {"text": as_text, "markdown": as_markdown, "latex": as_latex, "json": as_json, "csv": as_csv}


def main(arguments: list[str] | None = None) -> None:
    """Print a table; `arguments` default to the command line's."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("paths", nargs="+", metavar="PATH", help="folders of runs; for tables 5 and 6, data files")
    parser.add_argument("--table", type=int, required=True, choices=range(1, 8), help="number of the paper's table")
    parser.add_argument("--format", choices=list(WRITERS), default="text")
    args = parser.parse_args(arguments)
    if args.table in (5, 6):
        table = table_of_data(args.table, args.paths)
    else:
        table = table_of_runs(args.table, *read_runs(args.paths))
    print(WRITERS[args.format](table))


if __name__ == "__main__":
    run_command_line(main)
