"""The BERT- or RoBERTa-type encoder: documents longer than its window, and only the attention that is read.

Localized context pooling reads the last layer's attention, and there only the rows of the mentions' opening
markers. So every layer runs torch's scaled_dot_product_attention, and the last one also returns those rows.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence
from transformers import (
    AttentionInterface,
    AttentionMaskInterface,
    AutoConfig,
    AutoModel,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.masking_utils import sdpa_mask
from transformers.utils import logging

from utils import UserError, first_line

logging.disable_progress_bar()  # loading an encoder's weights takes a moment, and its bar would break ours

WINDOW = 512  # tokens an encoder pass covers; two windows cover a document
LENGTH_RATIO = 1.25  # windows encoded together differ at most this much in length, to spare work on padding
ATTENTION = "sdpa_reading_mentions"  # the name under which transformers finds read_attention


def load_encoder(name_or_path: str, pretrained: bool = True) -> PreTrainedModel:
    """An encoder from a hub name or a folder, in float32, with or without its weights; no code from a hub is run.

    An encoder without `encoder.layer[-1].attention.self` (BERT's layout) computes every layer's attention in full,
    and that is said on stderr. Raises UserError where it can't be found or loaded, lacks weights, or has no attention
    over all tokens to read.
    """
    try:
        if pretrained:
            encoder, loaded = AutoModel.from_pretrained(name_or_path, dtype=torch.float32, output_loading_info=True)
            missing = [name for name in loaded["missing_keys"] if not name.startswith("pooler.")]
            if missing:
                raise ValueError(f"its weights lack {missing[0]} and {len(missing) - 1} more")
        else:
            encoder = AutoModel.from_config(AutoConfig.from_pretrained(name_or_path), dtype=torch.float32)
    except Exception as error:  # transformers, safetensors and the hub's client each have their own
        raise UserError(
            f"encoder {name_or_path!r}: cannot be loaded ({first_line(error)}); pass a folder with config.json, "
            "model.safetensors and the tokenizer, or a hub name while the hub can be reached"
        ) from None
    last = last_self_attention(encoder)
    if last is None:
        print(
            f"note: encoder type {encoder.config.model_type!r} is new to the fast path; "
            "every layer's attention is computed in full, which is slower",
            file=sys.stderr,
        )
        encoder.set_attn_implementation("eager")
        check_full_attention(encoder, name_or_path)
    else:
        encoder.set_attn_implementation(ATTENTION)
        last.reads_mentions = True
    return encoder


def check_full_attention(encoder: PreTrainedModel, name: str) -> None:
    """Raise UserError for an encoder that does not return attention [windows, heads, length, length]."""
    ids = torch.zeros(1, 8, dtype=torch.long)
    try:
        with torch.no_grad():
            [*_, attention] = encoder(input_ids=ids, attention_mask=ids + 1, output_attentions=True).attentions
        fits = attention.shape[0] == 1 and attention.shape[2:] == (8, 8)
    except Exception:
        fits = False
    if not fits:
        raise UserError(
            f"encoder {name!r}: type {encoder.config.model_type} returns no full attention; use a BERT-type one"
        )


def load_tokenizer(name_or_path: str) -> PreTrainedTokenizerBase:
    """An encoder's tokenizer. Raises UserError where it can't be found or loaded."""
    try:
        return AutoTokenizer.from_pretrained(name_or_path)
    except Exception as error:
        raise UserError(
            f"tokenizer of {name_or_path!r}: cannot be loaded ({first_line(error)}); pass an encoder's folder, or a "
            "hub name while the hub can be reached"
        ) from None


def last_self_attention(encoder: PreTrainedModel) -> nn.Module | None:
    """The last layer's self-attention module in BERT's layout, None for another layout."""
    try:
        last = encoder.encoder.layer[-1].attention.self
    except (AttributeError, TypeError, IndexError):
        return None
    return last if getattr(encoder, "_supports_attention_backend", False) else None


def read_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    mention_rows: Tensor | None = None,
    **_: object,
) -> tuple[Tensor, None]:
    """transformers' attention function: query, key, value [windows, heads, length, head size], mask bool or None.

    In the module that reads mentions, the attention [windows, heads, rows, length] of the query rows `mention_rows`
    [windows, rows] is left in `module.mention_attention`, as the encoder used it: after dropout while training.
    """
    if not getattr(module, "reads_mentions", False):
        output = F.scaled_dot_product_attention(query, key, value, attention_mask, dropout, scale=scaling)
    elif dropout:  # the rows must show the same dropout as the output, so this one layer is computed in full
        attention = F.dropout(attention_weights(query, key, attention_mask, scaling), dropout)
        output = attention.to(value.dtype) @ value
        module.mention_attention = gather_rows(attention, mention_rows)
    else:
        output = F.scaled_dot_product_attention(query, key, value, attention_mask, scale=scaling)
        module.mention_attention = attention_weights(gather_rows(query, mention_rows), key, attention_mask, scaling)
    return output.transpose(1, 2).contiguous(), None


def attention_weights(query: Tensor, key: Tensor, attention_mask: Tensor | None, scaling: float) -> Tensor:
    """softmax(q k^T * scaling) over the keys that the mask allows, in float32: [windows, heads, rows, length]."""
    scores = (query @ key.transpose(2, 3)).float() * scaling
    if attention_mask is not None:  # the same keys for every query: padding is all that is masked
        scores = scores.masked_fill(~attention_mask[:, :, :1], float("-inf"))
    return scores.softmax(dim=-1)


def gather_rows(values: Tensor, rows: Tensor) -> Tensor:
    """values [windows, heads, length, n] at rows [windows, r] -> [windows, heads, r, n]."""
    index = rows[:, None, :, None].expand(-1, values.shape[1], -1, values.shape[3])
    return values.gather(2, index)


AttentionInterface.register(ATTENTION, read_attention)
AttentionMaskInterface.register(ATTENTION, sdpa_mask)


@dataclass(frozen=True)
class Window:
    """One encoder pass over tokens of a document: which of its positions are kept, and where they belong.

    Positions [start, stop) of the document are positions [start - offset, stop - offset) of the window.
    """

    document: int
    start: int
    stop: int
    offset: int


def window_tokens(tokens: Tensor, document: int, window: int, end_tokens: int) -> list[tuple[Tensor, Window]]:
    """Split one document's tokens [length] into one window or two, each at most `window` long.

    Two windows: tokens [0, window - E) with the E end tokens behind them, and the start token with tokens
    [length - window + 1, length) behind it. Inserted special tokens are not kept. E is 1 for BERT, 2 for RoBERTa.
    """
    length = len(tokens)
    if length <= window:
        return [(tokens, Window(document, 0, length, 0))]
    first_stop, second_start = window - end_tokens, length - window + 1
    end = tokens[-1:].expand(end_tokens)
    return [
        (torch.cat([tokens[:first_stop], end]), Window(document, 0, first_stop, 0)),
        (torch.cat([tokens[:1], tokens[second_start:]]), Window(document, second_start, length, second_start - 1)),
    ]


def max_window(encoder: PreTrainedModel) -> tuple[int, int]:
    """(tokens that one pass may hold, number of end tokens E) of an encoder."""
    config = encoder.config
    roberta = "roberta" in config.model_type or config.model_type == "camembert"
    positions = getattr(config, "max_position_embeddings", WINDOW)
    if roberta:  # its positions start after the padding index
        positions -= config.pad_token_id + 1
    return min(WINDOW, positions), 2 if roberta else 1


def check_length(encoder: PreTrainedModel, length: int) -> None:
    """Raise UserError if a document of so many tokens does not fit into two windows of the encoder."""
    window, _ = max_window(encoder)
    if length > 2 * window:
        raise UserError(
            f"--max_seq_length: a document has {length} tokens, two windows of this encoder hold {2 * window}; pass "
            f"--max_seq_length {2 * window} or less"
        )


def encode(
    encoder: PreTrainedModel, input_ids: Tensor, lengths: list[int], mention_pos: list[Tensor]
) -> list[tuple[Tensor, Tensor]]:
    """Run the encoder over a batch of documents of up to two windows each.

    input_ids int64 [documents, longest], lengths and mention_pos as collate_fn gives them. Returns for each document
    its token embeddings float32 [length, hidden] and its mentions' attention float32 [heads, mentions, length].
    Where two windows overlap, embeddings are averaged; attention is added and each row divided by (its sum + 1e-10).
    Raises UserError for a document longer than two windows.
    """
    check_length(encoder, max(lengths))
    window, end_tokens = max_window(encoder)
    passes = [
        part
        for document, length in enumerate(lengths)
        for part in window_tokens(input_ids[document, :length], document, window, end_tokens)
    ]
    encoded: list[Any] = [None] * len(passes)
    for group in groups_by_length([len(tokens) for tokens, _ in passes]):
        rows = [mention_pos[place.document] - place.offset for _, place in (passes[number] for number in group)]
        outputs = run_encoder(encoder, [passes[number][0] for number in group], rows)
        for number, hidden, attention in zip(group, *outputs, strict=True):
            encoded[number] = (passes[number][1], hidden, attention)
    return [
        merge_windows([part for part in encoded if part[0].document == document], length, mention_pos[document])
        for document, length in enumerate(lengths)
    ]


def groups_by_length(lengths: list[int]) -> list[list[int]]:
    """Indices of windows, grouped so that the longest of a group is at most LENGTH_RATIO times its shortest."""
    groups: list[list[int]] = []
    for index in sorted(range(len(lengths)), key=lengths.__getitem__):
        if groups and lengths[index] <= LENGTH_RATIO * lengths[groups[-1][0]]:
            groups[-1].append(index)
        else:
            groups.append([index])
    return groups


def run_encoder(encoder: PreTrainedModel, windows: list[Tensor], rows: list[Tensor]) -> tuple[Tensor, Tensor]:
    """One pass over windows [length] of word pieces, padded to the longest: embeddings [windows, longest, hidden] and
    the last layer's attention [windows, heads, most mentions, longest] at each window's rows [mentions] (any row where
    one lies outside), both float32."""
    ids = pad_sequence(windows, batch_first=True)
    sizes = torch.tensor([len(tokens) for tokens in windows])
    mask = (torch.arange(ids.shape[1]) < sizes[:, None]).to(ids.device, non_blocking=True)
    padded_rows = pad_sequence(rows, batch_first=True).clamp(0, ids.shape[1] - 1)
    last = last_self_attention(encoder)
    if last is None:
        output = encoder(input_ids=ids, attention_mask=mask.long(), output_attentions=True)
        attention = gather_rows(output.attentions[-1], padded_rows)
    else:  # a ready mask [windows, 1, longest, longest]: transformers would look at a flat one, and make a GPU wait
        keys = mask[:, None, None].expand(-1, 1, ids.shape[1], -1) if len(set(map(len, windows))) > 1 else None
        output = encoder(input_ids=ids, attention_mask=keys, mention_rows=padded_rows)
        attention, last.mention_attention = last.mention_attention, None
    return output.last_hidden_state.float(), attention.float()


def merge_windows(
    parts: list[tuple[Window, Tensor, Tensor]], length: int, mention_pos: Tensor
) -> tuple[Tensor, Tensor]:
    """A document's windows, each with embeddings [window, hidden] and attention [heads, padded mentions, window],
    put at their true positions -> embeddings [length, hidden], attention [heads, mentions, length]."""
    mentions = len(mention_pos)
    if len(parts) == 1:
        _, hidden, attention = parts[0]
        return hidden[:length], attention[:, :mentions, :length]
    embeddings, row_sums, times = 0, 0, 0
    for place, hidden, attention in parts:
        kept = slice(place.start - place.offset, place.stop - place.offset)
        around = (place.start, length - place.stop)  # columns before and after
        inside = (mention_pos >= place.start) & (mention_pos < place.stop)
        embeddings = embeddings + F.pad(hidden[kept], (0, 0, *around))
        row_sums = row_sums + F.pad(attention[:, :mentions, kept] * inside[:, None], around)
        times = times + F.pad(hidden.new_ones(place.stop - place.start), around)
    return embeddings / times.clamp_min(1)[:, None], row_sums / (row_sums.sum(dim=-1, keepdim=True) + 1e-10)
