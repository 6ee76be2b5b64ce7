"""Loss scaling for fp16: the scale to start from, and what the steps that the scaler skipped mean for the training.

A scaler skips an optimizer step whose gradients overflowed, and halves its scale. Whether it did is known on the GPU
alone, and to ask waits for it. So flags are kept there, and read every STEPS_PER_LOG steps.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from hingeabl.errors import UserError
from hingeabl.training.resume import Place

FIRST_SCALE = 2.0**15  # KD-DocRE's gradients overflow at 2^16, which is the scaler's own
MOST_SKIPPED = 20  # steps in a row
REMEDY = "lower --learning_rate, or pass --precision bf16 or fp32"


def build_scaler(device: torch.device, precision: str) -> torch.amp.GradScaler:
    """The scaler of a training; without fp16 it does nothing."""
    return torch.amp.GradScaler(device.type, FIRST_SCALE, enabled=precision == "fp16")


def scale_of(scaler: torch.amp.GradScaler, device: torch.device) -> Tensor | None:
    """The scale now, float32 [], without waiting for the GPU; None without fp16."""
    return scaler.scale(torch.ones((), device=device)) if scaler.is_enabled() else None


def settle_skipped(place: Place, scaler: torch.amp.GradScaler, flags: list[Tensor]) -> list[bool]:
    """Which of the latest optimizer steps the scaler skipped, from their flags bool []; `place` counted them all as
    done, and is put right. Says so to the user where there were any.

    Raises UserError after MOST_SKIPPED skipped steps in a row, or where the scale has fallen below 1.
    """
    skipped = torch.stack(flags).tolist() if flags else []
    for flag in skipped:
        place.skipped_in_row = place.skipped_in_row + 1 if flag else 0
        if place.skipped_in_row == MOST_SKIPPED:
            raise UserError(f"step {place.step}: fp16 overflowed in {MOST_SKIPPED} steps in a row; {REMEDY}")
    count = sum(skipped)
    place.step, place.skipped = place.step - count, place.skipped + count
    if count:
        scale = scaler.get_scale()
        if scale < 1:
            raise UserError(f"step {place.step}: fp16 overflowed until the loss scale fell to {scale:g}; {REMEDY}")
        tqdm.write(
            f"fp16: {count} of the last {len(skipped)} steps overflowed and were skipped, as is normal now and then; "
            f"the loss scale is {scale:g} now"
        )
    return skipped


def figures(place: Place, scaler: torch.amp.GradScaler) -> dict[str, Any]:
    """What metrics.jsonl says of it: the steps skipped so far and the scale; {} without fp16."""
    return {"skipped_steps": place.skipped, "loss_scale": scaler.get_scale()} if scaler.is_enabled() else {}
