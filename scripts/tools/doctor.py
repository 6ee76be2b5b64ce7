"""Print what this machine has and lacks, a line each: ok, BAD, or -- for something missing or unknown that is not
needed; exit code 1 if something is BAD.

    bash scripts/doctor.sh                 the whole report
    python scripts/tools/doctor.py --gpu   only a GPU that torch cannot use, as set-up asks

Nothing but Python is needed.
"""

from __future__ import annotations

import contextlib
import os
import platform
import shutil
import socket
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from hingeabl.errors import UserError, print_warning, run_command_line
from hingeabl.machine import ask_nvidia_smi, gpu_problem, without_password
from hingeabl.start import numbers, requirements

SECONDS = 10  # to wait for the hub, or for an address
NETWORK = ("HF_ENDPOINT", "HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_HOME", "HF_HUB_CACHE")
NETWORK += ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "all_proxy", "no_proxy")
Line = tuple[str, str, bool | None]  # title, status, whether that is ok (None: missing or unknown, but not needed)
MARKS = {True: "ok ", False: "BAD", None: "-- "}


def system() -> Iterator[Line]:
    """The system, Python, the commit of the clone, free space on its disk."""
    yield "system", platform.platform(), sys.platform != "win32"
    yield "python", f"{platform.python_version()} ({sys.prefix})", sys.version_info >= (3, 10)
    command = ["git", "-C", str(ROOT), "describe", "--always", "--dirty", "--abbrev=40", "--match="]
    try:
        commit = subprocess.run(command, capture_output=True, text=True, timeout=20).stdout.strip()
    except (OSError, subprocess.TimeoutExpired):
        commit = ""
    yield "commit", commit or "unknown: no git, or not a clone", True if commit else None
    free = shutil.disk_usage(ROOT).free / 2**30
    yield "disk", f"{free:.0f} GiB free" + ("" if free > 10 else "; set-up and runs want 10"), free > 10


def host() -> Iterator[Line]:
    """Whether this machine's name resolves to an address, as torchrun needs."""
    name = socket.gethostname()
    addresses: list[Any] = []

    def look_up() -> None:
        with contextlib.suppress(OSError, UnicodeError):
            addresses.extend(socket.getaddrinfo(name, None))

    thread = threading.Thread(target=look_up, daemon=True)
    thread.start()
    thread.join(SECONDS)
    unknown = f"{name} does not resolve; torchrun waits for minutes without --local_addr=127.0.0.1"
    yield "host name", f"{name} resolves" if addresses else unknown, bool(addresses)


def packages() -> Iterator[Line]:
    """Each package of requirements.txt: the version found, and the one needed."""
    for name, lowest in requirements().items():
        needed = f" (at least {lowest} is needed)" if lowest else ""
        try:
            version = metadata.version(name)
        except metadata.PackageNotFoundError:
            yield name, f"not installed{needed}; pip install -r requirements.txt", False
            continue
        yield name, version + needed, numbers(version) >= numbers(lowest)


def gpu() -> Iterator[Line]:
    """The GPUs, their driver, torch's build, and whether these fit."""
    try:
        import torch
    except ImportError as error:
        yield "torch", f"cannot be imported ({error})", False
        return
    for name, driver in ask_nvidia_smi("name", "driver_version"):
        yield "GPU", f"{name}, driver {driver}", True
    yield "torch's build", f"CUDA {torch.version.cuda}" if torch.version.cuda else "CPU alone", True
    problem = gpu_problem()
    usable = torch.cuda.is_available()
    status = problem or ("usable" if usable else "none: trainings run on the CPU")
    yield "GPU for torch", status, False if problem else usable or None


def hub() -> Iterator[Line]:
    """Whether the model hub answers, and the variables that decide how it is asked."""
    for name in NETWORK:
        if os.environ.get(name):
            yield name, without_password(os.environ[name]), True
    try:
        from huggingface_hub.constants import ENDPOINT
    except ImportError:
        yield "hub", "not asked: huggingface_hub is not installed", None
        return
    name = next((name for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE") if os.environ.get(name)), "")
    if os.environ.get(name, "").upper() in ("1", "ON", "YES", "TRUE"):  # as huggingface_hub reads them
        yield "hub", f"not asked: {name} is set", None
        return
    try:
        urllib.request.urlopen(urllib.request.Request(ENDPOINT, method="HEAD"), timeout=SECONDS)
        yield "hub", f"{ENDPOINT} answers", True
    except urllib.error.HTTPError as error:
        yield "hub", f"{ENDPOINT} answers ({error.code})", True
    except (OSError, ValueError) as error:
        reason = getattr(error, "reason", error)
        yield "hub", f"{ENDPOINT} does not answer ({reason}); encoders and data must be fetched by hand", False


def data() -> Iterator[Line]:
    """The files that scripts/tools/fetch.py fetches, with their checksums."""
    try:
        from fetch import CHECKSUMS, ENCODER, ENCODER_SHA256, REDOCRED, has_checksum
    except ImportError as error:
        yield "data", f"not looked at ({error})", None
        return
    files = {REDOCRED / name: ("redocred", checksum) for name, checksum in CHECKSUMS.items()}
    for path, (argument, checksum) in (files | {ENCODER / "model.safetensors": ("encoder", ENCODER_SHA256)}).items():
        name = str(path.relative_to(ROOT))
        if not path.exists():
            yield name, f"not here; python scripts/tools/fetch.py {argument} fetches it", None
        elif has_checksum(path, checksum):
            yield name, "the official file", True
        else:
            yield name, "another checksum: remove it and fetch it again", False


def main() -> None:
    """Print the report."""
    if sys.argv[1:] == ["--gpu"]:
        for title, status, is_ok in gpu():
            if is_ok is False:
                print_warning(f"{title}: {status}")
        return
    if sys.argv[1:]:
        raise UserError(f"{' '.join(sys.argv[1:])}: this program takes no arguments; leave them out")
    lines = [line for part in (system, host, packages, gpu, hub, data) for line in part()]
    width = max(len(title) for title, _, _ in lines)
    for title, status, is_ok in lines:
        print(f"{MARKS[is_ok]}  {title:<{width}}  {status}")
    sys.exit(1 if any(is_ok is False for _, _, is_ok in lines) else 0)


if __name__ == "__main__":
    run_command_line(main)
