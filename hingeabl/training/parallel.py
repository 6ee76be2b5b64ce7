"""Several processes on one training, as `torchrun` starts them; with one process, none of this does anything.

Each process (a "rank") has the whole model and a part of every batch. Only rank 0 prints and writes.
"""

from __future__ import annotations

import contextlib
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

TIMEOUT = timedelta(hours=2)  # while others wait for one that reads, scores or writes; torch's default is ten minutes
LOST = ("Connection closed by peer", "Connection reset by peer", "Broken pipe", "Socket closed", "Connection refused")
WITH_ALL_GRADIENTS = ("atlop", "docunet", "kd_docre")  # models whose every parameter gets a gradient from any batch


def start(device: str | None) -> None:
    """Join the processes that torchrun started, each on its own GPU unless `device`, the value of --device, is cpu.

    Raises UserError if they cannot have a GPU each.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1 or dist.is_initialized():
        return
    if device and ":" in device:
        raise UserError(f"--device {device}: each process takes a GPU of its own; leave it out, or pass cuda or cpu")
    if device in (None, "cuda") and torch.cuda.is_available():
        gpu = torch.device("cuda", gpu_of_process(torch.cuda.device_count()))
        torch.cuda.set_device(gpu)
        dist.init_process_group("nccl", timeout=TIMEOUT, device_id=gpu)
    else:
        dist.init_process_group("gloo", timeout=TIMEOUT)
    if rank():
        sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115
        shown = tqdm.__init__
        tqdm.__init__ = lambda bar, *args, **options: shown(bar, *args, **options | {"disable": True})  # type: ignore[assignment,method-assign]


def gpu_of_process(gpus: int) -> int:
    """The number of this process's GPU on its machine, which has `gpus`. Raises UserError if they are too few."""
    processes = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    if processes > gpus:
        raise UserError(
            f"torchrun --nproc_per_node={processes}: {processes} processes, but {gpus} GPUs can be seen here; pass "
            f"--nproc_per_node={gpus}, or --device cpu"
        )
    return int(os.environ["LOCAL_RANK"])


def finish() -> None:
    """Leave the group of processes at the end."""
    if dist.is_initialized():
        if dist.get_backend() == "gloo":
            # Gloo's threads take Python's lock to free the tensors of the last call. Freeing the group meanwhile would
            # wait forever, so let them end first.
            time.sleep(0.2)
        dist.destroy_process_group()


@contextlib.contextmanager
def peer_failures_explained() -> Iterator[None]:
    """Turn the error about a lost process or machine into a UserError that says what to do."""
    try:
        yield
    except RuntimeError as error:  # torch's DistError, or Gloo's RuntimeError
        lost = isinstance(error, dist.DistError) or any(message in str(error) for message in LOST)
        if world_size() == 1 or not lost:
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


def wrap_for_ddp(model: DocREModel, device: torch.device) -> nn.Module:
    """The model to call in training: its gradients are averaged over all processes. On GPUs batch norm takes the
    statistics of all processes, on the CPU, which has no such layer, of each by itself."""
    if world_size() == 1:
        return model
    unused = may_leave_gradients_out(model)
    synchronised = nn.SyncBatchNorm.convert_sync_batchnorm(model) if device.type == "cuda" else model
    return DistributedDataParallel(synchronised, find_unused_parameters=unused)


def may_leave_gradients_out(model: DocREModel) -> bool:
    """Whether some parameter may get no gradient from a batch: in an encoder off the fast path, or a fork's model.
    Finding such parameters takes a walk through the graph each step."""
    on_fast_path = model.model.config._attn_implementation == ATTENTION
    return not on_fast_path or model.backbone not in WITH_ALL_GRADIENTS


def gradients_averaged(model: nn.Module, now: bool) -> contextlib.AbstractContextManager[None]:
    """For a backward pass: average the gradients of all processes now, or only add them up in each process."""
    if now or not isinstance(model, DistributedDataParallel):
        return contextlib.nullcontext()
    return model.no_sync()


def wait_for_all() -> None:
    """Return once every process has called this."""
    if dist.is_initialized():
        on_gpu = dist.get_backend() == "nccl"
        dist.barrier(device_ids=[torch.cuda.current_device()] if on_gpu else None)


def sum_over_processes(values: Tensor) -> Tensor:
    """The sum of every process's values."""
    if dist.is_initialized():
        dist.all_reduce(values)
    return values


def gather_rows(rows: Tensor, device: torch.device) -> list[Tensor]:
    """In rank 0 every process's rows [n, ...], by rank, on the CPU; [] in the other ranks. Only n may differ between
    processes. The rows are exchanged on `device`."""
    if not dist.is_initialized():
        return [rows]
    counts = torch.zeros(world_size(), dtype=torch.int64, device=device)
    counts[rank()] = len(rows)
    sizes = sum_over_processes(counts).tolist()
    padded = torch.zeros(max(sizes), *rows.shape[1:], dtype=rows.dtype, device=device)
    padded[: len(rows)] = rows
    gathered = [torch.empty_like(padded) for _ in sizes] if rank() == 0 else None
    dist.gather(padded, gathered)
    return [part[:size].cpu() for part, size in zip(gathered or [], sizes, strict=False)]
