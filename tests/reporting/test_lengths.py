"""Trainings of several lengths and on several training files: the figure that sets them side by side, and the list of
what each run cost."""

import csv
import io
import json
import math
import re
import shutil
import statistics

import pytest
from conftest import ROOT
from reports import printed
from test_figures import ALL, make_run

import report
from hingeabl.errors import UserError
from hingeabl.files import sha256_of_file
from hingeabl.reporting.drawing import loss_style
from hingeabl.reporting.figures import FIGURES
from hingeabl.reporting.names import loss_title
from hingeabl.reporting.records import read_all_runs, read_runs

LOSSES = ("atl", "hingeabl_released")
COMMIT = "0123456789abcdef0123456789abcdef01234567"


def change(path, **parts):
    """Change parts of a JSON file of a run."""
    path.write_text(json.dumps(json.loads(path.read_text()) | parts))


def make_length(folder, data, loss, seed, steps, f1):
    """A run of so many steps with a test F1 of its own, and other scores that follow from it."""
    run = make_run(folder, data, loss, seed, ALL)
    change(run / "timing.json", steps=steps)
    scores = json.loads((run / "scores.json").read_text())
    found = {"f1": f1, "precision": f1 / 2, "recall": f1 + 0.1, "FN_CRK": round(1000 * f1), "FN_IRK": 300}
    change(run / "scores.json", test=scores["test"] | found)
    return run


@pytest.fixture(scope="module")
def smaller(sample, tmp_path_factory):
    """The sample with 8 training documents instead of 12."""
    folder = shutil.copytree(sample, tmp_path_factory.mktemp("smaller") / "data")
    (folder / "train.json").write_text(json.dumps(json.loads((folder / "train.json").read_text())[:8]))
    return folder


@pytest.fixture(scope="module")
def folder(sample, smaller, tmp_path_factory):
    """Two losses, on 12 documents with 20 and 60 steps, two seeds each, and on 8 documents with 60 steps, one seed."""
    folder = tmp_path_factory.mktemp("runs")
    for number, loss in enumerate(LOSSES):
        for seed in (1, 5):
            make_length(folder / "long", sample, loss, seed, 60, 0.5 + 0.1 * number + 0.01 * seed)
            make_length(folder / "short", sample, loss, seed, 20, 0.3 + 0.1 * number + 0.02 * seed)
        make_length(folder / "smaller", smaller, loss, 1, 60, 0.2 + 0.1 * number)
    return folder


@pytest.fixture(scope="module")
def records(folder, tmp_path_factory):
    """The records of these runs."""
    records = tmp_path_factory.mktemp("records")
    for name in ("long", "short", "smaller"):
        report.main(["--record", str(records / name), str(folder / name)])
    return records


def lines(panel):
    """{label without ", seeds ...": [(steps, mean, deviation, NaN without a bar), ...]} of a panel."""
    found = {}
    for container in panel.containers:
        line, _, [bars] = container.lines
        ends = [segment.reshape(-1, 2)[:, 1] for segment in bars.get_segments()]  # no two of a bar that is not drawn
        lengths = [(end[1] - end[0]) / 2 if len(end) == 2 else math.nan for end in ends]
        found[container.get_label().split(", seed")[0]] = list(zip(*line.get_data(), lengths, strict=True))
    return found


@pytest.mark.parametrize("source", ["folder", "records"])
def test_each_point_is_mean_and_deviation_of_the_seeds_of_one_loss_length_and_training_file(source, request):
    runs = read_all_runs([str(request.getfixturevalue(source))])[0]
    figure = FIGURES["length"](runs)
    values = {
        "F1": lambda scores: 100 * scores["f1"],
        "precision": lambda scores: 100 * scores["precision"],
        "recall": lambda scores: 100 * scores["recall"],
        "FN_CRK / FN": lambda scores: 100 * scores["FN_CRK"] / (scores["FN_CRK"] + scores["FN_IRK"]),
    }
    assert [panel.get_title("left") for panel in figure.axes] == list(values)
    for panel, value in zip(figure.axes, values.values(), strict=True):
        found = lines(panel)
        assert set(found) == {f"{loss_title(loss)}, {size} documents" for loss in LOSSES for size in (12, 8)}
        for loss in LOSSES:
            for size, steps in ((12, (20, 60)), (8, (60,))):
                points = found[f"{loss_title(loss)}, {size} documents"]
                assert [point[0] for point in points] == list(steps)
                for step, mean, deviation in points:
                    where = "smaller" if size == 8 else {20: "short", 60: "long"}[step]
                    seeds = [
                        value(run.scores["test"])
                        for run in runs
                        if run.loss == loss and run.folder.parent.parent.name == where
                    ]
                    assert mean == pytest.approx(statistics.mean(seeds))
                    expected = statistics.stdev(seeds) if len(seeds) > 1 else math.nan  # no bar
                    assert deviation == pytest.approx(expected, abs=1e-9, nan_ok=True)


def test_a_line_has_its_losss_colour_and_its_training_files_markers(records):
    panel = FIGURES["length"](read_all_runs([str(records)])[0]).axes[0]
    drawn = {container.get_label().split(", seed")[0]: container.lines[0] for container in panel.containers}
    for loss in LOSSES:
        for size, fill in ((12, "full"), (8, "none")):
            line, style = drawn[f"{loss_title(loss)}, {size} documents"], loss_style(loss)
            assert (line.get_color(), line.get_linestyle()) == (style["color"], style["linestyle"])
            assert line.get_fillstyle() == fill


def test_a_training_file_whose_size_no_run_tells_is_called_by_its_checksum(records, smaller, tmp_path):
    shutil.copytree(records, tmp_path, dirs_exist_ok=True)
    for path in (tmp_path / "smaller").rglob("seed_1.json"):
        change(path, documents={})
    labels = lines(FIGURES["length"](read_all_runs([str(tmp_path)])[0]).axes[0])
    assert (
        f"ATL, training file {sha256_of_file(smaller / 'train.json')[:8]}" in labels and "ATL, 12 documents" in labels
    )


def test_two_training_files_of_one_size_are_told_apart(records, tmp_path):
    shutil.copytree(records, tmp_path, dirs_exist_ok=True)
    for path in (tmp_path / "smaller").rglob("seed_1.json"):
        change(path, documents={"train": 12})
    labels = lines(FIGURES["length"](read_all_runs([str(tmp_path)])[0]).axes[0])
    assert len(labels) == 4 and all("training file" in label for label in labels)


def test_the_command_draws_runs_that_no_table_takes_together(records, tmp_path, capsys):
    with pytest.raises(UserError, match="both hold atlop with atl, seed 1; pass one of them"):
        report.main(["--table", "3", str(records)])
    written = printed(capsys, "--figure", "length", records, "--output", tmp_path).split()
    assert written == [str(tmp_path / f"figure_length.{kind}") for kind in ("png", "pdf")]


def test_two_runs_of_one_point_and_seed_are_refused(records, tmp_path):
    shutil.copytree(records / "long" / "atlop_atl", tmp_path / "again")
    with pytest.raises(UserError, match=r"both hold atlop with atl, seed 1, 60 steps, training file \w{8}; pass one"):
        report.main(["--figure", "length", str(records), str(tmp_path)])


def no_steps(record):
    record["timing"] = {"seconds": 3.5}


def another_encoder(record):
    record["config"]["settings"]["model_name_or_path"] = "hub/large"


def another_model(record):
    record["config"]["settings"]["backbone"] = "docunet"


def other_test_documents(record):
    record["test_documents"] = {name: "1 1" for name in ("correct", "predicted", "gold")}


@pytest.mark.parametrize(
    ("change_record", "expected"),
    [
        (no_steps, r"seed_1\.json: does not say after how many steps it ended; leave it out or train it again"),
        (another_encoder, r"figure length: .* and .*seed_1\.json have different encoders; pass one kind"),
        (another_model, r"figure length: .* and .*seed_1\.json have different models; pass one kind"),
        (other_test_documents, r"figure length: .* and .*seed_1\.json have different test documents; pass one kind"),
    ],
)
def test_runs_that_cannot_be_drawn_together_are_refused(records, tmp_path, change_record, expected):
    shutil.copytree(records, tmp_path, dirs_exist_ok=True)
    path = tmp_path / "smaller" / "atlop_atl" / "seed_1.json"
    record = json.loads(path.read_text())
    change_record(record)
    path.write_text(json.dumps(record))
    with pytest.raises(UserError, match=expected):
        report.main(["--figure", "length", str(tmp_path)])


def test_a_run_without_test_labels_or_no_run_at_all_is_refused(sample, tmp_path):
    run = make_run(tmp_path, sample, "atl", 1, ALL)
    change(run / "scores.json", test={})
    with pytest.raises(UserError, match="seed_1: its test file has no labels; leave the run out"):
        report.main(["--figure", "length", str(tmp_path)])
    with pytest.raises(UserError, match="figure length: needs finished runs; pass"):
        FIGURES["length"]([])


def test_the_stored_records_of_400_documents_make_a_line_of_two_lengths(capsys):
    paths = [
        ROOT / "results" / name / f"bert_{loss}"
        for name in ("documents_400", "documents_400_epochs_30")
        for loss in LOSSES
    ]
    panel = FIGURES["length"](read_all_runs(list(map(str, paths)))[0]).axes[0]
    found = lines(panel)
    assert {label: [steps for steps, *_ in points] for label, points in found.items()} == {
        f"{loss_title(loss)}, 400 documents, 1,000 steps: seeds 1, 5, 42; 3,000 steps: seed 66": [1000, 3000]
        for loss in LOSSES
    }
    table = json.loads(printed(capsys, "--table", "3", ROOT / "results/documents_400", "--format", "json"))
    means = {row["name"]: row["f1"]["mean"] for row in table["rows"]}
    assert [
        found[f"{loss_title(loss)}, 400 documents, 1,000 steps: seeds 1, 5, 42; 3,000 steps: seed 66"][0][1]
        for loss in LOSSES
    ] == pytest.approx([means[x] for x in LOSSES])


@pytest.fixture
def costly(folder, tmp_path):
    """Two runs of one loss and seed, with what the list of runs says of them, and one that does not say it."""
    for name, steps, minutes in (("documents_992", 7440, 61.2), ("documents_992_epochs_10", 2480, 20.5)):
        run = shutil.copytree(folder / "long" / "atlop_atl" / "seed_1", tmp_path / name / "bert_atl" / "seed_1")
        change(run / "timing.json", steps=steps, seconds=60 * minutes)
        more = {"precision": "bf16", "device": "NVIDIA H100 | 80 GB", "environment": {"git_commit": f"{COMMIT}-dirty"}}
        change(run / "config.json", **more)
    silent = shutil.copytree(
        folder / "long" / "atlop_atl" / "seed_5", tmp_path / "documents_992" / "bert_atl" / "seed_5"
    )
    (silent / "timing.json").unlink()
    return tmp_path


def test_the_list_of_runs_has_a_line_for_each_with_its_cost_machine_and_commit(costly, capsys):
    found = [re.split(" {2,}", line) for line in printed(capsys, "--table", "runs", costly).splitlines()[2:]]
    assert found[0] == ["experiment", "loss", "seed", "steps", "minutes", "dev F1", "precision", "device", "commit"]
    dev = {
        path: f"{100 * json.loads((costly / path / 'scores.json').read_text())['dev']['f1']:.2f}"
        for path in (
            "documents_992/bert_atl/seed_1",
            "documents_992/bert_atl/seed_5",
            "documents_992_epochs_10/bert_atl/seed_1",
        )
    }
    told = ["bf16", "NVIDIA H100 | 80 GB", "0123456789ab-dirty"]
    assert found[1:] == [
        ["documents_992/bert_atl", "atl", "1", "7,440", "61.2", dev["documents_992/bert_atl/seed_1"], *told],
        ["documents_992/bert_atl", "atl", "5", dev["documents_992/bert_atl/seed_5"]],
        [
            "documents_992_epochs_10/bert_atl",
            "atl",
            "1",
            "2,480",
            "20.5",
            dev["documents_992_epochs_10/bert_atl/seed_1"],
            *told,
        ],
    ]


def test_every_format_of_the_list_of_runs_says_the_same(costly, capsys):
    said = {
        form: printed(capsys, "--table", "runs", costly, "--format", form)
        for form in ("markdown", "latex", "html", "json", "csv")
    }
    rows = json.loads(said["json"])["runs"]
    assert [row["steps"] for row in rows] == [7440, None, 2480] and rows[0]["seconds"] == pytest.approx(3672)
    assert rows[0]["commit"] == f"{COMMIT}-dirty" and rows[1]["device"] is None
    lines_of_csv = list(csv.DictReader(io.StringIO(said["csv"])))
    assert lines_of_csv == [{key: "" if value is None else str(value) for key, value in row.items()} for row in rows]
    cells = ["documents_992/bert_atl", "atl", "1", "7,440", "61.2", f"{100 * rows[0]['dev_f1']:.2f}", "bf16"]
    assert f"| {' | '.join(cells)} | NVIDIA H100 \\| 80 GB | 0123456789ab-dirty |" in said["markdown"]
    assert " & ".join(cells).replace("_", r"\_") in said["latex"]
    assert "".join(f"<td>{cell}</td>" for cell in cells) in said["html"]


def test_records_make_the_list_of_their_runs(folder, records, capsys):
    for name in ("long", "short"):
        runs, stored = (printed(capsys, "--table", "runs", place / name) for place in (folder, records))
        assert runs == stored


def test_an_unfinished_run_is_named_below_the_list(costly, capsys):
    (costly / "documents_992" / "bert_atl" / "seed_5" / "scores.json").unlink()
    printed_list = printed(capsys, "--table", "runs", costly)
    assert printed_list.endswith(f"not finished, left out: {costly / 'documents_992/bert_atl/seed_5'}\n")


def test_no_other_table_shows_what_a_run_cost(costly, capsys):
    run = costly / "documents_992" / "bert_atl" / "seed_1"
    assert read_runs([str(run)])[0][0].timing == {"steps": 7440, "seconds": pytest.approx(3672)}
    tables = printed(capsys, "--table", "all", run)
    assert "61.2" not in tables and "3672" not in tables and "minutes" not in tables
