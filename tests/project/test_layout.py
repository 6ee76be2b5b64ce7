"""What lies at the top, who may import whom, which names stay, and that links and commands of the pages work."""

import ast
import builtins
import inspect
import re
import subprocess

import pytest
from conftest import ROOT

LAYERS = [  # each imports from those before it, and from its own
    {"hingeabl", "hingeabl.core"},  # errors.py and files.py
    {"utils", "hingeabl.data"},
    {"hingeabl.readers"},
    {"losses", "prepro", "evaluation"},
    {"hingeabl.modeling"},
    {"model"},
    {"hingeabl.training"},
    {"hingeabl.reporting"},
    {"hingeabl.writers"},
    {"hingeabl.prediction"},
    {"hingeabl.corpus"},
    {"train", "predict", "report"},
]
PROGRAMS = {"train", "model", "losses", "prepro", "evaluation", "utils", "predict", "report"}
PAGES = [
    *(ROOT / "README.md", ROOT / "dataset" / "README.md"),
    *sorted((ROOT / "docs").glob("*.md")),
    *sorted((ROOT / "results").rglob("README.md")),
]


def tracked(*patterns):
    """Files of the repository; what a user put beside them does not count."""
    listed = subprocess.run(["git", "ls-files", *patterns], cwd=ROOT, capture_output=True)
    return [ROOT / name for name in listed.stdout.decode().splitlines() if (ROOT / name).exists()]


def part_of(module):
    """The part of LAYERS that a module belongs to, "" for a package of others."""
    names = module.removeprefix("hingeabl.core.").split(".")
    if names[0] in PROGRAMS:
        return names[0]
    if names[0] != "hingeabl":
        return ""
    return ".".join(names[:2]) if (ROOT / "/".join(names[:2])).is_dir() else "hingeabl"


def imports_of(path):
    """Every module that a file imports, inside functions too."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield str(node.module)
            yield from (f"{node.module}.{name.name}" for name in node.names)


SOURCES = {
    path.relative_to(ROOT).with_suffix("").as_posix().replace("/", ".").removesuffix(".__init__"): path
    for path in [*ROOT.glob("*.py"), *(ROOT / "hingeabl").rglob("*.py")]
}


@pytest.mark.parametrize("module", SOURCES)
def test_modules_import_in_one_direction(module):
    layer = next(number for number, parts in enumerate(LAYERS) if part_of(module) in parts)
    allowed = set().union(*LAYERS[: layer + 1], {""})
    for imported in imports_of(SOURCES[module]):
        assert part_of(imported) in allowed, f"{module} imports {imported}"
        assert part_of(imported) not in ("train", "predict", "report"), f"{module} imports the program {imported}"


def test_no_module_imports_itself_through_others():
    known = {name: {found for found in imports_of(path) if found in SOURCES} for name, path in SOURCES.items()}
    done = set()

    def visit(name, above):
        assert name not in above, f"import cycle: {' -> '.join([*above, name])}"
        if name not in done:
            for found in known[name] - {"hingeabl"}:
                visit(found, [*above, name])
            done.add(name)

    for name in known:
        visit(name, [])


def test_the_top_holds_eight_programs_and_twenty_one_entries():
    top = {path.relative_to(ROOT).parts[0] for path in tracked()}
    shown = {name for name in top if not name.startswith(".")}
    assert {name.removesuffix(".py") for name in shown if name.endswith(".py")} == PROGRAMS
    assert len(shown) <= 21 and "models" in shown


def test_scripts_are_few_and_its_folders_small():
    counts = {}
    for path in tracked("scripts"):
        folder = path.relative_to(ROOT).parts[1:-1]
        counts.setdefault("scripts", set()).add(path.relative_to(ROOT / "scripts").parts[0])
        if folder:
            counts.setdefault(folder[0], set()).add(path.name)
    assert len(counts.pop("scripts")) <= 25
    assert {"studies", "tools", "requirements", "benchmark"} == set(counts)
    assert all(len(names) <= 15 for names in counts.values()), counts


def test_no_python_file_is_longer_than_400_lines():
    longer = {path.name: count for path in tracked("*.py") if (count := len(path.read_text().splitlines())) > 400}
    assert not longer


PACKAGES = ("corpus", "data", "modeling", "prediction", "readers", "reporting", "training", "writers")


@pytest.mark.parametrize("package", PACKAGES)
def test_each_package_says_what_is_in_it_and_in_which_order_to_read_it(package):
    folder = ROOT / "hingeabl" / package
    tree = ast.parse((folder / "__init__.py").read_text())
    told = ast.get_docstring(tree)
    assert len(tree.body) == 1 and len(told.splitlines()) <= 5 and "\nRead " in told
    files = re.findall(r"\b\w+\.py\b", told)
    assert len(files) >= 3 and all((folder / name).exists() or name[:-3] in PROGRAMS for name in files)


def test_the_names_that_forks_import_keep_their_arguments():
    from evaluation import official_evaluate, prediction_patterns
    from losses import get_loss
    from model import DocREModel
    from prepro import read_docred
    from utils import collate_fn

    arguments = {function: list(inspect.signature(function).parameters) for function in (read_docred, collate_fn)}
    assert arguments[read_docred][:4] == ["path", "tokenizer", "rel2id", "max_seq_length"]
    assert arguments[collate_fn] == ["features"]
    assert list(inspect.signature(get_loss).parameters)[:2] == ["name", "margin"]
    assert list(inspect.signature(official_evaluate).parameters) == ["predictions", "gold", "train_documents"]
    assert list(inspect.signature(prediction_patterns).parameters) == ["scores", "labels", "threshold"]
    assert list(inspect.signature(DocREModel.__init__).parameters)[1:5] == [
        *("encoder_name_or_path", "num_classes", "emb_size", "block_size")
    ]
    forward = inspect.signature(DocREModel.forward).parameters.values()
    assert [parameter.name for parameter in forward if parameter.default is inspect.Parameter.empty][1:] == [
        *("input_ids", "lengths", "mention_pos", "mention_entity", "num_entities", "hts")
    ]


def test_the_lock_pins_everything_that_pyproject_asks_for():
    wanted = [line for line in (ROOT / "requirements.txt").read_text().splitlines() if not line.startswith("#")]
    extra = re.search(r"\ntest = \[(.*?)\]", (ROOT / "pyproject.toml").read_text(), re.DOTALL)
    wanted += re.findall(r'"([^"]+)"', extra[1])
    pinned = dict(
        re.findall(r"^([\w.-]+)==([\d.]+)", (ROOT / "scripts/requirements/requirements.lock").read_text(), re.M)
    )
    assert len(wanted) > 15
    for requirement in wanted:
        name, _, least = requirement.partition(">=")
        version = pinned[name.replace("_", "-")]
        assert [int(part) for part in version.split(".")] >= [int(part) for part in least.split(".") if part], name


@pytest.mark.parametrize("extra", ["text", "graph", "serve", "ray"])
def test_each_extra_is_the_same_in_pyproject_its_requirements_and_the_lock(extra):
    listed = re.search(rf"\n{extra} = \[(.*?)\]", (ROOT / "pyproject.toml").read_text())
    wanted = re.findall(r'"([^"]+)"', listed[1])
    lines = (ROOT / f"scripts/requirements/{extra}.txt").read_text().splitlines()
    assert wanted == [line for line in lines if not line.startswith("#")]
    locks = [(ROOT / f"scripts/requirements/{name}.lock").read_text() for name in ("requirements", "extras")]
    for requirement in wanted:
        name, _, least = requirement.partition(">=")
        versions = re.findall(rf"^{name}==([\d.]+)", "\n".join(locks), re.M)
        assert versions and all(version.split(".") >= least.split(".") for version in versions)


def test_the_readme_is_short():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 200 and len(text.split()) <= 1500


def anchors_of(path):
    """The anchors that GitHub gives a page's headings."""
    headings = re.findall(r"^#+ (.*)$", re.sub(r"```.*?```", "", path.read_text(), flags=re.DOTALL), re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_every_link_leads_somewhere(page):
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
        if re.match(r"[a-z]+:", target):
            continue
        name, _, anchor = target.partition("#")
        found = (page.parent / name).resolve() if name else page
        assert found.exists(), target
        assert not anchor or anchor in anchors_of(found), target


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_every_command_names_a_script_that_is_there_and_options_that_it_has(page):
    commands = re.findall(r"(?:python|bash) ((?:\w+/)*[\w-]+\.(?:py|sh))([^\n`|]*)", page.read_text(encoding="utf-8"))
    for script, rest in commands:
        path = ROOT / script
        assert path.exists(), script
        known = path.read_text()
        if script in ("train.py",):
            known = (ROOT / "hingeabl/training/settings.py").read_text().replace("    ", "    --")
        for option in re.findall(r"(?<!\S)(--[a-z_]+)", rest.split("#")[0]) if script.endswith(".py") else []:
            assert option in known, f"{script} {option}"


def test_every_python_command_in_quotes_calls_what_it_imports():
    commands = [code for page in PAGES for code in re.findall(r'python -c "(.*?)"', page.read_text(encoding="utf-8"))]
    assert commands
    for code in commands:
        tree = ast.parse(code)
        names = dict(vars(builtins))
        imports = [node for node in tree.body if isinstance(node, (ast.Import, ast.ImportFrom))]
        exec(compile(ast.Module(imports, []), "<docs>", "exec"), names)
        used = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
        assert used <= names.keys(), code
