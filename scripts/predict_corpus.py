"""The relations of many documents: predict.py on all cores or GPUs of this machine, or of a Ray cluster.

    python scripts/predict_corpus.py --input articles/ --output found/
    python scripts/predict_corpus.py --input 's3://bucket/new/*.parquet' --output found/ --form parquet --address auto

Stopped at any moment, the same command goes on. Documents that cannot be predicted are in errors.jsonl, with the cause.
Needs scripts/requirements/ray.txt. docs/scale.md says more; scripts/corpus_graph.py makes one graph of the output.
"""

from __future__ import annotations

import argparse
import io
import itertools
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from hingeabl.start import start

start(__name__)  # first: it tells in one line which package is missing

import torch
from tqdm import tqdm

from hingeabl.corpus import folder
from hingeabl.corpus.pool import Job, Pool, joined, need_ray, worker_capacity
from hingeabl.corpus.sources import Source, blocks_of, find_sources, fixed_part, need_pyarrow, read_sources
from hingeabl.corpus.worker import Worker
from hingeabl.errors import UserError, print_warning, run_command_line
from hingeabl.prediction.answers import captured_warnings
from hingeabl.prediction.choices import PredictionOptions, add_prediction_options, prediction_options
from hingeabl.readers.any_format import read_format
from hingeabl.training.hub import is_hub_name
from hingeabl.training.saved_run import refuse_file, warn_unfinished
from hingeabl.training.settings import positive_int

PART = 500  # documents: as many as predict.py predicts at a time, so that they are batched as there


def parse_args(arguments: list[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description="Predict the relations of many documents, on many cores or GPUs.")
    parser.add_argument(
        "--input",
        required=True,
        help="a folder, a glob in quotes, or a file: JSON or JSON Lines of documents or texts, texts, Parquet",
    )
    parser.add_argument("--output", required=True, help="a folder; what is finished there is not predicted again")
    parser.add_argument("--form", choices=("jsonl", "parquet"), default="jsonl", help="of the output; default: jsonl")
    parser.add_argument(
        "--address", help="a Ray cluster that runs, auto or HOST:PORT; default: one that is started here"
    )
    parser.add_argument("--workers", type=positive_int, help="default: as many as there are GPUs, or cores / --threads")
    parser.add_argument("--threads", type=positive_int, default=1, help="CPU threads of each worker; default: 1")
    parser.add_argument("--part_size", type=positive_int, default=PART, help=f"documents of a part; default: {PART}")
    parser.add_argument("--device", choices=("cpu", "cuda"), help="default: CUDA where this machine has it")
    parser.add_argument("--test_batch_size", type=positive_int, help="as in train.py; default: the run's")
    add_prediction_options(parser)
    return parser.parse_args(arguments)


def check(args: argparse.Namespace, sources: list[Source]) -> None:
    """Raise UserError for errors that show before any work: an output among the inputs, invalid options, and missing
    packages."""
    refuse_file(args.load_path)
    warn_unfinished("--load_path", args.load_path)
    PredictionOptions(**prediction_options(args)).check()
    fixed = args.input if os.path.exists(args.input) else fixed_part(args.input)
    output, input_folder = Path(args.output).resolve(), Path(fixed).resolve()
    levels = args.input[len(fixed) :].strip("/")  # of a glob
    reads_below = Path(args.input).is_dir() or "/" in levels or "**" in levels
    forbidden = (output, *output.parents) if reads_below else (output,)
    if "://" not in args.input and (input_folder in forbidden or output in input_folder.parents):
        raise UserError(f"--output {args.output}: is in --input {args.input}, or around it; name another folder")
    need_ray(args.address)
    if args.form == "parquet" or any(source.kind == "parquet" for source in sources):
        need_pyarrow("parquet")
    if any(source.kind == "text" for source in sources):  # else every document would fail, for want of a package
        with captured_warnings():
            list(read_format(io.BytesIO(b"This is a text."), "a text", "text", False))


def settings_of(args: argparse.Namespace) -> dict[str, Any]:
    """The options that the output depends on."""
    chosen = {name: getattr(args, name) for name in ("form", "part_size", "test_batch_size", "precision")}
    return chosen | prediction_options(args)


def predict(args: argparse.Namespace, jobs: Iterator[Job]) -> list[int]:
    """Predict the blocks and write their parts; returns the numbers of those that were given up."""
    on_gpu = args.device == "cuda" or (args.device is None and torch.cuda.is_available())
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    gpus = torch.cuda.device_count() if on_gpu else 0
    with joined(args.address, max(cores, (args.workers or 1) * args.threads), gpus) as ray:
        options = {name: getattr(args, name) for name in ("precision", "test_batch_size")} | prediction_options(args)
        options["device"] = "cuda" if on_gpu else "cpu"
        load_path = args.load_path if is_hub_name(args.load_path) else str(Path(args.load_path).resolve())
        needs = {"num_cpus": 0, "num_gpus": 1} if on_gpu else {"num_cpus": args.threads}
        actor_class = ray.remote(Worker).options(max_restarts=0, **needs)

        def make() -> Any:
            return actor_class.remote(load_path, args.form, args.threads, options)

        def size() -> int:
            capacity = worker_capacity(ray, args.threads, on_gpu)
            return min(capacity, args.workers) if args.workers else capacity

        pool = Pool(ray, make, size, jobs)
        with tqdm(desc="documents", unit="", leave=False) as progress:
            for number, part in pool.results():
                folder.write_part(Path(args.output), number, part, args.form)
                progress.update(part.documents + len(part.errors))
    if pool.deaths:
        print_warning(f"{pool.deaths:,} workers died; their parts were given to others")
    return pool.abandoned


def finish_output(output: Path, given_up: list[int]) -> None:
    """Write the files of errors and warnings, and print a summary. Raises UserError for parts that were given up."""
    totals = folder.finish(output, complete=not given_up)
    for name, description in (("errors", "documents could not be predicted"), ("warnings", "warnings about documents")):
        if totals[name]:
            print_warning(f"{totals[name]:,} {description}; {output / name}.jsonl tells which")
    if not (totals["documents"] or totals["errors"] or given_up):
        print_warning("--input: holds no documents, so there is nothing to predict")
    print(f"{totals['predictions']:,} predictions for {totals['documents']:,} documents: {output / 'parts'}")
    if given_up:
        raise UserError(
            f"{output}: {len(given_up):,} parts are missing, such as part {given_up[0]}: their workers died again and "
            "again; is the memory too small for their documents? The same command tries them again"
        )


def main(arguments: list[str] | None = None) -> None:
    """Predict; `arguments` default to the command line's."""
    args = parse_args(arguments)
    sources = find_sources(args.input)
    check(args, sources)
    output = Path(args.output)
    folder.begin(output, folder.manifest_of(sources, args.load_path, settings_of(args)))
    blocks = blocks_of(read_sources(sources), args.part_size)
    jobs = ((number, block) for number, block in blocks if not folder.is_finished(output, number, args.form))
    first = next(jobs, None)  # where all is done, Ray need not be started
    given_up = predict(args, itertools.chain([first], jobs)) if first else []
    finish_output(output, given_up)


if __name__ == "__main__":
    run_command_line(main)
