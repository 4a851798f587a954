"""How fast noise schedules destroy an image, and which noise levels sampling visits. Needs no run.

    python docs/figures/schedules.py

- schedules.png: abar and the log signal-to-noise ratio of every schedule;
- forward.png: one image under each of them;
- edm-levels.png: the levels of EDM's grid, beside cosine's timesteps evenly apart;
- spacings.png: which timesteps and noise levels ten steps visit by each spacing.
"""

from __future__ import annotations

import numpy as np
from drawing import options, plots, save, save_plots, sheet
from numpy.typing import NDArray
from pixels import scene

import ddpm_cli as ddpm
from ddpm_cli.core.diffusion.grids import sigmas

OUTPUTS = ("schedules.png", "forward.png", "edm-levels.png", "spacings.png")

NAMES = ("linear", "quadratic", "sigmoid", "cosine", "sigmoid-abar", "edm", "flow")
SPACINGS = ("trailing", "leading", "linspace", "quadratic", "beta", "karras", "exponential")
SIDE, COLUMNS, STEPS = 44, 9, 10  # pixels and columns of forward.png; steps of spacings.png


def levels(name: str) -> NDArray[np.float64]:
    """The noise levels sigma of a schedule at its 1000 timesteps."""
    return np.asarray(ddpm.schedule(name).sigma)


def visited(schedule: str, steps: int, spacing: str) -> NDArray[np.float64]:
    """The noise levels that sampling visits, without the 0 at which it ends."""
    return sigmas(ddpm.schedule(schedule), steps, spacing)[:-1].numpy()


def main() -> None:
    """Draw all four."""
    folder = options(__doc__).out

    figure, ((signal, ratio),) = plots(1, 2, height=3.6)
    for number, name in enumerate(NAMES):
        sigma, style = levels(name), "--" if name in ("edm", "flow") else "-"
        part = np.arange(len(sigma)) / (len(sigma) - 1)
        signal.plot(part, 1 / (1 + sigma**2), style, color=f"C{number}", label=name)
        ratio.plot(part, -2 * np.log10(sigma), style, color=f"C{number}", label=name)
    time = "time t / T, from the image to noise"
    signal.set(xlabel=time, ylabel="abar, the share of signal in $x_t$'s variance")
    ratio.set(xlabel=time, ylabel=r"$\log_{10}$ SNR $= -2\,\log_{10} \sigma$", ylim=(-9, 6))
    ratio.legend(fontsize=9, ncols=2)
    save_plots(folder / "schedules.png", figure)

    x0 = np.asarray(scene().resize((SIDE, SIDE), box=(40, 0, 200, 160))) / 127.5 - 1
    noise = np.random.default_rng(0).standard_normal(x0.shape)
    shown = []
    for name in NAMES:
        sigma = levels(name)
        for t in np.linspace(0, len(sigma) - 1, COLUMNS).round().astype(int):
            x = (x0 + sigma[t] * noise) / np.sqrt(1 + sigma[t] ** 2)
            shown.append((x.clip(-1, 1) * 127.5 + 127.5).round().astype(np.uint8))
    titles = [f"t = {t:.0f}" for t in np.linspace(0, 999, COLUMNS)]
    save(
        folder / "forward.png",
        sheet(np.stack(shown), COLUMNS, titles=titles, rows=NAMES),
        colours=96,
    )

    figure, ((grid,),) = plots(height=3.4)
    for name, spacing, label in (
        ("edm", "karras", "EDM: even in sigma^(1/7), from 80 to 0.002"),
        ("cosine", "trailing", "cosine's timesteps evenly apart, from 20,291"),
        ("linear", "trailing", "linear's timesteps evenly apart, from 157"),
    ):
        grid.plot(range(1, 19), visited(name, 18, spacing), "o-", ms=4, label=label)
    grid.set(xlabel="step of 18", ylabel="noise level sigma", yscale="log", xticks=range(1, 19))
    grid.legend()
    save_plots(folder / "edm-levels.png", figure)

    figure, ((times, noises),) = plots(1, 2, height=3.4, sharey=True)
    sigma = levels("cosine")
    for row, spacing in enumerate(SPACINGS):
        at = visited("cosine", STEPS, spacing)
        steps = np.interp(np.log(at), np.log(sigma), np.arange(len(sigma)))
        times.plot(steps, np.full(STEPS, row), "o", ms=5, color=f"C{row}")
        noises.plot(at, np.full(STEPS, row), "o", ms=5, color=f"C{row}")
    times.set(yticks=range(len(SPACINGS)), yticklabels=SPACINGS, xlabel="timestep of cosine's 1000")
    noises.set(xlabel="noise level sigma", xscale="log")
    times.invert_yaxis()
    times.invert_xaxis()  # sampling goes from noise, on the left, to the image
    noises.invert_xaxis()
    save_plots(folder / "spacings.png", figure)


if __name__ == "__main__":
    main()
