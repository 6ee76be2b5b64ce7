"""Input that is well-formed and wrong: each kind that users reported is told, with counts or the right remedy."""

import copy
import gzip
import json
import re
import shutil
import tracemalloc
import unicodedata
import zipfile

import numpy as np
import pytest
from make_sample import make_sample
from mistaken_files import DOCUMENT, RIGHT, moved, run_program, written
from trainings import arguments

import evaluation
import predict
import prepro
import train
from evaluation import official_evaluate
from hingeabl.data.checks import check_cuts, check_files
from hingeabl.data.relations import load_rel2id
from hingeabl.errors import UserError
from hingeabl.readers.documents import load_documents
from prepro import LabelRows, featurize

# --- 1: what lies past max_seq_length


def long_document(tokenizer, pieces, extra=0):
    """A document of so many word pieces with markers: an entity at its start, one at its start and end, and one at its
    end; `extra` more tokens follow."""
    mention = lambda place: {"name": "river", "sent_id": 0, "pos": [place, place + 1]}  # noqa: E731
    length = pieces - 8  # four mentions, two markers each
    entities = [[mention(0)], [mention(2), mention(length - 2)], [mention(length - 1)]]
    document = {
        "title": f"Long {pieces} {extra}",
        "sents": [["river"] * length + ["end"] * extra],
        "vertexSet": entities,
    }
    [feature] = featurize([document], tokenizer, {"Na": 0, "P19": 1}, 10**6)
    assert len(feature["input_ids"]) == pieces + extra + 2
    return document | {"labels": [{"h": 0, "t": 1, "r": "P19", "evidence": []}]}


@pytest.mark.parametrize(
    ("length", "expected"), [(102, []), (101, [(1, 0, 0)]), (96, [(1, 2, 1)]), (50, [(1, 2, 1)]), (1000, [])]
)
def test_cut_documents_mentions_and_entities_are_counted_exactly(minilm_tokenizer, length, expected):
    features = featurize([long_document(minilm_tokenizer, 100)], minilm_tokenizer, load_rel2id(), length)
    found = check_cuts("file", features, length)
    assert [(one["count"], one["mentions"], one["entities"]) for one in found] == expected


def test_training_prepro_and_predict_tell_what_is_cut(
    sample, tiny_bert, minilm_tokenizer, trained, tmp_path, monkeypatch, capsys
):
    data = shutil.copytree(sample, tmp_path / "data")
    documents = json.loads((data / "train.json").read_text())
    (data / "train.json").write_text(json.dumps([*documents, long_document(minilm_tokenizer, 1100, 3)]))
    train.main(arguments(data, tiny_bert, tmp_path / "run", "--num_train_epochs", "1"))
    told = r"train\.json: 1 of 13 documents are longer than --max_seq_length 1024 word pieces and are cut: 2 mentions "
    told += "are lost, and 1 entities have no mention left"
    assert re.search(f"WARNING: .*{told}", capsys.readouterr().err)
    run_program(monkeypatch, prepro, data / "train.json")
    assert re.search(told, capsys.readouterr().err)
    run_program(monkeypatch, prepro, data / "train.json", "--max_seq_length", "2000")
    assert "WARNING" not in capsys.readouterr().err
    found = ["--load_path", str(trained), "--input", str(data / "train.json"), "--output", str(tmp_path / "found.json")]
    predict.main(found)
    assert "WARNING" not in capsys.readouterr().err
    predict.main([*found, "--max_seq_length", "1024"])
    assert re.search(r"2 of \d+ mentions are lost, and 1 of \d+ entities have no mention left", capsys.readouterr().err)


# --- 2: predictions against the wrong gold file

GOLD = [DOCUMENT, {**DOCUMENT, "title": unicodedata.normalize("NFC", "Café")}]


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"title": "Another"}, "2 of 3 predictions name a document that --gold does not have.*another file"),
        ({"title": unicodedata.normalize("NFD", "Café")}, "2 of 3 .*2 of them differ in Unicode form alone.*NFC"),
        ({"h_idx": 7}, "2 of 3 predictions name an entity that its document in --gold does not have.*another file"),
        ({"r": "place of birth"}, "2 of 3 predictions name a relation .*give identifiers, not names"),
        ({"r": "P999"}, "2 of 3 predictions name a relation that neither --gold nor the training facts have"),
    ],
)
def test_predictions_for_another_gold_file_are_told_and_scored_as_wrong(tmp_path, monkeypatch, capsys, wrong, told):
    predictions = [RIGHT, RIGHT | wrong, RIGHT | wrong | {"t_idx": 2}]
    gold, file = written(tmp_path, GOLD, "gold.json"), written(tmp_path, predictions, "predictions.json")
    train_file = written(tmp_path, [{**DOCUMENT, "title": "Train"}], "train.json")
    run_program(monkeypatch, evaluation, "--predictions", file, "--gold", gold, "--train", train_file)
    shown = capsys.readouterr()
    assert re.search(f"WARNING: {file}: {told}", shown.err) and "Traceback" not in shown.err
    scores = official_evaluate(predictions, GOLD, [])
    assert scores["precision"] == pytest.approx(1 / 3) and scores["recall"] == 1 / 2


def test_right_predictions_are_scored_without_a_word(tmp_path, monkeypatch, capsys):
    gold, file = written(tmp_path, GOLD, "gold.json"), written(tmp_path, [RIGHT], "predictions.json")
    train_file = written(tmp_path, [moved(lambda a, b: [a, b]) | {"title": "Train"}], "train.json")
    run_program(monkeypatch, evaluation, "--predictions", file, "--gold", gold, "--train", train_file)
    assert not capsys.readouterr().err


# --- 3: fields by another name


def renamed(old, new, *path):
    document = copy.deepcopy(DOCUMENT)
    value = document
    for key in path:
        value = value[key]
    value[new] = value.pop(old)
    return document


@pytest.mark.parametrize(
    ("document", "told"),
    [
        (renamed("labels", "label"), "has 'label'; did you mean 'labels'"),
        (renamed("labels", "Labels"), "has 'Labels'; did you mean 'labels'"),
        (renamed("labels", "relations"), "has 'relations'; did you mean 'labels'"),
        (renamed("sents", "sentences"), "sents: is missing; it has 'sentences' instead: did you mean 'sents'"),
        (renamed("vertexSet", "vertexset"), "vertexSet: is missing; it has 'vertexset' instead"),
        (renamed("vertexSet", "entities"), "vertexSet: is missing; it has 'entities' instead"),
        (renamed("pos", "span", "vertexSet", 0, 0), r"vertexSet\[0\]\[0\].pos: is missing; it has 'span' instead"),
        (renamed("sent_id", "sentId", "vertexSet", 0, 0), r"vertexSet\[0\]\[0\].sent_id: is missing; it has 'sentId'"),
        (renamed("h", "head", "labels", 0), r"labels\[0\].h: is missing; it has 'head' instead"),
        (renamed("t", "tail", "labels", 0), r"labels\[0\].t: is missing; it has 'tail' instead"),
        (renamed("r", "relation", "labels", 0), r"labels\[0\].r: is missing; it has 'relation' instead"),
        (renamed("evidence", "evidences", "labels", 0), r"labels\[0\]: has 'evidences'; did you mean 'evidence'"),
        (
            {**DOCUMENT, "labels": {"head": [0], "tail": [1]}},
            r"labels: is one list per field \(head, tail\).*list of {h",
        ),
    ],
)
def test_a_field_by_another_name_is_named(tmp_path, document, told):
    with pytest.raises(UserError, match=told):
        load_documents(written(tmp_path, [document]), load_rel2id())


# --- 4: mentions that are not where they say


@pytest.mark.parametrize(
    "shift",
    [lambda a, b: [a, b + 1], lambda a, b: [a + 1, b + 1], lambda a, b: [a, b - 1] if b - a > 1 else [a + 1, b + 1]],
)
def test_mentions_whose_name_is_not_at_their_position_are_told_with_an_example(tmp_path, capsys, shift):
    path = written(tmp_path, [moved(shift)])
    load_documents(path)
    shown = capsys.readouterr().err
    assert re.search(
        rf"WARNING: {path}: [13] of 3 mentions \([\d.]+%\) .*vertexSet\[0\]\[0\]: name 'Anna Abel', but", shown
    )
    assert "pos is [start, end) in tokens of the sentence" in shown


def test_case_punctuation_and_rare_slips_are_no_reason_to_warn(tmp_path, capsys):
    documents = [moved(lambda a, b: [a, b]) for _ in range(50)]
    for document in documents:
        document["vertexSet"][0][0]["name"] = "anna-Abel"
    documents[0]["vertexSet"][1][0]["name"] = "7.\nKirona"
    load_documents(written(tmp_path, documents))
    assert not capsys.readouterr().err


# --- 5: class 0


@pytest.mark.parametrize("first", ["P551", "country", "place_of_birth"])
def test_a_relation_as_class_0_is_refused(tmp_path, first):
    with pytest.raises(UserError, match=f"class 0 must mean no relation, but is '{first}'; add \"Na\": 0"):
        load_rel2id(written(tmp_path, {first: 0, "P17": 1}))


@pytest.mark.parametrize("first", ["Na", "NA", "N/A", "no_relation", "None", "1:NR:2"[2:4], "NO-RELATION", "Other"])
def test_usual_names_of_no_relation_are_taken(tmp_path, first):
    assert load_rel2id(written(tmp_path, {first: 0, "P17": 1}))[first] == 0


def test_a_label_of_class_0_is_told_to_be_removed(tmp_path):
    document = {**DOCUMENT, "labels": [{"h": 0, "t": 1, "r": "Na"}]}
    with pytest.raises(UserError, match=r"labels\[0\]\.r: 'Na' is class 0 .* remove the label"):
        load_documents(written(tmp_path, [document]), load_rel2id())


# --- 6 and 7: encodings and forms of a file

TWO = [DOCUMENT, {**DOCUMENT, "title": "Zweites Ö"}]
LINES = "\n".join(json.dumps(document, ensure_ascii=False) for document in TWO)
WHOLE = json.dumps(TWO, ensure_ascii=False, indent=1)
FORMS = {
    "list": WHOLE.encode(),
    "BOM": b"\xef\xbb\xbf" + WHOLE.encode(),
    "UTF-16": WHOLE.encode("utf-16"),
    "CRLF": WHOLE.replace("\n", "\r\n").encode(),
    "lines": LINES.encode(),
    "lines with BOM, CRLF and empty ones": b"\xef\xbb\xbf" + LINES.replace("\n", "\r\n\r\n").encode() + b"\r\n\r\n",
    "lines over several": "\n".join(json.dumps(document, indent=2) for document in TWO).encode(),
    "gzip": gzip.compress(WHOLE.encode()),
    "gzip of lines with BOM": gzip.compress(b"\xef\xbb\xbf" + LINES.encode()),
    "gzip in two parts": gzip.compress(WHOLE.encode()[:100]) + gzip.compress(WHOLE.encode()[100:]),
}


@pytest.mark.parametrize("form", FORMS)
def test_every_reader_takes_every_form(tmp_path, form, trained, monkeypatch, capsys):
    path = written(tmp_path, FORMS[form], "data.jsonl.gz" if "gzip" in form else "data.json")
    assert load_documents(path, load_rel2id()) == TWO
    capsys.readouterr()
    plain = written(tmp_path, TWO, "plain.json")
    found = []
    for source in (plain, path):
        target = tmp_path / f"{source.name.partition('.')[0]}.found.json"
        predict.main(["--load_path", str(trained), "--input", str(source), "--output", str(target)])
        found.append(target.read_text())
    assert found[0] == found[1]
    predictions = written(tmp_path, [RIGHT], "predictions.json")
    capsys.readouterr()
    run_program(monkeypatch, evaluation, "--predictions", predictions, "--gold", path, "--train", path)
    assert re.search(r"precision +100\.00", capsys.readouterr().out)


def test_a_single_document_is_a_file_too(tmp_path):
    assert load_documents(written(tmp_path, DOCUMENT)) == [DOCUMENT]


@pytest.mark.parametrize(
    ("data", "told"),
    [
        (gzip.compress(WHOLE.encode())[:-20], "cannot be unpacked .*download it again"),
        (b"\x1f\x8bnot gzip at all", "cannot be unpacked"),
        (LINES.encode()[:-30], "document 1: broken JSON"),
        (LINES.encode() + b"\n[1]", "document 2: is not an object"),
        (b"PK\x03\x04\x14\x00\xff\xff", "is a zip archive; unpack it first"),
        (b'{"v": 1, "data": [{"sents": []}]}', "document 0: is not a document: it has 'v', .* under 'data' alone"),
        (b"", "is empty"),
        (b"\xef\xbb\xbf \r\n", "is empty"),
        ("[é]".encode("latin-1"), "not UTF-8 text .*save it as UTF-8"),
        (WHOLE.encode("utf-16")[:101], "not UTF-8 text"),
    ],
)
def test_half_a_file_of_any_form_is_one_line_for_every_reader(tmp_path, trained, data, told):
    path = written(tmp_path, data)
    with pytest.raises(UserError, match=rf"data\.json: {told}"):
        load_documents(path)
    with pytest.raises(UserError, match=r"data\.json: "):
        predict.main(["--load_path", str(trained), "--input", str(path), "--output", str(tmp_path / "found.json")])
    assert not (tmp_path / "found.json").exists()


def test_training_takes_lines_and_packed_files(sample, tiny_bert, tmp_path, trained):
    data = tmp_path / "data"
    data.mkdir()
    for name, pack in (("train.json", gzip.compress), ("dev.json", bytes), ("test.json", bytes)):
        lines = "\n".join(json.dumps(document) for document in json.loads((sample / name).read_text()))
        (data / name).write_bytes(pack(b"\xef\xbb\xbf" + lines.encode()))
    train.main(arguments(data, tiny_bert, tmp_path / "run", "--loss_type", "hingeabl_released"))
    for name in ("scores.json", "result.json"):
        assert (tmp_path / "run/seed_7" / name).read_bytes() == (trained / name).read_bytes()


# --- 8: an entity without mention


def test_an_entity_without_mention_keeps_its_number_and_is_counted(tmp_path, minilm_tokenizer, trained, capsys):
    document = copy.deepcopy(DOCUMENT)
    document["vertexSet"].insert(1, [])
    document["labels"] = [{"h": 0, "t": 2, "r": "P19", "evidence": [0]}]
    path = written(tmp_path, [document])
    [loaded] = load_documents(path, load_rel2id())
    assert re.search(r"data\.json: 1 entities have no mention; they keep their number", capsys.readouterr().err)
    [feature] = featurize([loaded], minilm_tokenizer, load_rel2id())
    assert feature["entity_pos"][1] == [] and len(feature["hts"]) == 12
    out = ["--output", str(tmp_path / "found.json"), "--html", str(tmp_path / "page.html")]
    predict.main(["--load_path", str(trained), "--input", str(path), *out])
    assert json.loads((tmp_path / "found.json").read_text()) is not None


# --- checks across files


def test_files_that_share_documents_by_title_or_text_are_told():
    corpus = make_sample()
    files = {name: corpus[name][:5] for name in ("train", "dev", "test")}
    assert check_files(files, "train") == [] or all(
        f["check"] == "unseen relations" for f in check_files(files, "train")
    )
    files["dev"] = [
        *files["dev"],
        {**files["train"][0], "title": "Retitled"},
        {**files["dev"][0], "title": "Sample train 1"},
    ]
    [found] = [
        one for one in check_files(files, "train") if one["files"] == ["train", "dev"] and "shared" in one["check"]
    ]
    assert found["count"] == 2 and "(1 by title, 1 by text)" in found["message"]


def test_relations_that_training_never_has_and_files_without_gold_are_told(tmp_path, monkeypatch, capsys):
    other = {**DOCUMENT, "title": "Other", "sents": [["x", *s] for s in DOCUMENT["sents"]], "vertexSet": []}
    test_file = written(tmp_path, [{**other, "labels": []}], "test.json")
    dev = copy.deepcopy(DOCUMENT) | {"title": "Dev"}
    dev["sents"][0][4] = "!"
    dev["labels"] = [{"h": 0, "t": 1, "r": relation} for relation in ("P19", "P20", "P27")]
    files = [written(tmp_path, [DOCUMENT], "train.json"), written(tmp_path, [dev], "dev.json"), test_file]
    run_program(monkeypatch, prepro, *files, "--json")
    found = {one["check"]: one for one in json.loads(capsys.readouterr().out)["findings"]}
    assert found.keys() == {"unseen relations", "no gold labels"}
    assert found["unseen relations"]["count"] == 2 and "P20, P27" in found["unseen relations"]["message"]


def test_a_test_file_whose_labels_are_all_empty_is_predicted_and_not_scored(sample, tiny_bert, tmp_path, capsys):
    data = shutil.copytree(sample, tmp_path / "data")
    documents = json.loads((data / "test.json").read_text())
    (data / "test.json").write_text(json.dumps([{**document, "labels": []} for document in documents]))
    train.main(arguments(data, tiny_bert, tmp_path / "run", "--num_train_epochs", "1"))
    assert "the labels of every document are empty" in capsys.readouterr().err
    assert json.loads((tmp_path / "run/seed_7/scores.json").read_text())["test"] == {}


# --- 21: the competition's upload


def test_the_codalab_file_holds_the_predictions_alone(tmp_path, monkeypatch, capsys):
    predictions = [RIGHT | {"score": 1.5, "relation": "x"}, RIGHT | {"t_idx": 2, "evidence": [0]}]
    file = written(tmp_path, predictions, "found.json")
    run_program(monkeypatch, evaluation, "--predictions", file, "--codalab", tmp_path / "upload.zip")
    with zipfile.ZipFile(tmp_path / "upload.zip") as archive:
        assert archive.namelist() == ["result.json"]
        assert json.loads(archive.read("result.json")) == [
            RIGHT | {"evidence": []},
            RIGHT | {"t_idx": 2, "evidence": [0]},
        ]
    for more in ([], ["--codalab", tmp_path / "no.zip", "--json", tmp_path / "no.json"]):
        with pytest.raises(UserError, match="--gold is missing"):
            run_program(monkeypatch, evaluation, "--predictions", file, *more)
    broken = written(tmp_path, [{"title": "A"}], "broken.json")
    with pytest.raises(UserError, match="entry 0: needs title and r"):
        run_program(monkeypatch, evaluation, "--predictions", broken, "--codalab", tmp_path / "no.zip")
    assert not (tmp_path / "no.zip").exists()


def test_a_gold_file_with_documents_without_labels_is_refused(tmp_path, monkeypatch):
    """Else every prediction in them would count as wrong."""
    unlabelled = {key: value for key, value in DOCUMENT.items() if key != "labels"} | {"title": "Later"}
    files = [written(tmp_path, found, name) for found, name in (([RIGHT], "p.json"), ([DOCUMENT], "train.json"))]
    gold = written(tmp_path, [DOCUMENT, unlabelled], "gold.json")
    with pytest.raises(UserError, match=r"gold\.json: document 1 \('Later'\): labels: is missing"):
        run_program(monkeypatch, evaluation, "--predictions", files[0], "--gold", gold, "--train", files[1])


# --- 23: many distantly labelled documents


def test_labels_take_little_memory_and_say_the_same():
    labels = [{"h": h, "t": t, "r": r} for h, t, r in ((0, 1, "P17"), (0, 1, "P19"), (3, 0, "P17"), (2, 3, "P20"))]
    rel2id = load_rel2id()
    rows = LabelRows({"labels": labels, "vertexSet": [[]] * 4}, rel2id)
    expected = np.zeros((4, 4, 97), dtype=np.uint8)
    for label in labels:
        expected[label["h"], label["t"], rel2id[label["r"]]] = 1
    expected[:, :, 0] = ~expected.any(axis=2)
    assert rows.shape == (12, 97) and np.array_equal(np.asarray(rows), expected[~np.eye(4, dtype=bool)])
    tracemalloc.start()
    many = [LabelRows({"labels": labels, "vertexSet": [[]] * 20}, rel2id) for _ in range(1000)]
    size, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(many) == 1000 and size < 1000 * 1000  # 36,860 bytes each as arrays
