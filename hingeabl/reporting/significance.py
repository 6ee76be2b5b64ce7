"""Is one loss better than another? Tests on micro F1 that take the documents and the seeds into account."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np
from scipy.stats import permutation_test, t, ttest_1samp, ttest_ind

PERMUTATIONS = 10_000
RESAMPLES = 2000  # of the bootstrap


@dataclass(frozen=True)
class Counts:
    """What micro F1 is made of: correct and predicted int64 [seeds, documents], gold int64 [documents] triples."""

    correct: np.ndarray
    predicted: np.ndarray
    gold: np.ndarray


@dataclass(frozen=True)
class Comparison:
    """The difference of mean F1 of two losses, second minus first, its 95 % interval, and the p-value. `seed_noise` is
    whether the interval holds the variation between seeds. `over_seeds` is the interval of seeds_interval."""

    difference: float
    low: float
    high: float
    p_value: float
    seed_noise: bool
    over_seeds: tuple[float, float] | None = None


@dataclass(frozen=True)
class Spread:
    """The standard deviation of F1 over seeds, pooled over the losses that have several, and its degrees of freedom."""

    deviation: float
    freedom: int

    @property
    def factor(self) -> float:
        """Student's t of a 95 % interval."""
        return float(t.ppf(0.975, self.freedom))


def micro_f1(correct: np.ndarray, predicted: np.ndarray, gold: np.ndarray | int) -> np.ndarray:
    """F1 of sums of triples: 2 correct / (predicted + gold), 0 where there are none."""
    total = predicted + gold
    return 2 * correct / np.where(total == 0, 1, total)


def compare(first: Counts, second: Counts, seed: int = 0) -> Comparison:
    """Compare two losses on the same documents; the number of seeds may differ.

    The interval is of a bootstrap that draws documents, and each loss's seeds, with replacement; from a single seed it
    can draw no other, so it holds no variation between seeds then. The p-value is for these trained models alone, of
    the null hypothesis that, document by document, the two could change places: a paired permutation test over
    documents that computes both micro F1 anew for each reassignment, from the counts' means over seeds.
    """
    low, high = interval(first, second, seed)
    several = min(len(first.correct), len(second.correct)) > 1
    difference = mean_f1(second) - mean_f1(first)
    return Comparison(difference, low, high, p_value(first, second, seed), several, seeds_interval(first, second))


def seeds_interval(first: Counts, second: Counts) -> tuple[float, float] | None:
    """Student's t interval, 95 %, of the difference of mean F1 over seeds, on these documents: paired, seed by seed,
    where both losses have as many (the same ones then), else Welch's. None with a single seed."""
    ours, theirs = f1_of_seeds(second), f1_of_seeds(first)
    if min(len(ours), len(theirs)) < 2:
        return None
    paired = len(ours) == len(theirs)
    if paired and np.ptp(ours - theirs) < 1e-12:  # of which scipy warns
        return float((ours - theirs).mean()), float((ours - theirs).mean())
    found = ttest_1samp(ours - theirs, 0) if paired else ttest_ind(ours, theirs, equal_var=False)
    low, high = found.confidence_interval(0.95)
    return float(low), float(high)


def f1_of_seeds(counts: Counts) -> np.ndarray:
    """Micro F1 of each seed, [seeds]."""
    return micro_f1(counts.correct.sum(axis=1), counts.predicted.sum(axis=1), counts.gold.sum())


def mean_f1(counts: Counts) -> float:
    """Mean over seeds of micro F1."""
    return float(f1_of_seeds(counts).mean())


def spread_of_seeds(losses: Iterable[Counts]) -> Spread | None:
    """The spread over seeds of those losses that have several, None where none has."""
    scores = [f1_of_seeds(counts) for counts in losses if len(counts.correct) > 1]
    freedom = sum(len(found) - 1 for found in scores)
    squares = sum(float(((found - found.mean()) ** 2).sum()) for found in scores)
    return Spread(math.sqrt(squares / freedom), freedom) if freedom else None


def with_seed_noise(found: Comparison, spread: Spread, seeds: tuple[int, int]) -> Comparison:
    """A comparison of so many seeds whose interval holds the documents alone, with seed noise of half width t s
    sqrt(1/n1 + 1/n2) added to each half of the interval, as the root of the sum of squares."""
    noise = spread.factor * spread.deviation * math.sqrt(sum(1 / count for count in seeds))
    low = found.difference - math.hypot(found.difference - found.low, noise)
    high = found.difference + math.hypot(found.high - found.difference, noise)
    return replace(found, low=low, high=high, seed_noise=True)


def p_value(first: Counts, second: Counts, seed: int) -> float:
    """Two-sided p-value of the paired permutation test over documents."""
    count, gold = len(first.gold), first.gold.sum()
    correct = np.concatenate([first.correct.mean(axis=0), second.correct.mean(axis=0)])
    predicted = np.concatenate([first.predicted.mean(axis=0), second.predicted.mean(axis=0)])

    def difference(left: np.ndarray, right: np.ndarray, axis: int) -> np.ndarray:
        scores = [
            micro_f1(correct[place].sum(axis=axis), predicted[place].sum(axis=axis), gold)
            for place in (left.astype(np.int64), right.astype(np.int64))
        ]
        return scores[1] - scores[0]

    places = np.arange(count), np.arange(count) + count  # an observation is a document's place in the two arrays
    result = permutation_test(
        places,
        difference,
        permutation_type="samples",
        vectorized=True,
        n_resamples=PERMUTATIONS,
        batch=500,
        rng=np.random.default_rng(seed),
    )
    return float(result.pvalue)


def interval(first: Counts, second: Counts, seed: int) -> tuple[float, float]:
    """95 % bootstrap interval of the difference, documents and seeds drawn anew."""
    chance = np.random.default_rng(seed)
    count = len(first.gold)
    weights = np.empty((RESAMPLES, count), dtype=np.int64)  # [resamples, documents]: times each document was drawn
    seeds = [np.empty((RESAMPLES, len(counts.correct)), dtype=np.int64) for counts in (first, second)]  # those drawn
    for resample in range(RESAMPLES):
        weights[resample] = np.bincount(chance.integers(count, size=count), minlength=count)
        for drawn in seeds:
            drawn[resample] = chance.integers(drawn.shape[1], size=drawn.shape[1])
    gold = (weights @ first.gold)[:, None]  # [resamples, 1]
    scores = []
    for counts, drawn in zip((first, second), seeds, strict=True):
        f1 = micro_f1(weights @ counts.correct.T, weights @ counts.predicted.T, gold)  # [resamples, seeds]
        scores.append(np.take_along_axis(f1, drawn, axis=1).mean(axis=1))  # [resamples]
    low, high = np.quantile(scores[1] - scores[0], [0.025, 0.975])
    return float(low), float(high)


def holm(p_values: list[float]) -> list[float]:
    """Holm's correction for many comparisons: adjusted p-values in the same order."""
    adjusted = [0.0] * len(p_values)
    highest = 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        highest = max(highest, min(1.0, p_values[index] * (len(p_values) - rank)))
        adjusted[index] = highest
    return adjusted


def smallest_p(first_seeds: int, second_seeds: int) -> float:
    """The smallest two-sided p-value that a permutation test over so many seeds alone could reach."""
    return min(1.0, 2 / math.comb(first_seeds + second_seeds, first_seeds))
