"""How a program starts: what this machine lacks is told in one line, not in a traceback. It needs Python alone."""

import functools
import os
import re
import sys
from importlib import metadata
from types import TracebackType

from hingeabl.core import ROOT

REQUIREMENTS = ROOT / "requirements.txt"
INSTALL = "bash scripts/test.sh sets up an environment that fits, or: pip install -r requirements.txt"


def tell(error_type: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """sys.excepthook: what no program catches, told as always, except for a missing package."""
    if isinstance(error, ModuleNotFoundError):
        print(f"error: {error.name} is not installed; pip install -r requirements.txt", file=sys.stderr)
    else:
        sys.__excepthook__(error_type, error, trace)


def requirements() -> dict[str, str]:
    """Package -> its lowest version, "" for any, from requirements.txt."""
    lines = REQUIREMENTS.read_text(encoding="utf-8").splitlines()
    return {line.partition(">=")[0]: line.partition(">=")[2] for line in lines if line and not line.startswith("#")}


def numbers(version: str) -> list[int]:
    """The numbers at a version's beginning, for comparison: "2.13.0+cpu" -> [2, 13, 0]."""
    return [int(part) for part in re.match(r"[\d.]*", version)[0].split(".") if part]  # type: ignore[index]


def too_old() -> list[str]:
    """Installed packages that are older than requirements.txt asks for, each with both versions."""
    outdated = []
    for name, lowest in requirements().items():
        try:
            version = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue  # told when it is imported
        if numbers(version) < numbers(lowest):
            outdated.append(f"{name} {version} is installed, at least {lowest} is needed")
    return outdated


def set_allocator() -> None:
    """Let torch grow pieces of GPU memory instead of cutting up fixed ones, as batches are of many shapes; unless the
    user has set it up. It must be known before CUDA starts."""
    if not any(name in os.environ for name in ("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF")):
        os.environ["PYTORCH_ALLOC_CONF"] = "expandable_segments:True"


def check_machine() -> None:
    """End the program in one line where it cannot run: on native Windows, with an old Python or old packages."""
    problem = ""
    if sys.platform == "win32":
        problem = "native Windows is not supported; run this on Linux, macOS or in WSL"
    elif sys.version_info < (3, 10):  # noqa: UP036
        problem = f"Python {sys.version.split()[0]} is running this, at least 3.10 is needed"
    elif old := too_old():
        problem = f"{'; '.join(old)}; {INSTALL}"
    if problem:
        print(f"error: {problem}", file=sys.stderr)
        sys.exit(1)


@functools.cache
def start() -> None:
    """What a program does first, once: it ends in one line where it cannot run, and tells so of missing packages."""
    sys.excepthook = tell
    set_allocator()
    check_machine()
