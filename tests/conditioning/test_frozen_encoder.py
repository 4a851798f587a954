"""Frozen text encoders: tiny random CLIP and T5 models against the transformers library."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from fnmatch import fnmatch
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from ddpm_cli.core.conditioning import tokens
from ddpm_cli.core.conditioning.frozen_encoder import FrozenEncoder
from ddpm_cli.core.config.network_inputs import TextConfig
from ddpm_cli.core.errors import DdpmError
from ddpm_cli.core.runtime.reporting import Silent
from tests.support.cli import Result

CPU = torch.device("cpu")
WORDS = ["<pad>", "<end>", "<unknown>", "a", "image", "dark", "light", "of", "night", "day"]
SENTENCES = ["a dark image", "day", "a light image of a dark night of a dark day"]


def write_encoder(folder: Path, kind: str) -> Path:
    """A randomly initialised encoder of width 12, as save_pretrained writes it."""
    torch.manual_seed(0)
    if kind == "clip":
        config = transformers.CLIPTextConfig(
            vocab_size=10,
            hidden_size=12,
            intermediate_size=16,
            num_hidden_layers=2,
            num_attention_heads=2,
            max_position_embeddings=14,
            eos_token_id=1,
            pad_token_id=0,
        )
        model = transformers.CLIPTextModel(config)
    else:
        config = transformers.T5Config(
            vocab_size=10, d_model=12, d_kv=6, d_ff=16, num_layers=2, num_heads=2
        )
        model = transformers.T5EncoderModel(config)
    model.save_pretrained(folder)
    tokenizer = Tokenizer(models.WordLevel({w: i for i, w in enumerate(WORDS)}, "<unknown>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="$A <end>", special_tokens=[("<end>", 1)]
    )
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="<end>", unk_token="<unknown>"
    ).save_pretrained(folder)
    return folder


@pytest.fixture
def encoder(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    return write_encoder(tmp_path / "encoder", getattr(request, "param", "t5"))


def resolved(folder: Path) -> TextConfig:
    return tokens.resolve_encoder(TextConfig(str(folder)), SENTENCES)


@pytest.mark.parametrize("encoder", ["clip", "t5"], indirect=True)
def test_hidden_states_are_the_librarys(encoder: Path) -> None:
    config = resolved(encoder)
    length = 14 if (encoder / "config.json").read_text().find("clip") > 0 else 128
    assert (config.width, config.length) == (12, length)
    text = tokens.tokenise(config, SENTENCES, CPU, Silent())
    kind = transformers.CLIPTextModel if length == 14 else transformers.T5EncoderModel
    model = kind.from_pretrained(encoder).eval()
    rows = text.take(np.array([2, 0]))
    assert rows.shape == (2, 12, 12) and rows.dtype == torch.float32
    for row, sentence in zip(rows, (SENTENCES[2], SENTENCES[0]), strict=True):
        ids = torch.tensor([[*(WORDS.index(word) for word in sentence.split()), 1]])
        with torch.no_grad():
            alone = model(ids).last_hidden_state[0]
        torch.testing.assert_close(row[: ids.shape[1]], alone, rtol=2e-3, atol=2e-3)  # float16
        assert (row[ids.shape[1] :] == 0).all()


def test_hidden_states_are_computed_once(encoder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = resolved(encoder)
    first = tokens.tokenise(config, SENTENCES, CPU, Silent())
    shutil.rmtree(encoder)  # cached hidden states need no encoder
    again = tokens.tokenise(config, SENTENCES, CPU, Silent())
    assert isinstance(again.values, np.memmap) and np.array_equal(first.values, again.values)
    with pytest.raises(DdpmError, match="encoder: no such folder"):
        tokens.tokenise(config, ["a day"], CPU, Silent())


def test_an_encoder_that_changed_is_refused(encoder: Path) -> None:
    config = resolved(encoder)
    weights = encoder / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-4] ^= 64
    weights.write_bytes(data)
    with pytest.raises(DdpmError, match="not the one that this model was trained with"):
        tokens.tokenise(config, ["a day"], CPU, Silent())


def test_captions_of_too_many_tokens_are_refused(encoder: Path) -> None:
    config = tokens.resolve_encoder(TextConfig(str(encoder), length=5), SENTENCES)
    with pytest.raises(DdpmError, match=r"more than the 5 tokens .* has 12: 'a light image"):
        tokens.tokenise(config, SENTENCES, CPU, Silent())


def test_pickles_are_not_read(encoder: Path) -> None:
    (encoder / "model.safetensors").rename(encoder / "pytorch_model.bin")
    with pytest.raises(DdpmError, match=r"no safetensors weights\. Others are pickles"):
        FrozenEncoder(str(encoder))


def test_other_models_and_folders_are_named(encoder: Path, tmp_path: Path) -> None:
    config = json.loads((encoder / "config.json").read_text())
    (encoder / "config.json").write_text(json.dumps(config | {"model_type": "bert"}))
    with pytest.raises(DdpmError, match="is a bert; supported are clip"):
        FrozenEncoder(str(encoder))
    (encoder / "config.json").write_text("{")
    with pytest.raises(DdpmError, match=f"--text-encoder {encoder}: "):
        FrozenEncoder(str(encoder))
    with pytest.raises(DdpmError, match=r"the folder has no config\.json"):
        FrozenEncoder(str(tmp_path))


def test_the_hub_is_used_once_and_its_absence_reported(
    encoder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import huggingface_hub

    local_only = []

    def fetch(name: str, *, allow_patterns: list[str], local_files_only: bool = False) -> str:
        local_only.append(local_files_only)
        if name == "some/encoder" and not local_files_only:
            assert not any(fnmatch("pytorch_model.bin", pattern) for pattern in allow_patterns)
            return str(encoder)
        raise OSError("network is unreachable\nat all")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fetch)
    assert FrozenEncoder("some/encoder").width == 12
    assert local_only == [True, False]  # a cached encoder needs no network
    with pytest.raises(
        DdpmError, match=r"Hugging Face hub: network is unreachable\. Without network"
    ):
        FrozenEncoder("other/encoder")


def test_without_the_library_the_extra_is_named(
    encoder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(DdpmError, match=r"pip install 'ddpm-cli\[text\]'"):
        FrozenEncoder(str(encoder))


@pytest.mark.parametrize("encoder", ["clip"], indirect=True)
def test_training_and_sampling_with_a_frozen_encoder(
    train_tiny: Callable[..., Result], ddpm: Callable[..., Result], encoder: Path
) -> None:
    options = ("--caption", "a {class} image", "--text-encoder", encoder, "--images", 16)
    done = train_tiny(*options, "--out", "runs/a")
    assert done.code == 0, done.err
    text = json.loads(Path("runs/a/config.json").read_text())["network"]["text"]
    assert (text["encoder"], text["width"], text["length"]) == (str(encoder.resolve()), 12, 14)
    tensors = load_file("runs/a/model.safetensors")
    text_tensors = {name for name in tensors if "embedding.text" in name}
    layer = {f"embedding.text_map.{part}" for part in ("weight", "bias")}
    # the encoder is not in the weights file
    assert text_tensors == {"embedding.text.null"} | layer
    draw = ("sample", "runs/a", "-n", 2, "--steps", 2, "--guidance", 2)
    assert ddpm(*draw, "--prompt", "a dark night", "--out", "night").code == 0
    shutil.rmtree(encoder)
    gone = ddpm(*draw, "--prompt", "a light day", "--out", "day")
    assert gone.code == 1 and "no such folder" in gone.err and not Path("day").exists()

    moved = write_encoder(encoder.with_name("moved"), "clip")  # the same random weights
    options = ("--caption", "a {class} image", "--text-encoder", moved, "--images", 32)
    again = train_tiny(*options, "--out", "runs/a")
    assert again.code == 0 and "Resuming from" in again.err, again.err
    shutil.move(moved, moved.with_name("further"))
    options = ("--prompt", "a light day", "--out", "day", "--text-encoder")
    done = ddpm(*draw, *options, moved.with_name("further"))
    assert done.code == 0, done.err
    other = write_encoder(encoder.with_name("t5"), "t5")
    refused = ddpm(*draw, "--prompt", "night", "--out", "other", "--text-encoder", other)
    assert refused.code == 1 and "not the one that this model was trained with" in refused.err
