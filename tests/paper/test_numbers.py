"""That the numbers stay: one small training, float32 on the CPU, against the loss curve and scores that are stored.

One thread and two differ by up to 5e-7 of a loss after 128 steps: rounding hardly grows in so short a training, so 1e-3
leaves room for other processors and packages, and a changed rate, order, mask or loss shows far above it.
"""

import json
from pathlib import Path

import pytest
from make_sample import make_sample

import train

STORED = json.loads((Path(__file__).parents[1] / "numbers.json").read_text())
SETTINGS = (
    "--emb_size 128 --loss_type hingeabl_released --learning_rate 5e-5 --classifier_lr 1e-3 --train_batch_size 1 "
    "--num_train_epochs 4 --seeds 1 --precision fp32 --device cpu"
)


@pytest.fixture
def arguments(minilm, tmp_path):
    """The training's arguments; its folder is tmp_path/run."""
    for split, documents in make_sample().items():
        (tmp_path / f"{split}.json").write_text(json.dumps(documents))
    files = [f"--{split}_file={split}.json" for split in ("train", "dev", "test")]
    folders = [f"--data_dir={tmp_path}", f"--output_dir={tmp_path}/run", f"--cache_dir={tmp_path}/cache"]
    return [*files, *folders, "--model_name_or_path", str(minilm), *SETTINGS.split()]


def logged(folder):
    return [json.loads(line) for line in (folder / "run/seed_1/metrics.jsonl").read_text().splitlines()]


def test_the_first_thirty_steps_give_the_stored_losses(arguments, tmp_path, monkeypatch):
    def stop_at_30(training, stop):
        if training.progress.step == 30:
            raise SystemExit

    monkeypatch.setattr(train, "save_if_due", stop_at_30)
    with pytest.raises(SystemExit):
        train.main(arguments)
    assert [line["loss"] for line in logged(tmp_path)] == pytest.approx(STORED["loss"][:3], rel=1e-3)


@pytest.mark.slow
def test_a_small_training_gives_the_stored_loss_curve_and_scores(arguments, tmp_path):
    """A prediction that falls on the other side of the threshold moves F1 by about 0.1 point; 1 point allows for ten.

    Where numerics change on purpose, the curve that this writes becomes tests/numbers.json.
    """
    train.main(arguments)
    records = logged(tmp_path)
    found = {
        "loss": [record["loss"] for record in records if "loss" in record],
        "dev_f1": [record["dev"]["f1"] for record in records if "dev" in record],
        "test_f1": json.loads((tmp_path / "run/seed_1/scores.json").read_text())["test"]["f1"],
    }
    (tmp_path / "numbers.json").write_text(json.dumps(found, indent=1))
    assert STORED["dev_f1"][-1] > 0.1
    assert found["loss"] == pytest.approx(STORED["loss"], rel=1e-3), tmp_path / "numbers.json"
    assert found["dev_f1"] == pytest.approx(STORED["dev_f1"], abs=0.01), tmp_path / "numbers.json"
    assert found["test_f1"] == pytest.approx(STORED["test_f1"], abs=0.01), tmp_path / "numbers.json"
