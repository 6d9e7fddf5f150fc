import multiprocessing
import os
import signal
import subprocess
import sys
import time
from types import SimpleNamespace

import pytest
import torch
from transfer.training.slots import claim_device, claim_devices, slot_folder, take

from transfer.params import TrainParams
from transfer.training import parallel, slots
from transfer.utils.errors import UserError


def hold(folder, name, count, per_device, seconds, devices, starters):
    """A job that sees fake devices: takes some, notes which and when, holds them for a moment."""
    os.dup2(os.open(folder / f"{name}.err", os.O_WRONLY | os.O_CREAT), 2)
    sys.stderr = os.fdopen(2, "w")
    torch.cuda.is_available = lambda: True
    torch.cuda.device_count = lambda: len(devices)
    torch.cuda.get_device_properties = lambda number: SimpleNamespace(uuid=devices[number])
    slots.tempfile.gettempdir = lambda: str(folder)
    (folder / f"{name}.ready").touch()
    while len(list(folder.glob("*.ready"))) < starters:
        time.sleep(0.001)
    numbers = claim_devices(count, per_device, f"job {name}")
    log = folder / f"{name}.log"
    log.write_text(f"{time.monotonic()} {','.join(devices[number] for number in numbers)}")
    time.sleep(seconds)
    log.write_text(f"{log.read_text()} {time.monotonic()}")
    os._exit(0)


@pytest.fixture
def job(tmp_path):
    """Start jobs, ``starters`` of them at once; what is still running is killed at the end."""
    context = multiprocessing.get_context("forkserver")  # processes that work at once, without importing torch again
    context.set_forkserver_preload(["transfer.training.run"])
    started = []

    def start(name, count=1, per_device=1, seconds=600.0, devices=("GPU-a", "GPU-b"), starters=0):
        arguments = (tmp_path, name, count, per_device, seconds, devices, starters)
        started.append(context.Process(target=hold, args=arguments))
        started[-1].start()
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.join()


def said(tmp_path, name):
    """What a job has said."""
    file = tmp_path / f"{name}.err"
    return file.read_text() if file.exists() else ""


def log(tmp_path):
    """Name of each job that got devices: (when, which, until when or None)."""
    found = {}
    for file in tmp_path.glob("*.log"):
        words = file.read_text().split()
        if len(words) > 1:
            found[file.stem] = (float(words[0]), words[1].split(","), float(words[2]) if len(words) > 2 else None)
    return found


def wait_for(condition, seconds=90):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


# --- jobs as processes ---


@pytest.mark.parametrize("per_device", [1, 2])
def test_four_jobs_on_two_devices_never_share_more_than_they_may(job, tmp_path, per_device):
    processes = [job(str(i), per_device=per_device, seconds=0.6, starters=4) for i in range(4)]
    for process in processes:
        process.join(timeout=120)
        assert process.exitcode == 0
    events = []
    for start, (device,), end in log(tmp_path).values():
        events += [(start, 1, device), (end, -1, device)]
    assert len(events) == 8
    used, most = {"GPU-a": 0, "GPU-b": 0}, {"GPU-a": 0, "GPU-b": 0}
    for _, change, device in sorted(events):
        used[device] += change
        most[device] = max(most[device], used[device])
    assert max(most.values()) <= per_device and min(most.values()) >= 1


def test_sigkill_frees_the_device(job, tmp_path):
    first, second = job("first"), job("second")
    wait_for(lambda: len(log(tmp_path)) == 2)
    assert {devices[0] for _, devices, _ in log(tmp_path).values()} == {"GPU-a", "GPU-b"}
    job("third")
    wait_for(lambda: said(tmp_path, "third").endswith("\n"))
    line = said(tmp_path, "third")
    assert line.startswith("waiting for 1 of 2 CUDA devices, which others use: job ")
    assert f"job first (process {first.pid})" in line and f"job second (process {second.pid})" in line
    assert "third" not in log(tmp_path)
    first.kill()
    wait_for(lambda: "third" in log(tmp_path))
    found = log(tmp_path)
    assert found["third"][1] == found["first"][1]


def test_what_the_user_or_the_cluster_shows_is_what_is_taken(job, tmp_path):
    """Numbers differ with CUDA_VISIBLE_DEVICES: the device is meant, and it is the same one for all."""
    job("first", devices=("GPU-a", "GPU-b"))
    wait_for(lambda: "first" in log(tmp_path))
    assert log(tmp_path)["first"][1] == ["GPU-a"]
    other = job("other", devices=("GPU-b", "GPU-a"))
    job("same", devices=("GPU-a",))
    wait_for(lambda: "other" in log(tmp_path))
    assert log(tmp_path)["other"][1] == ["GPU-b"]
    wait_for(lambda: "which others use: job first" in said(tmp_path, "same"))
    other.kill()
    time.sleep(1)
    assert "same" not in log(tmp_path)  # GPU-b is free now, but not for this one


def test_several_devices_are_collected_and_two_such_jobs_do_not_block_each_other(job, tmp_path):
    """Each could have one of two devices while the other sleeps; one of them gets both, and then the other."""
    devices = ("GPU-a", "GPU-b")
    (tmp_path / f"transfer-{os.getuid()}").mkdir(mode=0o700)
    held = take(devices, 2, 1, "others", tmp_path / f"transfer-{os.getuid()}")
    jobs = [job(str(i), count=2, seconds=0.5) for i in range(2)]
    wait_for(lambda: "which others use: others" in said(tmp_path, "0") and said(tmp_path, "1"))
    for process, handle in zip(jobs, held.values(), strict=True):
        os.kill(process.pid, signal.SIGSTOP)
        os.close(handle)
        time.sleep(1.5)  # longer than between two tries
        os.kill(process.pid, signal.SIGCONT)
    for process in jobs:
        process.join(timeout=60)
        assert process.exitcode == 0
    (_, one, end), (start, two, _) = sorted(log(tmp_path).values())
    assert one == two == list(devices) and end <= start


# --- in one process ---


def test_devices_with_fewer_jobs_come_first(tmp_path):
    held = [take(["a", "b", "c"], 1, 2, "job", tmp_path) for _ in range(6)]
    assert [next(iter(slot)) for slot in held] == [0, 1, 2, 0, 1, 2]
    for slot in held:
        for handle in slot.values():
            os.close(handle)


def test_a_lock_file_that_was_removed_says_nothing(tmp_path, monkeypatch):
    (held,) = take(["a"], 1, 1, "first", tmp_path).values()
    path = tmp_path / "a.0"
    assert path.read_text() == f"first (process {os.getpid()})" and path.stat().st_mode & 0o777 == 0o600
    opened, real = [], os.open

    def removed_meanwhile(name, *rest):
        handle = real(name, *rest)
        if not opened:
            os.close(held)  # its holder ends, and someone tidies up, between opening and locking
            path.unlink()
        opened.append(name)
        return handle

    monkeypatch.setattr(slots.os, "open", removed_meanwhile)
    (handle,) = take(["a"], 1, 1, "second", tmp_path).values()
    assert len(opened) == 2 and path.read_text().startswith("second")
    assert os.path.samestat(os.fstat(handle), path.stat())
    os.close(handle)


def test_a_child_that_outlives_the_job_does_not_hold_its_device(tmp_path):
    (handle,) = take(["a"], 1, 1, "job", tmp_path).values()
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE, close_fds=False) as child:
        os.close(handle)
        (handle,) = take(["a"], 1, 1, "next", tmp_path).values()
        os.close(handle)
        child.communicate(b"\n")


def test_the_folder_is_the_users_alone(tmp_path, monkeypatch):
    monkeypatch.setattr(slots.tempfile, "gettempdir", lambda: str(tmp_path))
    folder = slot_folder()
    assert folder == tmp_path / f"transfer-{os.getuid()}" and folder.stat().st_mode & 0o777 == 0o700
    assert slot_folder() == folder
    folder.chmod(0o777)
    with pytest.raises(UserError, match="expected a folder that only you can write to; remove it, or set TMPDIR"):
        slot_folder()
    folder.rmdir()
    (tmp_path / "elsewhere").mkdir()
    folder.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UserError, match="only you can write to"):
        slot_folder()
    folder.unlink()
    folder.write_text("")
    with pytest.raises(UserError):
        slot_folder()


@pytest.fixture
def cuda(tmp_path, monkeypatch):
    """Two CUDA devices that are not there."""
    used = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(
        torch.cuda, "get_device_properties", lambda number: type("About", (), {"uuid": f"GPU-{number}"})
    )
    monkeypatch.setattr(torch.cuda, "set_device", used.append)
    monkeypatch.setattr(slots.tempfile, "gettempdir", lambda: str(tmp_path))
    monkeypatch.setattr(slots, "_claimed", {})
    taken, real = [], slots.take
    monkeypatch.setattr(slots, "take", lambda *rest: taken.append(real(*rest)) or taken[-1])
    yield used
    for slot in taken:
        for handle in slot.values():
            os.close(handle)


def test_a_process_keeps_its_device(cuda, tmp_path):
    first = claim_device(TrainParams(), "first")
    assert first == torch.device("cuda", 0) == claim_device(TrainParams(device="cuda"), "again")
    assert cuda == [0]
    assert claim_device(TrainParams(device="cpu"), "elsewhere") == torch.device("cpu")
    assert [file.name for file in slot_folder().iterdir()] == ["GPU-0.0"]


def test_more_processes_than_devices(cuda):
    with pytest.raises(UserError, match="^3 processes, but there are 2 CUDA devices; start at most 2"):
        claim_devices(3, 1, "job")


def test_the_processes_of_a_machine_get_different_devices(cuda, monkeypatch):
    """The first one takes for all, and tells the others."""
    store = torch.distributed.HashStore()
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    for rank in range(2):
        monkeypatch.setenv("LOCAL_RANK", str(rank))
        parallel._share_devices(store, TrainParams(), "job")
        assert claim_device(TrainParams(), "job") == torch.device("cuda", rank)
    assert cuda == [0, 1]


def test_without_cuda_nothing_is_taken(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(slots.tempfile, "gettempdir", lambda: str(tmp_path))
    assert claim_device(TrainParams(), "job") == torch.device("cpu")
    assert list(tmp_path.iterdir()) == []
