"""A run's test predictions scored with other labels of the same documents, such as DocGNRE's more complete ones."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

from hingeabl.core.evaluation import Gold, prepare_gold, score_predictions
from hingeabl.errors import UserError
from hingeabl.files import read_json, sha256_of_file
from hingeabl.readers.documents import load_documents
from hingeabl.reporting.records import OTHER_SCORES, Run, documents_of, file_of


def scores_with(run: Run, path: str) -> dict[str, dict[str, Any]]:
    """{the file's name: {"sha256", "precision", "recall", "f1"}} of a run's test predictions, scored as fractions with
    the labels of the file at `path`. Raises UserError if it has no labels or other documents than the run's test
    file, and if a file of the run is gone."""
    if not run.folder.is_dir():
        raise UserError(f"{run.folder}: a record holds no predictions; pass the run's folder")
    entities, gold = other_gold(path)
    tested = {document["title"]: len(document["vertexSet"]) for document in documents_of(*file_of(run, "test"))}
    if tested != entities:
        different = sorted(title for title, _ in tested.items() ^ entities.items())
        raise UserError(
            f"{path}: its documents or their entities are not those of {file_of(run, 'test')[0]}, such as "
            f"{different[0]!r}; pass other labels of the same test documents"
        )
    predictions = run.folder / "result.json"
    scores = score_predictions(read_json(predictions), gold, str(predictions))
    return {Path(path).name: {"sha256": sha256_of_file(path), **{name: scores[name] for name in OTHER_SCORES}}}


@functools.lru_cache(maxsize=1)
def other_gold(path: str) -> tuple[dict[str, int], Gold]:
    """(how many entities each title's document has, the gold triples) of a labelled file. Raises UserError if it
    has no labels."""
    documents = load_documents(path, unique_titles=True)
    if not any(document.get("labels") for document in documents):
        raise UserError(f"{path}: has no labels; pass a labelled file")
    return {document["title"]: len(document["vertexSet"]) for document in documents}, prepare_gold(documents, set())
