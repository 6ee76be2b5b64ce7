"""Trainings over several machines, as `torchrun --nnodes` starts them; here each is an agent on loopback."""

import contextlib
import json
import os
import random
import re
import signal
import socket
import subprocess
import sys
import time

import pytest
from conftest import ROOT
from trainings import SLOWLY, arguments, wait_for_steps

import train
from hingeabl.training.resume import status_of

pytestmark = pytest.mark.slow


def free_port():
    """A port below those that the kernel gives to connections, so that nobody takes it meanwhile."""
    for port in random.sample(range(20000, 30000), 100):
        with socket.socket() as found, contextlib.suppress(OSError):
            found.bind(("127.0.0.1", port))
            return port
    raise AssertionError("no port is free")


def agent(program, given, port, number):
    """torchrun of a training on one of two machines, as docs/scale.md has it; ranks go by address."""
    command = [sys.executable, "-m", "torch.distributed.run", "--nnodes=2", "--nproc_per_node=1", "--rdzv_id=1"]
    command += ["--rdzv_backend=c10d", f"--rdzv_endpoint=127.0.0.1:{port}", f"--local_addr=127.0.0.{number}"]
    return subprocess.Popen(
        [*command, *program, *given],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def two_agents(given, *program):
    """Both of them; the processes meet at the first."""
    port = free_port()
    program = program or (str(ROOT / "train.py"),)
    first = agent(program, given, port, 1)
    for _ in range(600):
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            break
        time.sleep(0.1)
    return first, agent(program, given, port, 2)


def kill_machine(process):
    """An agent and its training go at once."""
    found = subprocess.run(["ps", "-o", "pid=", "--ppid", str(process.pid)], capture_output=True, text=True, check=True)
    for number in (process.pid, *map(int, found.stdout.split())):
        os.kill(number, signal.SIGKILL)
    process.communicate()


def loss_curve(folder):
    records = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [record["loss"] for record in records if "loss" in record]


def test_a_machine_dies_the_other_ends_with_a_line_and_a_restart_ends_as_one_process_does(sample, still_bert, tmp_path):
    def given(name, batch):
        more = ("--loss_type", "atl", "--num_train_epochs", "6", "--train_batch_size", batch)
        return arguments(sample, still_bert, tmp_path / name, *more)

    train.main(given("one", "2"))
    one, two = tmp_path / "one/seed_7", tmp_path / "two/seed_7"
    (tmp_path / "slowly.py").write_text(SLOWLY)
    first, second = two_agents(given("two", "1"), str(tmp_path / "slowly.py"), str(ROOT))
    for _ in range(2):  # a loaded machine takes its time to start
        with contextlib.suppress(AssertionError):
            wait_for_steps(two, 8)
    kill_machine(second)
    shown = first.communicate(timeout=120)[0]
    line = r"^error: process 0 of 2: another one is gone, .*run the same command on every machine to resume$"
    assert first.returncode == 1 and re.search(line, re.sub(r".*\r", "", shown).replace("\x1b[A", ""), re.M), shown
    kind, why = status_of(two)
    assert kind == "failed" and "another one is gone" in why
    done = len(loss_curve(two))
    assert 0 < done < len(loss_curve(one)) and list((two / "checkpoints").glob("*.safetensors"))

    for process in two_agents(given("two", "1")):
        shown = process.communicate(timeout=150)[0]
        assert process.returncode == 0, shown
    assert loss_curve(two) == pytest.approx(loss_curve(one), rel=1e-4)
    scores, expected = (json.loads((folder / "scores.json").read_text()) for folder in (two, one))
    assert scores["dev"] == pytest.approx(expected["dev"]) and scores["test"] == pytest.approx(expected["test"])
    results = [json.loads((folder / "result.json").read_text()) for folder in (two, one)]
    assert results[0] == results[1]
