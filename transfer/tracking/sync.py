"""Import of an experiment's finished runs into MLflow, and of the best seed of each recipe as a registered model.

A second import adds nothing.
"""

import contextlib
import io
import json
import tempfile
import time
import warnings
from collections import defaultdict
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from transfer.layout import Layout
from transfer.params import Params, digest
from transfer.tracking import store
from transfer.tracking.live import settle
from transfer.tracking.store import EPOCH, FILES, IN_TABLE, PER_SPLIT, RUN, View
from transfer.utils.errors import UserError
from transfer.utils.files import sha256
from transfer.utils.progress import progress

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

_LAYOUT = 3  # of what a sync writes; a new number makes the next sync write all runs again
_INPUTS = ("env.json", "history.csv", "predictions.parquet")
_ARTIFACTS = (*_INPUTS, "metrics.json")
_WAIT_SECONDS = 600
_CODE = Path(__file__).with_name("classifier.py")
_PACKAGE = Path(__file__).resolve().parents[1]
# What classifier.py imports, down to the last module of this package.
_PACKAGES = (
    *("mlflow", "facenet-pytorch", "matplotlib", "numpy", "pandas", "pillow", "pyarrow", "pydantic", "pyyaml", "rich"),
    *("safetensors", "scipy", "timm", "torch", "torchvision"),
)
_NOTE = "The seed with the best validation accuracy under the alias's protocol; selected without the test split."


def sync(params: Params, layout: Layout) -> "Sync":
    """Import every finished run of the experiment, and complete those that are in MLflow; a simultaneous sync waits.

    Damaged runs are left out and listed in ``problems``. Raises UserError if there are no runs or no usable store.
    """
    from filelock import FileLock, Timeout

    found: dict[tuple[str, str], list[Path]] = defaultdict(list)
    for env in sorted((layout.root / "runs").glob("*/*/seed*/env.json")):  # env.json is written last
        found[env.parts[-4], env.parts[-3]].append(env.parent)
    if not found:
        raise UserError(f"{layout.root / 'runs'}: no finished run; train some first: snakemake --cores all train_all")
    try:
        with store.connected() as client, FileLock(layout.root / ".track.lock", timeout=_WAIT_SECONDS):
            settle()
            done = Sync(client, params, layout).run(found)
            show_tables(client, params, layout)
            return done
    except Timeout:
        raise UserError(f"{layout.root}/.track.lock: held by another sync for {_WAIT_SECONDS} s; end it") from None


class Sync:
    """Numbers of runs; ``problems``: a line per run left out, ``outdated``: one per model whose weights are gone."""

    def __init__(self, client: "MlflowClient", params: Params, layout: Layout) -> None:
        self.client, self.params, self.layout = client, params, layout
        self.created = self.completed = self.unchanged = self.registered = 0
        self.problems: list[str] = []
        self.outdated: list[str] = []

    def run(self, found: dict[tuple[str, str], list[Path]]) -> "Sync":
        """Import the runs in these folders, by dataset and recipe."""
        count = 0
        with progress(f"{self.layout.experiment} to MLflow", sum(map(len, found.values())), "runs") as report:
            for (dataset, recipe), directories in found.items():
                name = f"{self.layout.experiment}/{dataset}"
                experiment = store.experiment_id(self.client, name)
                parent = store.parent_run(self.client, experiment, name, recipe)
                seeds: dict[int, Run] = {}
                for directory in directories:
                    try:
                        run = self._show(directory, experiment, parent)
                        seeds[int(run.data.tags["seed"])] = run
                    except UserError as error:
                        self.problems.append(str(error))
                    count += 1
                    report(count)
                asked = {seed for *names, seed in self.params.selected_runs() if names == [dataset, recipe]}
                used = {run.info.run_id for seed, run in seeds.items() if seed in asked}
                self._mark(experiment, recipe, used)
                shown = {seed: run for seed, run in seeds.items() if seed in asked or not asked}
                if shown:
                    self._average(parent, shown)
                    self._register(dataset, recipe, parent, shown, bool(asked))
        return self

    def _show(self, directory: Path, experiment: str, parent: str) -> "Run":
        """Import a run. The digest of its files is tagged last, so that an interrupted sync continues."""
        dataset, recipe, seed = directory.parts[-3:]
        identity: dict[str, Any] = {"experiment": self.layout.experiment, "dataset": dataset, "recipe": recipe}
        identity["seed"] = int(seed.removeprefix("seed"))
        view = view_of(directory, **identity)
        fingerprint = digest([_LAYOUT, *(sha256(directory / name) for name in _INPUTS)])
        run = store.find_run(self.client, experiment, view.tags[RUN])
        if run is not None and run.data.tags.get(FILES) == fingerprint and self._is_whole(run):
            self.unchanged += 1
            return run
        if run is None:
            first = {RUN: view.tags[RUN]}
            run = self.client.create_run(experiment, view.started, first, view.name)
            self.created += 1
        else:
            self.completed += 1
        run_id = run.info.run_id
        store.log_settings(self.client, run, view.params, view.tags | {"mlflow.parentRunId": parent})
        with tempfile.TemporaryDirectory() as folder:
            metrics = _metrics_file(directory, Path(folder), **identity)
            results = json.loads(metrics.read_text(encoding="utf-8"))
            points = view.points + store.result_points(results, int(view.ended or 0))
            store.log_points(self.client, run_id, points, store.logged_points(self.client, run))
            for file in (*(directory / name for name in _INPUTS), metrics):
                self.client.log_artifact(run_id, str(file))
        if run.info.status != "FINISHED":
            self.client.set_terminated(run_id, "FINISHED", view.ended)
        self.client.set_tag(run_id, FILES, fingerprint)
        return self.client.get_run(run_id)

    def _is_whole(self, run: "Run") -> bool:
        there = {file.path for file in self.client.list_artifacts(run.info.run_id)}
        return run.info.status == "FINISHED" and there.issuperset(_ARTIFACTS)

    def _mark(self, experiment: str, recipe: str, used: set[str]) -> None:
        """Tag every run of a recipe with whether the tables use it."""
        query = f"tags.recipe = '{recipe}' and tags.seed != ''"
        for run in self.client.search_runs([experiment], query, max_results=50_000):
            mark = "true" if run.info.run_id in used else "false"
            if run.data.tags.get(IN_TABLE) != mark:
                self.client.set_tag(run.info.run_id, IN_TABLE, mark)

    def _average(self, parent: str, seeds: "dict[int, Run]") -> None:
        """Log means and standard deviations over the seeds in the recipe's own run."""
        import numpy as np

        run = self.client.get_run(parent)
        means: dict[str, float] = {"n_seeds": float(len(seeds))}
        for name in sorted(set.intersection(*(set(seed.data.metrics) for seed in seeds.values()))):
            if name.endswith(PER_SPLIT) and not name.startswith(EPOCH):
                values = [seed.data.metrics[name] for seed in seeds.values()]
                means[name] = float(np.mean(values))
                if len(values) > 1:
                    means[f"{name}_std"] = float(np.std(values, ddof=1))
        changed = {name: value for name, value in means.items() if run.data.metrics.get(name) != value}
        now = int(time.time() * 1000)  # of several values the latest counts
        store.log_points(self.client, parent, [(name, value, now, 0) for name, value in changed.items()])
        store.log_settings(self.client, run, {}, {"protocols": next(iter(seeds.values())).data.tags["protocols"]})

    def _register(self, dataset: str, recipe: str, parent: str, seeds: "dict[int, Run]", asked: bool) -> None:
        """Register the seed with the best validation accuracy; the test split is not used."""
        alias = self.params.checkpoint_protocol
        last = f"{EPOCH}val_accuracy"
        scores = {
            seed: run.data.metrics.get(f"{alias}/val_accuracy", run.data.metrics[last]) for seed, run in seeds.items()
        }
        seed = min(scores, key=lambda seed: (-scores[seed], seed))
        best, name = seeds[seed], f"{self.layout.experiment}.{dataset}.{recipe}"
        weights = best.data.tags["weights_sha256"]
        if registered_weights(self.client, name, alias) == weights:
            return
        file = self.layout.run(dataset, recipe, seed) / "model.safetensors"
        if file.is_file():
            tags = {"seed": str(seed), "run": best.info.run_id, "weights_sha256": weights}
            tags |= {"val_accuracy": f"{scores[seed]:.4f}", "commit": best.data.tags["commit"]}
            register(self.client, name, file, parent, alias, tags)
            self.registered += 1
        elif asked:
            why = "is not renewed, since its weights were removed; to make them again: snakemake --cores all"
            self.outdated.append(f"{name}@{alias} {why} {file}")


def show_tables(client: "MlflowClient", params: Params, layout: Layout) -> None:
    """Log every table of the experiment, and the board that its runs are on, as MLflow's tables: a run for each.

    They are in the MLflow experiment EXPERIMENT/tables; a table that changed takes the place of the one before.
    """
    import pandas as pd

    board = layout.results / "leaderboard"
    files = {name: layout.table(name, "csv") for name in params.table_definitions}
    if (board / "runs" / layout.experiment).is_dir():
        files["leaderboard"] = board / "leaderboard.csv"
    files = {name: file for name, file in files.items() if file.exists()}
    experiment = store.experiment_id(client, f"{layout.experiment}/tables") if files else ""
    for name, file in files.items():
        fingerprint = sha256(file)
        shown = client.search_runs([experiment], f"tags.`table` = '{name}'")
        if fingerprint in {run.data.tags.get(FILES) for run in shown}:
            continue
        run = client.create_run(experiment, tags={"table": name}, run_name=name).info.run_id
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # its own, of pandas 3
            client.log_table(run, pd.read_csv(file), f"{name}.json")
        client.set_terminated(run)
        client.set_tag(run, FILES, fingerprint)
        for old in shown:
            client.delete_run(old.info.run_id)


def view_of(directory: Path, **identity: Any) -> View:
    """What env.json and history.csv say of a finished run. Raises UserError with the file's name."""
    import pandas as pd

    file = directory / "env.json"
    try:
        env = json.loads(file.read_text(encoding="utf-8"))
        weights = {"weights_sha256": env["weights_sha256"], "weights": f"{directory.as_posix()}/model.safetensors"}
        ended, tags = 1000 * env["ended"], store.environment_tags(env) | weights
        moment = ended - int(1000 * sum(env["seconds_per_epoch"]))
        view = store.new_view(**identity, digest=env["digest"], params=env["params"], tags=tags, started=moment)
        view.status, view.ended = "FINISHED", ended
        file = directory / "history.csv"
        history: list[dict[Any, float]] = pd.read_csv(file).astype(float).to_dict("records")
        for row, speed in zip(history, store.epoch_metrics(env), strict=True):
            moment += int(1000 * speed["system/epoch_seconds"])
            view.points += store.epoch_points(row, speed, moment)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{file}: not that of a finished run ({type(error).__name__}: {error}); run it again") from None
    return view


def _metrics_file(directory: Path, folder: Path, **identity: Any) -> Path:
    """The run's metrics.json, computed in ``folder`` if the run is not evaluated yet."""
    from transfer.runs.metrics import evaluate, read_metrics

    if (directory / "metrics.json").exists():
        read_metrics(directory, **identity)
        return directory / "metrics.json"
    evaluate(directory, folder=folder, **identity)
    return folder / "metrics.json"


def registered_weights(client: "MlflowClient", name: str, alias: str) -> str | None:
    """SHA-256 of the weights that an alias names; None if there is no such model or alias."""
    from mlflow.exceptions import MlflowException

    try:
        return client.get_model_version_by_alias(name, alias).tags.get("weights_sha256")
    except MlflowException as error:
        if error.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
            return None
        raise


def register(client: "MlflowClient", name: str, weights: Path, run_id: str, alias: str, tags: dict[str, str]) -> None:
    """Log a run's model.safetensors in the MLflow run ``run_id``, as the newest version of the model ``name``."""
    import mlflow
    from mlflow.exceptions import MlflowException

    try:
        client.create_registered_model(name, description=_NOTE)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    # MLflow writes its progress to stderr, and recommends type hints that it would then take for the signature.
    with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()), mlflow.start_run(run_id):
        warnings.simplefilter("ignore")
        logged = mlflow.pyfunc.log_model(
            name="model",
            python_model=_CODE,
            artifacts={"weights": str(weights)},
            code_paths=[str(_PACKAGE)],
            signature=_signature(weights),
            pip_requirements=[f"{package}=={version(package)}" for package in _PACKAGES],
            registered_model_name=name,
            tags={"weights_sha256": tags["weights_sha256"]},
        )
    number = str(logged.registered_model_version)
    for key, value in tags.items():
        client.set_model_version_tag(name, number, key, value)
    client.set_registered_model_alias(name, alias, number)


def _signature(weights: Path) -> Any:
    from mlflow.models import ModelSignature
    from mlflow.types.schema import AnyType, ColSpec, Schema, TensorSpec
    from pyarrow.parquet import read_schema

    columns = read_schema(weights.with_name("predictions.parquet")).names
    answer: list[ColSpec | TensorSpec] = [ColSpec("long", "image"), ColSpec("string", "status")]
    answer += [ColSpec("string", "expression", required=False)]
    answer += [ColSpec("double", name, required=False) for name in columns if name.startswith("p_")]
    return ModelSignature(Schema([ColSpec(AnyType(), "image")]), Schema(answer))
