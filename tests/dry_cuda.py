"""What a training step and an evaluation batch ask of a GPU, counted without one: tensors that have shape, type and
device, but no data, go through the program's own code on device "cuda".

    python tests/dry_cuda.py --encoder bert-base --backbone atlop --precision fp16 bf16

Prints a JSON list, one record a backbone and precision: see `Record`. It has a process of its own, since torch is made to
believe in a GPU, by dry_cuda.cpp and a few replaced functions. It says nothing about numbers, and nothing of time.
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
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent


def build_device() -> Path:
    """Compile dry_cuda.cpp, once for each version of it and of torch. Raises SystemExit without a compiler."""
    compiler = shutil.which("c++") or shutil.which("g++")
    if not compiler:
        raise SystemExit("no C++ compiler: c++ or g++ is needed")
    source, version = HERE / "dry_cuda.cpp", importlib.metadata.version("torch")
    library = HERE / "__pycache__" / f"dry_cuda_{hashlib.sha256(source.read_bytes()).hexdigest()[:8]}_{version}.so"
    if library.exists():
        return library
    found = importlib.util.find_spec("torch")
    torch_folder = Path(found.submodule_search_locations[0])  # without importing it: the device comes first
    headers = [
        torch_folder / "include",
        torch_folder / "include/torch/csrc/api/include",
        sysconfig.get_paths()["include"],
    ]
    library.parent.mkdir(exist_ok=True)
    own = library.with_suffix(f".{os.getpid()}")
    command = [compiler, "-shared", "-fPIC", "-std=c++20", "-O1", *(f"-I{folder}" for folder in headers), source]
    command += ["-o", own, f"-L{torch_folder}/lib", "-lc10", "-ltorch_cpu", f"-Wl,-rpath,{torch_folder}/lib"]
    subprocess.run(command, check=True)
    own.rename(library)
    return library


if __name__ == "__main__":
    ctypes.CDLL(str(build_device()))

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.flop_counter import flop_registry

sys.path[:0] = [str(HERE), str(HERE.parent)]

from baseline import Baseline
from encoders import CONFIGS

import train
import utils
from hingeabl.data.documents import load_rel2id
from hingeabl.modeling import encoder as encoder_module
from hingeabl.modeling.attention import ATTENTION
from hingeabl.training.inference import predict
from hingeabl.training.scaling import build_scaler
from losses import get_loss
from model import DocREModel

GPU = torch.device("cuda", 0)
CLASSES = 97
DOCUMENTS = {  # (word pieces, entities), as Re-DocRED's: four windows, and five
    "bert-base": [(212, 14), (251, 17), (296, 20), (371, 27)],
    "roberta-large": [(224, 14), (268, 17), (331, 20), (602, 29)],
}
PHASES = ("forward", "backward", "optimizer", "evaluation")
NO_KERNEL = {"_unsafe_view", "_reshape_alias", "resize_", "set_", "lift_fresh", "_local_scalar_dense", "equal", "item"}
ROWS_OF_TABLE = {"embedding", "index_select", "gather", "index"}  # read as many bytes of a table as they write
aten = torch.ops.aten


@dataclass
class Phase:
    """What a phase asks of the GPU.

    operators     calls that launch work there: no views, no allocations; a foreach call and an attention are one
    casts         those that change a tensor's type alone
    copies        from the host to the GPU
    flops         of products
    bytes         read and written: inputs and outputs of each operator
    waits         places where the host waits for the GPU
    wrong_device  operators with tensors on both devices, and the place
    names         operators by name
    """

    operators: int = 0
    casts: int = 0
    copies: int = 0
    flops: int = 0
    bytes: int = 0
    waits: list[str] = field(default_factory=list)
    wrong_device: list[str] = field(default_factory=list)
    names: dict[str, int] = field(default_factory=dict)


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


def place() -> str:
    """The line of the program that runs now: the innermost of the repository but this file's."""
    frame = sys._getframe(2)
    while frame:
        path = Path(frame.f_code.co_filename)
        if HERE.parent in path.parents and path != Path(__file__) and ".venv" not in path.parts:
            return f"{path.relative_to(HERE.parent)}:{frame.f_lineno}"
        frame = frame.f_back
    return "elsewhere"


def tensors_of(values: Any) -> list[Tensor]:
    """All tensors of nested values, each once."""
    return list({id(value): value for value in tree_leaves(values) if isinstance(value, Tensor)}.values())


def bytes_of(tensor: Tensor) -> int:
    """Bytes of memory behind a tensor: of an expanded one, what it was expanded from."""
    return min(tensor.numel() * tensor.element_size(), tensor.untyped_storage().nbytes())


class Counting(TorchDispatchMode):
    """Counts what passes into `phases[phase]`; answers what only a real GPU could, so that a wait is noted and does
    not end the run."""

    def __init__(self) -> None:
        super().__init__()
        self.phases = {name: Phase() for name in PHASES}
        self.now = self.phases["forward"]

    def start(self, phase: str) -> None:
        """Count into this phase from now on."""
        self.now = self.phases[phase] = Phase()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = func._schema.name.split("::")[1]
        inputs = tensors_of((args, kwargs))
        on_gpu = any(tensor.device.type == "cuda" for tensor in inputs)
        if name == "_local_scalar_dense":
            return self.read(args[0])
        if on_gpu and name not in ("_to_copy", "copy_", "_foreach_copy_"):
            args, kwargs = self.check_devices(name, args, kwargs)
        if name in ("index", "index_put", "index_put_", "_index_put_impl_"):
            args = self.without_masks(args)
        if name in ("nonzero", "bincount") and on_gpu:
            self.note_wait(name)
            size = (max(args[0].numel() // 50, 1), args[0].dim()) if name == "nonzero" else args[2]
            found = torch.empty(size, dtype=torch.int64, device=GPU)
        else:
            found = func(*args, **kwargs)
        outputs = tensors_of(found)
        if on_gpu or any(tensor.device.type == "cuda" for tensor in outputs):
            self.count(func, name, args, kwargs, found, inputs, outputs)
        return found

    def read(self, tensor: Tensor) -> Any:
        """A tensor's number on the host: zero of a GPU's, after a wait; one of the CPU's, such as a counted step."""
        if tensor.device.type == "cuda":
            self.note_wait("item")
        value = bool if tensor.dtype == torch.bool else float if tensor.is_floating_point() else int
        return value(tensor.device.type == "cpu")

    def note_wait(self, what: str) -> None:
        """The host waits for the GPU here."""
        self.now.waits.append(f"{place()} {what}")

    def check_devices(self, name: str, args: Any, kwargs: Any) -> Any:
        """Note an operator that has a GPU's tensor and one of the CPU's that is no single number; go on as if all were
        on the GPU."""
        stray = [tensor for tensor in tensors_of((args, kwargs)) if tensor.device.type == "cpu" and tensor.dim()]
        if not stray:
            return args, kwargs
        self.now.wrong_device.append(f"{place()} {name}")
        moved = {id(tensor): torch.empty(tensor.shape, dtype=tensor.dtype, device=GPU) for tensor in stray}
        return tree_map(lambda value: moved.get(id(value), value), (args, kwargs))

    def without_masks(self, args: Any) -> Any:
        """An index's arguments with numbers in a mask's place, half as many as it has entries: to count them waits. A
        single number put where a mask is true needs no count."""
        tensor, indices, *rest = args
        if not any(index is not None and index.dtype in (torch.bool, torch.uint8) for index in indices):
            return args
        if rest and rest[0].numel() == 1:
            return args
        if tensor.device.type == "cuda":
            self.note_wait("mask as index")
        numbers = []
        for index in indices:
            masked = index is not None and index.dtype in (torch.bool, torch.uint8)
            count = index.numel() // 2 if masked else 0
            numbers += (
                [torch.empty(count, dtype=torch.int64, device=tensor.device)] * index.dim() if masked else [index]
            )
        return tensor, numbers, *rest

    def count(
        self, func: Any, name: str, args: Any, kwargs: Any, found: Any, inputs: list[Tensor], outputs: list[Tensor]
    ) -> None:
        """Add an operator that touches the GPU."""
        returns = func._schema.returns
        is_view = bool(returns) and all(value.alias_info and not value.alias_info.is_write for value in returns)
        if is_view or name in NO_KERNEL or name.startswith(("empty", "new_empty")):
            return
        if not outputs:  # foreach and fused operators return nothing
            places = zip(func._schema.arguments, args, strict=False)
            outputs = tensors_of([value for place, value in places if place.alias_info and place.alias_info.is_write])
        if not outputs:
            return
        if name in ("_to_copy", "copy_"):
            source, target = (args[0], found) if name == "_to_copy" else (args[1], args[0])
            if source.device != target.device:
                if target.device.type == "cpu":
                    self.note_wait("copy to the CPU")
                elif source.dim():
                    self.now.copies += 1
            elif source.dtype != target.dtype:
                self.now.casts += 1
        if name == "_foreach_copy_" and args[0][0].dtype != args[1][0].dtype:
            self.now.casts += 1
        read = [bytes_of(tensor) for tensor in inputs]
        written = [bytes_of(tensor) for tensor in outputs]
        if name in ROWS_OF_TABLE:
            read[0] = written[0]
        self.now.operators += 1
        self.now.names[name] = self.now.names.get(name, 0) + 1
        self.now.bytes += sum(read) + sum(written)
        if func._overloadpacket in flop_registry:
            self.now.flops += flop_registry[func._overloadpacket](*args, **kwargs, out_val=found)


def attend(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None, dropout: float = 0.0, **options: Any
) -> Tensor:
    """F.scaled_dot_product_attention by the operator that a GPU would choose: one, where this build of torch has only
    the steps."""
    scale = options.get("scale")
    if mask is None and query.dtype in (torch.float16, torch.bfloat16):
        return aten._scaled_dot_product_flash_attention(query, key, value, dropout, False, scale=scale)[0]
    if mask is not None:
        mask = mask.expand(*query.shape[:-1], key.shape[-2])
    return aten._scaled_dot_product_efficient_attention(
        query, key, value, mask, torch.is_grad_enabled(), dropout, False, scale=scale
    )[0]


def read_list(tensor: FakeTensor) -> Any:
    """Tensor.tolist: zeros, after one wait, of a tensor on the GPU."""
    host = tensor.cpu()
    values: Any = 0
    for size in reversed(host.shape):
        values = [values] * size
    return values


def pretend() -> None:
    """Replace what asks a real GPU, or does not know fake tensors."""
    torch.cuda.is_available = lambda: True
    torch.cuda.is_bf16_supported = lambda *_, **__: True
    torch.nn.utils.clip_grad._has_foreach_support = lambda *_: True
    F.scaled_dot_product_attention = attend
    FakeTensor.tolist = read_list
    # whether an encoder takes windows is tried with numbers; all here do
    encoder_module.takes_windows = lambda encoder: encoder.set_attn_implementation(ATTENTION) is None


def document(number: int, length: int, entities: int) -> dict[str, Any]:
    """Features of a document: every third entity has two mentions, the others one, spread over the word pieces."""
    counts = [2 if entity % 3 == 0 else 1 for entity in range(entities)]
    step, place, mentions = (length - 4) // sum(counts), 0, []
    for count in counts:
        mentions.append([[place + step * i, place + step * i + 2] for i in range(count)])
        place += step * count
    return with_pairs({"title": str(number), "input_ids": [5] * length, "entity_pos": mentions})


def with_pairs(feature: dict[str, Any]) -> dict[str, Any]:
    """Features with every pair of entities, and labels."""
    count = len(feature["entity_pos"])
    pairs = [[head, tail] for head in range(count) for tail in range(count) if head != tail]
    return feature | {"hts": pairs, "labels": [[0] * CLASSES for _ in pairs]}


def documents_of(encoder: str) -> list[dict[str, Any]]:
    """Four documents: of the sample corpus for a tiny encoder, else of the sizes in DOCUMENTS."""
    if encoder in DOCUMENTS:
        return [document(number, *size) for number, size in enumerate(DOCUMENTS[encoder])]
    return [with_pairs(feature) for feature in json.loads((HERE / "data/features.json").read_text())[2:]]


class Experiment:
    """What train.batch_loss reads of an experiment."""

    def __init__(self, precision: str) -> None:
        self.device, self.precision, self.loss = GPU, precision, get_loss("hingeabl_released")


def optimizer_for(model: DocREModel, side: str) -> torch.optim.Optimizer:
    """The program's AdamW, or a loop over parameters as in the released program."""
    rates = argparse.Namespace(learning_rate=5e-5, classifier_lr=1e-4, module_lr=None, adam_epsilon=1e-6)
    optimizer = train.build_optimizer(model, rates)
    if side == "ours":
        return optimizer
    groups = [{"params": group["params"], "lr": group["lr"]} for group in optimizer.param_groups]
    return torch.optim.AdamW(groups, eps=1e-6, weight_decay=0.0, foreach=False, fused=False)


def move(network: nn.Module) -> None:
    """Put the parameters and buffers of a network on the GPU, those that modules share once."""
    moved: dict[Any, Any] = {}
    for module in network.modules():
        for name, value in [*module._parameters.items(), *module._buffers.items()]:
            if value is not None and value not in moved:
                empty = torch.empty(value.shape, dtype=value.dtype, device=GPU)
                moved[value] = nn.Parameter(empty) if name in module._parameters else empty
            if value is not None:
                setattr(module, name, moved[value])


class Saved:
    """Bytes that autograd keeps for the backward pass, beside the parameters."""

    def __init__(self, model: nn.Module) -> None:
        self.known = {parameter.untyped_storage()._cdata for parameter in model.parameters()}
        self.kept: dict[int, Tensor] = {}

    def pack(self, tensor: Tensor) -> Tensor:
        """Note a tensor that is kept."""
        storage = tensor.untyped_storage()._cdata
        if storage not in self.known and tensor.device.type == "cuda":
            self.kept.setdefault(storage, tensor)
        return tensor

    def total(self) -> int:
        """Bytes of all storages."""
        return sum(tensor.untyped_storage().nbytes() for tensor in self.kept.values())


def run(args: argparse.Namespace, folder: str, backbone: str, precision: str) -> Record:
    """A training step, the second of two, and an evaluation batch."""
    features, experiment, ours = documents_of(args.encoder), Experiment(precision), args.side == "ours"
    counting = Counting()
    with torch.device("meta"):
        model = DocREModel(folder, CLASSES, backbone=backbone, pretrained=False).train()
        network = model if ours else Baseline(model, folder)
    with FakeTensorMode(), torch.autograd.set_multithreading_enabled(False):
        move(network)
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

        for _ in range(2):
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
                relations = {number: name for name, number in load_rel2id().items()}
                predict(model, features, experiment.loss, relations, GPU, precision, 4, 10**9)
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
    parser.add_argument("--fault", choices=("item", "cpu"), help="a deliberate one, which must be found")
    args = parser.parse_args()
    pretend()
    with tempfile.TemporaryDirectory() as folder:
        CONFIGS[args.encoder].save_pretrained(folder)
        records = [run(args, folder, backbone, precision) for backbone in args.backbone for precision in args.precision]
    print(json.dumps([asdict(record) for record in records]))


if __name__ == "__main__":
    main()
