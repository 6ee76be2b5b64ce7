"""Every setting of a training, in one place, with the paper's values (Appendix B) as defaults."""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

from losses import loss_names
from model import DocREModel
from prepro import DEFAULT_REL2ID, ENTITY_MARKERS
from utils import UserError, read_json


def number_type(kind: type, name: str, fits: Callable[[Any], bool]) -> Callable[[str], Any]:
    """An argparse type: a `kind` that `fits`, called `name` in the error message."""

    def parse(text: str) -> Any:
        try:
            value = kind(text)
        except ValueError:
            value = None
        if value is None or not fits(value):
            raise argparse.ArgumentTypeError(f"{text} is no {name}")
        return value

    return parse


positive_int = number_type(int, "whole number above 0", lambda value: value > 0)
sequence_length = number_type(int, "length (at least 3: [CLS], a word piece, [SEP])", lambda value: value >= 3)
seed_number = number_type(int, "seed (0 to 2^32 - 1)", lambda value: 0 <= value < 2**32)
finite_float = number_type(float, "finite number of at least 0", lambda value: 0 <= value < math.inf)
share = number_type(float, "share (0 to 1)", lambda value: 0 <= value <= 1)


def build_parser() -> argparse.ArgumentParser:
    """Every setting of a training, with the paper's values as defaults."""
    parser = argparse.ArgumentParser(
        description="Train and score a document-level relation extraction model.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    data = parser.add_argument_group("data")
    data.add_argument("--data_dir", default="dataset/redocred", help="folder of the three files")
    data.add_argument("--train_file", default="train_revised.json", help="also the file whose facts Ign F1 ignores")
    data.add_argument("--dev_file", default="dev_revised.json", help="its F1 picks the checkpoint")
    data.add_argument("--test_file", default="test_revised.json", help="without labels it is only predicted")
    data.add_argument("--rel2id", default=str(DEFAULT_REL2ID), help="relation inventory; sets the number of classes")
    data.add_argument("--max_seq_length", type=sequence_length, default=1024, help="longest document in word pieces")
    data.add_argument(
        "--entity_marker",
        choices=ENTITY_MARKERS,
        default="asterisk",
        help="* around mentions, or BERT's unused pieces by entity type",
    )
    data.add_argument("--cache_dir", default="dataset/cache", help="where word pieces are kept for later runs")
    model = parser.add_argument_group("model")
    model.add_argument("--model_name_or_path", default="bert-base-cased", help="encoder: hub name or folder")
    model.add_argument("--backbone", default="atlop", help=f"one of {', '.join(DocREModel.backbones)}")
    model.add_argument("--emb_size", type=positive_int, default=768, help="size of the head and tail vectors")
    model.add_argument("--loss_type", default="hingeabl_released", help=f"one of {', '.join(loss_names())}")
    model.add_argument("--margin", type=finite_float, help="margin of a margin loss; None is the loss's own")
    model.add_argument("--num_labels", type=positive_int, default=4, help="most relations predicted for a pair")
    training = parser.add_argument_group("training")
    training.add_argument(
        "--seeds", "--seed", type=seed_number, nargs="+", default=[1, 5, 42, 66, 233], help="a run for each"
    )
    training.add_argument("--num_train_epochs", type=positive_int, default=30)
    training.add_argument("--train_batch_size", type=positive_int, default=4, help="documents")
    training.add_argument(
        "--test_batch_size",
        type=positive_int,
        default=8,
        help="documents of 512 tokens and pairs scored at once, or more shorter ones; scores do not depend on it",
    )
    training.add_argument("--keep_last_batch", action="store_true", help="train on an epoch's last, smaller batch too")
    training.add_argument("--gradient_accumulation_steps", type=positive_int, default=1)
    training.add_argument("--learning_rate", type=finite_float, default=5e-5, help="of the encoder; 3e-5 for RoBERTa")
    training.add_argument("--classifier_lr", type=finite_float, default=1e-4, help="of the new layers")
    training.add_argument(
        "--module_lr",
        type=finite_float,
        help="of DocuNet's U-Net or KD-DocRE's axial transformer; None is that of the other new layers",
    )
    training.add_argument("--adam_epsilon", type=finite_float, default=1e-6)
    training.add_argument("--warmup_ratio", type=share, default=0.06, help="share of the steps")
    training.add_argument("--max_grad_norm", type=finite_float, default=1.0)
    training.add_argument(
        "--precision",
        choices=("fp32", "bf16", "fp16"),
        help="None is fp16 on CUDA, bf16 on a CPU that has it, else fp32",
    )
    training.add_argument(
        "--gradient_checkpointing", action="store_true", help="less memory: compute encoder layers again in backward"
    )
    training.add_argument(
        "--save_steps",
        type=positive_int,
        default=500,
        help="optimizer steps between checkpoints, besides those at the ends of epochs",
    )
    training.add_argument("--init_from", help="start from the weights of this checkpoint, or of this seed's folder")
    training.add_argument("--teacher_scores", help="folder that distill.py wrote: also match these scores in training")
    training.add_argument("--device", help="None is CUDA where there is one, else the CPU")
    output = parser.add_argument_group("output")
    output.add_argument("--output_dir", help="folder of the runs; required to train")
    output.add_argument("--load_path", help="a finished run's seed folder: score it instead of training")
    output.add_argument("--wandb_project", help="also log to Weights & Biases, if it is installed")
    return parser


def read_settings(folder: str | Path) -> dict[str, Any]:
    """The settings of a seed's folder, with the defaults of those that were not there yet.

    Raises UserError where it holds none, or one that the command line would not take.
    """
    config = read_json(Path(folder) / "config.json")
    settings = config.get("settings") if isinstance(config, dict) else None
    needed = {"data_dir", "train_file", "dev_file", "test_file", "loss_type", "max_seq_length"}
    if not isinstance(settings, dict) or not needed <= settings.keys():
        raise UserError(f"{folder}/config.json: holds no settings; pass the folder of a seed")

    def refuse(message: str) -> NoReturn:
        raise UserError(f"{folder}/config.json: {message}; copy the run again")

    parser = build_parser()
    parser.error = refuse
    arguments = []
    for name, default in vars(parser.parse_args([])).items():
        value = settings.get(name, default)
        if value is default:  # None and False are no arguments
            continue
        if value is None or value is False or isinstance(value, dict):
            refuse(f"--{name} {value} is no setting")
        if isinstance(value, list):
            arguments += [f"--{name}", *map(str, value)]
        else:
            arguments.append(f"--{name}" if value is True else f"--{name}={value}")
    return vars(parser.parse_args(arguments))


def parse_args(arguments: list[str] | None = None) -> argparse.Namespace:
    """Command-line settings; with --load_path, those of the loaded run where the command line gives none."""
    parser = build_parser()
    args = parser.parse_args(arguments)
    if args.load_path:
        settings = read_settings(args.load_path)
        own = {"output_dir": None, "device": None, "wandb_project": None}  # a run's file does not say what is written
        own["cache_dir"] = parser.get_default("cache_dir")
        own["rel2id"] = str(Path(args.load_path) / "rel2id.json")
        parser.set_defaults(**settings | own)
        args = parser.parse_args(arguments)
        if args.output_dir and (Path(args.output_dir) / "config.json").exists():
            raise UserError(f"--output_dir {args.output_dir}: is a run's folder; choose another one for the new scores")
    elif not args.output_dir:
        raise UserError("--output_dir is missing; name the folder that the runs shall go to")
    if len(set(args.seeds)) < len(args.seeds):
        raise UserError(f"--seeds {args.seeds}: name each seed once")
    return args
