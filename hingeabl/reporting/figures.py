"""The paper's figures, and figures of finished runs; report.py writes them."""

from __future__ import annotations

import functools
import itertools
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from hingeabl.core.evaluation import PATTERNS, SHIFT, number_predictions, precision_recall_f1
from hingeabl.core.losses import loss_names
from hingeabl.data.relations import RELATION_NAMES
from hingeabl.errors import UserError
from hingeabl.files import read_json, sha256_of_file
from hingeabl.readers.documents import load_documents
from hingeabl.reporting.calibration import figure_reliability
from hingeabl.reporting.drawing import (
    BLUE,
    PALE,
    VERMILION,
    fit_text,
    legend_below,
    loss_style,
    mean_and_std,
    new_figure,
    styled,
)
from hingeabl.reporting.length_figure import figure_length, name_seeds
from hingeabl.reporting.loss_figures import figure_3, figure_4, figure_losses
from hingeabl.reporting.names import corpus_of, loss_title, model_title, names_of_files
from hingeabl.reporting.page import name_and_type
from hingeabl.reporting.pairs import Pairs, read_pairs, rows_by_pair
from hingeabl.reporting.records import SEARCHED, Run, dev_scores, file_of, gold_of, same_experiment
from hingeabl.reporting.tables import PAPER, WRONG, pattern_share

SHOWN_RELATIONS = 8  # relations of a pair that are drawn
PATTERN_COLOURS = dict(zip(WRONG, ("#8C8C8C", VERMILION, PALE), strict=True))
MEAN_AND_STD = "mean ± standard deviation"
BINS = (0, 1, 10, 30, 100, 300, 1000, 3000)  # training triples of a relation: where each bin begins


def by_loss(name: str, runs: list[Run]) -> dict[str, list[Run]]:
    """The runs of each loss, by seed, in the order of losses.py. Raises UserError, opening with the figure's name,
    where there are none or they cannot be compared."""
    registered = [run for run in runs if run.loss in loss_names()]
    if not registered:
        raise UserError(f"figure {name}: needs finished runs; pass the --output_dir of train.py, or a folder of such")
    backbones = sorted({run.backbone for run in registered})
    if len(backbones) > 1:
        raise UserError(f"figure {name}: the runs are of {' and '.join(backbones)}; pass those of one backbone")
    same_experiment(registered)
    order = sorted(registered, key=lambda run: (loss_names().index(run.loss), run.seed))
    return {loss: list(group) for loss, group in itertools.groupby(order, key=lambda run: run.loss)}


def describe(groups: dict[str, list[Run]], of_several: str) -> str:
    """Backbone, encoder and documents of the runs; on another line what is shown of several seeds, and the seeds if all
    losses have the same."""
    run = next(iter(groups.values()))[0]
    encoder = Path(run.config["settings"]["model_name_or_path"]).name
    corpus = corpus_of(run)
    title = fit_text(f"{model_title(run.backbone)} on {encoder}; {corpus.name if corpus else names_of_files(run)}", 90)
    seeds = common_seeds(groups)
    if any(len(group) > 1 for group in groups.values()):
        return f"{title}\n{of_several} over {seeds or 'seeds'}"
    return f"{title}\n{seeds}" if seeds else title


def common_seeds(groups: dict[str, list[Run]]) -> str:
    """The seeds that every loss has, "" where losses have different ones."""
    seeds = set(map(name_seeds, groups.values()))
    return seeds.pop() if len(seeds) == 1 else ""


def labels_of(groups: dict[str, list[Run]]) -> dict[str, str]:
    """Each loss's name, and its seeds unless the title names them for all."""
    shared = common_seeds(groups)
    return {loss: loss_title(loss) + ("" if shared else f", {name_seeds(runs)}") for loss, runs in groups.items()}


@styled
def figure_1(runs: list[Run], pair: tuple[str, int, int] | None = None, split: str = "dev") -> Figure:
    """The paper's Figure 1: a pair's scores against the threshold, without and with HingeABL.

    Before is ATL where it is among the runs, else the first loss that is not after; after is hingeabl_released, else
    hingeabl; each with the lowest seed that both have, else its lowest. `pair` (title, head, tail) chooses the pair.
    Without it: of the pairs that are FN_CRK before and right after (of all that are FN_CRK before where there are
    none), those with the most gold relations, and of them the one whose lowest gold score before exceeds the others
    most. Raises UserError if there are no such runs or no such pair.
    """
    before, after = before_and_after(by_loss("1", runs))
    sides = read_pairs(before, split), read_pairs(after, split)
    rows = find_pair(*sides, pair, split) if pair else choose_pair(*sides, f"{before.folder}: on {split}")
    figure, axes = new_figure(7, 5.2, rows=2)
    for panel, run, pairs, row in zip(axes[:, 0], (before, after), sides, rows, strict=True):
        draw_scores(panel, pairs, row)
        pattern = PATTERNS[pairs.pattern[row]]
        panel.set_title(
            f"{loss_title(run.loss)}, seed {run.seed}: {pattern}, threshold {signed(pairs.threshold[row].item())}"
        )
    axes[1, 0].set_xlabel("score")
    head, tail, title = name_pair(sides[0], rows[0])
    figure.suptitle(f"{head} → {tail} in {title}", fontsize=10)
    score_legend(figure)
    return figure


def before_and_after(groups: dict[str, list[Run]]) -> tuple[Run, Run]:
    """The two runs of Figure 1. Raises UserError if one is missing."""
    after = next((loss for loss in ("hingeabl_released", "hingeabl") if loss in groups), None)
    before = "atl" if "atl" in groups else next((loss for loss in groups if loss != after), None)
    if before is None or after is None:
        missing = "hingeabl_released" if after is None else "atl"
        raise UserError(f"figure 1: compares two losses, and no run of {missing} is there; pass one too")
    shared = {run.seed for run in groups[before]} & {run.seed for run in groups[after]}
    first, second = (
        next((run for run in groups[loss] if run.seed in shared), groups[loss][0]) for loss in (before, after)
    )
    return first, second


def find_pair(before: Pairs, after: Pairs, pair: tuple[str, int, int], split: str) -> tuple[int, int]:
    """Rows of the pair (title, head, tail) before and after. Raises UserError if it has none."""
    title, head, tail = pair
    number = next((n for n, document in enumerate(before.documents) if document["title"] == title), None)
    if number is None:
        raise UserError(
            f"--pair: {title!r}: is not the title of a {split} document; pass one that is, or another --split"
        )
    key = (number, head, tail)
    first, second = (rows_by_pair(pairs.document, pairs.entities).get(key) for pairs in (before, after))
    if first is None or second is None:
        raise UserError(
            f"--pair: {title!r} {head} {tail}: runs keep the scores of pairs with a gold or a predicted relation, and "
            "this is none; pass another pair"
        )
    return first, second


def choose_pair(before: Pairs, after: Pairs, problem: str) -> tuple[int, int]:
    """Rows before and after of the pair that figure_1 describes. Raises UserError, opening with `problem`."""
    rows = (before.pattern == PATTERNS.index("FN_CRK")).nonzero().flatten().tolist()
    if not rows:
        raise UserError(f"{problem} no pair is FN_CRK; pass --pair TITLE HEAD TAIL, or other runs")
    pair_of_row = {row: pair for pair, row in rows_by_pair(before.document, before.entities).items()}
    row_after = rows_by_pair(after.document, after.entities)
    after_rows = {row: row_after[pair_of_row[row]] for row in rows}
    fixed = [row for row in rows if PATTERNS[after.pattern[after_rows[row]]] == "correct"]
    best = max(fixed or rows, key=lambda row: (int(before.labels[row].sum()), lead_of_gold(before, row)))
    return best, after_rows[best]


def lead_of_gold(pairs: Pairs, row: int) -> float:
    """A pair's lowest gold score - the highest score of its other relations, or its threshold without others."""
    scores, gold = pairs.scores[row, 1:], pairs.labels[row, 1:]
    return float(scores[gold].min() - (pairs.threshold[row] if gold.all() else scores[~gold].max()))


@styled
def figure_2(runs: list[Run], split: str = "dev") -> Figure:
    """The paper's Figure 2: an example of each wrong prediction pattern, from the first run, by seed, of ATL (of the
    first loss where ATL is missing) that shows all three. An example is the pair with the most gold relations, the
    first of several. Raises UserError if no run shows all three."""
    groups = by_loss("2", runs)
    candidates = groups.get("atl") or next(iter(groups.values()))
    for run in candidates:
        pairs = read_pairs(run, split)
        if set(WRONG) <= {PATTERNS[pattern] for pattern in pairs.pattern.tolist()}:
            break
    else:
        raise UserError(f"figure 2: no run of {run.loss} shows all of {', '.join(WRONG)} on {split}; pass other runs")
    figure, axes = new_figure(7, 7.8, rows=3)
    for panel, pattern in zip(axes[:, 0], WRONG, strict=True):
        rows = (pairs.pattern == PATTERNS.index(pattern)).nonzero().flatten().tolist()
        row = max(rows, key=lambda row: int(pairs.labels[row].sum()))
        draw_scores(panel, pairs, row)
        head, tail, title = name_pair(pairs, row)
        panel.set_title(f"{pattern} in {title}, threshold {signed(pairs.threshold[row].item())}\n{head} → {tail}")
    axes[2, 0].set_xlabel("score")
    figure.suptitle(f"{loss_title(run.loss)}, seed {run.seed}, {split}", fontsize=10)
    score_legend(figure)
    return figure


def name_pair(pairs: Pairs, row: int) -> tuple[str, str, str]:
    """A pair's head, tail and document's title, each short."""
    document = pairs.documents[pairs.document[row]]
    head, tail = (
        fit_text(name_and_type(document["vertexSet"][entity])[0], 24) for entity in pairs.entities[row].tolist()
    )
    return head, tail, fit_text(document["title"], 24)


def shown_relations(pairs: Pairs, row: int) -> list[int]:
    """The classes that are drawn of a pair, highest score first: its gold relations and the best others."""
    gold = pairs.labels[row].tolist()
    order = [number for number in pairs.scores[row].argsort(descending=True, stable=True).tolist() if number]
    others = [number for number in order if not gold[number]][: max(SHOWN_RELATIONS - sum(gold), 0)]
    return [number for number in order if gold[number] or number in others]


def draw_scores(axes: Axes, pairs: Pairs, row: int) -> None:
    """A pair's scores as bars, gold relations in blue, the scores on the right, and the threshold as a line."""
    names = read_json(RELATION_NAMES)
    shown = shown_relations(pairs, row)
    scores = pairs.scores[row, shown].tolist()
    colours = [BLUE if pairs.labels[row, number] else PALE for number in shown]
    axes.barh(range(len(shown)), scores, color=colours, height=0.7)
    axes.axvline(float(pairs.threshold[row]), color="black", linestyle="--", linewidth=1.2)
    relation_of = {number: relation for relation, number in pairs.rel2id.items()}
    relations = [relation_of[number] for number in shown]
    axes.set_yticks(
        range(len(shown)), [fit_text(names.get(relation, relation), 48) for relation in relations], fontsize=8
    )
    axes.tick_params(axis="y", length=0)
    axes.invert_yaxis()
    for position, score in enumerate(scores):
        axes.text(1.02, position, signed(score), transform=axes.get_yaxis_transform(), va="center_baseline", fontsize=8)


def signed(score: float) -> str:
    """A score with two digits, and with the minus sign that the axes have."""
    return f"{score:.2f}".replace("-", "−")


def score_legend(figure: Figure) -> None:
    """What the colours and the line of draw_scores mean."""
    handles = [Patch(color=BLUE), Patch(color=PALE), Line2D([], [], color="black", linestyle="--", linewidth=1.2)]
    figure.legend(handles, ["gold relation", "other relation", "threshold"], loc="outside lower center", ncols=3)


@styled
def figure_epochs(runs: list[Run]) -> Figure:
    """Dev F1 in percent over epochs: each loss's mean over its seeds, with a band of one standard deviation (n - 1)
    where there are several. Raises UserError if a run's metrics.jsonl holds no dev scores."""
    groups = by_loss("epochs", runs)
    labels = labels_of(groups)
    figure, [[axes]] = new_figure(6.5, 4.2)
    for loss, group in groups.items():
        curves = [{epoch: dev["f1"] for epoch, dev in dev_scores(run).items()} for run in group]
        epochs = sorted(set.intersection(*map(set, curves)))
        mean, std = mean_and_std([[100 * curve[epoch] for epoch in epochs] for curve in curves])
        style = loss_style(loss)
        axes.plot(epochs, mean, label=labels[loss], clip_on=False, **style)
        if len(group) > 1:
            axes.fill_between(epochs, mean - std, mean + std, color=style["color"], alpha=0.13, linewidth=0)
    axes.set(xlabel="epoch", ylabel="dev F1 (%)", ylim=(0, None))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(True)
    figure.suptitle(describe(groups, MEAN_AND_STD), fontsize=9)
    legend_below(figure)
    return figure


@styled
def figure_patterns(runs: list[Run]) -> Figure:
    """Shares of FP, FN_CRK and FN_IRK among the wrong dev pairs, in percent: each loss's mean over its seeds, and
    below, where the documents are Re-DocRED's, the paper's ATL (Table 1). Raises UserError if runs have no dev
    patterns."""
    groups = by_loss("patterns", runs)
    for run in itertools.chain.from_iterable(groups.values()):
        if not set(WRONG) <= run.scores["dev"].keys():
            raise UserError(
                f"{run.folder}/scores.json: has no dev patterns; train the run again with a labelled dev file"
            )
    labels = labels_of(groups)
    bars = {labels[loss]: [run.scores["dev"] for run in group] for loss, group in groups.items()}
    positions: list[float] = [*range(len(groups))]
    if corpus_of(next(iter(groups.values()))[0]):
        paper = read_json(PAPER)["tables"]["1"]
        bars[f"ATL, paper ({paper['encoder']})"] = [paper["rows"]["atl"]]
        positions.append(len(groups) + 0.3)
    bar_starts = np.zeros(len(bars))
    figure, [[axes]] = new_figure(6.5, 1.5 + 0.36 * len(bars))
    for pattern in WRONG:
        share = pattern_share((pattern,), WRONG)
        widths = np.array([np.mean([share(scores) for scores in seeds]) for seeds in bars.values()])
        bars_of_pattern = axes.barh(positions, widths, 0.72, bar_starts, color=PATTERN_COLOURS[pattern], label=pattern)
        axes.bar_label(bars_of_pattern, [f"{width:.1f}" if width >= 6 else "" for width in widths], label_type="center")
        bar_starts += widths
    axes.set_yticks(positions, list(bars))
    axes.tick_params(axis="y", length=0)
    axes.invert_yaxis()
    axes.set(xlabel="share of the wrong dev pairs (%)", xlim=(0, 100))
    figure.suptitle(describe(groups, "mean"), fontsize=9)
    legend_below(figure)
    return figure


@styled
def figure_frequency(runs: list[Run]) -> Figure:
    """Micro F1 on test, in percent, of the relations with so many training triples (BINS): each loss's mean over seeds,
    with bars of one standard deviation (n - 1) where it has several. Bins without a gold test triple are left out.
    Raises UserError if the runs' train or test file is gone or has changed, or test has no labels."""
    groups = by_loss("frequency", runs)
    for run in itertools.chain.from_iterable(groups.values()):
        if not run.scores["test"]:
            raise UserError(f"{run.folder}: has no test scores, as its test file has no labels; pass runs with labels")
    labels = labels_of(groups)
    counts = {loss: [frequency_counts(run) for run in group] for loss, group in groups.items()}
    gold = next(iter(counts.values()))[0][:, 2].tolist()  # the same for every run
    bins = [number for number, total in enumerate(gold) if total]
    figure, [[axes]] = new_figure(6.5, 4.2)
    for number, (loss, seeds) in enumerate(counts.items()):
        positions = np.arange(len(bins)) + 0.6 * ((number + 0.5) / len(counts) - 0.5)
        mean, std = mean_and_std([[100 * precision_recall_f1(*table[row])[2] for row in bins] for table in seeds])
        style = loss_style(loss) | {"linestyle": "", "label": labels[loss], "clip_on": False}
        axes.errorbar(positions, mean, std if len(seeds) > 1 else None, capsize=2, elinewidth=0.9, **style)
    axes.set_xticks(range(len(bins)), [f"{bin_name(number)}\n({gold[number]:,} test)" for number in bins])
    axes.set(xlabel="training triples of the relation (test triples of the bin)", ylabel="test F1 (%)")
    axes.set_ylim(0)
    axes.grid(True, axis="y")
    figure.suptitle(describe(groups, MEAN_AND_STD), fontsize=9)
    legend_below(figure)
    return figure


def bin_name(number: int) -> str:
    """A bin of BINS for an axis, such as "10–29"."""
    first = BINS[number]
    if number + 1 == len(BINS):
        return f"{first:,} or more"
    last = BINS[number + 1] - 1
    return f"{first:,}" if first == last else f"{first:,}–{last:,}"


def frequency_counts(run: Run) -> np.ndarray:
    """A run's correct, predicted and gold test triples of the relations in each bin: int64 [bins, 3]. Predictions for
    unknown titles are left out."""
    if not run.folder.is_dir():
        raise UserError(f"{run.folder}: a record holds no predictions; pass the run's folder")
    gold, path = gold_of(*file_of(run, "test")), run.folder / "result.json"
    numbers, relations = number_predictions(read_json(path), gold, str(path))
    training = training_triples(*file_of(run, "train"))
    bin_of = np.searchsorted(BINS, [training[relation] for relation in relations], side="right") - 1
    predicted = np.unique(numbers[numbers >= 0])
    correct = predicted[np.isin(predicted, gold.triples)]
    columns = [bin_of[triples & (1 << SHIFT) - 1] for triples in (correct, predicted, gold.triples)]
    return np.stack([np.bincount(column, minlength=len(BINS)) for column in columns], axis=1)


@functools.lru_cache(maxsize=1)
def training_triples(path: str, checksum: str) -> Counter[str]:
    """How many triples of each relation a training file has. Raises UserError if it is gone, or its SHA-256 is not
    `checksum`."""
    if not Path(path).exists() or sha256_of_file(path) != checksum:
        raise UserError(f"{path}: the file that the run was trained on is gone or has changed; put it back{SEARCHED}")
    documents = load_documents(path)
    triples = ({(label["h"], label["t"], label["r"]) for label in each.get("labels", ())} for each in documents)
    return Counter(relation for of_document in triples for _, _, relation in of_document)


FIGURES_WITH_CAPTIONS: dict[str, tuple[Callable[..., Figure], str]] = {
    "1": (figure_1, "Figure 1. A pair's scores against the threshold, without and with HingeABL"),
    "2": (figure_2, "Figure 2. An example of each wrong prediction pattern"),
    "3": (figure_3, "Figure 3. The hinge weight over the distance"),
    "4": (figure_4, "Figure 4. The decision boundary and the margin"),
    "losses": (figure_losses, "The paper's losses with first and second derivative; Appendix E's comparison"),
    "epochs": (figure_epochs, "Dev F1 over epochs"),
    "patterns": (figure_patterns, "Prediction patterns among the wrong pairs"),
    "frequency": (figure_frequency, "F1 by the relations' frequency in the training file"),
    "length": (figure_length, "Test scores by the length of the training"),
    "reliability": (figure_reliability, "How many predictions are right, by their confidence"),
}
FIGURES = {name: draw for name, (draw, _) in FIGURES_WITH_CAPTIONS.items()}
CAPTIONS = {name: caption for name, (_, caption) in FIGURES_WITH_CAPTIONS.items()}
