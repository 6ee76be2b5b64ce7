"""Half-precision copies of layers' weights, made once a step instead of at each use."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

ALIGNED = 64  # numbers: each copy begins at a multiple of 128 bytes, as tensor cores need it


class CastTogether(torch.autograd.Function):
    """Copies of float32 tensors in another dtype, in one buffer and one call; their gradients are cast back in the same
    way. The copies are only read."""

    @staticmethod
    def forward(ctx: Any, dtype: torch.dtype, *tensors: Tensor) -> tuple[Tensor, ...]:
        """Tensors of any shapes -> their copies in `dtype`."""
        ctx.set_materialize_grads(False)
        return tuple(cast_together(tensors, dtype))

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        """The copies' gradients -> float32; none for a copy that was not used."""
        cast = iter(cast_together([grad for grad in grads if grad is not None], torch.float32))
        return None, *(None if grad is None else next(cast) for grad in grads)


def cast_together(tensors: Iterable[Tensor], dtype: torch.dtype) -> list[Tensor]:
    """Copies of tensors on one device in `dtype`, all in one buffer."""
    tensors = list(tensors)
    if not tensors:
        return []
    sizes = [size for tensor in tensors for size in (tensor.numel(), -tensor.numel() % ALIGNED)]
    buffer = tensors[0].new_empty(sum(sizes), dtype=dtype)
    copies = [part.view(tensor.shape) for part, tensor in zip(buffer.split(sizes)[::2], tensors, strict=True)]
    torch._foreach_copy_(copies, tensors)
    return copies


@contextlib.contextmanager
def weights_cast_to(parts: list[nn.Module], dtype: torch.dtype) -> Iterator[None]:
    """Within the block the float32 weights of linear layers and convolutions in `parts` are copies in `dtype`.

    Gradients arrive at the float32 weights. Each part has one buffer, so that a part's gradients are complete when the
    backward pass leaves it. Weights that are already in `dtype` stay as they are.
    """
    replaced: list[tuple[nn.Module, str, nn.Parameter | None]] = []
    try:
        for part in parts:
            owners = [
                (module, name, weight)
                for module in part.modules()
                if isinstance(module, nn.Linear | nn.Conv2d)
                for name, weight in module._parameters.items()
                if weight is not None and weight.dtype == torch.float32 != dtype
            ]
            if owners:
                copies = CastTogether.apply(dtype, *(weight for _, _, weight in owners))
                replaced += owners
                for (module, name, _), copy in zip(owners, copies, strict=True):
                    module._parameters[name] = copy
        yield
    finally:
        for owner, name, weight in replaced:
            owner._parameters[name] = weight


def autocast_dtype(device: torch.device) -> torch.dtype:
    """The dtype of products on `device` at present: autocast's, float32 if it is off."""
    return torch.get_autocast_dtype(device.type) if torch.is_autocast_enabled(device.type) else torch.float32


def as_in_autocast(values: Tensor) -> Tensor:
    """Values in the dtype that autocast would cast them to for a product; unchanged if it is off."""
    on = torch.is_autocast_enabled(values.device.type)
    return values.to(torch.get_autocast_dtype(values.device.type)) if on else values
