"""A run's model on disk, and checkpoints: safetensors, or what the authors of the three modules released.

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
from model import DocREModel


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


def load_weights(model: DocREModel, path: str | Path) -> None:
    """Load a checkpoint's weights into a model: safetensors, or a file that torch.save wrote; names as ours, or as in
    the checkpoints that the authors of ATLOP, DocuNet and KD-DocRE released (see DocREModel.adopt_names).

    Raises UserError, naming what is missing, left over or of another shape, and changes nothing then.
    """
    fit_weights(model, read_weights(Path(path)), path)


def fit_weights(model: DocREModel, weights: dict[str, Tensor], path: str | Path) -> None:
    """load_weights of tensors that were read from `path`."""
    weights = model.adopt_names(weights)
    wanted = model.state_dict()
    problems = [f"{name} is missing" for name in wanted if name not in weights]
    problems += [f"{name} is left over" for name in weights if name not in wanted]
    misfits = {name: misfit(weights[name], tensor) for name, tensor in wanted.items() if name in weights}
    problems += [f"{name} {problem}" for name, problem in misfits.items() if problem]
    if problems:
        more = f" and {len(problems) - 3} more" if len(problems) > 3 else ""
        raise UserError(
            f"{path}: does not fit the model: {'; '.join(problems[:3])}{more}; "
            "use the backbone, encoder, emb_size and rel2id that the checkpoint was trained with"
        )
    model.load_state_dict(weights)


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
