"""Two thousand broken files: each is read right, or refused in one line. See fuzz.py for more of them."""

import os
from pathlib import Path

import pytest
from fuzz import run_cases
from fuzz_targets import TARGETS, World

CASES = 2000


@pytest.fixture(scope="module")
def world(minilm, tmp_path_factory):
    redocred = os.environ.get("REDOCRED_DIR")
    return World(tmp_path_factory.mktemp("fuzz"), redocred and Path(redocred))


def test_broken_files_are_read_right_or_refused_and_never_a_traceback_a_wrong_number_or_a_hang(world):
    counts = run_cases(world, CASES)
    assert sum(counts.values()) >= CASES
    for target in TARGETS:
        assert counts[target, "read"], f"{target}: no file was read: nothing was compared"
        assert counts[target, "UserError"] or target in ("cache", "resume")  # these are done without
