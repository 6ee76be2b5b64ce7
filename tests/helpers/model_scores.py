"""What tests of models share: models and scores, stored and of the released programs, and documents of given sizes."""

import json
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file

from losses import get_loss
from model import DocREModel
from prepro import featurize, read_docred
from utils import AUTOCAST_DTYPE, autocast, collate_fn

CPU = torch.device("cpu")
DATA = Path(__file__).parents[1] / "data"
BACKBONES = ("atlop", "docunet", "kd_docre")
STEP = 3  # of each document's pairs in order, every third has its scores in data/logits.safetensors


def loss_with_priors(name, relations=96):
    """A loss, with rates of its relations in training where it needs them."""
    return get_loss(name, priors=[(number * 7 % relations + 1) / (20 * relations) for number in range(relations)])


def with_thresholds(scores, loss):
    """Scores [pairs, classes] with columns for the loss's further thresholds behind the classes."""
    return torch.cat([scores, scores[:, 1 : loss.definition.thresholds]], dim=1)


def score(model, features, precision="fp32"):
    """Scores [pairs, classes] of features, without a gradient."""
    batch = collate_fn(features)
    batch.pop("labels", None)
    with torch.no_grad(), autocast(CPU, precision):
        return model(**batch)


def drawn_model(backbone, minilm):
    """The model of data/logits.safetensors: the small encoder, and the rest drawn from a seed."""
    model = DocREModel(str(minilm), emb_size=128, backbone=backbone, unet_channels=16, axial_layers=2).eval()
    draw_weights(model)
    return model


def draw_weights(model, seed=20):
    """Set all weights but the encoder's, in the order of their names, to numbers that PCG64 draws from a seed.

    Only its uniform numbers are taken, which are the same in every version of numpy.
    """
    generator = np.random.default_rng(seed)
    for name, tensor in sorted(model.state_dict().items()):
        if name.startswith("model."):
            continue
        if not tensor.is_floating_point():  # batch norm's counter
            tensor.fill_(1)
            continue
        numbers = 2 * generator.random(tuple(tensor.shape)) - 1
        if tensor.dim() > 1:
            numbers *= (3 / tensor[0].numel()) ** 0.5  # variance 1 / fan-in
        elif name.endswith(("running_var", ".weight")):  # a norm's
            numbers = 1 + numbers / 2
        else:
            numbers /= 4
        tensor.copy_(torch.from_numpy(numbers))


def stored_scores(backbone, tokenizer, rel2id):
    """[(features, stored scores of every STEP-th pair)] of the documents of tests/data."""
    stored = load_file(DATA / "logits.safetensors")
    features = read_docred(DATA / "sample_documents.json", tokenizer, rel2id)
    return [(feature, stored[f"{backbone}/{feature['title']}"]) for feature in features]


def released_model(backbone, minilm, released):
    """A released program's model: what it has beyond the encoder, on the small encoder."""
    model = DocREModel(str(minilm), emb_size=128, backbone=backbone, unet_channels=32, axial_layers=2).eval()
    found = model.load_state_dict(load_file(released / f"{backbone}_head.safetensors"), strict=False)
    assert not found.unexpected_keys and all(name.startswith("model.") for name in found.missing_keys)
    return model


def released_scores(backbone, released, features):
    """[(features, the released program's scores in the order of hts)] of the seven real documents, out of the features
    of all."""
    features = {feature["title"]: feature for feature in features}
    stored = load_file(released / f"{backbone}_logits.safetensors")
    found = []
    for title in (document["title"] for document in json.loads((released / "features.json").read_text())):
        rows = dict(zip(map(tuple, stored[f"pairs/{title}"].tolist()), stored[f"logits/{title}"], strict=True))
        found.append((features[title], torch.stack([rows[tuple(pair)] for pair in features[title]["hts"]])))
    return found


def largest_differences(model, documents, step=1):
    """How far scores are from the expected ones at most, of documents alone and in one batch; `documents` holds
    (features, expected scores of every step-th pair)."""
    features = [feature for feature, _ in documents]
    alone = [score(model, [feature]) for feature in features]
    batched = score(model, features).split([len(feature["hts"]) for feature in features])
    largest = []
    for found in (alone, batched):
        kept = [scores[::step] for scores in found]
        assert [scores.shape for scores in kept] == [expected.shape for _, expected in documents]
        largest.append((torch.cat(kept) - torch.cat([expected for _, expected in documents])).abs().max().item())
    return tuple(largest)


def half_precision(model, documents, precision, step=1):
    """Of each document's scores [documents]: how far they are from the expected ones at most, as a share of the largest
    of these; and the share of those that are no numbers of that precision."""
    differences, unrounded = [], []
    for feature, expected in documents:
        scores = score(model, [feature], precision)[::step]
        assert scores.shape == expected.shape
        differences.append((scores - expected).abs().max() / expected.abs().max())
        unrounded.append((scores != scores.to(AUTOCAST_DTYPE[precision]).float()).float().mean())
    return torch.stack(differences), torch.stack(unrounded)


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


def lines_of(axes):
    """The lines of a figure's axes by label."""
    return {line.get_label(): (line.get_xdata(), line.get_ydata()) for line in axes.lines if line.get_label()[0] != "_"}
