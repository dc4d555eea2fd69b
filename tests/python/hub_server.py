"""A server that speaks as much of the Hugging Face hub's protocol as a download needs."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote


@dataclass
class Repo:
    """A model repository: the files of each commit, and what branches and tags point to."""

    commits: dict[str, dict[str, bytes]]
    refs: dict[str, str]
    token: str | None = None
    """Without it, reading files is refused as in a gated repository."""
    private: bool = False
    """Without the token, the repository does not even exist."""


@dataclass
class Hub:
    """What is served, and what has been asked for."""

    repos: dict[str, Repo] = field(default_factory=dict)
    requests: list[str] = field(default_factory=list)
    broken: bool = False
    """Answer everything with 503."""
    url: str = ""

    @property
    def downloads(self) -> list[str]:
        """Names of the files whose contents have been sent."""
        return [
            line.rsplit("/", 1)[-1]
            for line in self.requests
            if line.startswith("GET /") and "/resolve/" in line
        ]


def commit_of(text: str) -> str:
    """A commit hash."""
    return hashlib.sha1(text.encode()).hexdigest()


@contextmanager
def serve_hub(hub: Hub) -> Iterator[Hub]:
    """Serves `hub` on a free local port while the block runs."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(hub))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    hub.url = f"http://127.0.0.1:{server.server_port}"
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _handler(hub: Hub) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self._answer(with_body=True)

        def do_HEAD(self) -> None:
            self._answer(with_body=False)

        def log_message(self, *_: object) -> None:
            pass

        def _answer(self, *, with_body: bool) -> None:
            path = unquote(self.path.split("?")[0])
            hub.requests.append(f"{self.command} {path}")
            status, headers, body = self._look_up(path)
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if with_body:
                self.wfile.write(body)

        def _look_up(self, path: str) -> tuple[int, dict[str, str], bytes]:
            if hub.broken:
                return _error(503, "", "Service Unavailable")
            for name, repo in hub.repos.items():
                if path.startswith(f"/api/models/{name}/revision/"):
                    return self._info(name, repo, path.rsplit("/", 1)[-1])
                if path.startswith(f"/api/models/{name}/tree/"):
                    return self._tree(repo, path.rsplit("/", 1)[-1])
                if path.startswith(f"/{name}/resolve/"):
                    revision, file = path.removeprefix(f"/{name}/resolve/").split("/", 1)
                    return self._file(repo, revision, file)
            return _error(401, "RepoNotFound", "Repository not found")

        def _allowed(self, repo: Repo) -> bool:
            return repo.token in (None, self.headers.get("Authorization", "")[len("Bearer ") :])

        def _info(self, name: str, repo: Repo, revision: str) -> tuple[int, dict[str, str], bytes]:
            if repo.private and not self._allowed(repo):
                return _error(401, "RepoNotFound", "Repository not found")
            commit = repo.refs.get(revision, revision)
            if commit not in repo.commits:
                return _error(404, "RevisionNotFound", "Invalid rev id")
            siblings = [{"rfilename": path} for path in repo.commits[commit]]
            return _json({"id": name, "modelId": name, "sha": commit, "siblings": siblings})

        def _tree(self, repo: Repo, commit: str) -> tuple[int, dict[str, str], bytes]:
            return _json(
                [
                    {"type": "file", "path": path, "size": len(data), "oid": _etag(data)}
                    for path, data in repo.commits[commit].items()
                ]
            )

        def _file(self, repo: Repo, revision: str, file: str) -> tuple[int, dict[str, str], bytes]:
            if not self._allowed(repo):
                return _error(403, "GatedRepo", "Access to this model is restricted")
            commit = repo.refs.get(revision, revision)
            data = repo.commits.get(commit, {}).get(file)
            if data is None:
                return _error(404, "EntryNotFound", "Entry not found")
            return 200, {"ETag": f'"{_etag(data)}"', "X-Repo-Commit": commit}, data

    return Handler


def _etag(data: bytes) -> str:
    """The hash git knows a file by."""
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


def _json(content: object) -> tuple[int, dict[str, str], bytes]:
    return 200, {"Content-Type": "application/json"}, json.dumps(content).encode()


def _error(status: int, code: str, message: str) -> tuple[int, dict[str, str], bytes]:
    return status, {"X-Error-Code": code, "X-Error-Message": message}, b""
