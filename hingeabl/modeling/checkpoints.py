"""Weights on disk: safetensors, or the .pt files that the authors of the three modules released.

Nothing in a file is run when it is read: .pt files are read as tensors only.
"""

from __future__ import annotations

import pickle
import re
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor, nn

from hingeabl.compressed import expand
from hingeabl.errors import UserError, first_line
from hingeabl.files import refuse_non_data_file, save_tensors

WRAPPERS = ("checkpoint", "state_dict", "model_state_dict", "model")  # keys under which programs put a state dict


def save_weights(path: Path, model: nn.Module, epoch: int) -> None:
    """Write a model's state dict after an epoch as safetensors, whole or not at all. Raises UserError if that fails."""
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    save_tensors(path, tensors, {"epoch": str(epoch)})


def epoch_of_weights(path: Path) -> int | None:
    """The epoch of a file that save_weights wrote; None for another file, or none."""
    try:
        with safe_open(path, "pt") as file:
            return int((file.metadata() or {})["epoch"])
    except (OSError, SafetensorError, ValueError, KeyError):
        return None


def misfit(loaded: Tensor, expected: Tensor) -> str:
    """Why a loaded tensor can't replace the expected one; "" if it can."""
    plain = loaded.layout == torch.strided and loaded.device.type == "cpu" and not loaded.is_quantized
    if not plain or loaded.is_floating_point() != expected.is_floating_point():
        return f"holds another kind of numbers ({loaded.dtype})"
    if loaded.shape != expected.shape:
        return f"has shape {list(loaded.shape)}, not {list(expected.shape)}"
    return "" if loaded.float().isfinite().all() else "holds numbers that are not finite"


def read_weights(path: Path) -> dict[str, Tensor]:
    """A checkpoint's tensors by name, without a wrapper's prefix; those under a key of WRAPPERS if a .pt file has one.

    Raises UserError for a file that is missing or broken, or that holds anything but tensors.
    """
    refuse_non_data_file(path)
    try:
        if path.suffix in (".pt", ".pth", ".bin"):
            weights = torch.load(path, map_location="cpu", weights_only=True)
        else:
            weights = expand(load_file(path))
    except pickle.UnpicklingError as error:
        raise UserError(f"{path}: {why_not_unpickled(str(error), path)}") from None
    except Exception as error:  # torch and safetensors each raise what they like on a broken file
        raise UserError(f"{path}: not a whole checkpoint ({first_line(error)}); copy it again") from None
    while isinstance(weights, dict) and (key := next((key for key in WRAPPERS if is_state(weights.get(key))), "")):
        weights = weights[key]
    fits = isinstance(weights, dict) and all(isinstance(name, str) for name in weights)
    if not fits or not all(isinstance(tensor, Tensor) for tensor in weights.values()):
        raise UserError(f"{path}: holds something else than named tensors; pass a model's state dict")
    return without_prefix(weights)


def is_state(value: Any) -> bool:
    """Whether the value can be a state dict."""
    return isinstance(value, dict) and bool(value) and all(isinstance(name, str) for name in value)


def without_prefix(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors without a wrapper's prefix before every name, such as DataParallel's "module."."""
    names = [name for name in weights if name.endswith("head_extractor.weight")]
    prefix = names[0].removesuffix("head_extractor.weight") if len(names) == 1 else ""
    if not prefix and all(name.startswith("module.") for name in weights):
        prefix = "module."
    return {name.removeprefix(prefix): tensor for name, tensor in weights.items()}


def why_not_unpickled(message: str, path: Path) -> str:
    """Why torch does not load a .pt file as tensors alone, with the remedy."""
    match = re.search(r"GLOBAL ([\w.]+)", message)
    if not match:
        return "is broken, or holds something else than tensors; download it again"
    return (
        f"holds something else than tensors ({match[1]}), and reading that would run code of the file; if you trust "
        f"it, extract its tensors: python -c \"import torch; c = torch.load('{path.name}', weights_only=False); "
        "c = c.get('state_dict', c.get('model', c)); "
        "torch.save({k: v for k, v in c.items() if torch.is_tensor(v)}, 'tensors.pt')\""
    )
