"""Which documents make which batch of a training, and which of them are this process's."""

from __future__ import annotations

import numpy as np
from torch.utils.data import DataLoader

import parallel
from experiment import Experiment
from prepro import Feature
from utils import collate_fn


def batches_of_epoch(experiment: Experiment, seed: int, epoch: int) -> list[list[int]]:
    """The documents' numbers in each batch of an epoch, all processes' together."""
    args = experiment.args
    order = np.random.default_rng([seed, epoch]).permutation(len(experiment.splits["train"].features)).tolist()
    size = args.train_batch_size * parallel.world_size()
    batches = [order[start : start + size] for start in range(0, len(order), size)]
    return batches if args.keep_last_batch or len(batches[-1]) == size else batches[:-1]


def share_of(batch: list[int]) -> list[int]:
    """This process's documents of a batch: none where there are fewer documents than processes before it."""
    return batch[parallel.rank() :: parallel.world_size()]


def load_batches(experiment: Experiment, batches: list[list[int]]) -> DataLoader:
    """This process's share of batches, collated; a document that does not count where the share is empty."""
    on_gpu = experiment.device.type == "cuda"
    return DataLoader(
        experiment.train_set,
        batch_sampler=[share_of(batch) or batch[:1] for batch in batches],
        collate_fn=collate_fn,
        pin_memory=on_gpu,
        num_workers=2 if on_gpu else 0,  # on the CPU the step itself needs the cores
    )


def pairs_of(features: list[Feature], numbers: list[int]) -> int:
    """The pairs of some documents."""
    return sum(len(features[number]["hts"]) for number in numbers)
