"""Trainings of several processes, as torchrun starts them."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from conftest import ROOT
from model_scores import BACKBONES
from safetensors.torch import load_file
from trainings import EMPTY, arguments, first_gradients, wait_for_steps

import train
from hingeabl.errors import UserError
from hingeabl.training import parallel
from hingeabl.training.resume import failure_noted, status_of
from losses import get_loss
from model import DocREModel
from prepro import featurize
from utils import collate_fn


def launcher(processes, *program):
    """The command that runs a program in several processes on this machine."""
    here = ("--standalone", "--local_addr=127.0.0.1")  # the machine's name need not resolve
    return [sys.executable, "-m", "torch.distributed.run", *here, f"--nproc_per_node={processes}", *program]


def torchrun(processes, *program):
    """Run a program in several processes on this machine; returns what it printed."""
    found = subprocess.run(
        launcher(processes, *program),
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert found.returncode == 0, found.stdout + found.stderr
    return found.stdout


# What each of two processes alone says, sums and gathers; then the gradients of both.
TOGETHER = """
import sys
from pathlib import Path
sys.path[:0] = sys.argv[1], sys.argv[2]
import torch
from tqdm import tqdm
from hingeabl.modeling.layers import max_over_processes
from hingeabl.training import parallel
from trainings import first_gradients
parallel.start("cpu")
rank, cpu = parallel.rank(), torch.device("cpu")
assert parallel.world_size() == 2
assert max_over_processes(int(rank == 1), cpu) and not max_over_processes(0, cpu)
assert max_over_processes(40 + 5 * rank, cpu) == 45  # of DocuNet's maps
assert tqdm(total=1, disable=False).disable == bool(rank)
assert parallel.sum_over_processes(torch.tensor([1.0, rank])).tolist() == [2, 1]
found = parallel.gather_rows(torch.full((3 * rank, 2), rank), cpu)
assert [part.tolist() for part in found] == ([] if rank else [[], 3 * [[1, 1]]])
first_gradients(sys.argv[4:], Path(sys.argv[3]))
"""


@pytest.mark.slow
@pytest.mark.parametrize("given", [("--backbone", "atlop", "--evidence_weight", "10"), ("--backbone", "kd_docre")])
def test_two_processes_share_flags_sums_map_sizes_and_results_and_have_the_gradients_of_the_doubled_batch(
    given, sample, still_bert, tmp_path
):
    """Six documents of 2, 3, 4, 6 and as many entities as they have, so of 2 to more than 100 pairs, are one batch."""
    data = tmp_path / "data"
    shutil.copytree(sample, data)
    documents = json.loads((data / "train.json").read_text())[:6]
    for document, entities in zip(documents, (2, 3, 4, 6), strict=False):
        document["vertexSet"] = document["vertexSet"][:entities]
        document["labels"] = [x for x in document["labels"] if max(x["h"], x["t"]) < entities]
    assert len(documents[5]["vertexSet"]) > 10
    (data / "train.json").write_text(json.dumps(documents))
    program = tmp_path / "together.py"
    program.write_text(TOGETHER)
    paths = [tmp_path / f"gradients_{processes}.safetensors" for processes in (1, 2)]
    of_one, of_two = (
        arguments(data, still_bert, tmp_path / batch, *given, "--loss_type", "atl", "--train_batch_size", batch)
        for batch in ("6", "3")
    )
    first_gradients(of_one, paths[0])
    torchrun(2, str(program), str(ROOT), str(ROOT / "tests/helpers"), str(paths[1]), *of_two)
    one, two = map(load_file, paths)
    assert one.keys() == two.keys() and len(one) > 20
    largest = max(gradient.abs().max() for gradient in one.values())
    for name in one:  # that of a key's bias is 0 but for rounding: softmax does not see it
        allowed = 1e-5 * one[name].abs().max() + 1e-8 * largest
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
    if training.progress.epoch == 3:
        parallel.wait_for_all()
        parallel.finish()
        raise SystemExit(0)
session.save = stop
train.main(sys.argv[1:])
"""


def loss_curve(folder):
    records = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [record["loss"] for record in records if "loss" in record]


@pytest.mark.slow
def test_four_processes_score_fewer_documents_than_they_are_as_one_does(sample, still_bert, tmp_path):
    """Three documents to score: the last process has none. Six to train on: of the last batch two have none."""
    data = shutil.copytree(sample, tmp_path / "data")
    for name, count in (("train", 6), ("dev", 3), ("test", 3)):
        documents = json.loads((data / f"{name}.json").read_text())[:count]
        (data / f"{name}.json").write_text(json.dumps(documents))
    more = ("--loss_type", "atl", "--keep_last_batch", "--train_batch_size")
    train.main(arguments(data, still_bert, tmp_path / "one", *more, "4"))
    torchrun(4, str(ROOT / "train.py"), *arguments(data, still_bert, tmp_path / "four", *more, "1"))
    one, four = (tmp_path / name / "seed_7" for name in ("one", "four"))
    assert loss_curve(four) == pytest.approx(loss_curve(one), rel=1e-4)
    for name in ("result.json", "result_dev.json"):
        assert json.loads((four / name).read_text()) == json.loads((one / name).read_text())
    scores = [json.loads((folder / "scores.json").read_text()) for folder in (one, four)]
    assert scores[1]["dev"] == pytest.approx(scores[0]["dev"])
    for name in ("pair_scores_test.safetensors", "pair_scores_dev.safetensors"):
        expected, found = load_file(one / name), load_file(four / name)
        assert all(torch.allclose(found[key], tensor, atol=1e-4) for key, tensor in expected.items())


# Writes checkpoints slowly, and notes whether one was there when a process left.
SLOW_WRITES = """
import os, sys, time
from pathlib import Path
sys.path.insert(0, sys.argv.pop(1))
folder = Path(sys.argv.pop(1))
import train
from hingeabl.training import resume
write = resume.save_checkpoint
def slowly(*given):
    time.sleep(3)
    write(*given)
resume.save_checkpoint = slowly
(folder.parent / f"pid_{os.environ['RANK']}").write_text(str(os.getpid()))
try:
    train.main(sys.argv[1:])
finally:
    there = len(list((folder / "seed_7/checkpoints").glob("*.safetensors")))
    (folder / f"left_{os.environ['RANK']}").write_text(str(there))
"""


@pytest.mark.parametrize("asked", ["torchrun", pytest.param("one process", marks=pytest.mark.slow)])
@pytest.mark.slow
def test_a_sigterm_saves_and_no_process_leaves_before(sample, tiny_bert, tmp_path, asked):
    program, output = tmp_path / "slow_writes.py", tmp_path / "run"
    program.write_text(SLOW_WRITES)
    more = ("--num_train_epochs", "50", "--train_batch_size", "1")
    process = subprocess.Popen(
        launcher(2, str(program), str(ROOT), str(output), *arguments(sample, tiny_bert, output, *more)),
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    wait_for_steps(output / "seed_7", 6)
    os.kill(process.pid if asked == "torchrun" else int((tmp_path / "pid_1").read_text()), signal.SIGTERM)
    shown = process.communicate(timeout=120)[0]
    assert process.returncode == 1 and "saved after step" in shown, shown
    assert asked == "torchrun" or "another process was asked to stop: saved" in shown
    counts = [int((output / f"left_{rank}").read_text()) for rank in (0, 1)]
    assert counts[0] == counts[1] > 0
    assert status_of(output / "seed_7")[0] == "stopped"


@pytest.fixture
def torchrun_with(monkeypatch):
    """Pretends to be the second of some processes of torchrun on a machine with some GPUs, and gives back how it joins
    the others."""
    joined = {}

    def join(backend, **more):
        joined.update(more, backend=backend)

    def pretend(processes, gpus):
        for name, value in (("WORLD_SIZE", processes), ("LOCAL_WORLD_SIZE", processes), ("LOCAL_RANK", 1)):
            monkeypatch.setenv(name, str(value))
        monkeypatch.setattr(torch.cuda, "is_available", lambda: gpus > 0)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
        monkeypatch.setattr(torch.cuda, "set_device", lambda device: joined.update(current=device))
        monkeypatch.setattr(dist, "init_process_group", join)
        return joined

    return pretend


@pytest.mark.parametrize("device", [None, "cuda"])
def test_each_process_takes_its_own_gpu(torchrun_with, device):
    joined, own = torchrun_with(processes=2, gpus=2), torch.device("cuda", 1)
    parallel.start(device)
    assert (joined["backend"], joined["device_id"], joined["current"]) == ("nccl", own, own)
    assert joined["timeout"].total_seconds() >= 3600


@pytest.mark.parametrize(("device", "gpus"), [("cpu", 2), (None, 0), ("cuda", 0)])
def test_processes_without_gpus_join_over_gloo(torchrun_with, device, gpus):
    joined = torchrun_with(processes=2, gpus=gpus)
    parallel.start(device)
    assert joined["backend"] == "gloo" and not {"device_id", "current"} & joined.keys()


def test_processes_that_cannot_have_a_gpu_each_are_refused(torchrun_with):
    torchrun_with(processes=3, gpus=2)
    with pytest.raises(UserError, match=r"nproc_per_node=3: 3 processes, but 2 GPUs .* pass --nproc_per_node=2"):
        parallel.start(None)
    with pytest.raises(UserError, match=r"--device cuda:0: each process takes a GPU of its own; leave it out"):
        parallel.start("cuda:0")


@pytest.mark.parametrize("backbone", BACKBONES)
def test_where_no_gradient_is_expected_to_be_missing_none_is(backbone, tiny_bert, minilm_tokenizer, rel2id):
    """Of documents without sentences, without entities, and with one: those that leave most out."""
    model = DocREModel(str(tiny_bert), emb_size=64, backbone=backbone, unet_channels=16, axial_layers=1)
    assert not parallel.may_leave_gradients_out(model)
    one = {**EMPTY, "sents": [["a"]], "vertexSet": [[{"name": "a", "sent_id": 0, "pos": [0, 1]}]]}
    for document in (EMPTY, {**EMPTY, "sents": [["a"]]}, one):
        batch = collate_fn(featurize([{**document, "labels": []}], minilm_tokenizer, rel2id))
        labels = batch.pop("labels")
        model.zero_grad()
        get_loss("atl")(model(**batch), labels).backward()
        assert not [name for name, parameter in model.named_parameters() if parameter.grad is None]


def test_an_encoder_off_the_fast_path_may_leave_gradients_out(tiny_distilbert):
    assert parallel.may_leave_gradients_out(DocREModel(str(tiny_distilbert), emb_size=64))


def test_the_error_of_another_process_is_noted_beside_and_shown(tmp_path, monkeypatch):
    with monkeypatch.context() as patched, pytest.raises(UserError):
        patched.setattr(parallel, "rank", lambda: 1)
        with failure_noted(tmp_path):
            raise UserError("no room")
    assert [path.name for path in tmp_path.iterdir()] == ["failed_rank_1.json"]
    assert status_of(tmp_path)[0] == "failed" and "no room" in status_of(tmp_path)[1]
    with failure_noted(tmp_path):
        assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("processes", "error", "told"),
    [
        (2, RuntimeError("[pair.cc:553] Connection closed by peer [10.0.0.2]:31618."), True),
        (2, dist.DistBackendError("NCCL error: remote process exited"), True),
        (2, RuntimeError("mat1 and mat2 shapes cannot be multiplied"), False),
        (1, RuntimeError("Connection closed by peer"), False),
    ],
)
def test_a_process_whose_fellow_is_gone_says_how_to_go_on(monkeypatch, processes, error, told):
    monkeypatch.setattr(parallel, "world_size", lambda: processes)
    with pytest.raises(UserError if told else type(error)) as raised, parallel.peer_failures_explained():
        raise error
    assert not told or re.match(r"process 0 of 2: another one is gone.*run the same command", str(raised.value))


def test_no_pickle_travels_between_processes():
    assert "_object" not in Path(parallel.__file__).read_text()
