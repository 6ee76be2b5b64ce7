"""Weights on disk: safetensors, or the .pt files that the authors of the three modules released.

Nothing in a file is run when it is read: .pt files are read as tensors only.
"""

from __future__ import annotations

import pickle
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from hingeabl.errors import UserError, first_line
from hingeabl.files import save_tensors


def save_weights(path: Path, model: nn.Module) -> None:
    """Write a model's state dict as safetensors, whole or not at all. Raises UserError where that fails."""
    save_tensors(path, {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()})


def misfit(found: Tensor, wanted: Tensor) -> str:
    """Why a tensor is not to be loaded in the place of another; "" where it is."""
    plain = found.layout == torch.strided and found.device.type == "cpu" and not found.is_quantized
    if not plain or found.is_floating_point() != wanted.is_floating_point():
        return f"holds another kind of numbers ({found.dtype})"
    if found.shape != wanted.shape:
        return f"has shape {list(found.shape)}, not {list(wanted.shape)}"
    return "" if found.float().isfinite().all() else "holds numbers that are not finite"


def read_weights(path: Path) -> dict[str, Tensor]:
    """A checkpoint's tensors by name; of a .pt file, those under its key "checkpoint" where it has one.

    Raises UserError for a file that is missing or broken, or that holds anything but tensors.
    """
    try:
        if path.suffix in (".pt", ".pth", ".bin"):
            weights = torch.load(path, map_location="cpu", weights_only=True)
        else:
            weights = load_file(path)
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; check the path") from None
    except pickle.UnpicklingError:
        raise UserError(f"{path}: is broken, or holds something else than tensors, which is not loaded") from None
    except Exception as error:  # torch and safetensors each raise what they like on a broken file
        raise UserError(f"{path}: not a whole checkpoint ({first_line(error)}); copy it again") from None
    if isinstance(weights, dict):
        weights = weights.get("checkpoint", weights)
    fits = isinstance(weights, dict) and all(isinstance(name, str) for name in weights)
    if not fits or not all(isinstance(tensor, Tensor) for tensor in weights.values()):
        raise UserError(f"{path}: holds something else than named tensors; pass a model's state dict")
    return weights
