"""Bad input by the thousand: files that the programs read, changed in structure and in bytes.

    python tests/helpers/fuzz.py --cases 50000 [--seed 1]

Each is read, and then what was read is compared with a plain reading of the same bytes, or there is a UserError; how
often is counted. Anything else, a traceback, a wrong number or a hang, ends the program with the case, made small.
"""

import argparse
import contextlib
import io
import os
import signal
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import hypothesis
from hypothesis import strategies as st
from mutate import byte_edits, edits

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = ("", "scripts", "scripts/tools", "scripts/benchmark", "tests")
sys.path[:0] = [str(ROOT / folder) for folder in FOLDERS]

from fuzz_targets import TARGETS, World

from hingeabl.errors import UserError

SECONDS = 120  # that a case may take: a page with its figures takes three here, and a hang takes for ever
PART = 5000  # cases at a time: hypothesis keeps all that it drew


@st.composite
def cases(draw):
    """(target, a number, edits of the structure, edits of the bytes)"""
    target = draw(st.sampled_from([name for name, (share, _) in TARGETS.items() for _ in range(share)]))
    kind = draw(st.sampled_from(["structure", "structure", "bytes", "both"]))
    structure = draw(st.lists(edits, max_size=3)) if kind != "bytes" else []
    in_bytes = draw(st.lists(byte_edits, max_size=2)) if kind != "structure" else []
    return target, draw(st.integers(0, 1000)), structure, in_bytes


class TooLong(BaseException):
    """A hang; no Exception, for nothing that is tested shall catch it."""


@contextlib.contextmanager
def limited(seconds):
    """TooLong where what is inside takes longer."""

    def stop(*_):
        raise TooLong

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def outcome(world, case):
    """ "read" or "UserError". Anything else is raised."""
    target, number, structure, in_bytes = case
    quiet = io.StringIO()
    try:
        with limited(SECONDS), contextlib.redirect_stdout(quiet), contextlib.redirect_stderr(quiet):
            TARGETS[target][1](world, number, structure, in_bytes)
    except UserError as error:
        assert str(error).strip()
        return "UserError"
    except TooLong:
        raise AssertionError(f"{target}: not done within {SECONDS} seconds") from None
    return "read"


def run_cases(world, count, seed=None):
    """How often each (target, outcome) came in so many cases, always the same ones for a seed (None: for pytest)."""
    counts = Counter()

    @hypothesis.settings(
        max_examples=count,
        derandomize=seed is None,
        database=None,
        deadline=None,
        suppress_health_check=list(hypothesis.HealthCheck),
    )
    @hypothesis.given(cases())
    def check(case):
        counts[case[0], outcome(world, case)] += 1

    (check if seed is None else hypothesis.seed(seed)(check))()
    return counts


def main():
    """Count the outcomes of so many cases."""
    parser = argparse.ArgumentParser(description="Count what comes of broken files.")
    parser.add_argument("--cases", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--target", choices=list(TARGETS), help="this one alone")
    args = parser.parse_args()
    if args.target:
        TARGETS.update({name: (int(name == args.target), target) for name, (_, target) in TARGETS.items()})
    with tempfile.TemporaryDirectory() as folder:
        redocred = os.environ.get("REDOCRED_DIR")
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            world = World(Path(folder), redocred and Path(redocred))
        start = time.perf_counter()
        counts = Counter()
        for start_of_part in range(0, args.cases, PART):
            counts += run_cases(world, min(PART, args.cases - start_of_part), f"{args.seed} {start_of_part}")
        seconds = time.perf_counter() - start
    for name in TARGETS:
        print(f"{name:<12}{counts[name, 'read']:>8,} read{counts[name, 'UserError']:>8,} UserError")
    read, refused = (
        sum(count for (_, what), count in counts.items() if what == kind) for kind in ("read", "UserError")
    )
    print(f"{'all':<12}{read:>8,} read{refused:>8,} UserError, nothing else, in {seconds:.0f} s")


if __name__ == "__main__":
    main()
