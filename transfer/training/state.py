"""Resume state of a training: one file, replaced whole after every epoch, removed at the end.

It is no declared output of the workflow, since Snakemake deletes those before a job and after a failure.
"""

import pickle
import sys
from pathlib import Path
from typing import Any

import torch

from transfer.files import atomic


def save_state(path: Path, digest: str, state: dict[str, Any]) -> None:
    """Write ``state`` (tensors and plain values) atomically, for trainings of the same ``digest``."""
    with atomic(path) as part:
        torch.save({"digest": digest, **state}, part)


def load_state(path: Path, digest: str) -> dict[str, Any] | None:
    """The state of an interrupted training, or None: there is none, it is damaged, or it belongs to another training.

    ``digest`` stands for data, parameters and code: what a training must share with the state that it continues.
    """
    if not path.exists():
        return None
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        other = state["digest"] != digest
    except (pickle.UnpicklingError, EOFError, RuntimeError, KeyError, TypeError) as error:
        print(f"{path}: damaged resume state ({type(error).__name__}); training starts over", file=sys.stderr)
        return None
    if other:
        print(f"{path}: resume state of other data, parameters or code; training starts over", file=sys.stderr)
        return None
    return state
