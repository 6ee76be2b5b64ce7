"""One seed's training around its epochs: the run's folder, how it begins or resumes, its log, saving and stopping."""

from __future__ import annotations

import contextlib
import math
import shutil
import statistics
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

from hingeabl.core.model import DocREModel
from hingeabl.core.utils import describe_device
from hingeabl.errors import UserError
from hingeabl.files import TIMING, make_folder, predictions_file, save_tensors, sha256_of_file, write_json
from hingeabl.modeling.layers import max_over_processes
from hingeabl.training import parallel, resume
from hingeabl.training.distillation import ATTENTION, SCORES, teacher_file
from hingeabl.training.experiment import Experiment
from hingeabl.training.inference import Predictions
from hingeabl.training.resume import CheckpointWriter, StopRequest, TrainingProgress
from hingeabl.training.runs import RunLog, describe_environment, finished_scores
from hingeabl.training.saved_run import save_run, weights_of
from hingeabl.training.steps import move_schedule, scaling_figures, settle_skipped

STEPS_PER_LOG = 10
SHARED_SECONDS = 120  # after which all processes must see a new run's folder
ESTIMATES = {"cpu": (5, 50), "cuda": (50,)}  # after how many steps the end is estimated


@dataclass
class Training:
    """One seed's training. restore_or_initialise sets `ddp_model`, the model as several processes call it, `progress`,
    how far the training is, `saved`, the step of its last checkpoint, and in rank 0 `log`.
    `counted` is when time was last added to `progress.seconds`."""

    experiment: Experiment
    seed: int
    folder: Path
    model: DocREModel
    optimizer: torch.optim.Optimizer
    scheduler: torch.optim.lr_scheduler.LambdaLR
    scaler: torch.amp.GradScaler
    total_steps: int
    writer: CheckpointWriter
    ddp_model: nn.Module = field(init=False)
    progress: TrainingProgress = field(default_factory=TrainingProgress)
    saved: int = 0
    log: RunLog | None = None
    counted: float = field(default_factory=time.monotonic)

    def count_time(self) -> None:
        """Add to `progress.seconds` the time since this was last called."""
        now = time.monotonic()
        if self.progress.seconds is not None:
            self.progress.seconds += now - self.counted
        self.counted = now


@dataclass
class SinceLastLog:
    """Losses and skipped steps since the last log.

    losses   for each batch its optimizer step, its documents' titles, and its share of the step's loss, on its device
    skipped  with fp16, for each optimizer step whether it was skipped, on its device
    """

    losses: list[tuple[int, list[str], Tensor]] = field(default_factory=list)
    skipped: list[Tensor] = field(default_factory=list)


class StepClock:
    """Times optimizer steps, and prints after some of them (ESTIMATES) when all seeds will be done."""

    def __init__(self, experiment: Experiment) -> None:
        """`seeds_left` is the number of seeds to train after the current one."""
        self.experiment = experiment
        self.seeds_left = 0
        self.seconds: list[float] = []
        self.last = 0.0

    def start(self) -> None:
        """Begin timing; called when an epoch begins, so that scoring between epochs does not count."""
        self.last = time.perf_counter()

    def tick(self, progress: TrainingProgress, total_steps: int) -> None:
        """Count one of a seed's `total_steps` steps."""
        now = time.perf_counter()
        self.seconds.append(now - self.last)
        self.last = now
        count = len(self.seconds)
        if count not in ESTIMATES[self.experiment.device.type]:
            return
        args, seeds = self.experiment.args, self.seeds_left + 1
        dev, test = (len(self.experiment.splits[name].documents) for name in ("dev", "test"))
        unscored = (args.num_train_epochs * seeds - progress.epoch + 1) * dev + seeds * test  # documents
        per_step = args.train_batch_size * parallel.world_size() * args.gradient_accumulation_steps  # documents
        seconds = statistics.mean(self.seconds[max(count // 10, 1) :])  # the first few are slower
        # a forward pass is about a third of a step
        steps = total_steps * seeds - progress.tried + unscored / per_step / 3
        end = datetime.now() + timedelta(seconds=seconds * steps)
        tqdm.write(
            f"{seconds:.2f} s a step: all seeds done in about {timedelta(seconds=round(seconds * steps))}, "
            f"{end:%a %d %b %Y, %H:%M}, on {describe_device(self.experiment.device)}"
        )


@contextlib.contextmanager
def run_folder(output_dir: str | Path, seed: int) -> Iterator[Path]:
    """A seed's folder, locked against other processes. Raises UserError if another one holds it."""
    folder = make_folder(Path(output_dir) / f"seed_{seed}")
    with resume.locked(folder) if parallel.rank() == 0 else contextlib.nullcontext():
        yield folder


def run_config(experiment: Experiment, seed: int) -> dict[str, Any]:
    """The content of config.json: all that a run's numbers depend on, and where it runs."""
    args = experiment.args
    files = {name: split.path for name, split in experiment.splits.items()} | {"rel2id": Path(args.rel2id)}
    if args.init_from:
        files["initial weights"] = weights_of(args.init_from)
    for target in (SCORES, ATTENTION):
        if folder := getattr(args, f"teacher_{target}"):
            files[f"teacher {target}"] = teacher_file(folder)
    return {
        "seed": seed,
        "settings": vars(args),
        "loss": experiment.loss.describe(),
        **({} if experiment.loss.priors is None else {"priors": experiment.loss.priors.tolist()}),
        "precision": experiment.precision,
        "data": {name: sha256_of_file(path) for name, path in files.items()},
        "device": describe_device(experiment.device),
        "processes": parallel.world_size(),
        "environment": describe_environment(),
    }


def other_finished_seeds(experiment: Experiment) -> dict[int, Any]:
    """The scores of the finished runs in the output folder that have the same settings and a seed not asked for."""
    found: dict[int, Any] = {}
    for folder in sorted(Path(str(experiment.args.output_dir)).glob("seed_*")):
        name = folder.name.removeprefix("seed_")
        if name.isdecimal() and int(name) not in experiment.args.seeds:
            with contextlib.suppress(UserError):  # of other settings
                found[int(name)] = finished_scores(folder, run_config(experiment, int(name)))
    return {seed: found[seed] for seed in sorted(found) if found[seed]}


def restore_or_initialise(training: Training) -> None:
    """Restore a training from the last checkpoint of its run's folder, or write the first files of a new run. Raises
    UserError if its processes do not share the folder."""
    experiment, folder, model = training.experiment, training.folder, training.model
    progress = training.progress = resume.load_checkpoint(folder, model, training.optimizer, training.scaler)
    device, step = experiment.device, progress.step
    if max_over_processes(step, device) != -max_over_processes(-step, device):
        raise UserError(f"{folder}: the processes see different checkpoints; all need it on one shared disk")
    training.saved = progress.step
    move_schedule(training.scheduler, progress.step)
    parallel.wait_for_all()  # before any of these files changes
    if progress != TrainingProgress():
        print(f"resuming after step {progress.step:,}, in epoch {progress.epoch}")
    elif parallel.rank() == 0:
        write_json(folder / "config.json", run_config(experiment, training.seed))
        write_json(folder / "rel2id.json", experiment.rel2id)
        save_run(folder, model, experiment.tokenizer)
    if parallel.rank() == 0:
        name = f"{Path(str(experiment.args.output_dir)).name} seed {training.seed}"
        training.log = RunLog(folder, name, experiment.args.wandb_project, progress.log_size, progress.step)
    elif not seen_within(folder / "model.json", SHARED_SECONDS):
        raise UserError(f"{folder}: one of the processes does not see it; all need it on one shared disk")
    training.ddp_model = parallel.wrap_for_ddp(model, experiment.device)


def seen_within(path: Path, seconds: float) -> bool:
    """Whether a file that another machine may have written is there, or appears in time; network disks need some."""
    end = time.monotonic() + seconds
    while not path.exists():
        if time.monotonic() > end:
            return False
        time.sleep(0.2)
    return True


def log_losses(training: Training, recent: SinceLastLog, bar: tqdm) -> None:
    """Write the mean of the losses since the last log and the learning rates, and show them beside the progress bar.

    This reads losses and flags back from the GPU, so it is called only every STEPS_PER_LOG steps. Steps that fp16's
    scaler skipped do not count: step number and schedule go back by that many.
    """
    progress, scaler = training.progress, training.scaler
    mean = mean_loss(recent, settle_skipped(progress, scaler, recent.skipped))
    move_schedule(training.scheduler, progress.step)
    rates = {group["name"]: group["lr"] for group in training.optimizer.param_groups}
    if training.log:
        loss = {"loss": mean} if math.isfinite(mean) else {}
        training.log.write(progress.step, {**loss, **rates, **scaling_figures(progress, scaler)})
    bar.set_postfix(loss=f"{mean:.4f}", lr=f"{rates['learning_rate']:.1e}")


def mean_loss(recent: SinceLastLog, skipped: list[bool]) -> float:
    """The mean of the steps' losses, each the sum of its batches' shares. Losses that are not finite are left out if
    fp16's scaler skipped the step; NaN if none is left. `skipped` has a flag for each step, or is empty without fp16.

    Raises UserError naming the first batch whose loss is NaN or infinite in a step that was not skipped.
    """
    values = parallel.sum_over_processes(torch.stack([loss for _, _, loss in recent.losses])).tolist()
    step_losses: dict[int, float] = {}
    for (step, titles, _), value in zip(recent.losses, values, strict=True):
        if not math.isfinite(value) and not (skipped and skipped[step - recent.losses[0][0]]):
            raise UserError(
                f"step {step}: the loss is {value}, on documents {titles}; look at these documents, lower "
                "--learning_rate, or pass --precision fp32"
            )
        step_losses[step] = step_losses.get(step, 0.0) + value
    finite = [value for value in step_losses.values() if math.isfinite(value)]
    return sum(finite) / len(finite) if finite else math.nan


def save_if_due(training: Training, stop: StopRequest) -> None:
    """Within an epoch: write a checkpoint after every --save_steps steps, and if a signal asked to stop."""
    name = name_of_stop(training, stop)
    if name or training.progress.step - training.saved >= training.experiment.args.save_steps:
        save(training, name)


def name_of_stop(training: Training, stop: StopRequest) -> str:
    """The signal that asked this process to stop, or a note that another process was asked; "" if none was."""
    asked = max_over_processes(int(bool(stop.name)), training.experiment.device)
    return (stop.name or "another process was asked to stop") if asked else ""


def end_epoch(training: Training, stop: StopRequest) -> None:
    """Move on to the next epoch and write a checkpoint."""
    training.progress.epoch, training.progress.batch = training.progress.epoch + 1, 0
    save(training, name_of_stop(training, stop))


def save(training: Training, signal_name: str) -> None:
    """Begin to write a checkpoint; if a signal asked to stop, wait until it is written and raise SystemExit."""
    training.count_time()
    if training.log:
        training.progress.log_size = training.log.size()
        training.writer.write(training.folder, training.progress, training.model, training.optimizer, training.scaler)
    training.saved = training.progress.step
    if signal_name:
        training.writer.wait()
        parallel.wait_for_all()  # torchrun ends all processes when one has left, so not while rank 0 writes
        parallel.finish()
        tqdm.write(f"{signal_name}: saved after step {training.progress.step:,}; run the same command to resume")
        raise SystemExit(resume.EXIT_STOPPED)


def save_predictions(folder: Path, name: str, predictions: Predictions) -> None:
    """Write a split's predictions, and the scores of the pairs that have a gold or a predicted relation."""
    write_json(predictions_file(folder, name), predictions.entries, indent=0)
    save_tensors(folder / f"pair_scores_{name}.safetensors", predictions.pairs)


def write_timing(folder: Path, progress: TrainingProgress) -> None:
    """Write a finished run's optimizer steps, and its seconds if they are known."""
    seconds = {} if progress.seconds is None else {"seconds": round(progress.seconds, 1)}
    write_json(folder / TIMING, {"steps": progress.step, **seconds})


def mark_finished(training: Training, result: dict[str, Any]) -> None:
    """Write a finished run's timing and scores.json, which marks it as finished, and remove its checkpoints."""
    training.count_time()
    write_timing(training.folder, training.progress)
    write_json(training.folder / "scores.json", result)
    shutil.rmtree(training.folder / resume.CHECKPOINTS, ignore_errors=True)
