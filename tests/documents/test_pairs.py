"""Documents that list the pairs to score, and rel2id files made from data."""

import json

import distill
import numpy as np
import pytest
import torch
from model_scores import BACKBONES, score
from safetensors.torch import load_file
from test_cdr import THREE, group, line, run_prepro
from trainings import arguments

import predict
import prepro
import train
from hingeabl.data.pairs import AllPairs, near_pairs, pairs_sharing_a_window
from hingeabl.data.relations import load_rel2id
from hingeabl.data.statistics import count_pairs, statistics
from hingeabl.errors import UserError
from hingeabl.readers.documents import load_documents
from model import DocREModel
from prepro import featurize


def listing(document, share=3):
    """The document with every pair that has a label, and every `share`-th of the others, in reverse order."""
    labelled = {(label["h"], label["t"]) for label in document["labels"]}
    every = list(AllPairs(len(document["vertexSet"])))
    return document | {"pairs": [p for n, p in enumerate(every) if tuple(p) in labelled or n % share == 0][::-1]}


@pytest.fixture(scope="session")
def listed(sample, tmp_path_factory):
    """The sample corpus, every document with a list of pairs."""
    folder = tmp_path_factory.mktemp("listed")
    for path in sample.glob("*.json"):
        (folder / path.name).write_text(json.dumps(list(map(listing, json.loads(path.read_text())))))
    return folder


WRONG_PAIRS = {
    "no list": ({"0": 1}, r"pairs: must be a list of \[h, t\]"),
    "no pair": ([[0, 1], [1]], r"pairs\[1\]: \[1\] is not \[h, t\]"),
    "a text": ([["0", 1]], r"pairs\[0\]: \['0', 1\] is not \[h, t\]"),
    "an entity that is not there": ([[0, 1], [0, 99]], r"pairs\[1\]: 99 is not an entity of a document that has \d+"),
    "a negative number": ([[-1, 1]], r"pairs\[0\]: -1 is not an entity"),
    "a pair twice": ([[0, 1], [1, 0], [0, 1]], r"pairs\[2\]: \[0, 1\] is there already, as pairs\[0\]; remove one"),
    "a self pair": ([[1, 1]], r"pairs\[0\]: \[1, 1\] is an entity with itself; remove it"),
    "a label outside": ([], r"labels\[0\]: \[\d+, \d+\] is not one of this document's pairs"),
}


@pytest.mark.parametrize("mistake", WRONG_PAIRS)
def test_a_wrong_list_of_pairs_is_told_with_the_remedy(mistake, sample, write):
    pairs, message = WRONG_PAIRS[mistake]
    first, *_ = json.loads((sample / "dev.json").read_text())
    path = write(json.dumps([first | {"pairs": pairs}]), name="dev.json")
    with pytest.raises(UserError, match=r"dev\.json: document 0 \('.*'\): " + message) as error:
        load_documents(path)
    assert "\n" not in str(error.value)


def test_pairs_under_another_name_are_told(sample, write):
    first, *_ = json.loads((sample / "dev.json").read_text())
    with pytest.raises(UserError, match=r"has 'candidate_pairs'; did you mean 'pairs'"):
        load_documents(write(json.dumps([first | {"candidate_pairs": [[0, 1]]}]), name="dev.json"))
    for other in ({"paras": ["a text"]}, {"parts": []}, {"candidates": [{"h": 0}]}):
        assert load_documents(write(json.dumps([first | other]), name="dev.json"))


@pytest.mark.parametrize("backbone", BACKBONES)
def test_listed_pairs_score_as_they_do_among_all(backbone, listed, tiny_bert, minilm_tokenizer, rel2id):
    """KD-DocRE's and DocuNet's modules look at a map of all pairs of entities: all of these are in some pair here."""
    documents = load_documents(listed / "dev.json")
    torch.manual_seed(0)
    model = DocREModel(str(tiny_bert), emb_size=64, backbone=backbone, unet_channels=16, axial_layers=2).eval()
    for document in documents[:3]:
        every = {name: value for name, value in document.items() if name != "pairs"}
        [feature], [whole] = (featurize([found], minilm_tokenizer, rel2id) for found in (document, every))
        rows = [whole["hts"].index(pair) for pair in feature["hts"]]
        assert 0 < len(rows) < len(whole["hts"]) and len(feature["entity_pos"]) == len(whole["entity_pos"])
        assert np.array_equal(np.asarray(feature["labels"]), np.asarray(whole["labels"])[rows])
        torch.testing.assert_close(score(model, [feature]), score(model, [whole])[rows], atol=1e-5, rtol=1e-5)


def test_only_listed_pairs_are_trained_on_and_predicted(listed, tiny_bert, tmp_path):
    output = tmp_path / "run"
    train.main(arguments(listed, tiny_bert, output, "--seeds", "3"))
    documents = {document["title"]: document for document in load_documents(listed / "test.json")}
    scores = json.loads((output / "seed_3" / "scores.json").read_text())["test"]
    patterns = sum(scores[name] for name in ("correct", "FP", "FN_CRK", "FN_IRK"))
    assert patterns == sum(len(document["pairs"]) for document in documents.values())
    predict.main(
        [
            "--load_path",
            str(output / "seed_3"),
            "--input",
            str(listed / "test.json"),
            "--output",
            str(tmp_path / "p.json"),
        ]
    )
    for path in (output / "seed_3" / "result.json", tmp_path / "p.json"):
        for found in json.loads(path.read_text()):
            assert [found["h_idx"], found["t_idx"]] in documents[found["title"]]["pairs"]


def test_teacher_scores_are_of_the_listed_pairs(listed, tiny_bert, tmp_path, finished):
    files = ["--load_path", str(finished / "seed_7"), "--data_file", str(listed / "train.json")]
    distill.main([*files, "--output_dir", str(tmp_path)])
    [path] = tmp_path.rglob("*.safetensors")
    assert len(load_file(path)["scores"]) == sum(map(count_pairs, load_documents(listed / "train.json")))
    written = path.stat()
    distill.main([*files, "--output_dir", str(tmp_path)])
    assert path.stat().st_mtime_ns == written.st_mtime_ns  # a second call finds them there


@pytest.mark.parametrize("output", ["docred.json", "docred.spans.json"])
def test_converted_documents_keep_their_pairs(output, write, tmp_path):
    convert = tmp_path / output
    prepro.convert_all([str(write(THREE))], str(convert), None)
    again = tmp_path / "again.json"
    prepro.convert_all([str(convert)], str(again), None)
    [expected], [found] = load_documents(write(THREE)), load_documents(again)
    assert found["pairs"] == expected["pairs"] and found["labels"] == expected["labels"]
    assert [[m["pos"] for m in e] for e in found["vertexSet"]] == [[m["pos"] for m in e] for e in expected["vertexSet"]]


def test_statistics_count_listed_pairs_and_the_entities_in_them(write):
    found = statistics(load_documents(write(THREE, line(number="78"))))
    assert (found["ordered pairs"], found["pairs with a relation"], found["entities in pairs"]) == (2, 1, 3)
    assert found["NA %"] == 50 and found["entities / doc"] == 2


def test_make_rel2id_numbers_the_relations_of_the_files(sample, tmp_path, monkeypatch, capsys):
    output = tmp_path / "rel2id.json"
    run_prepro(monkeypatch, sample / "dev.json", sample / "train.json", "--make_rel2id", output)
    rel2id = load_rel2id(output)
    relations = {
        label["r"]
        for name in ("dev", "train")
        for document in load_documents(sample / f"{name}.json")
        for label in document["labels"]
    }
    assert list(rel2id) == ["Na", *sorted(relations)]
    assert f"{len(relations)} relations" in capsys.readouterr().out


def test_make_rel2id_replaces_no_input_and_needs_labels(sample, write, tmp_path, monkeypatch):
    before = (sample / "dev.json").read_bytes()
    with pytest.raises(UserError, match=r"--make_rel2id .*dev\.json: is the file of FILE"):
        run_prepro(monkeypatch, sample / "dev.json", "--make_rel2id", sample / "dev.json")
    assert (sample / "dev.json").read_bytes() == before
    [document] = load_documents(write(line(group())))
    document["labels"][0]["r"] = "no_relation"
    with pytest.raises(UserError, match=r"labels have the relation 'no_relation', which reads as no relation"):
        run_prepro(monkeypatch, write(json.dumps([document])), "--make_rel2id", tmp_path / "rel2id.json")
    document["labels"] = []
    path = write(json.dumps([document]))
    with pytest.raises(UserError, match=r"cdr\.data: has no labels"):
        run_prepro(monkeypatch, path, "--make_rel2id", tmp_path / "rel2id.json")
    assert not (tmp_path / "rel2id.json").exists()


@pytest.mark.parametrize("entities", [0, 1, 2, 7])
def test_all_pairs_are_a_list_row_by_row_and_an_array(entities):
    expected = [[h, t] for h in range(entities) for t in range(entities) if h != t]
    pairs = AllPairs(entities)
    assert pairs == expected and list(pairs) == expected and len(pairs) == len(expected)
    assert [pairs[place] for place in range(len(pairs))] == expected and pairs[1:4] == expected[1:4]
    assert np.asarray(pairs, dtype=np.int64).reshape(-1, 2).tolist() == expected


@pytest.mark.parametrize("distance", [0, 1, 3])
def test_near_pairs_have_mentions_so_many_sentences_apart(sample, distance):
    for document in json.loads((sample / "test.json").read_text())[:6]:
        at = [[mention["sent_id"] for mention in mentions] for mentions in document["vertexSet"]]
        expected = [
            [h, t]
            for h, t in AllPairs(len(at))
            if min(abs(one - other) for one in at[h] for other in at[t]) <= distance
        ]
        assert near_pairs(document, distance) == expected
        listed = [*expected[::2], [0, 1]]
        assert near_pairs(document | {"pairs": listed}, 10**6) == listed


def test_met_pairs_attend_to_a_token_in_common():
    places = [[5], [40], [95], [12, 90], []]
    feature = {"entity_pos": [[[place, place + 1] for place in own] for own in places], "hts": AllPairs(5)}
    windows = [(0, 30), (25, 60), (60, 100)]  # the first two overlap
    tokens = [
        {token for start, stop in windows for token in range(start, stop) if any(start <= at + 1 < stop for at in own)}
        for own in places
    ]
    expected = [[h, t] for h, t in AllPairs(5) if tokens[h] & tokens[t]]
    assert pairs_sharing_a_window(feature, windows) == expected and len(expected) == 8
    assert pairs_sharing_a_window(feature | {"hts": [[2, 0], [3, 2]]}, windows) == [[3, 2]]
