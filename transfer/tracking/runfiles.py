"""A finished training as its files tell it: what MLflow has to show of it."""

import contextlib
import json
import shutil
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from transfer.layout import Layout
from transfer.params import digest
from transfer.runs.metrics import evaluate, read_metrics
from transfer.runs.predictions import class_names, read_predictions
from transfer.tracking.shown import (
    environment_tags,
    epoch_metrics,
    identity_tags,
    shown_metrics,
    shown_params,
    shown_results,
)
from transfer.utils.errors import UserError
from transfer.utils.files import sha256

_FILES = ("env.json", "history.csv", "predictions.parquet")
_LAYOUT = 2  # of what sync shows of a run; a new one makes the next sync show all runs again


@dataclass(frozen=True)
class RunFiles:
    """One run directory: results/<experiment>/runs/<dataset>/<recipe>/seed<seed>."""

    layout: Layout
    dataset: str
    recipe: str
    seed: int

    @property
    def directory(self) -> Path:
        """The run directory."""
        return self.layout.run(self.dataset, self.recipe, self.seed)

    @property
    def name(self) -> str:
        """What messages call it."""
        return f"{self.dataset} {self.recipe} seed{self.seed}"

    def fingerprint(self) -> str:
        """Digest of the run's files; the weights count by the digest that env.json gives them."""
        return digest([_LAYOUT, *(sha256(self.directory / name) for name in _FILES)])

    def read(self) -> "RunContent":
        """Read and check the files. Raises UserError, naming the file."""
        env_file, history_file = self.directory / "env.json", self.directory / "history.csv"
        try:
            env = json.loads(env_file.read_text(encoding="utf-8"))
            tags = environment_tags(env)
            tags |= identity_tags(self.layout.experiment, self.dataset, self.recipe, self.seed, env["digest"])
            tags |= {"weights_sha256": env["weights_sha256"], "weights": self.weights.as_posix()}
            params, system = shown_params(env["params"]), epoch_metrics(env)
            started = 1000 * env["ended"] - int(1000 * sum(env["seconds_per_epoch"]))
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise UserError(
                f"{env_file}: not the environment of a run ({type(error).__name__}: {error}); train this run again"
            ) from None
        try:
            history = pd.read_csv(history_file)
            epochs = [(int(row.pop("epoch")), row) for row in history.astype(float).to_dict("records")]
        except (OSError, ValueError, KeyError) as error:
            raise UserError(f"{history_file}: not the history of a run ({error}); train this run again") from None
        if len(epochs) != len(system):
            raise UserError(
                f"{history_file}: {len(epochs)} epochs, but env.json has the times of {len(system)}; train it again"
            )
        points, time = [], float(started)
        for (epoch, row), measured, seconds in zip(epochs, system, env["seconds_per_epoch"], strict=True):
            time += 1000 * seconds
            points += [
                (key, value, int(time), epoch)
                for key, value in shown_metrics(row | measured).items()
                if pd.notna(value)
            ]
        return RunContent(self, env, params, tags, points, started, 1000 * env["ended"])

    @property
    def weights(self) -> Path:
        """model.safetensors of the run."""
        return self.directory / "model.safetensors"

    def is_finished(self) -> bool:
        """Whether the training has written all its files; env.json comes last. Its weights may be gone again."""
        return all((self.directory / name).is_file() for name in _FILES)


@dataclass(frozen=True)
class RunContent:
    """What the files of a run say: ``points`` are (metric, value, time in milliseconds, epoch), times as well."""

    files: RunFiles
    env: dict[str, Any]
    params: dict[str, str]
    tags: dict[str, str]
    points: list[tuple[str, float, int, int]]
    started: int
    ended: int

    def results(self, folder: Path) -> dict[str, Any]:
        """The content of metrics.json, whose file is put into ``folder``; computed there where the run has none yet."""
        files = self.files
        identity = {"dataset": files.dataset, "recipe": files.recipe, "seed": files.seed}
        identity["experiment"] = files.layout.experiment
        if (files.directory / "metrics.json").exists():
            content = read_metrics(files.directory, **identity)
            shutil.copyfile(files.directory / "metrics.json", folder / "metrics.json")
            return content
        classes = class_names(read_predictions(files.directory / "predictions.parquet"))
        return evaluate(files.directory, classes=classes, folder=folder, **identity)

    def result_points(self, results: dict[str, Any]) -> list[tuple[str, float, int, int]]:
        """The metrics by protocol, at step 0."""
        return [(name, value, self.ended, 0) for name, value in shown_results(results).items()]


def finished_runs(layout: Layout) -> list[RunFiles]:
    """All finished runs of an experiment, whatever its parameters name now, in the order of their names."""
    found = []
    for env in sorted((layout.root / "runs").glob("*/*/seed*/env.json")):
        dataset, recipe, seed = env.parts[-4:-1]
        if seed.removeprefix("seed").isdecimal():
            run = RunFiles(layout, dataset, recipe, int(seed.removeprefix("seed")))
            if run.is_finished():
                found.append(run)
    return sorted(found, key=lambda run: (run.dataset, run.recipe, run.seed))


def weights_of_runs(layout: Layout, going: Collection[Path] = ()) -> set[str]:
    """Digests of the checkpoints of an experiment, without those that are ``going``."""
    found = set()
    for run in finished_runs(layout):
        if run.weights.is_file() and run.weights not in going:
            with contextlib.suppress(OSError, ValueError):  # a damaged one is said by a sync
                env = json.loads((run.directory / "env.json").read_text(encoding="utf-8"))
                found.add(env.get("weights_sha256"))
    return found
