"""Knowledge distillation: what a teacher says of a distantly labelled file, for a student to match: its scores, as
KD-DocRE does it, or each pair's attention over all tokens, as DREEAM does it.

scripts/distill.py writes them, train.py --teacher_scores or --teacher_attention trains on them. They go into files of
SHARD documents each, so that memory holds no more than one; a stopped program goes on with the first that is missing.
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
from hingeabl.data.documents import garbage_collection_paused, load_documents
from hingeabl.errors import UserError, first_line
from hingeabl.files import digest, make_folder, read_json, save_tensors, write_json
from hingeabl.modeling.encoder import WINDOW
from hingeabl.training.inference import score
from hingeabl.training.saved_run import open_run

SHARD = 1000  # documents
SCORES, ATTENTION = "scores", "attention"  # what a teacher may say
TOKENS = "all tokens"  # what attention is over; before 2026-11-29 it left out the first and the last token
BUDGET = 8 * WINDOW  # tokens and pairs scored at once
LESS_MEMORY = "pass --precision bf16 or use a larger machine"


def teacher_file(folder: str | Path) -> Path:
    """What describes a folder of scores; written last."""
    return Path(folder) / "teacher.json"


def shard_file(folder: str | Path, number: int, what: str = SCORES) -> Path:
    """Where the scores, or the attention, of documents [SHARD * number, SHARD * (number + 1)) are: a float16 tensor of
    that name, in the order of those documents' hts: scores [pairs, outputs]; attention in one row, document by
    document [pairs, tokens]."""
    return Path(folder) / f"{what}_{number:05}.safetensors"


def shape_of(features: list[Feature], what: str, outputs: int) -> list[int]:
    """The shape of these documents' tensor."""
    if what == SCORES:
        return [sum(len(feature["hts"]) for feature in features), outputs]
    return [sum(len(feature["hts"]) * len(feature["input_ids"]) for feature in features)]


def by_token(feature: Feature) -> Feature:
    """The feature whose attention is asked for token by token, [CLS] and [SEP] among them, instead of by sentence. Over
    all tokens a pair's attention sums to 1, so that the divergence from a teacher's is least where both are equal."""
    kept = {name: value for name, value in feature.items() if name not in ("evidence", "sentence_ends")}
    return {**kept, "each_token": True}


class WithTeacher(Dataset):
    """Features, each with what the teacher says, read when it is needed: `teacher_scores` float16 [pairs, classes], or
    `teacher_attention` float16 [pairs, tokens] and the features by_token."""

    def __init__(
        self,
        features: list[Feature],
        folder: str | Path,
        data_file: Path,
        rel2id: dict[str, int],
        loss: Loss,
        what: str = SCORES,
    ) -> None:
        """Raises UserError unless the folder holds that of these features' file, for the loss's outputs."""
        about = read_json(teacher_file(folder))
        if not isinstance(about, dict) or about.get("data_file") != digest(data_file):
            raise UserError(f"{folder}: holds {what} of another file than {data_file}; run distill.py for this one")
        if about.get("what", SCORES) != what:
            raise UserError(f"{folder}: holds a teacher's {about.get('what', SCORES)}; --teacher_{what} takes {what}")
        if what == ATTENTION and about.get("over") != TOKENS:
            raise UserError(
                f"{folder}: holds attention that leaves out [CLS] and [SEP], of an older version; remove the folder "
                "and run distill.py --attention again"
            )
        if about.get("rel2id") != rel2id:
            raise UserError(f"{folder}: the teacher's classes are not those of --rel2id; pass its rel2id.json")
        given, taken = about.get("outputs", len(rel2id)), loss.outputs(len(rel2id))
        if what == SCORES and given != taken:
            raise UserError(
                f"{folder}: holds {given} scores a pair, but the loss {loss.name} has {taken}; pass scores of a "
                "teacher that was trained with it"
            )
        if not isinstance(about.get("key"), str):
            raise UserError(f"{teacher_file(folder)}: lacks its key; run distill.py again")
        self.features = features
        self.what = what
        self.places: list[tuple[Path, int, int]] = []  # file, first row, behind the last row
        for first in range(0, len(features), SHARD):
            path, start = shard_file(folder, first // SHARD, what), 0
            chosen = features[first : first + SHARD]
            for feature in chosen:
                stop = start + shape_of([feature], what, taken)[0]
                self.places.append((path, start, stop))
                start = stop
            if not is_written(path, about["key"], what, shape_of(chosen, what, taken)):
                raise UserError(f"{path}: is missing; run distill.py again")

    def __len__(self) -> int:
        return len(self.features)

    def __getitem__(self, index: int) -> Feature:
        path, start, stop = self.places[index]
        feature = self.features[index]
        with safe_open(path, "pt") as file:
            rows = file.get_slice(self.what)[start:stop]
        if self.what == SCORES:
            return {**feature, "teacher_scores": rows}
        return {**by_token(feature), "teacher_attention": rows.view(len(feature["hts"]), len(feature["input_ids"]))}


def is_written(path: Path, key: str, what: str, shape: list[int]) -> bool:
    """Whether a file of scores, or attention, is there. Raises UserError for one that is broken or holds others than
    `key` names."""
    if not path.exists():
        return False
    try:
        with safe_open(path, "pt") as file:
            stored = file.get_slice(what)
            fits = stored.get_shape() == shape and stored.get_dtype() == "F16"
            if fits and (file.metadata() or {}).get("key") == key:
                return True
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path}: is broken ({first_line(error)}); remove it and run distill.py again") from None
    raise UserError(f"{path}: holds other {what}; remove the folder or pass another one")


def distill(args: argparse.Namespace) -> None:
    """Write what the teacher says of the data file, a shard at a time, and describe the folder when all are there."""
    what = ATTENTION if args.attention else SCORES
    device = pick_device(args.device)
    precision = pick_precision(args.precision, device)
    run = open_run(args.load_path, device, require_finished=True)
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
    if what != SCORES:
        about |= {"what": what, "over": TOKENS}
    about["key"] = hashlib.sha256(json.dumps(about).encode()).hexdigest()
    folder = make_folder(args.output_dir)
    settings = (run.settings.max_seq_length, run.settings.entity_marker)
    for first in tqdm(range(0, len(documents), SHARD), desc=f"files of {what}", unit="file"):
        path = shard_file(folder, first // SHARD, what)
        features = featurize(documents[first : first + SHARD], run.tokenizer, run.rel2id, *settings)
        if is_written(path, about["key"], what, shape_of(features, what, outputs)):
            continue
        found = say_of_documents(run.model, features, device, precision, what)
        if not found.isfinite().all():
            raise UserError(f"{args.load_path}: gives {what} of {args.data_file} beyond float16; train it again")
        save_tensors(path, {what: found}, {"key": about["key"]})
    write_json(teacher_file(folder), about)
    print(f"{what} of {len(documents):,} documents: {folder}")


def say_of_documents(
    model: DocREModel, features: list[Feature], device: torch.device, precision: str, what: str
) -> Tensor:
    """The tensor of shard_file, in the documents' order."""
    found: dict[int, Tensor] = {}
    given = [{name: value for name, value in feature.items() if name != "labels"} for feature in features]
    if what == ATTENTION:
        given = [by_token(feature) for feature in given]
    batches = score(model, given, device, precision, BUDGET, remedy=LESS_MEMORY, in_parts=False)
    for indices, scores, _, attention, _ in batches:
        rows = scores if attention is None else attention
        parts = rows.half().cpu().split([len(features[index]["hts"]) for index in indices])
        for index, part in zip(indices, parts, strict=True):
            found[index] = part if attention is None else part[:, : len(features[index]["input_ids"])].flatten()
    return torch.cat([found[index] for index in range(len(features))])
