"""ATLOP written out plainly: every layer's attention in full, one document, entity, mention and pair at a time.

The oracle that the fast path is tested against. It takes the weights of a DocREModel and does the same work.
"""

import torch
from torch import Tensor
from transformers import AutoModel

from model import DocREModel


class Baseline:
    """The plain computation with a DocREModel's own parameters."""

    def __init__(self, model: DocREModel, encoder_path: str) -> None:
        self.model = model
        self.encoder = AutoModel.from_pretrained(encoder_path, attn_implementation="eager", dtype=torch.float32)
        self.encoder.train(model.training)
        for (name, parameter), ours in zip(self.encoder.named_parameters(), model.model.parameters(), strict=True):
            owner = self.encoder.get_submodule(name.rpartition(".")[0])
            assert parameter.shape == ours.shape
            setattr(owner, name.rpartition(".")[2], ours)  # share the parameters, and with them the gradients

    def __call__(self, features: list[dict]) -> Tensor:
        """Scores [pairs, classes], document after document."""
        return torch.cat([self.score_document(feature) for feature in features])

    def encode(self, input_ids: list[int]) -> tuple[Tensor, Tensor]:
        """One document: embeddings [length, hidden] and attention [heads, length, length]."""
        ids = torch.tensor(input_ids)
        length = len(ids)
        if length <= 512:
            output = self.encoder(input_ids=ids[None], output_attentions=True)
            return output.last_hidden_state[0], output.attentions[-1][0]
        end = 2 if "roberta" in self.encoder.config.model_type else 1
        first = torch.cat([ids[: 512 - end], ids[-1:].repeat(end)])
        second = torch.cat([ids[:1], ids[length - 511 :]])
        output = self.encoder(input_ids=torch.stack([first, second]), output_attentions=True)
        hidden, attention = output.last_hidden_state, output.attentions[-1]
        embeddings = torch.zeros(length, hidden.shape[2])
        times = torch.zeros(length, 1)
        maps = torch.zeros(attention.shape[1], length, length)
        for window, inside, outside in (
            (0, slice(0, 512 - end), slice(0, 512 - end)),
            (1, slice(1, 512), slice(length - 511, length)),
        ):
            embeddings[outside] += hidden[window, inside]
            times[outside] += 1
            maps[:, outside, outside] += attention[window, :, inside, inside]
        return embeddings / (times + 1e-10), maps / (maps.sum(-1, keepdim=True) + 1e-10)

    def score_document(self, feature: dict) -> Tensor:
        """Scores [pairs, classes] of one document."""
        tokens, attention = self.encode(feature["input_ids"])
        entities, entity_attention = [], []
        for mentions in feature["entity_pos"]:
            places = [start + 1 for start, _ in mentions if start + 1 < len(tokens) - 1]
            if not places:
                entities.append(torch.zeros(tokens.shape[1]))
                entity_attention.append(torch.zeros(attention.shape[0], len(tokens)))
                continue
            entities.append(torch.logsumexp(torch.stack([tokens[place] for place in places]), dim=0))
            entity_attention.append(torch.stack([attention[:, place] for place in places]).mean(dim=0))
        heads, tails = [], []
        for head, tail in feature["hts"]:
            weights = (entity_attention[head] * entity_attention[tail]).mean(dim=0)
            context = (weights / (weights.sum() + 1e-5)) @ tokens
            heads.append(torch.cat([entities[head], context]))
            tails.append(torch.cat([entities[tail], context]))
        if not heads:
            return torch.zeros(0, self.model.bilinear.out_features)
        block = self.model.settings["block_size"]
        head = torch.tanh(self.model.head_extractor(torch.stack(heads))).unflatten(1, (-1, block))
        tail = torch.tanh(self.model.tail_extractor(torch.stack(tails))).unflatten(1, (-1, block))
        return self.model.bilinear((head.unsqueeze(3) * tail.unsqueeze(2)).flatten(1))
