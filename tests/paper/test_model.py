"""The model against the plain computation."""

import copy
import gc
import json
import math
import shutil

import numpy as np
import pytest
import torch
from baseline import Baseline
from model_scores import DATA, drawn_model, real_shapes, score
from safetensors.torch import load_file, save_file
from transformers import AttentionInterface, AutoTokenizer

from hingeabl.data.tokenizer import load_tokenizer
from hingeabl.errors import UserError
from hingeabl.modeling import attention, bilinear, encoder, padded
from hingeabl.modeling.checkpoints import save_weights
from hingeabl.training.saved_run import load_run, load_weights, save_run
from losses import get_loss
from model import DocREModel
from prepro import featurize, read_docred
from utils import collate_fn


@pytest.fixture(scope="module")
def atlop(minilm):
    return drawn_model("atlop", minilm)


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("pairs", [30, 32, 33, 129])
@pytest.mark.parametrize(("precision", "tolerance"), [("fp32", 1e-5), ("bf16", None)])
def test_scores_do_not_depend_on_batch_mates(atlop, minilm_tokenizer, rel2id, pairs, precision, tolerance):
    features = read_docred(DATA / "sample_documents.json", minilm_tokenizer, rel2id)
    features.append(features[0])
    alone = features[3]
    alone["hts"], alone["labels"] = alone["hts"][:pairs], np.asarray(alone["labels"])[:pairs]
    before = sum(len(feature["hts"]) for feature in features[:3])
    single = score(atlop, [alone], precision)
    batched = score(atlop, features, precision)[before : before + pairs]
    assert single.shape == (pairs, 97)
    assert (single - batched).abs().max() < (tolerance or 0.03 * single.abs().max())


SIZES = [(1, 20), (2, 30), (20, 150), (1, 560), (2, 560), (12, 600)]  # entities and word pieces of documents
LARGE = [(42, 180), (42, 700)]


@pytest.mark.parametrize(
    "family", ["tiny_bert", "tiny_roberta", pytest.param("tiny_distilbert", marks=pytest.mark.slow)]
)
@pytest.mark.parametrize("sizes", [SIZES, pytest.param(SIZES + LARGE, marks=pytest.mark.slow)], ids=["usual", "large"])
def test_scores_and_gradients_equal_the_plain_computation(family, sizes, request, rel2id, monkeypatch):
    path = str(request.getfixturevalue(family))
    features = real_shapes(AutoTokenizer.from_pretrained(path), rel2id, sizes)
    lengths = [len(feature["input_ids"]) for feature in features]
    assert min(lengths) < 512 < max(lengths) <= 1024
    torch.manual_seed(0)
    model = DocREModel(path, emb_size=128).eval()
    batch = collate_fn(features)
    labels = batch.pop("labels")

    def loss_and_gradients(scores):
        loss = get_loss("atl")(scores, labels)
        model.zero_grad()
        loss.backward()
        return loss.item(), {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}

    expected = Baseline(model, path)(features)
    expected_loss, expected_gradients = loss_and_gradients(expected)
    largest = max(gradient.norm() for gradient in expected_gradients.values())
    assert "cpu" not in padded.PADDED_DEVICES
    for devices in (padded.PADDED_DEVICES, ["cpu"]):  # documents one after the other, and all at once
        monkeypatch.setattr(padded, "PADDED_DEVICES", devices)
        scores = model(**batch)
        loss, gradients = loss_and_gradients(scores)
        torch.testing.assert_close(scores, expected, rtol=0, atol=1e-5)
        assert loss == pytest.approx(expected_loss, rel=1e-5)
        assert gradients.keys() == expected_gradients.keys()
        for name, gradient in gradients.items():
            difference = (gradient - expected_gradients[name]).norm()
            assert difference < 1e-4 * expected_gradients[name].norm() + 1e-6 * largest, name


def test_unknown_encoder_family_is_announced(tiny_distilbert, capsys):
    DocREModel(str(tiny_distilbert), emb_size=64)
    assert "distilbert" in capsys.readouterr().err


def test_the_fast_path_hands_out_the_last_layers_attention_at_mention_rows_alone(
    tiny_bert, minilm_tokenizer, rel2id, monkeypatch
):
    batch = collate_fn(real_shapes(minilm_tokenizer, rel2id, [(3, 40)]))
    batch.pop("labels")
    [length], [mentions] = batch["lengths"], map(len, batch["mention_pos"])
    model = DocREModel(str(tiny_bert), emb_size=64)
    rows = []

    def spy(query, *rest):
        rows.append(query.shape[1])
        return weights(query, *rest)

    weights = attention.attention
    monkeypatch.setattr(attention, "attention", spy)
    for training in (False, True):
        rows.clear()
        model.train(training)
        [encoded] = encoder.encode(model.model, *list(batch.values())[:4])
        read = encoded.attention[0]
        first, second, last = rows  # two layers, and the rows of the second
        assert first == second >= length and last == mentions
        assert read.shape == (4, mentions, length)


def test_the_attention_function_refuses_padding_that_it_would_not_mask(tiny_bert):
    model = DocREModel(str(tiny_bert), emb_size=64)
    ids = torch.ones(1, 6, dtype=torch.long)
    with pytest.raises(ValueError, match=r"call encode\(\)"):
        model.model(input_ids=ids, attention_mask=torch.tensor([[1, 1, 1, 1, 0, 0]]), windows=[])


def test_an_encoder_whose_windows_see_each_other_leaves_the_fast_path(tiny_bert, monkeypatch, capsys):
    def one_window(module, query, key, value, *rest, windows, **kwargs):
        whole = [attention.PackedWindow(query.shape[2], query.shape[2], None, windows[0].rows)]
        return attention.attend_in_windows(module, query, key, value, None, whole, **kwargs)

    attention.register_attention()
    AttentionInterface.register(attention.ATTENTION, one_window)
    try:
        model = DocREModel(str(tiny_bert), emb_size=64)
    finally:
        AttentionInterface.register(attention.ATTENTION, attention.attend_in_windows)
    assert "new to the fast path" in capsys.readouterr().err
    assert model.model.config._attn_implementation == "eager"


@pytest.mark.parametrize("family", ["tiny_bert", "tiny_roberta"])
def test_bert_and_roberta_take_the_fast_path(family, request, capsys):
    path = str(request.getfixturevalue(family))
    capsys.readouterr()
    DocREModel(path, emb_size=64)
    assert not capsys.readouterr().err


@pytest.mark.parametrize("dropout", [0.1, 0.25, 0.5, 0.99, 255 / 256])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_dropout_masks_have_the_statistics_of_independent_draws(dropout, dtype):
    torch.manual_seed(0)
    dropped = 1 - attention.keep_mask((40, 200, 250), dropout, torch.empty(0, dtype=dtype)).double()
    assert set(dropped.unique().tolist()) == {0, 1}
    count, variance = dropped.numel(), dropout * (1 - dropout)
    assert abs(dropped.mean().item() - dropout) < 5 * math.sqrt(variance / count)
    for axis in range(3):  # neighbours along any axis fall together as often as independent ones do
        first, second = (
            dropped.narrow(axis, 0, dropped.shape[axis] - 1),
            dropped.narrow(axis, 1, dropped.shape[axis] - 1),
        )
        together = (first * second).mean().item()
        assert abs(together - dropout**2) < 6 * math.sqrt(dropout**2 / first.numel())


@pytest.mark.parametrize("setting", ["hidden_dropout_prob", "attention_probs_dropout_prob"])
@pytest.mark.parametrize("dropout", [0.999, 1.0])
def test_a_dropout_that_cannot_be_drawn_is_refused(setting, dropout, tiny_bert, tmp_path):
    folder = shutil.copytree(tiny_bert, tmp_path / "encoder")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {setting: dropout}))
    with pytest.raises(UserError, match=f"{setting} in its config.json is {dropout:g}"):
        DocREModel(str(folder), emb_size=64)
    with pytest.raises(ValueError, match="must be from 0"):
        attention.keep_mask((2, 3), dropout, torch.empty(0))


def test_dropped_attention_gradients_equal_finite_differences():
    torch.manual_seed(0)
    query, key, value = (torch.randn(2, 5, 3, dtype=torch.float64, requires_grad=True) for _ in range(3))
    mask = torch.tensor([0, 0, 0, 0, -math.inf], dtype=torch.float64).view(1, 1, 5)
    keep = attention.keep_mask((2, 5, 5), 0.4, query)
    apply = attention.DroppedAttention.apply
    assert torch.autograd.gradcheck(lambda q, k, v: apply(q, k, v, mask, keep, 0.7, 0.4), (query, key, value))
    expected = (query @ key.mT * 0.7 + mask).softmax(-1) * keep / 0.6 @ value
    torch.testing.assert_close(apply(query, key, value, mask, keep, 0.7, 0.4), expected)


@pytest.mark.usefixtures("way")
def test_gradient_checkpointing_changes_no_gradient(tiny_bert, minilm_tokenizer, rel2id):
    batch = collate_fn(real_shapes(minilm_tokenizer, rel2id, [(5, 60), (4, 600)]))
    labels = batch.pop("labels")
    gradients = []
    for wanted in (False, True):
        torch.manual_seed(0)
        model = DocREModel(str(tiny_bert), emb_size=64).train()
        if wanted:
            encoder.checkpoint_layers(model.model)
        torch.manual_seed(1)  # the same dropout
        get_loss("atl")(model(**batch), labels).backward()
        gradients.append({name: p.grad for name, p in model.named_parameters() if p.grad is not None})
    assert gradients[0].keys() == gradients[1].keys()
    assert all(torch.equal(gradients[0][name], gradients[1][name]) for name in gradients[0])


def tensors_with_a_graph():
    gc.collect()
    return sum(type(found) is torch.Tensor and found.grad_fn is not None for found in gc.get_objects())


@pytest.mark.usefixtures("way")
def test_gradient_checkpointing_keeps_no_graph_after_the_backward_pass(tiny_bert, minilm_tokenizer, rel2id):
    batch = collate_fn(real_shapes(minilm_tokenizer, rel2id, [(5, 60)]))
    labels = batch.pop("labels")
    model = DocREModel(str(tiny_bert), emb_size=64).train()
    encoder.checkpoint_layers(model.model)
    before = tensors_with_a_graph()
    get_loss("atl")(model(**batch), labels).backward()
    assert tensors_with_a_graph() == before


def test_gradient_checkpointing_of_an_unknown_encoder_is_refused(tiny_distilbert):
    with pytest.raises(UserError, match="--gradient_checkpointing"):
        encoder.checkpoint_layers(DocREModel(str(tiny_distilbert), emb_size=64).model)


@pytest.mark.usefixtures("way")
def test_training_reads_attention_after_dropout(tiny_bert, minilm_tokenizer, rel2id):
    batch = collate_fn(real_shapes(minilm_tokenizer, rel2id, [(20, 150)]))
    model = DocREModel(str(tiny_bert), emb_size=64).train()
    inputs = list(batch.values())[:4]
    attention = encoder.encode(model.model, *inputs)[0].attention
    share = (attention == 0).float().mean().item()
    assert 0.08 < share < 0.12  # dropout 0.1
    attention = encoder.encode(model.eval().model, *inputs)[0].attention
    torch.testing.assert_close(attention.sum(-1), torch.ones_like(attention.sum(-1)))


@pytest.mark.parametrize("family", ["tiny_bert", "tiny_roberta"])
def test_both_ways_hand_out_the_same_embeddings_and_attention(family, request, rel2id, monkeypatch):
    path = str(request.getfixturevalue(family))
    batch = collate_fn(real_shapes(AutoTokenizer.from_pretrained(path), rel2id, SIZES))
    model = DocREModel(path, emb_size=64).eval()
    alone = encoder.encode(model.model, *list(batch.values())[:4])
    monkeypatch.setattr(padded, "PADDED_DEVICES", ["cpu"])
    [together] = encoder.encode(model.model, *list(batch.values())[:4])
    assert len(alone) == len(together.tokens) == len(SIZES)
    for number, expected in enumerate(alone):
        _, _, mentions, length = expected.attention.shape
        attention = together.attention[number, :, :mentions]
        torch.testing.assert_close(together.tokens[number, :length], expected.tokens[0], rtol=0, atol=1e-5)
        torch.testing.assert_close(attention[..., :length], expected.attention[0], rtol=0, atol=1e-6)
        assert not attention[..., length:].any()
        assert together.entity[number, :mentions].equal(expected.entity[0])
        assert (together.entity[number, mentions:] == -1).all()


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("sizes", [[(0, 10)], [(1, 10)], [(0, 10), (5, 50), (1, 10)]])
@pytest.mark.parametrize("backbone", DocREModel.backbones)
def test_documents_without_pairs_go_through_training(tiny_bert, minilm_tokenizer, rel2id, sizes, backbone):
    model = DocREModel(str(tiny_bert), emb_size=64, backbone=backbone, unet_channels=16, axial_layers=1).train()
    batch = collate_fn(real_shapes(minilm_tokenizer, rel2id, sizes))
    labels = batch.pop("labels")
    scores = model(**batch)
    assert scores.shape == labels.shape
    get_loss("hingeabl")(scores, labels).backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())


@pytest.mark.usefixtures("way")
def test_an_entity_whose_mentions_were_cut_off_has_zero_embedding(tiny_bert, minilm_tokenizer, rel2id):
    [whole] = real_shapes(minilm_tokenizer, rel2id, [(4, 60)])
    cut = copy.deepcopy(whole)
    cut["entity_pos"][3] = [[5000, 5003]]
    cut.pop("labels")
    model = DocREModel(str(tiny_bert), emb_size=64).eval()
    scores = score(model, [cut])
    assert scores.isfinite().all()
    torch.testing.assert_close(scores, Baseline(model, str(tiny_bert))([cut]).detach(), rtol=0, atol=1e-5)


@pytest.mark.usefixtures("way")
def test_grouped_bilinear_equals_the_whole_outer_product_and_finite_differences():
    torch.manual_seed(0)
    head, tail, weight = (
        torch.randn(*shape, dtype=torch.float64, requires_grad=True) for shape in [(5, 6), (5, 6), (4, 18)]
    )
    apply = bilinear.GroupedBilinear.apply
    assert torch.autograd.gradcheck(lambda h, t, w: apply(h, t, w, 3), (head, tail, weight))
    outer = (head.unflatten(1, (2, 3, 1)) * tail.unflatten(1, (2, 1, 3))).flatten(1)
    torch.testing.assert_close(apply(head, tail, weight, 3), outer @ weight.T)


def test_a_saved_run_loads_from_its_folder_alone(tiny_bert, minilm_tokenizer, rel2id, tmp_path):
    features = real_shapes(minilm_tokenizer, rel2id, [(5, 60)])
    model = DocREModel(str(tiny_bert), emb_size=64).eval()
    save_run(tmp_path, model, minilm_tokenizer)
    save_weights(tmp_path / "model.safetensors", model, epoch=1)
    assert torch.equal(score(load_run(tmp_path).eval(), features), score(model, features))


def test_a_checkpoint_that_does_not_fit_is_refused_and_changes_nothing(tiny_bert, tmp_path):
    model = DocREModel(str(tiny_bert), emb_size=64)
    before = copy.deepcopy(model.state_dict())
    weights = {name: tensor.clone() + 1 for name, tensor in before.items()}
    weights["extra"] = weights.pop("bilinear.bias")
    weights["head_extractor.bias"] = torch.zeros(3)
    save_file(weights, tmp_path / "other.safetensors")
    expected = r"bilinear.bias is missing; extra is left over; head_extractor.bias has shape \[3\], not \[64\]"
    with pytest.raises(UserError, match=expected):
        load_weights(model, tmp_path / "other.safetensors")
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


def test_a_truncated_checkpoint_is_refused(tiny_bert, tmp_path):
    model = DocREModel(str(tiny_bert), emb_size=64)
    save_weights(tmp_path / "model.safetensors", model, epoch=1)
    path = tmp_path / "half.safetensors"
    path.write_bytes((tmp_path / "model.safetensors").read_bytes()[:1000])
    with pytest.raises(UserError, match="not a whole checkpoint"):
        load_weights(model, path)


def broken(folder, tmp_path, change):
    """A copy of an encoder's folder with something broken in it."""
    copied = shutil.copytree(folder, tmp_path / "encoder")
    change(copied)
    return str(copied)


def rename_weights(folder):
    weights = load_file(folder / "model.safetensors")
    save_file({f"other.{name}": tensor for name, tensor in weights.items()}, folder / "model.safetensors")


def cut_weights(folder):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:1000])


def widen_config(folder):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "hidden_size": 64}))


def empty_config(folder):
    (folder / "config.json").write_text("[]")


@pytest.mark.parametrize("change", [shutil.rmtree, rename_weights, cut_weights, widen_config, empty_config])
def test_an_encoder_that_cannot_be_loaded_whole_is_refused(tiny_bert, tmp_path, change):
    with pytest.raises(UserError, match="cannot be loaded"):
        DocREModel(broken(tiny_bert, tmp_path, change))


def test_an_encoder_folder_without_its_vocabulary_is_refused(tiny_bert, tmp_path, rel2id):
    def remove(folder):
        for path in folder.glob("*token*"):
            path.unlink()

    with pytest.raises(UserError, match="tokenizer"):
        featurize([], load_tokenizer(broken(tiny_bert, tmp_path, remove)), rel2id)
