"""Headless Chromium that reaches 127.0.0.1 and nothing else, and servers to look at."""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import pytest

_FLAGS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
    "--force-device-scale-factor=1",
    # A page that needs anything from elsewhere does not get it here either.
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
    # A mouse that is nowhere: without one Plotly shows the buttons of every chart, on top of it.
    "--blink-settings=primaryHoverType=2,availableHoverTypes=2,primaryPointerType=4,availablePointerTypes=4",
)


@contextlib.contextmanager
def chromium(width: int = 1280, height: int = 900, flags: Sequence[str] = ()) -> Iterator:
    """A selenium driver with a new empty profile. Debian: apt-get install chromium chromium-driver."""
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        for flag in (*_FLAGS, *flags, f"--user-data-dir={profile}", f"--window-size={width},{height}"):
            options.add_argument(flag)
        # The driver's path is given, so that Selenium does not look for one to download.
        driver = webdriver.Chrome(options, webdriver.ChromeService(shutil.which("chromedriver")))
        driver.set_page_load_timeout(120)
        try:
            yield driver
        finally:
            driver.quit()


def needs_chromium() -> None:
    for program in ("chromium", "chromedriver"):
        if shutil.which(program) is None:
            pytest.skip(f"{program} is not on PATH (Debian: apt-get install chromium chromium-driver)")


@pytest.fixture
def driver() -> Iterator:
    needs_chromium()
    with chromium() as opened:
        yield opened


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


@contextlib.contextmanager
def serving(command: Sequence[str], url: str, cwd: Path, environment: Mapping[str, str] | None = None) -> Iterator[str]:
    """A server, from its first answer at ``url`` on; it ends with all processes of its group, and with no other."""
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(
            command, cwd=cwd, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
        )
        try:
            wait_for(lambda: _answers(url) or process.poll() is not None)
            if process.poll() is not None:
                log.seek(0)
                raise AssertionError(log.read().decode(errors="replace"))
            yield url
        finally:
            for signal_number in (signal.SIGTERM, signal.SIGKILL):
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal_number)
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(20)


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=20):
            return True
    except (urllib.error.URLError, OSError):
        return False


def wait_for(condition: Callable, seconds: float = 180):
    """The first true value of ``condition``, which may fail while a page is being built."""
    end = time.monotonic() + seconds
    while True:
        try:
            if value := condition():
                return value
            why = "nothing came"
        except Exception as error:  # elements come and go
            why = error
        assert time.monotonic() < end, why
        time.sleep(0.2)
