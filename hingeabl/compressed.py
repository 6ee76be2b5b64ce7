"""Weights in a quarter of their size: matrices as int8 with one scale per row, everything else in float32."""

from __future__ import annotations

import torch
from torch import Tensor

SCALE = ".scale"  # suffix of a matrix's name for its scale, float32 [rows]: matrix = int8 values * scale


def compress(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """A state dict in which each float matrix [rows, columns] is int8, from -127 to 127, with its scale beside it."""
    compressed: dict[str, Tensor] = {}
    for name, tensor in weights.items():
        if tensor.dim() != 2 or not tensor.is_floating_point():
            compressed[name] = tensor
            continue
        scale = tensor.float().abs().amax(dim=1) / 127
        rows = tensor.float() / torch.where(scale > 0, scale, 1)[:, None]
        compressed |= {name: rows.round().to(torch.int8), name + SCALE: scale}
    return compressed


def expand(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Undo `compress`: float32 weights, each off by at most half its row's scale. Other state dicts stay as they
    are."""
    expanded: dict[str, Tensor] = {}
    for name, tensor in weights.items():
        scale = weights.get(name + SCALE)
        if tensor.dtype == torch.int8 and scale is not None and scale.shape == tensor.shape[:1]:
            expanded[name] = tensor.float() * scale.float()[:, None]
        elif not is_scale(name, weights):
            expanded[name] = tensor
    return expanded


def is_scale(name: str, weights: dict[str, Tensor]) -> bool:
    """Whether a tensor is the scale of a matrix beside it."""
    matrix = weights.get(name.removesuffix(SCALE))
    return name.endswith(SCALE) and matrix is not None and matrix.dtype == torch.int8
