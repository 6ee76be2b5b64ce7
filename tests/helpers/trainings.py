"""Small trainings that the tests share: their arguments, and what is read of them."""

import contextlib
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import torch

ROOT = Path(__file__).parents[2]
EMPTY = {"title": "A", "sents": [], "vertexSet": []}
# train.py with steps of at least 0.1 s, so that on no machine it ends before it is killed.
SLOWLY = """
import sys, time
sys.path.insert(0, sys.argv.pop(1))
import train
from hingeabl.errors import run_command_line
step = train.optimizer_step
def slowly(*given):
    time.sleep(0.1)
    return step(*given)
train.optimizer_step = slowly
run_command_line(lambda: train.main(sys.argv[1:]))
"""


def arguments(sample, encoder, output, *more):
    """A one-seed training of two epochs on the tiny encoder."""
    return [
        *(
            "--data_dir",
            str(sample),
            "--train_file",
            "train.json",
            "--dev_file",
            "dev.json",
            "--test_file",
            "test.json",
        ),
        *("--model_name_or_path", str(encoder), "--emb_size", "64", "--num_train_epochs", "2", "--seeds", "7"),
        *(
            "--learning_rate",
            "1e-3",
            "--classifier_lr",
            "1e-2",
            "--output_dir",
            str(output),
            "--cache_dir",
            str(Path(output).parent / "cache"),
            "--precision",
            "fp32",
            *more,
        ),
    ]


def first_loss(folder):
    return json.loads((folder / "seed_7" / "metrics.jsonl").read_text().splitlines()[0])["loss"]


def start(arguments, *interpreter, **options):
    """train.py as a process of its own, with as many threads as this one."""
    environment = os.environ | {"OMP_NUM_THREADS": str(torch.get_num_threads())}
    program = interpreter or (str(ROOT / "train.py"),)
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    return subprocess.Popen([sys.executable, *program, *arguments], env=environment, **pipes, **options)


def first_gradients(arguments, path):
    """Write the gradients of a training's first batch, before they are clipped, and end it."""
    import train
    from hingeabl.files import save_tensors
    from hingeabl.training import parallel

    def write(model, *_):
        if parallel.rank() == 0:
            save_tensors(path, {n: p.grad for n, p in model.named_parameters() if p.grad is not None})
        raise SystemExit

    optimizer_step, train.optimizer_step = train.optimizer_step, write
    with contextlib.suppress(SystemExit):
        train.main(arguments)
    train.optimizer_step = optimizer_step
    parallel.finish()


def changed(folder):
    """When a run's metrics.jsonl last changed."""
    path = folder / "metrics.jsonl"
    return path.stat().st_mtime_ns if path.exists() else 0


def wait_for_steps(folder, at_least, since=0):
    """Wait until metrics.jsonl, changed after `since`, has a line of so late a step, or the training is over."""
    path = folder / "metrics.jsonl"
    for _ in range(3000):
        lines = path.read_text().splitlines() if changed(folder) > since else []
        if (folder / "scores.json").exists() or any(json.loads(line)["step"] >= at_least for line in lines[:-1]):
            return
        time.sleep(0.1)
    raise AssertionError("the training does not get on")
