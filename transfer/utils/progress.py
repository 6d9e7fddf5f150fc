"""Progress of a slow step: a bar on a terminal, a plain line now and then elsewhere."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

_SECONDS_BETWEEN_LINES = 15


@contextmanager
def progress(what: str, total: int, unit: str = "images", start: int = 0) -> Iterator[Callable[[int], None]]:
    """Yield a function to be called with the number of units done; it shows units/s and the time left on stderr.

    ``start`` units were done before, and do not count for the speed.
    """
    if not sys.stderr.isatty():
        yield _lines(what, total, unit, start)
        return

    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = [
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeRemainingColumn(),
    ]
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task(what, total=total, completed=start, rate="")

        def update(done: int) -> None:
            speed = bar.tasks[0].speed
            bar.update(task, completed=done, rate=f"{speed:,.0f} {unit}/s" if speed else "")

        yield update


def _lines(what: str, total: int, unit: str, before: int) -> Callable[[int], None]:
    """Print a line when the last one is old enough, and one at the end."""
    begun = last = time.monotonic()

    def update(done: int) -> None:
        nonlocal last
        now = time.monotonic()
        if done < total and now - last < _SECONDS_BETWEEN_LINES:
            return
        last = now
        rate = (done - before) / max(now - begun, 1e-9)
        left = f", {(total - done) / rate:,.0f} s left" if rate and done < total else ""
        print(f"{what}: {done:,} of {total:,} {unit}, {rate:,.0f}/s{left}", file=sys.stderr, flush=True)

    return update
