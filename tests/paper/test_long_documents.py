"""Documents longer than two windows: a plain reimplementation, every module and way, and memory."""

import os
from itertools import pairwise

import numpy as np
import pytest
import torch

from hingeabl.data.pairs import AllPairs
from hingeabl.files import read_json
from hingeabl.modeling import padded
from hingeabl.modeling.attention import ATTENTION
from hingeabl.modeling.encoder import cut, encode, max_window
from hingeabl.training.inference import predict, score
from losses import get_loss
from model import DocREModel
from prepro import featurize
from utils import collate_fn


@pytest.fixture(scope="module", params=["atlop", "docunet", "kd_docre"])
def model(request, tiny_bert):
    torch.manual_seed(3)
    settings = {"unet_channels": 16, "axial_layers": 1}
    return DocREModel(str(tiny_bert), 7, 128, 64, backbone=request.param, **settings).eval()


def document(length, entities, seed=0, title="long"):
    """Features of a document of so many tokens; mentions of an entity are near one place or far apart."""
    random = np.random.default_rng(seed)
    places = [
        sorted(random.choice(length - 2, size=1 + number % 3, replace=False).tolist()) for number in range(entities)
    ]
    ends = np.linspace(10, length - 2, 9).astype(int).tolist()
    ids = random.integers(5, 60, size=length).tolist()
    return {
        "title": title,
        "input_ids": ids,
        "entity_pos": [[[start, start + 1] for start in own] for own in places],
        "hts": AllPairs(entities),
        "sentence_ends": ends,
    }


def groups_of(model, batch):
    """The entities of a batch's documents."""
    tokens = [batch.pop(name) for name in ("input_ids", "lengths", "mention_pos", "mention_entity")]
    return model.pool_all(encode(model.model, *tokens), **batch)


def plainly(model, feature):
    """(entity embeddings, context and evidence of every pair) of one document: dense, position by position."""
    window, end = max_window(model.model)
    ids, length = torch.tensor(feature["input_ids"]), len(feature["input_ids"])
    mentions = [(start + 1, entity) for entity, own in enumerate(feature["entity_pos"]) for start, _ in own]
    tokens, times = torch.zeros(length, model.model.config.hidden_size), torch.zeros(length, 1)
    rows = torch.zeros(len(mentions), model.model.config.num_attention_heads, length)
    for part in cut(0, length, window, end):
        assert len(part.tokens) <= window
        model.model.set_attn_implementation("eager")
        output = model.model(input_ids=ids[part.tokens][None], output_attentions=True)
        model.model.set_attn_implementation(ATTENTION)
        for place in range(part.start, part.stop):
            tokens[place] += output.last_hidden_state[0, place - part.offset]
            times[place] += 1
        for row, (place, _) in enumerate(mentions):
            if part.start <= place < part.stop:
                columns = slice(part.start - part.offset, part.stop - part.offset)
                rows[row, :, part.start : part.stop] += output.attentions[-1][0][:, place - part.offset, columns]
    assert (times > 0).all()
    tokens, rows = tokens / times, rows / (rows.sum(dim=2, keepdim=True) + 1e-10)
    embeddings, attention = [], []
    for entity in range(len(feature["entity_pos"])):
        own = [row for row, (_, owner) in enumerate(mentions) if owner == entity]
        embeddings.append(torch.stack([tokens[mentions[row][0]] for row in own]).logsumexp(dim=0))
        attention.append(rows[own].mean(dim=0))
    sentence = torch.zeros(length, len(feature["sentence_ends"]))
    for number, (first, last) in enumerate(pairwise([0, *feature["sentence_ends"]])):
        sentence[1 + first : 1 + last, number] = 1
    contexts, evidence = [], []
    for head, tail in feature["hts"]:
        weights = (attention[head] * attention[tail]).mean(dim=0)
        contexts.append(weights @ tokens / (weights.sum() + model.epsilon(rows.shape[1])))
        evidence.append(weights @ sentence / (weights.sum() + 1e-30))
    return torch.stack(embeddings), torch.stack(contexts), torch.stack(evidence)


def gap(length, window, end):
    """The tokens between two windows, where these just do not meet: the released programs' windows."""
    return set(range(window - end, length - window + 1)) if length <= 2 * window else set()


def test_windows_cover_a_document_and_overlap_by_a_quarter():
    for window, end in ((512, 1), (512, 2), (64, 1), (16, 2)):
        for length in (1, window, window + 1, 2 * window, 2 * window + 1, 3 * window, 1000, 5017):
            parts = cut(0, length, window, end)
            assert {place for own in parts for place in range(own.start, own.stop)} | gap(length, window, end) == set(
                range(length)
            )
            for own in parts:
                assert len(own.tokens) <= window
                kept = own.tokens[own.start - own.offset : own.stop - own.offset]
                assert kept.tolist() == list(range(own.start, own.stop))
            if length > 2 * window:
                assert all(b.start - a.start > 0 and a.stop - b.start >= window // 4 for a, b in pairwise(parts))
            else:
                assert len(parts) == 1 + (length > window)


@torch.no_grad()
def test_pairs_of_long_documents_are_computed_in_float32_under_autocast(model):
    [group] = groups_of(model, collate_fn([document(1300, 9)]))
    plain = group.pair_contexts(), group.pair_evidence()
    with torch.autocast("cpu", torch.bfloat16):
        found = group.pair_contexts(), group.pair_evidence()
    assert all(map(torch.equal, found, plain)) and {each.dtype for each in found} == {torch.float32}


@pytest.mark.parametrize("length", [1100, 1700])
@pytest.mark.parametrize("device_way", ["cpu", "gpu"])
@torch.no_grad()
def test_a_plain_reimplementation_agrees(model, device_way, length, monkeypatch):
    if device_way == "gpu":
        monkeypatch.setattr(padded, "PADDED_DEVICES", ["cuda", "cpu"])
    feature = document(length, 14)
    short = document(600, 5, seed=1, title="short")
    groups = groups_of(model, collate_fn([short, feature, short]))
    embeddings, contexts, evidence = plainly(model, feature)
    long = groups[-2] if len(groups) == 3 else groups[1]
    assert torch.allclose(long.embeddings[0], embeddings, atol=1e-5)
    assert torch.allclose(long.pair_contexts(), contexts, atol=1e-5)
    assert torch.allclose(long.pair_evidence(), evidence, atol=1e-5)
    scores, _ = model(**collate_fn([short, feature, short]))
    alone, _ = model(**collate_fn([feature]))
    pairs = len(short["hts"])
    assert torch.allclose(scores[pairs:-pairs], alone, atol=1e-5)
    assert torch.allclose(scores[:pairs], model(**collate_fn([short]))[0], atol=1e-5)


def test_scores_in_parts_are_those_of_the_whole(model, monkeypatch):
    feature = document(1300, 9, seed=2)
    monkeypatch.setattr("model.PAIRS_AT_ONCE", 20)
    parts = [(found.scores, found.attention) for found in score(model, [feature], torch.device("cpu"), "fp32", 10**6)]
    [whole] = score(model, [feature], torch.device("cpu"), "fp32", 10**6, in_parts=False)
    assert len(parts) == (4 if model.scores_pairs_independently else 1)
    assert torch.allclose(torch.cat([scores for scores, _ in parts]), whole.scores, atol=1e-5)
    assert torch.allclose(torch.cat([attention for _, attention in parts]), whole.attention, atol=1e-6)


def test_predictions_in_parts_are_those_of_the_whole(model, monkeypatch):
    feature, loss = document(1300, 9, seed=2), get_loss("atl")
    labels = torch.randint(2, (72, 7), generator=torch.Generator().manual_seed(0)).numpy().astype("uint8")
    wanted = ([feature | {"labels": labels}], loss, {number: str(number) for number in range(7)})
    found = []
    for most in (10**6, 20):
        monkeypatch.setattr("model.PAIRS_AT_ONCE", most)
        found.append(predict(model, *wanted, torch.device("cpu"), "fp32", 4, 10**6))
    assert found[0].entries == found[1].entries and found[0].patterns == found[1].patterns and found[0].entries
    assert torch.equal(found[0].pairs["entities"], found[1].pairs["entities"])


def test_the_gradient_of_a_long_document_is_that_of_a_plain_computation(tiny_bert):
    torch.manual_seed(0)
    model = DocREModel(str(tiny_bert), 7, 128, 64).eval()
    feature = document(1200, 5, seed=3)
    wanted = ("model.embeddings.word_embeddings.weight", "head_extractor.weight")

    def gradients(embeddings, contexts):
        pairs = torch.tensor(list(feature["hts"]))
        made = model.combine(embeddings[pairs[:, 0]], embeddings[pairs[:, 1]], contexts, model.bilinear)
        model.zero_grad()
        made.logsumexp(dim=1).sum().backward()
        return [dict(model.named_parameters())[name].grad.clone() for name in wanted]

    [group] = groups_of(model, collate_fn([feature]))
    found = gradients(group.embeddings[0], group.pair_contexts())
    for own, other in zip(found, gradients(*plainly(model, feature)[:2]), strict=True):
        assert torch.allclose(own, other, atol=1e-4 * other.abs().max()) and other.abs().max() > 0


@pytest.mark.parametrize("change", [{"entity_pos": [], "hts": []}, {"entity_pos": [[], [[5, 6]]], "hts": AllPairs(2)}])
@torch.no_grad()
def test_a_long_document_without_entities_or_mentions_is_scored(model, change):
    scores, evidence = model(**collate_fn([document(1100, 1) | change]))
    assert scores.shape == (len(change["hts"]), 7) and scores.isfinite().all() and evidence.isfinite().all()


@pytest.mark.slow
@pytest.mark.parametrize("device_way", ["cpu", "gpu"])
@torch.no_grad()
def test_a_plain_reimplementation_agrees_on_real_long_documents(device_way, monkeypatch, minilm, minilm_tokenizer):
    if "DWIE_DIR" not in os.environ:
        pytest.skip("DWIE_DIR is not set")
    if device_way == "gpu":
        monkeypatch.setattr(padded, "PADDED_DEVICES", ["cuda", "cpu"])
    documents = read_json(f"{os.environ['DWIE_DIR']}/test.json")
    longest = sorted(documents, key=lambda own: -sum(map(len, own["sents"])))[:4]
    unlabelled = [{name: own[name] for name in ("title", "sents", "vertexSet")} for own in longest]
    features = featurize(unlabelled, minilm_tokenizer, {"Na": 0}, 10**6, with_evidence=True)
    model = DocREModel(str(minilm), 7, 128, 64).eval()
    for feature in features:
        feature["hts"] = list(feature["hts"])[::37]
        [group] = groups_of(model, collate_fn([feature]))
        expected = plainly(model, feature)
        assert len(feature["input_ids"]) > 1024
        found = (group.embeddings[0], group.pair_contexts(), group.pair_evidence())
        for own, other in zip(found, expected, strict=True):
            assert torch.allclose(own[: len(other)], other, atol=1e-5)


@torch.no_grad()
def test_an_encoder_off_the_fast_path_gives_the_same(model):
    feature = document(1500, 6, seed=5)
    fast = model(**collate_fn([feature]))
    model.model.set_attn_implementation("eager")
    try:
        slow = model(**collate_fn([feature]))
    finally:
        model.model.set_attn_implementation(ATTENTION)
    assert all(torch.allclose(own, other, atol=1e-5) for own, other in zip(fast, slow, strict=True))
