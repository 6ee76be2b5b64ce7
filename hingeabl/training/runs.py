"""The files of a run's folder: settings, metrics, scores; and the summary over seeds."""

from __future__ import annotations

import json
import math
import os
import platform
import secrets
import shutil
import statistics
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

from torch.utils.tensorboard import SummaryWriter

from hingeabl.core import ROOT
from hingeabl.core.evaluation import are_scores
from hingeabl.errors import UserError, first_line, need, print_warning, remedy_of
from hingeabl.files import read_json, write_json
from hingeabl.training.settings import NOT_COMPARED, Settings

WANDB_IDS = "wandb_ids.json"  # the id of a run's log by project
WANDB_SECONDS = 30  # to wait for it
PACKAGES = ("torch", "transformers", "tokenizers", "numpy", "opt_einsum", "ujson", "safetensors")


def finished_scores(folder: Path, config: dict[str, Any]) -> dict[str, Any] | None:
    """The scores of a finished run in `folder`, None if there is none. Raises UserError for other settings."""
    if not (folder / "config.json").exists():
        return None
    old = read_json(folder / "config.json")
    parts = ("settings", "loss", "data", "environment")
    if not isinstance(old, dict) or not all(isinstance(old.get(part), dict) for part in parts):
        raise UserError(
            f"{folder}/config.json: is not from a training run; remove the folder or pass another --output_dir"
        )
    settings = vars(Settings()) | old["settings"]  # settings that an older version lacks had their defaults
    sizes = settings["train_batch_size"], old.get("processes", 1)
    if not all(type(size) is int and size > 0 for size in sizes):
        raise UserError(f"{folder}/config.json: train_batch_size or processes is not a number; remove the folder")
    settings["train_batch_size"] = math.prod(sizes)
    new = {**config["settings"], "train_batch_size": config["settings"]["train_batch_size"] * config["processes"]}
    differences = [
        f"{name} {settings[name]} there, {value} here"
        for name, value in new.items()
        if settings[name] != value and name not in NOT_COMPARED
    ]
    differences += [
        f"{name} {old.get(name)} there, {config[name]} here"
        for name in ("loss", "precision")
        if old.get(name) != config[name]
    ]
    files = {**old["data"], **config["data"]}
    differences += [f"another {name} file" for name in files if old["data"].get(name) != config["data"].get(name)]
    if differences:
        raise UserError(
            f"{folder}: holds a run with other settings ({'; '.join(differences)}); remove the folder or pass another "
            "--output_dir"
        )
    if not (folder / "scores.json").exists():
        return None
    scores = read_json(folder / "scores.json")
    fits = isinstance(scores, dict) and scores.get("seed") == config["seed"] and type(scores.get("best_epoch")) is int
    if not fits or not scores.get("dev") or not all(are_scores(scores.get(split)) for split in ("dev", "test")):
        raise UserError(f"{folder}/scores.json: does not hold a run's scores; remove it to train this seed again")
    if old["environment"] != config["environment"]:
        print(f"note: {folder} is kept, though made with other code or packages; remove it to run it again")
    return scores


class RunLog:
    """metrics.jsonl, and the same figures for TensorBoard and, if asked for, Weights & Biases."""

    def __init__(self, folder: Path, name: str, wandb_project: str | None, size: int, step: int) -> None:
        """Continue after the first `size` bytes, written up to optimizer step `step`; later lines are removed.

        Raises UserError if metrics.jsonl is shorter.
        """
        path = folder / "metrics.jsonl"
        if size > (path.stat().st_size if path.exists() else 0):
            raise UserError(f"{path}: is shorter than when the training was stopped; remove {folder} to train it again")
        self.wandb = start_wandb(folder, name, wandb_project) if wandb_project else None
        self.file = path.open("a", encoding="utf-8", buffering=1)
        self.file.truncate(size)
        if not size:
            shutil.rmtree(folder / "tensorboard", ignore_errors=True)  # of an attempt that did not get far
        self.tensorboard = SummaryWriter(str(folder / "tensorboard"), purge_step=step + 1 if size else None)

    def write(self, step: int, record: dict[str, Any]) -> None:
        """Write one line, {"step": step, **record}; nested figures are named group/figure in the other logs.

        Raises UserError if it cannot be written.
        """
        try:
            self.file.write(json.dumps({"step": step, **record}) + "\n")
        except OSError as error:
            raise UserError(f"{self.file.name}: cannot be written ({error.strerror}); {remedy_of(error)}") from None
        figures = {}
        for name, value in record.items():
            nested = {f"{name}/{key}": figure for key, figure in value.items()} if isinstance(value, dict) else None
            figures.update(nested or {name: value})
        for name, value in figures.items():
            self.tensorboard.add_scalar(name, value, step)
        if self.wandb:
            try:
                self.wandb.log(figures, step=step)
            except Exception as error:  # its service may have died
                print_warning(f"Weights & Biases ({first_line(error)}); the training goes on without")
                self.wandb = None

    def size(self) -> int:
        """The size of metrics.jsonl in bytes, all of them on disk."""
        self.file.flush()
        os.fsync(self.file.fileno())
        return os.fstat(self.file.fileno()).st_size

    def close(self) -> None:
        """Flush and close all logs."""
        self.file.close()
        self.tensorboard.close()
        if self.wandb:
            try:
                self.wandb.finish()
            except Exception as error:
                print_warning(f"Weights & Biases ({first_line(error)}); its log may lack the end")


def experiment_of(config: dict[str, Any]) -> dict[str, Any]:
    """What the seeds of one experiment share, of a run's config.json: settings that change its numbers, loss, data."""
    settings = vars(Settings()) | config["settings"]
    settings["train_batch_size"] *= config.get("processes", 1)
    data = {use: checksum for use, checksum in config["data"].items() if use != "initial weights"}  # of each seed
    compared = {name: value for name, value in settings.items() if name not in NOT_COMPARED}
    return compared | {"loss": config["loss"], "data": data}


def start_wandb(folder: Path, name: str, project: str) -> Any:
    """A run of Weights & Biases: the one whose id an earlier start left in the folder, else a new one. Raises UserError
    if it cannot be opened."""
    wandb, path = require_wandb(), folder / WANDB_IDS
    ids = read_json(path) if path.exists() else {}
    if not isinstance(ids, dict) or not all(isinstance(run_id, str) for run_id in ids.values()):
        raise UserError(f"{path}: does not hold ids of Weights & Biases; remove it to log to a new run")
    if project not in ids:
        ids[project] = secrets.token_hex(4)
        write_json(path, ids)
    try:
        settings = wandb.Settings(init_timeout=WANDB_SECONDS)
        return wandb.init(
            project=project, name=name, dir=str(folder), id=ids[project], resume="allow", settings=settings
        )
    except Exception as error:  # not logged in, no network, a project that is not the user's
        raise UserError(
            f"--wandb_project {project}: Weights & Biases refuses or cannot be reached ({first_line(error)}); run "
            "wandb login, set WANDB_MODE=offline to send it later, or leave the flag out"
        ) from None


def require_wandb() -> Any:
    """The package of Weights & Biases. Raises UserError if it is missing."""
    return need("wandb", "--wandb_project: wandb is not installed; pip install wandb, or leave the flag out")


def summarise(loss: dict[str, Any], results: list[dict[str, Any]]) -> dict[str, Any]:
    """Mean and sample standard deviation (n - 1; None for one seed) of every figure over seeds."""

    def over_seeds(split: str) -> dict[str, dict[str, float | None]]:
        columns = {name: [result[split][name] for result in results] for name in results[0][split]}
        return {
            name: {"mean": statistics.mean(values), "std": statistics.stdev(values) if len(values) > 1 else None}
            for name, values in columns.items()
        }

    return {
        "loss": loss,
        "seeds": [result["seed"] for result in results],
        "dev": over_seeds("dev"),
        "test": over_seeds("test"),
        "runs": results,
    }


def print_summary(summary: dict[str, Any]) -> None:
    """One row per seed, then mean ± standard deviation, in percent."""
    columns = [(split, name) for split in ("dev", "test") for name in ("f1", "ign_f1") if summary[split]]
    heads = {"f1": "F1", "ign_f1": "Ign F1"}
    width = max(14, len(summary["loss"]["name"]) + 2)
    print(
        f"\n{summary['loss']['name']:<{width}}" + "".join(f"{split + ' ' + heads[name]:>16}" for split, name in columns)
    )
    for run in summary["runs"]:
        print(
            f"seed {run['seed']}".ljust(width) + "".join(f"{100 * run[split][name]:>16.2f}" for split, name in columns)
        )
    cells = []
    for split, name in columns:
        mean, std = summary[split][name]["mean"], summary[split][name]["std"]
        cells.append(f"{100 * mean:.2f}" + (f" ± {100 * std:.2f}" if std is not None else ""))
    print("mean ± std".ljust(width) + "".join(f"{cell:>16}" for cell in cells))


def describe_environment() -> dict[str, Any]:
    """Python, package versions and the git commit of this checkout, for config.json."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=40", "--match="]
    try:
        commit = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        commit = None
    return {
        "python": platform.python_version(),
        "packages": {name: metadata.version(name) for name in PACKAGES},
        "git_commit": commit,
    }
