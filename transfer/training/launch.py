"""Start the processes of one training on this machine.

torchrun does this too, and more (several machines, restarts), and can be used instead. But it listens on all network
interfaces, and explains the end of a process in thirty lines; here the processes meet in a file that is the user's own.
"""

import ctypes
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from types import FrameType

from transfer.utils.errors import UserError

RENDEZVOUS = "TRANSFER_RENDEZVOUS"
"""Environment variable that names the file."""
_SECONDS_TO_END = 30.0
_PR_SET_PDEATHSIG = 1  # Linux: prctl(2)


def launch(processes: int, command: Sequence[str]) -> None:
    """Run ``command``, a training, in so many processes, until all have ended well.

    SIGTERM and Ctrl-C are passed on. Where one process fails, the others are ended; Linux also ends them where this one
    is killed. Ends with the exit code of the first that failed, after what it has said itself; raises UserError if it
    was killed.
    """
    workers: list[subprocess.Popen] = []
    passed_on: list[int] = []

    def pass_on(number: int, frame: FrameType | None) -> None:
        passed_on.append(number)
        _signal(workers, number)

    before = {number: signal.signal(number, pass_on) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        with tempfile.TemporaryDirectory(prefix="transfer-") as folder:
            for rank in range(processes):
                workers.append(_start(rank, processes, Path(folder) / "rendezvous", command))
            for number in passed_on:  # what came before all were there
                _signal(workers, number)
            failed, code = _first_failure(workers)
            _end(workers)
    finally:
        _signal(workers, signal.SIGKILL)
        for number, handler in before.items():
            signal.signal(number, handler)
    if code > 0:
        sys.exit(code)
    if code < 0 and passed_on:
        sys.exit(128 + passed_on[0])
    if code < 0:
        raise UserError(
            f"process {failed + 1} of the {processes} of this training was ended by {signal.Signals(-code).name} (out "
            "of memory?), and the others with it; start again: it continues from its last state"
        )


def _start(rank: int, processes: int, rendezvous: Path, command: Sequence[str]) -> subprocess.Popen:
    root = str(Path(__file__).parents[2])  # `-m transfer` is to be this package, in whatever folder they run
    path = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")]))
    number, total = str(rank), str(processes)
    environment = {"PYTHONPATH": path, RENDEZVOUS: str(rendezvous)}
    environment |= {"RANK": number, "LOCAL_RANK": number, "WORLD_SIZE": total, "LOCAL_WORLD_SIZE": total}
    libc = ctypes.CDLL(None) if sys.platform == "linux" else None
    return subprocess.Popen(
        command,
        env=os.environ | environment,
        process_group=0,  # Ctrl-C reaches this process alone, which passes it on
        preexec_fn=libc and (lambda: libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)),
    )


def _first_failure(workers: Sequence[subprocess.Popen]) -> tuple[int, int]:
    """Which process failed first, and its exit code, or the negative number of a signal; (0, 0) if none did."""
    while True:
        codes = [worker.poll() for worker in workers]
        for rank, code in enumerate(codes):
            if code:
                return rank, code
        if None not in codes:
            return 0, 0
        time.sleep(0.1)


def _signal(workers: Sequence[subprocess.Popen], number: int) -> None:
    for worker in workers:
        worker.send_signal(number)  # nothing happens if it has ended


def _end(workers: Sequence[subprocess.Popen]) -> None:
    """Ask the processes to end, again and again: the first time a training only notes it, and loses the others then."""
    end = time.monotonic() + _SECONDS_TO_END
    while any(worker.poll() is None for worker in workers) and time.monotonic() < end:
        _signal(workers, signal.SIGTERM)
        time.sleep(0.2)
