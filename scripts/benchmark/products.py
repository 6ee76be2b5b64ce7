"""The lower bound of a step's time: only its matrix products and convolutions, of the same shapes, one by one."""

from __future__ import annotations

import time
from collections import Counter
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

PRODUCTS = {"mm", "addmm", "bmm", "baddbmm", "convolution", "convolution_backward"}


class Products(TorchDispatchMode):
    """Within its block, counts the products that are computed, by their arguments; for tensors, by their shapes."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: Counter[tuple[Any, ...]] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run the operator and count it."""
        if func._schema.name.removeprefix("aten::") in PRODUCTS:
            options = {name: value for name, value in (kwargs or {}).items() if name != "out"}
            self.calls[func, freeze(args), freeze(list(options.items()))] += 1
        return func(*args, **(kwargs or {}))

    def seconds(self, device: torch.device) -> float:
        """How long all of them take on `device`, on tensors of random numbers."""
        total = 0.0
        with torch.no_grad():
            for (func, args, options), count in self.calls.items():
                arguments, named = thaw(args, device), dict(thaw(options, device))
                operator = getattr(torch.ops.aten, func._schema.name.removeprefix("aten::")).default
                operator(*arguments, **named)  # the first call of a shape may compile a kernel
                total -= wait(device)
                for _ in range(count):
                    operator(*arguments, **named)
                total += wait(device)
        return total


def wait(device: torch.device) -> float:
    """The time when all that was started on `device` is done."""
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


def freeze(value: Any) -> Any:
    """A value that can be counted: of a tensor its shape, strides and dtype."""
    if isinstance(value, Tensor):
        return torch.Tensor, tuple(value.shape), value.stride(), value.dtype
    return (list, *map(freeze, value)) if isinstance(value, (list, tuple)) else value


def thaw(value: Any, device: torch.device) -> Any:
    """The opposite of freeze, with random tensors."""
    if not isinstance(value, tuple):
        return value
    if value[0] is list:
        return [thaw(item, device) for item in value[1:]]
    _, shape, stride, dtype = value
    stored = [1 if step == 0 else size for size, step in zip(shape, stride, strict=True)]  # the shape before expand
    tensor = torch.empty_strided(stored, stride, dtype=dtype, device=device)
    return tensor.copy_(torch.randn(stored, device=device)).expand(shape)
