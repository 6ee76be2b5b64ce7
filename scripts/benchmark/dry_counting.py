"""Counts what operators ask of a GPU, fake tensors being on it: see dry_cuda.py."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map
from torch.utils.flop_counter import flop_registry

ROOT = Path(__file__).resolve().parents[2]
GPU = torch.device("cuda", 0)
PHASES = ("forward", "backward", "optimizer", "evaluation")
NO_KERNEL = {"_unsafe_view", "_reshape_alias", "resize_", "set_", "lift_fresh", "_local_scalar_dense", "equal", "item"}
ROWS_OF_TABLE = {"embedding", "index_select", "gather", "index"}  # read as many bytes of a table as they write


@dataclass
class Phase:
    """What a phase asks of the GPU.

    operators     calls that launch work there: no views, no allocations; a foreach call and an attention are one
    casts         those that change a tensor's type alone
    copies        between the host and the GPU
    flops         of products
    bytes         read and written: inputs and outputs of each operator; and those of products among them
    waits         places where the host waits for the GPU: a number read, a shape that depends on numbers, a copy that
                  is not said to be non-blocking
    wrong_device  operators with tensors on both devices, and the place
    names         operators by name
    """

    operators: int = 0
    casts: int = 0
    copies: int = 0
    flops: int = 0
    bytes: int = 0
    bytes_of_products: int = 0
    waits: list[str] = field(default_factory=list)
    wrong_device: list[str] = field(default_factory=list)
    names: dict[str, int] = field(default_factory=dict)


def place() -> str:
    """The running line of the repository: the innermost one outside the dry run's own files."""
    frame = sys._getframe(2)
    while frame:
        path = Path(frame.f_code.co_filename)
        if ROOT in path.parents and not path.name.startswith("dry_") and ".venv" not in path.parts:
            return f"{path.relative_to(ROOT)}:{frame.f_lineno}"
        frame = frame.f_back
    return "elsewhere"


def tensors_of(values: Any) -> list[Tensor]:
    """All tensors of nested tuples, lists and dicts, each once."""
    found: dict[int, Tensor] = {}
    pending = [values]
    while pending:
        value = pending.pop()
        if isinstance(value, Tensor):
            found[id(value)] = value
        elif isinstance(value, dict):
            pending += reversed(value.values())
        elif isinstance(value, (tuple, list)):
            pending += reversed(value)
    return list(found.values())


def bytes_of(tensor: Tensor) -> int:
    """Bytes of memory behind a tensor: of an expanded one, what it was expanded from."""
    return min(tensor.numel() * tensor.element_size(), tensor.untyped_storage().nbytes())


class Counting(TorchDispatchMode):
    """Counts operators into `phases[phase]`; gives results that only a real GPU could compute, so that a wait is noted
    and does not end the run."""

    def __init__(self) -> None:
        super().__init__()
        self.phases = {name: Phase() for name in PHASES}
        self.now = self.phases["forward"]
        self.counts = True  # False where operators are only carried out

    def start(self, phase: str) -> None:
        """Count into this phase from now on."""
        self.now = self.phases[phase] = Phase()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = func._schema.name.split("::")[1]
        inputs = tensors_of((args, kwargs))
        on_gpu = any(tensor.device.type == "cuda" for tensor in inputs)
        if name == "_local_scalar_dense":
            return self.read(args[0])
        if on_gpu and name not in ("_to_copy", "copy_", "_foreach_copy_"):
            args, kwargs = self.check_devices(name, args, kwargs, inputs)
        if name in ("index", "index_put", "index_put_", "_index_put_impl_"):
            args = self.without_masks(args)
        if name in ("nonzero", "bincount") and on_gpu:
            self.note_wait(name)
            size = (max(args[0].numel() // 50, 1), args[0].dim()) if name == "nonzero" else args[2]
            output = torch.empty(size, dtype=torch.int64, device=GPU)
        else:
            output = func(*args, **kwargs)
        if not self.counts:
            return output
        outputs = tensors_of(output)
        if on_gpu or any(tensor.device.type == "cuda" for tensor in outputs):
            self.count(func, name, args, kwargs, output, inputs, outputs)
        return output

    def read(self, tensor: Tensor) -> Any:
        """A tensor's number on the host: zero of a GPU's, after a wait; one of the CPU's, such as a counted step."""
        if tensor.device.type == "cuda":
            self.note_wait("item")
        value = bool if tensor.dtype == torch.bool else float if tensor.is_floating_point() else int
        return value(tensor.device.type == "cpu")

    def note_wait(self, operator: str) -> None:
        """The host waits for the GPU here."""
        self.now.waits.append(f"{place()} {operator}")

    def check_devices(self, name: str, args: Any, kwargs: Any, inputs: list[Tensor]) -> Any:
        """Note an operator that has a GPU's tensor and one of the CPU's that is no single number; go on as if all were
        on the GPU."""
        stray = [tensor for tensor in inputs if tensor.device.type == "cpu" and tensor.dim()]
        if not stray:
            return args, kwargs
        self.now.wrong_device.append(f"{place()} {name}")
        moved = {id(tensor): torch.empty(tensor.shape, dtype=tensor.dtype, device=GPU) for tensor in stray}
        return tree_map(lambda value: moved.get(id(value), value), (args, kwargs))

    def without_masks(self, args: Any) -> Any:
        """An index's arguments with numbers in a mask's place, half as many as it has entries: to count them waits. A
        single number put where a mask is true needs no count."""
        tensor, indices, *rest = args
        if not any(index is not None and index.dtype in (torch.bool, torch.uint8) for index in indices):
            return args
        if rest and rest[0].numel() == 1:
            return args
        if tensor.device.type == "cuda":
            self.note_wait("mask as index")
        numbers = []
        for index in indices:
            masked = index is not None and index.dtype in (torch.bool, torch.uint8)
            count = index.numel() // 2 if masked else 0
            numbers += (
                [torch.empty(count, dtype=torch.int64, device=tensor.device)] * index.dim() if masked else [index]
            )
        return tensor, numbers, *rest

    def count(
        self, func: Any, name: str, args: Any, kwargs: Any, output: Any, inputs: list[Tensor], outputs: list[Tensor]
    ) -> None:
        """Add an operator that touches the GPU."""
        returns = func._schema.returns
        is_view = bool(returns) and all(value.alias_info and not value.alias_info.is_write for value in returns)
        if is_view or name in NO_KERNEL or name.startswith(("empty", "new_empty")):
            return
        if not outputs:  # foreach and fused operators return nothing
            arguments = zip(func._schema.arguments, args, strict=False)
            outputs = tensors_of(
                [x for argument, x in arguments if argument.alias_info and argument.alias_info.is_write]
            )
        if not outputs:
            return
        if name in ("_to_copy", "copy_"):
            source, target = (args[0], output) if name == "_to_copy" else (args[1], args[0])
            if source.device != target.device:
                self.now.copies += 1
                waits = not (kwargs.get("non_blocking") if name == "_to_copy" else args[2:] == (True,))
                if waits:
                    self.note_wait(f"copy to {target.device.type}")
            elif source.dtype != target.dtype:
                self.now.casts += 1
        if name == "_foreach_copy_" and args[0][0].dtype != args[1][0].dtype:
            self.now.casts += 1
        read = [bytes_of(tensor) for tensor in inputs]
        written = [bytes_of(tensor) for tensor in outputs]
        if name in ROWS_OF_TABLE:
            read[0] = written[0]
        self.now.operators += 1
        self.now.names[name] = self.now.names.get(name, 0) + 1
        self.now.bytes += sum(read) + sum(written)
        if func._overloadpacket in flop_registry:
            self.now.bytes_of_products += sum(read) + sum(written)
            self.now.flops += flop_registry[func._overloadpacket](*args, **kwargs, out_val=output)


class Saved:
    """Bytes that autograd keeps for the backward pass, beside the parameters."""

    def __init__(self, model: nn.Module) -> None:
        self.known = {parameter.untyped_storage()._cdata for parameter in model.parameters()}
        self.kept: dict[int, Tensor] = {}

    def pack(self, tensor: Tensor) -> Tensor:
        """Note a tensor that is kept."""
        storage = tensor.untyped_storage()._cdata
        if storage not in self.known and tensor.device.type == "cuda":
            self.kept.setdefault(storage, tensor)
        return tensor

    def total(self) -> int:
        """Bytes of all storages."""
        return sum(tensor.untyped_storage().nbytes() for tensor in self.kept.values())
