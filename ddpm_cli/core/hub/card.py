"""The model card of a run: what it is, how it was trained, how to sample from it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ddpm_cli.core.config.diffusion import DiffusionConfig
from ddpm_cli.core.config.network import NetworkConfig
from ddpm_cli.core.config.published import last_part
from ddpm_cli.core.config.run import OPTIMISERS, RunConfig
from ddpm_cli.core.errors import listed

# The names on the hub of data sets that ddpm knows by name.
_DATASETS = {
    "mnist": "ylecun/mnist",
    "fashion-mnist": "zalando-datasets/fashion_mnist",
    "svhn": "ufldl-stanford/svhn",
    "cifar10": "uoft-cs/cifar10",
    "cifar100": "uoft-cs/cifar100",
    "food101": "ethz/food101",
}
_NO_LICENCE = (
    "# license: none is given yet. Say here, as in `license: mit`, what others may do with this "
    "model;\n# the licences of the images it was trained on may limit it."
)
CARD, PICTURE, LOSS = "README.md", "samples.png", "loss.png"


GUIDANCE = 2.0  # of the picture, and of the command beside it
_OF_NETWORK = 4  # rows of the settings that are not of the training


@dataclass(frozen=True)
class Facts:
    """What a card says."""

    repo: str  # user/name
    config: RunConfig
    parameters: int
    images: int  # seen in training
    preset: str  # "" where it is unknown
    version: str  # of ddpm, that trained it last; "" where it is unknown
    sha256: str  # of model.safetensors
    pictured: str | None  # what the picture shows; None without one
    scores: Sequence[dict[str, Any]]  # rows of scores.jsonl
    others_scored: bool  # whether those there are were of other weights, and are left out
    loss_plot: bool  # whether there is one
    no_diffusers_because: str | None  # None: a pipeline of diffusers lies beside
    revision: str | None
    licence: str | None

    @property
    def converted_from(self) -> str | None:
        """What the weights were converted from, by its name; None where they were trained."""
        origin = self.config.origin
        return origin.path if origin is not None and not self.images else None


def card(facts: Facts) -> str:
    """README.md: a front matter that the hub reads, and the text."""
    parts = [
        f"---\n{_front_matter(facts)}---\n",
        f"# {facts.repo.partition('/')[2]}\n",
        _what_it_is(facts),
    ]
    if facts.pictured:
        parts.append(f"![Sampled images]({PICTURE})\n\n{facts.pictured}\n")
    parts += ["## Sample from it\n", _how_to_sample(facts), "## Scores\n", _scores(facts)]
    parts += ["## Training\n" if facts.images else "## Network\n", _settings(facts)]
    if facts.loss_plot:
        parts.append(f"![Loss by images seen]({LOSS})\n")
    parts += ["## Files\n", _files(facts)]
    return "\n".join(parts)


def _front_matter(facts: Facts) -> str:
    """The metadata as YAML, written by the hub's library; the licence is the user's to give."""
    from huggingface_hub import ModelCardData

    network = facts.config.network
    tags = ["ddpm", "diffusion", "pixel-space"]
    tags += ["class-conditional"] * bool(network.classes)
    if facts.no_diffusers_because is None:
        tags.append("diffusers:DDPMPipeline")
    dataset = _DATASETS.get(facts.config.data.source.partition(":")[0])
    data = ModelCardData(
        library_name="diffusers" if facts.no_diffusers_because is None else "ddpm-cli",
        license=facts.licence,
        pipeline_tag=_task(facts.config),
        tags=tags,
        datasets=[dataset] if dataset else None,
    )
    lines = [str(data.to_yaml()).strip()]
    return "\n".join(lines if facts.licence else [*lines, _NO_LICENCE]) + "\n"


def _task(config: RunConfig) -> str:
    """The task as the hub names it."""
    if config.network.given_channels:
        return "image-to-image"
    return "text-to-image" if config.network.text else "unconditional-image-generation"


def _what_it_is(facts: Facts) -> str:
    network, data = facts.config.network, facts.config.data
    height, width = network.size
    colours = {1: "grey", 3: "colour", 4: "colour images with transparency"}[network.channels]
    kind = f"{height}x{width} {colours}" + ("" if network.channels == 4 else " images")
    conditions = []
    if network.classes:
        conditions.append(f"of {len(network.classes)} classes ({listed(network.classes, 12)})")
    if network.text:
        conditions.append("from captions")
    if network.given_channels:
        conditions.append(f"from a given image ({data.given or 'a paired one'})")
    condition = ", ".join(conditions) or "without conditions"
    return (
        f"A diffusion model of {kind} {condition}, with {facts.parameters:,} parameters, "
        f"{_where_from(facts)}.\n"
    )


def _where_from(facts: Facts) -> str:
    """That it was trained, or converted."""
    if facts.converted_from is not None:
        return f"converted from `{facts.converted_from.removeprefix('./')}`"
    images = last_part(facts.config.data.source) or "images"
    text = f"trained on {facts.images:,} images of `{images}`"
    text += f" by ddpm {facts.version}" if facts.version else " by ddpm"
    return text + (f" from its preset `{facts.preset}`" if facts.preset else "")


def _how_to_sample(facts: Facts) -> str:
    name, network = facts.repo.partition("/")[2], facts.config.network
    revision = f" --revision {facts.revision}" if facts.revision else ""
    options = f" --guidance {GUIDANCE:g}" if facts.config.guidable else ""
    if network.text:
        options += ' --prompt "…"'
    options += " --given IMAGE" if network.given_channels else ""
    text = (
        "By ddpm, with its samplers, guidance and scores:\n\n"
        "```sh\npip install 'ddpm-cli[hub]'\n"
        f"ddpm pull {facts.repo}{revision}\nddpm sample runs/{name}{options}\n```\n\n"
        "or in Python:\n\n```python\nimport ddpm_cli as ddpm\n\n"
        f'model = ddpm.load("runs/{name}")\nimages = model.sample(16, steps=50)\n```\n\n'
    )
    if facts.no_diffusers_because is not None:
        return text + f"diffusers cannot load it: {facts.no_diffusers_because}.\n"
    where = f', revision="{facts.revision}"' if facts.revision else ""
    text += (
        "By diffusers, which has the same network and noise schedule:\n\n```python\n"
        + ("import torch\n" if network.classes else "")
        + "from diffusers import DDPMPipeline\n\n"
        f'pipeline = DDPMPipeline.from_pretrained("{facts.repo}"{where})\n'
    )
    if not network.classes:
        return text + "image = pipeline(batch_size=1).images[0]\n```\n"
    return text + _with_classes(facts.config) + "```\n"


def _with_classes(config: RunConfig) -> str:
    """Sampling with diffusers where the network wants a class, which DDPMPipeline does not pass."""
    shape = ", ".join(map(str, (config.network.channels, *config.network.size)))
    return (
        "scheduler, labels = pipeline.scheduler, torch.tensor([0, 1])  # the pipeline passes none\n"
        f"x = torch.randn(2, {shape})\n"
        "for t in scheduler.timesteps:\n"
        "    with torch.no_grad():\n"
        "        output = pipeline.unet(x, t, class_labels=labels).sample\n"
        "    x = scheduler.step(output, t, x).prev_sample  # at last images from -1 to 1\n"
    )


def _scores(facts: Facts) -> str:
    if facts.others_scored:
        return "Those of the training are of other weights. `ddpm fid REAL RUN` measures them.\n"
    if not facts.scores:
        return (
            "`ddpm fid REAL RUN` measures them.\n"
            if facts.converted_from
            else (
                "None were measured in training (`ddpm train --fid-every`). `ddpm fid REAL RUN` "
                "measures them.\n"
            )
        )
    rows = ["| images seen | score | value | protocol |", "| ---: | --- | ---: | --- |"]
    for row in facts.scores:
        these = " (these weights)" if row["images"] == facts.images else ""
        rows.append(
            f"| {row['images']:,}{these} | {row['label']} | {row['value']:.4g} "
            f"| {str(row.get('protocol', '')).replace('|', '/')} |"
        )
    return "\n".join(rows) + "\n\nScores can be compared where their protocol lines are the same.\n"


def _settings(facts: Facts) -> str:
    config = facts.config
    diffusion, optimiser, network = config.diffusion, config.optimiser, config.network
    rows = [
        *_network(network),
        ("noise schedule", _schedule(diffusion)),
        ("predicts", diffusion.parameterisation),
        ("loss", f"{config.objective.loss}, weighting {config.objective.weighting}"),
        ("noise levels", config.objective.noise_levels),
        ("images seen", f"{facts.images:,}"),
        ("batch", f"{optimiser.batch:,}"),
        ("learning rate", f"{optimiser.lr:g} ({OPTIMISERS[optimiser.method]})"),
        ("average of weights", f"half-life of {optimiser.ema_halflife:,} images"),
        ("dropout", f"{network.dropout:g}"),
        ("mirrored images", "yes" if config.data.flip else "no"),
        ("augmentation", f"{config.data.augment:g}"),
        ("seed", str(optimiser.seed)),
    ]
    if not facts.images:  # the rest is of a training
        rows = rows[:_OF_NETWORK]
    table = "\n".join(f"| {name} | {value} |" for name, value in rows)
    text = f"| setting | value |\n| --- | --- |\n{table}\n\nAll settings are in `config.json`"
    trains = "; `ddpm train --config config.json --data IMAGES` trains with them"
    return text + (trains if facts.images else "") + ".\n"


def _network(network: NetworkConfig) -> list[tuple[str, str]]:
    """The family, its widths and its blocks: two rows."""
    return list(zip(("network", "blocks"), network.summary, strict=True))


def _schedule(diffusion: DiffusionConfig) -> str:
    if diffusion.schedule in ("edm", "flow"):
        return diffusion.schedule
    return f"{diffusion.schedule}, {diffusion.timesteps:,} timesteps"


def _files(facts: Facts) -> str:
    lines = [
        "- `model.safetensors`: the averaged weights, with their configuration "
        f"(sha256 `{facts.sha256}`)",
        "- `config.json`: every setting",
    ]
    if facts.no_diffusers_because is None:
        lines.append(
            "- `model_index.json`, `unet/`, `scheduler/`: the same network as a pipeline of "
            "diffusers"
        )
    return "\n".join(lines) + "\n"
