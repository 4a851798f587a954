"""A repository of the hub -> a folder like a run, from which `ddpm sample` works at once."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ddpm_cli.core.checkpoints import weights
from ddpm_cli.core.config.serialisation import to_dict
from ddpm_cli.core.conversion.importing import ImportOptions, convert
from ddpm_cli.core.errors import DdpmError, first_line
from ddpm_cli.core.hub import contents
from ddpm_cli.core.hub.client import Hub, Listing, RemoteFile, check_name
from ddpm_cli.core.hub.contents import MODEL, SETTINGS
from ddpm_cli.core.hub.names import RECORD, pulled_record
from ddpm_cli.core.runtime.downloads import sha256_of
from ddpm_cli.core.runtime.files import (
    cannot_write,
    check_free_space,
    in_words,
    write_json,
)
from ddpm_cli.core.runtime.locks import lock_writing
from ddpm_cli.core.runtime.reporting import SILENT, Reporter
from ddpm_cli.core.runtime.run_directory import read_config, runs_folder

_DIFFUSERS = "diffusers"  # the folder of what is converted, while it is


@dataclass(frozen=True)
class PullRequest:
    """What to download, and to where."""

    repo: str  # user/name
    out: Path | None = None  # None: runs/name
    revision: str | None = None  # a branch, tag or commit; None: main


def pull(request: PullRequest, reporter: Reporter) -> dict[str, Any]:
    """Download a model into a folder that is not there yet; the document for --json.

    Files arrive in a hidden folder beside it, are compared with the hub's hashes, and become the
    folder at once, at the end. What is whole when a call breaks off is not downloaded again.
    Raises UsageError or DdpmError.
    """
    name = check_name(request.repo).partition("/")[2]
    out = request.out or runs_folder() / name
    hub = Hub.connect()
    listing = hub.list(request.repo, request.revision)
    if (done := _pulled_before(out, request.repo, listing.commit)) is not None:
        reporter.say(f"{out} holds {request.repo} at this commit already")
        return done
    place = _with_a_name(out)
    arriving = place.with_name(f".{place.name}.{listing.commit[:12]}.pull")
    fix = "choose another --out"
    with lock_writing(arriving, reporter.say, "downloading", fix, kept=False):
        if out.exists() and not _is_empty(out):  # perhaps of a call that this one waited for
            raise DdpmError(f"{out} exists, and is not overwritten; choose another --out")
        with _kept_for_the_next_call(arriving):
            document = _fill(hub, request.repo, listing, arriving, reporter)
        document = {"run": str(out), **document}
        write_json(arriving / RECORD, document, durable=False)
        _become(arriving, place)
    return document


@contextmanager
def _kept_for_the_next_call(folder: Path) -> Iterator[None]:
    """Where the block fails, keep the files that arrived whole, and say so; else no folder."""
    try:
        yield
    except DdpmError as error:
        whole = [
            path
            for path in folder.rglob("*")
            if path.is_file() and ".cache" not in path.relative_to(folder).parts
        ]
        if not whole:
            shutil.rmtree(folder, ignore_errors=True)
            raise
        count = (
            "1 file that arrived whole is" if len(whole) == 1 else f"{len(whole)} whole files are"
        )
        raise type(error)(
            f"{error}; {count} kept in {folder}, and the same command goes on from there"
        ) from error


def _fill(
    hub: Hub, repo: str, listing: Listing, folder: Path, reporter: Reporter
) -> dict[str, Any]:
    """Download into the folder what makes it a run, and check it."""
    chosen = contents.ours(listing.files) if MODEL in listing.files else []
    converted = False
    if not chosen or not _is_ours(hub, repo, listing, folder, reporter):
        chosen, converted = contents.of_diffusers(listing.files), True
    if not chosen:
        raise DdpmError(f"{repo}: {contents.why_nothing(listing.files)}")
    place = folder / _DIFFUSERS if converted else folder
    _download(hub, repo, listing.commit, chosen, place, reporter)
    arrived = [
        {"file": each.name, "bytes": each.size, "sha256": sha256_of(place / each.name)}
        for each in chosen
    ]
    if converted:
        _convert(place, folder, repo, reporter)
    config = weights.describe(folder / MODEL)  # raises where it is no model of ddpm
    if not (folder / SETTINGS).is_file():
        write_json(folder / SETTINGS, to_dict(config), durable=False)
    return {
        "repo": repo,
        "commit": listing.commit,
        "hub": hub.address,
        "converted": converted,
        "files": arrived,
    }


def _is_ours(hub: Hub, repo: str, listing: Listing, folder: Path, reporter: Reporter) -> bool:
    """Whether the settings beside model.safetensors are of ddpm: many libraries use that name."""
    settings = listing.files.get(SETTINGS)
    if settings is None:
        return True  # the weights' own will tell
    _download(hub, repo, listing.commit, contents.ours({SETTINGS: settings}), folder, SILENT)
    try:
        read_config(folder / SETTINGS)
    except DdpmError as error:
        if contents.of_diffusers(listing.files):
            (folder / SETTINGS).unlink()
            return False
        raise DdpmError(f"{repo} holds a model of another library: {first_line(error)}") from error
    return True


def _download(
    hub: Hub,
    repo: str,
    commit: str,
    files: Sequence[RemoteFile],
    folder: Path,
    reporter: Reporter,
) -> None:
    """Download files and compare each with its hash; one that differs is deleted again."""
    missing = [file for file in files if not (folder / file.name).is_file()]
    total = sum(file.size for file in missing)
    check_free_space(folder, total, f"the files of {repo}", "choose another --out")
    folder.mkdir(parents=True, exist_ok=True)
    done = 0
    with reporter.bar(f"downloading {repo}", total, "bytes") as bar:

        def received(count: int) -> None:
            nonlocal done
            done += count
            bar.update(done)

        for file in files:
            path = hub.download(repo, commit, file.name, folder, received)
            if path.resolve() != (folder / file.name).resolve():
                raise DdpmError(f"{repo}: {file.name} arrived as {path}")
            _verify(file, path, repo)


def _verify(file: RemoteFile, path: Path, repo: str) -> None:
    """Raise DdpmError, and delete the file, where its size or hash is not what the hub says."""
    size = path.stat().st_size
    hash_fits = file.blob in (None, _blob(path)) if file.sha256 is None else False
    if size == file.size and (hash_fits or sha256_of(path) == file.sha256):
        return
    path.unlink()
    raise DdpmError(
        f"{repo}: {file.name} arrived damaged ({in_words(size)} with another hash than the hub "
        "says) and was deleted; run the same command again"
    )


def _blob(path: Path) -> str:
    """Git's hash of a file: the SHA-1 of its size and content."""
    content = path.read_bytes()
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()


def _convert(pipeline: Path, folder: Path, repo: str, reporter: Reporter) -> None:
    """Import the pipeline's weights, and remove it."""
    reporter.say(f"{repo} is a pipeline of diffusers: its weights are converted")
    try:
        options = ImportOptions()
        convert(pipeline, folder / MODEL, options, reporter, overwrite=True, origin=repo)
    except DdpmError as error:
        raise type(error)(
            f"{repo} cannot be converted: {error}. Its files are in {pipeline}, for ddpm convert"
        ) from error
    shutil.rmtree(pipeline)


def _pulled_before(out: Path, repo: str, commit: str) -> dict[str, Any] | None:
    """The document of an earlier pull of the same commit into the folder, if it is there whole.

    Raises DdpmError where there is anything else.
    """
    if not out.exists() or _is_empty(out):
        return None
    record = pulled_record(out)
    same = (record.get("repo"), record.get("commit")) == (repo, commit)
    if same and (out / MODEL).is_file():
        return record
    held = f" (it holds {record.get('repo')})" if record else ""
    raise DdpmError(f"{out} exists{held}, and is not overwritten; choose another --out")


def _with_a_name(out: Path) -> Path:
    """The same folder by a name that another can be put beside: not ".", ".." or a link's."""
    if out.name not in ("", "..") and not out.is_symlink():
        return out
    try:
        return out.resolve()
    except (OSError, RuntimeError) as error:  # a loop of links
        fix = "choose another --out"
        raise DdpmError(f"cannot write {out}: {first_line(error)}; {fix}") from error


def _is_empty(folder: Path) -> bool:
    return folder.is_dir() and not any(folder.iterdir())


def _become(arriving: Path, out: Path) -> None:
    """Rename the folder, without what the hub's library noted in it.

    The folder that the shell is in keeps its place: the files move into it, the record last.
    """
    try:
        shutil.rmtree(arriving / ".cache", ignore_errors=True)
        if not (out.is_dir() and out.samefile(Path.cwd())):
            arriving.rename(out)
            return
        for path in sorted(arriving.iterdir(), key=lambda path: path.name == RECORD):
            path.rename(out / path.name)
        arriving.rmdir()
    except OSError as error:
        raise cannot_write(out, error) from error
