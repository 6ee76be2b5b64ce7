"""What a training step and an evaluation batch ask of a GPU, counted without one: tensors that have shape, type and
device, but no data, go through the program's own code on device "cuda".

    python scripts/benchmark/dry_cuda.py --encoder bert-base --backbone atlop --precision fp16 bf16

Prints a JSON list, one record a backbone and precision: see `Record`. It has a process of its own, since torch is made
to believe in a GPU, by dry_cuda.cpp and a few replaced functions. It says nothing about numbers, and nothing of time.
"""

from __future__ import annotations

import argparse
import ctypes
import hashlib
import importlib.metadata
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent


TORCH = Path(importlib.util.find_spec("torch").submodule_search_locations[0])  # not imported: the device comes first
COMPILER = shutil.which("c++") or shutil.which("g++")


def why_not() -> str:
    """Why a dry run is not possible here, "" if it is."""
    if not COMPILER:
        return "no C++ compiler: c++ or g++ is needed"
    built = any(TORCH.glob("lib/*torch_cuda.*"))
    return "torch is built for CUDA: a build for the CPU alone is needed" if built else ""


def build_device() -> Path:
    """Compile dry_cuda.cpp, once for each version of it and of torch. Raises SystemExit if that cannot be."""
    if reason := why_not():
        raise SystemExit(reason)
    source, version = HERE / "dry_cuda.cpp", importlib.metadata.version("torch")
    library = HERE / "__pycache__" / f"dry_cuda_{hashlib.sha256(source.read_bytes()).hexdigest()[:8]}_{version}.so"
    if library.exists():
        return library
    library.parent.mkdir(exist_ok=True)
    temporary = library.with_suffix(f".{os.getpid()}")  # several processes may build it at once
    headers = (TORCH / "include", TORCH / "include/torch/csrc/api/include", sysconfig.get_paths()["include"])
    command = [COMPILER, "-shared", "-fPIC", "-std=c++20", "-O1", *(f"-I{folder}" for folder in headers), source]
    command += ["-o", temporary, f"-L{TORCH}/lib", "-lc10", "-ltorch_cpu", f"-Wl,-rpath,{TORCH}/lib"]
    subprocess.run(command, check=True)
    temporary.rename(library)
    return library


if __name__ == "__main__":
    ctypes.CDLL(str(build_device()))

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode

sys.path[:0] = [str(HERE), str(HERE.parents[1])]

from baseline import Baseline
from dry_counting import GPU, Counting, Phase, Saved
from encoders import CLASSES, CONFIGS, documents_of

import train
import utils
from hingeabl.modeling import encoder as encoder_module
from hingeabl.modeling.attention import ATTENTION
from hingeabl.training.inference import score
from hingeabl.training.steps import build_scaler
from losses import get_loss
from model import DocREModel

aten = torch.ops.aten


@dataclass
class Record:
    """A dry run: what was run, what each phase asked for, and bytes of memory.

    `saved` are the activations that autograd keeps from forward to backward, half-precision copies of weights among
    them; `parameters` is a number, not bytes.
    """

    encoder: str
    backbone: str
    precision: str
    side: str
    phases: dict[str, Phase]
    parameters: int
    saved: int


def attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
) -> Tensor:
    """F.scaled_dot_product_attention by the one operator that a GPU would choose; this build of torch takes steps."""
    if attn_mask is None and query.dtype in (torch.float16, torch.bfloat16):
        return aten._scaled_dot_product_flash_attention(query, key, value, dropout_p, is_causal, scale=scale)[0]
    if attn_mask is not None:
        attn_mask = attn_mask.expand(*query.shape[:-1], key.shape[-2])
    return aten._scaled_dot_product_efficient_attention(
        query, key, value, attn_mask, torch.is_grad_enabled(), dropout_p, is_causal, scale=scale
    )[0]


def read_list(tensor: FakeTensor) -> Any:
    """Tensor.tolist: zeros, after one wait, of a tensor on the GPU."""
    host = tensor.cpu()
    values: Any = 0
    for size in reversed(host.shape):
        values = [values] * size
    return values


def pretend() -> None:
    """Replace functions that ask a real GPU, or cannot handle fake tensors."""
    torch.cuda.is_available = lambda: True
    torch.cuda.is_bf16_supported = lambda *_, **__: True
    torch.nn.utils.clip_grad._has_foreach_support = lambda *_: True
    F.scaled_dot_product_attention = attend
    FakeTensor.tolist = read_list
    # whether an encoder takes windows is tried with numbers; all here do
    encoder_module.takes_windows = lambda encoder: encoder.set_attn_implementation(ATTENTION) is None


class FakeTensors(FakeTensorMode):
    """No number goes to the GPU, not even one that is known."""

    avoid_device_init = True


class Experiment:
    """What train.batch_loss reads of an experiment."""

    def __init__(self, precision: str, evidence_weight: float | None) -> None:
        self.device, self.precision, self.loss = GPU, precision, get_loss("hingeabl_released")
        self.args = argparse.Namespace(evidence_weight=evidence_weight)


def optimizer_for(model: DocREModel, side: str) -> torch.optim.Optimizer:
    """The program's AdamW, or a loop over parameters as in the released program."""
    rates = argparse.Namespace(learning_rate=5e-5, classifier_lr=1e-4, module_lr=None, adam_epsilon=1e-6)
    optimizer = train.build_optimizer(model, rates)
    if side == "ours":
        return optimizer
    groups = [{"params": group["params"], "lr": group["lr"]} for group in optimizer.param_groups]
    return torch.optim.AdamW(groups, eps=1e-6, weight_decay=0.0, foreach=False, fused=False)


def move(networks: nn.Module) -> None:
    """Put parameters and buffers on the GPU, those that modules share once."""
    moved: dict[Any, Any] = {}
    for module in networks.modules():
        for name, value in [*module._parameters.items(), *module._buffers.items()]:
            if value is not None and value not in moved:
                empty = torch.empty(value.shape, dtype=value.dtype, device=GPU)
                moved[value] = nn.Parameter(empty) if name in module._parameters else empty
            if value is not None:
                setattr(module, name, moved[value])


def with_sentences(feature: dict[str, Any]) -> dict[str, Any]:
    """The feature with sentences of thirty word pieces, the first of which is the evidence of the first pair."""
    ends = [*range(30, len(feature["input_ids"]) - 2, 30), len(feature["input_ids"]) - 2]
    return {**feature, "sentence_ends": ends, "evidence": np.zeros((2, 1), dtype=np.int32)}


def run(args: argparse.Namespace, folder: str, backbone: str, precision: str) -> Record:
    """A training step, the second of two, and an evaluation batch."""
    features, ours = documents_of(args.encoder, args.largest), args.side == "ours"
    experiment = Experiment(precision, 0.1 if args.evidence else None)
    if args.evidence:
        features = [with_sentences(feature) for feature in features]
    counting = Counting()
    with torch.device("meta"):
        model = DocREModel(folder, CLASSES, backbone=backbone, pretrained=False).train()
        network = model if ours else Baseline(model, folder)
    with FakeTensors(), torch.autograd.set_multithreading_enabled(False):
        move(nn.ModuleList([model, network]))
        if args.checkpointing:
            encoder_module.checkpoint_layers(model.model)
        optimizer = optimizer_for(model, args.side)
        scheduler = torch.optim.lr_scheduler.ConstantLR(optimizer, factor=1.0)
        scaler = build_scaler(GPU, precision)
        saved = Saved(model)

        def step() -> Tensor:
            if not ours:
                labels = torch.tensor([row for feature in features for row in feature["labels"]]).float().to(GPU)
                with utils.autocast(GPU, precision):
                    scores = network(features)
                experiment.loss.predict(scores, 4)  # the released program decides at each training step too
                return experiment.loss(scores, labels)
            collated = utils.collate_fn(features)
            batch = utils.to_device(collated, GPU)
            if args.fault == "cpu":
                batch["mention_pos"] = collated["mention_pos"]
            return train.batch_loss(experiment, network, batch)

        for counting.counts in (False, True):
            with counting:
                counting.start("forward")
                saved.kept.clear()
                with torch.autograd.graph.saved_tensors_hooks(saved.pack, lambda tensor: tensor):
                    loss = step()
                if args.fault == "item":
                    loss.item()
                kept = saved.total()
                counting.start("backward")
                scaler.scale(loss).backward()
                counting.start("optimizer")
                train.optimizer_step(model, optimizer, scheduler, scaler, 1.0)
        counting.start("evaluation")
        with counting, torch.no_grad():
            network.eval()
            if ours:
                list(score(model, features, GPU, precision, 10**9))  # after which nothing is left on the GPU
            else:
                with utils.autocast(GPU, precision):
                    experiment.loss.predict(network(features), 4).cpu()
    parameters = sum(parameter.numel() for parameter in model.parameters())
    return Record(args.encoder, backbone, precision, args.side, counting.phases, parameters, kept)


def main() -> None:
    """Run what the command line asks for, and print the records."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--encoder", choices=CONFIGS, default="tiny")
    parser.add_argument("--backbone", nargs="+", choices=("atlop", "docunet", "kd_docre"), default=["atlop"])
    parser.add_argument("--precision", nargs="+", choices=("fp16", "bf16", "fp32"), default=["fp16"])
    parser.add_argument("--side", choices=("ours", "baseline"), default="ours")
    parser.add_argument("--checkpointing", action="store_true", help="keep a layer's input only")
    parser.add_argument("--evidence", action="store_true", help="with --evidence_weight 0.1")
    parser.add_argument("--largest", action="store_true", help="the largest documents instead of usual ones")
    parser.add_argument("--fault", choices=("item", "cpu"), help="a deliberate one, which must be found")
    args = parser.parse_args()
    pretend()
    with tempfile.TemporaryDirectory() as folder:
        CONFIGS[args.encoder].save_pretrained(folder)
        records = [run(args, folder, backbone, precision) for backbone in args.backbone for precision in args.precision]
    print(json.dumps([asdict(record) for record in records]))


if __name__ == "__main__":
    main()
