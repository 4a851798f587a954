"""Tokenised text: UTF-8 bytes, or the cached hidden states of a frozen encoder."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from hashlib import sha256
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ddpm_cli.core.conditioning.frozen_encoder import FrozenEncoder, is_path
from ddpm_cli.core.config import paths
from ddpm_cli.core.config.network_inputs import TextConfig
from ddpm_cli.core.errors import DdpmError
from ddpm_cli.core.runtime.cache import cache_root
from ddpm_cli.core.runtime.files import atomic_write, is_written, reserve
from ddpm_cli.core.runtime.reporting import Reporter, track

_LAYOUT = 1  # of the cached files; raise it where they, or the hidden states of a text, change


@dataclass(frozen=True)
class TokenisedText:
    """M sentences, concatenated: bytes (T,), or hidden states (T, D) of a frozen encoder."""

    values: NDArray[np.uint8] | NDArray[np.float16]  # bytes plus one: zero is padding
    ends: NDArray[np.int64]  # (M,), the end of each sentence

    @cached_property
    def longest(self) -> int:
        """Length of the longest sentence, in bytes or hidden states."""
        return int(np.diff(self.ends, prepend=0).max())

    def take(self, indices: NDArray[np.int64]) -> Tensor:
        """The sentences of these indices, zero-padded: (B, L) int64 or (B, L, D) float32.

        L is the length of the longest of all M sentences.
        """
        out = np.zeros((len(indices), self.longest, *self.values.shape[1:]), self.values.dtype)
        for row, index in zip(out, indices, strict=True):
            start, end = self.ends[index - 1] if index else 0, self.ends[index]
            row[: end - start] = self.values[start:end]
        return torch.from_numpy(out).to(torch.int64 if out.ndim == 2 else torch.float32)


def is_valid_utf8(text: str) -> bool:
    """Whether a string can be encoded as UTF-8: it contains no lone surrogates."""
    return not any("\ud800" <= character <= "\udfff" for character in text)


def resolve_encoder(config: TextConfig, sentences: Sequence[str]) -> TextConfig:
    """Complete a config with a frozen encoder's width, maximum length and fingerprint.

    Raises DdpmError where the encoder cannot be used, or a sentence has too many bytes.
    """
    if config.encoder == "bytes":
        _encode_bytes(sentences, config.length)
        return config
    encoder = FrozenEncoder(config.encoder)
    name = config.encoder
    if is_path(name):  # a run may be sampled from another working directory
        name = str(paths.expanded(name).resolve())
    length = min(config.length, encoder.max_tokens or config.length)
    return replace(
        config, encoder=name, width=encoder.width, length=length, fingerprint=encoder.fingerprint
    )


def tokenise(
    config: TextConfig, sentences: Sequence[str], device: torch.device, reporter: Reporter
) -> TokenisedText:
    """Encode sentences for a network of this config.

    A frozen encoder's hidden states are cached. Raises DdpmError for sentences that are too long,
    and for an encoder that is missing or whose weights are not those of the config.
    """
    if config.encoder == "bytes":
        return _encode_bytes(sentences, config.length)
    contents = json.dumps([_LAYOUT, config.fingerprint, config.length, *sentences])
    key = sha256(contents.encode()).hexdigest()[:24]
    values, ends = (cache_root() / "texts" / f"{key}.{part}.npy" for part in ("values", "ends"))
    if not (is_written(values) and is_written(ends)):
        with (
            atomic_write(values, durable=False) as values_partial,
            atomic_write(ends, durable=False) as ends_partial,
        ):
            _write_hidden_states(config, sentences, device, reporter, values_partial, ends_partial)
    return TokenisedText(
        np.load(values, mmap_mode="r", allow_pickle=False), np.load(ends, allow_pickle=False)
    )


def _encode_bytes(sentences: Sequence[str], length: int) -> TokenisedText:
    """Encode sentences as UTF-8. Raises DdpmError for one of more than `length` bytes."""
    encoded = [sentence.encode() for sentence in sentences]
    lengths = [len(sentence) for sentence in encoded]
    _check_lengths(sentences, lengths, length, "bytes")
    return TokenisedText(
        np.frombuffer(b"".join(encoded), np.uint8) + np.uint8(1), np.cumsum(lengths)
    )


def _check_lengths(
    sentences: Sequence[str], lengths: Sequence[int], maximum: int, unit: str
) -> None:
    """Raise DdpmError for texts that are longer than the maximum, in bytes or tokens."""
    longest = int(np.argmax(lengths))
    if lengths[longest] > maximum:
        over = sum(length > maximum for length in lengths)
        raise DdpmError(
            f"{'a text has' if over == 1 else f'{over} texts have'} more than the {maximum} {unit} "
            f"that a text may have; the longest has {lengths[longest]}: "
            f"{sentences[longest][:60]!r}… Shorten it, or train with a larger --text-length"
        )


def _write_hidden_states(
    config: TextConfig,
    sentences: Sequence[str],
    device: torch.device,
    reporter: Reporter,
    values: Path,
    ends: Path,
) -> None:
    """Write the hidden states of the sentences, concatenated, and the end of each."""
    encoder = FrozenEncoder(config.encoder)
    if encoder.fingerprint != config.fingerprint:
        raise DdpmError(
            f"the text encoder in {config.encoder} is not the one that this model was trained "
            "with: its weights differ; give the folder of that one by --text-encoder"
        )
    tokens = encoder.tokens(sentences)
    lengths = [len(sentence) for sentence in tokens]
    _check_lengths(sentences, lengths, config.length, "tokens")
    content = io.BytesIO()
    np.save(content, np.cumsum(lengths))
    ends.write_bytes(content.getvalue())
    out = np.lib.format.open_memmap(
        values, mode="w+", dtype=np.float16, shape=(sum(lengths), config.width)
    )
    reserve(values)
    offset = 0
    states = encoder.hidden_states(tokens, device)
    for state in track(states, reporter, "encoding captions", len(tokens), "captions"):
        out[offset : offset + len(state)] = state
        offset += len(state)
    out.flush()
