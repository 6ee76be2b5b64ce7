"""Status without a right to write, Weights & Biases, the doctor, closed pipes, and the picture of a graph."""

import fcntl
import json
import os
import shutil
import subprocess
import sys
from dataclasses import fields
from pathlib import Path
from types import SimpleNamespace

import doctor
import pytest
from conftest import ROOT
from trainings import arguments

import report
import train
from hingeabl.data.checksums import SAMPLE
from hingeabl.errors import UserError
from hingeabl.reporting.comparisons import SETTINGS
from hingeabl.reporting.graph_picture import bounds_of, draw_graph, drawing_of
from hingeabl.reporting.publishing import write_folder
from hingeabl.training import runs as training_runs
from hingeabl.training.resume import status_of
from hingeabl.training.runs import RunLog
from hingeabl.training.settings import NOT_COMPARED, Settings


@pytest.fixture
def unfinished(tmp_path):
    folder = tmp_path / "runs" / "seed_1"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    (folder / "metrics.jsonl").write_text('{"step": 10, "loss": 1.0}\n')
    return folder


def test_the_status_of_a_run_that_may_only_be_read_is_told(unfinished, monkeypatch, capsys):
    opened = Path.open

    def read_only(path, mode="r", *rest, **options):
        if set(mode) & set("wax+"):
            raise PermissionError(13, "Permission denied", str(path))
        return opened(path, mode, *rest, **options)

    monkeypatch.setattr(Path, "open", read_only)
    report.main(["--status", str(unfinished)])
    assert "stopped" in capsys.readouterr().out
    with open(unfinished / "metrics.jsonl", "a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        assert status_of(unfinished)[0] == "running"


def test_a_run_whose_files_cannot_be_read_hides_no_other_status(unfinished, capsys):
    shutil.copytree(unfinished, unfinished.with_name("seed_2"))
    (unfinished / "scores.json").write_text("{")
    report.main(["--status", str(unfinished.parent)])
    first, second = capsys.readouterr().out.splitlines()
    assert "unreadable" in first and "scores.json: broken JSON" in first and "stopped" in second


def test_a_line_of_metrics_that_is_being_written_is_not_read(unfinished):
    with (unfinished / "metrics.jsonl").open("a") as file:
        file.write('{"step": 20, "lo')
    assert status_of(unfinished) == ("stopped", "epochs done: 0, last line: step 10; run the same command to resume")


class StandInRun:
    """A run of Weights & Biases."""

    def log(self, figures, step):
        """Nothing to keep."""

    def finish(self):
        """Nothing to send."""


@pytest.fixture
def wandb(monkeypatch):
    """Stands in for the package; `started` holds the arguments of each init."""
    started = []

    def init(**options):
        started.append(options)
        if module.error:
            raise module.error
        return StandInRun()

    module = SimpleNamespace(started=started, error=None, init=init, Settings=lambda **options: options)
    monkeypatch.setitem(sys.modules, "wandb", module)
    return module


@pytest.mark.parametrize("reason", ["No API key configured. Use `wandb login` to log in.", "dial tcp: no such host\nx"])
def test_a_log_that_cannot_be_had_ends_the_command_in_one_line_before_training(
    sample, tiny_bert, tmp_path, wandb, monkeypatch, reason
):
    wandb.error = RuntimeError(reason)
    monkeypatch.setattr(train, "train_epoch", lambda *_: pytest.fail("the training has begun"))
    with pytest.raises(UserError, match=r"--wandb_project p: Weights & Biases .*; run wandb login, set") as error:
        train.main(arguments(sample, tiny_bert, tmp_path / "out", "--wandb_project", "p"))
    assert reason.splitlines()[0] in str(error.value) and "\n" not in str(error.value)
    assert wandb.started[0]["settings"]["init_timeout"] <= 30


def test_a_resumed_training_goes_on_in_its_run_of_weights_and_biases(tmp_path, wandb):
    for project in ("p", "p", "other"):
        RunLog(tmp_path, "name", project, 0, 0).close()
    first, second, other = wandb.started
    assert first["id"] == second["id"] != other["id"] and first["resume"] == second["resume"] == "allow"
    (tmp_path / training_runs.WANDB_IDS).write_text("[]")
    with pytest.raises(UserError, match=r"wandb_ids\.json: does not hold ids .*; remove it"):
        RunLog(tmp_path, "name", "p", 0, 0)


def test_a_log_that_breaks_off_does_not_end_the_training(tmp_path, wandb, capsys):
    log = RunLog(tmp_path, "name", "p", 0, 0)

    def breaks(figures, step):
        raise ConnectionResetError("the service has died")

    log.wandb.log = breaks
    for step in (10, 20):
        log.write(step, {"loss": 1.0})
    log.close()
    assert capsys.readouterr().err.count("the service has died") == 1
    assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == 2


def test_the_doctor_calls_nothing_well_that_is_not_there(monkeypatch, tmp_path):
    import fetch

    monkeypatch.setattr(fetch, "REDOCRED", tmp_path)
    monkeypatch.setattr(fetch, "ENCODER", tmp_path)
    monkeypatch.setattr(doctor, "ROOT", tmp_path)
    lines = list(doctor.data())
    assert len(lines) == 4 and {well for _, _, well in lines} == {None}
    assert all("not here; python scripts/tools/fetch.py" in found for _, found, _ in lines)
    for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"):
        with monkeypatch.context() as patched:
            patched.delenv("HF_HUB_OFFLINE", raising=False)
            patched.setenv(name, "true")
            assert list(doctor.hub())[-1] == ("hub", f"not asked: {name} is set", None)


@pytest.mark.parametrize("end", ["2>&1 |", pytest.param("|", marks=pytest.mark.slow)])
@pytest.mark.parametrize("command", ["scripts/tools/doctor.py", "report.py --help", "scripts/publish.py --help"])
def test_a_reader_that_leaves_early_is_no_traceback(command, end):
    environment = os.environ | {"HF_HUB_OFFLINE": "1"}
    line = f"{sys.executable} {command} {end} true; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", line], cwd=ROOT, capture_output=True, text=True, env=environment)
    assert done.stderr == "" and done.returncode in (0, 1, 141)


def test_only_what_loading_needs_is_published(trained, tmp_path):
    run = tmp_path / "run" / "seed_7"
    shutil.copytree(trained, run)
    for name in ("._config.json", "._vocab.txt", "notes.json", "private.txt"):
        (run / "encoder" / name).write_text("{}")
    write_folder(run, tmp_path / "out", None)
    found = {path.name for path in (tmp_path / "out/encoder").iterdir()}
    assert found == {path.name for path in (trained / "encoder").iterdir()}


def graph_of(count, types):
    networkx = pytest.importorskip("networkx", reason="scripts/requirements/graph.txt is not installed")
    graph = networkx.MultiDiGraph()
    for number in range(count):
        graph.add_node(number, name=f"Entity of number {number}", types=types[number % len(types)])
    names = ("place of birth", "located in the administrative territorial entity")
    for number in range(3 * count):
        tail = (number * 7 + 1 + number // count) % count
        graph.add_edge(number % count, tail, number, relation=names[number % 2])
    return graph


@pytest.mark.parametrize("count", [1, 2, 12, 30])
def test_no_text_of_a_picture_covers_another_or_is_cut(count):
    graph = graph_of(count, [["PER"], ["Chemical"], []])
    drawing = drawing_of(graph)
    left, bottom, right, top = bounds_of(drawing)
    for number, box in enumerate(drawing.boxes):
        assert left < box[0] < box[2] < right and bottom < box[1] < box[3] < top
        for other in drawing.boxes[max(number + 1, count) :]:
            apart = box[0] >= other[2] or other[0] >= box[2] or box[1] >= other[3] or other[1] >= box[3]
            assert apart
    texts = "\n".join(label.text for label in drawing.labels)
    assert min(label.size for label in drawing.labels) >= 8 and "…" not in texts
    assert texts.count("Entity of number") == count


def test_each_colour_of_a_picture_is_in_its_legend(tmp_path):
    graph = graph_of(6, [["PER"], ["Chemical"], ["Disease"], []])
    assert list(drawing_of(graph).colours) == ["Chemical", "Disease", "PER", "no type"]
    assert len(set(drawing_of(graph).colours.values())) == 4
    import matplotlib

    with matplotlib.rc_context({"svg.fonttype": "none"}), (tmp_path / "graph.svg").open("wb") as file:
        draw_graph(graph, file, "svg")
    text = (tmp_path / "graph.svg").read_text()
    assert all(f">{kind}<" in text for kind in ("Chemical", "Disease", "PER", "no type"))


def test_the_page_says_which_model_answers_and_when_it_is_a_toy(trained, tmp_path):
    pytest.importorskip("fastapi", reason="scripts/requirements/serve.txt is not installed")
    from hingeabl.prediction.server import about_model

    scores = json.loads((trained / "scores.json").read_text())
    text = about_model(trained)
    assert text.startswith("hingeabl_released on ") and "trained on train.json" in text and "toy" not in text
    for split in ("dev", "test"):
        assert f"{split} F1 {100 * scores[split]['f1']:.2f} ({split}.json)" in text
    config = json.loads((trained / "config.json").read_text())
    config["data"]["train"] = SAMPLE["train"]
    (tmp_path / "config.json").write_text(json.dumps(config))
    text = about_model(tmp_path)
    assert "no scores" in text and "A toy: it knows a generated sample" in text


def test_the_settings_that_a_table_compares_are_those_that_a_resume_compares():
    names = {field.name for field in fields(Settings)} - NOT_COMPARED
    assert set(SETTINGS) == names - {"model_name_or_path", "backbone"}  # which rows and other checks compare
