"""Locks that keep workflows and clean-up apart: shared by the workflows in a folder, exclusive while files are removed.

They are the kernel's (flock): they end with the process that holds them, however it ends.
"""

import fcntl
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from transfer.utils.errors import UserError

RUNNING = Path(".snakemake/running")
"""Held by every workflow that runs in this folder."""


def share(path: Path, alone: Callable[[], None]) -> IO[str]:
    """Hold a shared lock on ``path`` until the returned file is closed; call ``alone`` first if nobody else holds it.

    Waits while another process holds it exclusively, and says so.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle = open(path, "w")  # noqa: SIM115  closing it ends the lock
    if locked(handle, fcntl.LOCK_EX):
        alone()
    if not locked(handle, fcntl.LOCK_SH):
        print(f"{path}: held by a process that removes files (transfer prune); waiting", file=sys.stderr)
        fcntl.flock(handle, fcntl.LOCK_SH)
    return handle


@contextmanager
def nobody_else(path: Path = RUNNING) -> Iterator[None]:
    """Keep workflows from starting in this folder. Raises UserError while one runs."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w") as handle:
        if not locked(handle, fcntl.LOCK_EX):
            raise UserError(f"a workflow is running in this folder ({path} is locked); wait until it ends, or stop it")
        yield


def locked(handle: IO[str] | int, kind: int = fcntl.LOCK_EX) -> bool:
    """Take the lock of an open file, or a share of it; False if another process is in the way."""
    try:
        fcntl.flock(handle, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
