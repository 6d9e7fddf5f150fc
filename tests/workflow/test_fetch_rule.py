"""The rule that downloads: it fetches what is missing, survives a kill, and never touches what is there."""

import json
import os
import random
import signal
import time

import pytest
from file_server import FileServer, hold

pytestmark = pytest.mark.workflow

PATH = "weights/vit_small_p16_224-15ec54c9.pth"
TARGET = f"data/raw/{PATH}"
CONTENT = random.Random(0).randbytes(1_000_000)


@pytest.fixture
def server():
    with FileServer({PATH: CONTENT}) as running:
        yield running


@pytest.fixture
def online(fresh, server):
    """A bare checkout in which the file is that of the server, and its checksum not yet known."""
    fresh.replace("params/sources.yaml", "        sha256_prefix: 15ec54c9\n", "")
    fresh.environment = {key: value for key, value in fresh.environment.items() if not key.lower().endswith("_proxy")}
    fresh.environment["TRANSFER_MIRROR"] = server.url
    return fresh


def fetch(repository, *options):
    return repository.snakemake(TARGET, *options)


def test_a_missing_file_is_downloaded_once(online, server):
    done = fetch(online)
    assert done.returncode == 0, done.stdout
    assert (online.root / TARGET).read_bytes() == CONTENT
    assert list(json.loads((online.root / "params/sources.lock.json").read_text())) == [PATH]
    again = fetch(online)
    assert again.returncode == 0
    assert "Nothing to be done" in again.stdout
    assert len(server.requests) == 1


def test_what_was_put_there_by_hand_stays(online, server):
    server.files.clear()
    file = online.root / TARGET
    file.parent.mkdir(parents=True)
    file.write_bytes(b"mine")
    assert "Nothing to be done" in fetch(online).stdout
    forced = fetch(online, "--force")
    assert forced.returncode == 0, forced.stdout
    assert file.read_bytes() == b"mine"
    online.replace(
        "params/sources.yaml", "v0.1-weights/vit_small_p16_224-15ec54c9.pth\n", "v0.1-weights/a.pth\n        size: 5\n"
    )
    wrong = fetch(online, "--force")
    assert wrong.returncode == 1
    assert f"error: {TARGET}: 4 bytes; expected 5 (params/sources.yaml)" in wrong.stdout
    assert file.read_bytes() == b"mine"
    assert not server.requests


def test_after_a_killed_download_the_file_is_absent_and_fetched_again(online, server):
    server.script = [hold(600_000)]
    process, end = online.start(TARGET), time.monotonic() + 120
    while server.sent != [600_000] and time.monotonic() < end:
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert not (online.root / TARGET).exists()
    done = fetch(online)
    assert done.returncode == 0, done.stdout
    assert (online.root / TARGET).read_bytes() == CONTENT
    assert server.sent == [600_000, 1_000_000]


def test_a_download_that_fails_is_one_line(online, server):
    server.files.clear()
    done = fetch(online)
    assert done.returncode == 1
    assert {line for line in done.stdout.splitlines() if line.startswith("error: ")} == {
        f"error: {server.url}/{PATH}: HTTP 404 Not Found"
    }
    assert "Traceback" not in done.stdout
    assert not (online.root / TARGET).exists()
