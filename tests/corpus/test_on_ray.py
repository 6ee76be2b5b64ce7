"""A corpus and a sweep on Ray, started and stopped here on this machine, while workers, drivers and nodes die."""

import importlib.util
import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import ROOT
from corpus import children_of, rows_of, wait_for_a_part
from make_sample import make_sample

from hingeabl.prediction.predictor import Predictor

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="ray is not installed"),
]
BAD = [{"title": "bad", "sents": [], "vertexSet": 7}, "no document"]
OPTIONS = ("--part_size", "4", "--device", "cpu", "--workers", "2")
# Stands in for setup.sh, size.sh, and a training of eight steps, which goes on where it was.
CLONE = {
    "scripts/setup.sh": 'cd "$(dirname "${BASH_SOURCE[0]}")/.."; ' + f"PATH={Path(sys.executable).parent}:$PATH",
    "scripts/tools/size.sh": "RUNS=runs",
    "report.py": "print('status')",
    "scripts/run_bert.sh": """
        echo "$@" >>"begun_$3"
        while [ "$(wc -l 2>/dev/null <"steps_$3" || echo 0)" -lt 8 ]; do
            step=$(wc -l 2>/dev/null <"steps_$3" || echo 0)
            sleep 0.3
            echo "$step" >>"steps_$3"
        done
    """,
}


def make_clone(folder):
    """A folder in which scripts/sweep.sh trains the stand-in."""
    for name, content in CLONE.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(content + "\n")
    for name in ("sweep.sh", "tools/sweep_list.sh", "tools/refuse.sh", "tools/ray_sweep.py"):
        shutil.copy(ROOT / "scripts" / name, folder / "scripts" / name)
    return folder


@pytest.fixture(scope="module")
def documents():
    """Sixty-four documents, so that no run ends between the look at its output and the kill that follows."""
    found = make_sample()["train"][:64]
    for document in found:
        document.pop("labels")
    return found


@pytest.fixture(scope="module")
def predictor():
    """The shipped model, in this process."""
    return Predictor.from_run(device="cpu")


@pytest.fixture(scope="module")
def cluster():
    """Ray with one node of one CPU, which is the one that RAY_ADDRESS names."""
    monkeypatch = pytest.MonkeyPatch()
    for name, value in (("MODE", "token"), ("TOKEN", secrets.token_hex(32))):
        monkeypatch.setenv(f"RAY_AUTH_{name}", value)
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    from ray.cluster_utils import Cluster  # not before, as ray reads the token when it is imported

    found = Cluster(True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    try:
        monkeypatch.setenv("RAY_ADDRESS", found.address)
        yield found
    finally:
        found.shutdown()
        monkeypatch.undo()


@pytest.fixture
def second(cluster):
    """A second node."""
    node = cluster.add_node(num_cpus=1)
    cluster.wait_for_nodes()
    return node


def write(folder, documents):
    folder.mkdir()
    (folder / "documents.jsonl").write_text("\n".join(map(json.dumps, documents)))


def start(folder, *options):
    program = [sys.executable, str(ROOT / "scripts/predict_corpus.py"), *OPTIONS, *options]
    return subprocess.Popen(
        [*program, "--input", str(folder / "in"), "--output", str(folder / "out")],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def workers_below(pid, count, process, gone=()):
    """The workers below a process without those that are gone, as soon as there are so many; `process` is the driver,
    which must be running."""
    while process.poll() is None:
        lines = children_of(pid)
        found = [number for number, line in lines.items() if line.startswith("ray::Worker") and number not in gone]
        if len(found) >= count:
            return found
        time.sleep(0.1)
    raise AssertionError("".join(process.communicate()))


def raylet(node):
    """The process of a node that starts its workers."""
    return node.all_processes["raylet"][0].process.pid


def seeds_trained_by(node):
    """The seeds of the stand-in that run on a node now."""
    return [line.split("--seeds ")[1][0] for line in children_of(raylet(node)).values() if "run_bert.sh" in line]


def ended(process):
    shown, errors = process.communicate(timeout=600)
    assert process.returncode == 0, shown + errors
    return shown, errors


def assert_equal(folder, documents, predictor):
    """The output is what one process predicts, each document once and in order."""
    rows, good = rows_of(folder / "out"), [document for document in documents if document not in BAD]
    assert [row["title"] for row in rows] == [document["title"] for document in good]
    expected = []
    for first in range(0, len(documents), 4):
        group = [document for document in documents[first : first + 4] if document not in BAD]
        expected += predictor.predict(group).entries
    found = [{"title": row["title"], **entry} for row in rows for entry in row["predictions"]]
    assert found == expected != []


def test_workers_and_drivers_are_killed_and_each_document_is_there_once(documents, predictor, tmp_path):
    documents = [documents[0], BAD[0], *documents[1:11], BAD[1], *documents[11:]]
    write(tmp_path / "in", documents)
    process = start(tmp_path)
    assert wait_for_a_part(tmp_path / "out", process)
    first, other = workers_below(process.pid, 2, process)
    os.kill(other, signal.SIGSTOP)  # so the run cannot end before its driver is killed
    os.kill(first, signal.SIGKILL)
    workers_below(process.pid, 2, process, gone=(first,))  # with the one in its place
    assert wait_for_a_part(tmp_path / "out", process)
    process.kill()
    os.kill(other, signal.SIGKILL)
    process.communicate()
    before = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "out/done").glob("*.json")}
    assert 1 < len(before) < 17

    shown, errors = ended(start(tmp_path))
    assert "predictions for 64 documents" in shown and "2 documents could not be predicted" in errors
    assert before.items() <= {path.name: path.stat().st_mtime_ns for path in (tmp_path / "out/done").iterdir()}.items()
    assert_equal(tmp_path, documents, predictor)
    told = [json.loads(line) for line in (tmp_path / "out/errors.jsonl").read_text().splitlines()]
    assert [error["document"] for error in told] == [1, 12]
    assert "vertexSet" in told[0]["message"]


def test_a_node_is_killed_and_the_other_predicts_what_it_had(cluster, second, documents, predictor, tmp_path):
    write(tmp_path / "in", documents)
    process = start(tmp_path, "--address", cluster.address)
    (first,) = workers_below(raylet(cluster.head_node), 1, process)
    os.kill(first, signal.SIGSTOP)  # so the first part is the other's, which is then ready and has more to do
    (other,) = workers_below(raylet(second), 1, process)
    assert wait_for_a_part(tmp_path / "out", process)
    os.kill(other, signal.SIGSTOP)  # so it cannot finish its parts before its node is gone
    cluster.remove_node(second, allow_graceful=False)
    os.kill(other, signal.SIGKILL)
    os.kill(first, signal.SIGCONT)
    _, errors = ended(process)
    assert "workers died; their parts were given to others" in errors
    assert_equal(tmp_path, documents, predictor)


def start_sweep(clone):
    return subprocess.Popen(
        ["bash", str(clone / "scripts/sweep.sh"), "--more", "one"],
        env=os.environ | {"LOSSES": "atl", "SEEDS": "1 2 3 4", "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def wait_for_a_step(sweep, clone, node):
    """Until one of the trainings that run on a node has written a step."""
    while not any((clone / f"steps_{seed}").exists() for seed in seeds_trained_by(node)):
        assert sweep.poll() is None, sweep.communicate()[0]
        time.sleep(0.1)


def assert_each_is_trained_once(sweep, clone):
    """The sweep ends well, each step of each training was done once, and one training was begun again."""
    shown = sweep.communicate(timeout=600)[0]
    assert sweep.returncode == 0 and "status" in shown, shown
    for seed in "1234":
        steps = (clone / f"steps_{seed}").read_text().split()
        assert steps == [str(step) for step in range(8)], f"seed {seed} was trained twice at once, or not to its end"
    begun = sum(len((clone / f"begun_{seed}").read_text().splitlines()) for seed in "1234")
    assert begun == 5


def test_a_node_is_killed_and_the_other_trains_what_it_had_from_where_it_was(cluster, second, tmp_path):
    clone = make_clone(tmp_path / "clone")
    sweep = start_sweep(clone)
    wait_for_a_step(sweep, clone, second)
    cluster.remove_node(second, allow_graceful=False)
    assert_each_is_trained_once(sweep, clone)


def test_a_training_whose_program_is_killed_while_its_worker_lives_goes_on_from_where_it_was(cluster, tmp_path):
    clone = make_clone(tmp_path / "clone")
    sweep = start_sweep(clone)
    wait_for_a_step(sweep, clone, cluster.head_node)
    programs = [pid for pid, line in children_of(raylet(cluster.head_node)).items() if line.startswith("bash -c")]
    (program,) = [pid for pid in programs if any("run_bert.sh" in line for line in children_of(pid).values())]
    os.kill(program, signal.SIGKILL)
    assert_each_is_trained_once(sweep, clone)
