"""Pickles of lists, dictionaries, numbers, texts and NumPy arrays, read without running any code.

A pickle names the functions that build its content. Here all names but those of NumPy's arrays are
refused, and these stand for the classes of this file, which only hold data.
"""

from __future__ import annotations

import pickle
from typing import IO, Any

import numpy as np

_TYPES = frozenset({"u1", "i1", "u2", "i2", "u4", "i4", "u8", "i8", "f2", "f4", "f8", "b1"})
_ORDERS = {"<": "<", ">": ">", "|": "|", "=": "="}


class RefusedError(ValueError):
    """A pickle that holds anything else."""


def load(file: IO[bytes]) -> Any:
    """What a pickle holds; bytes are bytes, also those that Python 2 wrote as text.

    Raises RefusedError with the name of what is not known, and whatever pickle raises on damage.
    """
    return _plain(_Unpickler(file, encoding="bytes").load())


class _Unpickler(pickle._Unpickler):
    """In Python: the one in C makes room for whatever number of objects a pickle speaks of."""

    def find_class(self, module: str, name: str) -> Any:
        known = {
            ("numpy.core.multiarray", "_reconstruct"): _reconstruct,
            ("numpy._core.multiarray", "_reconstruct"): _reconstruct,
            ("numpy", "ndarray"): _Array,
            ("numpy", "dtype"): _Type,
            ("_codecs", "encode"): _encode,
        }
        if (module, name) not in known:
            raise RefusedError(f"it wants to use {module}.{name}, which is refused")
        return known[module, name]

    def persistent_load(self, pid: Any) -> Any:
        raise RefusedError("it refers to something outside of it")


class _Type:
    """A NumPy type, by its name and byte order."""

    def __init__(self, name: Any, align: Any = False, copy: Any = False) -> None:
        self._name, self._order = _text(name).lstrip("<>|="), "|"
        if self._name not in _TYPES:
            raise RefusedError(f"it holds an array of {self._name[:20]!r}, which is no number")

    def __setstate__(self, state: Any) -> None:
        order = _text(state[1]) if isinstance(state, tuple) and len(state) > 1 else ""
        if order not in _ORDERS:
            raise RefusedError("it holds a type of unknown byte order")
        self._order = order

    @property
    def type(self) -> np.dtype[Any]:
        """As NumPy's own."""
        return np.dtype(self._order + self._name)


class _Array:
    """A NumPy array: its shape, type and bytes."""

    value: np.ndarray[Any, Any] | None = None

    def __setstate__(self, state: Any) -> None:
        if not (isinstance(state, tuple) and len(state) == 5):
            raise RefusedError("it holds an array of unknown form")
        _, shape, kind, in_fortran_order, content = state
        numbers = isinstance(shape, tuple) and all(type(n) is int and n >= 0 for n in shape)
        if not (numbers and isinstance(kind, _Type) and isinstance(content, bytes)):
            raise RefusedError("it holds an array of unknown form")
        flat = np.frombuffer(content, kind.type)  # which takes no more than there is
        self.value = flat.reshape(shape, order="F" if in_fortran_order else "C")


def _reconstruct(kind: Any, shape: Any, code: Any) -> _Array:
    """An empty array, whose content follows."""
    if kind is not _Array:
        raise RefusedError("it holds an array of an unknown class")
    return _Array()


def _encode(text: Any, encoding: Any) -> bytes:
    """How Python 3 writes bytes into pickles of old protocols."""
    if _text(encoding) not in ("latin1", "latin-1"):
        raise RefusedError("it holds bytes of an unknown encoding")
    return _text(text).encode("latin-1")


def _text(value: Any) -> str:
    if isinstance(value, bytes):
        return value.decode("latin-1")
    if not isinstance(value, str):
        raise RefusedError(f"it holds {type(value).__name__} in the place of a text")
    return value


def _plain(value: Any) -> Any:
    """Arrays instead of what stands for them, in a dictionary with keys of text."""
    if isinstance(value, dict):
        return {_text(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, _Array):
        return value.value
    return value
