"""One trial: trainings on the training part, scored on the validation part; the test part stays closed."""

from collections.abc import Callable
from pathlib import Path

import optuna

from transfer.environment import commit
from transfer.layout import Layout
from transfer.params import Params, digest
from transfer.tracking import Tracking
from transfer.training.run import Training

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

    def _start_tracking(self) -> Tracking:
        code = commit() or "none"
        tags = {"commit": code, "mlflow.source.git.commit": code, "data_digest": self.data_digest}
        return Tracking.start(
            experiment=self.params.experiment,
            dataset=f"search/{self.recipe}/{self.dataset}",
            recipe=f"trial{self.number}",
            seed=self.seed,
            digest=self.digest,
            params=self.run_params.model_dump(mode="json"),
            tags=tags | {"params_digest": digest(self.run_params), "search": self.recipe, "trial": str(self.number)},
            resume_run_id=self.mlflow_run,
            history=self.history,
            enabled=self.params.tracking,
        )


def best_accuracy(history: list[Row]) -> float:
    """The validation accuracy of the epoch that val_selected would choose."""
    return max(row["val_accuracy"] for row in history)
