"""Which differences between the rows of a table are more than noise: every pair of losses compared on test F1, and on
other scores over seeds."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from hingeabl.reporting import significance
from hingeabl.reporting.names import loss_title, model_title, row_title
from hingeabl.reporting.records import Run, count_by_document, data_file
from hingeabl.reporting.significance import (
    Comparison,
    Counts,
    ScoreDifference,
    Spread,
    difference_over_seeds,
    f1_of_seeds,
    spread_of_seeds,
)

Groups = dict[str, list[Run]]  # runs by row


class Difference(NamedTuple):
    """A row against another: their names, the seeds of each that were compared, the comparison, the corrected p."""

    first: str
    second: str
    seeds: tuple[list[int], list[int]]
    comparison: Comparison
    p: float


class SeedDifference(NamedTuple):
    """A row against another over their seeds, on the same documents: their names, the seeds of each that were compared,
    and for each score the difference of the means, second minus first, and its 95 % interval."""

    first: str
    second: str
    seeds: tuple[list[int], list[int]]
    scores: dict[str, ScoreDifference]


SETTINGS = (  # that change scores
    *("num_train_epochs", "train_batch_size", "gradient_accumulation_steps", "keep_last_batch"),
    *("learning_rate", "classifier_lr", "module_lr", "adam_epsilon", "warmup_ratio", "max_grad_norm"),
    *("max_seq_length", "entity_marker", "emb_size", "num_labels", "evidence_weight"),
)
OVER_SEEDS = (
    "Differences over seeds: 95 % intervals on these documents, not corrected for many comparisons. With several "
    "seeds, Student's t, seed by seed (Welch's for rows that share no seed); with one seed -/+ t s sqrt(1/n1 + 1/n2), "
    "with n1 and n2 seeds, s the standard deviation of the score over the seeds of the rows that have several, pooled, "
    "and t Student's at its degrees of freedom."
)


def compare_groups(groups: Groups) -> tuple[list[Difference], list[str]]:
    """Every pair of rows compared on test F1, and notes to print. A pair is compared on the seeds that both have, where
    there are such."""
    pairs = pairs_of(groups)
    if not pairs:
        return [], []
    for run in itertools.chain.from_iterable(groups.values()):
        path, is_present = data_file(run, "test")
        if run.test_documents is None and not is_present:
            return [], [f"differences not tested: {path}, the runs' test file, is not there or has changed"]
    chosen = [shared_seeds(groups[first], groups[second]) for first, second in pairs]
    comparisons = [compare_runs(first, second) for first, second in chosen]
    spread = spread_of_seeds(f1_of_seeds(counts_of(runs)) for runs in groups.values())
    if spread:
        comparisons = [
            each if each.seed_noise else significance.with_seed_noise(each, spread, (len(first), len(second)))
            for each, (first, second) in zip(comparisons, chosen, strict=True)
        ]
    corrected = significance.holm([comparison.p_value for comparison in comparisons])
    seeds = [([run.seed for run in first], [run.seed for run in second]) for first, second in chosen]
    results = [
        Difference(first, second, of_both, comparison, p)
        for (first, second), of_both, comparison, p in zip(pairs, seeds, comparisons, corrected, strict=True)
    ]
    return results, notes_on(results, spread, [name for name, runs in groups.items() if len(runs) > 1])


def different_trainings(runs: list[Run]) -> list[str]:
    """Notes on how the runs of a table differ: in precision, and in whether they have initial weights or a teacher;
    within a model, in a setting that changes scores; within a loss, in its parameters."""
    values = {"precision": [str(run.config.get("precision")) for run in runs]}
    for use in ("initial weights", "teacher scores", "teacher attention"):
        values[use] = ["with" if use in run.config["data"] else "without" for run in runs]
    backbones = sorted({run.backbone for run in runs})
    for backbone, name in itertools.product(backbones, SETTINGS):
        settings = [with_whole_batch(run) for run in runs if run.backbone == backbone]
        model = f" of {model_title(backbone)}" if len(backbones) > 1 else ""
        values[name + model] = [str(each[name]) for each in settings if name in each]
    for loss, name in sorted({(run.loss, name) for run in runs for name in run.config["loss"] if name != "name"}):
        of_loss = [run.config["loss"] for run in runs if run.loss == loss]
        values[f"{name} of {loss_title(loss)}"] = [str(parameters.get(name)) for parameters in of_loss]
    return [
        f"the runs differ in {name}: "
        + ", ".join(f"{value} ({count} of {len(of_runs)} runs)" for value, count in sorted(Counter(of_runs).items()))
        for name, of_runs in values.items()
        if len(set(of_runs)) > 1
    ]


def with_whole_batch(run: Run) -> dict[str, Any]:
    """A run's settings, with the batch size of all its processes."""
    settings = run.config["settings"]
    if "train_batch_size" not in settings:
        return settings
    return settings | {"train_batch_size": settings["train_batch_size"] * run.config.get("processes", 1)}


def pairs_of(groups: Groups) -> list[tuple[str, str]]:
    """The names of every two rows, of the same backbone where rows are named backbone/loss."""
    pairs = itertools.combinations(groups, 2)
    return [(first, second) for first, second in pairs if first.rpartition("/")[0] == second.rpartition("/")[0]]


def compare_over_seeds(groups: Groups, scores: dict[str, Callable[[Run], float]]) -> list[SeedDifference]:
    """Every pair of rows compared on scores, by name, over the seeds that both have; [] where no row has several."""

    def values(name: str, runs: list[Run]) -> np.ndarray:
        return np.array([scores[name](run) for run in runs])

    spreads = {name: spread_of_seeds(values(name, runs) for runs in groups.values()) for name in scores}
    results = []
    for first, second in pairs_of(groups):
        chosen = shared_seeds(groups[first], groups[second])
        seeds = [run.seed for run in chosen[0]], [run.seed for run in chosen[1]]
        differences = {
            name: difference_over_seeds(values(name, chosen[0]), values(name, chosen[1]), seeds[0] == seeds[1], spread)
            for name, spread in spreads.items()
            if spread
        }
        if differences:
            results.append(SeedDifference(first, second, seeds, differences))
    return results


def shared_seeds(first: list[Run], second: list[Run]) -> tuple[list[Run], list[Run]]:
    """The runs of two rows with a seed that both have; all where they share none."""
    shared = {run.seed for run in first} & {run.seed for run in second}
    if not shared:
        return first, second
    return [run for run in first if run.seed in shared], [run for run in second if run.seed in shared]


def compare_runs(first: list[Run], second: list[Run]) -> Comparison:
    """The comparison of two rows."""
    same_seeds = [run.seed for run in first] == [run.seed for run in second]
    return significance.compare(counts_of(first), counts_of(second), same_seeds=same_seeds)


def counts_of(runs: list[Run]) -> Counts:
    """The counts of one row's runs."""
    correct, predicted, gold = zip(*map(count_by_document, runs), strict=True)
    return Counts(np.array(correct), np.array(predicted), gold[0])


def notes_on(results: list[Difference], spread: Spread | None, several: list[str]) -> list[str]:
    """How the comparisons were made; `several` are the rows whose seeds the spread is of."""
    notes = [
        "over seeds: Student's t interval, 95 %, of the difference seed by seed, on these documents; 95 % interval: "
        "bootstrap over documents and seeds; p: for these trained models, paired permutation test over documents, "
        f"micro F1 computed anew, Holm's correction for {len(results)} comparison(s)."
    ]
    counts = [(len(result.seeds[0]), len(result.seeds[1])) for result in results]
    several_seeds = [count for count in counts if min(count) > 1]
    if fewest := max(several_seeds, key=lambda count: significance.smallest_p(*count), default=None):
        notes.append(
            f"With {fewest[0]} and {fewest[1]} seeds, a permutation test over seeds alone could not reach a p below "
            f"{significance.smallest_p(*fewest):.3g}."
        )
    if min(map(min, counts)) == 1 and spread:
        notes.append(
            "With one seed, seed noise is added to the bootstrap over documents: each half of the interval is "
            f"sqrt(documents^2 + ({spread.factor:.2f} * {100 * spread.deviation:.2f} * sqrt(1/n1 + 1/n2))^2), with n1 "
            f"and n2 seeds, {100 * spread.deviation:.2f} the standard deviation of F1 over the seeds of "
            f"{' and '.join(map(row_title, several))}, pooled, and {spread.factor:.2f} Student's t at its "
            f"degrees of freedom, {spread.freedom}."
        )
    elif min(map(min, counts)) == 1:
        notes.append(
            "With one seed, the interval is over documents alone. No loss here has several seeds that would tell how "
            "much they vary, so a difference outside its interval is open."
        )
    if any(first != second for first, second in (result.seeds for result in results)):
        notes.append(
            "Rows that share no seed are compared on all seeds that they have, by Welch's interval over seeds."
        )
    return notes


def verdict(comparison: Comparison, p_value: float) -> str:
    """Whether a difference is more than noise: 0 outside both intervals, over seeds and of the bootstrap, and p under
    0.05 after correction. It is open where the interval holds no variation between seeds."""
    low, high = comparison.over_seeds or (comparison.low, comparison.high)
    if p_value >= 0.05 or comparison.low <= 0 <= comparison.high or low <= 0 <= high:
        return "within the noise"
    if not comparison.seed_noise:
        return "open: one seed"
    return "higher" if comparison.difference > 0 else "lower"
