"""How predict.py and prepro.py take every input format: recognised, converted, predicted; real data, and the page."""

import gzip
import io
import json
import os
import re
import shlex
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from conftest import ROOT
from test_readers import ANN, ENCODINGS, EXPECTED, PUBTATOR, SPANS, TEXT

import predict
import prepro
from hingeabl.errors import UserError
from hingeabl.files import ZIP
from hingeabl.readers import any_format, text
from hingeabl.readers.align import to_spans
from hingeabl.readers.any_format import detect, read_format
from hingeabl.readers.offsets import Counts
from hingeabl.readers.spans import from_spans

DOCRED = json.dumps([EXPECTED])
COMPACT = json.dumps({"title": "a|t|b", "text": "", "entities": []}, separators=(",", ":"))
ENDINGS = [
    ".json",
    ".jsonl",
    ".json.gz",
    ".jsonl.gz",
    ".spans.json",
    ".spans.jsonl",
    ".spans.json.gz",
    ".JSONL",
    ".SPANS.JSON",
    "",
]


@pytest.fixture(scope="module")
def spacy_model():
    try:
        text.load_spacy()
    except UserError as error:
        pytest.skip(str(error))


def folder_of(name):
    """A folder of data that an environment variable names."""
    folder = os.environ.get(name)
    if not folder or not Path(folder).is_dir():
        pytest.skip(f"{name} names no folder: real documents are not here")
    return Path(folder)


def run(monkeypatch, program, *arguments):
    """Run a program's main in this process."""
    monkeypatch.setattr(sys, "argv", [program.__name__, *map(str, arguments)])
    program.main()


def packed(path):
    """A file's text, of one that ends in .gz unpacked."""
    data = path.read_bytes()
    return (gzip.decompress(data) if path.suffix == ".gz" else data).decode()


def read(path):
    """A file's documents with their labels."""
    with path.open("rb") as file:
        yield from read_format(file, str(path), None, typed=False, labels=True)


# --- recognised by itself


@pytest.mark.parametrize("pack", [bytes, gzip.compress])
@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize(
    ("content", "name", "expected"),
    [
        (DOCRED, "a.json", "docred"),
        (json.dumps(EXPECTED | {"text": TEXT}), "a.json", "docred"),
        (json.dumps({"text": TEXT} | EXPECTED), "a.json", "docred"),
        (json.dumps({"title": "A", "text": [["A"]], "entities": [[]]}), "a.json", "docred"),
        (json.dumps({"title": '"text": "a"', "vertexSet": [{"text": "a"}], "sents": []}), "a.json", "docred"),
        (json.dumps([{"sents": [], "vertexSet": []}, SPANS]), "a.json", "docred"),
        (json.dumps(SPANS), "standard input", "spans"),
        (json.dumps([SPANS, EXPECTED], indent=1), "a.txt", "spans"),
        ("\n [ " + json.dumps({"vertexset": [{"vertexSet": 1}], **SPANS}), "a.jsonl", "spans"),
        (COMPACT, "a.json", "spans"),
        ('{"title": "A", "text": "' + "long " * 2**18, "a.json", "spans"),
        (json.dumps({"id": "DW_1", "tokenization": {"tokens": []}, "mentions": [], "concepts": []}), "a.json", "dwie"),
        (json.dumps([{"mentions": [{"concept": 0}], "concepts": []}], indent=4), "standard input", "dwie"),
        (json.dumps(SPANS | {"mentions": [], "concepts": []}), "a.json", "spans"),
        (PUBTATOR, "a.txt", "pubtator"),
        ("\n\n" + PUBTATOR, "standard input", "pubtator"),
        (TEXT, "a.txt", "text"),
        ("", "a.txt", "text"),
        ("# A title\n\n- a list", "a.md", "text"),
        (TEXT, "A.TXT", "text"),
        ("", "a.json", "docred"),
        ("[]", "a.json", "docred"),
        ("<p>", "a.json", "docred"),
    ],
)
def test_a_format_is_recognised_by_its_content(content, name, expected, encoding, pack):
    assert detect(pack(content.encode(encoding)), name) == expected


def test_a_text_is_brats_where_annotations_are_beside_it(tmp_path):
    for name, expected in (("a.ann", "brat"), ("b.txt", "text"), ("a.txt", "brat"), ("a.txt.gz", "brat")):
        assert detect(TEXT.encode(), str(tmp_path / name)) == expected
        (tmp_path / "a.ann").touch()


def test_what_no_format_can_be_is_told():
    for name in ("standard input", "story.doc"):
        with pytest.raises(UserError, match=rf"^{name}: its format is not recognised; pass --format, one of docred, "):
            detect(TEXT.encode(), name)
    with pytest.raises(UserError, match=r"^a\.json: is a git-lfs pointer"):
        detect(b"version https://git-lfs.github.com/spec/v1", "a.json")
    for data in (ZIP + b"rest", b"\x1f\x8bbroken"):  # whose reader tells more
        assert detect(data, "a.json") == "docred"
    with pytest.raises(UserError, match=r"^a: 'xml' is no format; choose one of docred, spans, text, pubtator, brat"):
        list(read_format(io.BytesIO(b"{}"), "a", "xml", typed=False))


def test_a_file_that_cannot_be_read_is_told():
    class Broken(io.BytesIO):
        def read(self, size=-1):
            raise OSError(5, "Input/output error")

    with pytest.raises(UserError, match=r"^docs: cannot be read \(Input/output error\)"):
        list(read_format(Broken(), "docs", None, typed=False))


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_a_text_of_any_length_is_read_whole(encoding, pack, monkeypatch):
    monkeypatch.setattr(any_format, "CHUNK", 8)

    def read_texts_as_they_are(texts, model):
        return ({"title": given.title, "sents": [[given.text]], "vertexSet": []} for given in texts)

    monkeypatch.setattr(any_format, "documents_of_texts", read_texts_as_they_are)
    content = TEXT * 3
    for kind in ("text", None):
        (found,) = read_format(io.BytesIO(pack(content.encode(encoding))), "in/a.txt.gz", kind, typed=False)
        assert found == {"title": "a", "sents": [[content]], "vertexSet": []}


def test_types_that_markers_need_are_asked_for():
    with pytest.raises(UserError, match=r"^docs: document 0 \('Mira'\): vertexSet\[1\]\[0\]\.type: None is none of"):
        list(read_format(io.BytesIO(json.dumps(SPANS).encode()), "docs", None, typed=True))


# --- prepro.py --convert


@pytest.mark.parametrize("ending", ENDINGS)
def test_convert_writes_docreds_schema_or_spans(tmp_path, monkeypatch, capsys, ending):
    (tmp_path / "in.json").write_text(json.dumps([SPANS, SPANS]))
    output = tmp_path / "new" / f"out{ending}"
    run(monkeypatch, prepro, tmp_path / "in.json", "--convert", output)
    assert capsys.readouterr().out == f"2 documents, 6 entities, 8 mentions, 2 labels: {output}\n"
    expected = to_spans(EXPECTED) if "spans" in ending.lower() else EXPECTED
    written = packed(output)
    if "jsonl" in ending.lower():
        assert [json.loads(line) for line in written.splitlines()] == [expected] * 2
    else:
        assert json.loads(written) == [expected] * 2
    assert sorted(path.name for path in output.parent.iterdir()) == [output.name]
    (tmp_path / "back").mkdir()
    run(monkeypatch, prepro, output, "--convert", tmp_path / "back" / "back.json")
    assert json.loads((tmp_path / "back" / "back.json").read_text()) == [EXPECTED] * 2


@pytest.mark.parametrize("ending", [".json", ".spans.jsonl.gz"])
def test_a_broken_document_leaves_nothing_behind_and_an_older_output_alone(tmp_path, monkeypatch, ending, recwarn):
    (tmp_path / "in.json").write_text(json.dumps([SPANS, {**SPANS, "entities": 1}]))
    with pytest.raises(UserError, match=r"in\.json: document 1: entities: has the wrong type"):
        run(monkeypatch, prepro, tmp_path / "in.json", "--convert", tmp_path / "new" / f"out{ending}")
    assert [path.name for path in tmp_path.iterdir()] == ["in.json"]
    (tmp_path / f"out{ending}").write_text("older")
    with pytest.raises(UserError, match="document 1"):
        run(monkeypatch, prepro, tmp_path / "in.json", "--convert", tmp_path / f"out{ending}")
    assert (tmp_path / f"out{ending}").read_text() == "older" and len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["in.json", "in.json", "--convert", "out.json"], r"in\.json: is given twice; pass it once"),
        (["in.json", "--convert", "in.json"], r"--convert in\.json: is the file of FILE too; name another one"),
        (["in.json", "--convert", "out.csv"], r"--convert out\.csv: cannot be written as \.csv"),
        (["in.json", "--convert", "-"], r"--convert -: is not standard output; name a file that ends in \.json or"),
        (["none.json", "--convert", "out.json"], r"none\.json: no such file"),
        (["empty.json", "--convert", "out.json"], r"empty\.json: holds no documents, so there is nothing to convert"),
        (["in.json", "--format", "spans"], r"--format: goes with --convert OUT"),
        (["in.json", "--convert", "out.json", "--format", "docred"], r"in\.json: document 0 .*: sents: is missing"),
    ],
)
def test_conversions_that_cannot_be_are_refused(tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    Path("in.json").write_text(json.dumps(SPANS))
    Path("empty.json").write_text("[]")
    with pytest.raises(UserError, match=f"^{message}"):
        run(monkeypatch, prepro, *arguments)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty.json", "in.json"]


@pytest.mark.parametrize("output", ["out.json", "out.spans.jsonl.gz"])
def test_an_error_is_one_line_and_exit_code_2(tmp_path, output):
    (tmp_path / "bad.tsv").write_bytes(PUBTATOR.encode() + "\n8|t|\u00c9lan\n8\t0\t99\t\u00c9lan\tX\t1\n".encode())
    command = [sys.executable, ROOT / "prepro.py", "bad.tsv", "--convert", output]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, encoding="utf-8")
    assert (done.returncode, done.stdout) == (2, "")
    assert re.fullmatch(r"error: bad\.tsv: document '8': line 13: \[0, 99\] is not in the text, .*\n", done.stderr)
    assert [path.name for path in tmp_path.iterdir()] == ["bad.tsv"]


# --- predictions


def predicted(monkeypatch, trained, path, *more):
    """predict.py's predictions of a file, "-" for standard input."""
    output = Path(trained.name + ".found.json").absolute()
    predict.main(["--load_path", str(trained), "--input", str(path), "--output", str(output), *more])
    return json.loads(output.read_text())


def test_predictions_of_documents_and_of_their_spans_are_equal(trained, sample, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run(monkeypatch, prepro, sample / "test.json", "--convert", tmp_path / "test.spans.json")
    expected = predicted(monkeypatch, trained, sample / "test.json")
    assert len(expected) > 10 and predicted(monkeypatch, trained, tmp_path / "test.spans.json") == expected


@pytest.mark.parametrize("kind", ["spans", "pubtator", "brat", "text", "docred"])
def test_every_format_is_predicted_from_a_file_and_all_but_brat_from_standard_input(
    trained, tmp_path, monkeypatch, kind, request
):
    monkeypatch.chdir(tmp_path)
    if kind == "text":
        request.getfixturevalue("spacy_model")
    contents = {"spans": json.dumps(SPANS), "pubtator": PUBTATOR, "brat": ANN, "text": TEXT, "docred": DOCRED}
    names = {"spans": "a.json", "pubtator": "a.tsv", "brat": "b.ann", "text": "a.txt", "docred": "a.json"}
    Path("b.txt").write_text(TEXT)
    Path(names[kind]).write_text(contents[kind])
    found = predicted(monkeypatch, trained, names[kind])
    assert predicted(monkeypatch, trained, names[kind], "--format", kind) == found
    assert {entry["title"] for entry in found} <= {"Mira", "7", "b", "a"}
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(contents[kind].encode())))
    if kind == "brat":
        with pytest.raises(UserError, match=r"^standard input: brat has two files"):
            predicted(monkeypatch, trained, "-", "--format", "brat")
    else:
        again = predicted(monkeypatch, trained, "-", "--format", kind)
        assert [entry | {"title": ""} for entry in again] == [entry | {"title": ""} for entry in found]


# --- real data


@pytest.mark.parametrize("name", ["Train", "Dev", "Test"])
def test_bioreds_files_are_read_whole(name, capsys):
    path = folder_of("BIORED_DIR") / f"{name}.PubTator"
    documents = list(read(path))
    expected = Counter()
    for block in path.read_text(encoding="utf-8").strip().split("\n\n"):
        rows = [line.split("\t") for line in block.splitlines()[2:]]
        identifiers = [row[5].split(",") for row in rows if len(row) == 6]
        known = {identifier for found in identifiers for identifier in found if identifier != "-"}
        expected["documents"] += 1
        expected["entities"] += len(known) + identifiers.count(["-"])
        expected["mentions"] += sum(len(set(found)) for found in identifiers)
        expected["relations"] += sum(len(row) == 5 for row in rows)
    found = Counter(documents=len(documents))
    for document in documents:
        found["entities"] += len(document["vertexSet"])
        found["mentions"] += sum(map(len, document["vertexSet"]))
        found["relations"] += len(document["labels"])
    assert found == expected and found["documents"] == {"Train": 400, "Dev": 100, "Test": 100}[name]
    assert "left out" not in capsys.readouterr().err


@pytest.mark.slow
def test_re_docreds_documents_have_the_same_features_after_the_way_to_spans_and_back(minilm_tokenizer, rel2id):
    documents = json.loads((folder_of("REDOCRED_DIR") / "dev_revised.json").read_text())
    counts = Counts()
    back = [from_spans(json.loads(json.dumps(to_spans(document))), "dev", "", counts) for document in documents]
    assert len(back) == 500 and not counts.total()
    assert [document["labels"] for document in back] == [document["labels"] for document in documents]
    found, expected = (prepro.featurize(some, minilm_tokenizer, rel2id) for some in (back, documents))
    for ours, theirs in zip(found, expected, strict=True):
        assert ours | {"labels": 0} == theirs | {"labels": 0} and ours["labels"].tolist() == theirs["labels"].tolist()


@pytest.mark.slow
def test_re_docreds_predictions_are_equal_after_the_way_to_spans(trained, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    documents = json.loads((folder_of("REDOCRED_DIR") / "dev_revised.json").read_text())
    Path("dev.json").write_text(json.dumps(documents[:100]))  # the test above has all of them
    run(monkeypatch, prepro, "dev.json", "--convert", "dev.spans.jsonl.gz")
    expected = predicted(monkeypatch, trained, "dev.json")
    assert expected and predicted(monkeypatch, trained, "dev.spans.jsonl.gz") == expected


# --- the page


SECTION = (ROOT / "docs/data.md").read_text(encoding="utf-8").split("\n## Input formats\n")[1].split("\n## ")[0]
EXAMPLES = dict(re.findall(r"`(\w+\.[\w.]+)`[^`]*?:\n\n```\w+\n(.*?)```", SECTION, re.DOTALL))


@pytest.mark.parametrize("name", [name for name in EXAMPLES if name != "talvik.txt"])
def test_the_pages_examples_run_as_written(trained, tmp_path, monkeypatch, capsys, request, name):
    assert list(EXAMPLES) == ["talvik.spans.json", "lithium.pubtator", "talvik.txt", "talvik.ann", "visit.txt"]
    if name == "visit.txt":
        request.getfixturevalue("spacy_model")
    monkeypatch.chdir(tmp_path)
    for example, content in EXAMPLES.items():
        Path(example).write_text(content)
    commands = re.findall(rf"^python (\w+)\.py (.*\b{name}\b.*)$", SECTION, re.M)
    assert [program for program, _ in commands] == ["prepro", "predict"]
    for program, arguments in commands:
        split = shlex.split(arguments.replace("runs/quickstart/atl/seed_1", str(trained)))
        run(monkeypatch, {"prepro": prepro, "predict": predict}[program], *split)
        out, err = capsys.readouterr()
        assert "WARNING" not in err and (program == "predict" or name == "visit.txt" or f"```text\n{out}```" in SECTION)


def test_the_pages_story_is_the_same_as_spans_and_as_brat(tmp_path):
    for example, content in EXAMPLES.items():
        (tmp_path / example).write_text(content)
    story, again = (next(read(tmp_path / name)) for name in ("talvik.spans.json", "talvik.ann"))
    assert story | {"title": "talvik"} == again and len(story["labels"]) == 2
