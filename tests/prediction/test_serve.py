"""The server of scripts/serve.py: what it answers to texts and files."""

import concurrent.futures
import gzip
import json
import sys
import threading

import pytest
from serving import SMALL, TEXT, answered, ask, error_of, post, resident, served, served_here

for needed in ("fastapi", "uvicorn", "python_multipart"):
    pytest.importorskip(needed, reason="scripts/requirements/serve.txt is not installed")

import predict
from hingeabl.errors import UserError
from hingeabl.files import read_json
from hingeabl.prediction import server
from hingeabl.prediction.predictor import Predictor
from hingeabl.readers.any_format import FORMATS
from hingeabl.writers.by_extension import FORMS
from hingeabl.writers.networks import Picture

SPANS = {"title": "S", "text": TEXT, "entities": [{"mentions": [[0, 11]], "type": "PER"}, {"mentions": [[24, 30]]}]}
PUBTATOR = "1|t|Aspirin and asthma.\n1|a|Aspirin may cause asthma.\n1\t0\t7\tAspirin\tChemical\tD1\n"
opened = []  # the paths that were opened while a test looks
looking = threading.Event()
sys.addaudithook(lambda event, found: opened.append(str(found[0])) if looking.is_set() and event == "open" else None)


@pytest.fixture(scope="module")
def documents(sample):
    return json.loads((sample / "test.json").read_text())


def test_documents_get_the_predictions_of_the_runs_evaluation(port, documents, trained):
    found = answered(post(port, json.dumps(documents)))
    assert [document["title"] for document in found["documents"]] == [document["title"] for document in documents]
    for shown, document in zip(found["documents"], documents, strict=True):
        assert shown["sents"] == document["sents"] and shown["vertexSet"] == document["vertexSet"]
    entries = [entry for document in found["documents"] for entry in document["predictions"]]
    expected = read_json(trained / "result.json")
    assert len(expected) > 10
    assert [{field: entry[field] for field in expected[0]} for entry in entries] == expected
    assert all(entry["margin"] > 0 and entry["relation"] for entry in entries)


@pytest.mark.parametrize("form", server.OFFERED_EXTENSIONS)
def test_a_download_is_the_file_that_predict_py_writes(port, documents, trained, tmp_path, form):
    try:
        FORMS[form].need()
    except UserError as error:
        pytest.skip(str(error))
    documents = [SMALL, SMALL] if issubclass(FORMS[form], Picture) else documents
    (tmp_path / "docs.json").write_text(json.dumps(documents))
    output = tmp_path / f"found{form}"
    files = ["--input", str(tmp_path / "docs.json"), "--output", str(output)]
    predict.main(["--load_path", str(trained), *files, "--device", "cpu"])
    status, headers, content = post(port, json.dumps(documents), f"?form={form.removeprefix('.')}")
    assert status == 200 and headers["Content-Disposition"] == f'attachment; filename="predictions{form}"'
    expected = output.read_bytes()
    assert len(expected) > 100 and content == expected


def test_a_text_is_answered_with_its_tokens_and_mentions(port):
    [document] = answered(post(port, TEXT))["documents"]
    assert document["sents"][0][:5] == ["Marie", "Curie", "was", "born", "in"]
    names = set()
    for mention in (mention for mentions in document["vertexSet"] for mention in mentions):
        start, end = mention["pos"]
        assert " ".join(document["sents"][mention["sent_id"]][start:end]) == mention["name"]
        names.add(mention["name"])
    assert {"Marie Curie", "Warsaw", "Paris"} <= names


def multipart(name, content, filename="x.txt"):
    head = f'--B\r\nContent-Disposition: form-data; name="{name}"; filename="{filename}"\r\n\r\n'
    return head.encode() + content + b"\r\n--B--\r\n", {"Content-Type": "multipart/form-data; boundary=B"}


def test_a_text_is_the_same_as_body_as_json_as_file_and_packed(port):
    expected = answered(post(port, TEXT))
    assert len(expected["documents"][0]["vertexSet"]) > 3
    assert answered(post(port, json.dumps({"text": TEXT}))) == expected
    assert answered(post(port, json.dumps({"title": None, "text": TEXT}))) == expected
    titled = json.dumps(answered(post(port, json.dumps({"title": "x", "text": TEXT}))))
    assert titled == json.dumps(expected).replace('"title": "input"', '"title": "x"') != json.dumps(expected)
    body, headers = multipart("any", TEXT.encode())
    assert answered(post(port, body, headers=headers)) == expected
    body = f'--B\r\nContent-Disposition: form-data; name="text"\r\n\r\n{TEXT}\r\n--B--\r\n'
    assert answered(post(port, body, headers=headers)) == expected
    assert answered(post(port, gzip.compress(TEXT.encode()))) == expected
    assert answered(post(port, TEXT.encode("utf-16"))) == expected
    assert answered(post(port, TEXT, "?format=text")) == expected


@pytest.mark.parametrize("start", ["[1] ", "{ ", '"', "- ", "# "])
def test_a_text_with_a_bracket_at_its_start_is_no_json(port, start):
    [document] = answered(post(port, start + TEXT))["documents"]
    assert "Warsaw" in [mentions[0]["name"] for mentions in document["vertexSet"]]


@pytest.mark.parametrize(
    ("body", "title", "names"),
    [
        (json.dumps(SMALL), "Small", ["Ann", "Bonn"]),
        (json.dumps([SMALL], indent=2), "Small", ["Ann", "Bonn"]),
        (json.dumps(SPANS), "S", ["Marie Curie", "Warsaw"]),
        (PUBTATOR, "1", ["Aspirin"]),
    ],
)
def test_formats_are_recognised(port, body, title, names):
    [document] = answered(post(port, body))["documents"]
    assert document["title"] == title and [mentions[0]["name"] for mentions in document["vertexSet"]] == names


@pytest.mark.parametrize(
    ("body", "query", "line"),
    [
        ("", "", "is empty"),
        (" \n", "", "is empty"),
        ("[]", "", "holds no documents"),
        ('[{"title": 1}]', "", "input: document 0: title"),
        ('{"text": 5}', "", "input: document 0"),
        ('{"text": "\\ud800"}', "", "half of a character"),
        ('{"sents": [', "", "broken JSON"),
        (json.dumps(SMALL)[:-1], "", "broken JSON"),
        (json.dumps({**SPANS, "entities": [5]}), "", "entities[0]"),
        ("<!DOCTYPE html><p>x", "", "is a web page"),
        (b"PK\x03\x04\xff", "", "zip archive"),
        (b"caf\xe9 in Paris", "", "not UTF-8"),
        (gzip.compress(b"Paris" * 100, mtime=0)[:-20], "", "cannot be unpacked"),
        (gzip.compress(gzip.compress(b"Paris", mtime=0), mtime=0), "", "packed twice"),
        ("Paris", "?form=exe", "none of json, jsonl"),
        ("Paris", "?form=csv.gz", "none of json, jsonl"),
        ("Paris", "?form=../csv", "none of json, jsonl"),
        ("Paris", "?format=word", "choose one of docred"),
        ("T1\tLOC 0 5\tParis", "?format=brat", "choose one of docred"),
        (json.dumps(SMALL), "?format=pubtator", "input"),
    ],
)
def test_what_cannot_be_read_is_refused_in_one_line(port, body, query, line):
    status, found = error_of(post(port, body, query))
    assert status == 400 and line in found


@pytest.mark.parametrize("parts", [0, 2])
def test_a_form_without_one_part_is_refused(port, parts):
    part = '--B\r\nContent-Disposition: form-data; name="a"; filename="a"\r\n\r\nx\r\n'
    headers = {"Content-Type": "multipart/form-data; boundary=B"}
    status, line = error_of(post(port, part * parts + "--B--\r\n", headers=headers))
    assert status == 400 and "one file" in line


def test_no_path_of_a_request_is_opened(port, tmp_path):
    for ending, content in (("txt", "Secret Rome"), ("ann", "T1\tLOC 7 11\tRome\n"), ("json", json.dumps(SMALL))):
        (tmp_path / f"secret.{ending}").write_text(content)
    requests = []
    for ending in ("txt", "ann", "json", "gz"):
        path = f"{tmp_path}/secret.{ending}"
        form, headers = multipart("file", TEXT.encode(), filename=path)
        requests += [(form, "", headers), (form, "?format=brat", headers), (path, "", {}), (f"file://{path}", "", {})]
        requests += [(json.dumps({"text": TEXT, "title": path, "path": path, "file": path}), "", {})]
        requests += [(TEXT, f"?format={kind}&name={path}&file={path}&path={path}", {}) for kind in FORMATS]
        requests += [(TEXT, f"?form={path}", {}), (TEXT, f"?form=/../{ending}", {})]
    opened.clear()
    looking.set()
    try:
        contents = [post(port, body, query, headers)[2] for body, query, headers in requests]
        contents += [
            ask(port, "GET", path)[2] for path in (f"/{tmp_path}/secret.txt", "/../serve.py", "/%2e%2e/serve.py")
        ]
    finally:
        looking.clear()
    assert not [path for path in opened if str(tmp_path) in path or "secret" in path or "serve.py" in path]
    assert len(contents) > 40 and not [content for content in contents if b"Secret Rome" in content]


def test_many_at_once_get_their_own_answers(port, documents):
    bodies = [json.dumps({**document, "title": f"own {number}"}) for number, document in enumerate(documents * 2)]
    alone = [answered(post(port, body)) for body in bodies]
    assert len({json.dumps(found) for found in alone}) == len(bodies) == 10
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda body: answered(post(port, body)), bodies * 4))
    assert found == alone * 4


def test_warnings_reach_the_one_who_asked(port):
    doubtful = {**SMALL, "vertexSet": [[{**SMALL["vertexSet"][0][0], "name": "Eve"}], []]}
    [names, empty] = sorted(answered(post(port, json.dumps(doubtful)))["warnings"], reverse=True)
    assert "input: 1 of 1 mentions (100.0%) have a name that is not the text" in empty + names
    assert "1 entities have no mention" in empty + names
    assert answered(post(port, json.dumps(SMALL)))["warnings"] == []
    status, headers, _ = post(port, json.dumps(doubtful), "?form=csv")
    assert status == 200 and sorted(json.loads(headers["X-Warnings"]), reverse=True) == [names, empty]


def test_a_document_is_cut_and_told_only_where_that_is_asked_for(port, trained):
    long = {**SMALL, "sents": [["word"] * 2000], "vertexSet": [[{"name": "word", "sent_id": 0, "pos": [1990, 1991]}]]}
    assert answered(post(port, json.dumps(long)))["warnings"] == []
    with served_here(Predictor.from_run(str(trained), "cpu", max_seq_length=1024)) as (port_that_cuts, _):
        [line] = answered(post(port_that_cuts, json.dumps(long)))["warnings"]
    assert "input: 1 of 1 documents are longer than max_seq_length" in line and "1 of 1 mentions are lost" in line


def test_what_is_told_once_more_for_a_file_is_told_in_its_header(port):
    pytest.importorskip("networkx")
    strange = json.dumps({**SMALL, "title": "a\u0001b"})
    assert answered(post(port, strange))["warnings"] == []
    _, headers, _ = post(port, strange, "?form=graphml")
    [line] = json.loads(headers["X-Warnings"])
    assert line.startswith("GraphML: ") and "control characters" in line


def test_warnings_of_a_strange_title_cannot_end_the_header(port):
    doubtful = {
        **SMALL,
        "title": "a\r\nSet-Cookie: x=1\u2028é",
        "vertexSet": [[{**SMALL["vertexSet"][0][0], "name": "Eve"}]],
    }
    _, headers, _ = post(port, json.dumps(doubtful), "?form=csv")
    assert "Set-Cookie" in json.loads(headers["X-Warnings"])[0] and headers["Set-Cookie"] is None


def test_a_text_leaves_nothing_behind_in_spacys_memory(trained, spacy):
    from hingeabl.prediction.answers import Limits, answer
    from hingeabl.readers.text import MODELS, load_spacy

    predictor = Predictor.from_run(trained, "cpu", text_model=MODELS[0])
    answer(predictor, TEXT.encode(), None, None, Limits())
    vocab = load_spacy(MODELS[0]).vocab
    before = len(vocab.strings), sum(1 for _ in vocab)
    for number in range(5):
        body = " ".join(f"Qzx{number}w{word}" for word in range(200))
        answer(predictor, body.encode(), None, None, Limits())
    assert (len(vocab.strings), sum(1 for _ in vocab)) == before


@pytest.mark.slow
def test_eight_clients_lose_nothing_and_memory_is_bounded(trained, documents):
    bodies = [json.dumps({**document, "title": f"own {number}"}) for number, document in enumerate(documents)]
    bodies += [f"{TEXT} Her friend Zora{number} lived in Rome." for number in range(15)]
    forms = ["", "?form=csv", "?form=json"]
    requests = [(body, form) for body in bodies for form in forms]
    with served(trained) as (port, process):
        alone = [post(port, *request) for request in requests]
        assert {status for status, _, _ in alone} == {200}
        before = resident(process)
        numbers = [number % len(requests) for number in range(200)]
        with concurrent.futures.ThreadPoolExecutor(8) as pool:
            found = list(pool.map(lambda number: post(port, *requests[number]), numbers))
        after = resident(process)
        assert len(found) == 200
        for number, (status, _, content) in zip(numbers, found, strict=True):
            assert (status, content) == (200, alone[number][2])
        with concurrent.futures.ThreadPoolExecutor(8) as pool:  # words that were never seen before
            texts = [" ".join(f"Qx{number}v{word}" for word in range(200)) for number in range(40)]
            assert {status for status, _, _ in pool.map(lambda text: post(port, text), texts)} == {200}
        strange = resident(process)
        print(f"MiB: {before:.0f} before, {after:.0f} after, {strange:.0f} after strange words")
        assert after - before < 50 and strange - before < 100


@pytest.mark.parametrize(
    ("query", "told"),
    [
        ("?from=csv", "parameter from: is none of form, format"),
        ("?form=csv&form=json", "parameter form: is there twice"),
    ],
)
def test_a_parameter_that_would_not_be_looked_at_is_refused(port, query, told):
    status, line = error_of(post(port, json.dumps(SMALL), query))
    assert (status, line) == (400, f"{told}; correct the address")


def test_a_pdf_is_no_plain_text(port):
    status, line = error_of(post(port, b"%PDF-1.7 some text"))
    assert (status, line) == (400, "input: is a PDF, not its text; save the text as a .txt file")
