"""Small trainings that the tests share: their arguments, and what is read of them."""

import json
from pathlib import Path

EMPTY = {"title": "A", "sents": [], "vertexSet": []}


def arguments(sample, encoder, output, *more):
    """A one-seed training of two epochs on the tiny encoder."""
    return [
        *(
            "--data_dir",
            str(sample),
            "--train_file",
            "train.json",
            "--dev_file",
            "dev.json",
            "--test_file",
            "test.json",
        ),
        *("--model_name_or_path", str(encoder), "--emb_size", "64", "--num_train_epochs", "2", "--seeds", "7"),
        *(
            "--learning_rate",
            "1e-3",
            "--classifier_lr",
            "1e-2",
            "--output_dir",
            str(output),
            "--cache_dir",
            str(Path(output).parent / "cache"),
            "--precision",
            "fp32",
            *more,
        ),
    ]


def first_loss(folder):
    return json.loads((folder / "seed_7" / "metrics.jsonl").read_text().splitlines()[0])["loss"]
