"""A list of runs: what each one cost, and on which machine and with which commit it was trained."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hingeabl.reporting.records import Run

COMMIT_CHARACTERS = 12  # characters of it that are shown


@dataclass(frozen=True)
class RunList:
    """A list of runs: `runs` has a dictionary of facts_of for each, with the same keys (None for an unknown value); a
    dev F1 is a fraction, a time is in seconds."""

    title: str
    runs: list[dict[str, Any]]
    notes: list[str]

    def texts(self) -> list[list[str]]:
        """The head, and a line for each run, as they are shown."""
        return [list(COLUMNS), *([show(run) for show in COLUMNS.values()] for run in self.runs)]


def list_of_runs(runs: list[Run], unfinished: list[Path]) -> RunList:
    """The list of runs, by experiment and seed."""
    rows = sorted(map(facts_of, runs), key=lambda facts: (facts["experiment"], facts["seed"]))
    notes = [f"not finished, left out: {folder}" for folder in unfinished]
    return RunList("Runs: what they cost, and where they were trained", rows, notes)


def facts_of(run: Run) -> dict[str, Any]:
    """What the list shows of a run. The last two folders above it name its experiment."""
    above = run.folder.resolve().parent
    environment = run.config.get("environment")
    return {
        "experiment": f"{above.parent.name}/{above.name}",
        "loss": run.loss,
        "seed": run.seed,
        "steps": run.timing.get("steps"),
        "seconds": run.timing.get("seconds"),
        "dev_f1": run.scores["dev"].get("f1"),
        "precision": run.config.get("precision"),
        "device": run.config.get("device"),
        "commit": environment.get("git_commit") if isinstance(environment, dict) else None,
    }


def one_line(value: Any) -> str:
    """A fact on one line, "" for None."""
    return "" if value is None else " ".join(str(value).split())


def short_commit(commit: Any) -> str:
    """The beginning of a commit's name, and "-dirty" where the clone had changes that are not in it."""
    name, *rest = one_line(commit).split("-")
    return "-".join([name[:COMMIT_CHARACTERS], *rest])


COLUMNS: dict[str, Callable[[dict[str, Any]], str]] = {  # a column's head, and what it shows of a run
    "experiment": lambda run: run["experiment"],
    "loss": lambda run: run["loss"],
    "seed": lambda run: str(run["seed"]),
    "steps": lambda run: "" if run["steps"] is None else f"{run['steps']:,.0f}",
    "minutes": lambda run: "" if run["seconds"] is None else f"{run['seconds'] / 60:.1f}",
    "dev F1": lambda run: "" if run["dev_f1"] is None else f"{100 * run['dev_f1']:.2f}",
    "precision": lambda run: one_line(run["precision"]),
    "device": lambda run: one_line(run["device"]),
    "commit": lambda run: short_commit(run["commit"]),
}
