"""Train and score a document-level relation extraction model: the paper's experiment, one seed or many.

    python train.py --data_dir dataset/redocred --output_dir runs/try

The defaults are the paper's Appendix B for BERT. Each seed's folder holds everything about its run; docs/train.md
describes it. This file reads from top to bottom: settings and data, seeds, the model, epochs, a batch, scores.
"""

from __future__ import annotations

if __name__ == "__main__":
    from hingeabl.start import start

    start()  # first: it tells in one line which package is missing

from pathlib import Path
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import tqdm
from transformers import get_linear_schedule_with_warmup

from hingeabl.core import one_module
from hingeabl.core.evaluation import format_scores, score_predictions
from hingeabl.core.model import DocREModel
from hingeabl.core.utils import autocast, set_seed, to_device
from hingeabl.errors import naming_batch, run_command_line
from hingeabl.files import make_folder, write_json
from hingeabl.modeling.checkpoints import save_weights
from hingeabl.modeling.encoder import WINDOW, checkpoint_layers
from hingeabl.modeling.evidence import attention_loss, evidence_loss
from hingeabl.training import parallel
from hingeabl.training.experiment import Experiment, prepare
from hingeabl.training.fitted import add_test_error, write_confidence_and_types
from hingeabl.training.inference import Predictions, gather, predict
from hingeabl.training.resume import CheckpointWriter, StopRequest, failure_noted
from hingeabl.training.runs import finished_scores, print_summary, summarise
from hingeabl.training.saved_run import (
    check_outputs_of,
    load_checkpoint_file,
    load_run,
    load_weights,
    warn_unfinished,
    weights_of,
)
from hingeabl.training.session import (
    ESTIMATES,
    STEPS_PER_LOG,
    Recent,
    StepClock,
    Training,
    begin,
    end_epoch,
    finish,
    log_losses,
    run_config,
    run_folder,
    save_if_due,
    save_predictions,
)
from hingeabl.training.settings import parse_args
from hingeabl.training.steps import (
    WHOLE,
    Share,
    batches_of_epoch,
    build_optimizer,
    build_scaler,
    load_batches,
    optimizer_step,
    part_of_step,
    seed_batch,
    share_of,
    steps_per_epoch,
)

LESS_MEMORY = "lower --train_batch_size and raise --gradient_accumulation_steps, or pass --gradient_checkpointing"


def main(arguments: list[str] | None = None) -> None:
    """Train every seed, or score a saved run; `arguments` default to the command line's."""
    args = parse_args(arguments)
    parallel.start(args.device)  # several processes, where torchrun started them
    experiment = prepare(args)  # documents, features, gold triples, loss, device: checked before anything is written
    if args.load_path:
        score_saved_run(experiment)
    else:
        train_seeds(experiment)
    parallel.finish()


def train_seeds(experiment: Experiment) -> None:
    """Train every seed that is not finished yet; write and print the summary over all of them."""
    args = experiment.args
    folders = {seed: Path(str(args.output_dir)) / f"seed_{seed}" for seed in args.seeds}
    results: dict[int, Any] = {
        seed: finished_scores(folder, run_config(experiment, seed)) for seed, folder in folders.items()
    }
    missing = [seed for seed in args.seeds if not results[seed]]
    if len(missing) < len(args.seeds):
        print(f"finished before: seeds {', '.join(str(seed) for seed in args.seeds if results[seed])}")
    if experiment.device.type == "cpu":
        first, second = ESTIMATES["cpu"]
        print(f"no GPU: the end is estimated after {first} steps, and more exactly after {second}")
    clock, stop = StepClock(experiment), StopRequest()
    for number, seed in enumerate(missing, 1):
        clock.seeds_left = len(missing) - number
        results[seed] = train_seed(experiment, seed, clock, stop)
    if parallel.rank() == 0:
        summary = summarise(experiment.loss.describe(), [results[seed] for seed in args.seeds])
        write_json(f"{args.output_dir}/summary.json", summary)
        print_summary(summary)
        print(f"\nsummary: {args.output_dir}/summary.json; predictions, weights and logs: {args.output_dir}/seed_*")


def train_seed(experiment: Experiment, seed: int, clock: StepClock, stop: StopRequest) -> dict[str, Any]:
    """Train one seed, from its last checkpoint where it was stopped; keep its best epoch by dev F1, score that on test.

    Returns the content of scores.json. Raises SystemExit for a request to stop, after a checkpoint.
    """
    args = experiment.args
    model = build_model(experiment, seed)  # before anything is written: settings may not fit the encoder
    with run_folder(str(args.output_dir), seed) as folder:
        if result := finished_scores(folder, run_config(experiment, seed)):  # by another process, just now
            return result
        print(f"\nseed {seed}: {folder}")
        with failure_noted(folder), parallel.losses_named(), CheckpointWriter() as writer:
            # AdamW without weight decay, linear warm-up and decay, loss scaling for fp16 (Appendix B)
            optimizer = build_optimizer(model, args)
            total_steps = steps_per_epoch(experiment) * args.num_train_epochs
            scheduler = get_linear_schedule_with_warmup(optimizer, int(total_steps * args.warmup_ratio), total_steps)
            scaler = build_scaler(experiment.device, experiment.precision)
            training = Training(experiment, seed, folder, model, optimizer, scheduler, scaler, total_steps, writer)
            begin(training)  # from the start, or from the last checkpoint
            while training.place.epoch <= args.num_train_epochs:
                train_epoch(training, clock, stop)
                score_epoch(training)
                end_epoch(training, stop)
            return score_test(training)


def build_model(experiment: Experiment, seed: int) -> DocREModel:
    """The model before its training. Raises UserError where settings do not fit it."""
    args = experiment.args
    set_seed(seed)
    outputs = experiment.loss.outputs(len(experiment.rel2id))
    model = DocREModel(args.model_name_or_path, outputs, args.emb_size, backbone=args.backbone)
    if args.init_from:
        load_weights(model, weights_of(args.init_from))
    model.to(experiment.device)
    if args.gradient_checkpointing:
        checkpoint_layers(model.model)
    return model


def train_epoch(training: Training, clock: StepClock, stop: StopRequest) -> None:
    """Train what is left of an epoch. The loss is the mean over all pairs of a step: of its accumulated batches, of all
    processes together."""
    experiment, model, place = training.experiment, training.shared, training.place
    args, features = experiment.args, experiment.splits["train"].features
    batches = batches_of_epoch(experiment, training.seed, place.epoch)  # [batches][documents], of all processes
    left = batches[place.batch :]  # all of them, unless the training was stopped within the epoch
    progress = tqdm(
        load_batches(experiment, left),
        desc=f"epoch {place.epoch}/{args.num_train_epochs}",
        total=len(batches),
        initial=place.batch,
        leave=False,
        unit="batch",
    )
    per_step, recent = args.gradient_accumulation_steps, Recent()
    model.train()
    clock.start()
    for global_batch, batch in zip(left, progress, strict=True):
        seed_batch(training.seed, place.epoch, place.batch, parallel.rank())  # the same dropout after a resume
        local_batch = share_of(global_batch)  # this process's documents
        titles = [features[number]["title"] for number in local_batch]
        first = place.batch // per_step * per_step
        in_step = [number for each in batches[first : first + per_step] for number in each]  # the step's documents
        place.batch += 1
        step_due = place.batch % per_step == 0 or place.batch == len(batches)

        # forward and backward. Gradients add up over batches and are averaged over processes: a weight by pairs, times
        # the number of processes, makes that the mean over all pairs of the step.
        share = part_of_step(features, local_batch, in_step)
        with parallel.gradients_averaged(model, step_due), naming_batch(batch, titles, LESS_MEMORY):
            loss = batch_loss(experiment, model, to_device(batch, experiment.device), share)
            training.scaler.scale(loss * parallel.world_size()).backward()
        recent.losses.append((place.step + 1, titles, loss.detach()))
        if not step_due:
            continue

        # clip, step, schedule, zero the gradients
        skipped = optimizer_step(
            training.model, training.optimizer, training.scheduler, training.scaler, args.max_grad_norm
        )
        if skipped is not None:
            recent.skipped.append(skipped)
        place.step += 1  # log_losses takes those back that were skipped
        log_due = place.tried % STEPS_PER_LOG == 0
        if log_due or place.batch == len(batches):
            log_losses(training, recent, progress)
            recent = Recent()
        clock.tick(place, training.total_steps)
        if log_due and place.batch < len(batches):
            save_if_due(training, stop)


def batch_loss(experiment: Experiment, model: nn.Module, batch: dict[str, Any], share: Share = WHOLE) -> Tensor:
    """The mean loss over a batch's pairs, with the distillation's where there are a teacher's scores, and with that of
    the evidence where it has a weight; each mean times the batch's share of the step."""
    names = ("labels", "teacher_scores", "teacher_attention", "evidence")
    labels, teacher_scores, teacher_attention, evidence = (batch.pop(name, None) for name in names)
    with autocast(experiment.device, experiment.precision):
        found = model(**batch)
    scores, attention = found if isinstance(found, tuple) else (found, None)
    loss = experiment.loss(scores, labels)  # [pairs of all documents, classes, and a loss's further thresholds]
    if teacher_scores is not None:
        loss = loss + distillation_loss(scores, teacher_scores)
    weight = experiment.args.evidence_weight
    if weight and teacher_attention is not None:
        loss = loss + weight * attention_loss(attention, teacher_attention)
    loss = share.pairs * loss
    if weight and teacher_attention is None:
        loss = loss + share.related * weight * evidence_loss(attention, evidence, labels)
    return loss


def distillation_loss(scores: Tensor, teacher_scores: Tensor) -> Tensor:
    """KD-DocRE's knowledge distillation: mean squared difference over pairs and classes, 0 for no pairs."""
    return F.mse_loss(scores, teacher_scores, reduction="sum") / max(scores.numel(), 1)


def score_epoch(training: Training) -> None:
    """Score dev at an epoch's end, and keep the epoch's weights and predictions if none before was better."""
    place, folder = training.place, training.folder
    scores, found = score_split(training.experiment, training.model, "dev")
    if training.log is None:  # not rank 0, which alone has the scores and writes files
        return
    training.writer.wait()  # one large file at a time
    training.log.write(place.step, {"epoch": place.epoch, "dev": scores})
    mark = ""
    if not place.best or scores["f1"] > place.best["dev"]["f1"]:
        place.best = {"seed": training.seed, "best_epoch": place.epoch, "dev": scores}
        save_predictions(folder, "dev", found)
        fit(training.experiment, "dev", found, folder)
        save_weights(folder / "model.safetensors", training.model)
        mark = "  best"
    tqdm.write(
        f"epoch {place.epoch:>3}  dev F1 {100 * scores['f1']:6.2f}  Ign F1 {100 * scores['ign_f1']:6.2f}  "
        f"P {100 * scores['precision']:6.2f}  R {100 * scores['recall']:6.2f}{mark}"
    )


def fit(experiment: Experiment, name: str, found: Predictions, folder: Path) -> None:
    """Write to a folder how probable predictions are, by dev, and the types that relations join in train; then how far
    that is off on test."""
    split, num_labels = experiment.splits[name], experiment.args.num_labels
    if not split.gold:
        return
    what = (found.pairs, experiment.loss, experiment.rel2id, num_labels)
    if name == "test":
        add_test_error(folder, split.documents, *what)
    else:
        write_confidence_and_types(
            folder, experiment.splits["train"].documents, split.documents, split.gold, found.entries, *what
        )


def score_test(training: Training) -> dict[str, Any]:
    """Score the best epoch on test and end the run; returns the content of scores.json."""
    experiment, folder = training.experiment, training.folder
    if training.log:
        training.log.close()
        training.writer.wait()
    parallel.wait_for_all()  # the best epoch's weights are on disk now
    scores, found = score_split(experiment, load_run(folder).to(experiment.device), "test")
    result = {**training.place.best, "test": scores}
    if parallel.rank() == 0:
        save_predictions(folder, "test", found)
        fit(experiment, "test", found, folder)
        finish(training, result)
    return result


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
        args.test_batch_size * WINDOW,  # tokens and pairs at once
        title=name,
    )
    found = gather(mine, split.features, experiment.rel2id, experiment.loss, experiment.device)
    scores = score_predictions(found.entries, split.gold) | found.patterns if split.gold else {}
    return scores, found


def score_saved_run(experiment: Experiment) -> None:
    """--load_path: score a saved run, or a checkpoint, on dev and test; with --output_dir, write predictions and scores
    there."""
    args = experiment.args
    if parallel.rank() == 0:
        warn_unfinished("--load_path", str(args.load_path))
    if Path(str(args.load_path)).is_dir():
        model = load_run(str(args.load_path)).to(experiment.device)
    else:
        outputs = experiment.loss.outputs(len(experiment.rel2id))
        model = load_checkpoint_file(str(args.load_path), args.model_name_or_path, outputs)
        model.to(experiment.device)
    check_outputs_of(model, experiment.loss, experiment.rel2id, args.rel2id)
    output = make_folder(args.output_dir) if args.output_dir and parallel.rank() == 0 else None
    results: dict[str, Any] = {}
    for name in ("dev", "test"):
        results[name], found = score_split(experiment, model, name)
        print(f"\n{name}: {experiment.splits[name].path}")
        print(format_scores(results[name]) or "no labels to score against")
        if output:
            save_predictions(output, name, found)
            fit(experiment, name, found, output)
    if output:
        write_json(output / "scores.json", results)


one_module(__name__)
if __name__ == "__main__":
    run_command_line(main)
