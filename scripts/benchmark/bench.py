"""Times beside a plain baseline: preprocessing, training steps, the evaluation pass, the evaluator; and peak memory.

    python scripts/benchmark/bench.py --data FILE --model_name_or_path ENCODER [--device cuda] [--output FILE.json]
    python scripts/benchmark/bench.py --data FILE --model_name_or_path random:roberta-large --precision fp16 bf16
    python scripts/benchmark/bench.py --dry [--launch_us 6] [--tflops 150] [--gb_per_s 1500]

The baseline (baseline.py) does the work as the released program does. Each of the two has a process of its own, started
in the same way; they take turns, one working while the other waits, so that both see the same machine. Each row is
printed and stored as soon as it is measured.

--dry measures nothing: it counts what a GPU would be asked for (dry_cuda.py), and computes the time from that.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import multiprocessing
import platform
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from baseline import Baseline, plain_features, plain_scores
from dry_report import print_dry
from encoders import CONFIGS, save_encoder

from hingeabl.core.evaluation import prepare_gold, score_predictions, train_facts
from hingeabl.core.losses import get_loss
from hingeabl.core.model import DocREModel
from hingeabl.core.prepro import read_docred
from hingeabl.core.utils import autocast, collate_fn, describe_device, pick_device, pick_precision, set_seed, to_device
from hingeabl.data.relations import load_rel2id
from hingeabl.data.statistics import relation_rates
from hingeabl.data.tokenizer import load_tokenizer
from hingeabl.errors import run_command_line
from hingeabl.files import read_json, write_json
from hingeabl.modeling.encoder import WINDOW
from hingeabl.readers.documents import load_documents
from hingeabl.training.inference import predict
from hingeabl.training.runs import describe_environment
from hingeabl.training.steps import build_optimizer, build_scaler, optimizer_step

SIDES = ("baseline", "ours")
RANDOM = "random:"
SIZES = {"cpu": (2, 8, 40), "cuda": (40, 30, None)}  # steps before, steps timed, documents: minutes on two slow cores
ROWS = 10  # of each precision
Sides = dict[str, list[float]]  # seconds (or bytes) of each turn, by side


def parse_args() -> argparse.Namespace:
    """The file and encoder to time with, and how often."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", help="labelled file in DocRED's schema")
    parser.add_argument(
        "--model_name_or_path",
        help=f"encoder: hub name or folder, or one with random weights: {', '.join(RANDOM + size for size in CONFIGS)}",
    )
    parser.add_argument("--loss_type", default="hingeabl_released")
    parser.add_argument("--batch_size", type=int, default=4, help="documents of a training step (default: 4)")
    parser.add_argument("--steps", type=int, help="training steps that are timed (default: 8 on the CPU, 30 on a GPU)")
    parser.add_argument("--warmup", type=int, help="training steps before those (default: 2 on the CPU, 40 on a GPU)")
    parser.add_argument(
        "--documents", type=int, help="of the file, the first so many (default: 40 on the CPU, else all)"
    )
    parser.add_argument("--repeats", type=int, default=2, help="of everything else (default: 2)")
    parser.add_argument(
        "--precision", nargs="+", choices=("fp32", "bf16", "fp16"), help="one or more (default: as in train.py)"
    )
    parser.add_argument("--device", help="default: CUDA where there is one")
    parser.add_argument("--output", default="runs/bench.json", help="where the figures go (default: runs/bench.json)")
    parser.add_argument("--dry", action="store_true", help="count and compute instead, without data, encoder or GPU")
    parser.add_argument("--launch_us", type=float, default=6, help="with --dry: to launch an operator (default: 6)")
    parser.add_argument("--tflops", type=float, default=150, help="with --dry: of products (default: 150)")
    parser.add_argument("--gb_per_s", type=float, default=1500, help="with --dry: of memory (default: 1500)")
    args = parser.parse_args()
    if not args.dry and not (args.data and args.model_name_or_path):
        parser.error("--data and --model_name_or_path are needed, unless --dry is passed")
    args.device = str(pick_device(args.device))
    sizes = SIZES["cpu" if args.device == "cpu" else "cuda"]
    for name, default in zip(("warmup", "steps", "documents"), sizes, strict=True):
        if getattr(args, name) is None:
            setattr(args, name, default)
    args.precision = args.precision or [pick_precision(None, torch.device(args.device))]
    return args


class Clock:
    """Seconds between marks: wall time on the CPU, CUDA events on a GPU."""

    def __init__(self, device: torch.device) -> None:
        self.cuda = device.type == "cuda"
        self.marks: list[Any] = []
        self.mark()

    def mark(self) -> None:
        """Note the time now."""
        if self.cuda:
            event = torch.cuda.Event(enable_timing=True)
            event.record()
        self.marks.append(event if self.cuda else time.perf_counter())

    def seconds(self) -> list[float]:
        """What lies between the marks, one after the other."""
        if not self.cuda:
            return [end - start for start, end in zip(self.marks, self.marks[1:], strict=False)]
        torch.cuda.synchronize()
        return [start.elapsed_time(end) / 1000 for start, end in zip(self.marks, self.marks[1:], strict=False)]


def memory(device: torch.device, reset: bool = False) -> tuple[float, float]:
    """(bytes held now, most bytes held since the last reset): allocated on a GPU, resident on Linux else."""
    if device.type == "cuda":
        if reset:
            torch.cuda.reset_peak_memory_stats()
        return torch.cuda.memory_allocated(), torch.cuda.max_memory_allocated()
    if reset:
        Path("/proc/self/clear_refs").write_text("5")
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return tuple(1024 * float(status[name].split()[0]) for name in ("VmRSS", "VmHWM"))


def make_predictions(documents: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """As many predictions as there are labels, about half of them right."""
    chance = random.Random(0)
    relations = sorted({label["r"] for document in documents for label in document["labels"]})
    predictions = []
    for document in documents:
        for label in document["labels"]:
            right = chance.random() < 0.5
            entities = chance.sample(range(len(document["vertexSet"])), 2)
            head, tail = (label["h"], label["t"]) if right else entities
            relation = label["r"] if right else chance.choice(relations)
            predictions.append({"title": document["title"], "h_idx": head, "t_idx": tail, "r": relation})
    return predictions


def build_tasks(side: str, args: argparse.Namespace, encoder: str) -> dict[str, Callable[..., Any]]:
    """What one side can be asked to do, each task returning its seconds (or bytes); `encoder` is a hub name or a
    folder, without weights where they are to be random."""
    device = torch.device(args.device)
    set_seed(0)
    rel2id = load_rel2id()
    relations = {number: name for name, number in rel2id.items()}
    tokenizer = load_tokenizer(encoder)
    documents = load_documents(args.data, rel2id, unique_titles=True)
    loss = get_loss(args.loss_type, priors=relation_rates(documents, rel2id))
    pretrained = not args.model_name_or_path.startswith(RANDOM)
    model = DocREModel(encoder, loss.outputs(len(rel2id)), pretrained=pretrained).to(device).train()
    ours = side == "ours"
    network = model if ours else Baseline(model, encoder).to(device)
    rates = argparse.Namespace(learning_rate=5e-5, classifier_lr=1e-4, module_lr=None, adam_epsilon=1e-6)
    optimizer = build_optimizer(model, rates)
    if not ours:  # the released program's is a loop over parameters
        groups = [{"params": group["params"], "lr": group["lr"]} for group in optimizer.param_groups]
        optimizer = torch.optim.AdamW(groups, eps=1e-6, weight_decay=0.0, foreach=False, fused=False)
    scheduler = torch.optim.lr_scheduler.ConstantLR(optimizer, factor=1.0)
    scalers = {precision: build_scaler(device, precision) for precision in args.precision}
    gold, predictions = prepare_gold(documents, train_facts(documents)), make_predictions(documents)
    with contextlib.redirect_stderr(io.StringIO()):  # load_documents has printed the warnings
        features = (read_docred if ours else plain_features)(args.data, tokenizer, rel2id)

    def preprocess(cached: bool) -> float:
        with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stderr(io.StringIO()):
            if cached:
                read_docred(args.data, tokenizer, rel2id, cache_dir=folder)
            clock = Clock(torch.device("cpu"))
            if ours:
                read_docred(args.data, tokenizer, rel2id, cache_dir=folder)
            else:
                plain_features(args.data, tokenizer, rel2id)
            clock.mark()
        return sum(clock.seconds())

    def train_step(precision: str, chosen: list[int]) -> list[float]:
        scaler, batch = scalers[precision], [features[index] for index in chosen]
        network.train()
        clock = Clock(device)
        if ours:
            inputs = to_device(collate_fn(batch), device)
            labels = inputs.pop("labels")
        else:
            labels = torch.cat([torch.tensor(np.asarray(feature["labels"])) for feature in batch]).float().to(device)
        with autocast(device, precision):
            scores = network(**inputs) if ours else network(batch)
        if not ours:
            loss.predict(scores, 4)  # the released program decides at each training step too
        value = loss(scores, labels)
        clock.mark()
        scaler.scale(value).backward()
        clock.mark()
        optimizer_step(model, optimizer, scheduler, scaler, 1.0)
        clock.mark()
        return clock.seconds()

    @torch.no_grad()
    def evaluate(precision: str) -> float:
        network.eval()
        clock = Clock(device)
        if ours:
            predict(model, features, loss, relations, device, precision, 4, 32 * WINDOW)
        else:
            for start in range(0, len(features), 8):
                batch = features[start : start + 8]
                with autocast(device, precision):
                    scores = network(batch)
                pairs = [(feature["title"], *pair) for feature in batch for pair in feature["hts"]]
                decided = loss.predict(scores, 4).cpu().numpy()
                [(*pairs[row], relations[column]) for row, column in zip(*decided[:, 1:].nonzero(), strict=True)]
        clock.mark()
        return sum(clock.seconds())

    def score() -> float:
        clock = Clock(torch.device("cpu"))
        if ours:
            score_predictions(predictions, gold)
        else:
            plain_scores(predictions, args.data, args.data)
        clock.mark()
        return sum(clock.seconds())

    return {
        "memory": partial(memory, device),
        "preprocess": preprocess,
        "train_step": train_step,
        "evaluate": evaluate,
        "score": score,
        "documents": lambda: len(documents),
    }


def serve(connection: Connection, side: str, args: argparse.Namespace, encoder: str) -> None:
    """A side's process: do what is asked for, send back what it returns."""
    tasks = build_tasks(side, args, encoder)
    connection.send(None)  # ready
    while request := connection.recv():
        task, arguments = request
        connection.send(tasks[task](*arguments))


def take_turns(ask: Callable[..., Any], turn: int, task: str, *arguments: object) -> dict[str, Any]:
    """Have both sides do a task, alternating who goes first: {side: what it returned}."""
    return {side: ask(side, task, *arguments) for side in (SIDES if turn % 2 else SIDES[::-1])}


def repeated(ask: Callable[..., Any], turns: int, title: str, *task: object) -> tuple[str, Sides]:
    """A row: both sides do a task so many times."""
    results = [take_turns(ask, turn, *task) for turn in tqdm(range(turns), desc=title, leave=False)]
    return title, {side: [result[side] for result in results] for side in SIDES}


def training_rows(
    ask: Callable[..., Any], args: argparse.Namespace, precision: str, before: dict[str, float]
) -> Iterator[tuple[str, Sides]]:
    """Training steps, and their peak memory: in all, and above the bytes that each side held `before` any training."""
    count = ask("ours", "documents")
    order = list(range(count))
    random.Random(0).shuffle(order)
    turns = args.warmup + args.steps
    order = order * (args.batch_size * turns // count + 1)
    batches = [order[turn * args.batch_size : (turn + 1) * args.batch_size] for turn in range(turns)]
    for side in SIDES:
        ask(side, "memory", True)
    steps = [
        take_turns(ask, turn, "train_step", precision, chosen)
        for turn, chosen in enumerate(tqdm(batches, desc="training steps", unit="step", leave=False))
    ][args.warmup :]
    peak = {side: ask(side, "memory")[1] for side in SIDES}
    for position, part in enumerate(("forward", "backward", "optimizer")):
        yield part, {side: [step[side][position] for step in steps] for side in SIDES}
    yield "training step", {side: [sum(step[side]) for step in steps] for side in SIDES}
    yield "peak memory of training", {side: [peak[side] - before[side]] for side in SIDES}
    yield "memory in all", {side: [peak[side]] for side in SIDES}


def measure(
    ask: Callable[..., Any], args: argparse.Namespace, precision: str, before: dict[str, float]
) -> Iterator[tuple[str, Sides]]:
    """All rows, (title, what each side took), as soon as they are measured."""
    yield from training_rows(ask, args, precision, before)
    yield repeated(ask, args.repeats, "evaluation pass", "evaluate", precision)
    yield repeated(ask, args.repeats, "preprocessing", "preprocess", False)
    yield repeated(ask, args.repeats, "preprocessing, cached", "preprocess", True)
    yield repeated(ask, args.repeats, "evaluator", "score")


def print_row(title: str, timings: dict[str, Sides], rows_left: int) -> None:
    """Medians of both sides and their ratio, and how many rows are left."""
    baseline, ours = (statistics.median(timings[title][side]) for side in SIDES)
    text = (lambda value: f"{value / 2**20:,.0f} MiB") if "memory" in title else (lambda value: f"{value:.4g} s")
    remaining = f"    {rows_left} left" if rows_left else ""
    print(f"{title:<26}{text(baseline):>12}{text(ours):>12}{baseline / ours:>8.1f}x{remaining}", flush=True)


def run(args: argparse.Namespace, encoder: str) -> Iterator[tuple[str, str, Sides]]:
    """Start both sides and measure: (precision, title, what each side took), one precision after the other, with the
    same weights and optimizer."""
    context = multiprocessing.get_context("spawn")
    connections: dict[str, Connection] = {}
    for side in SIDES:
        connections[side], other = context.Pipe()
        context.Process(target=serve, args=(other, side, args, encoder), daemon=True).start()

    def ask(side: str, task: str, *arguments: object) -> Any:
        time.sleep(0.05)  # the other side's threads wait busily for a moment before they sleep
        connections[side].send((task, arguments))
        return connections[side].recv()

    for connection in connections.values():
        connection.recv()
    before = {side: ask(side, "memory")[0] for side in SIDES}
    for precision in args.precision:
        for title, sides in measure(ask, args, precision, before):
            yield precision, title, sides
    for connection in connections.values():
        connection.send(None)


def main() -> None:
    """Measure; print each row and write the JSON when it is there."""
    args = parse_args()
    if args.dry:
        print_dry(args.launch_us, args.tflops, args.gb_per_s)
        return
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    cpu = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), "")
    machine = f"{describe_device(torch.device(args.device))}, {cpu or platform.processor()}"
    documents = read_json(args.data)[: args.documents]
    print(f"{machine}\nbatches of {args.batch_size} of {len(documents)} documents of {args.data}, ", end="")
    print(f"{args.steps} steps, {args.loss_type}")
    timings: dict[str, dict[str, Sides]] = {}
    result = {"machine": machine, "settings": vars(args), "environment": describe_environment(), "timings": timings}
    rows_left = len(args.precision) * ROWS
    with tempfile.TemporaryDirectory() as folder:
        encoder = args.model_name_or_path
        if encoder.startswith(RANDOM):
            save_encoder(encoder.removeprefix(RANDOM), args.data, folder)
            encoder = folder
        data = f"{folder}/documents.json"
        write_json(data, documents)
        for precision, title, sides in run(argparse.Namespace(**vars(args) | {"data": data}), encoder):
            if precision not in timings:
                print(
                    f"\n{args.model_name_or_path}, {precision}\n{'median':<26}{'baseline':>12}{'ours':>12}{'ratio':>9}"
                )
            timings.setdefault(precision, {})[title] = sides
            rows_left -= 1
            print_row(title, timings[precision], rows_left)
            write_json(args.output, result)
    print(f"\nwritten: {args.output}")


if __name__ == "__main__":
    run_command_line(main)
