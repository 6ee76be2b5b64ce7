"""Trainings that are stopped at any moment, and trainings of several processes."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from types import SimpleNamespace

import pytest
import torch
from conftest import ROOT, tiny
from safetensors.torch import load_file
from trainings import arguments
from transformers import BertConfig, BertModel

import report
import train
from hingeabl import files
from hingeabl.errors import UserError
from hingeabl.files import save_tensors
from hingeabl.training import resume, session
from hingeabl.training.steps import load_batches

KILLS = int(os.environ.get("KILLS", "1"))  # test.sh --all asks for 3, KILLS=20 for more
EPOCHS = max(8, 2 * KILLS)
LONG = (
    "--num_train_epochs",
    str(EPOCHS),
    "--train_batch_size",
    "1",
    "--save_steps",
    "1",
)  # twelve steps an epoch, a checkpoint each tenth
RESULTS = ("metrics.jsonl", "model.safetensors", "scores.json", "result.json", "result_dev.json")
RESULTS += ("pair_scores_dev.safetensors", "pair_scores_test.safetensors")
# Is killed with half of a file written, the third time that it writes one of this name.
DIES_WRITING = """
import os, resource, signal, sys
sys.path.insert(0, sys.argv.pop(1))
name = sys.argv.pop(1)
import train
from hingeabl import files
written = []
def die(tensors, path, metadata):
    written.append(path)
    if sum(name in str(path) for path in written) == 3:
        half = sum(tensor.nbytes for tensor in tensors.values()) // 2
        signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        resource.setrlimit(resource.RLIMIT_FSIZE, (half, half))
    whole(tensors, path, metadata)
whole, files.save_file = files.save_file, die
train.main(sys.argv[1:])
"""


@pytest.fixture(scope="module")
def still_bert(minilm_tokenizer, tmp_path_factory):
    """A tiny encoder without dropout."""
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
    off = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    return tiny(BertConfig, BertModel, minilm_tokenizer, tmp_path_factory.mktemp("still"), **sizes, **off)


@pytest.fixture(scope="module")
def long_arguments(sample, tiny_bert):
    return lambda output, *more: arguments(sample, tiny_bert, output, *LONG, *more)


@pytest.fixture(scope="module")
def uninterrupted(long_arguments, tmp_path_factory):
    output = tmp_path_factory.mktemp("whole") / "run"
    train.main(long_arguments(output))
    return output / "seed_7"


def start(arguments, *interpreter, **options):
    """train.py as a process of its own, with as many threads as this one."""
    environment = os.environ | {"OMP_NUM_THREADS": str(torch.get_num_threads())}
    program = interpreter or (str(ROOT / "train.py"),)
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    return subprocess.Popen([sys.executable, *program, *arguments], env=environment, **pipes, **options)


def changed(folder):
    """When a run's metrics.jsonl last changed."""
    path = folder / "metrics.jsonl"
    return path.stat().st_mtime_ns if path.exists() else 0


def wait_for_steps(folder, at_least, since=0):
    """Wait until metrics.jsonl, changed after `since`, has a line of so late a step, or the training is over."""
    path = folder / "metrics.jsonl"
    for _ in range(600):
        lines = path.read_text().splitlines() if changed(folder) > since else []
        if (folder / "scores.json").exists() or any(json.loads(line)["step"] >= at_least for line in lines[:-1]):
            return
        time.sleep(0.1)
    raise AssertionError("the training does not get on")


def assert_same_run(folder, expected):
    for name in RESULTS:
        assert (folder / name).read_bytes() == (expected / name).read_bytes(), name
    left = {path.name for path in folder.iterdir()} - {path.name for path in expected.iterdir()}
    assert not left, "something of the interruption is left"


def test_a_training_killed_again_and_again_ends_as_one_that_was_not(long_arguments, uninterrupted, tmp_path):
    chance, folder, kills = random.Random(5), tmp_path / "run" / "seed_7", 0
    for kill in range(KILLS):
        since = changed(folder)
        process = start(long_arguments(tmp_path / "run"))
        wait_for_steps(folder, 12 * EPOCHS * (kill + 1) / (KILLS + 2), since)
        time.sleep(chance.random() * 0.7)
        process.kill()
        output = process.communicate()[0]
        kills += process.returncode == -signal.SIGKILL
        assert "error" not in output and "broken" not in output, output
    assert kills >= KILLS - 1
    process = start(long_arguments(tmp_path / "run"))
    output = process.communicate()[0]
    assert process.returncode == 0 and "resuming after step" in output
    assert_same_run(folder, uninterrupted)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["checkpoints", "model.safetensors"])
def test_a_kill_while_weights_are_written_costs_nothing(long_arguments, uninterrupted, tmp_path, name):
    process = start(long_arguments(tmp_path / "run"), "-c", DIES_WRITING, str(ROOT), name)
    process.communicate()
    assert process.returncode == -signal.SIGXFSZ
    assert list((tmp_path / "run/seed_7").rglob("*.tmp*")), "no file was being written"
    train.main(long_arguments(tmp_path / "run"))
    assert_same_run(tmp_path / "run" / "seed_7", uninterrupted)


def test_weights_can_be_read_by_whom_the_folder_lets(tmp_path):
    (tmp_path / "a.txt").touch()
    save_tensors(tmp_path / "a.safetensors", {"a": torch.zeros(1)})
    assert (tmp_path / "a.safetensors").stat().st_mode == (tmp_path / "a.txt").stat().st_mode


def stop_at_third_save(monkeypatch, arguments):
    """Train until three checkpoints are written, then stop as after SIGTERM."""
    saved = []

    def save(folder, place, *rest):
        resume.save_checkpoint(folder, place, *rest)
        saved.append(place.step)
        if len(saved) == 3:
            raise SystemExit(resume.EXIT_STOPPED)

    with monkeypatch.context() as patched, pytest.raises(SystemExit):
        patched.setattr(session, "save_checkpoint", save)
        train.main(arguments)


@pytest.mark.parametrize("harm", [lambda data: data[:-50], lambda data: data[:-50] + bytes(50), lambda data: b""])
def test_a_broken_checkpoint_is_named_and_the_one_before_it_used(
    long_arguments, uninterrupted, tmp_path, capsys, monkeypatch, harm
):
    stop_at_third_save(monkeypatch, long_arguments(tmp_path / "run"))
    older, newest = sorted((tmp_path / "run/seed_7/checkpoints").iterdir())
    newest.write_bytes(harm(newest.read_bytes()))
    train.main(long_arguments(tmp_path / "run"))
    shown = capsys.readouterr().out
    assert f"{newest} is broken" in shown and "resuming after step 12" in shown and older.name.startswith("epoch_0002")
    assert_same_run(tmp_path / "run" / "seed_7", uninterrupted)


@pytest.mark.parametrize("name", ["SIGTERM", pytest.param("SIGUSR1", marks=pytest.mark.slow)])
def test_a_scheduler_that_stops_a_training_gets_75_and_loses_nothing(long_arguments, uninterrupted, tmp_path, name):
    """SIGTERM goes to the process group, as SLURM and torchrun send it, SIGUSR1 to the process."""
    process = start(long_arguments(tmp_path / "run"), start_new_session=True)
    wait_for_steps(tmp_path / "run" / "seed_7", 30)
    send = os.killpg if name == "SIGTERM" else os.kill
    send(process.pid, getattr(signal, name))
    output = process.communicate()[0]
    assert process.returncode == 75 and f"{name}: saved after step" in output
    train.main(long_arguments(tmp_path / "run"))
    assert_same_run(tmp_path / "run" / "seed_7", uninterrupted)


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_batches_are_made_without_processes_that_a_signal_to_the_group_would_end(device):
    experiment = SimpleNamespace(device=torch.device(device), train_set=[{}] * 4)
    loader = load_batches(experiment, [[0, 1], [2, 3]])
    assert loader.num_workers == 0 and loader.pin_memory == (device == "cuda")


def test_a_second_process_on_the_same_folder_is_refused(long_arguments, tmp_path):
    folder = tmp_path / "run" / "seed_7"
    folder.mkdir(parents=True)
    with resume.locked(folder), pytest.raises(UserError, match=r"seed_7: another process trains this seed"):
        train.main(long_arguments(tmp_path / "run"))


def test_an_unfinished_run_with_other_settings_is_refused_with_the_differences(long_arguments, tmp_path, monkeypatch):
    stop_at_third_save(monkeypatch, long_arguments(tmp_path / "run"))
    before = {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()}
    more = ("--learning_rate", "0.5", "--loss_type", "atl")
    with pytest.raises(UserError, match=r"learning_rate 0\.001 there, 0\.5 here; loss .*hingeabl_released.* there"):
        train.main(long_arguments(tmp_path / "run", *more))
    assert {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()} == before


def test_a_shortened_log_is_told(long_arguments, tmp_path, monkeypatch):
    stop_at_third_save(monkeypatch, long_arguments(tmp_path / "run"))
    (tmp_path / "run/seed_7/metrics.jsonl").write_text("")
    with pytest.raises(UserError, match=r"metrics\.jsonl: is shorter than when the training was stopped"):
        train.main(long_arguments(tmp_path / "run"))


def test_status_tells_finished_running_failed_and_stopped_runs(
    long_arguments, uninterrupted, tmp_path, monkeypatch, capsys
):
    for name in ("stopped", "running"):
        stop_at_third_save(monkeypatch, long_arguments(tmp_path / name))
    with monkeypatch.context() as patched, pytest.raises(UserError):
        patched.setattr(session, "save_checkpoint", lambda *_: (_ for _ in ()).throw(UserError("no room")))
        train.main(long_arguments(tmp_path / "failed"))
    capsys.readouterr()
    with resume.locked(tmp_path / "running" / "seed_7"):
        report.main(["--status", str(tmp_path), str(uninterrupted.parent)])
    shown = {line.split()[0]: line.split(maxsplit=2)[1:] for line in capsys.readouterr().out.splitlines()}
    scores = json.loads((uninterrupted / "scores.json").read_text())
    expected = f"dev F1 {100 * scores['dev']['f1']:.2f}, test F1 {100 * scores['test']['f1']:.2f}"
    assert shown[str(uninterrupted)] == ["finished", expected]
    assert shown[str(tmp_path / "stopped/seed_7")][0] == "stopped"
    assert shown[str(tmp_path / "running/seed_7")] == ["running", "epochs done: 1, last line: step 20"]
    assert shown[str(tmp_path / "failed/seed_7")] == ["failed", "no room (epochs done: 0, last line: step 10)"]
    train.main(long_arguments(tmp_path / "failed"))
    assert_same_run(tmp_path / "failed" / "seed_7", uninterrupted)


def torchrun(processes, *program):
    """Run a program in several processes on this machine; returns what it printed."""
    command = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}", *program]
    found = subprocess.run(
        [sys.executable, *command],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert found.returncode == 0, found.stdout + found.stderr
    return found.stdout


# What one process alone says, sums and gathers, in each of two.
TOGETHER = """
import sys
sys.path.insert(0, sys.argv[1])
import torch
from hingeabl.training import parallel
parallel.start()
rank, cpu = parallel.rank(), torch.device("cpu")
assert parallel.world_size() == 2
assert parallel.any_of_all(rank == 1, cpu) and not parallel.any_of_all(False, cpu)
assert parallel.add_over_all(torch.tensor([1.0, rank])).tolist() == [2, 1]
assert parallel.gather({"rank": rank}) == ([] if rank else [{"rank": 0}, {"rank": 1}])
parallel.finish()
"""


def test_processes_share_flags_sums_and_results(tmp_path):
    (tmp_path / "together.py").write_text(TOGETHER)
    torchrun(2, str(tmp_path / "together.py"), str(ROOT))


# Writes the gradients of the first batch, before they are clipped.
FIRST_GRADIENTS = """
import sys
sys.path.insert(0, sys.argv[1])
import train
from hingeabl.training import parallel
from pathlib import Path
from hingeabl.files import save_tensors
def write(model, *_):
    if parallel.rank() == 0:
        found = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
        save_tensors(Path(sys.argv[2]), found)
    raise SystemExit(0)
train.optimizer_step = write
train.main(sys.argv[3:])
"""


@pytest.mark.parametrize("backbone", ["atlop", pytest.param("kd_docre", marks=pytest.mark.slow)])
def test_two_processes_have_the_gradients_of_one_with_the_doubled_batch(backbone, sample, still_bert, tmp_path):
    """Six documents of 2, 3, 4, 6 and as many entities as they have, so of 2 to more than 100 pairs, are one batch."""
    data = tmp_path / "data"
    shutil.copytree(sample, data)
    documents = json.loads((data / "train.json").read_text())[:6]
    for document, entities in zip(documents, (2, 3, 4, 6), strict=False):
        document["vertexSet"] = document["vertexSet"][:entities]
        document["labels"] = [x for x in document["labels"] if max(x["h"], x["t"]) < entities]
    assert len(documents[5]["vertexSet"]) > 10
    (data / "train.json").write_text(json.dumps(documents))
    program = tmp_path / "first_gradients.py"
    program.write_text(FIRST_GRADIENTS)
    found = []
    for processes, batch in ((1, "6"), (2, "3")):
        path = tmp_path / f"gradients_{processes}.safetensors"
        more = ("--train_batch_size", batch, "--backbone", backbone, "--loss_type", "atl")
        torchrun(
            processes, str(program), str(ROOT), str(path), *arguments(sample, still_bert, tmp_path / path.stem, *more)
        )
        found.append(load_file(path))
    one, two = found
    assert one.keys() == two.keys() and len(one) > 20
    largest = max(gradient.abs().max() for gradient in one.values())
    for name in one:  # that of a key's bias is 0 but for rounding: softmax does not see it
        allowed = 1e-5 * one[name].abs().max() + 1e-9 * largest
        assert (one[name] - two[name]).abs().max() <= allowed, name


@pytest.mark.slow
def test_two_processes_end_with_the_scores_of_one_and_go_on_as_one(sample, still_bert, tmp_path, monkeypatch):
    shared = ("--loss_type", "atl", "--num_train_epochs", "3")

    def settings(name, batch):
        return arguments(sample, still_bert, tmp_path / name, *shared, "--train_batch_size", batch)

    train.main(settings("one", "2"))
    torchrun(2, str(ROOT / "train.py"), *settings("two", "1"))
    stopped = settings("stopped", "1")
    program = tmp_path / "two_epochs.py"
    program.write_text(TWO_EPOCHS)
    torchrun(2, str(program), str(ROOT), *stopped)
    train.main(settings("stopped", "2"))
    expected = json.loads((tmp_path / "one/seed_7/scores.json").read_text())
    losses = [loss_curve(tmp_path / name / "seed_7") for name in ("one", "two", "stopped")]
    for name, curve in zip(("two", "stopped"), losses[1:], strict=True):
        scores = json.loads((tmp_path / name / "seed_7/scores.json").read_text())
        assert scores["dev"] == pytest.approx(expected["dev"]) and scores["test"] == pytest.approx(expected["test"])
        assert curve == pytest.approx(losses[0], rel=1e-4)
        predictions = [json.loads((tmp_path / n / "seed_7/result.json").read_text()) for n in (name, "one")]
        assert predictions[0] == predictions[1]


# Stops behind the second epoch's checkpoint.
TWO_EPOCHS = """
import sys
sys.path.insert(0, sys.argv.pop(1))
import train
from hingeabl.training import parallel, session
save = session.save
def stop(training, signal_name):
    save(training, signal_name)
    if training.place.epoch == 3:
        parallel.wait_for_all()
        parallel.finish()
        raise SystemExit(0)
session.save = stop
train.main(sys.argv[1:])
"""


def loss_curve(folder):
    records = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [record["loss"] for record in records if "loss" in record]


def test_checkpoints_hold_no_pickle_and_only_two_are_kept(long_arguments, tmp_path, monkeypatch):
    stop_at_third_save(monkeypatch, long_arguments(tmp_path / "run"))
    names = sorted(path.name for path in (tmp_path / "run/seed_7/checkpoints").iterdir())
    assert names == ["epoch_0002_batch_00000000.safetensors", "epoch_0002_batch_00000008.safetensors"]


def test_a_checkpoint_that_cannot_be_written_leaves_those_before_it(tmp_path, monkeypatch):
    def fail(tensors, path, metadata):
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files, "save_file", fail)
    path = tmp_path / "a.safetensors"
    path.write_bytes(b"old")
    with pytest.raises(UserError, match=r"cannot be written .*No space left.*free some disk space"):
        save_tensors(path, {})
    assert path.read_bytes() == b"old" and list(tmp_path.iterdir()) == [path]
