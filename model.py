"""Entity embeddings, localized context pooling, the grouped bilinear product, and the three representation modules that
are made of them: ATLOP, DocuNet and KD-DocRE."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import Any, ClassVar

import numpy as np
import torch
from opt_einsum import contract
from torch import Tensor, nn

from hingeabl.core import one_module
from hingeabl.core.utils import recurring_size
from hingeabl.errors import UserError
from hingeabl.modeling.bilinear import grouped_bilinear
from hingeabl.modeling.encoder import EncodedBatch, encode, layers_of, load_encoder
from hingeabl.modeling.entities import Entities, Group, pair_entities, pair_indices, pool_long
from hingeabl.modeling.evidence import sentence_attention
from hingeabl.modeling.layers import AxialTransformer, UNet, max_over_processes
from hingeabl.modeling.long_documents import PAIRS_AT_ONCE, LongDocument
from hingeabl.modeling.padded import arrays_to_device
from hingeabl.modeling.precision import autocast_dtype, weights_cast_to

MAP_SIZE = 42  # entity slots along each side of a document's map of pairs; Re-DocRED's largest document fills it


class DocREModel(nn.Module):
    """Scores of every relation for every entity pair of a batch of documents.

    What all share: the encoder, `model`, entity embeddings, localized context pooling and the grouped bilinear product.
    A representation module is a subclass, and `DocREModel(..., backbone="docunet")` makes an object of the one with
    that name: its `add_layers` makes the layers after the encoder, its `score_pairs` computes scores from Entities.
    """

    backbones: ClassVar[dict[str, type[DocREModel]]] = {}
    backbone: ClassVar[str]
    module_layers: ClassVar[tuple[str, ...]] = ()  # layers whose learning rate is --module_lr
    unused_layers: ClassVar[tuple[str, ...]] = ()  # layers of released checkpoints that nothing reads
    scores_pairs_independently: ClassVar[bool] = False  # whether a pair's scores depend on no other pair
    half_layers: ClassVar[tuple[str, ...]] = ("head_extractor", "tail_extractor")  # used only under autocast

    def __init_subclass__(cls, backbone: str) -> None:
        super().__init_subclass__()
        if backbone in DocREModel.backbones:
            raise ValueError(f"two representation modules are called {backbone!r}")
        cls.backbone = backbone
        DocREModel.backbones[backbone] = cls

    def __new__(cls, *_: Any, backbone: str = "atlop", **__: Any) -> DocREModel:
        """An object of the subclass that `backbone` names. Raises UserError for an unknown name."""
        if cls is not DocREModel:
            return super().__new__(cls)
        if backbone not in cls.backbones:
            names = ", ".join(cls.backbones)
            raise UserError(f"--backbone {backbone}: no such representation module; choose from {names}")
        return super().__new__(cls.backbones[backbone])

    def __init__(
        self,
        encoder_name_or_path: str,
        num_classes: int = 97,
        emb_size: int = 768,
        block_size: int = 64,
        *,
        backbone: str = "atlop",
        unet_channels: int = 256,
        axial_layers: int = 6,
        pretrained: bool = True,
    ) -> None:
        """`unet_channels` is DocuNet's d and `axial_layers` KD-DocRE's depth. `pretrained=False` leaves the encoder's
        weights random, for a checkpoint to fill. Raises UserError for an unknown backbone, sizes that do not fit, or an
        encoder that can't be loaded."""
        super().__init__()
        if block_size < 1 or emb_size < 1 or emb_size % block_size:
            raise UserError(f"--emb_size {emb_size}: must be a multiple of the block size {block_size}")
        self.settings: dict[str, Any] = dict(num_classes=num_classes, emb_size=emb_size, block_size=block_size)
        self.settings |= dict(backbone=self.backbone, unet_channels=unet_channels, axial_layers=axial_layers)
        self.model = load_encoder(encoder_name_or_path, pretrained)
        self.add_layers(self.model.config.hidden_size, **self.settings)

    def add_layers(self, hidden: int, *args: Any, **settings: Any) -> None:
        """Make the layers after the encoder, whose embeddings have `hidden` numbers; `settings` are self.settings."""
        raise NotImplementedError

    def score_pairs(self, groups: list[Group]) -> Tensor:
        """Scores float32 [pairs of all documents, classes]."""
        raise NotImplementedError

    def rename_released_weights(self, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Released checkpoints' names -> ours: the encoder, `bert_model` in DocuNet's, is `model`. Layers that nothing
        reads are left out, as is the buffer of positions that older versions of transformers saved."""
        unused = tuple(f"{name}." for name in (*self.unused_layers, "model.pooler"))
        renamed = {re.sub(r"^bert_model\.", "model.", name): tensor for name, tensor in weights.items()}
        used = [name for name in renamed if not name.endswith(".position_ids") and not name.startswith(unused)]
        return {name: renamed[name] for name in used}

    def load_state_dict(self, state_dict: Mapping[str, Tensor], strict: bool = True, assign: bool = False) -> Any:
        """As nn.Module's, but also takes the names of released checkpoints."""
        return super().load_state_dict(self.rename_released_weights(state_dict), strict, assign)

    def forward(
        self,
        input_ids: Tensor,
        lengths: list[int],
        mention_pos: list[Tensor],
        mention_entity: list[Tensor],
        num_entities: list[int],
        hts: list[Tensor],
        sentence: Tensor | None = None,
        sentences: int = 0,
    ) -> Tensor | tuple[Tensor, Tensor]:
        """A batch as collate_fn builds it -> scores float32 [pairs, classes], in the order of hts; with `sentence` also
        the pairs' attention over sentences, float32 [pairs, sentences]."""
        with self.half_weights(input_ids.device):
            outputs = encode(self.model, input_ids, lengths, mention_pos, mention_entity)
            groups = self.pool_all(outputs, num_entities, hts, sentence, sentences)
            scores = self.score_pairs(groups)
        return scores if sentence is None else (scores, torch.cat([group.pair_evidence() for group in groups]))

    def score_in_parts(self, **batch: Any) -> Iterator[Tensor | tuple[Tensor, Tensor]]:
        """What forward returns for a batch of one document, PAIRS_AT_ONCE pairs at a time if the module scores each
        pair by itself."""
        encoder_inputs = [batch.pop(name) for name in ("input_ids", "lengths", "mention_pos", "mention_entity")]
        [group] = self.pool_all(encode(self.model, *encoder_inputs), **batch)
        for pairs in group.pairs.split(PAIRS_AT_ONCE if self.scores_pairs_independently else max(len(group.pairs), 1)):
            part = replace(group, pairs=pairs)
            scores = self.score_pairs([part])
            yield (scores, part.pair_evidence()) if "sentence" in batch else scores

    def pool_all(
        self,
        outputs: list[EncodedBatch | LongDocument],
        num_entities: list[int],
        hts: list[Tensor],
        sentence: Tensor | None = None,
        sentences: int = 0,
    ) -> list[Group]:
        """The outputs of `encode` for a batch, and the rest of the batch as collate_fn builds it -> the entities of its
        documents, in order."""
        groups: list[Group] = []
        first = 0
        for output in outputs:
            part = slice(first, first + (len(output.tokens) if isinstance(output, EncodedBatch) else 1))
            rest = (num_entities[part], hts[part], None if sentence is None else (sentence[part], sentences))
            if isinstance(output, EncodedBatch):
                groups.append(self.pool(output, *rest))
            else:
                groups.append(pool_long(self.epsilon, output, *rest))
            first = part.stop
        return groups

    def half_weights(self, device: torch.device) -> AbstractContextManager[None]:
        """Within its block, if autocast is on, layers have copies of their weights in its dtype: made once, not at each
        use. A whole evaluation can lie in one block."""
        parts = [*layers_of(self.model), *(getattr(self, name) for name in self.half_layers if hasattr(self, name))]
        return weights_cast_to(parts, autocast_dtype(device))

    def pool(
        self, encoded: EncodedBatch, counts: list[int], hts: list[Tensor], sentences: tuple[Tensor, int] | None
    ) -> Entities:
        """Entities of documents from their tokens: `counts` entities and the pairs `hts` each. `sentences`, if evidence
        is wanted: each token's sentence int64 [documents, length at least], -1 for none; the number of sentences."""
        documents, length, hidden = encoded.tokens.shape
        row, device = encoded.position, encoded.tokens.device
        with torch.autocast(device.type, enabled=False):  # products of attention vanish in half precision
            if documents > 1:
                row = row + length * torch.arange(documents, device=device)[:, None]
            mentions = encoded.tokens.flatten(0, 1).index_select(0, row.flatten()).view(*row.shape, hidden)
            embeddings, attention = pool_mentions(mentions, encoded.attention, encoded.entity, max(*counts, 1))
            context = localized_context_pooling(attention, encoded.tokens, self.epsilon(attention.shape[2]))
            evidence = None
            if sentences is not None:
                in_sentence = sentences[0][:, :length, None] == torch.arange(sentences[1], device=device)
                evidence = sentence_attention(attention, in_sentence.float())
        document = np.repeat(np.arange(documents), [len(pairs) for pairs in hts])
        document_of_pair = arrays_to_device({"document": document}, device)["document"]
        pairs = torch.cat([document_of_pair[:, None], torch.cat(hts)], dim=1)
        return Entities(embeddings, context, pairs, counts, evidence)

    def epsilon(self, heads: int) -> float:
        """What localized context pooling adds to the sum of a pair's attention before it divides by it."""
        return 1e-5

    def add_extractors(self, size: int, emb_size: int) -> None:
        """head_extractor and tail_extractor, from `size` numbers (entity and context) to `emb_size`."""
        self.head_extractor = nn.Linear(size, emb_size)
        self.tail_extractor = nn.Linear(size, emb_size)

    def combine(self, head: Tensor, tail: Tensor, context: Tensor, output: nn.Linear) -> Tensor:
        """Eq. (1) and the grouped bilinear product of Eq. (2), through the linear map `output`: head and tail [pairs,
        hidden], context [pairs, its size] -> float32 [pairs, output's size]."""
        pairs = len(head)
        padding = (0, 0, 0, recurring_size(pairs, 128, head.device) - pairs)
        head, tail, context = (nn.functional.pad(vectors, padding) for vectors in (head, tail, context))
        head = torch.tanh(self.head_extractor(torch.cat([head, context], dim=1)))  # [pairs, emb_size]
        tail = torch.tanh(self.tail_extractor(torch.cat([tail, context], dim=1)))
        return grouped_bilinear(head, tail, output, self.settings["block_size"])[:pairs]


class ATLOP(DocREModel, backbone="atlop"):
    """Zhou et al. (2021): a pair is its entities' embeddings and its context vector."""

    scores_pairs_independently = True

    def add_layers(self, hidden: int, num_classes: int, emb_size: int, block_size: int, **_: Any) -> None:
        """Extractors from [entity; context], the classifier of Eq. (2)."""
        self.add_extractors(2 * hidden, emb_size)
        self.bilinear = nn.Linear(emb_size * block_size, num_classes)

    def score_pairs(self, groups: list[Group]) -> Tensor:
        """Scores float32 [pairs, classes]."""
        contexts = torch.cat([group.pair_contexts() for group in groups])
        return self.combine(*pair_entities(groups), contexts, self.bilinear)


class DocuNet(DocREModel, backbone="docunet"):
    """Zhang et al. (2021): the context vectors of a document's pairs are an image, the input of a U-Net. Slots past the
    last entity repeat it. The image has more than MAP_SIZE slots on a side only if the document has more entities."""

    module_layers = ("liner", "segmentation_net")
    half_layers = (*DocREModel.half_layers, *module_layers)
    features = 256  # numbers that the U-Net gives a pair

    def add_layers(
        self, hidden: int, num_classes: int, emb_size: int, block_size: int, unet_channels: int, **_: Any
    ) -> None:
        """ATLOP's layers with the U-Net's features in place of the context, and the U-Net."""
        self.add_extractors(hidden + self.features, emb_size)
        self.bilinear = nn.Linear(emb_size * block_size, num_classes)
        self.liner = nn.Linear(hidden, 3)
        self.segmentation_net = UNet(unet_channels, self.features)

    def score_pairs(self, groups: list[Group]) -> Tensor:
        """Scores float32 [pairs, classes]."""
        counts = [count for group in groups for count in group.counts]
        sizes = [max(MAP_SIZE, count) for count in counts]
        if self.training:  # one map size, so that all processes call batch norm equally often
            sizes = [max_over_processes(max(sizes), groups[0].pairs.device)] * len(sizes)
        features: dict[int, Tensor] = {}
        for size in sorted(set(sizes)):
            images = torch.cat([self.images(group, size) for group in groups]).unbind()
            numbers = [number for number, size_of_document in enumerate(sizes) if size_of_document == size]
            output = self.segmentation_net(torch.stack([images[number] for number in numbers]))
            missing = max(sizes) - size
            features |= zip(numbers, nn.functional.pad(output, (0, missing) * 2) if missing else output, strict=True)
        maps = torch.stack([features[number] for number in range(len(counts))])  # [documents, features, n, n]
        contexts = maps.permute(0, 2, 3, 1).flatten(0, 2).index_select(0, pair_indices(groups, max(sizes)))
        return self.combine(*pair_entities(groups), contexts.float(), self.bilinear)

    def images(self, group: Group, size: int) -> Tensor:
        """The group's maps of pairs, [documents, 3, size, size]; zeros for a document without entities."""
        context = group.context
        documents, entities = context.shape[:2]
        last = np.array(group.counts)[:, None] - 1
        slot = np.minimum(np.arange(size), last).clip(0)  # [documents, size]
        row = np.arange(documents)[:, None] * entities + slot
        at = arrays_to_device({"cell": row[:, :, None] * entities + slot[:, None], "used": last >= 0}, context.device)
        context = self.liner(context).float().flatten(0, 2)
        images = context.index_select(0, at["cell"].flatten()).view(documents, size, size, 3).permute(0, 3, 1, 2)
        return images if min(group.counts) else images * at["used"][:, :, None, None]


class KDDocRE(DocREModel, backbone="kd_docre"):
    """Tan et al. (2022): the pairs of a document attend to those with the same head and to those with the same tail.

    The map has at least MAP_SIZE slots along each side, and the empty ones take part. In the released program their
    entity and context vectors are zero, so that in evaluation the extractors' biases remain; in training, the empty
    slots are zero themselves. All are equal, so here one row and one column stand for them (see AxialTransformer).
    """

    module_layers = ("axial_transformer",)
    half_layers = (*DocREModel.half_layers, *module_layers)
    unused_layers = ("bilinear",)

    def add_layers(
        self, hidden: int, num_classes: int, emb_size: int, block_size: int, axial_layers: int, **_: Any
    ) -> None:
        """ATLOP's extractors, the grouped product's projection, the axial transformer, the classifier."""
        self.add_extractors(2 * hidden, emb_size)
        self.projection = nn.Linear(emb_size * block_size, hidden, bias=False)
        self.axial_transformer = AxialTransformer(hidden, axial_layers)
        self.classifier = nn.Linear(hidden, num_classes)

    def epsilon(self, heads: int) -> float:
        """The released program divides the sum over heads, not their mean, by (its sum over tokens + 1e-10)."""
        return 1e-10 / heads

    def score_pairs(self, groups: list[Group]) -> Tensor:
        """Scores float32 [pairs, classes]."""
        maps, counts = self.pair_maps(groups)
        maps = maps + self.axial_transformer(maps, counts)  # [documents, n, n, hidden]
        pairs = maps.flatten(0, 2).index_select(0, pair_indices(groups, maps.shape[1]))
        with torch.autocast(maps.device.type, enabled=False):  # in half precision, scores would tie with the threshold
            return self.classifier(pairs.float())

    def pair_maps(self, groups: list[Group]) -> tuple[Tensor, Tensor]:
        """Every pair's vector, self pairs included: maps float32 [documents, n, n, hidden], n one more than the most
        entities; and how many slots each index stands for, float32 [documents, n]: an entity's for 1, the next one for
        all empty slots, the rest for 0."""
        counts = np.array([count for group in groups for count in group.counts])
        slot = np.arange(counts.max() + 1)
        real = slot < counts[:, None]  # [documents, n]
        real_cells = real[:, :, None] & real[:, None]  # [documents, n, n]
        indices = {
            "vector": real_cells.ravel().cumsum().reshape(real_cells.shape) * real_cells,  # 0, the first, is empty
            "count": real + (slot == counts[:, None]) * (MAP_SIZE - counts[:, None]).clip(0),
        }
        sent = arrays_to_device(indices, groups[0].embeddings.device)
        empty = groups[0].embeddings.new_zeros(1, groups[0].embeddings.shape[2])
        heads, tails, contexts = [empty], [empty], [empty]
        for group in groups:
            entities = group.embeddings.shape[1]
            head, tail = (rows.flatten() for rows in np.indices((entities, entities)))
            cell = np.flatnonzero((np.maximum(head, tail) < np.array(group.counts)[:, None]).ravel())  # of all maps
            first = cell // entities**2 * entities  # the row of the document's first entity
            pair = cell % entities**2  # the cell in the document's own map
            at = arrays_to_device({"head": first + head[pair], "tail": first + tail[pair], "cell": cell}, empty.device)
            embeddings = group.embeddings.flatten(0, 1)
            heads.append(embeddings.index_select(0, at["head"]))
            tails.append(embeddings.index_select(0, at["tail"]))
            contexts.append(group.context.flatten(0, 2).index_select(0, at["cell"]))
        vectors = self.combine(torch.cat(heads), torch.cat(tails), torch.cat(contexts), self.projection)
        if self.training:
            vectors = torch.cat([torch.zeros_like(vectors[:1]), vectors[1:]])
        maps = vectors.index_select(0, sent["vector"].flatten()).view(*real_cells.shape, -1)
        return maps, sent["count"].float()


def pool_mentions(
    mention_embeddings: Tensor, mention_attention: Tensor, entity_of: Tensor, entities: int
) -> tuple[Tensor, Tensor]:
    """Mentions -> entities: logsumexp of the embeddings, mean of the attention, zeros for an entity without mention.

    mention_embeddings [documents, mentions, hidden], mention_attention [documents, heads, mentions, length], entity_of
    int64 [documents, mentions], -1 for a mention that is padding; returns [documents, entities, hidden] and [documents,
    entities, heads, length].
    """
    number = torch.arange(entities, device=entity_of.device)[:, None]
    member = (entity_of[:, None] == number).to(mention_embeddings)  # [documents, entities, mentions]
    count = member.sum(dim=2, keepdim=True)  # [documents, entities, 1]
    index = entity_of.remainder(entities + 1)[:, :, None].expand_as(mention_embeddings)  # padding goes behind the last
    highest = mention_embeddings.new_zeros(len(entity_of), entities + 1, mention_embeddings.shape[2])
    highest = highest.scatter_reduce(1, index, mention_embeddings.detach(), "amax", include_self=False)
    exponentials = member @ torch.exp(mention_embeddings - highest.gather(1, index))  # [documents, entities, hidden]
    embeddings = (highest[:, :-1] + torch.log(exponentials + (count == 0))) * (count > 0)
    attention = contract("dem,dhml->dehl", member / count.clamp_min(1), mention_attention)
    return embeddings, attention


def localized_context_pooling(entity_attention: Tensor, tokens: Tensor, epsilon: float = 1e-5) -> Tensor:
    """ATLOP's context vector of every ordered pair of entities.

    entity_attention [documents, entities, heads, length], tokens [documents, length, hidden] -> [documents, entities,
    entities, hidden]: the tokens weighted by the mean over heads of the product of head's and tail's attention, divided
    by (its sum + epsilon).
    """
    weights = contract("dshl,dohl->dsol", entity_attention, entity_attention) / entity_attention.shape[2]
    weights = weights / (weights.sum(dim=-1, keepdim=True) + epsilon)
    return contract("dsol,dlc->dsoc", weights, tokens)


one_module(__name__)
