"""Checks of output paths, before the work that would be written there."""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path

from hingeabl.errors import UserError, remedy_of

RUN_FILES = (
    *("config.json", "scores.json", "model.json", "rel2id.json", "result.json", "result_dev.json"),
    *("metrics.jsonl", "confidence.json", "types.json", "timing.json"),
)
Output = tuple[str | None, tuple[str, ...]]  # (path, None or "-" for no file; the endings that it may have)


def check_outputs(outputs: Mapping[str, Output], inputs: Mapping[str, str | Path | None]) -> None:
    """Raise UserError for an output that cannot be written, has the ending of another format, or would replace an
    input, another output or a file of a run. Both mappings have the command-line options as keys. A folder among the
    inputs stands for all files in it."""
    taken = {option: Path(path) for option, path in inputs.items() if path and path != "-"}
    for option, (name, endings) in outputs.items():
        if not name or name == "-":
            continue
        path, where = Path(name), f"{option} {name}"
        try:
            check_ending(path, where, endings)
            check_not_overwriting(path, where, taken)
            check_writable(path)
        except OSError as error:
            raise UserError(f"{where}: cannot be written ({error.strerror}); {remedy_of(error)}") from None
        taken[option] = path


def check_output_folder(
    option: str, name: str, written: Iterable[Path], inputs: Mapping[str, str | Path | None]
) -> None:
    """Raise UserError if a program would write into its output folder, given by `option`, to a path that is also an
    input; `inputs` has the command-line options as keys."""
    for target, (other, path) in itertools.product(written, inputs.items()):
        if path and target.resolve() == Path(path).resolve():
            raise UserError(f"{option} {name}: would write to {target}, which {other} names too; name another folder")


def check_ending(path: Path, where: str, endings: tuple[str, ...]) -> None:
    """Raise UserError, starting with `where`, if the path is not a file, or has an ending that is not among
    `endings`."""
    if path.is_dir() or where.endswith("/"):
        raise UserError(f"{where}: is a folder; name a file, such as {path / f'found{endings[0]}'}")
    if path.exists() and not path.is_file():
        raise UserError(f"{where}: is not a file; name one")
    if path.suffix and not path.name.lower().endswith(endings):
        raise UserError(f"{where}: cannot be written as {path.suffix}; name a file that ends in {' or '.join(endings)}")


def check_not_overwriting(path: Path, where: str, taken: Mapping[str, Path]) -> None:
    """Raise UserError, starting with `where`, if writing the file would overwrite one that is still needed."""
    resolved = path.resolve()
    for option, other in taken.items():
        if resolved == other.resolve() or (path.exists() and other.exists() and path.samefile(other)):
            raise UserError(f"{where}: is the file of {option} too; name another one")
        if path.exists() and other.resolve() in resolved.parents:
            raise UserError(f"{where}: is a file of {option} {other} and would be replaced; name another one")
    if path.exists() and path.name in RUN_FILES and (resolved.parent / "config.json").exists():
        raise UserError(f"{where}: is a file of a run and would be replaced; name another one")


def check_writable(path: Path) -> None:
    """Raise OSError if the nearest existing folder above the path is not writable."""
    folder = next(folder for folder in path.resolve().parents if folder.exists())
    with tempfile.TemporaryFile(dir=folder):
        pass
