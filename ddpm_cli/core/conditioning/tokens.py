"""Sentences as a network reads them: their bytes, or a frozen encoder's vectors, computed once."""

from __future__ import annotations

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
from ddpm_cli.core.config.network import TextConfig
from ddpm_cli.core.errors import DdpmError
from ddpm_cli.core.runtime.cache import cache_root
from ddpm_cli.core.runtime.files import atomic_write
from ddpm_cli.core.runtime.reporting import Reporter, track


@dataclass(frozen=True)
class TokenisedText:
    """Sentences as a network reads them, end to end: bytes (T,), or an encoder's vectors (T, D)."""

    values: NDArray[np.uint8] | NDArray[np.float16]  # bytes are plus one: zero is no byte
    ends: NDArray[np.int64]  # (M,), where each sentence ends

    @cached_property
    def longest(self) -> int:
        """Bytes or vectors of the longest sentence."""
        return int(np.diff(self.ends, prepend=0).max())

    def take(self, numbers: NDArray[np.int64]) -> Tensor:
        """(B, L) int64 or (B, L, D) float32, zeros after the end; L is the longest of all M."""
        out = np.zeros((len(numbers), self.longest, *self.values.shape[1:]), self.values.dtype)
        for row, number in zip(out, numbers, strict=True):
            start, end = self.ends[number - 1] if number else 0, self.ends[number]
            row[: end - start] = self.values[start:end]
        return torch.from_numpy(out).to(torch.int64 if out.ndim == 2 else torch.float32)


def resolve_encoder(config: TextConfig, sentences: Sequence[str]) -> TextConfig:
    """The config with what a frozen encoder decides: the vectors' width, the most tokens it reads.

    Raises DdpmError where the encoder cannot be used, or a sentence has too many bytes to be read.
    """
    if config.encoder == "bytes":
        _as_bytes(sentences, config.length)
        return config
    encoder = FrozenEncoder(config.encoder)
    name = config.encoder
    if is_path(name):  # a run may be sampled from elsewhere
        name = str(Path(name).expanduser().resolve())
    length = min(config.length, encoder.longest or config.length)
    return replace(
        config, encoder=name, width=encoder.width, length=length, fingerprint=encoder.fingerprint
    )


def tokenise(
    config: TextConfig, sentences: Sequence[str], device: torch.device, reporter: Reporter
) -> TokenisedText:
    """Sentences as a network of this config reads them.

    A frozen encoder's vectors are kept in the cache. Raises DdpmError for sentences that are too
    long, and for an encoder that is gone or no longer the one that the config names.
    """
    if config.encoder == "bytes":
        return _as_bytes(sentences, config.length)
    about = json.dumps([config.fingerprint, config.length, *sentences])
    key = sha256(about.encode()).hexdigest()[:24]
    values, ends = (cache_root() / "texts" / f"{key}.{part}.npy" for part in ("values", "ends"))
    if not (values.is_file() and ends.is_file()):
        with atomic_write(values) as values_partial, atomic_write(ends) as ends_partial:
            _encode(config, sentences, device, reporter, values_partial, ends_partial)
    return TokenisedText(
        np.load(values, mmap_mode="r", allow_pickle=False), np.load(ends, allow_pickle=False)
    )


def _as_bytes(sentences: Sequence[str], length: int) -> TokenisedText:
    """Sentences as UTF-8. Raises DdpmError for one of more than `length` bytes."""
    encoded = [sentence.encode() for sentence in sentences]
    lengths = [len(sentence) for sentence in encoded]
    _check_lengths(sentences, lengths, length, "bytes")
    return TokenisedText(
        np.frombuffer(b"".join(encoded), np.uint8) + np.uint8(1), np.cumsum(lengths)
    )


def _check_lengths(sentences: Sequence[str], lengths: Sequence[int], most: int, unit: str) -> None:
    """Raise DdpmError for texts that are longer than a network reads."""
    longest = int(np.argmax(lengths))
    if lengths[longest] > most:
        over = sum(length > most for length in lengths)
        raise DdpmError(
            f"{'a text has' if over == 1 else f'{over} texts have'} more than the {most} {unit} "
            f"that are read of one; the longest has {lengths[longest]}: "
            f"{sentences[longest][:60]!r}… Shorten it, or train with a larger --text-length"
        )


def _encode(
    config: TextConfig,
    sentences: Sequence[str],
    device: torch.device,
    reporter: Reporter,
    values: Path,
    ends: Path,
) -> None:
    """Write the vectors of the sentences, end to end, and where each ends."""
    encoder = FrozenEncoder(config.encoder)
    if encoder.fingerprint != config.fingerprint:
        raise DdpmError(
            f"the text encoder in {config.encoder} is not the one that this model was trained "
            "with: its weights are others; --text-encoder says where that lies"
        )
    tokens = encoder.tokens(sentences)
    lengths = [len(sentence) for sentence in tokens]
    _check_lengths(sentences, lengths, config.length, "tokens")
    with ends.open("wb") as file:
        np.save(file, np.cumsum(lengths))
    out = np.lib.format.open_memmap(
        values, mode="w+", dtype=np.float16, shape=(sum(lengths), config.width)
    )
    place = 0
    vectors = encoder.vectors(tokens, device)
    for vector in track(vectors, reporter, "reading captions", len(tokens), "captions"):
        out[place : place + len(vector)] = vector
        place += len(vector)
    out.flush()
