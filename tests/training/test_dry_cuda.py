"""A step on a GPU, without one: nothing is on the wrong device, nothing waits, and no operator is added unnoticed."""

import itertools
import json
import os
import subprocess
import sys

import pytest
from conftest import ROOT
from dry_cuda import why_not
from dry_report import print_phases

BOUNDS = json.loads((ROOT / "tests/data/operators.json").read_text())
STEP = ("forward", "backward", "optimizer")
BACKBONES = ("atlop", "docunet", "kd_docre")
PRECISIONS = ("fp16", "bf16", "fp32")

pytestmark = pytest.mark.skipif(bool(why_not()), reason=why_not() or "a dry run can be had")


def dry_run(*arguments):
    """The records of one call of dry_cuda.py."""
    command = [sys.executable, "scripts/benchmark/dry_cuda.py", *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def faults_of(record):
    """What is wrong with a step or an evaluation batch, as text."""
    phases = record["phases"]
    faults = [f"{name}: on both devices: {place}" for name in phases for place in phases[name]["wrong_device"]]
    faults += [f"{name}: waits: {place}" for name in STEP for place in phases[name]["waits"]]
    return faults


def check(records):
    """No fault, and at most as many operators as stored; where a change needs fewer, store the new number."""
    assert records
    for record in records:
        assert not faults_of(record)
        bound = BOUNDS["/".join(record[name] for name in ("encoder", "backbone", "precision"))]
        assert 0 < sum(record["phases"][name]["operators"] for name in STEP) <= bound["step"]
        assert 0 < record["phases"]["evaluation"]["operators"] <= bound["evaluation"]
        assert len(record["phases"]["evaluation"]["waits"]) <= 1  # for the scores


@pytest.mark.parametrize("precisions", [["fp16"], pytest.param(["bf16", "fp32"], marks=pytest.mark.slow)])
def test_no_step_waits_or_mixes_devices_or_has_more_operators_than_stored(precisions):
    records = dry_run("--backbone", *BACKBONES, "--precision", *precisions)
    found = [(record["backbone"], record["precision"]) for record in records]
    assert found == list(itertools.product(BACKBONES, precisions))
    check(records)


@pytest.mark.slow
def test_a_step_with_evidence_does_not_wait_or_mix_devices_and_adds_few_operators():
    [record] = dry_run("--evidence")
    assert not faults_of(record)
    assert len(record["phases"]["evaluation"]["waits"]) <= 2  # for the scores, and for the attention
    bound = BOUNDS["tiny/atlop/fp16"]["step"]
    assert bound < sum(record["phases"][name]["operators"] for name in STEP) <= bound + 80


@pytest.mark.slow
@pytest.mark.parametrize("encoder", ["bert-base", "roberta-large"])
def test_the_same_at_the_papers_sizes(encoder):
    records = dry_run("--encoder", encoder, "--backbone", *BACKBONES, "--precision", *PRECISIONS)
    assert len(records) == len(BACKBONES) * len(PRECISIONS)
    check(records)


@pytest.mark.slow
@pytest.mark.parametrize(("fault", "found"), [("item", "forward: waits: "), ("cpu", "forward: on both devices: ")])
def test_a_number_that_is_read_and_a_tensor_left_on_the_cpu_are_found(fault, found):
    [record] = dry_run("--fault", fault)
    assert any(text.startswith(found) for text in faults_of(record))


def test_the_report_computes_time_from_launches_and_work_and_says_so(capsys):
    phase = {
        "operators": 1000,
        "casts": 7,
        "flops": 3e11,
        "bytes": 5 * 10**9,
        "bytes_of_products": 2 * 10**9,
        "waits": [],
    }
    slow = phase | {"operators": 500, "waits": ["somewhere"]}
    phases = {"forward": phase, "backward": slow, "optimizer": slow, "evaluation": phase}
    record = {"encoder": "bert-base", "backbone": "atlop", "side": "ours", "phases": phases}
    print_phases(record, (6, 150, 1500))
    lines = capsys.readouterr().out.splitlines()
    assert all(line.endswith("computed, not measured") for line in lines)
    found = {line.split()[3]: line.split()[4:-3] for line in lines}
    # launches 6 ms; products 2 ms and 3 GB of other traffic another 2 ms
    assert found["forward"] == found["evaluation"] == ["1,000", "7", "0", "300.0", "5.0", "6.0", "4.0", "6.0"]
    assert found["backward"] == ["500", "7", "1", "300.0", "5.0", "3.0", "4.0", "4.0"]
    assert found["step"] == ["2,000", "21", "2", "900.0", "15.0", "12.0", "12.0", "14.0"]


@pytest.mark.slow
def test_products_and_memory_are_those_worked_out_by_hand():
    [plain] = dry_run("--encoder", "bert-base", "--precision", "fp32")
    tokens, hidden, layers = 212 + 251 + 296 + 371, 768, 12
    of_layers = 2 * tokens * 12 * hidden**2 * layers  # four products of hidden x hidden, two with 4 x hidden
    flops = {name: plain["phases"][name]["flops"] for name in STEP}
    assert of_layers < flops["forward"] < 1.25 * of_layers  # attention, pooling and the bilinear product come on top
    assert 1.9 < flops["backward"] / flops["forward"] < 2.2 and flops["optimizer"] == 0
    weights = 4 * plain["parameters"]
    # clipping reads twice and writes once; AdamW reads weight, gradient and two moments, and writes three or four
    assert 9.5 * weights < plain["phases"]["optimizer"]["bytes"] < 11.5 * weights
    [checkpointed] = dry_run("--encoder", "bert-base", "--precision", "fp32", "--checkpointing")
    assert 4 * tokens * hidden * layers < checkpointed["saved"] < plain["saved"] / 3
