"""Shared fixtures: small encoders of both families, and the sample corpus."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from hub_stand_in import TOKEN, started_hub
from make_sample import make_sample, thin_labels
from tokenizers import ByteLevelBPETokenizer
from trainings import arguments
from transformers import (
    AutoTokenizer,
    BertConfig,
    BertModel,
    DistilBertConfig,
    DistilBertModel,
    RobertaConfig,
    RobertaModel,
    RobertaTokenizer,
)

import train
from hingeabl.data.relations import load_rel2id
from hingeabl.files import sha256_of_file
from hingeabl.modeling import padded
from hingeabl.prediction.predictor import Predictor
from hingeabl.reporting.publishing import write_folder

ROOT = Path(__file__).parents[1]
MINILM = ROOT / "dataset" / "encoders" / "all-MiniLM-L6-v2"


@pytest.fixture(scope="session")
def minilm() -> Path:
    if not (MINILM / "model.safetensors").exists():
        pytest.skip("the small encoder is not here: run python scripts/tools/fetch.py encoder")
    return MINILM


@pytest.fixture(scope="session")
def minilm_tokenizer(minilm):
    return AutoTokenizer.from_pretrained(minilm)


@pytest.fixture(scope="session")
def rel2id() -> dict[str, int]:
    return load_rel2id()


@pytest.fixture(scope="session")
def sample(tmp_path_factory) -> Path:
    """A folder with twelve, five and five documents of the sample corpus as train, dev and test.json."""
    folder = tmp_path_factory.mktemp("sample")
    corpus = make_sample()
    for split, count in (("train", 12), ("dev", 5), ("test", 5)):
        (folder / f"{split}.json").write_text(json.dumps(corpus[split][:count]))
    return folder


@pytest.fixture
def as_redocred(sample, monkeypatch) -> None:
    """Let the sample folder's documents be known as Re-DocRED's, beside which the paper's figures stand."""
    known = {split: sha256_of_file(sample / f"{split}.json") for split in ("train", "dev", "test")}
    monkeypatch.setattr("hingeabl.reporting.names.REDOCRED", known)


@pytest.fixture(scope="session")
def corpus(sample, tmp_path_factory) -> Path:
    """The sample folder with twelve thinned documents as train_distant.json."""
    folder = tmp_path_factory.mktemp("distant")
    for path in sample.iterdir():
        (folder / path.name).write_text(path.read_text())
    (folder / "train_distant.json").write_text(json.dumps(thin_labels(make_sample()["train"][12:24])))
    return folder


@pytest.fixture(scope="session")
def finished(sample, tiny_bert, tmp_path_factory) -> Path:
    """The output folder of a finished training of two seeds, 7 and 8. Read it, or copy it; change nothing in it."""
    output = tmp_path_factory.mktemp("runs") / "hingeabl"
    train.main(arguments(sample, tiny_bert, output, "--seeds", "7", "8", "--loss_type", "hingeabl_released"))
    return output


@pytest.fixture(scope="session")
def trained(finished) -> Path:
    """A finished seed's folder."""
    return finished / "seed_7"


@pytest.fixture(scope="session")
def predictor(trained) -> Predictor:
    """The predictor of that seed."""
    return Predictor.from_run(str(trained), "cpu")


@pytest.fixture(scope="session")
def port(predictor):
    """The port of a server in this process, for tests that change nothing of it."""
    from serving import served_here

    with served_here(predictor) as (port, _):
        yield port


@pytest.fixture(scope="module")
def published(trained, tmp_path_factory):
    """The folder of a published run."""
    folder = tmp_path_factory.mktemp("published") / "run"
    write_folder(trained, folder, None)
    return folder


@pytest.fixture
def hub():
    with started_hub() as hub:
        yield hub


@pytest.fixture
def near(hub, tmp_path, monkeypatch):
    """The hub, for this process: what its client read from the environment when it was imported is set anew."""
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", hub.address)
    template = f"{hub.address}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
    monkeypatch.setattr("huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", True)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.setenv("HF_ENDPOINT", hub.address)
    monkeypatch.setattr("time.sleep", lambda _: None)  # the client waits between its tries
    for name in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    return hub


@pytest.fixture(scope="session")
def browser(tmp_path_factory):
    """A browser, where there is one."""
    webdriver = pytest.importorskip("selenium.webdriver")
    programs = [shutil.which(name) for name in ("chromium", "chromedriver")]
    if not all(programs):
        pytest.skip("no browser is here: install Debian's chromium and chromium-driver")
    options = webdriver.ChromeOptions()
    options.binary_location = programs[0]
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    options.add_argument(f"--user-data-dir={tmp_path_factory.mktemp('browser')}")
    for flag in ("headless", "no-sandbox", "disable-gpu", "no-first-run", "disable-background-networking"):
        options.add_argument(f"--{flag}")
    options.add_argument("--window-size=1400,900")
    driver = webdriver.Chrome(options, webdriver.ChromeService(programs[1]))
    yield driver
    driver.quit()


@pytest.fixture
def spacy():
    """spaCy, where it is installed."""
    return pytest.importorskip("spacy", reason="spaCy is not installed")


@pytest.fixture(params=["one after the other", "all at once"])
def way(request, monkeypatch) -> str:
    """Windows, documents and groups one after the other, as on the CPU, or padded and at once, as on a GPU."""
    if request.param == "all at once":
        monkeypatch.setattr(padded, "PADDED_DEVICES", ["cpu"])
    return request.param


@pytest.fixture
def write(tmp_path):
    """Writes lines to a file and returns its path."""

    def write(*lines, name="cdr.data"):
        (tmp_path / name).write_text("".join(f"{line}\n" for line in lines))
        return tmp_path / name

    return write


def tiny(config_class, model_class, tokenizer, folder: Path, **settings) -> Path:
    """Save a randomly initialised two-layer encoder with its tokenizer."""
    torch.manual_seed(0)
    config = config_class(vocab_size=len(tokenizer), pad_token_id=tokenizer.pad_token_id, **settings)
    model_class(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


SMALL = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}


@pytest.fixture(scope="session")
def tiny_bert(minilm_tokenizer, tmp_path_factory) -> Path:
    return tiny(BertConfig, BertModel, minilm_tokenizer, tmp_path_factory.mktemp("bert"), **SMALL)


@pytest.fixture(scope="session")
def still_bert(minilm_tokenizer, tmp_path_factory) -> Path:
    """A tiny encoder without dropout."""
    off = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    return tiny(BertConfig, BertModel, minilm_tokenizer, tmp_path_factory.mktemp("still"), **SMALL, **off)


@pytest.fixture(scope="session")
def tiny_roberta(sample, tmp_path_factory) -> Path:
    """RoBERTa with a byte-level BPE tokenizer trained on the sample corpus."""
    trained = tmp_path_factory.mktemp("bpe")
    sentences = (" ".join(sent) for doc in json.loads((sample / "train.json").read_text()) for sent in doc["sents"])
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    bpe = ByteLevelBPETokenizer()
    bpe.train_from_iterator(sentences, vocab_size=600, special_tokens=special)
    bpe.save_model(str(trained))
    tokenizer = RobertaTokenizer.from_pretrained(trained)
    folder = tmp_path_factory.mktemp("roberta")
    return tiny(RobertaConfig, RobertaModel, tokenizer, folder, **SMALL, max_position_embeddings=514)


@pytest.fixture(scope="session")
def tiny_distilbert(minilm_tokenizer, tmp_path_factory) -> Path:
    """An encoder family that the fast path does not know."""
    sizes = {"dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 64}
    return tiny(DistilBertConfig, DistilBertModel, minilm_tokenizer, tmp_path_factory.mktemp("distilbert"), **sizes)


def pytest_collection_modifyitems(items):
    """Tests in a browser are slow ones: the short suite needs none."""
    for item in items:
        if "browser" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.slow)
