"""ATLOP: entity embeddings, localized context pooling, grouped bilinear classifier."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from opt_einsum import contract
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from encoder import encode, load_encoder
from utils import UserError, first_line, read_json, recurring_size, write_json


class DocREModel(nn.Module):
    """Scores of every relation for every entity pair of a batch of documents (Eq. 1 and 2).

    The encoder is `model`, as in the checkpoints of ATLOP and its descendants.
    """

    def __init__(
        self,
        encoder_name_or_path: str,
        num_classes: int = 97,
        emb_size: int = 768,
        block_size: int = 64,
        backbone: str = "atlop",
        pretrained: bool = True,
    ) -> None:
        """`pretrained=False` leaves the encoder's weights random, for a checkpoint to fill.

        Raises UserError for an unknown backbone, sizes that do not fit, or an encoder that can't be loaded.
        """
        super().__init__()
        if backbone != "atlop":
            raise UserError(f"--backbone {backbone}: no such representation module; choose from atlop")
        if block_size < 1 or emb_size < 1 or emb_size % block_size:
            raise UserError(f"--emb_size {emb_size}: must be a multiple of the block size {block_size}")
        self.settings = dict(num_classes=num_classes, emb_size=emb_size, block_size=block_size, backbone=backbone)
        self.model = load_encoder(encoder_name_or_path, pretrained)
        hidden = self.model.config.hidden_size
        self.head_extractor = nn.Linear(2 * hidden, emb_size)
        self.tail_extractor = nn.Linear(2 * hidden, emb_size)
        self.bilinear = nn.Linear(emb_size * block_size, num_classes)

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
        heads, tails, contexts = [], [], []
        documents = zip(
            encode(self.model, input_ids, lengths, mention_pos),
            mention_pos,
            mention_entity,
            num_entities,
            hts,
            strict=True,
        )
        with torch.autocast(input_ids.device.type, enabled=False):  # products of attention vanish in half precision
            for (tokens, attention), positions, entity_of, entities, pairs in documents:
                embeddings, entity_attention = pool_mentions(
                    tokens.index_select(0, positions), attention, entity_of, entities
                )
                context = localized_context_pooling(entity_attention, tokens)  # [entities, entities, hidden]
                head, tail = pairs[:, 0], pairs[:, 1]
                heads.append(embeddings.index_select(0, head))  # on the CPU, [head] would sum gradients in any order
                tails.append(embeddings.index_select(0, tail))
                contexts.append(context[head, tail])
        return self.classify(torch.cat(heads), torch.cat(tails), torch.cat(contexts))

    def classify(self, head: Tensor, tail: Tensor, context: Tensor) -> Tensor:
        """Entity and context vectors, each [pairs, hidden] -> scores float32 [pairs, classes]."""
        pairs = len(head)
        padding = (0, 0, 0, recurring_size(pairs, 128, head.device) - pairs)
        head, tail, context = (nn.functional.pad(vectors, padding) for vectors in (head, tail, context))
        head = torch.tanh(self.head_extractor(torch.cat([head, context], dim=1)))  # [pairs, emb_size]
        tail = torch.tanh(self.tail_extractor(torch.cat([tail, context], dim=1)))
        return grouped_bilinear(head, tail, self.bilinear, self.settings["block_size"])[:pairs]


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


def localized_context_pooling(entity_attention: Tensor, tokens: Tensor) -> Tensor:
    """ATLOP's context vector of every ordered pair of entities.

    entity_attention [entities, heads, length], tokens [length, hidden] -> [entities, entities, hidden]: the tokens
    weighted by the mean over heads of the product of head's and tail's attention, divided by (its sum + 1e-5).
    """
    weights = contract("shl,ohl->sol", entity_attention, entity_attention) / entity_attention.shape[1]
    weights = weights / (weights.sum(dim=-1, keepdim=True) + 1e-5)
    return contract("sol,ld->sod", weights, tokens)


def grouped_bilinear(head: Tensor, tail: Tensor, classifier: nn.Linear, block_size: int) -> Tensor:
    """Eq. (2) with W_r block-diagonal: head, tail [pairs, emb_size] -> scores float32 [pairs, classes].

    Both are split into groups of `block_size`; the outer products of the groups of head and tail, flattened with the
    head index slowest, [pairs, emb_size * block_size], go through the linear classifier.
    """
    device = head.device.type
    dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else head.dtype
    head, tail, weight = (rows.to(dtype) for rows in (head, tail, classifier.weight))
    return GroupedBilinear.apply(head, tail, weight, block_size) + classifier.bias


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


def save_run(folder: Path, model: DocREModel, tokenizer: PreTrainedTokenizerBase) -> None:
    """Write all but the weights that load_run needs: model.json, and encoder/ with its config and tokenizer."""
    model.model.config.save_pretrained(folder / "encoder")
    tokenizer.save_pretrained(folder / "encoder")
    write_json(folder / "model.json", model.settings)


def save_weights(path: Path, model: nn.Module) -> None:
    """Write a model's state dict as safetensors, whole or not at all. Raises UserError where that fails."""
    temporary = path.with_name(path.name + ".tmp")
    try:
        save_file({name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}, temporary)
        temporary.replace(path)
    except (SafetensorError, OSError) as error:
        temporary.unlink(missing_ok=True)
        raise UserError(f"{path}: cannot be written ({first_line(error)}); make room or choose another place") from None


def load_run(folder: str | Path) -> DocREModel:
    """The model of a run folder, from that folder alone. Raises UserError where files are missing or do not fit."""
    folder = Path(folder)
    settings = read_json(folder / "model.json")
    try:
        model = DocREModel(str(folder / "encoder"), **settings, pretrained=False)
    except TypeError as error:
        raise UserError(
            f"{folder}/model.json: does not hold a model's settings ({error}); copy the run again"
        ) from None
    load_weights(model, folder / "model.safetensors")
    return model


def load_weights(model: nn.Module, path: str | Path) -> None:
    """Load safetensors weights into a model; names as in the checkpoints that the authors of ATLOP released.

    Raises UserError, naming what is missing, left over or of another shape, and changes nothing then.
    """
    try:
        weights = load_file(path)
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; check the path") from None
    except (SafetensorError, OSError) as error:
        raise UserError(
            f"{path}: not a whole safetensors file ({first_line(error)}); copy it again, or convert a .pt file"
        ) from None
    wanted = model.state_dict()
    # a buffer that older versions of transformers saved
    weights = {name: tensor for name, tensor in weights.items() if not name.endswith(".position_ids")}
    problems = [f"{name} is missing" for name in wanted if name not in weights]
    problems += [f"{name} is left over" for name in weights if name not in wanted]
    problems += [
        f"{name} has shape {list(weights[name].shape)}, not {list(wanted[name].shape)}"
        for name in wanted
        if name in weights and weights[name].shape != wanted[name].shape
    ]
    if problems:
        more = f" and {len(problems) - 3} more" if len(problems) > 3 else ""
        raise UserError(
            f"{path}: does not fit the model: {'; '.join(problems[:3])}{more}; "
            "use the encoder, emb_size and rel2id that the checkpoint was trained with"
        )
    model.load_state_dict(weights)
