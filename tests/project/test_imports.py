"""Importing changes nothing, and the package lives beside a user's own modules, in a clone and installed."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT

from hingeabl.prediction.predictor import Predictor

MODULES = sorted(
    path.relative_to(ROOT).with_suffix("").as_posix().replace("/", ".").removesuffix(".__init__")
    for path in [*(ROOT / "hingeabl").rglob("*.py"), *ROOT.glob("*.py")]
)
# what importing a module of ours must leave as the libraries themselves set it up
STATE = """
import json, logging, os, sys
import torch, transformers, huggingface_hub, tqdm, spacy_or_none
from huggingface_hub.utils import logging as hub_logging
from transformers.utils import logging as transformers_logging

def state():
    return {
        "excepthook": sys.excepthook is sys.__excepthook__,
        "stdout": sys.stdout is sys.__stdout__,
        "tqdm": repr(vars(tqdm.tqdm)["__init__"]),
        "environment": dict(os.environ),
        "path": list(sys.path),
        "levels": {name: getattr(log, "level", 0) for name, log in sorted(logging.root.manager.loggerDict.items())},
        "verbosity": [hub_logging.get_verbosity(), transformers_logging.get_verbosity()],
        "bar": transformers_logging.is_progress_bar_enabled(),
        "sdp": [getattr(torch.backends.cuda, f"{name}_sdp_enabled")() for name in ("flash", "cudnn", "math")],
        "threads": torch.get_num_threads(),
        "dtype": str(torch.get_default_dtype()),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "tf32": [torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32],
        "random": torch.random.get_rng_state().sum().item(),
    }
""".replace(", spacy_or_none", "")
PROGRAM = (
    STATE
    + """
import contextlib, importlib
import torch.distributed, torch.utils.checkpoint, torch.utils.data, torch.utils.tensorboard
from transformers import AutoConfig, AutoModel, AutoTokenizer, PreTrainedModel, get_linear_schedule_with_warmup
for name in ("scipy.stats", "scipy.optimize", "matplotlib.backends.backend_agg", "spacy", "fastapi", "uvicorn"):
    with contextlib.suppress(ModuleNotFoundError):
        importlib.import_module(name)
for name in sys.argv[1:]:  # each in a process of its own, forked off this one, which has the libraries alone
    sys.stdout.flush()
    if child := os.fork():
        assert os.waitpid(child, 0)[1] == 0
        continue
    before = state()
    try:
        importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name not in ("spacy", "fastapi", "rdflib", "networkx", "uvicorn", "wandb"):
            raise
    after = state()
    after["levels"] = {name: level for name, level in after["levels"].items() if name in before["levels"]}
    changed = {key: [before[key], after[key]] for key in before if before[key] != after[key]}
    print(json.dumps([name, changed]), flush=True)
    os._exit(0)
"""
)


def run(program, *arguments, cwd, **environment):
    done = subprocess.run(
        [sys.executable, "-c", program, *arguments],
        cwd=cwd,
        env=os.environ | {"PYTHONPATH": str(ROOT)} | environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_importing_a_module_changes_nothing_of_its_process(tmp_path):
    assert len(MODULES) > 70
    found = dict(map(json.loads, run(PROGRAM, *MODULES, cwd=tmp_path).splitlines()))
    assert found == {name: {} for name in MODULES}


def test_a_bare_import_is_the_packages_own_module(tmp_path):
    program = """
import losses, model
from hingeabl.core import losses as packaged, model as packaged_model
assert losses is packaged and model is packaged_model

@losses.register()
def mine(scores, labels):
    return scores[:, 0]

from hingeabl.training.saved_run import get_loss
print(get_loss("mine").name)
"""
    assert run(program, cwd=tmp_path) == "mine\n"


@pytest.fixture(scope="module", params=["editable", "wheel"])
def installed(request, tmp_path_factory):
    """The Python of an environment in which the clone is installed, beside the packages of this one."""
    folder = tmp_path_factory.mktemp(request.param)
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder / "env"], check=True)
    python = folder / "env" / "bin" / "python"
    ask = "import sysconfig; print(sysconfig.get_paths()['purelib'])"
    here, there = (subprocess.check_output([each, "-c", ask], text=True).strip() for each in (sys.executable, python))
    Path(there, "packages_of_the_tests.pth").write_text(here)
    what = ["-e", str(ROOT)] if request.param == "editable" else [str(ROOT)]
    command = [sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet", "--no-deps"]
    subprocess.run([*command, "--no-build-isolation", *what], check=True, cwd=folder)
    return python


@pytest.fixture
def users_folder(tmp_path):
    """A folder with a utils.py and a model.py of the user's own."""
    (tmp_path / "utils.py").write_text("def shout(text):\n    return text.upper()\n")
    (tmp_path / "model.py").write_text("NAME = 'my own'\n")
    return tmp_path


def run_installed(python, program, *arguments, cwd):
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [python, "-c", program, *map(str, arguments)], cwd=cwd, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_installed_it_predicts_beside_a_users_own_modules(installed, users_folder, trained, sample):
    program = """
import json, sys
from utils import shout
from model import NAME
from hingeabl.prediction.predictor import Predictor

model = Predictor.from_run(sys.argv[1], "cpu")
document = json.load(open(sys.argv[2]))[0]
print(shout(NAME), len(model(document)), model.names["P17"])
"""
    expected = len(Predictor.from_run(str(trained), "cpu")(json.loads((sample / "test.json").read_text())[0]))
    found = run_installed(installed, program, trained, sample / "test.json", cwd=users_folder)
    assert found == f"MY OWN {expected} country\n"


@pytest.mark.slow
def test_installed_its_version_is_known_and_its_programs_run_from_any_folder(installed, users_folder):
    version = re.search(r'^version = "(.*)"', (ROOT / "pyproject.toml").read_text(), re.M)[1]
    program = "from importlib import metadata; print(metadata.version('hingeabl'))"
    assert run_installed(installed, program, cwd=users_folder) == f"{version}\n"
    program = """
import contextlib, runpy, sys
names, sys.argv[1:] = sys.argv[1:], ["--help"]
for name in names:
    with contextlib.suppress(SystemExit):
        runpy.run_module(f"hingeabl.core.{name}", None, "__main__")
"""
    programs = ("train", "prepro", "evaluation", "predict", "report")
    assert run_installed(installed, program, *programs, cwd=users_folder).count("usage: ") == len(programs)


@pytest.mark.slow
def test_installed_a_saved_pipeline_loads_in_a_new_process(installed, users_folder, trained, spacy):
    save = """
import spacy, sys
nlp = spacy.blank("en")
nlp.add_pipe("sentencizer")
ruler = nlp.add_pipe("entity_ruler")
ruler.add_patterns([{"label": "PERSON", "pattern": "Ada Byron"}, {"label": "GPE", "pattern": "London"}])
nlp.add_pipe("hingeabl", config={"run": sys.argv[1], "device": "cpu"})
nlp.to_disk("pipeline")
"""
    load = """
import spacy
doc = spacy.load("pipeline")("Ada Byron lived in London.")
print([type(doc._.relations).__name__, len(doc.ents)])
"""
    run_installed(installed, save, trained, cwd=users_folder)
    assert run_installed(installed, load, cwd=users_folder) == "['list', 2]\n"
