"""Verified downloads, against a server on the loopback."""

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
from ddpm_cli.core.metrics.inception import PUBLISHED
from ddpm_cli.core.runtime import downloads
from ddpm_cli.core.runtime.downloads import RemoteFile, fetch
from ddpm_cli.core.runtime.reporting import Silent

CONTENT = bytes(range(256)) * 9000  # more than two blocks


class Server(ThreadingHTTPServer):
    """Serves CONTENT, whole or cut short, and counts."""

    asked = 0
    sent = CONTENT
    claimed = len(CONTENT)

    def opener(self, _url: str) -> AbstractContextManager[IO[bytes]]:
        return urllib.request.urlopen(f"http://127.0.0.1:{self.server_port}/w.bin", timeout=10)


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        self.server.asked += 1
        self.send_response(200)
        self.send_header("Content-Length", str(self.server.claimed))
        self.end_headers()
        self.wfile.write(self.server.sent)

    def log_message(self, *_: object) -> None:
        """Be quiet."""


@pytest.fixture
def server() -> Iterator[Server]:
    with Server(("127.0.0.1", 0), Handler) as it:
        thread = threading.Thread(target=it.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield it
        it.shutdown()
        thread.join()


@pytest.fixture
def remote(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RemoteFile:
    monkeypatch.setenv("DDPM_CACHE", str(tmp_path / "cache"))
    digest = hashlib.sha256(CONTENT).hexdigest()
    return RemoteFile(
        "the test weights", "https://example.org/w.bin", digest, len(CONTENT), "--weights FILE"
    )


class Ear(Silent):
    """Keeps what is said."""

    def __init__(self) -> None:
        self.heard: list[str] = []
        self.done = 0.0

    def say(self, message: str) -> None:
        self.heard.append(message)

    def update(self, done: float, note: str = "") -> None:
        self.done = done


def left_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob("*") if path.is_file())


def test_downloads_once(server: Server, remote: RemoteFile, tmp_path: Path) -> None:
    ear = Ear()
    path = fetch(remote, ear, server.opener)
    assert path == tmp_path / "cache" / "weights" / "w.bin"
    assert path.read_bytes() == CONTENT
    assert ear.done == len(CONTENT)
    assert "https://example.org/w.bin" in ear.heard[0]
    assert fetch(remote, Silent(), server.opener) == path
    assert server.asked == 1
    assert left_in(tmp_path) == [".w.bin.lock", "w.bin"]


def test_a_damaged_cache_is_mended(server: Server, remote: RemoteFile) -> None:
    remote.place.parent.mkdir(parents=True)
    remote.place.write_bytes(CONTENT[:-1])
    assert fetch(remote, Silent(), server.opener).read_bytes() == CONTENT


def test_many_ask_one_downloads(server: Server, remote: RemoteFile) -> None:
    with ThreadPoolExecutor(6) as pool:
        got = list(pool.map(lambda _: fetch(remote, Silent(), server.opener), range(6)))
    assert {path.read_bytes() for path in got} == {CONTENT}
    assert server.asked == 1


@pytest.mark.parametrize("sent", [CONTENT[:-1] + b"!", CONTENT + b"more", CONTENT[:1000]])
def test_other_contents_leave_nothing(
    server: Server, remote: RemoteFile, tmp_path: Path, sent: bytes
) -> None:
    server.sent, server.claimed = sent, len(sent)
    with pytest.raises(DdpmError, match=r"gave .* bytes with sha256"):
        fetch(remote, Silent(), server.opener)
    assert left_in(tmp_path) == [".w.bin.lock"]


class Torn(io.BytesIO):
    """A connection that breaks after the first megabyte."""

    def read(self, size: int | None = -1) -> bytes:
        if self.tell():
            raise ConnectionResetError("reset by peer")
        self.seek(1)
        return CONTENT[:size]


def test_a_broken_connection_leaves_nothing(remote: RemoteFile, tmp_path: Path) -> None:
    with pytest.raises(DdpmError, match=r"cannot be downloaded here \(reset by peer\)"):
        fetch(remote, Silent(), lambda _url: Torn())
    assert left_in(tmp_path) == [".w.bin.lock"]


def test_without_network_the_error_says_how(
    remote: RemoteFile, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def unreachable(_url: str) -> AbstractContextManager[IO[bytes]]:
        raise urllib.request.URLError("no route to host")

    monkeypatch.setattr(downloads, "_https", unreachable)
    with pytest.raises(DdpmError) as got:
        fetch(remote, Silent())
    message = str(got.value)
    assert "\n" not in message
    needed = ("no route to host", remote.url, remote.sha256, "2,304,000 bytes", "--weights FILE")
    assert all(part in message for part in (*needed, str(remote.place)))
    assert left_in(tmp_path) == [".w.bin.lock"]


def test_the_error_of_an_unwritable_cache_names_it(
    remote: RemoteFile, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("DDPM_CACHE", str(tmp_path / "file"))
    with pytest.raises(DdpmError, match=r"cannot write .*set DDPM_CACHE"):
        fetch(remote, Silent())


def test_only_https_is_pinned() -> None:
    with pytest.raises(ValueError, match="https only"):
        RemoteFile("weights", "http://example.org/w.bin", "0" * 64, 1, "--weights FILE")
    assert PUBLISHED.url.endswith(f"{PUBLISHED.sha256[:8]}.pth")
    assert len(PUBLISHED.sha256) == 64


def test_into_a_folder_without_downloading_twice(
    server: Server, remote: RemoteFile, tmp_path: Path
) -> None:
    stick = tmp_path / "stick"
    path = fetch(remote, Silent(), server.opener, folder=stick)
    assert path.parent == stick
    assert not remote.place.exists()
    cached = fetch(remote, Silent(), server.opener)
    again = fetch(remote, Silent(), server.opener, folder=tmp_path / "other")
    assert again.read_bytes() == cached.read_bytes() == path.read_bytes()
    assert server.asked == 2
