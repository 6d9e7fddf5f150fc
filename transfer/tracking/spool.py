"""The folder through which trainings speak to the writer: per training a file of messages and one of answers.

Locks are the kernel's (flock): they end with the process that holds them, however it ends. A training holds the lock of
its file, a writer that of the folder. Whoever says something looks whether a writer is alive, and starts one if not.
"""

import contextlib
import fcntl
import hashlib
import json
import os
import subprocess
import sys
import tempfile
import uuid
from pathlib import Path
from typing import Any

_ROOT = Path(__file__).resolve().parents[2]
_WRITER = "transfer.tracking.writer"
MESSAGES, ANSWER, WRITER = ".jsonl", ".answer", "writer.lock"


def spool_folder() -> Path:
    """The folder of this user, machine, working directory and MLflow settings. Raises OSError.

    Not below results/: the machines of a cluster share that one, and each has a writer of its own.
    """
    settings = sorted((key, value) for key, value in os.environ.items() if key.startswith("MLFLOW_"))
    name = hashlib.sha256(json.dumps([os.getcwd(), settings]).encode()).hexdigest()[:16]
    own = Path(tempfile.gettempdir()) / f"transfer-mlflow-{os.getuid()}"
    for folder in (own, own / name):
        folder.mkdir(mode=0o700, exist_ok=True)
    if own.stat().st_uid != os.getuid():
        raise PermissionError(f"{own} belongs to another user")
    return own / name


def locked(handle: int) -> bool:
    """Take the lock of an open file; False if another process holds it."""
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def read_answer(file: Path) -> dict[str, Any]:
    """What the writer says to a training: run_id; error, while the store does not work; lost, what cannot be shown any
    more; finished. Empty at first."""
    try:
        return json.loads(file.with_suffix(ANSWER).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}


def write_answer(file: Path, answer: dict[str, Any]) -> None:
    """Replace the answer to a training; ``file`` is that of its messages."""
    part = file.with_suffix(".part")
    part.write_text(json.dumps(answer), encoding="utf-8")
    part.replace(file.with_suffix(ANSWER))


class Channel:
    """A training's end: what it says, and the latest answer. Raises OSError where the folder cannot be written."""

    def __init__(self, folder: Path, first: dict[str, Any]) -> None:
        self.folder = folder
        self.file = folder / f"{uuid.uuid4().hex}{MESSAGES}"
        # Under another name until it is locked and says who it is: an unlocked file is that of a killed training.
        part = self.file.with_suffix(".new")
        self._handle = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        locked(self._handle)
        self._write(first)
        part.rename(self.file)
        self.ensure_writer()

    def send(self, message: dict[str, Any]) -> None:
        """Append a message."""
        self._write(message)
        self.ensure_writer()

    def _write(self, message: dict[str, Any]) -> None:
        line = json.dumps(message).encode() + b"\n"
        while line:
            line = line[os.write(self._handle, line) :]

    def answer(self) -> dict[str, Any]:
        """What the writer says."""
        return read_answer(self.file)

    def ensure_writer(self) -> None:
        """Start a writer if none is alive. The file is there before, so that one that just ends still sees it."""
        handle = os.open(self.folder / WRITER, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            if locked(handle):  # which the writer inherits, so that no second one is started while it starts
                # -P: no module of the working directory may stand for one that MLflow looks for. A session of its own:
                # a signal to the training's process group must not reach a writer that other trainings use too.
                process = subprocess.Popen(
                    [sys.executable, "-P", "-W", "ignore", "-m", _WRITER, str(self.folder), str(handle)],
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                    start_new_session=True,
                    pass_fds=[handle],
                    env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": _path()},
                )
                os.ftruncate(handle, 0)
                os.pwrite(handle, str(process.pid).encode(), 0)  # for people who look which process it is
        finally:
            os.close(handle)

    def close(self) -> None:
        """Let go of the file; the writer removes it when it has done what it says."""
        os.close(self._handle)
        if self.answer().get("finished"):
            with contextlib.suppress(OSError):
                self.file.with_suffix(ANSWER).unlink()


def _path() -> str:
    return os.pathsep.join([str(_ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
