"""Robustness of a run against corruptions of its test faces; see docs/robustness.md."""

import math
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from torch.nn.functional import conv2d, interpolate, pad

from transfer.evaluation.network import Network, batches_of, load_network, read_faces
from transfer.faces.align import LANDMARK_COLUMNS, template
from transfer.layout import Layout
from transfer.params import FaceParams, Params
from transfer.runs.evaluations import CLEAN, write_evaluation
from transfer.runs.predictions import probabilities_of
from transfer.runs.read import read_run
from transfer.utils.errors import UserError
from transfer.utils.progress import progress
from transfer.utils.seeds import stream

GREY = 0.5
"""The colour of all occluders: the same for every face and dataset."""

# By how much two passes through one network may differ in a probability: other batches, another machine
_TOLERANCE = {"fp32": 0.005, "bf16": 0.05}


def evaluate_robustness(params: Params, layout: Layout, dataset: str, recipe: str, seed: int) -> pd.DataFrame:
    """Predict the test faces of a run, clean and under each corruption of ``params.robustness``.

    Writes robustness.parquet, and returns it: sample, label, protocol and epoch of the weights, corruption, severity,
    p_<class>. Corruptions at a landmark are of faces aligned by their landmarks. Raises UserError for files that are
    missing or do not belong together, and clean faces that do not give the run's own predictions.
    """
    run, faces = read_run(params, layout, dataset, recipe, seed), read_faces(layout.data(dataset))
    network = load_network(run, params.run(dataset, recipe).train, "robustness", faces)
    face_params, everyone = params.face_params(dataset), np.arange(len(faces.rows))
    points, placed = landmark_points(face_params), on_template(faces.manifest, faces.data, face_params)
    conditions = [(CLEAN, 0.0, everyone)]
    for name, severities in params.robustness.selected().items():
        chosen = everyone[placed] if name in CENTRES else everyone
        conditions += [(name, severity, chosen) for severity in severities if len(chosen)]
    frames, done = [], 0
    with progress(run.name, sum(len(chosen) for *_, chosen in conditions)) as report:
        for name, severity, chosen in conditions:
            rows = faces.manifest.iloc[chosen]
            seeds = face_seeds(params.robustness.seed, name, rows["sample"].tolist())
            batches = (
                corrupted(faces.pixels(chosen[part]), name, severity, seeds[part], points)
                for part in batches_of(len(chosen))
            )
            frame = network.frame(rows["sample"].to_numpy(), rows["label"].to_numpy(), batches)
            if name == CLEAN:
                _check_clean(frame, network)
            frame.insert(4, "corruption", name)
            frame.insert(5, "severity", float(severity))
            frames.append(frame)
            done += len(chosen)
            report(done)
    table = pd.concat(frames, ignore_index=True)
    table.attrs = {"without_landmarks": int((~placed).sum())}
    path = layout.evaluation("robustness", dataset, recipe, seed) / "robustness.parquet"
    write_evaluation(path, table, run, faces.data)
    return table


def _check_clean(frame: pd.DataFrame, network: Network) -> None:
    run, protocol = network.run, network.about["protocol"]
    path = run.directory / "predictions.parquet"
    rows = run.predictions.query("split == 'test' and protocol == @protocol")
    if rows.empty:
        raise UserError(f"{path}: no predictions of protocol {protocol}, whose weights are kept; add it to protocols")
    kept, found = (part.set_index("sample").sort_index() for part in (rows, frame))
    if not kept["label"].equals(found["label"]):
        raise UserError(f"{path}: other test faces or labels than those of the aligned store; train again")
    difference = abs(probabilities_of(kept) - probabilities_of(found)).max(axis=1)
    if difference.max() > _TOLERANCE[run.environment["precision"]]:
        raise UserError(
            f"{path}: sample {kept.index[difference.argmax()]}: model.safetensors gives probabilities that differ by "
            f"{difference.max():.3f}; they are not of the same network or faces, train again"
        )


def landmark_points(faces: FaceParams) -> np.ndarray | None:
    """The landmarks in an aligned face, (5, 2) pixels; None where the template has none."""
    if faces.template in ("box", "none"):
        return None
    return template(faces.size, faces.margin, faces.template)


def on_template(manifest: pd.DataFrame, data: Path, faces: FaceParams) -> np.ndarray:
    """Which rows (N,) of the manifest were aligned by their landmarks; the others are whole images."""
    if landmark_points(faces) is None:
        return np.zeros(len(manifest), bool)
    if faces.landmarks == "mtcnn":
        return (manifest["status"] == "found").to_numpy()
    supplied = pd.read_parquet(data / "index.parquet", columns=["sample", *LANDMARK_COLUMNS]).set_index("sample")
    return supplied.loc[manifest["sample"]].notna().all(axis=1).to_numpy()


def face_seeds(seed: int, name: str, samples: Sequence[str]) -> list[int]:
    """The seed of each sample: the same for all severities, and for every network that is shown the face."""
    return [stream(seed, f"{name}/{sample}") for sample in samples]


def corrupted(
    faces: np.ndarray, name: str, severity: float, seeds: Sequence[int], points: np.ndarray | None
) -> np.ndarray:
    """`corrupt` on faces (N, side, side, 3) uint8, rounded to uint8 again."""
    if name == CLEAN:
        return faces
    images = torch.from_numpy(faces).permute(0, 3, 1, 2) / 255
    return (corrupt(images, name, severity, seeds, points) * 255).round().byte().permute(0, 2, 3, 1).numpy()


def corrupt(
    images: Tensor, name: str, severity: float, seeds: Sequence[int], points: np.ndarray | None = None
) -> Tensor:
    """Corruption ``name`` of ``images`` (N, 3, side, side) in [0, 1] at ``severity``.

    ``seeds``: one per image, which alone decides what is random in it. ``points`` (5, 2): the landmarks of all images,
    x and y in pixels with pixel centres at integers, for the corruptions in ``CENTRES``.
    """
    if name in CENTRES:
        assert points is not None
        return occlude_at(images, severity, np.stack([points[list(group)].mean(axis=0) for group in CENTRES[name]]))
    return _CORRUPTIONS[name](images, severity, seeds)


def occlude_random(images: Tensor, severity: float, seeds: Sequence[int]) -> Tensor:
    """A grey square at a random place inside the image; with the same seed a larger square covers a smaller one."""
    side = round(severity * images.shape[3])
    room = torch.tensor([images.shape[3] - side + 1, images.shape[2] - side + 1])
    places = torch.stack([torch.rand(2, generator=torch.Generator().manual_seed(seed)) for seed in seeds])
    return _cover(images, (places.double() * room).floor().long()[:, None], side)


def occlude_at(images: Tensor, severity: float, centres: np.ndarray) -> Tensor:
    """Grey squares centred on each of ``centres`` (K, 2), the same on all images; cut off at the border."""
    side = round(severity * images.shape[3])
    corners = torch.from_numpy(np.floor(centres - (side - 1) / 2 + 0.5)).long()
    return _cover(images, corners.expand(len(images), -1, -1), side)


def _cover(images: Tensor, corners: Tensor, side: int) -> Tensor:
    (left, top), (height, width) = corners[..., None].unbind(2), images.shape[2:]
    x, y = torch.arange(width), torch.arange(height)
    columns, rows = (x >= left) & (x < left + side), (y >= top) & (y < top + side)  # (N, K, W) and (N, K, H)
    hidden = (rows[..., :, None] & columns[..., None, :]).any(dim=1)
    return torch.where(hidden[:, None], torch.tensor(GREY), images)


def blur(images: Tensor, severity: float) -> Tensor:
    """Gaussian blur, reflected at the border: torchvision's to the bit, whose import takes seconds."""
    sigma = severity * images.shape[3]
    half = math.ceil(3 * sigma)
    places = torch.linspace(-half / math.sqrt(2), half / math.sqrt(2), 2 * half + 1)
    kernel = torch.softmax(places.div(sigma).pow(2).neg(), dim=0)
    # one direction after the other is the same, and much faster
    for shape, padding in (((1, -1), [half, half, 0, 0]), ((-1, 1), [0, 0, half, half])):
        weight = kernel.reshape(shape).expand(images.shape[1], 1, -1, -1)
        images = conv2d(pad(images, padding, mode="reflect"), weight, groups=images.shape[1])
    return images


def noise(images: Tensor, severity: float, seeds: Sequence[int]) -> Tensor:
    """Gaussian noise, independent for each pixel and channel; with the same seed one pattern at every severity."""
    shape = images.shape[1:]
    pattern = torch.stack([torch.randn(shape, generator=torch.Generator().manual_seed(seed)) for seed in seeds])
    return (images + severity * pattern).clamp(0, 1)


def low_resolution(images: Tensor, severity: float) -> Tensor:
    """Reduced by the factor ``severity`` with antialiasing, and enlarged again, both bilinearly."""
    size = list(images.shape[2:])
    for side in ([max(1, round(length / severity)) for length in size], size):
        images = interpolate(images, side, mode="bilinear", antialias=True)
    return images.clamp(0, 1)


CENTRES: dict[str, tuple[tuple[int, ...], ...]] = {
    "occlude_eyes": ((0,), (1,)),
    "occlude_nose": ((2,),),
    "occlude_mouth": ((3, 4),),
}
"""Corruptions with a place on the face, by groups of the five landmarks: the mean of each is the centre of a square."""
_CORRUPTIONS: dict[str, Callable[[Tensor, float, Sequence[int]], Tensor]] = {
    "occlude_random": occlude_random,
    "noise": noise,
    "blur": lambda images, severity, _: blur(images, severity),
    "low_resolution": lambda images, severity, _: low_resolution(images, severity),
    "darker": lambda images, severity, _: images * (1 - severity),
    "brighter": lambda images, severity, _: (images * (1 + severity)).clamp(max=1),
}
