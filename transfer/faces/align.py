"""Alignment: every image warped onto the template, and the array of aligned faces with its manifest."""

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image, ImageOps

from transfer.datasets.text import split_path
from transfer.faces.store import store_writer
from transfer.utils.errors import UserError
from transfer.utils.files import atomic

# Left eye, right eye, nose, left mouth corner, right mouth corner, as in MTCNN; "left" is the smaller x in the image.
LANDMARK_COLUMNS = [f"landmark_{i}_{axis}" for i in range(5) for axis in "xy"]
BOX_COLUMNS = ["box_x0", "box_y0", "box_x1", "box_y1"]

Images = Iterable[tuple[int, np.ndarray | None, str]]
"""Row of the index, RGB uint8 (H, W, 3) or None, and why it is None; in any order."""
Template = str | Sequence[Sequence[float]]
"""``faces.template`` of the parameters: arcface, box, none, or five points as fractions of the side."""

DISAGREEMENT = 0.2
"""Eye distances beyond which supplied landmarks are misplaced: outside the image, or away from MTCNN's."""
MAX_MISPLACED = 0.5
_MIRRORED = [1, 0, 2, 4, 3]  # a mirrored left eye is a right eye
_GRID = 9

_ARCFACE_SIZE = 112
_ARCFACE_POINTS = np.array(
    [[38.2946, 51.6963], [73.5318, 51.5014], [56.0252, 71.7366], [41.5493, 92.3655], [70.7299, 92.2041]]
)


def align_dataset(
    images: Images,
    index: pd.DataFrame,
    faces: pd.DataFrame,
    out_npy: str | Path,
    out_parquet: str | Path,
    *,
    size: int = 112,
    margin: float = 0.0,
    template: Template = "arcface",
    no_face: str = "whole",
    broken: str = "drop",
    landmarks: str = "mtcnn",
    frame: str | None = None,
    misplaced: str = "stop",
    source_sha256: Mapping[str, str] | None = None,
    progress: Callable[[int], None] | None = None,
) -> dict[str, int]:
    """Align every image and write the array of faces and its manifest, rows in the order of ``index``.

    ``faces`` has the rows of ``index``. Images without landmarks are used ``whole`` (centre square, resized) or left
    out (``no_face="drop"``); broken images are left out or stop the run (``broken="stop"``). Writes (N, size, size, 3)
    uint8 RGB to ``out_npy`` row by row (memory stays small) and the manifest to ``out_parquet``: sample, split, label,
    class_name, status and n_faces of the detection, sha256 of the aligned pixels, and the source_sha256 of the image's
    file ("" where it has none). Returns the counts: images, rows, aligned (with landmarks), whole, dropped_no_face,
    dropped_broken. ``progress`` is called with the number of images done so far.
    """
    is_broken = (faces["status"] == "broken").to_numpy()
    if broken == "stop" and is_broken.any():
        lost = list(zip(index["path"][is_broken], faces["error"][is_broken], strict=True))
        named = "; ".join(f"{path}: {error}" for path, error in lost[:3])
        more = f"; and {len(lost) - 3} more" if len(lost) > 3 else ""
        remedy = "replace them, or leave them out (of a dataset by faces: {broken: drop})"
        raise UserError(f"{len(lost)} broken images ({named}{more}); {remedy}")
    points = landmarks_to_use(index, faces, landmarks, frame, misplaced)
    has_points = np.isfinite(points).all(axis=(1, 2)) & ~is_broken
    kept = has_points if no_face == "drop" else ~is_broken
    if not kept.any():
        found = f"{len(index)} images, {is_broken.sum()} broken, the others without a face"
        raise UserError(f"no image can be aligned ({found}); check the archive, or set no_face: whole")
    matrices = placements(points, faces, template, size, margin)
    placed = np.isfinite(matrices).all(axis=(1, 2))
    degenerate = has_points & ~placed & (template != "none")
    if degenerate.any():
        sample = index["sample"].iloc[int(np.flatnonzero(degenerate)[0])]
        raise UserError(f"all five landmarks are the same point ({sample}); correct them or use landmarks: mtcnn")

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
                    path = index["path"].iloc[i]
                    raise UserError(f"an image that detection could read is broken now ({path}: {error}); detect again")
                if placed[i]:
                    face = warp(image, matrices[i], size)
                    if face.min() == face.max():
                        blank = f"{index['path'].iloc[i]}: nothing but one colour is in its aligned face"
                        raise UserError(f"{blank}; correct its landmarks, or use landmarks: mtcnn")
                else:
                    face = np.asarray(ImageOps.fit(Image.fromarray(image), (size, size), Image.Resampling.BILINEAR))
                store[row_of[i]] = face
                digests[row_of[i]] = hashlib.sha256(face.tobytes()).hexdigest()
        manifest["sha256"] = digests
        sources = source_sha256 or {}
        manifest["source_sha256"] = [sources.get(split_path(path)[0], "") for path in index.loc[kept, "path"]]
        manifest.to_parquet(part_parquet, index=False)
    rows = {"aligned": has_points, "whole": kept & ~has_points, "dropped_no_face": ~kept & ~is_broken}
    counts = {name: int(mask.sum()) for name, mask in (rows | {"dropped_broken": is_broken}).items()}
    return {"images": len(index), "rows": len(manifest)} | counts


def landmarks_to_use(
    index: pd.DataFrame, faces: pd.DataFrame, landmarks: str, frame: str | None = None, misplaced: str = "stop"
) -> np.ndarray:
    """Landmarks (N, 5, 2) to align by in pixels of the upright images, NaN where there are none; UserError as below.

    Supplied landmarks are not used where they lie outside the image, and with misplaced: no_face where MTCNN's are
    elsewhere. With misplaced: stop, more than half of either is an error: they belong to other pixels, such as
    those of another resolution. So is an image turned by EXIF if ``frame`` does not say which pixels are meant.
    """
    points = landmarks_of(index, faces, landmarks, frame)
    if landmarks == "mtcnn":
        return points
    paths, turned = index["path"].to_numpy(), (faces["orientation"] > 1).to_numpy() & np.isfinite(points).all((1, 2))
    if frame is None and turned.any():
        found = f"{turned.sum():,} images are turned by their EXIF mark, first {paths[turned.argmax()]}"
        choice = "faces: {frame: stored} if their landmarks belong to the pixels as stored, else {frame: upright}"
        raise UserError(f"landmarks: supplied, and {found}; set {choice}")
    distance, outside = disagreement(points, faces), _outside(points, faces)
    wrong, judged = outside | (distance > DISAGREEMENT), outside | np.isfinite(distance)
    if misplaced == "stop" and wrong.sum() > MAX_MISPLACED * judged.sum():
        found = (
            f"{wrong.sum():,} of {judged.sum():,} supplied landmarks are misplaced ({outside.sum():,} outside the image"
        )
        far = f"{(wrong & ~outside).sum():,} more than {DISAGREEMENT} eye distances from MTCNN's"
        remedy = "correct them, or use landmarks: mtcnn, or set faces.misplaced to keep or no_face"
        raise UserError(f"{found}, {far}, first {paths[wrong.argmax()]}); {remedy}")
    unused = wrong if misplaced == "no_face" else outside
    return np.where(unused[:, None, None], np.nan, points)


def landmarks_of(index: pd.DataFrame, faces: pd.DataFrame, landmarks: str, frame: str | None = None) -> np.ndarray:
    """Landmarks (N, 5, 2) of ``faces`` ("mtcnn") or ``index`` ("supplied"), NaN where there are none.

    Pixels of the upright images: with ``frame`` "stored", supplied ones are turned as EXIF turns the pixels.
    """
    if landmarks == "supplied":
        require_landmarks(index)
    table = faces if landmarks == "mtcnn" else index
    points = table[LANDMARK_COLUMNS].to_numpy(np.float64).reshape(-1, 5, 2)
    if landmarks == "supplied" and frame == "stored":
        orientation, last = faces["orientation"].to_numpy(), faces[["width", "height"]].to_numpy()[:, None] - 1
        points = np.where((orientation >= 5)[:, None, None], points[..., ::-1], points)
        flipped = np.stack([np.isin(orientation, (2, 3, 6, 7)), np.isin(orientation, (3, 4, 7, 8))], axis=1)
        points = np.where(flipped[:, None], last - points, points)
        mirrored = np.isin(orientation, (2, 4, 5, 7))
        points[mirrored] = points[mirrored][:, _MIRRORED]
    return points


def disagreement(points: np.ndarray, faces: pd.DataFrame) -> np.ndarray:
    """Mean distance (N,) of MTCNN's five landmarks from ``points`` (N, 5, 2), in eye distances of these.

    NaN where either has none.
    """
    found = faces[LANDMARK_COLUMNS].to_numpy(np.float64).reshape(-1, 5, 2)
    return np.hypot(*np.moveaxis(points - found, -1, 0)).mean(axis=1) / _eye_distance(points)


def _eye_distance(points: np.ndarray) -> np.ndarray:
    distance = np.hypot(*(points[:, 1] - points[:, 0]).T)
    distance[distance == 0] = np.nan
    return distance


def _outside(points: np.ndarray, faces: pd.DataFrame) -> np.ndarray:
    """Whether (N,) one of the five points lies outside its image, by more than MTCNN's could be away."""
    last = faces[["width", "height"]].to_numpy()[:, None] - 1
    beyond = np.maximum(-points, points - last).max(axis=(1, 2)) > DISAGREEMENT * np.nan_to_num(_eye_distance(points))
    return beyond & (faces["status"] != "broken").to_numpy()


def share_inside(matrices: np.ndarray, faces: pd.DataFrame, size: int) -> np.ndarray:
    """Share (N,) of each aligned face that shows its image, by a grid of points; NaN where nothing is warped."""
    axis = np.linspace(0, size - 1, _GRID)
    grid = np.stack([*np.meshgrid(axis, axis), np.ones((_GRID, _GRID))]).reshape(3, -1)
    last = faces[["width", "height"]].to_numpy() - 1
    share = np.full(len(matrices), np.nan)
    for i in np.flatnonzero(np.isfinite(matrices).all(axis=(1, 2))):
        x, y = np.linalg.inv(np.vstack([matrices[i], [0, 0, 1]]))[:2] @ grid
        share[i] = ((x >= -0.5) & (x <= last[i, 0] + 0.5) & (y >= -0.5) & (y <= last[i, 1] + 0.5)).mean()
    return share


def require_landmarks(index: pd.DataFrame) -> None:
    """Raise UserError where a dataset's index has no landmarks, as ``landmarks: supplied`` needs them."""
    for name in LANDMARK_COLUMNS:
        if name not in index.columns:
            raise UserError(f"landmarks: supplied, but the dataset's index has no column {name}; use landmarks: mtcnn")


def placements(points: np.ndarray, faces: pd.DataFrame, kind: Template, size: int, margin: float = 0.0) -> np.ndarray:
    """Transforms (N, 2, 3) from each image to its aligned face of ``size`` pixels; NaN where it has no face.

    "arcface" or five points of one's own: the least-squares similarity from the landmarks ``points`` (N, 5, 2);
    "box": the upright square around the box of ``faces``, as wide as its longer side; "none": NaN.
    """
    if kind == "none":
        return np.full((len(points), 2, 3), np.nan)
    if kind != "box":
        return similarity(points, template(size, margin, kind))
    boxes = faces[BOX_COLUMNS].to_numpy(np.float64)
    centre = (boxes[:, :2] + boxes[:, 2:]) / 2
    scale = size * (1 - 2 * margin) / (boxes[:, 2:] - boxes[:, :2]).max(axis=1)
    matrices = scale[:, None, None] * np.eye(2, 3)
    matrices[:, :, 2] = (size - 1) / 2 - scale[:, None] * centre
    matrices[~np.isfinite(scale)] = np.nan
    return matrices


def template(size: int, margin: float = 0.0, kind: Template = "arcface") -> np.ndarray:
    """The template for a square face of ``size`` pixels: five points as fractions of the side, or else ArcFace's.

    Returns (5, 2) float64, x and y in pixels (pixel centres at integers). ``margin`` is the fraction of ``size`` that
    is added as context on each side: the face shrinks towards the centre accordingly.
    Source: face.evoLVe, applications/align/align_trans.py (template times size / 112).
    """
    fractions = _ARCFACE_POINTS / _ARCFACE_SIZE if isinstance(kind, str) else np.asarray(kind, np.float64)
    return size * (margin + (1 - 2 * margin) * fractions)


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
    # Blocks are counted from the edge of the part, half a pixel outside the centre of its first pixel.
    return _bilinear(part, (source + 0.5 - [x0, y0]) / block - 0.5)


def _bilinear(image: np.ndarray, points: np.ndarray) -> np.ndarray:
    """``image`` (H, W, 3) uint8 at ``points`` (..., 2), x and y of pixel centres at integers; zeros outside."""
    height, width, _ = image.shape
    padded = np.zeros((height + 4, width + 4, 3))  # a point outside has four neighbours that are zero
    padded[2:-2, 2:-2] = image
    pixels = padded.reshape(-1, 3)
    corner = np.floor(points)
    right, down = np.moveaxis(points - corner, -1, 0)[..., None]
    left, up = 1 - right, 1 - down
    column, row = np.moveaxis(np.clip(corner, -2, [width, height]).astype(np.intp) + 2, -1, 0)
    first = row * (width + 4) + column
    value = pixels.take(first, 0) * (left * up)
    value += pixels.take(first + 1, 0) * (right * up)
    value += pixels.take(first + width + 4, 0) * (left * down)
    value += pixels.take(first + width + 5, 0) * (right * down)
    return value.round().astype(np.uint8)
