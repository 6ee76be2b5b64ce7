"""The figure of whole trainings of several lengths, on one training file or several."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from matplotlib.figure import Figure

from hingeabl.core.losses import loss_names
from hingeabl.errors import UserError
from hingeabl.reporting.drawing import fit_text, loss_style, mean_and_std, new_figure, styled
from hingeabl.reporting.names import loss_title, model_title
from hingeabl.reporting.records import Run, count_by_document, documents_by_split, refuse_duplicates
from hingeabl.reporting.tables import FN, pattern_share

PANELS: dict[str, Callable[[dict[str, float]], float]] = {  # what is drawn of a run's test scores, in percent
    "F1": lambda scores: 100 * scores["f1"],
    "precision": lambda scores: 100 * scores["precision"],
    "recall": lambda scores: 100 * scores["recall"],
    "FN_CRK / FN": pattern_share(("FN_CRK",), FN),  # as in Table 4, but on test
}
FILLS = ("full", "none", "top", "left")  # of markers, by training file
Lines = dict[tuple[str, str], dict[float, list[Run]]]  # runs of (loss, training file), by optimizer steps


@styled
def figure_length(runs: list[Run]) -> Figure:
    """Test F1, precision, recall and FN_CRK's share of the false negatives, in percent, over the optimizer steps of
    whole trainings: a line for each loss and training file, whose points are means over the seeds that all of them
    have, with bars of one standard deviation (n - 1) where these are several. Points that share no seed are not joined.
    Raises UserError as check_lengths does."""
    registered = [run for run in runs if run.loss in loss_names()]
    check_lengths(registered)
    names = names_of_training_files(registered)
    lines = lines_of(registered)
    figure, axes = new_figure(7.5, 6.2, rows=2, columns=2)
    for panel, (title, value) in zip(axes.flat, PANELS.items(), strict=True):
        for (loss, file), points in lines.items():
            style = loss_style(loss) | {"fillstyle": FILLS[list(names).index(file) % len(FILLS)]}
            if len({name_seeds(runs) for runs in points.values()}) > 1:
                style["linestyle"] = ""
            style["label"] = f"{loss_title(loss)}, {names[file]}, {name_seeds_of_line(points)}"
            statistics = [mean_and_std([[value(run.scores["test"])] for run in runs]) for runs in points.values()]
            mean = [float(means[0]) for means, _ in statistics]
            bars = [
                float(std[0]) if len(runs) > 1 else math.nan  # no bar
                for (_, std), runs in zip(statistics, points.values(), strict=True)
            ]
            panel.errorbar(list(points), mean, bars, capsize=2, elinewidth=0.9, **style)
        panel.set(title=title, xlabel="optimizer steps", ylabel="test (%)", xlim=(0, None))
        panel.grid(True)
    encoder = Path(registered[0].config["settings"]["model_name_or_path"]).name
    several = any(len(runs) > 1 for points in lines.values() for runs in points.values())
    title = f"{model_title(registered[0].backbone)} on {encoder}" + "; mean ± standard deviation over seeds" * several
    figure.suptitle(fit_text(title, 90), fontsize=9)
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=1)
    return figure


def name_seeds(runs: list[Run]) -> str:
    """The seeds of runs, in order."""
    seeds = sorted(run.seed for run in runs)
    return f"{'seed' if len(seeds) == 1 else 'seeds'} {', '.join(map(str, seeds))}"


def name_seeds_of_line(points: dict[float, list[Run]]) -> str:
    """The seeds of a line; of each point where these differ."""
    seeds = {steps: name_seeds(runs) for steps, runs in points.items()}
    if len(set(seeds.values())) == 1:
        return next(iter(seeds.values()))
    return "; ".join(f"{steps:,.0f} steps: {names}" for steps, names in seeds.items())


def check_lengths(runs: list[Run]) -> None:
    """Raise UserError if there are no runs; for one without test scores or a number of steps; for two of one loss,
    seed, number of steps and training file; and for runs of several models, encoders or test documents."""
    if not runs:
        raise UserError("figure length: needs finished runs; pass the --output_dir of train.py, or a folder of records")
    for run in runs:
        if not run.scores["test"]:
            raise UserError(f"{run.folder}: its test file has no labels; leave the run out")
        if "steps" not in run.timing:
            raise UserError(f"{run.folder}: does not say after how many steps it ended; leave it out or train it again")
    refuse_duplicates(
        runs, lambda run: f", {run.timing['steps']:g} steps, training file {run.config['data']['train'][:8]}"
    )
    for quality, quality_of in (
        ("models", lambda run: run.backbone),
        ("encoders", lambda run: Path(run.config["settings"]["model_name_or_path"]).name),
        ("test documents", lambda run: count_by_document(run)[2].tobytes()),  # known by their numbers of gold triples
    ):
        other = next((run for run in runs if quality_of(run) != quality_of(runs[0])), None)
        if other:
            raise UserError(
                f"figure length: {runs[0].folder} and {other.folder} have different {quality}; pass one kind"
            )


def names_of_training_files(runs: list[Run]) -> dict[str, str]:
    """A name for each training file, by its SHA-256: its number of documents, or the beginning of its SHA-256 if no run
    tells that number or two files have the same. The files with most documents come first."""
    sizes: dict[str, int] = {}
    for run in runs:
        file = run.config["data"]["train"]
        sizes[file] = sizes.get(file) or documents_by_split(run).get("train", 0)
    counted = Counter(sizes.values())
    return {
        file: f"{size:,} documents" if size and counted[size] == 1 else f"training file {file[:8]}"
        for file, size in sorted(sizes.items(), key=lambda item: (-item[1], item[0]))
    }


def lines_of(runs: list[Run]) -> Lines:
    """The runs of each line of the figure, in the order of losses.py, its points by steps: of seeds that all points of
    a line have, where there are such."""
    lines: Lines = {}
    for run in sorted(runs, key=lambda run: (loss_names().index(run.loss), run.timing["steps"])):
        points = lines.setdefault((run.loss, run.config["data"]["train"]), {})
        points.setdefault(run.timing["steps"], []).append(run)
    return {line: of_shared_seeds(points) for line, points in lines.items()}


def of_shared_seeds(points: dict[float, list[Run]]) -> dict[float, list[Run]]:
    """A line's runs of the seeds that all its points have; all runs where there are none."""
    shared = set.intersection(*({run.seed for run in runs} for runs in points.values()))
    return {steps: [run for run in runs if not shared or run.seed in shared] for steps, runs in points.items()}
