"""A run in progress, and its resume state: one file, replaced whole after every epoch.

It is no declared output of the workflow: Snakemake deletes those before a job and after a failure.
"""

import sys
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from transfer.losses.base import Loss
from transfer.params import Params, RunParams, digest
from transfer.training.data import RunData
from transfer.training.distributed import ProcessGroup
from transfer.training.epoch import EpochMeter
from transfer.training.loop import SGD, WeightAverage
from transfer.utils.errors import UserError
from transfer.utils.files import atomic

Identity = Mapping[str, str]
"""What a run must share with the state that it continues: names, and digests by what they stand for."""

Row = dict[str, float]
"""A line of history.csv."""

SELECTED_BY = {"val_selected": "val_accuracy", "test_selected": "test_accuracy"}
"""The column of the history whose first maximum a protocol selects; ``last`` takes the last epoch."""


@dataclass
class Run:
    """A run in progress: what listeners are handed, and what ``fit`` returns."""

    params: Params
    settings: RunParams
    dataset: str
    recipe: str
    seed: int
    identity: Identity
    directory: Path
    """Where the outputs go."""
    made_from: list[Path]
    """The files that decide what it trains on, and its pretrained weights."""
    state_file: Path
    device: torch.device
    precision: str
    deterministic: bool
    group: ProcessGroup
    data: RunData
    model: nn.Module
    network: nn.Module
    """``model`` as it is trained: wrapped where several GPUs share the batches."""
    criterion: Loss
    """The loss, with its own parameters and state."""
    average: WeightAverage | None
    optimizer: SGD
    pretrained: dict[str, str]
    """SHA-256 of each file of pretrained weights."""
    history: list[Row] = field(default_factory=list)
    selected: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Of each protocol the selected epoch so far: its number, the predicted probabilities of each split, and, for the
    protocol whose checkpoint is kept, the weights."""
    seconds: list[float] = field(default_factory=list)
    """Duration of each epoch."""
    meter: EpochMeter | None = None
    """The epoch in progress."""
    seconds_before: float = 0.0
    """Time spent on the epoch in progress before the run was interrupted."""

    @property
    def name(self) -> str:
        return f"{self.dataset} {self.recipe} seed{self.seed}"

    @property
    def digest(self) -> str:
        return digest(dict(self.identity))

    @property
    def evaluated(self) -> nn.Module:
        """The network that is evaluated and kept: the average of the weights, where there is one."""
        return self.model if self.average is None else self.average.module

    def weights(self) -> dict[str, torch.Tensor]:
        """A copy of the evaluated network's weights, on the CPU."""
        return {name: value.detach().cpu().clone() for name, value in self.evaluated.state_dict().items()}

    def select(self, row: Row, probabilities: Callable[[], dict[str, torch.Tensor]]) -> None:
        """Keep this epoch under each protocol that prefers its ``row`` to the whole history.

        ``probabilities`` may raise (a signal arrived); the selection is then as it was.
        """
        selected: dict[str, dict[str, Any]] = {}
        for protocol in self.params.protocols:
            if protocol == "last":
                better = row["epoch"] == self.settings.train.epochs
            else:
                key = SELECTED_BY[protocol]
                better = all(row[key] > earlier[key] for earlier in self.history)
            if better:
                selected[protocol] = {"epoch": row["epoch"], "probabilities": probabilities()}
                if protocol == self.params.checkpoint_protocol:
                    selected[protocol]["weights"] = self.weights()
        self.selected |= selected

    def save(self) -> None:
        state = {
            "model": self.model.state_dict(),
            "loss": self.criterion.state_dict(),
            "optimizer": self.optimizer.velocity,
            "average": self.average and self.average.state_dict(),
            "history": self.history,
            "selection": self.selected,
            "seconds": self.seconds,
            "epoch": self.meter and self.meter.state(),
            "seconds_before": self.seconds_before,
        }
        if self.group.first:
            save_state(self.state_file, self.identity, state)
        self.group.wait()

    def resume(self) -> bool:
        """Continue from the resume state; False if there is none for this run."""
        state = load_state(self.state_file, self.identity)
        if state is None:
            return False
        self.model.load_state_dict(state["model"])
        self.criterion.load_state_dict(state["loss"])
        self.optimizer.load_velocity(state["optimizer"])
        if self.average is not None:
            self.average.load_state_dict(state["average"])
        self.history, self.selected, self.seconds = state["history"], state["selection"], state["seconds"]
        self.seconds_before = state["seconds_before"]
        if state["epoch"]:
            self.meter = EpochMeter(len(self.history), self.data.steps, self.device, state["epoch"])
        return True


def save_state(path: Path, identity: Identity, state: dict[str, Any]) -> None:
    """Write ``state`` (tensors and plain values) atomically, for runs of the same ``identity``.

    Raises UserError where it cannot be written, such as on a full disk; the state before it is then still whole.
    """
    try:
        with atomic(path) as part:
            torch.save({"identity": dict(identity), **state}, part)
    except (OSError, RuntimeError) as error:  # torch's writer raises RuntimeError
        reason = error.strerror if isinstance(error, OSError) else "the disk seems to be full"
        raise UserError(
            f"{path}: the resume state cannot be written ({reason}); make room or make the folder writable, then start "
            "again: the run continues from its last good state"
        ) from error


def load_state(path: Path, identity: Identity) -> dict[str, Any] | None:
    """The state of an interrupted run; None, and one line on stderr, where it is damaged or of another run."""
    if not path.exists():
        return None
    try:
        state = _read(path)
    except Exception as error:  # torch.load raises nearly anything on damaged data
        problem = f"damaged resume state ({type(error).__name__})"
    else:
        different = _differences(state["identity"], identity)
        if not different:
            return state
        problem = f"resume state of another run ({different})"
    print(f"{path}: {problem}; the run starts over", file=sys.stderr)
    return None


def _read(file: Path) -> dict[str, Any]:
    with zipfile.ZipFile(file) as archive:  # torch checks none of the checksums that it writes
        if damaged := archive.testzip():
            raise zipfile.BadZipFile(damaged)
    state = torch.load(file, map_location="cpu", weights_only=True)
    if not isinstance(state, dict) or not isinstance(state.get("identity"), dict):
        raise ValueError("not a resume state")
    return state


def _differences(found: Identity, expected: Identity) -> str:
    """What differs, in words: names with both values, digests by what they stand for."""
    words = []
    for key in [*expected, *(key for key in found if key not in expected)]:
        here, there = expected.get(key), found.get(key)
        if here != there:
            named = key in ("dataset", "recipe", "seed")
            words.append(f"{key} {there} instead of {here}" if named else f"other {key}")
    return ", ".join(words)
