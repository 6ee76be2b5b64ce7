"""Train and score a document-level relation extraction model: the paper's experiment, one seed or many.

    python train.py --data_dir dataset/redocred --output_dir runs/bert_hingeabl

The defaults are the paper's Appendix B for BERT. Each seed's folder holds everything about its run; see README.md.
"""

from __future__ import annotations

import argparse
import math
import statistics
import time
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader
from tqdm import tqdm
from transformers import get_linear_schedule_with_warmup

from encoder import WINDOW, check_length, checkpoint_layers
from evaluation import format_scores, score_predictions
from experiment import Experiment, prepare
from inference import predict
from losses import loss_names
from model import DocREModel, load_run, save_run, save_weights
from prepro import DEFAULT_REL2ID, Feature
from runs import RunLog, finished_scores, print_summary, summarise
from utils import (
    UserError,
    autocast,
    collate_fn,
    describe_device,
    describe_environment,
    digest,
    make_folder,
    read_json,
    run_command_line,
    set_seed,
    to_device,
    write_json,
)

STEPS_PER_LOG = 10
STEPS_BEFORE_ESTIMATE = 50


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
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    data = parser.add_argument_group("data")
    data.add_argument("--data_dir", default="dataset/redocred", help="folder of the three files")
    data.add_argument("--train_file", default="train_revised.json", help="also the file whose facts Ign F1 ignores")
    data.add_argument("--dev_file", default="dev_revised.json", help="its F1 picks the checkpoint")
    data.add_argument("--test_file", default="test_revised.json", help="without labels it is only predicted")
    data.add_argument("--rel2id", default=str(DEFAULT_REL2ID), help="relation inventory; sets the number of classes")
    data.add_argument("--max_seq_length", type=sequence_length, default=1024, help="longest document in word pieces")
    data.add_argument("--cache_dir", default="dataset/cache", help="where word pieces are kept for later runs")
    model = parser.add_argument_group("model")
    model.add_argument("--model_name_or_path", default="bert-base-cased", help="encoder: hub name or folder")
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
    training.add_argument("--gradient_accumulation_steps", type=positive_int, default=1)
    training.add_argument("--learning_rate", type=finite_float, default=5e-5, help="of the encoder; 3e-5 for RoBERTa")
    training.add_argument("--classifier_lr", type=finite_float, default=1e-4, help="of every new layer")
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
    training.add_argument("--device", help="None is CUDA where there is one, else the CPU")
    output = parser.add_argument_group("output")
    output.add_argument("--output_dir", help="folder of the runs; required to train")
    output.add_argument("--load_path", help="a finished run's seed folder: score it instead of training")
    output.add_argument("--wandb_project", help="also log to Weights & Biases, if it is installed")
    return parser


def parse_args(arguments: list[str] | None = None) -> argparse.Namespace:
    """Command-line settings; with --load_path, those of the loaded run where the command line gives none."""
    parser = build_parser()
    args = parser.parse_args(arguments)
    if args.load_path:
        config = read_json(Path(args.load_path) / "config.json")
        settings = config.get("settings") if isinstance(config, dict) else None
        texts = ("data_dir", "train_file", "dev_file", "test_file", "loss_type")
        if not isinstance(settings, dict) or not all(isinstance(settings.get(name), str) for name in texts):
            raise UserError(f"{args.load_path}/config.json: holds no settings; pass the folder of a seed")
        own = {"output_dir": None, "device": None, "wandb_project": None}
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


class StepClock:
    """Times optimizer steps and says once, after STEPS_BEFORE_ESTIMATE of them, when all seeds will be done."""

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self.last = 0.0

    def start(self) -> None:
        """Begin timing; called when an epoch begins, so that scoring between epochs does not count."""
        self.last = time.perf_counter()

    def tick(self, experiment: Experiment, steps_left: int, scorings_left: int) -> None:
        """One step is done; so many are left over all seeds, and so many documents to score."""
        now = time.perf_counter()
        self.seconds.append(now - self.last)
        self.last = now
        if len(self.seconds) != STEPS_BEFORE_ESTIMATE:
            return
        step = statistics.mean(self.seconds[5:])  # the first few are slower
        documents = experiment.args.train_batch_size * experiment.args.gradient_accumulation_steps
        left = step * (steps_left + scorings_left / documents / 3)  # a forward pass is about a third of a step
        tqdm.write(
            f"{step:.2f} s a step: all seeds done in about {timedelta(seconds=round(left))}, "
            f"{datetime.now() + timedelta(seconds=left):%a %d %b %Y, %H:%M}, on {describe_device(experiment.device)}"
        )


def run_config(experiment: Experiment, seed: int) -> dict[str, Any]:
    """The content of config.json: all that decides a run's numbers, and where it runs."""
    files = {name: split.path for name, split in experiment.splits.items()} | {"rel2id": Path(experiment.args.rel2id)}
    return {
        "seed": seed,
        "settings": vars(experiment.args),
        "loss": experiment.loss.describe(),
        "precision": experiment.precision,
        "data": {name: digest(path) for name, path in files.items()},
        "device": describe_device(experiment.device),
        "environment": describe_environment(),
    }


def check_lengths(experiment: Experiment, model: DocREModel) -> None:
    """Raise UserError if a document does not fit into two windows of the model's encoder."""
    splits = experiment.splits.values()
    check_length(model.model, max(len(feature["input_ids"]) for split in splits for feature in split.features))


def train_seed(experiment: Experiment, seed: int, clock: StepClock, seeds_left: int) -> dict[str, Any]:
    """Train one seed afresh, keep its best epoch by dev F1, score that on test; returns the content of scores.json."""
    args = experiment.args
    set_seed(seed)
    model = DocREModel(args.model_name_or_path, len(experiment.rel2id), args.emb_size).to(experiment.device)
    check_lengths(experiment, model)
    if args.gradient_checkpointing:
        checkpoint_layers(model.model)
    folder = make_folder(Path(args.output_dir) / f"seed_{seed}")
    write_json(folder / "config.json", run_config(experiment, seed))
    write_json(folder / "rel2id.json", experiment.rel2id)
    save_run(folder, model, experiment.tokenizer)
    log = RunLog(folder, f"{Path(args.output_dir).name} seed {seed}", args.wandb_project)
    print(f"\nseed {seed}: {folder}")
    best: dict[str, Any] = {}
    steps = 0
    for epoch, steps in run_epochs(experiment, model, seed, clock, seeds_left, log):
        scores, predictions = score_split(experiment, model, "dev")
        log.write(steps, {"epoch": epoch, "dev": scores})
        mark = ""
        if not best or scores["f1"] > best["dev"]["f1"]:
            best = {"seed": seed, "best_epoch": epoch, "dev": scores}
            write_json(folder / "result_dev.json", predictions, indent=0)
            save_weights(folder / "model.safetensors", model)
            mark = "  best"
        tqdm.write(
            f"epoch {epoch:>3}  dev F1 {100 * scores['f1']:6.2f}  Ign F1 {100 * scores['ign_f1']:6.2f}  "
            f"P {100 * scores['precision']:6.2f}  R {100 * scores['recall']:6.2f}{mark}"
        )
    log.close()
    scores, predictions = score_split(experiment, load_run(folder).to(experiment.device), "test")
    write_json(folder / "result.json", predictions, indent=0)
    result = {**best, "test": scores}
    write_json(folder / "scores.json", result)
    return result


def run_epochs(
    experiment: Experiment, model: DocREModel, seed: int, clock: StepClock, seeds_left: int, log: RunLog
) -> Iterator[tuple[int, int]]:
    """Train; yields (epoch, optimizer steps done) at the end of each epoch, numbered from 1. Raises UserError when the
    loss is not finite."""
    args, device = experiment.args, experiment.device
    loader = DataLoader(
        experiment.splits["train"].features,
        args.train_batch_size,
        shuffle=True,
        drop_last=True,
        collate_fn=collate_with_titles,
        generator=torch.Generator().manual_seed(seed),
        pin_memory=device.type == "cuda",
        num_workers=2 if device.type == "cuda" else 0,  # on the CPU the step itself needs the cores
        persistent_workers=device.type == "cuda",
    )
    batches_per_step = args.gradient_accumulation_steps
    steps_per_epoch = math.ceil(len(loader) / batches_per_step)
    total_steps = steps_per_epoch * args.num_train_epochs
    optimizer = build_optimizer(model, args)
    scheduler = get_linear_schedule_with_warmup(optimizer, int(total_steps * args.warmup_ratio), total_steps)
    scaler = torch.amp.GradScaler(device.type, enabled=experiment.precision == "fp16")
    dev, test = (len(experiment.splits[name].documents) for name in ("dev", "test"))
    step, recent = 0, []
    for epoch in range(1, args.num_train_epochs + 1):
        model.train()
        clock.start()
        progress = tqdm(loader, desc=f"epoch {epoch}/{args.num_train_epochs}", unit="batch", leave=False)
        for number, (batch, titles) in enumerate(progress, start=1):
            batch = to_device(batch, device)
            labels = batch.pop("labels")
            with autocast(device, experiment.precision):
                scores = model(**batch)
            loss = experiment.loss(scores, labels)
            group = min(batches_per_step, len(loader) - (number - 1) // batches_per_step * batches_per_step)
            scaler.scale(loss / group).backward()  # the last group of an epoch may be smaller
            recent.append((step + 1, titles, loss.detach()))
            if number % batches_per_step and number < len(loader):
                continue
            optimizer_step(model, optimizer, scheduler, scaler, args.max_grad_norm)
            step += 1
            epochs_left = args.num_train_epochs * (seeds_left + 1) - epoch + 1
            clock.tick(experiment, total_steps * (seeds_left + 1) - step, epochs_left * dev + (seeds_left + 1) * test)
            if step % STEPS_PER_LOG == 0 or number == len(loader):
                mean = mean_loss(recent)
                encoder_rate, new_layer_rate = scheduler.get_last_lr()
                log.write(step, {"loss": mean, "learning_rate": encoder_rate, "classifier_lr": new_layer_rate})
                progress.set_postfix(loss=f"{mean:.4f}", lr=f"{encoder_rate:.1e}")
                recent = []
        yield epoch, step


def collate_with_titles(features: list[Feature]) -> tuple[dict[str, Any], list[str]]:
    """A batch, and its documents' titles for messages."""
    return collate_fn(features), [feature["title"] for feature in features]


def build_optimizer(model: DocREModel, args: argparse.Namespace) -> torch.optim.AdamW:
    """AdamW without weight decay, the encoder and the new layers each at their own rate."""
    encoder = [parameter for name, parameter in model.named_parameters() if name.startswith("model.")]
    new = [parameter for name, parameter in model.named_parameters() if not name.startswith("model.")]
    groups = [{"params": encoder, "lr": args.learning_rate}, {"params": new, "lr": args.classifier_lr}]
    return torch.optim.AdamW(groups, eps=args.adam_epsilon, weight_decay=0.0, fused=True)


def optimizer_step(
    model: DocREModel, optimizer: torch.optim.Optimizer, scheduler: Any, scaler: torch.amp.GradScaler, max_norm: float
) -> None:
    """Clip, step, advance the schedule, clear the gradients. With fp16, the scaler skips a step that overflowed."""
    scaler.unscale_(optimizer)
    torch.nn.utils.clip_grad_norm_(model.parameters(), max_norm)
    scaler.step(optimizer)
    scaler.update()
    scheduler.step()
    optimizer.zero_grad(set_to_none=True)


def mean_loss(recent: list[tuple[int, list[str], Tensor]]) -> float:
    """Mean of the losses since the last log. Raises UserError naming the first that is NaN or infinite.

    The losses are looked at here only, every STEPS_PER_LOG steps, so that a GPU is not made to wait at each.
    """
    values = torch.stack([loss for _, _, loss in recent]).tolist()
    for (step, titles, _), value in zip(recent, values, strict=True):
        if not math.isfinite(value):
            raise UserError(
                f"step {step}: the loss is {value}, on documents {titles}; look at these documents, lower "
                "--learning_rate, or pass --precision fp32"
            )
    return sum(values) / len(values)


def score_split(experiment: Experiment, model: DocREModel, name: str) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Predict dev or test: (the evaluator's figures and the pattern counts, {} without labels; the predictions)."""
    args, split = experiment.args, experiment.splits[name]
    predictions, patterns = predict(
        model,
        split.features,
        experiment.loss,
        {index: relation for relation, index in experiment.rel2id.items()},
        experiment.device,
        experiment.precision,
        args.num_labels,
        args.test_batch_size * WINDOW,
        title=name,
    )
    scores = score_predictions(predictions, split.gold) | patterns if split.gold else {}
    return scores, predictions


def train_seeds(experiment: Experiment) -> list[dict[str, Any]]:
    """Train every seed that is not finished yet; returns all seeds' scores in the order asked for."""
    args = experiment.args
    folders = {seed: Path(args.output_dir) / f"seed_{seed}" for seed in args.seeds}
    done = {seed: finished_scores(folder, run_config(experiment, seed)) for seed, folder in folders.items()}
    missing = [seed for seed in args.seeds if not done[seed]]
    if len(missing) < len(args.seeds):
        print(f"finished before: seeds {', '.join(str(seed) for seed in args.seeds if done[seed])}")
    clock = StepClock()
    for seeds_left, seed in zip(reversed(range(len(missing))), missing, strict=True):
        done[seed] = train_seed(experiment, seed, clock, seeds_left)
    return [done[seed] for seed in args.seeds]


def score_saved_run(experiment: Experiment) -> None:
    """--load_path: score a saved run on dev and test; with --output_dir, write predictions and scores there."""
    args = experiment.args
    model = load_run(args.load_path).to(experiment.device)
    if model.settings["num_classes"] != len(experiment.rel2id):
        raise UserError(f"{args.rel2id}: has {len(experiment.rel2id)} classes, the run {model.settings['num_classes']}")
    check_lengths(experiment, model)
    if args.output_dir:
        make_folder(args.output_dir)
    results: dict[str, Any] = {}
    for name in ("dev", "test"):
        results[name], predictions = score_split(experiment, model, name)
        print(f"\n{name}: {experiment.splits[name].path}")
        print(format_scores(results[name]) or "no labels to score against")
        if args.output_dir:
            file_name = "result.json" if name == "test" else "result_dev.json"
            write_json(Path(args.output_dir) / file_name, predictions, indent=0)
    if args.output_dir:
        write_json(Path(args.output_dir) / "scores.json", results)


def main(arguments: list[str] | None = None) -> None:
    """Train every seed, or score a saved run; `arguments` default to the command line's."""
    args = parse_args(arguments)
    experiment = prepare(args)
    if args.load_path:
        score_saved_run(experiment)
        return
    if experiment.device.type == "cpu":
        print(f"no GPU: a step's time, and with it the end, is known after {STEPS_BEFORE_ESTIMATE} steps")
    results = train_seeds(experiment)
    summary = summarise(experiment.loss.describe(), results)
    write_json(Path(args.output_dir) / "summary.json", summary)
    print_summary(summary)
    print(f"\nsummary: {args.output_dir}/summary.json; predictions, weights and logs: {args.output_dir}/seed_*")


if __name__ == "__main__":
    run_command_line(main)
