"""Documents as representation modules see them, and their pairs to be scored."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from hingeabl.modeling.long_documents import PAIRS_AT_ONCE, LongDocument, contexts_of, entity_embeddings, evidence_of


@dataclass
class Entities:
    """Documents as representation modules see them, float32: one, or a whole batch, padded with zeros, on a GPU with an
    encoder on the fast path.

    embeddings [documents, entities, hidden], context [documents, entities, entities, hidden] of every ordered pair,
    self pairs included, pairs int64 [pairs, 3], the (document, head, tail) to be scored, and `counts`, how many
    entities each document has; the size of `entities` is at least 1. `evidence`, if asked for, is the
    sentence_attention of every ordered pair [documents, entities, entities, sentences].
    """

    embeddings: Tensor
    context: Tensor
    pairs: Tensor
    counts: list[int]
    evidence: Tensor | None = None

    def pair_contexts(self) -> Tensor:
        """Context vectors of the pairs, [pairs, hidden]."""
        return self.of_pairs(self.context)

    def pair_evidence(self) -> Tensor:
        """Attention over sentences of the pairs, [pairs, sentences]."""
        assert self.evidence is not None
        return self.of_pairs(self.evidence)

    def of_pairs(self, maps: Tensor) -> Tensor:
        """The pairs' vectors [pairs, size] from a map [documents, entities, entities, size]."""
        return maps.flatten(0, 2).index_select(0, pair_indices([self], maps.shape[1]))


@dataclass
class LongEntities:
    """Entities of one document longer than two windows, whose pairs' vectors are made when they are asked for.
    `sentences` are evidence_of's last arguments, None if no evidence is wanted."""

    embeddings: Tensor
    pairs: Tensor
    counts: list[int]
    document: LongDocument
    epsilon: float
    sentences: tuple[Tensor, int] | None = None

    @property
    def context(self) -> Tensor:
        """Entities.context: memory grows with the square of the number of entities."""
        count = self.embeddings.shape[1]
        all_pairs = torch.cartesian_prod(*[torch.arange(count, device=self.pairs.device)] * 2)
        contexts = [self.contexts(pairs) for pairs in all_pairs.split(PAIRS_AT_ONCE)]
        return torch.cat(contexts).view(1, count, count, -1)

    def contexts(self, pairs: Tensor) -> Tensor:
        """Context vectors of pairs int64 [pairs, 2]: [pairs, hidden]."""
        return contexts_of(self.document, pairs, self.embeddings.shape[1], self.epsilon)

    def pair_contexts(self) -> Tensor:
        """As of Entities."""
        return self.contexts(self.pairs[:, 1:])

    def pair_evidence(self) -> Tensor:
        """As of Entities."""
        assert self.sentences is not None
        return evidence_of(self.document, self.pairs[:, 1:], self.embeddings.shape[1], *self.sentences)


Group = Entities | LongEntities


def pool_long(
    epsilon: Callable[[int], float],
    document: LongDocument,
    counts: list[int],
    hts: list[Tensor],
    sentences: tuple[Tensor, int] | None,
) -> LongEntities:
    """DocREModel.pool for one document longer than two windows, with its `epsilon`."""
    embeddings = entity_embeddings(document, max(*counts, 1))[None]
    pairs = F.pad(hts[0], (1, 0))  # of document 0
    heads = document.segments[0].attention.shape[1]
    evidence = None if sentences is None else (sentences[0][0], sentences[1])
    return LongEntities(embeddings, pairs, counts, document, epsilon(heads), evidence)


def pair_indices(groups: Sequence[Group], size: int) -> Tensor:
    """The index of every pair in flattened maps [documents of all groups, size, size]: int64 [pairs]."""
    indices, first = [], 0
    for group in groups:
        document, head, tail = group.pairs.unbind(1)
        indices.append(((document + first) * size + head) * size + tail)
        first += len(group.counts)
    return torch.cat(indices)


def pair_entities(groups: Sequence[Group]) -> tuple[Tensor, Tensor]:
    """Embeddings of the heads and of the tails of all pairs, each [pairs, hidden]."""
    heads, tails = [], []
    for group in groups:
        embeddings, entities = group.embeddings.flatten(0, 1), group.embeddings.shape[1]
        document, head, tail = group.pairs.unbind(1)
        # index_select: on the CPU, embeddings[head] would sum gradients in any order
        heads.append(embeddings.index_select(0, document * entities + head))
        tails.append(embeddings.index_select(0, document * entities + tail))
    return torch.cat(heads), torch.cat(tails)
