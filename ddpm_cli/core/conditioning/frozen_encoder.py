"""Frozen CLIP and T5 text encoders. The only module that imports the transformers library."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ddpm_cli.core.config import paths
from ddpm_cli.core.errors import DdpmError, first_line

_MODELS = {  # by model_type of config.json
    "clip": "CLIPTextModel",
    "clip_text_model": "CLIPTextModel",
    "t5": "T5EncoderModel",
    "mt5": "MT5EncoderModel",
    "umt5": "UMT5EncoderModel",
}
_FILES = ["config.json", "*token*", "*vocab*", "merges.txt", "*.model", "model*.safetensors*"]
_CHUNKS, _CHUNK_SIZE = 64, 65_536  # of a weights file that its fingerprint hashes; bytes of each
_BATCH = 64  # sentences in a forward pass


class FrozenEncoder:
    """A pretrained text encoder from a folder or the Hugging Face hub; it is not trained.

    Its weights are loaded at first use. Raises DdpmError where it cannot be used.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self._library = _transformers()
        self._folder = _folder(name)
        self._weights = sorted(self._folder.glob("model*.safetensors"))
        if not self._weights:
            raise DdpmError(
                f"--text-encoder {name} holds no safetensors weights. Others are pickles, which "
                "may run code, and are not loaded: choose a revision with model.safetensors, or "
                "convert them with save_pretrained where you trust them"
            )
        try:
            config = self._library.AutoConfig.from_pretrained(self._folder)
            self._tokenizer = self._library.AutoTokenizer.from_pretrained(self._folder)
        except (OSError, ValueError, ImportError, KeyError) as error:
            raise DdpmError(f"--text-encoder {name}: {first_line(error)}") from error
        self._kind = config.model_type
        if self._kind not in _MODELS:
            raise DdpmError(
                f"--text-encoder {name} is a {self._kind}; "
                f"supported are {', '.join(sorted(_MODELS))}"
            )
        text_config = getattr(config, "text_config", config)
        self.width = int(text_config.hidden_size)
        self.max_tokens: int | None = getattr(text_config, "max_position_embeddings", None)

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the weights files' names and sizes and of chunks spread over each of them."""
        digest = hashlib.sha256()
        for path in self._weights:
            size = path.stat().st_size
            digest.update(f"{path.name} {size}\n".encode())
            with path.open("rb") as file:
                for offset in range(0, size, max(_CHUNK_SIZE, size // _CHUNKS)):
                    file.seek(offset)
                    digest.update(file.read(_CHUNK_SIZE))
        return digest.hexdigest()

    def tokens(self, sentences: Sequence[str]) -> list[list[int]]:
        """Token ids of each sentence, special tokens included."""
        ids: list[list[int]] = self._tokenizer(list(sentences))["input_ids"]
        return ids

    def hidden_states(
        self, tokens: Sequence[Sequence[int]], device: torch.device
    ) -> Iterator[NDArray[np.float16]]:
        """Yield the last hidden states (L, D) of each sentence."""
        model = self._model().to(device)
        for start in range(0, len(tokens), _BATCH):
            batch = tokens[start : start + _BATCH]
            lengths = [len(sentence) for sentence in batch]
            ids = torch.full((len(batch), max(lengths)), self._tokenizer.pad_token_id or 0)
            for row, sentence in zip(ids, batch, strict=True):
                row[: len(sentence)] = torch.tensor(sentence)
            mask = torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]
            with torch.inference_mode():
                states = model(ids.to(device), attention_mask=mask.to(device)).last_hidden_state
            for length, state in zip(lengths, states.float().cpu().numpy(), strict=True):
                yield state[:length].astype(np.float16)

    def _model(self) -> Any:
        model_class = getattr(self._library, _MODELS[self._kind])
        try:
            model = model_class.from_pretrained(
                self._folder, use_safetensors=True, dtype=torch.float32
            )
        except (OSError, ValueError, RuntimeError) as error:
            raise DdpmError(f"--text-encoder {self.name}: {first_line(error)}") from error
        return model.eval()


def is_path(name: str) -> bool:
    """Whether an encoder's name is a folder rather than a repository of the hub."""
    return name.startswith((".", "~", "/")) or name.count("/") > 1 or Path(name).is_dir()


def _folder(name: str) -> Path:
    """The encoder's folder; a hub repository is downloaded the first time."""
    if is_path(name):
        folder = paths.expanded(name)
        if not (folder / "config.json").is_file():
            raise DdpmError(
                f"--text-encoder {name}: "
                + ("the folder has no config.json" if folder.is_dir() else "no such folder")
            )
        return folder
    from huggingface_hub import snapshot_download

    try:
        try:
            return Path(snapshot_download(name, allow_patterns=_FILES, local_files_only=True))
        except OSError:
            return Path(snapshot_download(name, allow_patterns=_FILES))
    except Exception as error:  # of the hub, its HTTP library or the network
        raise DdpmError(
            f"--text-encoder {name}: no such folder, and it cannot be downloaded from the Hugging "
            f"Face hub: {first_line(error)}. Without network, give the path of a copy of its folder"
        ) from error


def _transformers() -> Any:
    try:
        import transformers
    except ImportError as error:
        raise DdpmError(
            "a frozen text encoder needs the transformers library: pip install 'ddpm-cli[text]'"
        ) from error
    library: Any = transformers
    library.logging.set_verbosity_error()
    library.logging.disable_progress_bar()
    return library
