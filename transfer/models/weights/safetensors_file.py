"""Reads safetensors files of this project: the tensors, and what the file says about itself."""

import json
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor

from transfer.models.weights.content import require
from transfer.utils.errors import UserError

KEY = "transfer"
"""The one entry of the header, which holds everything as JSON: safetensors writes several in random order."""


def read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors by name, and the file's own description.

    Raises UserError for a file that is not safetensors, is damaged, or was not written by this project.
    """
    require(path, "a safetensors file", "a safetensors file")
    try:
        return contents(path)
    except (KeyError, ValueError):
        raise UserError(f"{path}: a safetensors file that this project did not write") from None
    except (OSError, SafetensorError) as error:
        raise UserError(f"{path}: a damaged safetensors file ({error}); make it again") from None


def contents(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """As `read_safetensors`, with the errors as they come: SafetensorError, OSError, KeyError, ValueError."""
    with safe_open(path, "pt") as file:
        about = json.loads((file.metadata() or {})[KEY])
        return {name: file.get_tensor(name) for name in file.keys()}, about  # noqa: SIM118
