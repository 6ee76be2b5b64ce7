"""On a GPU: the CPU's numbers, no waits within a step, trainings that learn. Skipped where there is none."""

import copy
import json
from types import SimpleNamespace

import pytest
import torch
from model_scores import real_shapes
from trainings import arguments
from transformers import AutoTokenizer, get_linear_schedule_with_warmup

import train
from hingeabl.modeling.encoder import checkpoint_layers
from hingeabl.training.steps import build_scaler
from losses import get_loss
from model import DocREModel
from utils import autocast, collate_fn, to_device

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
GPU = torch.device("cuda")
SIZES = [(2, 30), (20, 150), (42, 180), (20, 600)]
SMALL = {"emb_size": 128, "unet_channels": 32, "axial_layers": 2}


@pytest.fixture(autouse=True)
def exact(monkeypatch):
    monkeypatch.setattr(torch.backends.cuda.matmul, "allow_tf32", False)
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)


def drawn(backbone, encoder):
    torch.manual_seed(0)
    return DocREModel(str(encoder), backbone=backbone, **SMALL)


def gradients(model, batch, device, precision="fp32"):
    batch = to_device(dict(batch), device)
    labels = batch.pop("labels")
    with autocast(device, precision):
        scores = model.to(device)(**batch)
    get_loss("atl")(scores, labels).backward()
    return scores.detach().cpu(), {name: p.grad.cpu() for name, p in model.named_parameters()}


@pytest.mark.parametrize("family", ["tiny_bert", "tiny_roberta"])
@pytest.mark.parametrize("backbone", DocREModel.backbones)
def test_a_gpus_scores_and_gradients_are_the_cpus(backbone, family, request, rel2id):
    encoder = request.getfixturevalue(family)
    model = drawn(backbone, encoder).eval()
    batch = collate_fn(real_shapes(AutoTokenizer.from_pretrained(encoder), rel2id, SIZES))
    expected, expected_gradients = gradients(copy.deepcopy(model), batch, torch.device("cpu"))
    scores, found = gradients(model, batch, GPU)
    torch.testing.assert_close(scores, expected, rtol=0, atol=1e-4)
    largest = max(gradient.norm() for gradient in expected_gradients.values())
    for name, gradient in found.items():
        difference = (gradient - expected_gradients[name]).norm()
        assert difference < 1e-3 * expected_gradients[name].norm() + 1e-5 * largest, name


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
@pytest.mark.parametrize("backbone", DocREModel.backbones)
def test_half_precision_is_close_to_float32(backbone, precision, tiny_bert, minilm_tokenizer, rel2id):
    model = drawn(backbone, tiny_bert).eval()
    batch = collate_fn(real_shapes(minilm_tokenizer, rel2id, SIZES))
    expected, _ = gradients(copy.deepcopy(model), batch, GPU)
    scores, found = gradients(model, batch, GPU, precision)
    assert (scores - expected).abs().max() < 0.05 * expected.abs().max()
    assert all(gradient.isfinite().all() for gradient in found.values())


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("precision", ["fp16", "bf16", "fp32"])
@pytest.mark.parametrize("backbone", DocREModel.backbones)
def test_a_step_waits_for_nothing(backbone, precision, checkpointing, tiny_bert, minilm_tokenizer, rel2id):
    args = SimpleNamespace(learning_rate=5e-5, classifier_lr=1e-4, module_lr=None, adam_epsilon=1e-6)
    model = drawn(backbone, tiny_bert).to(GPU).train()
    if checkpointing:
        checkpoint_layers(model.model)
    optimizer = train.build_optimizer(model, args)
    scheduler = get_linear_schedule_with_warmup(optimizer, 1, 10)
    scaler = build_scaler(GPU, precision)
    batch = collate_fn(real_shapes(minilm_tokenizer, rel2id, SIZES))
    before = [p.detach().clone() for p in model.parameters()]
    for step in range(3):
        if step == 1:
            torch.cuda.set_sync_debug_mode("error")
        try:
            moved = to_device(dict(batch), GPU)
            labels = moved.pop("labels")
            with autocast(GPU, precision):
                scores = model(**moved)
            scaler.scale(get_loss("hingeabl_released")(scores, labels)).backward()
            train.optimizer_step(model, optimizer, scheduler, scaler, 1.0)
        finally:
            torch.cuda.set_sync_debug_mode("default")
    changed = [not torch.equal(p, old) for p, old in zip(model.parameters(), before, strict=True)]
    assert sum(changed) > 0.9 * len(changed)
    assert all(p.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_a_training_on_the_sample_ends_with_scores(precision, sample, tiny_bert, tmp_path):
    train.main([*arguments(sample, tiny_bert, tmp_path), "--precision", precision])
    assert json.loads((tmp_path / "seed_7" / "scores.json").read_text())["dev"]["f1"] > 0
