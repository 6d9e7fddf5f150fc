"""Which CUDA device a job gets: jobs on one machine that know nothing of each other take different ones.

A slot is a lock (flock) on a file that stands for a device. The kernel frees it when the process ends, however it ends.
"""

import fcntl
import os
import re
import stat
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import torch

from transfer.params import TrainParams
from transfer.training.device import choose_device
from transfer.utils.errors import UserError

_SECONDS_BETWEEN_TRIES = 0.5
_claimed: dict[str, torch.device] = {}  # "cuda" to the device of this process


def claim_device(train: TrainParams, what: str) -> torch.device:
    """The device of this process until it ends: the CPU, or a CUDA device of which it holds a slot.

    Waits for a free one; ``what`` tells others who holds it. Only devices that CUDA_VISIBLE_DEVICES leaves are seen, so
    that a user or a cluster that sets it decides first. Raises UserError where CUDA is asked for and absent.
    """
    device = choose_device(train.device)
    if device.type == "cuda":
        if "cuda" not in _claimed:
            (index,) = claim_devices(1, train.jobs_per_device, what)
            use_device(index)
        device = _claimed["cuda"]
    return device


def claim_devices(count: int, jobs_per_device: int, what: str) -> list[int]:
    """Numbers of ``count`` different CUDA devices; this process holds a slot of each until it ends."""
    # By UUID: a device's number depends on CUDA_VISIBLE_DEVICES, which may differ from job to job
    devices = [str(torch.cuda.get_device_properties(number).uuid) for number in range(torch.cuda.device_count())]
    if count > len(devices):
        raise UserError(
            f"{count} processes, but there are {len(devices)} CUDA devices; start at most {len(devices)} "
            "(train.processes, or torchrun --nproc-per-node), or set train.device: cpu"
        )
    return sorted(take(devices, count, jobs_per_device, what, slot_folder()))


def use_device(number: int) -> None:
    """Make a CUDA device that of this process; :func:`claim_device` returns it from now on."""
    torch.cuda.set_device(number)
    _claimed["cuda"] = torch.device("cuda", number)


def take(devices: Sequence[str], count: int, per_device: int, what: str, folder: Path) -> dict[int, int]:
    """Slots of ``count`` different devices, each with ``per_device`` of them: the device's position to an open file.

    The slot is free again when the file is closed. Waits, after one line on stderr that names the holders. Devices with
    fewer jobs come first. Who wants several collects them one by one, and only one such job at a time, so that two of
    them never wait for each other and single jobs do not keep them waiting for ever.
    """
    collecting = None
    taken: dict[int, int] = {}
    told = False
    while True:
        if count > 1 and collecting is None:
            collecting = _try(folder / "collecting", what)
        if count == 1 or collecting is not None:
            for slot in range(per_device):
                for position, device in enumerate(devices):
                    if len(taken) < count and position not in taken:
                        handle = _try(_file(folder, device, slot), what)
                        if handle is not None:
                            taken[position] = handle
        if len(taken) == count:
            if collecting is not None:
                os.close(collecting)
            return taken
        if not told:
            files = [_file(folder, device, slot) for device in devices for slot in range(per_device)]
            print(
                f"waiting for {count} of {len(devices)} CUDA devices, which others use: {_holders(files)} "
                "(train.jobs_per_device lets several jobs share one)",
                file=sys.stderr,
                flush=True,
            )
            told = True
        time.sleep(_SECONDS_BETWEEN_TRIES)


def slot_folder() -> Path:
    """The folder of this machine's slots, which only this user can read and write.

    Below the folder of temporary files rather than XDG_RUNTIME_DIR, which a login has and a job of cron or a cluster
    has not: all must agree on it. Raises UserError where it belongs to another user or others may write to it.
    """
    folder = Path(tempfile.gettempdir()) / f"transfer-{os.getuid()}"
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        about = folder.lstat()
    except OSError as error:
        raise UserError(f"{folder}: cannot hold the locks of the CUDA devices ({error}); set TMPDIR") from None
    if not stat.S_ISDIR(about.st_mode) or about.st_uid != os.getuid() or about.st_mode & 0o022:
        raise UserError(f"{folder}: expected a folder that only you can write to; remove it, or set TMPDIR")
    return folder


def _file(folder: Path, device: str, slot: int) -> Path:
    return folder / f"{re.sub(r'[^A-Za-z0-9-]', '_', device)}.{slot}"


def _try(path: Path, what: str) -> int | None:
    """An open and locked file with the holder's name in it, or None: another process holds it."""
    while True:
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(handle)
            return None
        try:
            same = os.path.samestat(os.fstat(handle), os.stat(path))
        except FileNotFoundError:
            same = False
        if same:
            os.ftruncate(handle, 0)
            os.pwrite(handle, f"{what} (process {os.getpid()})".encode(), 0)
            return handle
        os.close(handle)  # removed since it was opened, by someone who tidies up: that lock says nothing


def _holders(files: Sequence[Path]) -> str:
    names = [file.read_text(errors="replace") for file in files if file.exists()]
    return ", ".join(dict.fromkeys(name for name in names if name)) or "unknown"
