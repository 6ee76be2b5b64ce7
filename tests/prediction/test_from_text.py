"""Scores from raw text: what counts as right, by hand, and the three ways on documents whose answers are known."""

import json

import pytest
from conftest import ROOT

from evaluation import prepare_gold, score_predictions
from hingeabl.prediction import from_text
from hingeabl.prediction.from_text import Entity, compare, extract_document, gold_document, score_from_text
from hingeabl.prediction.predictor import Predictor
from hingeabl.readers.joining import gold_of

TEXT = "Anna Abel met Bo in Rome. Abel left."
ANNA, BO, ROME, ABEL = (0, 9, "PER"), (14, 16, "PER"), (20, 24, "LOC"), (26, 30, "PER")
GOLD = extract_document(TEXT, [[ANNA, ABEL], [BO], [ROME]], {(0, "P1", 2), (1, "P2", 2)})


def f1_of(found, gold=GOLD):
    return {name: scores["f1"] for name, scores in compare([found], [gold]).items()}


def test_what_is_gold_scores_100_everywhere():
    assert set(f1_of(GOLD).values()) == {100.0}


def test_a_split_entity_costs_its_triples_strictly_but_not_by_name():
    found = extract_document(TEXT, [[ANNA], [ABEL], [BO], [ROME]], {(0, "P1", 3), (2, "P2", 3)})
    scores = f1_of(found)
    assert scores["mention span"] == scores["mention typed"] == 100
    assert scores["entity"] == pytest.approx(100 * 2 * 2 / (4 + 3))
    assert scores["triple strict"] == 50 and scores["triple by name"] == 100
    # B-cubed: precision 1; recall (1/2 + 1/2 + 1 + 1) / 4
    assert scores["b-cubed"] == pytest.approx(100 * 2 * 0.75 / 1.75)


def test_a_wrong_type_costs_the_typed_scores_alone():
    found = extract_document(TEXT, [[ANNA, ABEL], [BO], [(20, 24, "ORG")]], GOLD.triples)
    scores = f1_of(found)
    assert scores["mention typed"] == 75 and scores["entity typed"] == pytest.approx(200 / 3)
    assert {scores[name] for name in ("mention span", "entity", "b-cubed", "triple strict", "triple by name")} == {100}


def test_a_wrong_boundary_costs_the_entity():
    found = extract_document(TEXT, [[ANNA, ABEL], [BO], [(17, 24, "LOC")]], GOLD.triples)
    scores = compare([found], [GOLD])
    assert scores["mention span"]["f1"] == 75
    assert (scores["triple strict"]["f1"], scores["triple by name"]["f1"]) == (0, 0)
    assert scores["b-cubed"]["recall"] == 75 == scores["b-cubed"]["precision"]


def test_an_entity_with_one_of_two_equal_names_is_right_by_name_alone():
    two = extract_document(
        "Abel met Abel in Rome.", [[(0, 4, "PER"), (9, 13, "PER")], [(17, 21, "LOC")]], {(0, "P1", 1)}
    )
    one = extract_document("Abel met Abel in Rome.", [[(0, 4, "PER")], [(17, 21, "LOC")]], {(0, "P1", 1)})
    assert (f1_of(one, two)["triple strict"], f1_of(one, two)["triple by name"]) == (0, 100)


def test_tokens_of_white_space_are_no_part_of_a_mention_or_sentence():
    mention = {"name": "Anna", "sent_id": 1, "pos": [0, 3], "type": "PER"}
    document = {"title": "t", "sents": [["Go", "."], [" ", "Anna", "\xa0", "left"]], "vertexSet": [[mention]]}
    text, mentions, starts = gold_of(document)
    assert [(text[start:end], kind) for start, end, kind in mentions] == [("Anna", "PER")]
    assert [text[start:][:2] for start in starts] == ["Go", "An"]


def test_precision_and_recall_are_of_all_documents_together():
    nothing = extract_document(TEXT, [], set())
    scores = compare([GOLD, nothing], [GOLD, GOLD])
    assert scores["triple strict"] == pytest.approx({"precision": 100, "recall": 50, "f1": 200 / 3})
    assert compare([nothing], [GOLD])["triple by name"] == {"precision": 0, "recall": 0, "f1": 0}
    more = extract_document(TEXT, [[ANNA, ABEL], [BO], [ROME]], {*GOLD.triples, (2, "P1", 0), (0, "P2", 1)})
    assert compare([more], [GOLD])["triple by name"] == pytest.approx({"precision": 50, "recall": 100, "f1": 200 / 3})


def test_an_entity_without_mentions_is_scored_as_one_that_is_not_found():
    assert extract_document("Ada", [[], [(0, 3, "PER")]], ()).entities[0] == Entity(frozenset(), "", frozenset())


def test_names_are_compared_without_case_and_white_space():
    found = extract_document("ANNA  ABEL met", [[(0, 10, "PER")]], set())
    assert found.entities[0].names == frozenset(["anna abel"])


def test_the_three_ways_differ_only_in_what_is_gold(sample, trained):
    documents = json.loads((sample / "test.json").read_text())[:6]
    predictor = Predictor.from_run(trained)
    scores = score_from_text(documents, predictor)
    assert list(scores) == list(from_text.INPUT_MODES)
    gold, mentions, text = scores.values()
    assert gold["entity"]["f1"] == gold["mention typed"]["f1"] == mentions["mention typed"]["f1"] == 100
    assert 0 < text["mention span"]["f1"] < 100 and text["entity"]["f1"] < mentions["entity"]["f1"] <= 100
    assert gold["triple strict"]["f1"] > 0


def test_gold_entities_have_the_runs_own_score(sample, trained):
    """The F1 of the way with gold entities is evaluation's, on documents whose entities have no mention in common."""
    documents = json.loads((sample / "test.json").read_text())
    predictor = Predictor.from_run(trained)
    found = compare(
        from_text.extract_documents(documents, "gold entities", predictor), list(map(gold_document, documents))
    )
    plain = [{key: value for key, value in document.items() if key != "labels"} for document in documents]
    entries = predictor.predict(plain).entries
    expected = score_predictions(entries, prepare_gold(documents, set()))
    assert found["triple strict"]["f1"] == pytest.approx(100 * expected["f1"])


def test_the_scores_of_the_pages_are_those_of_the_records():
    section = (ROOT / "docs/results.md").read_text().split("\n## From raw text\n")[1].split("\n## ")[0]
    rows = [
        line for line in section.splitlines() if line.startswith("| ") and "F1" not in line and "from text" not in line
    ]
    files = {
        name: json.loads((ROOT / f"results/from_text/{name}.json").read_text())["files"]
        for name in ("spacy_small_before", "detector")
    }
    columns = [("spacy_small_before", "text alone"), *(("detector", way) for way in reversed(from_text.INPUT_MODES))]
    names = ("mention span", "mention typed", "entity", "entity typed", "b-cubed", "triple strict", "triple by name")
    for row, name in zip(rows, names, strict=True):
        cells = [cell.strip() for cell in row.strip("| ").split("|")][1:]
        for (file, way), cell in zip(columns, cells, strict=True):
            scores = [files[file][f"{split}_revised.json"]["scores"][way][name]["f1"] for split in ("dev", "test")]
            assert cell in ("–", ", ".join(f"{score:.2f}" for score in scores)), (row, way)
    readme = (ROOT / "README.md").read_text()
    for name in ("triple strict", "triple by name"):
        assert f"{files['detector']['test_revised.json']['scores']['text alone'][name]['f1']:.2f}" in readme
