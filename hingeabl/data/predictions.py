"""Predictions [{title, h_idx, t_idx, r, evidence?}, ...]: checked, compared with a gold file, packed for upload."""

from __future__ import annotations

import json
import unicodedata
import zipfile
from collections import Counter
from pathlib import Path
from typing import Any

from hingeabl.data.relations import RELATION_NAMES
from hingeabl.errors import UserError
from hingeabl.files import atomic_write, parse_list, read_json, read_text

Prediction = dict[str, Any]


def read_predictions(path: str | Path) -> list[Any]:
    """The predictions in a file, unchecked: a list of them, or one a line; see read_text and parse_list."""
    form = "a list of {title, h_idx, t_idx, r}, or one a line"
    return parse_list(read_text(path), path, "prediction", form, may_be_empty=True)


def check_predictions(predictions: Any, where: str) -> None:
    """Raise UserError, starting with `where`, at the first entry that is not a prediction. Titles and entities that the
    gold file lacks are allowed, see doubts_about."""
    if not isinstance(predictions, list):
        raise UserError(f"{where}: must be a list of {{title, h_idx, t_idx, r}}")
    for index, entry in enumerate(predictions):
        if not (isinstance(entry, dict) and isinstance(entry.get("title"), str) and isinstance(entry.get("r"), str)):
            raise UserError(
                f"{where}: entry {index}: needs title and r as strings, h_idx and t_idx as entity numbers{hint(entry)}"
            )
        for field in ("h_idx", "t_idx"):
            number = entry.get(field)
            if type(number) is not int or not 0 <= number < 2**63 - 1:
                raise UserError(
                    f"{where}: entry {index} ({entry['title']!r}): {field}: {number!r} is not an entity's number"
                )
        evidence = entry.get("evidence", [])
        if not isinstance(evidence, list) or not all(type(sentence) is int for sentence in evidence):
            raise UserError(f"{where}: entry {index} ({entry['title']!r}): evidence: must list sentence numbers")


def hint(entry: Any) -> str:
    """What an invalid entry seems to be, for the end of a message."""
    if not isinstance(entry, dict):
        return ""
    if "vertexSet" in entry:
        return "; it is a document: pass the file of predictions"
    inner = next((key for key in entry if isinstance(entry[key], list)), None)
    return f"; take the list under {inner!r} alone" if inner is not None and "title" not in entry else ""


def doubts_about(predictions: list[Prediction], counts: dict[str, int], relations: set[str]) -> list[str]:
    """Signs of a wrong file, one line each: no predictions; repeated ones; documents and entities that the gold file,
    given as {title: entities}, does not have; and relations not among `relations`. The last three count as wrong, as in
    the official evaluator."""
    if not predictions:
        return ["holds no predictions: every score is 0"]
    unknown_documents = [entry for entry in predictions if entry["title"] not in counts]
    normal = {unicodedata.normalize("NFC", title) for title in counts}
    other_form = sum(unicodedata.normalize("NFC", entry["title"]) in normal for entry in unknown_documents)
    unknown_entities = [
        entry for entry in predictions if max(entry["h_idx"], entry["t_idx"]) >= counts.get(entry["title"], 2**63)
    ]
    unknown_relations = [entry for entry in predictions if entry["r"] not in relations]
    ids = {name: relation for relation, name in read_json(RELATION_NAMES).items()}
    names_remedy = "give identifiers, not names" if any(entry["r"] in ids for entry in unknown_relations) else ""
    unicode_form = f"{other_form:,} of them differ in Unicode form alone: write both files in NFC" if other_form else ""
    other_file = "were they made from another file than --gold?"
    warnings = repeated(predictions)
    for problem, entries, remedy in (
        ("a document that --gold does not have", unknown_documents, unicode_form),
        ("an entity that its document in --gold does not have", unknown_entities, ""),
        ("a relation that neither --gold nor the training facts have", unknown_relations, names_remedy),
    ):
        if entries:
            example = {field: entries[0][field] for field in ("title", "h_idx", "t_idx", "r")}
            warnings.append(
                f"{len(entries):,} of {len(predictions):,} predictions name {problem}, such as {example}; "
                f"{remedy or other_file}; they count as wrong"
            )
    return warnings


def repeated(predictions: list[Prediction]) -> list[str]:
    """A line about repeated predictions, [] if there are none."""
    counts = Counter((entry["title"], entry["h_idx"], entry["t_idx"], entry["r"]) for entry in predictions)
    if len(counts) == len(predictions):
        return []
    return [
        f"{len(predictions) - len(counts):,} of {len(predictions):,} predictions repeat another one, such as "
        f"{counts.most_common(1)[0][0]}; each counts once, with the evidence of the first"
    ]


def write_codalab(path: str, predictions: Any, where: str) -> None:
    """Write the upload for DocRED's competition: a zip file with result.json, a list of {title, h_idx, t_idx, r,
    evidence}. Raises UserError as check_predictions does, and if the file cannot be written."""
    check_predictions(predictions, where)
    fields = ("title", "h_idx", "t_idx", "r")
    entries = [
        {name: entry[name] for name in fields} | {"evidence": entry.get("evidence", [])} for entry in predictions
    ]
    with atomic_write(path, "wb") as file, zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("result.json", json.dumps(entries, ensure_ascii=False))
    print(f"{len(entries):,} predictions to upload: {path}")
