"""The listener that shows a run in MLflow while it trains."""

from collections.abc import Mapping
from typing import Any

from transfer.tracking.live import Tracking
from transfer.tracking.shown import environment_tags, epoch_metrics
from transfer.training.listeners import Listener, Status
from transfer.training.outputs import epoch_times, run_environment
from transfer.training.state import Run


class MlflowListener(Listener):
    """Shows a run below ``dataset`` and ``recipe``, by default its own, with ``tags`` in place of its environment's."""

    def __init__(
        self, dataset: str | None = None, recipe: str | None = None, tags: Mapping[str, Any] | None = None
    ) -> None:
        self.dataset, self.recipe, self.tags = dataset, recipe, tags

    def on_start(self, run: Run) -> None:
        """Begin or continue the run in MLflow."""
        self.run = run
        self.tracking = Tracking.start(
            experiment=run.params.experiment,
            dataset=self.dataset or run.dataset,
            recipe=self.recipe or run.recipe,
            seed=run.seed,
            digest=run.digest,
            params=run.settings.model_dump(mode="json"),
            tags=environment_tags(run_environment(run)) if self.tags is None else self.tags,
            resume_run_id=run.notes.get("mlflow_run"),
            history=run.history,
            enabled=run.params.tracking,
        )

    def on_epoch(self, row: Mapping[str, float]) -> None:
        """Show the metrics of an epoch."""
        metrics = {key: value for key, value in row.items() if key != "epoch"}
        self.tracking.log_epoch(int(row["epoch"]), metrics | epoch_metrics(epoch_times(self.run))[-1])

    def on_end(self, status: Status) -> None:
        """Show the results of a finished run that has outputs, and end it in MLflow; a stopped run is left open."""
        run = self.run
        if status == "STOPPED":
            self.tracking.leave()
            return
        if status == "FINISHED" and (run.directory / "env.json").exists():
            identity = {"dataset": run.dataset, "recipe": run.recipe, "seed": run.seed, "classes": run.data.classes}
            folder = run.state_file.parent
            self.tracking.log_results(run.directory, folder, experiment=run.params.experiment, **identity)
            for name in ("history.csv", "env.json"):
                self.tracking.log_artifact(run.directory / name)
        self.tracking.finish(status)

    def notes(self) -> dict[str, str]:
        """The MLflow run id, once the store has given one."""
        return {"mlflow_run": self.tracking.run_id} if self.tracking.run_id else {}
