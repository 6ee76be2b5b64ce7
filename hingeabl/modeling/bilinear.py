"""The grouped bilinear product, Eq. (2) of the paper."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hingeabl.modeling.padded import all_at_once
from hingeabl.modeling.precision import as_in_autocast

OUTER_BYTES = 512 * 2**20  # of outer products in memory at once on a GPU
CLASSES = 8  # tensor cores are fast where the number of classes is a multiple of this


def grouped_bilinear(head: Tensor, tail: Tensor, output: nn.Linear, block_size: int) -> Tensor:
    """Eq. (2) with W_r block-diagonal: head, tail [pairs, emb_size] -> float32 [pairs, classes].

    Both are split into groups of `block_size`; the outer products of the groups of head and tail, flattened with the
    head index slowest, [pairs, emb_size * block_size], go through the linear map `output`.
    """
    head, tail, weight = (as_in_autocast(rows) for rows in (head, tail, output.weight))
    classes = len(weight)
    if all_at_once(head.device):
        weight = F.pad(weight, (0, 0, 0, -classes % CLASSES))
    product = GroupedBilinear.apply(head, tail, weight, block_size)[:, :classes]
    return product if output.bias is None else product + output.bias


class GroupedBilinear(torch.autograd.Function):
    """The grouped bilinear product, some groups at a time. The outer products [pairs, emb_size * block_size] have
    49,152 numbers a pair in the paper's setting; one group's 4,096 are in memory on the CPU, and OUTER_BYTES on a GPU.

    With group k's outer products x = head_k (x) tail_k [pairs, block * block] and weights W [classes, block * block],
    scores = sum_k x W^T, added up in float32. The gradient g of the scores then gives dW = g^T x and dx = g W, and of
    dx, seen as [pairs, block, block], dhead_i = sum_j dx_ij tail_j and dtail_j = sum_i dx_ij head_i. Backward builds x
    again.

    The parts are groups, not slices of pairs: oneDNN's bfloat16 product of 32 pairs with all 49,152 inputs kills the
    process on CPUs with AMX; one group's 4,096 do not.
    """

    @staticmethod
    def forward(ctx: Any, head: Tensor, tail: Tensor, weight: Tensor, block_size: int) -> Tensor:
        """head, tail [pairs, emb_size], weight [classes, emb_size * block_size], all of one dtype -> [pairs, classes]
        in at least float32."""
        heads, tails = (rows.unflatten(1, (-1, block_size)).transpose(0, 1) for rows in (head, tail))
        weights = weight.unflatten(1, (-1, block_size**2)).transpose(0, 1)  # [groups, classes, block * block]
        ctx.save_for_backward(heads, tails, weights)
        dtype = torch.promote_types(head.dtype, torch.float32)
        scores = head.new_zeros(len(head), len(weight), dtype=dtype)
        for part in parts_of(heads):
            # [groups of the part, pairs, classes]
            product = outer_products(heads[part], tails[part]) @ weights[part].mT
            scores += product[0] if len(product) == 1 else product.sum(0, dtype=dtype)
        return scores

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """grad [pairs, classes] -> gradients of head, tail and weight."""
        heads, tails, weights = ctx.saved_tensors  # [groups, pairs, block] twice, [groups, classes, block * block]
        grad = grad.to(heads.dtype)
        grad_transposed = grad.T.contiguous()  # faster in products with many rows on the right
        groups, pairs, block = heads.shape
        grad_heads, grad_tails = (heads.new_empty(pairs, groups, block).transpose(0, 1) for _ in "ht")
        grad_weights = weights.new_empty(weights.shape[1], groups, weights.shape[2]).transpose(0, 1)
        for part in parts_of(heads):
            head, tail = heads[part].flatten(0, 1), tails[part].flatten(0, 1)  # [groups of the part * pairs, block]
            grad_weights[part] = grad_transposed @ outer_products(heads[part], tails[part])
            blocks = (grad @ weights[part]).view(len(head), block, block)
            grad_heads[part] = (blocks @ tail.unsqueeze(2)).view_as(heads[part])
            grad_tails[part] = (head.unsqueeze(1) @ blocks).view_as(heads[part])
        return *(grad.transpose(0, 1).flatten(1) for grad in (grad_heads, grad_tails, grad_weights)), None


def parts_of(heads: Tensor) -> list[slice]:
    """Which groups of heads [groups, pairs, block] are multiplied at once: on the CPU one, on a GPU as many as fit."""
    groups, pairs, block = heads.shape
    size = 1
    if all_at_once(heads.device):
        size = min(max(OUTER_BYTES // max(pairs * block**2 * heads.element_size(), 1), 1), groups)
    return [slice(start, start + size) for start in range(0, groups, size)]


def outer_products(heads: Tensor, tails: Tensor) -> Tensor:
    """[groups, pairs, block] twice -> [groups, pairs, block * block], the head index slowest."""
    # a product of matrices: on the CPU twice as fast as a broadcast product
    outer = torch.bmm(heads.flatten(0, 1).unsqueeze(2), tails.flatten(0, 1).unsqueeze(1))
    return outer.view(*heads.shape[:2], heads.shape[2] * tails.shape[2])
