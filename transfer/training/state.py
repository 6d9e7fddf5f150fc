"""Resume state of a training: one file, replaced whole after every epoch, removed at the end.

It is no declared output of the workflow, since Snakemake deletes those before a job and after a failure.
"""

import sys
from pathlib import Path
from typing import Any

import torch

from transfer.errors import UserError
from transfer.files import atomic


def save_state(path: Path, digest: str, state: dict[str, Any]) -> None:
    """Write ``state`` (tensors and plain values) atomically, for trainings of the same ``digest``.

    Raises UserError where it cannot be written, such as on a full disk; the state before it is still whole then.
    """
    try:
        with atomic(path) as part:
            torch.save({"digest": digest, **state}, part)
    except (OSError, RuntimeError) as error:  # torch's writer raises RuntimeError on a full disk
        raise UserError(
            f"{path}: the resume state cannot be written ({error}); make room or make the folder writable, then start "
            "again: the training continues from its last whole epoch"
        ) from error


def load_state(path: Path, digest: str) -> dict[str, Any] | None:
    """The state of an interrupted training, or None: there is none, it is damaged, or it belongs to another training.

    ``digest`` stands for data, parameters and code: what a training must share with the state that it continues.
    """
    if not path.exists():
        return None
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        other = state["digest"] != digest
    except Exception as error:  # torch.load raises nearly anything on damaged data
        print(f"{path}: damaged resume state ({type(error).__name__}); training starts over", file=sys.stderr)
        return None
    if other:
        print(f"{path}: resume state of other data, parameters or code; training starts over", file=sys.stderr)
        return None
    return state
