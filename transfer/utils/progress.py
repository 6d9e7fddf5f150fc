"""Progress of a slow step: a bar on a terminal, a plain line now and then elsewhere."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.text import Text

_SECONDS_BETWEEN_LINES = 15


@contextmanager
def progress(what: str, total: int, unit: str = "images", start: int = 0) -> Iterator[Callable[[int], None]]:
    """Yield a function that takes the number of units done so far; shows units/s and the time left on stderr.

    ``start`` units were done before, and do not count for the speed.
    """
    if sys.stderr.isatty():
        columns = [
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            _Rate(unit),
            TimeRemainingColumn(),
        ]
        with Progress(*columns, console=Console(stderr=True)) as bar:
            task = bar.add_task(what, total=total, completed=start)
            yield lambda done: bar.update(task, completed=done)
    else:
        yield _Lines(what, total, unit, start)


class _Rate(ProgressColumn):
    """Units per second."""

    def __init__(self, unit: str) -> None:
        super().__init__()
        self.unit = unit

    def render(self, task: Task) -> Text:
        """The rate as text, empty before the first unit."""
        return Text(f"{task.speed:,.0f} {self.unit}/s" if task.speed else "")


class _Lines:
    """A line when it begins to take long, then every few seconds, and at the end."""

    def __init__(self, what: str, total: int, unit: str, before: int) -> None:
        self.what, self.total, self.unit, self.before = what, total, unit, before
        self.start = self.last = time.monotonic()

    def __call__(self, done: int) -> None:
        """Print the state if the last line is old enough."""
        now = time.monotonic()
        if done < self.total and now - self.last < _SECONDS_BETWEEN_LINES:
            return
        self.last = now
        rate = (done - self.before) / max(now - self.start, 1e-9)
        left = f", {(self.total - done) / rate:,.0f} s left" if rate and done < self.total else ""
        print(f"{self.what}: {done:,} of {self.total:,} {self.unit}, {rate:,.0f}/s{left}", file=sys.stderr, flush=True)
