"""The pairs of entities in a document that are scored."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from hingeabl.data.schema import Document


class AllPairs(Sequence[list[int]]):
    """Every ordered pair [h, t] of this many entities, h != t, row by row; as a numpy array int64 [pairs, 2]. Pairs are
    computed, not stored: 2,000 entities have four million."""

    def __init__(self, entities: int) -> None:
        self.entities = entities

    def __len__(self) -> int:
        return self.entities * (self.entities - 1)

    def __iter__(self) -> Iterator[list[int]]:
        return map(list, itertools.permutations(range(self.entities), 2))

    def __getitem__(self, index: Any) -> Any:
        positions = range(len(self))[index]  # raises IndexError; no array of all pairs
        return self.at(np.array(positions, dtype=np.int64)).tolist()

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return self.at(np.arange(len(self)))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and list(self) == list(other)

    __hash__ = None  # type: ignore[assignment]

    def at(self, positions: np.ndarray) -> np.ndarray:
        """The pairs at these positions, int64 [len(positions), 2]."""
        head, tail = np.divmod(positions, max(self.entities - 1, 1))
        return np.stack([head, tail + (tail >= head)], axis=-1)


def near_pairs(document: Document, distance: int) -> list[list[int]]:
    """The pairs that the document lists, or all ordered pairs, whose entities have mentions at most `distance`
    sentences apart."""
    entities, sentences = document["vertexSet"], len(document["sents"])
    mentioned = np.zeros((len(entities), sentences), dtype=np.float32)
    nearby = np.zeros_like(mentioned)
    for number, mentions in enumerate(entities):
        for mention in mentions:
            sentence = mention["sent_id"]
            mentioned[number, sentence] = 1
            nearby[number, max(sentence - distance, 0) : sentence + distance + 1] = 1
    return masked_pairs(nearby @ mentioned.T > 0, document.get("pairs"))


def pairs_sharing_a_window(feature: dict[str, Any], windows: Sequence[tuple[int, int]]) -> list[list[int]]:
    """The feature's pairs that attend to a common token, in an encoder's windows [start, stop) of the document: the
    entities have mentions in one window, or in two that overlap."""
    edges = np.array(windows)
    in_window = np.zeros((len(feature["entity_pos"]), len(edges)), dtype=np.float32)
    for number, mentions in enumerate(feature["entity_pos"]):
        for start, _ in mentions:
            in_window[number] += (edges[:, 0] <= start + 1) & (start + 1 < edges[:, 1])
    overlap = (edges[:, :1] < edges[:, 1]) & (edges[:, 0] < edges[:, 1:])
    listed = None if isinstance(feature["hts"], AllPairs) else feature["hts"]
    return masked_pairs(in_window @ overlap.astype(np.float32) @ in_window.T > 0, listed)


def masked_pairs(mask: np.ndarray, listed: list[list[int]] | None) -> list[list[int]]:
    """The listed pairs, or all h != t, for which `mask`, bool [entities, entities], holds."""
    if listed is not None:
        return [[head, tail] for head, tail in listed if mask[head, tail]]
    np.fill_diagonal(mask, False)
    return np.argwhere(mask).tolist()
