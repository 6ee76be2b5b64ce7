"""The BERT- or RoBERTa-type encoder, and documents longer than its window.

The windows of a batch lie one after the other in a single row of tokens, each attending to itself alone (see
attention.py), so that linear layers do no work on padding.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from hingeabl.core.utils import recurring_size
from hingeabl.data.quiet import quiet_loading
from hingeabl.errors import UserError, print_warning
from hingeabl.files import refuse_non_data_files
from hingeabl.machine import hub_hint, why_not_loaded
from hingeabl.modeling.attention import ATTENTION, MOST_DROPOUT, PackedWindow, register_attention, replace_dropout
from hingeabl.modeling.long_documents import LongDocument, encode_long
from hingeabl.modeling.padded import Window, all_at_once, arrays_to_device, merge_padded, plan_indices, run_padded
from hingeabl.modeling.precision import as_in_autocast

if TYPE_CHECKING:
    from transformers import PreTrainedModel

WINDOW = 512  # tokens an encoder pass covers


def load_encoder(name_or_path: str, pretrained: bool = True) -> PreTrainedModel:
    """An encoder from a hub name or a folder, in float32, with or without its weights; no code from a hub is run.

    An encoder that `takes_windows` refuses computes every layer's attention in full, with a note on stderr. Raises
    UserError if it can't be found or loaded, lacks weights, or does not return its attention over all tokens.
    """
    try:
        with quiet_loading():
            encoder = read_encoder(name_or_path, pretrained)
    except Exception as error:  # transformers, safetensors and the hub's client each have their own
        refuse_non_data_files(name_or_path)
        raise UserError(
            f"encoder {name_or_path!r}: cannot be loaded ({why_not_loaded(name_or_path, error)}); pass a folder with "
            "config.json, model.safetensors and the tokenizer, or a hub name while the hub can be reached"
            f"{hub_hint(name_or_path)}"
        ) from None
    if getattr(encoder, "pooler", None) is not None:
        encoder.pooler = None  # nothing reads it
    register_attention()
    if takes_windows(encoder):
        last_self_attention(encoder).reads_mentions = True
        for layer in encoder.encoder.layer:
            layer.attention.self.register_forward_pre_hook(cast_input)
        check_dropout(encoder, name_or_path)
        replace_dropout(encoder)
    else:
        print_warning(
            f"encoder type {encoder.config.model_type!r} is new to the fast path; "
            "every layer's attention is computed in full, which is slower"
        )
        encoder.set_attn_implementation("eager")
        check_full_attention(encoder, name_or_path)
    return encoder


def read_encoder(name_or_path: str, pretrained: bool) -> Any:
    """transformers' encoder, in float32. Raises ValueError if weights are missing, and what transformers raises."""
    from transformers import AutoConfig, AutoModel  # here, as it takes seconds

    if not pretrained:
        config = AutoConfig.from_pretrained(name_or_path, trust_remote_code=False)
        return AutoModel.from_config(config, dtype=torch.float32, trust_remote_code=False)
    encoder, loaded = AutoModel.from_pretrained(
        name_or_path,
        dtype=torch.float32,
        output_loading_info=True,
        weights_only=True,  # read only tensors from a pytorch_model.bin, if there are no safetensors
        trust_remote_code=False,
    )
    missing = [name for name in loaded["missing_keys"] if not name.startswith("pooler.")]
    if missing:
        raise ValueError(f"its weights lack {missing[0]} and {len(missing) - 1} more")
    return encoder


def cast_input(_: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    """Self-attention's input in autocast's dtype, once: query, key and value would each cast it."""
    return tuple(as_in_autocast(states) for states in inputs[:1]) + inputs[1:]


def takes_windows(encoder: PreTrainedModel) -> bool:
    """Switch an encoder to `attend_in_windows`; False unless it has BERT's layout and a window's embeddings are the
    same alone, with the encoder's own position ids, as behind another window."""
    if last_self_attention(encoder) is None:
        return False
    encoder.set_attn_implementation(ATTENTION)
    training = encoder.training
    encoder.eval()
    first, second, none = torch.arange(5, 8), torch.arange(8, 13), torch.arange(0)
    try:
        with torch.no_grad():
            alone = encoder(input_ids=second[None], windows=[PackedWindow(5, 5, None, none)]).last_hidden_state[0]
            behind = run_packed(encoder, [first, second], [none, none])[0][1]
        return torch.allclose(alone, behind, atol=1e-4)
    except Exception:  # whatever an encoder of an unknown type raises
        return False
    finally:
        encoder.train(training)


def check_dropout(encoder: PreTrainedModel, name: str) -> None:
    """Raise UserError for a dropout that keep_mask cannot draw."""
    for setting in ("hidden_dropout_prob", "attention_probs_dropout_prob"):
        dropout = getattr(encoder.config, setting, 0.0)
        if not 0 <= dropout <= MOST_DROPOUT:
            raise UserError(
                f"encoder {name!r}: {setting} in its config.json is {dropout:g}; use one from 0 to {MOST_DROPOUT:.3f}"
            )


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


def checkpoint_layers(encoder: Any) -> None:
    """Gradient checkpointing: keep a layer's input only, and compute the layer again in the backward pass.

    Raises UserError for an encoder whose layers are not found at `encoder.layer`.
    """
    if last_self_attention(encoder) is None:
        raise UserError(
            f"--gradient_checkpointing: layers of encoder type {encoder.config.model_type!r} are unknown here"
        )
    for layer in encoder.encoder.layer:
        layer.forward = partial(checkpoint, layer.forward, use_reentrant=False)


def last_self_attention(encoder: Any) -> Any:
    """The last layer's self-attention module in BERT's layout, None for another layout."""
    try:
        last = encoder.encoder.layer[-1].attention.self
    except (AttributeError, TypeError, IndexError):
        return None
    return last if getattr(encoder, "_supports_attention_backend", False) else None


@dataclass(frozen=True)
class EncodedBatch:
    """Documents behind the encoder: one, or a whole batch, padded, on a GPU with an encoder on the fast path.

    tokens float32 [documents, length, hidden]; attention float32 [documents, heads, mentions, length], the last
    layer's at the mentions; position, entity int64 [documents, mentions], each mention's first token and its entity,
    -1 for padding. Behind a document's end attention is 0 and tokens are arbitrary.
    """

    tokens: Tensor
    attention: Tensor
    position: Tensor
    entity: Tensor


def cut(document: int, length: int, window: int, end_tokens: int) -> list[Window]:
    """Cut a document of `length` tokens into as few windows as it takes, each at most `window` long.

    The first holds tokens [0, window - E) and E end tokens, the last the start token and tokens [length - window + 1,
    length); each between them the start token, window - 1 - E tokens and E end tokens. More than two windows lie at
    equal distances and overlap by at least a quarter of a window. Inserted special tokens are not kept. E is 1 for
    BERT, 2 for RoBERTa.
    """
    if length <= window:
        return [Window(document, 0, length, 0, np.arange(length))]
    inner = window - 1 - end_tokens  # tokens between the special ones
    most_apart = max(inner - -(-window // 4), 1)
    steps = 1 if length <= 2 * window else -(-(length - window) // most_apart)
    windows = []
    for number in range(steps + 1):
        start = 1 + (length - window) * number // steps
        stop = start + inner if number < steps else length
        ends = np.full(end_tokens * (number < steps), length - 1)
        tokens = np.concatenate([[0], np.arange(start, stop), ends])
        first = start if number else 0
        windows.append(Window(document, first, stop, start - 1, tokens))
    return windows


def layers_of(encoder: Any) -> list[nn.Module]:
    """The encoder's layers in order; the whole encoder if its layout is unknown."""
    return [encoder] if last_self_attention(encoder) is None else list(encoder.encoder.layer)


def is_roberta(encoder: PreTrainedModel) -> bool:
    """RoBERTa's family: positions count from after the padding index, and two end tokens separate texts."""
    return hasattr(getattr(encoder, "embeddings", None), "create_position_ids_from_input_ids")


def max_window(encoder: PreTrainedModel) -> tuple[int, int]:
    """(tokens that one pass may hold, number of end tokens E) of an encoder: as many as it has positions, WINDOW if it
    has no limit. Positions of RoBERTa's and MPNet's types count from after the padding index."""
    positions = getattr(encoder.config, "max_position_embeddings", None) or 0
    table = getattr(getattr(encoder, "embeddings", None), "position_embeddings", None)
    if getattr(table, "padding_idx", None) is not None:
        positions -= table.padding_idx + 1  # type: ignore[union-attr, operator]
    return positions if positions > 0 else WINDOW, 2 if is_roberta(encoder) else 1


def encode(
    encoder: PreTrainedModel,
    input_ids: Tensor,
    lengths: list[int],
    mention_pos: list[Tensor],
    mention_entity: list[Tensor],
) -> list[EncodedBatch | LongDocument]:
    """Run the encoder over a batch of documents.

    input_ids int64 [documents, longest] and the lists are as collate_fn gives them. Returns all documents, in order:
    one that is longer than two windows as a LongDocument, the others one or several in an EncodedBatch. Where windows
    overlap, embeddings are averaged; attention is added and each row divided by (its sum + 1e-10).
    """
    window, end_tokens = max_window(encoder)
    outputs: list[EncodedBatch | LongDocument] = []
    for is_long, group in itertools.groupby(range(len(lengths)), lambda number: lengths[number] > 2 * window):
        numbers = list(group)
        part = slice(numbers[0], numbers[-1] + 1)
        if not is_long:
            short_ids = input_ids[part, : max(lengths[part])]
            outputs += encode_short(encoder, short_ids, lengths[part], mention_pos[part], mention_entity[part])
            continue
        run = partial(run_packed if takes_many(encoder) else run_each, encoder)
        for number in numbers:
            length = lengths[number]
            windows = cut(0, length, window, end_tokens)
            mentions = (mention_pos[number], mention_entity[number])
            outputs.append(encode_long(input_ids[number, :length], windows, *mentions, run))
    return outputs


def takes_many(encoder: PreTrainedModel) -> bool:
    """Whether the encoder takes several windows in one pass."""
    return encoder.config._attn_implementation == ATTENTION


def encode_short(
    encoder: PreTrainedModel,
    input_ids: Tensor,
    lengths: list[int],
    mention_pos: list[Tensor],
    mention_entity: list[Tensor],
) -> list[EncodedBatch]:
    """`encode` for documents of up to two windows each: each alone, or on a GPU all in one."""
    limit, end_tokens = max_window(encoder)
    windows = [window for document, length in enumerate(lengths) for window in cut(document, length, limit, end_tokens)]
    if takes_many(encoder) and all_at_once(input_ids.device):
        arrays = plan_indices(windows, lengths, input_ids.shape[1], [len(positions) for positions in mention_pos])
        at = arrays_to_device(arrays, input_ids.device)
        position, entity = (torch.cat(tensors)[at["mention"]] for tensors in (mention_pos, mention_entity))
        hidden, attention = run_padded(encoder, input_ids, position, at, first_position(encoder))
        tokens, attention = merge_padded(hidden, attention, position, at)
        return [EncodedBatch(tokens, attention, position, torch.where(at["is_mention"].bool(), entity, -1))]
    pieces = [input_ids[window.document][torch.from_numpy(window.tokens).to(input_ids.device)] for window in windows]
    rows = [  # any row for a mention outside the window: merge_windows leaves it out
        (mention_pos[window.document] - window.offset).clamp(0, len(window.tokens) - 1) for window in windows
    ]
    run = run_packed if takes_many(encoder) else run_each
    parts: list[list[tuple[Window, Tensor, Tensor]]] = [[] for _ in lengths]
    for window, hidden, attention in zip(windows, *run(encoder, pieces, rows), strict=True):
        parts[window.document].append((window, hidden.float(), attention.float()))
    merged = [merge_windows(*document) for document in zip(parts, lengths, mention_pos, strict=True)]
    return [
        EncodedBatch(tokens[None], attention[None], position[None], entity[None])
        for (tokens, attention), position, entity in zip(merged, mention_pos, mention_entity, strict=True)
    ]


def first_position(encoder: PreTrainedModel) -> int:
    """The position id of a window's first token."""
    return encoder.config.pad_token_id + 1 if is_roberta(encoder) else 0


def pack(windows: list[Tensor], rows: list[Tensor]) -> list[PackedWindow]:
    """Lay windows one after the other, with a little padding, see recurring_size; padded.py does so on a GPU."""
    device = windows[0].device
    sizes = [recurring_size(len(window), 32, device) for window in windows]
    sizes[-1] += recurring_size(sum(sizes), 128, device) - sum(sizes)
    packed = []
    for window, size, rows_of_window in zip(windows, sizes, rows, strict=True):
        mask = None
        if size > len(window):
            mask = F.pad(torch.zeros(1, 1, len(window), device=device), (0, size - len(window)), value=-math.inf)
        packed.append(PackedWindow(len(window), size, mask, rows_of_window))
    return packed


def run_packed(
    encoder: PreTrainedModel, windows: list[Tensor], rows: list[Tensor]
) -> tuple[list[Tensor], list[Tensor]]:
    """One pass over all windows [length] of word pieces, and the rows [mentions] of each whose attention is read:
    per window its embeddings [length, hidden] and the last layer's attention [heads, mentions, length]."""
    packed = pack(windows, rows)
    first = first_position(encoder)
    ids, positions = [], []
    for pieces, window in zip(windows, packed, strict=True):
        padding = (0, window.size - window.length)
        ids.append(F.pad(pieces, padding))
        positions.append(F.pad(torch.arange(first, first + window.length, device=pieces.device), padding))
    input_ids = torch.cat(ids)[None]
    attention: list[Tensor] = []
    output = encoder(
        input_ids=input_ids,
        position_ids=torch.cat(positions)[None],
        token_type_ids=torch.zeros_like(input_ids),
        windows=packed,
        mention_attention=attention,
    )
    hidden = output.last_hidden_state[0].split([window.size for window in packed])
    return [rows[: window.length] for rows, window in zip(hidden, packed, strict=True)], attention[: len(packed)]


def run_each(encoder: PreTrainedModel, windows: list[Tensor], rows: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
    """run_packed for an encoder that does not take windows: one after the other, with every layer's attention."""
    outputs = [encoder(input_ids=window[None], output_attentions=True) for window in windows]
    attention = [output.attentions[-1][0].index_select(1, read) for output, read in zip(outputs, rows, strict=True)]
    return [output.last_hidden_state[0] for output in outputs], attention


def merge_windows(
    parts: list[tuple[Window, Tensor, Tensor]], length: int, mention_pos: Tensor
) -> tuple[Tensor, Tensor]:
    """A document's windows, each with embeddings [window, hidden] and attention [heads, mentions, window], put at
    their true positions -> embeddings [length, hidden], attention [heads, mentions, length]."""
    if len(parts) == 1:
        [(_, hidden, attention)] = parts
        return hidden, attention
    embeddings: Any = 0
    summed: Any = 0  # attention
    times: Any = 0
    for window, hidden, attention in parts:
        kept = slice(window.start - window.offset, window.stop - window.offset)
        padding = (window.start, length - window.stop)  # columns before and after
        inside = (mention_pos >= window.start) & (mention_pos < window.stop)
        embeddings = embeddings + F.pad(hidden[kept], (0, 0, *padding))
        summed = summed + F.pad(attention[:, :, kept] * inside[:, None], padding)
        times = times + F.pad(hidden.new_ones(window.stop - window.start), padding)
    return embeddings / times.clamp_min(1)[:, None], summed / (summed.sum(dim=-1, keepdim=True) + 1e-10)
