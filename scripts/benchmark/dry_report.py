"""What `bench.py --dry` prints: what a GPU would be asked for, and the time and memory that this implies."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

MARK = "computed, not measured"
STEP = ("forward", "backward", "optimizer")
BACKBONES = ("atlop", "docunet", "kd_docre")


def dry_run(*arguments: str) -> list[dict[str, Any]]:
    """dry_cuda.py's records, as plain dictionaries. Raises SystemExit with the reason if it cannot run."""
    command = [sys.executable, str(Path(__file__).with_name("dry_cuda.py")), *arguments]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"the dry run failed: {done.stderr.strip().splitlines()[-1]}")
    return json.loads(done.stdout)


def milliseconds(phase: dict[str, Any], launch_us: float, tflops: float, gb_per_s: float) -> tuple[float, float]:
    """(time of the launches, time of the work): products at `tflops`, all other operators at `gb_per_s`."""
    traffic = phase["bytes"] - phase["bytes_of_products"]
    return launch_us * phase["operators"] / 1e3, phase["flops"] / tflops / 1e9 + traffic / gb_per_s / 1e6


def print_phases(record: dict[str, Any], rates: tuple[float, float, float]) -> None:
    """A line for each phase of a record, and one for the step."""
    title = f"{record['encoder']:<14}{record['backbone']:<10}{record['side']:<9}"
    totals = [0.0] * 8
    for name, phase in record["phases"].items():
        launches, work = milliseconds(phase, *rates)
        values = [phase["operators"], phase["casts"], len(phase["waits"]), phase["flops"] / 1e9, phase["bytes"] / 1e9]
        values += [launches, work, max(launches, work)]
        if name in STEP:
            totals = [total + value for total, value in zip(totals, values, strict=True)]
        if name == "evaluation":  # behind the step
            print_line(title + "step", totals)
        print_line(title + name, values)


def print_line(title: str, values: list[float]) -> None:
    """Counts are whole numbers, the rest has a decimal."""
    numbers = "".join(f"{value:>10,.0f}" for value in values[:3]) + "".join(f"{value:>10,.1f}" for value in values[3:])
    print(f"{title:<44}{numbers}  {MARK}")


def print_memory(record: dict[str, Any], checkpointing: bool) -> None:
    """Weights, gradients, Adam's moments (float32) and what autograd keeps, in GB."""
    parts = [factor * record["parameters"] / 1e9 for factor in (4, 4, 8)] + [record["saved"] / 1e9]
    title = f"{record['encoder']}{', checkpointing' if checkpointing else ''}"
    print(f"{title:<44}" + "".join(f"{part:>12.2f}" for part in [*parts, sum(parts)]) + f"  {MARK}")


def print_dry(launch_us: float, tflops: float, gb_per_s: float) -> None:
    """Both encoders, three modules, ours and the baseline, which is of ATLOP alone; then memory."""
    print(f"a batch of 4 documents, fp16; assumed: {launch_us:g} us to launch an operator, {tflops:g} TFLOP/s for")
    print(f"products, {gb_per_s:g} GB/s for all else; a phase takes the launches' time or the work's, the longer\n")
    heads = ("operators", "casts", "waits", "GFLOP", "GB", "launch ms", "work ms", "ms")
    print(f"{'':<44}" + "".join(f"{head:>10}" for head in heads))
    for encoder in ("bert-base", "roberta-large"):
        options = ["--encoder", encoder, "--precision", "fp16"]
        ours = dry_run(*options, "--backbone", *BACKBONES)
        for record in dry_run(*options, "--side", "baseline") + ours:
            print_phases(record, (launch_us, tflops, gb_per_s))
    print("\nGB for 4 documents of 1,024 word pieces and 42 entities, ATLOP; temporary tensors come on top\n")
    heads = ("weights", "gradients", "Adam", "kept", "sum")
    print(f"{'':<44}" + "".join(f"{head:>12}" for head in heads))
    for encoder in ("bert-base", "roberta-large"):
        for checkpointing in (False, True):
            options = ["--encoder", encoder, "--precision", "fp16", "--largest"]
            [record] = dry_run(*options, *(["--checkpointing"] if checkpointing else []))
            print_memory(record, checkpointing)
