"""Predictions as spans and in brat's format are the same when read again; corrected ones become training data."""

import io
import json
import sys
import unicodedata
import zipfile

import pytest

import predict
import prepro
from hingeabl.errors import UserError
from hingeabl.readers.any_format import read_format, read_paths
from hingeabl.writers.by_extension import ANNOTATED, form_of

TEXT = "\U0001f600 Élodie\u0301 Abel\r\nwas born in Warsaw (Poland). Abel left  Warsaw for دمشق."


def mention(document, name, at=0):
    start = TEXT.index(name, at)
    tokens = [token for sentence in document["sents"] for token in sentence]
    place = tokens.index(name.split()[0]) if at == 0 else len(tokens) - 1 - tokens[::-1].index(name.split()[0])
    length = len(name.split())
    return {
        "name": " ".join(name.split()),
        "sent_id": 0,
        "pos": [place, place + length],
        "type": "PER" if "Abel" in name else "LOC",
        "start": start,
        "end": start + len(name),
    }


@pytest.fixture
def document():
    found = {"title": "a/b: 1", "text": TEXT, "sents": [TEXT.replace("(", "( ").replace(")", " ) ").split()]}
    last = TEXT.rindex("Abel")
    found["vertexSet"] = [
        [mention(found, "Élodie\u0301 Abel"), mention(found, "Abel", last)],
        [mention(found, "Warsaw"), mention(found, "Warsaw", last)],
        [mention(found, "Poland")],
    ]
    return found


@pytest.fixture
def entries():
    scores = {"score": 2.5, "threshold": 1.0, "margin": 1.5, "confidence": 0.876}
    named = [(0, 1, "P19", "place of birth"), (1, 2, "P17", "country")]
    return [
        {"title": "a/b: 1", "h_idx": h, "t_idx": t, "r": r, "relation": name, **scores, "evidence": [0]}
        for h, t, r, name in named
    ]


def written(ending, documents, entries):
    file = io.BytesIO()
    with io.TextIOWrapper(file, encoding="utf-8", newline="") as output:
        writer = form_of(f"found{ending}")(output)
        writer.begin()
        writer.add(documents, entries)
        writer.end()
        output.flush()
        return file.getvalue()


def test_spans_have_the_text_to_the_character_and_are_read_again(document, entries):
    (value,) = json.loads(written(".spans.json", [document], [entries]))
    assert value["text"] == TEXT
    for entity, own in zip(value["entities"], document["vertexSet"], strict=True):
        for span, mention in zip(entity["mentions"], own, strict=True):
            assert TEXT[span["start"] : span["end"]] == span["text"]
            assert (span["start"], span["end"], span["type"]) == (mention["start"], mention["end"], mention["type"])
    again = next(read_format(io.BytesIO(json.dumps(value).encode()), "x.json", None, False, labels=True))
    assert again["sents"] == document["sents"]
    assert [[one["pos"] for one in own] for own in again["vertexSet"]] == [
        [one["pos"] for one in own] for own in document["vertexSet"]
    ]
    stated = [(label["h"], label["r"], label["t"], label["evidence"], label["confidence"]) for label in again["labels"]]
    assert stated == [(0, "P19", 1, [0], 0.876), (1, "P17", 2, [0], 0.876)]


def test_lines_are_one_document_each_and_no_documents_are_an_empty_file(document, entries):
    lines = written(".spans.jsonl", [document, document], [entries, []]).decode().splitlines()
    assert [len(json.loads(line)["labels"]) for line in lines] == [2, 0]
    assert written(".spans.jsonl", [], []) == b"" and written(".spans.json", [], []) == b"[]\n"


def test_a_document_whose_text_is_another_one_is_written_by_its_tokens(document, entries):
    other = document | {"text": "Something else."}
    (value,) = json.loads(written(".spans.json", [other], [entries]))
    assert value["text"].split() == [token for sentence in document["sents"] for token in sentence]
    assert value["entities"][2]["mentions"][0]["text"] == "Poland"


def test_brat_has_two_files_a_document_that_are_read_again(document, entries, tmp_path, capsys):
    alone = {"title": "..", "sents": [["Nothing"]], "vertexSet": []}
    archive = tmp_path / "found.brat.zip"
    archive.write_bytes(written(".brat.zip", [document, document, alone], [entries, [], []]))
    with zipfile.ZipFile(archive) as opened:
        names = opened.namelist()
        opened.extractall(tmp_path / "brat")
    assert names == ["a_b_1.txt", "a_b_1.ann", "a_b_1_2.txt", "a_b_1_2.ann", "document.txt", "document.ann"]
    assert (tmp_path / "brat/a_b_1.txt").read_bytes().decode() == TEXT
    first, second, third = read_paths([str(tmp_path / "brat")], "brat", False, labels=True)
    assert [[one["name"] for one in own] for own in first["vertexSet"]] == [
        [one["name"] for one in own] for own in document["vertexSet"]
    ]
    assert [(label["h"], label["r"], label["t"]) for label in first["labels"]] == [(0, "P19", 1), (1, "P17", 2)]
    assert (second["labels"], third["vertexSet"]) == ([], [])
    assert capsys.readouterr().err == ""
    for line in (tmp_path / "brat/a_b_1.ann").read_text().splitlines():
        if line.startswith("T"):
            _, (_, start, end), told = (
                part.split() if number == 1 else part for number, part in enumerate(line.split("\t"))
            )
            assert " ".join(TEXT[int(start) : int(end)].split()) == told
    assert "#1\tAnnotatorNotes R1\tplace of birth, confidence 0.88\n" in (tmp_path / "brat/a_b_1.ann").read_text()


@pytest.mark.parametrize("ending", ANNOTATED)
def test_the_same_predictions_are_the_same_bytes(document, entries, ending):
    first = written(ending, [document], [entries])
    assert first == written(ending, [document], [entries])
    if ending == ".brat.zip":
        times = {info.date_time for info in zipfile.ZipFile(io.BytesIO(first)).infolist()}
        assert times == {(1980, 1, 1, 0, 0, 0)}


@pytest.mark.parametrize("title", ["x" * 120, "東" * 100, "/" * 9, "", "a" * 100 + "_2"])
def test_titles_that_are_long_or_alike_have_files_of_their_own(document, title, tmp_path):
    three = [document | {"title": title}] * 3
    with zipfile.ZipFile(io.BytesIO(written(".brat.zip", three, [[]] * 3))) as opened:
        opened.extractall(tmp_path)
    assert len(list(tmp_path.glob("*.txt"))) == len(list(tmp_path.glob("*.ann"))) == 3


def test_titles_that_a_disk_may_take_for_one_have_files_of_their_own(document):
    titles = ["Apple", "apple", "\u00e9", "e\u0301"]
    documents = [document | {"title": title} for title in titles]
    with zipfile.ZipFile(io.BytesIO(written(".brat.zip", documents, [[]] * 4))) as opened:
        names = [name for name in opened.namelist() if name.endswith(".txt")]
    assert len({unicodedata.normalize("NFC", name).casefold() for name in names}) == 4
    assert names[:2] == ["Apple.txt", "apple_2.txt"]


def test_names_with_white_space_stay_one_line_in_brat(document, entries, tmp_path):
    entries = [{**entries[0], "r": "born in", "relation": "born\nin"}]
    with zipfile.ZipFile(io.BytesIO(written(".brat.zip", [document], [entries]))) as opened:
        opened.extractall(tmp_path)
    (again,) = read_paths([str(tmp_path)], "brat", False, labels=True)
    assert [label["r"] for label in again["labels"]] == ["born_in"]


def test_an_archive_of_a_run_that_fails_is_closed_before_its_file_is(tmp_path):
    writer = form_of("found.brat.zip")(io.TextIOWrapper(io.BytesIO()))
    with pytest.raises(KeyError), writer:
        raise KeyError
    assert writer.archive.fp is None  # else zipfile would complain of a closed file
    path = tmp_path / "bad.jsonl"
    path.write_text(json.dumps({"text": "Anna left."}) + "\n" + json.dumps({"text": 3}))
    with pytest.raises(UserError, match=r"document 1: text: must be a string"):
        predict.main(["--input", str(path), "--output", str(tmp_path / "found.brat.zip")])
    assert not list(tmp_path.glob("found*"))


def test_corrected_predictions_of_a_text_become_training_data(tmp_path, capsys, monkeypatch):
    """Text -> predictions -> brat -> one mention and one relation corrected -> prepro.py -> documents to train on."""
    (tmp_path / "texts").mkdir()
    text = "Helena Novak was born on 4 March 1921 in Lisbon.\r\nLisbon is a city in Portugal. \U0001f600 Novak left."
    (tmp_path / "texts/novak.txt").write_bytes(text.encode())
    archive = tmp_path / "found.brat.zip"
    predict.main(["--input", str(tmp_path / "texts"), "--output", str(archive), "--min_confidence", "0.3"])
    with zipfile.ZipFile(archive) as opened:
        opened.extractall(tmp_path / "brat")
    path = tmp_path / "brat/novak.ann"
    lines = path.read_text().splitlines()
    keys = {line.split("\t")[2]: line.split("\t")[0] for line in lines if line.startswith("T")}
    assert {"Helena Novak", "Lisbon", "Portugal"} <= keys.keys()
    kept = [line for line in lines if not line.startswith(("R", "#"))]
    novak = next(line for line in kept if line.startswith(f"{keys['Helena Novak']}\t"))
    kept[kept.index(novak)] = novak.replace("PER", "MISC")
    kept += [f"R1\tP19 Arg1:{keys['Helena Novak']} Arg2:{keys['Lisbon']}"]
    path.write_text("\n".join(kept) + "\n")
    corrected = tmp_path / "corrected.json"
    monkeypatch.setattr(sys, "argv", ["prepro.py", str(tmp_path / "brat"), "--convert", str(corrected)])
    prepro.main()
    (made,) = json.loads(corrected.read_text())
    names = [own[0]["name"] for own in made["vertexSet"]]
    assert [(names[one["h"]], one["r"], names[one["t"]]) for one in made["labels"]] == [
        ("Helena Novak", "P19", "Lisbon")
    ]
    assert made["vertexSet"][names.index("Helena Novak")][0]["type"] == "MISC"
    capsys.readouterr()
    monkeypatch.setattr(sys, "argv", ["prepro.py", str(corrected), "--json"])
    prepro.main()
    (statistics,) = json.loads(capsys.readouterr().out)["files"].values()
    assert (statistics["documents"], statistics["triples / doc"]) == (1, 1)
    documents = json.loads(corrected.read_text())
    documents[0]["labels"] += [{"h": 0, "t": 0, "r": "P19", "evidence": []}]
    corrected.write_text(json.dumps(documents))
    prepro.main()
    said = capsys.readouterr()
    (statistics,) = json.loads(said.out)["files"].values()
    assert statistics["triples / doc"] == 1
    assert "1 labels whose head and tail are the same entity are left out" in said.err
