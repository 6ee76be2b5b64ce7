"""The paper's tables from run folders, each figure beside the paper's, and drawings.

    python report.py --table 3 runs/bert_atl runs/bert_hingeabl_released ...
    python report.py --table 6 dataset/redocred/*.json
    python report.py --table 3_later runs/bert_*
    python report.py --table thresholds runs/bert_*
    python report.py --figure epochs runs/bert_atl runs/bert_hingeabl_released --output runs/figures

Tables 1 to 4 and 7 take folders of runs (or folders of such folders, or records, see records.py), tables 5 and 6 data
files. Tables 2 and 3 also test which differences are more than noise (see significance.py). Three tables are not the
paper's: 3_later is table 3 with losses of other papers beside its own, precision shows precision, recall and wrong
pairs, and thresholds shows where each loss's threshold lies (docs/metrics.md). Figures take folders of runs, epochs and
patterns records too; 3, 4 and losses need none.
"""

from __future__ import annotations

import argparse
import csv
import html
import inspect
import io
import json
import packages  # noqa: F401
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from tqdm import tqdm

from drawing import png_of, save_figure
from evaluation import threshold_diagnostics
from figures import CAPTIONS, FIGURES
from page import about_block, documents_block, image, pairs_block, write_page
from pairs import read_pairs
from records import Run, file_of, read_runs, same_experiment, seed_folders, write_record
from resume import status_of
from tables import (
    LATER,
    MORE_TABLES,
    Cell,
    Table,
    groups_of,
    table_of_data,
    table_of_runs,
    verdict,
)
from utils import UserError, digest, run_command_line, whole_file


class Style(NamedTuple):
    """How a format writes the best figures, names, and what stands before a standard deviation."""

    bold: Callable[[str], str]
    escape: Callable[[str], str] = str
    plus_minus: str = "±"


def cell_texts(cell: Cell, digits: int, plus_minus: str) -> tuple[str, str, str]:
    """(ours, the published one, the difference), "" for what there is not."""
    if cell.mean is None:
        return "", f"{cell.paper:.{digits}f}", ""
    ours = f"{cell.mean:.{digits}f}" + (f" {plus_minus} {cell.std:.{digits}f}" if cell.std is not None else "")
    if cell.paper is None:
        return ours, "", ""
    return ours, f"{cell.paper:.{digits}f}", f"{round(cell.mean, digits) - cell.paper:+.{digits}f}"


def lines_of(table: Table, style: Style) -> list[list[str]]:
    """The table as texts, its head first: a name, the number of runs, for each figure ours, the published one and the
    difference (ours alone in a table without published ones), and the published ones' source where they have one."""
    of_runs = any(row.seeds for row in table.rows)
    sourced = any(row.source for row in table.rows)
    kept = 3 if table.published else 1  # of ours, published, difference
    head = ["", *(["runs"] if of_runs else [])]
    for figure in table.figures:
        head += [style.escape(figure.name), table.published, "diff."][:kept]
    lines = [head + ["source"] * sourced]
    for row in table.rows:
        line = [style.escape(row.name), *([str(len(row.seeds))] if of_runs else [])]
        for figure in table.figures:
            ours, *others = cell_texts(row.cells[figure.key], figure.digits, style.plus_minus)
            line += [style.bold(ours) if row.cells[figure.key].best else ours, *others][:kept]
        lines.append(line + [style.escape(row.source)] * sourced)
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
    parts = [caption(table), aligned(lines_of(table, Style(lambda text: f"{text} *")))]
    if table.comparisons:
        parts += ["Differences of test F1", aligned(comparison_lines(table))]
    return "\n\n".join([*parts, *table.notes])


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


def as_markdown(table: Table) -> str:
    """GitHub's tables; the best figures are bold."""

    def rows(lines: list[list[str]]) -> str:
        rule = ["---", *["---:"] * (len(lines[0]) - 1)]
        return "\n".join(f"| {' | '.join(line)} |" for line in [lines[0], rule, *lines[1:]])

    style = Style(lambda text: f"**{text}**", lambda text: text.replace("|", r"\|"))
    parts = [f"**{caption(table)}**", rows(lines_of(table, style))]
    parts += [rows(comparison_lines(table))] if table.comparisons else []
    return "\n\n".join([*parts, *table.notes])


def as_latex(table: Table) -> str:
    """A table environment with booktabs' rules, without the comparisons."""
    head, *lines = lines_of(table, Style(lambda text: rf"\textbf{{{text}}}", latex, r"$\pm$"))
    rows = [" & ".join(line) + r" \\" for line in [head, *lines]]
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
    return text


def as_html(table: Table) -> str:
    """A fragment of a page; the best figures are bold."""

    def rows(lines: list[list[str]], title: str) -> str:
        head, *body = ["".join(f"<td>{text}</td>" for text in line) for line in lines]
        return (
            f'<div class="scroll"><table><caption>{html.escape(title)}</caption>'
            f"<thead><tr>{head.replace('td>', 'th>')}</tr></thead>"
            f"<tbody>{''.join(f'<tr>{line}</tr>' for line in body)}</tbody></table></div>"
        )

    parts = [rows(lines_of(table, Style(lambda text: f"<b>{text}</b>", html.escape)), caption(table))]
    parts += [rows(comparison_lines(table), "Differences of test F1")] if table.comparisons else []
    return "\n".join([*parts, *(f'<p class="note">{html.escape(note)}</p>' for note in table.notes)])


def as_json(table: Table) -> str:
    """Everything, unrounded."""
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
                {"first": first, "second": second, **vars(found), "corrected_p": p, "verdict": verdict(found, p)}
                for first, second, found, p in table.comparisons
            ],
            "notes": table.notes,
        },
        indent=2,
    )


def as_csv(table: Table) -> str:
    """A line a row: name, seeds, and mean, standard deviation and published value of every figure, unrounded; then the
    published values' source in a table that names some."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
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


def threshold_of(run: Run) -> dict[str, float]:
    """Where the threshold lies among a run's test scores. Raises UserError as read_pairs does, and where no pair
    tells."""
    if not run.scores["test"]:
        raise UserError(f"{run.folder}: its test file has no labels; train it with one that has")
    pairs = read_pairs(run, "test")
    return threshold_diagnostics(pairs.scores, pairs.labels, pairs.threshold)


def with_threshold(run: Run) -> Run:
    """The run, its test scores with threshold_of, which a record has. Raises UserError as threshold_of does."""
    if "ro_mean" in run.scores["test"]:
        return run
    return replace(run, scores={**run.scores, "test": {**run.scores["test"], **threshold_of(run)}})


def table_with_thresholds(number: int | str, runs: list[Run], unfinished: list[Path]) -> Table:
    """table_of_runs, the threshold's place read for the table that shows it."""
    if number == "thresholds":
        runs = [with_threshold(run) for run in runs if run.scores["test"]]
    return table_of_runs(number, runs, unfinished)


def finished(runs: list[Run], unfinished: list[Path]) -> list[Run]:
    """The runs. Raises UserError where there is none."""
    if not runs:
        raise UserError(f"{', '.join(map(str, unfinished))}: not finished; the training's command goes on with it")
    return runs


def tables_of(runs: list[Run], unfinished: list[Path]) -> list[Table]:
    """Every table that the runs make; Table 2 where there are runs of several backbones, 3_later where there are some
    of losses that the paper lacks."""
    wanted = {2: len({run.backbone for run in runs}) > 1, "3_later": any(run.loss in LATER for run in runs)}
    of_runs = (1, 2, 3, 4, 7, *MORE_TABLES)
    numbers = [number for number in of_runs if wanted.get(number, True) and groups_of(number, runs)]
    return [table_with_thresholds(number, runs, unfinished) for number in numbers]


def tables_of_files(run: Run) -> list[Table]:
    """Tables 5 and 6 of those of a run's data files that are still there."""
    files = [file_of(run, split) for split in ("train", "dev", "test")]
    there = [path for path, wanted in files if Path(path).exists() and digest(path) == wanted]
    return [table_of_data(5, there), table_of_data(6, there)] if there else []


def figures_of(runs: list[Run], split: str) -> str:
    """Every figure as HTML, with a note in place of one that these runs do not make."""
    found = []
    for name, draw in tqdm(FIGURES.items(), desc="figures", unit="figure", leave=False):
        try:
            figure = draw(runs, split=split) if "split" in inspect.signature(draw).parameters else draw(runs)
            found.append(image(png_of(figure), CAPTIONS[name]))
        except UserError as error:
            found.append(f'<p class="note">{html.escape(f"{CAPTIONS[name]}: not drawn. {error}")}</p>')
    return "\n".join(found)


def write_html(path: str, runs: list[Run], unfinished: list[Path], split: str) -> None:
    """Write one self-contained page: tables, figures, and what each run said of a split's pairs. Raises UserError where
    the runs do not go together, or their files are gone."""
    same_experiment(finished(runs, unfinished))
    tables = tables_of(runs, unfinished) + tables_of_files(runs[0])
    sections = {"Tables": "\n".join(map(as_html, tables)), "Figures": figures_of(runs, split)}
    names = [f"{run.backbone} {run.loss}, seed {run.seed}" for run in runs]

    def blocks() -> Iterator[str]:
        for number, run in enumerate(tqdm(runs, desc="runs", unit="run", leave=False)):
            pairs = read_pairs(run, split)
            if not number:
                yield about_block(pairs.rel2id, names, gold=True)
                yield documents_block(pairs.documents, pairs.rel2id)
            yield pairs_block(number, pairs)

    with whole_file(path) as file:
        write_page(file, "HingeABL: tables, figures and errors", sections, f"Pairs of the {split} documents", blocks())


def write_figure(args: argparse.Namespace) -> None:
    """Write the figure asked for and print its files. Raises UserError where options or runs do not fit it."""
    draw = FIGURES[args.figure]
    options = {name: getattr(args, name) for name in ("pair", "split") if getattr(args, name) is not None}
    for name in options.keys() - inspect.signature(draw).parameters.keys():
        raise UserError(f"--{name}: is not for figure {args.figure}; leave it out")
    if args.pair:
        title, *entities = args.pair
        if not all(entity.isdecimal() for entity in entities):
            raise UserError(f"--pair: {' '.join(entities)}: HEAD and TAIL must be numbers of entities, counted from 0")
        options["pair"] = (title, *map(int, entities))
    runs, unfinished = read_runs(args.paths)
    for folder in unfinished:
        print(f"not finished, left out: {folder}")
    for path in save_figure(draw(runs, **options), args.output, args.figure):
        print(path)


def main(arguments: list[str] | None = None) -> None:
    """Print a table, or write a figure or a page; `arguments` default to the command line's."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "paths", nargs="*", metavar="PATH", help="folders of runs, or their records; for tables 5 and 6, data files"
    )
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument(
        "--table",
        type=lambda name: int(name) if name.isdecimal() else name,
        choices=[*range(1, 8), *MORE_TABLES, "all"],
        help="print a table: its number in the paper, one that the paper lacks (3_later: Table 3 with losses of other "
        "papers; precision; thresholds: where they lie), or all of these",
    )
    what.add_argument("--figure", choices=list(FIGURES), help="draw the paper's 1 to 4, or one of losses or of runs")
    what.add_argument(
        "--html", metavar="FILE", help="write a page with all tables and figures, and the errors to browse"
    )
    what.add_argument("--record", metavar="FOLDER", help="write each finished run there as one small JSON, to be kept")
    what.add_argument("--status", action="store_true", help="print which runs are finished, running, failed or stopped")
    parser.add_argument("--format", choices=list(WRITERS), default="text", help="of a table")
    parser.add_argument("--output", metavar="FOLDER", default="runs/figures", help="where a figure's PNG and PDF go")
    parser.add_argument("--pair", nargs=3, metavar=("TITLE", "HEAD", "TAIL"), help="which pair figure 1 shows")
    parser.add_argument("--split", choices=("dev", "test"), help="whose pairs the page or figure 1 or 2 shows (dev)")
    args = parser.parse_args(arguments)
    if args.figure:
        write_figure(args)
        return
    if not args.paths:
        raise UserError("PATH: is missing; pass folders of runs, for tables 5 and 6 data files")
    if args.table in (5, 6):
        print(WRITERS[args.format](table_of_data(args.table, args.paths)))
        return
    if args.status:
        print(aligned([[str(folder), *status_of(folder)] for folder in seed_folders(args.paths)], left=3))
        return
    runs, unfinished = read_runs(args.paths)
    if args.table == "all":
        texts = list(map(WRITERS[args.format], tables_of(finished(runs, unfinished), unfinished)))
        print(f"[{', '.join(texts)}]" if args.format == "json" else "\n\n".join(texts))
    elif args.table:
        print(WRITERS[args.format](table_with_thresholds(args.table, runs, unfinished)))
    elif args.record:
        for folder in unfinished:
            print(f"not finished, left out: {folder}")
        for run in finished(runs, unfinished):
            print(write_record(run, threshold_of(run), args.record))
    else:
        write_html(args.html, runs, unfinished, args.split or "dev")
        print(f"{len(runs)} runs: {args.html}")


if __name__ == "__main__":
    run_command_line(main)
