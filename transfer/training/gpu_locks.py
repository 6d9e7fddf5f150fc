"""Which GPU a job takes: a lock file per GPU and slot, freed by the kernel when the process ends, however it ends."""

import os
import re
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from filelock import FileLock, Timeout

from transfer.utils.errors import UserError

_held: list[FileLock] = []  # until this process ends


def take(gpus: Sequence[str], count: int, per_gpu: int, what: str, folder: Path) -> list[int]:
    """Positions of ``count`` different GPUs of which this process now holds a slot, of ``per_gpu`` each.

    Waits while others hold them, after one line on stderr. GPUs with fewer jobs come first. Only one job at a time
    collects several GPUs, so that two never wait for each other.
    """
    locks = [
        (position, FileLock(folder / f"{re.sub('[^A-Za-z0-9-]', '_', gpu)}.{slot}.lock"))
        for slot in range(per_gpu)
        for position, gpu in enumerate(gpus)
    ]
    taken: list[int] = []
    told = False
    collecting = FileLock(folder / "several.lock")
    try:
        while True:
            with suppress(Timeout):
                if count > 1 and not collecting.is_locked:
                    collecting.acquire(blocking=False)
            if count == 1 or collecting.is_locked:
                for position, lock in locks:
                    if len(taken) < count and position not in taken:
                        with suppress(Timeout):
                            lock.acquire(blocking=False)
                            taken.append(position)
                            _held.append(lock)
            if len(taken) == count:
                return sorted(taken)
            if not told:
                told = True
                waits = f"waiting for {count} of {len(gpus)} GPUs, which other jobs use"
                print(f"{what}: {waits} (train.jobs_per_device lets several share one)", file=sys.stderr, flush=True)
            time.sleep(0.5)
    finally:
        collecting.release()


def lock_folder() -> Path:
    """The folder of this machine's locks, in the folder for temporary files: all jobs of a user must agree on it.

    Raises UserError where another user owns it.
    """
    folder = Path(tempfile.gettempdir()) / f"transfer-{os.getuid()}"
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        owner = folder.lstat().st_uid
    except OSError as error:
        raise UserError(f"{folder}: cannot hold the locks of the GPUs ({error}); set TMPDIR") from None
    if owner != os.getuid() or folder.is_symlink() or not folder.is_dir():
        raise UserError(f"{folder}: expected a folder of your own for the locks of the GPUs; remove it or set TMPDIR")
    return folder
