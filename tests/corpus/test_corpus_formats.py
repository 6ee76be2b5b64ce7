"""What the documents of a corpus are, by the format of their files."""

import gzip
import json

import pytest
from corpora import SPANS, lines, part, read

from hingeabl.corpus import sources


def test_bytes_in_parquet_are_text_and_no_number_is_no_value(tmp_path, predictor):
    parquet = pytest.importorskip("pyarrow.parquet", reason="pyarrow is not installed")
    from pyarrow import Table

    text = "Zo\u00eb Marlow was born in Lisbon."
    columns = {"text": [text.encode(), b"\xff", text.encode()], "weight": [float("nan"), 1.0, float("inf")]}
    parquet.write_table(Table.from_pydict(columns | {"picture": 3 * [b"\xff"]}), tmp_path / "a.parquet")
    found, rows = part(predictor, read(tmp_path))
    assert [(row["document"], row["entities"][0]["name"]) for row in rows] == [
        (0, "Zo\u00eb Marlow"),
        (2, "Zo\u00eb Marlow"),
    ]
    assert [error["document"] for error in found.errors] == [1]  # without its text


def test_offsets_are_judged_over_a_files_documents_in_a_part_as_in_a_file(tmp_path, predictor):
    right = SPANS | {"entities": [{"mentions": [{"start": 0, "end": 3, "text": "Ada"}]}] * 3}
    wrong = SPANS | {"entities": [{"mentions": [{"start": 0, "end": 3, "text": "Eve"}]}]}
    (tmp_path / "a.jsonl").write_text(lines([wrong, right]))
    (tmp_path / "b.jsonl").write_text(lines([wrong]))
    found, rows = part(predictor, read(tmp_path))
    assert [row["file"] for row in rows] == ["a.jsonl", "a.jsonl"]
    assert any("a.jsonl, part 0" in told and "have another text" in told for told in found.warnings)
    [error] = found.errors
    assert error["file"] == "b.jsonl" and "1 of 1 mentions (100.0%)" in error["message"]


def test_a_files_format_is_that_of_all_its_lines(tmp_path, predictor):
    """As in predict.py: a line without mentions in a file of mentions is no text to find mentions in."""
    text = "Zo\u00eb Marlow was born in Lisbon."
    older = [{"id": 1, "text": text, "label": []}, {"id": 2, "text": text, "label": [[0, 10, "PER"]]}]
    (tmp_path / "a.jsonl").write_text("{broken\n" + lines(older))
    (tmp_path / "b.jsonl").write_text(lines([SPANS, {"title": "B", "text": text}]))
    found, rows = part(predictor, read(tmp_path))
    names = [[entity["name"] for entity in row["entities"]] for row in rows]
    assert names == [[], ["Zo\u00eb Marlow"], ["Ada", "Bo"]]
    assert [(error["file"], error["document"]) for error in found.errors] == [("a.jsonl", 0), ("b.jsonl", 1)]
    assert "entities: is missing" in found.errors[1]["message"]


def test_a_file_whose_beginning_shows_no_whole_document_is_read_document_by_document(tmp_path, predictor, monkeypatch):
    text = "Zo\u00eb Marlow was born in Lisbon. " * 4
    nested = '{"a":' * 3000 + "1" + "}" * 3000
    (tmp_path / "a.jsonl").write_text(lines([{"text": text}, {"text": text}]))
    (tmp_path / "b.json").write_text(json.dumps([{"text": text}, {"text": text}]))
    (tmp_path / "c.jsonl").write_text(f"{nested}\n{json.dumps({'text': text})}\n")
    monkeypatch.setattr(sources, "CHUNK", 80)
    found, rows = part(predictor, read(tmp_path))
    places = [("a.jsonl", 0), ("a.jsonl", 1), ("b.json", 0), ("b.json", 1), ("c.jsonl", 1)]
    assert [(row["file"], row["document"]) for row in rows] == places
    assert all(row["entities"] for row in rows)
    assert [(error["file"], error["document"]) for error in found.errors] == [("c.jsonl", 0)]


def test_a_file_named_as_text_that_is_none_is_told_with_the_command_that_converts_it(tmp_path, sample, predictor):
    (tmp_path / "cdr.PubTator.txt").write_text("7|t|A title\n7|a|More.\n7\t0\t1\tA\tGene\t5\n")
    (tmp_path / "docs.txt").write_bytes((sample / "test.json").read_bytes())
    (tmp_path / "list.txt").write_text("[1] Ada met Bo.")
    found, rows = part(predictor, read(tmp_path))
    assert [row["title"] for row in rows] == ["list"]
    first, second = (error["message"] for error in found.errors)
    assert (
        "cdr.PubTator.txt: is in PubTator's format, no plain text; prepro.py --convert makes documents of it" in first
    )
    assert "docs.txt: is in the format docred, no plain text" in second


def test_a_text_is_read_whatever_lies_in_the_current_folder_and_a_broken_packed_one_is_told(
    tmp_path, predictor, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.txt").write_text("Ada Byron met Bo.")
    (tmp_path / "a.ann").write_text("T1\tPER 0 3\tAda\n")
    (tmp_path / "b.md").write_text("[ ] Ask Ada Byron.")
    (tmp_path / "c.txt.gz").write_bytes(gzip.compress(b"Ada Byron met Bo." * 50)[:-20])
    found, rows = part(predictor, read("."))
    assert [row["title"] for row in rows] == ["a", "b"]
    [error] = found.errors
    assert error["file"] == "c.txt.gz" and "unpacked" in error["message"]
