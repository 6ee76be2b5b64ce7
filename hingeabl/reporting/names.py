"""The names of losses and models as the papers write them, for tables, figures and pages. Files, options and messages
about these have the names of the code."""

from __future__ import annotations

from hingeabl.files import META, read_json

LOSSES = {**read_json(META / "paper_results.json")["names"], **read_json(META / "later_results.json")["names"]}
BACKBONES = {"atlop": "ATLOP", "docunet": "DocuNet", "kd_docre": "KD-DocRE"}


def loss_title(loss: str) -> str:
    """A loss's name in its paper; the code's for a loss of a fork."""
    return LOSSES.get(loss, loss)


def model_title(backbone: str) -> str:
    """A model's name in its paper; the code's for a model of a fork."""
    return BACKBONES.get(backbone, backbone)


def row_title(name: str) -> str:
    """The name of a table's row: a loss, or backbone/loss."""
    backbone, _, loss = name.rpartition("/")
    return f"{model_title(backbone)}, {loss_title(loss)}" if backbone else loss_title(loss)
