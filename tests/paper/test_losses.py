"""The losses against the released programs' numbers, their stability, and the decision rule."""

import json
import math
import re

import pytest
import torch
from conftest import ROOT
from model_scores import DATA, loss_with_priors, with_thresholds
from safetensors.torch import load_file

from hingeabl.errors import UserError
from losses import get_loss, loss_names, ncrl, ncrl_terms, pmtl, sat

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
def numbers():
    """The released programs' own, on random scores."""
    return load_file(DATA / "losses.safetensors"), json.loads((DATA / "losses.json").read_text())


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
    loss = loss_with_priors(name, relations=8)
    scores, labels = with_thresholds(scores[:3, :9], loss).clone().requires_grad_(), labels[:3, :9]
    assert torch.autograd.gradcheck(lambda x: loss(x, labels), scores)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
@pytest.mark.parametrize("scale", [1e4, 1.0, 0.0])
@pytest.mark.parametrize("name", loss_names())
def test_extreme_scores_give_a_finite_value_and_gradient(name, scale, dtype):
    scores, labels = random_case()
    loss = loss_with_priors(name)
    scores = with_thresholds((scores.sign() * scale).to(dtype), loss).requires_grad_()
    value = loss(scores, labels)
    value.backward()
    assert value.isfinite() and scores.grad.isfinite().all()
    assert value.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)


@pytest.mark.parametrize("name", loss_names())
def test_no_pairs_give_a_loss_of_zero(name):
    loss = loss_with_priors(name)
    scores = with_thresholds(torch.zeros(0, 97), loss).requires_grad_()
    value = loss(scores, torch.zeros(0, 97))
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


def term(p, gamma=0.0):
    """-log min(1, p + gamma) of a probability."""
    return -math.log(min(1, p + gamma))


def sigmoid(x):
    return 1 / (1 + math.exp(-x))


def entropy(p):
    return -p * math.log(p) - (1 - p) * math.log(1 - p)


def mean(values):
    return sum(values) / len(values) if values else 0.0


def atgl_by_definition(s, positive, negative, alpha=16.5):
    share = [math.exp(score) / sum(map(math.exp, s)) for score in s]
    return term(share[0]) + alpha * sum(term(share[r]) for r in positive)


def ncrl_by_definition(s, positive, negative, gamma=0.05):
    none = sigmoid(s[0] - mean(s[1:]))
    total = term(1 - none, gamma) if positive else term(none)
    total += sum(term(sigmoid(s[r] - s[0])) for r in positive)
    return total + sum(term(1 - sigmoid(s[r] - s[0]), gamma) for r in negative)


def pmtl_by_definition(s, positive, negative, lambda_positive=1.0, lambda_negative=1.0):
    total = sum(term(sigmoid(s[r] - s[0])) for r in positive) + sum(term(sigmoid(s[0] - s[r])) for r in negative)
    total += lambda_positive * mean([entropy(sigmoid(s[r] - s[0])) for r in positive])
    return total + lambda_negative * mean([entropy(sigmoid(s[r] - s[0])) for r in negative])


@pytest.mark.parametrize(
    ("definition", "parameters"),
    [
        (atgl_by_definition, {}),
        (atgl_by_definition, {"alpha": 3.0}),
        (ncrl_by_definition, {}),
        (ncrl_by_definition, {"gamma": 0.3}),
        (pmtl_by_definition, {}),
        (pmtl_by_definition, {"lambda_positive": 0.1, "lambda_negative": 2.0}),
    ],
)
def test_later_losses_equal_their_definitions_pair_by_pair(definition, parameters):
    scores, labels = random_case()
    labels[0, 0], labels[0, 1:] = 0, 1  # no negatives
    loss = get_loss(definition.__name__.removesuffix("_by_definition"))
    assert loss.threshold(scores).equal(scores[:, 0])
    expected = []
    for s, y in zip(scores.tolist(), labels.tolist(), strict=True):
        positive = [r for r in range(1, 97) if y[r]]
        expected.append(definition(s, positive, sorted({*range(1, 97)} - {*positive}), **parameters))
    found = loss.definition.function(scores, labels, **loss.parameters | parameters)
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64), rtol=1e-9, atol=1e-9)
    if not parameters:
        assert loss(scores, labels).item() == pytest.approx(mean(expected), rel=1e-9)


def test_with_one_relation_some_losses_are_equal():
    generator = torch.Generator().manual_seed(0)
    scores = 4 * torch.randn(200, 2, dtype=torch.float64, generator=generator)
    labels = torch.nn.functional.one_hot(torch.randint(2, (200,), generator=generator), 2)
    for first, *others in (("atl", "sat", "mean_sat"), ("hingeabl", "hingeabl_released")):
        for other in others:
            torch.testing.assert_close(get_loss(first)(scores, labels), get_loss(other)(scores, labels))


def test_ncrl_without_its_none_class_and_shift_equals_sat():
    scores, labels = random_case()
    torch.testing.assert_close(ncrl_terms(scores, labels, gamma=0.0)[:, 1:].sum(dim=1), sat(scores, labels))
    assert not torch.allclose(ncrl(scores, labels, gamma=0.0), sat(scores, labels))


def test_pmtl_without_entropies_equals_sat():
    scores, labels = random_case()
    torch.testing.assert_close(pmtl(scores, labels, 0.0, 0.0), sat(scores, labels))
    assert (pmtl(scores, labels) > sat(scores, labels)).all()


@pytest.mark.parametrize("gamma", [0.0, 0.05])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_ncrls_negatives_are_exact_far_out_and_without_gradient_where_easy(gamma, dtype):
    """The pair's second relation is a negative at m; log min(1, 1 - p + 0) is -softplus(m)."""
    m = torch.tensor([-1e4, -50.0, -20.0, -1.0, 0.0, 20.0, 50.0, 1e4], dtype=dtype)
    scores = torch.stack([torch.zeros_like(m), torch.zeros_like(m), m], dim=1).requires_grad_()
    found = ncrl_terms(scores, torch.tensor([0.0, 1, 0]).expand(len(m), 3).to(dtype), gamma)[:, 2]
    found.sum().backward()
    slope = torch.sigmoid(m)
    if gamma:
        rest = torch.sigmoid(-m) + gamma
        slope = torch.where(rest < 1, slope * torch.sigmoid(-m) / rest, 0.0)
        torch.testing.assert_close(found, -rest.clamp_max(1).log())
    else:
        torch.testing.assert_close(found, torch.nn.functional.softplus(m), rtol=1e-6, atol=0)
    torch.testing.assert_close(scores.grad[:, 2], slope)


@pytest.mark.parametrize("name", loss_names())
def test_a_loss_neither_reads_the_device_nor_copies_to_it(name, monkeypatch):
    """Both wait for a GPU. `new_tensor` copies a Python number, `item` and the like read one back."""
    loss = loss_with_priors(name, relations=4)
    scores = with_thresholds(torch.randn(3, 5), loss).requires_grad_()
    labels = torch.eye(5)[:3]
    with monkeypatch.context() as patched:
        for method in ("new_tensor", "item", "tolist", "__bool__", "__float__"):
            patched.setattr(torch.Tensor, method, lambda *_: pytest.fail("the GPU would be waited for"))
        loss(scores, labels)


def test_the_losses_of_other_papers_are_those_of_the_page_and_stand_in_losses_alone():
    section = (ROOT / "docs/extend.md").read_text().split("\n### Losses of other papers\n")[1].split("\n#")[0]
    shown = re.findall(r"^\| [^|]+ \| `(\w+)` \|", section, re.M)
    assert shown == ["atgl", "ncrl", "pmtl", "amtl", "pn_risk"] and set(shown) < set(loss_names())
    for path in [*ROOT.glob("*.py"), *(ROOT / "hingeabl").rglob("*.py")]:
        if path != ROOT / "losses.py":
            assert not re.search(rf"\b({'|'.join(shown)})\b", path.read_text()), path


@pytest.mark.parametrize("page", ["README.md", "docs/extend.md"])
def test_the_loss_that_the_pages_show_is_the_one_in_the_code(page):
    blocks = [block.split("```")[0] for block in (ROOT / page).read_text().split("```python\n")[1:]]
    shown = next(block for block in blocks if "@register()" in block)
    assert shown in (ROOT / "losses.py").read_text()
