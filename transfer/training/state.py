"""Resume state of a training: one file, replaced whole after every epoch, beside it the one before; removed at the end.

It is no declared output of the workflow, since Snakemake deletes those before a job and after a failure.
"""

import os
import sys
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from transfer.utils.errors import UserError
from transfer.utils.files import atomic

Identity = Mapping[str, str]
"""What a training must share with the state that it continues: names and digests by what they stand for."""


def previous(path: Path) -> Path:
    """Where the state lies that ``path`` replaced."""
    return path.with_stem("previous")


def save_state(path: Path, identity: Identity, state: dict[str, Any]) -> None:
    """Write ``state`` (tensors and plain values) atomically, for trainings of the same ``identity``.

    Raises UserError where it cannot be written, such as on a full disk; the state before it is still whole then.
    """
    try:
        with atomic(path) as part:
            torch.save({"identity": dict(identity), **state}, part)
            if path.exists():  # a kill between here and the end leaves that one alone
                os.replace(path, previous(path))
    except (OSError, RuntimeError) as error:
        # On a full disk torch's writer raises RuntimeError, with the places in its code where it noticed.
        reason = error if isinstance(error, OSError) else "the disk seems to be full"
        raise UserError(
            f"{path}: the resume state cannot be written ({reason}); make room or make the folder writable, then start "
            "again: the training continues from its last good state"
        ) from error


def load_state(path: Path, identity: Identity) -> dict[str, Any] | None:
    """The state of an interrupted training; the one before it where the newest is damaged or of another training.

    None if neither can be used. One line on stderr says what could not, and why. Removes what a kill left half written.
    """
    for part in path.parent.glob(f".{path.stem}.*.part{path.suffix}"):
        part.unlink(missing_ok=True)
    state, problem = find_state(path, identity)
    if problem:
        then = "training starts over" if state is None else "the training continues from the state before it"
        print(f"{problem}; {then}", file=sys.stderr)
    return state


def find_state(path: Path, identity: Identity) -> tuple[dict[str, Any] | None, str]:
    """The state that :func:`load_state` continues from, and what is wrong with the newest one, empty if nothing is."""
    problems = []
    for file in (path, previous(path)):
        if not file.exists():
            continue
        try:
            state = _read(file)
        except Exception as error:  # torch.load raises nearly anything on damaged data
            problems.append(f"{file}: damaged resume state ({type(error).__name__})")
            continue
        different = _differences(state["identity"], identity)
        if not different:
            return state, "".join(problems[:1])
        problems.append(f"{file}: resume state of another training ({different})")
    return None, "".join(problems[:1])


def _read(file: Path) -> dict[str, Any]:
    with zipfile.ZipFile(file) as archive:  # torch checks none of the checksums that it writes
        if damaged := archive.testzip():
            raise zipfile.BadZipFile(damaged)
    state = torch.load(file, map_location="cpu", weights_only=True)
    if not isinstance(state, dict) or not isinstance(state.get("identity"), dict):
        raise ValueError("no state of a training")
    return state


def _differences(found: Identity, expected: Identity) -> str:
    """What differs, in words: names with both values, digests by what they stand for."""
    words = []
    for key in [*expected, *(key for key in found if key not in expected)]:
        here, there = expected.get(key), found.get(key)
        if here != there:
            named = key in ("dataset", "recipe", "seed")
            words.append(f"{key} {there} instead of {here}" if named else f"other {key}")
    return ", ".join(words)
