"""A second pass over the predicted evidence, fused with the first: inference-stage fusion of DREEAM, after EIDER.

Pairs with the same evidence share a pseudo-document: these sentences alone, with the entities that they mention. Of the
relations that the loss's rule predicts of a pair there or in the whole document, both margins over the threshold are
added, and the sum must exceed a number that makes the best F1 on dev. Pairs without a second pass keep the first one's
relations.
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
from hingeabl.files import make_folder, read_json, write_json
from hingeabl.modeling.encoder import WINDOW
from hingeabl.training.experiment import Experiment, Split, prepare
from hingeabl.training.inference import Predictions, predict, score
from hingeabl.training.runs import print_summary, summarise
from hingeabl.training.saved_run import load_run, refuse_unfinished
from hingeabl.training.settings import Settings, parse_args

Pair = tuple[int, int, int]  # a document's place, head, tail


@dataclass
class Candidates:
    """Relations that one of the passes predicts, of pairs that the first one predicted.

    pairs int64 [n, 3]: document, head and tail; relation int64 [n]: class; margin float64 [n]: the sum of both passes',
    or the first one's alone; twice bool [n]: whether it is a sum. evidence: each pair's sentences.
    """

    pairs: np.ndarray
    relation: np.ndarray
    margin: np.ndarray
    twice: np.ndarray
    evidence: dict[Pair, list[int]]


def pseudo_documents(
    documents: list[Document], evidence: dict[Pair, list[int]]
) -> tuple[list[Document], list[list[Pair]]]:
    """Documents of the evidence, without labels, each with `pairs`; and the pairs of the whole documents that these
    are. Pairs without evidence, or with an entity that it does not mention, are left out."""
    together: dict[tuple[int, tuple[int, ...]], list[Pair]] = {}
    for pair, sentences in evidence.items():
        together.setdefault((pair[0], tuple(sorted(sentences))), []).append(pair)
    found, pairs_of_each = [], []
    for (number, chosen), pairs in together.items():
        document, new = documents[number], {sentence: place for place, sentence in enumerate(chosen)}
        mentions = [
            [mention | {"sent_id": new[mention["sent_id"]]} for mention in entity if mention["sent_id"] in new]
            for entity in document["vertexSet"]
        ]
        entity_of = {old: place for place, old in enumerate(n for n, some in enumerate(mentions) if some)}
        there = [pair for pair in pairs if pair[1] in entity_of and pair[2] in entity_of]
        if there:
            pseudo = {
                "title": document["title"],
                "sents": [document["sents"][sentence] for sentence in chosen],
                "vertexSet": [some for some in mentions if some],
                "pairs": [[entity_of[head], entity_of[tail]] for _, head, tail in there],
            }
            found.append(pseudo)
            pairs_of_each.append(there)
    return found, pairs_of_each


def first_pass(experiment: Experiment, model: DocREModel, split: Split, name: str) -> Predictions:
    """Predictions of the whole documents, with evidence."""
    args = experiment.args
    return predict(
        model,
        split.features,
        experiment.loss,
        {number: relation for relation, number in experiment.rel2id.items()},
        experiment.device,
        experiment.precision,
        args.num_labels,
        args.test_batch_size * WINDOW,
        title=name,
    )


def judge(experiment: Experiment, scores: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Of each pair, from scores [pairs, outputs]: its margins over the threshold float64 [relations], and which
    relations the loss's rule predicts bool [relations]; of class 1 on."""
    of_classes, threshold = experiment.loss.comparable(scores)
    margins = (of_classes[:, 1:] - threshold[:, None]).double()
    predicted = experiment.loss.predict(scores, experiment.args.num_labels)[:, 1:] > 0
    return zip(margins, predicted, strict=True)


def second_pass(
    experiment: Experiment, model: DocREModel, documents: list[Document], evidence: dict[Pair, list[int]]
) -> dict[Pair, tuple[Tensor, Tensor]]:
    """What `judge` says of pairs in their pseudo-documents."""
    args = experiment.args
    found, pairs_of_each = pseudo_documents(documents, evidence)
    features = featurize(found, experiment.tokenizer, experiment.rel2id, args.max_seq_length, args.entity_marker)
    second: dict[Pair, tuple[Tensor, Tensor]] = {}
    budget = args.test_batch_size * WINDOW
    where = (experiment.device, experiment.precision)
    for batch in score(model, features, *where, budget, "evidence", in_parts=False):
        pairs = list(itertools.chain.from_iterable(pairs_of_each[index] for index in batch.indices))
        second.update(zip(pairs, judge(experiment, batch.scores), strict=True))
    return second


def fuse(experiment: Experiment, model: DocREModel, split: Split, first: Predictions) -> Candidates:
    """The margins of the pairs that the first pass predicted."""
    place = {feature["title"]: number for number, feature in enumerate(split.features)}
    evidence = {(place[e["title"]], e["h_idx"], e["t_idx"]): e["evidence"] for e in first.entries}
    second = second_pass(experiment, model, split.documents, evidence)
    pairs = torch.cat([first.pairs["document"][:, None], first.pairs["entities"]], dim=1).tolist()
    rows: list[tuple[Pair, int, float, bool]] = []
    for pair, (margins, predicted) in zip(map(tuple, pairs), judge(experiment, first.pairs["scores"]), strict=True):
        if pair not in evidence:
            continue
        if pair in second:
            again, predicted_again = second[pair]
            margins, predicted = margins + again, predicted | predicted_again
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
    """The number that sums must exceed for the best F1 of all: halfway between the two sums that it parts. correct bool
    [n] says which candidates are among the `gold` triples. 0 where there are no sums."""
    alone, twice = kept(candidates, np.inf), candidates.twice
    margin, right = candidates.margin[twice], correct[twice]
    if not len(margin):
        return 0.0
    order = np.argsort(-margin, kind="stable")
    margin, right = margin[order], np.append(0, right[order].cumsum())  # of the first 0, 1, ... sums
    f1 = 2 * (correct[alone].sum() + right) / (alone.sum() + np.arange(len(right)) + gold)
    around = np.concatenate([[margin[0] + 2], margin, [margin[-1] - 2]])
    f1[around[:-1] == around[1:]] = -1  # equal sums are not parted
    best = int(f1.argmax())
    return float((around[best] + around[best + 1]) / 2)


def kept(candidates: Candidates, threshold: float) -> np.ndarray:
    """Whether each candidate is predicted, bool [n]: a sum above the threshold, or a first margin above 0."""
    return candidates.margin > np.where(candidates.twice, threshold, 0)


def entries_of(candidates: Candidates, threshold: float, split: Split, rel2id: dict[str, int]) -> list[dict[str, Any]]:
    """The predictions, in the order of documents and pairs."""
    relations = {number: relation for relation, number in rel2id.items()}
    chosen = kept(candidates, threshold)
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


def are_gold(candidates: Candidates, split: Split, rel2id: dict[str, int]) -> np.ndarray:
    """Whether each candidate is a gold triple, bool [n]."""
    gold = {
        (number, label["h"], label["t"], rel2id[label["r"]])
        for number, document in enumerate(split.documents)
        for label in document["labels"]
    }
    rows = zip(candidates.pairs.tolist(), candidates.relation.tolist(), strict=True)
    return np.array([(*pair, relation) in gold for pair, relation in rows], dtype=bool)


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
    """Each run's settings, by seed. Raises UserError for a run without evidence or its end, for two of one seed, and
    where an output would replace a run's files."""
    found: dict[int, Settings] = {}
    for path in args.load_path:
        given = ["--load_path", path, *(["--data_dir", args.data_dir] if args.data_dir else [])]
        settings = parse_args([*given, *(["--device", args.device] if args.device else [])])
        run = Path(str(settings.load_path))
        if settings.evidence_weight is None or not run.is_dir():
            raise UserError(f"--load_path {path}: predicts no evidence; pass a run with an --evidence_weight")
        refuse_unfinished("--load_path", run)
        seed = read_json(run / "config.json")["seed"]
        if seed in found:
            raise UserError(f"--load_path {path}: is the second run of seed {seed}; pass one run of each seed")
        if (Path(args.output_dir) / f"seed_{seed}" / "config.json").exists():
            raise UserError(f"--output_dir {args.output_dir}: holds a run in seed_{seed}; choose another folder")
        found[seed] = settings
    return found


def fuse_run(experiment: Experiment, folder: Path, seed: int) -> dict[str, Any]:
    """Fit the threshold on dev, predict dev and test, write predictions and scores, print F1 of one pass and of both;
    returns the content of scores.json."""
    model = load_run(str(experiment.args.load_path)).to(experiment.device)
    result: dict[str, Any] = {"seed": seed}
    for name in ("dev", "test"):
        split = experiment.splits[name]
        first = first_pass(experiment, model, split, name)
        candidates = fuse(experiment, model, split, first)
        if name == "dev":
            if not split.gold:
                raise UserError(f"{split.path}: has no labels to fit the threshold with; pass a labelled file")
            correct = are_gold(candidates, split, experiment.rel2id)
            result["threshold"] = best_threshold(candidates, correct, len(split.gold.triples))
        entries = entries_of(candidates, result["threshold"], split, experiment.rel2id)
        write_json(folder / ("result.json" if name == "test" else "result_dev.json"), entries, indent=0)
        result[name] = {}
        if split.gold:
            one, result[name] = (score_predictions(found, split.gold) for found in (first.entries, entries))
            print(f"{name}: F1 {100 * one['f1']:.2f} of one pass, {100 * result[name]['f1']:.2f} of both")
    write_json(folder / "scores.json", result)
    print(f"sums of both margins must exceed {result['threshold']:.3f}: {folder}")
    return result
