"""A small model hub on loopback: as much of it as huggingface_hub asks for to publish a model and to load one.

It keeps models in memory, each a list of commits. A request with another token than TOKEN is answered as the hub
answers one without a token: a private model is not there, and nothing can be written.
"""

import base64
import contextlib
import hashlib
import json
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

TOKEN = "hf_of_tests"
LICENSES = ("mit", "apache-2.0", "other")


@dataclass
class Model:
    """A model's visibility and commits (hash, its files by name); branches and tags name commits."""

    private: bool = False
    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    revisions: dict[str, str] = field(default_factory=dict)

    def commit(self, files):
        """Add a commit with these files beside the last one's, as main; returns its hash."""
        files = {**self.commits.get(self.revisions.get("main"), {}), **files}
        commit = hashlib.sha1(repr((len(self.commits), sorted(files))).encode()).hexdigest()
        self.commits[commit] = files
        self.revisions["main"] = commit
        return commit


class Hub(ThreadingHTTPServer):
    """The stand-in: `models` by name, `requests` as (method, path), and `fail`, a status that answers everything."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Answer)
        self.models, self.uploads, self.requests, self.fail = {}, {}, [], None
        self.address = f"http://127.0.0.1:{self.server_port}"

    def add(self, name, folder, private=False):
        """A model with the files of a folder."""
        self.models[name] = Model(private)
        files = {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
        return self.models[name].commit(files)


@contextlib.contextmanager
def started_hub():
    """A hub that answers within the block."""
    hub = Hub()
    thread = threading.Thread(target=hub.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        hub.shutdown()
        hub.server_close()
        thread.join()


class Answer(BaseHTTPRequestHandler):
    """One request."""

    protocol_version = "HTTP/1.1"
    server: Hub

    def log_message(self, *_):
        pass

    def do_GET(self):
        self.answer()

    do_HEAD = do_POST = do_PUT = do_GET

    def answer(self):
        path = unquote(urlsplit(self.path).path)
        self.body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if path != "/api/agent-harnesses":  # some versions of the client ask for it first
            self.server.requests.append((self.command, path))
        if self.server.fail:
            return self.send(self.server.fail, {"error": "as the test wants it"})
        parts = path.strip("/").split("/")
        if path == "/api/repos/create":
            return self.create(json.loads(self.body))
        if path == "/api/validate-yaml":
            return self.validate(json.loads(self.body)["content"])
        if parts[0] == "lfs":
            self.server.uploads[parts[1]] = self.body
            return self.send(200, {})
        of_api = parts[:2] == ["api", "models"]
        owner, name, *rest = parts[2:] if of_api else parts
        model = self.server.models.get(f"{owner}/{name.removesuffix('.git')}")
        if model is None or (model.private and not self.has_token()):
            return self.send(404 if self.has_token() else 401, {"error": "not found"}, {"X-Error-Code": "RepoNotFound"})
        return self.of_model(model, f"{owner}/{name}", rest)

    def of_model(self, model, name, rest):
        action, *more = rest or ["revision"]
        if action == "preupload":
            files = json.loads(self.body)["files"]
            modes = [(file["path"], "lfs" if file["path"].endswith(".safetensors") else "regular") for file in files]
            return self.send(
                200, {"files": [{"path": p, "uploadMode": mode, "shouldIgnore": False} for p, mode in modes]}
            )
        if action == "info":  # lfs/objects/batch
            objects = json.loads(self.body)["objects"]
            for file in objects:
                file["actions"] = {"upload": {"href": f"{self.server.address}/lfs/{file['oid']}"}}
            return self.send(200, {"transfer": "basic", "objects": objects})
        if action == "commit":
            return self.commit(model, name)
        wanted = "/".join(more[: 1 if action == "resolve" else None]) or "main"
        commit = model.revisions.get(wanted, wanted)
        if commit not in model.commits:
            return self.send(404, {"error": "no such revision"}, {"X-Error-Code": "RevisionNotFound"})
        files = model.commits[commit]
        if action == "tree":
            return self.send(200, [described(path, content) for path, content in sorted(files.items())])
        if action == "resolve":
            return self.file(commit, files.get("/".join(more[1:])))
        return self.send(200, {"id": name, "modelId": name, "sha": commit, "private": model.private, "siblings": []})

    def has_token(self):
        return self.headers.get("Authorization") == f"Bearer {TOKEN}"

    def create(self, wanted):
        name = f"{wanted['organization']}/{wanted['name']}"
        if not self.has_token():
            return self.send(401, {"error": "Invalid username or password."})
        if wanted["organization"] == "others":
            return self.send(403, {"error": "You don't have the rights to create a model under this namespace"})
        answer = {"url": f"{self.server.address}/{name}"}
        if name in self.server.models:
            return self.send(409, {**answer, "error": "You already created this model repo"})
        self.server.models[name] = Model(wanted.get("visibility") == "private" or bool(wanted.get("private")))
        self.server.models[name].commit({".gitattributes": b""})
        return self.send(200, answer)

    def validate(self, card):
        named = [line.partition(": ")[2].strip('"') for line in card.splitlines() if line.startswith("license: ")]
        if named and named[0] not in LICENSES:
            return self.send(400, {"errors": [{"message": f'"license" must be one of {LICENSES}'}], "warnings": []})
        return self.send(200, {"errors": [], "warnings": []})

    def commit(self, model, name):
        if not self.has_token():
            return self.send(401, {"error": "no token"})
        files = {}
        for line in map(json.loads, self.body.splitlines()):
            value = line["value"]
            if line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                files[value["path"]] = self.server.uploads[value["oid"]]
        commit = model.commit(files)
        return self.send(200, {"commitUrl": f"{self.server.address}/{name}/commit/{commit}", "commitOid": commit})

    def file(self, commit, content):
        if content is None:
            return self.send(404, {"error": "no such file"}, {"X-Error-Code": "EntryNotFound"})
        etag = hashlib.sha1(content).hexdigest()
        return self.send(200, content, {"ETag": f'"{etag}"', "X-Repo-Commit": commit})

    def send(self, status, content, headers=()):
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for name, value in {"Content-Type": "application/json", **dict(headers)}.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


def described(path, content):
    """A file as the hub lists it."""
    found = {"type": "file", "path": path, "size": len(content), "oid": hashlib.sha1(content).hexdigest()}
    if path.endswith(".safetensors"):
        found["lfs"] = {"oid": hashlib.sha256(content).hexdigest(), "size": len(content), "pointerSize": 130}
    return found
