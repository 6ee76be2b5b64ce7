"""A corpus and a sweep on Ray, started and stopped here on this machine, while workers, drivers and nodes die."""

import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import time

import pytest
from conftest import ROOT
from corpus import children_of, rows_of, wait_for_a_part
from make_sample import make_sample

from hingeabl.prediction.predictor import Predictor

pytestmark = pytest.mark.slow
BAD = [{"title": "bad", "sents": [], "vertexSet": 7}, "no document"]
OPTIONS = ("--part_size", "4", "--device", "cpu", "--workers", "2")
# Stands in for setup.sh, size.sh, and a training of eight steps, which goes on where it was.
CLONE = {
    "scripts/setup.sh": 'cd "$(dirname "${BASH_SOURCE[0]}")/.."',
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
    for name in ("sweep.sh", "tools/sweep_list.sh", "tools/ray_sweep.py"):
        shutil.copy(ROOT / "scripts" / name, folder / "scripts" / name)
    return folder


@pytest.fixture(scope="module")
def documents():
    """Forty documents, and the predictions of one process for each."""
    found = make_sample()["train"][:40]
    for document in found:
        document.pop("labels")
    predictor = Predictor.from_run(device="cpu")
    entries = predictor.predict(found).of_each_document()
    return list(zip(found, entries, strict=True))


@pytest.fixture
def cluster(monkeypatch):
    """Two nodes of Ray with a CPU each; the second can be killed."""
    pytest.importorskip("ray", reason="ray is not installed")
    for name, value in (("MODE", "token"), ("TOKEN", secrets.token_hex(32))):
        monkeypatch.setenv(f"RAY_AUTH_{name}", value)
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    from ray.cluster_utils import Cluster

    found = Cluster(True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    try:
        found.second = found.add_node(num_cpus=1)
        found.wait_for_nodes()
        monkeypatch.setenv("RAY_ADDRESS", found.address)
        yield found
    finally:
        found.shutdown()


def write(folder, documents, bad=()):
    """A file of these documents, with a bad one behind every tenth."""
    folder.mkdir()
    lines = []
    for number, (document, _) in enumerate(documents):
        lines.append(json.dumps(document))
        lines += [json.dumps(one) for place, one in enumerate(bad) if number == 10 * place]
    (folder / "documents.jsonl").write_text("\n".join(lines))


def start(folder, *options):
    program = [sys.executable, str(ROOT / "scripts/predict_corpus.py"), *OPTIONS, *options]
    return subprocess.Popen(
        [*program, "--input", str(folder / "in"), "--output", str(folder / "out")],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def ended(process):
    shown, errors = process.communicate(timeout=300)
    assert process.returncode == 0, shown + errors
    return shown, errors


def assert_equal(folder, documents):
    """The output is what one process predicts, each document once and in order."""
    rows = rows_of(folder / "out")
    assert [row["title"] for row in rows] == [document["title"] for document, _ in documents]
    for row, (_, entries) in zip(rows, documents, strict=True):
        assert [(e["h_idx"], e["t_idx"], e["r"]) for e in row["predictions"]] == [
            (e["h_idx"], e["t_idx"], e["r"]) for e in entries
        ]
        for entry, expected in zip(row["predictions"], entries, strict=True):
            assert entry["margin"] == pytest.approx(expected["margin"], abs=1e-4)


def test_workers_and_drivers_are_killed_and_each_document_is_there_once(documents, tmp_path):
    pytest.importorskip("ray", reason="ray is not installed")
    write(tmp_path / "in", documents, BAD)
    process = start(tmp_path)
    assert wait_for_a_part(tmp_path / "out", process)
    workers = [number for number, line in children_of(process.pid).items() if line.startswith("ray::Worker")]
    os.kill(workers[0], signal.SIGKILL)
    assert wait_for_a_part(tmp_path / "out", process)
    process.kill()
    process.communicate()
    before = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "out/done").glob("*.json")}
    assert 1 < len(before) < 11

    shown, errors = ended(start(tmp_path))
    assert "predictions for 40 documents" in shown and "2 documents could not be predicted" in errors
    assert before.items() <= {path.name: path.stat().st_mtime_ns for path in (tmp_path / "out/done").iterdir()}.items()
    assert_equal(tmp_path, documents)
    told = [json.loads(line) for line in (tmp_path / "out/errors.jsonl").read_text().splitlines()]
    assert [error["document"] for error in told] == [1, 12]
    assert "vertexSet" in told[0]["message"]


def test_a_node_is_killed_and_the_other_predicts_and_trains_what_it_had(cluster, documents, tmp_path):
    write(tmp_path / "in", documents)
    process = start(tmp_path, "--address", cluster.address)
    assert wait_for_a_part(tmp_path / "out", process)
    cluster.remove_node(cluster.second, allow_graceful=False)
    _, errors = ended(process)
    assert "workers died; their parts were given to others" in errors
    assert_equal(tmp_path, documents)

    second = cluster.add_node(num_cpus=1)
    cluster.wait_for_nodes()
    clone = make_clone(tmp_path / "clone")
    environment = os.environ | {"LOSSES": "atl", "SEEDS": "1 2 3 4", "PYTHONPATH": str(ROOT)}
    sweep = subprocess.Popen(
        ["bash", str(clone / "scripts/sweep.sh"), "--more", "one"],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    while len(list(clone.glob("begun_*"))) < 2:
        assert sweep.poll() is None, sweep.communicate()[0]
        time.sleep(0.1)
    cluster.remove_node(second, allow_graceful=False)
    shown = sweep.communicate(timeout=120)[0]
    assert sweep.returncode == 0 and "status" in shown, shown
    for seed in "1234":
        steps = (clone / f"steps_{seed}").read_text().split()
        assert steps == [str(step) for step in range(8)], f"seed {seed} was trained twice at once, or not to its end"
    begun = sum(len((clone / f"begun_{seed}").read_text().splitlines()) for seed in "1234")
    assert begun == 5  # one of them again
