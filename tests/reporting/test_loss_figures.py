"""Figures of the losses themselves: the hinge weight, its margin, the slopes, Appendix E."""

import math

import numpy as np
import pytest
import torch
from model_scores import lines_of

import losses
import report
from hingeabl.reporting.drawing import loss_style
from hingeabl.reporting.figures import FIGURES
from hingeabl.reporting.loss_figures import appendix_e
from hingeabl.reporting.names import loss_title
from hingeabl.reporting.tables import OTHER_PAPERS
from losses import get_loss, loss_names


def test_figures_3_and_4_are_eq_9_and_need_no_runs():
    margin = get_loss("hingeabl").parameters["margin"]
    [line] = [line for line in FIGURES["3"]([]).axes[0].lines if len(line.get_xdata()) > 2]
    assert line.get_ydata() == pytest.approx([max(0, margin - d) for d in line.get_xdata()])
    axes = FIGURES["4"]([]).axes[0]
    for line, sign in zip([line for line in axes.lines if len(line.get_xdata()) > 2], (1, -1), strict=True):
        assert line.get_ydata() == pytest.approx([max(0, margin - sign * x) for x in line.get_xdata()])
    [shade] = axes.patches
    assert (shade.get_x(), shade.get_width()) == (-margin, 2 * margin)


def test_the_papers_losses_are_drawn_with_their_slopes_a_new_one_too(monkeypatch):
    def linear(scores, labels):
        d, _ = losses.distance(scores, labels)
        return -d.sum(dim=1)

    monkeypatch.setitem(
        losses._LOSSES, "linear", losses.LossDefinition(linear, losses.threshold_class, losses.among_highest, 1)
    )
    monkeypatch.setitem(losses._ALIASES, "linear", "linear")
    axes = np.array(FIGURES["losses"]([]).axes).reshape(3, 3)
    for column, moving in ((0, 1), (1, 3)):  # the class that moves
        value, first, second = map(lines_of, axes[:, column])
        drawn = {loss_title(name): name for name in loss_names() if name not in OTHER_PAPERS}
        assert set(value) == set(first) == set(second) == set(drawn) and "linear" in value
        for title, name in drawn.items():
            x, y = value[title]
            for place in (100, 700, 1234):
                scores, labels = torch.full((1, 97), -2.0, dtype=torch.float64), torch.zeros(1, 97)
                scores[0, 0], scores[0, 1:3], labels[0, 1:3] = 0, 2, 1
                scores[0, moving] = x[place] if moving < 3 else -x[place]
                assert y[place] == pytest.approx(float(get_loss(name)(scores, labels)), rel=1e-12)
                step = x[1] - x[0]
                assert first[title][1][place] == pytest.approx((y[place + 1] - y[place - 1]) / 2 / step, abs=1e-4)
                curvature = (y[place + 1] - 2 * y[place] + y[place - 1]) / step**2
                assert second[title][1][place] == pytest.approx(curvature, abs=1e-3)


@pytest.mark.parametrize("kind", ["priors", "thresholds", "batch"])
def test_a_new_loss_that_is_not_of_one_pair_is_left_out_of_the_figure(monkeypatch, kind):
    def odd(scores, labels):
        return scores[:, 0].sum() if kind == "batch" else scores[:, -1]

    def with_priors(scores, labels, priors):
        return scores @ priors

    definition = losses.LossDefinition(
        with_priors if kind == "priors" else odd,
        losses.threshold_class,
        losses.among_highest,
        3 if kind == "thresholds" else 1,
    )
    monkeypatch.setitem(losses._LOSSES, "odd", definition)
    monkeypatch.setitem(losses._ALIASES, "odd", "odd")
    axes = FIGURES["losses"]([]).axes
    assert set(lines_of(axes[0])) == {loss_title(name) for name in loss_names() if name not in {"odd", *OTHER_PAPERS}}


def test_hingeabl_without_normaliser_is_strictly_convex_as_eq_17_to_20_say():
    margin = 5.0
    c = -torch.linspace(-30, margin - 1e-3, 4000, dtype=torch.float64)  # every d < m
    curves = appendix_e(c, margin)
    value, first, second = (curve.tolist() for curve in curves["hingeabl"])
    assert min(second) > 0
    for place, x in enumerate(c.tolist()):
        below, above = math.exp(-x), 1 / (1 + math.exp(x))
        assert value[place] == pytest.approx(-(margin + x) * math.log(above))
        assert first[place] == pytest.approx(-math.log(above) + (margin + x) / (below + 1))
        eq_20 = math.exp(x) * above + (below + 1 + below * (margin + x)) / (below + 1) ** 2
        assert second[place] == pytest.approx(eq_20)
    value, first, second = (curve.tolist() for curve in curves["aml"])
    assert value == pytest.approx((margin + c).tolist()) and set(first) == {1} and set(second) == {0}


def test_figures_of_losses_need_no_path(tmp_path, capsys):
    report.main(["--figure", "4", "--output", str(tmp_path / "new")])
    assert capsys.readouterr().out.split() == [str(tmp_path / "new" / f"figure_4.{kind}") for kind in ("png", "pdf")]


def test_all_losses_look_different():
    looks = [tuple(loss_style(loss).values()) for loss in loss_names()]
    assert len(set(looks)) == len(looks)
