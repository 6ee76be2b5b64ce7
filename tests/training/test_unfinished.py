"""A run whose training is not finished: told to whoever looks at it, refused where something is made of it."""

import json
import shutil

import distill
import publish
import pytest
from serving import ask, served_here
from trainings import arguments

import predict
import train
from hingeabl.errors import UserError
from hingeabl.prediction.predictor import Predictor


@pytest.fixture
def unfinished(trained, tmp_path):
    """A copy of a run of two epochs that was stopped in its second one."""
    run = shutil.copytree(trained, tmp_path / "hingeabl" / "seed_7")
    (run / "scores.json").unlink()
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    first = next(number for number, line in enumerate(lines) if "epoch" in line)
    lines[first]["dev"]["f1"] = 0.4321
    half = json.dumps(lines[-1])[:-9]  # what a reader may see of a line that is being written
    (run / "metrics.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines[: first + 1]) + half)
    return run


FAR = "is not finished (1 of 2 epochs are done; the weights are of epoch 1, dev F1 43.21)"


def test_who_looks_at_an_unfinished_run_is_told_how_far_its_training_got(unfinished, sample, tmp_path, capsys):
    looks = {
        "predict.py": lambda: predict.main(
            ["--load_path", str(unfinished), "--input", str(sample / "test.json"), "--output", f"{tmp_path}/found.json"]
        ),
        "Predictor": lambda: Predictor.from_run(str(unfinished), "cpu"),
        "train.py": lambda: train.main(["--load_path", str(unfinished)]),
    }
    for name, look in looks.items():
        look()
        assert f"WARNING: --load_path {unfinished}: {FAR}\n" in capsys.readouterr().err, name


def test_the_page_of_an_unfinished_run_says_so(unfinished):
    with served_here(Predictor.from_run(str(unfinished), "cpu")) as (port, _):
        assert f"hingeabl/seed_7 {FAR}" in ask(port, "GET", "/")[2].decode()


def test_spacys_component_tells_of_an_unfinished_run(unfinished, spacy, capsys):
    import hingeabl.prediction.spacy_component  # noqa: F401

    spacy.blank("en").add_pipe("hingeabl", config={"run": str(unfinished), "device": "cpu"})
    assert FAR in capsys.readouterr().err


def test_nothing_is_made_of_an_unfinished_run(unfinished, sample, tiny_bert, tmp_path):
    from_it = (unfinished, unfinished / "model.safetensors", f"{unfinished}/../seed_7")
    out = tmp_path / "out"
    makes = {
        "--load_path": lambda: distill.main(
            ["--load_path", str(unfinished), "--data_file", str(sample / "dev.json"), "--output_dir", str(out)]
        ),
        "run": lambda: publish.main([str(unfinished), "--folder", str(out)]),
    }
    for run in from_it:
        training = arguments(sample, tiny_bert, out, "--init_from", str(run))
        makes[f"--init_from {run}"] = lambda training=training: train.main(training)
    for option, make in makes.items():
        with pytest.raises(UserError) as error:
            make()
        assert str(error.value).startswith(option) and FAR in str(error.value), option
        assert "run its training again, which goes on" in str(error.value) and not out.exists()


def test_a_run_without_scores_and_metrics_is_told_too(unfinished, capsys):
    (unfinished / "metrics.jsonl").unlink()
    Predictor.from_run(str(unfinished), "cpu")
    assert "seed_7: is not finished (it has no scores.json, as a finished run has)" in capsys.readouterr().err


def test_nothing_is_said_of_a_finished_run(trained, sample, tmp_path, capsys):
    Predictor.from_run(str(trained), "cpu")
    distill.main(
        ["--load_path", str(trained), "--data_file", str(sample / "dev.json"), "--output_dir", f"{tmp_path}/o"]
    )
    assert "is not finished" not in capsys.readouterr().err


def test_a_checkpoint_beside_an_encoders_config_is_no_unfinished_run(trained, sample, tiny_bert, tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    shutil.copy(trained / "model.safetensors", tmp_path / "released.safetensors")
    train.main(arguments(sample, tiny_bert, tmp_path / "run", "--init_from", f"{tmp_path}/released.safetensors"))
    assert (tmp_path / "run/seed_7/scores.json").exists()
