"""Documents longer than two windows, in memory that grows linearly with their length.

An entity attends only within the windows that hold its mentions. So its attention is kept in segments, the stretches
between two edges of windows: each lists the entities that attend to it. The sums over tokens of localized context
pooling are then sums over the segments to which head and tail both attend.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise

import torch
import torch.nn.functional as F
from opt_einsum import contract
from torch import Tensor

from hingeabl.modeling.evidence import EPSILON
from hingeabl.modeling.padded import Window

WINDOWS_AT_ONCE = 16  # in one pass of the encoder
PAIRS_AT_ONCE = 2**12  # scored at once where no gradient is wanted

# pieces int64 of each window, and the rows whose attention is read -> embeddings [length, hidden], attention [heads,
# rows, length] of each
RunWindows = Callable[[list[Tensor], list[Tensor]], tuple[list[Tensor], list[Tensor]]]


@dataclass(frozen=True)
class Segment:
    """Tokens [start, stop) of a document: the entities int64 [n] that attend to them, ascending, and their attention
    float32 [n, heads, stop - start]."""

    start: int
    stop: int
    entities: Tensor
    attention: Tensor


@dataclass(frozen=True)
class LongDocument:
    """A document behind the encoder: tokens float32 [length, hidden]; position, entity int64 [mentions], where each
    mention opens and which entity it belongs to; and the entities' attention."""

    tokens: Tensor
    position: Tensor
    entity: Tensor
    segments: list[Segment]


def encode_long(
    input_ids: Tensor, windows: list[Window], position: Tensor, entity: Tensor, run: RunWindows
) -> LongDocument:
    """One document [length] in its windows: embeddings averaged where windows overlap; attention of a mention added up
    over the windows that hold it and divided by (its sum + 1e-10), of an entity the mean over its mentions."""
    inside = [((position >= own.start) & (position < own.stop)).nonzero()[:, 0] for own in windows]
    hidden, read = [], []
    for first in range(0, len(windows), WINDOWS_AT_ONCE):
        part = slice(first, first + WINDOWS_AT_ONCE)
        pieces = [input_ids[torch.from_numpy(own.tokens).to(input_ids.device)] for own in windows[part]]
        rows = [position[chosen] - own.offset for own, chosen in zip(windows[part], inside[part], strict=True)]
        for own, found, attention in zip(windows[part], *run(pieces, rows), strict=True):
            kept = slice(own.start - own.offset, own.stop - own.offset)
            hidden.append(found[kept].float())
            read.append(attention[:, :, kept].float())
    with torch.autocast(input_ids.device.type, enabled=False):
        tokens = merge_tokens(windows, hidden, len(input_ids))
        segments = list(cut_into_segments(windows, inside, shares_of(read, inside, len(position)), entity))
    return LongDocument(tokens, position, entity, segments)


def merge_tokens(windows: list[Window], hidden: list[Tensor], length: int) -> Tensor:
    """The kept embeddings [kept tokens, hidden] of each window -> their mean at each of the document's tokens."""
    tokens = hidden[0].new_zeros(length, hidden[0].shape[1])
    times = tokens.new_zeros(length, 1)
    for own, found in zip(windows, hidden, strict=True):
        tokens[own.start : own.stop] += found
        times[own.start : own.stop] += 1
    return tokens / times


def shares_of(read: list[Tensor], inside: list[Tensor], mentions: int) -> list[Tensor]:
    """The attention [heads, mentions inside, kept tokens] of each window, divided by the mention's (sum over
    all windows + 1e-10)."""
    sums = read[0].new_zeros(read[0].shape[0], mentions)
    for chosen, attention in zip(inside, read, strict=True):
        sums = sums.index_add(1, chosen, attention.sum(dim=2))
    return [
        attention / (sums.index_select(1, chosen)[:, :, None] + 1e-10)
        for chosen, attention in zip(inside, read, strict=True)
    ]


def cut_into_segments(
    windows: list[Window], inside: list[Tensor], shares: list[Tensor], entity: Tensor
) -> Iterator[Segment]:
    """Segments of windows, from the mentions int64 inside each and these mentions' shares of attention float32 [heads,
    mentions inside, kept tokens]."""
    mentions_of = torch.bincount(entity)
    edges = sorted({edge for own in windows for edge in (own.start, own.stop)})
    for start, stop in pairwise(edges):
        over = [number for number, own in enumerate(windows) if own.start <= start and stop <= own.stop]
        entities = torch.cat([entity[inside[number]] for number in over]).unique()
        attention = shares[0].new_zeros(len(entities), len(shares[0]), stop - start)
        for number in over:
            member = (entity[inside[number]] == entities[:, None]) / mentions_of[entities][:, None]
            columns = slice(start - windows[number].start, stop - windows[number].start)
            attention = attention + contract("em,hml->ehl", member, shares[number][:, :, columns])
        yield Segment(start, stop, entities, attention)


def shared_attention(document: LongDocument, pairs: Tensor, entities: int) -> Iterator[tuple[Segment, Tensor, Tensor]]:
    """For each segment to which head and tail of one of the pairs int64 [pairs, 2] attend: it, these pairs' places
    int64 [n], and the mean over heads of the product of both attentions float32 [n, stop - start]."""
    place = torch.empty(entities, dtype=torch.long, device=pairs.device)
    for segment in document.segments:
        place.fill_(-1)
        place[segment.entities] = torch.arange(len(segment.entities), device=pairs.device)
        head, tail = place[pairs].unbind(1)
        chosen = ((head >= 0) & (tail >= 0)).nonzero()[:, 0]
        if not len(chosen):
            continue
        heads, row = head[chosen].unique(return_inverse=True)
        attention = segment.attention
        product = contract("shl,ohl->sol", attention.index_select(0, heads), attention) / attention.shape[1]
        cell = row * len(segment.entities) + tail[chosen]
        yield segment, chosen, product.flatten(0, 1).index_select(0, cell)


def contexts_of(document: LongDocument, pairs: Tensor, entities: int, epsilon: float) -> Tensor:
    """model.localized_context_pooling of pairs int64 [pairs, 2]: float32 [pairs, hidden]."""
    found = document.tokens.new_zeros(len(pairs), document.tokens.shape[1])
    sums = found.new_zeros(len(pairs))
    with torch.autocast(found.device.type, enabled=False):  # products of attention vanish in half precision
        for segment, chosen, product in shared_attention(document, pairs, entities):
            found = found.index_add(0, chosen, product @ document.tokens[segment.start : segment.stop])
            sums = sums.index_add(0, chosen, product.sum(dim=1))
    return found / (sums[:, None] + epsilon)


def evidence_of(document: LongDocument, pairs: Tensor, entities: int, sentence: Tensor, sentences: int) -> Tensor:
    """evidence.sentence_attention of pairs int64 [pairs, 2]: float32 [pairs, sentences]. `sentence` int64 [length] is
    that of each token, -1 for none."""
    found = document.tokens.new_zeros(len(pairs), sentences + 1)  # the last column is of no sentence
    sums = found.new_zeros(len(pairs))
    with torch.autocast(found.device.type, enabled=False):
        for segment, chosen, product in shared_attention(document, pairs, entities):
            own, column = sentence[segment.start : segment.stop].remainder(sentences + 1).unique(return_inverse=True)
            of_sentences = product @ F.one_hot(column).float()  # [n, sentences of the segment]
            cell = chosen[:, None] * (sentences + 1) + own
            found = found.flatten().index_add(0, cell.flatten(), of_sentences.flatten()).view_as(found)
            sums = sums.index_add(0, chosen, product.sum(dim=1))
    return found[:, :-1] / (sums[:, None] + EPSILON)


def entity_embeddings(document: LongDocument, entities: int) -> Tensor:
    """The logsumexp of each entity's mentions, zeros for one without: float32 [entities, hidden]."""
    mentions = document.tokens.index_select(0, document.position)
    of_each = document.entity[:, None].expand_as(mentions)
    empty = mentions.new_zeros(entities, mentions.shape[1])
    highest = empty.scatter_reduce(0, of_each, mentions.detach(), "amax", include_self=False)
    sums = empty.index_add(0, document.entity, torch.exp(mentions - highest.index_select(0, document.entity)))
    known = torch.bincount(document.entity, minlength=entities)[:, None] > 0
    return (highest + torch.log(sums + ~known)) * known
