"""predict.py's forms of output: other programs' readers find in them what JSON holds, whatever the names are."""

import csv
import gzip
import importlib
import io
import json
import re
import sys
import xml.etree.ElementTree as ET

import pytest
from predictions import FIELDS
from trainings import EMPTY

import predict
from hingeabl.errors import UserError
from hingeabl.training.inference import Predictions
from hingeabl.writers import networks
from hingeabl.writers.by_extension import ANNOTATED, FORMS, form_of
from hingeabl.writers.json_csv_cypher import Csv, JsonLines, JsonList
from hingeabl.writers.writer import key_of

networkx = pytest.importorskip("networkx")
rdflib = pytest.importorskip("rdflib")
TERM = rdflib.Namespace("urn:hingeabl:term:")
HOSTILE = [
    *("'", '"', "\\", "\\'", '\\"', "a\nb", "a\rb", "a\r\nb", "a\tb", "<>&", "`", "``", "{}", "{x: 1}", "]]>"),
    *("%41", "a b", "🎈👩‍👩‍👧", "\u202eעברית", "\x00\x01\x1f\x7f\x85", "\u2028\u2029", "\ufffe", "", " "),
    *("x" * 20_000, "\\u0041", "//", "#", "'); MATCH (n) DETACH DELETE n; //", '" .\n<a> <b> <c> .', "--"),
    *("&amp;", "<![CDATA[", "$x$", "a,b", "\\n", "\ufeff", '"""', "a\\", 'a"', "\u0301", "P19", "東京", "null"),
    *("true", "1.5"),
]


def entry(document, head, tail, r="P19", relation="place of birth", score=1.23456789012345):
    numbers = {"score": score, "threshold": -1e-05, "margin": score + 1e-05, "confidence": 0.25}
    return {"title": document["title"], "h_idx": head, "t_idx": tail, "r": r, "relation": relation, **numbers}


def document(title, *entities):
    """A document whose entities have these mentions."""
    mentions = [[{"name": name, "sent_id": 0, "pos": [0, 1], "type": "PER"} for name in names] for names in entities]
    return {"title": title, "sents": [["a"]], "vertexSet": mentions}


def written(ending, documents, entries, group=2):
    """What a form makes of documents, in groups, and of the predictions of each: bytes."""
    file = io.TextIOWrapper(io.BytesIO(), encoding="utf-8", newline="")
    writer = form_of(f"found{ending}")(file)
    writer.begin()
    for start in range(0, len(documents), group):
        writer.add(documents[start : start + group], entries[start : start + group])
    writer.end()
    file.flush()
    return file.buffer.getvalue()


def hostile(names=HOSTILE):
    """A document for each hostile name, as its title, names and relation; and the predictions of each."""
    documents = [document(name, [name, f"{name} and more"], ["B"], []) for name in names]
    entries = [[entry(doc, 0, 1, name, name), entry(doc, 1, 2)] for doc, name in zip(documents, names, strict=True)]
    return documents, entries


def predictions(entries):
    return [found for document in entries for found in document]


# A small strict reader of the Cypher that is written: anything else is refused.

CYPHER = re.compile(
    r"""(?P<string>'(?:[^'\\\n]|\\['\\nrt]|\\u[0-9A-F]{4})*')|`(?P<name>(?:[^`\\\n]|``|\\u[0-9A-F]{4})+)`"""
    r"|(?P<number>-?\d+(?:\.\d+)?(?:e[+-]\d+)?)|(?P<word>[A-Za-z_]+)|(?P<sign>\+=|->|[-(){}\[\]:,;])|(?P<space> )"
)
BACK = {"\\n": "\n", "\\r": "\r", "\\t": "\t", "\\'": "'", "\\\\": "\\"}


def tokens_of(line):
    """Tokens of a statement: ("word" or "sign", text), ("name", text) of backticks, ("value", string or number)."""
    place, found = 0, []
    while place < len(line):
        match = CYPHER.match(line, place)
        assert match, line[place : place + 40]
        kind, text, place = match.lastgroup, match[match.lastgroup], match.end()
        if kind == "string":
            text = re.sub(r"\\(?:u(....)|.)", lambda m: chr(int(m[1], 16)) if m[1] else BACK[m[0]], text[1:-1])
        elif kind == "name":
            text = re.sub(r"\\u(....)", lambda m: chr(int(m[1], 16)), text.replace("``", "`"))
        elif kind == "number":
            text = json.loads(text)
        if kind != "space":
            found.append(("value" if kind in ("string", "number") else kind, text))
    return found


def value_of(tokens):
    """The value at the beginning of the tokens, which are taken away."""
    kind, text = tokens.pop(0)
    if kind == "value":
        return text
    assert text in ("[", "{")
    found, end = [], {"[": "]", "{": "}"}[text]
    while tokens[0][1] != end or tokens[0][0] != "sign":
        key = ""
        if text == "{":
            (kind, key), colon = tokens.pop(0), tokens.pop(0)
            assert kind == "word" and colon == ("sign", ":")
        found.append((key, value_of(tokens)))
        if tokens[0] == ("sign", ","):
            tokens.pop(0)
    tokens.pop(0)
    return dict(found) if text == "{" else [value for _, value in found]


def take(tokens, text):
    """Take away these tokens."""
    for expected in text.split():
        assert tokens.pop(0)[1] == expected


def read_cypher(data):
    """(nodes: id -> properties, edges: [(head, tail, type, properties)]) of the statements."""
    nodes, edges = {}, []
    for line in data.decode().split("\n")[:-1]:
        tokens = tokens_of(line)
        if tokens[0] == ("word", "MERGE"):
            take(tokens, "MERGE ( n : Entity")
            key = value_of(tokens)["id"]
            take(tokens, ") SET n +=")
            assert key not in nodes
            nodes[key] = value_of(tokens)
        else:
            take(tokens, "MATCH ( h : Entity")
            head = value_of(tokens)["id"]
            take(tokens, ") , ( t : Entity")
            tail = value_of(tokens)["id"]
            take(tokens, ") MERGE ( h ) - [ e :")
            kind, name = tokens.pop(0)
            assert kind == "name" and head in nodes and tail in nodes
            take(tokens, "] -> ( t ) SET e +=")
            edges.append((head, tail, name, value_of(tokens)))
        take(tokens, ";")
        assert not tokens
    return nodes, edges


def expected_graph(documents, entries):
    """The same as read_cypher's, from the documents and entries themselves."""
    nodes, edges = {}, []
    for place, (doc, found) in enumerate(zip(documents, entries, strict=True)):
        key = f"{key_of(doc)}#{{}}".format
        for number, mentions in enumerate(doc["vertexSet"]):
            names = [mention["name"] for mention in mentions]
            nodes[key(number)] = {
                **{"place": place, "document": doc["title"], "number": number},
                "name": sorted(names, key=len)[-1] if names else "",
                **{"mentions": names, "types": ["PER"] if names else []},
            }
        for one in found:
            properties = {name: one[name] for name in FIELDS[3:]} | {"document": one["title"]}
            ends = [key(one[end]) for end in ("h_idx", "t_idx")]
            edges.append((*ends, one["r"], properties))
    return nodes, edges


def test_json_and_lines_hold_hostile_names():
    documents, entries = hostile()
    assert json.loads(written(".json", documents, entries)) == predictions(entries)
    lines = written(".jsonl", documents, entries).decode().split("\n")
    assert [json.loads(line) for line in lines[:-1]] == predictions(entries) and lines[-1] == ""


def test_csv_holds_hostile_names_and_every_digit():
    names = [name for name in HOSTILE if "\0" not in name or sys.version_info >= (3, 11)]
    documents, entries = hostile(names)
    rows = list(csv.DictReader(io.StringIO(written(".csv", documents, entries).decode(), newline="")))
    found = [{name: row[name] for name in FIELDS} for row in rows]
    assert found == [{name: str(one[name]) for name in FIELDS} for one in predictions(entries)]
    assert [row["head"] for row in rows[::2]] == [f"{name} and more" for name in names]
    assert [float(row["score"]) for row in rows] == [one["score"] for one in predictions(entries)]


@pytest.mark.skipif(sys.version_info >= (3, 11), reason="csv takes NUL from Python 3.11 on")
def test_a_nul_character_is_refused_as_csv():
    with pytest.raises(UserError, match="has a NUL character"):
        written(".csv", *hostile(["a\0"]))


def test_cypher_holds_hostile_names_one_statement_a_line():
    documents, entries = hostile()
    nodes, edges = read_cypher(written(".cypher", documents, entries))
    expected_nodes, expected_edges = expected_graph(documents, entries)
    assert nodes == expected_nodes
    assert edges == [(head, tail, name or "_", properties) for head, tail, name, properties in expected_edges]


@pytest.mark.parametrize(("ending", "form"), [(".nt", "nt"), (".ttl", "turtle")])
def test_rdf_holds_hostile_names_and_every_digit(ending, form):
    documents, entries = hostile()
    graph = rdflib.Graph().parse(data=written(ending, documents, entries), format=form)
    entities = list(graph.subjects(rdflib.RDF.type, TERM.Entity))
    assert len(entities) == 3 * len(HOSTILE)
    labels = {(str(graph.value(one, TERM.document)), str(graph.value(one, rdflib.RDFS.label))) for one in entities}
    assert labels == {(name, label) for name in HOSTILE for label in (f"{name} and more", "B", "")}
    others = [str(graph.value(one, rdflib.SKOS.altLabel)) for one in graph.subjects(rdflib.SKOS.altLabel)]
    assert sorted(others) == sorted(HOSTILE)
    statements = list(graph.subjects(rdflib.RDF.type, rdflib.RDF.Statement))
    parts = [[graph.value(one, rdflib.RDF[part]) for part in ("subject", "predicate", "object")] for one in statements]
    assert len(statements) == len(predictions(entries)) and all(tuple(part) in graph for part in parts)
    found = {(str(graph.value(one, TERM.r)), str(graph.value(one, TERM.relation))) for one in statements}
    assert found == {(one["r"], one["relation"]) for one in predictions(entries)}
    for one in statements:
        assert [float(graph.value(one, TERM[name])) for name in FIELDS[5:]] == [
            entries[0][0][name] for name in FIELDS[5:]
        ]
    place_of_birth = rdflib.URIRef("http://www.wikidata.org/prop/direct/P19")
    assert len(list(graph.triples((None, place_of_birth, None)))) == len(HOSTILE) + 1  # one is named P19 itself


def test_turtle_and_n_triples_are_the_same_graph():
    documents, entries = hostile()
    turtle = rdflib.Graph().parse(data=written(".ttl", documents, entries), format="turtle")
    assert set(turtle) == set(rdflib.Graph().parse(data=written(".nt", documents, entries), format="nt"))


def test_graphml_holds_hostile_names_but_for_what_xml_forbids_and_counts_it(capsys):
    documents, entries = hostile()
    graph = networkx.read_graphml(io.BytesIO(written(".graphml", documents, entries)), force_multigraph=True)
    nodes, edges = expected_graph(documents, entries)

    def allowed(value):
        text = json.dumps(value, ensure_ascii=False) if isinstance(value, list) else value
        return re.sub("[\x00-\x08\x0b\x0c\x0e-\x1f\ufffe\uffff]", "\ufffd", text) if isinstance(text, str) else text

    expected = {allowed(key): {name: allowed(v) for name, v in node.items()} for key, node in nodes.items()}
    assert dict(graph.nodes(data=True)) == expected
    found = [(head, tail, properties) for head, tail, properties in graph.edges(data=True)]
    assert len(found) == len(edges)
    for head, tail, _, properties in edges:
        assert (allowed(head), allowed(tail), {name: allowed(v) for name, v in properties.items()}) in found
    assert re.search(r"^WARNING: GraphML: \d+ control characters", capsys.readouterr().err)
    written(".graphml", documents[:1], entries[:1])
    assert not capsys.readouterr().err


@pytest.mark.parametrize("ending", [".svg", ".png"])
def test_pictures_open_with_hostile_names_and_are_the_same_each_time(ending):
    documents, entries = hostile()
    picture = written(ending, documents, entries)
    assert picture == written(ending, documents, entries)
    if ending == ".svg":
        assert ET.fromstring(picture).tag == "{http://www.w3.org/2000/svg}svg"
    else:
        from matplotlib.image import imread

        assert min(imread(io.BytesIO(picture), format="png").shape[:2]) > 500


def test_a_picture_of_too_many_entities_is_refused(monkeypatch):
    monkeypatch.setattr(networks, "LARGEST_PICTURE", 2)
    with pytest.raises(UserError, match=r"at most 2 entities.*\.graphml"):
        written(".svg", [document("A", ["a"], ["b"], ["c"])], [[]])


@pytest.mark.parametrize("ending", [ending for ending in FORMS if ending not in ANNOTATED])
def test_no_documents_and_documents_without_entities_or_predictions_are_written(ending):
    lonely = [document("A", ["a"])]
    for documents in ([], [EMPTY], lonely):
        data, count = written(ending, documents, [[]] * len(documents)), len(documents) if documents is lonely else 0
        if ending == ".graphml":
            assert len(networkx.read_graphml(io.BytesIO(data))) == count
        elif ending in (".nt", ".ttl"):
            graph = rdflib.Graph().parse(data=data, format={".nt": "nt", ".ttl": "turtle"}[ending])
            assert len(list(graph.subjects(rdflib.RDF.type, TERM.Entity))) == count
        elif ending == ".cypher":
            assert len(read_cypher(data)[0]) == count
        elif ending == ".csv":
            assert data.count(b"\r\n") == 1
        elif ending in (".svg", ".png"):
            assert data.startswith((b"<?xml", b"\x89PNG"))
        else:
            assert data == (b"" if "jsonl" in ending else b"[]\n")


def test_documents_of_one_title_keep_their_own_entities():
    documents = [document("A", ["a"], ["b"]), document("A", ["c"], ["d"])]
    entries = [[entry(documents[0], 0, 1)], [entry(documents[1], 0, 1, "P20")]]
    found = Predictions(predictions(entries), {}, {}, (1, 1)).entries_by_document()
    assert found == entries
    assert read_cypher(written(".cypher", documents, found)) == expected_graph(documents, entries)


def test_the_forms_that_stream_keep_nothing_between_documents():
    for ending in (".json", ".jsonl", ".csv", ".nt", ".ttl", ".cypher"):
        sizes = []
        for count in (1, 50):
            writer = form_of(ending)(io.StringIO())
            writer.begin()
            documents = [document(f"{number}", ["a"], ["b"]) for number in range(count)]  # equal ones are one in RDF
            writer.add(documents, [[entry(doc, 0, 1)] for doc in documents])
            kept = {name: value for name, value in vars(writer).items() if name not in ("output", "rows", "module")}
            assert writer.output.tell() > 50 * count
            sizes.append({name: value if isinstance(value, int) else len(value) for name, value in kept.items()})
        assert sizes[0].pop("documents") == 1 and sizes[1].pop("documents") == 50
        assert sizes[0].pop("count", 1) == 1 and sizes[1].pop("count", 50) == 50
        assert sizes[0] == sizes[1]


# The program


@pytest.fixture(scope="module")
def outputs(trained, sample, tmp_path_factory):
    """predict.py's output for two documents of the sample, in every form: ending -> path; and "input", them."""
    folder = tmp_path_factory.mktemp("forms")
    found = {ending: folder / f"found{ending}" for ending in FORMS} | {"input": folder / "few.json"}
    found["input"].write_text(json.dumps(json.loads((sample / "test.json").read_text())[:2]))
    for ending in FORMS:
        predict.main(["--load_path", str(trained), "--input", str(found["input"]), "--output", str(found[ending])])
    return found


def test_every_form_has_the_counts_of_the_json(outputs):
    expected = json.loads(outputs[".json"].read_text())
    entities = sum(len(document["vertexSet"]) for document in json.loads(outputs["input"].read_text()))
    assert len(expected) > 10
    assert [json.loads(line) for line in outputs[".jsonl"].read_text().splitlines()] == expected
    assert gzip.decompress(outputs[".json.gz"].read_bytes()) == outputs[".json"].read_bytes()
    assert gzip.decompress(outputs[".jsonl.gz"].read_bytes()) == outputs[".jsonl"].read_bytes()
    with outputs[".csv"].open(newline="") as file:
        assert [row["r"] for row in csv.DictReader(file)] == [one["r"] for one in expected]
    graph = networkx.read_graphml(outputs[".graphml"], force_multigraph=True)
    assert (len(graph), graph.number_of_edges()) == (entities, len(expected))
    nodes, edges = read_cypher(outputs[".cypher"].read_bytes())
    assert (len(nodes), len(edges)) == (entities, len(expected))
    for ending in (".nt", ".ttl"):
        graph = rdflib.Graph().parse(outputs[ending])
        assert len(list(graph.subjects(rdflib.RDF.type, TERM.Entity))) == entities
        assert len(list(graph.subjects(rdflib.RDF.type, rdflib.RDF.Statement))) == len(expected)


def test_pictures_are_written_by_the_program(outputs):
    assert ET.parse(outputs[".svg"]).getroot().tag.endswith("svg")
    assert outputs[".png"].read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("ending", [".graphml", ".svg", ".png", ".PNG", ".ttl", ".nt"])
def test_a_missing_package_is_told_in_one_line_before_any_work(ending, tmp_path, monkeypatch):
    def missing(name):
        raise ModuleNotFoundError(name=name)

    monkeypatch.setattr(importlib, "import_module", missing)
    output = tmp_path / f"found{ending}"
    with pytest.raises(
        UserError, match=r"(networkx|rdflib) is not installed.*scripts/requirements/graph\.txt"
    ) as caught:
        predict.main(["--load_path", str(tmp_path), "--input", "no such file", "--output", str(output)])
    assert "\n" not in str(caught.value) and not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["found.xml", "found.csv.gz", "found.rdf", "found.pdf"])
def test_other_endings_are_refused(name, tmp_path):
    with pytest.raises(UserError, match=r"cannot be written as .*\.graphml or .*\.png"):
        predict.main(["--load_path", str(tmp_path), "--input", "-", "--output", str(tmp_path / name)])


def test_an_ending_in_capitals_tells_the_same_form():
    assert [form_of(name) for name in ("A.CSV", "A.JSONL", "-", "found")] == [Csv, JsonLines, JsonList, JsonList]
