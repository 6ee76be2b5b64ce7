"""Seconds of a training step under each way in which OpenMP's threads may wait, alone and beside busy programs.

    python scripts/benchmark/waiting_threads.py [--busy 0 1 2 3] [--steps 20] [--precision bf16]

Each row is a process of its own: steps of ATLOP on the sample corpus with the small encoder, as in quickstart.sh. The
busy programs count on a core each. A row is printed as soon as it is measured.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

WAYS = {
    "default": {},
    "passive": {"OMP_WAIT_POLICY": "PASSIVE"},
    "GOMP_SPINCOUNT=1000": {"GOMP_SPINCOUNT": "1000"},
    "one thread": {"OMP_NUM_THREADS": "1"},
}
BUSY = "while True: pass"
WARM_UP = 5  # steps that are not timed


def parse_args() -> argparse.Namespace:
    """What to measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--busy", type=int, nargs="+", default=[0, 1, 2, 3], help="programs beside (default: 0 1 2 3)")
    parser.add_argument("--steps", type=int, default=20, help="timed steps of a row (default: 20)")
    parser.add_argument("--precision", default=None, help="default: as in train.py")
    parser.add_argument("--measure", action="store_true", help=argparse.SUPPRESS)  # in the process of a row
    return parser.parse_args()


def measure(steps: int, precision: str | None) -> float:
    """The median seconds of a training step."""
    import torch

    from hingeabl.core.losses import get_loss
    from hingeabl.core.model import DocREModel
    from hingeabl.core.prepro import read_docred
    from hingeabl.core.utils import autocast, collate_fn, pick_precision, set_seed
    from hingeabl.data.documents import load_rel2id
    from hingeabl.data.tokenizer import load_tokenizer

    encoder, rel2id, device = str(ROOT / "dataset/encoders/all-MiniLM-L6-v2"), load_rel2id(), torch.device("cpu")
    set_seed(1)
    features = read_docred(ROOT / "dataset/sample/train.json", load_tokenizer(encoder), rel2id)
    model, loss = DocREModel(encoder, len(rel2id), 256).train(), get_loss("atl")
    seconds = []
    for number in range(WARM_UP + steps):
        batch = collate_fn(features[number % 16 * 4 : number % 16 * 4 + 4])
        labels, start = batch.pop("labels"), time.perf_counter()
        with autocast(device, pick_precision(precision, device)):
            scores = model(**batch)
        loss(scores, labels).backward()
        model.zero_grad()
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds[WARM_UP:])


def main() -> None:
    """Measure every row."""
    args = parse_args()
    if args.measure:
        print(measure(args.steps, args.precision))
        return
    command = [sys.executable, __file__, "--measure", "--steps", str(args.steps)]
    command += ["--precision", args.precision] if args.precision else []
    print(f"{'programs beside':>15}  {'threads wait':<20}  seconds a step")
    for count in args.busy:
        busy = [subprocess.Popen([sys.executable, "-c", BUSY]) for _ in range(count)]
        try:
            for name, setting in WAYS.items():
                done = subprocess.run(command, env=os.environ | setting, capture_output=True, text=True, check=True)
                print(f"{count:>15}  {name:<20}  {float(done.stdout):.3f}", flush=True)
        finally:
            for process in busy:
                process.kill()


if __name__ == "__main__":
    main()
