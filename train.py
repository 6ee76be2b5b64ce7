"""Train and score a document-level relation extraction model: the paper's experiment, one seed or many.

    python train.py --data_dir dataset/redocred --output_dir runs/try

The defaults are the paper's Appendix B for BERT. Each seed's folder holds everything about its run; docs/train.md
describes it. This file reads from top to bottom: settings and data, seeds, the model, epochs, a batch, scores.
"""

from __future__ import annotations

from hingeabl.start import start

start(__name__)  # first: it tells in one line which package is missing

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
from hingeabl.modeling.checkpoints import epoch_of_weights, save_weights
from hingeabl.modeling.encoder import checkpoint_layers
from hingeabl.modeling.evidence import attention_loss, evidence_loss
from hingeabl.training import parallel, saved_run, session, steps
from hingeabl.training.experiment import Experiment, predict_documents, prepare
from hingeabl.training.fitted import CONFIDENCE, TYPES, add_test_error, write_confidence_and_types
from hingeabl.training.inference import Predictions, gather
from hingeabl.training.resume import CheckpointWriter, StopRequest, alone_in, failure_noted
from hingeabl.training.runs import finished_scores, print_summary, summarise
from hingeabl.training.session import SinceLastLog, StepClock, Training, save_if_due
from hingeabl.training.settings import parse_args
from hingeabl.training.steps import StepWeight, build_optimizer, build_scaler, optimizer_step

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
        seed: finished_scores(folder, session.run_config(experiment, seed)) for seed, folder in folders.items()
    }
    missing = [seed for seed in args.seeds if not results[seed]]
    if len(missing) < len(args.seeds):
        print(f"finished before: seeds {', '.join(str(seed) for seed in args.seeds if results[seed])}")
    if experiment.device.type == "cpu":
        first, second = session.ESTIMATES["cpu"]
        print(f"no GPU: the end is estimated after {first} steps, and more exactly after {second}")
    clock, stop = StepClock(experiment), StopRequest()
    for number, seed in enumerate(missing, 1):
        clock.seeds_left = len(missing) - number
        results[seed] = train_seed(experiment, seed, clock, stop)
    if parallel.rank() == 0:
        with alone_in(str(args.output_dir)):  # a sweep trains each seed by a command of its own, many at once
            results |= session.other_finished_seeds(experiment)
            summary = summarise(experiment.loss.describe(), list(results.values()))
            write_json(f"{args.output_dir}/summary.json", summary)
        print_summary(summary)
        print(f"\nsummary: {args.output_dir}/summary.json; predictions, weights and logs: {args.output_dir}/seed_*")


def train_seed(experiment: Experiment, seed: int, clock: StepClock, stop: StopRequest) -> dict[str, Any]:
    """Train one seed, from its last checkpoint if it was stopped; keep its best epoch by dev F1, and score it on test.

    Returns the content of scores.json. Raises SystemExit, after a checkpoint, if the process was asked to stop.
    """
    args = experiment.args
    model = build_model(experiment, seed)  # before anything is written: settings may not fit the encoder
    with session.run_folder(str(args.output_dir), seed) as folder:
        if result := finished_scores(folder, session.run_config(experiment, seed)):  # by another process, just now
            return result
        print(f"\nseed {seed}: {folder}")
        with failure_noted(folder), parallel.peer_failures_explained(), CheckpointWriter() as writer:
            # AdamW without weight decay, linear warm-up and decay, loss scaling for fp16 (Appendix B)
            optimizer = build_optimizer(model, args)
            total_steps = steps.steps_per_epoch(experiment) * args.num_train_epochs
            scheduler = get_linear_schedule_with_warmup(optimizer, int(total_steps * args.warmup_ratio), total_steps)
            scaler = build_scaler(experiment.device, experiment.precision)
            training = Training(experiment, seed, folder, model, optimizer, scheduler, scaler, total_steps, writer)
            session.restore_or_initialise(training)
            while training.progress.epoch <= args.num_train_epochs:
                train_epoch(training, clock, stop)
                score_epoch(training)
                session.end_epoch(training, stop)
            return score_test(training)


def build_model(experiment: Experiment, seed: int) -> DocREModel:
    """The model before its training. Raises UserError if settings do not fit it."""
    args = experiment.args
    set_seed(seed)
    outputs = experiment.loss.outputs(len(experiment.rel2id))
    model = DocREModel(args.model_name_or_path, outputs, args.emb_size, backbone=args.backbone)
    if args.init_from:
        saved_run.load_weights(model, saved_run.weights_of(args.init_from))
    model.to(experiment.device)
    if args.gradient_checkpointing:
        checkpoint_layers(model.model)
    return model


def train_epoch(training: Training, clock: StepClock, stop: StopRequest) -> None:
    """Train the rest of an epoch. The loss is the mean over all pairs of a step, in all its accumulated batches and all
    processes."""
    experiment, model, progress = training.experiment, training.ddp_model, training.progress
    args, features = experiment.args, experiment.splits["train"].features
    batches = steps.batches_of_epoch(experiment, training.seed, progress.epoch)  # [batches][documents]
    remaining = batches[progress.batch :]  # all of them, unless the training was stopped within the epoch
    bar = tqdm(
        steps.load_batches(experiment, remaining),
        desc=f"epoch {progress.epoch}/{args.num_train_epochs}",
        total=len(batches),
        initial=progress.batch,
        leave=False,
        unit="batch",
    )
    per_step, recent = args.gradient_accumulation_steps, SinceLastLog()
    model.train()
    clock.start()
    for global_batch, batch in zip(remaining, bar, strict=True):
        steps.seed_batch(training.seed, progress.epoch, progress.batch, parallel.rank())  # as before a resume
        local_batch = steps.shard_for_rank(global_batch)  # this process's documents
        titles = [features[number]["title"] for number in local_batch]
        first = progress.batch // per_step * per_step
        step_documents = [number for numbers in batches[first : first + per_step] for number in numbers]
        progress.batch += 1
        step_due = progress.batch % per_step == 0 or progress.batch == len(batches)

        # forward and backward. Gradients add up over batches and are averaged over processes: a weight by pairs, times
        # the number of processes, makes that the mean over all pairs of the step.
        weight = steps.step_weight(features, local_batch, step_documents)
        with parallel.gradients_averaged(model, step_due), naming_batch(batch, titles, LESS_MEMORY):
            loss = batch_loss(experiment, model, to_device(batch, experiment.device), weight)
            training.scaler.scale(loss * parallel.world_size()).backward()
        recent.losses.append((progress.step + 1, titles, loss.detach()))
        if not step_due:
            continue

        # clip, step, schedule, zero the gradients
        skipped = optimizer_step(
            training.model, training.optimizer, training.scheduler, training.scaler, args.max_grad_norm
        )
        if skipped is not None:
            recent.skipped.append(skipped)
        progress.step += 1  # log_losses subtracts the skipped ones
        log_due = progress.tried % session.STEPS_PER_LOG == 0
        if log_due or progress.batch == len(batches):
            session.log_losses(training, recent, bar)
            recent = SinceLastLog()
        clock.tick(progress, training.total_steps)
        if log_due and progress.batch < len(batches):
            save_if_due(training, stop)


def batch_loss(
    experiment: Experiment, model: nn.Module, batch: dict[str, Any], weight: StepWeight = steps.WHOLE_STEP
) -> Tensor:
    """The mean loss over a batch's pairs, plus the distillation loss if there are a teacher's scores, and the evidence
    loss if it has a weight; each mean times the batch's weight in the step."""
    names = ("labels", "teacher_scores", "teacher_attention", "evidence")
    labels, teacher_scores, teacher_attention, evidence = (batch.pop(name, None) for name in names)
    with autocast(experiment.device, experiment.precision):
        output = model(**batch)
    scores, attention = output if isinstance(output, tuple) else (output, None)
    loss = experiment.loss(scores, labels)  # scores [pairs of all documents, classes, and a loss's further thresholds]
    if teacher_scores is not None:
        loss = loss + distillation_loss(scores, teacher_scores)
    evidence_weight = experiment.args.evidence_weight
    if evidence_weight and teacher_attention is not None:
        loss = loss + evidence_weight * attention_loss(attention, teacher_attention)
    loss = weight.pairs * loss
    if evidence_weight and teacher_attention is None:
        loss = loss + weight.related_pairs * evidence_weight * evidence_loss(attention, evidence, labels)
    return loss


def distillation_loss(scores: Tensor, teacher_scores: Tensor) -> Tensor:
    """KD-DocRE's knowledge distillation: mean squared difference over pairs and classes, 0 for no pairs."""
    return F.mse_loss(scores, teacher_scores, reduction="sum") / max(scores.numel(), 1)


def score_epoch(training: Training) -> None:
    """Score dev at an epoch's end, and keep the epoch's weights and predictions if its F1 is the highest so far."""
    progress, folder = training.progress, training.folder
    scores, predictions = score_split(training.experiment, training.model, "dev")
    if training.log is None:  # only rank 0 has the scores and writes files
        return
    training.writer.wait()  # one large file at a time
    training.log.write(progress.step, {"epoch": progress.epoch, "dev": scores})
    mark = ""
    weights = folder / "model.safetensors"
    is_lost = epoch_of_weights(weights) == progress.epoch  # stopped before its checkpoint: the older best are replaced
    if not progress.best or is_lost or scores["f1"] > progress.best["dev"]["f1"]:
        progress.best = {"seed": training.seed, "best_epoch": progress.epoch, "dev": scores}
        save_weights(weights, training.model, progress.epoch)  # first: is_lost reads which epoch's they are
        session.save_predictions(folder, "dev", predictions)
        write_calibration(training.experiment, "dev", predictions, folder)
        mark = "  best"
    tqdm.write(
        f"epoch {progress.epoch:>3}  dev F1 {100 * scores['f1']:6.2f}  Ign F1 {100 * scores['ign_f1']:6.2f}  "
        f"P {100 * scores['precision']:6.2f}  R {100 * scores['recall']:6.2f}{mark}"
    )


def write_calibration(experiment: Experiment, name: str, predictions: Predictions, folder: Path) -> None:
    """Write to a folder how probable predictions are, by dev, and the types that relations join in train; then the
    error of these probabilities on test."""
    split, num_labels = experiment.splits[name], experiment.args.num_labels
    if not split.gold:
        return
    scored = (predictions.pairs, experiment.loss, experiment.rel2id, num_labels)
    if name == "test":
        add_test_error(folder, split.documents, *scored)
    else:
        train = experiment.splits["train"].documents
        write_confidence_and_types(folder, train, split.documents, split.gold, predictions.entries, *scored)


def score_test(training: Training) -> dict[str, Any]:
    """Score the best epoch on test and end the run; returns the content of scores.json."""
    experiment, folder = training.experiment, training.folder
    if training.log:
        training.log.close()
        training.writer.wait()
    parallel.wait_for_all()  # the best epoch's weights are on disk now
    scores, predictions = score_split(experiment, saved_run.load_run(folder).to(experiment.device), "test")
    result = {**training.progress.best, "test": scores}
    if parallel.rank() == 0:
        session.save_predictions(folder, "test", predictions)
        write_calibration(experiment, "test", predictions, folder)
        session.mark_finished(training, result)
    return result


def score_split(experiment: Experiment, model: DocREModel, name: str) -> tuple[dict[str, Any], Predictions]:
    """Predict dev or test, each process a part of it: (the evaluator's figures and the pattern counts, {} without
    labels; the predictions), in rank 0."""
    split = experiment.splits[name]
    local = predict_documents(experiment, model, split.features[parallel.rank() :: parallel.world_size()], title=name)
    predictions = gather(local, split.features, experiment.rel2id, experiment.loss, experiment.device)
    scores = score_predictions(predictions.entries, split.gold) | predictions.patterns if split.gold else {}
    return scores, predictions


def score_saved_run(experiment: Experiment) -> None:
    """--load_path: score a saved run, or a checkpoint, on dev and test; with --output_dir, write predictions and scores
    there."""
    args = experiment.args
    saved_run.warn_unfinished("--load_path", str(args.load_path))
    if Path(str(args.load_path)).is_dir():
        model = saved_run.load_run(str(args.load_path)).to(experiment.device)
    else:
        outputs = experiment.loss.outputs(len(experiment.rel2id))
        model = saved_run.load_checkpoint_file(str(args.load_path), args.model_name_or_path, outputs)
        model.to(experiment.device)
    saved_run.check_outputs_of(model, experiment.loss, experiment.rel2id, args.rel2id)
    folder = make_folder(args.output_dir) if args.output_dir and parallel.rank() == 0 else None
    for path in (folder / CONFIDENCE, folder / TYPES) if folder else ():  # of what was scored into it before
        path.unlink(missing_ok=True)
    results: dict[str, Any] = {}
    for name in ("dev", "test"):
        results[name], predictions = score_split(experiment, model, name)
        print(f"\n{name}: {experiment.splits[name].path}")
        print(format_scores(results[name]) or "no labels to score against")
        if folder:
            session.save_predictions(folder, name, predictions)
            write_calibration(experiment, name, predictions, folder)
    if folder:
        write_json(folder / "scores.json", results)


one_module(__name__)
if __name__ == "__main__":
    run_command_line(main)
