"""A small model hub on 127.0.0.1: what huggingface_hub asks of one, kept in memory.

Repositories, branches, commits (NDJSON), files stored by git or, where they are binary, as large
files (LFS), their listing and download with the headers that clients check. Written from the
documentation of the hub's API and the requests that huggingface_hub makes.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

TOKEN = "hf_of-the-stand-in"
USER = "someone"
NAME = f"{USER}/digits"  # a repository of theirs
_LARGE = (".safetensors", ".png", ".bin")


@dataclass
class Repository:
    """Commits by hash, and branches; a commit is its files by name."""

    private: bool = False
    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)
    messages: list[str] = field(default_factory=list)

    def commit(self, files: dict[str, bytes], message: str, branch: str = "main") -> str:
        whole = self.files(branch) | files if branch in self.branches else dict(files)
        content = json.dumps([len(self.commits), {n: oid(c) for n, c in whole.items()}])
        name = hashlib.sha1(content.encode()).hexdigest()
        self.commits[name], self.branches[branch] = whole, name
        self.messages.append(message)
        return name

    def resolve(self, revision: str) -> str | None:
        found = self.branches.get(revision, revision)
        return found if found in self.commits else None

    def files(self, revision: str) -> dict[str, bytes]:
        return self.commits[self.resolve(revision) or ""]


@dataclass
class HubStandin:
    """The hub's state, and what goes wrong on purpose."""

    address: str = ""
    repositories: dict[str, Repository] = field(default_factory=dict)
    uploads: dict[str, bytes] = field(default_factory=dict)  # of large files, by SHA-256
    requests: list[str] = field(default_factory=list)
    refuse: dict[str, tuple[int, dict[str, str]]] = field(default_factory=dict)  # by path's part
    cut_after: dict[str, int] = field(default_factory=dict)  # bytes sent of a file, by its name
    spoiled: set[str] = field(default_factory=set)  # files that arrive with a byte changed
    listed: dict[str, dict[str, Any]] = field(default_factory=dict)  # changes of what is listed

    def clear(self) -> None:
        """Forget everything, but the address."""
        self.__dict__ |= HubStandin(self.address).__dict__

    def add(self, name: str, files: dict[str, bytes]) -> Repository:
        """A repository with these files."""
        repository = self.repositories[name] = Repository()
        repository.commit({}, "initial commit")
        repository.commit(files, "files")
        return repository


def oid(content: bytes) -> str:
    """Git's hash of a file."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def is_large(name: str) -> bool:
    return name.endswith(_LARGE)


@contextmanager
def hub_standin() -> Iterator[HubStandin]:
    """The hub, for as long as the block runs."""
    hub = HubStandin()

    class Handler(_Handler):
        state = hub

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    hub.address = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    state: HubStandin
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        """Say nothing."""

    def do_GET(self) -> None:
        self._answer()

    do_HEAD = do_POST = do_PUT = do_GET  # noqa: N815

    def _answer(self) -> None:
        path = unquote(urlsplit(self.path).path)
        length = int(self.headers.get("Content-Length") or 0)
        self.body = self.rfile.read(length) if length else self._chunks()
        self.state.requests.append(f"{self.command} {path}")
        for part, (status, headers) in self.state.refuse.items():
            if part in path:
                self._json({"error": "refused on purpose"}, status, headers)
                return
        routes = [
            (r"/api/whoami-v2", self._whoami),
            (r"/api/repos/create", self._create),
            (r"/api/validate-yaml", self._validate),
            (r"/api/models/([\w.-]+/[\w.-]+)/branch/(.+)", self._branch),
            (r"/api/models/([\w.-]+/[\w.-]+)/preupload/(.+)", self._preupload),
            (r"/api/models/([\w.-]+/[\w.-]+)/commit/(.+)", self._commit),
            (r"/api/models/([\w.-]+/[\w.-]+)/tree/([^/]+)(?:/.*)?", self._tree),
            (r"/api/models/([\w.-]+/[\w.-]+)(?:/revision/(.+))?", self._info),
            (r"/([\w.-]+/[\w.-]+)\.git/info/lfs/objects/batch", self._batch),
            (r"/upload/([0-9a-f]{64})", self._upload),
            (r"/([\w.-]+/[\w.-]+)/resolve/([^/]+)/(.+)", self._resolve),
        ]
        for pattern, handle in routes:
            if match := re.fullmatch(pattern, path):
                handle(*match.groups())
                return
        self._json({"error": f"no such address: {path}"}, 404)

    def _chunks(self) -> bytes:
        """The body of a request that is sent in chunks."""
        if "chunked" not in self.headers.get("Transfer-Encoding", ""):
            return b""
        content = b""
        while size := int(self.rfile.readline().strip() or b"0", 16):
            content += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return content

    @property
    def _logged_in(self) -> bool:
        return self.headers.get("Authorization") == f"Bearer {TOKEN}"

    def _json(
        self, document: Any, status: int = 200, headers: dict[str, str] | None = None
    ) -> None:
        self._send(
            json.dumps(document).encode(),
            status,
            {"Content-Type": "application/json"} | (headers or {}),
        )

    def _send(self, content: bytes, status: int, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in ({"Content-Length": str(len(content))} | headers).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def _whoami(self) -> None:
        if not self._logged_in:
            self._json({"error": "Invalid credentials in Authorization header"}, 401)
            return
        self._json({"type": "user", "name": USER, "orgs": [], "auth": {"type": "access_token"}})

    def _create(self) -> None:
        if not self._logged_in:
            self._json({"error": "unauthorised"}, 401)
            return
        wanted = json.loads(self.body)
        name = f"{wanted.get('organization') or USER}/{wanted['name']}"
        if not name.startswith(f"{USER}/"):
            self._json({"error": "You don't have the rights to create a model there"}, 403)
            return
        status = 409 if name in self.state.repositories else 200
        if status == 200:
            private = wanted.get("visibility") == "private" or bool(wanted.get("private"))
            repository = self.state.repositories[name] = Repository(private)
            repository.commit({}, "initial commit")
        self._json({"url": f"{self.state.address}/{name}", "name": name}, status)

    def _validate(self) -> None:
        content = json.loads(self.body)["content"]
        good = re.match(r"---\n.*?\n---\n", content, re.S)
        self._json({"errors": [] if good else [{"message": "no front matter"}], "warnings": []})

    def _branch(self, name: str, branch: str) -> None:
        repository = self.state.repositories[name]
        status = 409 if branch in repository.branches else 201
        if status == 201:
            repository.branches[branch] = repository.branches["main"]
        self._json({}, status)

    def _preupload(self, name: str, revision: str) -> None:
        asked = json.loads(self.body)["files"]
        modes = {file["path"]: "lfs" if is_large(file["path"]) else "regular" for file in asked}
        held = self.state.repositories[name].files(revision)
        self._json(
            {
                "files": [
                    {"path": path, "uploadMode": mode, "shouldIgnore": False}
                    | (
                        {"oid": sha256(held[path]) if mode == "lfs" else oid(held[path])}
                        if path in held
                        else {}
                    )
                    for path, mode in modes.items()
                ]
            }
        )

    def _batch(self, name: str) -> None:
        objects = []
        for asked in json.loads(self.body)["objects"]:
            upload = {"href": f"{self.state.address}/upload/{asked['oid']}"}
            there = asked["oid"] in self.state.uploads
            objects.append(asked | ({} if there else {"actions": {"upload": upload}}))
        self._json({"transfer": "basic", "objects": objects})

    def _upload(self, digest: str) -> None:
        if sha256(self.body) != digest:
            self._json({"error": "another hash"}, 400)
            return
        self.state.uploads[digest] = self.body
        self._json({})

    def _commit(self, name: str, branch: str) -> None:
        files, message = {}, ""
        for line in self.body.decode().splitlines():
            item = json.loads(line)
            value = item["value"]
            if item["key"] == "header":
                message = value["summary"]
            elif item["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif item["key"] == "lfsFile":
                files[value["path"]] = self.state.uploads[value["oid"]]
        commit = self.state.repositories[name].commit(files, message, branch)
        address = f"{self.state.address}/{name}/commit/{commit}"
        self._json({"success": True, "commitOid": commit, "commitUrl": address})

    def _found(self, name: str, revision: str | None) -> tuple[Repository, str] | None:
        """The repository and the commit; None where that was answered with an error."""
        repository = self.state.repositories.get(name)
        if repository is None or (repository.private and not self._logged_in):
            status, code = (404 if self._logged_in else 401), "RepoNotFound"
            self._json({"error": "Repository not found"}, status, {"X-Error-Code": code})
            return None
        commit = repository.resolve(revision or "main")
        if commit is None:
            self._json({"error": "Invalid rev id"}, 404, {"X-Error-Code": "RevisionNotFound"})
            return None
        return repository, commit

    def _info(self, name: str, revision: str | None) -> None:
        if (found := self._found(name, revision)) is None:
            return
        repository, commit = found
        blobs = "blobs" in parse_qs(urlsplit(self.path).query)
        siblings = []
        for path, content in repository.commits[commit].items():
            each: dict[str, Any] = {"rfilename": path}
            if blobs:
                each |= {"size": len(content), "blobId": oid(content)}
            if blobs and is_large(path):
                each["lfs"] = {"sha256": sha256(content), "size": len(content), "pointerSize": 130}
            siblings.append(each | self.state.listed.get(path, {}))
        self._json({
            "_id": "0", "id": name, "modelId": name, "sha": commit, "private": repository.private,
            "tags": [], "downloads": 0, "likes": 0, "siblings": siblings,
        })  # fmt: skip

    def _tree(self, name: str, revision: str) -> None:
        if (found := self._found(name, revision)) is None:
            return
        repository, commit = found
        self._json(
            [
                {"type": "file", "path": path, "size": len(content), "oid": oid(content)}
                | (
                    {"lfs": {"oid": sha256(content), "size": len(content), "pointerSize": 130}}
                    if is_large(path)
                    else {}
                )
                for path, content in repository.commits[commit].items()
            ]
        )

    def _resolve(self, name: str, revision: str, path: str) -> None:
        if (found := self._found(name, revision)) is None:
            return
        repository, commit = found
        content = repository.commits[commit].get(path)
        if content is None:
            code = {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": commit}
            self._json({"error": "Entry not found"}, 404, code)
            return
        tag = sha256(content) if is_large(path) else oid(content)
        headers = {"X-Repo-Commit": commit, "ETag": f'"{tag}"', "Accept-Ranges": "bytes"}
        if path in self.state.spoiled:
            content = content[:-1] + bytes([content[-1] ^ 1])
        status, start = 200, 0
        if match := re.fullmatch(r"bytes=(\d+)-.*", self.headers.get("Range") or ""):
            start, status = int(match[1]), 206
            headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
        limit = self.state.cut_after.get(path)
        if limit is None or self.command == "HEAD":
            self._send(content[start:], status, headers)
            return
        self._send(b"", status, headers | {"Content-Length": str(len(content) - start)})
        self.wfile.write(content[start:limit])
        self.wfile.flush()
        self.close_connection = True  # before all was sent
