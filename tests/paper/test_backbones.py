"""The three representation modules: against stored scores, on large documents, from checkpoints."""

import copy
import re
from collections import OrderedDict

import pytest
import torch
from conftest import ROOT
from model_scores import (
    BACKBONES,
    STEP,
    drawn_model,
    half_precision,
    largest_differences,
    real_shapes,
    score,
    stored_scores,
)

from hingeabl.errors import UserError
from hingeabl.modeling.checkpoints import save_weights
from hingeabl.modeling.layers import AxialTransformer
from hingeabl.training.saved_run import load_run, load_weights, save_run
from losses import get_loss
from model import MAP_SIZE, DocREModel, Entities, KDDocRE
from utils import collate_fn

pytestmark = pytest.mark.usefixtures("way")

SMALL = {"emb_size": 64, "unet_channels": 16, "axial_layers": 2}


@pytest.mark.parametrize("backbone", BACKBONES)
def test_scores_equal_the_stored_ones_alone_and_batched(backbone, minilm, minilm_tokenizer, rel2id):
    documents = stored_scores(backbone, minilm_tokenizer, rel2id)
    assert len(documents) == 6
    assert max(largest_differences(drawn_model(backbone, minilm), documents, STEP)) < 1e-5


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
@pytest.mark.parametrize("backbone", BACKBONES)
def test_half_precision_scores_are_close_to_the_stored_ones_and_not_rounded(
    backbone, precision, minilm, minilm_tokenizer, rel2id
):
    documents = stored_scores(backbone, minilm_tokenizer, rel2id)[2:5]  # one of two windows; fp16 is slow on a CPU
    differences, unrounded = half_precision(drawn_model(backbone, minilm), documents, precision, STEP)
    assert (differences < 0.05).all()
    assert (unrounded > 0.5).all()  # rounded scores would tie with the threshold


@pytest.mark.parametrize("backbone", BACKBONES)
def test_sixty_entities_train_and_predict_and_leave_batch_mates_alone(backbone, tiny_bert, minilm_tokenizer, rel2id):
    features = real_shapes(minilm_tokenizer, rel2id, [(5, 60), (60, 400), (7, 60)])
    torch.manual_seed(0)
    model = DocREModel(str(tiny_bert), backbone=backbone, **SMALL)
    batch = collate_fn(features)
    labels = batch.pop("labels")
    get_loss("hingeabl_released")(model(**batch), labels).backward()
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)
    assert all(p.grad is not None for p in model.parameters())
    model.eval()
    alone = torch.cat([score(model, [feature]) for feature in features])
    torch.testing.assert_close(score(model, features), alone, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("training", [False, True])
def test_the_folded_map_of_kd_docre_equals_the_whole_one(training, tiny_bert, minilm_tokenizer, rel2id, monkeypatch):
    """One row and one column in the place of all empty slots: the same scores and gradients as with all of them."""
    torch.manual_seed(0)
    model = DocREModel(str(tiny_bert), backbone="kd_docre", **SMALL).eval()
    features = real_shapes(minilm_tokenizer, rel2id, [(3, 60), (42, 200), (50, 200)])
    batch = collate_fn(features)
    labels = batch.pop("labels")
    pair_maps = KDDocRE.pair_maps

    def folded(self, groups):
        self.training = training  # of the map alone: no dropout
        maps, counts = pair_maps(self, groups)
        self.training = False
        return maps, counts

    def whole(self, groups):
        maps, _ = folded(self, groups)
        size = max(MAP_SIZE, maps.shape[1] - 1)
        unfolded, counts = [], []
        for slots, entities in zip(maps, batch["num_entities"], strict=True):
            own = max(MAP_SIZE, entities)
            index = torch.arange(size).clamp(max=entities)  # all empty slots are the one behind the last entity
            unfolded.append(slots[index][:, index])
            counts.append((torch.arange(size) < own).float())
        return torch.stack(unfolded), torch.stack(counts)

    results = []
    for make_maps in (folded, whole):
        monkeypatch.setattr(KDDocRE, "pair_maps", make_maps)
        model.zero_grad()
        scores = model(**batch)
        get_loss("afl")(scores, labels).backward()
        results.append((scores.detach(), {name: p.grad for name, p in model.named_parameters() if p.grad is not None}))
    (scores, gradients), (expected, expected_gradients) = results
    torch.testing.assert_close(scores, expected, rtol=1e-4, atol=1e-5)
    assert gradients.keys() == expected_gradients.keys()
    largest = max(gradient.norm() for gradient in expected_gradients.values())
    for name, gradient in gradients.items():
        assert (gradient - expected_gradients[name]).norm() < 1e-4 * expected_gradients[name].norm() + 1e-6 * largest


def test_kd_docres_empty_slots_are_zero_in_training_only(tiny_bert):
    torch.manual_seed(0)
    model = DocREModel(str(tiny_bert), backbone="kd_docre", **SMALL)
    document = Entities(torch.randn(1, 3, 32), torch.randn(1, 3, 3, 32), torch.zeros(0, 3, dtype=torch.long), [3])
    for training in (True, False):
        maps, counts = model.train(training).pair_maps([document])
        assert maps.shape == (1, 4, 4, 32) and counts.tolist() == [[1, 1, 1, MAP_SIZE - 3]]
        empty = torch.cat([maps[0, 3], maps[0, :3, 3]])
        assert (empty == 0).all() == training and (empty == empty[0]).all()
        assert (maps[0, :3, :3] != 0).any(dim=-1).all()


def test_the_axial_transformers_norms_have_float32s_gradients_in_bf16():
    torch.manual_seed(0)
    transformer = AxialTransformer(hidden=64, layers=6)
    maps, counts = torch.randn(1, 20, 20, 64), torch.ones(1, 20)
    direction = torch.randn(1, 20, 20, 64)
    gradients = []
    for enabled in (False, True):
        transformer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            found = transformer(maps, counts)
        assert found.dtype == torch.float32
        (found * direction).sum().backward()
        gradients.append([norm.weight.grad.clone() for norm in transformer.lns])
    for exact, half in zip(*gradients, strict=True):
        assert (half - exact).norm() < 0.05 * exact.norm()


def test_axial_attention_adds_a_slots_column_and_row():
    """One layer at one slot, written out: the first attention runs along the head index, the second along the tail."""
    torch.manual_seed(0)
    transformer = AxialTransformer(hidden=8, layers=1, heads=2).double()
    maps = torch.randn(1, 5, 5, 8, dtype=torch.float64)
    counts = torch.tensor([[1.0, 1, 1, 3, 0]], dtype=torch.float64)
    found = transformer(maps, counts)[0, 2, 1]
    lines = maps[0, :, 1], maps[0, 2]  # the slots with the same tail, those with the same head
    x = maps[0, 2, 1]
    attended = torch.zeros(8, dtype=torch.float64)
    for axis, line in zip(transformer.axial_attns[0]["axial_attentions"], lines, strict=True):
        line = torch.cat([line[:4], line[3:4], line[3:4]])  # the fourth stands for three, the fifth for none
        layers = axis["fn"]
        query, (key, value) = layers.to_q(x), layers.to_kv(line).chunk(2, dim=-1)
        heads = []
        for part in (slice(0, 4), slice(4, 8)):
            weights = torch.softmax(key[:, part] @ query[part] / 2, dim=0)  # sqrt(8 / 2) = 2
            heads.append(weights @ value[:, part])
        attended = attended + layers.to_out(torch.cat(heads))
    expected = transformer.lns[0](transformer.ffns[0](x + attended))
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("backbone", BACKBONES[1:])
def test_a_run_loads_with_its_backbone(backbone, tiny_bert, minilm_tokenizer, rel2id, tmp_path):
    features = real_shapes(minilm_tokenizer, rel2id, [(5, 60)])
    model = DocREModel(str(tiny_bert), backbone=backbone, **SMALL).eval()
    save_run(tmp_path, model, minilm_tokenizer)
    save_weights(tmp_path / "model.safetensors", model, epoch=1)
    loaded = load_run(tmp_path).eval()
    assert type(loaded) is type(model) is type(copy.deepcopy(model))
    assert torch.equal(score(loaded, features), score(model, features))


def test_released_names_and_torch_files_load(tiny_bert, tmp_path):
    torch.manual_seed(0)
    source, target = (DocREModel(str(tiny_bert), backbone="docunet", **SMALL) for _ in range(2))
    names = {"model." + name: tensor for name, tensor in source.model.state_dict().items()}
    released = OrderedDict((name.replace("model.", "bert_model.", 1), tensor + 1) for name, tensor in names.items())
    released["bert_model.embeddings.position_ids"] = torch.arange(3)
    rest = {name: tensor for name, tensor in source.state_dict().items() if name not in names}
    released.update(rest)
    torch.save({"checkpoint": released, "epoch": torch.tensor(3)}, tmp_path / "docunet.pt")
    load_weights(target, tmp_path / "docunet.pt")
    for name, tensor in target.state_dict().items():
        assert torch.equal(tensor, source.state_dict()[name] + (name in names))
    with pytest.raises(UserError, match=r"model\.embeddings.* is missing.*use the backbone"):
        torch.save(rest, tmp_path / "rest.pt")
        load_weights(target, tmp_path / "rest.pt")
    kd_docre = DocREModel(str(tiny_bert), backbone="kd_docre", **SMALL)
    stored = {**kd_docre.state_dict(), "bilinear.weight": torch.zeros(97, 64 * 64), "bilinear.bias": torch.zeros(97)}
    torch.save(stored, tmp_path / "kd_docre.pt")
    load_weights(kd_docre, tmp_path / "kd_docre.pt")


class Malicious:
    """What a pickle may hold: a call."""

    def __reduce__(self):
        return print, ("this ran",)


@pytest.mark.parametrize("content", [{"model": Malicious()}, [torch.zeros(1)], {"step": 3}, {0: torch.zeros(1)}])
def test_a_torch_file_of_anything_but_tensors_is_refused_and_not_run(content, tiny_bert, tmp_path, capsys):
    torch.save(content, tmp_path / "model.pt")
    with pytest.raises(UserError, match=r"model\.pt: .*than (named )?tensors"):
        load_weights(DocREModel(str(tiny_bert), emb_size=64), tmp_path / "model.pt")
    assert "this ran" not in capsys.readouterr().out


@pytest.mark.parametrize("content", [b"", b"hello world", b"PK\x03\x04 cut"])
def test_a_broken_torch_file_is_refused_in_one_line(content, tiny_bert, tmp_path):
    (tmp_path / "model.pt").write_bytes(content)
    with pytest.raises(UserError, match=r"model\.pt: (is broken|not a whole checkpoint)") as error:
        load_weights(DocREModel(str(tiny_bert), emb_size=64), tmp_path / "model.pt")
    assert "weights_only" not in str(error.value) and "\n" not in str(error.value)


def test_an_unknown_backbone_is_refused_with_the_known_ones(tiny_bert):
    with pytest.raises(UserError, match=r"--backbone other: no such .*choose from atlop, docunet, kd_docre"):
        DocREModel(str(tiny_bert), backbone="other")


def test_the_fourth_module_of_the_docs_trains(tiny_bert, minilm_tokenizer, rel2id, monkeypatch):
    monkeypatch.setattr(DocREModel, "backbones", dict(DocREModel.backbones))
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "docs/extend.md").read_text(), re.DOTALL)
    [example] = [block for block in blocks if "(DocREModel, backbone=" in block]
    assert len(example.splitlines()) <= 12
    import model as model_module

    before = set(DocREModel.backbones)  # more than ours, where somebody has added one
    exec(example, vars(model_module) | {})
    [name] = set(DocREModel.backbones) - before
    model = DocREModel(str(tiny_bert), emb_size=64, backbone=name)
    batch = collate_fn(real_shapes(minilm_tokenizer, rel2id, [(5, 60), (3, 60)]))
    labels = batch.pop("labels")
    scores = model(**batch)
    assert scores.shape == labels.shape and scores.dtype == torch.float32
    get_loss("atl")(scores, labels).backward()
    assert model.head_extractor.weight.grad.norm() > 0
