"""Entity embeddings, localized context pooling, the grouped bilinear product, and the three representation modules that
are made of them: ATLOP, DocuNet and KD-DocRE."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from opt_einsum import contract
from torch import Tensor, nn

from hingeabl.errors import UserError
from hingeabl.modeling.encoder import encode, load_encoder
from hingeabl.modeling.layers import AxialTransformer, UNet
from utils import recurring_size

MAP_SIZE = 42  # entity slots along each side of a document's map of pairs; Re-DocRED's largest document fills it


@dataclass
class Entities:
    """A document as representation modules see it, float32.

    embeddings [entities, hidden], context [entities, entities, hidden] of every ordered pair, self pairs included, and
    pairs int64 [pairs, 2], the (head, tail) to be scored.
    """

    embeddings: Tensor
    context: Tensor
    pairs: Tensor


class DocREModel(nn.Module):
    """Scores of every relation for every entity pair of a batch of documents.

    What all share: the encoder, `model`, entity embeddings, localized context pooling and the grouped bilinear product.
    A representation module is a subclass, and `DocREModel(..., backbone="docunet")` makes an object of the one with
    that name: its `add_layers` makes what it has beyond the encoder, its `score_pairs` goes from Entities to scores.
    """

    backbones: ClassVar[dict[str, type[DocREModel]]] = {}
    backbone: ClassVar[str]
    module_layers: ClassVar[tuple[str, ...]] = ()  # layers that train at a rate of their own, --module_lr
    unused_layers: ClassVar[tuple[str, ...]] = ()  # layers of released checkpoints that nothing reads

    def __init_subclass__(cls, backbone: str) -> None:
        super().__init_subclass__()
        if backbone in DocREModel.backbones:
            raise ValueError(f"two representation modules are called {backbone!r}")
        cls.backbone = backbone
        DocREModel.backbones[backbone] = cls

    def __new__(cls, *_: Any, backbone: str = "atlop", **__: Any) -> DocREModel:
        """An object of the subclass that `backbone` names. Raises UserError for an unknown one."""
        if cls is not DocREModel:
            return super().__new__(cls)
        if backbone not in cls.backbones:
            known = ", ".join(cls.backbones)
            raise UserError(f"--backbone {backbone}: no such representation module; choose from {known}")
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
        weights random, for a checkpoint to fill.

        Raises UserError for an unknown backbone, sizes that do not fit, or an encoder that can't be loaded.
        """
        super().__init__()
        if block_size < 1 or emb_size < 1 or emb_size % block_size:
            raise UserError(f"--emb_size {emb_size}: must be a multiple of the block size {block_size}")
        self.settings: dict[str, Any] = dict(
            num_classes=num_classes,
            emb_size=emb_size,
            block_size=block_size,
            backbone=self.backbone,
            unet_channels=unet_channels,
            axial_layers=axial_layers,
        )
        self.model = load_encoder(encoder_name_or_path, pretrained)
        self.add_layers(self.model.config.hidden_size, **self.settings)

    def add_layers(
        self,
        hidden: int,
        *,
        num_classes: int,
        emb_size: int,
        block_size: int,
        backbone: str,
        unet_channels: int,
        axial_layers: int,
    ) -> None:
        """Make the layers beyond the encoder, whose embeddings have `hidden` numbers; `settings` as in __init__."""
        raise NotImplementedError

    def score_pairs(self, documents: list[Entities]) -> Tensor:
        """Scores float32 [pairs of all documents, classes]."""
        raise NotImplementedError

    def adopt_names(self, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Released checkpoints' names -> ours: the encoder, `bert_model` in DocuNet's, is `model`; layers that nothing
        reads are left out, and so is the buffer of positions that older versions of transformers saved."""
        unused = tuple(f"{name}." for name in self.unused_layers)
        return {
            f"model.{name.removeprefix('bert_model.')}" if name.startswith("bert_model.") else name: tensor
            for name, tensor in weights.items()
            if not name.endswith(".position_ids") and not name.startswith(unused)
        }

    def load_state_dict(self, state_dict: Mapping[str, Tensor], strict: bool = True, assign: bool = False) -> Any:
        """nn.Module's, which also takes the names of released checkpoints."""
        return super().load_state_dict(self.adopt_names(state_dict), strict, assign)

    def forward(
        self,
        input_ids: Tensor,
        lengths: list[int],
        mention_pos: list[Tensor],
        mention_entity: list[Tensor],
        num_entities: list[int],
        hts: list[Tensor],
    ) -> Tensor:
        """A batch as collate_fn builds it -> scores float32 [pairs, classes], in the order of hts."""
        encoded = encode(self.model, input_ids, lengths, mention_pos)
        documents = []
        with torch.autocast(input_ids.device.type, enabled=False):  # products of attention vanish in half precision
            for (tokens, attention), positions, entity_of, entities, pairs in zip(
                encoded, mention_pos, mention_entity, num_entities, hts, strict=True
            ):
                embeddings, attention = pool_mentions(tokens.index_select(0, positions), attention, entity_of, entities)
                documents.append(Entities(embeddings, self.pool_context(attention, tokens), pairs))
        return self.score_pairs(documents)

    def pool_context(self, entity_attention: Tensor, tokens: Tensor) -> Tensor:
        """Context vectors [entities, entities, hidden] of all ordered pairs."""
        return localized_context_pooling(entity_attention, tokens)

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

    def add_layers(self, hidden: int, num_classes: int, emb_size: int, block_size: int, **_: Any) -> None:
        """Extractors from [entity; context], the classifier of Eq. (2)."""
        self.add_extractors(2 * hidden, emb_size)
        self.bilinear = nn.Linear(emb_size * block_size, num_classes)

    def score_pairs(self, documents: list[Entities]) -> Tensor:
        """Scores float32 [pairs, classes]."""
        contexts = [document.context[tuple(document.pairs.T)] for document in documents]
        return self.combine(*pair_entities(documents), torch.cat(contexts), self.bilinear)


class DocuNet(DocREModel, backbone="docunet"):
    """Zhang et al. (2021): the context vectors of a document's pairs are an image, and a U-Net looks at it.

    Slots past the last entity repeat it. The image of a document with more than MAP_SIZE entities is as large as it
    needs.
    """

    module_layers = ("liner", "segmentation_net")
    features = 256  # numbers that the U-Net gives a pair

    def add_layers(
        self, hidden: int, num_classes: int, emb_size: int, block_size: int, unet_channels: int, **_: Any
    ) -> None:
        """ATLOP's layers with the U-Net's features in place of the context, and the U-Net."""
        self.add_extractors(hidden + self.features, emb_size)
        self.bilinear = nn.Linear(emb_size * block_size, num_classes)
        self.liner = nn.Linear(hidden, 3)
        self.segmentation_net = UNet(unet_channels, self.features)

    def score_pairs(self, documents: list[Entities]) -> Tensor:
        """Scores float32 [pairs, classes]."""
        features: dict[int, Tensor] = {}
        sizes = [max(MAP_SIZE, len(document.embeddings)) for document in documents]
        for size in sorted(set(sizes)):
            chosen = [number for number, own in enumerate(sizes) if own == size]
            images = [self.image(documents[number].context, size) for number in chosen]
            for number, image in zip(chosen, self.segmentation_net(torch.cat(images)), strict=True):
                head, tail = documents[number].pairs.T
                features[number] = image[:, head, tail].T  # [pairs, features]
        contexts = torch.cat([features[number] for number in range(len(documents))])
        return self.combine(*pair_entities(documents), contexts.float(), self.bilinear)

    def image(self, context: Tensor, size: int) -> Tensor:
        """context [entities, entities, hidden] -> [1, 3, size, size]; of a document without entities, zeros."""
        image = self.liner(context).float().permute(2, 0, 1)[None]
        if not len(context):
            return image.new_zeros(1, 3, size, size)
        missing = size - len(context)
        return nn.functional.pad(image, (0, missing, 0, missing), mode="replicate")


class KDDocRE(DocREModel, backbone="kd_docre"):
    """Tan et al. (2022): the pairs of a document attend to those with the same head and to those with the same tail.

    The map has at least MAP_SIZE slots along each side, and the empty ones take part. In the released program their
    entity and context vectors are zero, so that in evaluation the extractors' biases remain; while training, the empty
    slots are zero themselves. All are equal, so one row and one column stand for them here (see AxialTransformer).
    """

    module_layers = ("axial_transformer",)
    unused_layers = ("bilinear",)

    def add_layers(
        self, hidden: int, num_classes: int, emb_size: int, block_size: int, axial_layers: int, **_: Any
    ) -> None:
        """ATLOP's extractors, the grouped product's projection, the axial transformer, the classifier."""
        self.add_extractors(2 * hidden, emb_size)
        self.projection = nn.Linear(emb_size * block_size, hidden, bias=False)
        self.axial_transformer = AxialTransformer(hidden, axial_layers)
        self.classifier = nn.Linear(hidden, num_classes)

    def pool_context(self, entity_attention: Tensor, tokens: Tensor) -> Tensor:
        """As ATLOP's, of the sum over heads divided by (its sum over tokens + 1e-10)."""
        return localized_context_pooling(entity_attention, tokens, 1e-10 / entity_attention.shape[1])

    def score_pairs(self, documents: list[Entities]) -> Tensor:
        """Scores float32 [pairs, classes]."""
        maps, counts = self.pair_maps(documents)
        maps = maps + self.axial_transformer(maps, counts)  # [documents, n, n, hidden]
        pairs = [slots[tuple(document.pairs.T)] for slots, document in zip(maps, documents, strict=True)]
        with torch.autocast(maps.device.type, enabled=False):  # in half precision, scores would tie with the threshold
            return self.classifier(torch.cat(pairs).float())

    def pair_maps(self, documents: list[Entities]) -> tuple[Tensor, Tensor]:
        """Every pair's vector, self pairs included: maps float32 [documents, n, n, hidden], n one more than the most
        entities; and how many slots each index stands for, float32 [documents, n]: an entity for 1, the one behind the
        last entity for all empty ones, the rest for none."""
        empty = documents[0].embeddings.new_zeros(1, documents[0].embeddings.shape[1])
        heads, tails, contexts = [empty], [empty], [empty]
        for document in documents:
            context = document.context  # [entities, entities, hidden]
            heads.append(document.embeddings[:, None].expand_as(context).flatten(0, 1))
            tails.append(document.embeddings[None].expand_as(context).flatten(0, 1))
            contexts.append(context.flatten(0, 1))
        vectors = self.combine(torch.cat(heads), torch.cat(tails), torch.cat(contexts), self.projection)
        entities = [len(document.embeddings) for document in documents]
        empty, *slots = vectors.split([1, *(count**2 for count in entities)])
        empty = torch.zeros_like(empty) if self.training else empty
        size = max(entities) + 1
        maps, counts = [], []
        for count, vector in zip(entities, slots, strict=True):
            columns = torch.cat(
                [vector.view(count, count, vector.shape[1]), empty.expand(count, size - count, -1)], dim=1
            )
            maps.append(torch.cat([columns, empty.expand(size - count, size, -1)]))
            place = torch.arange(size, device=vector.device)
            counts.append((place < count).float() + (place == count) * max(MAP_SIZE - count, 0))
        return torch.stack(maps), torch.stack(counts)


def pair_entities(documents: list[Entities]) -> tuple[Tensor, Tensor]:
    """Embeddings of the heads and of the tails of all pairs, each [pairs, hidden]."""
    # index_select: on the CPU, embeddings[head] would sum gradients in any order
    heads = [document.embeddings.index_select(0, document.pairs[:, 0]) for document in documents]
    tails = [document.embeddings.index_select(0, document.pairs[:, 1]) for document in documents]
    return torch.cat(heads), torch.cat(tails)


def pool_mentions(
    mention_embeddings: Tensor, mention_attention: Tensor, entity_of: Tensor, entities: int
) -> tuple[Tensor, Tensor]:
    """Mentions -> entities: logsumexp of the embeddings, mean of the attention, zeros for an entity without mention.

    mention_embeddings [mentions, hidden], mention_attention [heads, mentions, length], entity_of int64 [mentions];
    returns [entities, hidden] and [entities, heads, length].
    """
    member = (entity_of == torch.arange(entities, device=entity_of.device)[:, None]).to(mention_embeddings)
    count = member.sum(dim=1, keepdim=True)  # [entities, 1]; member is [entities, mentions]
    index = entity_of[:, None].expand_as(mention_embeddings)
    highest = mention_embeddings.new_zeros(entities, mention_embeddings.shape[1])
    highest = highest.scatter_reduce(0, index, mention_embeddings.detach(), "amax", include_self=False)
    exponentials = member @ torch.exp(mention_embeddings - highest[entity_of])  # [entities, hidden]
    embeddings = (highest + torch.log(exponentials + (count == 0))) * (count > 0)
    attention = contract("em,hml->ehl", member / count.clamp_min(1), mention_attention)
    return embeddings, attention


def localized_context_pooling(entity_attention: Tensor, tokens: Tensor, epsilon: float = 1e-5) -> Tensor:
    """ATLOP's context vector of every ordered pair of entities.

    entity_attention [entities, heads, length], tokens [length, hidden] -> [entities, entities, hidden]: the tokens
    weighted by the mean over heads of the product of head's and tail's attention, divided by (its sum + epsilon).
    """
    weights = contract("shl,ohl->sol", entity_attention, entity_attention) / entity_attention.shape[1]
    weights = weights / (weights.sum(dim=-1, keepdim=True) + epsilon)
    return contract("sol,ld->sod", weights, tokens)


def grouped_bilinear(head: Tensor, tail: Tensor, output: nn.Linear, block_size: int) -> Tensor:
    """Eq. (2) with W_r block-diagonal: head, tail [pairs, emb_size] -> float32 [pairs, classes].

    Both are split into groups of `block_size`; the outer products of the groups of head and tail, flattened with the
    head index slowest, [pairs, emb_size * block_size], go through the linear map `output`.
    """
    device = head.device.type
    dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else head.dtype
    head, tail, weight = (rows.to(dtype) for rows in (head, tail, output.weight))
    product = GroupedBilinear.apply(head, tail, weight, block_size)
    return product if output.bias is None else product + output.bias


class GroupedBilinear(torch.autograd.Function):
    """The grouped bilinear product, one group at a time: of the outer products [pairs, emb_size * block_size], 49,152
    numbers a pair in the paper's setting, one group's 4,096 are in memory.

    With group k's outer products x = head_k (x) tail_k [pairs, block * block] and weights W [classes, block * block],
    scores = sum_k x W^T. The gradient g of the scores then gives dW = g^T x and dx = g W, and of dx, seen as [pairs,
    block, block], dhead_i = sum_j dx_ij tail_j and dtail_j = sum_i dx_ij head_i. Backward builds x again.

    Groups, not slices of pairs: oneDNN's bfloat16 product of 32 pairs with all 49,152 inputs kills the process on CPUs
    with AMX, one group's 4,096 do not.
    """

    @staticmethod
    def forward(ctx: Any, head: Tensor, tail: Tensor, weight: Tensor, block_size: int) -> Tensor:
        """head, tail [pairs, emb_size], weight [classes, emb_size * block_size], all of one dtype -> [pairs, classes]
        in at least float32."""
        heads, tails = head.unflatten(1, (-1, block_size)), tail.unflatten(1, (-1, block_size))
        weights = weight.unflatten(1, (-1, block_size**2))  # [classes, groups, block * block]
        ctx.save_for_backward(heads, tails, weights)
        outer = head.new_empty(len(head), block_size**2)  # one group's, used again for the next
        scores = head.new_zeros(len(head), len(weight), dtype=torch.promote_types(head.dtype, torch.float32))
        for group in range(heads.shape[1]):
            scores += outer_product(heads[:, group], tails[:, group], outer) @ weights[:, group].T
        return scores

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """grad [pairs, classes] -> gradients of head, tail and weight."""
        heads, tails, weights = ctx.saved_tensors
        grad = grad.to(heads.dtype)
        grad_transposed = grad.T.contiguous()  # which products with many rows on the right take faster
        outer, grad_outer = heads.new_empty(2, len(heads), weights.shape[2])
        grad_heads, grad_tails, grad_weights = map(torch.empty_like, (heads, tails, weights))
        for group in range(heads.shape[1]):
            head, tail = heads[:, group], tails[:, group]  # [pairs, block]
            grad_weights[:, group] = grad_transposed @ outer_product(head, tail, outer)
            torch.mm(grad, weights[:, group], out=grad_outer)
            blocks = grad_outer.view(len(head), head.shape[1], tail.shape[1])  # [pairs, block, block]
            grad_heads[:, group] = (blocks @ tail.unsqueeze(2)).squeeze(2)
            grad_tails[:, group] = (head.unsqueeze(1) @ blocks).squeeze(1)
        return grad_heads.flatten(1), grad_tails.flatten(1), grad_weights.flatten(1), None


def outer_product(head: Tensor, tail: Tensor, out: Tensor) -> Tensor:
    """[pairs, block] twice -> [pairs, block * block], the head index slowest."""
    # twice as fast as a broadcast product
    torch.bmm(head.unsqueeze(2), tail.unsqueeze(1), out=out.view(len(head), head.shape[1], tail.shape[1]))
    return out
