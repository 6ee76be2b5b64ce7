"""Install the build of torch that this machine's GPU can run, where pip by itself would take another one.

    .venv/bin/python scripts/tools/torch_build.py     scripts/setup.sh runs this before it installs the lock file

TORCH_INDEX_URL, where it is set, is the index that torch comes from. Else uv, if it is installed, takes the build that
fits, or the one that UV_TORCH_BACKEND names; without uv a line says which build fits, and pip goes on with its own.
Nothing but Python is needed.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from hingeabl.machine import ask_nvidia_smi, without_password

TORCH = "2.13.0"  # as scripts/requirements/requirements.lock pins it; a new version may have other builds


class Build(NamedTuple):
    """A build of torch: the oldest driver, and the compute capabilities that it has code for."""

    name: str
    driver: int
    lowest: float
    highest: float


BUILDS = (  # the newest first: pip takes it by itself. One that an index lacks is passed over
    Build("cu130", 580, 7.5, 99),
    Build("cu128", 570, 7.5, 99),
    Build("cu126", 525, 5.0, 9.0),  # any driver of CUDA 12 runs it
)
GPU_SIGNS = ("/dev/nvidiactl", "/dev/dxg")  # a GPU that a container or WSL shows without nvidia-smi


class Gpu(NamedTuple):
    """A GPU; its compute capability is None if the driver is too old to tell."""

    name: str
    driver: str
    capability: float | None


def number(text: str) -> float | None:
    """The number that a text such as 580.65.06 starts with."""
    match = re.match(r"\d+(\.\d+)?", text)
    return float(match[0]) if match else None


def gpus() -> list[Gpu]:
    """The GPUs of this machine whose driver is known."""
    rows = ask_nvidia_smi("name", "driver_version", "compute_cap")
    rows = rows or [[*values, ""] for values in ask_nvidia_smi("name", "driver_version")]
    return [Gpu(name, driver, number(capability)) for name, driver, capability in rows if number(driver)]


def runs(build: Build, gpu: Gpu) -> bool:
    """Whether a build runs on a GPU with its driver."""
    fits = gpu.capability is None or build.lowest <= gpu.capability <= build.highest
    return fits and (number(gpu.driver) or 0) >= build.driver


def fitting(installed: list[Gpu]) -> list[str]:
    """The builds that run on all of these GPUs, the newest first."""
    return [build.name for build in BUILDS if all(runs(build, gpu) for gpu in installed)]


def wanted(installed: list[Gpu]) -> list[str]:
    """The builds to try instead of the one that pip takes by itself, the best first; [] where that one is right."""
    if os.environ.get("UV_TORCH_BACKEND"):
        return [os.environ["UV_TORCH_BACKEND"]]
    if installed:
        fits = fitting(installed)
        return [] if BUILDS[0].name in fits else fits
    # a driver that does not run may do so later, and the other nodes of a cluster have GPUs
    gpu_likely = shutil.which("nvidia-smi") or shutil.which("sbatch") or any(map(os.path.exists, GPU_SIGNS))
    return [] if gpu_likely or sys.platform != "linux" else ["cpu"]


def pip(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the pip of this Python; what it prints to stderr is shown."""
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", *arguments]
    return subprocess.run(command, stdout=subprocess.PIPE, text=True)


def has_own_index() -> bool:
    """Whether pip is told where packages come from: then torch comes from there too."""
    return bool(re.search(r"index-url|find-links|no-index", pip("config", "list").stdout))


def install_by_uv(builds: list[str]) -> str:
    """The first of these builds that uv could install; "" for none."""
    for build in builds:
        command = ["uv", "pip", "install", "--quiet", "--python", sys.executable, "--torch-backend", build]
        if subprocess.run([*command, f"torch=={TORCH}"], stderr=subprocess.DEVNULL).returncode == 0:
            return build
    return ""


def warning(installed: list[Gpu], fits: list[str]) -> str:
    """What is wrong with the build that pip takes, and the remedy; "" if it is right."""
    gpu = next((gpu for gpu in installed if not runs(BUILDS[0], gpu)), None)
    if not gpu:
        return ""
    least = min(build.driver for build in BUILDS)
    capability = f", compute capability {gpu.capability}" if gpu.capability else ""
    problem = (
        f"{gpu.name} (driver {gpu.driver}{capability}) cannot run the build of torch {TORCH} that pip takes "
        f"({BUILDS[0].name}: driver {BUILDS[0].driver}, compute capability {BUILDS[0].lowest} or newer)"
    )
    if not fits:
        return f"{problem}, nor another build: update the driver (to {least} at least), or work on the CPU"
    return (
        f"{problem}, but {' or '.join(fits)} fits: stop this, remove .venv, and either run again with "
        f"TORCH_INDEX_URL=ADDRESS, the --index-url that the selector of torch's web page shows for {fits[0]}, or with "
        f"uv installed and UV_TORCH_BACKEND={fits[0]}; or update the driver"
    )


def main() -> None:
    """Install torch if it must not be pip's own choice."""
    if url := os.environ.get("TORCH_INDEX_URL"):
        if pip("install", "--quiet", "--index-url", url, f"torch=={TORCH}").returncode:
            sys.exit(f"error: torch {TORCH} could not be installed from TORCH_INDEX_URL={without_password(url)}")
        return
    installed, chosen = gpus(), os.environ.get("UV_TORCH_BACKEND")
    builds, uv = wanted(installed), shutil.which("uv")
    if shutil.which("nvidia-smi") and not installed:
        print("nvidia-smi reports no GPU (run it to see why); set-up takes torch for one all the same", file=sys.stderr)
    if builds and uv and (chosen or not has_own_index()):
        if build := install_by_uv(builds):
            print(f"torch {TORCH}: uv took the build {build}")
            return
        print(f"uv could not install torch {TORCH} for {' or '.join(builds)}; pip takes its own build", file=sys.stderr)
    if chosen and not uv:
        print(f"WARNING: UV_TORCH_BACKEND={chosen} is for uv, which is not installed", file=sys.stderr)
    if text := warning(installed, fitting(installed)):
        print(f"WARNING: {text}", file=sys.stderr)


if __name__ == "__main__":
    main()
