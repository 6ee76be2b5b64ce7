"""The machine: whether torch can use its GPU, and how it reaches the model hub."""

from __future__ import annotations

import os
import pickle
import re
import shutil
import subprocess
from importlib.util import find_spec

from hingeabl.errors import UserError, first_line

PROXIES = ("http_proxy", "https_proxy", "all_proxy")
WHEELS = "see the selector of torch's web page for the build that fits, and install it with pip"


def ask_nvidia_smi(*fields: str) -> list[list[str]]:
    """These fields of each GPU that nvidia-smi reports; [] if it is missing, fails or does not know a field."""
    program = shutil.which("nvidia-smi")
    if not program:
        return []
    command = [program, f"--query-gpu={','.join(fields)}", "--format=csv,noheader"]
    try:
        completed = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        return []
    lines = completed.stdout.splitlines() if completed.returncode == 0 else []
    rows = [[value.strip() for value in line.split(",")] for line in lines]
    return [values for values in rows if len(values) == len(fields)]


def gpu_problem() -> str:
    """Why torch cannot use this machine's GPU, with the remedy; "" if it can, or if there is no GPU."""
    import torch  # here, since set-up asks for the GPUs before it installs torch

    if torch.cuda.is_available():
        try:
            torch.ones(8, device="cuda").mul(2).sum().item()
        except (RuntimeError, AssertionError) as error:
            name, capability = torch.cuda.get_device_name(), torch.cuda.get_device_capability()
            kernels = ", ".join(torch.cuda.get_arch_list()) or "none"
            return (
                f"GPU {name} (compute capability {capability[0]}.{capability[1]}) cannot be used by torch "
                f"{torch.__version__}, which has kernels for {kernels} ({first_line(error)}); {WHEELS}"
            )
        return ""
    gpus = ask_nvidia_smi("name", "driver_version")
    if not gpus:
        return ""
    hidden = os.environ.get("CUDA_VISIBLE_DEVICES")
    if hidden is not None and hidden.split(",")[0].strip() in ("", "-1"):
        return ""  # hidden on purpose
    name, driver = gpus[0]
    build = f"built for CUDA {torch.version.cuda}" if torch.version.cuda else "a build for the CPU alone"
    cause = "the driver is too old for it, or does not run" if torch.version.cuda else "it has no GPU code"
    return (
        f"this machine has a GPU ({name}, driver {driver}), but torch {torch.__version__} ({build}) cannot use it: "
        f"{cause}; update the driver, or {WHEELS}"
    )


def check_gpu() -> None:
    """Raise UserError if there is a GPU that torch cannot use: training without it would take days."""
    if problem := gpu_problem():
        raise UserError(f"{problem}; or pass --device cpu to work without the GPU")


def without_password(address: str) -> str:
    """A URL without the user name and password that it may hold."""
    return re.sub(r"//[^/@]*@", "//***@", address)


def looks_like_path(name: str) -> bool:
    """Whether an encoder's name looks like a folder rather than a name on the hub."""
    return (
        name.startswith(("/", ".", "~")) or name.count("/") > 1 or ("/" in name and os.path.isdir(name.split("/")[0]))
    )


def why_not_loaded(name: str, error: Exception) -> str:
    """Why an encoder or its tokenizer cannot be loaded: a problem with its folder or weights, or the error's
    message."""
    if looks_like_path(name) and not os.path.exists(name):
        return "there is no such folder"
    if os.path.isfile(name):
        return "it is a file, not a folder"
    if os.path.isdir(name) and not os.path.exists(os.path.join(name, "config.json")):
        return "there is no config.json in it"
    if isinstance(error, pickle.UnpicklingError):  # torch's own advice is to run what is in the file
        return "its weights are broken, or hold something else than tensors"
    return first_line(error)


def hub_hint(name: str) -> str:
    """Environment settings that affect access to the model hub, for the end of a message about an encoder of that name;
    "" if there are none, or if the name is a local folder."""
    if os.path.isdir(name):
        return ""
    proxies = {name: without_password(value) for name, value in os.environ.items() if name.lower() in PROXIES}
    socks = next((f"{name}={value}" for name, value in proxies.items() if value.lower().startswith("socks")), "")
    if socks and find_spec("socksio") is None:
        return f"; the proxy {socks} needs the package socksio: pip install socksio"
    settings = [f"{name}={value}" for name, value in proxies.items() if value]
    names = ("HF_ENDPOINT", "HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")
    settings += [f"{name}={without_password(os.environ[name])}" for name in names if os.environ.get(name)]
    return f"; set here: {', '.join(settings)}" if settings else ""
