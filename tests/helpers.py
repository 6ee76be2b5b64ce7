"""What tests of models share: the released programs' models and scores, documents of given sizes."""

import json

import torch
from safetensors.torch import load_file

from model import DocREModel
from prepro import featurize, read_docred
from utils import autocast, collate_fn

CPU = torch.device("cpu")


def score(model, features, precision="fp32"):
    """Scores [pairs, classes] of features, without a gradient."""
    batch = collate_fn(features)
    batch.pop("labels", None)
    with torch.no_grad(), autocast(CPU, precision):
        return model(**batch)


def released_model(backbone, minilm, released):
    """A released program's model: what it has beyond the encoder, on the small encoder."""
    model = DocREModel(str(minilm), emb_size=128, backbone=backbone, unet_channels=32, axial_layers=2).eval()
    found = model.load_state_dict(load_file(released / f"{backbone}_head.safetensors"), strict=False)
    assert not found.unexpected_keys and all(name.startswith("model.") for name in found.missing_keys)
    return model


def released_scores(backbone, released, redocred, tokenizer, rel2id):
    """[(features, the released program's scores in the order of hts)] of seven real documents."""
    features = {f["title"]: f for f in read_docred(redocred / "dev_revised.json", tokenizer, rel2id)}
    stored = load_file(released / f"{backbone}_logits.safetensors")
    found = []
    for title in (document["title"] for document in json.loads((released / "features.json").read_text())):
        rows = dict(zip(map(tuple, stored[f"pairs/{title}"].tolist()), stored[f"logits/{title}"], strict=True))
        found.append((features[title], torch.stack([rows[tuple(pair)] for pair in features[title]["hts"]])))
    return found


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
