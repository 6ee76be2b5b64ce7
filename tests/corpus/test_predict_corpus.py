"""A corpus: what is read of it, what a part holds, and what of the output is finished. test_on_ray.py has Ray."""

import errno
import glob
import gzip
import json
import os
import shutil
import sys
from pathlib import Path

import predict_corpus
import pytest
from corpora import SPANS, lines, part, read
from predictions import predict_file

import predict
from hingeabl.corpus import folder
from hingeabl.corpus.sources import blocks_of, checksums, find_sources, fits, fixed_part, read_sources
from hingeabl.corpus.worker import Part
from hingeabl.errors import UserError


@pytest.fixture
def documents(sample):
    """Five documents without labels."""
    found = json.loads((sample / "test.json").read_text())
    return [{key: value for key, value in document.items() if key != "labels"} for document in found]


def test_files_of_all_forms_give_their_documents_in_the_order_of_their_names(documents, tmp_path):
    contents = {
        "a.json": json.dumps(documents),
        "b/lines.jsonl": lines(documents) + "\n",
        "c.json": lines(documents),
        "d.json": json.dumps(documents[0], indent=1),
        "e.json": json.dumps(documents[0]),
    }
    for name, content in contents.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(content)
    (tmp_path / "f.jsonl.gz").write_bytes(gzip.compress(lines(documents).encode()))
    (tmp_path / "g.json").write_text(json.dumps(documents), encoding="utf-16")
    (tmp_path / "h.txt").write_text("Ada met Bo.")
    (tmp_path / ".hidden.txt").write_text("no")
    found = read(tmp_path)
    counts = {"a.json": 5, "b/lines.jsonl": 5, "c.json": 5, "d.json": 1, "e.json": 1, "f.jsonl.gz": 5, "g.json": 5}
    counts["h.txt"] = 1
    assert [(raw.file, raw.number) for raw in found] == [(f, n) for f, count in counts.items() for n in range(count)]
    assert [raw.kind for raw in found] == ["json"] * 27 + ["text"]
    for raw in found[:-1]:
        assert json.loads(raw.data) == documents[raw.number]
    assert [len(block) for _, block in blocks_of(found, 10)] == [10, 10, 8]


def test_a_file_name_that_is_not_utf8_is_written_with_its_odd_bytes(tmp_path, trained):
    texts = tmp_path / "texts"
    texts.mkdir()
    path = os.path.join(os.fsencode(texts), b"caf\xe9.txt")
    try:
        with open(path, "wb") as file:
            file.write(b"Ada Lovelace lived in London.")
    except OSError:
        pytest.skip("this file system has no such names")
    assert [source.name for source in find_sources(str(texts))] == ["caf\\xe9.txt"]
    output = tmp_path / "found.json"
    predict.main(["--load_path", str(trained), "--input", str(texts), "--output", str(output)])
    page = tmp_path / "page.html"
    given = {"--load_path": trained, "--input": os.fsdecode(path), "--output": output, "--html": page}
    predict.main([str(part) for option in given.items() for part in option])
    assert "caf\\\\xe9" in page.read_text()  # as JSON


def test_globs_and_files_are_named_below_their_fixed_part(tmp_path):
    for name in ("x/a.txt", "x/y/b.txt", "z.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("text")

    def names(given):
        return [source.name for source in find_sources(f"{tmp_path}/{given}")]

    assert names("**/*.txt") == ["x/a.txt", "x/y/b.txt", "z.txt"]
    assert names("x/*.txt") == names("x/a.txt") == ["a.txt"]


@pytest.mark.parametrize(
    "pattern", ["*.txt", "**/*.txt", "x/*.txt", "x/**/*.txt", "**", "x/**", "*/**", "**/x/*", "*//?.txt"]
)
def test_a_glob_means_for_other_places_what_it_does_here(pattern, tmp_path):
    for name in ("a.txt", "x/a.txt", "x/y/b.txt", "x/y/x/c.txt", "z.json"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    here = {Path(name) for name in glob.glob(f"{tmp_path}/{pattern}", recursive=True) if Path(name).is_file()}
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert {path for path in files if fits(str(path), f"{tmp_path}/{pattern}")} == here != set()
    assert not any(fits(str(path), f"{tmp_path}/*/") for path in files)


def test_a_place_that_pyarrow_opens_is_read_as_the_local_folder_is(documents, tmp_path):
    pytest.importorskip("pyarrow", reason="pyarrow is not installed")
    (tmp_path / "in").mkdir()
    (tmp_path / "in/a.jsonl").write_text(lines(documents))
    (tmp_path / "in/b.json.gz").write_bytes(gzip.compress(json.dumps(documents).encode()))
    for given in ("in", "in/*.jsonl", "in/a.jsonl"):
        here, there = (find_sources(f"{start}{tmp_path}/{given}") for start in ("", "file://"))
        assert list(read_sources(here)) == list(read_sources(there))
        assert checksums(here) == checksums(there)
    with pytest.raises(UserError, match=r"--input nowhere://x: cannot be opened .*check the address"):
        find_sources("nowhere://x")


def test_parquet_goes_in_and_comes_out_as_json_lines_do(documents, tmp_path, predictor):
    parquet = pytest.importorskip("pyarrow.parquet", reason="pyarrow is not installed")
    from pyarrow import Table

    (tmp_path / "in").mkdir()
    parquet.write_table(Table.from_pylist(documents), tmp_path / "in/a.parquet")
    raws = read(tmp_path / "in")
    _, rows = part(predictor, raws)
    assert [row["title"] for row in rows] == [document["title"] for document in documents]
    found, _ = part(predictor, raws, "parquet")
    (tmp_path / "out.parquet").write_bytes(found.data)
    for row, written in zip(rows, parquet.read_table(tmp_path / "out.parquet").to_pylist(), strict=True):
        own = [{key: value for key, value in entry.items() if value is not None} for entry in written["predictions"]]
        assert row == written | {"predictions": own} and own


def test_a_part_has_predict_pys_predictions_document_by_document(documents, tmp_path, predictor, trained):
    (tmp_path / "in.jsonl").write_text(lines(documents))
    found, rows = part(predictor, read(tmp_path / "in.jsonl"))
    expected = predict_file(trained, documents, tmp_path)
    assert [{"title": row["title"], **entry} for row in rows for entry in row["predictions"]] == expected != []
    assert (found.documents, found.predictions, found.errors) == (5, len(expected), [])


def test_bad_documents_are_told_with_their_place_and_cost_no_other(documents, tmp_path, predictor):
    bad = [{"title": "bad", "sents": [["a"]], "vertexSet": [[{"name": "a", "sent_id": 3, "pos": [0, 1]}]]}, {"no": 1}]
    content = f"{lines([documents[0], bad[0]])}{{broken\n{lines([documents[1], bad[1], SPANS])}"
    (tmp_path / "a.jsonl").write_bytes(content.encode() + b'{"title": "\xff"}\n' + lines([documents[2]]).encode())
    (tmp_path / "b.json").write_text(json.dumps(documents[:2])[:-1] + ', {"title": "no end"')
    (tmp_path / "c.json").write_text(lines(documents[3:]))
    found, rows = part(predictor, read(tmp_path))
    kept = [("a.jsonl", number) for number in (0, 3, 5, 7)] + [(f"{name}.json", n) for name in "bc" for n in (0, 1)]
    assert [(row["file"], row["document"]) for row in rows] == kept
    assert [(error["file"], error["document"]) for error in found.errors] == [
        *(("a.jsonl", number) for number in (1, 2, 4, 6)),
        ("b.json", 2),
    ]
    for error in found.errors:
        assert error["message"].startswith(f"{error['file']}: document {error['document']}"), error
    assert "sent_id: 3 is not a sentence" in found.errors[0]["message"]


def test_documents_that_cannot_be_predicted_are_found_one_by_one(documents, tmp_path, predictor, monkeypatch):
    (tmp_path / "in.jsonl").write_text(lines(documents))
    plain = predictor.predict_group

    def fail(group):
        if any(document["title"] == documents[2]["title"] for document in group):
            raise RuntimeError("too much\nand more")
        return plain(group)

    monkeypatch.setattr(predictor, "predict_group", fail)
    found, rows = part(predictor, read(tmp_path / "in.jsonl"))
    assert [row["document"] for row in rows] == [0, 1, 3, 4] and predictor.documents == 4
    assert found.errors == [{"file": "in.jsonl", "document": 2, "message": "RuntimeError: too much"}]


def test_texts_in_files_and_in_lines_are_read_alike(tmp_path, predictor):
    text = "Ada Lovelace was born in London. She worked with Charles Babbage in England."
    (tmp_path / "more").mkdir()
    (tmp_path / "more/a.txt").write_text(text)
    (tmp_path / "b.jsonl").write_text(lines([{"title": "b", "text": text, "tags": ["x"]}, {"text": text}]))
    _, rows = part(predictor, read(tmp_path))
    assert [row["title"] for row in rows] == ["b", "document 1", "more/a"]
    first, second, third = ((row["entities"], row["predictions"]) for row in rows)
    assert second == third and second[0]
    assert [{**one, "id": ""} for one in first[0]] == [
        {**one, "id": ""} for one in second[0]
    ]  # an id is of a title too
    assert first[1] == second[1]


# --- the output


MANIFEST = {"inputs": {"a": "1"}, "run": {"model": "2"}, "settings": {"shift": 0.0}}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"inputs": {"a": "1", "b": "1"}}, r"another input \(b\); name another folder"),
        ({"run": {"model": "3"}}, r"another model \(model\)"),
        ({"settings": {"shift": 1.0}}, r"another setting \(shift 0.0 there, 1.0 here\)"),
    ],
)
def test_a_folder_that_was_begun_otherwise_is_refused_and_left_as_it_is(tmp_path, change, message):
    folder.begin(tmp_path / "out", MANIFEST | change)  # has no part yet
    folder.begin(tmp_path / "out", MANIFEST)
    folder.write_part(tmp_path / "out", 0, Part(b"{}\n", 1, 0), "jsonl")
    before = (tmp_path / "out/manifest.json").read_bytes()
    folder.begin(tmp_path / "out", MANIFEST)
    with pytest.raises(UserError, match=message):
        folder.begin(tmp_path / "out", MANIFEST | change)
    assert (tmp_path / "out/manifest.json").read_bytes() == before


@pytest.mark.parametrize("left", ["done/part-000000.json", "finished.json"])
def test_a_folder_without_parts_that_was_begun_is_known_again(tmp_path, left):
    folder.begin(tmp_path, MANIFEST)
    (tmp_path / left).parent.mkdir(exist_ok=True)
    (tmp_path / left).write_text("{}")
    folder.begin(tmp_path, MANIFEST)
    with pytest.raises(UserError, match="begun with another input"):
        folder.begin(tmp_path, MANIFEST | {"inputs": {"a": "1", "b": "1"}})


def test_a_folder_of_something_else_is_refused(tmp_path):
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(UserError, match="holds files of something else"):
        folder.begin(tmp_path, MANIFEST)


def test_a_part_is_finished_only_when_both_of_its_files_are_there(tmp_path):
    errors = [{"file": "a", "document": 3, "message": "broken"}]
    for number in (1, 0):
        assert not folder.is_finished(tmp_path, number, "jsonl")
        folder.write_part(tmp_path, number, Part(b"{}\n", 4, 7, errors if number else [], ["doubt"]), "jsonl")
        assert folder.is_finished(tmp_path, number, "jsonl") and not folder.is_finished(tmp_path, number, "parquet")
    (tmp_path / "parts/part-000002.jsonl").write_text("a process was killed behind this")
    (tmp_path / "done/part-000002.json.tmp").write_text("a process was killed")
    assert not folder.is_finished(tmp_path, 2, "jsonl")
    for complete in (False, True):
        totals = folder.finish(tmp_path, complete)
        assert totals == {"documents": 8, "predictions": 14, "errors": 1, "warnings": 2}
        assert (tmp_path / "finished.json").exists() == complete
    assert [json.loads(line) for line in (tmp_path / "errors.jsonl").read_text().splitlines()] == errors
    assert not list(tmp_path.rglob("*.tmp"))
    (tmp_path / "parts/part-000000.jsonl").unlink()  # as it was broken
    assert not folder.is_finished(tmp_path, 0, "jsonl") and folder.is_finished(tmp_path, 1, "jsonl")


def test_a_glob_may_begin_at_the_root_and_links_without_a_file_are_told(tmp_path, documents, capsys):
    assert fixed_part("/scratch*/a/*.json") == "/" and fixed_part("a*/b.json") == ""
    (tmp_path / "a.jsonl").write_text(lines(documents))
    (tmp_path / "b.jsonl").symlink_to(tmp_path / "nowhere")
    for pattern in (f"{tmp_path}/*.jsonl", str(tmp_path)):
        assert [source.name for source in find_sources(pattern)] == ["a.jsonl"]
        assert "1 links lead to no file" in capsys.readouterr().err
    root = "/" + "".join(f"[{letter}]" for letter in tmp_path.parts[1]) + "/"
    pattern = root + str(tmp_path.relative_to("/" + tmp_path.parts[1])) + "/a.jsonl"
    [source] = find_sources(pattern)
    assert source.name == str(tmp_path.relative_to("/") / "a.jsonl")


def test_linked_folders_are_read_once_and_a_glob_names_each_file_once(tmp_path, documents):
    (tmp_path / "other/deep").mkdir(parents=True)
    (tmp_path / "other/deep/a.jsonl").write_text(lines(documents))
    (tmp_path / "in/x/y").mkdir(parents=True)
    (tmp_path / "in/x/y/b.jsonl").write_text(lines(documents))
    (tmp_path / "in/linked").symlink_to(tmp_path / "other")
    (tmp_path / "other/back").symlink_to(tmp_path / "in")  # a loop
    assert [source.name for source in find_sources(str(tmp_path / "in"))] == ["linked/deep/a.jsonl", "x/y/b.jsonl"]
    assert [source.name for source in find_sources(f"{tmp_path}/in/x/**/**/*.jsonl")] == ["y/b.jsonl"]


def test_a_folder_that_cannot_be_read_is_told(tmp_path, documents, monkeypatch, capsys):
    (tmp_path / "a.jsonl").write_text(lines(documents))
    (tmp_path / "closed").mkdir()
    scandir = os.scandir

    def closed(path):  # as for all but root
        if str(path).endswith("closed"):
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", closed)
    assert [source.name for source in find_sources(str(tmp_path))] == ["a.jsonl"]
    assert f"1 folders cannot be read and are left out, such as {tmp_path}/closed" in capsys.readouterr().err


def test_an_unfinished_run_and_an_input_without_documents_are_told(tmp_path, trained, capsys, monkeypatch):
    monkeypatch.setattr(predict_corpus, "need_ray", lambda address: None)  # it starts nothing here
    copied = shutil.copytree(trained, tmp_path / "seed_7")
    (copied / "scores.json").unlink()
    (tmp_path / "a.json").write_text("[]")
    for _ in range(2):
        predict_corpus.main(
            ["--input", f"{tmp_path}/a.json", "--output", f"{tmp_path}/out", "--load_path", str(copied)]
        )
        told = capsys.readouterr()
        assert "seed_7: is not finished" in told.err and "holds no documents" in told.err
        assert "0 predictions for 0 documents" in told.out


def test_the_output_may_not_lie_in_the_input(tmp_path, documents):
    (tmp_path / "a.jsonl").write_text(lines(documents))
    for given in (tmp_path, f"{tmp_path}/**/*.jsonl", f"{tmp_path}/**"):
        for output in (tmp_path / "out", tmp_path, tmp_path.parent):
            with pytest.raises(UserError, match=r"is in --input .* name another folder"):
                predict_corpus.main(["--input", str(given), "--output", str(output)])


def test_the_output_may_not_lie_where_a_glob_would_find_it_and_a_bracket_is_no_glob(tmp_path, documents, monkeypatch):
    for name in ("in", "articles[1]"):
        (tmp_path / "data" / name).mkdir(parents=True)
        (tmp_path / "data" / name / "a.jsonl").write_text(lines(documents))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(predict_corpus, "need_ray", lambda address: None)
    with pytest.raises(UserError, match=r"--output data/out: is in --input .*data/\*/\*\.jsonl"):
        predict_corpus.main(["--input", "data/*/*.jsonl", "--output", "data/out"])
    for given in ("data/articles[1]", "data/in/*.jsonl"):
        args = predict_corpus.parse_args(["--input", given, "--output", "found"])
        predict_corpus.check(args, find_sources(given))


def test_without_ray_one_line_tells_how_to_install_it_and_nothing_is_written(tmp_path, documents, monkeypatch):
    (tmp_path / "a.jsonl").write_text(lines(documents))
    monkeypatch.setitem(sys.modules, "ray", None)
    for name in ("RAY_USAGE_STATS_ENABLED", "RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO"):
        monkeypatch.setenv(name, "0")
    with pytest.raises(UserError, match=r"ray is not installed.*pip install -r scripts/requirements/ray\.txt"):
        predict_corpus.main(["--input", str(tmp_path / "a.jsonl"), "--output", str(tmp_path / "out")])
    assert not (tmp_path / "out").exists()


def test_an_input_without_documents_names_what_can_be_read(tmp_path):
    (tmp_path / "a.csv").write_text("1")
    with pytest.raises(UserError, match=r"no file is there that ends in one of \.json.*it has a\.csv"):
        find_sources(str(tmp_path))
