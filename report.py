"""The paper's tables from run folders, each figure beside the paper's, and drawings.

    python report.py --table 3 runs/bert_atl runs/bert_hingeabl_released ...
    python report.py --table 6 dataset/redocred/*.json
    python report.py --table 3_later runs/bert_*
    python report.py --table thresholds runs/bert_*
    python report.py --figure epochs runs/bert_atl runs/bert_hingeabl_released --output runs/figures

Tables 1 to 4 and 7 take folders of runs (or folders of such folders, or records, see records.py), tables 5 and 6 data
files. Tables 2, 3, 3_later and inter also test which differences are more than noise (see significance.py). Seven
tables are not the paper's: 3_later is table 3 with losses of other papers beside its own, precision shows precision,
recall and wrong pairs, other_labels the scores of --also, thresholds where each loss's threshold lies
(docs/metrics.md), shift what the threshold that is best on dev gives, inter pairs within and across sentences, as
papers on CDR do, and runs what each run cost. Figures take folders of runs; epochs, patterns, length and reliability
records too; 3, 4 and losses need none.
"""

from __future__ import annotations

from hingeabl.start import start

start(__name__)  # first: it tells in one line which package is missing

import argparse
import html
import inspect
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from tqdm import tqdm

from hingeabl.core import one_module
from hingeabl.core.evaluation import threshold_diagnostics
from hingeabl.errors import UserError, print_warning, run_command_line
from hingeabl.files import atomic_write
from hingeabl.outputs import check_outputs
from hingeabl.reporting.calibration import calibration_of, with_calibration
from hingeabl.reporting.drawing import png_of, save_figure
from hingeabl.reporting.figures import CAPTIONS, FIGURES
from hingeabl.reporting.names import loss_title, model_title
from hingeabl.reporting.other_labels import scores_with
from hingeabl.reporting.page import about_block, documents_block, image, pairs_block, write_page
from hingeabl.reporting.pairs import read_pairs
from hingeabl.reporting.records import Run, read_all_runs, read_runs, same_experiment, seed_folders, write_record
from hingeabl.reporting.rendering import WITHOUT_NOTES, WRITERS, RunList, aligned, as_html, list_of_runs
from hingeabl.reporting.tables import (
    MORE_TABLES,
    OTHER_PAPERS,
    Table,
    groups_of,
    table_of_data,
    table_of_runs,
    tables_of_files,
)

GOES_WITH = {  # an option, and what it belongs to
    "also": ("record",),
    "format": ("table",),
    "output": ("figure",),
    "pair": ("figure",),
    "split": ("figure", "html"),
}


def threshold_of(run: Run) -> dict[str, float]:
    """evaluation.threshold_diagnostics of a run's test scores; {} for a run with a single relation. Raises UserError as
    that and read_pairs do, and if the test file has no labels."""
    if not run.scores["test"]:
        raise UserError(f"{run.folder}: its test file has no labels; train it with one that has")
    pairs = read_pairs(run, "test")
    if len(pairs.rel2id) == 2:
        return {}
    return threshold_diagnostics(pairs.scores, pairs.labels, pairs.threshold)


def with_threshold(run: Run) -> Run:
    """The run, its test scores with threshold_of, which a record has. Raises UserError as threshold_of does."""
    if run.test_documents is not None:
        return run
    return replace(run, scores={**run.scores, "test": {**run.scores["test"], **threshold_of(run)}})


def table_with_thresholds(number: int | str, runs: list[Run], unfinished: list[Path]) -> Table:
    """table_of_runs, with what only the tables thresholds and shift read."""
    if number == "thresholds":
        runs = [with_threshold(run) if run.scores["test"] else run for run in runs]
    if number == "shift":
        runs = list(map(with_calibration, runs))
    return table_of_runs(number, runs, unfinished)


def finished(runs: list[Run], unfinished: list[Path]) -> list[Run]:
    """The runs. Raises UserError if there is none."""
    if not runs:
        raise UserError(f"{', '.join(map(str, unfinished))}: not finished; the training's command goes on with it")
    return runs


def tables_of(runs: list[Run], unfinished: list[Path]) -> list[Table]:
    """Every table that these runs fill; Table 2 if there are runs of other backbones than ATLOP, 3_later if there are
    some of losses that the paper lacks. A run without its pairs' scores or documents is not in that of thresholds."""

    def with_threshold_if_there(run: Run) -> Run:
        try:
            return with_threshold(run) if run.scores["test"] else run
        except UserError as error:
            print_warning(f"{error}; the table of thresholds is without {run.folder}")
            return run

    runs = list(map(with_threshold_if_there, runs))
    wanted: dict[int | str, bool] = {
        2: any(run.backbone != "atlop" for run in runs),
        "3_later": any(run.loss in OTHER_PAPERS for run in runs),
        "inter": False,  # these two are asked for by their names
        "shift": False,
    }
    of_runs: tuple[int | str, ...] = (1, 2, 3, 4, 7, *MORE_TABLES)
    numbers = [number for number in of_runs if wanted.get(number, True) and groups_of(number, runs)]
    return [table_of_runs(number, runs, unfinished) for number in numbers]


def figures_of(runs: list[Run], split: str) -> str:
    """Every figure as HTML, with a note in place of one that cannot be drawn from these runs."""
    parts = []
    for name, draw in tqdm(FIGURES.items(), desc="figures", unit="figure", leave=False):
        try:
            figure = draw(runs, split=split) if "split" in inspect.signature(draw).parameters else draw(runs)
            parts.append(image(png_of(figure), CAPTIONS[name]))
        except UserError as error:
            parts.append(f'<p class="note">{html.escape(f"{CAPTIONS[name]}: not drawn. {error}")}</p>')
    return "\n".join(parts)


def rendered(tables: Sequence[Table | RunList], form: str, as_list: bool = False) -> str:
    """Tables in a form, one of WRITERS, as a list in JSON if `as_list`. The notes of a form without notes are printed
    on stderr."""
    for note in (note for table in tables for note in table.notes) if form in WITHOUT_NOTES else ():
        print(f"note: {note}", file=sys.stderr)
    texts = list(map(WRITERS[form], tables))
    return f"[{', '.join(texts)}]" if form == "json" and as_list else "\n\n".join(texts)


def write_html(path: str, runs: list[Run], unfinished: list[Path], split: str) -> None:
    """Write one self-contained page: tables, figures, and what each run said of a split's pairs. Raises UserError if
    the runs do not go together, or their files are gone."""
    same_experiment(finished(runs, unfinished))
    for run in runs:
        read_pairs(run, split)  # a broken file fails before the work
    tables = tables_of(runs, unfinished) + tables_of_files(runs[0])
    sections = {"Tables": "\n".join(map(as_html, tables)), "Figures": figures_of(runs, split)}
    names = [f"{model_title(run.backbone)}, {loss_title(run.loss)}, seed {run.seed}" for run in runs]

    def blocks() -> Iterator[str]:
        for number, run in enumerate(tqdm(runs, desc="runs", unit="run", leave=False)):
            pairs = read_pairs(run, split)
            if not number:
                yield about_block(pairs.rel2id, names, gold=True)
                yield documents_block(pairs.documents, pairs.rel2id)
            yield pairs_block(number, pairs)

    with atomic_write(path) as file:
        write_page(file, "HingeABL: tables, figures and errors", sections, f"Pairs of the {split} documents", blocks())


def check_page(path: str, runs: list[str]) -> None:
    """Raise UserError for a page that cannot be written, or that would replace a file of the runs."""
    if Path(path).is_dir():
        raise UserError(
            f"--html {path}: is a folder; name the page's file first, then the runs: --html page.html {path}"
        )
    inputs = [Path(name) for name in runs if Path(name).is_file()] + seed_folders(runs, needed=False)
    inputs_by_name = {f"PATH {number}": input_path for number, input_path in enumerate(inputs, 1)}
    check_outputs({"--html": (path, (".html", ".htm"))}, inputs_by_name)


def write_figure(args: argparse.Namespace) -> None:
    """Write the figure asked for and print its files. Raises UserError if options or runs do not fit it."""
    draw = FIGURES[args.figure]
    options = {name: getattr(args, name) for name in ("pair", "split") if getattr(args, name) is not None}
    for name in options.keys() - inspect.signature(draw).parameters.keys():
        raise UserError(f"--{name}: is not for figure {args.figure}; leave it out")
    if args.pair:
        title, *entities = args.pair
        if not all(entity.isdecimal() for entity in entities):
            raise UserError(f"--pair: {' '.join(entities)}: HEAD and TAIL must be numbers of entities, counted from 0")
        options["pair"] = (title, *map(int, entities))
    read = read_all_runs if args.figure == "length" else read_runs
    runs, unfinished = read(args.paths)
    for folder in unfinished:
        print(f"not finished, left out: {folder}")
    for path in save_figure(draw(runs, **options), args.output or "runs/figures", args.figure):
        print(path)


def main(arguments: list[str] | None = None) -> None:
    """Print a table, or write a figure or a page; `arguments` default to the command line's."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "paths", nargs="*", metavar="PATH", help="folders of runs, or their records; for tables 5 and 6, data files"
    )
    group = parser.add_mutually_exclusive_group(required=True)
    group.add_argument(
        "--table",
        type=lambda name: int(name) if name.isdecimal() else name,
        choices=[*range(1, 8), *MORE_TABLES, "runs", "all"],
        help="print a table: its number in the paper, one that the paper lacks (3_later: Table 3 with losses of other "
        "papers; precision; other_labels: scores of --also; thresholds: where they lie; shift: the best on dev; "
        "inter: pairs within and across sentences; runs: steps, time, machine and commit), or all: every table that "
        "the runs fill, without 5, 6, shift, inter and runs",
    )
    group.add_argument("--figure", choices=list(FIGURES), help="draw the paper's 1 to 4, or one of losses or of runs")
    group.add_argument(
        "--html", metavar="FILE", help="write a page with all tables and figures, and the errors to browse"
    )
    group.add_argument("--record", metavar="FOLDER", help="write each finished run there as one small JSON, to be kept")
    parser.add_argument(
        "--also", metavar="FILE", help="with --record: other labels of the test documents, to score with"
    )
    group.add_argument(
        "--status", action="store_true", help="print which runs are finished, running, failed or stopped"
    )
    parser.add_argument("--format", choices=list(WRITERS), help="of a table (text)")
    parser.add_argument("--output", metavar="FOLDER", help="where a figure's PNG and PDF go (runs/figures)")
    parser.add_argument("--pair", nargs=3, metavar=("TITLE", "HEAD", "TAIL"), help="which pair figure 1 shows")
    parser.add_argument("--split", choices=("dev", "test"), help="whose pairs the page or figure 1 or 2 shows (dev)")
    args = parser.parse_args(arguments)
    for name, modes in GOES_WITH.items():
        if getattr(args, name) and not any(getattr(args, mode) for mode in modes):
            raise UserError(f"--{name}: goes with {' or '.join(f'--{mode}' for mode in modes)} alone; leave it out")
    args.format = args.format or "text"
    if args.figure:
        write_figure(args)
        return
    if args.html:
        check_page(args.html, args.paths)
    if not args.paths:
        raise UserError("PATH: is missing; pass folders of runs, for tables 5 and 6 data files")
    if args.table in (5, 6):
        print(rendered([table_of_data(args.table, args.paths)], args.format))
        return
    if args.status:
        from hingeabl.training.resume import status_of  # here: it imports the model, which takes seconds

        print(aligned([[str(folder), *status_of(folder)] for folder in seed_folders(args.paths)], left=3))
        return
    if args.table == "runs":
        runs, unfinished = read_all_runs(args.paths)
        print(rendered([list_of_runs(finished(runs, unfinished), unfinished)], args.format))
        return
    runs, unfinished = read_runs(args.paths)
    if args.table == "all":
        tables = tables_of(finished(runs, unfinished), unfinished)
        if not tables:
            losses = ", ".join(sorted({run.loss for run in runs}))
            raise UserError(f"no table takes these runs (losses: {losses}); is each loss in losses.py, test labelled?")
        print(rendered(tables, args.format, as_list=True))
    elif args.table:
        print(rendered([table_with_thresholds(args.table, finished(runs, unfinished), unfinished)], args.format))
    elif args.record:
        for folder in unfinished:
            print(f"not finished, left out: {folder}")
        for run in finished(runs, unfinished):
            other_labels = scores_with(run, args.also) if args.also else {}
            print(write_record(run, threshold_of(run), args.record, other_labels, calibration_of(run)))
    else:
        write_html(args.html, runs, unfinished, args.split or "dev")
        print(f"{len(runs)} runs: {args.html}")


one_module(__name__)
if __name__ == "__main__":
    run_command_line(main)
