"""Mistakes at the command line and in files: each gets its remedy in one line, and costs nothing that was there."""

import gzip
import json
import re
import shutil
import subprocess
import sys

import make_sample
import pytest
from conftest import ROOT
from mistaken_files import DOCUMENT, RIGHT, moved, run_program, written

import evaluation
import predict
import prepro
import report
from hingeabl.data.checks import check_files, check_training_file
from hingeabl.data.predictions import read_predictions
from hingeabl.data.relations import load_rel2id
from hingeabl.data.stream import stream_documents
from hingeabl.data.tokenizer import load_tokenizer
from hingeabl.errors import UserError
from hingeabl.files import parse_json, write_json
from hingeabl.modeling.encoder import load_encoder
from hingeabl.outputs import check_outputs
from hingeabl.readers.documents import load_documents


@pytest.fixture
def files(tmp_path):
    """Files to score: {"predictions", "gold", "train"}."""
    other = moved(lambda start, end: [start, end]) | {"title": "Train"}
    contents = {"predictions": [RIGHT], "gold": [DOCUMENT], "train": [other]}
    return {name: written(tmp_path, content, f"{name}.json") for name, content in contents.items()}


def score(monkeypatch, files, *more):
    """Run evaluation.py on the files."""
    options = [text for name, path in files.items() for text in (f"--{name}", path)]
    run_program(monkeypatch, evaluation, *options, *more)


def content_of(folder):
    """Every file below a folder, with its bytes."""
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


# --- outputs


@pytest.mark.parametrize("option", ["--json", "--codalab"])
@pytest.mark.parametrize("name", ["predictions", "gold", "train"])
def test_no_score_or_upload_replaces_what_it_was_made_of(files, tmp_path, monkeypatch, option, name):
    if option == "--codalab":
        files[name] = files[name].rename(tmp_path / f"{name}.zip")
    link = tmp_path / f"link{files[name].suffix}"
    link.symlink_to(files[name])
    before = content_of(tmp_path)
    for target in (files[name], tmp_path / "." / files[name].name, link):
        with pytest.raises(UserError, match=rf"{option} .*: is the file of --{name} too; name another one"):
            score(monkeypatch, files, option, target)
    assert content_of(tmp_path) == before


@pytest.mark.parametrize("option", ["--output", "--html"])
def test_no_prediction_replaces_a_file_of_the_run_or_its_input(trained, sample, tmp_path, option):
    run = shutil.copytree(trained, tmp_path / "run")
    (run / "page.html").write_text("of before")
    docs = shutil.copy(sample / "test.json", tmp_path / "docs.html")
    before = content_of(tmp_path)
    command = ["--load_path", str(run), "--input", str(docs)]
    inside = "result.json" if option == "--output" else "page.html"
    with pytest.raises(UserError, match=rf"{option} .*{inside}: is a file of --load_path .*would be replaced"):
        predict.main([*command, option, str(run / inside)])
    with pytest.raises(UserError, match=rf"{option} .*(is the file of --input too|cannot be written as \.html)"):
        predict.main([*command, option, str(docs)])
    assert content_of(tmp_path) == before


def test_two_outputs_need_two_files_and_a_run_keeps_its_own(tmp_path):
    with pytest.raises(UserError, match=r"--b .*: is the file of --a too"):
        check_outputs({"--a": (f"{tmp_path}/x", (".json",)), "--b": (f"{tmp_path}/./x", (".json",))}, {})
    names = ("config.json", "scores.json", "confidence.json", "types.json", "timing.json")
    for name in (*names, "new.json"):
        written(tmp_path, {}, name)
    check_outputs({"--json": (f"{tmp_path}/new.json", (".json",))}, {})
    for name in names:
        with pytest.raises(UserError, match=rf"{name}: is a file of a run and would be replaced"):
            check_outputs({"--json": (f"{tmp_path}/{name}", (".json",))}, {})


def test_a_page_replaces_no_file_of_its_runs_but_an_older_page(trained, tmp_path):
    run = shutil.copytree(trained, tmp_path / "runs" / "seed_7")
    (run / "page.html").write_text("of before")
    with pytest.raises(UserError, match=r"page\.html: is a file of PATH 1 .*would be replaced"):
        report.main(["--html", str(run / "page.html"), str(tmp_path / "runs")])
    assert (run / "page.html").read_text() == "of before"
    (tmp_path / "runs/page.html").write_text("of before")
    report.check_page(f"{tmp_path}/runs/page.html", [f"{tmp_path}/runs"])


@pytest.mark.parametrize(
    ("option", "name", "told"),
    [
        ("--json", "scores.csv", r"cannot be written as \.csv; name a file that ends in \.json"),
        ("--codalab", "up.tar", r"cannot be written as \.tar; name a file that ends in \.zip"),
        ("--json", "", r"is a folder; name a file, such as .*found\.json"),
        ("--json", "predictions.json/x.json", "cannot be written .*choose another place"),
    ],
)
def test_an_output_that_cannot_be_is_refused_before_anything_is_read(files, tmp_path, monkeypatch, option, name, told):
    for path in (files["gold"], files["train"]):
        path.write_text("not read")
    with pytest.raises(UserError, match=f"{option} .*{told}") as error:
        score(monkeypatch, files, option, tmp_path / name)
    assert "disk space" not in str(error.value)


def test_an_output_of_predictions_has_a_known_ending(trained, sample, tmp_path):
    command = ["--load_path", str(trained), "--input", str(sample / "test.json"), "--output"]
    with pytest.raises(UserError, match=r"as \.txt; name a file that ends in \.json or \.jsonl or \.json\.gz"):
        predict.main([*command, str(tmp_path / "p.txt")])
    found = []
    for name in ("p", "p.json", "p.json.gz", "p.jsonl", "p.jsonl.gz"):
        predict.main([*command, str(tmp_path / name)])
        found.append(read_predictions(tmp_path / name))
    assert found[0] and all(entries == found[0] for entries in found)
    lines = gzip.decompress((tmp_path / "p.jsonl.gz").read_bytes()).decode().splitlines()
    assert list(map(json.loads, lines)) == found[0]


def test_folders_of_an_output_are_made_and_removed_again_where_it_fails(trained, sample, files, tmp_path, monkeypatch):
    target = tmp_path / "new" / "deep" / "scores.json"
    with pytest.raises(TypeError):
        write_json(target, object)
    assert not (tmp_path / "new").exists()
    score(monkeypatch, files, "--json", target)
    assert json.loads(target.read_text())["f1"] == 1
    broken = written(tmp_path, [DOCUMENT, {}], "broken.json")
    with pytest.raises(UserError, match="document 1"):
        predict.main(
            ["--load_path", str(trained), "--input", str(broken), "--output", str(tmp_path / "other/found.json")]
        )
    assert not (tmp_path / "other").exists()


# --- inputs


POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n"
PAGE = "\n<!DOCTYPE html>\n<html><body>404</body></html>"


@pytest.mark.parametrize(
    ("text", "told"), [(POINTER, "is a git-lfs pointer.*run git lfs pull"), (PAGE, "is a web page.*download the raw")]
)
def test_a_pointer_or_a_web_page_is_called_so_by_every_reader(tmp_path, text, told):
    path = written(tmp_path, text)
    for read in (
        load_documents,
        load_rel2id,
        read_predictions,
        lambda path: list(stream_documents(path.open("rb"), "x")),
    ):
        with pytest.raises(UserError, match=told):
            read(path)


def test_a_folder_in_place_of_a_file_is_told_with_the_files_in_it(files, tmp_path):
    (tmp_path / "empty").mkdir()
    for read in (load_documents, load_rel2id, read_predictions):
        with pytest.raises(
            UserError, match=r"is a folder; pass a file in it: gold\.json, predictions\.json, train\.json$"
        ):
            read(tmp_path)
        with pytest.raises(UserError, match=r"empty: is a folder; pass a file$"):
            read(tmp_path / "empty")


def test_weights_in_place_of_the_seed_folder_are_told_with_the_folder(trained):
    for name in ("model.safetensors", "encoder/config.json"):
        with pytest.raises(UserError, match=re.escape(f"{name}: is a file; pass the seed's folder, {trained}")):
            predict.main(["--load_path", str(trained / name), "--input", "none.json"])


def test_a_file_in_place_of_a_folder_is_told(files):
    with pytest.raises(UserError, match=r"gold\.json: is a file, and a folder is wanted here"):
        report.main(["--figure", "3", "--output", str(files["gold"])])


def test_a_folder_in_place_of_the_page_is_told(trained):
    for paths in ([], [str(trained)]):
        with pytest.raises(UserError, match="is a folder; name the page's file first, then the runs"):
            report.main(["--html", str(trained), *paths])


@pytest.mark.parametrize("name", ["/no/such/folder", "./absent", "a/b/c"])
def test_an_encoder_folder_that_is_not_there_is_told(name, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    for load in (load_tokenizer, load_encoder):
        with pytest.raises(UserError, match=re.escape(f"{name!r}: cannot be loaded (there is no such folder); pass")):
            load(name)


@pytest.mark.parametrize("none", ["Na", "no_relation"])
def test_classes_from_1_are_told_to_begin_at_0(tmp_path, none):
    with pytest.raises(UserError, match=f"class 0 is missing; number the classes from 0, with '{none}' as 0"):
        load_rel2id(written(tmp_path, {"P17": 1, none: 2, "P19": 3}))


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ('[{"title": "A"}, {"title": "B", "title": "C"}]', r"entry 1 \('C'\): the key 'title' is there twice"),
        ('[{"title": "A", "sents": [], "vertexSet": [[{"pos": 1, "pos": 2}]]}]', r"entry 0 \('A'\): the key 'pos'"),
        ('{"P17": 1, "P17": 2}', "f: the key 'P17' is there twice in one object; remove or rename one"),
    ],
)
def test_a_key_that_is_there_twice_is_named(text, told):
    with pytest.raises(UserError, match=told):
        parse_json(text, "f")


def test_a_key_that_is_there_twice_is_named_with_its_document_by_every_reader(tmp_path):
    double = json.dumps(DOCUMENT)[:-1] + ', "title": "Again"}'
    for text in (f"[{json.dumps(DOCUMENT)}, {double}]", f"{json.dumps(DOCUMENT)}\n{double}"):
        path = written(tmp_path, text)
        with pytest.raises(UserError, match=r"document 1.*the key 'title' is there twice"):
            load_documents(path)
        with path.open("rb") as file, pytest.raises(UserError, match="document 1: the key 'title' is there twice"):
            list(stream_documents(file, "docs"))


def test_files_without_documents_are_told(tmp_path, trained, monkeypatch, capsys):
    empty = written(tmp_path, [], "empty.json")
    with pytest.raises(UserError, match=r"empty\.json: holds no documents"):
        run_program(monkeypatch, prepro, empty)
    with pytest.raises(UserError, match=r"empty\.json: holds no documents"):
        report.main(["--table", "5", str(empty)])
    predict.main(["--load_path", str(trained), "--input", str(empty), "--output", str(tmp_path / "found.json")])
    assert re.search(r"WARNING: .*empty\.json: holds no documents", capsys.readouterr().err)
    assert json.loads((tmp_path / "found.json").read_text()) == []


def test_prepro_takes_each_file_once_and_a_length_with_room(files, tmp_path, monkeypatch):
    (tmp_path / "link.json").symlink_to(files["gold"])
    for other in (files["gold"], tmp_path / "link.json"):
        with pytest.raises(UserError, match=r"is given twice.*pass it once"):
            run_program(monkeypatch, prepro, files["gold"], other)
    for length in ("0", "-5", "2"):
        with pytest.raises(UserError, match=f"--max_seq_length {length}: must be at least 3"):
            run_program(monkeypatch, prepro, files["gold"], "--max_seq_length", length)


# --- predictions and the training file


def test_predictions_are_read_as_a_list_as_lines_and_packed(files, tmp_path, monkeypatch, capsys):
    lines = f"{json.dumps(RIGHT)}\n{json.dumps(RIGHT | {'t_idx': 2})}\n".encode()
    shown = []
    for content in (json.dumps([RIGHT, RIGHT | {"t_idx": 2}]), lines, gzip.compress(lines)):
        written(tmp_path, content, files["predictions"].name)
        score(monkeypatch, files)
        shown.append(capsys.readouterr())
    assert shown[0] == shown[1] == shown[2] and not shown[0].err
    with pytest.raises(UserError, match="prediction 1: broken JSON"):
        read_predictions(written(tmp_path, lines[:-20]))
    assert read_predictions(written(tmp_path, b"", "none.jsonl")) == []
    with pytest.raises(UserError, match=r"is empty; it must hold a list of \{title, h_idx, t_idx, r\}"):
        read_predictions(written(tmp_path, b"", "none.json"))


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ([DOCUMENT], "it is a document: pass the file of predictions"),
        ({"predictions": [RIGHT]}, "take the list under 'predictions' alone"),
        ([5], "h_idx and t_idx as entity numbers$"),
    ],
)
def test_what_is_no_file_of_predictions_is_called_what_it_is(files, monkeypatch, content, told):
    written(files["gold"].parent, content, files["predictions"].name)
    with pytest.raises(UserError, match=rf"predictions\.json: entry 0: needs title and r.*{told}"):
        score(monkeypatch, files)


@pytest.mark.parametrize(
    ("predictions", "told"),
    [
        ([], "holds no predictions: every score is 0"),
        ([RIGHT, RIGHT, RIGHT, RIGHT | {"t_idx": 2}], "2 of 4 predictions repeat another one, such as .*Example.*once"),
    ],
)
def test_no_and_repeated_predictions_are_counted(files, tmp_path, monkeypatch, capsys, predictions, told):
    written(tmp_path, predictions, files["predictions"].name)
    score(monkeypatch, files)
    assert re.search(rf"WARNING: .*predictions\.json: {told}", capsys.readouterr().err)


def test_the_gold_file_as_training_file_is_told(files, tmp_path, monkeypatch, capsys):
    for train in (files["gold"], written(tmp_path, json.dumps([DOCUMENT], indent=1), "copy.json")):
        score(monkeypatch, files | {"train": train})
        assert re.search("WARNING: .*holds the same documents as .*pass the train file", capsys.readouterr().err)
    score(monkeypatch, files | {"train": written(tmp_path, [DOCUMENT, {**DOCUMENT, "title": "B"}], "more.json")})
    assert "share 2 documents (1 by title, 1 by text)" in capsys.readouterr().err


def labelled(title, names, relation):
    """A document that states a fact of each two names."""
    vertices = [[{"name": name, "sent_id": 0, "pos": [0, 1]}] for name in names]
    pairs = [(h, t) for h in range(len(names)) for t in range(len(names)) if h != t]
    labels = [{"h": h, "t": t, "r": relation} for h, t in pairs]
    return {"title": title, "sents": [[title]], "vertexSet": vertices, "labels": labels}


def test_a_training_file_of_another_data_set_is_told_and_a_small_one_is_not():
    def checks(gold, train, known):
        return [found["check"] for found in check_training_file(("gold", "train"), [gold], [train], known)]

    few, many = [f"a{number}" for number in range(5)], [f"a{number}" for number in range(40)]
    assert checks(labelled("A", few, "P17"), labelled("B", few, "gene_disease"), 0) == ["another data set"]
    assert checks(labelled("A", few, "P17"), labelled("B", few, "P17"), 0) == []
    assert checks(labelled("A", many, "P17"), labelled("B", many, "P17"), 0) == ["another data set"]
    assert checks(labelled("A", many, "P17"), labelled("B", many, "P17"), 1) == []


def test_a_copy_of_the_training_file_as_dev_file_is_told():
    [found] = check_files({"train": [DOCUMENT], "dev": [DOCUMENT]}, "train")
    assert found["check"] == "shared documents" and found["count"] == 1


# --- other programs


def test_a_table_of_unfinished_runs_says_that_they_are_unfinished(trained, tmp_path):
    run = shutil.copytree(trained, tmp_path / "run" / "seed_7")
    (run / "scores.json").unlink()
    for table in ("3", "thresholds", "all"):
        with pytest.raises(UserError, match="seed_7: not finished; the training's command goes on with it"):
            report.main(["--table", table, str(tmp_path)])
    with pytest.raises(UserError, match=r"none of the runs belongs in it; .*; not finished: .*run/seed_7"):
        report.main(["--table", "1", str(tmp_path), str(trained)])


def test_the_sample_corpus_shows_its_help_and_replaces_no_other_corpus(tmp_path, monkeypatch):
    command = [sys.executable, str(ROOT / "scripts/tools/make_sample.py"), "--help"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert "OUTPUT_DIR" in done.stdout and not list(tmp_path.iterdir())
    for _ in range(2):
        run_program(monkeypatch, make_sample, tmp_path / "sample")
    assert len(content_of(tmp_path / "sample")) == 4
    mine = written(tmp_path, [DOCUMENT], "train.json")
    with pytest.raises(UserError, match=r"train\.json: is of another corpus and would be replaced"):
        run_program(monkeypatch, make_sample, tmp_path)
    with pytest.raises(UserError, match=r"train\.json: is not a folder"):
        run_program(monkeypatch, make_sample, mine)
    assert json.loads(mine.read_text()) == [DOCUMENT]
