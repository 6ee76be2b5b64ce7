"""The server of scripts/serve.py: its answers, its limits, and who may ask."""

import concurrent.futures
import gzip
import json
import os
import signal
import socket
import subprocess
import sys
import threading

import pytest
from conftest import ROOT
from serving import InBackground, ask, error_of, post, resident, served, served_here, wait_until

for needed in ("fastapi", "uvicorn", "python_multipart"):
    pytest.importorskip(needed, reason="scripts/requirements-serve.txt is not installed")

import serve

import predict
from hingeabl.errors import UserError
from hingeabl.files import read_json
from hingeabl.prediction import answers, server
from hingeabl.prediction.predictor import Predictor
from hingeabl.readers.formats import FORMATS
from hingeabl.writers.forms import FORMS
from prepro import all_pairs

TEXT = "Marie Curie was born in Warsaw. She married Pierre Curie in Paris in 1895."
SPANS = {"title": "S", "text": TEXT, "entities": [{"mentions": [[0, 11]], "type": "PER"}, {"mentions": [[24, 30]]}]}
PUBTATOR = "1|t|Aspirin and asthma.\n1|a|Aspirin may cause asthma.\n1\t0\t7\tAspirin\tChemical\tD1\n"
SMALL = {
    "title": "Small",
    "sents": [["Ann", "lives", "in", "Bonn", "."]],
    "vertexSet": [
        [{"name": "Ann", "sent_id": 0, "pos": [0, 1], "type": "PER"}],
        [{"name": "Bonn", "sent_id": 0, "pos": [3, 4], "type": "LOC"}],
    ],
}
opened = []  # the paths that were opened while a test looks
looking = threading.Event()
sys.addaudithook(lambda event, found: opened.append(str(found[0])) if looking.is_set() and event == "open" else None)


@pytest.fixture(scope="module")
def predictor(trained):
    return Predictor.from_run(str(trained), "cpu")


@pytest.fixture(scope="module")
def here(predictor):
    """(port, service) of one server for the tests that change nothing of it."""
    with served_here(predictor) as found:
        yield found


@pytest.fixture
def port(here):
    return here[0]


@pytest.fixture(scope="module")
def documents(sample):
    return json.loads((sample / "test.json").read_text())


@pytest.fixture
def spacy():
    return pytest.importorskip("spacy", reason="spaCy is not installed")


class Held:
    """In place of server.answer: waits until it is told to go on, and notes which bodies it was given."""

    def __init__(self, monkeypatch):
        self.go_on, self.begun = threading.Event(), []
        monkeypatch.setattr(server, "answer", self)

    def __call__(self, predictor, body, *_):
        self.begun.append(body)
        assert self.go_on.wait(60)
        return answers.Answer(body, [])


@pytest.fixture
def held(monkeypatch):
    found = Held(monkeypatch)
    yield found
    found.go_on.set()


def many(count):
    """A document of so many entities."""
    tokens = [f"N{number}" for number in range(count)]
    mentions = [[{"name": token, "sent_id": 0, "pos": [at, at + 1]}] for at, token in enumerate(tokens)]
    return {"title": f"Of {count}", "sents": [tokens], "vertexSet": mentions}


def answered(response):
    status, headers, content = response
    assert status == 200, content
    assert headers["Content-Type"] == "application/json"
    return json.loads(content)


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


@pytest.mark.parametrize("form", server.GIVEN)
def test_a_download_is_the_file_that_predict_py_writes(port, documents, trained, tmp_path, form):
    try:
        FORMS[form].need()
    except UserError as error:
        pytest.skip(str(error))
    (tmp_path / "docs.json").write_text(json.dumps(documents))
    output = tmp_path / f"found{form}"
    files = ["--input", str(tmp_path / "docs.json"), "--output", str(output)]
    predict.main(["--load_path", str(trained), *files, "--device", "cpu"])
    status, headers, content = post(port, json.dumps(documents), f"?form={form.removeprefix('.')}")
    assert status == 200 and headers["Content-Disposition"] == f'attachment; filename="predictions{form}"'
    expected = output.read_bytes()
    assert len(expected) > 100 and content == expected


def test_a_text_is_answered_with_its_tokens_and_mentions(port, spacy):
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


def test_a_text_is_the_same_as_body_as_json_as_file_and_packed(port, spacy):
    expected = answered(post(port, TEXT))
    assert len(expected["documents"][0]["vertexSet"]) > 3
    assert answered(post(port, json.dumps({"text": TEXT}))) == expected
    assert answered(post(port, json.dumps({"title": "x", "text": TEXT}))) == expected
    body, headers = multipart("any", TEXT.encode())
    assert answered(post(port, body, headers=headers)) == expected
    body = f'--B\r\nContent-Disposition: form-data; name="text"\r\n\r\n{TEXT}\r\n--B--\r\n'
    assert answered(post(port, body, headers=headers)) == expected
    assert answered(post(port, gzip.compress(TEXT.encode()))) == expected
    assert answered(post(port, TEXT.encode("utf-16"))) == expected
    assert answered(post(port, TEXT, "?format=text")) == expected


@pytest.mark.parametrize("start", ["[1] ", "{ ", '"', "- ", "# "])
def test_a_text_with_a_bracket_at_its_start_is_no_json(port, spacy, start):
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
        (gzip.compress(b"Paris" * 100)[:-20], "", "cannot be unpacked"),
        (gzip.compress(gzip.compress(b"Paris")), "", "packed twice"),
        ("Paris", "?form=exe", "none of json, jsonl"),
        ("Paris", "?form=csv.gz", "none of json, jsonl"),
        ("Paris", "?form=../csv", "none of json, jsonl"),
        ("Paris", "?format=word", "choose one of docred"),
        ("T1\tLOC 0 5\tParis", "?format=brat", "choose one of docred"),
        (json.dumps(SMALL), "?format=pubtator", "input"),
    ],
)
def test_what_cannot_be_read_is_refused_in_one_line(port, spacy, body, query, line):
    status, found = error_of(post(port, body, query))
    assert status == 400 and line in found


@pytest.mark.parametrize("parts", [0, 2])
def test_a_form_without_one_part_is_refused(port, parts):
    part = '--B\r\nContent-Disposition: form-data; name="a"; filename="a"\r\n\r\nx\r\n'
    headers = {"Content-Type": "multipart/form-data; boundary=B"}
    status, line = error_of(post(port, part * parts + "--B--\r\n", headers=headers))
    assert status == 400 and "one file" in line


@pytest.mark.parametrize(
    ("limits", "body", "line"),
    [
        ({"max_characters": 70}, TEXT, f"has {len(TEXT)} characters; the limit is 70;"),
        ({"max_characters": 29}, json.dumps([SMALL, SMALL]), "has 30 characters; the limit is 29;"),
        ({"max_documents": 2}, json.dumps([SMALL] * 3), "more than 2 documents"),
        ({"max_pairs": 19}, json.dumps(many(5)), "5 entities, and with it there are 20 pairs of entities; the limit"),
        ({"max_pairs": 3}, json.dumps([SMALL, SMALL]), "document 1 ('Small') has 2 entities"),
        ({"max_bytes": 1000}, gzip.compress(b"a " * 501), "more than 1,000 bytes when it is unpacked"),
    ],
)
def test_more_than_a_limit_is_refused_with_the_limit(predictor, spacy, limits, body, line):
    with served_here(predictor, **limits) as (port, _):
        status, found = error_of(post(port, body))
    assert status == 400 and line in found


def test_exactly_the_limits_are_answered(predictor, spacy):
    body = json.dumps([SMALL, SMALL])
    characters = 2 * sum(map(len, SMALL["sents"][0]))
    limits = {"max_bytes": len(body), "max_documents": 2, "max_pairs": 4, "max_characters": characters}
    with served_here(predictor, **limits) as (port, _):
        answered(post(port, body))
        answered(post(port, gzip.compress(body.encode())))
        answered(post(port, "a" * characters))


def started(port, head):
    """A connection on which the head of a POST was sent."""
    connection = socket.create_connection(("127.0.0.1", port), timeout=30)
    connection.sendall(f"POST /api/predict HTTP/1.1\r\nHost: localhost\r\n{head}\r\n\r\n".encode())
    return connection


def told(connection):
    """What the server sends until the end of the JSON, after which it may wait."""
    found = b""
    while not found.endswith(b"}"):
        found += connection.recv(4096) or pytest.fail(f"the server hangs up after {found}")
    return found.decode()


def test_a_body_that_is_told_to_be_too_long_is_not_waited_for(predictor):
    with served_here(predictor, max_bytes=1000) as (port, _), started(port, "Content-Length: 1001") as connection:
        line = told(connection)
        assert line.startswith("HTTP/1.1 413 ") and "more than 1,000 bytes" in line


def test_a_body_without_a_length_is_read_no_further_than_the_limit(predictor):
    with (
        served_here(predictor, max_bytes=10_000) as (port, service),
        started(port, "Transfer-Encoding: chunked") as connection,
    ):
        piece = b"1000\r\n" + b"a" * 4096 + b"\r\n"
        for _ in range(3):
            connection.sendall(piece)
        line = told(connection)
        assert line.startswith("HTTP/1.1 413 ") and "more than 10,000 bytes" in line
        with pytest.raises(OSError):
            while True:  # the server hangs up at last
                connection.sendall(piece)
        assert service.taken == 0


def test_a_client_that_sends_on_still_gets_the_refusal(predictor):
    with served_here(predictor, max_bytes=1000) as (port, _):
        for body in (b"a" * 5_000_000, iter([b"a" * 10_000] * 500)):
            assert error_of(post(port, body))[0] == 413


def test_a_body_that_does_not_come_frees_its_place(predictor):
    with (
        served_here(predictor, timeout=0.3, max_waiting=1) as (port, service),
        started(port, "Content-Length: 100") as connection,
    ):
        connection.sendall(b"a" * 10)
        assert told(connection).startswith("HTTP/1.1 504 ")
        assert service.taken == 0


def test_no_path_of_a_request_is_opened(port, spacy, tmp_path):
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


def test_who_finds_the_queue_full_is_told_and_the_others_are_answered(predictor, held):
    with served_here(predictor, max_waiting=2) as (port, service):
        waiting = [InBackground(port, f"body {number}") for number in range(3)]
        wait_until(lambda: service.taken == 3)
        status, headers, content = post(port, "one more")
        assert (status, headers["Retry-After"]) == (503, "5")
        assert "busy: 2 other requests are waiting; try again" in json.loads(content)["error"]
        held.go_on.set()
        assert sorted(request.wait()[2] for request in waiting) == [b"body 0", b"body 1", b"body 2"]
        assert post(port, "again")[2] == b"again" and b"one more" not in held.begun


def test_a_full_queue_is_told_before_the_body_is_read(predictor, held):
    with served_here(predictor, max_waiting=1) as (port, service):
        waiting = [InBackground(port, "body") for _ in range(2)]
        wait_until(lambda: service.taken == 2)
        with started(port, "Content-Length: 100") as connection:
            assert told(connection).startswith("HTTP/1.1 503 ")
        held.go_on.set()
        assert [request.wait()[0] for request in waiting] == [200, 200]


def test_what_waits_too_long_is_given_up_and_never_begun(predictor, held):
    with served_here(predictor, timeout=0.5) as (port, service):
        first = InBackground(port, "first")
        wait_until(lambda: held.begun)
        second = InBackground(port, "second")
        for request in (first, second):
            status, line = error_of(request.wait())
            assert status == 504 and "no answer within 0.5 seconds" in line
        assert not service.worker.waiting and service.taken == 0
        held.go_on.set()
        assert post(port, "third")[2] == b"third" and held.begun == [b"first", b"third"]


def test_what_nobody_waits_for_any_more_is_never_begun(predictor, held):
    with served_here(predictor) as (port, service):
        first = InBackground(port, "first")
        wait_until(lambda: held.begun)
        with started(port, "Content-Length: 6") as connection:
            connection.sendall(b"second")
            wait_until(lambda: service.worker.waiting)
        wait_until(lambda: not service.worker.waiting and service.taken == 1)
        held.go_on.set()
        assert first.wait()[0] == 200 and held.begun == [b"first"]


def test_an_error_of_the_program_is_printed_and_the_next_request_answered(predictor, monkeypatch, capfd):
    def fails(*_):
        raise ZeroDivisionError("of the test")

    with served_here(predictor) as (port, service):
        with monkeypatch.context() as patched:
            patched.setattr(server, "answer", fails)
            status, line = error_of(post(port, "x"))
        assert status == 500 and "of the test" not in line
        assert len(answered(post(port, json.dumps(SMALL)))["documents"]) == 1 and service.taken == 0
    assert "ZeroDivisionError: of the test" in capfd.readouterr().err


def test_warnings_reach_the_one_who_asked(port):
    doubtful = {**SMALL, "vertexSet": [[{**SMALL["vertexSet"][0][0], "name": "Eve"}], []]}
    [names, empty] = sorted(answered(post(port, json.dumps(doubtful)))["warnings"], reverse=True)
    assert "input: 1 of 1 mentions (100.0%) have a name that is not the text" in empty + names
    assert "1 entities have no mention" in empty + names
    assert answered(post(port, json.dumps(SMALL)))["warnings"] == []
    status, headers, _ = post(port, json.dumps(doubtful), "?form=csv")
    assert status == 200 and sorted(json.loads(headers["X-Warnings"]), reverse=True) == [names, empty]


def test_a_document_that_is_cut_is_told(port):
    long = {**SMALL, "sents": [["word"] * 2000], "vertexSet": [[{"name": "word", "sent_id": 0, "pos": [1990, 1991]}]]}
    [line] = answered(post(port, json.dumps(long)))["warnings"]
    assert "1 documents are longer than the" in line and "1 mentions are lost" in line


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


def test_a_text_leaves_nothing_behind_in_spacys_memory_nor_numbers_of_entities_in_ours(port, spacy):
    from hingeabl.readers.text import load_spacy

    answered(post(port, TEXT))
    vocab = load_spacy().vocab
    before = len(vocab.strings), sum(1 for _ in vocab)
    for number in range(5):
        answered(post(port, " ".join(f"Qzx{number}w{word}" for word in range(200))))
    assert (len(vocab.strings), sum(1 for _ in vocab)) == before
    answered(post(port, json.dumps(many(30))))
    assert all_pairs.cache_info().currsize == 0


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Host": "localhost:1"}, 200),
        ({"Host": "LOCALHOST"}, 200),
        ({"Host": "192.168.1.1:8000"}, 200),
        ({"Host": "[::1]:8000"}, 200),
        ({"Host": "evil.example"}, 403),
        ({"Host": "localhost.evil.example"}, 403),
        ({"Host": "127.0.0.1.evil.example:8000"}, 403),
        ({"Host": "[::1"}, 403),
        ({"Host": ""}, 403),
        ({"Host": "localhost:1", "Origin": "http://localhost:1"}, 200),
        ({"Host": "localhost:1", "Origin": "http://localhost:2"}, 403),
        ({"Host": "localhost:1", "Origin": "http://evil.example"}, 403),
        ({"Host": "localhost:1", "Origin": "http://[evil"}, 403),
        ({"Host": "localhost:1", "Origin": "null"}, 403),
        ({"Host": "localhost:1", "Origin": ""}, 403),
    ],
)
def test_foreign_names_and_pages_are_refused(port, headers, status):
    found, _, content = post(port, json.dumps(SMALL), headers=headers)
    assert found == status and ("error" in json.loads(content)) == (status == 403)


def test_a_foreign_name_does_not_even_get_the_page(port):
    assert ask(port, "GET", "/", headers={"Host": "evil.example"})[0] == 403
    assert ask(port, "GET", "/", headers={"Origin": "http://evil.example"})[0] == 200  # a link


def test_the_page_asks_for_nothing_elsewhere(port):
    for path, kind in (("/", "text/html"), ("/serve.css", "text/css"), ("/serve.js", "text/javascript")):
        status, headers, content = ask(port, "GET", path)
        assert status == 200 and headers["Content-Type"] == f"{kind}; charset=utf-8"
        assert "default-src 'none'" in headers["Content-Security-Policy"]
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert b"//" not in content.replace(b"http://www.w3.org/2000/svg", b"").replace(b"// ", b"")
    assert error_of(ask(port, "GET", "/docs")) == (404, "Not Found")
    assert error_of(ask(port, "GET", "/api/predict")) == (405, "Method Not Allowed")


def test_a_port_in_use_is_told_in_one_line(trained):
    with serve.listening("127.0.0.1", 0) as taken:
        port = str(taken.getsockname()[1])
        program = [sys.executable, str(ROOT / "scripts" / "serve.py"), "--load_path", str(trained), "--port", port]
        found = subprocess.run(program, capture_output=True, text=True, timeout=120)
    assert (found.returncode, found.stdout) == (2, "")
    assert found.stderr == f"error: --port {port}: is in use; name another one\n"


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["--load_path", "nowhere"], "nowhere"),
        (["--load_path", "x", "--host", "no.such.host.invalid"], "--host no.such.host.invalid --port 0: cannot be"),
        (["--load_path", "x", "--host", "192.0.2.1"], "--host 192.0.2.1 --port 0: cannot be listened on"),
        (["--load_path", str(ROOT / "README.md")], "README.md: is a file; pass the seed's folder"),
    ],
)
def test_what_cannot_be_served_is_told_in_one_line(arguments, line):
    with pytest.raises(UserError) as error:
        serve.main(["--port", "0", *arguments])
    assert line in str(error.value)


@pytest.mark.parametrize("option", ["--port 70000", "--port x", "--max_bytes 0", "--timeout 0", "--max_waiting -1"])
def test_wrong_options_are_named(option, capsys):
    with pytest.raises(SystemExit) as end:
        serve.main(["--load_path", "x", *option.split()])
    assert end.value.code == 2 and f"error: argument {option.split()[0]}: " in capsys.readouterr().err


@pytest.mark.parametrize("package", serve.PACKAGES)
def test_a_missing_package_is_named_with_the_command(monkeypatch, package):
    monkeypatch.setitem(sys.modules, package, None)
    name = package.replace("_", "-")
    with pytest.raises(
        UserError, match=rf"^{name} is not installed, .*pip install -r scripts/requirements-serve\.txt$"
    ):
        serve.main(["--load_path", "runs/x"])


def test_ctrl_c_ends_it_quietly_while_requests_wait(trained, documents):
    with served(trained) as (port, process):
        assert post(port, json.dumps(SMALL))[0] == 200
        os.kill(process.pid, signal.SIGINT)
        output = process.communicate(timeout=30)
    assert process.returncode == 0 and output == ("", "")


def test_the_network_is_warned_of(trained):
    with served(trained, "--host", "0.0.0.0") as (port, process):
        assert post(port, json.dumps(SMALL))[0] == 200
        os.kill(process.pid, signal.SIGINT)
        output = process.communicate(timeout=30)
    assert output[1].startswith("WARNING: --host 0.0.0.0: whoever reaches this machine")


@pytest.mark.slow
def test_eight_clients_lose_nothing_and_memory_is_bounded(trained, documents):
    pytest.importorskip("spacy")
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
