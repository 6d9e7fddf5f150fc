"""SIGTERM (a cluster's pre-emption) and Ctrl-C: the run ends between two steps, its state saved."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from transfer.utils.errors import UserError

CAUGHT = (signal.SIGTERM, signal.SIGINT)


class Stopped(UserError):
    """A signal asked the run to end; the exit code is the one that shells report."""

    def __init__(self, number: int, message: str = "") -> None:
        super().__init__(f"stopped by {signal.Signals(number).name}{message}")
        self.number = number
        self.exit_code = 128 + number


@contextmanager
def caught(agree: Callable[[int], int] = lambda number: number) -> Iterator[Callable[[], None]]:
    """Hold these signals back: the function yielded raises Stopped once one has arrived.

    ``agree`` gets the signal's number, or 0, and returns what all processes of a run do: they stop together. A second
    Ctrl-C ends the process at once; a second SIGTERM changes nothing, since several senders may mean the same. Outside
    the main thread nothing is caught: Python has no handlers there.
    """
    arrived: list[int] = []

    def remember(number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT and arrived:
            raise KeyboardInterrupt
        arrived.append(number)

    def check() -> None:
        number = agree(arrived[0] if arrived else 0)
        if number:
            raise Stopped(number)

    if threading.current_thread() is not threading.main_thread():
        yield check
        return
    before = {number: signal.signal(number, remember) for number in CAUGHT}
    try:
        yield check
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
