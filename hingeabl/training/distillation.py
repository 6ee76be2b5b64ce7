"""Knowledge distillation, as KD-DocRE does it: a teacher's scores of a distantly labelled file, for a student to match.

scripts/distill.py writes the scores, train.py --teacher_scores trains on them. They go into files of SHARD documents
each, so that memory holds no more than one; a stopped program goes on with the first that is missing.
"""

from __future__ import annotations

import argparse
import hashlib
import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor
from torch.utils.data import Dataset
from tqdm import tqdm

from hingeabl.data.documents import garbage_collection_paused, load_documents
from hingeabl.data.statistics import count_pairs
from hingeabl.errors import UserError, first_line
from hingeabl.files import digest, make_folder, read_json, save_tensors, write_json
from hingeabl.modeling.encoder import WINDOW, check_length
from hingeabl.training.inference import score
from hingeabl.training.saved_run import open_run
from losses import Loss
from model import DocREModel
from prepro import Feature, featurize
from utils import pick_device, pick_precision

SHARD = 1000  # documents
BUDGET = 8 * WINDOW  # tokens and pairs scored at once
LESS_MEMORY = "pass --precision bf16 or use a larger machine"


def teacher_file(folder: str | Path) -> Path:
    """What describes a folder of scores; written last."""
    return Path(folder) / "teacher.json"


def shard_file(folder: str | Path, number: int) -> Path:
    """Where the scores of documents [SHARD * number, SHARD * (number + 1)) are: a tensor "scores", float16 [pairs,
    classes], in the order of those documents' hts."""
    return Path(folder) / f"scores_{number:05}.safetensors"


class WithTeacherScores(Dataset):
    """Features, each with the teacher's scores: `teacher_scores` float16 [pairs, classes], read when it is needed."""

    def __init__(
        self, features: list[Feature], folder: str | Path, data_file: Path, rel2id: dict[str, int], loss: Loss
    ) -> None:
        """Raises UserError unless the folder holds scores of these features' file, for the loss's outputs."""
        about = read_json(teacher_file(folder))
        if not isinstance(about, dict) or about.get("data_file") != digest(data_file):
            raise UserError(f"{folder}: holds scores of another file than {data_file}; run distill.py for this one")
        if about.get("rel2id") != rel2id:
            raise UserError(f"{folder}: the teacher's classes are not those of --rel2id; pass its rel2id.json")
        given, taken = about.get("outputs", len(rel2id)), loss.outputs(len(rel2id))
        if given != taken:
            raise UserError(
                f"{folder}: holds {given} scores a pair, but the loss {loss.name} has {taken}; pass scores of a "
                "teacher that was trained with it"
            )
        if not isinstance(about.get("key"), str):
            raise UserError(f"{teacher_file(folder)}: lacks its key; run distill.py again")
        self.features = features
        self.places: list[tuple[Path, int, int]] = []  # file, first row, behind the last row
        for first in range(0, len(features), SHARD):
            path, start = shard_file(folder, first // SHARD), 0
            for feature in features[first : first + SHARD]:
                self.places.append((path, start, start + len(feature["hts"])))
                start += len(feature["hts"])
            if not is_written(path, about["key"], start, taken):
                raise UserError(f"{path}: is missing; run distill.py again")

    def __len__(self) -> int:
        return len(self.features)

    def __getitem__(self, index: int) -> Feature:
        path, start, stop = self.places[index]
        with safe_open(path, "pt") as file:
            return {**self.features[index], "teacher_scores": file.get_slice("scores")[start:stop]}


def is_written(path: Path, key: str, pairs: int, classes: int) -> bool:
    """Whether a file of scores is there. Raises UserError for one that is broken or holds others than `key` names."""
    if not path.exists():
        return False
    try:
        with safe_open(path, "pt") as file:
            scores = file.get_slice("scores")
            fits = scores.get_shape() == [pairs, classes] and scores.get_dtype() == "F16"
            if fits and (file.metadata() or {}).get("key") == key:
                return True
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path}: is broken ({first_line(error)}); remove it and run distill.py again") from None
    raise UserError(f"{path}: holds other scores; remove the folder or pass another one")


def write_scores(args: argparse.Namespace) -> None:
    """Score the data file with the teacher, a shard at a time, and describe the folder when all are there."""
    device = pick_device(args.device)
    precision = pick_precision(args.precision, device)
    run = open_run(args.load_path, device)
    typed = run.settings.entity_marker == "typed"
    with garbage_collection_paused():
        documents = load_documents(args.data_file, run.rel2id, typed=typed)
    about: dict[str, Any] = {
        "data_file": digest(args.data_file),
        "teacher": digest(run.folder / "model.safetensors"),
        "precision": precision,
        "rel2id": run.rel2id,
    }
    if (outputs := run.loss.outputs(len(run.rel2id))) != len(run.rel2id):
        about["outputs"] = outputs
    about["key"] = hashlib.sha256(json.dumps(about).encode()).hexdigest()
    folder = make_folder(args.output_dir)
    for first in tqdm(range(0, len(documents), SHARD), desc="files of scores", unit="file"):
        chosen = documents[first : first + SHARD]
        path = shard_file(folder, first // SHARD)
        pairs = sum(map(count_pairs, chosen))
        if is_written(path, about["key"], pairs, outputs):
            continue
        settings = (run.settings.max_seq_length, run.settings.entity_marker)
        features = featurize(chosen, run.tokenizer, run.rel2id, *settings)
        check_length(run.model.model, max(len(feature["input_ids"]) for feature in features))
        scores = score_documents(run.model, features, device, precision)
        if not scores.isfinite().all():
            raise UserError(f"{args.load_path}: gives scores of {args.data_file} beyond float16; train it again")
        save_tensors(path, {"scores": scores}, {"key": about["key"]})
    write_json(teacher_file(folder), about)
    print(f"scores of {len(documents):,} documents: {folder}")


def score_documents(model: DocREModel, features: list[Feature], device: torch.device, precision: str) -> Tensor:
    """Scores float16 [pairs of all documents, classes], in the documents' order."""
    found: dict[int, Tensor] = {}
    unlabelled = [{name: value for name, value in feature.items() if name != "labels"} for feature in features]
    for indices, scores, _ in score(model, unlabelled, device, precision, BUDGET, remedy=LESS_MEMORY):
        parts = scores.half().cpu().split([len(features[index]["hts"]) for index in indices])
        found.update(zip(indices, parts, strict=True))
    return torch.cat([found[index] for index in range(len(features))])
