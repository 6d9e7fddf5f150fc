"""Reads what ``paddle.save(layer.state_dict(), path)`` writes: a pickle of a dict of numpy arrays, and nothing else.

A pickle names functions that rebuild its objects, and plain ``pickle.load`` calls whatever it names. Here the few names
that arrays need stand for functions of this module, which only take bytes, a type and a shape; every other name is
refused before anything is called. Without paddle and without numpy's own reconstruction.
"""

import pickle
import pickletools
from collections.abc import Callable
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from transfer.models.weights.content import require
from transfer.utils.errors import UserError

_EXPECTED = "Paddle parameters (a pickle of numpy arrays, as paddle.save writes)"
_TABLE_OF_NAMES = "StructuredToParameterName@@"  # Paddle adds it to every state dict
_TYPES = ("f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "b1")
_MEMO = 1_000_000  # entries; a state dict needs a few thousand, and a large number alone takes memory


def read_paddle(path: Path) -> dict[str, np.ndarray]:
    """The arrays by name. Raises UserError: not such a file, damaged, or one that asks for anything but arrays."""
    require(path, _EXPECTED, "a pickle")
    try:
        _scan(path)
        with path.open("rb") as handle:
            content = _ArrayUnpickler(handle).load()
    except _Refused as error:
        raise UserError(f"{path}: {error}") from None
    except Exception as error:  # the unpickler raises nearly anything on damaged data
        reason = f"{type(error).__name__}: {error}"
        raise UserError(
            f"{path}: expected {_EXPECTED}, found damaged or other data ({reason}); fetch it again"
        ) from None
    if not isinstance(content, dict) or not all(isinstance(name, str) for name in content):
        raise UserError(f"{path}: expected {_EXPECTED} by name, found {type(content).__name__}")
    if isinstance(content.get(_TABLE_OF_NAMES), dict):
        del content[_TABLE_OF_NAMES]
    for name, value in content.items():
        if not isinstance(value, _Array) or value.array is None:
            raise UserError(f"{path}: {name}: expected an array, found {type(value).__name__}")
    return {name: value.array for name, value in content.items()}


class _Refused(Exception):
    """The pickle asks for what arrays do not need."""


def _scan(path: Path) -> None:
    """Go through the instructions without following them: cut off, or with a number that would take all memory."""
    with path.open("rb") as handle:
        for opcode, argument, _ in pickletools.genops(handle):
            if opcode.name in ("PUT", "BINPUT", "LONG_BINPUT") and argument > _MEMO:
                raise _Refused(f"asks for a table of {argument} entries, which is refused")


class _Function:
    """A function that the pickle may call, but not change."""

    __slots__ = ("call",)

    def __init__(self, call: Callable[..., Any]) -> None:
        object.__setattr__(self, "call", call)

    def __call__(self, *arguments: Any) -> Any:
        return self.call(*arguments)

    def __setattr__(self, name: str, value: Any) -> None:
        raise _Refused("changes a function, which is refused: arrays need no code")


class _Type:
    """A numpy dtype in the making."""

    __slots__ = ("dtype",)

    def __init__(self, code: str) -> None:
        if not isinstance(code, str) or code.lstrip("<>|=") not in _TYPES:
            raise _Refused(f"holds an array of type {code!r}; expected plain numbers")
        self.dtype = np.dtype(code)

    def __setstate__(self, state: tuple) -> None:
        order = state[1]
        if order not in ("<", ">", "|", "="):
            raise _Refused(f"holds numbers in the byte order {order!r}")
        self.dtype = self.dtype.newbyteorder(order)


class _Array:
    """A numpy array in the making: it takes shape, type and bytes once, if they agree."""

    __slots__ = ("array",)

    def __init__(self) -> None:
        self.array: np.ndarray | None = None

    def __setstate__(self, state: tuple) -> None:
        _, shape, kind, fortran, data = state
        if not isinstance(kind, _Type) or not isinstance(data, bytes):
            raise _Refused("holds an array of objects; expected plain numbers")
        dtype = kind.dtype
        if any(type(side) is not int or side < 0 for side in shape) or prod(shape) * dtype.itemsize != len(data):
            raise _Refused(f"holds an array of shape {shape} and type {dtype} with {len(data)} bytes")
        self.array = np.frombuffer(data, dtype).reshape(shape, order="F" if fortran else "C")


def _scalar(kind: _Type, data: bytes) -> _Array:
    array = _Array()
    array.__setstate__((1, (), kind, False, data))
    return array


def _encode(text: str, encoding: str) -> bytes:
    """Bytes in pickles of protocol 2, which has no type for them."""
    if encoding != "latin1":
        raise _Refused(f"encodes text as {encoding!r}; expected latin1")
    return text.encode("latin1")


_NDARRAY = "numpy.ndarray"  # only ever an argument


def _allowed() -> dict[str, Any]:
    functions = {
        "numpy.dtype": _Function(lambda code, align=False, copy=True: _Type(code)),
        "_codecs.encode": _Function(_encode),
        _NDARRAY: _NDARRAY,
    }
    for module in ("numpy.core.multiarray", "numpy._core.multiarray"):  # before numpy 2, and since
        functions[f"{module}._reconstruct"] = _Function(lambda *arguments: _Array())
        functions[f"{module}.scalar"] = _Function(_scalar)
    return functions


class _ArrayUnpickler(pickle.Unpickler):
    """Knows the names that arrays need."""

    def __init__(self, file: Any) -> None:
        super().__init__(file)
        self.allowed = _allowed()

    def find_class(self, module: str, name: str) -> Any:
        """What a name of the pickle stands for."""
        found = self.allowed.get(f"{module}.{name}")
        if found is None:
            raise _Refused(f"asks for {module}.{name}, which is refused: arrays need no code")
        return found

    def persistent_load(self, pid: Any) -> Any:
        """Objects stored elsewhere: there are none."""
        raise _Refused("refers to objects outside the file, which is refused")
