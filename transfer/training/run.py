"""One training: from the aligned store to weights, history, predictions and environment in the run directory."""

import json
import shutil
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow
import torch
from pyarrow.parquet import read_metadata
from safetensors.torch import save_file
from torch import nn

from transfer.faces.store import check_store, digest_test_faces
from transfer.layout import Layout
from transfer.models.registry import create_model, modules
from transfer.models.weights.load import load_pretrained
from transfer.models.weights.safetensors_file import KEY
from transfer.params import WHERE, Params, RunParams, digest
from transfer.runs.predictions import predictions_frame, write_predictions
from transfer.tracking import Tracking, environment_tags, epoch_metrics
from transfer.training.average import make_average
from transfer.training.batches import FaceStore, evaluation_batches, training_batches
from transfer.training.determinism import set_deterministic
from transfer.training.device import choose_precision
from transfer.training.epoch import RunningEpoch
from transfer.training.loop import learning_rate, make_optimizer, predict, train_epoch
from transfer.training.parallel import ALONE, Ranks, joined
from transfer.training.signals import Stopped, caught
from transfer.training.slots import claim_device
from transfer.training.state import load_state, previous, save_state
from transfer.utils.code_digest import step_digest
from transfer.utils.environment import environment
from transfer.utils.errors import UserError
from transfer.utils.files import atomic, sha256, write_json
from transfer.utils.progress import progress
from transfer.utils.seeds import stream


def train(params: Params, dataset: str, recipe: str, seed: int, layout: Layout, keep_state: bool = False) -> None:
    """Train one recipe on one dataset with one seed; reads the dataset's folder, writes the run directory.

    model.safetensors (of the epoch chosen on the validation part, or the last one where that protocol is not asked
    for), history.csv, predictions.parquet (one block per protocol), env.json. Continues after a kill from the last
    whole epoch, and after SIGTERM from the step where it stopped. ``keep_state`` leaves the state of the last epoch,
    from which the next call writes the outputs at once. Raises UserError for contradictory parameters, a class without
    training images, a diverging loss, and Stopped after such a signal.
    """
    with joined(params.run(dataset, recipe).train, f"{dataset} {recipe} seed{seed}") as ranks:
        Training(params, dataset, recipe, seed, layout, ranks=ranks).run(keep_state)


class Training:
    """State of one training, between its epochs and, in ``running``, within one.

    ``parts`` are those that it predicts: a row of another part is neither known to it nor read. Without a ``device`` it
    takes the one that its parameters say.
    """

    def __init__(
        self,
        params: Params,
        dataset: str,
        recipe: str,
        seed: int,
        layout: Layout,
        parts: Sequence[str] = ("val", "test"),
        ranks: Ranks = ALONE,
        device: torch.device | None = None,
    ) -> None:
        self.parts, self.ranks = parts, ranks
        self.params, self.dataset, self.recipe, self.seed = params, dataset, recipe, seed
        self.run_params: RunParams = params.run(dataset, recipe)
        self.directory = layout.run(dataset, recipe, seed)
        self.state_file = layout.state(dataset, recipe, seed) / "last.pt"
        self.device = device or claim_device(self.run_params.train, f"{dataset} {recipe} seed{seed}")
        self.precision = choose_precision(self.run_params.train, self.device)
        self.deterministic = set_deterministic(self.run_params.train.deterministic, self.device)
        torch.set_num_threads(self.run_params.train.threads)
        torch.manual_seed(stream(seed, "weights"))
        self._load_data(layout.data(dataset), layout.plan(dataset, self.run_params.sampling.upsample))
        self.model = ranks.prepare(create_model(self.run_params.model, len(self.classes)), self.device)
        self.model.to(self.device, memory_format=torch.channels_last)
        self.average = make_average(self.model, self.run_params.train.ema)
        self.optimizer = make_optimizer(self.model, self.run_params.train)
        self.code_digest = step_digest("train", modules()[self.run_params.model.name])
        self.weights = {name: layout.weights(name) for name in self.run_params.model.pretrained}
        self.pretrained = {name: _weights_sha256(file) for name, file in self.weights.items()}
        self.identity = {
            "dataset": dataset,
            "recipe": recipe,
            "seed": str(seed),
            "parameters": digest(self.run_params.model_dump(mode="json", exclude={"train": WHERE})),
            "protocols": " ".join(params.protocols),
            "data": self.data_digest,
            "pretrained weights": digest(self.pretrained),
            "code": self.code_digest,
        }
        self.digest = digest(self.identity)
        self.history: list[dict[str, float]] = []
        self.best: dict[str, dict[str, Any]] = {}
        self.seconds: list[float] = []
        self.mlflow_run: str | None = None
        self.running: RunningEpoch | None = None
        self.running_seconds = 0.0  # of the epoch in work, before the training was interrupted
        self.check_signals: Callable[[], None] = lambda: None

    def _load_data(self, data: Path, plan: Path) -> None:
        split = pd.read_parquet(data / "split.parquet", filters=[("split", "in", ["train", *self.parts])])
        split = split.sort_values("row")
        aligned = pd.read_parquet(data / "aligned.parquet", filters=[("sample", "in", set(split["sample"]))])
        aligned = aligned.set_index(split["row"].to_numpy())  # both are in the order of the store
        check_store(data / "aligned.npy", aligned, read_metadata(data / "aligned.parquet").num_rows)
        self.test_faces = digest_test_faces(aligned)
        names = aligned.groupby("label")["class_name"].first()
        self.classes = [names.get(label, f"label {label}") for label in range(names.index.max() + 1)]
        self.rows = {name: part["row"].to_numpy() for name, part in split.groupby("split")}
        every = range(split["row"].max() + 1)
        self.samples = aligned["sample"].reindex(every).to_numpy()
        self.labels = aligned["label"].reindex(every, fill_value=-1).to_numpy()
        self.plan = np.load(plan)
        absent = set(range(len(self.classes))) - set(self.labels[self.plan])
        if absent:
            listed = ", ".join(self.classes[label] for label in sorted(absent))
            raise UserError(f"{plan}: no training image of {listed}; every class needs at least one")
        for part in self.parts:
            if part not in self.rows:
                raise UserError(f"{data / 'split.parquet'}: no {part} images; every protocol is evaluated on some")
        self.batch_size = min(self.run_params.train.batch_size, len(self.plan))
        self.ranks.check(self.batch_size, len(self.plan))
        self.steps = len(self.plan) // self.batch_size
        self.targets = self._targets(data)
        self.store = FaceStore(data / "aligned.npy", self.run_params.model.img_size, split["row"].to_numpy())
        files = [data / "aligned.parquet", data / "split.parquet", plan]
        files += [data / "index.parquet"] if self.run_params.train.targets == "votes" else []
        self.data_digest = digest([sha256(file) for file in files])
        del split, aligned
        pyarrow.default_memory_pool().release_unused()  # 0.3 GB for AffectNet, which nobody would use again

    def _targets(self, data: Path) -> torch.Tensor:
        if self.run_params.train.targets == "label":
            return torch.tensor(self.labels)
        index = pd.read_parquet(data / "index.parquet").set_index("sample")
        columns = [f"vote_{name}" for name in self.classes]
        if not set(columns) <= set(index.columns):
            raise UserError(f"train.targets: votes asked for, but {self.dataset} has none; use label")
        rows = np.concatenate(list(self.rows.values()))
        votes = np.full((len(self.labels), len(columns)), np.nan, np.float32)
        votes[rows] = index.loc[self.samples[rows], columns].to_numpy(np.float32)
        return torch.from_numpy(votes / votes.sum(axis=1, keepdims=True))

    def run(self, keep_state: bool = False) -> None:
        """All epochs that are still to do, then the outputs; the resume state goes, or its last epoch stays."""
        self._resume()
        tracking = self._start_tracking()
        status = "FAILED"
        try:
            self._epochs(tracking)
            if self.ranks.first:
                self._write(tracking)
            status = "FINISHED"
        finally:
            tracking.finish(status, self.directory if status == "FINISHED" else None)
        if self.ranks.first and keep_state:
            previous(self.state_file).unlink(missing_ok=True)
        elif self.ranks.first:
            shutil.rmtree(self.state_file.parent)

    def _epochs(self, tracking: Tracking, after_epoch: Callable[[dict[str, float]], None] = lambda row: None) -> None:
        epochs = self.run_params.train.epochs
        done = self.running.images if self.running else 0
        what = f"{self.dataset} {self.recipe} seed{self.seed}"
        total = (epochs - len(self.history)) * self.steps * self.batch_size
        with caught(self.ranks.highest) as self.check_signals, progress(what, total, start=done) as report:

            def on_batch(images: int) -> None:
                nonlocal done
                done += images
                report(done)
                self.check_signals()

            for epoch in range(len(self.history), epochs):
                start = time.perf_counter() - self.running_seconds
                try:
                    self._train_epoch(epoch, on_batch)
                except Stopped as stop:
                    self.running_seconds = time.perf_counter() - start
                    raise self._stopped(stop, tracking) from None
                self.running, self.running_seconds = None, 0.0
                self.seconds.append(time.perf_counter() - start)
                self._save(tracking)
                metrics = {key: value for key, value in self.history[-1].items() if key != "epoch"}
                tracking.log_epoch(epoch + 1, metrics | epoch_metrics(self._env_of_epochs())[epoch])
                after_epoch(self.history[-1])

    def _train_epoch(self, epoch: int, on_batch: Callable[[int], None]) -> None:
        """The (0-based) ``epoch``, or what is left of it, and the evaluation after it."""
        train = self.run_params.train
        self.running = self.running or RunningEpoch(epoch, self.steps, self.device, None, self.ranks)
        batches = training_batches(
            self.store,
            self.targets,
            self.plan,
            self.batch_size,
            train.augment,
            stream(self.seed, "order", epoch),
            stream(self.seed, "augment", epoch),
            self.device,
            first=self.running.step,
            part=self.ranks.part,
        )
        dropping = stream(self.seed, "dropping", epoch)
        loss, accuracy = train_epoch(
            self.model,
            self.optimizer,
            batches,
            self.running,
            train,
            self.precision,
            on_batch,
            dropping,
            self.average,
        )
        row = {"epoch": epoch + 1, "lr": learning_rate(train, epoch + 1)}
        self._evaluate(row | {"train_loss": loss, "train_accuracy": accuracy})

    def _stopped(self, stop: Stopped, tracking: Tracking) -> Stopped:
        """Save the epoch in work between two of its steps; the line that says so."""
        running = self.running
        assert running is not None
        running.check()
        self._save(tracking)
        tracking.leave()
        return Stopped(
            stop.number,
            f" in epoch {running.epoch + 1} after step {running.step} of {running.steps}: the state is saved, and the "
            "same command continues there",
        )

    def _evaluate(self, row: dict[str, float]) -> None:
        """Predict what the protocols need after this epoch, and keep the best."""
        last = row["epoch"] == self.run_params.train.epochs
        wanted = {"last": last, "val_selected": True, "test_selected": True}
        probabilities: dict[str, np.ndarray] = {}

        def predicted(part: str) -> np.ndarray:
            if part not in probabilities:
                rows = self.rows[part]
                batches = self._interruptible(evaluation_batches(self.store, self.ranks.share(rows), self.device))
                own = predict(self.evaluated, batches, self.precision, self.run_params.train.flip_views)
                probabilities[part] = self.ranks.gather(own, len(rows))
            return probabilities[part]

        def accuracy(part: str) -> float:
            return float((predicted(part).argmax(axis=1) == self.labels[self.rows[part]]).mean())

        row["val_accuracy"] = accuracy("val")
        row["val_loss"] = _cross_entropy(predicted("val"), self.labels[self.rows["val"]])
        assert self.running is not None
        self.running.check_validation(row["val_loss"])
        if "test_selected" in self.params.protocols:
            row["test_accuracy"] = accuracy("test")
        best: dict[str, dict[str, Any]] = {}
        for protocol in self.params.protocols:
            key = {"val_selected": "val_accuracy", "test_selected": "test_accuracy"}.get(protocol)
            better = key is None or all(row[key] > earlier[key] for earlier in self.history)
            if wanted[protocol] and better:
                parts = {part: torch.from_numpy(predicted(part)) for part in self.parts}
                best[protocol] = {"epoch": row["epoch"], "probabilities": parts}
                if protocol == self.kept:
                    best[protocol]["weights"] = self._weights()
        self.history.append(row)  # only now: a signal may come in any of the predictions
        self.best |= best

    def _interruptible(self, batches: Iterable[torch.Tensor]) -> Iterator[torch.Tensor]:
        for images in batches:
            yield images
            self.check_signals()

    @property
    def evaluated(self) -> nn.Module:
        """The network that is evaluated and kept: with the average of the weights, where there is one."""
        return self.model if self.average is None else self.average.module

    @property
    def kept(self) -> str:
        """The protocol whose weights become model.safetensors."""
        return self.params.kept_protocol

    def _save(self, tracking: Tracking) -> None:
        state = {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "average": self.average and self.average.module.state_dict(),
            "history": self.history,
            "best": self.best,
            "seconds": self.seconds,
            "running": self.running and self.running.state(),
            "running_seconds": self.running_seconds,
            "mlflow_run": None,
        }
        if self.ranks.first:
            save_state(self.state_file, self.identity, state)
        self.ranks.wait()

    def _resume(self) -> None:
        state = load_state(self.state_file, self.identity)
        if state is None:
            self._load_pretrained()
            return
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        if self.average is not None:
            self.average.module.load_state_dict(state["average"])
        self.history, self.best, self.seconds = state["history"], state["best"], state["seconds"]
        self.mlflow_run, self.running_seconds = state["mlflow_run"], state["running_seconds"]
        if state["running"]:
            self.running = RunningEpoch(len(self.history), self.steps, self.device, state["running"], self.ranks)

    def _load_pretrained(self) -> None:
        """Weights of others over the seed's start values; what they do not have stays as the seed drew it."""
        if self.weights:
            report = load_pretrained(self.model, list(self.weights.values()))
            print(f"pretrained weights {', '.join(self.weights)}:\n{report.to_text()}", file=sys.stderr)

    def _start_tracking(self) -> Tracking:
        return Tracking.start(
            experiment=self.params.experiment,
            seed=self.seed,
            digest=self.digest,
            params=self.run_params.model_dump(mode="json"),
            **self._tracked_as(),
            history=self.history,
            enabled=self.params.tracking and self.ranks.first,
        )

    def _tracked_as(self) -> dict[str, Any]:
        """Under which dataset, recipe and tags MLflow shows the training."""
        tags = environment_tags(environment() | self._env_of_run())
        return {"dataset": self.dataset, "recipe": self.recipe, "tags": tags}

    def _write(self, tracking: Tracking) -> None:
        """The outputs of the run directory; each appears whole."""
        chosen = self.best.get(self.kept) or {"epoch": len(self.history), "weights": self._weights()}
        about = {
            "model": self.run_params.model.model_dump(mode="json"),
            "faces": self.params.face_params(self.dataset).model_dump(mode="json"),
            "classes": self.classes,
            "run": f"{self.params.experiment}/{self.dataset}/{self.recipe}/seed{self.seed}",
            "protocol": self.kept,
            "epoch": chosen["epoch"],
            "flip_views": self.run_params.train.flip_views,
            "pretrained_sha256": self.pretrained,
        }
        metadata = {KEY: json.dumps(about)}
        with atomic(self.directory / "model.safetensors") as part:
            save_file({name: value.contiguous() for name, value in chosen["weights"].items()}, part, metadata)
        with atomic(self.directory / "history.csv") as part:
            pd.DataFrame(self.history).to_csv(part, index=False)
        frames = [
            predictions_frame(
                self.samples[self.rows[part]],
                self.labels[self.rows[part]],
                best["probabilities"][part].numpy(),
                self.classes,
                split=part,
                protocol=protocol,
                epoch=best["epoch"],
            )
            for protocol, best in self.best.items()
            for part in self.parts
        ]
        write_predictions(self.directory / "predictions.parquet", pd.concat(frames, ignore_index=True))
        write_json(self.directory / "env.json", self._environment(tracking))

    def _weights(self) -> dict[str, torch.Tensor]:
        """A copy of the weights that are evaluated, on the CPU."""
        return {name: value.detach().cpu().clone() for name, value in self.evaluated.state_dict().items()}

    def _environment(self, tracking: Tracking) -> dict[str, Any]:
        """What env.json says: enough to show the run in MLflow from its files alone."""
        return (
            environment()
            | self._env_of_run()
            | {"weights_sha256": sha256(self.directory / "model.safetensors")}
            | self._env_of_epochs()
            | {
                "params": self.run_params.model_dump(mode="json"),
                "ended": int(time.time()),
            }
        )

    def _env_of_run(self) -> dict[str, Any]:
        return {
            "device": torch.cuda.get_device_name(self.device) if self.device.type == "cuda" else "cpu",
            "precision": self.precision,
            "deterministic": self.deterministic,
            "threads": self.run_params.train.threads,
            "processes": self.ranks.world,
            "protocols": list(self.params.protocols),
            "digest": self.digest,
            "data_digest": self.data_digest,
            "evaluation": self.test_faces,
            "params_digest": digest(self.run_params),
            "code_digest": self.code_digest,
            "pretrained_sha256": self.pretrained,
        }

    def _env_of_epochs(self) -> dict[str, Any]:
        return {
            "training_images_per_epoch": self.steps * self.batch_size,
            "seconds_per_epoch": [round(seconds, 3) for seconds in self.seconds],
        }


def _weights_sha256(file: Path) -> str:
    if not file.is_file():
        raise UserError(f"{file}: not there; make it with transfer weights {file.stem}, or let snakemake do it")
    return sha256(file)


def _cross_entropy(probabilities: np.ndarray, labels: np.ndarray) -> float:
    return float(-np.log(np.maximum(probabilities[np.arange(len(labels)), labels], 1e-12)).mean())
