"""A table, or a list of runs, as text, Markdown, LaTeX, HTML, JSON or CSV."""

from __future__ import annotations

import csv
import html
import io
import json
from collections.abc import Callable
from typing import NamedTuple

from hingeabl.reporting.comparisons import verdict
from hingeabl.reporting.names import row_title
from hingeabl.reporting.run_list import RunList
from hingeabl.reporting.tables import Cell, Table, one_set_of_seeds


class Style(NamedTuple):
    """How a format writes the best figures, names, and what stands before a standard deviation."""

    bold: Callable[[str], str]
    escape: Callable[[str], str] = str
    plus_minus: str = "±"


class Sheet(NamedTuple):
    """What a format writes: a title, tables with a heading each ("" for the first) and their head as first line, of
    which the first `left` columns stand on the left, and notes."""

    title: str
    tables: dict[str, list[list[str]]]
    left: int
    notes: list[str]


def sheet_of(found: Table | RunList, style: Style) -> Sheet:
    """A table, or a list of runs, as texts in a format's style."""
    if isinstance(found, RunList):
        return Sheet(found.title, {"": [list(map(style.escape, line)) for line in found.texts()]}, 2, found.notes)
    differences = {"Differences of test F1": comparison_lines(found)} if found.comparisons else {}
    return Sheet(caption(found), {"": lines_of(found, style)} | differences, 1, found.notes)


def cell_texts(cell: Cell, digits: int, plus_minus: str) -> tuple[str, str, str]:
    """(ours, the published one, the difference), "" for what there is not."""
    paper = "" if cell.paper is None else f"{cell.paper:.{digits}f}"
    if cell.mean is None:
        return "", paper, ""
    ours = f"{cell.mean:.{digits}f}" + (f" {plus_minus} {cell.std:.{digits}f}" if cell.std is not None else "")
    if cell.paper is None:
        return ours, "", ""
    return ours, paper, f"{round(cell.mean, digits) - cell.paper:+.{digits}f}"


def lines_of(table: Table, style: Style) -> list[list[str]]:
    """The table as texts, its head first: a name, the number of runs (their seeds where these differ from row to row),
    for each figure ours, the published one and the difference (ours alone in a table without published ones), and the
    published ones' source where they have one."""
    of_runs = any(row.seeds for row in table.rows)
    count = "runs" if one_set_of_seeds(table.rows) else "seeds"
    sourced = any(row.source for row in table.rows)
    kept = 3 if table.published else 1  # of ours, published, difference
    head = ["", *([count] if of_runs else [])]
    for figure in table.figures:
        head += [style.escape(figure.name), table.published, "diff."][:kept]
    lines = [head + ["source"] * sourced]
    for row in table.rows:
        seeds = str(len(row.seeds)) if count == "runs" else listed(row.seeds)
        line = [style.escape(row_title(row.name)), *([seeds] if of_runs else [])]
        for figure in table.figures:
            ours, *others = cell_texts(row.cells[figure.key], figure.digits, style.plus_minus)
            line += [style.bold(ours) if row.cells[figure.key].best else ours, *others][:kept]
        lines.append(line + [style.escape(row.source)] * sourced)
    return lines


def listed(seeds: list[int]) -> str:
    """Seeds as text."""
    return ", ".join(map(str, seeds))


def comparison_lines(table: Table) -> list[list[str]]:
    """Head and rows of the comparisons: the pair, its seeds where rows differ in them, the difference of test F1, its
    intervals, p, and what it means."""
    seeds = 0 if one_set_of_seeds(table.rows) else 1  # columns of them
    return [["second against first", *["seeds"] * seeds, "F1 diff.", "over seeds", "95 % interval", "p", ""]] + [
        [
            f"{row_title(found.second)} against {row_title(found.first)}",
            *[" and ".join(dict.fromkeys(map(listed, reversed(found.seeds))))] * seeds,
            f"{100 * found.found.difference:+.2f}",
            span(found.found.over_seeds) if found.found.over_seeds else "",
            span((found.found.low, found.found.high)),
            f"{found.p:.4f}",
            verdict(found.found, found.p),
        ]
        for found in table.comparisons
    ]


def span(interval: tuple[float, float]) -> str:
    """An interval of F1, in percent."""
    low, high = interval
    return f"{100 * low:+.2f} to {100 * high:+.2f}"


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


def as_text(found: Table | RunList) -> str:
    """For a terminal; the best figures carry a star."""
    sheet = sheet_of(found, Style(lambda text: f"{text} *"))
    tables = [part for heading, lines in sheet.tables.items() for part in (heading, aligned(lines, sheet.left)) if part]
    return "\n\n".join([sheet.title, *tables, *sheet.notes])


def aligned(lines: list[list[str]], left: int = 1) -> str:
    """Columns of equal width, the first `left` of them on the left."""
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    return "\n".join(
        "  ".join(
            text.ljust(width) if column < left else text.rjust(width)
            for column, (text, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )


def as_markdown(found: Table | RunList) -> str:
    """GitHub's tables; the best figures are bold."""
    sheet = sheet_of(found, Style(lambda text: f"**{text}**", markdown))
    tables = [markdown_rows(lines, sheet.left) for lines in sheet.tables.values()]
    return "\n\n".join([f"**{sheet.title}**", *tables, *sheet.notes])


def markdown(text: str) -> str:
    """Text for a cell of GitHub's tables."""
    return text.replace("|", r"\|")


def markdown_rows(lines: list[list[str]], left: int = 1) -> str:
    """One of GitHub's tables, its head first; the first `left` columns on the left."""
    columns = len(lines[0])
    rule = ["---"] * left + ["---:"] * (columns - left)
    return "\n".join(f"| {' | '.join(line)} |" for line in [lines[0], rule, *lines[1:]])


def as_latex(found: Table | RunList) -> str:
    """A table environment with booktabs' rules, without the comparisons."""
    sheet = sheet_of(found, Style(lambda text: rf"\textbf{{{text}}}", latex, r"$\pm$"))
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


def as_html(found: Table | RunList) -> str:
    """A fragment of a page; the best figures are bold."""
    sheet = sheet_of(found, Style(lambda text: f"<b>{text}</b>", html.escape))
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
                {"first": found.first, "second": found.second, "seeds": found.seeds}
                | vars(found.found)
                | {"corrected_p": found.p, "verdict": verdict(found.found, found.p)}
                for found in table.comparisons
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
    head = ["name", "seeds", *(f"{figure.key}_{part}" for figure in table.figures for part in parts)]
    writer.writerow(head + ["source"] * sourced)
    for row in table.rows:
        cells = (getattr(row.cells[figure.key], part) for figure in table.figures for part in parts)
        line = [row.name, " ".join(map(str, row.seeds)), *("" if cell is None else cell for cell in cells)]
        writer.writerow(line + [row.source] * sourced)
    return text.getvalue().rstrip("\n")


WRITERS = {"text": as_text, "markdown": as_markdown, "latex": as_latex, "html": as_html, "json": as_json, "csv": as_csv}
