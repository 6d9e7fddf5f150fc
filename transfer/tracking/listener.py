"""The listener that shows a run in MLflow while it trains."""

from collections.abc import Mapping
from typing import Any

from transfer.tracking.live import Tracking
from transfer.tracking.names import environment_tags, epoch_metrics
from transfer.training.listeners import Listener, Status
from transfer.training.outputs import epoch_times, run_environment
from transfer.training.state import Run


class MlflowListener(Listener):
    """Shows a run under ``dataset`` and ``recipe`` (default: its own), with ``tags`` (default: its environment's)."""

    def __init__(
        self, dataset: str | None = None, recipe: str | None = None, tags: Mapping[str, Any] | None = None
    ) -> None:
        self.dataset, self.recipe, self.tags = dataset, recipe, tags

    def on_start(self, run: Run) -> None:
        """Begin or continue the run in MLflow."""
        self.run = run
        self.tracking = Tracking(
            experiment=run.params.experiment,
            dataset=self.dataset or run.dataset,
            recipe=self.recipe or run.recipe,
            seed=run.seed,
            digest=run.digest,
            params=run.settings.model_dump(mode="json"),
            tags=environment_tags(run_environment(run)) if self.tags is None else self.tags,
            history=run.history,
            enabled=run.params.tracking,
        )

    def on_epoch(self, row: Mapping[str, float]) -> None:
        """Show the metrics of an epoch."""
        metrics = {key: value for key, value in row.items() if key != "epoch"}
        self.tracking.log_epoch(int(row["epoch"]), metrics | epoch_metrics(epoch_times(self.run))[-1])

    def on_end(self, status: Status) -> None:
        """End the run in MLflow, with the accuracies of its outputs if it has any; leave a stopped run open."""
        written = status == "FINISHED" and (self.run.directory / "env.json").exists()
        if status == "STOPPED":
            self.tracking.leave()
        else:
            self.tracking.finish(status, self.run.directory if written else None)
