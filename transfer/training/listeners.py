"""What a run tells others while it goes on: progress bars, trackers and searches are listeners."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from transfer.training.state import Run

Status = Literal["FINISHED", "FAILED", "KILLED", "STOPPED"]


class Listener:
    """Base class of listeners: override what you need; hand instances to ``train`` or ``fit``.

    With several GPUs only the first process has listeners.
    """

    def on_start(self, run: "Run") -> None:
        """Before the first epoch of this process; ``run.history`` holds the epochs of a resumed run."""

    def on_epoch(self, row: Mapping[str, float]) -> None:
        """After an epoch, once its state is saved; ``row`` is its line of history.csv.

        An exception ends the run, as "KILLED", and reaches the caller: a search prunes a trial so.
        """

    def on_end(self, status: Status) -> None:
        """FINISHED: the outputs are written. STOPPED: by a signal; the same command continues the run. KILLED: by a
        listener. FAILED: by any other exception."""
