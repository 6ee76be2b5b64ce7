"""How a program starts: a missing requirement is reported in one line, not in a traceback. Needs Python alone, even an
old one."""

from __future__ import annotations

import os
import re
import sys
from importlib import metadata
from types import TracebackType

from hingeabl.core import ROOT

REQUIREMENTS = ROOT / "requirements.txt"
INSTALL = "bash scripts/test.sh sets up an environment that fits, or: pip install -r requirements.txt"


def report_uncaught(error_type: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """sys.excepthook: a missing package is one line, every other uncaught exception the usual traceback."""
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


def outdated_packages() -> list[str]:
    """A message part for each installed package that is older than requirements.txt asks for."""
    outdated = []
    for name, lowest in requirements().items():
        try:
            version = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue  # reported when it is imported
        if numbers(version) < numbers(lowest):
            outdated.append(f"{name} {version} is installed, at least {lowest} is needed")
    return outdated


def set_allocator() -> None:
    """Let torch grow segments of GPU memory instead of splitting fixed ones, as batches have many shapes; unless the
    user has set it. It must be set before CUDA starts."""
    if not any(name in os.environ for name in ("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF")):
        os.environ["PYTORCH_ALLOC_CONF"] = "expandable_segments:True"


def check_machine() -> None:
    """End the program with one line where it cannot run: on native Windows, with an old Python or old packages."""
    problem = ""
    if sys.platform == "win32":
        problem = "native Windows is not supported; run this on Linux, macOS or in WSL"
    elif sys.version_info < (3, 10):  # noqa: UP036
        problem = f"Python {sys.version.split()[0]} is running this, at least 3.10 is needed"
    elif old := outdated_packages():
        problem = f"{'; '.join(old)}; {INSTALL}"
    if problem:
        print(f"error: {problem}", file=sys.stderr)
        sys.exit(1)


def start(name: str) -> None:
    """The first call of a program, with its __name__: end with one line if it cannot run here or a package is missing.
    Nothing is done in a module that is imported."""
    if name == "__main__":
        sys.excepthook = report_uncaught
        set_allocator()
        check_machine()
