"""A finished training of the experiment: its network, and the test faces that it was tested on."""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from transfer.evaluation.finished import read_test_rows
from transfer.evaluation.predict import load_model
from transfer.faces.store import digest_test_faces
from transfer.layout import Layout
from transfer.models.transfer import TransFER
from transfer.runs.predictions import probabilities_of, read_predictions
from transfer.runs.read import kept_weights
from transfer.training.batches import FaceStore
from transfer.utils.errors import UserError


class Finished(NamedTuple):
    """A training's network in evaluation mode, what its weights say about themselves, and their digest."""

    folder: Path
    model: TransFER
    about: dict[str, Any]
    weights_sha256: str


class EvaluationFaces(NamedTuple):
    """A dataset's test faces in the order of their rows in the aligned store."""

    store: Path
    rows: np.ndarray
    samples: np.ndarray
    labels: np.ndarray
    digest: dict[str, Any]

    def opened(self, img_size: int, rows: np.ndarray) -> FaceStore:
        """The store, for some ``rows`` of it at a network's input size."""
        return FaceStore(self.store, img_size, rows)


def load_finished(layout: Layout, dataset: str, recipe: str, seed: int, faces: EvaluationFaces) -> Finished:
    """Read a training's model.safetensors and env.json.

    Raises UserError: a file is missing, the weights are not those that the training wrote, it was tested on other faces
    than ``faces``, or its network is no TransFER.
    """
    run = layout.run(dataset, recipe, seed)
    weights, env = kept_weights(run)
    if env.get("evaluation") != faces.digest:
        raise UserError(
            f"{run / 'env.json'}: tested on other faces than those in {faces.store}; train again: "
            f"snakemake --cores all --forcerun train_model {weights}"
        )
    model, about = load_explainable(weights)
    return Finished(run, model, about, env["weights_sha256"])


def load_explainable(weights: Path) -> tuple[TransFER, dict[str, Any]]:
    """The network of a weight file, as ``load_model`` reads it. Raises UserError if it is no TransFER."""
    model, about = load_model(weights)
    if not isinstance(model, TransFER):
        raise UserError(f"{weights}: a {type(model).__name__}; attention is shown of TransFER models only")
    return model, about


def load_test_faces(layout: Layout, dataset: str) -> EvaluationFaces:
    """Read the dataset's aligned.parquet and split.parquet. Raises UserError if one is missing or does not fit."""
    data = layout.data(dataset)
    aligned, rows = read_test_rows(data)
    samples, labels = (aligned[name].to_numpy()[rows] for name in ("sample", "label"))
    return EvaluationFaces(data / "aligned.npy", rows, samples, labels, digest_test_faces(aligned))


def probabilities_of_faces(run: Finished, faces: EvaluationFaces) -> np.ndarray:
    """Probabilities (N, C) of the test faces, in their order, by the weights that the training kept.

    Raises UserError where predictions.parquet has not all of the faces.
    """
    path = run.folder / "predictions.parquet"
    predictions = read_predictions(path)
    chosen = predictions[(predictions["split"] == "test") & (predictions["protocol"] == run.about["protocol"])]
    chosen = chosen.set_index("sample")
    absent = set(faces.samples) - set(chosen.index)
    if absent:
        raise UserError(
            f"{path}: no test face {min(absent)} under protocol {run.about['protocol']}; train this run again"
        )
    return probabilities_of(chosen.loc[faces.samples])
