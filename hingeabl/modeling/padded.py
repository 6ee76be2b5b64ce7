"""A batch on a GPU: all windows and all documents padded to one size, so that one operator computes all of them.

On a GPU starting the operators takes most of a step's time. On the CPU it does not, so encoder.py takes one window and
one document after the other there, without padding. Linear layers work on the windows' tokens, packed into one row;
only attention and what follows the encoder see padding.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hingeabl.modeling.precision import autocast_dtype

PADDED_DEVICES = ["cuda"]  # tests add "cpu", to compare both ways
SIZE = 16  # windows are padded to a multiple of this, which fast attention kernels need


def all_at_once(device: torch.device) -> bool:
    """Whether a batch's windows, documents and groups of the grouped product are computed at once on this device."""
    return device.type in PADDED_DEVICES


@dataclass(frozen=True)
class Window:
    """Tokens of a document that pass through the encoder together, and which of them are kept.

    `tokens` int64 are the document's positions that the window holds, inserted special tokens included. Positions
    [start, stop) of the document are kept; they are positions [start - offset, stop - offset) of the window.
    """

    document: int
    start: int
    stop: int
    offset: int
    tokens: np.ndarray


@dataclass(frozen=True)
class PaddedWindows:
    """Windows as attention takes them, each with `size` slots, one for each token.

    token int64 [windows, size]: the packed token in each slot, an arbitrary one in an empty slot. slot int64 [tokens]:
    each packed token's slot, counted through all windows. mask [windows, 1, size], in the dtype of attention: 0, and
    the dtype's lowest number for an empty slot, which makes attention to it 0. rows int64 [windows, mentions]: the
    slots whose attention is read, padded with arbitrary ones.
    """

    token: Tensor
    slot: Tensor
    mask: Tensor
    rows: Tensor


def arrays_to_device(arrays: dict[str, np.ndarray], device: torch.device) -> dict[str, Tensor]:
    """Arrays of integers as int64 tensors of the same shapes on `device`, all in one copy."""
    flat = np.concatenate([array.ravel() for array in arrays.values()]).astype(np.int64, copy=False)
    parts = torch.from_numpy(flat).to(device, non_blocking=True).split([array.size for array in arrays.values()])
    return {name: part.view(array.shape) for (name, array), part in zip(arrays.items(), parts, strict=True)}


def pad_ranges(counts: list[int], size: int) -> tuple[np.ndarray, np.ndarray]:
    """The numbers 0, 1, ... cut into rows, counts[i] of them in row i -> ([rows, size], padded with 0; bool of the same
    shape, False for padding)."""
    filled = np.arange(size) < np.array(counts)[:, None]
    starts = np.cumsum([0, *counts[:-1]])
    return (starts[:, None] + np.arange(size)) * filled, filled


def plan_indices(windows: list[Window], lengths: list[int], width: int, mentions: list[int]) -> dict[str, np.ndarray]:
    """Index arrays of windows, in the order of their documents, of input_ids [documents, width]; and merge_indices.

    `lengths` and `mentions` are the documents' numbers of tokens and of mentions.

    source, position [tokens]                  each packed token's index in the flattened input_ids, and in its window
    token [windows, size], slot [tokens]       PaddedWindows'
    filled [windows, size]                     0 or 1: whether a slot holds a token
    mention, is_mention [documents, mentions]  each mention's number among those of all documents; 0 for padding, else 1
    document, offset, last [windows, 1]        Window's, and the last slot that holds a token
    """
    counts = [len(window.tokens) for window in windows]
    size = -(-max(counts) // SIZE) * SIZE
    token, filled = pad_ranges(counts, size)
    mention, is_mention = pad_ranges(mentions, max(mentions))
    return merge_indices(windows, lengths) | {
        "source": np.concatenate([window.document * width + window.tokens for window in windows]),
        "position": np.concatenate([np.arange(count) for count in counts]),
        "token": token,
        "slot": np.flatnonzero(filled),
        "filled": filled,
        "mention": mention,
        "is_mention": is_mention,
        "document": np.array([window.document for window in windows])[:, None],
        "offset": np.array([window.offset for window in windows])[:, None],
        "last": np.array(counts)[:, None] - 1,
    }


def merge_indices(windows: list[Window], lengths: list[int]) -> dict[str, np.ndarray]:
    """Index arrays that merge windows into documents of these lengths.

    row [parts, documents, longest]       the packed token at each position, in its first and in its second window (the
                                          same if it lies in one); an arbitrary one behind the document's end
    `parts` is 1 if every document has one window, else 2. Only then there are
    window [2, documents]                 the first and the second window of each document, the same if it has one
    column, kept [2, documents, longest]  each position's slot in it; 0 or 1: whether it is kept there
    start, stop [2, documents, 1]         the positions kept; none in the second part of a document with one window
    two [documents]                       0 or 1: whether the document has two windows
    """
    counts = [len(window.tokens) for window in windows]
    starts, positions = np.cumsum([0, *counts[:-1]]), np.arange(max(lengths))
    if len(windows) == len(lengths):
        return {"row": (starts[:, None] + np.minimum(positions, np.array(counts)[:, None] - 1))[None]}
    windows_of = [
        [n for n, window in enumerate(windows) if window.document == number] for number in range(len(lengths))
    ]
    window = np.array([[numbers[part] for numbers in windows_of] for part in (0, -1)])  # [2, documents]
    two = window[0] != window[1]
    start, stop, offset = (
        np.array([[getattr(windows[n], name) for n in part] for part in window])[:, :, None]
        for name in ("start", "stop", "offset")
    )
    stop[1] *= two[:, None]
    kept = (positions >= start) & (positions < stop)  # [2, documents, longest]
    column = np.where(kept, positions - offset, 0)
    row = starts[window][:, :, None] + column
    row = np.stack([np.where(kept[0], row[0], row[1]), np.where(kept[1], row[1], row[0])])
    return {"row": row, "window": window, "column": column, "kept": kept, "start": start, "stop": stop, "two": two}


def run_padded(
    encoder: Any, input_ids: Tensor, positions: Tensor, at: dict[str, Tensor], first_position: int
) -> tuple[Tensor, Tensor]:
    """One encoder pass over all windows, whose plan_indices are `at`.

    positions int64 [documents, mentions]: the mentions' first tokens; `first_position` is the position id of a window's
    first token. Returns token embeddings [tokens, hidden] and attention float32 [windows, heads, mentions, size] at the
    mentions; it is arbitrary for a mention that lies in another window of the document.
    """
    dtype = autocast_dtype(input_ids.device)
    mask = ((1 - at["filled"]) * torch.finfo(dtype).min).to(dtype).unsqueeze(1)
    rows = (positions.index_select(0, at["document"][:, 0]) - at["offset"]).clamp_min(0).minimum(at["last"])
    windows = PaddedWindows(at["token"], at["slot"], mask, rows)
    packed = input_ids.flatten().index_select(0, at["source"])[None]
    attention: list[Tensor] = []
    output = encoder(
        input_ids=packed,
        position_ids=(at["position"] + first_position)[None],
        token_type_ids=torch.zeros_like(packed),
        windows=windows,
        mention_attention=attention,
    )
    return output.last_hidden_state[0], attention[0]


def merge_padded(hidden: Tensor, attention: Tensor, positions: Tensor, at: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """The output of run_padded -> embeddings float32 [documents, longest, hidden], attention float32 [documents, heads,
    mentions, longest]. Behind a document's end embeddings are arbitrary, and attention is 0.

    Where two windows overlap, embeddings are averaged; attention is added and each row divided by (its sum + 1e-10).
    """
    parts, documents, longest = at["row"].shape
    first, *others = (hidden.float().index_select(0, row.flatten()) for row in at["row"])
    tokens = first if not others else (first + others[0]) / 2
    tokens = tokens.view(documents, longest, -1)
    if parts == 1:
        return tokens, attention[..., :longest]
    summed: Any = 0  # attention
    for part in range(2):
        columns = at["column"][part, :, None, None].expand(-1, *attention.shape[1:3], -1)
        inside = (positions >= at["start"][part]) & (positions < at["stop"][part])  # [documents, mentions]
        kept = inside[:, None, :, None] * at["kept"][part, :, None, None]
        summed = summed + attention.index_select(0, at["window"][part]).gather(3, columns) * kept
    row_sums = summed.sum(dim=-1, keepdim=True) + 1e-10
    # in the longest documents two tokens (BERT) or three (RoBERTa) lie in no window: 0
    tokens = tokens * at["kept"].amax(dim=0)[:, :, None]
    return tokens, summed / torch.where(at["two"].bool()[:, None, None, None], row_sums, 1)
