"""A trained run on new documents: their relations, by name, with scores, thresholds and margins.

    python predict.py --load_path runs/quickstart/atl/seed_1 --input docs.json --output predictions.json
    python predict.py --load_path runs/quickstart/atl/seed_1 --input - < document.json

--min_confidence, --types and --shift choose among them. The extension of --output sets its form (FORMS in
hingeabl/writers/by_extension.py). --html FILE also writes a page to look at them. Memory holds GROUP_SIZE documents
and their predictions, however large the input is; GraphML and pictures hold the whole graph.
"""

from __future__ import annotations

from hingeabl.start import start

start(__name__)  # first: it tells in one line which package is missing

import argparse
import contextlib
import itertools
import os
import shutil
import stat
import sys
import tempfile
from collections import deque
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import IO, Any, BinaryIO

import torch
from tqdm import tqdm

from hingeabl.core import one_module
from hingeabl.data.schema import Document
from hingeabl.errors import UserError, print_warning, run_command_line
from hingeabl.files import atomic_write, atomic_write_text
from hingeabl.outputs import check_outputs
from hingeabl.prediction.choices import add_prediction_options, prediction_options
from hingeabl.prediction.predictor import Predictor
from hingeabl.readers.any_format import open_file, read_format, read_paths
from hingeabl.readers.formats import FORMATS, TEXT_SUFFIXES, suffix_of
from hingeabl.reporting.page import about_block, documents_block, pairs_block, write_page
from hingeabl.reporting.pairs import evaluate_pairs, evidence_of, rows_by_pair, rows_of_pairs
from hingeabl.training.inference import Predictions
from hingeabl.training.saved_run import refuse_file
from hingeabl.training.settings import positive_int
from hingeabl.writers.by_extension import FORMS, form_of
from hingeabl.writers.writer import Writer

GROUP_SIZE = 500  # documents read and scored at a time: as many as Re-DocRED's dev file has, so batched as there


def predict_stream(
    predictor: Predictor, file: BinaryIO | None, name: str, writer: Writer, file_format: str | None = None
) -> Iterator[tuple[list[Document], Predictions]]:
    """Pass a file's documents, or with None those of the folder `name`, and their predictions to `writer`, group by
    group; yields each group with its predictions. `file_format` None: it is recognised."""
    typed = predictor.typed
    model = predictor.choices.text_model
    documents = (
        read_format(file, name, file_format, typed, text_model=model)
        if file
        else read_paths([name], file_format, typed, text_model=model)
    )
    size = file_size(file) if file else sum(suffix_of(path.name) in TEXT_SUFFIXES for path in Path(name).rglob("*"))
    unit = "B" if file else "document"
    with writer, tqdm(total=size, desc="documents", unit=unit, unit_scale=bool(file), leave=False) as progress:
        while group := list(itertools.islice(documents, GROUP_SIZE)):
            predictions = predictor.predict_group(group)
            writer.add(group, predictions.entries_by_document())
            yield group, predictions
            if not file:
                progress.update(len(group))
            elif size:
                progress.update(file.tell() - progress.n)
            del group, predictions  # else they would stay in memory while the next ones are read
            progress.set_postfix(read=predictor.documents)


def page_blocks(predictor: Predictor, groups: Iterator[tuple[list[Document], Predictions]]) -> Iterator[str]:
    """The page's data, from what predict_stream yields."""
    run, first = predictor.run, 0
    classes = run.rel2id
    yield about_block(run.rel2id, [run.name], gold=False)
    for documents, predictions in groups:
        labels = torch.zeros(len(predictions.pairs["scores"]), len(run.rel2id), dtype=torch.bool)
        pairs = evaluate_pairs(
            documents, run.rel2id, predictions.pairs, labels, predictor.loss, run.settings.num_labels
        )
        yield documents_block(documents, run.rel2id)
        rows = rows_by_pair(pairs.document, pairs.entities)
        predicted = torch.zeros_like(pairs.predicted)  # without what the predictor left out
        for number, entries in enumerate(predictions.entries_by_document()):
            for entry in entries:
                predicted[rows[number, entry["h_idx"], entry["t_idx"]], classes[entry["r"]]] = True
        evidence = None
        if run.settings.evidence_weight is not None:
            entries_by_document = enumerate(predictions.entries_by_document())
            evidence = evidence_of((number, entry) for number, entries in entries_by_document for entry in entries)
        pairs = replace(pairs, predicted=predicted, pattern=torch.zeros_like(pairs.pattern), evidence=evidence)
        yield pairs_block(0, rows_of_pairs(pairs, predicted.any(dim=1)), first)
        first += len(documents)


def file_size(file: BinaryIO) -> int | None:
    """Bytes of a regular file, None for a pipe or a terminal."""
    try:
        status = os.fstat(file.fileno())
    except OSError:  # a file in memory has no number
        return None
    return status.st_size if stat.S_ISREG(status.st_mode) else None


def open_input(name: str) -> contextlib.AbstractContextManager[BinaryIO | None]:
    """The file, standard input for "-", None for a folder. Raises UserError if it cannot be opened."""
    if name == "-":
        return contextlib.nullcontext(sys.stdin.buffer)
    return contextlib.nullcontext() if os.path.isdir(name) else open_file(name)


@contextlib.contextmanager
def open_output(name: str) -> Iterator[IO[Any]]:
    """A file written whole or not at all, packed if it ends in .gz; so is standard output, for "-". Raises UserError
    if that fails."""
    if name != "-":
        with atomic_write_text(name) as file:
            yield file
        return
    try:
        with tempfile.TemporaryFile("w+", encoding="utf-8") as file:
            yield file
            file.seek(0)
            shutil.copyfileobj(file.buffer, sys.stdout.buffer)
            sys.stdout.buffer.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        raise UserError(f"standard output: cannot be written ({error.strerror}); pass --output FILE") from None


def check_paths(args: argparse.Namespace) -> None:
    """Raise UserError for a run that is a file, or an output that cannot or must not be written."""
    refuse_file(args.load_path)
    check_outputs(
        {"--output": (args.output, tuple(FORMS)), "--html": (args.html, (".html", ".htm"))},
        {"--input": args.input, "--load_path": args.load_path},
    )
    form_of(args.output).need()


def main(arguments: list[str] | None = None) -> None:
    """Predict; `arguments` default to the command line's."""
    parser = argparse.ArgumentParser(description="Predict the relations of new documents with a trained run.")
    parser.add_argument(
        "--input",
        required=True,
        help="documents in one of the formats of docs/data.md, or a folder of .ann or .txt files; - is standard input",
    )
    parser.add_argument("--format", choices=FORMATS, help="the input's format; default: recognised")
    parser.add_argument("--output", default="-", help="file for the predictions; default: - for standard output")
    parser.add_argument("--html", metavar="FILE", help="also write a page to look at the predictions")
    parser.add_argument("--test_batch_size", type=positive_int, help="as in train.py; default: the run's")
    parser.add_argument("--device", help="default: CUDA where there is one")
    add_prediction_options(parser)
    args = parser.parse_args(arguments)
    check_paths(args)
    name = "standard input" if args.input == "-" else args.input
    no_page: contextlib.AbstractContextManager[None] = contextlib.nullcontext()
    with (
        open_input(args.input) as file,
        open_output(args.output) as output,
        atomic_write(args.html) if args.html else no_page as page,
    ):
        predictor = Predictor.from_run(
            args.load_path, args.device, args.precision, args.test_batch_size, **prediction_options(args)
        )
        groups = predict_stream(predictor, file, name, form_of(args.output)(output), args.format)
        if page is None:
            deque(groups, maxlen=0)
        else:
            write_page(page, "HingeABL: predictions", {}, "Predicted pairs", page_blocks(predictor, groups))
    if not predictor.documents:
        print_warning(f"{name}: holds no documents, so there is nothing to predict")
    predictor.warn(name)
    if args.output != "-":
        documents = f"{predictor.documents:,} document{'s' * (predictor.documents != 1)}"
        print(f"{predictor.predictions:,} predictions for {documents}: {args.output}")


one_module(__name__)
if __name__ == "__main__":
    run_command_line(main)
