"""The table of docs/presets.md: what each preset trains."""

from __future__ import annotations

from ddpm_cli.core.config.presets import PRESETS, preset
from ddpm_cli.core.config.run import RunConfig
from ddpm_cli.core.config.serialisation import updated
from tests.support.pages.text import cell, code, table


def overview() -> str:
    """Name, purpose and the settings that count, of each preset."""
    head = ("preset", "for", "width", "batch", "learning rate", "images")
    rows = []
    for name, entry in PRESETS.items():
        config = updated(RunConfig(), preset(name).settings)
        network = config.network
        width = " ".join(str(network.width * m) for m in network.multipliers)
        if network.family == "transformer":
            width = f"{network.width}, {network.depth} blocks"
        optimiser, budget = config.optimiser, config.budget.images
        images = "" if budget is None else f"{budget:,}"
        rows.append(
            (code(name), cell(entry.purpose), width, f"{optimiser.batch:,}",
             f"{optimiser.lr:g}", images)
        )  # fmt: skip
    return table(head, rows)
