"""The server of scripts/serve.py: its limits, its queue, who may ask, and its start and end."""

import gzip
import json
import os
import signal
import socket
import sys
import threading

import pytest
from conftest import ROOT
from programs import ended
from serving import SMALL, TEXT, InBackground, answered, ask, error_of, many, post, served, served_here, wait_until

for needed in ("fastapi", "uvicorn", "python_multipart"):
    pytest.importorskip(needed, reason="scripts/requirements/serve.txt is not installed")

import serve

from hingeabl.errors import UserError
from hingeabl.prediction import answers, server


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


@pytest.mark.parametrize(
    ("limits", "body", "line"),
    [
        ({"max_characters": 70}, TEXT, f"has {len(TEXT)} characters; the limit is 70;"),
        ({"max_characters": 29}, json.dumps([SMALL, SMALL]), "has 30 characters; the limit is 29;"),
        ({"max_documents": 2}, json.dumps([SMALL] * 3), "more than 2 documents"),
        ({"max_pairs": 19}, json.dumps(many(5)), "5 entities, and with it there are 20 pairs of entities; the limit"),
        ({"max_pairs": 3}, json.dumps([SMALL, SMALL]), "document 1 ('Small') has 2 entities"),
        (  # what the model computes is of all entities up to the last one in a pair
            {"max_pairs": 19},
            json.dumps(many(5) | {"pairs": [[0, 4]]}),
            "5 entities, and with it there are 20 pairs of entities; the limit",
        ),
        ({"max_bytes": 1000}, gzip.compress(b"a " * 501, mtime=0), "more than 1,000 bytes when it is unpacked"),
    ],
)
def test_more_than_a_limit_is_refused_with_the_limit(predictor, limits, body, line):
    with served_here(predictor, **limits) as (port, _):
        status, found = error_of(post(port, body))
    assert status == 400 and line in found


def test_a_picture_of_too_much_is_refused_and_graphml_is_not(predictor):
    pytest.importorskip("networkx")
    count = 2 + len(predictor(SMALL))
    for limit, status in ((count - 1, 400), (count, 200)):
        with served_here(predictor, max_drawn=limit) as (port, _):
            assert post(port, json.dumps(SMALL), "?form=svg")[0] == status
            assert post(port, json.dumps(SMALL), "?form=graphml")[0] == 200


def test_exactly_the_limits_are_answered(predictor):
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
        with pytest.raises((ConnectionResetError, BrokenPipeError)):
            while True:  # the server hangs up at last
                connection.sendall(piece)
        assert service.taken == 0


def test_a_client_that_sends_on_still_gets_the_refusal(predictor, monkeypatch):
    monkeypatch.setattr("hingeabl.prediction.guard.DRAIN_SECONDS", 30.0)  # server and client are one process here
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


def test_who_came_first_is_answered_first(predictor, held):
    with served_here(predictor) as (port, service):
        waiting = []
        for number in range(4):
            waiting.append(InBackground(port, str(number)))
            wait_until(lambda: len(held.begun) + len(service.worker.waiting) == len(waiting))
        held.go_on.set()
        assert [request.wait()[0] for request in waiting] == [200] * 4
        assert held.begun == [b"0", b"1", b"2", b"3"]


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


def test_a_port_in_use_is_told_in_one_line(trained, capsys):
    with serve.listening("127.0.0.1", 0) as taken:
        port = taken.getsockname()[1]
        found = ended(capsys, serve.main, "--load_path", trained, "--port", port)
    assert found == (2, "", f"error: --port {port}: is in use; name another one\n")


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
        UserError, match=rf"^{name} is not installed, .*pip install -r scripts/requirements/serve\.txt$"
    ):
        serve.main(["--load_path", "runs/x"])


def ended_by_ctrl_c(trained, *options):
    """(exit status, standard output, standard error) of a server that is ended while a request goes on."""
    with served(trained, *options) as (port, process), started(port, "Content-Length: 100") as connection:
        assert post(port, json.dumps(SMALL))[0] == 200
        os.kill(process.pid, signal.SIGINT)
        output = process.communicate(timeout=30)
        assert "the server has been ended" in told(connection)
    return process.returncode, *output


@pytest.mark.slow
def test_the_network_is_warned_of_and_ctrl_c_ends_it_quietly_even_if_a_request_goes_on(trained):
    status, shown, warned = ended_by_ctrl_c(trained, "--host", "0.0.0.0")
    assert (status, shown, warned.count("\n")) == (0, "", 1)
    assert warned.startswith("WARNING: --host 0.0.0.0: whoever reaches this machine")


@pytest.mark.slow
def test_on_this_machine_alone_nothing_is_warned_of(trained):
    assert ended_by_ctrl_c(trained) == (0, "", "")
