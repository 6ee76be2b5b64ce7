"""Files of CDR and GDA, and trainings with one relation."""

import gzip
import json
import os
from pathlib import Path

import pytest
import torch
from reports import printed
from trainings import arguments

import predict
import prepro
import report
import train
from evaluation import official_evaluate
from hingeabl.data.relations import load_rel2id
from hingeabl.data.statistics import count_pairs
from hingeabl.errors import UserError
from hingeabl.files import META
from hingeabl.readers.any_format import detect, read_format
from hingeabl.readers.documents import load_documents
from hingeabl.reporting.figures import lead_of_gold
from hingeabl.reporting.pairs import Pairs
from prepro import read_docred

TEXT = "Lithium was given .|Lithium may cause chest pain and fever , not sleep ."
LITHIUM = ("D1", "lithium|Lithium", "Chemical", "0:4", "1:5")
PAIN = ("D2", "chest pain", "Disease", "7", "9")
HEART = ("D3", "chest", "Disease", "7", "8")
FEVER = ("D4", "fever", "Disease", "10", "11")
RELATIONS = META / "rel2id_cdr.json"


def group(relation="1:CID:2", first=LITHIUM, second=PAIN, direction="L2R"):
    """The 17 fields of a pair."""
    sides = [[identifier, name, kind, starts, ends, "0"] for identifier, name, kind, starts, ends in (first, second)]
    return [relation, direction, "CROSS", "0-1", "7-9", *sides[0], *sides[1]]


def line(*groups, number="77", text=TEXT):
    return "\t".join([number, text, *(field for fields in groups for field in fields)])


THREE = line(
    group("1:NR:2", FEVER, LITHIUM, "R2L"), group("not_include", LITHIUM, HEART), group("1:CID:2", LITHIUM, PAIN)
)


@pytest.fixture(scope="session")
def benchmark(tmp_path_factory):
    """A folder with twelve documents a split of one relation, as files of CDR."""
    folder = tmp_path_factory.mktemp("benchmark")
    for split in ("train", "dev", "test"):
        lines = [
            line(group("1:CID:2" if n % 2 else "1:NR:2"), group("1:NR:2", LITHIUM, FEVER), number=f"{split}{n}")
            for n in range(12)
        ]
        (folder / f"{split}.json").write_text("\n".join(lines))
    return folder


@pytest.fixture(scope="session")
def cdr_run(benchmark, tiny_bert, tmp_path_factory):
    """A finished run on it."""
    output = tmp_path_factory.mktemp("cdr") / "bert_atl"
    more = ["--rel2id", str(RELATIONS), "--entity_marker", "asterisks", "--num_labels", "1", "--loss_type", "atl"]
    train.main(arguments(benchmark, tiny_bert, output, *more))
    [folder] = output.glob("seed_*")
    return folder


def run_prepro(monkeypatch, *arguments):
    monkeypatch.setattr("sys.argv", ["prepro.py", *map(str, arguments)])
    prepro.main()


def test_a_line_of_cdr_becomes_a_document_with_its_pairs_in_order(write):
    [document] = load_documents(write(THREE), load_rel2id(RELATIONS))
    lithium, fever, pain, heart = document["vertexSet"]
    assert document["title"] == "77" and document["pairs"] == [[0, 1], [0, 2]]
    assert document["labels"] == [{"h": 0, "t": 2, "r": "CID", "evidence": []}]
    assert [[mention["sent_id"], *mention["pos"]] for mention in lithium] == [[0, 0, 1], [1, 0, 1]]
    assert [pain[0]["name"], heart[0]["name"], fever[0]["type"]] == ["chest pain", "chest", "Disease"]


def test_the_fields_of_the_second_entity_are_the_heads_unless_l2r(write):
    [forward, backward] = load_documents(
        write(line(group()), line(group(first=PAIN, second=LITHIUM, direction="R2L"), number="78"))
    )
    assert forward | {"title": ""} == backward | {"title": ""}


def test_a_token_gets_a_marker_for_each_mention_that_starts_there(write, minilm_tokenizer):
    [feature] = read_docred(write(THREE), minilm_tokenizer, load_rel2id(RELATIONS), entity_marker="asterisks")
    text = minilm_tokenizer.convert_ids_to_tokens(feature["input_ids"])
    assert " ".join(text[7:]) == ("* lithium * may cause * * chest * pain * and * fever * , not sleep . [SEP]")
    assert feature["hts"] == [[0, 1], [0, 2]] and feature["labels"].tolist() == [[1, 0], [0, 1]]
    assert len(feature["entity_pos"]) == 3  # the fourth is in no pair that is scored
    for position in (place for entity in feature["entity_pos"] for place, _ in entity):
        assert text[1 + position] == "*"
    [once] = read_docred(write(THREE), minilm_tokenizer, load_rel2id(RELATIONS))
    assert len(once["input_ids"]) == len(feature["input_ids"]) - 1


def test_a_mention_that_two_pairs_state_gets_one_marker(write, minilm_tokenizer):
    path = write(line(group(), group("1:NR:2", LITHIUM, FEVER)))
    [feature] = read_docred(path, minilm_tokenizer, load_rel2id(RELATIONS), entity_marker="asterisks")
    assert minilm_tokenizer.convert_ids_to_tokens(feature["input_ids"]).count("*") == 8


def with_field(place, value):
    fields = group()
    fields[place] = value
    return line(group("1:NR:2", LITHIUM, FEVER), fields)


MISTAKES = {
    "16 fields": (line(group(), group()[:16]), r"pair 1 has 16 fields instead of 17; correct the line"),
    "16 fields in between": (line(group()[:16], group()), r"pair 0 has other than 17 fields, as pair 1 begins with"),
    "an unknown relation": (with_field(0, "CID"), r"pair 1: field 0: 'CID' is no relation like 1:CID:2"),
    "a direction": (with_field(1, "left"), r"pair 1: field 1: 'left' is not L2R or R2L"),
    "a start that is no number": (with_field(14, "x"), r"pair 1: field 14: 'x' is no list of token numbers"),
    "more starts than ends": (with_field(8, "0:4:5"), r"pair 1: fields 8 and 9: 3 starts, but 2 ends"),
    "a start behind its end": (
        with_field(14, "10"),
        r"pair 1: fields 14 and 15: .* starts at token 10 and ends",
    ),
    "an empty mention": (
        with_field(14, "9"),
        r"pair 1: fields 14 and 15: .* token 9 and ends before token 9",
    ),
    "a token beyond the text": (with_field(15, "99"), r"pair 1: field 15: token 99 lies beyond .* has 15 tokens"),
    "a mention over two sentences": (with_field(9, "5:6"), r"pair 1: fields 8 and 9: .* tokens 0 to 5 goes over"),
    "two relations": (
        line(group(), group("1:NR:2")),
        r"pair 1: 'D1' and 'D2' are CID already, and NR here; remove one",
    ),
    "a self pair": (line(group(second=LITHIUM)), r"pair 0: both entities are 'D1', but a pair needs two"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_in_a_line_is_told_with_its_place_and_the_remedy(mistake, write, capsys):
    wrong, message = MISTAKES[mistake]
    with pytest.raises(UserError, match=r"cdr\.data: line 2 \('77'\): " + message) as error:
        load_documents(write(line(group(), number="76"), wrong))
    assert "\n" not in str(error.value)


def test_a_pair_that_is_stated_twice_is_there_once(write):
    [document] = load_documents(write(line(group(), group())))
    assert document["pairs"] == [[0, 1]] and len(document["labels"]) == 1


def test_a_line_with_an_earlier_number_is_left_out_and_counted(write, capsys):
    documents = load_documents(write(line(group()), line(group("1:NR:2")), line(group(), number="78")))
    assert [document["title"] for document in documents] == ["77", "78"] and documents[0]["labels"]
    assert capsys.readouterr().err.count("left out 1 lines whose document's number is there before") == 1


def test_numbered_text_is_not_taken_for_cdr_and_a_file_may_begin_with_a_document_without_pairs(write):
    assert detect(b"1\tTallinn is a city.\n2\tIt lies in Estonia.\n", "notes.txt") == "text"
    path = write("", line(number="76"), line(group()))
    assert detect(path.read_bytes(), str(path)) == "cdr"
    assert [document["title"] for document in load_documents(path)] == ["76", "77"]


@pytest.mark.parametrize("form", ["crlf", "utf-16", "gzip"])
def test_other_forms_of_a_file_are_the_same_documents(form, write, tmp_path):
    text = write(THREE, line(group(), number="78")).read_text()
    data = {"crlf": text.replace("\n", "\r\n").encode(), "utf-16": text.encode("utf-16")}
    (tmp_path / "other.data").write_bytes(data.get(form) or gzip.compress(text.encode(), mtime=0))
    assert load_documents(tmp_path / "other.data") == load_documents(write(THREE, line(group(), number="78")))
    with (tmp_path / "other.data").open("rb") as file:
        read = list(read_format(file, "other.data", None, typed=False, labels=True))
    assert read == load_documents(tmp_path / "other.data")


def test_an_empty_line_is_skipped_and_a_document_may_have_no_pairs(write):
    documents = load_documents(write(line(group()), "", line(number="78")))
    assert [count_pairs(document) for document in documents] == [1, 0] and documents[1]["vertexSet"] == []


def test_a_relation_of_another_data_set_is_refused_with_the_file_to_pass(write):
    with pytest.raises(UserError, match=r"labels\[0\]\.r: 'CID' is not a relation of the rel2id file"):
        load_documents(write(THREE), load_rel2id(META / "rel2id_gda.json"))


def test_gda_is_read_as_cdr_is(write):
    [document] = load_documents(write(line(group("1:GDA:2"))), load_rel2id(META / "rel2id_gda.json"))
    assert document["labels"] == [{"h": 0, "t": 1, "r": "GDA", "evidence": []}]


def test_a_run_with_one_relation_has_a_record_and_tables(cdr_run, tmp_path, capsys):
    report.main(["--record", str(tmp_path), str(cdr_run)])
    [record] = tmp_path.rglob("seed_*.json")
    assert json.loads(record.read_text())["thresholds"] == {}
    for path in (cdr_run, record):
        table = printed(capsys, "--table", "inter", path)
        assert "intra F1" in table and "inter F1" in table
        assert "FN_CRK" in printed(capsys, "--table", "all", path)
        with pytest.raises(UserError, match="table thresholds: none of the runs belongs in it"):
            report.main(["--table", "thresholds", str(path)])
    report.main(["--html", str(tmp_path / "page.html"), str(cdr_run)])
    assert "FN_CRK" in (tmp_path / "page.html").read_text()


def test_table_inter_shows_the_evaluators_figures(cdr_run, benchmark, capsys):
    predictions = json.loads((cdr_run / "result.json").read_text())
    expected = official_evaluate(
        predictions, load_documents(benchmark / "test.json"), load_documents(benchmark / "train.json")
    )
    [table] = [json.loads(printed(capsys, "--table", "inter", cdr_run, "--format", "json"))]
    cells = table["rows"][0]
    for name in ("precision", "recall", "f1", "f1_intra", "f1_inter"):
        assert cells[name]["mean"] == pytest.approx(100 * expected[name])


def test_a_pair_whose_every_relation_is_gold_leads_by_its_margin():
    rows = dict.fromkeys(("document", "entities", "predicted", "pattern"), torch.zeros(1))
    scores, gold = torch.tensor([[0.5, 2.0]]), torch.tensor([[False, True]])
    pairs = Pairs(documents=[], rel2id={}, scores=scores, threshold=scores[:, 0], labels=gold, **rows)
    assert lead_of_gold(pairs, 0) == 1.5


def test_a_run_predicts_a_file_of_cdr(cdr_run, benchmark, tmp_path):
    predict.main(
        ["--load_path", str(cdr_run), "--input", str(benchmark / "test.json"), "--output", str(tmp_path / "p.json")]
    )
    found = [[e["title"], e["h_idx"], e["t_idx"]] for e in json.loads((tmp_path / "p.json").read_text())]
    expected = [[e["title"], e["h_idx"], e["t_idx"]] for e in json.loads((cdr_run / "result.json").read_text())]
    assert sorted(found) == sorted(expected)


CDR = Path(os.environ.get("CDR_DIR", "?"))
FIXTURES = Path(os.environ.get("FIXTURES_DIR", "?"))
real = pytest.mark.skipif(not (CDR.is_dir() and FIXTURES.is_dir()), reason="CDR_DIR or FIXTURES_DIR names no folder")


@real
def test_features_are_those_of_atlops_program(minilm_tokenizer):
    expected = {str(f["title"]): f for f in json.loads((FIXTURES / "cdr_features.json").read_text())}
    found = {}
    for split in ("train", "dev", "test"):
        path = CDR / f"{split}_filter.data"
        features = read_docred(path, minilm_tokenizer, load_rel2id(RELATIONS), entity_marker="asterisks")
        found |= {feature["title"]: feature for feature in features if feature["title"] in expected}
    assert len(expected) == len(found) == 6
    for title, feature in expected.items():
        assert found[title]["labels"].tolist() == feature["labels"]
        for name in ("input_ids", "entity_pos", "hts"):
            assert found[title][name] == feature[name], (title, name)


@real
def test_prepro_prints_the_counts_of_cdr(monkeypatch, capsys, minilm):
    paths = [CDR / f"{split}_filter.data" for split in ("train", "dev", "test")]
    run_prepro(monkeypatch, *paths, "--rel2id", RELATIONS, "--entity_marker", "asterisks", "--json")
    found = list(json.loads(capsys.readouterr().out)["files"].values())
    for figure, expected in {
        "documents": [500, 500, 500],
        "ordered pairs": [5240, 5087, 5204],
        "pairs with a relation": [1038, 1012, 1066],
        "entities in pairs": [3358, 3319, 3360],
        "longest, word pieces": [876, 906, 937],
    }.items():
        assert [column[figure] for column in found] == expected
