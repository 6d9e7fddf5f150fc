"""One trial: trainings on the training part, scored on the validation part; the test part stays closed."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna

from transfer.layout import Layout
from transfer.params import Params, digest
from transfer.training.run import Training
from transfer.utils.environment import commit

Row = dict[str, float]


class TrialTraining(Training):
    """A training of a trial, which knows no row of the test part; ``params`` are those of ``trial_params``."""

    def __init__(
        self, params: Params, dataset: str, search: str, number: int, seed: int, folder: Path, layout: Layout
    ) -> None:
        super().__init__(params, dataset, search, seed, layout, parts=("val",))
        self.number = number
        self.state_file = folder / f"seed{seed}" / "last.pt"

    def validate(self, after_epoch: Callable[[Row, bool], None]) -> float:
        """Train to the end; the validation accuracy of the best epoch.

        ``after_epoch`` gets each row of the history, first those of a training that was interrupted (True), and may
        raise optuna.TrialPruned.
        """
        self._resume()
        for row in self.history:
            after_epoch(row, True)
        tracking = self._start_tracking()
        status = "FAILED"
        try:
            self._epochs(tracking, lambda row: after_epoch(row, False))
            status = "FINISHED"
        except optuna.TrialPruned:
            status = "KILLED"
            raise
        finally:
            tracking.finish(status)
        return best_accuracy(self.history)

    def _tracked_as(self) -> dict[str, Any]:
        code = commit() or "none"
        tags = {"commit": code, "mlflow.source.git.commit": code, "data_digest": self.data_digest}
        tags |= {"params_digest": digest(self.run_params), "search": self.recipe, "trial": str(self.number)}
        return {"dataset": f"search/{self.recipe}/{self.dataset}", "recipe": f"trial{self.number}", "tags": tags}


def best_accuracy(history: list[Row]) -> float:
    """The validation accuracy of the epoch that val_selected would choose."""
    return max(row["val_accuracy"] for row in history)
