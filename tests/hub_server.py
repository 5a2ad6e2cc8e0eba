"""A server that answers as the Hugging Face Hub does, as far as models are pushed and pulled, without a network."""

import base64
import hashlib
import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

TOKEN = "hf_test"


@dataclass
class Repository:
    """Commits, oldest first: the files of each, by name."""

    private: bool
    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.add({".gitattributes": b"*.bin filter=lfs\n"})

    @property
    def newest(self) -> str:
        return [*self.commits][-1]

    @property
    def files(self) -> dict[str, bytes]:
        return self.commits[self.newest]

    def add(self, files: dict[str, bytes]) -> str:
        commit = hashlib.sha1(f"{len(self.commits)}{sorted(files)}".encode()).hexdigest()
        self.commits[commit] = dict(files)
        return commit


@dataclass
class Hub:
    """What the server has, and how it lies about it.

    Attributes:
      url: of it.
      repositories: by name.
      requests: paths that were asked for.
      sizes: of files, where they are announced to be other than they are; None for no size at all.
    """

    url: str
    repositories: dict[str, Repository] = field(default_factory=dict)
    requests: list[str] = field(default_factory=list)
    sizes: Mapping[str, int | None] = field(default_factory=dict)

    def size(self, name: str, content: bytes) -> int | None:
        return self.sizes.get(name, len(content))


@contextmanager
def serving() -> Iterator[Hub]:
    """A hub on this machine, as long as the block runs."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    hub = Hub(f"http://127.0.0.1:{server.server_address[1]}")
    server.hub = hub  # type: ignore[attr-defined]
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    @property
    def hub(self) -> Hub:
        return self.server.hub  # type: ignore[attr-defined]

    def log_message(self, *args: Any) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        pass

    def do_GET(self) -> None:
        self._answer(self._read)

    def do_HEAD(self) -> None:
        self._answer(self._read)

    def do_POST(self) -> None:
        self._answer(self._write)

    def _answer(self, work: Any) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        path = unquote(urlsplit(self.path).path)
        self.hub.requests.append(f"{self.command} {path}")
        status, content, headers = work(path, body)
        if not isinstance(content, bytes):
            content = json.dumps(content).encode()
        self.send_response(status)
        for name, value in {"Content-Length": len(content), **headers}.items():
            self.send_header(name, str(value))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    @property
    def _may_write(self) -> bool:
        return self.headers.get("Authorization") == f"Bearer {TOKEN}"

    def _find(self, name: str) -> Repository | None:
        found = self.hub.repositories.get(name)
        return found if found is not None and (self._may_write or not found.private) else None

    def _missing(self, code: str = "RepoNotFound") -> tuple[int, Any, dict[str, Any]]:
        return 404, {"error": "not found"}, {"X-Error-Code": code, "X-Error-Message": "not found"}

    def _read(self, path: str, body: bytes) -> tuple[int, Any, dict[str, Any]]:
        parts = path.strip("/").split("/")
        is_api = parts[:2] == ["api", "models"]
        if is_api:
            parts = parts[2:]
        name, what = "/".join(parts[:2]), parts[2] if len(parts) > 2 else "revision"
        repository = self._find(name)
        if repository is None:
            return self._missing()
        revision = parts[3] if len(parts) > 3 else "main"
        commit = repository.newest if revision == "main" else revision
        if commit not in repository.commits:
            return self._missing("RevisionNotFound")
        files = repository.commits[commit]
        if what == "tree":
            listed = [
                {"type": "file", "path": name, "oid": hashlib.sha1(content).hexdigest(), "size": len(content)}
                for name, content in files.items()
            ]
            return 200, listed, {}
        if what == "resolve":
            file = "/".join(parts[4:])
            if file not in files:
                return self._missing("EntryNotFound")
            etag = f'"{hashlib.sha1(files[file]).hexdigest()}"'
            return 200, files[file], {"ETag": etag, "X-Repo-Commit": commit}
        siblings = [{"rfilename": file, "size": self.hub.size(file, content)} for file, content in files.items()]
        return 200, {"id": name, "sha": commit, "private": repository.private, "siblings": siblings}, {}

    def _write(self, path: str, body: bytes) -> tuple[int, Any, dict[str, Any]]:
        if path == "/api/validate-yaml":
            return 200, {"errors": [], "warnings": []}, {}
        if not self._may_write:
            return 401, {"error": "Invalid credentials"}, {"X-Error-Message": "Invalid credentials"}
        if path == "/api/repos/create":
            asked = json.loads(body)
            name = f"{asked['organization']}/{asked['name']}"
            if name in self.hub.repositories:
                return 409, {"error": "it exists", "url": f"{self.hub.url}/{name}"}, {}
            self.hub.repositories[name] = Repository(asked.get("visibility") == "private" or bool(asked.get("private")))
            return 200, {"url": f"{self.hub.url}/{name}"}, {}
        parts = path.strip("/").split("/")
        name, what = "/".join(parts[2:4]), parts[4]
        repository = self.hub.repositories[name]
        if what == "preupload":
            asked = json.loads(body)["files"]
            known = [{"path": one["path"], "uploadMode": "regular", "shouldIgnore": False} for one in asked]
            return 200, {"files": known}, {}
        assert what == "commit"
        files = dict(repository.files)
        for line in body.splitlines():
            entry = json.loads(line)
            value = entry["value"]
            if entry["key"] == "header" and value.get("parentCommit") not in (None, repository.newest):
                return 412, {"error": "somebody else has committed"}, {}
            if entry["key"] == "deletedFile":
                del files[value["path"]]
            if entry["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
        commit = repository.add(files)
        return 200, {"commitUrl": f"{self.hub.url}/{name}/commit/{commit}", "commitOid": commit}, {}
