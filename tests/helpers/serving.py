"""Servers for the tests: in this process, or as a process of their own, on a free port, ended at the end."""

import contextlib
import http.client
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time

from conftest import ROOT

TEXT = "Marie Curie was born in Warsaw. She married Pierre Curie in Paris in 1895."
SMALL = {
    "title": "Small",
    "sents": [["Ann", "lives", "in", "Bonn", "."]],
    "vertexSet": [
        [{"name": "Ann", "sent_id": 0, "pos": [0, 1], "type": "PER"}],
        [{"name": "Bonn", "sent_id": 0, "pos": [3, 4], "type": "LOC"}],
    ],
}


def post(port, body, query="", headers=None, timeout=120):
    """(status, headers, content) of POST /api/predict."""
    return ask(port, "POST", f"/api/predict{query}", body, headers, timeout)


def ask(port, method, path, body=None, headers=None, timeout=120):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=timeout)
    try:
        connection.request(method, path, body, headers or {})
        response = connection.getresponse()
        return response.status, response.headers, response.read()
    finally:
        connection.close()


def error_of(response):
    """The status and the line of a refusal, which is nothing but that line."""
    status, _, content = response
    [(field, line)] = json.loads(content).items()
    assert field == "error" and "\n" not in line
    return status, line


def answered(response):
    """The JSON of an answer."""
    status, headers, content = response
    assert status == 200, content
    assert headers["Content-Type"] == "application/json"
    return json.loads(content)


def many(count):
    """A document of so many entities."""
    tokens = [f"N{number}" for number in range(count)]
    mentions = [[{"name": token, "sent_id": 0, "pos": [at, at + 1]}] for at, token in enumerate(tokens)]
    return {"title": f"Of {count}", "sents": [tokens], "vertexSet": mentions}


class InBackground:
    """A request that goes on beside the test; `response` is None until it is answered."""

    def __init__(self, port, body, query=""):
        self.response = None
        self.thread = threading.Thread(target=self.run, args=(port, body, query), daemon=True)
        self.thread.start()

    def run(self, *request):
        self.response = post(*request)

    def wait(self):
        self.thread.join(60)
        assert self.response is not None
        return self.response


def wait_until(condition):
    for _ in range(600):
        if condition():
            return
        time.sleep(0.02)
    raise AssertionError("that does not come about")


@contextlib.contextmanager
def served_here(predictor, **limits):
    """(port, service) of a server in this process."""
    import uvicorn
    from serve import listening

    from hingeabl.prediction.answers import Limits
    from hingeabl.prediction.server import make_app

    app = make_app(predictor, Limits(**limits))
    config = uvicorn.Config(app, log_level="warning", access_log=False, timeout_graceful_shutdown=1)
    server = uvicorn.Server(config)
    with listening("127.0.0.1", 0) as place:
        thread = threading.Thread(target=server.run, kwargs={"sockets": [place]})
        thread.start()
        try:
            yield place.getsockname()[1], app.state.service
        finally:
            server.should_exit = True
            thread.join(30)
    assert not thread.is_alive() and not app.state.service.worker.thread.is_alive()


@contextlib.contextmanager
def served(run, *options, **more):
    """(port, process) of scripts/serve.py."""
    command = [sys.executable, str(ROOT / "scripts" / "serve.py"), "--load_path", str(run), "--port", "0", *options]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    process = subprocess.Popen(command, env=environment, start_new_session=True, **pipes, **more)
    try:
        line = process.stdout.readline()
        found = re.match(r"http://\S+:(\d+)/ answers", line)
        assert found, line + process.stderr.read()
        yield int(found[1]), process
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate(timeout=30)


def resident(process):
    """The process's memory, in MiB."""
    with open(f"/proc/{process.pid}/status", encoding="utf-8") as file:
        return int(re.search(r"VmRSS:\s+(\d+)", file.read())[1]) / 1024
