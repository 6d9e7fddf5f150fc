"""Which epoch each protocol selects, and what is kept of it."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor

SELECTED_BY = {"val_selected": "val_accuracy", "test_selected": "test_accuracy"}
"""The column of the history whose first maximum a protocol selects; ``last`` takes the last epoch."""


class Selection:
    """The selected epoch of each protocol so far: its number, the predicted probabilities of each split, and, for
    the protocol whose checkpoint is kept, the weights."""

    def __init__(self, protocols: Sequence[str], checkpoint_protocol: str, epochs: int) -> None:
        self.protocols = protocols
        self.checkpoint_protocol = checkpoint_protocol
        self.epochs = epochs
        self.best: dict[str, dict[str, Any]] = {}

    def update(
        self,
        row: Mapping[str, float],
        history: Sequence[Mapping[str, float]],
        probabilities: Callable[[], dict[str, Tensor]],
        weights: Callable[[], dict[str, Tensor]],
    ) -> None:
        """Keep this epoch under each protocol that prefers its ``row`` to all of ``history``.

        ``probabilities`` may raise (a signal arrived); the selection is then as it was.
        """
        selected: dict[str, dict[str, Any]] = {}
        for protocol in self.protocols:
            if protocol == "last":
                better = row["epoch"] == self.epochs
            else:
                key = SELECTED_BY[protocol]
                better = all(row[key] > earlier[key] for earlier in history)
            if better:
                selected[protocol] = {"epoch": row["epoch"], "probabilities": probabilities()}
                if protocol == self.checkpoint_protocol:
                    selected[protocol]["weights"] = weights()
        self.best |= selected
