"""From documents to optimizer steps: an epoch's batches, AdamW with the paper's rates, one step, the schedule.

With fp16 a scaler skips an optimizer step whose gradients overflowed, and halves its scale. Whether it did is known
only on the GPU, and reading it waits for the GPU. So flags are kept there, and read every session.STEPS_PER_LOG steps.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader
from tqdm import tqdm

from hingeabl.core.model import DocREModel
from hingeabl.core.prepro import Feature
from hingeabl.core.utils import collate_fn, set_seed
from hingeabl.errors import UserError
from hingeabl.training import parallel
from hingeabl.training.experiment import Experiment
from hingeabl.training.resume import TrainingProgress
from hingeabl.training.settings import Settings

FIRST_SCALE = 2.0**15  # KD-DocRE's gradients overflow at 2^16, the scaler's default
MOST_SKIPPED = 20  # steps in a row
REMEDY = "lower --learning_rate, or pass --precision bf16 or fp32"


def batches_of_epoch(experiment: Experiment, seed: int, epoch: int) -> list[list[int]]:
    """The numbers of the documents in each batch of an epoch, for all processes together."""
    args = experiment.args
    order = np.random.default_rng([seed, epoch]).permutation(len(experiment.splits["train"].features)).tolist()
    size = args.train_batch_size * parallel.world_size()
    batches = [order[start : start + size] for start in range(0, len(order), size)]
    return batches if args.keep_last_batch or len(batches[-1]) == size else batches[:-1]


def steps_per_epoch(experiment: Experiment) -> int:
    """Optimizer steps of an epoch."""
    batches = len(batches_of_epoch(experiment, seed=0, epoch=1))
    return math.ceil(batches / experiment.args.gradient_accumulation_steps)


def shard_for_rank(batch: list[int]) -> list[int]:
    """This process's documents of a batch; none if the batch has no more documents than there are processes before
    this one."""
    return batch[parallel.rank() :: parallel.world_size()]


def seed_batch(seed: int, epoch: int, batch: int, rank: int) -> None:
    """Seed every random generator for a batch, so that its dropout is the same after a training was stopped."""
    set_seed(int(np.random.SeedSequence([seed, epoch, batch, rank]).generate_state(1)[0]))


def load_batches(experiment: Experiment, batches: list[list[int]]) -> DataLoader:
    """This process's documents of each batch, collated; if it has none, one document that gets weight 0.

    Without workers: collating takes a millisecond, and a SIGTERM to all processes of a job would end the workers first,
    and so the training before it writes its checkpoint.
    """
    return DataLoader(
        experiment.train_set,
        batch_sampler=[shard_for_rank(batch) or batch[:1] for batch in batches],
        collate_fn=collate_fn,
        pin_memory=experiment.device.type == "cuda",
    )


class StepWeight(NamedTuple):
    """A batch's share of its optimizer step's pairs, and of those with a relation. The batches' mean losses over pairs,
    multiplied by these shares, add up to the mean over the step's pairs."""

    pairs: float
    related_pairs: float


WHOLE_STEP = StepWeight(1.0, 1.0)


def step_weight(features: list[Feature], batch: list[int], step: list[int]) -> StepWeight:
    """The weight of a batch in a step, both given by the numbers of their documents."""
    (pairs, related), (all_pairs, all_related) = count_pairs(features, batch), count_pairs(features, step)
    return StepWeight(pairs / max(all_pairs, 1), related / max(all_related, 1))


def count_pairs(features: list[Feature], numbers: list[int]) -> tuple[int, int]:
    """The number of pairs of some documents, and of those with a relation."""
    documents = [features[number] for number in numbers]
    pairs = sum(len(feature["hts"]) for feature in documents)
    return pairs, sum(feature["labels"].related for feature in documents if "labels" in feature)


def build_optimizer(model: DocREModel, args: Settings) -> torch.optim.AdamW:
    """AdamW without weight decay, with a learning rate each for the encoder, the new layers and, if there are any, the
    representation module's own layers."""
    groups: dict[str, list[torch.nn.Parameter]] = {"learning_rate": [], "classifier_lr": [], "module_lr": []}
    for name, parameter in model.named_parameters():
        layer = name.split(".")[0]
        rate_of_new_layer = "module_lr" if layer in model.module_layers else "classifier_lr"
        groups["learning_rate" if layer == "model" else rate_of_new_layer].append(parameter)
    rates = vars(args) | {"module_lr": args.classifier_lr if args.module_lr is None else args.module_lr}
    parameters = [{"params": group, "lr": rates[name], "name": name} for name, group in groups.items() if group]
    return torch.optim.AdamW(parameters, eps=args.adam_epsilon, weight_decay=0.0, fused=True)


def optimizer_step(
    model: DocREModel, optimizer: torch.optim.Optimizer, scheduler: Any, scaler: torch.amp.GradScaler, max_norm: float
) -> Tensor | None:
    """Clip, step, advance the schedule, clear the gradients.

    Returns whether the gradients overflowed and the scaler skipped the step, bool [] on the model's device; None
    without fp16. A skipped step changes neither weights nor AdamW's count of steps. The schedule still advances, since
    reading the flag would wait for the GPU; move_schedule corrects it at the next log.
    """
    device = next(model.parameters()).device
    before = scale_of(scaler, device)
    scaler.unscale_(optimizer)
    torch.nn.utils.clip_grad_norm_(model.parameters(), max_norm)
    scaler.step(optimizer)
    scaler.update()
    scheduler.step()
    optimizer.zero_grad(set_to_none=True)
    after = scale_of(scaler, device)
    return None if before is None or after is None else after < before


def move_schedule(scheduler: Any, step: int) -> None:
    """Set every group's learning rate to that of the given optimizer step."""
    scheduler.last_epoch = step
    groups = zip(scheduler.optimizer.param_groups, scheduler.base_lrs, scheduler.lr_lambdas, strict=True)
    for group, rate, factor in groups:
        group["lr"] = rate * factor(step)


def build_scaler(device: torch.device, precision: str) -> torch.amp.GradScaler:
    """The scaler of a training; without fp16 it does nothing."""
    return torch.amp.GradScaler(device.type, FIRST_SCALE, enabled=precision == "fp16")


def scale_of(scaler: torch.amp.GradScaler, device: torch.device) -> Tensor | None:
    """The scale now, float32 [], without waiting for the GPU; None without fp16."""
    return scaler.scale(torch.ones((), device=device)) if scaler.is_enabled() else None


def settle_skipped(progress: TrainingProgress, scaler: torch.amp.GradScaler, flags: list[Tensor]) -> list[bool]:
    """Which of the latest optimizer steps the scaler skipped, from their flags bool []. `progress`, where they all
    count as done, is corrected. Prints a note if there were any.

    Raises UserError after MOST_SKIPPED skipped steps in a row, or if the scale has fallen below 1.
    """
    skipped = torch.stack(flags).tolist() if flags else []
    for flag in skipped:
        progress.skipped_in_row = progress.skipped_in_row + 1 if flag else 0
        if progress.skipped_in_row == MOST_SKIPPED:
            raise UserError(f"step {progress.step}: fp16 overflowed in {MOST_SKIPPED} steps in a row; {REMEDY}")
    count = sum(skipped)
    progress.step, progress.skipped = progress.step - count, progress.skipped + count
    if count:
        scale = scaler.get_scale()
        if scale < 1:
            raise UserError(f"step {progress.step}: fp16 overflowed until the loss scale fell to {scale:g}; {REMEDY}")
        tqdm.write(
            f"fp16: {count} of the last {len(skipped)} steps overflowed and were skipped, as is normal now and then; "
            f"the loss scale is {scale:g} now"
        )
    return skipped


def scaling_figures(progress: TrainingProgress, scaler: torch.amp.GradScaler) -> dict[str, Any]:
    """The figures of fp16 for metrics.jsonl: the steps skipped so far and the scale; {} without fp16."""
    return {"skipped_steps": progress.skipped, "loss_scale": scaler.get_scale()} if scaler.is_enabled() else {}
