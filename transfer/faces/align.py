"""Alignment: every image warped onto the template, and the array of aligned faces with its manifest."""

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from PIL import Image, ImageOps

from transfer.datasets.source import split_path
from transfer.errors import UserError
from transfer.faces.placement import landmarks_of, placements
from transfer.faces.store import store_writer
from transfer.files import atomic


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


def align_dataset(
    images: Iterable[tuple[int, np.ndarray | None, str]],
    index: pd.DataFrame,
    faces: pd.DataFrame,
    out_npy: str | Path,
    out_parquet: str | Path,
    *,
    size: int = 112,
    margin: float = 0.0,
    template: str | Sequence[Sequence[float]] = "arcface",
    no_face: str = "whole",
    broken: str = "drop",
    landmarks: str = "mtcnn",
    source_sha256: Mapping[str, str] | None = None,
    progress: Callable[[int], None] | None = None,
) -> dict[str, int]:
    """Align every image and write the array of faces and its manifest, rows in the order of ``index``.

    ``images`` yields (row of ``index``, RGB uint8 (H, W, 3) or None, error text) in any order; ``faces`` has the rows
    of ``index``. Images without landmarks are taken ``whole`` (centre square, resized) or left out
    (``no_face="drop"``); broken images are left out or stop the run (``broken="stop"``). Writes (N, size, size, 3)
    uint8 RGB to ``out_npy`` row by row (memory stays small) and the manifest to ``out_parquet``: sample, split, label,
    class_name, status and n_faces of the detection, sha256 of the aligned pixels, and source_sha256, looked up by the
    file in ``source_sha256`` (empty where it has none). Returns the counts: images, rows, aligned (with landmarks),
    whole, dropped_no_face, dropped_broken. ``progress`` is called with the number of images done so far.
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
    matrices = placements(points, faces, template, size, margin)
    placed = np.isfinite(matrices).all(axis=(1, 2))
    degenerate = has_points & ~placed & (template != "none")
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
        with store_writer(part_npy, len(manifest), size) as store:
            for done, (i, image, error) in enumerate(images, 1):
                if progress:
                    progress(done)
                if not kept[i]:
                    continue
                if image is None:
                    raise UserError(
                        f"{index['path'].iloc[i]}: readable at detection, but not now ({error}); detect again"
                    )
                face = warp(image, matrices[i], size) if placed[i] else _whole(image, size)
                store[row_of[i]] = face
                digests[row_of[i]] = hashlib.sha256(face.tobytes()).hexdigest()
        manifest["sha256"] = digests
        sources = source_sha256 or {}
        manifest["source_sha256"] = [sources.get(split_path(path)[0], "") for path in index.loc[kept, "path"]]
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
