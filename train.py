"""Train and score a document-level relation extraction model: the paper's experiment, one seed or many.

    python train.py --data_dir dataset/redocred --output_dir runs/bert_hingeabl

The defaults are the paper's Appendix B for BERT. Each seed's folder holds everything about its run; see README.md.
"""

from __future__ import annotations

import contextlib
import math
import packages  # noqa: F401
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import tqdm
from transformers import get_linear_schedule_with_warmup

import parallel
from batches import batches_of_epoch, load_batches, pairs_of, share_of
from checkpoints import load_run, load_weights, save_run, save_weights, weights_of
from distill import teacher_file
from encoder import WINDOW, check_length, checkpoint_layers
from evaluation import format_scores, score_predictions
from experiment import Experiment, prepare
from inference import Predictions, merge, predict
from model import DocREModel
from optimization import build_optimizer, move_schedule, optimizer_step
from resume import (
    EXIT_STOPPED,
    Place,
    StopRequest,
    failure_noted,
    load_checkpoint,
    locked,
    remove_checkpoints,
    save_checkpoint,
    seed_batch,
)
from runs import STEPS_BEFORE_ESTIMATE, RunLog, StepClock, finished_scores, print_summary, summarise
from settings import parse_args
from utils import (
    UserError,
    autocast,
    describe_device,
    describe_environment,
    digest,
    make_folder,
    naming_batch,
    run_command_line,
    save_tensors,
    set_seed,
    to_device,
    write_json,
)

STEPS_PER_LOG = 10
LESS_MEMORY = "lower --train_batch_size and raise --gradient_accumulation_steps, or pass --gradient_checkpointing"


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
        "processes": parallel.world_size(),
        "environment": describe_environment(),
    }


def check_lengths(experiment: Experiment, model: DocREModel) -> None:
    """Raise UserError if a document does not fit into two windows of the model's encoder."""
    splits = experiment.splits.values()
    check_length(model.model, max(len(feature["input_ids"]) for split in splits for feature in split.features))


@dataclass
class Training:
    """One seed's training: `place` says how far it is; `log` is rank 0's."""

    experiment: Experiment
    seed: int
    folder: Path
    model: DocREModel
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    place: Place
    log: RunLog | None


def train_seed(
    experiment: Experiment, seed: int, clock: StepClock, seeds_left: int, stop: StopRequest
) -> dict[str, Any]:
    """Train one seed, from its last checkpoint where it was stopped; keep its best epoch by dev F1, score that on test;
    returns the content of scores.json."""
    model = build_model(experiment, seed)  # before anything is written: settings may not fit the encoder
    folder = make_folder(Path(experiment.args.output_dir) / f"seed_{seed}")
    with locked(folder) if parallel.rank() == 0 else contextlib.nullcontext():
        if result := finished_scores(folder, run_config(experiment, seed)):  # by another process, just now
            return result
        print(f"\nseed {seed}: {folder}")
        with failure_noted(folder):
            training = begin(experiment, model, seed, folder)
            run_epochs(training, clock, seeds_left, stop)
            result = score_test(training)
    return result


def build_model(experiment: Experiment, seed: int) -> DocREModel:
    """The model before its training. Raises UserError where settings or documents do not fit it."""
    args = experiment.args
    set_seed(seed)
    model = DocREModel(args.model_name_or_path, len(experiment.rel2id), args.emb_size, backbone=args.backbone)
    check_lengths(experiment, model)
    if args.init_from:
        load_weights(model, weights_of(args.init_from))
    model.to(experiment.device)
    if args.gradient_checkpointing:
        checkpoint_layers(model.model)
    return model


def begin(experiment: Experiment, model: DocREModel, seed: int, folder: Path) -> Training:
    """A seed's training where its last checkpoint left it, or at its beginning, with the files that a run has then."""
    args = experiment.args
    optimizer = build_optimizer(model, args)
    scaler = torch.amp.GradScaler(experiment.device.type, enabled=experiment.precision == "fp16")
    place = load_checkpoint(folder, model, optimizer, scaler)
    parallel.wait_for_all()  # before any of these files changes
    if place.step:
        print(f"going on behind step {place.step:,}, in epoch {place.epoch}")
    elif parallel.rank() == 0:
        write_json(folder / "config.json", run_config(experiment, seed))
        write_json(folder / "rel2id.json", experiment.rel2id)
        save_run(folder, model, experiment.tokenizer)
    log = None
    if parallel.rank() == 0:
        log = RunLog(
            folder, f"{Path(args.output_dir).name} seed {seed}", args.wandb_project, place.log_size, place.step
        )
    return Training(experiment, seed, folder, model, optimizer, scaler, place, log)


def run_epochs(training: Training, clock: StepClock, seeds_left: int, stop: StopRequest) -> None:
    """Train and score the epochs that are left. Raises SystemExit for a request to stop, behind a checkpoint."""
    experiment, place = training.experiment, training.place
    args = experiment.args
    batches_per_epoch = len(batches_of_epoch(experiment, training.seed, 1))
    steps_per_epoch = math.ceil(batches_per_epoch / args.gradient_accumulation_steps)
    total_steps = steps_per_epoch * args.num_train_epochs
    scheduler = get_linear_schedule_with_warmup(training.optimizer, int(total_steps * args.warmup_ratio), total_steps)
    move_schedule(scheduler, place.step)
    shared = parallel.share(training.model, experiment.device)
    dev, test = (len(experiment.splits[name].documents) for name in ("dev", "test"))
    saved = place.step
    while place.epoch <= args.num_train_epochs:
        clock.start()
        for _ in run_epoch(training, shared, scheduler):
            epochs_left = args.num_train_epochs * (seeds_left + 1) - place.epoch + 1
            steps_left = total_steps * (seeds_left + 1) - place.step
            documents = args.train_batch_size * parallel.world_size() * args.gradient_accumulation_steps
            clock.tick(documents, experiment.device, steps_left, epochs_left * dev + (seeds_left + 1) * test)
            if place.step % STEPS_PER_LOG or place.batch == batches_per_epoch:
                continue
            stopped = parallel.any_of_all(bool(stop.name), experiment.device)
            if stopped or place.step - saved >= args.save_steps:
                save(training, stop.name if stopped else "")
                saved = place.step
        score_epoch(training)
        place.epoch, place.batch = place.epoch + 1, 0
        save(training, stop.name if parallel.any_of_all(bool(stop.name), experiment.device) else "")
        saved = place.step


def run_epoch(training: Training, shared: nn.Module, scheduler: Any) -> Iterator[None]:
    """Train what is left of an epoch; yields after each optimizer step. The loss is the mean over all pairs of a batch,
    of all processes. Raises UserError when it is not finite."""
    experiment, place = training.experiment, training.place
    args, device, features = experiment.args, experiment.device, experiment.splits["train"].features
    batches = batches_of_epoch(experiment, training.seed, place.epoch)
    left = batches[place.batch :]
    title = f"epoch {place.epoch}/{args.num_train_epochs}"
    progress = tqdm(load_batches(experiment, left), title, len(batches), False, initial=place.batch, unit="batch")
    per_step, recent = args.gradient_accumulation_steps, []
    training.model.train()
    for everyone, batch in zip(left, progress, strict=True):
        seed_batch(training.seed, place.epoch, place.batch, parallel.rank())
        mine = share_of(everyone)
        weight = pairs_of(features, mine) / max(pairs_of(features, everyone), 1) if mine else 0.0
        group = min(per_step, len(batches) - place.batch // per_step * per_step)  # an epoch's last one may be smaller
        place.batch += 1
        step_due = place.batch % per_step == 0 or place.batch == len(batches)
        titles = [features[index]["title"] for index in mine]
        together = contextlib.nullcontext() if step_due or shared is training.model else shared.no_sync()
        with together, naming_batch(batch, titles, LESS_MEMORY):
            loss = weight * batch_loss(experiment, shared, to_device(batch, device))
            training.scaler.scale(loss * parallel.world_size() / group).backward()  # processes' gradients are averaged
        recent.append((place.step + 1, titles, loss.detach()))
        if not step_due:
            continue
        optimizer_step(training.model, training.optimizer, scheduler, training.scaler, args.max_grad_norm)
        place.step += 1
        if place.step % STEPS_PER_LOG == 0 or place.batch == len(batches):
            mean = mean_loss(recent)
            rates = {group["name"]: group["lr"] for group in training.optimizer.param_groups}
            if training.log:
                training.log.write(place.step, {"loss": mean, **rates})
            progress.set_postfix(loss=f"{mean:.4f}", lr=f"{rates['learning_rate']:.1e}")
            recent = []
        yield


def batch_loss(experiment: Experiment, model: nn.Module, batch: dict[str, Any]) -> Tensor:
    """The mean loss over a batch's pairs, with the distillation's where there are a teacher's scores."""
    labels, teacher_scores = batch.pop("labels"), batch.pop("teacher_scores", None)
    with autocast(experiment.device, experiment.precision):
        scores = model(**batch)
    loss = experiment.loss(scores, labels)
    return loss if teacher_scores is None else loss + distillation_loss(scores, teacher_scores)


def score_epoch(training: Training) -> None:
    """Score dev at an epoch's end, and keep the epoch's weights and predictions if none before was better."""
    place, folder = training.place, training.folder
    scores, found = score_split(training.experiment, training.model, "dev")
    if not training.log:
        return
    training.log.write(place.step, {"epoch": place.epoch, "dev": scores})
    mark = ""
    if not place.best or scores["f1"] > place.best["dev"]["f1"]:
        place.best = {"seed": training.seed, "best_epoch": place.epoch, "dev": scores}
        save_predictions(folder, "dev", found)
        save_weights(folder / "model.safetensors", training.model)
        mark = "  best"
    tqdm.write(
        f"epoch {place.epoch:>3}  dev F1 {100 * scores['f1']:6.2f}  Ign F1 {100 * scores['ign_f1']:6.2f}  "
        f"P {100 * scores['precision']:6.2f}  R {100 * scores['recall']:6.2f}{mark}"
    )


def score_test(training: Training) -> dict[str, Any]:
    """Score the best epoch on test and end the run; returns the content of scores.json."""
    experiment, folder = training.experiment, training.folder
    if training.log:
        training.log.close()
    parallel.wait_for_all()  # the best epoch's weights are on disk now
    scores, found = score_split(experiment, load_run(folder).to(experiment.device), "test")
    result = {**training.place.best, "test": scores}
    if parallel.rank() == 0:
        save_predictions(folder, "test", found)
        write_json(folder / "scores.json", result)
        remove_checkpoints(folder)
    return result


def save(training: Training, signal_name: str) -> None:
    """Write a checkpoint; then, where a signal asked to stop, raise SystemExit."""
    if training.log:
        training.place.log_size = training.log.size()
        save_checkpoint(training.folder, training.place, training.model, training.optimizer, training.scaler)
    if signal_name:
        tqdm.write(f"{signal_name}: saved behind step {training.place.step:,}; the same command goes on from there")
        raise SystemExit(EXIT_STOPPED)


def distillation_loss(scores: Tensor, teacher_scores: Tensor) -> Tensor:
    """KD-DocRE's knowledge distillation: mean squared difference over pairs and classes, 0 for no pairs."""
    return F.mse_loss(scores, teacher_scores, reduction="sum") / max(scores.numel(), 1)


def mean_loss(recent: list[tuple[int, list[str], Tensor]]) -> float:
    """Mean of the losses since the last log. Raises UserError naming the first that is NaN or infinite.

    Each process has its share of a loss. They are looked at here only, every STEPS_PER_LOG steps, so that a GPU is not
    made to wait at each.
    """
    values = parallel.add_over_all(torch.stack([loss for _, _, loss in recent])).tolist()
    for (step, titles, _), value in zip(recent, values, strict=True):
        if not math.isfinite(value):
            raise UserError(
                f"step {step}: the loss is {value}, on documents {titles}; look at these documents, lower "
                "--learning_rate, or pass --precision fp32"
            )
    return sum(values) / len(values)


def score_split(experiment: Experiment, model: DocREModel, name: str) -> tuple[dict[str, Any], Predictions]:
    """Predict dev or test, each process its share: (the evaluator's figures and the pattern counts, {} without labels;
    what was predicted), in rank 0."""
    args, split = experiment.args, experiment.splits[name]
    mine = predict(
        model,
        split.features[parallel.rank() :: parallel.world_size()],
        experiment.loss,
        {index: relation for relation, index in experiment.rel2id.items()},
        experiment.device,
        experiment.precision,
        args.num_labels,
        args.test_batch_size * WINDOW,
        title=name,
    )
    found = merge(parallel.gather(mine), [feature["title"] for feature in split.features])
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
    clock, stop = StepClock(), StopRequest()
    for seeds_left, seed in zip(reversed(range(len(missing))), missing, strict=True):
        done[seed] = train_seed(experiment, seed, clock, seeds_left, stop)
    return [done[seed] for seed in args.seeds]


def score_saved_run(experiment: Experiment) -> None:
    """--load_path: score a saved run on dev and test; with --output_dir, write predictions and scores there."""
    args = experiment.args
    model = load_run(args.load_path).to(experiment.device)
    if model.settings["num_classes"] != len(experiment.rel2id):
        raise UserError(f"{args.rel2id}: has {len(experiment.rel2id)} classes, the run {model.settings['num_classes']}")
    check_lengths(experiment, model)
    write = args.output_dir and parallel.rank() == 0
    if write:
        make_folder(args.output_dir)
    results: dict[str, Any] = {}
    for name in ("dev", "test"):
        results[name], found = score_split(experiment, model, name)
        print(f"\n{name}: {experiment.splits[name].path}")
        print(format_scores(results[name]) or "no labels to score against")
        if write:
            save_predictions(Path(args.output_dir), name, found)
    if write:
        write_json(Path(args.output_dir) / "scores.json", results)


def main(arguments: list[str] | None = None) -> None:
    """Train every seed, or score a saved run; `arguments` default to the command line's."""
    args = parse_args(arguments)
    parallel.start()
    experiment = prepare(args)
    if args.load_path:
        score_saved_run(experiment)
    else:
        run_experiment(experiment)
    parallel.finish()


def run_experiment(experiment: Experiment) -> None:
    """Train every seed; write and print the summary."""
    args = experiment.args
    if experiment.device.type == "cpu":
        print(f"no GPU: a step's time, and with it the end, is known after {STEPS_BEFORE_ESTIMATE} steps")
    results = train_seeds(experiment)
    if parallel.rank():
        return
    summary = summarise(experiment.loss.describe(), results)
    write_json(Path(args.output_dir) / "summary.json", summary)
    print_summary(summary)
    print(f"\nsummary: {args.output_dir}/summary.json; predictions, weights and logs: {args.output_dir}/seed_*")


if __name__ == "__main__":
    run_command_line(main)
