"""Records: a run as one small JSON makes the tables and figures that its folder makes."""

import json
import re
import shutil

import make_small
import numpy as np
import pytest
from conftest import ROOT
from test_figures import ALL, make_run

import report
from hingeabl.errors import UserError
from hingeabl.reporting.records import read_runs
from hingeabl.reporting.significance import micro_f1

STORED = sorted((ROOT / "results").rglob("seed_*.json"))


@pytest.fixture(scope="module")
def data(sample, tmp_path_factory):
    """The sample's files where they can be taken away."""
    folder = tmp_path_factory.mktemp("data")
    for path in sample.iterdir():
        shutil.copy(path, folder)
    return folder


@pytest.fixture(scope="module")
def runs(data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    for loss in ("atl", "hingeabl", "atgl"):
        for seed in (1, 5):
            make_run(folder, data, loss, seed, ALL)
    return folder


@pytest.fixture(scope="module")
def records(runs, tmp_path_factory):
    folder = tmp_path_factory.mktemp("records")
    report.main(["--record", str(folder), str(runs)])
    return folder


def printed(capsys, *arguments):
    report.main([str(argument) for argument in arguments])
    return capsys.readouterr().out


@pytest.mark.parametrize("format", ["text", "json", "csv", "markdown"])
def test_records_make_the_tables_of_their_runs_without_the_data(runs, records, data, tmp_path, capsys, format):
    expected = printed(capsys, "--table", "all", "--format", format, runs)
    away = shutil.move(data / "test.json", tmp_path)
    try:
        assert printed(capsys, "--table", "all", "--format", format, records) == expected
    finally:
        shutil.move(away, data)
    if format == "json":
        assert [table["table"] for table in json.loads(expected)] == [1, 3, 4, 7, "3_later", "precision", "thresholds"]


def test_records_make_the_figures_that_need_no_pairs_and_say_which_do(runs, records, tmp_path):
    for name in ("epochs", "patterns"):
        for source in (runs, records):
            report.main(["--figure", name, "--output", str(tmp_path / source.name), str(source)])
        pictures = [(tmp_path / source.name / f"figure_{name}.png").read_bytes() for source in (runs, records)]
        assert pictures[0] == pictures[1]
    for name, what in (("2", "scores of pairs"), ("frequency", "predictions")):
        with pytest.raises(UserError, match=rf"seed_1\.json: a record holds no {what}; pass the run's folder"):
            report.main(["--figure", name, str(records)])


def test_a_record_is_small_and_one_may_be_passed_by_its_path(records, capsys):
    path = records / "atlop_atl" / "seed_5.json"
    assert path.stat().st_size < 20_000
    assert '"/' not in path.read_text(), "a path of the machine"
    assert "seeds 5" in printed(capsys, "--table", "3", path)


@pytest.mark.parametrize(
    "change",
    [
        lambda record: record.pop("config"),
        lambda record: record.pop("thresholds"),
        lambda record: record["thresholds"].update(ro_mean=None),
        lambda record: record["thresholds"].update(f1=0.5),
        lambda record: record["thresholds"].pop("ro_p5"),
        lambda record: record.update(dev_by_epoch=[]),
        lambda record: record["scores"].update(test={}),
        lambda record: record["scores"]["test"].update(f1=2),
        lambda record: record["dev_by_epoch"][0]["dev"].update(f1="1"),
        lambda record: record["test_documents"].update(gold="1 2"),
        lambda record: record["test_documents"].update(correct="9999 0 0 0 0"),
        lambda record: record["test_documents"].update(predicted="0 0 0 0 0"),
        lambda record: record["test_documents"].update(correct="1 x 0 0 0"),
        lambda record: record["test_documents"].update(correct="1"),
    ],
)
def test_a_broken_record_is_refused(records, tmp_path, change):
    record = json.loads((records / "atlop_atl" / "seed_1.json").read_text())
    change(record)
    (tmp_path / "seed_1.json").write_text(json.dumps(record))
    with pytest.raises(UserError, match=r"seed_1\.json: is not a run's record; restore the file"):
        read_runs([str(tmp_path)])


def test_a_record_and_its_run_in_one_folder_are_told_apart(runs, tmp_path):
    shutil.copytree(runs / "atlop_atl", tmp_path / "atlop_atl")
    report.main(["--record", str(tmp_path), str(tmp_path / "atlop_atl" / "seed_1")])
    with pytest.raises(UserError, match=r"both hold atlop with atl, seed 1; pass one of them"):
        read_runs([str(tmp_path)])
    (tmp_path / "atlop_atl" / "seed_1").rename(tmp_path / "elsewhere")
    assert sorted(run.seed for run in read_runs([str(tmp_path)])[0]) == [1, 5]


def test_a_record_of_another_run_is_not_overwritten(runs, tmp_path):
    report.main(["--record", str(tmp_path), str(runs / "atlop_atl" / "seed_1")])
    other = shutil.copytree(runs / "atlop_hingeabl", tmp_path / "other" / "atlop_atl")
    report.main(["--record", str(tmp_path), str(runs / "atlop_atl" / "seed_1")])  # the same run may be written again
    with pytest.raises(UserError, match=r"atlop_atl/seed_1\.json: is the record of another run"):
        report.main(["--record", str(tmp_path), str(other / "seed_1")])


def test_runs_that_are_not_finished_are_named(runs, tmp_path, capsys):
    run = shutil.copytree(runs / "atlop_atl" / "seed_1", tmp_path / "atlop_atl" / "seed_1")
    (run / "scores.json").unlink()
    with pytest.raises(UserError, match=r"seed_1: not finished"):
        report.main(["--record", str(tmp_path / "records"), str(tmp_path)])
    assert "not finished, left out" in capsys.readouterr().out


def test_the_small_study_refuses_other_documents_than_the_official_ones(data, tmp_path, monkeypatch):
    for name in ("dev_revised.json", "test_revised.json"):
        shutil.copy(data / "dev.json", tmp_path / name)
    monkeypatch.setattr(make_small, "ROOT", tmp_path)
    monkeypatch.setattr(make_small.sys, "argv", ["make_small.py", str(tmp_path)])
    with pytest.raises(UserError, match=r"dev_revised\.json: is not the official Re-DocRED file"):
        make_small.main()


@pytest.mark.parametrize("path", STORED, ids=lambda path: f"{path.parent.name}_{path.stem}")
def test_stored_records_count_what_they_score(path):
    [run] = read_runs([str(path)])[0]
    correct, predicted, gold = (counts.sum() for counts in run.test_documents)
    assert float(micro_f1(np.array(correct), np.array(predicted), gold)) == pytest.approx(run.scores["test"]["f1"])
    assert max(dev["f1"] for dev in run.dev_by_epoch.values()) == run.scores["dev"]["f1"]
    assert path.name == f"seed_{run.seed}.json" and path.stat().st_size < 2**20
    assert '"/' not in path.read_text(), "a path of the machine"


@pytest.mark.parametrize("name", sorted(path.name for path in (ROOT / "results").iterdir()))
def test_the_stored_tables_come_out_of_the_records(capsys, name):
    tables = printed(capsys, "--table", "all", ROOT / "results" / name, "--format", "markdown")
    assert (ROOT / "results" / name / "tables.md").read_text() == tables


@pytest.mark.parametrize(
    "section, sources",
    [
        ("The small study", [["small"]]),
        ("The same with thirty epochs", [["small_30"]]),
        (
            "The same in float32, on another machine",
            [["small_fp32"], ["small/bert_atl/seed_1.json", "small/bert_hingeabl_released/seed_1.json"]],
        ),
    ],
)
def test_every_score_in_the_results_comes_out_of_the_records(capsys, section, sources):
    tables = "".join(
        printed(capsys, "--table", "all", *(ROOT / "results" / path for path in paths)) for paths in sources
    )
    text = (ROOT / "docs/results.md").read_text().split(f"\n## {section}\n")[1].split("\n## ")[0]
    scores = {score.replace(",", "") for score in re.findall(r"(?<![\w.])(?:\d+\.\d+|\d+,\d{3})(?![\w.])", text)}
    scores.discard("3053")  # the paper's training documents
    assert len(scores) > 25
    assert scores - set(re.findall(r"\d+\.\d+|\d{4,}", tables)) == set()
