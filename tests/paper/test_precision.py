"""The default precision, and half-precision copies of weights, made once a step."""

import pytest
import torch
from torch import nn

from hingeabl.modeling.precision import CastTogether, weights_cast_to
from utils import pick_precision


@pytest.mark.parametrize(
    ("device", "abilities", "expected"),
    [
        ("cuda", {}, "fp16"),
        ("cpu", {"avx512_bf16": True}, "bf16"),
        ("cpu", {"amx_bf16": True}, "bf16"),
        ("cpu", {"avx512_bf16": False, "avx512_f": True}, "fp32"),
    ],
)
def test_the_default_precision_is_what_the_device_multiplies_fast(device, abilities, expected, monkeypatch):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: abilities, raising=False)
    assert pick_precision(None, torch.device(device)) == expected
    assert pick_precision("fp32", torch.device(device)) == "fp32"


def layers():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.LayerNorm(5), nn.Linear(5, 3, bias=False))


def loss_of(model, values):
    with torch.autocast("cpu", torch.bfloat16):
        return model(values).float().square().sum()


def test_layers_have_copies_within_the_block_and_their_own_weights_after_it_also_after_an_error():
    model = layers()
    own = dict(model.named_parameters())
    with pytest.raises(RuntimeError, match="stop"), weights_cast_to([model], torch.bfloat16):
        assert model[0].weight.dtype == model[0].bias.dtype == model[3].weight.dtype == torch.bfloat16
        assert model[2].weight is own["2.weight"]
        with weights_cast_to([model], torch.bfloat16):  # within another block nothing is copied again
            copy = model[0].weight
        assert model[0].weight is copy
        raise RuntimeError("stop")
    assert {name: id(weight) for name, weight in model.named_parameters()} == {n: id(w) for n, w in own.items()}


def test_gradients_arrive_at_the_float32_weights_and_are_autocasts():
    values = torch.randn(7, 6)
    plain, copied = layers(), layers()
    loss_of(plain, values).backward()
    with weights_cast_to([copied[:2], copied[2:]], torch.bfloat16):
        loss_of(copied, values).backward()
    for expected, found in zip(plain.parameters(), copied.parameters(), strict=True):
        assert found.grad.dtype == torch.float32
        assert torch.equal(found.grad, expected.grad)


def test_without_autocast_nothing_is_copied():
    model = layers()
    own = [id(weight) for weight in model.parameters()]
    with weights_cast_to([model], torch.float32):
        assert [id(weight) for weight in model.parameters()] == own


def test_a_copy_that_is_not_used_leaves_its_weight_without_gradient():
    used, unused = torch.randn(3, requires_grad=True), torch.randn(2, 2, requires_grad=True)
    first, second = CastTogether.apply(torch.bfloat16, used, unused)
    assert torch.equal(second, unused.bfloat16())
    first.sum().backward()
    assert torch.equal(used.grad, torch.ones(3)) and unused.grad is None
