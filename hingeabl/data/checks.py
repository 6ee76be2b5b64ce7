"""Possible mistakes in a set of data files, found by comparing them: printed before a training and by prepro.py."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hingeabl.data.schema import Document
from hingeabl.errors import UserError, print_warning

MIN_FACTS_TO_COMPARE = 1000  # among so many facts, some are in the training file if both files are of one data set
Finding = dict[str, Any]  # {"check", "files", "count", "message"}


def check_files(files: dict[str, Sequence[Document]], train: str | None = None) -> list[Finding]:
    """Possible mistakes in files, given as {path: documents}; `train` is the path of the training file, if it is among
    them. [] if there are none."""
    findings = shared_documents(files)
    if train is not None:
        findings += unseen_relations(files, train)
    return findings + [empty_labels(path) for path, documents in files.items() if without_gold(documents)]


def refuse_same_files(paths: Sequence[str]) -> None:
    """Raise UserError if a file is given twice."""
    seen: dict[Path, str] = {}
    for path in paths:
        resolved = Path(path).resolve()
        if resolved in seen:
            first = f", also as {seen[resolved]}" if seen[resolved] != path else ""
            raise UserError(f"{path}: is given twice{first}; pass it once")
        seen[resolved] = path


def refuse_empty(path: str | Path, documents: Sequence[Document]) -> None:
    """Raise UserError for a file without documents."""
    if not documents:
        raise UserError(f"{path}: holds no documents; check the file")


def check_labels(path: str | Path, documents: Sequence[Document], required: bool) -> None:
    """Raise UserError for a file without documents, with labels for only some, or without labels if `required`."""
    refuse_empty(path, documents)
    missing = [index for index, document in enumerate(documents) if "labels" not in document]
    if missing and (required or len(missing) < len(documents)):
        title = documents[missing[0]]["title"]
        raise UserError(
            f"{path}: document {missing[0]} ({title!r}): labels: is missing; add it, [] where there are no relations"
        )
    if required and not any(document["labels"] for document in documents):
        raise UserError(f"{path}: has no labels; pass a labelled file")


def check_training_file(
    files: tuple[str, str], gold: Sequence[Document], train: Sequence[Document], stated_in_train: int
) -> list[Finding]:
    """Why the training file may be the wrong one for scoring a gold file, both given as paths and documents: they share
    documents, or are of different data sets. `stated_in_train` is how many of the gold facts the training file
    states."""
    gold_file, train_file = files
    if gold == train:
        message = (
            f"{train_file}: holds the same documents as {gold_file}: Ign F1 ignores every fact; pass the train file"
        )
        return [finding("same documents", list(files), len(gold), message)]
    findings = shared_documents({gold_file: gold, train_file: train})
    relations, train_relations = relations_of(gold), relations_of(train)
    facts, train_facts = sum(relations.values()), sum(train_relations.values())
    if not relations.keys() & train_relations.keys():
        problem = f"has none of the {len(relations):,} relations of {gold_file}"
    elif not stated_in_train and min(facts, train_facts) >= MIN_FACTS_TO_COMPARE:
        problem = f"states none of the {facts:,} facts of {gold_file} among its {train_facts:,}"
    else:
        return findings
    message = f"{train_file}: {problem}: Ign F1 ignores nothing; pass the train file of the same data set"
    return [*findings, finding("another data set", list(files), facts, message)]


def relations_of(documents: Sequence[Document]) -> Counter[str]:
    """How many labels each relation has."""
    return Counter(label["r"] for document in documents for label in document.get("labels", []))


def shared_documents(files: dict[str, Sequence[Document]]) -> list[Finding]:
    """For each two files: how many documents of the second have the title or the text of one in the first."""
    findings = []
    titles = {path: {document["title"] for document in documents} for path, documents in files.items()}
    texts = {path: {text_of(document): document["title"] for document in files[path]} for path in files}
    for first, second in itertools.combinations(files, 2):
        same_title = titles[first] & titles[second]
        same_text = {title for text, title in texts[second].items() if text and text in texts[first]}
        if shared := same_title | same_text:
            message = (
                f"{first} and {second} share {len(shared):,} documents ({len(same_title):,} by title, "
                f"{len(same_text):,} by text), such as {min(shared)!r}: scores on one are not independent of the "
                "other; take them out of one file"
            )
            findings.append(finding("shared documents", [first, second], len(shared), message))
    return findings


def text_of(document: Document) -> str:
    """A document's tokens as one lower-case text, for comparison."""
    return " ".join(token for sentence in document["sents"] for token in sentence).casefold()


def unseen_relations(files: dict[str, Sequence[Document]], train: str) -> list[Finding]:
    """For each other file: its relations without a label in the training file, which cannot be learned."""
    trained = {label["r"] for document in files[train] for label in document.get("labels", [])}
    findings = []
    for path, documents in files.items():
        labels = [label["r"] for document in documents for label in document.get("labels", [])]
        unseen = sorted(set(labels) - trained)
        if trained and unseen:
            count = sum(label in unseen for label in labels)
            message = (
                f"{path} has {count:,} of its {len(labels):,} labels in {len(unseen)} relations that {train} never has "
                f"({', '.join(unseen[:5])}{', ...' if len(unseen) > 5 else ''}): they cannot be learned"
            )
            findings.append(finding("unseen relations", [path, train], count, message))
    return findings


def without_gold(documents: Sequence[Document]) -> bool:
    """Whether all documents have labels, and all of these are empty: a test file whose labels are withheld."""
    return bool(documents) and all(document.get("labels") == [] for document in documents)


def empty_labels(path: str) -> Finding:
    """The finding about a file without gold labels."""
    message = f"{path}: the labels of every document are empty: it is predicted, but there is nothing to score against"
    return finding("no gold labels", [path], 0, message)


def check_cuts(path: str, features: Sequence[dict[str, Any]], max_seq_length: int) -> list[Finding]:
    """How much of a file's documents lies beyond max_seq_length; features as prepro.featurize makes them."""
    documents = mentions = entities = 0
    for feature in features:
        if not feature.get("pieces_cut"):
            continue
        documents += 1
        kept = len(feature["input_ids"]) - 2  # without [CLS] and [SEP]
        lost = [[start >= kept for start, _ in entity] for entity in feature["entity_pos"]]
        mentions += sum(map(sum, lost))
        entities += sum(bool(entity) and all(entity) for entity in lost)
    if not documents:
        return []
    message = (
        f"{path}: {documents:,} of {len(features):,} documents are longer than --max_seq_length {max_seq_length} word "
        f"pieces and are cut: {mentions:,} mentions are lost, and {entities:,} entities have no mention left"
    )
    return [finding("cut documents", [path], documents, message) | {"mentions": mentions, "entities": entities}]


def finding(check: str, files: list[str], count: int, message: str) -> Finding:
    """One finding, for print_findings or JSON."""
    return {"check": check, "files": files, "count": count, "message": message}


def print_findings(findings: list[Finding]) -> None:
    """Print one line for each to stderr."""
    for entry in findings:
        print_warning(entry["message"])
