"""The losses against the released programs' numbers, their stability, and the decision rule."""

import json

import pytest
import torch
from conftest import ROOT
from safetensors.torch import load_file

from losses import get_loss, loss_names
from utils import UserError

CASES = [
    ("atl", None, "atl"),
    ("balanced_softmax", None, "balanced_softmax"),
    ("afl", None, "afl"),
    ("sat", None, "sat"),
    ("mean_sat", None, "mean_sat"),
    ("hingeabl", None, "hingeabl"),
    ("hingeabl_released", None, "hingeabl_released"),
    ("aml", None, "aml_margin1"),
    ("aml", 5, "aml_margin5"),
]


@pytest.fixture(scope="module")
def numbers(released):
    return load_file(released / "losses.safetensors"), json.loads((released / "losses.json").read_text())


@pytest.mark.parametrize(("name", "margin", "key"), CASES)
def test_value_and_gradient_equal_the_released_programs(numbers, name, margin, key):
    tensors, values = numbers
    scores = tensors["logits"].clone().requires_grad_()
    value = get_loss(name, margin)(scores, tensors["labels"])
    value.backward()
    assert value.item() == pytest.approx(values[key], rel=1e-9)
    torch.testing.assert_close(scores.grad, tensors[f"grad_{key}"], rtol=1e-9, atol=1e-15)


@pytest.mark.parametrize(
    ("name", "key"), [("atl", "predictions_threshold_class"), ("balanced_softmax", "predictions_zero_threshold")]
)
def test_decision_rule_equals_the_released_programs(numbers, name, key):
    tensors, _ = numbers
    predicted = get_loss(name).predict(tensors["logits"])
    assert torch.equal(predicted[:, 1:], tensors[key][:, 1:])


def random_case(dtype=torch.float64):
    generator = torch.Generator().manual_seed(0)
    scores = 4 * torch.randn(32, 97, generator=generator, dtype=torch.float64)
    labels = (torch.rand(32, 97, generator=generator) < 0.03).double()
    labels[:, 0] = (labels[:, 1:].sum(1) == 0).double()
    return scores.to(dtype), labels


@pytest.mark.parametrize("name", loss_names())
def test_gradient_equals_finite_differences(name):
    scores, labels = random_case()
    scores, labels = scores[:3, :9].clone().requires_grad_(), labels[:3, :9]
    assert torch.autograd.gradcheck(lambda x: get_loss(name)(x, labels), scores)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
@pytest.mark.parametrize("scale", [1e4, 1.0, 0.0])
@pytest.mark.parametrize("name", loss_names())
def test_extreme_scores_give_a_finite_value_and_gradient(name, scale, dtype):
    scores, labels = random_case()
    scores = (scores.sign() * scale).to(dtype).requires_grad_()
    value = get_loss(name)(scores, labels)
    value.backward()
    assert value.isfinite() and scores.grad.isfinite().all()
    assert value.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)


@pytest.mark.parametrize("name", loss_names())
def test_no_pairs_give_a_loss_of_zero(name):
    scores = torch.zeros(0, 97, requires_grad=True)
    value = get_loss(name)(scores, torch.zeros(0, 97))
    value.backward()
    assert value.item() == 0


@pytest.mark.parametrize("name", ["hingeabl", "hingeabl_released", "aml"])
def test_margin_losses_vanish_beyond_the_margin(name):
    labels = torch.tensor([[0.0, 1.0, 0.0]])
    assert get_loss(name, 5)(torch.tensor([[0.0, 5.1, -5.1]]), labels).item() == 0
    assert get_loss(name, 5)(torch.tensor([[0.0, 4.9, -5.1]]), labels).item() > 0


@pytest.mark.parametrize(
    ("released_name", "name"),
    [
        ("ATL", "atl"),
        ("balance_softmax", "balanced_softmax"),
        ("AFL", "afl"),
        ("AML", "aml"),
        ("SAT", "sat"),
        ("MeanSAT", "mean_sat"),
        ("HingeABL", "hingeabl"),
    ],
)
def test_released_names_work(released_name, name):
    assert get_loss(released_name).name == name


def test_unknown_loss_names_the_choices():
    with pytest.raises(UserError, match=r"--loss_type hinge: .*hingeabl"):
        get_loss("hinge")


def test_margin_for_a_loss_without_one_is_refused():
    with pytest.raises(UserError, match="atl has no margin"):
        get_loss("atl", 5)


def test_predict_keeps_all_ties_at_the_last_place_and_marks_empty_rows():
    scores = torch.tensor([[0.0, 3, 2, 2, 2, 1], [0.0, -1, -1, -1, -1, -1]])
    predicted = get_loss("atl").predict(scores, max_labels=2)
    assert predicted.tolist() == [[0, 1, 1, 1, 1, 0], [1, 0, 0, 0, 0, 0]]


def test_class_0_takes_a_place_among_the_highest():
    scores = torch.tensor([[5.0, 4, 3, -1]])
    assert get_loss("balanced_softmax").predict(scores, max_labels=2)[0, 1:].tolist() == [1, 0, 0]


def test_the_loss_that_the_readme_shows_is_the_one_in_the_code():
    shown = (ROOT / "README.md").read_text().split("```python\n")[1].split("```")[0]
    assert shown in (ROOT / "losses.py").read_text()
