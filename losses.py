"""The losses of the paper and three of other papers, one function each, and the rules by which their scores become
predictions.

Notation of every function: scores [pairs, classes] float32 or float64, labels [pairs, classes] 0/1 (class 0 is
1 for a pair without relation); class 0 is the threshold class TH, classes 1.. are the relations R; P and N are a
pair's positive and negative relations; d_r is Eq. (8). Each returns one value per pair, [pairs]; `Loss` averages
them over pairs.

To add a loss, write one such function and put @register above it. Its further arguments, with their defaults, are
its parameters; one named `margin` is what --margin sets.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from hingeabl.errors import UserError

LossFunction = Callable[..., Tensor]
DecisionRule = Callable[[Tensor], Tensor]


def threshold_class(scores: Tensor) -> Tensor:
    """Decide against the score of class 0: [pairs, classes] -> [pairs]."""
    return scores[:, 0]


def zero_threshold(scores: Tensor) -> Tensor:
    """Decide against 0: [pairs, classes] -> [pairs]."""
    return torch.zeros_like(scores[:, 0])


@dataclass(frozen=True)
class Loss:
    """A loss with its parameters and decision rule: what get_loss returns.

    threshold(scores) -> [pairs]: the score that a relation must exceed.
    """

    name: str
    function: LossFunction
    threshold: DecisionRule
    parameters: dict[str, Any] = field(default_factory=dict)

    def __call__(self, scores: Tensor, labels: Tensor) -> Tensor:
        """Mean loss over pairs, a scalar in at least float32; 0 (with a gradient of 0) for no pairs."""
        if scores.dtype != torch.float64:
            scores = scores.float()
        per_pair = self.function(scores, labels.to(scores.dtype), **self.parameters)
        return per_pair.sum() / max(len(per_pair), 1)

    def describe(self) -> dict[str, Any]:
        """The loss's name and parameters, for files."""
        return {"name": self.name, **self.parameters}

    def predict(self, scores: Tensor, max_labels: int = 4) -> Tensor:
        """0/1 in the scores' dtype, [pairs, classes]: relation r is predicted if its score exceeds the threshold and is
        among the row's `max_labels` highest, all classes counted; ties at the last place are all kept. Column 0
        marks the pairs without a predicted relation.
        """
        lowest_kept = scores.topk(min(max_labels, scores.shape[1]), dim=1).values[:, -1:]
        predicted = (scores > self.threshold(scores)[:, None]) & (scores >= lowest_kept)
        predicted[:, 0] = ~predicted[:, 1:].any(dim=1)
        return predicted.to(scores.dtype)


_LOSSES: dict[str, tuple[LossFunction, DecisionRule]] = {}
_ALIASES: dict[str, str] = {}


def register(*aliases: str, threshold: DecisionRule = threshold_class) -> Callable[[LossFunction], LossFunction]:
    """Register a loss under its function's name and aliases, in any case, with its decision rule."""

    def add(function: LossFunction) -> LossFunction:
        _LOSSES[function.__name__] = (function, threshold)
        _ALIASES.update({alias.lower(): function.__name__ for alias in (function.__name__, *aliases)})
        return function

    return add


def loss_names() -> list[str]:
    """The names that get_loss knows, without aliases."""
    return list(_LOSSES)


def get_loss(name: str, margin: float | None = None) -> Loss:
    """The loss registered under `name` or an alias, in any case; margin None means its own default.

    Raises UserError for an unknown name, or a margin where the loss has none.
    """
    canonical = _ALIASES.get(name.lower())
    if canonical is None:
        raise UserError(f"--loss_type {name}: no such loss; choose from {', '.join(loss_names())}")
    function, threshold = _LOSSES[canonical]
    arguments = list(inspect.signature(function).parameters.values())[2:]
    parameters = {argument.name: argument.default for argument in arguments}
    if margin is not None:
        if "margin" not in parameters:
            raise UserError(f"--margin {margin}: the loss {canonical} has no margin; leave the flag out")
        parameters["margin"] = float(margin)
    return Loss(canonical, function, threshold, parameters)


def distance(scores: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """d_r of Eq. (8) over the relations, and where they are positive: two tensors [pairs, classes - 1]."""
    positive = labels[:, 1:] > 0
    above = scores[:, 1:] - scores[:, :1]
    return torch.where(positive, above, -above), positive


def log_softmax_over(scores: Tensor, members: Tensor) -> Tensor:
    """Log-softmax over the member classes alone, 0 for the others: [pairs, classes]."""
    log_probability = scores.masked_fill(~members, float("-inf")).log_softmax(dim=1)
    return log_probability.masked_fill(~members, 0.0)


def threshold_over_negatives(scores: Tensor, labels: Tensor) -> Tensor:
    """L2 of Eq. (4), also AFL's negative part: -log softmax of TH among TH and the negatives. [pairs]."""
    members = labels <= 0
    members[:, 0] = True
    return -log_softmax_over(scores, members)[:, 0]


@register()
def atl(scores: Tensor, labels: Tensor) -> Tensor:
    """Adaptive Thresholding Loss, Eq. (3)-(5)."""
    members = labels > 0
    members[:, 0] = True
    positives_over_threshold = -log_softmax_over(scores, members)[:, 1:].mul(labels[:, 1:]).sum(dim=1)
    return positives_over_threshold + threshold_over_negatives(scores, labels)


@register("balance_softmax", threshold=zero_threshold)
def balanced_softmax(scores: Tensor, labels: Tensor) -> Tensor:
    """Balanced Softmax: log(1 + sum_N e^s) + log(1 + sum_P e^-s) over all classes; the threshold is 0.

    Class 0 is an ordinary class here, positive for pairs without relation.
    """
    positive = labels > 0
    zero = torch.zeros_like(scores[:, :1])
    negatives = scores.masked_fill(positive, float("-inf"))
    positives = (-scores).masked_fill(~positive, float("-inf"))
    return torch.cat([zero, negatives], 1).logsumexp(1) + torch.cat([zero, positives], 1).logsumexp(1)


@register()
def afl(scores: Tensor, labels: Tensor) -> Tensor:
    """Adaptive Focal Loss with focus 1: -(1 + p_0) log p_1 for positives, (p_1, p_0) = softmax(s_r, s_TH); Eq. (4)."""
    d, positive = distance(scores, labels)
    focal = (1 + torch.sigmoid(-d)) * F.softplus(-d)
    return focal.masked_fill(~positive, 0.0).sum(dim=1) + threshold_over_negatives(scores, labels)


@register()
def aml(scores: Tensor, labels: Tensor, margin: float = 1.0) -> Tensor:
    """Adaptive Margin Loss, Eq. (12): sum_R max(0, m - d_r)."""
    d, _ = distance(scores, labels)
    return F.relu(margin - d).sum(dim=1)


@register()
def sat(scores: Tensor, labels: Tensor) -> Tensor:
    """Separate Adaptive Thresholding, Eq. (7). The paper's sigma is 1 / (1 + e^x): -log sigma(-d) = softplus(-d)."""
    d, _ = distance(scores, labels)
    return F.softplus(-d).sum(dim=1)


@register("MeanSAT")
def mean_sat(scores: Tensor, labels: Tensor) -> Tensor:
    """MeanSAT, Eq. (11): SAT averaged over positives, plus SAT averaged over negatives; an empty side adds 0."""
    d, positive = distance(scores, labels)
    return sum_of_weighted_means(F.softplus(-d), torch.ones_like(d), [positive, ~positive])


@register()
def hingeabl(scores: Tensor, labels: Tensor, margin: float = 5.0) -> Tensor:
    """Adaptive Hinge Balance Loss, Eq. (9)-(10): softplus(-d_r) weighted by max(0, m - d_r), the weights normalised
    over all relations of the pair. The gradient flows through the weights too (Eq. 19)."""
    d, _ = distance(scores, labels)
    return sum_of_weighted_means(F.softplus(-d), F.relu(margin - d), [torch.ones_like(d, dtype=torch.bool)])


@register()
def hingeabl_released(scores: Tensor, labels: Tensor, margin: float = 5.0) -> Tensor:
    """What the authors' program computes: HingeABL with positives and negatives each normalised over their own
    weights, and the two sums added."""
    d, positive = distance(scores, labels)
    return sum_of_weighted_means(F.softplus(-d), F.relu(margin - d), [positive, ~positive])


@register()
def atgl(scores: Tensor, labels: Tensor, alpha: float = 16.5) -> Tensor:
    """ATGL (Xu et al., ACL 2026): one softmax over all classes, -log p weighted by alpha for positives, by 1 for TH, by
    0 for negatives. 16.5 is their setting for Re-DocRED."""
    weights = torch.cat([torch.ones_like(labels[:, :1]), alpha * labels[:, 1:]], dim=1)
    return -(weights * scores.log_softmax(dim=1)).sum(dim=1)


@register()
def ncrl(scores: Tensor, labels: Tensor, gamma: float = 0.05) -> Tensor:
    """NCRL (Zhou and Lee, IJCAI 2022), the None Class Ranking Loss: ncrl_terms summed over classes."""
    return ncrl_terms(scores, labels, gamma).sum(dim=1)


def ncrl_terms(scores: Tensor, labels: Tensor, gamma: float) -> Tensor:
    """-log p for a positive class, -log min(1, 1 - p + gamma) for a negative one, [pairs, classes]; p = 1 / (1 + e^-m),
    m = s_r - s_TH for a relation and s_TH minus the relations' mean score for class 0, positive without relation."""
    none = scores[:, :1] - scores[:, 1:].mean(dim=1, keepdim=True)
    m = torch.cat([none, scores[:, 1:] - scores[:, :1]], dim=1)
    log_rest = torch.logaddexp(F.logsigmoid(-m), scores.new_full((), gamma).log())  # log(1 - p + gamma)
    return torch.where(labels > 0, F.softplus(-m), -log_rest.clamp_max(0.0))


@register()
def pmtl(scores: Tensor, labels: Tensor, lambda_positive: float = 1.0, lambda_negative: float = 1.0) -> Tensor:
    """PMTL (Guo et al., PEMSCL, 2023): SAT, plus the mean entropy of the choice between r and TH over positives and
    over negatives, each with its weight; an empty side adds 0."""
    d, positive = distance(scores, labels)
    even = torch.ones_like(d)
    entropy = torch.sigmoid(d) * F.softplus(-d) + torch.sigmoid(-d) * F.softplus(d)
    of_positives = lambda_positive * sum_of_weighted_means(entropy, even, [positive])
    of_negatives = lambda_negative * sum_of_weighted_means(entropy, even, [~positive])
    return F.softplus(-d).sum(dim=1) + of_positives + of_negatives


def sum_of_weighted_means(values: Tensor, weights: Tensor, groups: list[Tensor]) -> Tensor:
    """Sum over groups of (sum of w * value) / (sum of w), all [pairs, relations] -> [pairs]; 0 where no weight is left.

    1e-30 is far below the smallest weight that float32 scores can give, and its inverse is finite.
    """
    total = values.new_zeros(len(values))
    for group in groups:
        inside = weights * group
        total = total + (inside * values).sum(dim=1) / inside.sum(dim=1).clamp_min(1e-30)
    return total
