"""Attention within windows that lie one after the other, read only at the first token of each mention; and a fast
dropout.

Localized context pooling reads the last layer's attention at the mentions' opening markers. Only these rows are
returned, and other layers keep nothing.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from hingeabl.modeling.padded import PaddedWindows

ATTENTION = "windows_reading_mentions"  # the name under which transformers finds attend_in_windows
# not cuDNN's attention: it makes a plan for every new shape, and batches have many shapes
KERNELS = [SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]
MOST_DROPOUT = 255 / 256  # that keep_mask can draw


@dataclass(frozen=True)
class PackedWindow:
    """A window in a packed row: `length` tokens and padding up to `size`, a mask [1, 1, size] of 0 for tokens and -inf
    for padding (None without padding), and the rows whose attention is read."""

    length: int
    size: int
    mask: Tensor | None
    rows: Tensor


def attend_in_windows(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    windows: list[PackedWindow] | PaddedWindows,
    scaling: float,
    dropout: float = 0.0,
    mention_attention: list[Tensor] | None = None,
    **_: object,
) -> tuple[Tensor, None]:
    """transformers' attention function: query, key, value [1, heads, tokens, head size], `windows` one behind the
    other.

    The module that reads mentions appends each window's attention float32 [heads, rows, length] at the rows of its
    mentions to `mention_attention`, as the encoder used it: in training after dropout; for PaddedWindows that of all
    windows, [windows, heads, rows, size]. Gradient checkpointing calls this again in the backward pass, when the list
    is no longer read.
    """
    if attention_mask is not None:
        raise ValueError("windows lie one after the other, there is no padding to mask; call encode()")
    if not getattr(module, "reads_mentions", False):
        mention_attention = None
    if isinstance(windows, PaddedWindows):
        return attend_padded(query, key, value, windows, scaling, dropout, mention_attention), None
    outputs: list[Tensor] = []
    sizes = [window.size for window in windows]
    packed = zip(windows, *(tensor[0].split(sizes, dim=1) for tensor in (query, key, value)), strict=True)
    with torch.autocast(query.device.type, enabled=False):  # the rows are computed in float32, the rest in its dtype
        for window, q, k, v in packed:  # [heads, size, head size]
            keep = None
            if dropout:  # torch's own is slow on the CPU, and does not return the rows
                keep = keep_mask((q.shape[0], window.size, window.size), dropout, q)
                output = DroppedAttention.apply(q, k, v, window.mask, keep, scaling, dropout)
            else:  # in bfloat16 1.5 times as fast as torch's fused kernel for the CPU
                output = attention(q, k, window.mask, scaling) @ v
            outputs.append(output)
            if mention_attention is not None:
                weights = attention(q.index_select(1, window.rows).float(), k.float(), window.mask, scaling)
                if keep is not None:
                    weights = weights * keep.index_select(1, window.rows) / (1 - dropout)
                mention_attention.append(weights[:, :, : window.length])
    return torch.cat(outputs, dim=1).transpose(0, 1).unsqueeze(0), None


def attend_padded(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    windows: PaddedWindows,
    scaling: float,
    dropout: float,
    mention_attention: list[Tensor] | None,
) -> Tensor:
    """attend_in_windows for all windows at once: returns [1, tokens, heads, head size]."""
    heads, tokens, width = query.shape[1:]
    count, size = windows.token.shape
    with torch.autocast(query.device.type, enabled=False):
        rows = [packed.transpose(1, 2).reshape(tokens, heads * width) for packed in (query, key, value)]
        q, k, v = (  # [windows, heads, size, head size]
            padded.unflatten(0, (count, size)).unflatten(2, (heads, width)).transpose(1, 2)
            for padded in PadRows.apply(*rows, windows.token.flatten(), windows.slot)
        )
        if mention_attention is None or not dropout:
            with sdpa_kernel(KERNELS):
                output = F.scaled_dot_product_attention(q, k, v, windows.mask[:, None], dropout, scale=scaling)
        if mention_attention is not None:
            q, k, v = (padded.flatten(0, 1) for padded in (q, k, v))  # [windows * heads, size, head size]
            mask, index = (
                tensor.repeat_interleave(heads, dim=0, output_size=count * heads)
                for tensor in (windows.mask, windows.rows[:, :, None])
            )
            weights = attention(q.gather(1, index.expand(-1, -1, width)).float(), k.float(), mask, scaling)
            if dropout:
                keep = keep_mask((count * heads, size, size), dropout, q)
                output = DroppedAttention.apply(q, k, v, mask, keep, scaling, dropout).unflatten(0, (count, heads))
                weights = weights * keep.gather(1, index.expand(-1, -1, size)) / (1 - dropout)
            mention_attention.append(weights.unflatten(0, (count, heads)))
        output = output.transpose(1, 2).reshape(count * size, heads * width)
        return output.index_select(0, windows.slot).view(1, tokens, heads, width)


class PadRows(torch.autograd.Function):
    """Tokens' rows put into the slots of padded windows. index_select's own gradient would add up rows, though each
    token's gradient is that of one slot."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, token: Tensor, slot: Tensor) -> tuple[Tensor, ...]:
        """query, key, value [tokens, n], token int64 [slots], slot int64 [tokens] -> each [slots, n]."""
        ctx.save_for_backward(slot)
        return torch.cat([query, key, value], dim=1).index_select(0, token).chunk(3, dim=1)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients [slots, n], 0 for padding since nothing attends to it or reads it -> each [tokens, n]."""
        [slot] = ctx.saved_tensors
        return *torch.cat(grads, dim=1).index_select(0, slot).chunk(3, dim=1), None, None


def attention(query: Tensor, key: Tensor, mask: Tensor | None, scaling: float) -> Tensor:
    """softmax(q k^T * scaling + mask): query [heads, rows, head size], key [heads, size, head size], mask [1 or heads,
    1, size] -> [heads, rows, size]."""
    mask = query.new_zeros(1, 1, 1) if mask is None else mask.to(query.dtype)
    return torch.baddbmm(mask, query, key.mT, alpha=scaling).softmax(dim=-1)


class DroppedAttention(torch.autograd.Function):
    """Attention with a given dropout mask, in one window, or in several with their heads in one dimension. autograd
    would also keep the mask.

    With the softmax P, the dropped D = P * keep and v' = v / (1 - dropout), output = D v'. The gradient g of the output
    gives dv = D^T g / (1 - dropout) and dD = g v'^T. The softmax's gradient P * (dP - rowsum(dP * P)), dP being
    dD * keep, is dS = D * dD - P * rowsum(g * output), from which dq = dS k * scaling and dk = dS^T q * scaling.
    """

    @staticmethod
    def forward(
        ctx: Any,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        mask: Tensor | None,
        keep: Tensor,
        scaling: float,
        dropout: float,
    ) -> Tensor:
        """query, key, value [heads, size, head size], mask [1 or heads, 1, size], keep [heads, size, size] of 0 and 1
        -> [heads, size, head size]."""
        weights = attention(query, key, mask, scaling)
        dropped = weights * keep
        value = value / (1 - dropout)
        output = dropped @ value
        ctx.save_for_backward(query, key, value, weights, dropped, output)
        ctx.scaling, ctx.dropout = scaling, dropout
        return output

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """grad [heads, size, head size] -> gradients of query, key and value."""
        query, key, value, weights, dropped, output = ctx.saved_tensors
        grad_value = dropped.mT @ grad / (1 - ctx.dropout)
        row_sums = (grad * output).sum(dim=-1, keepdim=True)
        grad_scores = (grad @ value.mT).mul_(dropped).addcmul_(weights, row_sums, value=-1)
        return grad_scores @ key * ctx.scaling, grad_scores.mT @ query * ctx.scaling, grad_value, None, None, None, None


def keep_mask(shape: tuple[int, ...], dropout: float, like: Tensor) -> Tensor:
    """Dropout's mask [..., n] in the dtype and on the device of `like`: 0 with probability `dropout`, else 1. Raises
    ValueError for more than MOST_DROPOUT, whose threshold would not fit into a byte.

    Each entry is a random byte, eight of them from one draw of torch's generator, and kept if it reaches a threshold.
    `dropout` * 256 is no whole number (25.6 for 0.1), so each row [n] draws its threshold from the two whole numbers
    next to it, such that the probability is exactly `dropout`; otherwise the entries are independent. On the CPU this
    takes a tenth of bernoulli_'s time.
    """
    if not 0 <= dropout <= MOST_DROPOUT:
        raise ValueError(f"dropout {dropout}: must be from 0 to {MOST_DROPOUT}")
    count = math.prod(shape)
    bits = torch.empty((count + 7) // 8, dtype=torch.int64, device=like.device).random_(-(2**63), None)
    threshold = (torch.rand(*shape[:-1], 1, device=like.device) + dropout * 256).to(torch.uint8)
    return bits.view(torch.uint8)[:count].view(shape).ge_(threshold).to(like.dtype)


class Dropout(nn.Dropout):
    """nn.Dropout, whose mask keep_mask draws on the CPU."""

    def forward(self, values: Tensor) -> Tensor:
        """Values of any shape; in training, some of them zero and the rest scaled up."""
        if not self.training or not self.p or values.is_cuda:
            return super().forward(values)
        return values * keep_mask(values.shape, self.p, values) / (1 - self.p)


def replace_dropout(encoder: nn.Module) -> None:
    """Replace every nn.Dropout by our Dropout."""
    for module in list(encoder.modules()):
        for name, child in module.named_children():
            if type(child) is nn.Dropout:
                setattr(module, name, Dropout(child.p))


@functools.cache
def register_attention() -> None:
    """Make `attend_in_windows` known to transformers, once, under the name ATTENTION."""
    from transformers import AttentionInterface, AttentionMaskInterface  # here, as it takes seconds
    from transformers.masking_utils import sdpa_mask

    AttentionInterface.register(ATTENTION, attend_in_windows)
    AttentionMaskInterface.register(ATTENTION, sdpa_mask)  # None where nothing is masked
