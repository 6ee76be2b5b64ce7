"""A run's folder and what is written there: settings, metrics, scores; and the summary over seeds."""

from __future__ import annotations

import hashlib
import json
import statistics
from pathlib import Path
from typing import Any

from torch.utils.tensorboard import SummaryWriter

from utils import UserError, read_json, write_json

# Settings that say where to run and write, not what: two runs that differ in these alone are the same experiment.
NOT_THE_EXPERIMENT = ("load_path", "output_dir", "seeds", "device", "wandb_project", "data_dir")


def finished_scores(folder: Path, config: dict[str, Any]) -> dict[str, Any] | None:
    """The scores of a finished run in `folder`, None where there is none. Raises UserError if its settings differ."""
    if not (folder / "config.json").exists():
        return None
    old, differences = read_json(folder / "config.json"), []
    for part in ("settings", "loss", "precision", "data"):
        pairs = [(part, old.get(part), config[part])]
        if isinstance(config[part], dict):
            pairs = [(name, (old.get(part) or {}).get(name), value) for name, value in config[part].items()]
        differences += [
            f"{name} {was} there, {now} here"
            for name, was, now in pairs
            if was != now and name not in NOT_THE_EXPERIMENT
        ]
    if differences:
        raise UserError(
            f"{folder}: holds a run with other settings ({'; '.join(differences)}); pass another --output_dir"
        )
    return read_json(folder / "scores.json") if (folder / "scores.json").exists() else None


def start_folder(folder: Path, config: dict[str, Any]) -> None:
    """Create a run folder that holds its settings. Raises UserError where it can't be written."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / "config.json", config)
    except OSError as error:
        raise UserError(f"{folder}: cannot be written ({error.strerror}); choose another --output_dir") from None


def digest(path: Path) -> str:
    """SHA-256 of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


class RunLog:
    """metrics.jsonl, and the same figures for TensorBoard and, if asked for, Weights & Biases."""

    def __init__(self, folder: Path, name: str, wandb_project: str | None) -> None:
        self.wandb = start_wandb(wandb_project, folder, name) if wandb_project else None
        self.file = (folder / "metrics.jsonl").open("w", encoding="utf-8", buffering=1)
        self.tensorboard = SummaryWriter(str(folder / "tensorboard"))

    def write(self, step: int, record: dict[str, Any]) -> None:
        """One line, {"step": step, **record}; nested figures are named group/figure in the other logs."""
        self.file.write(json.dumps({"step": step, **record}) + "\n")
        figures = {}
        for name, value in record.items():
            nested = {f"{name}/{key}": figure for key, figure in value.items()} if isinstance(value, dict) else None
            figures.update(nested or {name: value})
        for name, value in figures.items():
            self.tensorboard.add_scalar(name, value, step)
        if self.wandb:
            self.wandb.log(figures, step=step)

    def close(self) -> None:
        """Flush and close all of them."""
        self.file.close()
        self.tensorboard.close()
        if self.wandb:
            self.wandb.finish()


def start_wandb(project: str, folder: Path, name: str) -> Any:
    """A Weights & Biases run. Raises UserError where the package is missing."""
    try:
        import wandb
    except ImportError:
        raise UserError(f"--wandb_project {project}: wandb is not installed; pip install it or drop the flag") from None
    return wandb.init(project=project, name=name, dir=str(folder))


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
    """A row a seed, then mean ± standard deviation, in percent."""
    columns = [(split, name) for split in ("dev", "test") for name in ("f1", "ign_f1") if summary[split]]
    heads = {"f1": "F1", "ign_f1": "Ign F1"}
    print(f"\n{summary['loss']['name']:<14}" + "".join(f"{split + ' ' + heads[name]:>16}" for split, name in columns))
    for run in summary["runs"]:
        print(f"seed {run['seed']:<9}" + "".join(f"{100 * run[split][name]:>16.2f}" for split, name in columns))
    cells = []
    for split, name in columns:
        mean, std = summary[split][name]["mean"], summary[split][name]["std"]
        cells.append(f"{100 * mean:.2f}" + (f" ± {100 * std:.2f}" if std is not None else ""))
    print(f"{'mean ± std':<14}" + "".join(f"{cell:>16}" for cell in cells))
