"""ATLOP written out plainly, doing its work as the released program does: the oracle that the fast path is tested
against, and what bench.py times beside it.

Every layer's attention is kept in full, a batch is padded to its longest document, entities and mentions are taken
one at a time, every pair's attention is written out per head, and the outer product of all pairs is one tensor. The
functions for features and scores at the end do theirs token by token and fact by fact.
"""

import json
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from opt_einsum import contract
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence
from transformers import AutoConfig, AutoModel

from evaluation import FREQUENT
from model import DocREModel


class Baseline(nn.Module):
    """The plain computation with a DocREModel's own parameters (and so its gradients)."""

    def __init__(self, model: DocREModel, encoder_path: str) -> None:
        """`encoder_path`: where the encoder's configuration lies; its weights are the model's."""
        super().__init__()
        config = AutoConfig.from_pretrained(encoder_path, trust_remote_code=False)
        self.encoder = AutoModel.from_config(
            config, attn_implementation="eager", dtype=torch.float32, trust_remote_code=False
        )
        self.encoder.pooler = None  # nothing reads it
        for (name, parameter), ours in zip(self.encoder.named_parameters(), model.model.parameters(), strict=True):
            owner = self.encoder.get_submodule(name.rpartition(".")[0])
            assert parameter.shape == ours.shape
            setattr(owner, name.rpartition(".")[2], ours)
        self.head_extractor, self.tail_extractor = model.head_extractor, model.tail_extractor
        self.bilinear, self.block_size = model.bilinear, model.settings["block_size"]
        self.train(model.training)

    def forward(self, features: list[dict[str, Any]]) -> Tensor:
        """Features as prepro.featurize makes them -> scores [pairs, classes], document after document."""
        device = self.bilinear.weight.device
        ids = [torch.tensor(feature["input_ids"]) for feature in features]
        embeddings, attention = self.encode(ids, device)
        heads, tails = [], []
        for number, feature in enumerate(features):
            head, tail = self.pair_vectors(embeddings, attention, number, feature)
            heads.append(head)
            tails.append(tail)
        head = torch.tanh(self.head_extractor(torch.cat(heads))).unflatten(1, (-1, self.block_size))
        tail = torch.tanh(self.tail_extractor(torch.cat(tails))).unflatten(1, (-1, self.block_size))
        return self.bilinear((head.unsqueeze(3) * tail.unsqueeze(2)).flatten(1)).float()

    def encode(self, ids: list[Tensor], device: torch.device) -> tuple[Tensor, Tensor]:
        """Token ids [length] of each document -> embeddings [documents, longest, hidden] and the last layer's
        attention [documents, heads, longest, longest]."""
        longest = max(map(len, ids))
        if longest <= 512:
            return self.run_encoder(ids, device)
        end = 2 if "roberta" in self.encoder.config.model_type else 1
        windows, places = [], []  # a place: document, its tokens, and the window's tokens that they come from
        for number, tokens in enumerate(ids):
            length = len(tokens)
            if length <= 512:
                windows.append(tokens)
                places.append((number, slice(0, length), slice(0, length)))
                continue
            windows.append(torch.cat([tokens[: 512 - end], tokens[-1:].repeat(end)]))
            places.append((number, slice(0, 512 - end), slice(0, 512 - end)))
            windows.append(torch.cat([tokens[:1], tokens[length - 511 :]]))
            places.append((number, slice(length - 511, length), slice(1, 512)))
        hidden, attention = self.run_encoder(windows, device)
        embeddings, maps = [], []
        for number, tokens in enumerate(ids):
            vectors, rows, times = 0, 0, 0
            for window, (owner, outside, inside) in enumerate(places):
                if owner == number:
                    around = (outside.start, longest - outside.stop)
                    vectors = vectors + F.pad(hidden[window, inside], (0, 0, *around))
                    rows = rows + F.pad(attention[window, :, inside, inside], (*around, *around))
                    times = times + F.pad(torch.ones(outside.stop - outside.start, device=device), around)
            if len(tokens) > 512:
                vectors = vectors / (times + 1e-10)[:, None]
                rows = rows / (rows.sum(-1, keepdim=True) + 1e-10)
            embeddings.append(vectors)
            maps.append(rows)
        return torch.stack(embeddings), torch.stack(maps)

    def run_encoder(self, windows: list[Tensor], device: torch.device) -> tuple[Tensor, Tensor]:
        """One pass over all windows, padded to the longest, with the attention of every layer."""
        ids = pad_sequence(windows, batch_first=True).to(device)
        mask = pad_sequence([torch.ones_like(tokens) for tokens in windows], batch_first=True).to(device)
        output = self.encoder(input_ids=ids, attention_mask=mask, output_attentions=True)
        return output.last_hidden_state, output.attentions[-1]

    def pair_vectors(
        self, embeddings: Tensor, attention: Tensor, number: int, feature: dict[str, Any]
    ) -> tuple[Tensor, Tensor]:
        """What goes into the two extractors for the batch's document of this number, each [pairs, 2 * hidden].

        Each mention is taken from the batch's embeddings [documents, longest, hidden] and attention [documents, heads,
        longest, longest], and its gradient goes back to all of it.
        """
        tokens = embeddings[number]
        entities, entity_attention = [], []
        for mentions in feature["entity_pos"]:
            positions = [start + 1 for start, _ in mentions if start + 1 < len(feature["input_ids"]) - 1]
            if not positions:
                entities.append(tokens.new_zeros(tokens.shape[1]))
                entity_attention.append(attention.new_zeros(attention.shape[1], attention.shape[3]))
                continue
            of_mentions = [embeddings[number, position] for position in positions]
            entities.append(torch.logsumexp(torch.stack(of_mentions), dim=0))
            entity_attention.append(torch.stack([attention[number, :, position] for position in positions]).mean(dim=0))
        if len(entities) < 2:
            return tokens.new_zeros(2, 0, 2 * tokens.shape[1]).unbind()
        head, tail = torch.tensor(feature["hts"], device=tokens.device).T
        entity, seen = torch.stack(entities), torch.stack(entity_attention)
        weights = (seen.index_select(0, head) * seen.index_select(0, tail)).mean(dim=1)  # [pairs, longest]
        weights = weights / (weights.sum(dim=1, keepdim=True) + 1e-5)
        context = contract("ld,rl->rd", tokens, weights.to(tokens))  # CPU autocast mixes types here, CUDA's does not
        return (
            torch.cat([entity.index_select(0, head), context], dim=1),
            torch.cat([entity.index_select(0, tail), context], dim=1),
        )


def plain_features(path: str | Path, tokenizer: Any, rel2id: dict[str, int]) -> list[dict[str, Any]]:
    """prepro.read_docred token by token and pair by pair, label rows as lists."""
    features = []
    for document in json.loads(Path(path).read_text()):
        mentions = [mention for entity in document["vertexSet"] for mention in entity]
        starts = [(mention["sent_id"], mention["pos"][0]) for mention in mentions]
        ends = [(mention["sent_id"], mention["pos"][1] - 1) for mention in mentions]
        pieces, place_of = [], []
        for number, sentence in enumerate(document["sents"]):
            places = {}
            for position, token in enumerate(sentence):
                places[position] = len(pieces)
                split = tokenizer.tokenize(token)
                if (number, position) in starts:
                    split = ["*", *split]
                if (number, position) in ends:
                    split = [*split, "*"]
                pieces.extend(split)
            places[len(sentence)] = len(pieces)
            place_of.append(places)
        relations_of: dict[tuple[int, int], list[int]] = {}
        for label in document.get("labels", []):
            if label["h"] != label["t"]:
                relations_of.setdefault((label["h"], label["t"]), []).append(rel2id[label["r"]])
        entities = len(document["vertexSet"])
        hts, labels = [], []
        for head in range(entities):
            for tail in range(entities):
                if head == tail:
                    continue
                row = [0] * len(rel2id)
                for relation in relations_of.get((head, tail), [0]):
                    row[relation] = 1
                hts.append([head, tail])
                labels.append(row)
        ids = tokenizer.convert_tokens_to_ids(pieces[: 1024 - 2])
        cut = {"pieces_cut": len(pieces) - len(ids)} if len(pieces) > len(ids) else {}
        features.append(
            {
                "title": document["title"],
                "input_ids": [tokenizer.cls_token_id, *ids, tokenizer.sep_token_id],
                "entity_pos": [
                    [[place_of[mention["sent_id"]][position] for position in mention["pos"]] for mention in entity]
                    for entity in document["vertexSet"]
                ],
                "hts": hts,
                "labels": labels,
                **cut,
            }
        )
    return features


def plain_scores(predictions: list[dict[str, Any]], gold_path: str | Path, train_path: str | Path) -> dict[str, float]:
    """The official evaluator's figures, triple by triple; as there, a call reads both files and builds the facts."""
    gold, train = (json.loads(Path(path).read_text()) for path in (gold_path, train_path))
    in_train_file = set()
    for document in train:
        for label in document["labels"]:
            for head in document["vertexSet"][label["h"]]:
                for tail in document["vertexSet"][label["t"]]:
                    in_train_file.add((head["name"], tail["name"], label["r"]))
    truth, vertices, total_evidence = {}, {}, 0
    for document in gold:
        vertices[document["title"]] = document["vertexSet"]
        for label in document["labels"]:
            truth[document["title"], label["r"], label["h"], label["t"]] = set(label["evidence"])
            total_evidence += len(label["evidence"])
    ordered = sorted(predictions, key=lambda entry: (entry["title"], entry["h_idx"], entry["t_idx"], entry["r"]))
    distinct = []
    for entry in ordered:
        key = (entry["title"], entry["h_idx"], entry["t_idx"], entry["r"])
        if not distinct or key != tuple(distinct[-1][field] for field in ("title", "h_idx", "t_idx", "r")):
            distinct.append(entry)
    correct = seen = correct_evidence = predicted_evidence = 0
    groups = {name: {"correct": 0, "predicted": 0, "gold": 0} for name in ("freq", "long_tail", "intra", "inter")}
    by_relation: dict[str, dict[str, int]] = {}

    def groups_of(title: str, relation: str, head: int, tail: int) -> list[dict[str, int]]:
        distances = [
            abs(first["sent_id"] - second["sent_id"])
            for first in vertices[title][head]
            for second in vertices[title][tail]
        ]
        distance = min(distances, default=1)
        relation_counts = by_relation.setdefault(relation, {"correct": 0, "predicted": 0, "gold": 0})
        frequency = "freq" if relation in FREQUENT else "long_tail"
        return [groups[frequency], groups["inter" if distance else "intra"], relation_counts]

    for title, relation, head, tail in truth:
        for group in groups_of(title, relation, head, tail):
            group["gold"] += 1
    for entry in distinct:
        title, relation, head, tail = (entry[field] for field in ("title", "r", "h_idx", "t_idx"))
        if max(head, tail) >= len(vertices.get(title, [])):  # counts against precision, and in no breakdown
            by_relation.setdefault(relation, {"correct": 0, "predicted": 0, "gold": 0})["predicted"] += 1
            predicted_evidence += len(set(entry.get("evidence", []))) if title in vertices else 0
            continue
        mine = groups_of(title, relation, head, tail)
        for group in mine:
            group["predicted"] += 1
        evidence = set(entry.get("evidence", []))
        predicted_evidence += len(evidence)
        if (title, relation, head, tail) in truth:
            correct += 1
            correct_evidence += len(truth[title, relation, head, tail] & evidence)
            for group in mine:
                group["correct"] += 1
            is_known = False
            for first in vertices[title][head]:
                for second in vertices[title][tail]:
                    if (first["name"], second["name"], relation) in in_train_file:
                        is_known = True
            if is_known:
                seen += 1

    def f1(right: float, predicted: float, of: float) -> float:
        precision, recall = right / predicted if predicted else 0.0, right / of if of else 0.0
        return 2 * precision * recall / (precision + recall) if precision + recall else 0.0

    ign_precision = (correct - seen) / (len(distinct) - seen + 1e-5)
    recall = correct / len(truth)
    return {
        "precision": correct / len(distinct) if distinct else 0.0,
        "recall": recall,
        "f1": f1(correct, len(distinct), len(truth)),
        "ign_f1": 2 * ign_precision * recall / (ign_precision + recall) if ign_precision + recall else 0.0,
        "evidence_f1": f1(correct_evidence, predicted_evidence, total_evidence + 1),
        **{f"f1_{name}": f1(*groups[name].values()) for name in ("freq", "long_tail", "intra", "inter")},
        "macro_f1": sum(f1(*c.values()) for c in by_relation.values() if c["gold"])
        / sum(1 for c in by_relation.values() if c["gold"]),
    }
