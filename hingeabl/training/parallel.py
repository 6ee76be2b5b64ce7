"""Several processes on one training, as `torchrun` starts them; with one process, none of this does anything.

Each process (a "rank") has the whole model and a share of every batch. Rank 0 alone prints and writes.
"""

from __future__ import annotations

import contextlib
import functools
import os
import sys
import time
from collections.abc import Iterator
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from tqdm import tqdm

from hingeabl.core.model import DocREModel
from hingeabl.errors import UserError, first_line
from hingeabl.modeling.attention import ATTENTION

TIMEOUT = timedelta(hours=2)  # for one that reads, scores or writes while the others wait; torch's own is ten minutes
GONE = ("Connection closed by peer", "Connection reset by peer", "Broken pipe", "Socket closed", "Connection refused")
WITH_ALL_GRADIENTS = ("atlop", "docunet", "kd_docre")  # models whose every parameter gets a gradient from any batch


def start(device: str | None) -> None:
    """Join the processes that torchrun started, each on its own GPU unless `device`, the value of --device, is cpu.

    Raises UserError where they cannot have a GPU each.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1 or dist.is_initialized():
        return
    if device and ":" in device:
        raise UserError(f"--device {device}: each process takes a GPU of its own; leave it out, or pass cuda or cpu")
    if device in (None, "cuda") and torch.cuda.is_available():
        gpu = torch.device("cuda", own_gpu(torch.cuda.device_count()))
        torch.cuda.set_device(gpu)
        dist.init_process_group("nccl", timeout=TIMEOUT, device_id=gpu)
    else:
        dist.init_process_group("gloo", timeout=TIMEOUT)
    if rank():
        sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115
        tqdm.__init__ = functools.partialmethod(tqdm.__init__, disable=True)  # type: ignore[assignment,method-assign]


def own_gpu(gpus: int) -> int:
    """The number of this process's GPU on its machine, which has `gpus`. Raises UserError where they are too few."""
    processes = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    if processes > gpus:
        raise UserError(
            f"torchrun --nproc_per_node={processes}: {processes} processes, but {gpus} GPUs can be seen here; pass "
            f"--nproc_per_node={gpus}, or --device cpu"
        )
    return int(os.environ["LOCAL_RANK"])


def finish() -> None:
    """Leave the other processes, when all is done."""
    if dist.is_initialized():
        if dist.get_backend() == "gloo":
            # Gloo's threads take Python's lock to free the tensors of the last call. Freeing the group while they do
            # that waits forever, so let them end.
            time.sleep(0.2)
        dist.destroy_process_group()


@contextlib.contextmanager
def losses_named() -> Iterator[None]:
    """Where another process, or its machine, is gone, raise UserError that says what to do."""
    try:
        yield
    except RuntimeError as error:  # of torch's kinds; Gloo has none of its own
        if world_size() == 1 or not (isinstance(error, dist.DistError) or any(sign in str(error) for sign in GONE)):
            raise
        raise UserError(
            f"process {rank()} of {world_size()}: another one is gone, or not reached ({first_line(error)[:200]}); "
            "look at the messages of the others, then run the same command on every machine to resume"
        ) from None


def rank() -> int:
    """This process's number, from 0."""
    return dist.get_rank() if dist.is_initialized() else 0


def world_size() -> int:
    """How many processes there are."""
    return dist.get_world_size() if dist.is_initialized() else 1


def share(model: DocREModel, device: torch.device) -> nn.Module:
    """The model to call while training: its gradients are the mean over all processes'. Batch norm takes the statistics
    of all of them on GPUs, and of each alone on the CPU, which has no such layer."""
    if world_size() == 1:
        return model
    unused = may_leave_gradients_out(model)
    shared = nn.SyncBatchNorm.convert_sync_batchnorm(model) if device.type == "cuda" else model
    return DistributedDataParallel(shared, find_unused_parameters=unused)


def may_leave_gradients_out(model: DocREModel) -> bool:
    """Whether some parameter may get no gradient from a batch: of an encoder off the fast path, or of a fork's model.
    To find them takes a walk through the graph each step."""
    on_fast_path = model.model.config._attn_implementation == ATTENTION
    return not on_fast_path or model.backbone not in WITH_ALL_GRADIENTS


def gradients_averaged(model: nn.Module, now: bool) -> contextlib.AbstractContextManager[None]:
    """For a backward pass: the gradients of all processes are averaged now, or only added up in each until later."""
    if now or not isinstance(model, DistributedDataParallel):
        return contextlib.nullcontext()
    return model.no_sync()


def wait_for_all() -> None:
    """Return once every process has called this."""
    if dist.is_initialized():
        on_gpu = dist.get_backend() == "nccl"
        dist.barrier(device_ids=[torch.cuda.current_device()] if on_gpu else None)


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


def gather_rows(rows: Tensor, device: torch.device) -> list[Tensor]:
    """Every process's rows [n, ...], of any n and one shape and type else, by rank, on the CPU, in rank 0; [] in the
    others. They travel by way of `device`."""
    if not dist.is_initialized():
        return [rows]
    counts = torch.zeros(world_size(), dtype=torch.int64, device=device)
    counts[rank()] = len(rows)
    sizes = add_over_all(counts).tolist()
    padded = torch.zeros(max(sizes), *rows.shape[1:], dtype=rows.dtype, device=device)
    padded[: len(rows)] = rows
    found = [torch.empty_like(padded) for _ in sizes] if rank() == 0 else None
    dist.gather(padded, found)
    return [part[:size].cpu() for part, size in zip(found or [], sizes, strict=False)]
