"""The tests of differences between losses: permutations, bootstrap, Holm's correction."""

import random

import numpy as np
import pytest
from scipy.stats import permutation_test

from evaluation import prepare_gold, score_predictions, triples_by_document
from hingeabl.readers.documents import load_documents
from hingeabl.reporting.comparisons import verdict
from hingeabl.reporting.significance import PERMUTATIONS, RESAMPLES, Counts, compare, holm, resamples, smallest_p


def counts(sample, *quality):
    """Counts of runs on the sample's test documents, one for each quality."""
    documents = load_documents(sample / "test.json") * 12  # sixty documents
    documents = [{**document, "title": str(number)} for number, document in enumerate(documents)]
    gold = prepare_gold(documents, set())
    correct, predicted = [], []
    for seed, share in enumerate(quality):
        chance = random.Random(seed)
        predictions = [
            {"title": d["title"], "h_idx": x["h"], "t_idx": x["t"], "r": x["r"] if chance.random() < share else "P0"}
            for d in documents
            for x in d["labels"]
        ]
        by_document = triples_by_document(predictions, gold)
        f1 = score_predictions(predictions, gold)["f1"]
        total = by_document[1].sum() + by_document[2].sum()
        assert 2 * by_document[0].sum() / total == pytest.approx(f1, abs=1e-12)
        correct.append(by_document[0])
        predicted.append(by_document[1])
    return Counts(np.array(correct), np.array(predicted), by_document[2])


def test_two_copies_of_a_run_do_not_differ_and_a_corrupted_copy_does(sample):
    run, corrupted = counts(sample, 0.8, 0.8), counts(sample, 0.5, 0.5)
    same = compare(run, run)
    assert same.difference == 0 and same.p_value == 1 and same.low <= 0 <= same.high
    assert verdict(same, same.p_value) == "within the noise"
    worse = compare(run, corrupted)
    assert worse.difference < -0.2 and worse.high < 0 and worse.p_value < 0.01
    assert verdict(worse, worse.p_value) == "lower"
    assert verdict(compare(corrupted, run), 0.001) == "higher"


def test_with_one_seed_against_several_seed_noise_is_in_the_interval_once(sample):
    """The bootstrap draws documents alone then, as with_seed_noise adds the seeds' part."""
    one, two = counts(sample, 0.7), counts(sample, 0.5, 0.8)
    found = compare(one, two)
    weights, _ = resamples(60, (1, 2), RESAMPLES, 0)
    gold = weights @ one.gold
    f1 = [
        np.mean([2 * (weights @ c) / (weights @ p + gold) for c, p in zip(x.correct, x.predicted, strict=True)], axis=0)
        for x in (one, two)
    ]
    assert (found.low, found.high) == pytest.approx(tuple(np.quantile(f1[1] - f1[0], [0.025, 0.975])))
    assert not found.seed_noise


def test_the_p_value_is_that_of_all_reassignments(sample):
    """Six documents: every one of the 64 ways to exchange them, counted."""
    chance = np.random.default_rng(3)
    gold = chance.integers(3, 9, size=6)
    first, second = (Counts(chance.integers(0, 4, (1, 6)), chance.integers(4, 9, (1, 6)), gold) for _ in range(2))

    def f1(parts):
        return 2 * sum(c for c, _ in parts) / (sum(p for _, p in parts) + gold.sum())

    left, right = (list(zip(side.correct[0], side.predicted[0], strict=True)) for side in (first, second))
    differences = []
    for way in range(64):
        a = [right[i] if way >> i & 1 else left[i] for i in range(6)]
        b = [left[i] if way >> i & 1 else right[i] for i in range(6)]
        differences.append(f1(b) - f1(a))
    expected = np.mean(np.abs(differences) >= abs(differences[0]) - 1e-12)
    assert compare(first, second).p_value == pytest.approx(expected)


def test_the_p_value_is_that_of_scipys_permutation_test():
    """Twenty documents, too many for every way to exchange them: those that scipy draws."""
    chance = np.random.default_rng(3)
    gold = chance.integers(3, 9, size=20)
    first, second = (Counts(chance.integers(0, 4, (n, 20)), chance.integers(4, 9, (n, 20)), gold) for n in (2, 3))
    means = [np.stack([each.correct.mean(axis=0), each.predicted.mean(axis=0)]) for each in (first, second)]
    means = np.concatenate(means, axis=1)  # [correct and predicted, documents of both]

    def difference(left, right, axis):
        (a, b), (c, d) = (means[:, place.astype(int)].sum(axis=-1) for place in (left, right))
        return 2 * c / (d + gold.sum()) - 2 * a / (b + gold.sum())

    found = permutation_test(
        (np.arange(20), np.arange(20, 40)),
        difference,
        permutation_type="samples",
        vectorized=True,
        n_resamples=PERMUTATIONS,
        rng=np.random.default_rng(0),
    )
    assert 0.01 < found.pvalue < 0.9 and compare(first, second).p_value == pytest.approx(float(found.pvalue))


def test_the_interval_is_that_of_documents_and_seeds_drawn_one_by_one():
    chance = np.random.default_rng(3)
    gold = chance.integers(3, 9, size=6)
    first, second = (Counts(chance.integers(0, 4, (n, 6)), chance.integers(4, 9, (n, 6)), gold) for n in (2, 3))
    chance, differences = np.random.default_rng(0), []
    for _ in range(RESAMPLES):
        documents, means = chance.integers(6, size=6), []
        for side in (first, second):
            scores = []
            for seed in chance.integers(len(side.correct), size=len(side.correct)):
                correct, predicted = (sum(of[seed][d] for d in documents) for of in (side.correct, side.predicted))
                scores.append(2 * correct / (predicted + sum(gold[d] for d in documents)))
            means.append(sum(scores) / len(scores))
        differences.append(means[1] - means[0])
    found = compare(first, second)
    assert (found.low, found.high) == pytest.approx(tuple(np.quantile(differences, [0.025, 0.975])), abs=1e-12)


def test_holms_correction_and_the_smallest_p():
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.6, 0.9]) == [1.0, 1.0] and holm([]) == []
    assert smallest_p(5, 5) == pytest.approx(2 / 252) and smallest_p(1, 1) == 1.0
