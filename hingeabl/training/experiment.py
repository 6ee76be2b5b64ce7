"""What the seeds of an experiment share: documents, tokenizer, loss, device; checked before anything is written."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase

from hingeabl.core.evaluation import Gold, prepare_gold, train_facts
from hingeabl.core.losses import Loss, get_loss
from hingeabl.core.model import DocREModel
from hingeabl.core.prepro import Feature, featurize
from hingeabl.core.utils import describe_device, pick_device, pick_precision
from hingeabl.data.cache import pieces_path
from hingeabl.data.checks import check_cuts, check_files, check_labels, print_findings, without_gold
from hingeabl.data.relations import load_rel2id
from hingeabl.data.schema import Document
from hingeabl.data.statistics import relation_rates
from hingeabl.data.tokenizer import load_tokenizer
from hingeabl.errors import UserError, print_warning
from hingeabl.files import json_files, listed, read_json
from hingeabl.modeling.encoder import WINDOW
from hingeabl.outputs import check_output_folder
from hingeabl.readers.documents import garbage_collection_paused, load_documents
from hingeabl.training import parallel
from hingeabl.training.distillation import ATTENTION, WithTeacher
from hingeabl.training.inference import Predictions, predict
from hingeabl.training.runs import require_wandb
from hingeabl.training.saved_run import loss_of_run, refuse_unfinished, run_folder_of, weights_of
from hingeabl.training.settings import Settings

DEFAULT_FOLDER = Path(Settings.data_dir)


@dataclass
class Split:
    """One of train, dev, test: its file, documents, features, and what it is scored against (None without labels)."""

    path: Path
    documents: list[Document]
    features: list[Feature]
    gold: Gold | None


@dataclass
class Experiment:
    """What the seeds of an experiment share."""

    args: Settings
    loss: Loss
    rel2id: dict[str, int]
    tokenizer: PreTrainedTokenizerBase
    splits: dict[str, Split]
    train_set: Any  # train's features, with a teacher's scores or attention if asked for
    device: torch.device
    precision: str


def prepare(args: Settings) -> Experiment:
    """Read and check everything that a training needs, before anything is written."""
    loss = get_loss(args.loss_type, args.margin)
    if args.wandb_project and not args.load_path:
        require_wandb()
    device = pick_device(args.device)
    rel2id = load_rel2id(args.rel2id)
    check_classes(args, rel2id)
    paths = {name: Path(args.data_dir) / getattr(args, f"{name}_file") for name in ("train", "dev", "test")}
    check_inputs(args, paths)
    check_output(args)
    with garbage_collection_paused():
        splits, tokenizer = read_splits(args, paths, rel2id)
    train = splits["train"]
    loss = with_priors(loss, args, train.documents, rel2id)
    train_set = train.features if args.load_path else with_teacher(args, train, rel2id, loss)
    precision = pick_precision(args.precision, device)
    experiment = Experiment(args, loss, rel2id, tokenizer, splits, train_set, device, precision)
    announce(experiment)
    return experiment


def predict_documents(experiment: Experiment, model: DocREModel, features: list[Feature], title: str) -> Predictions:
    """Predictions of documents with the experiment's loss and settings; `title` stands before the progress bar."""
    args = experiment.args
    relations = {number: relation for relation, number in experiment.rel2id.items()}
    budget = args.test_batch_size * WINDOW  # tokens and pairs at once
    how = (experiment.device, experiment.precision, args.num_labels, budget)
    remedy = "train again with --precision bf16 or fp32 and another --output_dir"
    if args.load_path:
        remedy = "pass --precision fp32 or --device cpu"
    return predict(model, features, experiment.loss, relations, *how, title=title, remedy_if_not_finite=remedy)


def with_teacher(args: Settings, train: Split, rel2id: dict[str, int], loss: Loss) -> Any:
    """The training features, with a teacher's scores or attention if asked for. Raises UserError for options that do
    not go together."""
    if not args.teacher_attention:
        folder = args.teacher_scores
        return WithTeacher(train.features, folder, train.path, rel2id, loss) if folder else train.features
    if args.teacher_scores:
        raise UserError("--teacher_attention: goes without --teacher_scores; pass one of them")
    if not args.evidence_weight:
        raise UserError("--teacher_attention: needs an --evidence_weight above 0; DREEAM's is 0.1")
    return WithTeacher(train.features, args.teacher_attention, train.path, rel2id, loss, ATTENTION)


def with_priors(loss: Loss, args: Settings, train: list[Document], rel2id: dict[str, int]) -> Loss:
    """The loss. If it needs priors, these are each relation's rate over the training pairs. A saved run keeps its own.
    A run that starts from another's weights takes that run's priors if the loss has several thresholds, since the
    priors decide which threshold is whose."""
    if not loss.needs_priors:
        return loss
    source = args.load_path or (args.init_from if loss.definition.thresholds > 1 else None)
    if source and (folder := run_folder_of(source)):
        config = read_json(folder / "config.json")
        if (args.load_path and Path(source).is_dir()) or (isinstance(config, dict) and "priors" in config):
            return loss_of_run(config, folder, loss.name, args.margin, rel2id)
    return get_loss(loss.name, args.margin, relation_rates(train, rel2id))


def check_classes(args: Settings, rel2id: dict[str, int]) -> None:
    """Raise UserError if the classes are not those of the run that is loaded, whose outputs would mean others."""
    for path in filter(None, [args.load_path or args.init_from]):
        folder = run_folder_of(path)
        if folder and load_rel2id(folder / "rel2id.json") != rel2id:
            raise UserError(f"--rel2id {args.rel2id}: has other classes than {folder}/rel2id.json; pass the latter")


def check_inputs(args: Settings, paths: dict[str, Path]) -> None:
    """Raise UserError for a missing file, naming the others in its folder; for a training file that is also scored (for
    a saved run, warn); and for --init_from with a run that is not finished."""
    if args.init_from and not args.load_path:  # a saved run has its weights
        refuse_unfinished("--init_from", args.init_from)
    for name, path in paths.items():
        if not os.path.exists(path):  # unlike Path's, False for a name that is too long
            raise UserError(f"{path}: no such file; {remedy_of_missing(args, name, path.parent)}")
    for name in ("dev", "test"):
        if not paths["train"].samefile(paths[name]):
            continue
        same = f"--train_file {args.train_file}: is the --{name}_file too"
        if not args.load_path:
            raise UserError(f"{same}, and scores on what a model was trained on mean nothing; pass another file")
        print_warning(f"{same}: Ign F1 ignores every fact, and the model may know them")


def remedy_of_missing(args: Settings, name: str, folder: Path) -> str:
    """What to pass if `folder` lacks the file of the split `name`."""
    option = f"--{name}_file"
    if not folder.is_dir():
        fetch = ", or download Re-DocRED with python scripts/tools/fetch.py redocred"
        return f"{folder} is not a folder: check --data_dir and {option}{fetch if folder == DEFAULT_FOLDER else ''}"
    files = sorted(json_files(folder), key=lambda file: name not in file.lower())
    if not files:
        return f"{folder} has no data file: check --data_dir and {option}"
    parent = Path(getattr(args, f"{name}_file")).parent
    return f"pass {option} NAME; there are {listed([str(parent / file) for file in files])}"


def check_output(args: Settings) -> None:
    """Raise UserError if --output_dir would overwrite an input."""
    if not args.output_dir:
        return
    output = Path(args.output_dir)
    seeds = [] if args.load_path else [output / f"seed_{seed}" for seed in args.seeds]
    inputs = {
        f"--{name}": getattr(args, name)
        for name in ("data_dir", "model_name_or_path", "teacher_scores", "teacher_attention")
    }
    if args.init_from and not args.load_path:
        inputs["--init_from"] = weights_of(args.init_from)
    written = [output, *seeds, *map(weights_of, seeds)]
    check_output_folder("--output_dir", args.output_dir, written, inputs)


def read_splits(
    args: Settings, paths: dict[str, Path], rel2id: dict[str, int]
) -> tuple[dict[str, Split], PreTrainedTokenizerBase]:
    """Read and check the three files; returns the splits and the encoder's tokenizer."""
    typed = args.entity_marker == "typed"
    documents = {name: load_documents(path, rel2id, name != "train", typed) for name, path in paths.items()}
    for name in documents:
        check_labels(paths[name], documents[name], required=not args.load_path and name != "test")
    check_evidence(args, paths["train"], documents["train"])
    count = len(documents["train"])
    if not (args.load_path or args.keep_last_batch) and count < args.train_batch_size * parallel.world_size():
        raise UserError(f"{paths['train']}: {count} documents are fewer than one batch; lower --train_batch_size")
    is_run = args.load_path and Path(args.load_path).is_dir()
    tokenizer = load_tokenizer(f"{args.load_path}/encoder" if is_run else args.model_name_or_path)
    used = ("dev", "test") if args.load_path else ("train", "dev", "test")
    facts = train_facts(documents["train"])

    splits = {}
    for name, path in paths.items():
        features = []
        if name in used:
            settings = (args.max_seq_length, args.entity_marker)
            cache_file = pieces_path(Path(args.cache_dir), path, tokenizer, *settings)
            with_evidence = args.evidence_weight is not None
            features = featurize(documents[name], tokenizer, rel2id, *settings, cache_file, with_evidence)
        labelled = all("labels" in document for document in documents[name]) and not without_gold(documents[name])
        gold = prepare_gold(documents[name], facts) if name != "train" and labelled else None
        splits[name] = Split(path, documents[name], features, gold)
    findings = check_files({str(path): documents[name] for name, path in paths.items()}, str(paths["train"]))
    for split in splits.values():
        findings += check_cuts(str(split.path), split.features, args.max_seq_length)
    if parallel.rank() == 0:
        print_findings(findings)
    return splits, tokenizer


def check_evidence(args: Settings, path: Path, documents: list[Document]) -> None:
    """Raise UserError if evidence is to be trained, but no label of the training file has any."""
    has_evidence = any(label.get("evidence") for document in documents for label in document.get("labels", []))
    if args.evidence_weight and not (has_evidence or args.load_path or args.teacher_attention):
        raise UserError(
            f"--evidence_weight {args.evidence_weight:g}: no label of {path} names evidence; pass another file, or 0"
        )


def announce(experiment: Experiment) -> None:
    """Print the first lines of every log: loss, files, encoder, device."""
    args, loss, splits = experiment.args, experiment.loss, experiment.splits
    parameters = ", ".join(f"{name} {value:g}" for name, value in loss.parameters.items()) or "no parameters"
    threshold_rule = loss.definition.threshold.__name__.replace("_", " ")
    print(f"loss           {loss.name} ({parameters}), decided against {threshold_rule}")
    for name, split in splits.items():
        print(f"{name:<15}{split.path} ({len(split.documents):,} documents)")
    name = "model" if args.load_path else "encoder"
    print(f"{name:<15}{args.load_path or args.model_name_or_path}, {len(experiment.rel2id)} classes")
    print(f"device         {describe_device(experiment.device)}, {experiment.precision}")
    of_docred = experiment.rel2id == load_rel2id(Settings.rel2id)
    if of_docred and not (args.teacher_scores or args.teacher_attention):  # a teacher knows that labels are missing
        warn_of_docred(splits)


def warn_of_docred(splits: dict[str, Split]) -> None:
    """Warn if the training file looks like the original DocRED while Re-DocRED is scored: Re-DocRED's own training file
    has 0.8 times as many triples a document as its dev and test files, DocRED's 0.4 times as many."""

    def density(split: Split) -> float:
        return sum(len(document.get("labels", [])) for document in split.documents) / len(split.documents)

    train, scored = splits["train"], [split for name, split in splits.items() if name != "train" and split.gold]
    old_name = train.path.name in ("train_annotated.json", "train_distant.json")
    for split in scored:
        if (old_name and "revised" in split.path.name) or density(train) < 0.6 * density(split):
            print_warning(
                f"{train.path} has {density(train):.1f} triples a document, {split.path} {density(split):.1f}."
                " Is the training file the original DocRED? Its missing labels cost recall on Re-DocRED: train on "
                "train_revised.json."
            )
            return
