"""Documents as representation modules see them, and the pairs to be scored out of them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass
class Entities:
    """Documents as representation modules see them, float32: one, or a whole batch, padded with zeros, on a GPU with an
    encoder on the fast path.

    embeddings [documents, entities, hidden], context [documents, entities, entities, hidden] of every ordered pair,
    self pairs included, pairs int64 [pairs, 3], the (document, head, tail) to be scored, and `counts`, how many
    entities each document has; there is room for one at least. `evidence`, where it is asked for, is sentence_attention
    of every ordered pair [documents, entities, entities, sentences].
    """

    embeddings: Tensor
    context: Tensor
    pairs: Tensor
    counts: list[int]
    evidence: Tensor | None = None


def cells(groups: list[Entities], size: int) -> Tensor:
    """The place of every pair in maps [documents of all groups, size, size], seen as one row: int64 [pairs]."""
    found, first = [], 0
    for group in groups:
        document, head, tail = group.pairs.unbind(1)
        found.append(((document + first) * size + head) * size + tail)
        first += len(group.counts)
    return torch.cat(found)


def pair_entities(groups: list[Entities]) -> tuple[Tensor, Tensor]:
    """Embeddings of the heads and of the tails of all pairs, each [pairs, hidden]."""
    heads, tails = [], []
    for group in groups:
        embeddings, entities = group.embeddings.flatten(0, 1), group.embeddings.shape[1]
        document, head, tail = group.pairs.unbind(1)
        # index_select: on the CPU, embeddings[head] would sum gradients in any order
        heads.append(embeddings.index_select(0, document * entities + head))
        tails.append(embeddings.index_select(0, document * entities + tail))
    return torch.cat(heads), torch.cat(tails)


def pair_contexts(groups: list[Entities]) -> Tensor:
    """Context vectors of all pairs, [pairs, hidden]."""
    return of_pairs(groups, [group.context for group in groups])


def pair_evidence(groups: list[Entities]) -> Tensor:
    """Attention over sentences of all pairs, [pairs, sentences]."""
    return of_pairs(groups, [group.evidence for group in groups if group.evidence is not None])


def of_pairs(groups: list[Entities], maps: list[Tensor]) -> Tensor:
    """The pairs' vectors [pairs, size] out of each group's map [documents, entities, entities, size]."""
    found = []
    for group, vectors in zip(groups, maps, strict=True):
        found.append(vectors.flatten(0, 2).index_select(0, cells([group], vectors.shape[1])))
    return torch.cat(found)
