"""What every script shares: the one kind of error, JSON and tensor files, batches, devices, random seeds."""

from __future__ import annotations

import contextlib
import errno
import gc
import hashlib
import json
import math
import os
import platform
import random
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from importlib import metadata
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
import ujson
from safetensors import SafetensorError
from safetensors.torch import save_file

PACKAGES = ("torch", "transformers", "tokenizers", "numpy", "opt_einsum", "ujson", "safetensors")
LONGEST_MESSAGE = 2000
NO_PLACE = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO, errno.EFBIG)
SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")
AUTOCAST_DTYPE = {"bf16": torch.bfloat16, "fp16": torch.float16}


class UserError(Exception):
    """Something the user can mend: one line that names file, document, field and remedy."""


def run_command_line(main: Callable[[], None]) -> None:
    """Run a script's main(); a UserError becomes one line on stderr and exit code 2, and so does what a full disk or a
    full memory raises where nobody has said more about it."""
    try:
        main()
        sys.stdout.flush()
    except UserError as error:
        sys.exit(_fail(str(error), 2))
    except BrokenPipeError:  # whoever read our output, such as `head`, has left
        _drop_output()
        sys.exit(141)
    except OSError as error:
        if error.errno not in NO_PLACE:
            raise
        _drop_output()
        sys.exit(
            _fail(f"{error.filename or 'output'}: {error.strerror or error}; make room or choose another place", 2)
        )
    except (MemoryError, RuntimeError) as error:
        if not out_of_memory(error):
            raise
        sys.exit(_fail(f"out of memory ({first_line(error)}); pass a smaller batch, or use a larger machine", 2))
    except KeyboardInterrupt:
        sys.exit(_fail("interrupted", 130))


def _drop_output() -> None:
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _fail(message: str, code: int) -> int:
    message = " ".join(message.split())
    if len(message) > LONGEST_MESSAGE:  # what stands in broken files is of any length
        message = f"{message[: LONGEST_MESSAGE // 2]} ... {message[-LONGEST_MESSAGE // 2 :]}"
    print(f"error: {message}", file=sys.stderr)
    return code


def first_line(error: Exception) -> str:
    """An exception's message, its first line, or its type where it has none."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


def out_of_memory(error: Exception) -> bool:
    """Whether an exception says that there is no memory left, on a GPU or beside it."""
    return isinstance(error, (MemoryError, torch.OutOfMemoryError)) or "can't allocate memory" in str(error)


@contextlib.contextmanager
def naming_batch(batch: dict[str, Any], titles: list[str], remedy: str) -> Iterator[None]:
    """Where memory runs out, raise UserError that says on which batch, collated from documents of these titles."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not out_of_memory(error):
            raise
        more = f" and {len(titles) - 4} more" if len(titles) > 4 else ""
        raise UserError(
            f"out of memory on a batch of {len(titles)} documents, {sum(batch['lengths']):,} tokens and "
            f"{sum(map(len, batch['hts'])):,} pairs ({', '.join(map(repr, titles[:4]))}{more}); {remedy}"
        ) from None


def read_json(path: str | Path) -> Any:
    """Parse one JSON file. Raises UserError where it is missing, unreadable or broken, NaN and Infinity included."""
    try:
        text = Path(path).read_text(encoding="utf-8")
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; check the path") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 text ({error.reason} at byte {error.start}); save it as UTF-8") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); check the path and its permissions") from None
    return parse_json(text, str(path))


def parse_json(text: str, where: str) -> Any:
    """Parse JSON text. Raises UserError, opening with `where`, for broken JSON, NaN and Infinity included."""
    try:
        # ujson is as fast but takes some broken JSON
        value = json.loads(text, parse_constant=_refuse_constant, parse_float=_finite)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{where}: broken JSON ({error}); repair the file or download it again") from None
    if SURROGATE.search(text):  # an escaped half of a character pair is JSON, but no text
        try:
            json.dumps(value, ensure_ascii=False).encode()
        except UnicodeEncodeError as error:
            half = error.object[error.start].encode("unicode_escape").decode()
            raise UserError(f"{where}: holds {half}, half of a character; repair the text there") from None
    return value


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON")


def _finite(text: str) -> float:
    if math.isinf(value := float(text)):
        raise ValueError(f"{text} is beyond all numbers")
    return value


def write_json(path: str | Path, value: Any, indent: int = 2) -> None:
    """Write a JSON file whole or not at all: to a temporary name, then renamed; indent 0 puts it on one line.

    Raises UserError where that fails.
    """
    with whole_file(path) as file:
        file.write(ujson.dumps(value, indent=indent, ensure_ascii=False, escape_forward_slashes=False) + "\n")


@contextlib.contextmanager
def whole_file(path: str | Path, mode: str = "w") -> Iterator[IO[Any]]:
    """A file to write, text or with mode "wb" bytes, whole or not at all: under a temporary name, renamed at the end,
    removed on any exception.

    Raises UserError where it cannot be written.
    """
    path = Path(path)
    temporary = path.with_name(path.name + ".tmp")
    try:
        with temporary.open(mode, encoding=None if "b" in mode else "utf-8") as file:
            yield file
        put_in_place(temporary, path)
    except BaseException as error:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise UserError(
                f"{path}: cannot be written ({error.strerror}); make room or choose another place"
            ) from None
        raise


def put_in_place(temporary: Path, path: Path) -> None:
    """Rename a file that is written, so that even after a power cut there is the old one or the whole new one."""
    for place in (temporary, path.parent):
        descriptor = os.open(place, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        if place is temporary:
            os.replace(temporary, path)


def save_tensors(path: Path, tensors: dict[str, torch.Tensor], metadata: dict[str, str] | None = None) -> None:
    """Write safetensors, whole or not at all. Raises UserError where that fails."""
    scratch = path.with_name(f".{path.name}.tmp")  # a folder, as safetensors has temporary files of random names
    temporary = scratch / path.name
    try:
        shutil.rmtree(scratch, ignore_errors=True)  # what a killed process left
        scratch.mkdir()
        save_file(tensors, temporary, metadata)
        temporary.chmod(scratch.stat().st_mode & 0o666)  # safetensors lets none but the owner read
        put_in_place(temporary, path)
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path}: cannot be written ({first_line(error)}); make room or choose another place") from None
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def digest(path: str | Path) -> str:
    """SHA-256 of a file. Raises UserError where it cannot be read."""
    result = hashlib.sha256()
    try:
        with Path(path).open("rb") as file:
            while chunk := file.read(2**20):
                result.update(chunk)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); check the path") from None
    return result.hexdigest()


@contextlib.contextmanager
def garbage_collection_paused() -> Iterator[None]:
    """For reading a corpus: it makes a million objects, none of them garbage, which Python would walk again and again.

    What is there at the end stays out of later walks too.
    """
    running = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        if running:
            gc.enable()


def make_folder(path: str | Path) -> Path:
    """Create a folder and its parents. Raises UserError where that fails or the folder can't be written to."""
    path = Path(path)
    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            return path
    except OSError as error:
        raise UserError(f"{path}: cannot be written to ({error.strerror}); choose another place") from None


def set_seed(seed: int) -> None:
    """Seed every random generator that a training draws from."""
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


def pick_device(name: str | None) -> torch.device:
    """The device asked for, or CUDA where there is one, else the CPU. Raises UserError for one that is not there."""
    try:
        device = torch.device(name or ("cuda" if torch.cuda.is_available() else "cpu"))
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise UserError(f"--device {name}: not usable here ({first_line(error)}); leave it out or pass cpu") from None
    return device


def pick_precision(name: str | None, device: torch.device) -> str:
    """The precision asked for, or fp16 on CUDA, bf16 on CPUs that multiply it natively, else fp32."""
    if name:
        return name
    if device.type == "cuda":
        return "fp16"
    abilities = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
    return "bf16" if abilities.get("avx512_bf16") or abilities.get("amx_bf16") else "fp32"


def autocast(device: torch.device, precision: str) -> torch.autocast:
    """torch.autocast for one of "fp32" (off), "bf16", "fp16"."""
    return torch.autocast(device.type, AUTOCAST_DTYPE.get(precision), enabled=precision != "fp32")


def recurring_size(count: int, multiple: int, device: torch.device) -> int:
    """On a GPU `count`; on the CPU `count` rounded up to a multiple, so that the sizes of products recur: for each new
    one oneDNN compiles a bfloat16 kernel, which takes 1 to 7 ms, several times as long as the product itself."""
    return count if device.type == "cuda" else math.ceil(count / multiple) * multiple


def collate_fn(features: list[dict[str, Any]]) -> dict[str, Any]:
    """Documents' features -> one batch: DocREModel's keyword arguments, and "labels" where all features have them.

    input_ids       int64 [documents, longest], right-padded with 0
    lengths         list of int, tokens of each document
    mention_pos     list of int64 [mentions]: place of each mention's opening marker in input_ids
    mention_entity  list of int64 [mentions]: the entity each mention belongs to
    num_entities    list of int
    hts             list of int64 [pairs, 2]: (head entity, tail entity)
    labels          float32 [pairs of all documents, classes]
    teacher_scores  the same shape, where all features have them

    A mention whose opening marker was cut off at max_seq_length is left out.
    """
    lengths = [len(feature["input_ids"]) for feature in features]
    input_ids = torch.zeros(len(features), max(lengths), dtype=torch.long)
    mention_pos, mention_entity = [], []
    for row, feature in enumerate(features):
        input_ids[row, : lengths[row]] = torch.tensor(feature["input_ids"])
        pieces = lengths[row] - 2  # without [CLS] and [SEP]
        kept = [
            (start + 1, entity)
            for entity, mentions in enumerate(feature["entity_pos"])
            for start, _ in mentions
            if start < pieces
        ]
        positions = torch.tensor(kept, dtype=torch.long).reshape(-1, 2)
        mention_pos.append(positions[:, 0].contiguous())
        mention_entity.append(positions[:, 1].contiguous())
    batch: dict[str, Any] = {
        "input_ids": input_ids,
        "lengths": lengths,
        "mention_pos": mention_pos,
        "mention_entity": mention_entity,
        "num_entities": [len(feature["entity_pos"]) for feature in features],
        "hts": [torch.tensor(feature["hts"], dtype=torch.long).reshape(-1, 2) for feature in features],
    }
    if all("labels" in feature for feature in features):
        batch["labels"] = torch.from_numpy(np.concatenate([feature["labels"] for feature in features])).float()
    if all("teacher_scores" in feature for feature in features):
        batch["teacher_scores"] = torch.cat([feature["teacher_scores"] for feature in features]).float()
    return batch


def to_device(batch: dict[str, Any], device: torch.device) -> dict[str, Any]:
    """Every tensor of a collated batch on `device`, copied without blocking where its memory is pinned."""

    def move(value: Any) -> Any:
        if isinstance(value, torch.Tensor):
            return value.to(device, non_blocking=True)
        if isinstance(value, list):
            return [move(item) for item in value]
        return value

    return {name: move(value) for name, value in batch.items()}


def describe_device(device: torch.device) -> str:
    """One readable line, e.g. "cuda (NVIDIA A800, 80 GiB)" or "cpu (2 threads)"."""
    if device.type == "cuda":
        found = torch.cuda.get_device_properties(device)
        return f"cuda ({found.name}, {found.total_memory / 2**30:.0f} GiB)"
    return f"{device.type} ({torch.get_num_threads()} threads)"


def describe_environment() -> dict[str, Any]:
    """Python, package versions and the git commit of this checkout, for config.json."""
    here = Path(__file__).parent
    try:
        commit = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=40", "--match="],
            cwd=here,
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        commit = None
    return {
        "python": platform.python_version(),
        "packages": {name: metadata.version(name) for name in PACKAGES},
        "git_commit": commit,
    }
