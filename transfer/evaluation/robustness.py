"""How a finished training holds out against corruptions of its test faces; see docs/robustness.md."""

import math
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from torchvision.transforms.v2 import functional as F

from transfer.evaluation.finished import Finished, batches_of, load_finished, read_test_faces
from transfer.faces.align import LANDMARK_COLUMNS, template
from transfer.layout import Layout
from transfer.params import FaceParams, Params
from transfer.runs.evaluations import UNTOUCHED, write_evaluation
from transfer.runs.predictions import predictions_frame, probabilities_of
from transfer.utils.errors import UserError
from transfer.utils.progress import progress
from transfer.utils.seeds import stream

GREY = 0.5
"""The colour of all occluders: the same for every face and dataset."""

# Of the five landmarks those whose mean is the centre of a square; two squares cover the eyes.
_CENTRES: dict[str, tuple[tuple[int, ...], ...]] = {
    "occlude_eyes": ((0,), (1,)),
    "occlude_nose": ((2,),),
    "occlude_mouth": ((3, 4),),
}


def corrupt(
    images: Tensor, name: str, severity: float, seeds: Sequence[int], points: np.ndarray | None = None
) -> Tensor:
    """Corruption ``name`` of ``images`` at ``severity``.

    ``seeds`` has one number per image (see `face_seeds`): what is drawn for an image depends on its own alone.
    ``points`` (5, 2) are the landmarks of all images, x and y in pixels with pixel centres at integers; those that
    `needs_landmarks` need them.
    """
    if name in _CENTRES:
        assert points is not None
        return occlude_at(images, severity, np.stack([points[list(group)].mean(axis=0) for group in _CENTRES[name]]))
    if name in _DRAWN:
        return _DRAWN[name](images, severity, seeds)
    return _FIXED[name](images, severity)


def needs_landmarks(name: str) -> bool:
    """Whether corruption ``name`` has a place on the face."""
    return name in _CENTRES


def face_seeds(seed: int, name: str, samples: Sequence[str]) -> list[int]:
    """The seed of each sample: the same for all severities, and for every network that is shown the face."""
    return [stream(seed, f"{name}/{sample}") for sample in samples]


def occlude_random(images: Tensor, severity: float, seeds: Sequence[int]) -> Tensor:
    """A grey square at a random place inside the image; of one seed a larger square covers a smaller one."""
    side = _pixels(images, severity)
    room = torch.tensor([images.shape[3] - side + 1, images.shape[2] - side + 1])
    drawn = torch.stack([torch.rand(2, generator=torch.Generator().manual_seed(seed)) for seed in seeds])
    return _cover(images, (drawn.double() * room).floor().long()[:, None], side)


def occlude_at(images: Tensor, severity: float, centres: np.ndarray) -> Tensor:
    """Grey squares centred on each of ``centres`` (K, 2), the same on all images; cut off at the border."""
    side = _pixels(images, severity)
    corners = torch.from_numpy(np.floor(centres - (side - 1) / 2 + 0.5)).long()
    return _cover(images, corners.expand(len(images), -1, -1), side)


def blur(images: Tensor, severity: float) -> Tensor:
    """Gaussian blur, reflected at the border."""
    sigma = severity * images.shape[3]
    size = 2 * math.ceil(3 * sigma) + 1
    for kernel in ([size, 1], [1, size]):  # one direction after the other is the same, and much faster
        images = F.gaussian_blur(images, kernel, [sigma, sigma])
    return images


def noise(images: Tensor, severity: float, seeds: Sequence[int]) -> Tensor:
    """Gaussian noise, independent for each pixel and channel; of one seed the same pattern at every severity."""
    shape = images.shape[1:]
    drawn = torch.stack([torch.randn(shape, generator=torch.Generator().manual_seed(seed)) for seed in seeds])
    return (images + severity * drawn).clamp(0, 1)


def low_resolution(images: Tensor, severity: float) -> Tensor:
    """Reduced by the factor ``severity`` with antialiasing, and enlarged again, both bilinearly."""
    size = list(images.shape[2:])
    reduced = [max(1, round(length / severity)) for length in size]
    return F.resize(F.resize(images, reduced, antialias=True), size, antialias=True).clamp(0, 1)


def darker(images: Tensor, severity: float) -> Tensor:
    """All values times 1 - ``severity``."""
    return F.adjust_brightness(images, 1 - severity)


def brighter(images: Tensor, severity: float) -> Tensor:
    """All values times 1 + ``severity``, cut off at white."""
    return F.adjust_brightness(images, 1 + severity)


_DRAWN: dict[str, Callable[[Tensor, float, Sequence[int]], Tensor]] = {
    "occlude_random": occlude_random,
    "noise": noise,
}
_FIXED: dict[str, Callable[[Tensor, float], Tensor]] = {
    "blur": blur,
    "low_resolution": low_resolution,
    "darker": darker,
    "brighter": brighter,
}


def _pixels(images: Tensor, severity: float) -> int:
    """The side of a square in pixels."""
    return round(severity * images.shape[3])


def _cover(images: Tensor, corners: Tensor, side: int) -> Tensor:
    """Grey squares whose upper left pixels are ``corners`` (N, K, 2), x and y."""
    (left, top), (height, width) = corners[..., None].unbind(2), images.shape[2:]
    x, y = torch.arange(width), torch.arange(height)
    columns, rows = (x >= left) & (x < left + side), (y >= top) & (y < top + side)  # (N, K, W) and (N, K, H)
    hidden = (rows[..., :, None] & columns[..., None, :]).any(dim=1)
    return torch.where(hidden[:, None], torch.tensor(GREY), images)


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
    for name, severities in params.robustness.selected().items():
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
