"""How probable predictions are by their margin, and what another threshold gives: fitted to dev, reported on test."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from hingeabl.core.evaluation import precision_recall_f1
from hingeabl.core.losses import loss_names
from hingeabl.errors import UserError
from hingeabl.reporting.drawing import loss_style, new_figure, styled
from hingeabl.reporting.names import loss_title, model_title
from hingeabl.reporting.pairs import read_pairs
from hingeabl.reporting.records import CALIBRATION, Run, same_experiment
from hingeabl.training.fitted import BINS, best_shift, bin_of, calibration_error, fit_confidence


def margins_of(run: Run, split: str) -> tuple[np.ndarray, np.ndarray, int]:
    """A run's predictions in dev or test: their margins float64 [n], which are right bool [n], and the number of gold
    triples."""
    pairs = read_pairs(run, split)
    predicted = pairs.predicted
    margins = (pairs.scores - pairs.threshold[:, None])[predicted].double().numpy()
    return margins, pairs.labels[predicted].bool().numpy(), int(pairs.labels[:, 1:].sum())


def calibration_of(run: Run) -> dict[str, Any]:
    """Of a run's folder:

    shift, dev_f1_shifted     0 or more: added to the threshold, it gives the highest F1 on dev; and that F1
    precision_shifted, recall_shifted, f1_shifted  on test, with that shift
    ece                       fitted.calibration_error on test of the confidence that is fitted to dev
    bins                      on test, of each tenth of confidence: [predictions, their mean confidence, right ones]

    {} if dev or test has no labels or no stored scores of pairs, or nothing is predicted. Raises UserError if a file is
    broken or the documents are missing.
    """
    stored = {split: run.folder / f"pair_scores_{split}.safetensors" for split in ("dev", "test")}
    if not all(run.scores[split] and path.exists() for split, path in stored.items()):
        return {}
    margins, right, gold = margins_of(run, "dev")
    if not len(margins):
        return {}
    shift, dev_f1 = best_shift(margins, right, gold)
    fitted = fit_confidence(margins, right)
    margins, right, gold = margins_of(run, "test")
    kept = right[margins > shift]
    precision, recall, f1 = precision_recall_f1(int(kept.sum()), len(kept), gold)
    confidence = np.array([fitted.of(margin) for margin in margins])
    bins = bin_of(confidence)
    return {
        "shift": shift,
        "dev_f1_shifted": dev_f1,
        "precision_shifted": precision,
        "recall_shifted": recall,
        "f1_shifted": f1,
        "ece": calibration_error(confidence, right),
        "bins": [
            [int(in_bin.sum()), float(confidence[in_bin].mean()) if in_bin.any() else 0.0, int(right[in_bin].sum())]
            for in_bin in (bins == number for number in range(BINS))
        ],
    }


def with_calibration(run: Run) -> Run:
    """The run, with its calibration, also among its test scores. Raises UserError as calibration_of does."""
    calibration = run.calibration or (calibration_of(run) if run.test_documents is None else {})
    scores = {name: calibration[name] for name in CALIBRATION if name in calibration}
    return replace(run, calibration=calibration, scores={**run.scores, "test": {**run.scores["test"], **scores}})


@styled
def figure_reliability(runs: list[Run]) -> Figure:
    """How many of the predictions of each confidence are right, on test. Raises UserError if no run has a calibration,
    or they differ in encoder or data."""
    registered = [run for run in runs if run.loss in loss_names()]
    calibrated = [run for run in map(with_calibration, registered) if run.calibration]
    if not calibrated:
        raise UserError("figure reliability: no run has a calibration; pass folders of finished runs, or their records")
    same_experiment(calibrated)
    figure, [[axes]] = new_figure(4.6, 4.2)
    axes.plot([0, 1], [0, 1], color="0.7", linewidth=0.9)
    several = len({run.backbone for run in calibrated}) > 1
    for run in sorted(calibrated, key=lambda run: (loss_names().index(run.loss), run.seed)):
        bins = [(confidence, right / count) for count, confidence, right in run.calibration["bins"] if count]
        model = f"{model_title(run.backbone)}, " if several else ""
        label = f"{model}{loss_title(run.loss)}, seed {run.seed}: ECE {run.calibration['ece']:.3f}"
        axes.plot(*zip(*bins, strict=True), **loss_style(run.loss) | {"label": label, "linestyle": "-"})
    axes.set(xlim=(0, 1), ylim=(0, 1), xlabel="mean confidence of a tenth", ylabel="share of right predictions, test")
    axes.grid(True)
    axes.legend(loc="upper left")
    return figure
