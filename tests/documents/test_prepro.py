"""Features, statistics, and every kind of bad input."""

import copy
import json

import numpy as np
import pytest
from baseline import plain_features
from mistaken_files import run_program, written
from model_scores import DATA
from transformers import AutoTokenizer

import prepro
from hingeabl.data.relations import load_rel2id
from hingeabl.errors import UserError
from hingeabl.readers.documents import load_documents
from prepro import featurize, read_docred, statistics

DOCUMENT = {
    "title": "Example",
    "sents": [["Anna", "Abel", "left", "Kirona", "."], ["She", "and", "Abel", "Anna", "met", "."]],
    "vertexSet": [
        [{"name": "Anna Abel", "sent_id": 0, "pos": [0, 2]}, {"name": "Abel", "sent_id": 1, "pos": [2, 3]}],
        [{"name": "Kirona", "sent_id": 0, "pos": [3, 4]}],
        [{"name": "Abel Anna", "sent_id": 1, "pos": [2, 4]}],
    ],
    "labels": [{"h": 0, "t": 1, "r": "P19", "evidence": [0]}, {"h": 0, "t": 1, "r": "P20", "evidence": []}],
}


def test_features_equal_the_stored_ones(minilm_tokenizer, rel2id):
    expected = json.loads((DATA / "features.json").read_text())
    found = read_docred(DATA / "sample_documents.json", minilm_tokenizer, rel2id)
    assert len(expected) == 6 and max(len(feature["input_ids"]) for feature in expected) > 512
    for ours, document in zip(found, expected, strict=True):
        assert {field: ours[field] for field in ("title", "input_ids", "entity_pos")} == document


def test_statistics_of_a_worked_example():
    """Two documents of eleven words and six ordered pairs each; one pair of the first has two relations."""
    found = statistics([DOCUMENT, {**DOCUMENT, "labels": []}])
    assert tuple(found.values()) == pytest.approx((2, 12, 1, 100 * 11 / 12, 11, 3, 6, 1, 2, 2, 2))


def test_a_token_that_starts_several_mentions_gets_one_marker(minilm_tokenizer, rel2id):
    [feature] = featurize([DOCUMENT], minilm_tokenizer, rel2id)
    words = minilm_tokenizer.convert_ids_to_tokens(feature["input_ids"])
    text = " ".join(words).replace(" ##", "")
    assert text == "[CLS] * anna abel * left * kirona * . she and * abel * anna * met . [SEP]"
    assert [words[start + 1] for mentions in feature["entity_pos"] for start, _ in mentions] == ["*"] * 4


TYPES = [["PER", "ORG"], ["LOC"], ["MISC"]]  # of DOCUMENT's mentions
TYPED = copy.deepcopy(DOCUMENT)
for _mentions, _types in zip(TYPED["vertexSet"], TYPES, strict=True):
    for _mention, _type in zip(_mentions, _types, strict=True):
        _mention["type"] = _type


def test_typed_markers_are_the_first_mentions_where_several_share_a_token(minilm_tokenizer, rel2id):
    [feature] = featurize([TYPED], minilm_tokenizer, rel2id, entity_marker="typed")
    text = " ".join(minilm_tokenizer.convert_ids_to_tokens(feature["input_ids"])).replace(" ##", "")
    assert text == (
        "[CLS] [unused7] anna abel [unused57] left [unused3] kirona [unused53] . "
        "she and [unused1] abel [unused51] anna [unused59] met . [SEP]"
    )
    [plain] = featurize([TYPED], minilm_tokenizer, rel2id)
    assert feature["entity_pos"] == plain["entity_pos"]


def test_typed_markers_need_types_and_a_vocabulary_that_has_them(tmp_path, minilm_tokenizer, tiny_roberta, rel2id):
    untyped = copy.deepcopy(TYPED)
    untyped["vertexSet"][0][1]["type"] = "BAND"
    path = tmp_path / "data.json"
    path.write_text(json.dumps([TYPED, untyped]))
    with pytest.raises(UserError, match=r"data\.json: document 1 .*vertexSet\[0\]\[1\]\.type: 'BAND' is none of ORG"):
        read_docred(path, minilm_tokenizer, rel2id, entity_marker="typed")
    with pytest.raises(UserError, match=r"has no '\[unused1\]', which --entity_marker typed takes"):
        featurize([TYPED], AutoTokenizer.from_pretrained(tiny_roberta), rel2id, entity_marker="typed")


def test_every_ordered_pair_has_a_label_row(minilm_tokenizer, rel2id):
    [feature] = featurize([DOCUMENT], minilm_tokenizer, rel2id)
    assert feature["hts"] == [[0, 1], [0, 2], [1, 0], [1, 2], [2, 0], [2, 1]]
    labels = np.asarray(feature["labels"])
    assert labels.shape == feature["labels"].shape == (6, 97)
    assert labels[0].nonzero()[0].tolist() == sorted([rel2id["P19"], rel2id["P20"]])
    assert labels[1:, 0].tolist() == [1] * 5 and labels[1:, 1:].sum() == 0


def test_documents_are_cut_at_max_seq_length(minilm_tokenizer, rel2id):
    [whole], [cut] = (featurize([DOCUMENT], minilm_tokenizer, rel2id, length) for length in (1024, 10))
    assert len(cut["input_ids"]) == 10
    assert cut["input_ids"] == [*whole["input_ids"][:9], minilm_tokenizer.sep_token_id]


def test_byte_level_pieces_have_no_leading_space(tiny_roberta, rel2id):
    tokenizer = AutoTokenizer.from_pretrained(tiny_roberta)
    [feature] = featurize([DOCUMENT], tokenizer, rel2id)
    pieces = tokenizer.convert_ids_to_tokens(feature["input_ids"])
    assert pieces[0] == "<s>" and pieces[-1] == "</s>"
    assert not any(piece.startswith("Ġ") for piece in pieces)
    assert pieces[feature["entity_pos"][1][0][0] + 1] == "*"


def test_documents_without_labels_entities_or_sentences_go_through(minilm_tokenizer, rel2id):
    empty = {"title": "Empty", "sents": [], "vertexSet": []}
    unlabelled = {key: value for key, value in DOCUMENT.items() if key != "labels"}
    features = featurize([empty, unlabelled], minilm_tokenizer, rel2id)
    assert features[0]["hts"] == [] and len(features[0]["input_ids"]) == 2
    assert all("labels" not in feature for feature in features)


def test_a_label_of_an_entity_with_itself_is_dropped_and_counted(tmp_path, rel2id, capsys):
    document = copy.deepcopy(DOCUMENT)
    document["labels"].append({"h": 1, "t": 1, "r": "P17", "evidence": []})
    path = tmp_path / "self.json"
    path.write_text(json.dumps([document]))
    [loaded] = load_documents(path, rel2id)
    assert len(loaded["labels"]) == 2
    assert "1 labels whose head and tail are the same entity are left out" in capsys.readouterr().err


def test_a_repeated_label_is_counted_once_and_told(tmp_path, rel2id, minilm_tokenizer, capsys):
    document = copy.deepcopy(DOCUMENT)
    document["labels"][0]["evidence"] = [0]
    once = [document["labels"][0] | {"evidence": [0]}, *document["labels"][1:]]
    document["labels"].append(copy.deepcopy(document["labels"][0]))
    path = tmp_path / "twice.json"
    path.write_text(json.dumps([document]))
    [loaded] = load_documents(path, rel2id)
    assert "1 labels repeat another one of their document, and count once" in capsys.readouterr().err
    assert statistics([loaded])["triples / doc"] == len(once)
    evidence = [
        featurize([one], minilm_tokenizer, rel2id, with_evidence=True)[0]["evidence"].tolist()
        for one in (loaded, document | {"labels": once})
    ]
    assert evidence[0] == evidence[1] and len(evidence[0][0]) > 0


@pytest.mark.parametrize("wrong", [None, "Chemical"])
def test_the_command_tells_a_mention_without_a_marked_type(tmp_path, monkeypatch, wrong):
    document = copy.deepcopy(TYPED)
    document["vertexSet"][0][0]["type"] = wrong
    path = written(tmp_path, [document], "typed.json")
    with pytest.raises(UserError, match=rf"vertexSet\[0\]\[0\]\.type: {wrong!r} is none of"):
        run_program(monkeypatch, prepro, path, "--entity_marker", "typed")


def test_a_type_of_any_kind_passes_where_it_is_not_used(minilm_tokenizer, rel2id):
    document = copy.deepcopy(DOCUMENT)
    expected = featurize([document], minilm_tokenizer, rel2id, entity_marker="asterisks")[0]["input_ids"]
    document["vertexSet"][0][0]["type"] = ["PER"]
    assert featurize([document], minilm_tokenizer, rel2id, entity_marker="asterisks")[0]["input_ids"] == expected


@pytest.mark.parametrize("other", [["--make_rel2id", "r.json"], ["--json"]])
def test_options_for_different_results_are_refused_together(tmp_path, monkeypatch, capsys, other):
    path = written(tmp_path, [DOCUMENT], "in.json")
    with pytest.raises(SystemExit):
        run_program(monkeypatch, prepro, path, "--convert", tmp_path / "out.json", *other)
    assert "not allowed with argument" in capsys.readouterr().err and not (tmp_path / "out.json").exists()


def test_another_inventory_sets_the_number_of_classes(tmp_path, minilm_tokenizer):
    path = tmp_path / "rel2id.json"
    path.write_text(json.dumps({"Na": 0, "P19": 1, "P20": 2}))
    [feature] = featurize([DOCUMENT], minilm_tokenizer, load_rel2id(path))
    assert feature["labels"].shape == (6, 3)


def changed(*path_and_value):
    """DOCUMENT with the field at the path set to the value, or removed where the value is None."""
    *path, field, value = path_and_value
    document = copy.deepcopy(DOCUMENT)
    target = document
    for key in path:
        target = target[key]
    if value is None:
        del target[field]
    else:
        target[field] = value
    return document


BAD_DOCUMENTS = {
    "title": changed("title", None),
    "sents": changed("sents", None),
    "vertexSet": changed("vertexSet", None),
    "sents[1]": changed("sents", 1, "a string"),
    "vertexSet[1]": changed("vertexSet", 1, {"name": "Kirona"}),
    "vertexSet[0][1].sent_id": changed("vertexSet", 0, 1, "sent_id", 2),
    "vertexSet[0][0].sent_id": changed("vertexSet", 0, 0, "sent_id", -1),
    "vertexSet[1][0].pos": changed("vertexSet", 1, 0, "pos", [3, len(DOCUMENT["sents"][0]) + 1]),
    "vertexSet[2][0].pos": changed("vertexSet", 2, 0, "pos", [3, 3]),
    "vertexSet[0][0].pos": changed("vertexSet", 0, 0, "pos", [-1, 2]),
    "vertexSet[1][0].name": changed("vertexSet", 1, 0, "name", None),
    "labels": changed("labels", {}),
    "labels[0].h": changed("labels", 0, "h", 3),
    "labels[0].t": changed("labels", 0, "t", True),
    "labels[1].r": changed("labels", 1, "r", "P999999"),
    "labels[0].r": changed("labels", 0, "r", "Na"),
    "labels[0].evidence": changed("labels", 0, "evidence", [7]),
}


@pytest.mark.parametrize("field", BAD_DOCUMENTS)
def test_a_bad_document_is_named_with_file_document_and_field(tmp_path, rel2id, field):
    path = tmp_path / "bad.json"
    path.write_text(json.dumps([{**DOCUMENT, "title": "Good"}, BAD_DOCUMENTS[field]]))
    with pytest.raises(UserError) as error:
        load_documents(path, rel2id)
    message = str(error.value)
    assert message.startswith(f"{path}: document 1") and f" {field}: " in message
    assert field == "title" or "'Example'" in message
    assert "\n" not in message


def test_two_documents_with_one_title_are_refused_only_where_scored(tmp_path, rel2id):
    path = tmp_path / "twice.json"
    path.write_text(json.dumps([DOCUMENT, DOCUMENT]))
    assert len(load_documents(path, rel2id)) == 2
    with pytest.raises(UserError, match="documents 0 and 1: both have the title 'Example'"):
        load_documents(path, rel2id, unique_titles=True)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('[{"title": ', "broken JSON"),
        ('{"title": "one document"}', "document 0 .*sents: is missing"),
        ('"text"', "must hold a list of documents"),
        ("[5]", "document 0: is not an object"),
        ('[{"title": -}]', "broken JSON"),
        ('[{"title": NaN}]', "broken JSON"),
        ('[{"title": "\\ud800"}]', "half of a character"),
    ],
)
def test_a_bad_file_is_named(tmp_path, text, expected):
    path = tmp_path / "bad.json"
    path.write_text(text)
    with pytest.raises(UserError, match=expected) as error:
        load_documents(path)
    assert str(path) in str(error.value)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(UserError, match=r"absent\.json: no such file"):
        load_documents(tmp_path / "absent.json")


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ({"P17": 1, "P19": 2}, "class 0 is missing"),
        ({"Na": 0, "P17": 1, "P19": 3}, "class 2 is missing"),
        ({"Na": 0, "P17": 1, "P19": 1}, "class 1 appears twice"),
        ({"Na": 0}, "names no relation"),
        ({"Na": "0"}, "must map each relation"),
        (["Na"], "must map each relation"),
    ],
)
def test_a_bad_inventory_is_refused(tmp_path, content, expected):
    path = tmp_path / "rel2id.json"
    path.write_text(json.dumps(content))
    with pytest.raises(UserError, match=expected):
        load_rel2id(path)


@pytest.mark.parametrize("family", ["tiny_bert", "tiny_roberta"])
def test_features_equal_the_plain_token_by_token_way(sample, family, request, rel2id):
    tokenizer = AutoTokenizer.from_pretrained(request.getfixturevalue(family))
    for name in ("train.json", "dev.json"):
        features = read_docred(sample / name, tokenizer, rel2id)
        for feature, plain in zip(features, plain_features(sample / name, tokenizer, rel2id), strict=True):
            assert feature | {"labels": feature["labels"].tolist()} == plain
