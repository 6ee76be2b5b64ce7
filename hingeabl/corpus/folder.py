"""The output of a corpus: a folder of parts, each written once, however often the program is stopped.

manifest.json names the input files and settings. parts/part-000007.jsonl has the rows of a block of documents;
done/part-000007.json, written after it, says that the part is finished, and lists its errors and warnings.
errors.jsonl and warnings.jsonl are made of these at the end, and then finished.json, the totals.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from hingeabl.corpus.sources import Source, checksums
from hingeabl.corpus.worker import Part
from hingeabl.errors import UserError
from hingeabl.files import atomic_write, listed, make_folder, read_json, sha256_of_file, write_json
from hingeabl.training.hub import resolve_run

MANIFEST = "manifest.json"
FINISHED = "finished.json"
RUN_FILES = ("config.json", "model.json", "model.safetensors", "rel2id.json", "confidence.json", "types.json")
Manifest = dict[str, dict[str, Any]]


def manifest_of(sources: Iterable[Source], load_path: str, settings: dict[str, Any]) -> Manifest:
    """What the output depends on: {inputs: name -> SHA-256, run: file -> SHA-256, settings}."""
    folder = resolve_run(load_path)
    run = {name: sha256_of_file(folder / name) for name in RUN_FILES if (folder / name).exists()}
    return {"inputs": checksums(sources), "run": run, "settings": settings}


def begin(output: Path, manifest: Manifest) -> None:
    """Make the folder, or take one that was begun with the same manifest, or that has no part yet. Raises UserError if
    it was begun with another manifest, or holds other files."""
    make_folder(output)
    path = output / MANIFEST
    begun = ("parts/*", "done/*", FINISHED)
    if path.exists() and any(any(output.glob(pattern)) for pattern in begun):
        refuse_other(output, read_json(path), manifest)
        return
    if any(entry.name not in (MANIFEST, f"{MANIFEST}.tmp", "parts", "done") for entry in output.iterdir()):
        raise UserError(f"--output {output}: holds files of something else; name a folder that is empty or not there")
    write_json(path, manifest)


def refuse_other(output: Path, existing: Any, manifest: Manifest) -> None:
    """Raise UserError if a folder was begun with another manifest; it names what differs."""
    for part, title in (("inputs", "input"), ("run", "model"), ("settings", "setting")):
        old = existing.get(part, {}) if isinstance(existing, dict) else {}
        new = json.loads(json.dumps(manifest[part]))
        differing = sorted(key for key in old.keys() | new.keys() if old.get(key) != new.get(key))
        if differing:
            if part == "settings":
                differing = [f"{key} {old.get(key)} there, {new.get(key)} here" for key in differing]
            raise UserError(
                f"--output {output}: was begun with another {title} ({listed(differing)}); name another folder, or "
                "remove this one"
            )


def part_name(number: int) -> str:
    """The name of a part's files, without their endings."""
    return f"part-{number:06d}"


def is_finished(output: Path, number: int, file_format: str) -> bool:
    """Whether a part need not be predicted again."""
    part, done = (f"{part_name(number)}.{ending}" for ending in (file_format, "json"))
    return (output / "parts" / part).exists() and (output / "done" / done).exists()


def write_part(output: Path, number: int, part: Part, file_format: str) -> None:
    """Write a part; it is finished only when both of its files are there. Raises UserError if that fails."""
    with atomic_write(output / "parts" / f"{part_name(number)}.{file_format}", "wb") as file:
        file.write(part.data)
    counts = {"documents": part.documents, "predictions": part.predictions}
    write_json(
        output / "done" / f"{part_name(number)}.json", counts | {"errors": part.errors, "warnings": part.warnings}, 0
    )


def finish(output: Path, complete: bool) -> dict[str, int]:
    """Write errors.jsonl and warnings.jsonl of all finished parts and, if they are all, finished.json; returns how many
    documents, predictions, errors and warnings there are."""
    totals = dict.fromkeys(("documents", "predictions", "errors", "warnings"), 0)
    with atomic_write(output / "errors.jsonl") as errors, atomic_write(output / "warnings.jsonl") as warnings:
        for path in sorted((output / "done").glob("part-*.json")):
            summary = read_json(path)
            for file, key in ((errors, "errors"), (warnings, "warnings")):
                file.writelines(json.dumps(entry, ensure_ascii=False) + "\n" for entry in summary[key])
                totals[key] += len(summary[key])
            for key in ("documents", "predictions"):
                totals[key] += summary[key]
    for name in ("errors", "warnings"):
        if not totals[name]:
            (output / f"{name}.jsonl").unlink()
    for folder in ("parts", "done"):
        for leftover in (output / folder).glob("*.tmp"):  # by a process that was killed
            shutil.rmtree(leftover) if leftover.is_dir() else leftover.unlink()
    if complete:
        write_json(output / FINISHED, totals)
    return totals
