"""The paper's claims in docs/results.md: each verdict follows from the records of the study on 992 documents."""

import json
import re

import pytest
import simulate_tests
from conftest import ROOT

import report

BOUNDS = ("difference", "low", "high")
OVER_SEEDS = {  # claim: its table and score, which is better lower or higher for HingeABL, than of which loss
    "a lower share of FN_CRK than ATL": (4, "crk_of_fn", "lower", "atl"),
    "a lower share of false negatives in the wrong pairs than ATL": (4, "fn_of_wrong", "lower", "atl"),
    "fewer wrong pairs than ATL": (4, "wrong", "lower", "atl"),
    "fewer wrong pairs than AFL": (4, "wrong", "lower", "afl"),
    "a lower threshold than ATL's": ("thresholds", "ro_p50", "lower", "atlop/atl"),
    "better Ign F1 than ATL": (3, "ign_f1", "higher", "atl"),
    "the best Ign F1": (3, "ign_f1", "higher", "afl"),
    "better macro F1 than ATL": (7, "macro_f1", "higher", "atl"),
    "better macro F1 than AFL": (7, "macro_f1", "higher", "afl"),
    "the best macro F1": (7, "macro_f1", "higher", "sat"),
}
F1_CLAIMS = {  # claim: the loss that the paper finds better, and the other
    "better F1 than ATL": ("hingeabl_released", "atl"),
    "better F1 than AFL": ("hingeabl_released", "afl"),
    "better F1 than AML": ("hingeabl_released", "aml"),
    "better F1 than Balanced Softmax": ("hingeabl_released", "balanced_softmax"),
    "hinge weights improve on SAT": ("hingeabl_released", "sat"),
    "hinge weights improve on mean weights": ("hingeabl_released", "mean_sat"),
    "mean weights improve on SAT": ("mean_sat", "sat"),
}


@pytest.fixture
def table_992(capsys):
    """A table of the study on 992 documents, by its name."""

    def table(name):
        report.main(["--table", str(name), str(ROOT / "results/documents_992"), "--format", "json"])
        return json.loads(capsys.readouterr().out)

    return table


def is_of_hingeabl(pair, first):
    return pair["first"] == first and pair["second"].rpartition("/")[2] == "hingeabl_released"


def interval_text(numbers, digits):
    """A difference and its interval as docs/results.md writes them."""
    return "{} ({} to {})".format(*(f"{numbers[name]:+.{digits}f}".replace("-", "−") for name in BOUNDS))


def claims():
    """Of each claim in docs/results.md: the verdict, its seeds, what is measured here, and the paper's figure."""
    section = (ROOT / "docs/results.md").read_text().split("\n## The paper's claims\n")[1].split("\n## ")[0]
    rows = [re.split(r" *\| *", line.strip("| ")) for line in section.splitlines() if line.startswith("| ")][1:]
    return {claim: texts for claim, *texts in rows}


def test_each_verdict_on_a_claim_names_its_seeds_and_holds_with_seed_noise(table_992):
    verdicts = claims()
    decided = {seeds for here, seeds, *_ in verdicts.values() if here in ("shows", "contradicts")}
    assert decided == {"1", "1, 5, 42"}
    found = {(c["second"], c["first"]): c for c in table_992(3)["comparisons"]}
    for claim, pair in F1_CLAIMS.items():
        here, seeds, measured, _ = verdicts[claim]
        expected = {"higher": "shows", "lower": "contradicts", "within the noise": "open"}[found[pair]["verdict"]]
        assert here == expected and seeds == ", ".join(map(str, found[pair]["seeds"][0]))
        assert measured.startswith(interval_text({name: 100 * found[pair][name] for name in BOUNDS}, 2))


def test_each_claim_on_another_score_than_f1_holds_over_seeds(table_992):
    verdicts = claims()
    for claim, (number, name, wanted, first) in OVER_SEEDS.items():
        here, seeds, measured, _ = verdicts[claim]
        [pair] = [pair for pair in table_992(number)["over_seeds"] if is_of_hingeabl(pair, first)]
        lower, higher = pair[name]["high"] < 0, pair[name]["low"] > 0
        shows, contradicts = (lower, higher) if wanted == "lower" else (higher, lower)
        assert here == ("shows" if shows else "contradicts" if contradicts else "open")
        assert seeds == ", ".join(map(str, pair["seeds"][0]))
        assert measured.startswith(interval_text(pair[name], 3 if number == "thresholds" else 2))


def test_the_best_macro_f1_is_above_that_of_each_other_loss(table_992):
    pairs = [pair for pair in table_992(7)["over_seeds"] if pair["second"] == "hingeabl_released"]
    assert len(pairs) == 7 and all(pair["macro_f1"]["low"] > 0 for pair in pairs)


def test_the_papers_differences_beside_the_claims_are_those_of_its_tables():
    paper = json.loads((ROOT / "meta/paper_results.json").read_text())["tables"]
    of_f1 = {claim: (3, "f1", *pair) for claim, pair in F1_CLAIMS.items()}
    others = {
        claim: (number, name, "hingeabl_released", loss)
        for claim, (number, name, _, loss) in OVER_SEEDS.items()
        if number != "thresholds"
    }
    verdicts = claims()
    for claim, (number, name, second, first) in {**of_f1, **others}.items():
        rows = paper[str(number)]["rows"]
        difference = f"{rows[second][name] - rows[first][name]:+.2f}".replace("-", "−")
        assert verdicts[claim][-1] == f"*{difference}*"


def test_the_noise_between_seeds_in_the_text_and_in_the_simulation_is_that_of_the_records(table_992):
    text = " ".join((ROOT / "docs/results.md").read_text().split())
    [note] = [note for note in table_992(3)["notes"] if note.startswith("With one seed, seed noise is added")]
    factor, deviation = re.search(r"\((\S+) \* (\S+) \* sqrt", note).groups()
    freedom = note.rstrip(".").split()[-1]
    assert f"standard deviation {deviation} F1, times {factor}, Student's t at {freedom} degrees of freedom" in text
    assert f"measured noise of {deviation} F1 between seeds" in text
    assert pytest.approx(float(deviation) / 100) == simulate_tests.DEVIATION
