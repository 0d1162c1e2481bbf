"""A Hugging Face Hub on this machine: the HTTP calls that an upload and a download make, on repositories in memory."""

from __future__ import annotations

import base64
import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit

import huggingface_hub.constants
import huggingface_hub.hf_api
import pytest


class LocalHub:
    """Repositories by id: files by path. There is one branch."""

    def __init__(self) -> None:
        self.repos: dict[str, dict[str, bytes]] = {}

    def sha(self, repo: str) -> str:
        files = sorted(self.repos[repo].items())
        return hashlib.sha1(repr(files).encode()).hexdigest()


@contextmanager
def local_hub(patch: pytest.MonkeyPatch) -> Iterator[LocalHub]:
    """A hub that huggingface_hub talks to by HTTP inside."""
    hub = LocalHub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": hub}))
    endpoint = f"http://127.0.0.1:{server.server_port}"
    patch.setattr(huggingface_hub.constants, "ENDPOINT", endpoint)
    patch.setattr(
        huggingface_hub.constants, "HUGGINGFACE_CO_URL_TEMPLATE", endpoint + "/{repo_id}/resolve/{revision}/{filename}"
    )
    patch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    patch.setattr(huggingface_hub.hf_api.api, "endpoint", endpoint)  # behind the functions of huggingface_hub
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    hub: LocalHub

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        path = urlsplit(self.path).path
        endpoint = f"http://{self.headers['Host']}"
        if path == "/api/repos/create":
            name = json.loads(body)["name"]
            repo = f"{json.loads(body).get('organization') or 'someone'}/{name}"
            self.hub.repos.setdefault(repo, {})
            self._json({"url": f"{endpoint}/{repo}", "name": repo, "id": repo})
        elif path == "/api/validate-yaml":
            self._json({"errors": [], "warnings": []})
        elif "/preupload/" in path:
            files = [file["path"] for file in json.loads(body)["files"]]
            self._json({"files": [{"path": p, "uploadMode": "regular", "shouldIgnore": False} for p in files]})
        elif "/commit/" in path:
            repo = path.removeprefix("/api/models/").split("/commit/")[0]
            for row in map(json.loads, body.splitlines()):
                if row["key"] == "file":
                    self.hub.repos[repo][row["value"]["path"]] = base64.b64decode(row["value"]["content"])
                elif row["key"] == "deletedFile":
                    del self.hub.repos[repo][row["value"]["path"]]
            sha = self.hub.sha(repo)
            self._json({"commitUrl": f"{endpoint}/{repo}/commit/{sha}", "commitOid": sha})
        else:
            self.send_error(404, path)

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path = urlsplit(self.path).path
        api, repo, rest = path.startswith("/api/models/"), *self._split(path)
        if repo not in self.hub.repos:
            return self._missing("RepoNotFound")
        files, sha = self.hub.repos[repo], self.hub.sha(repo)
        if api and rest[0] == "tree":
            self._json([{"type": "file", "path": p, "size": len(x), "oid": sha} for p, x in files.items()])
        elif api:
            self._json({"id": repo, "sha": sha, "siblings": [{"rfilename": name} for name in files]})
        elif (name := "/".join(rest[2:])) in files:
            self._send(files[name], {"X-Repo-Commit": sha, "ETag": f'"{hashlib.sha1(files[name]).hexdigest()}"'})
        else:
            self._missing("EntryNotFound")

    @staticmethod
    def _split(path: str) -> tuple[str, list[str]]:
        parts = path.removeprefix("/api/models").strip("/").split("/")
        return "/".join(parts[:2]), parts[2:] or [""]

    def _json(self, content: Any) -> None:
        self._send(json.dumps(content).encode(), {"Content-Type": "application/json"})

    def _missing(self, code: str) -> None:
        self.send_response(404)
        self.send_header("X-Error-Code", code)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def _send(self, data: bytes, headers: dict[str, str]) -> None:
        self.send_response(200)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)
