"""What to try where drawn images are odd: options of sampling, or more training."""

from __future__ import annotations

import math

from ddpm_cli.core.config.run import RunConfig
from ddpm_cli.core.diffusion.settings import CONSISTENCY, Sampling, default_spacing

_FEW = 10_000  # images seen, after which no network draws well
_MORE = 200_000  # images seen, up to which more of them are what odd images need first
_COLD = 0.05  # share of the initial weights in the averaged ones
_STEPS, _TOO_FEW = 50, 5  # of which images are blurred, whatever else is chosen
_STEPS_OF_CONSISTENCY = 4  # more add little
_EULER = 0.5772  # the limit of 1 + 1/2 + … + 1/n - log n


def of_images(oddity: str, sampling: Sampling) -> str:
    """What to try for one thing that is odd about images, a sentence; "" for nothing."""
    options = _options(oddity, sampling)
    if not options:
        return ""
    at = f"At --guidance {sampling.guidance:g} try" if sampling.guidance > 1 else "Try"
    return f"{at} {' or '.join(options)}."


def _options(oddity: str, sampling: Sampling) -> list[str]:
    """Options that may help, those that change least first."""
    chosen = sampling.timesteps or sampling.sigmas or sampling.sections
    most = _STEPS_OF_CONSISTENCY if sampling.sampler == CONSISTENCY else _STEPS
    steps = sampling.steps or most
    few, too_few = steps < most, steps <= min(_TOO_FEW, most - 1) and not chosen
    guided = sampling.guidance > 1 and not too_few  # which is then not what is wrong
    lower = f"--guidance {max(1, sampling.guidance / 2):.3g}"
    noisy = oddity in ("noise", "flat")
    options = [
        (sampling.threshold == "none", "--threshold static"),
        (guided and sampling.threshold == "static" and not noisy and oddity != "alike",
         "--threshold dynamic"),
        (guided and oddity != "noise", lower),
        (noisy and sampling.final_sigma != "zero", "--final-sigma zero"),
        (not guided and _is_late(sampling), f"--spacing {default_spacing(sampling.sampler)}"),
        (not guided and bool(chosen), "evenly spaced --steps"),
        (few and not chosen and (noisy or not guided), f"--steps {most}"),
        (noisy and bool(sampling.eta) and few, "--eta 0"),
    ]  # fmt: skip
    return [text for fits, text in options if fits][:2]


def _is_late(sampling: Sampling) -> bool:
    """Whether the spacing may start where images are visible (Lin et al. 2024, section 3.3)."""
    return sampling.spacing is not None and sampling.spacing != default_spacing(sampling.sampler)


def of_training(config: RunConfig, images: int, *, poor: bool) -> tuple[str, str] | None:
    """A name and a line where the training is too short for good images; None where it is not.

    poor: whether something is odd about the images that no option of sampling is likely to mend.
    """
    if not images or config.origin is not None:  # trained elsewhere, before
        return None
    seen = f"The model has seen {images:,} images"
    initial = initial_share(config, images)
    if initial > _COLD:
        return "cold average", (
            f"{seen}, so {100 * initial:.0f} % of its averaged weights are still the random "
            "initial ones: train on, or with a shorter --ema-halflife."
        )
    if images < _FEW:
        return "few images", f"{seen}, which is few: train on before judging the samples."
    if poor and images < _MORE:
        return "few images", f"{seen}: more training may help."
    return None


def initial_share(config: RunConfig, images: int) -> float:
    """How much of the averaged weights are the initial ones after so many images, 0 to 1.

    The average halves them every min(halflife, rampup times the images seen) images.
    """
    optimiser = config.optimiser
    steps = images // optimiser.batch
    rising = min(steps, int(optimiser.ema_halflife / (optimiser.ema_rampup * optimiser.batch)))
    harmonic = math.log(rising) + _EULER + 1 / (2 * rising) if rising else 0.0
    halved = harmonic / optimiser.ema_rampup
    halved += (steps - rising) * optimiser.batch / optimiser.ema_halflife
    return float(0.5**halved)
