"""Ids of entities in graphs: the same for the same document, others for another one, whichever file it is in."""

import io
import json
import re

import pytest
from test_writers import document, entry, written

from hingeabl.readers.any_format import read_format
from hingeabl.writers.writer import key_of

GRAPHS = (".cypher", ".graphml", ".nt", ".ttl", ".csv")


def ids_in(data):
    """The ids of entities in a file of one of GRAPHS."""
    found = re.findall(rb"\b[0-9a-f]{16}(?:#|:)[0-9]+\b", data)
    return {one.replace(b":", b"#") for one in found}


def ids_of(ending, documents):
    """The ids of entities in what a form makes of documents of two entities and a relation each."""
    return ids_in(written(ending, documents, [[entry(one, 0, 1)] for one in documents]))


def test_ids_are_the_same_in_every_form_of_graph():
    documents = [document("A", ["a"], ["b"]), document("B", ["c"], ["d"])]
    for ending in GRAPHS[:-1]:
        assert ids_of(ending, documents) >= ids_of(".csv", documents) and len(ids_of(".csv", documents)) == 4


@pytest.mark.parametrize("ending", GRAPHS)
@pytest.mark.parametrize("title", ["report", "standard input", "input", "document 0", "text"])
def test_two_documents_of_one_title_in_two_files_share_no_id(ending, title):
    first, second = document(title, ["Orla Venn"], ["Lisbon"]), document(title, ["Tom Hale"], ["Oslo"])
    assert len(ids_of(ending, [first])) == 2 and not ids_of(ending, [first]) & ids_of(ending, [second])
    moved = {**first, "sents": [["b"]]}
    typed = document(title, ["Orla Venn"], ["Lisbon"])
    typed["vertexSet"][1][0]["type"] = "LOC"
    for other in (moved, typed):
        assert not ids_of(ending, [first]) & ids_of(ending, [other])


@pytest.mark.parametrize("ending", GRAPHS)
def test_a_document_keeps_its_ids_in_another_place_and_beside_labels(ending):
    one, other = document("A", ["a"], ["b"]), document("B", ["c"], ["d"])
    labelled = {**one, "labels": [{"h": 0, "t": 1, "r": "P19", "evidence": []}]}
    assert ids_of(ending, [one]) == ids_of(ending, [labelled]) < ids_of(ending, [other, one])


def test_a_title_that_a_reader_made_up_is_no_part_of_an_id_and_one_of_the_document_is():
    text = {"text": "Orla Venn was born in Lisbon.", "entities": [{"mentions": [[0, 9]]}, {"mentions": [[22, 28]]}]}
    untitled, titled = json.dumps(text), json.dumps({**text, "title": "A"})
    several = [
        list(read_format(io.BytesIO(f"[{untitled}, {one}]".encode()), "x", None, False)) for one in (untitled, titled)
    ]
    (first, again), (same, other) = ([key_of(found) for found in found] for found in several)
    assert first == again == same != other


def test_files_of_one_content_and_two_names_have_the_same_ids(tmp_path):
    keys = []
    for name in ("report", "copy"):
        (tmp_path / f"{name}.txt").write_text("Orla Venn was born in Lisbon.")
        (tmp_path / f"{name}.ann").write_text("T1\tPER 0 9\tOrla Venn\nT2\tLOC 22 28\tLisbon\n")
        with (tmp_path / f"{name}.ann").open("rb") as file:
            [found] = read_format(file, str(tmp_path / f"{name}.ann"), None, False)
        assert found["title"] == name
        keys.append(key_of(found))
    assert keys[0] == keys[1]


@pytest.mark.parametrize("ending", GRAPHS)
def test_equal_titles_of_xml_after_replacement_keep_their_ids_apart(ending):
    documents = [document("A\x01", ["a"], ["b"]), document("A\x02", ["a"], ["b"])]
    assert len(ids_of(ending, documents)) == 4
