"""Broken files: each is read right, or refused in one line. fuzz.py has more of them."""

import os
from pathlib import Path

import pytest
from fuzz import run_cases
from fuzz_targets import TARGETS, World


@pytest.fixture(scope="module")
def world(minilm, tmp_path_factory):
    redocred = os.environ.get("REDOCRED_DIR")
    return World(tmp_path_factory.mktemp("fuzz"), redocred and Path(redocred))


def test_broken_files_are_read_right_or_refused_and_never_a_traceback_a_wrong_number_or_a_hang(world, request):
    cases = 200 if request.config.getoption("-m") == "not slow" else 2000  # the first 200 of these in the short suite
    counts = run_cases(world, cases)
    assert sum(counts.values()) >= cases
    for target in TARGETS if cases == 2000 else ("documents", "stream", "predictions"):  # the rest is rare
        assert counts[target, "read"], f"{target}: no file was read: nothing was compared"
        assert counts[target, "UserError"] or target in ("cache", "resume")  # these are done without
