"""Documents longer than two windows, in memory that grows linearly with their length.

An entity attends only within the windows that hold its mentions. So its attention is kept in segments, the tokens
between two edges of windows: each segment lists the entities that attend to it. In localized context pooling, sums over
tokens become sums over the segments to which both head and tail attend.
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
PAIRS_AT_ONCE = 2**12  # scored at once if no gradient is needed

# each window's word pieces int64, and the rows whose attention is read -> each window's embeddings [length, hidden] and
# attention [heads, rows, length]
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
    """A document behind the encoder: tokens float32 [length, hidden]; position, entity int64 [mentions], each mention's
    first token and its entity; and the entities' attention."""

    tokens: Tensor
    position: Tensor
    entity: Tensor
    segments: list[Segment]


def encode_long(
    input_ids: Tensor, windows: list[Window], position: Tensor, entity: Tensor, run: RunWindows
) -> LongDocument:
    """One document [length] in its windows. Where windows overlap, embeddings are averaged. A mention's attention is
    added up over the windows that hold it and divided by (its sum + 1e-10); an entity's is the mean over its mentions.
    """
    mentions = [((position >= window.start) & (position < window.stop)).nonzero()[:, 0] for window in windows]
    embeddings, attention = [], []  # of each window
    for first in range(0, len(windows), WINDOWS_AT_ONCE):
        part = slice(first, first + WINDOWS_AT_ONCE)
        pieces = [input_ids[torch.from_numpy(window.tokens).to(input_ids.device)] for window in windows[part]]
        rows = [position[inside] - window.offset for window, inside in zip(windows[part], mentions[part], strict=True)]
        for window, hidden, weights in zip(windows[part], *run(pieces, rows), strict=True):
            kept = slice(window.start - window.offset, window.stop - window.offset)
            embeddings.append(hidden[kept].float())
            attention.append(weights[:, :, kept].float())
    with torch.autocast(input_ids.device.type, enabled=False):
        tokens = merge_tokens(windows, embeddings, len(input_ids))
        normalised = normalise_attention(attention, mentions, len(position))
        segments = list(cut_into_segments(windows, mentions, normalised, entity))
    return LongDocument(tokens, position, entity, segments)


def merge_tokens(windows: list[Window], embeddings: list[Tensor], length: int) -> Tensor:
    """The kept embeddings [kept tokens, hidden] of each window -> their mean at each of the document's tokens."""
    tokens = embeddings[0].new_zeros(length, embeddings[0].shape[1])
    times = tokens.new_zeros(length, 1)
    for window, hidden in zip(windows, embeddings, strict=True):
        tokens[window.start : window.stop] += hidden
        times[window.start : window.stop] += 1
    return tokens / times


def normalise_attention(attention: list[Tensor], mentions: list[Tensor], count: int) -> list[Tensor]:
    """The attention [heads, mentions inside, kept tokens] of each window, divided by the mention's (sum over all
    windows + 1e-10). The document has `count` mentions; `mentions` int64 are the numbers of those inside each window.
    """
    sums = attention[0].new_zeros(attention[0].shape[0], count)
    for inside, weights in zip(mentions, attention, strict=True):
        sums = sums.index_add(1, inside, weights.sum(dim=2))
    return [
        weights / (sums.index_select(1, inside)[:, :, None] + 1e-10)
        for inside, weights in zip(mentions, attention, strict=True)
    ]


def cut_into_segments(
    windows: list[Window], mentions: list[Tensor], attention: list[Tensor], entity: Tensor
) -> Iterator[Segment]:
    """Segments of windows, from the mentions int64 inside each window and their normalised attention float32 [heads,
    mentions inside, kept tokens]."""
    mention_counts = torch.bincount(entity)
    edges = sorted({edge for window in windows for edge in (window.start, window.stop)})
    for start, stop in pairwise(edges):
        around = [number for number, window in enumerate(windows) if window.start <= start and stop <= window.stop]
        entities = torch.cat([entity[mentions[number]] for number in around]).unique()
        entity_attention = attention[0].new_zeros(len(entities), len(attention[0]), stop - start)
        for number in around:
            member = (entity[mentions[number]] == entities[:, None]) / mention_counts[entities][:, None]
            columns = slice(start - windows[number].start, stop - windows[number].start)
            entity_attention = entity_attention + contract("em,hml->ehl", member, attention[number][:, :, columns])
        yield Segment(start, stop, entities, entity_attention)


def shared_attention(document: LongDocument, pairs: Tensor, entities: int) -> Iterator[tuple[Segment, Tensor, Tensor]]:
    """For each segment to which head and tail of one of the pairs int64 [pairs, 2] attend: the segment, these pairs'
    indices int64 [n], and the mean over heads of the product of both attentions float32 [n, stop - start]."""
    row_of_entity = torch.empty(entities, dtype=torch.long, device=pairs.device)
    for segment in document.segments:
        row_of_entity.fill_(-1)
        row_of_entity[segment.entities] = torch.arange(len(segment.entities), device=pairs.device)
        head, tail = row_of_entity[pairs].unbind(1)
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
    contexts = document.tokens.new_zeros(len(pairs), document.tokens.shape[1])
    sums = contexts.new_zeros(len(pairs))
    with torch.autocast(contexts.device.type, enabled=False):  # products of attention vanish in half precision
        for segment, chosen, product in shared_attention(document, pairs, entities):
            contexts = contexts.index_add(0, chosen, product @ document.tokens[segment.start : segment.stop])
            sums = sums.index_add(0, chosen, product.sum(dim=1))
    return contexts / (sums[:, None] + epsilon)


def evidence_of(document: LongDocument, pairs: Tensor, entities: int, sentence: Tensor, sentences: int) -> Tensor:
    """evidence.sentence_attention of pairs int64 [pairs, 2]: float32 [pairs, sentences]. `sentence` int64 [length] is
    the sentence of each token, -1 for none."""
    evidence = document.tokens.new_zeros(len(pairs), sentences + 1)  # the last column is for tokens of no sentence
    sums = evidence.new_zeros(len(pairs))
    with torch.autocast(evidence.device.type, enabled=False):
        for segment, chosen, product in shared_attention(document, pairs, entities):
            in_segment = sentence[segment.start : segment.stop].remainder(sentences + 1)
            columns, column_of_token = in_segment.unique(return_inverse=True)
            attention = product @ F.one_hot(column_of_token).float()  # [n, sentences of the segment]
            cell = chosen[:, None] * (sentences + 1) + columns
            evidence = evidence.flatten().index_add(0, cell.flatten(), attention.flatten()).view_as(evidence)
            sums = sums.index_add(0, chosen, product.sum(dim=1))
    return evidence[:, :-1] / (sums[:, None] + EPSILON)


def entity_embeddings(document: LongDocument, entities: int) -> Tensor:
    """The logsumexp of each entity's mentions, zeros for an entity without mentions: float32 [entities, hidden]."""
    mentions = document.tokens.index_select(0, document.position)
    index = document.entity[:, None].expand_as(mentions)
    empty = mentions.new_zeros(entities, mentions.shape[1])
    highest = empty.scatter_reduce(0, index, mentions.detach(), "amax", include_self=False)
    exponentials = empty.index_add(0, document.entity, torch.exp(mentions - highest.index_select(0, document.entity)))
    has_mention = torch.bincount(document.entity, minlength=entities)[:, None] > 0
    return (highest + torch.log(exponentials + ~has_mention)) * has_mention
