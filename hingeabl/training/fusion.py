"""A second pass over the predicted evidence, fused with the first: inference-stage fusion of DREEAM, after EIDER.

Pairs with the same evidence share a pseudo-document: only these sentences, with the entities that they mention. If the
loss's rule predicts a relation there or in the whole document, its margins over the threshold in both are added up, and
the sum must exceed a number that gives the best F1 on dev. Pairs without a second pass keep the relations of the first.
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hingeabl.core.evaluation import score_predictions
from hingeabl.core.model import DocREModel
from hingeabl.core.prepro import featurize
from hingeabl.data.schema import Document
from hingeabl.errors import UserError
from hingeabl.files import make_folder, predictions_file, read_json, write_json
from hingeabl.modeling.encoder import WINDOW
from hingeabl.training.experiment import Experiment, Split, predict_documents, prepare
from hingeabl.training.fitted import gold_triples
from hingeabl.training.inference import Predictions, check_finite, score
from hingeabl.training.runs import experiment_of, print_summary, summarise
from hingeabl.training.saved_run import load_run, refuse_unfinished
from hingeabl.training.settings import Settings, parse_args

Pair = tuple[int, int, int]  # a document's index, head, tail


@dataclass
class Candidates:
    """Relations that one of the passes predicts, for pairs that have a predicted relation in the first.

    pairs int64 [n, 3]: document, head and tail; relation int64 [n]: class; margin float64 [n]: the sum of both passes'
    margins, or the first one's; twice bool [n]: whether it is a sum. evidence: each pair's sentences.
    """

    pairs: np.ndarray
    relation: np.ndarray
    margin: np.ndarray
    twice: np.ndarray
    evidence: dict[Pair, list[int]]


def pseudo_documents(
    documents: list[Document], evidence: dict[Pair, list[int]]
) -> tuple[list[Document], list[list[Pair]]]:
    """Documents of the evidence, without labels, each with `pairs`; and the same pairs as in the whole documents. Pairs
    without evidence, or with an entity that it does not mention, are left out."""
    by_evidence: dict[tuple[int, tuple[int, ...]], list[Pair]] = {}
    for pair, sentences in evidence.items():
        by_evidence.setdefault((pair[0], tuple(sorted(sentences))), []).append(pair)
    pseudo, pairs_of_each = [], []
    for (number, chosen), pairs in by_evidence.items():
        document, new_sent = documents[number], {old: new for new, old in enumerate(chosen)}
        entities = [
            [m | {"sent_id": new_sent[m["sent_id"]]} for m in entity if m["sent_id"] in new_sent]
            for entity in document["vertexSet"]
        ]
        mentioned = [entity for entity, mentions in enumerate(entities) if mentions]
        new_entity = {old: new for new, old in enumerate(mentioned)}
        kept_pairs = [pair for pair in pairs if pair[1] in new_entity and pair[2] in new_entity]
        if kept_pairs:
            pseudo_document = {
                "title": document["title"],
                "sents": [document["sents"][sentence] for sentence in chosen],
                "vertexSet": [entities[entity] for entity in mentioned],
                "pairs": [[new_entity[head], new_entity[tail]] for _, head, tail in kept_pairs],
            }
            pseudo.append(pseudo_document)
            pairs_of_each.append(kept_pairs)
    return pseudo, pairs_of_each


def pair_margins(experiment: Experiment, scores: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """For each pair, from scores [pairs, outputs]: its margins over the threshold float64 [relations], and whether the
    loss's rule predicts each relation bool [relations]. Relations begin with class 1."""
    class_scores, threshold = experiment.loss.with_one_threshold(scores)
    margins = (class_scores[:, 1:] - threshold[:, None]).double()
    predicted = experiment.loss.predict(scores, experiment.args.num_labels)[:, 1:] > 0
    return zip(margins, predicted, strict=True)


def second_pass(
    experiment: Experiment, model: DocREModel, documents: list[Document], evidence: dict[Pair, list[int]]
) -> dict[Pair, tuple[Tensor, Tensor]]:
    """The results of `pair_margins` for pairs in their pseudo-documents."""
    args = experiment.args
    pseudo, pairs_of_each = pseudo_documents(documents, evidence)
    features = featurize(pseudo, experiment.tokenizer, experiment.rel2id, args.max_seq_length, args.entity_marker)
    second: dict[Pair, tuple[Tensor, Tensor]] = {}
    budget = args.test_batch_size * WINDOW
    batches = score(model, features, experiment.device, experiment.precision, budget, "evidence", in_parts=False)
    for batch in batches:
        pairs = list(itertools.chain.from_iterable(pairs_of_each[index] for index in batch.indices))
        check_finite(batch.scores, [documents[number]["title"] for number, _, _ in pairs], "pass --device cpu")
        second.update(zip(pairs, pair_margins(experiment, batch.scores), strict=True))
    return second


def fuse(experiment: Experiment, model: DocREModel, split: Split, first: Predictions) -> Candidates:
    """The candidates of the pairs that have a predicted relation in the first pass."""
    number_of = {feature["title"]: number for number, feature in enumerate(split.features)}
    evidence = {(number_of[e["title"]], e["h_idx"], e["t_idx"]): e["evidence"] for e in first.entries}
    second = second_pass(experiment, model, split.documents, evidence)
    pairs = torch.cat([first.pairs["document"][:, None], first.pairs["entities"]], dim=1).tolist()
    rows: list[tuple[Pair, int, float, bool]] = []
    for pair, (margins, predicted) in zip(
        map(tuple, pairs), pair_margins(experiment, first.pairs["scores"]), strict=True
    ):
        if pair not in evidence:
            continue
        if pair in second:
            second_margins, second_predicted = second[pair]
            margins, predicted = margins + second_margins, predicted | second_predicted
        relations = predicted.nonzero().flatten().tolist()
        rows += [(pair, relation + 1, float(margins[relation]), pair in second) for relation in relations]
    return Candidates(
        np.array([row[0] for row in rows], dtype=np.int64).reshape(-1, 3),
        np.array([row[1] for row in rows], dtype=np.int64),
        np.array([row[2] for row in rows], dtype=np.float64),
        np.array([row[3] for row in rows], dtype=bool),
        evidence,
    )


def best_threshold(candidates: Candidates, correct: np.ndarray, gold: int) -> float:
    """The number that sums must exceed for the best F1 over all candidates: halfway between two sums. correct bool [n]
    is whether each candidate is among the `gold` triples. 0 if there are no sums."""
    alone, twice = are_predicted(candidates, np.inf), candidates.twice
    margin, right = candidates.margin[twice], correct[twice]
    if not len(margin):
        return 0.0
    order = np.argsort(-margin, kind="stable")
    margin, right = margin[order], np.append(0, right[order].cumsum())  # of the first 0, 1, ... sums
    f1 = 2 * (correct[alone].sum() + right) / (alone.sum() + np.arange(len(right)) + gold)
    around = np.concatenate([[margin[0] + 2], margin, [margin[-1] - 2]])
    f1[around[:-1] == around[1:]] = -1  # no threshold lies between equal sums
    best = int(f1.argmax())
    return float((around[best] + around[best + 1]) / 2)


def are_predicted(candidates: Candidates, threshold: float) -> np.ndarray:
    """Whether each candidate is predicted, bool [n]: a sum above the threshold, or a first margin above 0."""
    return candidates.margin > np.where(candidates.twice, threshold, 0)


def entries_of(candidates: Candidates, threshold: float, split: Split, rel2id: dict[str, int]) -> list[dict[str, Any]]:
    """The predictions, in the order of documents and pairs."""
    relations = {number: relation for relation, number in rel2id.items()}
    chosen = are_predicted(candidates, threshold)
    rows = zip(candidates.pairs[chosen].tolist(), candidates.relation[chosen].tolist(), strict=True)
    return [
        {
            "title": split.features[number]["title"],
            "h_idx": head,
            "t_idx": tail,
            "r": relations[relation],
            "evidence": candidates.evidence[number, head, tail],
        }
        for (number, head, tail), relation in sorted(rows, key=lambda row: row[0])
    ]


def fuse_runs(args: argparse.Namespace) -> None:
    """Fuse both passes of every run, and print the summary over all."""
    results = []
    for seed, settings in settings_of_runs(args).items():
        experiment = prepare(settings)
        results.append(fuse_run(experiment, make_folder(Path(args.output_dir) / f"seed_{seed}"), seed))
    summary = summarise(experiment.loss.describe(), results)
    write_json(f"{args.output_dir}/summary.json", summary)
    print_summary(summary)


def settings_of_runs(args: argparse.Namespace) -> dict[int, Settings]:
    """Each run's settings, by seed. Raises UserError for a run without evidence or that is not finished, for runs that
    have the same seed or differ in more than it, and if an output would replace a run's files."""
    settings_of: dict[int, Settings] = {}
    experiments: list[dict[str, Any]] = []
    for path in args.load_path:
        options = ["--load_path", path, *(["--data_dir", args.data_dir] if args.data_dir else [])]
        settings = parse_args([*options, *(["--device", args.device] if args.device else [])])
        run = Path(str(settings.load_path))
        if settings.evidence_weight is None or not run.is_dir():
            raise UserError(f"--load_path {path}: predicts no evidence; pass a run with an --evidence_weight")
        refuse_unfinished("--load_path", run)
        config = read_json(run / "config.json")
        seed = config["seed"]
        experiments.append(experiment_of(config))
        first, last = experiments[0], experiments[-1]
        if differing := sorted(name for name in last if last[name] != first[name]):
            raise UserError(
                f"--load_path {path}: differs from {args.load_path[0]} in {', '.join(differing)}, not only in its "
                "seed; pass seeds of one experiment"
            )
        if seed in settings_of:
            raise UserError(f"--load_path {path}: is the second run of seed {seed}; pass one run of each seed")
        if (Path(args.output_dir) / f"seed_{seed}" / "config.json").exists():
            raise UserError(f"--output_dir {args.output_dir}: holds a run in seed_{seed}; choose another folder")
        settings_of[seed] = settings
    return settings_of


def fuse_run(experiment: Experiment, folder: Path, seed: int) -> dict[str, Any]:
    """Fit the threshold on dev, predict dev and test, write predictions and scores, print F1 of one pass and of both;
    returns the content of scores.json."""
    dev = experiment.splits["dev"]
    if not dev.gold:
        raise UserError(f"{dev.path}: has no labels to fit the threshold with; pass a labelled file")
    model = load_run(str(experiment.args.load_path)).to(experiment.device)
    result: dict[str, Any] = {"seed": seed}
    for name in ("dev", "test"):
        split = experiment.splits[name]
        first = predict_documents(experiment, model, split.features, title=name)
        candidates = fuse(experiment, model, split, first)
        if name == "dev":
            gold = gold_triples(split.documents, experiment.rel2id)
            rows = zip(candidates.pairs.tolist(), candidates.relation.tolist(), strict=True)
            correct = np.array([(*pair, relation) in gold for pair, relation in rows], dtype=bool)
            result["threshold"] = best_threshold(candidates, correct, len(dev.gold.triples))
        entries = entries_of(candidates, result["threshold"], split, experiment.rel2id)
        write_json(predictions_file(folder, name), entries, indent=0)
        result[name] = {}
        if split.gold:
            one_pass, result[name] = (score_predictions(each, split.gold) for each in (first.entries, entries))
            print(f"{name}: F1 {100 * one_pass['f1']:.2f} of one pass, {100 * result[name]['f1']:.2f} of both")
    write_json(folder / "scores.json", result)
    print(f"sums of both margins must exceed {result['threshold']:.3f}: {folder}")
    return result
