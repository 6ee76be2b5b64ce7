"""AdamW with the paper's rates, a step of it, and the place in the schedule."""

from __future__ import annotations

import argparse
from typing import Any

import torch

from model import DocREModel


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


def move_schedule(scheduler: Any, step: int) -> None:
    """Set every group's rate to that of an optimizer step."""
    scheduler.last_epoch = step
    groups = zip(scheduler.optimizer.param_groups, scheduler.base_lrs, scheduler.lr_lambdas, strict=True)
    for group, rate, factor in groups:
        group["lr"] = rate * factor(step)
