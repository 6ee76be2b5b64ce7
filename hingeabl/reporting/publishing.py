"""A finished run as files for the model hub: its weights, what loads them, and a card; nothing of the machine."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save

from hingeabl.compressed import compress
from hingeabl.core.evaluation import are_scores
from hingeabl.core.losses import Loss, get_loss, threshold_class, threshold_of_group, zero_threshold
from hingeabl.errors import UserError, remedy_of
from hingeabl.files import read_json
from hingeabl.machine import looks_like_path
from hingeabl.modeling.checkpoints import read_weights
from hingeabl.reporting.card import front_matter, write_card
from hingeabl.reporting.records import Run, is_of_machine, portable, read_run
from hingeabl.training.fitted import CONFIDENCE, TYPES, read_confidence, types_help
from hingeabl.training.hub import ENCODER_FILES, ENCODER_NAMES, NAME, WEIGHTS, refuse
from hingeabl.training.runs import experiment_of
from hingeabl.training.saved_run import open_run, refuse_unfinished

OF_THE_MACHINE = {"rel2id", "cache_dir", "device", "output_dir", "load_path", "wandb_project"}  # each user's own
UNCHANGED = (WEIGHTS, "model.json", "rel2id.json", "scores.json")
Files = dict[str, "Path | bytes"]  # by name: a file to copy, or its content


@dataclass(frozen=True)
class CompressionOptions:
    """How a run is compressed: `scored` is the folder that train.py --load_path wrote for the compressed run; `shift`
    is added to its threshold, in the weights."""

    scored: str | None = None
    shift: float = 0.0


def publish(
    folder: str | Path, repo: str, private: bool, license: str | None, compression: CompressionOptions | None = None
) -> str:
    """Upload a finished run to the hub's model `repo`, which is made if needed; compressed if `compression` is given.
    Returns its address.

    Raises UserError for an unfinished run, an invalid name, a public model where a private one is wanted, and if the
    hub cannot be reached or refuses.
    """
    if not NAME.fullmatch(repo):
        raise UserError(f"--repo {repo}: is no name on the hub; pass owner/name")
    if compression and not compression.scored:
        raise UserError(
            "--compress: changes the scores; write it with --folder, score that with train.py --load_path, and pass "
            "--scored"
        )
    files = files_of(Path(folder), repo, license, compression)
    from huggingface_hub import CommitOperationAdd, HfApi  # here, since it takes a while

    api, public = HfApi(), False
    try:
        address = str(api.create_repo(repo, private=private or None, exist_ok=True))
        public = private and not api.model_info(repo).private
        if not public:
            added = [CommitOperationAdd(name, content) for name, content in files.items()]
            api.create_commit(repo, added, commit_message="A run and its card")
    except Exception as error:  # of the hub's client, of its HTTP client
        refuse(f"--repo {repo}: cannot be published", error, repo)
    if public:
        raise UserError(f"--repo {repo}: is there and public; pass another name, or make it private on the hub first")
    return address


def write_folder(
    folder: str | Path, output: str | Path, license: str | None, compression: CompressionOptions | None = None
) -> None:
    """Write what `publish` uploads to a new folder, whole or not at all. Raises UserError for an unfinished run, a
    folder that is there already and not empty, and one that cannot be written."""
    output = Path(os.path.abspath(output))
    if output.is_file() or (output.is_dir() and any(output.iterdir())):
        raise UserError(f"--folder {output}: is there already; name a new folder")
    files = files_of(Path(folder), "owner/name", license, compression)
    scratch = output.with_name(f".{output.name}.tmp")
    made = [above for above in output.parents if not above.exists()]
    try:
        shutil.rmtree(scratch, ignore_errors=True)  # what a killed process left
        (scratch / "encoder").mkdir(parents=True)
        for name, content in files.items():
            if isinstance(content, bytes):
                (scratch / name).write_bytes(content)
            else:
                shutil.copyfile(content, scratch / name)
        os.replace(scratch, output)
    except BaseException as error:
        shutil.rmtree(scratch, ignore_errors=True)
        with contextlib.suppress(OSError):
            for above in made:
                above.rmdir()
        if isinstance(error, OSError):
            raise UserError(f"--folder {output}: cannot be written ({error.strerror}); {remedy_of(error)}") from None
        raise


def files_of(folder: Path, name: str, license: str | None, compression: CompressionOptions | None = None) -> Files:
    """What is published of a finished run: the files that load it, its weights, compressed if `compression` is given,
    config.json without the machine's paths, and a card README.md for the model `name`. A compressed run that was not
    scored has neither scores in its card nor a confidence. Raises UserError if the run is not whole."""
    if not folder.is_dir():
        raise UserError(f"{folder}: is no folder; pass the folder of a finished run's seed")
    if license and not re.fullmatch(r"[a-z0-9.-]+", license):
        raise UserError(f"--license {license}: is no license of the hub; pass its name there, such as mit or cc-by-4.0")
    refuse_unfinished("run", folder)
    opened = open_run(folder, torch.device("cpu"))
    relations = {index: relation for relation, index in opened.rel2id.items()}
    needed = ENCODER_NAMES | {Path(name).name for name in opened.tokenizer.vocab_files_names.values()}
    run = read_run(folder)
    scored = Path(compression.scored) if compression and compression.scored else None
    if scored:
        run = replace(run, scores=run.scores | scores_of(scored))
    config = published_config(run.config, relations[0])
    if compression and compression.shift:
        config["decision"]["threshold_shift"] = compression.shift
        best_shift = read_json(folder / CONFIDENCE).get("best_shift") if read_confidence(folder) else None
        config["decision"]["shift_is_best_on_dev"] = compression.shift == best_shift
    if scored and types_help(scored):
        config["decision"]["types"] = "learned"
    encoder = run.config["settings"]["model_name_or_path"]
    base_model = None if looks_like_path(encoder) or os.path.isdir(encoder) else encoder
    files: Files = {file: folder / file for file in UNCHANGED}
    seeds = [] if compression and not scored else [run] if compression else seeds_of(run)  # those with its scores
    source = scored or folder
    confidence = read_json(source / CONFIDENCE) if seeds and read_confidence(source) else {}
    card = front_matter(run, base_model, license) + "\n" + write_card(config, run, seeds, name, confidence)
    fitted = [source / name for name in ((CONFIDENCE, TYPES) if seeds else (TYPES,))]
    files |= {path.name: path for path in fitted if path.exists()}
    for path in sorted(path for pattern in ENCODER_FILES for path in folder.glob(pattern)):
        if path.name in needed:
            files[f"encoder/{path.name}"] = encoder_file(path)
    if compression:
        weights = read_weights(folder / WEIGHTS)
        shift_threshold(weights, opened.loss, compression.shift)
        files[WEIGHTS] = save(compress(weights))
        kept = run.scores.keys() if scored else run.scores.keys() - {"dev", "test"}  # these are of other weights
        files["scores.json"] = as_json({name: run.scores[name] for name in run.scores if name in kept})
    return {**files, "config.json": as_json(config), "README.md": card.encode()}


def shift_threshold(weights: dict[str, torch.Tensor], loss: Loss, shift: float) -> None:
    """Add `shift` to the threshold, in the bias of the last layer. Predictions are those of `Loss.shift`, but for a
    shift below 0 of a threshold class: its rank among the highest falls too. Raises UserError for a loss with several
    thresholds."""
    bias = weights["classifier.bias" if "classifier.bias" in weights else "bilinear.bias"]
    if shift and loss.definition.threshold is threshold_class:
        bias[0] += shift
    elif shift and loss.definition.threshold is zero_threshold:
        bias -= shift  # class 0 too: it keeps its rank among the highest
    elif shift:
        raise UserError(f"--shift: the loss {loss.name} has no threshold for all relations; leave it out")


def scores_of(folder: Path) -> dict[str, Any]:
    """The scores {dev, test} that train.py --load_path wrote to `folder`. Raises UserError if it holds none."""
    scores = read_json(folder / "scores.json")
    if not isinstance(scores, dict) or not all(are_scores(scores.get(split)) for split in ("dev", "test")):
        raise UserError(f"{folder}/scores.json: holds no scores of dev and test; run train.py --load_path again")
    return {split: scores[split] for split in ("dev", "test")}


def as_json(value: Any) -> bytes:
    """A JSON file's content."""
    return (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode()


def encoder_file(path: Path) -> Path | bytes:
    """A file of the encoder's, without the paths of this machine."""
    content = read_json(path) if path.name in ("config.json", "tokenizer_config.json") else None
    if not isinstance(content, dict):
        return path
    paths = [name for name, value in content.items() if name.endswith(("_path", "_file")) and is_of_machine(value)]
    return as_json({name: value for name, value in content.items() if name not in paths}) if paths else path


def published_config(config: dict[str, Any], no_relation: str) -> dict[str, Any]:
    """A run's config.json without what is of the machine, of such paths the last part alone; and the decision rule.
    `no_relation` is the name of class 0."""
    settings = {name: portable(value) for name, value in config["settings"].items() if name not in OF_THE_MACHINE}
    loss_kind = get_loss(config["loss"]["name"]).definition
    threshold_names = {
        threshold_class: f"the score of the class {no_relation}",
        zero_threshold: "zero",
        threshold_of_group: "the threshold output of its group of relations",
    }
    decision = {
        "threshold": threshold_names.get(loss_kind.threshold, f"its {loss_kind.threshold.__name__.replace('_', ' ')}"),
        "rule": loss_kind.decide.__name__,
        "num_labels": settings["num_labels"],
    }
    return {**config, "settings": settings, "decision": decision}


def seeds_of(run: Run) -> list[Run]:
    """The finished runs of all seeds beside a run, itself first. Raises UserError for one that differs in more than the
    seed."""
    here = run.folder.resolve()
    beside = [path for path in sorted(here.parent.glob("seed_*")) if (path / "scores.json").exists()]
    others = [read_run(path) for path in beside if path != here]
    for other in others:
        if other.seed == run.seed or compared(other) != compared(run):
            raise UserError(
                f"{other.folder}: lies beside {run.folder} and is no other seed of it (settings or data differ, or the "
                "seed is the same); move one of them to another folder"
            )
    return [run, *others]


def compared(run: Run) -> Any:
    """What seeds of one experiment share."""
    shared = {name: portable(value) for name, value in experiment_of(run.config).items()}
    return shared, run.config.get("precision")
