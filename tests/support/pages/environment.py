"""The tables of environment variables."""

from __future__ import annotations

from ddpm_cli.core.config.environment import OF_OTHERS, VARIABLES


def ours() -> str:
    """A row a variable of ours: what it does, its default, and the option that it sets."""
    rows = [
        f"| `{v.name}` | {v.meaning} | {v.default} | {f'`{v.option}`' if v.option else ''} |\n"
        for v in VARIABLES
    ]
    return "| variable | meaning | default | option |\n| --- | --- | --- | --- |\n" + "".join(rows)


def others() -> str:
    """A row for those of other programs that have an effect here."""
    rows = [f"| `{names.replace(', ', '`, `')}` | {text} |\n" for names, text in OF_OTHERS.items()]
    return "| variables | effect |\n| --- | --- |\n" + "".join(rows).replace("`…`", "…")
