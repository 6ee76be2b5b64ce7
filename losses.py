"""The losses of the paper and five of other papers, one function each, and the rules that turn scores into predictions.

Notation of every function: scores [pairs, classes] float32 or float64, labels [pairs, classes] 0/1 (class 0 is 1 for a
pair without relation); class 0 is the threshold class TH, classes 1.. are the relations R; P and N are a pair's
positive and negative relations; d_r is Eq. (8). Each returns one value per pair, [pairs]; `Loss` averages them.

To add a loss, write one such function and put @register above it. Its further arguments, with their defaults, are its
parameters: --margin sets `margin`, and `priors` are the relations' rates over the training pairs, [relations]. A loss
of a whole batch returns a scalar. See docs/extend.md.
"""

from __future__ import annotations

import functools
import inspect
import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from hingeabl.core import one_module
from hingeabl.errors import UserError

LossFunction = Callable[..., Tensor]
ThresholdRule = Callable[..., Tensor]
DecisionRule = Callable[..., Tensor]


def threshold_class(scores: Tensor) -> Tensor:
    """Decide against the score of class 0: [pairs, classes] -> [pairs]."""
    return scores[:, 0]


def zero_threshold(scores: Tensor) -> Tensor:
    """Decide against 0: [pairs, classes] -> [pairs]."""
    return torch.zeros_like(scores[:, 0])


def are_highest(scores: Tensor, max_labels: int) -> Tensor:
    """Whether each score is among the `max_labels` highest of its row, bool; ties for the last place are all kept."""
    return scores >= scores.topk(min(max_labels, scores.shape[1]), dim=1).values[:, -1:]


def among_highest(scores: Tensor, threshold: Tensor, max_labels: int) -> Tensor:
    """A relation is predicted if its score exceeds the threshold and is among the row's `max_labels` highest, column 0
    counted. Bool [pairs, classes], of which column 0 is not read."""
    return (scores > threshold[:, None]) & are_highest(scores, max_labels)


def above_threshold(scores: Tensor, threshold: Tensor, max_labels: int) -> Tensor:
    """Every relation whose score exceeds the threshold is predicted, without a limit on their number."""
    return scores > threshold[:, None]


@dataclass(frozen=True)
class LossDefinition:
    """What a loss is registered with: its function and rules, and how many threshold outputs it has."""

    function: LossFunction
    threshold: ThresholdRule
    decide: DecisionRule
    thresholds: int


@dataclass(frozen=True)
class Loss:
    """A loss with its parameters, decision rule and, if it needs them, `priors`, float64 [relations]: each relation's
    rate over the training pairs. `shift` is added to the threshold. get_loss makes it.

    Most losses take scores [pairs, classes], of which class 0 is the threshold class. One with n threshold outputs has
    the other n - 1 behind the classes: `outputs` columns.
    """

    name: str
    definition: LossDefinition
    parameters: dict[str, Any] = field(default_factory=dict)
    priors: Tensor | None = None
    shift: float = 0.0
    copies: dict[Any, Tensor] = field(default_factory=dict, repr=False, compare=False)  # of priors, by device and dtype

    def __call__(self, scores: Tensor, labels: Tensor) -> Tensor:
        """Mean loss over pairs, or the value of a whole batch's loss: a scalar in at least float32; 0 (with a gradient
        of 0) for no pairs. scores [pairs, outputs], labels [pairs, classes]."""
        if scores.dtype != torch.float64:
            scores = scores.float()
        priors = self.prior_arguments(self.definition.function, scores)
        value = self.definition.function(scores, labels.to(scores.dtype), **self.parameters, **priors)
        return value.sum() / max(len(value), 1) if value.dim() else value

    def prior_arguments(self, function: Callable[..., Tensor], scores: Tensor) -> dict[str, Tensor]:
        """{"priors": ...}, with the scores' device and dtype, for a loss's function or a rule with such an argument,
        else {}. Raises UserError if the loss has no priors."""
        if not takes_priors(function):
            return {}
        if self.priors is None:
            raise UserError(f"the loss {self.name} needs each relation's rate in training; take a run trained with it")
        key = scores.device, scores.dtype
        if key not in self.copies:
            self.copies[key] = self.priors.to(scores)
        return {"priors": self.copies[key]}

    @property
    def needs_priors(self) -> bool:
        """Whether the function or a rule has an argument `priors`."""
        return any(map(takes_priors, (self.definition.function, self.definition.threshold, self.definition.decide)))

    def outputs(self, classes: int) -> int:
        """How many scores a pair has."""
        return classes + self.definition.thresholds - 1

    def threshold(self, scores: Tensor) -> Tensor:
        """The score that a relation must exceed: [pairs], or [pairs, relations] if there are several thresholds."""
        threshold = self.definition.threshold(scores, **self.prior_arguments(self.definition.threshold, scores))
        return threshold + self.shift if self.shift else threshold

    def with_one_threshold(self, scores: Tensor) -> tuple[Tensor, Tensor]:
        """Scores [pairs, classes] and one threshold [pairs] for all of a pair's relations. With several thresholds,
        scores are those above the relation's own, and the threshold is 0."""
        threshold = self.threshold(scores)
        classes = scores.shape[1] + 1 - self.definition.thresholds
        if threshold.dim() == 1:
            return scores[:, :classes], threshold
        zero = torch.zeros_like(scores[:, :1])
        return torch.cat([zero, scores[:, 1:classes] - threshold], dim=1), zero[:, 0]

    def describe(self) -> dict[str, Any]:
        """The loss's name and parameters, for files."""
        return {"name": self.name, **self.parameters}

    def predict(self, scores: Tensor, max_labels: int = 4) -> Tensor:
        """0/1 in the scores' dtype, [pairs, classes]: the relations that the loss's rule predicts, by default
        among_highest. Column 0 marks the pairs without a predicted relation. A rule without `priors` gets what
        `with_one_threshold` returns, one with `priors` all outputs and the loss's own thresholds."""
        priors = self.prior_arguments(self.definition.decide, scores)
        scores_and_threshold = (scores, self.threshold(scores)) if priors else self.with_one_threshold(scores)
        predicted = self.definition.decide(*scores_and_threshold, max_labels, **priors)
        predicted[:, 0] = ~predicted[:, 1:].any(dim=1)
        return predicted.to(scores.dtype)


@functools.cache
def takes_priors(function: Callable[..., Tensor]) -> bool:
    """Whether a loss's function or rule has an argument `priors`."""
    return "priors" in inspect.signature(function).parameters


_LOSSES: dict[str, LossDefinition] = {}
_ALIASES: dict[str, str] = {}


def register(
    *aliases: str, threshold: ThresholdRule = threshold_class, decide: DecisionRule = among_highest, thresholds: int = 1
) -> Callable[[LossFunction], LossFunction]:
    """Register a loss under its function's name and aliases, in any case, with its threshold, its decision rule and its
    number of threshold outputs. A rule with an argument `priors` gets these too."""

    def add(function: LossFunction) -> LossFunction:
        _LOSSES[function.__name__] = LossDefinition(function, threshold, decide, thresholds)
        _ALIASES.update({alias.lower(): function.__name__ for alias in (function.__name__, *aliases)})
        return function

    return add


def loss_names() -> list[str]:
    """The names that get_loss knows, without aliases."""
    return list(_LOSSES)


def get_loss(name: str, margin: float | None = None, priors: Sequence[float] | None = None) -> Loss:
    """The loss registered under `name` or an alias, in any case; margin None means its own default. `priors`, each
    relation's rate over the training pairs, is kept if the loss needs it. Raises UserError for an unknown name, or a
    margin if the loss has none."""
    canonical = _ALIASES.get(name.lower())
    if canonical is None:
        raise UserError(f"--loss_type {name}: no such loss; choose from {', '.join(loss_names())}")
    definition = _LOSSES[canonical]
    arguments = list(inspect.signature(definition.function).parameters.values())[2:]
    parameters = {argument.name: argument.default for argument in arguments if argument.name != "priors"}
    if margin is not None:
        if "margin" not in parameters:
            raise UserError(f"--margin {margin}: the loss {canonical} has no margin; leave the flag out")
        parameters["margin"] = float(margin)
    loss = Loss(canonical, definition, parameters)
    if priors is None or not loss.needs_priors:
        return loss
    return replace(loss, priors=torch.tensor(priors, dtype=torch.float64))


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
    """Balanced Softmax: log(1 + sum_N e^s) + log(1 + sum_P e^-s) over all classes; the threshold is 0. Class 0 is an
    ordinary class here, positive for pairs without relation."""
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
    none_margin = scores[:, :1] - scores[:, 1:].mean(dim=1, keepdim=True)
    m = torch.cat([none_margin, scores[:, 1:] - scores[:, :1]], dim=1)
    log_rest = torch.logaddexp(F.logsigmoid(-m), scores.new_full((), gamma).log())  # log(1 - p + gamma)
    return torch.where(labels > 0, F.softplus(-m), -log_rest.clamp_max(0.0))


@register()
def pmtl(scores: Tensor, labels: Tensor, lambda_positive: float = 1.0, lambda_negative: float = 1.0) -> Tensor:
    """PMTL (Guo et al., PEMSCL, 2023): SAT, plus the mean entropy of the choice between r and TH over positives and
    over negatives, each with its weight; an empty side adds 0."""
    d, positive = distance(scores, labels)
    ones = torch.ones_like(d)
    entropy = torch.sigmoid(d) * F.softplus(-d) + torch.sigmoid(-d) * F.softplus(d)
    entropy_of_positives = lambda_positive * sum_of_weighted_means(entropy, ones, [positive])
    entropy_of_negatives = lambda_negative * sum_of_weighted_means(entropy, ones, [~positive])
    return F.softplus(-d).sum(dim=1) + entropy_of_positives + entropy_of_negatives


def frequency_groups(priors: Tensor) -> list[Tensor]:
    """AMTL's four groups of relations, the most frequent in training first: 10, 20, 46 and 20 of every 96, each an
    int64 tensor of columns in ascending order; of equally frequent relations the lower class comes first."""
    order = 1 + priors.argsort(descending=True, stable=True)
    borders = [round(count * len(priors) / 96) for count in (0, 10, 30, 76, 96)]
    return [order[start:end].sort().values for start, end in itertools.pairwise(borders)]


def groups_and_thresholds(scores: Tensor, priors: Tensor) -> list[tuple[Tensor, Tensor]]:
    """Each group's relations, and its threshold output [pairs, 1]: class 0's, then those behind the classes."""
    thresholds = torch.cat([scores[:, :1], scores[:, 1 + len(priors) :]], dim=1).split(1, dim=1)
    return list(zip(frequency_groups(priors), thresholds, strict=True))


def threshold_of_group(scores: Tensor, priors: Tensor) -> Tensor:
    """Decide against the threshold output of the relation's group: [pairs, outputs] -> [pairs, relations]."""
    thresholds = torch.empty_like(scores[:, : len(priors)])
    for group, threshold in groups_and_thresholds(scores, priors):
        thresholds[:, group - 1] = threshold
    return thresholds


def among_highest_of_group(scores: Tensor, threshold: Tensor, max_labels: int, priors: Tensor) -> Tensor:
    """A relation is predicted if its score exceeds its threshold and is among the `max_labels` highest of its group,
    the group's output t_k counted. threshold [pairs, relations] -> bool [pairs, classes], column 0 is not read."""
    predicted = torch.zeros_like(scores[:, : 1 + len(priors)], dtype=torch.bool)
    for group, group_threshold in groups_and_thresholds(scores, priors):
        members = torch.cat([group_threshold, scores[:, group]], dim=1)
        above = scores[:, group] > threshold[:, group - 1]
        predicted[:, group] = above & are_highest(members, max_labels)[:, 1:]
    return predicted


@register(threshold=threshold_of_group, decide=among_highest_of_group, thresholds=4)
def amtl(scores: Tensor, labels: Tensor, priors: Tensor, scale: float = 3.5) -> Tensor:
    """AMTL (Findings of ACL 2025): the mean over four groups of relations of ATL within the group, each against one
    threshold T = (t_0 + t_1 + t_2 + t_3) / scale. It decides against the groups' own t_k, as its program does."""
    groups = groups_and_thresholds(scores, priors)
    threshold = torch.cat([group_threshold for _, group_threshold in groups], dim=1).sum(dim=1, keepdim=True) / scale
    zero = torch.zeros_like(scores[:, :1])
    terms = [atl(torch.cat([threshold, scores[:, g]], 1), torch.cat([zero, labels[:, g]], 1)) for g, _ in groups]
    return torch.stack(terms).mean(dim=0)


@register(decide=above_threshold)
def pn_risk(scores: Tensor, labels: Tensor, priors: Tensor, margin: float = 0.25) -> Tensor:
    """SSR-PU's loss under full supervision (EMNLP 2022), of the batch: the sum over relations of
    (1 - pi) * mean over negatives of (m + a)^2 / 4 + sqrt(pi (1 - pi)) * mean over positives of (a - m)^2 / 4, with
    a = s_r - s_TH and pi the relation's prior; a side without pairs adds 0."""
    a, positive = scores[:, 1:] - scores[:, :1], labels[:, 1:] > 0
    negatives = sum_of_weighted_means((margin + a).T ** 2 / 4, torch.ones_like(a.T), [~positive.T])
    positives = sum_of_weighted_means((a - margin).T ** 2 / 4, torch.ones_like(a.T), [positive.T])
    return ((1 - priors) * negatives + (priors * (1 - priors)).sqrt() * positives).sum()


def sum_of_weighted_means(values: Tensor, weights: Tensor, groups: list[Tensor]) -> Tensor:
    """Sum over groups of (sum of w * value) / (sum of w), all [pairs, relations] -> [pairs]; 0 if all w are 0. 1e-30 is
    far below the smallest weight that float32 scores can give, and its inverse is finite."""
    total = values.new_zeros(len(values))
    for group in groups:
        in_group = weights * group
        total = total + (in_group * values).sum(dim=1) / in_group.sum(dim=1).clamp_min(1e-30)
    return total


one_module(__name__)
