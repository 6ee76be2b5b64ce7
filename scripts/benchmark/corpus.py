"""Measures scripts/predict_corpus.py: throughput, and what is left after processes were killed.

    python scripts/benchmark/corpus.py throughput DOCUMENTS.json --copies 4       one worker of one thread, then two
    python scripts/benchmark/corpus.py kills DOCUMENTS.json --what driver         ten times kill -9, then the comparison

The documents are repeated under new titles. Both compare the output with predict.py's, document by document.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
ONE_THREAD = os.environ | {"OMP_NUM_THREADS": "1"}


def write_documents(source: str, copies: int, folder: Path) -> Path:
    """The documents of a file, so many times, as JSON Lines without labels."""
    documents = json.loads(Path(source).read_text(encoding="utf-8"))
    path = folder / "documents.jsonl"
    with path.open("w", encoding="utf-8") as file:
        for copy in range(copies):
            for document in documents:
                own = {"title": f"{document['title']} ({copy})", "sents": document["sents"]}
                file.write(json.dumps(own | {"vertexSet": document["vertexSet"]}) + "\n")
    return path


def command(documents: Path, output: Path, workers: int, part_size: int) -> list[str]:
    """What predicts the corpus with workers of one thread."""
    options = {"input": documents, "output": output, "workers": workers, "part_size": part_size, "device": "cpu"}
    given = [text for name, value in options.items() for text in (f"--{name}", str(value))]
    return [sys.executable, str(ROOT / "scripts" / "predict_corpus.py"), *given]


def rows_of(output: Path) -> list[dict[str, Any]]:
    """The rows of all parts in their order."""
    return [json.loads(line) for path in sorted((output / "parts").glob("part-*.jsonl")) for line in path.open()]


def compare(output: Path, expected: list[dict[str, Any]], count: int) -> None:
    """Say how the output differs from predict.py's."""
    rows = rows_of(output)
    places = {(row["file"], row["document"]) for row in rows}
    found = [{"title": row["title"], **entry} for row in rows for entry in row["predictions"]]
    print(f"{len(rows):,} rows of {count:,} documents, {len(rows) - len(places)} twice;", end=" ")
    print(f"{len(found):,} predictions, predict.py has {len(expected):,}; equal: {found == expected}", flush=True)


def expected_of(documents: Path) -> list[dict[str, Any]]:
    """predict.py's predictions of the file."""
    output = documents.with_name("expected.json")
    start = time.perf_counter()
    program = [sys.executable, str(ROOT / "predict.py"), "--input", str(documents), "--output", str(output)]
    subprocess.run([*program, "--device", "cpu"], check=True, env=ONE_THREAD, capture_output=True)
    print(f"predict.py with one thread: {time.perf_counter() - start:.0f} s", flush=True)
    return json.loads(output.read_text())


def throughput(documents: Path, part_size: int, numbers: list[int]) -> list[Path]:
    """Predict with so many workers each; says seconds, and documents a second behind the first part."""
    outputs = []
    for workers in numbers:
        outputs.append(output := documents.with_name(f"with_{workers}"))
        start = time.perf_counter()
        subprocess.run(command(documents, output, workers, part_size), check=True, capture_output=True)
        seconds = time.perf_counter() - start
        ends = sorted(
            (path.stat().st_mtime, json.loads(path.read_text())["documents"])
            for path in (output / "done").glob("part-*.json")
        )
        if len(ends) <= workers:
            sys.exit("error: too few parts to measure; pass a smaller --part_size, or more --copies")
        behind = sum(count for _, count in ends[workers:]) / (ends[-1][0] - ends[workers - 1][0])
        print(f"{workers} workers: {seconds:.0f} s with the start, then {behind:.2f} documents a second", flush=True)
    return outputs


def children_of(pid: int) -> dict[int, str]:
    """The processes below one, with their command lines."""
    listed = subprocess.run(["ps", "-eo", "pid=,ppid=,args="], capture_output=True, text=True, check=True).stdout
    rows = [line.split(None, 2) for line in listed.splitlines()]
    parents = {int(row[0]): int(row[1]) for row in rows}
    found = {}
    for number, _, *rest in rows:
        above = parents[int(number)]
        while above > 1 and above != pid:
            above = parents.get(above, 0)
        if above == pid:
            found[int(number)] = " ".join(rest)
    return found


def wait_for_a_part(output: Path, process: subprocess.Popen[bytes]) -> bool:
    """Wait until one more part is finished; False where the program is over before."""

    def count() -> int:
        return len(list((output / "done").glob("part-*.json")))

    before = count()
    while count() == before:
        if process.poll() is not None:
            return False
        time.sleep(0.1)
    return True


def kills(documents: Path, part_size: int, what: str, times: int) -> Path:
    """Kill a worker or the driver so many times, a moment behind a part each."""
    output, done = documents.with_name(f"killed_{what}"), 0
    while True:
        process = subprocess.Popen(command(documents, output, 2, part_size))
        while done < times and wait_for_a_part(output, process):
            time.sleep(0.3)
            workers = [pid for pid, line in children_of(process.pid).items() if line.startswith("ray::Worker")]
            for pid in [process.pid] if what == "driver" else workers[:1]:
                os.kill(pid, signal.SIGKILL)
                done += 1
        if process.wait() != -signal.SIGKILL:  # it was not killed itself: all is predicted
            break
    print(f"{what} killed {done} times, then exit code {process.returncode}")
    return output


def main() -> None:
    """Measure."""
    parser = argparse.ArgumentParser(description="Measure scripts/predict_corpus.py.")
    parser.add_argument("task", choices=("throughput", "kills"))
    parser.add_argument("source", help="documents in DocRED's schema, a JSON list")
    parser.add_argument("--copies", type=int, default=1)
    parser.add_argument("--part_size", type=int, default=500)
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--what", choices=("worker", "driver"), default="worker")
    parser.add_argument("--times", type=int, default=10)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        documents = write_documents(args.source, args.copies, Path(folder))
        if args.task == "kills":
            outputs = [kills(documents, args.part_size, args.what, args.times)]
        else:
            outputs = throughput(documents, args.part_size, args.workers)
        expected = expected_of(documents)
        for output in outputs:
            compare(output, expected, sum(1 for _ in documents.open()))


if __name__ == "__main__":
    main()
