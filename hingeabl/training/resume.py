"""A training that was stopped, at any moment, goes on where it was and ends with the same numbers.

A checkpoint is one safetensors file in the run's folder `checkpoints`: weights, optimizer, and as JSON the place in the
training. Random generators are not in it: they are seeded anew for each batch, by seed, epoch and the batch's number.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
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
EXIT_STOPPED = 75  # what schedulers know as "try again" (sysexits' EX_TEMPFAIL)


@dataclass
class Place:
    """How far a training is.

    epoch           the one under way, from 1
    batch           batches of it that are done
    step            optimizer steps that are done
    skipped         those that fp16's scaler skipped, not among `step`
    skipped_in_row  the latest of them, with no other step behind
    seconds         wall time of all that led here, of stopped parts too; None where an older checkpoint does not tell
    log_size        bytes of metrics.jsonl
    best            scores.json so far, {} before the first epoch's end
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
    """Writes checkpoints in a thread while the training goes on; to leave its `with` block waits for the last."""

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
        place: Place,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        scaler: torch.amp.GradScaler,
    ) -> None:
        """Copy all that a checkpoint holds, and begin to write it. Raises UserError where the one before could not be
        written."""
        self.wait()
        self.last = self.pool.submit(save_checkpoint, folder, take_checkpoint(place, model, optimizer, scaler))

    def wait(self) -> None:
        """Return once the last checkpoint is written. Raises UserError where it could not be."""
        last, self.last = self.last, None
        if last:
            last.result()


class Checkpoint(NamedTuple):
    """A file's name, its tensors on the CPU, which no training changes, and the rest as JSON."""

    name: str
    tensors: dict[str, Tensor]
    state: str


def take_checkpoint(
    place: Place, model: nn.Module, optimizer: torch.optim.Optimizer, scaler: torch.amp.GradScaler
) -> Checkpoint:
    """A copy of a training as it is now."""
    tensors = {f"model/{name}": tensor for name, tensor in model.state_dict().items()}
    for number, state in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer/{number}/{name}": tensor for name, tensor in state.items()}
    tensors = {name: tensor.detach().to("cpu", copy=True).contiguous() for name, tensor in tensors.items()}
    state = json.dumps({"place": asdict(place), "scaler": scaler.state_dict()})
    return Checkpoint(f"epoch_{place.epoch:04d}_batch_{place.batch:08d}.safetensors", tensors, state)


def save_checkpoint(folder: Path, checkpoint: Checkpoint) -> None:
    """Write a checkpoint into the run's folder, whole or not at all, then remove all but it and the one before it.

    Raises UserError where it cannot be written; those that were there stay.
    """
    name, tensors, state = checkpoint
    checkpoints = folder / CHECKPOINTS
    checkpoints.mkdir(exist_ok=True)
    save_tensors(checkpoints / name, tensors, {"state": state, "sha256": checksum(tensors, state)})
    for old in sorted(checkpoints.glob("*.safetensors"))[:-2]:
        old.unlink()


def checksum(tensors: dict[str, Tensor], state: str) -> str:
    """SHA-256 over the tensors' names, types, shapes and bytes, and the state."""
    found = hashlib.sha256(state.encode())
    for name in sorted(tensors):
        found.update(f"{name} {tensors[name].dtype} {list(tensors[name].shape)}".encode())
        found.update(tensors[name].reshape(-1).view(torch.uint8).numpy().data)
    return found.hexdigest()


def optimizer_state(tensors: dict[str, Tensor], model: nn.Module) -> dict[int, dict[str, Tensor]]:
    """The optimizer's state by the numbers of the model's parameters. Older versions counted BERT's pooler, which never
    had a state, behind the encoder."""
    pooler = sum(name.startswith("model/model.pooler.") for name in tensors)
    encoder = sum(name.startswith("model.") for name, _ in model.named_parameters())
    found: dict[int, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        if name.startswith("optimizer/"):
            _, number, part = name.split("/")
            place = int(number) - (pooler if int(number) >= encoder else 0)
            found.setdefault(place, {})[part] = tensor
    return found


def load_checkpoint(
    folder: Path, model: nn.Module, optimizer: torch.optim.Optimizer, scaler: torch.amp.GradScaler
) -> Place:
    """Bring model, optimizer and scaler to the newest whole checkpoint of the run's folder; returns the place, that of
    a beginning where there is none. A broken one is named and removed, and the one before it taken.

    Raises UserError where there were some and none was whole.
    """
    paths = sorted((folder / CHECKPOINTS).glob("*.safetensors"), reverse=True)
    for path in paths:
        try:
            tensors, state = read_checkpoint(path)
        except (SafetensorError, OSError, ValueError, KeyError) as error:
            print(f"note: {path} is broken ({first_line(error)}); using the one before it")
            path.unlink(missing_ok=True)
            continue
        model.load_state_dict({name[6:]: tensor for name, tensor in tensors.items() if name.startswith("model/")})
        optimizer.load_state_dict({**optimizer.state_dict(), "state": optimizer_state(tensors, model)})
        scaler.load_state_dict(state["scaler"])
        return Place(**{"seconds": None} | state["place"])
    if paths:
        raise UserError(f"{folder}/{CHECKPOINTS}: none was whole, and all are removed; run this again to start anew")
    return Place()


def read_checkpoint(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """A checkpoint's tensors and state. Raises ValueError where checksum mismatch, and what safe_open does."""
    with safe_open(path, "pt") as file:
        about = file.metadata() or {}
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    if checksum(tensors, about["state"]) != about["sha256"]:
        raise ValueError("checksum mismatch")
    return tensors, json.loads(about["state"])


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold a run's folder: a second process is refused with a UserError. The lock goes when the process does."""
    with (folder / "metrics.jsonl").open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(f"{folder}: another process trains this seed; wait for it, or stop it") from None
        except OSError as error:
            print(f"note: {folder} cannot be locked here ({error.strerror}); let one process alone train this seed")
        yield


def is_locked(folder: Path) -> bool:
    """Whether a process of this machine, or of the cluster where its files know locks, trains this seed. Needs no right
    to write there."""
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
    """Leave failed.json with the reason in a run's folder when an exception ends the training, failed_rank_N.json from
    other processes than the first; remove older ones."""
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
    """Notes SIGTERM and SIGUSR1, by which schedulers announce that they will stop a job; `name` is "" before."""

    def __init__(self) -> None:
        self.name = ""
        for number in (signal.SIGTERM, signal.SIGUSR1):
            signal.signal(number, self.note)

    def note(self, number: int, _: object) -> None:
        """The handler."""
        self.name = signal.Signals(number).name


def status_of(folder: Path) -> tuple[str, str]:
    """A seed's folder in two words: finished, running, failed or stopped, or unreadable; and scores, the place, or the
    reason."""
    try:
        return read_status(folder)
    except (UserError, OSError, ValueError, KeyError, TypeError) as error:
        return "unreadable", f"{first_line(error)}; look at the files in {folder}"


def read_status(folder: Path) -> tuple[str, str]:
    """status_of a folder whose files are a run's."""
    if (folder / "scores.json").exists():
        scores = read_json(folder / "scores.json")
        found = [f"{split} F1 {100 * scores[split]['f1']:.2f}" for split in ("dev", "test") if scores.get(split)]
        return "finished", ", ".join(found)
    path = folder / "metrics.jsonl"
    text = path.read_text(encoding="utf-8") if path.exists() else ""
    lines = text[: text.rfind("\n") + 1].splitlines()  # the last may be on its way
    epochs = sum('"epoch": ' in line for line in lines)
    place = f"epochs done: {epochs}" + (f", last line: step {json.loads(lines[-1])['step']:,}" if lines else "")
    if is_locked(folder):
        return "running", place
    if failures := sorted(folder.glob("failed*.json")):
        return "failed", f"{read_json(failures[0])['error']} ({place})"
    return "stopped", f"{place}; run the same command to resume"
