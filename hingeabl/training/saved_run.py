"""A trained run on disk: the model, its settings and tokenizer, loadable from the run's folder alone."""

from __future__ import annotations

import contextlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from hingeabl.core.losses import Loss, get_loss
from hingeabl.core.model import DocREModel
from hingeabl.data.relations import load_rel2id
from hingeabl.data.tokenizer import load_tokenizer
from hingeabl.errors import UserError, first_line, print_warning, remedy_of
from hingeabl.files import are_numbers, read_json, write_json
from hingeabl.modeling.checkpoints import misfit, read_weights
from hingeabl.training.hub import is_hub_name, resolve_run
from hingeabl.training.settings import Settings, parse_args, read_settings


def save_run(folder: Path, model: DocREModel, tokenizer: PreTrainedTokenizerBase) -> None:
    """Write the files that load_run needs, except the weights: model.json, and encoder/ with its config and tokenizer.
    Raises UserError if that fails."""
    try:
        model.model.config.save_pretrained(folder / "encoder")
        tokenizer.save_pretrained(folder / "encoder")
    except Exception as error:  # tokenizers has no type of its own for a full disk
        raise UserError(f"{folder}/encoder: cannot be written ({first_line(error)}); {remedy_of(error)}") from None
    write_json(folder / "model.json", model.settings)


def load_run(folder: str | Path) -> DocREModel:
    """The model of a run folder, from that folder alone. Raises UserError if files are missing or do not fit."""
    folder = Path(folder)
    settings, weights = read_json(folder / "model.json"), read_weights(folder / "model.safetensors")
    check_depth(folder, settings, len(weights))
    try:
        model = DocREModel(str(folder / "encoder"), **settings, pretrained=False)
    except (TypeError, RuntimeError) as error:  # unknown settings, or sizes beyond the memory
        raise UserError(
            f"{folder}/model.json: does not hold a model's settings ({first_line(error)}); copy the run again"
        ) from None
    fit_weights(model, weights, folder / "model.safetensors")
    return model


def load_checkpoint_file(path: str | Path, encoder: str, num_classes: int) -> DocREModel:
    """The model of a checkpoint file, such as the authors of ATLOP, DocuNet and KD-DocRE released, on an encoder: its
    backbone and sizes follow from the tensors. Raises UserError if they do not fit."""
    weights = read_weights(Path(path))
    shapes = {name: list(tensor.shape) for name, tensor in weights.items()}
    backbones = [backbone for backbone, layer in LAYER_OF.items() if any(name.startswith(layer) for name in shapes)]
    if not shapes.get("head_extractor.weight"):
        raise UserError(f"{path}: has no head_extractor.weight; pass a checkpoint of ATLOP, DocuNet or KD-DocRE")
    layers = {name.split(".")[2] for name in shapes if name.startswith("axial_transformer.axial_attns.")}
    unet = shapes.get("segmentation_net.inc.conv.double_conv.0.weight", [256])
    sizes: dict[str, Any] = {"unet_channels": unet[0], "axial_layers": len(layers), "pretrained": False}
    backbone = backbones[0] if backbones else "atlop"
    model = DocREModel(encoder, num_classes, shapes["head_extractor.weight"][0], backbone=backbone, **sizes)
    fit_weights(model, weights, path)
    return model


def check_depth(folder: Path, settings: Any, tensors: int) -> None:
    """Raise UserError if a run folder's files ask for more layers than there are tensors: unlike sizes that are too
    large, which fail at once, they would be made one by one until the memory is full."""
    for name, field, content in (
        ("model.json", "axial_layers", settings),
        ("encoder/config.json", "num_hidden_layers", read_json(folder / "encoder" / "config.json")),
    ):
        depth = content.get(field) if isinstance(content, dict) else None
        if isinstance(depth, (int, float)) and depth > tensors:
            raise UserError(f"{folder}/{name}: {field}: {depth} layers do not fit the weights; copy the run again")


LAYER_OF = {"docunet": "segmentation_net.", "kd_docre": "axial_transformer."}  # a layer that only this backbone has


def loss_of_run(config: Any, folder: Path, name: str, margin: float | None, rel2id: dict[str, int]) -> Loss:
    """The loss of a run, if it needs priors with those in `config`, the content of config.json. Raises UserError unless
    there is one for each relation."""
    loss = get_loss(name, margin)
    if not loss.needs_priors:
        return loss
    priors = config.get("priors") if isinstance(config, dict) else None
    if not (isinstance(priors, list) and len(priors) == len(rel2id) - 1 and are_numbers(priors, most=1)):
        raise UserError(f"{folder}/config.json: priors: must be {len(rel2id) - 1} rates; copy the run again")
    return get_loss(name, margin, priors)


@dataclass(frozen=True)
class TrainedRun:
    """A run to score documents with. `name` is for the user, its experiment and seed or its name on the hub; `settings`
    are those of its training; `unfinished` is from describe_progress."""

    name: str
    folder: Path
    settings: Settings
    rel2id: dict[str, int]
    tokenizer: PreTrainedTokenizerBase
    model: DocREModel
    loss: Loss
    unfinished: str | None


def refuse_file(run: str | Path) -> None:
    """Raise UserError if a file is given instead of a seed's folder, naming the folder that it lies in."""
    run = Path(run)
    if run.is_file():
        seed_folder = next((f", {folder}" for folder in run.parents[:2] if (folder / "model.json").exists()), "")
        raise UserError(f"--load_path {run}: is a file; pass the seed's folder{seed_folder}")


def describe_progress(run: str | Path) -> str | None:
    """How far a training got, by its seed's folder or a file in it; None if it is finished, that is, has a scores.json,
    and for anything but a run."""
    folder = Path(run) if Path(run).is_dir() else Path(run).parent
    is_run = any((folder / name).exists() for name in ("model.json", "metrics.jsonl"))
    if not is_run or (folder / "scores.json").exists():
        return None
    if not (folder / "metrics.jsonl").exists():
        return "it has no scores.json, as a finished run has"
    scores = []  # dev F1 and epoch
    for line in (folder / "metrics.jsonl").read_text(encoding="utf-8", errors="replace").splitlines():
        with contextlib.suppress(ValueError, TypeError, KeyError):  # the last line may be only half written
            record = json.loads(line)
            scores.append((record["dev"]["f1"], record["epoch"]))
    progress = f"{len(scores)} of {read_settings(folder)['num_train_epochs']} epochs are done"
    best, epoch = max(scores, key=lambda score: (score[0], -score[1]), default=(0, 0))
    return f"{progress}; the weights are of epoch {epoch}, dev F1 {100 * best:.2f}" if scores else progress


def warn_unfinished(option: str, run: str | Path) -> None:
    """Warn on stderr, naming `option`, if a run that is only read is not finished, and how far it got."""
    if progress := describe_progress(run):
        print_warning(f"{option} {run}: is not finished ({progress})")


def refuse_unfinished(option: str, run: str | Path) -> None:
    """Raise UserError, naming `option`, if a run on which something is to be built is not finished."""
    if progress := describe_progress(run):
        raise UserError(
            f"{option} {run}: is not finished ({progress}); run its training again, which goes on, or copy the whole "
            "run"
        )


def open_run(folder: str | Path, device: torch.device, require_finished: bool = False) -> TrainedRun:
    """A seed's folder or a run on the hub, owner/name[@revision]; its model on `device`. Warns if the run is not
    finished, or with `require_finished` raises UserError. Also raises it if the run cannot be downloaded, or files are
    missing or do not fit."""
    refuse_file(folder)
    hub_name = str(folder) if is_hub_name(folder) else None
    folder = resolve_run(folder)
    name = hub_name or "/".join(folder.resolve().parts[-2:])
    (refuse_unfinished if require_finished else warn_unfinished)("--load_path", folder)
    settings = parse_args([f"--load_path={folder}"])
    rel2id = load_rel2id(folder / "rel2id.json")
    model = load_run(folder).to(device)
    config = read_json(folder / "config.json")
    loss = loss_of_run(config, folder, settings.loss_type, settings.margin, rel2id)
    check_outputs_of(model, loss, rel2id, folder / "rel2id.json")
    tokenizer = load_tokenizer(str(folder / "encoder"))
    return TrainedRun(name, folder, settings, rel2id, tokenizer, model, loss, describe_progress(folder))


def check_outputs_of(model: DocREModel, loss: Loss, rel2id: dict[str, int], path: str | Path) -> None:
    """Raise UserError, naming the rel2id file, unless the model has an output for each class and threshold."""
    outputs, expected = model.settings["num_classes"], loss.outputs(len(rel2id))
    if outputs != expected:
        more = f", {expected} outputs with the loss {loss.name}" if expected != len(rel2id) else ""
        raise UserError(f"{path}: has {len(rel2id)} classes{more}, the model {outputs}")


def weights_of(path: str | Path) -> Path:
    """The weights of a seed's folder, or the checkpoint itself."""
    path = Path(path)
    return path / "model.safetensors" if path.is_dir() else path


def run_folder_of(path: str | Path) -> Path | None:
    """The seed's folder of a run, given that folder or the weights in it; None for other checkpoints."""
    folder = weights_of(path).parent
    return folder if all((folder / name).is_file() for name in ("config.json", "model.json", "rel2id.json")) else None


def load_weights(model: DocREModel, path: str | Path) -> None:
    """Load a checkpoint's weights into a model: safetensors, or a file that torch.save wrote; names as ours, or as in
    the checkpoints that the authors of ATLOP, DocuNet and KD-DocRE released (see DocREModel.rename_released_weights).

    Raises UserError, naming weights that are missing, left over or of another shape; the model does not change then.
    """
    fit_weights(model, read_weights(Path(path)), path)


def fit_weights(model: DocREModel, weights: dict[str, Tensor], path: str | Path) -> None:
    """load_weights for tensors that were read from `path`."""
    weights = model.rename_released_weights(weights)
    expected = model.state_dict()
    problems = [f"{name} is missing" for name in expected if name not in weights]
    problems += [f"{name} is left over" for name in weights if name not in expected]
    misfits = {name: misfit(weights[name], tensor) for name, tensor in expected.items() if name in weights}
    problems += [f"{name} {problem}" for name, problem in misfits.items() if problem]
    if problems:
        more = f" and {len(problems) - 3} more" if len(problems) > 3 else ""
        raise UserError(
            f"{path}: does not fit the model: {'; '.join(problems[:3])}{more}; "
            "use the backbone, encoder, emb_size, rel2id and loss that the checkpoint was trained with"
        )
    model.load_state_dict(weights)
