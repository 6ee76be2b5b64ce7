"""Figures of the losses themselves, which need no runs: the hinge weight, its margin, the losses with
their derivatives."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from torch import Tensor

from hingeabl.core.losses import Loss, get_loss, loss_names
from hingeabl.data.relations import load_rel2id
from hingeabl.reporting.drawing import BLUE, GREY, ORANGE, PALE, loss_style, new_figure, styled
from hingeabl.reporting.names import loss_title
from hingeabl.reporting.records import Run
from hingeabl.reporting.tables import OTHER_PAPERS

REACH = 8.0  # distances from -8 to 8
POINTS = 1601
FIXED = 2.0  # the distance of the pair's other relations
POSITIVES = 2
SHADE = "#EFEFEF"
Curve = tuple[Tensor, Tensor, Tensor]  # value, first and second derivative, [points] each


def hinge_margin() -> float:
    """HingeABL's own margin m."""
    return get_loss("hingeabl").parameters["margin"]


@styled
def figure_3(runs: list[Run]) -> Figure:
    """The paper's Figure 3: the hinge weight max(0, m - d) over the distance d. Needs no runs."""
    margin = hinge_margin()
    figure, [[axes]] = new_figure(5, 3.2)
    d = np.linspace(-REACH, margin + 3, POINTS)
    axes.plot(d, np.maximum(0, margin - d), color=loss_style("hingeabl")["color"], clip_on=False)
    mark(axes, 0, "decision boundary")
    mark(axes, margin, f"margin $m$ = {margin:g}")
    axes.set(xlabel="distance $d_r$ (score units)", ylabel=r"hinge weight $w_r = \max(0, m - d_r)$", ylim=(0, None))
    axes.margins(x=0)
    return figure


@styled
def figure_4(runs: list[Run]) -> Figure:
    """The paper's Figure 4: weights of positive and negative relations over s_r - s_TH; the margin, 2m wide, shaded.
    Needs no runs."""
    margin = hinge_margin()
    figure, [[axes]] = new_figure(5, 3.4)
    above = np.linspace(-2 * margin, 2 * margin, POINTS)
    axes.axvspan(-margin, margin, color=SHADE, linewidth=0)
    axes.plot(above, np.maximum(0, margin - above), color=BLUE, clip_on=False, label="positive relation")
    style = {"color": ORANGE, "linestyle": "--", "clip_on": False}
    axes.plot(above, np.maximum(0, margin + above), label="negative relation", **style)
    mark(axes, 0, r"$s_\mathrm{TH}$")
    mark(axes, -margin, r"$s_\mathrm{TH} - m$")
    mark(axes, margin, r"$s_\mathrm{TH} + m$")
    axes.annotate("", (-margin, margin / 4), (margin, margin / 4), arrowprops={"arrowstyle": "<->", "color": GREY})
    axes.text(0, margin / 4, f"$2m$ = {2 * margin:g}", ha="center", va="center", backgroundcolor=SHADE)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set(xlabel=r"$s_r - s_\mathrm{TH}$ (score units)", ylabel="hinge weight $w_r$", ylim=(0, None))
    axes.margins(x=0)
    figure.legend(loc="outside lower center", ncols=2)
    return figure


def mark(axes: Axes, x: float, text: str) -> None:
    """A dotted vertical line with a text above the axes."""
    axes.axvline(x, color="#666666", linewidth=0.9, linestyle=":")
    axes.annotate(text, (x, 1), (0, 3), xycoords=("data", "axes fraction"), textcoords="offset points", ha="center")


@styled
def figure_losses(runs: list[Run]) -> Figure:
    """The paper's losses, and new ones that are of one pair, over the distance d of one of its relations, positive or
    negative, with two derivatives; and AML beside HingeABL over c = -d, as in the paper's Appendix E. Needs no
    runs."""
    figure, axes = new_figure(10, 7.6, rows=3, columns=3)
    d = torch.linspace(-REACH, REACH, POINTS, dtype=torch.float64)
    drawn = [loss for loss in loss_names() if loss not in OTHER_PAPERS and is_of_one_pair(get_loss(loss))]
    for column, positive in enumerate((True, False)):
        for number, loss in enumerate(drawn):
            curve = loss_curve(get_loss(loss), d, positive)
            width = max(2.8 - 0.22 * number, 1)  # so that a line shows behind another
            style = loss_style(loss) | {"marker": "", "linewidth": width, "label": loss_title(loss)}
            draw_curve(axes[:, column], d, curve, style)
        axes[0, column].set_title(f"one {'positive' if positive else 'negative'} relation of a pair moves")
        axes[2, column].set_xlabel("its distance $d_r$ (score units)")
    margin = hinge_margin()
    c = torch.linspace(-margin, REACH, POINTS + 1, dtype=torch.float64)[1:]
    for name, curve in appendix_e(c, margin).items():
        draw_curve(axes[:, 2], c, curve, loss_style(name) | {"marker": ""})
    axes[0, 2].set_title(f"AML and HingeABL, no normaliser, $m$ = {margin:g}")
    axes[2, 2].set_xlabel("$c_r = -d_r$ (score units)")
    for row, text in enumerate(("loss", "first derivative", "second derivative")):
        axes[row, 0].set_ylabel(text)
    for panel in axes.flat:
        panel.grid(True)
        panel.margins(x=0)
    relations = len(load_rel2id()) - 1
    figure.suptitle(
        f"A pair of {relations} relations, {POSITIVES} of them positive; what does not move stays at $d$ = {FIXED:g}, "
        r"and $s_\mathrm{TH}$ = 0",
        fontsize=9,
    )
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=4)
    return figure


def draw_curve(axes: np.ndarray, x: Tensor, curve: Curve, style: dict[str, Any]) -> None:
    """A loss and its derivatives, one above the other, in axes [3]."""
    for panel, line in zip(axes, curve, strict=True):
        panel.plot(x.numpy(), line.numpy(), **style)
        panel.axhline(0, color=PALE, linewidth=0.6, zorder=0)


def is_of_one_pair(loss: Loss) -> bool:
    """Whether a loss has a value for each pair alone, and needs neither priors nor several thresholds."""
    if loss.needs_priors or loss.definition.thresholds > 1:
        return False
    scores = torch.zeros(2, len(load_rel2id()), dtype=torch.float64)
    return loss.definition.function(scores, torch.zeros_like(scores), **loss.parameters).dim() == 1


def loss_curve(loss: Loss, d: Tensor, positive: bool) -> Curve:
    """A pair's loss over the distances d [points] of one of its relations, in d's precision. The pair has the classes
    of meta/rel2id.json; its other relations stay at FIXED, and the threshold class at 0."""
    labels = torch.zeros(len(d), len(load_rel2id()), dtype=d.dtype)
    labels[:, 1 : 1 + POSITIVES] = 1
    others = FIXED * (2 * labels - 1)
    others[:, 0] = 0
    moving = torch.zeros_like(labels)
    moving[:, 1 if positive else 1 + POSITIVES] = 1
    d = d.clone().requires_grad_()
    scores = torch.where(moving > 0, d[:, None] * (2 * labels - 1), others)
    return with_derivatives(loss.definition.function(scores, labels, **loss.parameters), d)


def appendix_e(c: Tensor, margin: float) -> dict[str, Curve]:
    """The losses of one relation over c = -d [points] as Appendix E compares them, Eq. (13)-(20): AML's, and HingeABL's
    without the normaliser of its weights."""
    c = c.clone().requires_grad_()
    weight = F.relu(margin + c)
    return {"aml": with_derivatives(weight, c), "hingeabl": with_derivatives(weight * F.softplus(c), c)}


def with_derivatives(values: Tensor, x: Tensor) -> Curve:
    """Values [points], each a function of its own x [points], and their first two derivatives."""
    first = derivative(values, x)
    return values.detach(), first.detach(), derivative(first, x).detach()


def derivative(values: Tensor, x: Tensor) -> Tensor:
    """d values / d x, [points], differentiable again; 0 where the values do not depend on x."""
    if not values.requires_grad:
        return torch.zeros_like(values)
    return torch.autograd.grad(values.sum(), x, create_graph=True, materialize_grads=True)[0]
