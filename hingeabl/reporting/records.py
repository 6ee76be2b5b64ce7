"""Finished runs as tables and figures read them: a seed's folder, or a record, one small JSON to keep beside the code.

A record seed_<n>.json holds:

config          the run's config.json with portable settings: of paths of the machine only the last part
scores          its scores.json
thresholds      where the threshold lies on test (evaluation.threshold_diagnostics); {} of a run with one relation
calibration     how probable predictions are and what another threshold gives (calibration.calibration_of); older
                records have none
dev_by_epoch    what metrics.jsonl says of dev: [{"epoch": 1, "dev": {"f1": ...}}, ...]
timing          its timing.json, {"steps": 1000, "seconds": 61.5}; older records have no seconds, or no timing
documents       {"train": 400, ...}: how many its data files hold, of those that were there when it was written
other_labels    {"test_docgnre.json": {"sha256", "precision", "recall", "f1"}}: its test predictions scored with the
                labels of another file, where one was given (see other_labels.py)
test_documents  {"correct", "predicted", "gold"}: each document's triples, as text "3 0 12 ..."; for significance tests
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from hingeabl.core import ROOT
from hingeabl.core.evaluation import PERCENTILES, Gold, are_scores, prepare_gold, triples_by_document
from hingeabl.data.schema import Document
from hingeabl.errors import UserError
from hingeabl.files import TIMING, are_numbers, make_folder, parse_json, read_json, sha256_of_file, write_json
from hingeabl.readers.documents import load_documents, read_documents

TEXT_SETTINGS = ("data_dir", "train_file", "dev_file", "test_file", "model_name_or_path")  # of a run's settings
THRESHOLDS = {"ro_mean", "ro_std", "ovr", "ro_pairs", "ro_left_out", *(f"ro_p{percent}" for percent in PERCENTILES)}
COUNT_NAMES = ("correct", "predicted", "gold")
SPLITS = ("train", "dev", "test")
CALIBRATION = ("shift", "dev_f1_shifted", "precision_shifted", "recall_shifted", "f1_shifted", "ece")
OTHER_SCORES = ("precision", "recall", "f1")  # with other labels
SEARCHED = " (relative to the present folder, the clone, the run's folder or one above it)"
Counted = tuple[np.ndarray, np.ndarray, np.ndarray]  # int64 [documents] each


@dataclass(frozen=True)
class Run:
    """A finished run: its folder, backbone, loss, seed, settings and scores. A run that was read from a record has the
    record's path as `folder`, and the contents of a folder's other files: dev scores by epoch, counts on test, numbers
    of documents. Only a record has `other_labels`."""

    folder: Path
    backbone: str
    loss: str
    seed: int
    config: dict[str, Any]
    scores: dict[str, Any]
    dev_by_epoch: dict[int, dict[str, float]] | None = None
    test_documents: Counted | None = None
    timing: dict[str, float] = field(default_factory=dict)
    documents: dict[str, int] = field(default_factory=dict)
    other_labels: dict[str, dict[str, Any]] = field(default_factory=dict)
    calibration: dict[str, Any] = field(default_factory=dict)


def read_runs(paths: list[str]) -> tuple[list[Run], list[Path]]:
    """Every run at or below the paths: (the finished ones and the records, the folders of the others).

    Raises UserError for a path without runs, or two runs of one backbone, loss and seed.
    """
    runs, unfinished = read_all_runs(paths)
    refuse_duplicates(runs)
    return runs, unfinished


def read_all_runs(paths: list[str]) -> tuple[list[Run], list[Path]]:
    """read_runs, but with several runs of one backbone, loss and seed allowed; a folder passed twice counts once."""
    runs: dict[Path, Run] = {}
    unfinished = []
    records = {name: records_below(Path(name)) for name in paths}
    folders = [folder for name in paths for folder in seed_folders([name], needed=not records[name])]
    for path in (*folders, *itertools.chain.from_iterable(records.values())):
        if path.is_dir() and not (path / "scores.json").exists():
            unfinished.append(path)
            continue
        runs[path.resolve()] = read_run(path) if path.is_dir() else read_record(path)
    return list(runs.values()), unfinished


def refuse_duplicates(runs: list[Run], more: Callable[[Run], str] = lambda run: "") -> None:
    """Raise UserError for two runs of one backbone, loss and seed for which `more` returns the same text."""
    seen: dict[str, Path] = {}
    for run in runs:
        description = f"{run.backbone} with {run.loss}, seed {run.seed}{more(run)}"
        if description in seen:
            raise UserError(f"{run.folder} and {seen[description]}: both hold {description}; pass one of them")
        seen[description] = run.folder


def records_below(path: Path) -> list[Path]:
    """The records in a folder, or the file itself."""
    return [path] if path.is_file() else sorted(path.rglob("seed_*.json"))


def seed_folders(paths: list[str], needed: bool = True) -> list[Path]:
    """The folders of seeds at or below the paths. If `needed`, raises UserError for a path without any."""
    folders = []
    for path in paths:
        configs = sorted(Path(path).rglob("config.json")) if Path(path).is_dir() else []
        seeds = [config.parent for config in configs if config.parent.name.startswith("seed_")]
        if needed and not seeds:
            raise UserError(
                f"{path}: holds no runs (folders seed_N); pass the --output_dir of train.py, or a folder of such"
            )
        folders += seeds
    return folders


def read_run(folder: Path) -> Run:
    """A finished run. Raises UserError if its files are not a run's."""
    config, scores = read_json(folder / "config.json"), read_json(folder / "scores.json")
    if not (run := run_from(folder, config, scores)):
        raise UserError(f"{folder}: its config.json or scores.json is not a run's; remove the folder")
    timing = read_json(folder / TIMING) if (folder / TIMING).exists() else {}
    if not valid_timing(timing):
        raise UserError(f"{folder / TIMING}: is not a run's; remove it")
    return replace(run, timing=timing)


def valid_timing(value: Any) -> bool:
    """Whether this can be a timing.json, or a part of one."""
    return isinstance(value, dict) and value.keys() <= {"steps", "seconds"} and are_numbers(value.values())


def run_from(path: Path, config: Any, scores: Any) -> Run | None:
    """The run with that config.json and scores.json, None if they are not a run's."""
    try:
        settings, data, loss, seed = config["settings"], config["data"], config["loss"]["name"], config["seed"]
        backbone = settings.get("backbone", "atlop")
        texts = [settings[name] for name in TEXT_SETTINGS] + [data[split] for split in SPLITS]
        fits = all(isinstance(text, str) for text in (*texts, *data.values(), loss, backbone)) and type(seed) is int
        fits = fits and are_scores(scores["dev"]) and are_scores(scores["test"])
    except (KeyError, TypeError, AttributeError):
        return None
    return Run(path, backbone, loss, seed, config, scores) if fits else None


def read_record(path: Path) -> Run:
    """The run of a record. Raises UserError if the file is not a record."""
    record = read_json(path)
    try:
        run = run_from(path, record["config"], record["scores"])
        thresholds = record["thresholds"]
        by_epoch = {line["epoch"]: line["dev"] for line in record["dev_by_epoch"]}
        correct, predicted, gold = (
            np.array(record["test_documents"][name].split(), dtype=np.int64) for name in COUNT_NAMES
        )
        fits = valid_dev_scores(by_epoch) and valid_counts(correct, predicted, gold)
        fits = fits and thresholds.keys() in (THRESHOLDS, set())
        fits = fits and all(type(x) in (int, float) for x in thresholds.values())
        timing, documents = record.get("timing", {}), record.get("documents", {})
        other_labels, calibration = record.get("other_labels", {}), record.get("calibration", {})
        fits = fits and (not calibration or valid_calibration(calibration))
        fits = fits and valid_timing(timing) and valid_document_numbers(documents) and valid_other_labels(other_labels)
    except (KeyError, TypeError, AttributeError, ValueError, OverflowError):
        run = None
    if run is None or not (fits and run.scores["test"]):
        raise UserError(f"{path}: is not a run's record; restore the file, or write it again with report.py --record")
    scores = {**run.scores, "test": {**run.scores["test"], **thresholds}}
    return replace(
        run,
        scores=scores,
        dev_by_epoch=by_epoch,
        test_documents=(correct, predicted, gold),
        timing=timing,
        documents=documents,
        other_labels=other_labels,
        calibration=calibration,
    )


def valid_document_numbers(value: Any) -> bool:
    """Whether this can be a record's numbers of documents by split."""
    return isinstance(value, dict) and all(
        split in SPLITS and type(number) is int and number > 0 for split, number in value.items()
    )


def valid_calibration(value: Any) -> bool:
    """Whether this can be a record's calibration."""
    return (
        isinstance(value, dict)
        and value.keys() == {*CALIBRATION, "bins"}
        and are_numbers(value[name] for name in CALIBRATION)
        and all(len(row) == 3 and are_numbers(row) for row in value["bins"])
    )


def valid_other_labels(value: Any) -> bool:
    """Whether these can be a record's scores with other labels, by the file's name."""
    return isinstance(value, dict) and all(
        isinstance(scores, dict)
        and scores.keys() == {"sha256", *OTHER_SCORES}
        and isinstance(scores["sha256"], str)
        and are_numbers((scores[name] for name in OTHER_SCORES), most=1)
        for scores in value.values()
    )


def write_record(
    run: Run,
    thresholds: dict[str, float],
    folder: str | Path,
    other_labels: dict[str, dict[str, Any]],
    calibration: dict[str, Any] | None = None,
) -> Path:
    """Write a finished run's record as <folder>/<its experiment>/seed_<n>.json; returns the path. One that is there is
    written anew, and keeps its scores with the labels of other files. Raises UserError if files of the run are
    missing."""
    path = make_folder(Path(folder) / run.folder.resolve().parent.name) / f"seed_{run.seed}.json"
    config = without_folders(run.config)
    old = read_json(path) if path.exists() else {"config": config}
    if not isinstance(old, dict) or without_folders(old.get("config")) != config:
        raise UserError(f"{path}: is the record of another run; remove it or pass another folder")
    if old.get("scores") == run.scores:
        other_labels = {**old.get("other_labels", {}), **other_labels}
    record = {
        "config": config,
        "scores": run.scores,
        "thresholds": thresholds,
        "timing": run.timing,
        "documents": documents_by_split(run),
        **({"other_labels": other_labels} if other_labels else {}),
        **({"calibration": calibration} if calibration else {}),
        "dev_by_epoch": [{"epoch": epoch, "dev": dev} for epoch, dev in dev_scores(run).items()],
        "test_documents": {
            name: " ".join(map(str, numbers.tolist()))
            for name, numbers in zip(COUNT_NAMES, count_by_document(run), strict=True)
        },
    }
    write_json(path, record, indent=1)
    return path


def without_folders(config: Any) -> Any:
    """A run's config.json with portable settings; what is none unchanged."""
    if not isinstance(config, dict) or not isinstance(config.get("settings"), dict):
        return config
    return config | {"settings": {name: portable(value) for name, value in config["settings"].items()}}


def is_of_machine(value: Any) -> bool:
    """Whether a value is a path that means nothing elsewhere: absolute, or out of the working folder."""
    return isinstance(value, str) and (value.startswith("~") or Path(value).is_absolute() or ".." in Path(value).parts)


def portable(value: Any) -> Any:
    """A setting; of a path that is_of_machine only the last part."""
    return Path(value).name if is_of_machine(value) else value


def are_one_encoder(first: str, second: str) -> bool:
    """Whether two names can mean the same encoder. A record keeps only the last part of a path of its machine; so if
    one name is an absolute path or has no slash, only the last parts are compared."""
    is_cut = any(Path(name).is_absolute() or "/" not in name for name in (first, second))
    return first == second or (is_cut and Path(first).name == Path(second).name)


def same_experiment(runs: list[Run]) -> None:
    """Raise UserError unless all runs have the same documents, classes and encoder, since only those can be compared.
    The weights that they started from, and their teachers, may differ."""
    for run in runs[1:]:
        encoders = [each.config["settings"]["model_name_or_path"] for each in (runs[0], run)]
        first, other = ([each.config["data"].get(use) for use in (*SPLITS, "rel2id")] for each in (runs[0], run))
        if first != other or not are_one_encoder(*encoders):
            raise UserError(f"{runs[0].folder} and {run.folder}: differ in encoder or data; pass runs that share both")


def dev_scores(run: Run) -> dict[int, dict[str, float]]:
    """The evaluator's figures on dev by epoch. Raises UserError if metrics.jsonl is missing, broken or has none."""
    if run.dev_by_epoch is not None:
        return run.dev_by_epoch
    path = run.folder / "metrics.jsonl"
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
        logged = [parse_json(line, f"{path}: line {number}") for number, line in enumerate(lines, 1)]
        by_epoch = {line["epoch"]: line["dev"] for line in logged if "epoch" in line}
    except (OSError, UnicodeDecodeError, KeyError, TypeError):
        by_epoch = {}
    if not valid_dev_scores(by_epoch):
        raise UserError(
            f"{path}: is missing or has no dev scores by epoch; train the run again with a labelled dev file"
        )
    return by_epoch


def valid_dev_scores(by_epoch: dict[Any, Any]) -> bool:
    """Whether these can be dev scores by epoch: one epoch or more, each with an F1."""
    f1: list[Any] = [scores.get("f1") if isinstance(scores, dict) else None for scores in by_epoch.values()]
    return bool(f1) and all(type(epoch) is int for epoch in by_epoch) and are_numbers(f1, most=1)


def valid_counts(correct: np.ndarray, predicted: np.ndarray, gold: np.ndarray) -> bool:
    """Whether these can be triples by document, [documents] each."""
    if not correct.shape == predicted.shape == gold.shape:
        return False
    return bool((correct >= 0).all() and (correct <= predicted).all() and (correct <= gold).all())


@functools.lru_cache(maxsize=2)
def documents_of(path: str, checksum: str) -> tuple[Document, ...]:
    """A data file's documents. Raises UserError if it is gone, or its SHA-256 is not `checksum`."""
    if not Path(path).exists() or sha256_of_file(path) != checksum:
        raise UserError(f"{path}: the file that the run was scored on is gone or has changed; put it back{SEARCHED}")
    return tuple(load_documents(path, unique_titles=True))


def data_file(run: Run, split: str) -> tuple[str, bool]:
    """Where a split's file lies, and whether it is there with the run's SHA-256. A relative path is one of the present
    folder, of the clone, of the run's folder or of a folder above it: the first that holds the run's file."""
    settings, checksum = run.config["settings"], run.config["data"][split]
    path = Path(settings["data_dir"]) / settings[f"{split}_file"]
    here = run.folder.resolve()
    candidates = [candidate for base in (Path(), ROOT, here, *here.parents) if (candidate := base / path).is_file()]
    match = next((candidate for candidate in candidates if sha256_of_file(candidate) == checksum), None)
    return str(match or next(iter(candidates), path)), match is not None


def file_of(run: Run, split: str) -> tuple[str, str]:
    """(the path, the SHA-256) of a split's file."""
    return data_file(run, split)[0], run.config["data"][split]


def documents_by_split(run: Run) -> dict[str, int]:
    """How many documents a run's data files hold, of those that are still there."""
    if not run.folder.is_dir():
        return run.documents
    numbers = {split: number_of_documents(*file_of(run, split)) for split in SPLITS}
    return {split: number for split, number in numbers.items() if number is not None}


@functools.lru_cache
def number_of_documents(path: str, checksum: str) -> int | None:
    """How many documents a data file holds, None if it is gone, or its SHA-256 is not `checksum`."""
    is_unchanged = Path(path).is_file() and sha256_of_file(path) == checksum
    return len(read_documents(path)) if is_unchanged else None


@functools.lru_cache(maxsize=2)
def gold_of(path: str, checksum: str) -> Gold:
    """The gold triples of a data file, none of them known from training. Raises UserError as documents_of does."""
    return prepare_gold(list(documents_of(path, checksum)), set())


def count_by_document(run: Run) -> Counted:
    """(correct, predicted, gold) triples of each test document. Raises UserError if the run's predictions or its
    test file are gone."""
    if run.test_documents is not None:
        return run.test_documents
    path = run.folder / "result.json"
    return triples_by_document(read_json(path), gold_of(*file_of(run, "test")), str(path))
