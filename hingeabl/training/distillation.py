"""Knowledge distillation: a teacher's outputs on a distantly labelled file, for a student to match: its scores, as in
KD-DocRE, or each pair's attention over all tokens, as in DREEAM.

scripts/distill.py writes them, train.py --teacher_scores or --teacher_attention trains on them. They go into files of
SHARD documents each, so that only one is in memory at a time; a stopped program continues with the first missing file.
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

from hingeabl.core.losses import Loss
from hingeabl.core.model import DocREModel
from hingeabl.core.prepro import Feature, featurize
from hingeabl.core.utils import pick_device, pick_precision
from hingeabl.errors import UserError, first_line
from hingeabl.files import make_folder, read_json, save_tensors, sha256_of_file, write_json
from hingeabl.modeling.encoder import WINDOW
from hingeabl.readers.documents import garbage_collection_paused, load_documents
from hingeabl.training.inference import score
from hingeabl.training.saved_run import open_run

SHARD = 1000  # documents
SCORES, ATTENTION = "scores", "attention"  # the outputs of a teacher that can be stored
TOKENS = "all tokens"  # over which attention is stored; before 2026-11-29 without the first and the last token
BUDGET = 8 * WINDOW  # tokens and pairs scored at once
LESS_MEMORY = "pass --precision bf16 or use a larger machine"


def teacher_file(folder: str | Path) -> Path:
    """The file that describes a folder of scores or attention; written last."""
    return Path(folder) / "teacher.json"


def shard_file(folder: str | Path, number: int, target: str = SCORES) -> Path:
    """The file with the scores or the attention (`target`) of documents [SHARD * number, SHARD * (number + 1)). It has
    a float16 tensor of that name, in the order of those documents' hts: scores [pairs, outputs]; attention flattened,
    document by document [pairs, tokens]."""
    return Path(folder) / f"{target}_{number:05}.safetensors"


def shape_of(features: list[Feature], target: str, outputs: int) -> list[int]:
    """The shape of these documents' tensor in shard_file."""
    if target == SCORES:
        return [sum(len(feature["hts"]) for feature in features), outputs]
    return [sum(len(feature["hts"]) * len(feature["input_ids"]) for feature in features)]


def by_token(feature: Feature) -> Feature:
    """The feature, changed to give attention by token, including [CLS] and [SEP], instead of by sentence. Over all
    tokens a pair's attention sums to 1, so the divergence from a teacher's is least if both are equal."""
    kept = {name: value for name, value in feature.items() if name not in ("evidence", "sentence_ends")}
    return {**kept, "each_token": True}


class WithTeacher(Dataset):
    """Features, each with the teacher's output, read when needed: `teacher_scores` float16 [pairs, outputs], or
    `teacher_attention` float16 [pairs, tokens] and the feature by_token."""

    def __init__(
        self,
        features: list[Feature],
        folder: str | Path,
        data_file: Path,
        rel2id: dict[str, int],
        loss: Loss,
        target: str = SCORES,
    ) -> None:
        """Raises UserError unless the folder holds the teacher's output for `data_file` and the loss's outputs."""
        description = read_json(teacher_file(folder))
        if not isinstance(description, dict) or description.get("data_file") != sha256_of_file(data_file):
            raise UserError(f"{folder}: holds {target} of another file than {data_file}; run distill.py for this one")
        if (stored := description.get("what", SCORES)) != target:
            raise UserError(f"{folder}: holds a teacher's {stored}; --teacher_{target} takes {target}")
        if target == ATTENTION and description.get("over") != TOKENS:
            raise UserError(
                f"{folder}: holds attention that leaves out [CLS] and [SEP], of an older version; remove the folder "
                "and run distill.py --attention again"
            )
        if description.get("rel2id") != rel2id:
            raise UserError(f"{folder}: the teacher's classes are not those of --rel2id; pass its rel2id.json")
        stored_outputs, outputs = description.get("outputs", len(rel2id)), loss.outputs(len(rel2id))
        if target == SCORES and stored_outputs != outputs:
            raise UserError(
                f"{folder}: holds {stored_outputs} scores a pair, but the loss {loss.name} has {outputs}; pass scores "
                "of a teacher that was trained with it"
            )
        rule = loss.definition.threshold.__name__
        if target == SCORES and (stored_rule := description.get("threshold", rule)) != rule:
            raise UserError(
                f"{folder}: holds scores that are decided by {stored_rule}, but the loss {loss.name} decides by "
                f"{rule}; pass scores of a teacher that was trained with such a loss"
            )
        if not isinstance(description.get("key"), str):
            raise UserError(f"{teacher_file(folder)}: lacks its key; run distill.py again")
        self.features = features
        self.target = target
        self.rows: list[tuple[Path, int, int]] = []  # each document's file, first row, and the row behind its last
        for first in range(0, len(features), SHARD):
            path, start = shard_file(folder, first // SHARD, target), 0
            in_shard = features[first : first + SHARD]
            for feature in in_shard:
                stop = start + shape_of([feature], target, outputs)[0]
                self.rows.append((path, start, stop))
                start = stop
            if not is_written(path, description["key"], target, shape_of(in_shard, target, outputs)):
                raise UserError(f"{path}: is missing; run distill.py again")

    def __len__(self) -> int:
        return len(self.features)

    def __getitem__(self, index: int) -> Feature:
        path, start, stop = self.rows[index]
        feature = self.features[index]
        with safe_open(path, "pt") as file:
            rows = file.get_slice(self.target)[start:stop]
        if self.target == SCORES:
            return {**feature, "teacher_scores": rows}
        return {**by_token(feature), "teacher_attention": rows.view(len(feature["hts"]), len(feature["input_ids"]))}


def is_written(path: Path, key: str, target: str, shape: list[int]) -> bool:
    """Whether a file of scores or attention exists. Raises UserError if it is broken, or has another key or shape."""
    if not path.exists():
        return False
    try:
        with safe_open(path, "pt") as file:
            stored = file.get_slice(target)
            fits = stored.get_shape() == shape and stored.get_dtype() == "F16"
            if fits and (file.metadata() or {}).get("key") == key:
                return True
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path}: is broken ({first_line(error)}); remove it and run distill.py again") from None
    raise UserError(f"{path}: holds other {target}; remove the folder or pass another one")


def has_key(path: Path, key: str) -> bool:
    """Whether a teacher_file is there, of the same key."""
    description = read_json(path) if path.exists() else None
    return isinstance(description, dict) and description.get("key") == key


def distill(args: argparse.Namespace) -> None:
    """Write the teacher's outputs on the data file, a shard at a time, then the description of the folder."""
    target = ATTENTION if args.attention else SCORES
    device = pick_device(args.device)
    precision = pick_precision(args.precision, device)
    run = open_run(args.load_path, device, require_finished=True)
    typed = run.settings.entity_marker == "typed"
    with garbage_collection_paused():
        documents = load_documents(args.data_file, run.rel2id, typed=typed)
    description: dict[str, Any] = {
        "data_file": sha256_of_file(args.data_file),
        "teacher": sha256_of_file(run.folder / "model.safetensors"),
        "precision": precision,
        "rel2id": run.rel2id,
    }
    if (outputs := run.loss.outputs(len(run.rel2id))) != len(run.rel2id):
        description["outputs"] = outputs
    if target != SCORES:
        description |= {"what": target, "over": TOKENS}
    description["key"] = hashlib.sha256(json.dumps(description).encode()).hexdigest()
    folder = make_folder(args.output_dir)
    settings = (run.settings.max_seq_length, run.settings.entity_marker)
    for first in tqdm(range(0, len(documents), SHARD), desc=f"files of {target}", unit="file"):
        path = shard_file(folder, first // SHARD, target)
        features = featurize(documents[first : first + SHARD], run.tokenizer, run.rel2id, *settings)
        if is_written(path, description["key"], target, shape_of(features, target, outputs)):
            continue
        tensor = teacher_outputs(run.model, features, device, precision, target)
        if not tensor.isfinite().all():
            raise UserError(f"{args.load_path}: gives {target} of {args.data_file} beyond float16; train it again")
        save_tensors(path, {target: tensor}, {"key": description["key"]})
    if target == SCORES:
        description["threshold"] = run.loss.definition.threshold.__name__
    if not has_key(teacher_file(folder), description["key"]):  # a student's run has the file's checksum
        write_json(teacher_file(folder), description)
    print(f"{target} of {len(documents):,} documents: {folder}")


def teacher_outputs(
    model: DocREModel, features: list[Feature], device: torch.device, precision: str, target: str
) -> Tensor:
    """The teacher's scores or attention (`target`) for these documents, as shard_file holds them."""
    by_document: dict[int, Tensor] = {}
    unlabelled = [{name: value for name, value in feature.items() if name != "labels"} for feature in features]
    if target == ATTENTION:
        unlabelled = [by_token(feature) for feature in unlabelled]
    batches = score(model, unlabelled, device, precision, BUDGET, remedy=LESS_MEMORY, in_parts=False)
    for indices, scores, _, attention, _ in batches:
        rows = scores if attention is None else attention
        parts = rows.half().cpu().split([len(features[index]["hts"]) for index in indices])
        for index, part in zip(indices, parts, strict=True):
            by_document[index] = part if attention is None else part[:, : len(features[index]["input_ids"])].flatten()
    return torch.cat([by_document[index] for index in range(len(features))])
