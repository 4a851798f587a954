"""Frozen text encoders, CLIP's and T5's. The only place that knows the transformers library."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ddpm_cli.core.errors import DdpmError, first_line

_MODELS = {  # by the model_type of config.json
    "clip": "CLIPTextModel",
    "clip_text_model": "CLIPTextModel",
    "t5": "T5EncoderModel",
    "mt5": "MT5EncoderModel",
    "umt5": "UMT5EncoderModel",
}
_FILES = ["config.json", "*token*", "*vocab*", "merges.txt", "*.model", "model*.safetensors*"]
_PROBES, _PROBED = 64, 65_536  # places looked at to tell weights apart, bytes at each
_AT_A_TIME = 64  # sentences in a forward pass


class FrozenEncoder:
    """A pretrained encoder of a folder, or of the Hugging Face hub; it never learns.

    Its weights are read when they are needed first. Raises DdpmError where it cannot be used.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self._library = _transformers()
        self._folder = _folder(name)
        self._weights = sorted(self._folder.glob("model*.safetensors"))
        if not self._weights:
            raise DdpmError(
                f"--text-encoder {name} holds no safetensors weights. Others are pickles, which "
                "may run code, and are not read: choose a revision with model.safetensors, or "
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
                f"--text-encoder {name} is a {self._kind}; known are {', '.join(sorted(_MODELS))}"
            )
        about = getattr(config, "text_config", config)
        self.width = int(about.hidden_size)
        self.longest: int | None = getattr(about, "max_position_embeddings", None)  # in tokens

    @property
    def fingerprint(self) -> str:
        """Tells these weights from others, by their sizes and by bytes from all over them."""
        digest = hashlib.sha256()
        for path in self._weights:
            size = path.stat().st_size
            digest.update(f"{path.name} {size}\n".encode())
            with path.open("rb") as file:
                for place in range(0, size, max(_PROBED, size // _PROBES)):
                    file.seek(place)
                    digest.update(file.read(_PROBED))
        return digest.hexdigest()

    def tokens(self, sentences: Sequence[str]) -> list[list[int]]:
        """The numbers of the sentences' tokens, special ones included."""
        found: list[list[int]] = self._tokenizer(list(sentences))["input_ids"]
        return found

    def vectors(
        self, tokens: Sequence[Sequence[int]], device: torch.device
    ) -> Iterator[NDArray[np.float16]]:
        """The last hidden states (L, D) of each sentence in turn."""
        model = self._model().to(device)
        for start in range(0, len(tokens), _AT_A_TIME):
            some = tokens[start : start + _AT_A_TIME]
            lengths = [len(sentence) for sentence in some]
            numbers = torch.full((len(some), max(lengths)), self._tokenizer.pad_token_id or 0)
            for row, sentence in zip(numbers, some, strict=True):
                row[: len(sentence)] = torch.tensor(sentence)
            seen = torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]
            with torch.inference_mode():
                states = model(numbers.to(device), attention_mask=seen.to(device)).last_hidden_state
            for length, state in zip(lengths, states.float().cpu().numpy(), strict=True):
                yield state[:length].astype(np.float16)

    def _model(self) -> Any:
        kind = getattr(self._library, _MODELS[self._kind])
        try:
            model = kind.from_pretrained(self._folder, use_safetensors=True, dtype=torch.float32)
        except (OSError, ValueError, RuntimeError) as error:
            raise DdpmError(f"--text-encoder {self.name}: {first_line(error)}") from error
        return model.eval()


def is_path(name: str) -> bool:
    """Whether an encoder's name is that of a folder, and not one of the hub's."""
    return name.startswith((".", "~", "/")) or name.count("/") > 1 or Path(name).is_dir()


def _folder(name: str) -> Path:
    """The encoder's folder; one of the hub is downloaded the first time."""
    if is_path(name):
        folder = Path(name).expanduser()
        if not (folder / "config.json").is_file():
            raise DdpmError(
                f"--text-encoder {name}: "
                + ("it holds no config.json" if folder.is_dir() else "no such folder")
            )
        return folder
    from huggingface_hub import snapshot_download

    try:
        try:
            return Path(snapshot_download(name, allow_patterns=_FILES, local_files_only=True))
        except OSError:
            return Path(snapshot_download(name, allow_patterns=_FILES))
    except Exception as error:  # the hub's, its transport's and the network's own errors
        raise DdpmError(
            f"--text-encoder {name}: no such folder, and it cannot be fetched from the Hugging "
            f"Face hub: {first_line(error)}. Without network, bring its folder and name that"
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
