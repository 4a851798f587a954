"""The hub's API, by huggingface_hub: login, commits, listings, downloads; its errors in one line.

HF_ENDPOINT, HF_TOKEN, HF_HOME and HF_HUB_OFFLINE are read by that library.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from ddpm_cli import __version__
from ddpm_cli.core.errors import DdpmError, UsageError, first_line

_NAME = re.compile(r"[A-Za-z0-9_][\w.-]{0,95}", re.ASCII)
_COMMIT = re.compile("[0-9a-f]{40}")
_LOGIN = "log in by `hf auth login`, or set HF_TOKEN to a token of the hub"
_NETWORK = ("httpx", "httpx2", "httpcore", "httpcore2", "requests", "urllib3", "hf_xet")


class RemoteFile(NamedTuple):
    """A file of a repository, as the hub lists it."""

    name: str  # with its folders
    size: int  # bytes
    sha256: str | None  # of a large file
    blob: str | None  # of any other: git's hash


class Listing(NamedTuple):
    """What a repository holds at one commit."""

    commit: str
    files: dict[str, RemoteFile]


def check_name(repo: str) -> str:
    """The name of a repository, user/name. Raises UsageError."""
    parts = repo.split("/")
    good = len(parts) == 2 and all(_NAME.fullmatch(part) and ".." not in part for part in parts)
    if not good:
        raise UsageError(
            f"{repo!r} should be a repository of the hub, user/name, of letters, digits, '-', '_' "
            "and '.'"
        )
    return repo


@dataclass(frozen=True)
class Hub:
    """A hub at an address, as the user who is logged in, or as nobody."""

    api: Any

    @classmethod
    def connect(cls) -> Hub:
        """The hub that HF_ENDPOINT names. Raises DdpmError without the library."""
        try:
            from huggingface_hub import HfApi, utils
        except ImportError as error:
            raise DdpmError(
                "ddpm push and pull need the huggingface_hub library: pip install 'ddpm-cli[hub]'"
            ) from error
        untyped: Any = utils
        untyped.disable_progress_bars()
        untyped.logging.set_verbosity_error()
        return cls(HfApi(library_name="ddpm-cli", library_version=__version__))

    @property
    def address(self) -> str:
        """Where the hub is."""
        return str(self.api.endpoint)

    def user(self) -> str:
        """The name of the user who is logged in. Raises DdpmError where nobody is."""
        with self._in_one_line("the login"):
            return str(self.api.whoami()["name"])

    def create(self, repo: str, branch: str | None, *, private: bool) -> None:
        """Create a repository of models, and the branch, where they are not there yet."""
        with self._in_one_line(repo):
            # None leaves the visibility of what is there, and the user's default, as they are.
            self.api.create_repo(repo, private=True if private else None, exist_ok=True)
            if branch is not None:
                self.api.create_branch(repo, branch=branch, exist_ok=True)

    def commit(
        self, repo: str, files: Mapping[str, Path], message: str, branch: str | None
    ) -> tuple[str, str]:
        """Upload files by their names there, all in one commit; its hash and address."""
        from huggingface_hub import CommitOperationAdd

        added = [CommitOperationAdd(name, path) for name, path in files.items()]
        with self._in_one_line(repo):
            done = self.api.create_commit(repo, added, commit_message=message, revision=branch)
        return str(done.oid), str(done.commit_url)

    def list(self, repo: str, revision: str | None) -> Listing:
        """The files of a repository of models. Raises DdpmError where it cannot be read."""
        with self._in_one_line(repo, revision):
            info = self.api.model_info(repo, revision=revision, files_metadata=True)
        if not _COMMIT.fullmatch(str(info.sha)):
            raise DdpmError(f"{repo}: {self.address} names no commit, so it is no hub")
        files = {}
        for each in info.siblings or ():
            sha256 = each.lfs["sha256"] if each.lfs else None
            files[each.rfilename] = RemoteFile(
                each.rfilename, int(each.size or 0), sha256, each.blob_id
            )
        return Listing(str(info.sha), files)

    def download(
        self, repo: str, commit: str, name: str, folder: Path, received: Callable[[int], None]
    ) -> Path:
        """Download a file of one commit into a folder, unless it is there whole; its path.

        received: called with the number of bytes of each part that arrives.
        """
        more: dict[str, Any] = {}
        if "tqdm_class" in inspect.signature(self.api.hf_hub_download).parameters:
            more["tqdm_class"] = _counting(received)
        with self._in_one_line(repo):
            path = self.api.hf_hub_download(
                repo, name, revision=commit, local_dir=str(folder), **more
            )
        return Path(path)

    @contextmanager
    def _in_one_line(self, what: str, revision: str | None = None) -> Iterator[None]:
        """Raise what the library raises within a block as a DdpmError of one line."""
        try:
            yield
        except DdpmError:
            raise
        except Exception as error:
            raise DdpmError(f"{what}: {self._reason(error, revision)}") from error

    def _reason(self, error: BaseException, revision: str | None) -> str:
        """Why a call failed, and what to do: by the first error in the chain that is known."""
        from huggingface_hub import errors

        for cause in _chain(error):
            if isinstance(cause, errors.LocalTokenNotFoundError):
                return f"nobody is logged in at {self.address}: {_LOGIN}"
            if isinstance(cause, errors.OfflineModeIsEnabled):
                return "HF_HUB_OFFLINE is set, so nothing is asked of the hub: unset it"
            if isinstance(cause, errors.GatedRepoError):
                return f"its owner lets in whom they accept: ask on its page at {self.address}"
            if isinstance(cause, errors.RevisionNotFoundError):
                return f"it has no branch, tag or commit {revision!r}" if revision else "no branch"
            if isinstance(cause, errors.RepositoryNotFoundError):
                return (
                    f"{self.address} has no such repository, or it is a private one and you are "
                    f"not logged in as one who may read it: check the name, or {_LOGIN}"
                )
            if isinstance(cause, errors.HfHubHTTPError):
                return self._of_status(cause)
            if type(cause).__module__.partition(".")[0] in _NETWORK or isinstance(
                cause, ConnectionError | TimeoutError
            ):
                reason = first_line(cause) or type(cause).__name__
                return f"the connection to {self.address} failed ({reason}): try again"
        return ": ".join(dict.fromkeys(first_line(each).rstrip(".") for each in _chain(error)))

    def _of_status(self, error: Any) -> str:
        """Why the hub refused a request, by the number it answered."""
        status = error.response.status_code
        said = (getattr(error, "server_message", None) or str(error)).strip().partition("\n")[0]
        if status == 401:
            return f"{self.address} does not accept the token (401): {_LOGIN}"
        if status == 403:
            return (
                f"the token may not do that (403: {said}): it needs the right to write "
                "to this user's or organisation's repositories"
            )
        if status == 429:
            after = error.response.headers.get("Retry-After")
            wait = f"in {after} seconds" if after else "in some minutes"
            return f"{self.address} limits how often it is asked (429): try again {wait}"
        if status >= 500:
            return f"{self.address} is out of order ({status}): try again later"
        return f"{self.address} refused ({status}): {said}"


def _chain(error: BaseException) -> Sequence[BaseException]:
    """An error and those that it came from."""
    found: list[BaseException] = []
    current: BaseException | None = error
    while current is not None and current not in found:
        found.append(current)
        current = current.__cause__ or current.__context__
    return found


def _counting(received: Callable[[int], None]) -> type:
    """A progress bar of the library that shows nothing and calls a function for each part."""
    from huggingface_hub import utils

    base: Any = utils

    def start(bar: Any, *arguments: Any, **options: Any) -> None:
        base.tqdm.__init__(bar, *arguments, **options | {"disable": True})

    def update(bar: Any, count: float | None = 1) -> None:
        received(int(count or 0))

    return type("Counting", (base.tqdm,), {"__init__": start, "update": update})
