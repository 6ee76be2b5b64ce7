"""One graph of many documents: who is joined, what supports a triple, and that all forms hold the same."""

import csv
import itertools
import json
import random
import shutil
import sys
from collections import defaultdict

import corpus_graph
import pytest

from hingeabl.corpus.folder import finish, write_part
from hingeabl.corpus.graph import joined_graph
from hingeabl.corpus.worker import Part, encoded
from hingeabl.errors import UserError

pytest.importorskip("duckdb", reason="duckdb is not installed")
NAMES = ["Ada Lovelace", "ada  lovelace", "The U.S.", "US", "Smith", "Bo\tRay", 'Q"<&>', "Ærø", "U\u0308ber", "Über"]
SAME = ["PER:ada lovelace"] * 2 + ["LOC:us"] * 2 + [None, "PER:bo ray", 'MISC:q"<&>', "LOC:ærø", "LOC:über", "LOC:über"]
TYPES = ["PER", "PER", "LOC", "LOC", "PER", "PER", "MISC", "LOC", "LOC", "LOC"]


def row(number, entities, triples):
    """A document of the output: its entities are numbers in NAMES, its triples {(head, r, tail): confidence}."""
    described = [
        {"id": f"{number:016x}#{place}", "name": NAMES[one], "mentions": [NAMES[one]], "types": [TYPES[one]]}
        for place, one in enumerate(entities)
    ]
    predictions = [
        {"h_idx": head, "t_idx": tail, "r": r, "relation": r.lower(), "score": 1.5, "threshold": 0.5, "margin": 1.0}
        | ({} if sure is None else {"confidence": sure})
        for (head, r, tail), sure in triples.items()
    ]
    place = {"file": f"f{number % 3}.jsonl", "document": number, "title": f"Title {number}"}
    return place | {"entities": described, "predictions": predictions}


def corpus_of(folder, rows, form="jsonl"):
    for number, start in enumerate(range(0, len(rows), 50)):
        write_part(folder, number, Part(encoded(rows[start : start + 50], form)), form)
    return str(folder)


@pytest.fixture(scope="module")
def rows():
    """Two hundred documents of a few entities, some of them the same, and random triples."""
    chosen = random.Random(5)
    found = []
    for number in range(200):
        entities = chosen.sample(range(len(NAMES)), 4)
        pairs = chosen.sample(list(itertools.permutations(range(4), 2)), 5)
        found.append(row(number, entities, {(h, chosen.choice("RS"), t): chosen.random() for h, t in pairs}))
    return found


def counted(rows, least=0.0):
    """The triples as a plain count finds them: (head, r, tail) -> {(file, document): highest confidence there}."""
    found = defaultdict(dict)
    for one in rows:
        nodes = [SAME[NAMES.index(entity["name"])] or entity["id"] for entity in one["entities"]]
        for entry in one["predictions"]:
            if entry["confidence"] >= least:
                head, tail = nodes[entry["h_idx"]], nodes[entry["t_idx"]]
                if head == tail:
                    continue
                support = found[head, entry["r"], tail]
                place = one["file"], one["document"]
                support[place] = max(entry["confidence"], support.get(place, 0))
    return found


@pytest.mark.parametrize("form", ["jsonl", "parquet"])
@pytest.mark.parametrize(("documents", "least"), [(1, 0.0), (5, 0.3)])
def test_the_support_of_each_triple_is_a_plain_count(rows, tmp_path, form, documents, least):
    if form == "parquet":
        pytest.importorskip("pyarrow", reason="pyarrow is not installed")
    expected = {key: places for key, places in counted(rows, least).items() if len(places) >= documents}
    with joined_graph(corpus_of(tmp_path, rows, form), documents=documents, confidence=least) as graph:
        found = graph.execute("SELECT head, r, tail, documents, highest, combined, places FROM triples").fetchall()
        nodes = graph.execute("SELECT id, documents FROM nodes").fetchall()
    assert {tuple(one[:3]) for one in found} == expected.keys() and len(found) == len(expected) > 20
    for head, r, tail, count, highest, combined, places in found:
        support = expected[head, r, tail]
        left = 1.0
        for sure in support.values():
            left *= 1 - sure
        assert (count, highest) == (len(support), max(support.values()))
        assert combined == pytest.approx(1 - left, abs=1e-6)
        assert [(place["file"], place["document"]) for place in places] == sorted(support)
        assert all(place["title"] == f"Title {place['document']}" for place in places)
    assert {node for node, _ in nodes} == {end for head, _, tail in expected for end in (head, tail)}


def test_persons_of_one_word_are_joined_only_when_asked(tmp_path):
    rows = [row(number, [4, 2], {(0, "R", 1): 0.5}) for number in range(3)]
    for persons, expected in ((False, 3), (True, 1)):
        with joined_graph(corpus_of(tmp_path, rows), persons) as graph:
            assert graph.execute("SELECT count(*) FROM triples").fetchall() == [(expected,)]


def test_a_relation_between_two_entities_that_become_one_is_left_out(tmp_path):
    found = row(0, [2, 3, 0], {(0, "R", 1): 0.9, (2, "R", 0): 0.5})  # "The U.S." and "US"
    with joined_graph(corpus_of(tmp_path, [found])) as graph:
        assert graph.execute("SELECT head, tail FROM triples").fetchall() == [("PER:ada lovelace", "LOC:us")]


def test_without_confidence_documents_are_counted_and_no_number_is_made_up(tmp_path):
    with joined_graph(corpus_of(tmp_path, [row(n, [0, 2], {(0, "R", 1): None}) for n in range(2)])) as graph:
        assert graph.execute("SELECT documents, highest, combined FROM triples").fetchall() == [(2, None, None)]


@pytest.mark.parametrize(("given", "message"), [("90", "is a probability"), ("0.5", "have no confidence")])
def test_a_least_confidence_that_cannot_be_asked_for_is_refused(tmp_path, given, message):
    corpus = corpus_of(tmp_path / "corpus", [row(0, [0, 2], {(0, "R", 1): None})])
    with pytest.raises(UserError, match=message):
        corpus_graph.main(["--input", corpus, "--output", str(tmp_path / "g.ttl"), "--min_confidence", given])
    assert not (tmp_path / "g.ttl").exists()


def test_an_entity_without_a_mention_is_a_node_and_a_folder_may_have_a_dot_in_its_name(tmp_path):
    nameless = row(0, [0, 2], {(0, "R", 1): 0.5})
    nameless["entities"][1] |= {"name": "", "mentions": [], "types": []}
    output = tmp_path / "neo4j.v1"
    corpus_graph.main(["--input", corpus_of(tmp_path / "corpus", [nameless]), "--output", f"{output}/"])
    rows = {name: list(csv.DictReader((output / name).open(newline=""))) for name in ("nodes.csv", "relations.csv")}
    [edge] = rows["relations.csv"]
    assert {edge[":START_ID"], edge[":END_ID"]} == {node["id:ID"] for node in rows["nodes.csv"]}
    corpus_graph.main(["--input", str(tmp_path / "corpus"), "--output", str(output)])  # it is there now
    (tmp_path / "g.ttl").mkdir()
    with pytest.raises(UserError, match=r"--output .*g\.ttl: is a folder; name a file"):
        corpus_graph.main(["--input", str(tmp_path / "corpus"), "--output", str(tmp_path / "g.ttl")])


def test_turtle_graphml_and_csv_hold_the_same_graph(rows, tmp_path):
    rdflib = pytest.importorskip("rdflib", reason="rdflib is not installed")
    networkx = pytest.importorskip("networkx", reason="networkx is not installed")
    corpus = corpus_of(tmp_path / "corpus", rows)
    for name in ("graph.ttl", "graph.graphml", "csv"):
        corpus_graph.main(["--input", corpus, "--output", str(tmp_path / name)])
    expected = {key: len(places) for key, places in counted(rows).items()}

    with (tmp_path / "csv/relations.csv").open(newline="") as file:
        edges = list(csv.DictReader(file))
    assert {(e[":START_ID"], e[":TYPE"], e[":END_ID"]): int(e["documents:int"]) for e in edges} == expected
    with (tmp_path / "csv/nodes.csv").open(newline="") as file:
        nodes = {node["id:ID"]: node for node in csv.DictReader(file)}
    assert nodes["PER:ada lovelace"][":LABEL"] == "Entity\tPER"
    assert sorted(nodes["PER:ada lovelace"]["names:string[]"].split("\t")) == ["Ada Lovelace", "ada lovelace"]
    assert nodes["PER:bo ray"]["name"] == "Bo Ray" and nodes['MISC:q"<&>']["name"] == 'Q"<&>'

    graph = networkx.read_graphml(tmp_path / "graph.graphml", force_multigraph=True)
    assert {(h, data["r"], t): data["documents"] for h, t, data in graph.edges(data=True)} == expected
    assert graph.nodes.keys() == nodes.keys()
    assert {data["name"] for _, data in graph.nodes(data=True)} >= {"Bo\tRay", 'Q"<&>'}

    found = rdflib.Graph().parse(tmp_path / "graph.ttl")
    term = rdflib.Namespace("urn:hingeabl:term:")
    statements = list(found.subjects(rdflib.RDF.type, rdflib.RDF.Statement))
    assert len(statements) == len(expected)
    counts = sorted(found.value(one, term.documents).toPython() for one in statements)
    assert counts == sorted(expected.values())
    assert all(len(list(found.objects(one, term.document))) == found.value(one, term.documents).toPython()
               for one in statements)  # fmt: skip
    labels = {str(label) for label in found.objects(None, rdflib.RDFS.label)}
    assert labels >= {"Bo\tRay", 'Q"<&>', "Smith"}


@pytest.mark.parametrize("name", ["graph.ttl", "graph.graphml", "csv"])
def test_the_same_corpus_gives_the_same_bytes(rows, tmp_path, name):
    corpus = corpus_of(tmp_path / "corpus", rows)
    found = []
    for folder in ("one", "two"):
        output = tmp_path / folder / name
        corpus_graph.main(["--input", corpus, "--output", str(output)])
        found.append([path.read_bytes() for path in ([output] if output.is_file() else sorted(output.iterdir()))])
    assert found[0] == found[1]


def test_the_two_files_of_csv_are_replaced_together(rows, tmp_path):
    output = tmp_path / "csv"
    for part_of_rows, blocked in ((rows[:50], False), (rows[50:60], True)):
        shutil.rmtree(tmp_path / "corpus", ignore_errors=True)
        corpus = corpus_of(tmp_path / "corpus", part_of_rows)
        if blocked:
            before = {path.name: path.read_bytes() for path in output.glob("*.csv")}
            (output / "relations.csv.tmp").mkdir()
            with pytest.raises(UserError, match=r"relations\.csv\.tmp: cannot be written"):
                corpus_graph.main(["--input", corpus, "--output", str(output)])
        else:
            corpus_graph.main(["--input", corpus, "--output", str(output)])
    assert {path.name: path.read_bytes() for path in output.glob("*.csv")} == before and len(before) == 2
    assert not (output / "nodes.csv.tmp").exists()


def test_a_corpus_that_is_not_finished_is_warned_of(rows, tmp_path, capsys):
    corpus = corpus_of(tmp_path / "corpus", rows)
    for complete in (False, True):
        finish(tmp_path / "corpus", complete)
        corpus_graph.main(["--input", corpus, "--output", str(tmp_path / "graph.ttl")])
        warned = "is not finished, and the graph is of 4 parts" in capsys.readouterr().err
        assert warned == (not complete)


def test_what_is_no_corpus_or_no_place_is_told_in_one_line(rows, tmp_path, monkeypatch):
    with pytest.raises(UserError, match=r"has no parts; name a folder that scripts/predict_corpus\.py wrote"):
        corpus_graph.main(["--input", str(tmp_path), "--output", str(tmp_path / "graph.ttl")])
    corpus = corpus_of(tmp_path / "corpus", rows)
    with pytest.raises(UserError, match=r"cannot be written as \.svg"):
        corpus_graph.main(["--input", corpus, "--output", str(tmp_path / "graph.svg")])
    (tmp_path / "csv/nodes.csv.tmp").mkdir(parents=True)
    with pytest.raises(UserError, match=r"nodes\.csv\.tmp: cannot be written \("):
        corpus_graph.main(["--input", corpus, "--output", str(tmp_path / "csv")])
    shutil.rmtree(tmp_path / "csv")
    (tmp_path / "corpus/parts/part-000000.jsonl").write_text('{"file": broken\n')
    with pytest.raises(UserError, match=r"cannot be joined .*are its parts whole"):
        corpus_graph.main(["--input", corpus, "--output", str(tmp_path / "graph.ttl")])
    assert json.dumps(sorted(path.name for path in tmp_path.iterdir())) == '["corpus"]'
    monkeypatch.setitem(sys.modules, "duckdb", None)
    with pytest.raises(UserError, match=r"duckdb is not installed.*scripts/requirements/ray\.txt"):
        corpus_graph.main(["--input", corpus, "--output", str(tmp_path / "graph.ttl")])
