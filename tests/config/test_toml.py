"""Settings as TOML with comments, read back by Python's tomllib."""

from __future__ import annotations

import dataclasses
import math
import tomllib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ddpm_cli.core.config.fields import Settings, settings_of
from ddpm_cli.core.config.network_inputs import TextConfig
from ddpm_cli.core.config.presets import PRESETS
from ddpm_cli.core.config.run import RunConfig, WeightsOrigin
from ddpm_cli.core.config.serialisation import from_dict, to_dict, updated
from ddpm_cli.core.config.toml import as_toml
from ddpm_cli.core.errors import UsageError


def read_back(text: str) -> RunConfig:
    return from_dict(RunConfig, tomllib.loads(text))


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_reads_back_equal(name: str) -> None:
    config = updated(RunConfig(), PRESETS[name].settings)
    assert read_back(as_toml(config)) == config


def test_every_setting_is_written_even_without_a_value() -> None:
    def names(values: dict, path: str = "") -> set[str]:
        nested = {k: names(v, f"{path}{k}.") for k, v in values.items() if isinstance(v, dict)}
        return {path + k for k in values if k not in nested}.union(*nested.values())

    config = RunConfig()
    others = {f"network.{name}" for name in config.network.unused}
    assert len(others) > 5
    assert names(tomllib.loads(as_toml(config))) == names(to_dict(config)) - others
    whole = updated(config, {"network": {"text": to_dict(TextConfig())}})
    whole = dataclasses.replace(whole, origin=WeightsOrigin("a.safetensors", "0" * 64))
    assert names(tomllib.loads(as_toml(whole))) == names(to_dict(whole)) - others
    assert read_back(as_toml(whole)) == whole


def test_a_setting_without_a_value_replaces_one() -> None:
    base = updated(RunConfig(), {"network": {"head_width": 64}})
    written = tomllib.loads(as_toml(RunConfig()))
    assert written["network"]["head_width"] == written["network"]["text"] == "none"
    assert updated(base, written).network.head_width is None


def test_comments_have_help_unit_option_and_default() -> None:
    lines = as_toml(RunConfig(), {"optimiser.batch": "option --batch"}).splitlines()
    place = lines.index("batch = 128  # option --batch")
    comment = " ".join(line.removeprefix("# ") for line in lines[place - 2 : place])
    assert "images per optimiser step" in comment
    assert comment.endswith("(images; --batch; default 128)")
    assert max(map(len, lines)) <= 100
    whole = " ".join(line.removeprefix("# ") for line in lines)
    for setting in settings_of(RunConfig):
        left_out = setting.path[1:2] in (("text",), ("consistency",))
        left_out |= setting.path[0] == "network" and setting.path[-1] in RunConfig().network.unused
        assert setting.info.help in whole or left_out


@given(st.lists(st.text(), max_size=3), st.text())
def test_any_text_reads_back_equal(captions: list[str], source: str) -> None:
    config = updated(RunConfig(), {"data": {"templates": captions, "source": source}})
    assert read_back(as_toml(config)) == config


@given(st.floats(min_value=1e-300, max_value=1e300))
def test_any_number_reads_back_equal(rate: float) -> None:
    config = updated(RunConfig(), {"optimiser": {"lr": rate, "betas": [0.0, 0.5]}})
    assert read_back(as_toml(config)) == config


def test_long_lists_take_a_line_each() -> None:
    names = [f'class "{i}" \\ \x7f\n' for i in range(40)]
    config = updated(RunConfig(), {"network": {"classes": names}})
    text = as_toml(config, {"network.classes": "data"})
    assert read_back(text).network.classes == tuple(names)
    assert "]  # data" in text


def test_bytes_that_are_no_text_are_refused() -> None:
    config = updated(RunConfig(), {"data": {"source": "caf\udce9"}})
    with pytest.raises(UsageError, match=r"data\.source .*not UTF-8"):
        as_toml(config)


def test_infinity() -> None:
    @dataclasses.dataclass
    class One(Settings):
        most: float = math.inf

    assert tomllib.loads(as_toml(One())) == {"most": math.inf}
