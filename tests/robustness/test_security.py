"""Nothing that is read is run, and nothing is written outside the folders that were asked for."""

import ast
import json
import pickle
import shutil

import pytest
import torch
from conftest import ROOT
from fuzz_targets import Harm
from trainings import arguments

import predict
import report
import train
from hingeabl.data.tokenizer import load_tokenizer
from hingeabl.errors import UserError
from hingeabl.modeling.checkpoints import read_weights
from hingeabl.modeling.encoder import load_encoder

PROGRAMS = [*ROOT.glob("*.py"), *(ROOT / "hingeabl").rglob("*.py"), *(ROOT / "scripts").rglob("*.py")]
NEVER = {"eval", "exec", "compile", "__import__", "os.system", "os.popen", "torch.hub.load", "numpy.load", "np.load"}
NEVER |= {f"{package}.{name}" for package in ("pickle", "marshal", "shelve", "yaml") for name in ("load", "loads")}
DEMANDED = {"load": ("torch.load", "weights_only", True), "from_config": ("", "trust_remote_code", False)}
DEMANDED["from_pretrained"] = ("", "trust_remote_code", False)


def dangers(source):
    """What in a program could run what it reads: [(line, what)]."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Call):
            continue
        name = ast.unparse(node.func)
        options = {option.arg: getattr(option.value, "value", None) for option in node.keywords}
        if name in NEVER or options.get("shell") or options.get("allow_pickle"):
            found.append((node.lineno, name))
        whole, option, value = DEMANDED.get(name.rsplit(".", 1)[-1], ("", "", None))
        if option and whole in ("", name) and options.get(option) is not value:
            found.append((node.lineno, f"{name} without {option}={value}"))
    return found


@pytest.mark.parametrize("path", PROGRAMS, ids=lambda path: path.name)
def test_no_program_runs_what_it_reads(path):
    assert not dangers(path.read_text(encoding="utf-8"))


@pytest.mark.parametrize(
    "source",
    [
        "eval(text)",
        "pickle.loads(data)",
        "torch.load(path)",
        "torch.load(path, weights_only=False)",
        "np.load(path, allow_pickle=True)",
        "AutoModel.from_pretrained(name)",
        "AutoModel.from_pretrained(name, trust_remote_code=True)",
        "subprocess.run(command, shell=True)",
    ],
)
def test_the_search_finds_what_it_looks_for(source):
    assert dangers(source)


def test_the_search_lets_pass_what_is_safe():
    assert not dangers("model.eval(); torch.load(path, weights_only=True); json.load(file)")


@pytest.mark.parametrize("write", [torch.save, lambda content, path: path.write_bytes(pickle.dumps(content))])
def test_a_checkpoint_that_would_run_something_is_refused_and_runs_nothing(tmp_path, write):
    write({"bilinear.bias": torch.zeros(97), "more": Harm(tmp_path / "harmed")}, tmp_path / "model.pt")
    with pytest.raises(UserError, match=r"model\.pt"):
        read_weights(tmp_path / "model.pt")
    assert not (tmp_path / "harmed").exists()


def test_an_encoder_that_brings_its_own_code_is_refused_and_runs_nothing(tiny_bert, tmp_path):
    folder = shutil.copytree(tiny_bert, tmp_path / "encoder")
    (folder / "evil.py").write_text(f"open({str(tmp_path / 'harmed')!r}, 'w')\n")
    config = json.loads((folder / "config.json").read_text()) | {"model_type": "evil"}
    config["auto_map"] = {"AutoConfig": "evil.Config", "AutoModel": "evil.Model", "AutoTokenizer": ["evil.Tok", None]}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "tokenizer_config.json").write_text(json.dumps({"auto_map": config["auto_map"]}))
    for pretrained in (True, False):
        with pytest.raises(UserError, match="cannot be loaded"):
            load_encoder(str(folder), pretrained)
    with pytest.raises(UserError, match="cannot be loaded"):
        load_tokenizer(str(folder))
    assert not (tmp_path / "harmed").exists()


def test_names_in_the_data_do_not_lead_out_of_the_output_folder(sample, tiny_bert, tmp_path, capsys):
    data = tmp_path / "a" / "data"
    data.mkdir(parents=True)
    for path in sample.iterdir():
        documents = json.loads(path.read_text())
        for number, document in enumerate(documents):
            document["title"] = f"../../../out_{path.stem}_{number}"
            document["vertexSet"][0][0]["type"] = "/../../../../out"
        (data / path.name).write_text(json.dumps(documents))
    run = data.parent / "run"
    train.main(arguments(data, tiny_bert, run, "--num_train_epochs", "1"))
    predict.main(["--load_path", f"{run}/seed_7", "--input", f"{data}/test.json", "--output", f"{run}/out.json"])
    report.main(["--html", str(run / "page.html"), str(run)])
    report.main(["--record", str(run / "records"), str(run / "seed_7")])
    assert {path.name for path in tmp_path.iterdir()} == {"a"}
    assert {path.name for path in data.parent.iterdir()} == {"data", "run", "cache"}
    assert {path.name for path in data.iterdir()} == {path.name for path in sample.iterdir()}
