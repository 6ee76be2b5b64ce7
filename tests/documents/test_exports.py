"""Exports of label tools and DWIE's release, folders and several files as input, and formats that programs name but
cannot read."""

import gzip
import json
import sys
from pathlib import Path

import pytest
from test_readers import PUBTATOR, SPANS, TEXT, brat, read, told

import evaluation
import predict
import prepro
import train
from hingeabl.errors import UserError
from hingeabl.readers.any_format import detect, read_paths
from hingeabl.readers.documents import load_documents

NAMED = {"title": "Named"}
STORY = "\U0001f600 Orla Venn founded Tamsin Works."
DOCCANO = {
    "id": 7,
    "text": STORY,
    "entities": [
        {"id": 3, "label": "PER", "start_offset": 2, "end_offset": 11},
        {"id": 1, "label": "ORG", "start_offset": 20, "end_offset": 32},
        {"id": 2, "label": "PER", "start_offset": 2, "end_offset": 6},
    ],
    "relations": [
        {"id": 0, "from_id": 1, "to_id": 3, "type": "P112"},
        {"id": 1, "from_id": 2, "to_id": 3, "type": "coref"},
    ],
    "Comments": [],
}


def studio(**change):
    """A task of Label Studio, whose offsets are UTF-16 units."""
    region = {"type": "labels", "from_name": "label", "to_name": "text"}
    result = [
        region | {"id": "a", "value": {"start": 3, "end": 12, "text": "Orla Venn", "labels": ["PER"]}},
        region | {"id": "b", "value": {"start": 21, "end": 33, "text": "Tamsin Works", "labels": ["ORG"]}},
        {"type": "relation", "from_id": "a", "to_id": "b", "direction": "left", "labels": ["P112"]},
        {"type": "relation", "from_id": "a", "to_id": "b", "direction": "bi", "labels": ["P1"]},
        {"type": "relation", "from_id": "a", "to_id": "b", "direction": "right"},
        {"type": "choices", "value": {"choices": ["good"]}},
    ]
    return {"id": 5, "data": {"text": STORY}, "annotations": [{"result": result}], "predictions": []} | change


ARTICLE = {
    "id": "DW_1",
    "content": f"A founding\n{STORY}",
    "tags": ["all", "train"],
    "mentions": [
        {"begin": 31, "end": 43, "text": "Tamsin Works", "concept": 2},
        {"begin": 13, "end": 22, "text": "Orla Venn", "concept": 0, "candidates": ["Orla_Venn"], "scores": [1.0]},
        {"begin": 13, "end": 17, "text": "Orla", "concept": 0},
    ],
    "concepts": [
        {"concept": 0, "text": "Orla Venn", "tags": ["type::role", "type::entity", "type::person"]},
        {"concept": 1, "text": "Tamsin", "count": 0, "tags": ["type::entity", "type::gpe", "type::location"]},
        {"concept": 2, "text": "Tamsin Works", "tags": ["slot::keyword"]},
    ],
    "relations": [
        {"s": 0, "p": "head_of", "o": 2},
        {"s": 2, "p": "founded_by", "o": 0},
        {"s": 2, "p": "based_in0", "o": 1},
        {"s": 2, "p": "vs", "o": 2},
    ],
    "frames": [],
    "iptc": ["04000000"],
}


def run(monkeypatch, program, *arguments):
    monkeypatch.setattr(sys, "argv", [program.__name__, *map(str, arguments)])
    program.main()


# --- label tools


def test_doccanos_export_becomes_a_document(capsys):
    (found,) = read(DOCCANO)
    assert found["title"] == "7" and found["labels"] == [{"h": 1, "t": 0, "r": "P112"}]
    person = {"sent_id": 0, "type": "PER"}
    assert found["vertexSet"] == [
        [person | {"name": "Orla Venn", "pos": [1, 3]}, person | {"name": "Orla", "pos": [1, 2]}],
        [{"name": "Tamsin Works", "sent_id": 0, "pos": [4, 6], "type": "ORG"}],
    ]
    for field in ("label", "labels"):
        (plain,) = read({"text": STORY, field: [[2, 11, "PER"], [20, 32, "ORG"]]})
        assert [entity[0]["name"] for entity in plain["vertexSet"]] == ["Orla Venn", "Tamsin Works"]
        assert plain["title"] == "document 0"
    assert not any(capsys.readouterr())


def test_label_studios_export_becomes_a_document(capsys):
    (found,) = read([studio()])
    assert [entity[0]["name"] for entity in found["vertexSet"]] == ["Orla Venn", "Tamsin Works"]
    pairs = [(label["h"], label["t"], label["r"]) for label in found["labels"]]
    assert found["title"] == "5" and pairs == [(1, 0, "P112"), (0, 1, "P1"), (1, 0, "P1")]
    shown = told(capsys)
    assert "2 annotations are left out" in shown and "offsets of 1 documents are read as UTF-16 units" in shown


def test_of_several_annotators_one_is_read_and_the_others_are_counted(capsys):
    empty, right = {"result": []}, studio()["annotations"][0]
    for found in ([right, empty], [empty, right | {"ground_truth": True}], [empty | {"was_cancelled": True}, right]):
        (document,) = read([studio(annotations=found, data={"story": STORY, "n": 1})])
        assert len(document["vertexSet"]) == 2
        assert ("1 annotations of a text by another annotator" in told(capsys)) == ("was_cancelled" not in found[0])
    (document,) = read([studio(annotations=[])])
    assert document["vertexSet"] == [] == document["labels"]
    assert "1 tasks have no annotation, and become documents without entities" in told(capsys)


def test_further_labels_of_a_span_are_counted(capsys):
    spans = [
        item | {"value": item["value"] | {"labels": ["PER", "ORG", "LOC"]}} if item["type"] == "labels" else item
        for item in studio()["annotations"][0]["result"]
    ]
    read([studio(annotations=[{"result": spans}])])
    assert "4 further types of a mention are left out" in told(capsys)


@pytest.mark.parametrize("labels", ["P19", 5])
def test_relations_whose_labels_are_no_list_are_refused(labels):
    result = [
        item | {"labels": labels} if item["type"] == "relation" else item
        for item in studio()["annotations"][0]["result"]
    ]
    with pytest.raises(UserError, match=r"result\[\d\]: labels: must be a list"):
        read([studio(annotations=[{"result": result}])])


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (DOCCANO | {"entities": 5}, r"entities: must be a list"),
        (DOCCANO | {"entities": [5]}, r"entities\[0\]: is not an object"),
        (DOCCANO | {"entities": DOCCANO["entities"] * 2}, r"entities\[3\]: its id 3 is there twice"),
        (DOCCANO | {"entities": [{"id": 1, "start_offset": "0"}]}, r"entities\[0\]: '0' to None are no offsets"),
        (DOCCANO | {"relations": [{"from_id": 9, "to_id": 3, "type": "P1"}]}, r"relations\[0\]: 9 is not a mention"),
        (DOCCANO | {"relations": [{"from_id": 1, "to_id": 3}]}, r"relations\[0\]: its type is None, and must be"),
        ({"text": STORY, "label": [[2, 11, "PER"], [2]]}, r"label\[1\]: \[2\] is not \[start, end, type\]"),
        ({"id": 1, "text": STORY, "annotation_id": 3, "label": []}, r"data: is missing; JSON-MIN has no relations"),
        (studio(data={"a": "b", "c": "d"}), r"data: has no text, but 'a', 'c'; rename"),
        (
            studio(annotations=[{"result": [{"type": "hypertextlabels"}]}]),
            r"result\[0\]: is of hypertextlabels; spans of",
        ),
        (
            studio(annotations=[{"result": studio()["annotations"][0]["result"][1:]}]),
            r"result\[1\]: a is not a mention",
        ),
    ],
)
def test_bad_exports_are_told_by_document_and_field(value, message):
    with pytest.raises(UserError, match=f"^docs: document 0: {message}"):
        read(json.dumps([value]))
    with pytest.raises(UserError, match=r"^docs: document 1: text: must be a string"):
        read([DOCCANO, DOCCANO | {"text": None}])


# --- DWIE's release


def test_an_article_of_dwie_becomes_a_document(capsys):
    (found,) = read(ARTICLE)
    assert found["title"] == "DW_1" and found["labels"] == [
        {"h": 0, "t": 1, "r": "head_of"},
        {"h": 1, "t": 0, "r": "founded_by"},
    ]
    assert [len(sentence) for sentence in found["sents"]] == [2, 7]
    person = {"sent_id": 1, "type": "type::person"}
    assert found["vertexSet"][0] == [
        person | {"name": "Orla Venn", "pos": [1, 3]},
        person | {"name": "Orla", "pos": [1, 2]},
    ]
    [company] = found["vertexSet"][1]
    assert company["name"] == "Tamsin Works" and "type" not in company
    shown = told(capsys)
    assert "1 relations are left out, as they name what has no mention" in shown
    assert "1 relations are left out, as both their ends are one entity" in shown
    in_utf16 = [mention | {"begin": mention["begin"] + 1, "end": mention["end"] + 1} for mention in ARTICLE["mentions"]]
    assert read([ARTICLE | {"mentions": in_utf16}]) == [found]
    assert "offsets of 1 documents are read as UTF-16 units" in told(capsys)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"id": 5}, r"id: must be a string; correct it"),
        ({"content": None}, r"content: must be a string; DWIE's dwie_download.py adds it"),
        ({"mentions": [{"begin": 2, "end": 11}]}, r"mentions\[0\].concept: None is no whole number"),
        ({"mentions": [{"begin": 2, "end": 11, "concept": 9}]}, r"mentions\[0\].concept: 9 is none of the concepts"),
        ({"concepts": [{"concept": "0"}]}, r"concepts\[0\].concept: '0' is no whole number"),
        ({"relations": [{"s": 0, "o": 1}]}, r"relations\[0\].p: None is no relation's name"),
    ],
)
def test_bad_articles_of_dwie_are_told_by_document_and_field(change, message):
    with pytest.raises(UserError, match=f"^docs: document 0: {message}"):
        read(ARTICLE | change)


# --- folders and several files


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder of brat's files, one of them below it, beside a text of its own and what macOS leaves."""
    monkeypatch.chdir(tmp_path)
    for place in ("set", "set/more"):
        Path(place).mkdir()
        brat(Path(place), "T1\tPER 0 11\tMira Talvik\nT2\tPER 0 11\tMira Talvik\n*\tEquiv T1 T2", TEXT)
    Path("set/._story.ann").write_bytes(b"\x00\xff")
    Path("set/notes.txt").write_text("read me")
    return Path("set")


def test_a_folder_of_brats_files_is_converted_into_one_file_with_one_line_of_doubts(folder, monkeypatch, capsys):
    capsys.readouterr()
    run(monkeypatch, prepro, folder, "--convert", "out.json")
    shown = capsys.readouterr()
    assert [found["title"] for found in json.loads(Path("out.json").read_text())] == ["more/story", "story"]
    assert shown.out == "2 documents, 2 entities, 2 mentions, 0 labels: out.json\n"
    assert shown.err == (
        "WARNING: set: 1 texts have no .ann file beside them and are left out, such as notes.txt\n"
        "WARNING: set: 2 mentions are at the place of another one of their entity, and are taken once\n"
    )


def test_several_files_of_several_formats_are_converted_into_one(folder, monkeypatch, capsys):
    Path("a.json").write_text(json.dumps(SPANS))
    Path("b.pubtator").write_text(PUBTATOR)
    run(monkeypatch, prepro, "a.json", "b.pubtator", "set/story.ann", "set/more/story.ann", "--convert", "out.jsonl")
    titles = [json.loads(line)["title"] for line in Path("out.jsonl").read_text().splitlines()]
    assert titles == ["Mira", "7", "story", "story"]
    assert "1 titles are of several documents (story); predictions name documents by" in capsys.readouterr().err


def test_a_files_way_of_counting_offsets_is_not_taken_for_another_files(tmp_path, capsys):
    """Label Studio counts UTF-16 units and states texts; doccano counts characters and states none."""
    (tmp_path / "studio.json").write_text(json.dumps([studio()]))
    (tmp_path / "doccano.jsonl").write_text(json.dumps(DOCCANO))
    paths = [str(tmp_path / "studio.json"), str(tmp_path / "doccano.jsonl")]
    for order in (paths, paths[::-1]):
        for document in read_paths(order, None, False, labels=True):
            assert {entity[0]["name"] for entity in document["vertexSet"]} == {"Orla Venn", "Tamsin Works"}
        assert "offsets of 1 documents are read as UTF-16 units" in told(capsys)


def test_a_single_wrong_text_in_one_of_brats_files_is_judged_with_the_others(tmp_path, capsys):
    names = ("a", "b", "c")
    for name in names:
        (tmp_path / f"{name}.txt").write_text(TEXT)
        (tmp_path / f"{name}.ann").write_text(f"T1\tPER 0 11\t{'Mara' if name == 'b' else 'Mira Talvik'}\n")
    one_by_one = list(read_paths([str(tmp_path / f"{name}.ann") for name in names], None, False))
    assert "1 of 3 mentions (33.3%) have another text" in told(capsys)
    assert len(one_by_one) == len(list(read_paths([str(tmp_path)], None, False))) == 3


def test_a_title_of_two_documents_of_one_file_is_told(capsys):
    read([SPANS, SPANS])
    assert "docs: 1 titles are of several documents (Mira)" in told(capsys)


def test_brats_files_may_end_in_capitals(tmp_path):
    brat(tmp_path)
    for name in ("story.txt", "story.ann"):
        (tmp_path / name).rename(tmp_path / name.replace("story.", "NOTE.").upper())
    found = [list(read_paths([str(tmp_path / path)], None, False)) for path in ("NOTE.ANN", "NOTE.TXT", "")]
    assert found[0] == found[1] == found[2] and [each["title"] for each in found[0]] == ["NOTE"]
    assert [entity[0]["name"] for entity in found[0][0]["vertexSet"]] == ["Mira Talvik", "Ostrand"]


def test_files_beside_brats_and_links_without_a_file_are_told(folder, capsys):
    capsys.readouterr()
    Path("set/more.jsonl").write_text("{}")
    Path("set/annotation.conf").write_text("[entities]")
    Path("set/gone.txt").symlink_to("nowhere")
    assert len(list(read_paths(["set"], None, False))) == 2
    shown = capsys.readouterr().err
    assert "set: 1 files are not brat's and are left out, such as more.jsonl; pass them one by one" in shown
    assert "set: 1 links lead to no file and are left out, such as set/gone.txt" in shown


def test_line_ends_of_old_macs_are_told_not_read_as_one_line():
    with pytest.raises(UserError, match=r"docs: line 1: its line ends are \\r alone; save the file with \\n"):
        read(PUBTATOR.replace("\n", "\r"), "pubtator")


def test_a_title_that_a_file_of_a_folder_states_is_kept_and_others_are_made_distinct(tmp_path, capsys):
    (tmp_path / "cdr.PubTator.txt").write_text(PUBTATOR + "\n" + PUBTATOR.replace("7|", "8|").replace("7\t", "8\t"))
    (tmp_path / "more.txt").write_text("".join(json.dumps({"text": TEXT} | title) + "\n" for title in ({}, {}, NAMED)))
    titles = [found["title"] for found in read_paths([str(tmp_path)], None, False)]
    assert titles == ["7", "8", "more", "more 1", "Named"] and "titles" not in capsys.readouterr().err
    (tmp_path / "more.txt").write_text("".join(json.dumps({"text": TEXT} | NAMED) + "\n" for _ in range(2)))
    list(read_paths([str(tmp_path)], None, False))
    assert "1 titles are of several documents (Named)" in capsys.readouterr().err


def test_a_text_of_a_folder_has_the_title_of_its_file_packed_or_not(tmp_path):
    for name in ("a.txt", "b/c.txt.gz", "b/d.TXT.GZ"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(gzip.compress(TEXT.encode()) if name != "a.txt" else TEXT.encode())
    assert [found["title"] for found in read_paths([str(tmp_path)], None, False)] == ["a", "b/c", "b/d"]
    assert [found["title"] for found in read_paths([str(tmp_path / "b/d.TXT.GZ")], None, False)] == ["d"]


def test_a_folder_without_input_files_is_told(folder, monkeypatch):
    (folder / "more/new").mkdir()
    with pytest.raises(UserError, match=r"^set/more/new: is a folder without \.ann files or texts$"):
        run(monkeypatch, prepro, "set/more/new", "--convert", "out.json")
    (folder / "more/new/a.json").write_text("{}")
    with pytest.raises(UserError, match=r"without \.ann files or texts; it has a\.json: pass these"):
        run(monkeypatch, prepro, "set/more/new", "--convert", "out.json")
    with pytest.raises(
        UserError, match=r"^set: is a folder, which is read as brat or text alone; pass the files in it"
    ):
        run(monkeypatch, prepro, "set", "--convert", "out.json", "--format", "spans")
    (folder / "more/story.txt").unlink()
    with pytest.raises(UserError, match=r"more/story\.ann: story\.txt is not beside it"):
        run(monkeypatch, prepro, "set", "--convert", "out.json")
    assert not Path("out.json").exists()


def test_a_folder_is_predicted(folder, trained, monkeypatch, capsys):
    predict.main(["--load_path", str(trained), "--input", "set", "--output", "found.json"])
    assert "predictions for 2 documents: found.json" in capsys.readouterr().out


# --- formats that are converted first


@pytest.mark.parametrize(
    ("name", "content", "what"),
    [
        ("a.pubtator", PUBTATOR, "in PubTator's format"),
        ("story.ann", "T1\tPER 0 4\tMira", "one of brat's two files"),
        ("story.txt", TEXT, "one of brat's two files"),
        ("a b.spans.jsonl", json.dumps(SPANS), "text with mentions at character offsets"),
        ("a.txt", "- a list", "plain text"),
        ("a.md", "# A title", "plain text"),
        ("a.jsonl", json.dumps(DOCCANO), "an export of doccano"),
        ("a.json", json.dumps([studio()]), "an export of Label Studio"),
        ("DW_1.json", json.dumps(ARTICLE, indent=4), "an article of DWIE's own release"),
        ("set", None, "a folder of brat's files"),
    ],
)
def test_programs_that_need_docreds_schema_name_the_format_and_the_command(
    tmp_path, sample, tiny_bert, monkeypatch, name, content, what
):
    monkeypatch.chdir(tmp_path)
    brat(tmp_path)
    if content is None:
        Path("set").mkdir()
        brat(Path("set"))
    else:
        Path(name).write_text(content)
    quoted = "'a b.spans.jsonl'" if " " in name else name
    output = "'a b'" if " " in name else Path(name).stem
    message = f"{name}: is {what}, and .* here; convert it: python prepro.py {quoted} --convert {output}.docred.json"
    data = ["--data_dir", sample, "--train_file", tmp_path / name, "--dev_file", "dev.json", "--test_file", "dev.json"]
    for program, arguments in (
        (prepro, [name]),
        (prepro, [name, "--make_rel2id", "new.json"]),
        (evaluation, ["--predictions", "p.json", "--gold", name, "--train", sample / "train.json"]),
    ):
        Path("p.json").write_text("[]")
        with pytest.raises(UserError, match=f"^{message}$"):
            run(monkeypatch, program, *arguments)
    with pytest.raises(UserError, match=f"{what}, and .*; convert it: python prepro"):
        train.main([*map(str, data), "--model_name_or_path", str(tiny_bert), "--output_dir", "runs"])
    assert not Path("new.json").exists()


def test_text_under_another_name_is_told_with_a_command_that_takes_it(tmp_path):
    for name in ("a.json", "a.csv"):
        (tmp_path / name).write_text(TEXT)
        with pytest.raises(UserError, match=rf"{name}: is not JSON, .*; if it is plain text, .*json --format text$"):
            load_documents(tmp_path / name)
    for value in ("null", "5"):
        (tmp_path / "a.json").write_text(value)
        with pytest.raises(UserError, match="must hold a list of documents"):
            load_documents(tmp_path / "a.json")


@pytest.mark.parametrize("value", [{"v": 1, "data": []}, {"v": ["a"]}, {"v": [{"id": 1}]}])
def test_a_list_is_to_be_taken_only_where_it_holds_documents(tmp_path, value):
    (tmp_path / "a.json").write_text(json.dumps(value))
    with pytest.raises(UserError, match=r"it has 'v'.*, but none of title, sents, vertexSet; pass a file in DocRED's"):
        load_documents(tmp_path / "a.json")


def test_a_markdown_file_is_plain_text():
    assert detect(TEXT.encode(), "story.md") == detect(TEXT.encode(), "STORY.MD.gz") == "text"
