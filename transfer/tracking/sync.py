"""From files to MLflow: every finished run of an experiment, whole, and nothing twice."""

import contextlib
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from transfer.layout import Layout
from transfer.params import Params
from transfer.tables.kinds.recipes import published
from transfer.tables.reported import REPORTED, load_reported
from transfer.tracking import models, store
from transfer.tracking.confusion import draw_confusion
from transfer.tracking.runfiles import RunContent, RunFiles, finished_runs
from transfer.tracking.shown import EPOCH, shown_tags
from transfer.utils.errors import UserError
from transfer.utils.progress import progress

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

FILES, IN_TABLE = "transfer.utils.files", "transfer.in_table"
_WAIT_SECONDS = 600
_ARTIFACTS = ("confusion.png", "env.json", "history.csv", "metrics.json", "predictions.parquet")
_AVERAGED = ("accuracy", "mean_class_accuracy", "macro_f1")
_CONTEXTS = {"train": "training", "val": "validation", "test": "test"}


@dataclass
class Synced:
    """What a sync did, in numbers of runs, and what it could not do, in lines.

    ``problems``: runs that are left out; ``outdated``: registered models whose new weights are gone.
    """

    created: int = 0
    completed: int = 0
    unchanged: int = 0
    registered: int = 0
    problems: list[str] = field(default_factory=list)
    outdated: list[str] = field(default_factory=list)


def sync(params: Params, layout: Layout) -> Synced:
    """Bring every finished run of the experiment into MLflow, and complete those that are there.

    Two at once: the second waits. A run whose files are damaged is left out, and said in ``problems``. Raises UserError
    where the store cannot be used.
    """
    from mlflow.exceptions import MlflowException

    if not (layout.root / "runs").is_dir():
        raise UserError(
            f"{layout.root / 'runs'}: no runs; train some first, such as by: snakemake --cores all train_all"
        )
    with alone(layout):
        client = store.open_store()
        try:
            return _Sync(client, params, layout).run()
        except MlflowException as error:
            raise UserError(
                f"MLflow's store: {store.one_line(error)}; what is there stays, and the next sync goes on"
            ) from error


@contextlib.contextmanager
def alone(layout: Layout) -> Iterator[None]:
    """Be the only one that changes what MLflow has of an experiment. Waits; raises UserError after a while."""
    from filelock import FileLock, Timeout

    lock = FileLock(layout.root / ".track.lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        print(f"{lock.lock_file}: another sync of {layout.experiment} is at work; waiting", file=sys.stderr)
        try:
            lock.acquire(timeout=_WAIT_SECONDS)
        except Timeout:
            raise UserError(
                f"{lock.lock_file}: held by another process for {_WAIT_SECONDS} s; wait until it ends, or end it"
            ) from None
    with lock:
        yield


class _Sync:
    def __init__(self, client: "MlflowClient", params: Params, layout: Layout) -> None:
        self.client, self.params, self.layout = client, params, layout
        self.done = Synced()
        self.experiments: dict[str, str] = {}

    def run(self) -> Synced:
        files = finished_runs(self.layout)
        with progress(f"{self.layout.experiment} into MLflow", len(files), "runs") as report:
            count = 0
            for dataset in dict.fromkeys(run.dataset for run in files):
                name = f"{self.layout.experiment}/{dataset}"
                experiment = store.experiment_id(self.client, name)
                shown = list(store.all_runs(self.client, experiment))
                for recipe in dict.fromkeys(run.recipe for run in files if run.dataset == dataset):
                    parent = store.parent_run(self.client, experiment, name, recipe)
                    seeds: dict[int, Run] = {}
                    for run in files:
                        if (run.dataset, run.recipe) != (dataset, recipe):
                            continue
                        try:
                            run_id = self._run(run, experiment, parent, shown)
                            seeds[run.seed] = self.client.get_run(run_id)
                        except UserError as error:
                            self.done.problems.append(str(error))
                        count += 1
                        report(count)
                    self._mark(dataset, recipe, seeds, shown)
                    self._recipe(dataset, recipe, experiment, parent, seeds)
        return self.done

    # ---- One training

    def _run(self, files: RunFiles, experiment: str, parent: str, shown: "list[Run]") -> str:
        """Show a run, whole; return its id. The tag with the files' digest comes last: a kill before it is seen."""
        fingerprint = files.fingerprint()
        for run in shown:
            if run.data.tags.get(FILES) == f"{files.recipe}/seed{files.seed}@{fingerprint}" and self._is_whole(run):
                self.done.unchanged += 1
                return run.info.run_id
        content = files.read()
        run = _same(content, shown)
        if run is None:
            tags = {"transfer.run": content.tags["transfer.run"]}
            run = self.client.create_run(experiment, content.started, tags, f"{files.recipe}/seed{files.seed}")
            self.done.created += 1
        else:
            self.done.completed += 1
        run_id = run.info.run_id
        tags = shown_tags(content.tags | {"mlflow.parentRunId": parent})
        store.log_settings(self.client, run, content.params, tags)
        with tempfile.TemporaryDirectory() as folder:
            results = content.results(Path(folder))
            known = store.logged_points(self.client, run)
            points = content.points + content.result_points(results)
            store.log_points(self.client, run_id, [p for p in points if (p[0], p[3]) not in known])
            self._datasets(run, files, content)
            self._artifacts(run_id, files, results, Path(folder))
        weights = content.tags["weights_sha256"]
        if files.weights.is_file() and not models.has_model(self.client, experiment, run_id, weights):
            models.log_model(
                self.client,
                experiment,
                run_id,
                results["classes"],
                files.weights,
                weights,
                params=content.params,
                whole=False,
            )
        if run.info.status != "FINISHED":
            self.client.set_terminated(run_id, "FINISHED", content.ended)
        self.client.set_tag(run_id, FILES, f"{files.recipe}/seed{files.seed}@{fingerprint}")
        return run_id

    def _is_whole(self, run: "Run") -> bool:
        there = {file.path for file in self.client.list_artifacts(run.info.run_id)}
        return run.info.status == "FINISHED" and there.issuperset(_ARTIFACTS) and f"{EPOCH}val_loss" in run.data.metrics

    def _datasets(self, run: "Run", files: RunFiles, content: RunContent) -> None:
        from mlflow.entities import Dataset, DatasetInput, InputTag

        if run.inputs and run.inputs.dataset_inputs:
            return
        data = self.layout.data(files.dataset)
        parts = pd.read_parquet(data / "split.parquet", columns=["split"])["split"].value_counts()
        source = f'{{"uri": "{(data / "aligned.npy").as_posix()}"}}'
        inputs = [
            DatasetInput(
                Dataset(
                    f"{files.dataset}/{part}",
                    content.env["data_digest"],
                    "local",
                    source,
                    profile=f'{{"num_images": {parts[part]}}}',
                ),
                [InputTag("mlflow.data.context", context)],
            )
            for part, context in _CONTEXTS.items()
        ]
        self.client.log_inputs(run.info.run_id, inputs)

    def _artifacts(self, run_id: str, files: RunFiles, results: dict[str, Any], folder: Path) -> None:
        draw_confusion(results, folder / "confusion.png")
        for name in _ARTIFACTS:
            file = folder / name if (folder / name).exists() else files.directory / name
            self.client.log_artifact(run_id, str(file))

    # ---- One recipe

    def _asked(self, dataset: str, recipe: str) -> set[int]:
        """The seeds that the experiment's parameters ask for."""
        return {seed for *names, seed in self.params.selected_runs() if names == [dataset, recipe]}

    def _mark(self, dataset: str, recipe: str, seeds: "dict[int, Run]", shown: "list[Run]") -> None:
        """Say of each run whether it is the one in the tables: of a present parameter, and the latest of its files."""
        asked = self._asked(dataset, recipe)
        runs = {run.info.run_id: run for run in [*shown, *seeds.values()]}
        present = {run.info.run_id for seed, run in seeds.items() if seed in asked}
        ended = {run.info.run_id for run in seeds.values()}
        finished = {run.data.tags["transfer.run"] for run in seeds.values()}
        for run_id, run in runs.items():
            if run.data.tags.get("recipe") == recipe and "seed" in run.data.tags:
                mark = "true" if run_id in present else "false"
                if run.data.tags.get(IN_TABLE, "false") != mark:
                    self.client.set_tag(run_id, IN_TABLE, mark)
                # A second run of a training that has ended was left by a writer that was killed.
                if run_id not in ended and run.info.status == "RUNNING" and run.data.tags["transfer.run"] in finished:
                    self.client.set_terminated(run_id, "KILLED")

    def _recipe(self, dataset: str, recipe: str, experiment: str, parent: str, seeds: "dict[int, Run]") -> None:
        """The recipe's own run: means over its seeds, the published number, and the registered model."""
        if asked := self._asked(dataset, recipe):
            seeds = {seed: run for seed, run in seeds.items() if seed in asked}
        if not seeds:
            return
        run = self.client.get_run(parent)
        means: dict[str, float] = {"n_seeds": float(len(seeds))}
        for name in sorted(set.intersection(*(set(child.data.metrics) for child in seeds.values()))):
            if name.endswith(_AVERAGED) and not name.startswith(EPOCH):
                values = [child.data.metrics[name] for child in seeds.values()]
                means[name] = float(np.mean(values))
                if len(values) > 1:
                    means[f"{name}_std"] = float(np.std(values, ddof=1))
        changed = {name: value for name, value in means.items() if run.data.metrics.get(name) != value}
        now = int(time.time() * 1000)  # the latest counts
        store.log_points(self.client, parent, [(name, value, now, 0) for name, value in changed.items()])
        tags = {"protocols": next(iter(seeds.values())).data.tags["protocols"]}
        if dataset in self.params.dataset_definitions:
            family = self.params.dataset_definitions[dataset].reported_as
            cells = published(load_reported(REPORTED), family, recipe)
            tags |= {key: str(value) for key, value in cells.items()}
        store.log_settings(self.client, run, {}, tags)
        self._register(dataset, recipe, experiment, parent, seeds)
        if run.info.status != "FINISHED" and not _running(self.client, experiment, parent):
            self.client.set_terminated(parent, "FINISHED")

    def _register(self, dataset: str, recipe: str, experiment: str, parent: str, seeds: "dict[int, Run]") -> None:
        """The seed that does best on the validation part becomes the registered model; never by the test set."""
        alias = chosen_protocol(next(iter(seeds.values())))
        last = f"{EPOCH}val_accuracy"
        scores = {
            seed: run.data.metrics.get(f"{alias}/val_accuracy", run.data.metrics[last]) for seed, run in seeds.items()
        }
        seed = min(scores, key=lambda seed: (-scores[seed], seed))
        best, name = seeds[seed], f"{self.layout.experiment}.{dataset}.{recipe}"
        weights = best.data.tags["weights_sha256"]
        if models.registered_weights(self.client, name, alias) == weights:
            return
        files = RunFiles(self.layout, dataset, recipe, seed)
        if not files.weights.is_file():
            if self._asked(dataset, recipe):
                self.done.outdated.append(
                    f"{name}@{alias} is not renewed, since its weights were removed; make them again: snakemake "
                    f"--cores all {files.weights}"
                )
            return
        content = files.read()
        with tempfile.TemporaryDirectory() as folder:
            classes = content.results(Path(folder))["classes"]
        model = models.log_model(
            self.client, experiment, parent, classes, files.weights, weights, params=content.params, whole=True
        )
        tags = {"seed": str(seed), "run": best.info.run_id, "weights_sha256": weights}
        tags |= {"val_accuracy": f"{scores[seed]:.4f}", "commit": content.tags["commit"]}
        models.register(self.client, name, model, best.info.run_id, alias, tags)
        self.done.registered += 1


def chosen_protocol(run: "Run") -> str:
    """The protocol whose weights a run keeps; also the alias of the registered model."""
    return "val_selected" if "val_selected" in run.data.tags["protocols"].split(",") else "last"


def _same(content: RunContent, shown: "list[Run]") -> "Run | None":
    """The run that the training itself showed, or else the latest one of the same training."""
    same = [run for run in shown if run.data.tags.get("transfer.run") == content.tags["transfer.run"]]
    own = [run for run in same if run.info.run_id == content.env.get("mlflow_run")]
    return next(iter(own + same), None)


def _running(client: "MlflowClient", experiment: str, parent: str) -> bool:
    query = f"tags.`mlflow.parentRunId` = '{parent}' and attributes.status = 'RUNNING'"
    return bool(client.search_runs([experiment], query, max_results=1))
