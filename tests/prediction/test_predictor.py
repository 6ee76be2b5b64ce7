"""Predictor on a text and a document, and as a component of spaCy."""

import dataclasses
import json
import re
import subprocess
import sys

import pytest
import torch
from conftest import ROOT

from hingeabl.data.pairs import AllPairs, near_pairs
from hingeabl.errors import UserError
from hingeabl.readers.text import MODELS, load_spacy
from model import DocREModel
from predict import Predictor

TEXT = (
    "Marie Curie was born in Warsaw in 1867. She worked with Pierre Curie at the University of Paris. Irène "
    "Joliot-Curie was born in Paris.\n\nBarack Obama was born in Honolulu."
)


@pytest.fixture(scope="module")
def predictor(trained):
    return Predictor.from_run(str(trained), "cpu")


@pytest.fixture(scope="module")
def documents(sample):
    return json.loads((sample / "test.json").read_text())


@pytest.fixture(scope="module")
def nlp():
    pytest.importorskip("spacy", reason="spaCy is not installed: scripts/requirements/text.txt")
    try:
        return load_spacy(MODELS[0])
    except UserError as error:
        pytest.skip(str(error))


def test_a_document_has_the_relations_of_predict_py_with_names_and_entities(predictor, documents):
    for document in documents[:5]:
        unlabelled = {field: value for field, value in document.items() if field != "labels"}
        entries = predictor.predict([unlabelled]).entries
        found = predictor(document)
        assert found and len(found) == len(entries)
        for relation, entry in zip(found, entries, strict=True):
            assert (relation.head.number, relation.tail.number) == (entry["h_idx"], entry["t_idx"])
            assert relation.head.mentions[0] == document["vertexSet"][entry["h_idx"]][0]["name"]
            assert [getattr(relation, field) for field in ("r", "relation", "score", "threshold", "margin")] == [
                entry[field] for field in ("r", "relation", "score", "threshold", "margin")
            ]
            assert str(relation).startswith(f"{relation.head.name} | {entry['relation']} | {relation.tail.name} (")
        assert "labels" in document


def test_labels_of_a_document_are_not_looked_at(predictor, documents):
    unknown = [{"h": 0, "t": 1, "r": "a relation that the run does not know"}]
    assert predictor({**documents[0], "labels": unknown}) == predictor(documents[0])


def test_a_run_with_typed_markers_refuses_a_mention_without_type(predictor, documents, monkeypatch):
    monkeypatch.setattr(predictor, "typed", True)
    untyped = [{name: value for name, value in documents[0]["vertexSet"][0][0].items() if name != "type"}]
    with pytest.raises(UserError, match=r"^document \(.*\): vertexSet\[0\]\[0\]\.type"):
        predictor({**documents[0], "vertexSet": [untyped]})


def test_a_document_that_breaks_the_schema_is_refused(predictor):
    with pytest.raises(UserError, match=r"^document \(.A.\): vertexSet: is missing"):
        predictor({"title": "A", "sents": [["a"]]})


def test_a_text_has_the_relations_of_the_document_that_spacy_makes_of_it(predictor, nlp):
    from hingeabl.readers.text import document_of_text

    found = predictor(TEXT)
    assert found == predictor(document_of_text(TEXT, "text", "text"))
    assert {"Marie Curie", "Warsaw", "Barack Obama"} <= {end.name for one in found for end in (one.head, one.tail)}


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (None, "^a NoneType is no text and no document; pass a string, or"),
        (b"Ann lives in Bonn.", "^a bytes is no text"),
        (["Ann lives in Bonn."], "^a list is no text and no document; .*several documents go to predict$"),
        (ROOT / "docs/example.txt", "Path is no text"),
        (str(ROOT / "docs/example.txt"), r"^text '.*example\.txt': is the path of a file; pass the file's content"),
        ('[{"title": "A"}]', r"^text: is JSON; pass what json\.loads makes of it"),
        ("Ann lives in Bonn \ud800.", r"^text: holds \\ud800, half of a character; repair"),
        ({"title": "A", "sents": [["\udc00"]], "vertexSet": []}, r"^document: holds \\udc00, half of a character"),
    ],
)
def test_what_is_no_text_and_no_document_is_refused_in_one_line(predictor, given, expected):
    with pytest.raises(UserError, match=expected):
        predictor(given)


def test_predict_checks_its_documents_and_does_not_look_at_labels(predictor, documents):
    broken = {**documents[1], "vertexSet": [[{"name": "x", "sent_id": 999, "pos": [0, 1]}]]}
    for given, expected in (
        (documents[0], "^documents: are a dict; pass a list"),
        ("Ann lives in Bonn.", "^documents: are a str; pass a list"),
        (["Ann lives in Bonn."], "^documents: document 0: is not an object with title"),
        ([documents[0], broken], r"^documents: document 1 \(.*\): vertexSet\[0\]\[0\]\.sent_id"),
    ):
        with pytest.raises(UserError, match=expected):
            predictor.predict(given)
    unlabelled = {name: value for name, value in documents[0].items() if name != "labels"}
    assert predictor.predict([documents[0]]).entries == predictor.predict([unlabelled]).entries != []


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"precision": "float16"}, "^precision 'float16': is none of None, 'fp32', 'bf16', 'fp16'"),
        ({"test_batch_size": 0}, "^test_batch_size 0: must be a whole number above 0"),
        ({"test_batch_size": -1}, "^test_batch_size -1: must be"),
    ],
)
def test_options_that_the_programs_would_not_take_are_refused_in_python(trained, options, expected):
    with pytest.raises(UserError, match=expected):
        Predictor.from_run(str(trained), "cpu", **options)


def test_an_empty_text_is_refused(predictor):
    with pytest.raises(UserError, match=r"^text: is empty"):
        predictor(" \n")


def test_nothing_is_printed_for_a_text(predictor, nlp, capfd):
    predictor(TEXT)
    assert capfd.readouterr() == ("", "")


CUT = "1 of {} documents are longer than max_seq_length, 1,024 word pieces, and are cut: {} of {} mentions"


def cut(document):
    """The document with an entity that the model does not read."""
    late = {"name": "word", "sent_id": len(document["sents"]), "pos": [1090, 1091], "type": "LOC"}
    changed = {**document, "sents": [*document["sents"], ["word"] * 1100]}
    changed.pop("labels", None)
    return changed | {"vertexSet": [*document["vertexSet"], [late]]}


def test_nothing_is_cut_by_default(predictor, documents, capsys):
    long = documents[0] | {"sents": [["word"] * 3000, *documents[0]["sents"]]}
    long["vertexSet"] = [
        [mention | {"sent_id": mention["sent_id"] + 1} for mention in entity] for entity in documents[0]["vertexSet"]
    ]
    found = predictor(long)
    assert {end.number for one in found for end in (one.head, one.tail)} and not capsys.readouterr().err
    scores = [predictor.predict([long]).pairs["scores"] for _ in range(2)]
    assert torch.equal(*scores) and scores[0].isfinite().all()


def test_a_limit_of_distance_leaves_near_pairs_with_equal_scores(trained, predictor, documents):
    near = Predictor.from_run(trained, "cpu", max_distance=1)
    for document in documents[:4]:
        kept = near_pairs(document, 1)
        assert 0 < len(kept) < len(AllPairs(len(document["vertexSet"])))
        found = [(one.head.number, one.tail.number, one.r) for one in near(document)]
        every = [(one.head.number, one.tail.number, one.r) for one in predictor(document)]
        assert found == [one for one in every if list(one[:2]) in kept]


@pytest.mark.parametrize("backbone", ["docunet", "kd_docre"])
def test_a_limit_of_distance_changes_no_score_of_a_model_that_sees_all_pairs(trained, documents, backbone):
    """Entities stay in its map of pairs, also the last ones, which are near no other one."""
    sents = [*documents[0]["sents"], ["a"], ["b"], ["far"]]
    last = [{"name": "far", "sent_id": len(sents) - 1, "pos": [0, 1]}]
    document = {"title": "A", "sents": sents, "vertexSet": [*documents[0]["vertexSet"], last]}
    torch.manual_seed(0)
    predictors = [Predictor.from_run(trained, "cpu", shift=-1000.0, max_distance=near) for near in (None, 1)]
    model = DocREModel(
        str(trained / "encoder"), 97, 64, backbone=backbone, unet_channels=16, axial_layers=2, pretrained=False
    ).eval()
    scores = []
    for predictor in predictors:
        predictor.run = dataclasses.replace(predictor.run, model=model)
        pairs = predictor.predict([document]).pairs
        places = map(tuple, pairs["entities"].tolist())
        scores.append(dict(zip(places, pairs["scores"], strict=True)))
    every, near = scores
    assert 5 < len(near) < len(every) and max(map(max, near)) < len(document["vertexSet"]) - 1
    for pair, found in near.items():
        torch.testing.assert_close(found, every[pair], atol=1e-6, rtol=0)


def test_entities_that_no_window_connects_are_not_scored(trained, documents):
    first, count, later = documents[0], len(documents[0]["vertexSet"]), len(documents[0]["sents"]) + 1
    again = [
        [mention | {"sent_id": mention["sent_id"] + later} for mention in mentions] for mentions in first["vertexSet"]
    ]
    two = {"title": "two", "sents": [*first["sents"], ["word"] * 3000, *first["sents"]]}
    found = Predictor.from_run(trained, "cpu", shift=-1000.0).predict([two | {"vertexSet": first["vertexSet"] + again}])
    pairs = {(entry["h_idx"], entry["t_idx"]) for entry in found.entries}  # every pair that was scored
    within = {(head, tail) for head, tail in AllPairs(2 * count) if (head < count) == (tail < count)}
    assert pairs == within


def test_a_document_that_is_cut_is_told_in_python_each_time_and_alone(trained, documents, capsys):
    predictor = Predictor.from_run(trained, "cpu", max_seq_length=1024)
    mentions = sum(map(len, documents[0]["vertexSet"])) + 1
    for _ in range(2):
        predictor(cut(documents[0]))
        [line] = capsys.readouterr().err.splitlines()
        assert re.match(f"WARNING: '{documents[0]['title']}': {CUT.format(1, 1, mentions)} are lost, and 1 of", line)
    both = mentions + sum(map(len, documents[1]["vertexSet"]))
    predictor.predict([documents[1], cut(documents[0])])
    [line] = capsys.readouterr().err.splitlines()
    assert re.match(f"WARNING: documents: {CUT.format(2, 1, both)}", line)
    predictor(documents[1])
    assert not capsys.readouterr().err


def test_doubtful_mentions_are_told_in_python(predictor, documents, capsys):
    mention = documents[0]["vertexSet"][0][0] | {"name": "somebody else"}
    predictor({**documents[0], "vertexSet": [[mention], []]})
    lines = capsys.readouterr().err.splitlines()
    assert any("1 entities have no mention" in line for line in lines)
    assert any("1 of 1 mentions (100.0%) have a name that is not the text at pos" in line for line in lines)


def test_entities_of_two_texts_have_ids_of_their_own(predictor, documents):
    two = [{**document, "title": "text"} for document in documents[:2]]
    first, second = ({end.id for one in predictor(document) for end in (one.head, one.tail)} for document in two)
    assert first and second and not first & second


def test_spacys_component_tells_of_a_text_that_is_cut(pipeline, capsys, monkeypatch):
    monkeypatch.setattr(pipeline.get_pipe("hingeabl").predictor, "max_seq_length", 1024)
    pipeline(f"{'It rains. ' * 400}{TEXT}")
    lost = len(pipeline(TEXT).ents)
    assert f"WARNING: documents: {CUT.format(1, lost, lost)}" in capsys.readouterr().err
    pipeline(TEXT)
    assert not capsys.readouterr().err


@pytest.fixture(scope="module")
def pipeline(nlp, trained):
    import spacy

    import hingeabl.prediction.spacy_component  # noqa: F401

    own = spacy.load(nlp.meta["lang"] + "_" + nlp.meta["name"])
    own.add_pipe("hingeabl", config={"run": str(trained), "device": "cpu"})
    return own


def test_spacys_component_finds_what_the_predictor_finds_by_the_same_pipeline(pipeline, trained):
    expected = Predictor.from_run(trained, text_model=MODELS[0])(TEXT)
    assert len(expected) > 3 and pipeline(TEXT)._.relations == expected


def test_spacys_component_joins_by_fastcorefs_clusters(pipeline, monkeypatch):
    given = []
    monkeypatch.setattr("hingeabl.prediction.spacy_component.find_clusters", lambda text: given.append(text) or [])
    pipeline(TEXT)
    assert given == [TEXT]


def test_spacys_component_keeps_the_order_in_batches(pipeline):
    texts = [TEXT, "It rains.", *re.findall(r"[^.]+\.", TEXT)]
    expected = [pipeline(text)._.relations for text in texts]
    assert expected[1] == [] != expected[0]
    assert [doc._.relations for doc in pipeline.pipe(texts, batch_size=2)] == expected


def test_spacys_documents_keep_their_relations_when_they_are_stored(pipeline):
    from spacy.tokens import Doc, DocBin

    doc = pipeline(TEXT)
    stored = DocBin(store_user_data=True, docs=[doc]).to_bytes()
    (again,) = DocBin().from_bytes(stored).get_docs(pipeline.vocab)
    assert Doc(pipeline.vocab).from_bytes(doc.to_bytes())._.relations == again._.relations == doc._.relations != []


def test_spacys_component_without_entities_before_it_is_told_what_is_missing(trained, nlp):
    import spacy

    import hingeabl.prediction.spacy_component  # noqa: F401

    blank = spacy.blank("en")
    blank.add_pipe("hingeabl", config={"run": str(trained)})
    with pytest.raises(UserError, match="finds no sentences; add the component 'parser'"):
        blank("Anna left.")


def test_training_loads_no_other_formats_readers_and_no_program_an_optional_package():
    code = (
        "import sys, train; print(*sorted(name for name in sys.modules if name.startswith('hingeabl.readers.')));"
        "import predict; print({'spacy', 'networkx', 'rdflib', 'fastapi'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    readers, optional = done.stdout.splitlines()
    assert readers.split() == [f"hingeabl.readers.{name}" for name in ("cdr", "documents", "formats")]
    assert optional in ("set()", "{'networkx'}")  # torch may import networkx
