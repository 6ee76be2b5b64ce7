"""fp16: steps that overflow are skipped and do not count, and a training that cannot go on says so."""

import json
import math

import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from trainings import arguments
from transformers import get_linear_schedule_with_warmup

import train
from hingeabl.errors import UserError
from hingeabl.training import session
from hingeabl.training.resume import EXIT_STOPPED, TrainingProgress
from hingeabl.training.session import SinceLastLog, mean_loss
from hingeabl.training.steps import (
    FIRST_SCALE,
    MOST_SKIPPED,
    build_scaler,
    optimizer_step,
    scaling_figures,
    settle_skipped,
)

CPU = torch.device("cpu")
FP16 = ("--precision", "fp16", "--train_batch_size", "1", "--max_seq_length", "128")  # twelve steps an epoch


@pytest.fixture(scope="module")
def short(sample, tmp_path_factory):
    """The sample with three entities a document: fp16 is slow on CPUs."""
    folder = tmp_path_factory.mktemp("short")
    for path in sample.glob("*.json"):
        documents = json.loads(path.read_text())
        for document in documents:
            document["vertexSet"] = document["vertexSet"][:3]
            document["labels"] = [label for label in document["labels"] if max(label["h"], label["t"]) < 3]
        (folder / path.name).write_text(json.dumps(documents))
    return folder


def overflowing(monkeypatch, steps):
    """Make the loss infinite at these steps of a training, counted from 1."""
    whole, calls = train.batch_loss, []

    def batch_loss(*given):
        calls.append(1)
        return whole(*given) * (math.inf if len(calls) in steps else 1)

    monkeypatch.setattr(train, "batch_loss", batch_loss)


def records_of(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def small_training(scale=FIRST_SCALE):
    """A layer of weight 1 with everything that a step needs; the rate falls by a tenth each step."""
    model = nn.Linear(1, 1, bias=False)
    nn.init.ones_(model.weight)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.5, fused=True)
    scaler = torch.amp.GradScaler("cpu", scale)
    return model, optimizer, get_linear_schedule_with_warmup(optimizer, 0, 10), scaler


def take_step(model, optimizer, scheduler, scaler, factor=1.0):
    scaler.scale(model(torch.ones(1, 1)).sum() * factor).backward()
    return optimizer_step(model, optimizer, scheduler, scaler, 1.0)


@pytest.mark.parametrize(("gradient", "moved"), [(0.5, 0.5), (3.0, 1.0)])  # below and above the norm of 1
def test_gradients_are_clipped_after_the_scale_is_taken_out(gradient, moved):
    model, _, _, scaler = small_training()
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    take_step(model, optimizer, get_linear_schedule_with_warmup(optimizer, 0, 10), scaler, gradient)
    assert 1 - model.weight.item() == pytest.approx(moved, rel=1e-4)


def test_a_step_that_overflows_changes_no_weight_and_no_count_of_the_optimizer():
    training = small_training()
    model, optimizer, _, scaler = training
    assert not take_step(*training)
    weight = model.weight.item()
    assert take_step(*training, math.inf) and model.weight.item() == weight
    assert scaler.get_scale() == FIRST_SCALE / 2
    assert [state["step"].item() for state in optimizer.state.values()] == [1]
    assert not take_step(*training) and model.weight.item() < weight


def test_without_fp16_a_step_says_nothing_of_skips():
    model, optimizer, scheduler, _ = small_training()
    assert take_step(model, optimizer, scheduler, build_scaler(CPU, "bf16")) is None


def test_overflows_are_skipped_told_and_logged_and_training_goes_on(short, tiny_bert, tmp_path, monkeypatch, capsys):
    overflowing(monkeypatch, {3, 4, 11})
    train.main(arguments(short, tiny_bert, tmp_path, *FP16))
    logged = [record for record in records_of(tmp_path / "seed_7") if "loss" in record]
    assert [record["step"] for record in logged] == [8, 9, 17, 21]  # of 10, 12, 20 and 24 that were tried
    assert [record["skipped_steps"] for record in logged] == [2, 3, 3, 3]
    assert [record["loss_scale"] for record in logged] == [FIRST_SCALE / 4] + 3 * [FIRST_SCALE / 8]
    total = 24
    rates = [1e-3 * (total - step) / (total - int(0.06 * total)) for step in (8, 9, 17, 21)]
    assert [record["learning_rate"] for record in logged] == pytest.approx(rates)
    told = capsys.readouterr()
    assert "fp16: 2 of the last 10 steps overflowed and were skipped" in told.out + told.err
    weights = load_file(tmp_path / "seed_7" / "model.safetensors")
    assert all(tensor.isfinite().all() for tensor in weights.values())


def test_a_training_without_fp16_logs_no_scale(finished):
    assert all("loss_scale" not in record for record in records_of(finished / "seed_7"))


def test_gradients_too_large_for_the_first_scale_find_a_smaller_one(short, tiny_bert, tmp_path, monkeypatch):
    whole = train.batch_loss
    monkeypatch.setattr(train, "batch_loss", lambda *given: whole(*given) * 1000)
    train.main(arguments(short, tiny_bert, tmp_path, *FP16))
    last = [record for record in records_of(tmp_path / "seed_7") if "loss" in record][-1]
    assert 0 < last["skipped_steps"] < 15 and last["step"] == 24 - last["skipped_steps"]
    assert last["loss_scale"] == FIRST_SCALE / 2 ** last["skipped_steps"]


def test_a_training_that_overflows_at_every_step_ends_with_a_remedy(short, tiny_bert, tmp_path, monkeypatch):
    overflowing(monkeypatch, range(1, 100))
    with pytest.raises(UserError, match=r"fp16 overflowed .*lower --learning_rate, or pass --precision bf16 or fp32"):
        train.main(arguments(short, tiny_bert, tmp_path, *FP16))


def test_so_many_skipped_steps_in_a_row_are_an_error_however_large_the_scale():
    _, _, _, scaler = small_training(2.0**60)
    scaler.scale(torch.ones(()))
    skip, step = torch.tensor(True), torch.tensor(False)
    place = TrainingProgress(step=25)
    settle_skipped(place, scaler, 12 * [skip] + [step] + (MOST_SKIPPED - 8) * [skip])
    assert (place.step, place.skipped, place.skipped_in_row) == (1, 24, MOST_SKIPPED - 8)
    place.step += 8
    with pytest.raises(UserError, match=f"overflowed in {MOST_SKIPPED} steps in a row"):
        settle_skipped(place, scaler, 8 * [skip])


def test_a_scale_below_one_is_an_error():
    _, _, _, scaler = small_training(0.5)
    scaler.scale(torch.ones(()))
    with pytest.raises(UserError, match=r"until the loss scale fell to 0\.5"):
        settle_skipped(TrainingProgress(step=2), scaler, [torch.tensor(False), torch.tensor(True)])


def test_a_loss_that_is_not_finite_in_a_step_that_was_taken_is_an_error_with_fp16_too():
    losses = [(step, [f"document {step}"], torch.tensor(value)) for step, value in ((8, math.inf), (9, 2.0), (9, 4.0))]
    assert mean_loss(SinceLastLog(losses), [True, False]) == 6  # of step 9, the sum of its batches' shares
    assert math.isnan(mean_loss(SinceLastLog(losses[:1]), [True]))
    with pytest.raises(UserError, match=r"step 8: the loss is inf, on documents \['document 8'\]"):
        mean_loss(SinceLastLog(losses), [False, True])


@pytest.mark.slow
def test_a_training_stopped_between_overflows_ends_as_one_that_was_not(short, tiny_bert, tmp_path, monkeypatch):
    """The scale doubles after eight good steps, so its count of them must go on where it was."""

    def scaler(device, precision):
        return torch.amp.GradScaler("cpu", FIRST_SCALE, growth_interval=8)

    def stop_after_one(training, stop):
        session.save(training, "SIGTERM")

    monkeypatch.setattr(train, "build_scaler", scaler)
    with monkeypatch.context() as patched:
        overflowing(patched, {3, 15})
        train.main(arguments(short, tiny_bert, tmp_path / "whole", *FP16))
    with monkeypatch.context() as patched, pytest.raises(SystemExit) as stopped:
        overflowing(patched, {3})
        patched.setattr(train, "save_if_due", stop_after_one)
        train.main(arguments(short, tiny_bert, tmp_path / "stopped", *FP16))
    assert stopped.value.code == EXIT_STOPPED
    with monkeypatch.context() as patched:
        overflowing(patched, {5})
        train.main(arguments(short, tiny_bert, tmp_path / "stopped", *FP16))
    logged = [record for record in records_of(tmp_path / "whole/seed_7") if "loss" in record]
    scales = [record["loss_scale"] for record in logged]
    assert scales == [FIRST_SCALE / 2, FIRST_SCALE, FIRST_SCALE / 2, FIRST_SCALE]
    for name in ("metrics.jsonl", "model.safetensors", "scores.json"):
        found, expected = (tmp_path / run / "seed_7" / name for run in ("stopped", "whole"))
        assert found.read_bytes() == expected.read_bytes(), name


def test_to_take_steps_never_asks_the_device(monkeypatch):
    """Reading a tensor waits for the GPU: it is done at the logs only."""
    training = small_training()
    flags = []
    with monkeypatch.context() as patched:
        for name in ("item", "tolist", "__bool__", "__float__"):
            patched.setattr(torch.Tensor, name, lambda *_: pytest.fail("a tensor was read"))
        flags += [take_step(*training), take_step(*training, math.inf)]
    place = TrainingProgress(step=2)
    assert settle_skipped(place, training[3], flags) == [False, True] and place.step == 1
    assert scaling_figures(place, training[3]) == {"skipped_steps": 1, "loss_scale": FIRST_SCALE / 2}
