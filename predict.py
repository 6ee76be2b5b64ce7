"""A trained run on new documents: their relations, by name, with scores, thresholds and margins.

    python predict.py --load_path runs/quickstart/seed_1 --input docs.json --output predictions.json
    python predict.py --load_path runs/quickstart/seed_1 --input - < document.json

The ending of --output tells its form (FORMS in hingeabl/reporting/graph_files.py). --html FILE also writes a page to
look at them. Memory holds GROUP documents and their predictions, however large the input is; GraphML and pictures hold
the whole graph.
"""

from __future__ import annotations

import hingeabl  # noqa: F401  first: it tells in one line which package is missing

# isort: split
import argparse
import contextlib
import gzip
import io
import itertools
import os
import shutil
import stat
import sys
import tempfile
from collections import Counter, deque
from collections.abc import Iterator
from dataclasses import replace
from typing import IO, Any, BinaryIO

import torch
from tqdm import tqdm

from hingeabl.data.checks import check_cuts
from hingeabl.data.documents import RELATION_NAMES, MentionCounts
from hingeabl.data.schema import Document
from hingeabl.data.stream import stream_documents
from hingeabl.errors import UserError, run_command_line
from hingeabl.files import cannot_read, read_json, whole_file
from hingeabl.modeling.encoder import WINDOW, max_window
from hingeabl.outputs import check_outputs
from hingeabl.reporting.graph_files import FORMS, check_form, form_of
from hingeabl.reporting.graphs import Writer
from hingeabl.reporting.page import about_block, documents_block, pairs_block, write_page
from hingeabl.reporting.pairs import judge
from hingeabl.training.inference import Predictions, predict
from hingeabl.training.saved_run import TrainedRun, open_run, refuse_file
from hingeabl.training.settings import positive_int
from losses import Loss, get_loss
from prepro import featurize
from utils import pick_device, pick_precision

GROUP = 500  # documents read and scored at a time: as many as Re-DocRED's dev file has, so batched as in its evaluation


class Predictor:
    """A run, ready to predict: `documents` counts what it was given, `mentions` what is doubtful there, `cut` the
    documents that were longer than it reads with the mentions and entities lost, `predictions` what it found."""

    def __init__(self, run: TrainedRun, precision: str | None = None, test_batch_size: int | None = None) -> None:
        """`precision` and `test_batch_size` default to the run's own, as in train.py --load_path."""
        self.run = run
        self.loss: Loss = get_loss(run.settings.loss_type, run.settings.margin)
        self.relations = {index: relation for relation, index in run.rel2id.items()}
        self.names: dict[str, str] = read_json(RELATION_NAMES)
        self.device = next(run.model.parameters()).device
        self.precision = pick_precision(precision or run.settings.precision, self.device)
        self.budget = (test_batch_size or run.settings.test_batch_size) * WINDOW
        self.max_seq_length = min(run.settings.max_seq_length, 2 * max_window(run.model.model)[0])
        self.documents = self.predictions = 0
        self.cut: Counter[str] = Counter()
        self.mentions = MentionCounts()

    def __call__(self, documents: list[Document]) -> Predictions:
        """Predictions of checked documents without labels; its entries {title, h_idx, t_idx, r, relation, score,
        threshold, margin} are in their order: `relation` is r's name, or r where it has none; margin is
        score - threshold, above 0. Raises UserError for scores that are not finite.
        """
        settings = self.run.settings
        features = featurize(
            documents, self.run.tokenizer, self.run.rel2id, self.max_seq_length, settings.entity_marker
        )
        self.documents += len(features)
        self.mentions.add(documents)
        for cut in check_cuts("", features, self.max_seq_length):
            self.cut.update(documents=cut["count"], mentions=cut["mentions"], entities=cut["entities"])
        found = predict(
            self.run.model,
            features,
            self.loss,
            self.relations,
            self.device,
            self.precision,
            settings.num_labels,
            self.budget,
            title="scoring",
            with_scores=True,
        )
        self.predictions += len(found.entries)
        return found._replace(entries=[self.with_name(entry) for entry in found.entries])

    def with_name(self, entry: dict[str, Any]) -> dict[str, Any]:
        """The prediction with its relation's name, after the relation."""
        scores = {field: entry.pop(field) for field in ("score", "threshold", "margin")}
        return {**entry, "relation": self.names.get(entry["r"], entry["r"]), **scores}


def predict_stream(
    predictor: Predictor, file: BinaryIO, name: str, writer: Writer
) -> Iterator[tuple[list[Document], Predictions]]:
    """Hand a file's documents and their predictions to `writer`, as they come; yields each group of documents with what
    was found there."""
    typed = predictor.run.settings.entity_marker == "typed"
    documents = stream_documents(file, name, typed)
    size = file_size(file)
    writer.begin()
    with tqdm(total=size, desc="documents", unit="B", unit_scale=True, leave=False) as progress:
        while group := list(itertools.islice(documents, GROUP)):
            found = predictor(group)
            writer.add(group, found.of_each_document())
            yield group, found
            del group, found  # else they would stay while the next ones are read
            if size:
                progress.update(file.tell() - progress.n)
            progress.set_postfix(read=predictor.documents)
    writer.end()


def page_blocks(predictor: Predictor, groups: Iterator[tuple[list[Document], Predictions]]) -> Iterator[str]:
    """The page's data, from what predict_stream yields."""
    run, first = predictor.run, 0
    yield about_block(run.rel2id, ["/".join(run.folder.resolve().parts[-2:])], gold=False)
    for documents, found in groups:
        labels = torch.zeros(found.pairs["scores"].shape, dtype=torch.bool)
        pairs = judge(documents, run.rel2id, found.pairs, labels, predictor.loss, run.settings.num_labels)
        yield documents_block(documents, run.rel2id)
        yield pairs_block(0, replace(pairs, pattern=torch.zeros_like(pairs.pattern)), first)
        first += len(documents)


def file_size(file: BinaryIO) -> int | None:
    """Bytes of a regular file, None for a pipe or a terminal."""
    try:
        found = os.fstat(file.fileno())
    except OSError:  # a file in memory has no number
        return None
    return found.st_size if stat.S_ISREG(found.st_mode) else None


def open_input(name: str) -> contextlib.AbstractContextManager[BinaryIO]:
    """The file, or standard input for "-". Raises UserError where it cannot be opened."""
    if name == "-":
        return contextlib.nullcontext(sys.stdin.buffer)
    try:
        return open(name, "rb")
    except OSError as error:
        raise cannot_read(name, error) from None


@contextlib.contextmanager
def open_output(name: str) -> Iterator[IO[Any]]:
    """A file written whole or not at all, packed if it ends in .gz; so is standard output, for "-". Raises UserError
    where that fails."""
    if name.lower().endswith(".gz"):
        with (
            whole_file(name, "wb") as file,
            gzip.GzipFile("", "wb", 6, file, mtime=0) as packed,
            io.TextIOWrapper(packed, encoding="utf-8") as text,
        ):
            yield text
        return
    if name != "-":
        with whole_file(name) as file:
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
    check_form(args.output)


def main(arguments: list[str] | None = None) -> None:
    """Predict; `arguments` default to the command line's."""
    parser = argparse.ArgumentParser(description="Predict the relations of new documents with a trained run.")
    parser.add_argument("--load_path", required=True, help="a finished run's seed folder")
    parser.add_argument(
        "--input", required=True, help="documents in DocRED's schema: a list, one, or one a line; - is standard input"
    )
    parser.add_argument("--output", default="-", help="file for the predictions; default: - for standard output")
    parser.add_argument("--html", metavar="FILE", help="also write a page to look at the predictions")
    parser.add_argument("--test_batch_size", type=positive_int, help="as in train.py; default: the run's")
    parser.add_argument("--precision", choices=("fp32", "bf16", "fp16"), help="default: the run's, as in train.py")
    parser.add_argument("--device", help="default: CUDA where there is one")
    args = parser.parse_args(arguments)
    check_paths(args)
    name = "standard input" if args.input == "-" else args.input
    no_page: contextlib.AbstractContextManager[None] = contextlib.nullcontext()
    with (
        open_input(args.input) as file,
        open_output(args.output) as output,
        whole_file(args.html) if args.html else no_page as page,
    ):
        run = open_run(args.load_path, pick_device(args.device))
        predictor = Predictor(run, args.precision, args.test_batch_size)
        groups = predict_stream(predictor, file, name, form_of(args.output)(output))
        if page is None:
            deque(groups, maxlen=0)
        else:
            write_page(page, "HingeABL: predictions", {}, "Predicted pairs", page_blocks(predictor, groups))
    if not predictor.documents:
        print(f"WARNING: {name}: holds no documents, so there is nothing to predict", file=sys.stderr)
    predictor.mentions.warn(name)
    if predictor.cut:
        print(
            f"note: {predictor.cut['documents']:,} documents are longer than the {predictor.max_seq_length:,} word "
            f"pieces that the model reads and are cut: {predictor.cut['mentions']:,} mentions are lost, and "
            f"{predictor.cut['entities']:,} entities have no mention left",
            file=sys.stderr,
        )
    if args.output != "-":
        print(f"{predictor.predictions:,} predictions for {predictor.documents:,} documents: {args.output}")


if __name__ == "__main__":
    run_command_line(main)
