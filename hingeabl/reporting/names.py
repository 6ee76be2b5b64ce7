"""The names of losses and models as the papers write them, for tables, figures and pages, and those of the documents,
known by their files' checksums. Files, options and messages about losses and models have the names of the code."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from hingeabl.data.checksums import DOCUMENTS_400, DOCUMENTS_992, REDOCRED, has_checksum
from hingeabl.files import META, read_json
from hingeabl.reporting.records import SPLITS, Run, data_file

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


class Corpus(NamedTuple):
    """Documents beside which the paper's figures are shown: their name, and a note on how they differ from the paper's
    ("" if they do not)."""

    name: str
    note: str = ""


def corpus_of(run: Run) -> Corpus | None:
    """The run's documents if they are Re-DocRED's, or those of one of the studies here, else None."""
    checksums = {split: run.config["data"][split] for split in SPLITS}
    if checksums == DOCUMENTS_992:
        return Corpus(
            "992 training documents of Re-DocRED",
            "Not the paper's data: trained on 992 of its 3,053 training documents; dev and test are Re-DocRED's.",
        )
    if checksums == DOCUMENTS_400:
        return Corpus(
            "400 training documents of Re-DocRED",
            "Not the paper's data: 400 documents of Re-DocRED's dev split to train, 100 others of it as dev; test is "
            "Re-DocRED's.",
        )
    if any(checksums[split] != REDOCRED[split] for split in ("dev", "test")):
        return None
    path, is_present = data_file(run, "train")
    if not is_present:
        return Corpus(
            f"Re-DocRED, trained on {Path(path).name}",
            f"{path}, the training file, is not there or has changed, so whether it is Re-DocRED's is not known.",
        )
    return Corpus("Re-DocRED") if has_checksum(Path(path), REDOCRED["train"]) else None


def official_split(path: str | Path) -> str:
    """The split of Re-DocRED that a file is, "" for another file."""
    return next((split for split in SPLITS if has_checksum(Path(path), REDOCRED[split])), "")


def names_of_files(run: Run) -> str:
    """The names of a run's three files."""
    return ", ".join(Path(run.config["settings"][f"{split}_file"]).name for split in SPLITS)
