"""A stand-in for the hub: as much of its HTTP interface as `huggingface_hub` calls.

Repositories live in memory, commits are numbered like git's, large files come in by LFS. The hub's
own documentation of the interface: https://huggingface.co/docs/hub/api.
"""

import base64
import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

TOKEN = "hf_owner"

LARGE = (".safetensors", ".parquet")


@dataclass
class Repository:
    """Files of every commit, and where branches and tags point."""

    name: str
    private: bool = False
    gated: bool = False
    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    references: dict[str, str] = field(default_factory=dict)

    def commit(self, files: Mapping[str, bytes], reference: str = "main") -> str:
        """Add a commit with more files, or new ones for old, and return its hash."""
        before = self.commits.get(self.references.get(reference, ""), {})
        commit = hashlib.sha1(f"{self.name} {len(self.commits)}".encode()).hexdigest()
        self.commits[commit] = {**before, **files}
        self.references[reference] = commit
        return commit

    def resolve(self, revision: str) -> str | None:
        """Return the commit that a branch, a tag or a hash names."""
        return revision if revision in self.commits else self.references.get(revision)


@dataclass
class Hub:
    """What the server serves, and what it was asked.

    Attributes:
        repositories: By kind, `models` or `datasets`, and name.
        large: Uploaded LFS objects.
        requests: Method and path of every request.
        broken: The status that every request gets instead of an answer.
    """

    repositories: dict[tuple[str, str], Repository] = field(default_factory=dict)
    large: dict[str, bytes] = field(default_factory=dict)
    requests: list[tuple[str, str]] = field(default_factory=list)
    broken: int | None = None

    def create(self, name: str, kind: str = "models", **options: bool) -> Repository:
        return self.repositories.setdefault((kind, name), Repository(name, **options))

    def asked_for(self, name: str) -> bool:
        """Return whether a file of this name was fetched."""
        return any(method == "GET" and path.endswith(f"/{name}") for method, path in self.requests)

    def server(self) -> ThreadingHTTPServer:
        """Return a server on a free port of this machine."""
        return ThreadingHTTPServer(("127.0.0.1", 0), partial(_Handler, self))


class _Refused(Exception):  # noqa: N818 - an answer rather than an error
    """An answer that is no success."""

    def __init__(self, status: int, code: str):
        self.status, self.code = status, code


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def __init__(self, hub: Hub, *connection: Any):
        self.hub = hub
        super().__init__(*connection)

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def do_POST(self) -> None:
        self._answer()

    def do_PUT(self) -> None:
        self._answer()

    def log_message(self, format: str, *arguments: Any) -> None:
        """Say nothing."""

    def _answer(self) -> None:
        path = unquote(urlsplit(self.path).path)
        self.hub.requests.append((self.command, path))
        self.body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        try:
            if self.hub.broken is not None:
                raise _Refused(self.hub.broken, "")
            for method, pattern, respond in _ROUTES:
                match = re.fullmatch(pattern, path)
                if match and self.command in method:
                    return respond(self, *match.groups())
            raise _Refused(404, "")
        except _Refused as refused:
            return self._send(b"", refused.status, {"X-Error-Code": refused.code})

    def _send(
        self, content: bytes | Any, status: int = 200, headers: Mapping[str, str] | None = None
    ) -> None:
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _repository(self, kind: str, name: str) -> Repository:
        repository = self.hub.repositories.get((kind, name))
        known = self.headers.get("Authorization") == f"Bearer {TOKEN}"
        if repository is None or (repository.private and not known):
            raise _Refused(404 if known else 401, "RepoNotFound")
        if repository.gated and not known:
            raise _Refused(401, "GatedRepo")
        return repository

    def _files(self, kind: str, name: str, revision: str) -> tuple[str, dict[str, bytes]]:
        repository = self._repository(kind, name)
        commit = repository.resolve(revision)
        if commit is None:
            raise _Refused(404, "RevisionNotFound")
        return commit, repository.commits[commit]

    def _owner(self) -> None:
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            raise _Refused(401, "")

    def about(self, kind: str, name: str, revision: str | None) -> None:
        commit, files = self._files(kind, name, revision or "main")
        self._send({"id": name, "sha": commit, "siblings": [{"rfilename": n} for n in files]})

    def tree(self, kind: str, name: str, revision: str) -> None:
        _, files = self._files(kind, name, revision)
        self._send([_entry(path, content) for path, content in files.items()])

    def resolve(self, prefix: str | None, name: str, revision: str, path: str) -> None:
        commit, files = self._files("datasets" if prefix else "models", name, revision)
        if path not in files:
            raise _Refused(404, "EntryNotFound")
        etag = hashlib.sha256(files[path]).hexdigest()
        self._send(files[path], headers={"ETag": f'"{etag}"', "X-Repo-Commit": commit})

    def create(self) -> None:
        self._owner()
        asked = json.loads(self.body)
        name, kind = f"{asked['organization']}/{asked['name']}", asked.get("type", "model") + "s"
        prefix = "datasets/" if kind == "datasets" else ""
        made = {"url": f"{self._address()}/{prefix}{name}", "id": name}
        if (kind, name) in self.hub.repositories:
            self._send(made, 409)
            return
        private = asked.get("private") or asked.get("visibility") == "private"
        self.hub.create(name, kind, private=bool(private)).commit({".gitattributes": b""})
        self._send(made)

    def preupload(self, kind: str, name: str, revision: str) -> None:
        self._owner()
        self._files(kind, name, revision)
        paths = [file["path"] for file in json.loads(self.body)["files"]]
        modes = {path: "lfs" if path.endswith(LARGE) else "regular" for path in paths}
        files = [{"path": p, "uploadMode": m, "shouldIgnore": False} for p, m in modes.items()]
        self._send({"files": files})

    def batch(self, prefix: str | None, name: str) -> None:
        self._owner()
        objects = [
            {**asked, "actions": {"upload": {"href": f"{self._address()}/lfs/{asked['oid']}"}}}
            for asked in json.loads(self.body)["objects"]
        ]
        self._send({"transfer": "basic", "objects": objects})

    def put(self, oid: str) -> None:
        if hashlib.sha256(self.body).hexdigest() != oid:
            raise _Refused(400, "")
        self.hub.large[oid] = self.body
        self._send(b"")

    def commit(self, kind: str, name: str, revision: str) -> None:
        self._owner()
        files = {}
        for line in map(json.loads, self.body.splitlines()):
            value = line["value"]
            if line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                files[value["path"]] = self.hub.large[value["oid"]]
        commit = self._repository(kind, name).commit(files, revision)
        prefix = "datasets/" if kind == "datasets" else ""
        url = f"{self._address()}/{prefix}{name}/commit/{commit}"
        self._send({"success": True, "commitUrl": url, "commitOid": commit})

    def _address(self) -> str:
        return f"http://{self.headers['Host']}"


def _entry(path: str, content: bytes) -> dict[str, Any]:
    entry = {"type": "file", "path": path, "size": len(content)}
    entry["oid"] = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
    if path.endswith(LARGE):
        oid = hashlib.sha256(content).hexdigest()
        entry["lfs"] = {"oid": oid, "size": len(content), "pointerSize": 134}
    return entry


_KIND, _NAME = "(models|datasets)", "([^/]+/[^/]+)"

_ROUTES = [
    (("POST",), "/api/repos/create", _Handler.create),
    (("GET",), f"/api/{_KIND}/{_NAME}(?:/revision/(.+))?", _Handler.about),
    (("GET",), f"/api/{_KIND}/{_NAME}/tree/([^/]+)", _Handler.tree),
    (("POST",), f"/api/{_KIND}/{_NAME}/preupload/(.+)", _Handler.preupload),
    (("POST",), f"/api/{_KIND}/{_NAME}/commit/(.+)", _Handler.commit),
    (("POST",), f"/(datasets/)?{_NAME}\\.git/info/lfs/objects/batch", _Handler.batch),
    (("PUT",), "/lfs/([0-9a-f]+)", _Handler.put),
    (("HEAD", "GET"), f"/(datasets/)?{_NAME}/resolve/([^/]+)/(.+)", _Handler.resolve),
]
