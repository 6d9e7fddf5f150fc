"""Jobs that know nothing of each other take different GPUs; here the GPUs are made up."""

import select
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
import torch

from transfer.params import TrainParams
from transfer.training import device, gpu_locks
from transfer.training.device import claim_device, claim_gpus
from transfer.training.gpu_locks import lock_folder, take
from transfer.utils.errors import UserError

ROOT = Path(__file__).parents[2]
GPUS = ("GPU-a", "GPU-b")
JOB = """
import sys
from pathlib import Path
from transfer.training.gpu_locks import take
print(take(("GPU-a", "GPU-b"), int(sys.argv[2]), int(sys.argv[3]), "job", Path(sys.argv[1])), flush=True)
sys.stdin.read()
"""


@pytest.fixture
def job(tmp_path):
    """Start a job that holds GPUs until it is killed; what it takes is the first line of its output."""
    started = []

    def start(count=1, per_gpu=1):
        command = [sys.executable, "-c", JOB, str(tmp_path), str(count), str(per_gpu)]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        started.append(subprocess.Popen(command, cwd=ROOT, text=True, **pipes))
        return started[-1]

    yield start
    for each in started:
        each.kill()
        each.communicate()


def test_jobs_take_different_gpus_and_a_killed_one_frees_its_own(job):
    first, second = job(), job()
    taken = {process: process.stdout.readline() for process in (first, second)}
    assert sorted(taken.values()) == ["[0]\n", "[1]\n"]
    third = job()
    assert "job: waiting for 1 of 2 GPUs, which other jobs use" in third.stderr.readline()
    second.kill()
    assert third.stdout.readline() == taken[second]


def test_a_job_of_two_gpus_waits_for_both(job):
    one = job()
    taken = one.stdout.readline()
    both, other = job(2), job(2)
    assert all("waiting for 2 of 2" in process.stderr.readline() for process in (both, other))
    one.kill()
    ready, _, _ = select.select([both.stdout, other.stdout], [], [])  # which of the two comes first is chance
    first, second = (both, other) if ready[0] is both.stdout else (other, both)
    assert taken in ("[0]\n", "[1]\n") and first.stdout.readline() == "[0, 1]\n"
    first.kill()
    assert second.stdout.readline() == "[0, 1]\n"


def test_gpus_with_fewer_jobs_come_first(tmp_path):
    held = len(gpu_locks._held)
    assert [take(GPUS, 1, 2, "job", tmp_path) for _ in range(4)] == [[0], [1], [0], [1]]
    for lock in gpu_locks._held[held:]:
        lock.release()


def test_the_folder_is_the_users_own(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    folder = lock_folder()
    assert folder.stat().st_mode & 0o077 == 0 and lock_folder() == folder
    folder.rmdir()
    folder.symlink_to(tmp_path)
    with pytest.raises(UserError, match="expected a folder of your own"):
        lock_folder()


def test_without_cuda_nothing_is_locked(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert claim_device(TrainParams(device="auto"), "job") == torch.device("cpu")


def test_more_gpus_than_there_are(monkeypatch):
    monkeypatch.setattr(device.torch.cuda, "device_count", lambda: 0)
    with pytest.raises(UserError, match="train.gpus: 2, but torch sees 0 CUDA devices"):
        claim_gpus(2, 1, "job")
