"""Trainings that are stopped at any moment, and trainings of several processes."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from types import SimpleNamespace

import pytest
import torch
from conftest import ROOT
from safetensors.torch import load_file
from trainings import SLOWLY, arguments, changed, start, wait_for_steps

import report
import train
from hingeabl import files
from hingeabl.errors import UserError
from hingeabl.files import save_tensors
from hingeabl.modeling.checkpoints import epoch_of_weights
from hingeabl.training import resume, session
from hingeabl.training.resume import alone_in
from hingeabl.training.steps import build_optimizer, load_batches
from model import DocREModel

KILLS = int(os.environ.get("KILLS", "1"))  # test.sh --all asks for 3, KILLS=20 for more
EPOCHS = max(6, 2 * KILLS)  # of trainings that a signal reaches while they run
OFTEN = ("--train_batch_size", "1", "--save_steps", "1")  # twelve steps an epoch, a checkpoint each tenth
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
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        resource.setrlimit(resource.RLIMIT_FSIZE, (half, half))
    whole(tensors, path, metadata)
whole, files.save_file = files.save_file, die
signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
train.main(sys.argv[1:])
"""


@pytest.fixture(scope="module")
def long_arguments(sample, tiny_bert):
    return lambda output: arguments(sample, tiny_bert, output, *OFTEN, "--num_train_epochs", str(EPOCHS))


@pytest.fixture(scope="module")
def uninterrupted(long_arguments, tmp_path_factory):
    output = tmp_path_factory.mktemp("whole") / "run"
    train.main(long_arguments(output))
    return output / "seed_7"


@pytest.fixture(scope="module")
def two_epochs(sample, tiny_bert):
    """Arguments of a training that is stopped at its third checkpoint, in its second epoch."""
    return lambda output, *more: arguments(sample, tiny_bert, output, *OFTEN, *more)


@pytest.fixture(scope="module")
def whole(two_epochs, tmp_path_factory):
    output = tmp_path_factory.mktemp("whole") / "run"
    train.main(two_epochs(output))
    return output / "seed_7"


def assert_same_run(folder, expected):
    for name in RESULTS:
        assert (folder / name).read_bytes() == (expected / name).read_bytes(), name
    left = {path.name for path in folder.iterdir()} - {path.name for path in expected.iterdir()}
    assert not left, "something of the interruption is left"


@pytest.mark.slow
def test_a_training_killed_again_and_again_ends_as_one_that_was_not(long_arguments, uninterrupted, tmp_path):
    chance, folder, kills = random.Random(5), tmp_path / "run" / "seed_7", 0
    for kill in range(KILLS):
        since = changed(folder)
        process = start(long_arguments(tmp_path / "run"), "-c", SLOWLY, str(ROOT))
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
    """Train until the third checkpoint, then stop as after SIGTERM."""
    saved, save = [], session.save

    def count(training, signal_name):
        saved.append(training.progress.step)
        save(training, "SIGTERM" if len(saved) == 3 else signal_name)

    with monkeypatch.context() as patched, pytest.raises(SystemExit):
        patched.setattr(session, "save", count)
        train.main(arguments)


@pytest.mark.parametrize("harm", [lambda data: data[:-50], lambda data: data[:-50] + bytes(50), lambda data: b""])
def test_a_broken_checkpoint_is_named_and_the_one_before_it_used(
    two_epochs, whole, tmp_path, capsys, monkeypatch, harm
):
    stop_at_third_save(monkeypatch, two_epochs(tmp_path / "run"))
    older, newest = sorted((tmp_path / "run/seed_7/checkpoints").iterdir())
    newest.write_bytes(harm(newest.read_bytes()))
    train.main(two_epochs(tmp_path / "run"))
    shown = capsys.readouterr().out
    assert f"{newest} is broken" in shown and "resuming after step 12" in shown and older.name.startswith("epoch_0002")
    assert_same_run(tmp_path / "run" / "seed_7", whole)


def test_a_checkpoint_that_cannot_be_read_now_is_kept(two_epochs, tmp_path, monkeypatch):
    stop_at_third_save(monkeypatch, two_epochs(tmp_path / "run"))
    checkpoints = sorted((tmp_path / "run/seed_7/checkpoints").iterdir())

    def stale(path, framework):
        raise OSError(116, "Stale file handle")

    monkeypatch.setattr(resume, "safe_open", stale)
    with pytest.raises(
        UserError, match=rf"{checkpoints[-1].name}: cannot be read \(Stale file handle\); check the disk"
    ):
        train.main(two_epochs(tmp_path / "run"))
    assert sorted((tmp_path / "run/seed_7/checkpoints").iterdir()) == checkpoints


def test_weights_whose_epoch_is_repeated_are_those_that_are_tested(two_epochs, whole, tmp_path, monkeypatch):
    """The best epoch's weights were replaced just before a kill, and the repeated epoch is no better."""
    stop_at_third_save(monkeypatch, two_epochs(tmp_path / "run"))
    folder = tmp_path / "run/seed_7"
    save_tensors(folder / "model.safetensors", load_file(folder / "model.safetensors"), {"epoch": "2"})
    scored = train.score_split

    def worse(experiment, model, name):
        scores, predictions = scored(experiment, model, name)
        return (scores | {"f1": -1.0} if name == "dev" else scores), predictions

    monkeypatch.setattr(train, "score_split", worse)
    train.main(two_epochs(tmp_path / "run"))
    assert json.loads((folder / "scores.json").read_text())["best_epoch"] == 2
    assert epoch_of_weights(folder / "model.safetensors") == 2 and epoch_of_weights(folder / "scores.json") is None


def test_a_kill_between_the_files_of_a_best_epoch_leaves_none_of_the_lost_attempt(two_epochs, tmp_path, monkeypatch):
    """On a GPU a repeated epoch may score worse than the first attempt at it."""
    folder, scored, written = tmp_path / "run/seed_7", train.score_split, train.write_calibration
    f1 = [0.5, 0.6]  # of dev after each epoch

    def with_f1(experiment, model, name):
        scores, predictions = scored(experiment, model, name)
        return (scores | {"f1": f1.pop(0)} if name == "dev" else scores), predictions

    def killed_in_second_epoch(*given):
        if not f1:
            raise KeyboardInterrupt
        written(*given)

    monkeypatch.setattr(train, "score_split", with_f1)
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(train, "write_calibration", killed_in_second_epoch)
        train.main(two_epochs(tmp_path / "run"))
    (folder / "result_dev.json").write_text("[]")  # as if the lost attempt had predicted nothing
    f1.append(0.4)
    train.main(two_epochs(tmp_path / "run"))
    assert json.loads((folder / "result_dev.json").read_text())
    best = json.loads((folder / "scores.json").read_text())["best_epoch"]
    assert best == epoch_of_weights(folder / "model.safetensors") == 2


def test_seeds_that_end_at_once_write_one_summary_after_the_other(tmp_path):
    """In another process, as file locks are of a process."""
    order = tmp_path / "order"
    waiting = (
        f"import sys; sys.path.insert(0, {str(ROOT)!r})\nfrom hingeabl.training.resume import alone_in\n"
        f"print('ready', flush=True)\nwith alone_in({str(tmp_path)!r}): open({str(order)!r}, 'a').write('second')\n"
    )
    with alone_in(tmp_path):
        process = subprocess.Popen([sys.executable, "-c", waiting], stdout=subprocess.PIPE, text=True)
        assert process.stdout.readline() == "ready\n"
        time.sleep(0.5)
        with order.open("a") as file:
            file.write("first ")
    assert process.wait(60) == 0 and order.read_text() == "first second"


def test_processes_that_do_not_share_the_folder_are_refused(two_epochs, tmp_path, monkeypatch):
    with monkeypatch.context() as patched, pytest.raises(UserError, match="the processes see different checkpoints"):
        patched.setattr(session, "max_over_processes", lambda number, device: max(number, 7))
        train.main(two_epochs(tmp_path / "run"))
    monkeypatch.setattr(session.parallel, "rank", lambda: 1)
    monkeypatch.setattr(session, "SHARED_SECONDS", 0)
    with pytest.raises(UserError, match="one of the processes does not see it; all need it on one shared disk"):
        train.main(two_epochs(tmp_path / "other"))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["SIGTERM", "SIGUSR1"])
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


def test_a_second_process_on_the_same_folder_is_refused(two_epochs, tmp_path):
    folder = tmp_path / "run" / "seed_7"
    folder.mkdir(parents=True)
    with resume.locked(folder), pytest.raises(UserError, match=r"seed_7: another process trains this seed"):
        train.main(two_epochs(tmp_path / "run"))


def test_an_unfinished_run_with_other_settings_is_refused_with_the_differences(two_epochs, tmp_path, monkeypatch):
    stop_at_third_save(monkeypatch, two_epochs(tmp_path / "run"))
    before = {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()}
    more = ("--learning_rate", "0.5", "--loss_type", "atl")
    with pytest.raises(UserError, match=r"learning_rate 0\.001 there, 0\.5 here; loss .*hingeabl_released.* there"):
        train.main(two_epochs(tmp_path / "run", *more))
    assert {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()} == before


def test_a_shortened_log_is_told(two_epochs, tmp_path, monkeypatch):
    stop_at_third_save(monkeypatch, two_epochs(tmp_path / "run"))
    (tmp_path / "run/seed_7/metrics.jsonl").write_text("")
    with pytest.raises(UserError, match=r"metrics\.jsonl: is shorter than when the training was stopped"):
        train.main(two_epochs(tmp_path / "run"))


def test_status_tells_finished_running_failed_and_stopped_runs(two_epochs, whole, tmp_path, monkeypatch, capsys):
    stop_at_third_save(monkeypatch, two_epochs(tmp_path / "stopped"))
    shutil.copytree(tmp_path / "stopped", tmp_path / "running")
    with monkeypatch.context() as patched, pytest.raises(UserError):
        patched.setattr(resume, "save_checkpoint", lambda *_: (_ for _ in ()).throw(UserError("no room")))
        train.main(two_epochs(tmp_path / "failed"))
    capsys.readouterr()
    with resume.locked(tmp_path / "running" / "seed_7"):
        report.main(["--status", str(tmp_path), str(whole.parent)])
    shown = {line.split()[0]: line.split(maxsplit=2)[1:] for line in capsys.readouterr().out.splitlines()}
    scores = json.loads((whole / "scores.json").read_text())
    expected = f"dev F1 {100 * scores['dev']['f1']:.2f}, test F1 {100 * scores['test']['f1']:.2f}"
    assert shown[str(whole)] == ["finished", expected]
    assert shown[str(tmp_path / "stopped/seed_7")][0] == "stopped"
    assert shown[str(tmp_path / "running/seed_7")] == ["running", "epochs done: 1, last line: step 20"]
    assert shown[str(tmp_path / "failed/seed_7")] == ["failed", "no room (epochs done: 0, last line: step 12)"]
    train.main(two_epochs(tmp_path / "failed"))
    assert_same_run(tmp_path / "failed" / "seed_7", whole)


def test_checkpoints_hold_no_pickle_and_only_two_are_kept(two_epochs, tmp_path, monkeypatch):
    stop_at_third_save(monkeypatch, two_epochs(tmp_path / "run"))
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


def test_a_checkpoint_is_of_the_moment_when_it_was_taken(tmp_path, monkeypatch):
    """The training goes on while its copy waits to be written."""
    model, scaler = torch.nn.Linear(2, 2), torch.amp.GradScaler("cpu")
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1, fused=True)
    go_on, write = threading.Event(), resume.save_checkpoint

    def take_step():
        model(torch.ones(1, 2)).sum().backward()
        optimizer.step()

    take_step()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    place = resume.TrainingProgress(step=1)
    monkeypatch.setattr(resume, "save_checkpoint", lambda *given: go_on.wait(10) and write(*given))
    with resume.CheckpointWriter() as writer:
        writer.write(tmp_path, place, model, optimizer, scaler)
        take_step()
        place.step = 2
        assert not list(tmp_path.rglob("*.safetensors"))
        go_on.set()
    assert resume.load_checkpoint(tmp_path, model, optimizer, scaler) == resume.TrainingProgress(step=1)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert {state["step"].item() for state in optimizer.state.values()} == {1}


def test_a_checkpoint_that_could_not_be_written_is_told_at_the_next_wait(tmp_path, monkeypatch):
    model = torch.nn.Linear(1, 1)
    given = (
        tmp_path,
        resume.TrainingProgress(),
        model,
        torch.optim.AdamW(model.parameters()),
        torch.amp.GradScaler("cpu"),
    )
    monkeypatch.setattr(resume, "save_checkpoint", lambda *_: (_ for _ in ()).throw(UserError("no room")))
    with resume.CheckpointWriter() as writer:
        writer.write(*given)
        with pytest.raises(UserError, match="no room"):
            writer.write(*given)
        writer.write(*given)
        with pytest.raises(UserError, match="no room"):
            writer.wait()
        writer.wait()


def test_a_run_that_a_version_without_times_began_ends_without_a_time(tiny_bert, tmp_path, monkeypatch):
    rates = SimpleNamespace(learning_rate=5e-5, classifier_lr=1e-4, module_lr=None, adam_epsilon=1e-6)
    scaler = torch.amp.GradScaler("cpu", enabled=False)
    model = DocREModel(str(tiny_bert), emb_size=64)
    optimizer = build_optimizer(model, rates)
    taken = resume.take_checkpoint(resume.TrainingProgress(step=3, seconds=5.0), model, optimizer, scaler)
    for seconds in ({"seconds": 5.0}, {}):
        state = json.loads(taken.state)
        del state["place"]["seconds"]
        state["place"] |= seconds
        resume.save_checkpoint(tmp_path, taken._replace(state=json.dumps(state)))
        place = resume.load_checkpoint(tmp_path, model, optimizer, scaler)
        training = SimpleNamespace(progress=place, counted=90.0)
        with monkeypatch.context() as patched:
            patched.setattr(session.time, "monotonic", lambda: 100.0)
            session.Training.count_time(training)
        session.write_timing(tmp_path, place)
        timing = json.loads((tmp_path / session.TIMING).read_text())
        assert timing == {"steps": 3} | ({"seconds": 15.0} if seconds else {})


def test_a_checkpoint_of_a_version_with_berts_pooler_goes_on_with_every_parameters_own_state(tiny_bert, tmp_path):
    rates = SimpleNamespace(learning_rate=5e-5, classifier_lr=1e-4, module_lr=None, adam_epsilon=1e-6)
    scaler = torch.amp.GradScaler("cpu", enabled=False)
    older = DocREModel(str(tiny_bert), emb_size=64)
    older.model.pooler = torch.nn.Linear(32, 32)
    optimizer = build_optimizer(older, rates)
    for name, parameter in older.named_parameters():
        parameter.grad = None if "pooler" in name else torch.rand_like(parameter)
    optimizer.step()
    state = {name: optimizer.state[parameter] for name, parameter in older.named_parameters()}
    resume.save_checkpoint(tmp_path, resume.take_checkpoint(resume.TrainingProgress(), older, optimizer, scaler))
    model = DocREModel(str(tiny_bert), emb_size=64)
    optimizer = build_optimizer(model, rates)
    resume.load_checkpoint(tmp_path, model, optimizer, scaler)
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, older.get_parameter(name))
        assert torch.equal(optimizer.state[parameter]["exp_avg"], state[name]["exp_avg"])
