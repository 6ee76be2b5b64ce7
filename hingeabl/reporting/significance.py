"""Is one loss better than another? Tests on micro F1 that take the documents and the seeds into account."""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from scipy.stats import t, ttest_1samp, ttest_ind

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
    whether the interval includes the variation between seeds. `over_seeds` is the interval of seeds_interval."""

    difference: float
    low: float
    high: float
    p_value: float
    seed_noise: bool
    over_seeds: tuple[float, float] | None = None


class ScoreDifference(NamedTuple):
    """A difference of means over seeds, second minus first, and its 95 % interval, in the score's unit."""

    difference: float
    low: float
    high: float


@dataclass(frozen=True)
class Spread:
    """The standard deviation of a score over seeds, pooled over the losses that have several, and its degrees of
    freedom."""

    deviation: float
    freedom: int

    @property
    def factor(self) -> float:
        """Student's t of a 95 % interval."""
        return float(t.ppf(0.975, self.freedom))

    def half_width(self, first_seeds: int, second_seeds: int) -> float:
        """Of the 95 % interval of a difference of means over so many seeds: t s sqrt(1/n1 + 1/n2)."""
        return self.factor * self.deviation * math.sqrt(1 / first_seeds + 1 / second_seeds)


def micro_f1(correct: np.ndarray, predicted: np.ndarray, gold: np.ndarray | int) -> np.ndarray:
    """F1 of sums of triples: 2 correct / (predicted + gold), 0 where there are none."""
    total = predicted + gold
    return 2 * correct / np.where(total == 0, 1, total)


def compare(first: Counts, second: Counts, seed: int = 0, same_seeds: bool = True) -> Comparison:
    """Compare two losses on the same documents; the number of seeds may differ. `same_seeds` says that two losses with
    equally many seeds have the same ones in the same order.

    The interval is of a bootstrap that draws documents, and each loss's seeds, with replacement; if one of them has a
    single seed, only documents are drawn, and the interval leaves out the variation between seeds. The p-value is for
    these trained models alone, of the null hypothesis that, document by document, the two could change places: a paired
    permutation test over documents that computes both micro F1 anew for each reassignment, from the counts' means over
    seeds.
    """
    several = min(len(first.correct), len(second.correct)) > 1
    low, high = interval(first, second, seed, several)
    ours, theirs = f1_of_seeds(second), f1_of_seeds(first)
    over_seeds = seeds_interval(theirs, ours, same_seeds)
    difference = float(ours.mean() - theirs.mean())
    return Comparison(difference, low, high, p_value(first, second, seed), several, over_seeds)


def seeds_interval(first: np.ndarray, second: np.ndarray, same_seeds: bool) -> tuple[float, float] | None:
    """Student's t interval, 95 %, of the difference of a score's means over seeds, on these documents: paired, seed by
    seed, where both losses have the same ones, else Welch's; see compare. The scores are float64 [seeds]. None with a
    single seed."""
    if min(len(first), len(second)) < 2:
        return None
    paired = same_seeds and len(first) == len(second)
    if paired and np.ptp(second - first) < 1e-12:  # of which scipy warns
        return float((second - first).mean()), float((second - first).mean())
    result = ttest_1samp(second - first, 0) if paired else ttest_ind(second, first, equal_var=False)
    low, high = result.confidence_interval(0.95)
    return float(low), float(high)


def f1_of_seeds(counts: Counts) -> np.ndarray:
    """Micro F1 of each seed, [seeds]."""
    return micro_f1(counts.correct.sum(axis=1), counts.predicted.sum(axis=1), counts.gold.sum())


def spread_of_seeds(losses: Iterable[np.ndarray]) -> Spread | None:
    """The spread over seeds of a score, float64 [seeds] for each loss, of those that have several; None if none has."""
    several = [scores for scores in losses if len(scores) > 1]
    freedom = sum(len(scores) - 1 for scores in several)
    squares = sum(float(((scores - scores.mean()) ** 2).sum()) for scores in several)
    return Spread(math.sqrt(squares / freedom), freedom) if freedom else None


def difference_over_seeds(first: np.ndarray, second: np.ndarray, same_seeds: bool, spread: Spread) -> ScoreDifference:
    """The difference of a score's means over seeds, float64 [seeds], on these documents. Its interval is
    seeds_interval, with a single seed the difference -/+ t s sqrt(1/n1 + 1/n2)."""
    difference = float(second.mean() - first.mean())
    noise = spread.half_width(len(first), len(second))
    low, high = seeds_interval(first, second, same_seeds) or (difference - noise, difference + noise)
    return ScoreDifference(difference, low, high)


def with_seed_noise(comparison: Comparison, spread: Spread, seeds: tuple[int, int]) -> Comparison:
    """A comparison whose interval covers the documents only, with the seed noise, Spread.half_width, added to each half
    of the interval, as the root of the sum of squares; `seeds` are n1 and n2."""
    noise = spread.half_width(*seeds)
    low = comparison.difference - math.hypot(comparison.difference - comparison.low, noise)
    high = comparison.difference + math.hypot(comparison.high - comparison.difference, noise)
    return replace(comparison, low=low, high=high, seed_noise=True)


def p_value(first: Counts, second: Counts, seed: int) -> float:
    """Two-sided p-value of the paired permutation test over documents; scipy's permutation_test finds the same in a
    hundred times the time."""
    ways = permutations(len(first.gold), PERMUTATIONS, seed)  # [ways, documents]
    stay, move = [], []  # of each loss: mean over seeds of correct and predicted triples, [2, ways]
    for counts in (first, second):
        by_document = np.stack([counts.correct, counts.predicted]).sum(axis=1)  # [2, documents]
        moved = by_document @ ways.T
        stay.append((by_document.sum(axis=1, keepdims=True) - moved) / len(counts.correct))
        move.append(moved / len(counts.correct))
    gold = first.gold.sum()
    first_f1, second_f1 = (micro_f1(sums[0], sums[1], gold) for sums in (stay[0] + move[1], stay[1] + move[0]))
    differences = second_f1 - first_f1
    observed, rounding = differences[0], 1e-12
    sides = (differences <= observed + rounding).mean(), (differences >= observed - rounding).mean()
    return float(min(1, 2 * min(sides)))


@functools.lru_cache(maxsize=2)
def permutations(count: int, max_count: int, seed: int) -> np.ndarray:
    """Ways to exchange two losses' counts, 1 where they change places, float64 [ways, documents]. The first exchanges
    nothing. Then come `max_count` random ones; or, if there are at most `max_count` ways, all of them."""
    if 2**count <= max_count:
        return np.array(list(itertools.product((0.0, 1.0), repeat=count)))
    places = np.tile(np.arange(2, dtype=np.int8), (max_count, count, 1))
    drawn = np.random.default_rng(seed).permuted(places, axis=-1)[:, :, 0]
    return np.concatenate([np.zeros((1, count)), drawn])


def interval(first: Counts, second: Counts, seed: int, draw_seeds: bool = True) -> tuple[float, float]:
    """95 % bootstrap interval of the difference, documents and, with `draw_seeds`, seeds drawn anew."""
    sizes = len(first.correct), len(second.correct)
    weights, seeds = resamples(len(first.gold), sizes, RESAMPLES, seed)
    gold = (weights @ first.gold)[:, None]  # [resamples, 1]
    scores = []
    for counts, drawn in zip((first, second), seeds, strict=True):
        f1 = micro_f1(weights @ counts.correct.T, weights @ counts.predicted.T, gold)  # [resamples, seeds]
        scores.append((np.take_along_axis(f1, drawn, axis=1) if draw_seeds else f1).mean(axis=1))  # [resamples]
    low, high = np.quantile(scores[1] - scores[0], [0.025, 0.975])
    return float(low), float(high)


@functools.lru_cache(maxsize=4)
def resamples(count: int, sizes: tuple[int, int], number: int, seed: int) -> tuple[np.ndarray, list[np.ndarray]]:
    """What a bootstrap draws, the same for every pair of losses with so many documents and seeds: how often each
    document, float64 [resamples, documents], and which seeds of each loss, int64 [resamples, seeds]."""
    chance = np.random.default_rng(seed)
    weights = np.empty((number, count))
    seeds = [np.empty((number, size), dtype=np.int64) for size in sizes]
    for resample in range(number):
        weights[resample] = np.bincount(chance.integers(count, size=count), minlength=count)
        for drawn in seeds:
            drawn[resample] = chance.integers(drawn.shape[1], size=drawn.shape[1])
    return weights, seeds


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
