"""A run -> a repository of the hub: weights, a card, pictures, scores, diffusers' pipeline."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ddpm_cli.core.checkpoints import post_hoc, tensors, weights
from ddpm_cli.core.checkpoints.weights import Weights
from ddpm_cli.core.config.fields import shortened
from ddpm_cli.core.config.serialisation import to_dict
from ddpm_cli.core.conversion.exporting import export, why_not_exportable
from ddpm_cli.core.errors import UsageError
from ddpm_cli.core.generation import default_sampling
from ddpm_cli.core.generation.default_sampling import DefaultSampling
from ddpm_cli.core.hub import card, names, picture
from ddpm_cli.core.hub.client import Hub, check_name
from ddpm_cli.core.hub.contents import MODEL, SETTINGS
from ddpm_cli.core.hub.picture import Picture
from ddpm_cli.core.models.network import parameter_count
from ddpm_cli.core.runs import summary
from ddpm_cli.core.runtime.downloads import sha256_of
from ddpm_cli.core.runtime.files import in_words, write_json, write_text
from ddpm_cli.core.runtime.reporting import Reporter
from ddpm_cli.core.runtime.run_directory import RunDirectory, run_of

_BESIDE = (
    *("metrics.jsonl", "loss.png", "holdout.png", "scores.jsonl", "scores.png"),
    "statistics.json",
)


@dataclass(frozen=True)
class PushRequest:
    """What to upload, and to where."""

    run: Path  # or a weights file or snapshot
    repo: str  # user/name
    weights: str | None = None  # others than the newest: best, a snapshot, a file
    private: bool = False
    revision: str | None = None  # a branch, created where it is not there; None: main
    message: str | None = None
    licence: str | None = None
    card_only: bool = False

    def check(self) -> None:
        """Raise UsageError for a name that is none, or a text that is not UTF-8."""
        check_name(self.repo)
        texts = {"revision": self.revision, "message": self.message, "license": self.licence}
        for name, text in texts.items():
            if text is not None and not _is_text(text):
                raise UsageError(f"--{name} {shortened(text)} is no text: its bytes are not UTF-8")


@dataclass(frozen=True)
class Package:
    """The files to upload, by their names in the repository."""

    files: dict[str, Path]
    card: str
    no_diffusers_because: str | None
    notices: tuple[str, ...]
    images: int  # seen in training

    @property
    def sizes(self) -> dict[str, int]:
        """The files' bytes."""
        return {name: path.stat().st_size for name, path in self.files.items()}


def push(request: PushRequest, device: str, reporter: Reporter) -> dict[str, Any]:
    """Upload a run in one commit; the document for --json.

    The login is checked before anything is prepared, and what the user should know is said before
    anything is uploaded. Raises UsageError or DdpmError.
    """
    request.check()
    hub = Hub.connect()
    user = hub.user()
    reporter.say(f"Logged in at {hub.address} as {user}")
    with prepared(request, device, reporter) as package:
        sizes = package.sizes
        hub.create(request.repo, request.revision, private=request.private)
        reporter.say(f"Uploading {len(sizes)} files, {in_words(sum(sizes.values()))}")
        message = request.message or _message(package, card_only=request.card_only)
        commit, address = hub.commit(request.repo, package.files, message, request.revision)
        return _document(request, package) | {
            "commit": commit,
            "commit_url": address,
            "url": f"{hub.address}/{request.repo}",
        }


def rehearse(request: PushRequest, device: str, reporter: Reporter) -> dict[str, Any]:
    """What `push` would upload, and the card, without a login or a network."""
    request.check()
    Hub.connect()  # the library writes the card's metadata
    with prepared(request, device, reporter, draw=False) as package:
        return _document(request, package) | {"card": package.card}


@contextmanager
def prepared(
    request: PushRequest, device: str, reporter: Reporter, *, draw: bool = True
) -> Iterator[Package]:
    """The files of a push, some of them in a temporary folder for as long as the block runs.

    draw: sample a picture for the card where the run has none; else it is only said.
    """
    default = DefaultSampling()  # of a sweep, which was of its own weights alone
    if request.weights is None:
        default = default_sampling.of_run(request.run)
    source = default.find_weights(request.run, request.weights)
    model = weights.load(source)
    run = run_of(source)
    config = names.published(model.config, run.path)
    notices = [] if request.card_only else list(names.notices(model.config, config))
    with tempfile.TemporaryDirectory(prefix="ddpm-push-") as name:
        folder = Path(name)
        if default.weights is not None and not request.card_only:
            notices.append(
                f"the weights are {default.weights}, which ddpm sweep found best; --weights model "
                "uploads the newest"
            )
        shown = picture.found(run, model)
        if shown is None and draw and not config.network.given_channels:
            shown = picture.draw(source, folder / card.PICTURE, device, reporter)
        if shown is None:
            notices.append(picture.why_none(config))
        if post_hoc.stored(run):
            notices.append("The averages in ema/ are not pushed; --weights names one of ddpm ema")
        for notice in notices:
            reporter.say(notice)
        model = model._replace(config=config)
        found = _model_files(source, model, folder) | _default_sampling(default, folder)
        yield _package(request, run, found, model, shown, notices, scored=_is_scored(source, run))


def _package(
    request: PushRequest,
    run: RunDirectory,
    found: dict[str, Path],
    model: Weights,
    shown: Picture | None,
    notices: Sequence[str],
    *,
    scored: bool,
) -> Package:
    """All files, with the card that describes them."""
    found = found | {name: run.path / name for name in _BESIDE if (run.path / name).is_file()}
    found |= {} if shown is None else {card.PICTURE: shown.path}
    folder, obstacle = found[SETTINGS].parent, why_not_exportable(model.config)
    if obstacle is None and not request.card_only:
        found |= _pipeline(found[MODEL], folder / "diffusers")
    text = card.card(_facts(request, run, found, model, shown, obstacle, scored=scored))
    text = text.encode(errors="replace").decode()  # images may have a name that is no text
    write_text(folder / card.CARD, text, durable=False)
    found = {card.CARD: folder / card.CARD, **found}
    if request.card_only:
        of_card = (card.CARD, card.PICTURE, card.LOSS)
        found = {name: found[name] for name in of_card if name in found}
    return Package(found, text, obstacle, tuple(notices), model.images)


def _facts(
    request: PushRequest,
    run: RunDirectory,
    found: dict[str, Path],
    model: Weights,
    shown: Picture | None,
    obstacle: str | None,
    *,
    scored: bool,
) -> card.Facts:
    """What the card says."""
    starts, scores = summary.starts(run.path), _scores(run, model.images)
    return card.Facts(
        repo=request.repo,
        config=model.config,
        parameters=parameter_count(model.network),
        images=model.images,
        preset=next((str(row["preset"]) for row in reversed(starts) if row.get("preset")), ""),
        version=str(starts[-1].get("ddpm") or "") if starts else "",
        sha256=sha256_of(found[MODEL]),
        pictured=None if shown is None else shown.caption,
        scores=scores if scored else (),
        others_scored=bool(scores) and not scored,
        loss_plot=card.LOSS in found,
        no_diffusers_because=obstacle,
        revision=request.revision,
        licence=request.licence,
    )


def _is_text(value: str) -> bool:
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def _model_files(source: Path, model: Weights, folder: Path) -> dict[str, Path]:
    """The weights and their settings: the weights file itself, where it says the same of them."""
    write_json(folder / SETTINGS, to_dict(model.config), durable=False)
    path, is_snapshot = folder / MODEL, source.suffix != ".safetensors"
    if not is_snapshot and weights.describe(source) == model.config:
        path = source
    else:
        state = model.network.state_dict() if is_snapshot else tensors.read(source).tensors
        weights.save(path, state, model.config, model.images, model.statistics)
    return {MODEL: path, SETTINGS: folder / SETTINGS}


def _default_sampling(default: DefaultSampling, folder: Path) -> dict[str, Path]:
    """What a sweep found, of the weights that are pushed, without paths of this machine.

    Nothing where a guide belongs to it, as that is not pushed.
    """
    if default.path is None or "guide" in default.sampling:
        return {}
    measured = {name: value for name, value in default.measured.items() if name != "real"}
    pushed = RunDirectory(folder)
    replace(default, weights=None, measured=measured).write(pushed)
    return {pushed.sampling.name: pushed.sampling}


def _pipeline(model: Path, folder: Path) -> dict[str, Path]:
    """The weights as a DDPMPipeline's folder: its files by their names."""
    export(model, folder)
    paths = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {path.relative_to(folder).as_posix(): path for path in paths}


def _is_scored(source: Path, run: RunDirectory) -> bool:
    """Whether a training scores these weights: not a rebuilt average, nor a student's teacher."""
    return source in (run.weights, run.best) or source.parent == run.snapshots


def _scores(run: RunDirectory, images: int) -> list[dict[str, Any]]:
    """Of the scores that can be compared: the best, the last, and those of these weights."""
    rows = summary.scores(run.path)
    best = min((row["value"] for row in rows), default=None)
    return [
        row for row in rows if row["value"] == best or row["images"] == images or row is rows[-1]
    ]


def _message(package: Package, *, card_only: bool) -> str:
    what = "Card of a model" if card_only else "Model"
    return f"{what} of ddpm after {package.images:,} images"


def _document(request: PushRequest, package: Package) -> dict[str, Any]:
    return {
        "repo": request.repo,
        "revision": request.revision,
        "files": [{"file": name, "bytes": size} for name, size in package.sizes.items()],
        "notices": list(package.notices),
        "no_export_because": package.no_diffusers_because,
    }
