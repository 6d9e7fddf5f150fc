"""Reads a torch state dict, of today's format (a zip) or of that before torch 1.6; tensors and nothing else."""

import re
import warnings
import zipfile
from pathlib import Path

import torch
from torch import Tensor

from transfer.models.weights.content import MAX_BYTES, require
from transfer.utils.errors import UserError
from transfer.utils.filetype import ZIP

_EXPECTED = "a torch state dict"


def read_torch(path: Path) -> dict[str, Tensor]:
    """The tensors of a state dict by name, with ``torch.load(weights_only=True)``: no code of the file runs.

    Raises UserError: not a torch file, damaged, one that asks for anything but tensors, or of absurd size.
    """
    if require(path, _EXPECTED, ZIP, "a pickle") == ZIP:
        _check_zip(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about the pickle protocol of files that are then refused
            content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch.load raises nearly anything on damaged data
        raise UserError(f"{path}: {_explained(str(error))}") from None
    if not isinstance(content, dict) or not all(isinstance(name, str) for name in content):
        raise UserError(f"{path}: expected {_EXPECTED} (names and tensors), found {type(content).__name__}")
    for name, value in content.items():
        if not isinstance(value, Tensor) or value.layout != torch.strided:
            raise UserError(f"{path}: {name}: expected a tensor, found {type(value).__name__}")
    # By the shapes: the strides of a tensor can make a billion numbers of one.
    if sum(value.numel() * value.element_size() for value in content.values()) > MAX_BYTES:
        raise UserError(f"{path}: its tensors together have more than {MAX_BYTES / 1e9:.1f} GB; is it another file?")
    return content


def _check_zip(path: Path) -> None:
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
    except (zipfile.BadZipFile, OSError, ValueError) as error:
        raise UserError(f"{path}: damaged or cut off ({error}); fetch it again") from None
    if not any(member.filename.endswith("data.pkl") for member in members):
        raise UserError(
            f"{path}: expected {_EXPECTED}, found a zip archive of other files; unpack it if it holds the file"
        )
    if sum(member.file_size for member in members) > MAX_BYTES:
        raise UserError(f"{path}: unpacks to more than {MAX_BYTES / 1e9:.1f} GB; is it another file?")


def _explained(message: str) -> str:
    """One line from torch's many."""
    refused = re.search(r"GLOBAL (\w\S*) (?:was|whose)|unrecognized function (\S+)", message)
    if refused:
        return f"asks for {refused[1] or refused[2]}, which is refused: {_EXPECTED} needs tensors only and runs no code"
    found = re.search(r"WeightsUnpickler error:\s*(.+)", message) or re.search(r"\s*(.*)", message)
    return f"expected {_EXPECTED}, found damaged or other data ({found[1][:120] if found else ''}); fetch it again"
