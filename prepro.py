"""From DocRED's files to features: validation, entity markers, word pieces, label rows.

    python prepro.py FILE... prints the statistics of each file, and possible mistakes in them.
    python prepro.py FILE... --make_rel2id OUT writes the relations of labelled files as a rel2id file.
    python prepro.py FILE... --convert OUT writes files of another format, or a folder of them, in DocRED's schema.

A document in DocRED's schema is {title, sents, vertexSet, labels}: `sents` holds lists of tokens,
`vertexSet[i]` the mentions of entity i as {name, sent_id, pos: [start, end)}, and `labels` (missing
in a test set without gold) the facts {h, t, r, evidence}. `pairs`, optional, lists the pairs [h, t] to score; without
it every ordered pair is scored. Files of CDR and GDA are read as documents with `pairs`, see hingeabl/readers/cdr.py.
"""

from __future__ import annotations

from hingeabl.start import start

start(__name__)  # first, as it reports a missing package in one line

import argparse
import itertools
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from hingeabl.core import ROOT, one_module
from hingeabl.data.cache import WordPieces, load_pieces, pieces_path, save_pieces
from hingeabl.data.checks import check_cuts, check_files, print_findings, refuse_empty, refuse_same_files
from hingeabl.data.pairs import AllPairs
from hingeabl.data.relations import DEFAULT_REL2ID, load_rel2id
from hingeabl.data.schema import CLOSING, MARKED_TYPES, Document
from hingeabl.data.statistics import count_pairs, make_rel2id, print_statistics, statistics
from hingeabl.data.tokenizer import load_tokenizer
from hingeabl.errors import UserError, run_command_line
from hingeabl.files import refuse_non_data_files, write_json
from hingeabl.outputs import check_outputs
from hingeabl.readers.documents import garbage_collection_paused, load_documents
from hingeabl.readers.formats import FORMATS

ENTITY_MARKERS = ("asterisk", "asterisks", "typed")

SMALL_ENCODER = ROOT / "dataset" / "encoders" / "all-MiniLM-L6-v2"
Feature = dict[str, Any]


def read_docred(
    path: str | Path,
    tokenizer: Any,
    rel2id: dict[str, int],
    max_seq_length: int = 1024,
    cache_dir: str | Path | None = None,
    entity_marker: str = "asterisk",
    with_evidence: bool = False,
) -> list[Feature]:
    """Read a file in DocRED's schema into features; see load_documents and featurize. `cache_dir` keeps its word
    pieces."""
    with garbage_collection_paused():
        documents = load_documents(path, rel2id, typed=entity_marker == "typed")
        settings = (max_seq_length, entity_marker)
        cache_file = pieces_path(Path(cache_dir), Path(path), tokenizer, *settings) if cache_dir else None
        return featurize(documents, tokenizer, rel2id, *settings, cache_file, with_evidence)


def featurize(
    documents: list[Document],
    tokenizer: Any,
    rel2id: dict[str, int],
    max_seq_length: int = 1024,
    entity_marker: str = "asterisk",
    cache_file: Path | None = None,
    with_evidence: bool = False,
) -> list[Feature]:
    """Checked documents -> one dict each (ATLOP's features):

    title       str
    input_ids   list of int: [CLS], word pieces cut at max_seq_length - 2, [SEP]
    entity_pos  per entity, per mention: [start, end] in word pieces, counted without [CLS]; `start` is
                the mention's opening marker, `end` the piece after its closing one; mentions past the cut stay;
                of a document that lists pairs, no entity after the last one in a pair
    hts         [[h, t], ...], the pairs that the document lists, or AllPairs: every ordered pair h != t, row by row
    labels      LabelRows, for numpy an array uint8 [pairs, classes]: 1 for each relation of the pair, in
                column 0 for no relation; absent without labels

    pieces_cut  int, only of a document that was cut: how many word pieces it lost

    and with `with_evidence`

    sentence_ends  list of int: the piece after each sentence's last, counted as in entity_pos, in the uncut document
    evidence       int32 [2, n], absent without labels: pairs, as rows of hts, and sentences that the labels name as
                   evidence, once for each of the pair's relations that names it

    Word pieces come from `cache_file` if they are there (see cache.py), else they are written to it. Raises UserError
    as encode_documents does, and for a max_seq_length that leaves no room.
    """
    check_length(max_seq_length)
    encoded = load_pieces(cache_file) if cache_file else None
    if encoded is None:
        encoded = encode_documents(documents, tokenizer, max_seq_length, entity_marker)
        if cache_file:
            save_pieces(cache_file, encoded)
    features = []
    for document, (input_ids, entity_pos, pieces_cut, sentence_ends) in zip(documents, encoded, strict=True):
        feature = {
            "title": document["title"],
            "input_ids": input_ids,
            "entity_pos": entity_pos[: count_entities(document)],
            "hts": pairs_of(document),
        }
        if pieces_cut:
            feature["pieces_cut"] = pieces_cut
        if "labels" in document:
            feature["labels"] = LabelRows(document, rel2id)
        if with_evidence:
            feature["sentence_ends"] = sentence_ends
            if "labels" in document:
                feature["evidence"] = evidence_of(document)
        features.append(feature)
    return features


def check_length(max_seq_length: int) -> None:
    """Raise UserError for a length without room for a word piece."""
    if max_seq_length < 3:
        raise UserError(f"--max_seq_length {max_seq_length}: must be at least 3: [CLS], a word piece, [SEP]")


def encode_documents(
    documents: list[Document], tokenizer: Any, max_seq_length: int, entity_marker: str
) -> list[WordPieces]:
    """input_ids, entity_pos, pieces_cut and sentence_ends of each document.

    Each token is split into word pieces on its own (with a byte-level tokenizer without a leading space). Raises
    UserError for a tokenizer without the two special tokens or without the markers.
    """
    if None in (tokenizer.cls_token_id, tokenizer.sep_token_id):
        raise UserError(
            f"tokenizer {tokenizer.name_or_path}: has no [CLS] or [SEP]; use a BERT- or RoBERTa-type encoder, its "
            "vocabulary files beside its config.json"
        )
    markers = marker_pieces(tokenizer, entity_marker)
    tokens = {token for document in documents for sentence in document["sents"] for token in sentence}
    pieces_of = word_pieces(tokens, tokenizer)
    encoded = []
    for document in tqdm(documents, desc="word pieces", unit="doc", leave=False, delay=1, disable=len(documents) < 2):
        pieces, entity_pos, sentence_ends = mark_entities(document, pieces_of, markers, entity_marker == "asterisks")
        kept = pieces[: max_seq_length - 2]
        input_ids = [tokenizer.cls_token_id, *kept, tokenizer.sep_token_id]
        encoded.append((input_ids, entity_pos, len(pieces) - len(kept), sentence_ends))
    return encoded


def marker_pieces(tokenizer: Any, entity_marker: str) -> Callable[[dict[str, Any]], tuple[int, int]]:
    """A function from a mention to the pieces before and after it: `*` twice (ATLOP), or by the mention's type, from
    the unused part of BERT's vocabulary (DocuNet). Raises UserError for a vocabulary without them."""

    def piece(text: str) -> int:
        number = tokenizer.convert_tokens_to_ids(text)
        if number is None or number == tokenizer.unk_token_id:
            refuse_non_data_files(tokenizer.name_or_path)
            raise UserError(
                f"tokenizer {tokenizer.name_or_path}: has no {text!r}, which --entity_marker {entity_marker} takes; "
                "use another marker or a BERT- or RoBERTa-type encoder, its vocabulary files beside its config.json"
            )
        return number

    if entity_marker != "typed":
        both = piece("*"), piece("*")
        return lambda mention: both
    pieces = {
        name: (piece(f"[unused{number}]"), piece(f"[unused{number + CLOSING}]"))
        for name, number in MARKED_TYPES.items()
    }
    return lambda mention: pieces[mention["type"]]


def word_pieces(tokens: set[str], tokenizer: Any) -> dict[str, list[int]]:
    """Word-piece ids of each distinct token, split on its own, in one batched call."""
    ordered = sorted(tokens)
    if not ordered:
        return {}
    encoded = tokenizer(
        ordered, add_special_tokens=False, return_attention_mask=False, return_token_type_ids=False, verbose=False
    )
    return dict(zip(ordered, encoded["input_ids"], strict=True))


def mark_entities(
    document: Document,
    pieces_of: dict[str, list[int]],
    markers: Callable[[dict[str, Any]], tuple[int, int]],
    per_mention: bool = False,
) -> tuple[list[int], list[list[list[int]]], list[int]]:
    """A document's word pieces with markers around its mentions; each mention's [start, end]; each sentence's end.

    A token that starts (ends) several mentions gets one opening (closing) marker, that of the first, entity by entity;
    with `per_mention` it gets one for each mention, and mentions of the same span and type count as one (ATLOP's reader
    of CDR).
    """
    starts: dict[tuple[int, int], list[int]] = {}
    ends: dict[tuple[int, int], list[int]] = {}
    mentions = list(itertools.chain.from_iterable(document["vertexSet"]))
    if per_mention:
        distinct = {(mention["sent_id"], *mention["pos"], str(mention.get("type"))): mention for mention in mentions}
        mentions = list(distinct.values())
    for mention in mentions:
        opening, closing = markers(mention)
        start, end = (mention["sent_id"], mention["pos"][0]), (mention["sent_id"], mention["pos"][1] - 1)
        if per_mention or start not in starts:
            starts.setdefault(start, []).append(opening)
        if per_mention or end not in ends:
            ends.setdefault(end, []).append(closing)
    pieces: list[int] = []
    piece_of: list[list[int]] = []  # piece_of[sentence][token]: the first piece of the token, or of its marker
    for number, sentence in enumerate(document["sents"]):
        starts_of_tokens = []
        for position, token in enumerate(sentence):
            starts_of_tokens.append(len(pieces))
            if (number, position) in starts:
                pieces.extend(starts[number, position])
            pieces.extend(pieces_of[token])
            if (number, position) in ends:
                pieces.extend(ends[number, position])
        starts_of_tokens.append(len(pieces))
        piece_of.append(starts_of_tokens)
    entity_pos = [
        [[piece_of[mention["sent_id"]][token] for token in mention["pos"]] for mention in entity]
        for entity in document["vertexSet"]
    ]
    return pieces, entity_pos, [starts_of_tokens[-1] for starts_of_tokens in piece_of]


def pairs_of(document: Document) -> Sequence[list[int]]:
    """The pairs [h, t] to score: those that the document lists, in its order, or every ordered pair."""
    return document["pairs"] if "pairs" in document else AllPairs(len(document["vertexSet"]))


def count_entities(document: Document) -> int:
    """How many entities a feature has: all, or, if the document lists pairs, those up to the last one in a pair."""
    if "pairs" not in document:
        return len(document["vertexSet"])
    return 1 + max(itertools.chain.from_iterable(document["pairs"]), default=-1)


def rows_of_labels(document: Document) -> list[int]:
    """The row of each label's pair in hts."""
    labels, others = document["labels"], len(document["vertexSet"]) - 1
    if "pairs" not in document:
        return [label["h"] * others + label["t"] - (label["t"] > label["h"]) for label in labels]
    row_of = {(head, tail): row for row, (head, tail) in enumerate(document["pairs"])}
    return [row_of[label["h"], label["t"]] for label in labels]


def evidence_of(document: Document) -> np.ndarray:
    """A feature's `evidence`."""
    cells = {
        (row, sentence, label["r"])
        for row, label in zip(rows_of_labels(document), document["labels"], strict=True)
        for sentence in label.get("evidence", ())
    }
    return np.array(sorted(cell[:2] for cell in cells), dtype=np.int32).reshape(-1, 2).T


class LabelRows:
    """A document's labels, uint8 [pairs, classes] in the order of hts: multi-hot relations, or class 0 for a pair
    without one. Only the labels are stored, a hundredth of that array; numpy makes the array when it is needed."""

    __slots__ = ("cells", "shape")

    def __init__(self, document: Document, rel2id: dict[str, int]) -> None:
        """`cells` is int32 [2, labels]: each label's pair and class."""
        relations = [rel2id[label["r"]] for label in document["labels"]]
        self.cells = np.array([rows_of_labels(document), relations], dtype=np.int32)
        self.shape = (count_pairs(document), len(rel2id))

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        rows = np.zeros(self.shape, dtype=np.uint8)
        rows[self.cells[0], self.cells[1]] = 1
        rows[:, 0] = ~rows.any(axis=1)
        return rows if dtype is None else rows.astype(dtype)

    @property
    def related(self) -> int:
        """How many pairs have a relation."""
        return len(np.unique(self.cells[0]))

    def tolist(self) -> list[list[int]]:
        """The array as lists."""
        return np.asarray(self).tolist()


def main() -> None:
    """Print each file's statistics, one column per file, and possible mistakes in the files."""
    parser = argparse.ArgumentParser(description="Print the statistics of files in DocRED's schema, and check them.")
    parser.add_argument("files", nargs="+", metavar="FILE", help="a file in DocRED's schema; one may be for training")
    parser.add_argument("--rel2id", default=DEFAULT_REL2ID, help="relation inventory (default: meta/rel2id.json)")
    parser.add_argument("--max_seq_length", type=int, default=1024, help="as in train.py (default: 1024)")
    parser.add_argument(
        "--model_name_or_path",
        default=str(SMALL_ENCODER) if SMALL_ENCODER.exists() else None,
        help="encoder whose tokenizer counts word pieces (default: the small one that scripts/tools/fetch.py fetches)",
    )
    parser.add_argument("--entity_marker", choices=ENTITY_MARKERS, default="asterisk", help="as in train.py")
    result = parser.add_mutually_exclusive_group()
    result.add_argument("--json", action="store_true", help="print statistics and findings as JSON")
    result.add_argument("--make_rel2id", metavar="OUT", help="write the relations of the FILEs as a rel2id file")
    result.add_argument(
        "--convert", metavar="OUT", help="write the FILEs, or folders of .ann files, in DocRED's schema"
    )
    parser.add_argument("--format", choices=FORMATS, help="the FILEs' format with --convert; default: recognised")
    args = parser.parse_args()
    if args.convert:
        convert_all(args.files, args.convert, args.format)
        return
    if args.format:
        raise UserError(
            "--format: goes with --convert OUT; statistics are of files in DocRED's schema, so convert first"
        )
    check_length(args.max_seq_length)
    refuse_same_files(args.files)
    if args.make_rel2id:
        write_rel2id(args.files, args.make_rel2id)
        return
    rel2id = load_rel2id(args.rel2id)
    typed = args.entity_marker == "typed"
    files: dict[str, Any] = {path: load_documents(path, rel2id, typed=typed) for path in args.files}
    for path, documents in files.items():
        refuse_empty(path, documents)
    train = next((path for path in files if "train" in Path(path).name.lower()), None)
    findings = check_files(files, train)
    columns = {path: statistics(documents) for path, documents in files.items()}
    if args.model_name_or_path:
        tokenizer = load_tokenizer(args.model_name_or_path)
        for path, documents in files.items():
            features = featurize(documents, tokenizer, rel2id, args.max_seq_length, args.entity_marker)
            findings += check_cuts(path, features, args.max_seq_length)
            columns[path]["longest, word pieces"] = max(
                len(feature["input_ids"]) + feature.get("pieces_cut", 0) for feature in features
            )
    if args.json:
        print(json.dumps({"files": columns, "findings": findings}, indent=2))
    else:
        print_statistics(columns)
        print_findings(findings)


def write_rel2id(files: list[str], output: str) -> None:
    """Write the relations of labelled files as a rel2id file, and print how many there are."""
    check_outputs({"--make_rel2id": (output, (".json",))}, {f"FILE {path}": path for path in files})
    documents = [document for path in files for document in load_documents(path)]
    rel2id = make_rel2id(documents, ", ".join(files))
    write_json(output, rel2id)
    print(f"{len(rel2id) - 1:,} relations and class 0, 'Na': {output}")


def convert_all(files: list[str], output: str, file_format: str | None) -> None:
    """Convert files into one and print what was written. Raises UserError for a file that is given twice, and as
    convert does."""
    from hingeabl.readers.any_format import convert  # here, as training reads no other format

    refuse_same_files(files)
    counts = convert(files, output, file_format)
    print(", ".join(f"{count:,} {name}" for name, count in counts.items()) + f": {output}")


one_module(__name__)
if __name__ == "__main__":
    run_command_line(main)
