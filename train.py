"""Train and score a document-level relation extraction model: the paper's experiment, one seed or many.

    python train.py --data_dir dataset/redocred --output_dir runs/bert_hingeabl

The defaults are the paper's Appendix B for BERT. Each seed's folder holds everything about its run; see README.md.
"""

from __future__ import annotations

import argparse
import math
import packages  # noqa: F401
import statistics
import time
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import DataLoader
from tqdm import tqdm
from transformers import get_linear_schedule_with_warmup

from checkpoints import load_run, load_weights, save_run, save_tensors, save_weights, weights_of
from distill import teacher_file
from encoder import WINDOW, check_length, checkpoint_layers
from evaluation import format_scores, score_predictions
from experiment import Experiment, prepare
from inference import Predictions, predict
from model import DocREModel
from prepro import Feature
from runs import RunLog, finished_scores, print_summary, summarise
from settings import parse_args
from utils import (
    UserError,
    autocast,
    collate_fn,
    describe_device,
    describe_environment,
    digest,
    make_folder,
    naming_batch,
    run_command_line,
    set_seed,
    to_device,
    write_json,
)

STEPS_PER_LOG = 10
STEPS_BEFORE_ESTIMATE = 50
LESS_MEMORY = "lower --train_batch_size and raise --gradient_accumulation_steps, or pass --gradient_checkpointing"


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
    args = experiment.args
    files = {name: split.path for name, split in experiment.splits.items()} | {"rel2id": Path(args.rel2id)}
    if args.init_from:
        files["initial weights"] = weights_of(args.init_from)
    if args.teacher_scores:
        files["teacher scores"] = teacher_file(args.teacher_scores)
    return {
        "seed": seed,
        "settings": vars(args),
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
    model = DocREModel(args.model_name_or_path, len(experiment.rel2id), args.emb_size, backbone=args.backbone)
    check_lengths(experiment, model)
    if args.init_from:
        load_weights(model, weights_of(args.init_from))
    model.to(experiment.device)
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
        scores, found = score_split(experiment, model, "dev")
        log.write(steps, {"epoch": epoch, "dev": scores})
        mark = ""
        if not best or scores["f1"] > best["dev"]["f1"]:
            best = {"seed": seed, "best_epoch": epoch, "dev": scores}
            save_predictions(folder, "dev", found)
            save_weights(folder / "model.safetensors", model)
            mark = "  best"
        tqdm.write(
            f"epoch {epoch:>3}  dev F1 {100 * scores['f1']:6.2f}  Ign F1 {100 * scores['ign_f1']:6.2f}  "
            f"P {100 * scores['precision']:6.2f}  R {100 * scores['recall']:6.2f}{mark}"
        )
    log.close()
    scores, found = score_split(experiment, load_run(folder).to(experiment.device), "test")
    save_predictions(folder, "test", found)
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
        experiment.train_set,
        args.train_batch_size,
        shuffle=True,
        drop_last=not args.keep_last_batch,
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
            with naming_batch(batch, titles, LESS_MEMORY):
                batch = to_device(batch, device)
                labels, teacher_scores = batch.pop("labels"), batch.pop("teacher_scores", None)
                with autocast(device, experiment.precision):
                    scores = model(**batch)
                loss = experiment.loss(scores, labels)
                if teacher_scores is not None:
                    loss = loss + distillation_loss(scores, teacher_scores)
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
                rates = {group["name"]: group["lr"] for group in optimizer.param_groups}
                log.write(step, {"loss": mean, **rates})
                progress.set_postfix(loss=f"{mean:.4f}", lr=f"{rates['learning_rate']:.1e}")
                recent = []
        yield epoch, step


def distillation_loss(scores: Tensor, teacher_scores: Tensor) -> Tensor:
    """KD-DocRE's knowledge distillation: mean squared difference over pairs and classes, 0 for no pairs."""
    return F.mse_loss(scores, teacher_scores, reduction="sum") / max(scores.numel(), 1)


def collate_with_titles(features: list[Feature]) -> tuple[dict[str, Any], list[str]]:
    """A batch, and its documents' titles for messages."""
    return collate_fn(features), [feature["title"] for feature in features]


def build_optimizer(model: DocREModel, args: argparse.Namespace) -> torch.optim.AdamW:
    """AdamW without weight decay: the encoder, the new layers and, where there are any, the representation module's own
    layers, each at their rate."""
    groups: dict[str, list[torch.nn.Parameter]] = {"learning_rate": [], "classifier_lr": [], "module_lr": []}
    for name, parameter in model.named_parameters():
        layer = name.split(".")[0]
        own = "module_lr" if layer in model.module_layers else "classifier_lr"
        groups["learning_rate" if layer == "model" else own].append(parameter)
    rates = vars(args) | {"module_lr": args.classifier_lr if args.module_lr is None else args.module_lr}
    parameters = [{"params": group, "lr": rates[name], "name": name} for name, group in groups.items() if group]
    return torch.optim.AdamW(parameters, eps=args.adam_epsilon, weight_decay=0.0, fused=True)


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


def score_split(experiment: Experiment, model: DocREModel, name: str) -> tuple[dict[str, Any], Predictions]:
    """Predict dev or test: (the evaluator's figures and the pattern counts, {} without labels; what was predicted)."""
    args, split = experiment.args, experiment.splits[name]
    found = predict(
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
    return score_predictions(found.entries, split.gold) | found.patterns if split.gold else {}, found


def save_predictions(folder: Path, name: str, found: Predictions) -> None:
    """Write a split's predictions, and the scores of the pairs that have a gold or a predicted relation."""
    write_json(folder / ("result.json" if name == "test" else "result_dev.json"), found.entries, indent=0)
    save_tensors(folder / f"pair_scores_{name}.safetensors", found.pairs)


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
        results[name], found = score_split(experiment, model, name)
        print(f"\n{name}: {experiment.splits[name].path}")
        print(format_scores(results[name]) or "no labels to score against")
        if args.output_dir:
            save_predictions(Path(args.output_dir), name, found)
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
