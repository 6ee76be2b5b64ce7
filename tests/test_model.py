"""The model against the released program's scores and against the plain computation."""

import copy
import json
import shutil

import pytest
import torch
from baseline import Baseline
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer

import encoder
import model as model_module
from losses import get_loss
from model import DocREModel, load_run, load_weights, save_run, save_weights
from prepro import featurize, read_docred
from utils import UserError, autocast, collate_fn

CPU = torch.device("cpu")


def score(model, features, precision="fp32"):
    """Scores [pairs, classes] of features, without a gradient."""
    batch = collate_fn(features)
    batch.pop("labels", None)
    with torch.no_grad(), autocast(CPU, precision):
        return model(**batch)


@pytest.fixture(scope="module")
def atlop(minilm, released):
    """The released program's model: its head on the small encoder."""
    model = DocREModel(str(minilm), emb_size=128).eval()
    unexpected = model.load_state_dict(load_file(released / "atlop_head.safetensors"), strict=False).unexpected_keys
    assert not unexpected
    return model


@pytest.fixture(scope="module")
def documents(released, redocred, minilm_tokenizer, rel2id):
    """[(features, the released program's scores in the order of hts)] of seven real documents."""
    features = {f["title"]: f for f in read_docred(redocred / "dev_revised.json", minilm_tokenizer, rel2id)}
    stored = load_file(released / "atlop_logits.safetensors")
    found = []
    for title in (document["title"] for document in json.loads((released / "features.json").read_text())):
        rows = dict(zip(map(tuple, stored[f"pairs/{title}"].tolist()), stored[f"logits/{title}"], strict=True))
        found.append((features[title], torch.stack([rows[tuple(pair)] for pair in features[title]["hts"]])))
    return found


def test_scores_equal_the_released_program_alone_and_batched(atlop, documents):
    for feature, expected in documents:
        assert (score(atlop, [feature]) - expected).abs().max() < 1e-5
    batched = score(atlop, [feature for feature, _ in documents])
    assert (batched - torch.cat([expected for _, expected in documents])).abs().max() < 1e-5


def test_bf16_scores_are_close_to_the_released_program(atlop, documents):
    for feature, expected in documents:
        assert (score(atlop, [feature], "bf16") - expected).abs().max() < 0.05 * expected.abs().max()


@pytest.mark.parametrize("pairs", [30, 32, 33, 129])
@pytest.mark.parametrize(("precision", "tolerance"), [("fp32", 1e-5), ("bf16", None)])
def test_scores_do_not_depend_on_batch_mates(atlop, documents, pairs, precision, tolerance):
    features = [dict(feature) for feature, _ in documents]
    features.append(dict(features[0]))
    alone = features[3]
    alone["hts"] = alone["hts"][:pairs]
    before = sum(len(feature["hts"]) for feature in features[:3])
    single = score(atlop, [{k: v for k, v in alone.items() if k != "labels"}], precision)
    for feature in features:
        feature.pop("labels")
    batched = score(atlop, features, precision)[before : before + pairs]
    assert single.shape == (pairs, 97)
    assert (single - batched).abs().max() < (tolerance or 0.03 * single.abs().max())


def real_shapes(tokenizer, rel2id, sizes):
    """Documents of given numbers of entities and tokens, with two mentions for every other entity."""
    documents = []
    for number, (entities, length) in enumerate(sizes):
        sentence = [f"w{i % 7}" if i % 3 else "river" for i in range(length)]
        step = max(length // (2 * entities + 1), 1)
        vertices = [
            [
                {"name": "x", "sent_id": 0, "pos": [place, place + 1]}
                for place in ([2 * e * step, (2 * e + 1) * step] if e % 2 else [2 * e * step])
            ]
            for e in range(entities)
        ]
        labels = [{"h": 0, "t": 1, "r": "P17", "evidence": []}] if entities > 1 else []
        documents.append({"title": str(number), "sents": [sentence], "vertexSet": vertices, "labels": labels})
    return featurize(documents, tokenizer, rel2id)


SIZES = [(1, 20), (2, 30), (20, 150), (42, 180), (20, 600), (2, 560)]


@pytest.mark.parametrize("family", ["tiny_bert", "tiny_roberta", "tiny_distilbert"])
def test_scores_and_gradients_equal_the_plain_computation(family, request, rel2id):
    path = str(request.getfixturevalue(family))
    features = real_shapes(AutoTokenizer.from_pretrained(path), rel2id, SIZES)
    lengths = [len(feature["input_ids"]) for feature in features]
    assert min(lengths) < 512 < max(lengths) <= 1024
    torch.manual_seed(0)
    model = DocREModel(path, emb_size=128).eval()
    batch = collate_fn(features)
    labels = batch.pop("labels")
    results = []
    for scores in (model(**batch), Baseline(model, path)(features)):
        loss = get_loss("atl")(scores, labels)
        model.zero_grad()
        loss.backward()
        gradients = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
        results.append((scores.detach(), loss.item(), gradients))
    (scores, loss, gradients), (expected, expected_loss, expected_gradients) = results
    torch.testing.assert_close(scores, expected, rtol=0, atol=1e-5)
    assert loss == pytest.approx(expected_loss, rel=1e-5)
    assert gradients.keys() == expected_gradients.keys()
    largest = max(gradient.norm() for gradient in expected_gradients.values())
    for name, gradient in gradients.items():
        difference = (gradient - expected_gradients[name]).norm()
        assert difference < 1e-4 * expected_gradients[name].norm() + 1e-6 * largest, name


def test_unknown_encoder_family_is_announced(tiny_distilbert, capsys):
    DocREModel(str(tiny_distilbert), emb_size=64)
    assert "distilbert" in capsys.readouterr().err


def test_attention_is_computed_at_mention_rows_only_and_in_full_in_the_last_training_layer(
    tiny_bert, minilm_tokenizer, rel2id, monkeypatch
):
    batch = collate_fn(real_shapes(minilm_tokenizer, rel2id, [(3, 40)]))
    batch.pop("labels")
    [length], [mentions] = batch["lengths"], map(len, batch["mention_pos"])
    model = DocREModel(str(tiny_bert), emb_size=64)
    shapes = []

    def spy(query, *rest):
        shapes.append(tuple(query.shape[:3]))
        return weights(query, *rest)

    weights = encoder.attention_weights
    monkeypatch.setattr(encoder, "attention_weights", spy)
    model.eval()(**batch)
    assert shapes == [(1, 4, mentions)]
    model.train()(**batch)
    assert shapes == [(1, 4, mentions), (1, 4, length)]


def test_training_reads_attention_after_dropout(tiny_bert, minilm_tokenizer, rel2id):
    batch = collate_fn(real_shapes(minilm_tokenizer, rel2id, [(20, 150)]))
    model = DocREModel(str(tiny_bert), emb_size=64).train()
    [(_, attention)] = encoder.encode(model.model, batch["input_ids"], batch["lengths"], batch["mention_pos"])
    share = (attention == 0).float().mean().item()
    assert 0.08 < share < 0.12  # dropout 0.1
    [(_, attention)] = encoder.encode(model.eval().model, batch["input_ids"], batch["lengths"], batch["mention_pos"])
    torch.testing.assert_close(attention.sum(-1), torch.ones_like(attention.sum(-1)))


@pytest.mark.parametrize("sizes", [[(0, 10)], [(1, 10)], [(0, 10), (5, 50), (1, 10)]])
def test_documents_without_pairs_go_through_training(tiny_bert, minilm_tokenizer, rel2id, sizes):
    model = DocREModel(str(tiny_bert), emb_size=64).train()
    batch = collate_fn(real_shapes(minilm_tokenizer, rel2id, sizes))
    labels = batch.pop("labels")
    scores = model(**batch)
    assert scores.shape == labels.shape
    get_loss("hingeabl")(scores, labels).backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())


def test_an_entity_whose_mentions_were_cut_off_has_zero_embedding(tiny_bert, minilm_tokenizer, rel2id):
    [whole] = real_shapes(minilm_tokenizer, rel2id, [(4, 60)])
    cut = copy.deepcopy(whole)
    cut["entity_pos"][3] = [[5000, 5003]]
    cut.pop("labels")
    model = DocREModel(str(tiny_bert), emb_size=64).eval()
    scores = score(model, [cut])
    assert scores.isfinite().all()
    torch.testing.assert_close(scores, Baseline(model, str(tiny_bert))([cut]).detach(), rtol=0, atol=1e-5)


def test_sliced_bilinear_gradients_equal_finite_differences(monkeypatch):
    monkeypatch.setattr(model_module, "PAIRS_PER_SLICE", 2)
    torch.manual_seed(0)
    head, tail, weight = (
        torch.randn(*shape, dtype=torch.float64, requires_grad=True) for shape in [(5, 6), (5, 6), (4, 18)]
    )
    apply = model_module.SlicedBilinear.apply
    assert torch.autograd.gradcheck(lambda h, t, w: apply(h, t, w, 3, torch.float64), (head, tail, weight))


def test_documents_longer_than_two_windows_are_refused(tiny_bert):
    model = DocREModel(str(tiny_bert), emb_size=64)
    feature = {"title": "long", "input_ids": [1] * 1100, "entity_pos": [], "hts": []}
    with pytest.raises(UserError, match="--max_seq_length 1024"):
        score(model, [feature])


def test_a_saved_run_loads_from_its_folder_alone(tiny_bert, minilm_tokenizer, rel2id, tmp_path):
    features = real_shapes(minilm_tokenizer, rel2id, [(5, 60)])
    model = DocREModel(str(tiny_bert), emb_size=64).eval()
    save_run(tmp_path, model, minilm_tokenizer)
    save_weights(tmp_path / "model.safetensors", model)
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
    save_weights(tmp_path / "model.safetensors", model)
    path = tmp_path / "half.safetensors"
    path.write_bytes((tmp_path / "model.safetensors").read_bytes()[:1000])
    with pytest.raises(UserError, match="not a whole safetensors file"):
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
        featurize([], encoder.load_tokenizer(broken(tiny_bert, tmp_path, remove)), rel2id)


@pytest.mark.parametrize("name", ["bert_of_1997", "docred"])
def test_an_unknown_backbone_is_refused(tiny_bert, name):
    with pytest.raises(UserError, match="no such representation module"):
        DocREModel(str(tiny_bert), backbone=name)
