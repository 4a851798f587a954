"""Verified downloads from a server on the loopback interface."""

from __future__ import annotations

import hashlib
import io
import threading
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import IO

import pytest

from ddpm_cli.core.errors import DdpmError
from ddpm_cli.core.metrics.networks.inception import PUBLISHED
from ddpm_cli.core.runtime.downloads import RemoteFile, fetch
from ddpm_cli.core.runtime.reporting import Silent

CONTENT = bytes(range(256)) * 9000  # more than two blocks


class Server(ThreadingHTTPServer):
    """Serves CONTENT, or other bytes, and counts requests."""

    requests = 0
    body = CONTENT
    content_length = len(CONTENT)

    def opener(self, _url: str) -> AbstractContextManager[IO[bytes]]:
        return urllib.request.urlopen(f"http://127.0.0.1:{self.server_port}/w.bin", timeout=10)


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        self.server.requests += 1
        self.send_response(200)
        self.send_header("Content-Length", str(self.server.content_length))
        self.end_headers()
        self.wfile.write(self.server.body)

    def log_message(self, *_: object) -> None:
        """Log nothing."""


@pytest.fixture
def server() -> Iterator[Server]:
    with Server(("127.0.0.1", 0), Handler) as running:
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield running
        running.shutdown()
        thread.join()


@pytest.fixture
def remote(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RemoteFile:
    monkeypatch.setenv("DDPM_CACHE", str(tmp_path / "cache"))
    digest = hashlib.sha256(CONTENT).hexdigest()
    return RemoteFile(
        "the test weights", "https://example.org/w.bin", digest, len(CONTENT), "--weights FILE"
    )


class Recorder(Silent):
    """Records messages and progress."""

    def __init__(self) -> None:
        self.messages: list[str] = []
        self.done = 0.0

    def say(self, message: str) -> None:
        self.messages.append(message)

    def update(self, done: float, note: str = "", status: object = None) -> None:
        self.done = done


def files_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob("*") if path.is_file())


def test_downloads_once(server: Server, remote: RemoteFile, tmp_path: Path) -> None:
    recorder = Recorder()
    path = fetch(remote, recorder, server.opener)
    assert path == tmp_path / "cache" / "weights" / "w.bin"
    assert path.read_bytes() == CONTENT
    assert recorder.done == len(CONTENT)
    assert "https://example.org/w.bin" in recorder.messages[0]
    assert fetch(remote, Silent(), server.opener) == path
    assert server.requests == 1
    assert files_in(tmp_path) == [".w.bin.lock", "w.bin"]


def test_a_damaged_file_in_the_cache_is_replaced(server: Server, remote: RemoteFile) -> None:
    remote.cache_path.parent.mkdir(parents=True)
    remote.cache_path.write_bytes(CONTENT[:-1])
    assert fetch(remote, Silent(), server.opener).read_bytes() == CONTENT


def test_of_concurrent_requests_one_downloads(server: Server, remote: RemoteFile) -> None:
    with ThreadPoolExecutor(6) as pool:
        paths = list(pool.map(lambda _: fetch(remote, Silent(), server.opener), range(6)))
    assert {path.read_bytes() for path in paths} == {CONTENT}
    assert server.requests == 1


@pytest.mark.parametrize("body", [CONTENT[:-1] + b"!", CONTENT + b"more", CONTENT[:1000]])
def test_wrong_content_leaves_no_file(
    server: Server, remote: RemoteFile, tmp_path: Path, body: bytes
) -> None:
    server.body, server.content_length = body, len(body)
    with pytest.raises(DdpmError, match=r"gave .* bytes with sha256"):
        fetch(remote, Silent(), server.opener)
    assert files_in(tmp_path) == [".w.bin.lock"]


class BrokenConnection(io.BytesIO):
    """A connection that breaks after the first megabyte."""

    def read(self, size: int | None = -1) -> bytes:
        if self.tell():
            raise ConnectionResetError("reset by peer")
        self.seek(1)
        return CONTENT[:size]


def test_a_broken_connection_leaves_no_file(remote: RemoteFile, tmp_path: Path) -> None:
    with pytest.raises(DdpmError, match=r"cannot be downloaded here \(reset by peer\)"):
        fetch(remote, Silent(), lambda _url: BrokenConnection())
    assert files_in(tmp_path) == [".w.bin.lock"]


def test_without_network_the_error_gives_instructions(
    remote: RemoteFile, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def unreachable(_url: str, *, timeout: float) -> None:
        raise urllib.request.URLError("no route to host")

    monkeypatch.setattr(urllib.request, "urlopen", unreachable)
    with pytest.raises(DdpmError) as raised:
        fetch(remote, Silent())
    message = str(raised.value)
    assert "\n" not in message
    parts = ("no route to host", remote.url, remote.sha256[:12], "--weights FILE")
    assert all(part in message for part in (*parts, str(remote.cache_path)))
    assert files_in(tmp_path) == [".w.bin.lock"]


def test_the_error_of_an_unwritable_cache_names_ddpm_cache(
    remote: RemoteFile, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("DDPM_CACHE", str(tmp_path / "file"))
    with pytest.raises(DdpmError, match=r"cannot write .*set DDPM_CACHE"):
        fetch(remote, Silent())


def test_only_https_urls_are_accepted() -> None:
    with pytest.raises(ValueError, match="https only"):
        RemoteFile("weights", "http://example.org/w.bin", "0" * 64, 1, "--weights FILE")
    assert PUBLISHED.url.endswith(f"{PUBLISHED.sha256[:8]}.pth")
    assert len(PUBLISHED.sha256) == 64


def test_a_cached_file_is_copied_to_another_folder(
    server: Server, remote: RemoteFile, tmp_path: Path
) -> None:
    folder = tmp_path / "folder"
    path = fetch(remote, Silent(), server.opener, folder=folder)
    assert path.parent == folder
    assert not remote.cache_path.exists()
    cached = fetch(remote, Silent(), server.opener)
    again = fetch(remote, Silent(), server.opener, folder=tmp_path / "other")
    assert again.read_bytes() == cached.read_bytes() == path.read_bytes()
    assert server.requests == 2
