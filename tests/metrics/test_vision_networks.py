"""DINOv2 and CLIP: features against the published extractors, each protocol, wrong files.

With small stand-ins of the published keys. Tolerances: 1e-4 of the largest feature, 1e-3 of a
distance, as for Inception.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional
from torchvision import transforms

from ddpm_cli.core.errors import DdpmError
from ddpm_cli.core.metrics.networks import clip, dinov2, protocols
from ddpm_cli.core.metrics.networks.extraction import Extractor, load_extractor
from ddpm_cli.core.metrics.networks.named import NETWORKS
from ddpm_cli.core.metrics.scores.frechet import frechet_distance
from ddpm_cli.core.runtime.downloads import sha256_of
from ddpm_cli.core.runtime.reporting import Silent
from tests.support import vision_standin as standin

CPU = torch.device("cpu")
SIZES = ((32, 32), (28, 28), (300, 200), (90, 231), (224, 224))  # height, width
MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet
CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_DEVIATION = (0.26862954, 0.26130258, 0.27577711)


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    standin.smaller(monkeypatch)


def pictures(count: int, seed: int = 0) -> list[Tensor]:
    """uint8 (1, 3, H, W) of several sizes: smooth, with noise, so that resizing matters."""
    generator = torch.Generator().manual_seed(seed)
    found = []
    for i in range(count):
        coarse = torch.rand(1, 3, 4, 5, generator=generator) * 200
        x = functional.interpolate(coarse, SIZES[i % len(SIZES)], mode="bilinear")
        found.append((x + torch.rand(x.shape, generator=generator) * 55).to(torch.uint8))
    return found


def extracted(extractor: Extractor, images: list[Tensor]) -> Tensor:
    return torch.cat([features.pool for features in extractor.features(images)])


def load(name: str, path: Path, protocol: str | None = None) -> Extractor:
    chosen = protocols.protocol(protocol, name)
    return load_extractor(path, chosen, CPU, 4, Silent(), name=name)


def close(ours: Tensor, theirs: Tensor) -> bool:
    assert theirs.std(dim=0).mean() > 0.01, "the stand-in's features are constant"
    return bool((ours - theirs).abs().max() < 1e-4 * theirs.abs().max())


def pil(image: Tensor) -> Image.Image:
    return Image.fromarray(image[0].permute(1, 2, 0).numpy())


def as_dgm_eval(image: Tensor) -> Tensor:
    """By its definition: torchvision on PIL images, resized straight to 224 x 224."""
    resize = transforms.Resize((224, 224), transforms.InterpolationMode.BICUBIC)
    steps = [resize, transforms.ToTensor(), transforms.Normalize(MEAN, DEVIATION)]
    prepared: Tensor = transforms.Compose(steps)(pil(image))
    return prepared[None]


def as_edm2(image: Tensor) -> Tensor:
    """By its definition: float32 in torch, antialiased."""
    x = functional.interpolate(image.float(), size=(224, 224), mode="bicubic", antialias=True)
    return (x / 255 - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(DEVIATION).view(3, 1, 1)


@pytest.mark.parametrize("name, prepare", [("dgm-eval", as_dgm_eval), ("edm2", as_edm2)])
def test_dinov2_by_the_protocols_own_definitions(
    name: str, prepare: Callable[[Tensor], Tensor], tmp_path: Path
) -> None:
    state = standin.meta_weights()
    extractor = load("dinov2-l", standin.write(tmp_path / "w.pth", state), name)
    images = pictures(10)
    theirs = standin.reference_dinov2(state, torch.cat([prepare(image) for image in images]))
    assert close(extracted(extractor, images), theirs)
    assert (extractor.origin.network, extractor.origin.protocol) == ("dinov2-l", name)


def test_dinov2_of_torch_fidelity(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    peer = pytest.importorskip("torch_fidelity.feature_extractor_dinov2")
    distances = pytest.importorskip("torch_fidelity.metric_fid")
    state = standin.meta_weights()

    class Reference(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return standin.reference_dinov2(state, x)

    monkeypatch.setattr(torch.hub, "load", lambda *_, **__: Reference())
    network = peer.FeatureExtractorDinoV2("dinov2-vit-l-14", ["dinov2"])
    extractor = load("dinov2-l", standin.write(tmp_path / "w.pth", state), "torch-fidelity")
    sides = pictures(20), pictures(20, seed=1)
    theirs = [torch.cat([network(image)[0] for image in images]) for images in sides]
    ours = [extracted(extractor, images) for images in sides]
    assert close(ours[0], theirs[0]) and close(ours[1], theirs[1])
    moments = [
        {"mu": x.double().mean(0).numpy(), "sigma": np.cov(x.double().numpy(), rowvar=False)}
        for x in (side[:, :8] for side in theirs)  # of more features than images a root is singular
    ]
    expected = distances.fid_statistics_to_metric(*moments, False)["frechet_inception_distance"]
    own = [(x.mean(0), np.cov(x, rowvar=False)) for x in (s[:, :8].double().numpy() for s in ours)]
    assert frechet_distance(*own[0], *own[1]) == pytest.approx(expected, rel=1e-3)


def test_the_protocols_differ(tmp_path: Path) -> None:
    path, images = standin.write(tmp_path / "w.pth", standin.meta_weights()), pictures(5)
    names = [protocol.name for protocol in protocols.PROTOCOLS["dinov2-l"]]
    found = [extracted(load("dinov2-l", path, name), images) for name in names]
    gaps = [(found[a] - found[b]).abs().max() for a, b in ((0, 1), (0, 2), (1, 2))]
    assert min(gaps) > 2e-4 * found[0].abs().max()


def test_dinov2_of_transformers(tmp_path: Path) -> None:
    """Its file's keys, and its network with positions interpolated as the published code does."""
    library = pytest.importorskip("transformers")
    state = standin.transformers_weights()
    save_file(state, tmp_path / "model.safetensors")
    ours = load("dinov2-l", tmp_path / "model.safetensors", "edm2")
    as_meta = load("dinov2-l", standin.write(tmp_path / "w.pth", standin.meta_weights()), "edm2")
    images = pictures(5)
    assert torch.equal(extracted(ours, images), extracted(as_meta, images))

    config = library.Dinov2Config(
        hidden_size=standin.WIDTH,
        num_hidden_layers=standin.DEPTH,
        num_attention_heads=standin.HEADS,
        image_size=518,
        patch_size=14,
    )
    config.save_pretrained(tmp_path)
    theirs, told = library.Dinov2Model.from_pretrained(tmp_path, output_loading_info=True)
    assert not told["missing_keys"] and not told["unexpected_keys"]
    x = torch.cat([as_edm2(image) for image in images])
    as_published = dinov2.positions_at(state["embeddings.position_embeddings"], 16)
    own_scale = theirs(x).pooler_output
    theirs.embeddings.interpolate_pos_encoding = lambda *_: as_published
    features = theirs(x).pooler_output
    assert close(extracted(ours, images), features.detach())
    assert (own_scale - features).abs().max() > 1e-3 * features.abs().max(), (
        "transformers interpolates as Meta's code does now: mend the words about it"
    )


def test_the_two_published_files_of_dinov2_count_as_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of equal weights: scores of either compare, and only a third file's do not."""
    path = tmp_path / "m.safetensors"
    save_file(standin.transformers_weights(), path)
    meta = standin.write(tmp_path / "w.pth", standin.meta_weights())
    known = NETWORKS["dinov2-l"]
    assert known.same == (dinov2.META_SHA256,) and known.published.url.endswith(".safetensors")
    published = replace(known.published, sha256=sha256_of(path))
    either = replace(known, published=published, same=(sha256_of(meta),))
    monkeypatch.setitem(NETWORKS, "dinov2-l", either)
    one, two = load("dinov2-l", path).origin, load("dinov2-l", meta).origin
    assert one.weights_sha256 == two.weights_sha256 == published.sha256
    assert one.conflict(two) is None
    other = load("dinov2-l", standin.write(tmp_path / "o.pth", standin.meta_weights(1))).origin
    assert one.conflict(other) is not None


def test_positions_by_the_published_scale() -> None:
    embeddings = standin.meta_weights()["pos_embed"]
    ours = dinov2.positions_at(embeddings, 16)
    assert torch.equal(ours[:, 0], embeddings[:, 0])
    grid = embeddings[0, 1:].reshape(37, 37, -1)

    def cubic(t: float) -> list[float]:  # Keys 1981, a = -3/4, as torch has it without antialiasing
        a, distances = -0.75, (1 + t, t, 1 - t, 2 - t)
        return [
            (a + 2) * d**3 - (a + 3) * d**2 + 1 if d <= 1 else a * (d**3 - 5 * d**2 + 8 * d - 4)
            for d in distances
        ]

    def taps(i: int) -> list[tuple[int, float]]:
        at = (i + 0.5) * 37 / 16.1 - 0.5
        low = int(np.floor(at))
        weights = cubic(at - low)
        return [(min(max(low + k - 1, 0), 36), weight) for k, weight in enumerate(weights)]

    for row, column in ((0, 0), (7, 11), (15, 15)):
        expected = sum(u * v * grid[y, x] for y, u in taps(row) for x, v in taps(column))
        assert torch.allclose(ours[0, 1 + 16 * row + column], torch.as_tensor(expected), atol=1e-4)


def test_clip_of_transformers(tmp_path: Path) -> None:
    """Embeddings as cmmd-pytorch computes them: the middle square, PIL's bicubic, normalised."""
    library = pytest.importorskip("transformers")
    state = standin.clip_weights()
    path = standin.write(tmp_path / "pytorch_model.bin", state)
    config = library.CLIPVisionConfig(
        hidden_size=standin.WIDTH,
        intermediate_size=4 * standin.WIDTH,
        num_hidden_layers=standin.DEPTH,
        num_attention_heads=standin.HEADS,
        image_size=336,
        patch_size=14,
        projection_dim=standin.OUTPUT,
    )
    folder = tmp_path / "theirs"
    config.save_pretrained(folder)
    kept = {k: v for k, v in state.items() if k.startswith(("vision_model.", "visual_"))}
    kept.pop("vision_model.embeddings.position_ids")
    save_file(kept, folder / "model.safetensors", metadata={"format": "pt"})
    kind = library.CLIPVisionModelWithProjection
    theirs, told = kind.from_pretrained(folder, output_loading_info=True)
    assert not told["missing_keys"] and not told["unexpected_keys"]
    images = pictures(10)
    prepared = []
    for image in images:
        side = min(image.shape[2:])
        square = transforms.CenterCrop(side)(pil(image))
        x = transforms.ToTensor()(square.resize((336, 336), Image.Resampling.BICUBIC))
        prepared.append(transforms.Normalize(CLIP_MEAN, CLIP_DEVIATION)(x))
    expected = theirs(torch.stack(prepared)).image_embeds.detach()
    expected /= expected.norm(dim=1, keepdim=True)
    extractor = load("clip-l336", path)
    ours = extracted(extractor, images)
    assert close(ours, expected)
    assert torch.allclose(ours.norm(dim=1), torch.ones(10), atol=1e-6)
    assert extractor.network.width == standin.OUTPUT
    assert torch.equal(ours, extracted(load("clip-l336", folder / "model.safetensors"), images))


@pytest.mark.parametrize(
    "kind, parameters", [(dinov2.Dinov2, 304_368_640), (clip.ClipVision, 304_293_888)]
)
def test_published_sizes(
    kind: Callable[[], Any], parameters: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.undo()  # the published sizes
    with torch.device("meta"):
        network = kind()
    count = sum(parameter.numel() for parameter in network.parameters())
    if kind is dinov2.Dinov2:
        count += (37**2 - 16**2) * 1024 + 1024  # as in the file: all positions, and the mask token
    assert count == parameters
    assert network.width == (1024 if kind is dinov2.Dinov2 else 768)


@pytest.fixture(params=["dinov2-l", "clip-l336"])
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def refused(name: str, path: Path) -> str:
    with pytest.raises(DdpmError) as caught:
        load(name, path)
    message = str(caught.value)
    assert str(path) in message
    assert message.count("\n") == 0
    return message


def weights_of(name: str) -> dict[str, Tensor]:
    return standin.meta_weights() if name == "dinov2-l" else standin.clip_weights()


def test_files_of_other_networks_are_refused(name: str, tmp_path: Path) -> None:
    path, state = tmp_path / "w.pth", weights_of(name)
    other = standin.clip_weights() if name == "dinov2-l" else standin.meta_weights()
    message = refused(name, standin.write(path, other))
    assert "is missing" in message and "more" in message
    assert NETWORKS[name].published.url in message
    query = "vision_model.encoder.layers.1.self_attn.q_proj.weight"
    key = "blocks.1.attn.qkv.weight" if name == "dinov2-l" else query
    without = standin.write(path, {k: v for k, v in state.items() if k != key})
    assert "blocks.1.attn.qkv.weight is missing" in refused(name, without)
    for wrong in (torch.zeros(()), torch.zeros(3), torch.zeros(2, 2, 2)):
        refused(name, standin.write(path, state | {key: wrong}))
    refused(name, standin.write(path, state | {"blocks.9.surplus": torch.zeros(1)}))
    refused(name, standin.write(path, {k: v[:0] if v.ndim else v for k, v in state.items()}))
    first = next(k for k in state if "pos_embed" in k or "position_embedding" in k)
    message = refused(name, standin.write(path, state | {first: state[first] * float("nan")}))
    assert "NaN" in message


class Payload:
    """A malicious pickle."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (print, ("executed",))


def test_nothing_but_tensors_is_read(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "w.pth"
    torch.save({"state": Payload()}, path)
    assert "which may run any code" in refused(name, path)
    torch.save({"model": weights_of(name)}, path)
    assert "flat state dict" in refused(name, path)
    standin.write(path, weights_of(name))
    path.write_bytes(path.read_bytes()[:-5000])
    assert "cut short" in refused(name, path)
    for file in (path, tmp_path / "w.safetensors"):
        file.write_bytes(b"<html>not found</html>")
        assert "no weights file but" in refused(name, file)
    assert "executed" not in capsys.readouterr().out
