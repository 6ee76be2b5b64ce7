"""Several processes on one training, as `torchrun` starts them; with one process, none of this does anything.

Each process (a "rank") has the whole model and a share of every batch. Rank 0 alone prints and writes.
"""

from __future__ import annotations

import contextlib
import functools
import os
import sys
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from tqdm import tqdm


def start() -> None:
    """Join the processes that torchrun started, each on its own GPU where there are any."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1 or dist.is_initialized():
        return
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    dist.init_process_group("nccl" if torch.cuda.is_available() else "gloo")
    if rank():
        sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115
        tqdm.__init__ = functools.partialmethod(tqdm.__init__, disable=True)  # type: ignore[assignment,method-assign]


def finish() -> None:
    """Leave the other processes, when all is done."""
    if dist.is_initialized():
        dist.destroy_process_group()


def rank() -> int:
    """This process's number, from 0."""
    return dist.get_rank() if dist.is_initialized() else 0


def world_size() -> int:
    """How many processes there are."""
    return dist.get_world_size() if dist.is_initialized() else 1


def share(model: nn.Module, device: torch.device) -> nn.Module:
    """The model to call while training: its gradients are the mean over all processes'. Batch norm takes the statistics
    of all of them on GPUs, and of each alone on the CPU, which has no such layer."""
    if world_size() == 1:
        return model
    if device.type == "cuda":
        model = nn.SyncBatchNorm.convert_sync_batchnorm(model)
    return DistributedDataParallel(model, find_unused_parameters=True)


def gradients_averaged(model: nn.Module, now: bool) -> contextlib.AbstractContextManager[None]:
    """For a backward pass: the gradients of all processes are averaged now, or only added up in each until later."""
    if now or not isinstance(model, DistributedDataParallel):
        return contextlib.nullcontext()
    return model.no_sync()


def wait_for_all() -> None:
    """Return once every process has called this."""
    if dist.is_initialized():
        dist.barrier()


def any_of_all(flag: bool, device: torch.device) -> bool:
    """Whether the flag is set in any process."""
    if not dist.is_initialized():
        return flag
    found = torch.tensor(int(flag), device=device)
    dist.all_reduce(found, dist.ReduceOp.MAX)
    return bool(found)


def add_over_all(values: Tensor) -> Tensor:
    """The sum of every process's values."""
    if dist.is_initialized():
        dist.all_reduce(values)
    return values


def gather(value: Any) -> list[Any]:
    """Every process's value, by rank, in rank 0; [] in the others. Values travel pickled between our own processes."""
    if not dist.is_initialized():
        return [value]
    values: list[Any] = [None] * world_size()
    dist.gather_object(value, values if rank() == 0 else None)
    return values if rank() == 0 else []
