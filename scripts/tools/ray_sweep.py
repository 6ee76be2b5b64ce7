"""The trainings of scripts/sweep.sh as tasks of Ray, a GPU each, without GPUs a machine each; sweep.sh --ray calls it.

    RAY_ADDRESS=auto python scripts/tools/ray_sweep.py COUNT [arguments of train.py]

All machines share this folder under the same path. A training whose machine dies begins anew on another one, where it
goes on from its checkpoint. Without RAY_ADDRESS, Ray is started on this machine.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

import torch

from hingeabl.corpus.pool import joined
from hingeabl.errors import UserError, run_command_line

PASSED = ("SCRIPTS", "LOSSES", "SEEDS", "SIZE", "DOCUMENTS_992")  # variables of sweep_list.sh and size.sh
RETRIES = 20  # of a training whose machine or worker dies, or whose program is killed
# Its input is a pipe from Ray's worker. When the worker dies, the pipe closes, and the watcher kills the training;
# otherwise it would run beside the one that Ray begins again.
PROGRAM = """
    exec 3<&0 </dev/null
    { cat <&3; kill -KILL 0; } >/dev/null 2>&1 &
    watcher=$!
    source scripts/setup.sh && source scripts/tools/size.sh && source scripts/tools/sweep_list.sh || exit
    status=0
    run_of_list "$@" || status=$?
    kill $watcher
    exit $status
"""


def train(number: int, given: list[str], variables: dict[str, str]) -> tuple[int, str]:
    """Training `number` of the list: its exit code, and what run_of_list printed. It runs within Ray.

    Raises ChildProcessError if the program was killed, so that Ray begins it again. When a machine dies, Ray kills the
    children of its workers, and a worker may still report that before it dies itself.
    """
    with subprocess.Popen(
        ["bash", "-c", PROGRAM, "sweep", str(number), *given],
        cwd=ROOT,
        env=os.environ | variables,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    ) as process:
        assert process.stdout is not None
        told = process.stdout.read()
    if process.returncode < 0:
        raise ChildProcessError(f"training {number + 1} was killed by signal {-process.returncode}")
    return process.returncode, told


def main() -> None:
    """Run every training."""
    if len(sys.argv) < 2 or not sys.argv[1].isdecimal():
        raise UserError("pass the number of trainings; scripts/sweep.sh --ray does")
    count, given = int(sys.argv[1]), sys.argv[2:]
    variables = {name: os.environ[name] for name in PASSED if name in os.environ}
    output, failed = sys.stdout, 0
    with joined(os.environ.get("RAY_ADDRESS"), os.cpu_count() or 1, torch.cuda.device_count()) as ray:
        machines = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        cpus = min((int(one["CPU"]) for one in machines if one.get("CPU")), default=1)
        needs = {"num_gpus": 1, "num_cpus": 0} if any(one.get("GPU") for one in machines) else {"num_cpus": cpus}
        again = {"max_retries": RETRIES, "retry_exceptions": [ChildProcessError]}
        task = ray.remote(train).options(**again, **needs)
        waiting = [task.remote(number, given, variables) for number in range(count)]
        while waiting:
            [done], waiting = ray.wait(waiting)
            try:
                code, told = ray.get(done)
            except ray.exceptions.RayError as error:
                code, told = 1, f"a training was given up: {error}\n"
            failed += code != 0
            print(told, end="", file=output, flush=True)
    if failed:
        sys.exit(1)


if __name__ == "__main__":
    run_command_line(main)
