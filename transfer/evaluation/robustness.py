"""How a finished training holds out against corruptions of its test faces; see docs/robustness.md."""

from pathlib import Path

import numpy as np
import pandas as pd
import torch

from transfer.errors import UserError
from transfer.evaluation.corruptions import corrupt, face_seeds, needs_landmarks
from transfer.evaluation.finished import Finished, batches_of, load_finished, read_test_faces
from transfer.evaluation.predictions import predictions_frame, probabilities_of
from transfer.evaluation.stored import UNTOUCHED, write_evaluation
from transfer.faces.template import LANDMARK_COLUMNS, template
from transfer.layout import Layout
from transfer.params import FaceParams, Params
from transfer.progress import progress

# What two ways through the same network may differ in, in a probability: other sums of a batch, another machine.
_TOLERANCE = {"fp32": 0.005, "bf16": 0.05}


def evaluate_robustness(params: Params, layout: Layout, dataset: str, recipe: str, seed: int) -> pd.DataFrame:
    """Predict the test faces of a training, untouched and under each corruption of ``params.robustness``.

    Writes robustness.parquet, and returns it: sample, label, protocol and epoch of the weights, corruption, severity,
    p_<class>. Corruptions at a landmark take the faces alone that were aligned by their landmarks. Raises UserError for
    files that are missing or do not belong together, and where the untouched faces do not give the training's own
    predictions.
    """
    finished = load_finished(params, layout, dataset, recipe, seed, "robustness")
    data, faces = layout.data(dataset), params.face_params(dataset)
    pixels, manifest = read_test_faces(data)
    placed = on_template(manifest, data, faces)
    points = landmark_points(faces)
    parts = [(UNTOUCHED, 0.0, np.arange(len(pixels)))]
    for name, severities in params.robustness.chosen().items():
        taken = np.flatnonzero(placed) if needs_landmarks(name) else np.arange(len(pixels))
        parts += [(name, severity, taken) for severity in severities if len(taken)]
    frames, done = [], 0
    with progress(f"{dataset} {recipe} seed{seed}", sum(len(taken) for *_, taken in parts)) as report:
        for name, severity, taken in parts:
            samples = manifest["sample"].to_numpy()[taken]
            seeds = face_seeds(params.robustness.seed, name, samples)
            batches = (
                corrupted(pixels[taken[part]], name, severity, seeds[part], points) for part in batches_of(len(taken))
            )
            frame = predictions_frame(
                samples,
                manifest["label"].to_numpy()[taken],
                finished.probabilities(batches),
                finished.classes,
                split="test",
                protocol=finished.about["protocol"],
                epoch=finished.about["epoch"],
            ).drop(columns="split")
            if name == UNTOUCHED:
                _check_untouched(frame, finished)
            frame.insert(4, "corruption", name)
            frame.insert(5, "severity", float(severity))
            frames.append(frame)
            done += len(taken)
            report(done)
    table = pd.concat(frames, ignore_index=True)
    table.attrs = {"without_landmarks": int((~placed).sum())}
    path = layout.evaluation("robustness", dataset, recipe, seed) / "robustness.parquet"
    write_evaluation(path, table, finished.identity, finished.weights_sha256)
    return table


def corrupted(faces: np.ndarray, name: str, severity: float, seeds: list[int], points: np.ndarray | None) -> np.ndarray:
    """Faces (N, side, side, 3) uint8 as if their pictures had been so: the same shape, rounded to uint8 again."""
    if name == UNTOUCHED:
        return faces
    images = torch.from_numpy(faces).permute(0, 3, 1, 2) / 255
    return (corrupt(images, name, severity, seeds, points) * 255).round().byte().permute(0, 2, 3, 1).numpy()


def landmark_points(faces: FaceParams) -> np.ndarray | None:
    """Where the landmarks lie in an aligned face, (5, 2) pixels; None where the template does not say."""
    if faces.template in ("box", "none"):
        return None
    return template(faces.size, faces.margin, None if isinstance(faces.template, str) else faces.template)


def on_template(manifest: pd.DataFrame, data: Path, faces: FaceParams) -> np.ndarray:
    """Which rows (N,) of the manifest were moved onto the template by their landmarks; the others are whole images."""
    if landmark_points(faces) is None:
        return np.zeros(len(manifest), bool)
    if faces.landmarks == "mtcnn":
        return (manifest["status"] == "found").to_numpy()
    supplied = pd.read_parquet(data / "index.parquet", columns=["sample", *LANDMARK_COLUMNS]).set_index("sample")
    return supplied.loc[manifest["sample"]].notna().all(axis=1).to_numpy()


def _check_untouched(frame: pd.DataFrame, finished: Finished) -> None:
    """Raise UserError where the untouched faces do not give what the training predicted of them."""
    path, protocol = finished.directory / "predictions.parquet", finished.about["protocol"]
    rows = finished.predictions.query("split == 'test' and protocol == @protocol")
    if rows.empty:
        raise UserError(f"{path}: no predictions of protocol {protocol}, whose weights are kept; add it to protocols")
    kept, found = (part.set_index("sample").sort_index() for part in (rows, frame))
    if not kept["label"].equals(found["label"]):
        raise UserError(f"{path}: other test faces or labels than those of the aligned store; train again")
    difference = abs(probabilities_of(kept) - probabilities_of(found)).max(axis=1)
    if difference.max() > _TOLERANCE[finished.precision]:
        raise UserError(
            f"{path}: sample {kept.index[difference.argmax()]}: model.safetensors gives probabilities that differ by "
            f"{difference.max():.3f}; they are not of the same network or faces, train again"
        )
