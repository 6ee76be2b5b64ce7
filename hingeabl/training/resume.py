"""Checkpoints: a training that was stopped at any moment resumes there and ends with the same numbers.

A checkpoint is one safetensors file in the run's folder `checkpoints`: weights, optimizer, and as JSON the training's
progress. Random generators are not in it: they are seeded anew for each batch, by seed, epoch and the batch's number.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import signal
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from hingeabl.errors import UserError, first_line
from hingeabl.files import read_json, save_tensors, write_json
from hingeabl.training import parallel

CHECKPOINTS = "checkpoints"
EXIT_STOPPED = 75  # "try again" to schedulers (sysexits' EX_TEMPFAIL)


@dataclass
class TrainingProgress:
    """How far a training is. Checkpoints store these fields.

    epoch           the current one, from 1
    batch           batches of it that are done
    step            optimizer steps that are done
    skipped         steps that fp16's scaler skipped, not counted in `step`
    skipped_in_row  how many of the latest steps were skipped
    seconds         wall time so far, including that of stopped processes; None if an older checkpoint does not have it
    log_size        bytes of metrics.jsonl
    best            scores.json so far, {} before the end of the first epoch
    """

    epoch: int = 1
    batch: int = 0
    step: int = 0
    skipped: int = 0
    skipped_in_row: int = 0
    seconds: float | None = 0.0
    log_size: int = 0
    best: dict[str, Any] = field(default_factory=dict)

    @property
    def tried(self) -> int:
        """Optimizer steps, done and skipped."""
        return self.step + self.skipped


class CheckpointWriter:
    """Writes checkpoints in a thread while the training goes on; leaving its `with` block waits for the last one."""

    def __init__(self) -> None:
        self.pool = ThreadPoolExecutor(1)
        self.last: Future[None] | None = None

    def __enter__(self) -> CheckpointWriter:
        return self

    def __exit__(self, *_: object) -> None:
        self.pool.shutdown()

    def write(
        self,
        folder: Path,
        progress: TrainingProgress,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        scaler: torch.amp.GradScaler,
    ) -> None:
        """Copy all that a checkpoint holds, and begin to write it. Raises UserError if the one before could not be
        written."""
        self.wait()
        self.last = self.pool.submit(save_checkpoint, folder, take_checkpoint(progress, model, optimizer, scaler))

    def wait(self) -> None:
        """Return once the last checkpoint is written. Raises UserError if it could not be written."""
        last, self.last = self.last, None
        if last:
            last.result()


class Checkpoint(NamedTuple):
    """A file's name, copies of all tensors on the CPU, and the rest as JSON."""

    name: str
    tensors: dict[str, Tensor]
    state: str


def take_checkpoint(
    progress: TrainingProgress, model: nn.Module, optimizer: torch.optim.Optimizer, scaler: torch.amp.GradScaler
) -> Checkpoint:
    """A copy of a training's current state."""
    state = json.dumps({"place": asdict(progress), "scaler": scaler.state_dict()})
    name = f"epoch_{progress.epoch:04d}_batch_{progress.batch:08d}.safetensors"
    return Checkpoint(name, state_tensors(model, optimizer), state)


def state_tensors(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Copies of all tensors of a model and of its optimizer's state, on the CPU."""
    tensors = {f"model/{name}": tensor for name, tensor in model.state_dict().items()}
    for number, state in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer/{number}/{name}": tensor for name, tensor in state.items()}
    return {name: tensor.detach().to("cpu", copy=True).contiguous() for name, tensor in tensors.items()}


def save_checkpoint(folder: Path, checkpoint: Checkpoint) -> None:
    """Write a checkpoint into the run's folder, whole or not at all, then remove all but it and the one before it.

    Raises UserError if it cannot be written; older ones stay then.
    """
    name, tensors, state = checkpoint
    checkpoints = folder / CHECKPOINTS
    checkpoints.mkdir(exist_ok=True)
    save_tensors(checkpoints / name, tensors, {"state": state, "sha256": checksum(tensors, state)})
    for old in sorted(checkpoints.glob("*.safetensors"))[:-2]:
        old.unlink()


def checksum(tensors: dict[str, Tensor], state: str) -> str:
    """SHA-256 over the tensors' names, types, shapes and bytes, and the state."""
    digest = hashlib.sha256(state.encode())
    for name in sorted(tensors):
        digest.update(f"{name} {tensors[name].dtype} {list(tensors[name].shape)}".encode())
        digest.update(tensors[name].reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def optimizer_state(tensors: dict[str, Tensor], model: nn.Module) -> dict[int, dict[str, Tensor]]:
    """The optimizer's state by the numbers of the model's parameters. Older versions also counted BERT's pooler, behind
    the encoder; it never had a state."""
    pooler = sum(name.startswith("model/model.pooler.") for name in tensors)
    encoder = sum(name.startswith("model.") for name, _ in model.named_parameters())
    states: dict[int, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        if name.startswith("optimizer/"):
            _, stored_number, key = name.split("/")
            number = int(stored_number) - (pooler if int(stored_number) >= encoder else 0)
            states.setdefault(number, {})[key] = tensor
    return states


def load_checkpoint(
    folder: Path, model: nn.Module, optimizer: torch.optim.Optimizer, scaler: torch.amp.GradScaler
) -> TrainingProgress:
    """Restore model, optimizer and scaler from the newest whole checkpoint of the run's folder; returns the training's
    progress, that of a new training if there is no checkpoint. A broken one is removed with a note, and the one before
    it used.

    Raises UserError if there were checkpoints, but none was whole, or one cannot be read now.
    """
    paths = sorted((folder / CHECKPOINTS).glob("*.safetensors"), reverse=True)
    for path in paths:
        try:
            tensors, state = read_checkpoint(path)
        except OSError as error:
            if not path.exists():
                continue  # removed meanwhile
            raise UserError(
                f"{path}: cannot be read ({error.strerror or first_line(error)}); check the disk, then run this again"
            ) from None
        except (SafetensorError, ValueError, KeyError) as error:
            print(f"note: {path} is broken ({first_line(error)}); using the one before it")
            path.unlink(missing_ok=True)
            continue
        model.load_state_dict({name[6:]: tensor for name, tensor in tensors.items() if name.startswith("model/")})
        optimizer.load_state_dict({**optimizer.state_dict(), "state": optimizer_state(tensors, model)})
        scaler.load_state_dict(state["scaler"])
        return TrainingProgress(**{"seconds": None} | state["place"])
    if paths:
        raise UserError(f"{folder}/{CHECKPOINTS}: none was whole, and all are removed; run this again to start anew")
    return TrainingProgress()


def read_checkpoint(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """A checkpoint's tensors and state. Raises ValueError if the checksum does not match, and what safe_open raises."""
    with safe_open(path, "pt") as file:
        metadata = file.metadata() or {}
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    if checksum(tensors, metadata["state"]) != metadata["sha256"]:
        raise ValueError("checksum mismatch")
    return tensors, json.loads(metadata["state"])


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Lock a run's folder: a second process gets a UserError. The lock ends with the process."""
    with (folder / "metrics.jsonl").open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(f"{folder}: another process trains this seed; wait for it, or stop it") from None
        except OSError as error:
            print(f"note: {folder} cannot be locked here ({error.strerror}); let one process alone train this seed")
        yield


@contextlib.contextmanager
def alone_in(folder: str | Path) -> Iterator[None]:
    """Let one process at a time run this block for a folder. Without file locks there it does not wait."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def is_locked(folder: Path) -> bool:
    """Whether a process of this machine trains this seed, or of the cluster if its file system has locks. Needs no
    write permission."""
    if not (folder / "metrics.jsonl").exists():
        return False
    with (folder / "metrics.jsonl").open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        except OSError:
            pass
        return False


@contextlib.contextmanager
def failure_noted(folder: Path) -> Iterator[None]:
    """If an exception ends the training, write its reason to failed.json in the run's folder, or to failed_rank_N.json
    in processes other than the first; remove older ones."""
    rank = parallel.rank()
    for old in folder.glob("failed*.json") if rank == 0 else ():
        old.unlink(missing_ok=True)
    try:
        yield
    except Exception as error:
        with contextlib.suppress(UserError):  # the disk may be full
            name = f"failed_rank_{rank}.json" if rank else "failed.json"
            write_json(folder / name, {"error": first_line(error)})
        raise


class StopRequest:
    """Notes SIGTERM and SIGUSR1, by which schedulers announce that they will stop a job. `name` is the signal's, ""
    before."""

    def __init__(self) -> None:
        self.name = ""
        for number in (signal.SIGTERM, signal.SIGUSR1):
            signal.signal(number, self.note)

    def note(self, number: int, _: object) -> None:
        """The signal handler."""
        self.name = signal.Signals(number).name


def status_of(folder: Path) -> tuple[str, str]:
    """A seed's status: finished, running, failed, stopped or unreadable; and its scores, progress, or the reason."""
    try:
        return read_status(folder)
    except (UserError, OSError, ValueError, KeyError, TypeError) as error:
        return "unreadable", f"{first_line(error)}; look at the files in {folder}"


def read_status(folder: Path) -> tuple[str, str]:
    """status_of a folder whose files are a run's."""
    if (folder / "scores.json").exists():
        scores = read_json(folder / "scores.json")
        figures = [f"{split} F1 {100 * scores[split]['f1']:.2f}" for split in ("dev", "test") if scores.get(split)]
        return "finished", ", ".join(figures)
    path = folder / "metrics.jsonl"
    text = path.read_text(encoding="utf-8") if path.exists() else ""
    lines = text[: text.rfind("\n") + 1].splitlines()  # without a last line that is not whole yet
    epochs = sum('"epoch": ' in line for line in lines)
    progress = f"epochs done: {epochs}" + (f", last line: step {json.loads(lines[-1])['step']:,}" if lines else "")
    if is_locked(folder):
        return "running", progress
    if failures := sorted(folder.glob("failed*.json")):
        return "failed", f"{read_json(failures[0])['error']} ({progress})"
    return "stopped", f"{progress}; run the same command to resume"
