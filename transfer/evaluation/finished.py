"""A finished training, checked against its own records, and what it predicts of faces after the training."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import nn

from transfer.evaluation.predict import load_model
from transfer.faces.store import check_store
from transfer.layout import Layout
from transfer.params import Params
from transfer.runs.predictions import class_names, read_predictions
from transfer.runs.read import kept_weights, refuse_other_parameters, run_again
from transfer.training.batches import normalize, resized
from transfer.training.device import claim_device
from transfer.training.loop import predict
from transfer.utils.errors import UserError

_BATCH = 256


@dataclass(frozen=True)
class Finished:
    """A training's network in evaluation mode, and what is known of it; from :func:`load_finished`.

    ``about`` is what the weights say about themselves, ``predictions`` are all of its predictions.parquet.
    """

    identity: dict[str, Any]
    directory: Path
    model: nn.Module
    about: dict[str, Any]
    predictions: pd.DataFrame
    precision: str
    weights_sha256: str

    @property
    def classes(self) -> list[str]:
        """Class names in the order of the network's outputs."""
        return self.about["classes"]

    def probabilities(self, batches: Iterable[np.ndarray]) -> np.ndarray:
        """Class probabilities (N, C) float32, as the training predicts them, of faces (n, side, side, 3) uint8.

        ``batches`` are those of `batches_of`, the faces of any side.
        """
        device, side = next(self.model.parameters()).device, self.about["model"]["img_size"]

        def images() -> Iterator[torch.Tensor]:
            for faces in batches:
                shown = np.ascontiguousarray(faces if faces.shape[1] == side else resized(faces, side))
                yield normalize(torch.from_numpy(shown).to(device).permute(0, 3, 1, 2).float().div_(255))

        return predict(self.model, images(), self.precision, self.about["hflip_tta"])


def batches_of(faces: int) -> list[slice]:
    """The parts in which so many faces are predicted: those of the evaluation after an epoch, so with the same sums."""
    return [slice(start, min(start + _BATCH, faces)) for start in range(0, faces, _BATCH)]


def load_finished(params: Params, layout: Layout, dataset: str, recipe: str, seed: int, what: str) -> Finished:
    """A training on the device and with the threads of its parameters; ``what`` names the job to others.

    Raises UserError, naming the file and what to do: a file of it is missing or damaged, or the weights are not those
    that its env.json describes, are of other parameters or of another run.
    """
    directory = layout.run(dataset, recipe, seed)
    weights, env = kept_weights(directory)
    again = run_again(directory)
    run = params.run(dataset, recipe)
    refuse_other_parameters(directory, env, run)
    model, about = load_model(weights)
    identity = {"experiment": params.experiment, "dataset": dataset, "recipe": recipe, "seed": seed}
    if about["run"] != "{experiment}/{dataset}/{recipe}/seed{seed}".format(**identity):
        raise UserError(f"{weights}: of the run {about['run']}; delete it and {again}")
    predictions = read_predictions(directory / "predictions.parquet")
    if class_names(predictions) != about["classes"]:
        raise UserError(f"{weights}: classes are not those of predictions.parquet beside it; delete both and {again}")
    torch.set_num_threads(run.train.threads)
    device = claim_device(run.train, f"{what} of {dataset} {recipe} seed{seed}")
    model.to(device, memory_format=torch.channels_last)
    return Finished(identity, directory, model, about, predictions, env["precision"], env["weights_sha256"])


def read_test_faces(data: Path) -> tuple[np.ndarray, pd.DataFrame]:
    """The aligned test faces of a dataset's folder: pixels (N, side, side, 3) uint8, and the manifest's rows of them.

    Raises UserError as ``read_test_rows``.
    """
    aligned, rows = read_test_rows(data)
    return np.load(data / "aligned.npy", mmap_mode="r")[rows], aligned.iloc[rows].reset_index(drop=True)


def read_test_rows(data: Path) -> tuple[pd.DataFrame, np.ndarray]:
    """The manifest of a dataset's folder, and the row numbers of the test faces, in order.

    Raises UserError: a file is missing, or the store is not that of its manifest.
    """
    for name in ("aligned.npy", "aligned.parquet", "split.parquet"):
        if not (data / name).exists():
            raise UserError(f"{data / name}: not there; make it with: snakemake --cores all {data}/split.parquet")
    aligned = pd.read_parquet(data / "aligned.parquet")
    check_store(data / "aligned.npy", aligned)
    rows = pd.read_parquet(data / "split.parquet").query("split == 'test'")["row"].sort_values().to_numpy()
    if not len(rows):
        raise UserError(f"{data / 'split.parquet'}: no test images")
    return aligned, rows
