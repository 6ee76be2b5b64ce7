"""Encoders, checkpoints and machines that differ from what the programs expect: taken, or told with the remedy."""

import argparse
import ast
import json
import os
import re
import shutil
import stat
import subprocess
import sys

import pytest
import torch
from conftest import ROOT, tiny
from safetensors.torch import load_file
from trainings import arguments
from transformers import BertConfig, BertModel, ModernBertConfig, ModernBertModel, MPNetConfig, MPNetModel, XLNetConfig

import train
import utils
from hingeabl import machine, start
from hingeabl.errors import UserError
from hingeabl.modeling.checkpoints import read_weights
from hingeabl.modeling.encoder import load_encoder, max_window
from hingeabl.training.saved_run import load_checkpoint_file, load_run
from model import DocREModel

SMALL = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}


# --- 9: an encoder with only pytorch_model.bin


@pytest.fixture
def bin_encoder(tiny_bert, tmp_path):
    """A copy of the tiny encoder whose weights are in pytorch_model.bin alone."""
    folder = shutil.copytree(tiny_bert, tmp_path / "bin")
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    return folder


def test_an_encoder_with_only_a_bin_file_loads_the_same_weights(bin_encoder, tiny_bert):
    found, expected = (load_encoder(str(folder)).state_dict() for folder in (bin_encoder, tiny_bert))
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())


class Harm:
    """What a pickle may hold: a call."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return open, (self.path, "w")


@pytest.mark.parametrize("content", ["harm", "half"])
def test_a_bin_file_that_is_broken_or_would_run_code_is_refused_and_runs_nothing(bin_encoder, tmp_path, content):
    path = bin_encoder / "pytorch_model.bin"
    if content == "harm":
        torch.save({"x": Harm(tmp_path / "harmed")}, path)
    else:
        path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(UserError, match="cannot be loaded"):
        load_encoder(str(bin_encoder))
    assert not (tmp_path / "harmed").exists()


# --- 10 and 11: checkpoints of other programs


@pytest.fixture(scope="module")
def source(tiny_bert):
    torch.manual_seed(0)
    return DocREModel(str(tiny_bert), emb_size=64)


@pytest.mark.parametrize(
    "wrap",
    [
        lambda weights: {f"module.{name}": tensor for name, tensor in weights.items()},
        lambda weights: {"state_dict": weights},
        lambda weights: {"model_state_dict": {f"module.{n}": t for n, t in weights.items()}, "epoch": 3},
        lambda weights: {"model": {f"model.{name}": tensor for name, tensor in weights.items()}, "best": 0.5},
        lambda weights: {"checkpoint": {re.sub("^model", "bert_model", n): t for n, t in weights.items()}},
        lambda weights: {f"module.{re.sub('^model', 'bert_model', n)}": t for n, t in weights.items()},
    ],
)
def test_checkpoints_with_a_wrappers_prefix_or_key_load(source, tiny_bert, tmp_path, wrap):
    torch.save(wrap(source.state_dict()), tmp_path / "model.pt")
    found = load_checkpoint_file(tmp_path / "model.pt", str(tiny_bert), 97).state_dict()
    assert all(torch.equal(found[name], tensor) for name, tensor in source.state_dict().items())


@pytest.mark.parametrize("extra", [argparse.Namespace(lr=1), Harm("/dev/null"), re.compile("x")])
def test_a_checkpoint_with_pickled_settings_is_refused_with_the_way_to_extract_its_tensors(source, tmp_path, extra):
    torch.save({"state_dict": source.state_dict(), "args": extra}, tmp_path / "model.pt")
    with pytest.raises(UserError, match=r"holds something else than tensors \([\w.]+\).*would run code") as told:
        read_weights(tmp_path / "model.pt")
    if isinstance(extra, argparse.Namespace):
        assert "argparse.Namespace" in str(told.value)
        code = re.search(r'python -c "(.*)"$', str(told.value))[1]
        subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True)
        found = read_weights(tmp_path / "tensors.pt")
        assert all(torch.equal(found[name], tensor) for name, tensor in source.state_dict().items())


# --- 18: scoring a released checkpoint


@pytest.mark.parametrize(
    ("backbone", "kind"),
    [("atlop", "pt"), pytest.param("docunet", "pt", marks=pytest.mark.slow), ("kd_docre", "safetensors")],
)
def test_a_checkpoint_file_is_scored_in_one_command(sample, tiny_bert, tmp_path, backbone, kind):
    """A run's weights as a released checkpoint has them give the run's scores and predictions."""
    loss = ("--loss_type", "balanced_softmax", "--num_labels", "3", "--backbone", backbone, "--num_train_epochs", "6")
    train.main(arguments(sample, tiny_bert, tmp_path / "run", *loss))
    seed = tmp_path / "run" / "seed_7"
    path = tmp_path / f"released.{kind}"
    if kind == "pt":
        weights = load_run(seed).state_dict()
        torch.save({"checkpoint": {re.sub("^model", "bert_model", n): t for n, t in weights.items()}}, path)
    else:
        shutil.copy(seed / "model.safetensors", path)
    files = [f"--data_dir={sample}", "--train_file=train.json", "--dev_file=dev.json", "--test_file=test.json"]
    command = ["--load_path", str(path), "--model_name_or_path", str(tiny_bert), *loss[:4], "--precision", "fp32"]
    train.main([*command, *files, f"--output_dir={tmp_path}/scored", f"--cache_dir={tmp_path}/cache"])
    expected = json.loads((seed / "scores.json").read_text())
    assert expected["test"]["n_predictions"] > 10
    assert json.loads((tmp_path / "scored/scores.json").read_text()) == {s: expected[s] for s in ("dev", "test")}
    assert (tmp_path / "scored/result.json").read_text() == (seed / "result.json").read_text()


@pytest.mark.parametrize(("name", "told"), [("absent.pt", "no such file or folder"), ("encoder.pt", "head_extractor")])
def test_a_file_that_is_no_checkpoint_of_these_models_is_named(tiny_bert, tmp_path, name, told):
    torch.save({"embeddings.weight": torch.zeros(2, 2)}, tmp_path / "encoder.pt")
    with pytest.raises(UserError, match=told):
        if name == "absent.pt":
            train.main(["--load_path", str(tmp_path / name)])
        load_checkpoint_file(tmp_path / name, str(tiny_bert), 97)


# --- 12: the way to the hub


@pytest.mark.parametrize(
    ("name", "value", "told"),
    [
        ("ALL_PROXY", "socks5://127.0.0.1:9", "the proxy ALL_PROXY=socks5://127.0.0.1:9 needs the package socksio"),
        ("https_proxy", "socks5h://127.0.0.1:9", "https_proxy=socks5h://127.0.0.1:9 needs the package socksio"),
        ("HTTPS_PROXY", "http://me:secret@127.0.0.1:9", "set here: HTTPS_PROXY=http://***@127.0.0.1:9"),
        ("HF_HUB_OFFLINE", "1", "set here: HF_HUB_OFFLINE=1"),
        ("HF_ENDPOINT", "http://127.0.0.1:9", "set here: HF_ENDPOINT=http://127.0.0.1:9"),
        ("HF_ENDPOINT", "http://me:secret@127.0.0.1:9", "set here: HF_ENDPOINT=http://***@127.0.0.1:9"),
    ],
)
def test_what_stands_between_here_and_the_hub_is_named(monkeypatch, name, value, told):
    for other in [*os.environ]:
        if other.lower().endswith("_proxy") or other.startswith("HF_"):
            monkeypatch.delenv(other)
    assert machine.hub_hint("a/b") == ""
    monkeypatch.setenv(name, value)
    monkeypatch.setattr(machine, "find_spec", lambda package: None)
    assert told in machine.hub_hint("a/b") and machine.hub_hint(str(ROOT)) == ""
    monkeypatch.setattr("time.sleep", lambda _: None)
    with pytest.raises(UserError, match=re.escape(told)):
        load_encoder("no-such-owner/no-such-encoder")


# --- 13 and 15: old packages, native Windows


def test_old_packages_are_told_with_both_versions(monkeypatch, capsys):
    assert start.outdated_packages() == [] and "transformers" in start.requirements()
    found = {"transformers": "4.57.1", "torch": "2.13.0+cu130"}
    monkeypatch.setattr(start.metadata, "version", lambda name: found.get(name, "999"))
    with pytest.raises(SystemExit) as stopped:
        start.check_machine()
    shown = capsys.readouterr().err
    assert stopped.value.code == 1 and shown.count("\n") == 1
    assert "error: transformers 4.57.1 is installed, at least 5.0 is needed; " in shown


@pytest.mark.parametrize(
    ("version", "lowest", "old"), [("2.5.0.dev1", "2.5", False), ("2.10", "2.9", False), ("1.9", "1.26", True)]
)
def test_versions_are_compared_by_number(version, lowest, old):
    assert (start.numbers(version) < start.numbers(lowest)) == old


def test_native_windows_is_told_in_one_line(monkeypatch, capsys):
    monkeypatch.setattr(sys, "platform", "win32")
    with pytest.raises(SystemExit):
        start.check_machine()
    assert capsys.readouterr().err == "error: native Windows is not supported; run this on Linux, macOS or in WSL\n"


# --- 14: scripts checked out on Windows


def test_a_clone_with_autocrlf_has_scripts_that_run(tmp_path):
    clone = [
        "git",
        "-c",
        "core.autocrlf=true",
        "clone",
        "--quiet",
        "--depth=1",
        f"file://{ROOT}",
        str(tmp_path / "clone"),
    ]
    if subprocess.run(clone, capture_output=True).returncode:
        pytest.skip("this is no git clone")
    scripts = [*(tmp_path / "clone/scripts").rglob("*.sh"), tmp_path / "clone/.ci/run"]
    assert len(scripts) > 10 and not any(b"\r" in path.read_bytes() for path in scripts)
    for path in scripts:
        subprocess.run(["bash", "-n", str(path)], check=True)


# --- 16 and 22: devices


def stand_in(folder, monkeypatch, script):
    """A program nvidia-smi of our own, first on the path."""
    path = folder / "nvidia-smi"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(path.stat().st_mode | stat.S_IEXEC)
    monkeypatch.setenv("PATH", str(folder), prepend=os.pathsep)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


def test_a_gpu_beside_a_torch_that_cannot_use_it_stops_a_training(tmp_path, monkeypatch):
    stand_in(tmp_path, monkeypatch, 'echo "NVIDIA A800 80GB PCIe, 470.57.02"')
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    told = r"GPU \(NVIDIA A800 80GB PCIe, driver 470\.57\.02\), but torch .* \(built for CUDA 13\.0\) cannot use it.*"
    with pytest.raises(UserError, match=told + "or pass --device cpu"):
        utils.pick_device(None)
    assert utils.pick_device("cpu").type == "cpu"
    monkeypatch.setattr(torch.version, "cuda", None)
    with pytest.raises(UserError, match=r"a build for the CPU alone.*it has no GPU code"):
        utils.pick_device(None)


@pytest.mark.parametrize("script", ["exit 9", "echo 'No devices were found'", "echo"])
def test_a_driver_that_reports_no_gpu_lets_the_cpu_train(tmp_path, monkeypatch, script):
    stand_in(tmp_path, monkeypatch, script)
    assert utils.pick_device(None).type == "cpu"


@pytest.mark.parametrize("hidden", ["", "-1", "-1,0"])
def test_a_gpu_that_is_hidden_on_purpose_lets_the_cpu_train(tmp_path, monkeypatch, hidden):
    stand_in(tmp_path, monkeypatch, 'echo "NVIDIA A800, 470.57.02"')
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", hidden)
    assert utils.pick_device(None).type == "cpu"


@pytest.mark.parametrize("chosen", ["0", "1", "1,0", "GPU-11"])
def test_a_chosen_gpu_that_torch_cannot_use_stops_a_training(tmp_path, monkeypatch, chosen):
    stand_in(tmp_path, monkeypatch, 'echo "NVIDIA A800, 470.57.02"')
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", chosen)
    with pytest.raises(UserError, match="cannot use it"):
        utils.pick_device(None)


def test_a_card_that_torch_has_no_kernels_for_is_named(monkeypatch):
    def no_kernel(*_, **__):
        raise RuntimeError("CUDA error: no kernel image is available for execution on the device\nmore")

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "Tesla K80")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (3, 7))
    monkeypatch.setattr(torch.cuda, "get_arch_list", lambda: ["sm_75", "sm_90"])
    monkeypatch.setattr(torch, "ones", no_kernel)
    told = (
        r"Tesla K80 \(compute capability 3\.7\) .* kernels for sm_75, sm_90 \(CUDA error: no kernel image.*--device cpu"
    )
    for name in (None, "cuda"):
        with pytest.raises(UserError, match=told):
            utils.pick_device(name)


@pytest.mark.parametrize("name", ["mps", "xpu", "meta"])
def test_other_devices_are_refused_in_one_line(name):
    with pytest.raises(UserError, match=rf"--device {name}: only cuda and cpu are supported"):
        utils.pick_device(name)


# --- 17: encoders with other positions


def test_windows_are_as_long_as_an_encoders_positions(tiny_bert, tiny_roberta, minilm_tokenizer, tmp_path):
    assert max_window(load_encoder(str(tiny_bert)))[0] == max_window(load_encoder(str(tiny_roberta)))[0] == 512
    mpnet = tiny(MPNetConfig, MPNetModel, minilm_tokenizer, tmp_path / "mpnet", **SMALL, max_position_embeddings=66)
    encoder = load_encoder(str(mpnet))
    assert max_window(encoder)[0] == 66 - encoder.embeddings.position_embeddings.padding_idx - 1 < 66
    long = tiny(
        ModernBertConfig, ModernBertModel, minilm_tokenizer, tmp_path / "long", **SMALL, max_position_embeddings=2048
    )
    assert max_window(load_encoder(str(long)))[0] == 2048
    short = tiny(BertConfig, BertModel, minilm_tokenizer, tmp_path / "short", **SMALL, max_position_embeddings=40)
    assert max_window(load_encoder(str(short)))[0] == 40


def test_an_encoder_without_a_limit_of_positions_has_windows_of_512(tiny_bert):
    encoder = load_encoder(str(tiny_bert))
    encoder.config = XLNetConfig()
    encoder.embeddings.position_embeddings = None
    assert encoder.config.max_position_embeddings == -1 and max_window(encoder)[0] == 512


# --- the doctor, and output of any encoding


def test_the_doctor_tells_packages_devices_hub_and_data(monkeypatch):
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "PYTHON": sys.executable}
    done = subprocess.run(["bash", str(ROOT / "scripts/doctor.sh")], capture_output=True, text=True, env=environment)
    assert not done.stderr and done.returncode == (1 if "BAD" in done.stdout else 0)
    for what in (
        "system",
        "python",
        "commit",
        "disk",
        "torch",
        "transformers",
        "GPU for torch",
        "HF_HUB_OFFLINE",
        "hub",
    ):
        assert re.search(rf"^(ok |BAD|-- )  {what} ", done.stdout, re.M), what
    assert "train_revised.json" in done.stdout and "not asked: HF_HUB_OFFLINE is set" in done.stdout


def test_the_doctor_runs_without_any_package():
    command = [sys.executable, "-S", str(ROOT / "scripts/tools/doctor.py")]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"HF_HUB_OFFLINE": "1"})
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert re.search(r"^BAD  transformers +not installed .*pip install", done.stdout, re.M)


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-16"])
def test_output_of_any_encoding_is_no_traceback(trained, tmp_path, encoding):
    document = {"title": "Zweites Ö 中", "sents": [["a", "b"]], "vertexSet": []}
    (tmp_path / "data.json").write_text(json.dumps([document, document], ensure_ascii=False), encoding="utf-8")
    command = [sys.executable, str(ROOT / "evaluation.py"), "--predictions", "x", "--gold", str(tmp_path / "data.json")]
    environment = os.environ | {"PYTHONIOENCODING": encoding}
    done = subprocess.run([*command, "--train", "x"], capture_output=True, env=environment)
    shown = done.stderr.decode(encoding)
    assert done.returncode == 2 and shown.startswith("error: ") and "both have the title 'Zweites" in shown


@pytest.mark.parametrize("name", ["hingeabl/__init__.py", "hingeabl/core/__init__.py", "hingeabl/start.py"])
def test_the_version_check_is_reached_on_python_3_9(name):
    tree = ast.parse((ROOT / name).read_text(), feature_version=(3, 9))  # no newer syntax
    deferred = any(isinstance(node, ast.ImportFrom) and node.module == "__future__" for node in tree.body)
    unions = [node for node in ast.walk(tree) if isinstance(node, ast.BinOp) and isinstance(node.op, ast.BitOr)]
    assert deferred or not unions  # such as `str | None`, which Python 3.9 cannot evaluate


@pytest.mark.parametrize("name", [None, "PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF"])
def test_gpu_memory_grows_in_pieces_unless_the_user_has_set_it_up(name):
    names = ("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF")
    environment = {key: value for key, value in os.environ.items() if key not in names}
    environment |= {name: "backend:native"} if name else {}
    found = (
        "import os, sys; from hingeabl.start import start; start('__main__'); "
        "print(*[os.environ.get(n) for n in sys.argv[1:]], 'torch' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", found, *names], cwd=ROOT, env=environment, capture_output=True, text=True, check=True
    )
    expected = [environment.get(key) for key in names] if name else ["expandable_segments:True", None]
    assert done.stdout.split() == [str(value) for value in (*expected, False)]
