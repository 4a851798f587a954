"""A run -> a repository of the hub: weights, a card, pictures, scores, diffusers' pipeline."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ddpm_cli.core.checkpoints import weights
from ddpm_cli.core.checkpoints.weights import Weights
from ddpm_cli.core.config.fields import shortened
from ddpm_cli.core.config.run import RunConfig
from ddpm_cli.core.config.serialisation import to_dict
from ddpm_cli.core.conversion.exporting import export, why_not_exportable
from ddpm_cli.core.data import files
from ddpm_cli.core.data.pictures import sheets
from ddpm_cli.core.errors import DdpmError, UsageError
from ddpm_cli.core.generation.trained_model import TrainedModel
from ddpm_cli.core.hub import card
from ddpm_cli.core.hub.client import Hub, check_name
from ddpm_cli.core.hub.contents import MODEL, SETTINGS
from ddpm_cli.core.models.unet import parameter_count
from ddpm_cli.core.runtime.downloads import sha256_of
from ddpm_cli.core.runtime.files import in_words, write_json, write_text
from ddpm_cli.core.runtime.reporting import Reporter
from ddpm_cli.core.runtime.run_directory import RunDirectory, find_weights, run_of_snapshot

_BESIDE = ("metrics.jsonl", "loss.png", "scores.jsonl", "scores.png", "statistics.json")
_DRAWN, _STEPS = 16, 50  # images of a picture that is drawn for the card, and their steps


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

    The login is checked before anything is prepared. Raises UsageError or DdpmError.
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
    source = find_weights(request.run)
    if request.weights is not None:
        source = find_weights(request.run, request.weights)
    model = weights.load(source)
    with tempfile.TemporaryDirectory(prefix="ddpm-push-") as name:
        yield _package(request, source, model, Path(name), device, reporter, draw=draw)


def _package(
    request: PushRequest,
    source: Path,
    model: Weights,
    folder: Path,
    device: str,
    reporter: Reporter,
    *,
    draw: bool,
) -> Package:
    run = run_of_snapshot(source) or RunDirectory(source.parent)
    newest = request.weights is None and source == run.weights
    found, notices = {MODEL: _as_safetensors(source, model, folder)}, []
    write_json(folder / SETTINGS, to_dict(model.config), durable=False)
    found[SETTINGS] = folder / SETTINGS
    found |= {name: run.path / name for name in _BESIDE if (run.path / name).is_file()}
    obstacle = why_not_exportable(model.config)
    if obstacle is None and not request.card_only:
        found |= _pipeline(found[MODEL], folder / "diffusers")
    picture = _newest_picture(run) if newest else None
    pictured = "Sampled images."
    if picture in run.previews():
        pictured = "A preview of the training, always from the same noise."
    if picture is None and draw:
        picture = _draw(source, folder / card.PICTURE, device, reporter)
        pictured = (
            f"{_DRAWN} samples in {_STEPS} steps, guidance {_guidance(model.config):g}, seed 0."
        )
    elif picture is None:
        notices.append(f"{card.PICTURE} would be drawn: the run has no picture of these weights")
    if picture is not None:
        found[card.PICTURE] = picture
    if Path(model.config.data.source).is_absolute():
        notices.append(
            f"config.json and {MODEL} name the images by their path, {model.config.data.source}"
        )
    text = card.card(  # which may name images by a path that is no text
        card.Facts(
            request.repo,
            model.config,
            parameter_count(model.network),
            model.images,
            next(reversed(run.presets()), "") if run.config.is_file() else "",
            sha256_of(found[MODEL]),
            pictured if picture is not None else None,
            _scores(run, model.images),
            card.LOSS in found,
            obstacle,
            request.revision,
            request.licence,
        )
    )
    text = text.encode(errors="replace").decode()
    write_text(folder / card.CARD, text, durable=False)
    found = {card.CARD: folder / card.CARD, **found}
    if request.card_only:
        found = {
            name: found[name] for name in (card.CARD, card.PICTURE, card.LOSS) if name in found
        }
    return Package(found, text, obstacle, tuple(notices), model.images)


def _is_text(value: str) -> bool:
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def _as_safetensors(source: Path, model: Weights, folder: Path) -> Path:
    """The weights file itself; of a snapshot the average as one."""
    if source.suffix == ".safetensors":
        return source
    path = folder / MODEL
    state = model.network.state_dict()
    weights.save(path, state, model.config, model.images, model.statistics)
    return path


def _pipeline(model: Path, folder: Path) -> dict[str, Path]:
    """The weights as a DDPMPipeline's folder: its files by their names."""
    export(model, folder)
    paths = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {path.relative_to(folder).as_posix(): path for path in paths}


def _newest_picture(run: RunDirectory) -> Path | None:
    """The newest preview of the training, or grid that `ddpm sample` wrote into the run."""
    grids = [*run.previews()[-1:], *run.path.glob("generated*/grid.png")]
    return max(grids, key=lambda path: path.stat().st_mtime, default=None)


def _draw(source: Path, out: Path, device: str, reporter: Reporter) -> Path | None:
    """Sample a grid for the card; None where the model wants an image to begin with."""
    trained = TrainedModel.load(source, device, "auto", reporter)
    if trained.config.network.given_channels:
        reporter.say("No picture for the card: this model draws from images that it is given")
        return None
    steps = min(_STEPS, trained.config.diffusion.timesteps)
    guidance = _guidance(trained.config)
    images = trained.sample(_DRAWN, steps=steps, guidance=guidance).transpose(0, 3, 1, 2)
    files.write_png(out, sheets.enlarge(sheets.grid(images)))
    return out


def _guidance(config: RunConfig) -> float:
    """What the card's command samples with, where the network can be guided."""
    return card.GUIDANCE if card.is_guided(config) else 1.0


def _scores(run: RunDirectory, images: int) -> list[dict[str, Any]]:
    """Of the scores in training: the best of each kind, the last, and those of these weights."""
    try:
        text = (run.path / "scores.jsonl").read_text(encoding="utf-8")
        rows = [json.loads(line) for line in text.splitlines()]
        best = {
            row["label"]: min(row["value"] for row in rows if row["label"] == row["label"])
            for row in rows
        }
    except FileNotFoundError:
        return []
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise DdpmError(f"{run.path / 'scores.jsonl'} cannot be read: {error}") from error
    return [
        row
        for row in rows
        if row["value"] == best[row["label"]] or row["images"] == images or row is rows[-1]
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
