"""Who is at work in this folder: each workflow holds a shared lock, and who removes files an exclusive one.

The locks are the kernel's (flock): they end with the process that holds them, however it ends.
"""

import fcntl
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from transfer.layout import Layout
from transfer.params import Params
from transfer.params import read as config
from transfer.utils.errors import UserError

RUNNING = Path(".snakemake/running")
_LISTED = 3  # of the parameters that differ


def share(path: Path, alone: Callable[[], None]) -> IO[str]:
    """Hold a shared lock on ``path`` until the returned file is closed; ``alone`` is called first if nobody else does.

    While another process removes files it is waited for, and one line says so.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle = open(path, "w")  # noqa: SIM115  it is held
    if _locked(handle, fcntl.LOCK_EX):
        alone()
    if not _locked(handle, fcntl.LOCK_SH):
        print(
            f"{path}: held by a process that removes files (transfer clean, transfer prune); waiting", file=sys.stderr
        )
        fcntl.flock(handle, fcntl.LOCK_SH)
    return handle


def at_work(path: Path = RUNNING) -> bool:
    """Whether a workflow runs here."""
    if not path.exists():
        return False
    with open(path) as handle:
        return not _locked(handle, fcntl.LOCK_EX)


@contextmanager
def nobody_else(path: Path = RUNNING) -> Iterator[None]:
    """Keep workflows from starting here. Raises UserError while one runs."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w") as handle:
        if not _locked(handle, fcntl.LOCK_EX):
            raise UserError(f"a workflow is at work in this folder ({path} is held); wait until it ends, or end it")
        yield


def begin(params: Params, layout: Layout) -> IO[str]:
    """Write the snapshot that an experiment's jobs read, and keep workflows with other parameters from replacing it.

    Returns the file whose lock is held. Raises UserError where a workflow of this experiment is at work with others.
    """
    handle = share(RUNNING.with_name(f"running-{params.experiment}"), lambda: config.snapshot(params, layout.params))
    changes = config.differences(config.load([layout.params]), params)
    if changes:
        handle.close()
        listed = "; ".join(f"{key} {theirs}, here {ours}" for key, theirs, ours in changes[:_LISTED])
        raise UserError(
            f"experiment {params.experiment}: a workflow is at work on it with other parameters "
            f"({listed}{_more(changes)}); wait until it ends, or give this one another name: --config experiment=NAME"
        )
    return handle


def edits(params: Params, files: Sequence[Path], command_line: Mapping[str, Any]) -> str | None:
    """What has become of the parameter files since ``params`` were read from them, in one line; None if nothing has."""
    since = "since this workflow started"
    kept = (
        f"what it made is of the values that it started with ({Layout(params.experiment).params}); for the new ones "
        "start it again"
    )
    try:
        now = config.load(files, command_line=command_line)
    except UserError as error:
        return f"edited {since}: {error}; {kept}"
    changes = config.differences(params, now)
    if not changes:
        return None
    listed = ", ".join(
        f"{config.origin(key, files, command_line)} ({key} {old} -> {new})" for key, old, new in changes[:_LISTED]
    )
    return f"edited {since}: {listed}{_more(changes)}; {kept}"


def _more(changes: Sequence[Any]) -> str:
    return f" and {len(changes) - _LISTED} more" if len(changes) > _LISTED else ""


def _locked(handle: IO[str], kind: int) -> bool:
    try:
        fcntl.flock(handle, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
