"""Records: a run as one small JSON makes the tables and figures that its folder makes."""

import contextlib
import functools
import io
import json
import re
import shutil

import make_documents_400
import numpy as np
import pytest
from conftest import ROOT
from reports import printed
from test_figures import ALL, make_run

import report
from hingeabl.errors import UserError
from hingeabl.reporting.names import loss_title
from hingeabl.reporting.records import are_one_encoder, number_of_documents, read_runs
from hingeabl.reporting.significance import micro_f1

OTHER = {"sha256": "0" * 64, "precision": 0.5, "recall": 0.5, "f1": 0.5}  # a record's scores with other labels
SEED_TABLES = ("3", "4", "7", "precision", "other_labels")
STORED = sorted((ROOT / "results").rglob("seed_*.json"))
assert len(STORED) > 60  # else the tests of stored records would pass without one


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
    assert ", seed 5\n" in printed(capsys, "--table", "3", path)


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
        lambda record: record["timing"].update(steps="60"),
        lambda record: record["timing"].update(seconds=-1),
        lambda record: record.update(documents=400),
        lambda record: record["documents"].update(train="400"),
        lambda record: record["documents"].update(train=0),
        lambda record: record["documents"].update(training=400),
        lambda record: record.update(other_labels=[]),
        lambda record: record.update(other_labels={"x.json": 0.5}),
        lambda record: record.update(other_labels={"x.json": OTHER | {"f1": 1.5}}),
        lambda record: record.update(other_labels={"x.json": OTHER | {"recall": "1"}}),
        lambda record: record.update(other_labels={"x.json": OTHER | {"ign_f1": 0.5}}),
        lambda record: record.update(other_labels={"x.json": OTHER | {"sha256": 7}}),
        lambda record: record.update(other_labels={"x.json": {"precision": 0.5, "recall": 0.5, "f1": 0.5}}),
    ],
)
def test_a_broken_record_is_refused(records, tmp_path, change):
    record = json.loads((records / "atlop_atl" / "seed_1.json").read_text())
    change(record)
    (tmp_path / "seed_1.json").write_text(json.dumps(record))
    with pytest.raises(UserError, match=r"seed_1\.json: is not a run's record; restore the file"):
        read_runs([str(tmp_path)])


def test_a_record_keeps_steps_seconds_and_how_many_documents_its_files_hold(runs, records, data, tmp_path):
    record = json.loads((records / "atlop_atl" / "seed_1.json").read_text())
    assert record["timing"] == {"steps": 60, "seconds": 90.6} and "other_labels" not in record
    assert record["documents"] == {"train": 12, "dev": 5, "test": 5}
    number_of_documents.cache_clear()
    away = shutil.move(data / "train.json", tmp_path)
    try:
        report.main(["--record", str(tmp_path), str(runs / "atlop_atl" / "seed_1")])
    finally:
        shutil.move(away, data)
        number_of_documents.cache_clear()
    again = json.loads((tmp_path / "atlop_atl" / "seed_1.json").read_text())
    assert again == record | {"documents": {"dev": 5, "test": 5}}


def test_an_older_record_is_read_without_what_it_lacks(records, tmp_path, capsys):
    record = json.loads((records / "atlop_atl" / "seed_1.json").read_text())
    for part in ("timing", "documents"):
        record.pop(part)
    (tmp_path / "seed_1.json").write_text(json.dumps(record))
    [run] = read_runs([str(tmp_path)])[0]
    assert run.timing == run.documents == run.other_labels == {}
    assert ", seed 1\n" in printed(capsys, "--table", "3", tmp_path)


def test_a_record_and_its_run_in_one_folder_are_told_apart(runs, tmp_path):
    shutil.copytree(runs / "atlop_atl", tmp_path / "atlop_atl")
    report.main(["--record", str(tmp_path), str(tmp_path / "atlop_atl" / "seed_1")])
    with pytest.raises(UserError, match=r"both hold atlop with atl, seed 1; pass one of them"):
        read_runs([str(tmp_path)])
    (tmp_path / "atlop_atl" / "seed_1").rename(tmp_path / "elsewhere")
    assert sorted(run.seed for run in read_runs([str(tmp_path)])[0]) == [1, 5]


def test_a_run_and_a_record_given_twice_are_there_once(runs, records, monkeypatch):
    monkeypatch.chdir(records)
    assert len(read_runs([str(records), "."])[0]) == 6
    monkeypatch.chdir(runs)
    assert len(read_runs(["atlop_atl", str(runs / "atlop_atl" / "seed_1")])[0]) == 2


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
    monkeypatch.setattr(make_documents_400, "ROOT", tmp_path)
    monkeypatch.setattr(make_documents_400.sys, "argv", ["make_documents_400.py", str(tmp_path)])
    with pytest.raises(UserError, match=r"dev_revised\.json: is not the official Re-DocRED file"):
        make_documents_400.main()


@pytest.mark.parametrize("path", STORED, ids=lambda path: f"{path.parent.name}_{path.stem}")
def test_stored_records_count_what_they_score(path):
    [run] = read_runs([str(path)])[0]
    correct, predicted, gold = (counts.sum() for counts in run.test_documents)
    assert float(micro_f1(np.array(correct), np.array(predicted), gold)) == pytest.approx(run.scores["test"]["f1"])
    assert max(dev["f1"] for dev in run.dev_by_epoch.values()) == run.scores["dev"]["f1"]
    assert path.name == f"seed_{run.seed}.json" and path.stat().st_size < 2**20
    assert '"/' not in path.read_text(), "a path of the machine"


@pytest.mark.slow  # each prints every table of a study
@pytest.mark.parametrize("path", sorted((ROOT / "results").glob("*/tables.md")), ids=lambda path: path.parent.name)
def test_the_stored_tables_come_out_of_the_records(capsys, path):
    tables = printed(capsys, "--table", "all", path.parent, "--format", "markdown")
    first = {"cdr": "inter", "dwie": "all", "dwie_epochs_3": "all"}.get(path.parent.name)
    if first:  # studies whose table of runs stands there too
        both = [printed(capsys, "--table", name, path.parent, "--format", "markdown") for name in (first, "runs")]
        assert path.read_text() == "\n".join(both)
    elif path.parent.name == "documents_992":  # the study puts a sentence before them, and its runs behind them
        before, after = path.read_text().split(tables)
        assert "992 of the paper's 3,053" in before and before.count("\n") == 2
        folders = sorted({ROOT / "results" / name for name in re.findall(r"\n\| (documents_992\w*)/", after)})
        assert after == "\n" + printed(capsys, "--table", "runs", *folders, "--format", "markdown")
    else:
        assert path.read_text() == tables


def section_of_results(name):
    return (ROOT / "docs/results.md").read_text().split(f"\n## {name}\n")[1].split("\n## ")[0]


def rows_of(text):
    """The lines of its tables, but for settings and the machine."""
    return "\n".join(re.findall(r"^\|(?! settings | machine ).*$", text, re.M))


def test_every_score_in_the_readmes_table_comes_out_of_the_records(capsys):
    section = (ROOT / "README.md").read_text().split("\n## Results\n")[1].split("\n## ")[0]
    paths = [sorted((ROOT / "results/documents_992").glob(f"*/seed_{seed}.json")) for seed in (1, 5, 42, 66)]
    tables = "".join(printed(capsys, "--table", "3", *of_seed) for of_seed in paths)
    assert_scores_are_in(tables, "\n".join(re.findall(r"^\|.*$", section, re.M)))


SHARES, COUNTS = ("f1", "ign_f1", "macro_f1", "precision", "recall", "docgnre"), ("FP", "FN_CRK", "FN_IRK")


@pytest.mark.parametrize(
    ("page", "head", "columns"),
    [
        ("README.md", "| loss | F1 ", {1: "f1", 3: "ign_f1"}),
        ("docs/results.md", "| test | F1 ", {1: "f1", 3: "ign_f1", 5: "macro_f1"}),
        (
            "docs/results.md",
            "| test | precision | recall | FP ",
            dict(enumerate((*SHARES[3:5], *COUNTS, SHARES[5]), 1)),
        ),
    ],
)
def test_each_row_of_a_losss_scores_has_those_of_all_its_seeds(page, head, columns):
    text = (ROOT / page).read_text()
    table = text[text.index(head) :].split("\n\n")[0]
    rows = {
        cells[0]: cells
        for cells in ([cell.strip() for cell in line.strip("|").split("|")] for line in table.split("\n"))
    }
    assert len(rows) == 2 + 8  # with the head and its rule
    for folder in sorted((ROOT / "results/documents_992").glob("bert_*")):
        records = sorted(folder.glob("seed_*.json"), key=lambda path: int(path.stem.removeprefix("seed_")))
        contents = [json.loads(path.read_text()) for path in records]
        scores = [
            content["scores"]["test"] | {"docgnre": content["other_labels"]["test_docgnre.json"]["f1"]}
            for content in contents
        ]
        for column, name in columns.items():
            first, *others = [f"{each[name]:,}" if name in COUNTS else f"{100 * each[name]:.2f}" for each in scores]
            shown = rows[loss_title(folder.name.removeprefix("bert_"))][column]
            assert shown == first + (f" ({', '.join(others)})" if others else "")


def assert_scores_are_in(tables, text, least=26):
    scores = {score.replace(",", "") for score in re.findall(r"(?<![\w.])(?:\d+\.\d+|\d+,\d{3})(?!\w|\.\w)", text)}
    assert len(scores) >= least
    known = set(re.findall(r"\d+\.\d+|\d{4,}", tables.replace(",", "")))
    assert scores - known <= {"3053"}  # the paper's training documents


@pytest.mark.parametrize(
    "folder, sources",
    [
        ("documents_400", ["documents_400"]),
        ("documents_400_epochs_30", ["documents_400_epochs_30"]),
        ("documents_400_fp32", ["documents_400_fp32", "documents_400/*/seed_1.json"]),
    ],
)
def test_every_score_on_the_page_of_a_study_comes_out_of_the_records(folder, sources):
    tables = tables_of([("all", name) for name in sources])
    assert_scores_are_in(tables, (ROOT / "results" / folder / "README.md").read_text())


STUDY = [
    ("all", name)
    for name in (
        "documents_992",
        "documents_992_epochs_3",
        "documents_992_epochs_10",
        "documents_400",
        "documents_400_epochs_30",
    )
]
STUDY += [(name, f"documents_992/*/seed_{seed}.json") for name in SEED_TABLES for seed in (1, 5, 42, 66)]
STUDY += [("runs", "documents_992*"), ("runs", "documents_400*")]
CDR = [("all", "cdr"), ("inter", "cdr")]


@pytest.mark.parametrize("page, sources", [("documents_992/README.md", STUDY), ("cdr/README.md", CDR)])
def test_every_score_in_the_tables_of_the_studies_on_a_gpu_comes_out_of_the_records(page, sources):
    assert_scores_are_in(tables_of(sources), rows_of((ROOT / "results" / page).read_text()))


def test_the_scores_on_the_page_of_dwie_are_those_of_its_record():
    folder = ROOT / "results/dwie"
    page, record = (folder / "README.md").read_text(), json.loads((folder / "bert_atl/seed_1.json").read_text())
    for split in ("dev", "test"):
        scores = record["scores"][split]
        percent = [f"{100 * scores[name]:.2f}" for name in ("precision", "recall", "f1", "ign_f1", "macro_f1")]
        counts = [f"{scores[name]}" for name in ("FP", "FN_CRK", "FN_IRK")]
        assert f"| {split} | {' | '.join(percent + counts)} |" in page
        share = scores["FN_CRK"] / (scores["FN_CRK"] + scores["FN_IRK"])
        assert f"{100 * share:.2f} %" in page


def tables_of(sources):
    return "".join(table_of(table, name) for table, name in sources)


@functools.cache
def table_of(table, name):
    with contextlib.redirect_stdout(io.StringIO()) as shown:
        report.main(["--table", table, *map(str, sorted((ROOT / "results").glob(name)))])
    return shown.getvalue()


@pytest.mark.parametrize(
    "section, sources, least",
    [
        ("The paper's claims", [("all", "documents_992"), *STUDY], 26),
        ("992 training documents", STUDY, 26),
        ("CDR", CDR, 11),
        ("DWIE", [("all", "dwie")], 3),
        (
            "400 training documents",
            [("all", "documents_400"), ("all", "documents_400_epochs_30"), ("runs", "documents_400")],
            10,
        ),
    ],
)
def test_every_score_in_the_results_comes_out_of_the_records(section, sources, least):
    text = section_of_results(section)
    scores = text if least < 26 else re.sub(r"\*[+−]\d+\.\d+\*", "", rows_of(text))  # test_verdicts has the paper's
    assert_scores_are_in(tables_of(sources), scores, least)


@pytest.mark.parametrize(
    ("first", "second", "are_one"),
    [
        ("bert-base-cased", "bert-base-cased", True),
        ("bert-base-cased", "roberta-large", False),
        ("/here/encoders/small", "encoders/small", True),
        ("/here/encoders/small", "small", True),  # of a record
        ("encoders/a/final", "encoders/b/final", False),
        ("/here/a/final", "/here/b/other", False),
    ],
)
def test_an_encoder_is_known_by_its_name_or_where_a_record_cut_it_by_its_last_part(first, second, are_one):
    assert are_one_encoder(first, second) == are_one_encoder(second, first) == are_one
