"""One trial: runs on the training split, scored on the validation split; the test split stays closed."""

from collections.abc import Callable, Mapping
from pathlib import Path

from transfer.layout import Layout
from transfer.params import Params, digest
from transfer.tracking.listener import MlflowListener
from transfer.training.data import data_digest
from transfer.training.listeners import Listener
from transfer.training.run import fit
from transfer.training.state import Row, Run
from transfer.utils.environment import commit


class Epochs(Listener):
    """Hands every row of the history on, first those of a run that was interrupted (True)."""

    def __init__(self, after_epoch: Callable[[Mapping[str, float], bool], None]) -> None:
        self.after_epoch = after_epoch

    def on_start(self, run: Run) -> None:
        """The epochs before the interruption."""
        for row in run.history:
            self.after_epoch(row, True)

    def on_epoch(self, row: Mapping[str, float]) -> None:
        """A new epoch; ``after_epoch`` may raise optuna.TrialPruned."""
        self.after_epoch(row, False)


def validate(
    params: Params,
    dataset: str,
    search: str,
    number: int,
    seed: int,
    folder: Path,
    layout: Layout,
    after_epoch: Callable[[Mapping[str, float], bool], None],
) -> float:
    """Train trial ``number`` with one seed; the validation accuracy of its best epoch.

    ``params`` are those of ``trial_params``; no row of the test split is known.
    """
    code = commit() or "none"
    settings = params.run(dataset, search)
    tags = {"commit": code, "mlflow.source.git.commit": code, "data_digest": data_digest(settings, dataset, layout)}
    tags |= {"params_digest": digest(settings), "search": search, "trial": str(number)}
    shown = [MlflowListener(f"search/{search}/{dataset}", f"trial{number}", tags)] if params.tracking else []
    run = fit(
        params,
        dataset,
        search,
        seed,
        layout,
        splits=("val",),
        state_dir=folder / f"seed{seed}",
        listeners=[*shown, Epochs(after_epoch)],
    )
    return best_accuracy(run.history)


def best_accuracy(history: list[Row]) -> float:
    """The validation accuracy of the epoch that val_selected would choose."""
    return max(row["val_accuracy"] for row in history)
