"""The paper's tables from run folders, and the tests of differences."""

import csv
import io
import itertools
import json
import math
import random
import re
import shutil
import statistics

import pytest
import torch
from conftest import ROOT
from reports import printed
from safetensors.torch import save_file

import report
from evaluation import prepare_gold, score_predictions, threshold_diagnostics, train_facts
from hingeabl.errors import UserError
from hingeabl.files import sha256_of_file
from hingeabl.readers.documents import load_documents
from hingeabl.reporting.names import loss_title
from hingeabl.reporting.significance import holm
from hingeabl.training.runs import print_summary, summarise
from losses import loss_names

pytestmark = pytest.mark.usefixtures("as_redocred")
OF_THE_PAPER = ("atl", "balanced_softmax", "afl", "aml", "sat", "mean_sat", "hingeabl", "hingeabl_released")
OF_OTHERS = ("atgl", "ncrl", "pmtl", "amtl", "pn_risk")  # a loss that somebody adds is in neither
PATTERNS = {"correct": 900, "FP": 40, "FN_CRK": 45, "FN_IRK": 15}


def make_run(folder, sample, loss, seed, quality, backbone="atlop", encoder="small"):
    """A finished run whose predictions are the gold ones with a share of them replaced: `quality` is what is left."""
    folder = folder / f"{backbone}_{loss}" / f"seed_{seed}"
    folder.mkdir(parents=True)
    documents = load_documents(sample / "test.json")
    chance = random.Random(f"{seed} {quality}")
    predictions = [
        {"title": d["title"], "h_idx": x["h"], "t_idx": x["t"], "r": x["r"] if chance.random() < quality else "P0"}
        for d in documents
        for x in d["labels"]
    ]
    gold = prepare_gold(documents, train_facts(load_documents(sample / "train.json")))
    scores = score_predictions(predictions, gold) | PATTERNS
    settings = {f"{split}_file": f"{split}.json" for split in ("train", "dev", "test")}
    settings |= {"data_dir": str(sample), "backbone": backbone, "model_name_or_path": encoder, "num_labels": 4}
    data = {split: sha256_of_file(sample / f"{split}.json") for split in ("train", "dev", "test")}
    (folder / "config.json").write_text(
        json.dumps({"seed": seed, "settings": settings, "loss": {"name": loss}, "data": data})
    )
    (folder / "scores.json").write_text(json.dumps({"seed": seed, "best_epoch": 1, "dev": scores, "test": scores}))
    (folder / "result.json").write_text(json.dumps(predictions))
    return folder.parent


@pytest.fixture
def runs(sample, tmp_path):
    """A folder with every loss of this and of other papers, two seeds each."""
    for number, loss in enumerate(OF_THE_PAPER + OF_OTHERS):
        for seed in (1, 5):
            make_run(tmp_path / "runs", sample, loss, seed, 0.4 + 0.05 * number)
    return tmp_path / "runs"


def summary_of(runs, loss):
    results = [json.loads(path.read_text()) for path in sorted((runs / f"atlop_{loss}").glob("seed_*/scores.json"))]
    return summarise({"name": loss}, results)["test"]["f1"]


def every_format(number, runs):
    """A table as report.py prints it, by format; its comparisons, which take seconds, are made once."""
    table = report.table_with_thresholds(number, *report.read_runs([str(runs)]))
    return {name: write(table) for name, write in report.WRITERS.items()}


def test_every_format_of_table_3_agrees_with_the_summary(runs):
    found = every_format(3, runs)
    rows = {row["name"]: row for row in json.loads(found["json"])["rows"]}
    lines = {row["name"]: row for row in csv.DictReader(io.StringIO(found["csv"]))}
    assert set(rows) == set(lines) == set(OF_THE_PAPER)
    for loss in OF_THE_PAPER:
        f1 = summary_of(runs, loss)
        assert rows[loss]["f1"]["mean"] == pytest.approx(100 * f1["mean"], abs=1e-9)
        assert rows[loss]["f1"]["std"] == pytest.approx(100 * f1["std"], abs=1e-9)
        assert float(lines[loss]["f1_mean"]) == rows[loss]["f1"]["mean"] and lines[loss]["seeds"] == "1 5"
        shown = f"{100 * f1['mean']:.2f} {{}} {100 * f1['std']:.2f}"
        assert re.search(rf"\n{loss_title(loss)} .*{re.escape(shown.format('±'))}", found["text"])
        assert re.search(rf"\n\| {loss_title(loss)} \| 2 \| \**{re.escape(shown.format('±'))}", found["markdown"])
        assert shown.format(r"$\pm$") in found["latex"] and f"\n{loss_title(loss)} & 2" in found["latex"]


def test_p_values_of_a_table_are_corrected_for_all_its_comparisons(runs, capsys):
    found = json.loads(printed(capsys, "--table", 3, runs, "--format", "json"))["comparisons"]
    assert [each["corrected_p"] for each in found] == pytest.approx(holm([each["p_value"] for each in found]))
    assert any(each["corrected_p"] > each["p_value"] for each in found)


def test_runs_of_other_models_are_told_where_a_table_leaves_them_out(runs, sample, capsys):
    make_run(runs, sample, "atl", 1, 0.5, "docunet")
    assert "not ATLOP, left out: DocuNet" in printed(capsys, "--table", 3, runs)
    assert "not ATLOP" not in printed(capsys, "--table", 2, runs)


def test_the_summary_of_a_training_shows_each_seed_and_their_mean_and_deviation(capsys):
    results = [
        {"seed": seed, "dev": {"f1": f1, "ign_f1": f1 - 0.01}, "test": {"f1": f1 + 0.1, "ign_f1": f1}}
        for seed, f1 in ((1, 0.5), (5, 0.6))
    ]
    print_summary(summarise({"name": "afl"}, results))
    assert [line.split() for line in capsys.readouterr().out.splitlines()[1:]] == [
        ["afl", "dev", "F1", "dev", "Ign", "F1", "test", "F1", "test", "Ign", "F1"],
        ["seed", "1", "50.00", "49.00", "60.00", "50.00"],
        ["seed", "5", "60.00", "59.00", "70.00", "60.00"],
        "mean ± std 55.00 ± 7.07 54.00 ± 7.07 65.00 ± 7.07 55.00 ± 7.07".split(),
    ]


def test_the_papers_figure_and_the_difference_stand_beside_ours(runs, capsys):
    table = printed(capsys, "--table", 3, runs)
    ours = 100 * summary_of(runs, "afl")["mean"]
    rows = [line for line in table.splitlines() if "against" not in line]
    [line] = [line for line in rows if line.startswith("AFL ")]
    assert "74.15" in line and f"{round(ours, 2) - 74.15:+.2f}" in line
    assert "test, small (the paper's: BERT-base), seeds 1, 5" in table
    [line] = [line for line in rows if line.startswith("HingeABL as printed ")]
    assert "75.15" not in line  # Eq. (10) to the letter has no row in the paper


def test_the_best_of_each_column_is_marked_once(runs, capsys):
    found = json.loads(printed(capsys, "--table", 3, runs, "--format", "json"))
    for key in ("f1", "ign_f1"):
        best = [row for row in found["rows"] if row[key]["best"]]
        assert len(best) == 1 and best[0][key]["mean"] == max(row[key]["mean"] for row in found["rows"])


@pytest.mark.parametrize("number", [3, 4, 7])
def test_losses_of_other_papers_stay_out_of_the_papers_tables(runs, capsys, number):
    found = json.loads(printed(capsys, "--table", number, runs, "--format", "json"))
    assert {row["name"] for row in found["rows"]} == set(OF_THE_PAPER)
    assert len(found["comparisons"]) == (28 if number == 3 else 0)  # what Holm's correction counts
    assert "not of the paper, left out: AMTL, ATGL, NCRL, PMTL, SSR-PU" in found["notes"]


def test_a_table_of_the_paper_takes_no_losses_of_other_papers_alone(runs, sample, tmp_path):
    make_run(tmp_path / "others", sample, "atgl", 1, 0.5)
    with pytest.raises(UserError, match=r"table 3: none of .* ATLOP with any loss but atgl, ncrl, pmtl, amtl, pn_risk"):
        report.main(["--table", "3", str(tmp_path / "others")])


def test_the_extended_table_shows_every_loss_and_every_published_figure_with_its_source(runs):
    found = every_format("3_later", runs)
    table = json.loads(found["json"])
    rows = {row["name"]: row for row in table["rows"]}
    losses = [loss for loss in loss_names() if loss in OF_THE_PAPER + OF_OTHERS]
    assert list(rows) == [*losses, "ARPDL", "CMM", "TTM-RE", "TTM-RE, rerun"]
    assert len(losses) == 13 and len(table["comparisons"]) == math.comb(13, 2)
    for loss in losses:
        assert rows[loss]["f1"]["mean"] == pytest.approx(100 * summary_of(runs, loss)["mean"], abs=1e-9)
    published = {name: (row["f1"]["paper"], row["ign_f1"]["paper"]) for name, row in rows.items()}
    assert published["ncrl"] == (73.87, 72.79) and published["pmtl"] == (73.98, 73.06)
    assert published["atgl"] == (77.26, 76.05) and published["afl"] == (74.15, 73.20)
    assert published["amtl"] == (75.63, 74.44) and published["ARPDL"] == (75.90, 74.81)
    assert published["CMM"] == (76.12, 74.76) and published["hingeabl"] == (None, None)
    assert rows["afl"]["source"] == "Wang et al. 2023" and rows["CMM"]["source"] == "Xu et al. 2026"
    assert rows["TTM-RE, rerun"]["f1"]["paper"] == 77.94 and rows["TTM-RE, rerun"]["ign_f1"]["paper"] is None
    assert rows["CMM"]["seeds"] == [] and rows["CMM"]["f1"]["mean"] is None and "source" not in rows["hingeabl"]
    for text in ("bert-base-uncased", "4e-5", "20 epochs", "one seed"):
        assert text in table["notes"][-1] and text in found["text"] and text in found["markdown"]
    assert re.search(r"\nCMM +0 +76\.12 +74\.76 +Xu et al\. 2026\n", found["text"])
    assert "| CMM | 0 |  | 76.12 |  |  | 74.76 |  | Xu et al. 2026 |" in found["markdown"]
    assert "CMM & 0 &  & 76.12 &  &  & 74.76 &  & Xu et al. 2026" in found["latex"]
    lines = {row["name"]: row for row in csv.DictReader(io.StringIO(found["csv"]))}
    assert lines["CMM"] == {"name": "CMM", "seeds": "", "f1_mean": "", "f1_std": "", "f1_paper": "76.12"} | {
        "ign_f1_mean": "",
        "ign_f1_std": "",
        "ign_f1_paper": "74.76",
        "source": "Xu et al. 2026",
    }


def test_a_loss_without_runs_is_published_only_in_the_extended_table(sample, tmp_path, capsys):
    make_run(tmp_path, sample, "atgl", 1, 0.5)
    rows = json.loads(printed(capsys, "--table", "3_later", tmp_path, "--format", "json"))["rows"]
    assert [row["name"] for row in rows if row["seeds"]] == ["atgl"] and len(rows) == 16
    assert not any(row["f1"]["best"] for row in rows)


def random_pair_scores(folder, sample, seed):
    """Give a run of make_run random scores of all pairs of the test split; returns them and the labels [pairs, 97]."""
    documents = load_documents(sample / "test.json")
    sizes = [len(document["vertexSet"]) for document in documents]
    pairs = [(d, h, t) for d, size in enumerate(sizes) for h, t in itertools.permutations(range(size), 2)]
    scores = torch.randn(len(pairs), 97, generator=torch.Generator().manual_seed(seed))
    pairs = torch.tensor(pairs, dtype=torch.int32)
    tensors = {"document": pairs[:, 0].contiguous(), "entities": pairs[:, 1:].contiguous(), "scores": scores}
    save_file(tensors, folder / "pair_scores_test.safetensors")
    shutil.copy(ROOT / "meta" / "rel2id.json", folder / "rel2id.json")
    rel2id = json.loads((ROOT / "meta" / "rel2id.json").read_text())
    labels = torch.zeros(scores.shape)
    places = {tuple(pair): row for row, pair in enumerate(pairs.tolist())}
    for number, document in enumerate(documents):
        for label in document["labels"]:
            labels[places[number, label["h"], label["t"]], rel2id[label["r"]]] = 1
    return scores, labels


def test_the_table_of_thresholds_is_computed_from_the_pairs_scores_with_each_losss_threshold(sample, tmp_path, capsys):
    expected = {}
    for number, (backbone, loss) in enumerate([("atlop", "ncrl"), ("docunet", "balanced_softmax")]):
        for seed in (1, 5):
            folder = make_run(tmp_path / "runs", sample, loss, seed, 0.5, backbone) / f"seed_{seed}"
            scores, labels = random_pair_scores(folder, sample, 10 * number + seed)
            threshold = scores[:, 0] if loss == "ncrl" else torch.zeros(len(scores))
            expected.setdefault(f"{backbone}/{loss}", []).append(threshold_diagnostics(scores, labels, threshold))
    rows = json.loads(printed(capsys, "--table", "thresholds", tmp_path / "runs", "--format", "json"))["rows"]
    assert [row["name"] for row in rows] == list(expected)
    for row in rows:
        for name, first in expected[row["name"]][0].items():
            scale = 100 if name == "ovr" else 1
            values = [scale * first, scale * expected[row["name"]][1][name]]
            assert row[name]["mean"] == pytest.approx(statistics.mean(values))
            assert row[name]["std"] == pytest.approx(statistics.stdev(values))
    text = printed(capsys, "--table", "thresholds", tmp_path / "runs")
    assert "paper" not in text and "diff." not in text and re.search(r"\nATLOP, NCRL +2 +-?\d\.\d{3} ±", text)


def test_the_table_of_thresholds_names_a_run_without_pair_scores(sample, tmp_path):
    make_run(tmp_path, sample, "atl", 1, 0.5)
    shutil.copy(ROOT / "meta" / "rel2id.json", tmp_path / "atlop_atl" / "seed_1")
    with pytest.raises(UserError, match=r"seed_1/pair_scores_test\.safetensors: no such file"):
        report.main(["--table", "thresholds", str(tmp_path)])


def test_pattern_tables_count_as_the_paper_does(runs, capsys):
    [row] = json.loads(printed(capsys, "--table", 1, runs, "--format", "json"))["rows"]
    assert row["name"] == "atl" and [row[key]["mean"] for key in ("FP", "FN_CRK", "FN_IRK")] == [40, 45, 15]
    assert row["FN_CRK"]["paper"] == 3192
    rows = json.loads(printed(capsys, "--table", 4, runs, "--format", "json"))["rows"]
    for row in rows:
        assert [row[key]["mean"] for key in ("wrong", "fn_of_wrong", "crk_of_fn")] == [10, 60, 75]


def test_table_2_compares_within_a_backbone_alone(sample, tmp_path, capsys):
    for backbone, loss in [("atlop", "atl"), ("docunet", "balanced_softmax"), ("kd_docre", "afl")]:
        make_run(tmp_path, sample, loss, 1, 0.5, backbone)
        make_run(tmp_path, sample, "hingeabl_released", 1, 0.9, backbone)
    found = json.loads(printed(capsys, "--table", 2, tmp_path, "--format", "json"))
    assert [(c["first"], c["second"]) for c in found["comparisons"]] == [
        ("atlop/atl", "atlop/hingeabl_released"),
        ("docunet/balanced_softmax", "docunet/hingeabl_released"),
        ("kd_docre/afl", "kd_docre/hingeabl_released"),
    ]
    assert {row["name"]: row["f1"]["paper"] for row in found["rows"]}["docunet/hingeabl_released"] == 79.43


def test_a_table_says_which_of_its_runs_were_trained_otherwise(runs, capsys):
    def train_as(folder, precision, epochs):
        config = json.loads((folder / "config.json").read_text())
        config["precision"], config["settings"]["num_train_epochs"] = precision, epochs
        (folder / "config.json").write_text(json.dumps(config))

    for folder in runs.glob("*/seed_*"):
        train_as(folder, "bf16", 30)
    assert "differ in" not in printed(capsys, "--table", 3, runs)
    train_as(runs / "atlop_atl" / "seed_5", "fp32", 10)
    table = printed(capsys, "--table", 3, runs)
    assert "the runs differ in precision: bf16 (15 of 16 runs), fp32 (1 of 16 runs)" in table
    assert "the runs differ in num_train_epochs: 10 (1 of 16 runs), 30 (15 of 16 runs)" in table
    assert "differ in" not in printed(capsys, "--table", 3, runs / "atlop_sat")
    path = runs / "atlop_hingeabl_released" / "seed_5" / "config.json"
    config = json.loads(path.read_text())
    config["loss"]["margin"], config["settings"]["learning_rate"] = 1.0, 3e-5
    path.write_text(json.dumps(config))
    for form in ("text", "latex", "csv"):
        report.main(["--table", "3", str(runs), "--format", form])
        told = capsys.readouterr()
        notes = told.out if form == "text" else told.err
        assert "the runs differ in margin of HingeABL: " in notes and "the runs differ in num_train_epochs" in notes
        assert (form == "text") == ("differ in" in told.out)


def change_config(folder, **changes):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | changes))
    return config


def test_a_batch_is_that_of_all_processes(runs, capsys):
    folder = runs / "atlop_atl" / "seed_5"
    for each in runs.glob("*/seed_*"):
        settings = json.loads((each / "config.json").read_text())["settings"]
        change_config(each, settings=settings | {"train_batch_size": 4})
    settings = change_config(folder, processes=2)["settings"]
    table = printed(capsys, "--table", 3, runs)
    assert "the runs differ in train_batch_size: 4 (15 of 16 runs), 8 (1 of 16 runs)" in table
    change_config(folder, settings=settings | {"train_batch_size": 2})
    assert "differ in" not in printed(capsys, "--table", 3, runs)


def test_runs_with_other_initial_weights_are_compared_and_the_table_says_so(runs, capsys):
    for number, seed in enumerate((1, 5)):
        folder = runs / "atlop_atl" / f"seed_{seed}"
        data = json.loads((folder / "config.json").read_text())["data"]
        change_config(folder, data=data | {"initial weights": 64 * str(number)})
    table = printed(capsys, "--table", 3, runs)
    assert "the runs differ in initial weights: with (2 of 16 runs), without (14 of 16 runs)" in table
    assert "differ in" not in printed(capsys, "--table", 3, runs / "atlop_atl")


def test_runs_of_other_models_and_losses_do_not_count_as_without_the_tables_scores(runs, sample, capsys):
    paths = [make_run(runs, sample, "atl", 1, 0.5, "docunet") / "seed_1", runs / "atlop_atl" / "seed_5"]
    for path in (path / "scores.json" for path in (*paths, runs / "atlop_ncrl" / "seed_5")):
        path.write_text(json.dumps(json.loads(path.read_text()) | {"test": {}}))
    table = printed(capsys, "--table", 3, runs)
    assert "without the scores of this table, left out: 1 of 16 runs" in table


def test_differences_are_not_tested_where_the_test_file_is_gone(runs, sample, capsys, tmp_path):
    for path in runs.rglob("config.json"):
        config = json.loads(path.read_text())
        config["settings"]["test_file"] = "gone.json"
        path.write_text(json.dumps(config))
    table = printed(capsys, "--table", 3, runs)
    assert "differences not tested" in table and "gone.json" in table and "Differences of test F1" not in table


def test_unfinished_runs_are_named_and_left_out(runs, capsys):
    (runs / "atlop_afl" / "seed_5" / "scores.json").unlink()
    found = printed(capsys, "--table", 7, runs)
    assert "not finished, left out: " in found and "atlop_afl/seed_5" in found
    assert re.search(r"\nAFL +1 ", found)


@pytest.mark.parametrize(
    ("harm", "expected"),
    [
        (lambda runs, sample: make_run(runs / "again", sample, "atl", 1, 0.5), r"both hold atlop with atl, seed 1"),
        (lambda runs, sample: make_run(runs, sample, "atl", 66, 0.5, encoder="big"), "differ in encoder or data"),
        (lambda runs, sample: (runs / "atlop_atl/seed_1/scores.json").write_text("[]"), "is not a run's"),
        (lambda runs, sample: (runs / "atlop_atl/seed_1/result.json").unlink(), r"result\.json: no such file"),
    ],
)
def test_runs_that_do_not_go_together_are_refused(runs, sample, capsys, harm, expected):
    harm(runs, sample)
    with pytest.raises(UserError, match=expected):
        report.main(["--table", "3", str(runs)])


def test_a_folder_without_runs_is_refused(tmp_path):
    with pytest.raises(UserError, match="holds no runs"):
        report.main(["--table", "3", str(tmp_path)])
    with pytest.raises(UserError, match="holds no runs"):
        report.main(["--table", "3", str(tmp_path / "absent")])
