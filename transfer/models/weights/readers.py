"""Safe readers of third-party weight files: named tensors come out, and no code in a file is ever run."""

import pickle
import re
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from torch import Tensor

from transfer.utils.errors import UserError
from transfer.utils.filetype import HEAD, HTML, ZIP, looks_like

MAX_BYTES = 2 << 30
"""Largest file, and largest sum of tensors, that is read: IR-50 with its last layers has 0.2 GB."""
MAX_PICKLE = 4_000_000
"""Bytes, and instructions, of a pickle around its tensors: some seconds of work; TransFER's takes 50,000."""


def read_torch(path: Path, max_bytes: int = MAX_BYTES) -> dict[str, Tensor]:
    """Tensors of a torch state dict by name. Raises UserError: damaged, not just tensors, or unpacks to too much."""
    expected = "a torch state dict"
    too_large = UserError(f"{path}: unpacks to more than {max_bytes / 1e9:.1f} GB; check that it is the right file")
    kind = _check_kind(path, expected, (ZIP, "a pickle"), max_bytes)
    try:
        if kind == ZIP:
            with zipfile.ZipFile(path) as archive:
                sizes = {member.filename: member.file_size for member in archive.infolist()}
                pickles = sum(size for name, size in sizes.items() if name.endswith(".pkl"))
                if sum(sizes.values()) > max_bytes or pickles > MAX_PICKLE:
                    raise too_large
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about pickle protocols of files that are then refused
            content: dict[str, Tensor] = torch.load(path, map_location="cpu", weights_only=True)
    except UserError:
        raise
    except Exception as error:  # torch.load raises nearly anything on damaged data
        # without torch's advice, which is to run the code in the file
        patterns = r"GLOBAL \S+[^.\n]*", r"(?<=Unpickler error: ).*", r".*"
        reason = next(found[0] for pattern in patterns if (found := re.search(pattern, str(error))))
        raise UserError(f"{path}: damaged, or not {expected} without code ({reason[:160]}); fetch it again") from None
    content = _tensors(path, content, expected)
    # Counted by shape: with a stride of 0 a few bytes become a tensor of any size.
    if sum(value.numel() * value.element_size() for value in content.values()) > max_bytes:
        raise too_large
    return content


def read_paddle(path: Path) -> dict[str, Tensor]:
    """Tensors of a ``paddle.save`` state dict by name, without Paddle. Raises UserError: damaged, not just arrays."""
    expected = "Paddle parameters, a pickle of numpy arrays"
    _check_kind(path, expected, ("a pickle",), MAX_BYTES)
    try:
        with path.open("rb") as handle:
            content: Any = _ArrayUnpickler(handle).load()
        if isinstance(content, dict):
            content.pop("StructuredToParameterName@@", None)  # a table of names that paddle.save adds
            content = {name: item.tensor() if isinstance(item, _Array) else item for name, item in content.items()}
    except Exception as error:  # the unpickler raises nearly anything on damaged data
        reason = str(error) if isinstance(error, _Refused) else f"{type(error).__name__}: {error}"
        raise UserError(f"{path}: damaged, or not {expected} ({reason}); fetch it again") from None
    return _tensors(path, content, expected)


class _Refused(Exception):
    """The pickle asks for what arrays of numbers do not need."""


class _Dtype:
    def __init__(self, code: str, *_: Any) -> None:
        if code not in ("f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "b1"):
            raise _Refused(f"contains an array of type {code!r}")
        self.dtype = np.dtype(code)

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self.dtype = self.dtype.newbyteorder(state[1])


class _Array:
    """Stands in for numpy.ndarray, whose own __setstate__ is not made for hostile input."""

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _, shape, kind, fortran, data = state
        self.array = np.frombuffer(data, kind.dtype).reshape(shape, order="F" if fortran else "C")

    def tensor(self) -> Tensor:
        """In this machine's byte order, and in memory that torch may write to: astype copies."""
        return torch.from_numpy(self.array.astype(self.array.dtype.newbyteorder("=")))


class _Bounded(dict[int, Any]):
    """The unpickler's instructions, of which at most MAX_PICKLE are carried out."""

    def __init__(self, instructions: Mapping[int, Any]) -> None:
        super().__init__(instructions)
        self.left = MAX_PICKLE

    def __getitem__(self, instruction: int) -> Any:
        self.left -= 1
        if self.left < 0:
            raise _Refused(f"has more than {MAX_PICKLE:,} instructions")
        return super().__getitem__(instruction)


class _ArrayUnpickler(pickle._Unpickler):  # in Python: the C version allocates whatever memo size a file names
    """Knows the few names that arrays need and refuses every other one before anything is called."""

    def __init__(self, file: BinaryIO) -> None:
        super().__init__(file)
        self.dispatch = _Bounded(self.dispatch)  # type: ignore[misc]

    def find_class(self, module: str, name: str) -> Any:
        """The stand-in for a name; made anew each time, so that a file cannot change it for the next one."""
        allowed = {
            "numpy.dtype": _Dtype,
            "numpy.ndarray": _Array,
            "numpy.core.multiarray._reconstruct": lambda *_: _Array(),  # numpy 1
            "numpy._core.multiarray._reconstruct": lambda *_: _Array(),
            "_codecs.encode": lambda text, _: text.encode("latin1"),  # bytes, in pickles of protocol 2
        }
        if f"{module}.{name}" not in allowed:
            raise _Refused(f"asks for {module}.{name}, and arrays need no code")
        return allowed[f"{module}.{name}"]


def _tensors(path: Path, content: Any, expected: str) -> dict[str, Tensor]:
    if not isinstance(content, dict) or not all(isinstance(name, str) for name in content):
        raise UserError(f"{path}: expected {expected} by name, found {type(content).__name__}")
    for name, value in content.items():
        if not isinstance(value, Tensor) or value.layout != torch.strided:
            raise UserError(f"{path}: {name}: expected a tensor, found {type(value).__name__}")
    return content


def _check_kind(path: Path, expected: str, allowed: tuple[str, ...], max_bytes: int) -> str:
    try:
        size = path.stat().st_size
        with path.open("rb") as handle:
            start = handle.read(HEAD)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None
    if size > max_bytes:
        raise UserError(f"{path}: {size / 1e9:.1f} GB, larger than any supported weights; check that it is the file")
    pickled = start[:1] == b"\x80" and start[1:2] in b"\2\3\4\5"
    kind = looks_like(start) or ("a pickle" if pickled else "another kind of file" if start else "an empty file")
    if kind not in allowed:
        advice = "; a web page was saved in place of the file, download it again" if kind == HTML else ""
        raise UserError(f"{path}: expected {expected}, found {kind}{advice}")
    return kind
