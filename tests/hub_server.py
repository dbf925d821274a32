"""A small stand-in of the Hub's API on this machine: models in memory, one commit after another."""

from __future__ import annotations

import base64
import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

import yaml


@dataclass
class Repository:
    """The files of every commit, the newest last."""

    private: bool
    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)

    def commit(self, revision: str) -> str:
        return list(self.commits)[-1] if revision == "main" else revision

    def files(self, revision: str) -> dict[str, bytes]:
        return self.commits[self.commit(revision)]


@dataclass
class Hub:
    """The state of the server."""

    token: str
    url: str = ""
    repositories: dict[str, Repository] = field(default_factory=dict)
    readme: dict[str, Any] = field(default_factory=dict)
    """The metadata of the model card that was validated last."""


@contextmanager
def serve_hub(token: str) -> Iterator[Hub]:
    """Serve until the block ends.

    Args:
        token: The only one that may write and read.
    """
    hub = Hub(token)
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": hub}))
    hub.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()


class _Handler(BaseHTTPRequestHandler):
    hub: Hub

    def log_message(self, *args: Any) -> None:
        pass

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if not self._known():
            return
        path = urlsplit(self.path).path
        if path == "/api/repos/create":
            self._create(json.loads(body))
        elif path == "/api/validate-yaml":
            text = json.loads(body)["content"].split("---")[1]
            self.hub.readme = yaml.safe_load(text)
            self._json({"warnings": [], "errors": []})
        elif "/preupload/" in path:
            files = json.loads(body)["files"]
            modes = [
                {"path": file["path"], "uploadMode": "regular", "shouldIgnore": False}
                for file in files
            ]
            self._json({"files": modes})
        else:
            self._commit(path.split("/commit/")[0].removeprefix("/api/models/"), body)

    def do_GET(self) -> None:
        if not self._known():
            return
        path = unquote(urlsplit(self.path).path)
        if path == "/api/whoami-v2":
            self._json({"type": "user", "name": "me"})
        elif "/resolve/" in path:
            self._file(path)
        elif "/tree/" in path:
            name, _, revision = path.removeprefix("/api/models/").partition("/tree/")
            files = self.hub.repositories[name].files(revision)
            self._json([_entry(path, content) for path, content in files.items()])
        else:
            name, _, revision = path.removeprefix("/api/models/").partition("/revision/")
            repository = self.hub.repositories.get(name)
            if repository is None:
                self._json({"error": "Repository not found"}, 404, "RepoNotFound")
                return
            self._json({"id": name, "sha": repository.commit(revision or "main")})

    do_HEAD = do_GET

    def _known(self) -> bool:
        known = self.headers.get("Authorization") == f"Bearer {self.hub.token}"
        if not known:
            self._json({"error": "Invalid credentials"}, 401)
        return known

    def _create(self, values: dict[str, Any]) -> None:
        name = f"{values['organization']}/{values['name']}"
        if name in self.hub.repositories:
            self._json({"url": f"{self.hub.url}/{name}"}, 409)
            return
        self.hub.repositories[name] = Repository(values.get("visibility") == "private", {"0": {}})
        self._json({"url": f"{self.hub.url}/{name}"})

    def _commit(self, name: str, body: bytes) -> None:
        repository = self.hub.repositories[name]
        files = dict(repository.files("main"))
        for line in map(json.loads, body.splitlines()):
            if line["key"] == "file":
                files[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
            elif line["key"] == "deletedFile":
                del files[line["value"]["path"]]
        commit = hashlib.sha1(body).hexdigest()
        repository.commits[commit] = files
        url = f"{self.hub.url}/{name}/commit/{commit}"
        self._json({"success": True, "commitUrl": url, "commitOid": commit})

    def _file(self, path: str) -> None:
        name, _, rest = path.removeprefix("/").partition("/resolve/")
        revision, _, file = rest.partition("/")
        repository = self.hub.repositories[name]
        content = repository.files(revision)[file]
        headers = {
            "X-Repo-Commit": repository.commit(revision),
            "ETag": f'"{_entry(file, content)["oid"]}"',
        }
        self._send(200, content, headers)

    def _json(self, values: Any, status: int = 200, error_code: str | None = None) -> None:
        headers = {"Content-Type": "application/json"}
        if error_code is not None:
            headers["X-Error-Code"] = error_code
        self._send(status, json.dumps(values).encode(), headers)

    def _send(self, status: int, content: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(content))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)


def _entry(path: str, content: bytes) -> dict[str, Any]:
    return {
        "type": "file",
        "path": path,
        "size": len(content),
        "oid": hashlib.sha1(content).hexdigest(),
    }
