"""Five-point alignment: a least-squares similarity onto the ArcFace template, and the array of aligned faces."""

import hashlib
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from PIL import Image, ImageOps

from transfer.errors import UserError
from transfer.faces.template import LANDMARK_COLUMNS, template
from transfer.files import atomic


def similarity(src: np.ndarray, dst: np.ndarray) -> np.ndarray:
    """Least-squares similarity transforms (scale, rotation, translation; no reflection) that map ``src`` onto ``dst``.

    ``src`` is (N, K, 2), ``dst`` (K, 2), x and y in pixels; returns (N, 2, 3), to be applied to (x, y, 1). NaN where
    the points of ``src`` coincide. Source: Umeyama, Least-squares estimation of transformation parameters between two
    point patterns (1991); in the plane the optimum is the complex linear regression used here.
    """
    x, y = src[..., 0] + 1j * src[..., 1], dst[:, 0] + 1j * dst[:, 1]
    x_mean, y_mean = x.mean(axis=1, keepdims=True), y.mean()
    centred = x - x_mean
    with np.errstate(invalid="ignore", divide="ignore"):
        factor = (centred.conj() * (y - y_mean)).sum(axis=1) / (np.abs(centred) ** 2).sum(axis=1)
    shift = y_mean - factor * x_mean[:, 0]
    rows = [factor.real, -factor.imag, shift.real, factor.imag, factor.real, shift.imag]
    return np.stack(rows, axis=-1).reshape(-1, 2, 3)


def warp(image: np.ndarray, matrix: np.ndarray, size: int) -> np.ndarray:
    """Warp an image by ``matrix``, (2, 3) from source to output pixels: bilinear, zeros outside.

    The semantics of ``cv2.warpAffine(image, matrix, (size, size))``, pixel centres at integers, computed in float64.
    ``image`` is (H, W, 3) uint8; the result (size, size, 3) uint8. Where the output is less than half as fine as the
    source, the source is first averaged over whole blocks of pixels: bilinear interpolation alone would skip pixels.
    """
    inverse = np.linalg.inv(np.vstack([matrix, [0, 0, 1]]))[:2]
    block = max(1, int(np.sqrt(np.linalg.det(inverse[:, :2]))))
    # The part of the source that the output shows, with room for the interpolation.
    limits = np.array([[-1, size, -1, size], [-1, -1, size, size], [1, 1, 1, 1]])
    footprint = inverse @ limits
    bounds = np.array([image.shape[1], image.shape[0]])
    x0, y0 = np.clip(np.floor(footprint.min(axis=1)).astype(int) - 2 * block, 0, bounds)
    x1, y1 = np.clip(np.ceil(footprint.max(axis=1)).astype(int) + 2 * block, 0, bounds)
    if x0 >= x1 or y0 >= y1:
        return np.zeros((size, size, 3), np.uint8)
    part = image[y0:y1, x0:x1]
    if block > 1:
        part = np.asarray(Image.fromarray(part).reduce(block))

    x, y = np.meshgrid(np.arange(size), np.arange(size))
    source = np.stack([x, y, np.ones_like(x)], axis=-1) @ inverse.T
    # grid_sample counts from -1 to 1 between the outer edges of the border pixels, half a pixel outside their centres.
    edge = (source + 0.5 - [x0, y0]) / block
    grid = torch.from_numpy(2 * edge / [part.shape[1], part.shape[0]] - 1)
    pixels = torch.from_numpy(part.astype(np.float64)).permute(2, 0, 1)
    warped = torch.nn.functional.grid_sample(
        pixels[None], grid[None], mode="bilinear", padding_mode="zeros", align_corners=False
    )
    return warped[0].permute(1, 2, 0).round().to(torch.uint8).numpy()


def landmarks_of(index: pd.DataFrame, faces: pd.DataFrame, landmarks: str) -> np.ndarray:
    """The (N, 5, 2) landmarks to align by: "mtcnn" from ``faces``, "supplied" from ``index``; NaN where there are none.

    Raises UserError where "supplied" is asked of a dataset that supplies none.
    """
    table = faces if landmarks == "mtcnn" else index
    missing = [name for name in LANDMARK_COLUMNS if name not in table.columns]
    if missing:
        raise UserError(
            f"landmarks: supplied, but the dataset's index has no column {missing[0]}; use landmarks: mtcnn"
        )
    return table[LANDMARK_COLUMNS].to_numpy(np.float64).reshape(-1, 5, 2)


def align_dataset(
    images: Iterable[tuple[int, np.ndarray | None, str]],
    index: pd.DataFrame,
    faces: pd.DataFrame,
    out_npy: str | Path,
    out_parquet: str | Path,
    *,
    size: int = 112,
    margin: float = 0.0,
    no_face: str = "whole",
    broken: str = "drop",
    landmarks: str = "mtcnn",
) -> dict[str, int]:
    """Align every image and write the array of faces and its manifest, rows in the order of ``index``.

    ``images`` yields (row of ``index``, RGB uint8 (H, W, 3) or None, error text) in any order; ``faces`` has the rows
    of ``index``. Images without landmarks are taken ``whole`` (centre square, resized) or left out
    (``no_face="drop"``); broken images are left out or stop the run (``broken="stop"``). Writes (N, size, size, 3)
    uint8 RGB to ``out_npy`` row by row (memory stays small) and the manifest to ``out_parquet``. Returns the counts:
    images, rows, aligned, whole, dropped_no_face, dropped_broken.
    Raises UserError for broken images under "stop", for landmarks that coincide, and where no image is left.
    """
    is_broken = (faces["status"] == "broken").to_numpy()
    if broken == "stop" and is_broken.any():
        raise UserError(_broken_message(index, faces, is_broken))
    points = landmarks_of(index, faces, landmarks)
    has_points = np.isfinite(points).all(axis=(1, 2)) & ~is_broken
    kept = has_points if no_face == "drop" else ~is_broken
    if not kept.any():
        raise UserError(
            f"none of the {len(index)} images can be aligned: {is_broken.sum()} broken, the rest without a face"
        )
    matrices = similarity(points, template(size, margin))
    degenerate = has_points & ~np.isfinite(matrices).all(axis=(1, 2))
    if degenerate.any():
        sample = index["sample"].iloc[int(np.flatnonzero(degenerate)[0])]
        raise UserError(
            f"{sample}: its five landmarks are one and the same point; correct them or use landmarks: mtcnn"
        )

    torch.set_num_threads(1)  # a single small picture at a time: more threads spend their time waiting for each other
    row_of = np.cumsum(kept) - 1
    manifest = index.loc[kept, ["sample", "split", "label", "class_name"]].reset_index(drop=True)
    manifest["status"] = faces["status"].to_numpy()[kept]
    manifest["n_faces"] = faces["n_faces"].to_numpy()[kept]
    digests = [""] * len(manifest)
    with atomic(out_npy) as part_npy, atomic(out_parquet) as part_parquet:
        array = np.lib.format.open_memmap(part_npy, mode="w+", dtype=np.uint8, shape=(len(manifest), size, size, 3))
        for i, image, error in images:
            if not kept[i]:
                continue
            if image is None:
                raise UserError(f"{index['path'].iloc[i]}: readable at detection, but not now ({error}); detect again")
            face = warp(image, matrices[i], size) if has_points[i] else _whole(image, size)
            array[row_of[i]] = face
            digests[row_of[i]] = hashlib.sha256(face.tobytes()).hexdigest()
        array.flush()
        del array
        manifest["sha256"] = digests
        manifest.to_parquet(part_parquet, index=False)
    return {
        "images": len(index),
        "rows": len(manifest),
        "aligned": int(has_points.sum()),
        "whole": int((kept & ~has_points).sum()),
        "dropped_no_face": int((~kept & ~is_broken).sum()),
        "dropped_broken": int(is_broken.sum()),
    }


def _whole(image: np.ndarray, size: int) -> np.ndarray:
    return np.asarray(ImageOps.fit(Image.fromarray(image), (size, size), Image.Resampling.BILINEAR))


def _broken_message(index: pd.DataFrame, faces: pd.DataFrame, is_broken: np.ndarray) -> str:
    first = np.flatnonzero(is_broken)[:3]
    named = "; ".join(f"{index['path'].iloc[i]} ({faces['error'].iloc[i]})" for i in first)
    more = f" and {is_broken.sum() - len(first)} more" if is_broken.sum() > len(first) else ""
    return f"{is_broken.sum()} broken images: {named}{more}; replace them or set broken: drop"
