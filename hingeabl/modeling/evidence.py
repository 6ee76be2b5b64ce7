"""Evidence, as DREEAM (Ma et al., EACL 2023) has it: a pair's attention, summed over each sentence's tokens."""

from __future__ import annotations

import torch.nn.functional as F
from opt_einsum import contract
from torch import Tensor

from hingeabl.core.utils import columns_of_rows

EPSILON = 1e-30  # as in the authors' program; ATLOP's context pooling has 1e-5
THRESHOLD = 0.2  # a sentence with more of a pair's attention is evidence for its relations


def sentence_attention(entity_attention: Tensor, in_sentence: Tensor) -> Tensor:
    """Every ordered pair's distribution over sentences: the product of both attentions, by which localized context
    pooling weights tokens, divided by (its sum + EPSILON) and summed over each sentence's tokens.

    entity_attention float32 [documents, entities, heads, length], in_sentence float32 [documents, length, sentences],
    1 where a token is of a sentence -> [documents, entities, entities, sentences]. A row sums to 1 less the attention
    of [CLS] and [SEP].
    """
    product = contract("dshl,dohl->dsol", entity_attention, entity_attention) / entity_attention.shape[2]
    of_sentences = contract("dsol,dln->dson", product, in_sentence)
    return of_sentences / (product.sum(dim=-1, keepdim=True) + EPSILON)


def evidence_loss(attention: Tensor, evidence: Tensor, labels: Tensor) -> Tensor:
    """Kullback-Leibler divergence of the attention from the evidence, averaged over pairs with a relation; 0 if there
    are none.

    attention float32 [pairs, sentences] is sentence_attention's, evidence float32 [pairs, sentences] the distribution
    over the gold evidence sentences of the pair's relations, labels [pairs, classes]. As in the authors' program a
    sentence counts once for each relation that names it, and a pair whose labels name no evidence adds 0 and counts in
    the mean.
    """
    related = labels[:, 1:].any(dim=1)
    return (divergence(attention, evidence) * related).sum() / related.sum().clamp_min(1)


def attention_loss(attention: Tensor, teacher_attention: Tensor) -> Tensor:
    """Divergence of the attention from a teacher's, both over all tokens float32 [pairs, tokens], averaged over all
    pairs; 0 if there are none (DREEAM's self-training)."""
    return divergence(attention, teacher_attention).sum() / max(len(attention), 1)


def divergence(attention: Tensor, target: Tensor) -> Tensor:
    """Kullback-Leibler divergence from the target of each row, [pairs]; 0 log 0 is 0."""
    return F.kl_div(attention.clamp_min(EPSILON).log(), target, reduction="none").sum(dim=1)


def evidence_sentences(attention: Tensor) -> list[list[int]]:
    """The sentences with more than THRESHOLD of each pair's attention [pairs, sentences]."""
    return columns_of_rows(attention > THRESHOLD)
