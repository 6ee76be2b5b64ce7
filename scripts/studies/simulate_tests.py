"""How often the tables call one of two equal losses higher or lower, by the number of seeds.

    python scripts/studies/simulate_tests.py results/documents_992/bert_atl/seed_1.json

Both losses are drawn from one record: each document's correct triples are binomial with the record's rate, its wrong
predictions Poisson. A seed multiplies both rates, by as much as makes the F1 of seeds vary as measured (standard
deviation 0.48). All differences are noise, so a test at 5 % should find one in at most 5 % of the cases.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import numpy as np
from tqdm import tqdm

from hingeabl.errors import UserError, run_command_line
from hingeabl.reporting import significance
from hingeabl.reporting.comparisons import verdict
from hingeabl.reporting.records import count_by_document, read_record
from hingeabl.reporting.significance import Counts, compare, f1_of_seeds, spread_of_seeds, with_seed_noise

DEVIATION = 0.0048  # of F1 over seeds, as measured on 992 documents
SEEDS = (1, 2, 3, 5)
CASES = 2000  # of each number of seeds
PERMUTATIONS, RESAMPLES = 499, 400  # fewer than report.py draws, to save time


def draw(base: Counts, effect: float, seeds: int, chance: np.random.Generator) -> Counts:
    """Counts of a loss with so many seeds, whose rates vary by a factor of standard deviation `effect`."""
    factor = 1 + effect * chance.standard_normal((seeds, 1))
    rate = base.correct[0] / np.maximum(base.gold, 1)
    correct = chance.binomial(base.gold, np.clip(rate * factor, 0, 1))
    wrong = chance.poisson((base.predicted[0] - base.correct[0]) / factor)
    return Counts(correct, correct + wrong, base.gold)


def find_effect(base: Counts, chance: np.random.Generator) -> float:
    """The effect of seeds that gives F1 the measured deviation."""
    effects = np.linspace(0, 0.04, 41)
    deviations = [f1_of_seeds(draw(base, effect, 2000, chance)).std() for effect in effects]
    return float(effects[np.argmin(np.abs(np.array(deviations) - DEVIATION))])


def rates(base: Counts, effect: float, seeds: int, chance: np.random.Generator) -> list[float]:
    """The shares of cases, in percent, in which each test finds a difference: p over documents, the bootstrap's
    interval, the interval over seeds, and the verdict of the tables."""
    verdicts = []
    for _ in tqdm(range(CASES), desc=f"{seeds} seeds", leave=False):
        comparison = compare(draw(base, effect, seeds, chance), draw(base, effect, seeds, chance))
        if seeds == 1:  # as the tables do: seed noise from losses with as many seeds as the study has
            spread = spread_of_seeds(f1_of_seeds(draw(base, effect, count, chance)) for count in (3, 3, 3, 3, 4))
            assert spread is not None
            reported = with_seed_noise(comparison, spread, (1, 1))
        else:
            reported = comparison
        over_seeds = comparison.over_seeds is not None and not comparison.over_seeds[0] <= 0 <= comparison.over_seeds[1]
        is_called = verdict(reported, reported.p_value) in ("higher", "lower")
        verdicts.append([comparison.p_value < 0.05, not comparison.low <= 0 <= comparison.high, over_seeds, is_called])
    return [100 * float(share) for share in np.mean(verdicts, axis=0)]


def main() -> None:
    """Print the table."""
    if len(sys.argv) != 2:
        raise UserError("pass a record, such as results/documents_992/bert_atl/seed_1.json")
    significance.PERMUTATIONS, significance.RESAMPLES = PERMUTATIONS, RESAMPLES
    correct, predicted, gold = count_by_document(read_record(Path(sys.argv[1])))
    base, chance = Counts(correct[None], predicted[None], gold), np.random.default_rng(0)
    effect = find_effect(base, chance)
    print(f"standard deviation of a seed's effect: {effect:.3f}; {CASES} cases each, in percent\n")
    print("| seeds | p over documents | bootstrap | over seeds | called higher or lower |\n|---|---|---|---|---|")
    for seeds in SEEDS:
        shown = [f"{share:.1f}" for share in rates(base, effect, seeds, chance)]
        print(
            f"| {seeds} | {' | '.join(shown)} |" if seeds > 1 else f"| 1 | {shown[0]} | {shown[1]} | - | {shown[3]} |"
        )


if __name__ == "__main__":
    run_command_line(main)
