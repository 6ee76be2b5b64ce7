"""Every setting of a training, in one place, with the paper's values (Appendix B) as defaults."""

from __future__ import annotations

import argparse
import dataclasses
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, NoReturn

from hingeabl.core.losses import loss_names
from hingeabl.core.model import DocREModel
from hingeabl.core.prepro import ENTITY_MARKERS
from hingeabl.data.relations import DEFAULT_REL2ID
from hingeabl.errors import UserError, print_warning
from hingeabl.files import read_json
from hingeabl.training.hub import SHIPPED, resolve_run


def number_type(number: type, name: str, is_valid: Callable[[Any], bool], example: str = "") -> Callable[[str], Any]:
    """An argparse type: an int or float (`number`) that `is_valid`, called `name` in the error message. An option with
    several values has an `example`, shown if they are given as one word."""

    def parse(text: str) -> Any:
        try:
            value = number(text)
        except ValueError:
            value = None
        if value is None or not is_valid(value):
            joined = example and re.search(r"[\s,;]", text)
            remedy = f"; separate several with spaces, without commas and quotes: {example}" if joined else ""
            raise argparse.ArgumentTypeError(f"must be a {name}, got {text}{remedy}")
        return value

    return parse


positive_int = number_type(int, "whole number above 0", lambda value: value > 0)
sequence_length = number_type(int, "length (at least 3: [CLS], a word piece, [SEP])", lambda value: value >= 3)
seed_number = number_type(int, "seed (0 to 2^32 - 1)", lambda value: 0 <= value < 2**32, "--seeds 1 5")
finite_float = number_type(float, "finite number of at least 0", lambda value: 0 <= value < math.inf)
fraction = number_type(float, "share (0 to 1)", lambda value: 0 <= value <= 1)


def setting(
    default: Any,
    help: str,
    parse: Callable[[str], Any] = str,
    choices: Sequence[str] | None = None,
    compared: bool = True,
) -> Any:
    """A dataclass field that is an option of the command line. A bool is a flag, a tuple takes several values.

    `compared`: a run resumes, or counts as finished, only with the same value. Settings are not compared if they do not
    change a run's numbers, or config.json names them in another way: the loss, the precision, the data's checksums.
    """
    metadata = {"help": help, "parse": parse, "choices": choices, "compared": compared}
    return dataclasses.field(default=default, metadata=metadata)


@dataclass
class DataSettings:
    """data"""

    data_dir: str = setting("dataset/redocred", "folder of the three files", compared=False)
    train_file: str = setting("train_revised.json", "also the file whose facts Ign F1 ignores", compared=False)
    dev_file: str = setting("dev_revised.json", "its F1 picks the checkpoint", compared=False)
    test_file: str = setting("test_revised.json", "without labels it is only predicted", compared=False)
    rel2id: str = setting(str(DEFAULT_REL2ID), "relation inventory; sets the number of classes", compared=False)
    max_seq_length: int = setting(1024, "longest document in word pieces", sequence_length)
    entity_marker: str = setting(
        "asterisk",
        "* around mentions: one a place, or as asterisks one a mention (CDR); or BERT's unused pieces by type",
        choices=ENTITY_MARKERS,
    )
    cache_dir: str = setting("dataset/cache", "where word pieces are kept for later runs", compared=False)


@dataclass
class ModelSettings:
    """model"""

    model_name_or_path: str = setting("bert-base-cased", "encoder: hub name or folder")
    backbone: str = setting("atlop", f"one of {', '.join(DocREModel.backbones)}")
    emb_size: int = setting(768, "size of the head and tail vectors", positive_int)
    loss_type: str = setting("hingeabl_released", f"one of {', '.join(loss_names())}", compared=False)
    margin: float | None = setting(
        None, "margin of a margin loss; default: the loss's own", finite_float, compared=False
    )
    num_labels: int = setting(4, "most relations predicted for a pair", positive_int)
    evidence_weight: float | None = setting(
        None, "predict evidence, with a loss of this weight (DREEAM: 0.1, RoBERTa 0.05)", finite_float
    )


@dataclass
class TrainingSettings:
    """training"""

    seeds: Sequence[int] = setting((1, 5, 42, 66, 233), "one run per seed", seed_number, compared=False)
    num_train_epochs: int = setting(30, "epochs", positive_int)
    train_batch_size: int = setting(4, "documents per batch and process", positive_int)
    test_batch_size: int = setting(
        32,
        "at most 512 times as many tokens and pairs are scored at once; it does not change scores",
        positive_int,
        compared=False,
    )
    keep_last_batch: bool = setting(False, "train on an epoch's last, smaller batch too")
    gradient_accumulation_steps: int = setting(1, "batches per optimizer step", positive_int)
    learning_rate: float = setting(5e-5, "learning rate of the encoder; 3e-5 for RoBERTa", finite_float)
    classifier_lr: float = setting(1e-4, "learning rate of the new layers", finite_float)
    module_lr: float | None = setting(
        None, "learning rate of DocuNet's U-Net or KD-DocRE's axial transformer; default: --classifier_lr", finite_float
    )
    adam_epsilon: float = setting(1e-6, "of AdamW", finite_float)
    warmup_ratio: float = setting(0.06, "share of the steps with linear warm-up", fraction)
    max_grad_norm: float = setting(1.0, "gradients are clipped to this norm", finite_float)
    precision: str | None = setting(
        None,
        "default: fp16 on CUDA, bf16 on a CPU that has it, else fp32",
        choices=("fp32", "bf16", "fp16"),
        compared=False,
    )
    gradient_checkpointing: bool = setting(
        False, "less memory: compute encoder layers again in backward", compared=False
    )
    save_steps: int = setting(
        1000,
        "optimizer steps between checkpoints, rounded up to tens, besides those at the ends of epochs",
        positive_int,
        compared=False,
    )
    init_from: str | None = setting(
        None, "start from the weights of this checkpoint, or of this seed's folder", compared=False
    )
    teacher_scores: str | None = setting(
        None, "folder that scripts/distill.py wrote: also match these scores in training", compared=False
    )
    teacher_attention: str | None = setting(
        None, "folder that scripts/distill.py --attention wrote: evidence is to match it", compared=False
    )
    device: str | None = setting(None, "default: CUDA if there is a GPU, else the CPU", compared=False)


@dataclass
class OutputSettings:
    """output"""

    output_dir: str | None = setting(None, "folder of the runs; required to train", compared=False)
    load_path: str | None = setting(
        None,
        "score instead of training: a finished run's seed folder or hub name (owner/name[@revision]), or a checkpoint "
        "(.pt, safetensors) of the encoder --model_name_or_path; without a value the shipped model",
        compared=False,
    )
    wandb_project: str | None = setting(None, "also log to Weights & Biases, if it is installed", compared=False)


@dataclass
class Settings(OutputSettings, TrainingSettings, ModelSettings, DataSettings):
    """Every setting of a training, with the paper's values (Appendix B) as defaults. Fields come in the order of the
    groups below."""


OF_TRAINING = {field.name for field in fields(TrainingSettings)} - {"test_batch_size", "precision", "device"}
OF_TRAINING |= {"backbone", "emb_size", "wandb_project"}  # of no use with --load_path
GROUPS = (DataSettings, ModelSettings, TrainingSettings, OutputSettings)
NOT_COMPARED = frozenset(field.name for field in fields(Settings) if not field.metadata["compared"])


def build_parser() -> argparse.ArgumentParser:
    """The command line of train.py: an option for each field of Settings."""
    parser = argparse.ArgumentParser(description="Train and score a document-level relation extraction model.")
    for group in GROUPS:
        options = parser.add_argument_group(str(group.__doc__))
        for field in fields(group):
            names = [f"--{field.name}", *(["--seed"] if field.name == "seeds" else [])]
            if field.default is False:
                options.add_argument(*names, action="store_true", help=field.metadata["help"])
                continue
            options.add_argument(
                *names,
                type=field.metadata["parse"],
                choices=field.metadata["choices"],
                nargs="?" if field.name == "load_path" else "+" if isinstance(field.default, tuple) else None,
                const=str(SHIPPED) if field.name == "load_path" else None,
                default=list(field.default) if isinstance(field.default, tuple) else field.default,
                help=field.metadata["help"] + ("" if field.default is None else " (default: %(default)s)"),
            )
    return parser


def read_settings(folder: str | Path) -> dict[str, Any]:
    """The settings of a seed's folder; those that an older version lacks have their defaults.

    Raises UserError if it holds none, or one that the command line would not accept.
    """
    if not (Path(folder) / "config.json").exists():
        seeds = sorted(path.parent for path in Path(folder).glob("**/seed_*/config.json"))
        example = f", such as {seeds[0]}" if seeds else " that train.py wrote"
        raise UserError(f"{folder}/config.json: no such file; pass the folder of a seed{example}")
    config = read_json(Path(folder) / "config.json")
    settings = config.get("settings") if isinstance(config, dict) else None
    needed = {"data_dir", "train_file", "dev_file", "test_file", "loss_type", "max_seq_length"}
    if not isinstance(settings, dict) or not needed <= settings.keys():
        raise UserError(f"{folder}/config.json: holds no settings; pass the folder of a seed")

    def refuse(message: str) -> NoReturn:
        raise UserError(f"{folder}/config.json: {message}; copy the run again")

    parser = build_parser()
    parser.error = refuse  # type: ignore[method-assign]
    arguments = []
    for name, default in vars(parser.parse_args([])).items():
        value = settings.get(name, default)
        if value is default:  # None and False cannot be passed as arguments
            continue
        if value is None or value is False or isinstance(value, dict):
            refuse(f"--{name} {value} is not a setting")
        if isinstance(value, list):
            arguments += [f"--{name}", *map(str, value)]
        else:
            arguments.append(f"--{name}" if value is True else f"--{name}={value}")
    return vars(parser.parse_args(arguments))


def parse_args(arguments: list[str] | None = None) -> Settings:
    """Command-line settings; with --load_path RUN, the run's settings replace the defaults. A run on the hub is
    downloaded, and `load_path` is then its folder."""
    parser = build_parser()
    args = parser.parse_args(arguments)
    loaded = resolve_run(args.load_path) if args.load_path else None
    if loaded and loaded.is_dir():
        settings = read_settings(loaded)
        not_from_run = ("output_dir", "device", "wandb_project", "cache_dir")
        settings |= {name: parser.get_default(name) for name in not_from_run}
        parser.set_defaults(**settings | {"rel2id": str(loaded / "rel2id.json")})
        args = parser.parse_args(arguments)
        args.load_path = str(loaded)
    if args.load_path:
        warn_of_unused(args, parser, OF_TRAINING | ({"model_name_or_path"} if loaded and loaded.is_dir() else set()))
    if args.load_path and args.output_dir and (Path(args.output_dir) / "config.json").exists():
        raise UserError(f"--output_dir {args.output_dir}: is a run's folder; choose another one for the new scores")
    if not args.output_dir and not args.load_path:
        raise UserError("--output_dir is missing; name the folder that the runs shall go to")
    if len(set(args.seeds)) < len(args.seeds):
        raise UserError(f"--seeds {args.seeds}: name each seed once")
    return Settings(**vars(args))


def warn_of_unused(args: argparse.Namespace, parser: argparse.ArgumentParser, names: set[str]) -> None:
    """Warn of options among `names` that have another value than the saved run, or the default."""
    changed = [f"--{name}" for name in vars(args) if name in names and getattr(args, name) != parser.get_default(name)]
    if changed:
        print_warning(f"{', '.join(changed)}: without effect, as --load_path takes the saved model as it is")
