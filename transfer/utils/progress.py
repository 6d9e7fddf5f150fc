"""Progress of a slow step on stderr: a line that is rewritten on a terminal, a line now and then elsewhere."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def progress(what: str, total: int, unit: str = "images", start: int = 0) -> Iterator[Callable[[int], None]]:
    """Yield a function to be called with the number of units done; it shows units/s and the time left.

    ``start`` units were done before, and do not count for the speed.
    """
    terminal = sys.stderr.isatty()
    begun = last = time.monotonic()

    def update(done: int) -> None:
        nonlocal last
        now = time.monotonic()
        if done < total and now - last < (0.5 if terminal else 15):
            return
        last = now
        rate = (done - start) / max(now - begun, 1e-9)
        left = f", {(total - done) / rate:,.0f} s left" if rate and done < total else ""
        end = "\x1b[K\r" if terminal and done < total else "\x1b[K\n" if terminal else "\n"
        print(f"{what}: {done:,} of {total:,} {unit}, {rate:,.0f}/s{left}", end=end, file=sys.stderr, flush=True)

    yield update
