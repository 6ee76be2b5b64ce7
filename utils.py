"""Random seeds, devices, mixed precision, and documents' features collated into batches."""

from __future__ import annotations

import math
import random
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from hingeabl.core import one_module
from hingeabl.errors import UserError, first_line
from hingeabl.machine import check_gpu

AUTOCAST_DTYPE = {"bf16": torch.bfloat16, "fp16": torch.float16}


def set_seed(seed: int) -> None:
    """Seed every random generator that a training draws from."""
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


def pick_device(name: str | None) -> torch.device:
    """The requested device, or CUDA if available, else the CPU. Raises UserError for one that is not available or not
    supported, and for a GPU that torch cannot use."""
    try:
        device = torch.device(name or ("cuda" if torch.cuda.is_available() else "cpu"))
        if device.type == "cuda" or not name:
            check_gpu()
        if device.type not in ("cuda", "cpu"):
            raise UserError(f"--device {name}: only cuda and cpu are supported; leave it out or pass cpu")
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise UserError(f"--device {name}: not usable here ({first_line(error)}); leave it out or pass cpu") from None
    return device


def pick_precision(name: str | None, device: torch.device) -> str:
    """The requested precision, or fp16 on CUDA, bf16 on CPUs that multiply it natively, else fp32."""
    if name:
        return name
    if device.type == "cuda":
        return "fp16"
    abilities = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
    return "bf16" if abilities.get("avx512_bf16") or abilities.get("amx_bf16") else "fp32"


def autocast(device: torch.device, precision: str) -> torch.autocast:
    """torch.autocast for "fp32" (off), "bf16" or "fp16"."""
    return torch.autocast(device.type, AUTOCAST_DTYPE.get(precision), enabled=precision != "fp32")


def recurring_size(count: int, multiple: int, device: torch.device) -> int:
    """On a GPU `count`; on the CPU `count` rounded up to a multiple, so that the sizes of products recur: for each new
    one oneDNN compiles a bfloat16 kernel, which takes 1 to 7 ms, several times as long as the product itself."""
    return count if device.type == "cuda" else math.ceil(count / multiple) * multiple


def collate_fn(features: list[dict[str, Any]]) -> dict[str, Any]:
    """Documents' features -> one batch: DocREModel's keyword arguments, and "labels" where all features have them.

    input_ids       int64 [documents, longest], right-padded with 0
    lengths         list of int, tokens of each document
    mention_pos     list of int64 [mentions]: index of each mention's opening marker in input_ids
    mention_entity  list of int64 [mentions]: the entity each mention belongs to
    num_entities    list of int
    hts             list of int64 [pairs, 2]: (head entity, tail entity)
    labels          float32 [pairs of all documents, classes]
    teacher_scores  the same shape, where all features have them
    sentence        int64 [documents, longest], where all features have sentence_ends: the number of each token's
                    sentence, -1 for none; where all have each_token, each token is a sentence of its own
    sentences       int, with it: the largest number of sentences in a document
    evidence        float32 [pairs of all documents, sentences], likewise: how a pair's evidence is
                    distributed, a sentence counted once for each relation that names it
    teacher_attention  float32 [pairs of all documents, longest], where all features have it

    A mention whose opening marker was cut off at max_seq_length is left out.
    """
    lengths = [len(feature["input_ids"]) for feature in features]
    input_ids = torch.zeros(len(features), max(lengths), dtype=torch.long)
    mention_pos, mention_entity = [], []
    for row, feature in enumerate(features):
        input_ids[row, : lengths[row]] = torch.tensor(feature["input_ids"])
        pieces = lengths[row] - 2  # without [CLS] and [SEP]
        kept = [
            (start + 1, entity)
            for entity, mentions in enumerate(feature["entity_pos"])
            for start, _ in mentions
            if start < pieces
        ]
        positions = torch.tensor(kept, dtype=torch.long).reshape(-1, 2)
        mention_pos.append(positions[:, 0].contiguous())
        mention_entity.append(positions[:, 1].contiguous())
    batch: dict[str, Any] = {
        "input_ids": input_ids,
        "lengths": lengths,
        "mention_pos": mention_pos,
        "mention_entity": mention_entity,
        "num_entities": [len(feature["entity_pos"]) for feature in features],
        "hts": [torch.from_numpy(np.asarray(feature["hts"], dtype=np.int64).reshape(-1, 2)) for feature in features],
    }
    if all("labels" in feature for feature in features):
        batch["labels"] = torch.from_numpy(
            np.concatenate([np.asarray(feature["labels"]) for feature in features])
        ).float()
    if all("teacher_scores" in feature for feature in features):
        batch["teacher_scores"] = torch.cat([feature["teacher_scores"] for feature in features]).float()
    if all("teacher_attention" in feature for feature in features):
        most = max(feature["teacher_attention"].shape[1] for feature in features)
        rows = [feature["teacher_attention"] for feature in features]
        batch["teacher_attention"] = torch.cat([F.pad(row, (0, most - row.shape[1])) for row in rows]).float()
    if all("each_token" in feature for feature in features):
        batch["sentence"] = torch.arange(max(lengths)).expand(len(features), -1).contiguous()
        batch["sentences"] = max(lengths)
    elif all("sentence_ends" in feature for feature in features):
        sentences = max(len(feature["sentence_ends"]) for feature in features)
        batch["sentence"] = torch.tensor([sentence_of_tokens(feature, max(lengths)) for feature in features])
        batch["sentences"] = sentences
        if all("evidence" in feature for feature in features):
            batch["evidence"] = torch.from_numpy(
                np.concatenate([evidence_rows(feature, sentences) for feature in features])
            )
    return batch


def sentence_of_tokens(feature: dict[str, Any], longest: int) -> list[int]:
    """A document's row of collate_fn's `sentence`; -1 for [CLS] and [SEP]."""
    pieces = len(feature["input_ids"]) - 2
    sentences = [-1]
    for sentence, end in enumerate(feature["sentence_ends"]):
        sentences += [sentence] * (min(end, pieces) + 1 - len(sentences))
    return sentences + [-1] * (longest - len(sentences))


def evidence_rows(feature: dict[str, Any], sentences: int) -> np.ndarray:
    """A document's rows of collate_fn's `evidence`."""
    rows = np.zeros((len(feature["hts"]), sentences), dtype=np.float32)
    np.add.at(rows, tuple(feature["evidence"]), 1)
    return rows / rows.sum(axis=1, keepdims=True).clip(1)


def to_device(batch: dict[str, Any], device: torch.device) -> dict[str, Any]:
    """A collated batch with its tensors on `device`; tensors of one dtype are copied together, without blocking if the
    batch's memory is pinned."""
    if device.type == "cpu":
        return batch
    lists = [value if isinstance(value, list) else [value] for value in batch.values()]
    tensors = [tensor for values in lists for tensor in values if isinstance(tensor, torch.Tensor)]
    moved: dict[int, torch.Tensor] = {}
    for dtype in {tensor.dtype for tensor in tensors}:
        same = [tensor for tensor in tensors if tensor.dtype == dtype]
        whole = torch.cat([tensor.flatten() for tensor in same])
        copied = (whole.pin_memory() if same[0].is_pinned() else whole).to(device, non_blocking=True)
        parts = copied.split([tensor.numel() for tensor in same])
        moved |= {id(tensor): part.view(tensor.shape) for tensor, part in zip(same, parts, strict=True)}

    def move(value: Any) -> Any:
        return [move(item) for item in value] if isinstance(value, list) else moved.get(id(value), value)

    return {name: move(value) for name, value in batch.items()}


def columns_of_rows(members: torch.Tensor) -> list[list[int]]:
    """The columns that are true in each row of bool [n, columns]."""
    columns: list[list[int]] = [[] for _ in range(len(members))]
    for row, column in members.nonzero().tolist():
        columns[row].append(column)
    return columns


def describe_device(device: torch.device) -> str:
    """One readable line, e.g. "cuda (NVIDIA A800, 80 GiB)" or "cpu (2 threads)"."""
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        return f"cuda ({properties.name}, {properties.total_memory / 2**30:.0f} GiB)"
    return f"{device.type} ({torch.get_num_threads()} threads)"


one_module(__name__)
