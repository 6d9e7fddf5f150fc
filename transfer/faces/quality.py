"""The quality report of detection and alignment: counts by split and class, and distributions."""

import base64
from collections.abc import Callable, Sequence
from html import escape
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from PIL import Image, ImageDraw, ImageFont

from transfer.faces.align import LANDMARK_COLUMNS, landmarks_of, placements, similarity, template
from transfer.faces.store import digest_test_faces
from transfer.utils.files import atomic, write_json, write_text

MEASURES = ["probability", "eye_distance", "roll", "yaw_proxy", "residual", "scale"]
DISAGREEMENT = 0.2


def face_measures(index: pd.DataFrame, faces: pd.DataFrame, policies: dict[str, Any]) -> pd.DataFrame:
    """The ``MEASURES`` of each image, NaN where they do not apply; rows as in ``index`` and ``faces``.

    ``policies`` holds landmarks, template, size and margin, as in the parameters.

    - probability: MTCNN's, whichever landmarks are used.
    - eye_distance: between the eyes, in pixels of the source image.
    - roll: angle of the line through the eyes, degrees, clockwise positive.
    - yaw_proxy: how far the nose is from the middle of the eyes, along their line, in eye distances; 0 in a frontal
      face, positive where the nose is towards the right side of the picture. No angle: it depends on the face too.
    - residual: root mean square distance of the landmarks from the template after the least-squares fit, in eye
      distances of the template; ArcFace's where the template is a box or none.
    - scale: pixels of the aligned face per pixel of the source, above 1 where it is enlarged.
    """
    kind, size = policies["template"], policies["size"]
    points = landmarks_of(index, faces, policies["landmarks"])
    eyes = points[:, 1] - points[:, 0]
    distance = np.hypot(eyes[:, 0], eyes[:, 1])
    nose = points[:, 2] - (points[:, 0] + points[:, 1]) / 2
    target = template(1, 0.0, None if isinstance(kind, str) else kind)
    fit = similarity(points, target)
    error = np.einsum("nij,nkj->nki", fit[:, :, :2], points) + fit[:, None, :, 2] - target
    matrices = placements(points, faces, kind, size, policies["margin"])
    scale = np.hypot(matrices[:, 0, 0], matrices[:, 1, 0])
    whole = size / np.minimum(faces["width"], faces["height"]).replace(0, np.nan).to_numpy(np.float64)
    with np.errstate(invalid="ignore", divide="ignore"):
        yaw = (nose * eyes).sum(axis=1) / distance**2
    return pd.DataFrame(
        {
            "probability": faces["probability"].to_numpy(np.float64),
            "eye_distance": distance,
            "roll": np.degrees(np.arctan2(eyes[:, 1], eyes[:, 0])),
            "yaw_proxy": yaw,
            "residual": np.sqrt((error**2).sum(axis=2).mean(axis=1)) / np.hypot(*(target[1] - target[0])),
            "scale": np.where(np.isfinite(scale), scale, whole),
        }
    )


def disagreement(index: pd.DataFrame, faces: pd.DataFrame) -> np.ndarray | None:
    """Mean distance (N,) of MTCNN's five landmarks from the supplied ones, in supplied eye distances.

    NaN where either has none; None where the dataset supplies none at all.
    """
    if not set(LANDMARK_COLUMNS) <= set(index.columns):
        return None
    supplied, found = (landmarks_of(index, faces, source) for source in ("supplied", "mtcnn"))
    eyes = supplied[:, 1] - supplied[:, 0]
    distance = np.hypot(eyes[:, 0], eyes[:, 1])
    distance[distance == 0] = np.nan
    return np.hypot(*np.moveaxis(supplied - found, -1, 0)).mean(axis=1) / distance


COUNTS = ["images", "found", "none", "several", "broken", "no_landmarks", "dropped", "whole"]
_QUANTILES = (0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99)


def face_report(
    index: pd.DataFrame, faces: pd.DataFrame, aligned: pd.DataFrame, policies: dict[str, Any]
) -> dict[str, Any]:
    """Counts per split and class and the distributions of the measures, as a JSON-ready dictionary.

    ``index`` and ``faces`` have the same rows; ``aligned`` is the manifest of the rows that were kept; ``policies``
    holds landmarks, template, size, margin, no_face and broken, and is copied into the report.

    The counts: images; of MTCNN: found, none, several (more than one face; part of found), broken; no_landmarks (whole
    images without landmarks of the chosen source); dropped (not in ``aligned``); whole (kept without landmarks).
    Quantiles of the ``MEASURES``, null where no face was found. agreement: quantiles of MTCNN's distance from the
    supplied landmarks and the share of faces above 0.2 eye distances; null where none are supplied. evaluation: number
    and digests of the test faces.
    """
    lacking = ~np.isfinite(landmarks_of(index, faces, policies["landmarks"])).all(axis=(1, 2))
    kept = index["sample"].isin(aligned["sample"]).to_numpy()
    broken = (faces["status"] == "broken").to_numpy()
    flags = pd.DataFrame(
        {
            "split": index["split"].to_numpy(),
            "class_name": index["class_name"].to_numpy(),
            "images": True,
            **{status: (faces["status"] == status).to_numpy() for status in ("found", "none")},
            "several": (faces["n_faces"] > 1).to_numpy(),
            "broken": broken,
            "no_landmarks": lacking & ~broken,
            "dropped": ~kept,
            "whole": kept & lacking,
        }
    )
    measures = face_measures(index, faces, policies)
    return {
        "policies": policies,
        "counts": _counts(flags),
        "splits": {
            split: {
                "counts": _counts(part),
                "classes": {name: _counts(rows) for name, rows in part.groupby("class_name", sort=False)},
            }
            for split, part in flags.groupby("split", sort=False)
        },
        **{name: _quantiles(measures[name].to_numpy()) for name in MEASURES},
        "agreement": _agreement(disagreement(index, faces)),
        "evaluation": digest_test_faces(aligned),
    }


def _agreement(distance: np.ndarray | None) -> dict[str, Any] | None:
    if distance is None:
        return None
    distance = distance[np.isfinite(distance)]
    above = round(float((distance > DISAGREEMENT).mean()), 4) if len(distance) else None
    return {"faces": len(distance), f"above_{DISAGREEMENT}": above, **_quantiles(distance)}


def _counts(flags: pd.DataFrame) -> dict[str, int]:
    return {name: int(flags[name].sum()) for name in COUNTS}


def _quantiles(values: np.ndarray) -> dict[str, float | None]:
    values = values[np.isfinite(values)]
    return {f"q{q * 100:02.0f}": round(float(np.quantile(values, q)), 4) if len(values) else None for q in _QUANTILES}


SIDE = 112
COLUMNS = 8
_GAP = 6
_LINE = 13
_TITLE = 26
_LETTERS = 19


class Tile(NamedTuple):
    """A picture (H, W, 3) uint8 with the lines that stand below it."""

    pixels: np.ndarray
    caption: tuple[str, str]


def montage(path: Path, sections: Sequence[tuple[str, Sequence[Tile]]]) -> None:
    """Write a PNG: per section a title and its tiles, ``COLUMNS`` in a row; a section without tiles says "none".

    Each picture is fitted into a square of ``SIDE`` pixels without changing its proportions.
    """
    step = SIDE + 2 * _LINE + _GAP
    heights = [_TITLE + max(1, -(-len(tiles) // COLUMNS)) * step if tiles else _TITLE for _, tiles in sections]
    width = COLUMNS * (SIDE + _GAP) + _GAP
    picture = Image.new("RGB", (width, sum(heights) + _GAP), "white")
    draw = ImageDraw.Draw(picture)
    title_font, font = ImageFont.load_default(14), ImageFont.load_default(10)
    top = 0
    for (title, tiles), height in zip(sections, heights, strict=True):
        draw.text((_GAP, top + _GAP), title if tiles else f"{title}: none", "black", title_font)
        for i, tile in enumerate(tiles):
            x, y = _GAP + i % COLUMNS * (SIDE + _GAP), top + _TITLE + i // COLUMNS * step
            fitted = _fitted(tile.pixels)
            picture.paste(fitted, (x + (SIDE - fitted.width) // 2, y + (SIDE - fitted.height) // 2))
            for line, text in enumerate(tile.caption):
                draw.text((x, y + SIDE + line * _LINE), _shortened(text), "black", font)
        top += height
    with atomic(path) as part:
        picture.save(part)


def _fitted(pixels: np.ndarray) -> Image.Image:
    image = Image.fromarray(np.ascontiguousarray(pixels))
    factor = SIDE / max(image.size)
    return image.resize((max(1, round(image.width * factor)), max(1, round(image.height * factor))))


def _shortened(text: str) -> str:
    """The end of a long name, which is what tells samples apart."""
    return text if len(text) <= _LETTERS else ".." + text[2 - _LETTERS :]


LABELS = {
    "probability": "probability (MTCNN)",
    "eye_distance": "eye distance (source pixels)",
    "roll": "roll (degrees, clockwise positive)",
    "yaw_proxy": "yaw proxy (nose off the eyes' middle, eye distances)",
    "residual": "residual of the fit (eye distances)",
    "scale": "scale (aligned pixels per source pixel)",
}
_STYLES = {
    "train": {"histtype": "stepfilled", "color": "0.8"},
    "val": {"histtype": "step", "color": "0.45", "linestyle": "--"},
    "test": {"histtype": "step", "color": "0"},
}
_BINS = 50  # at most; fewer where the images are few


def draw_distributions(measures: pd.DataFrame, splits: np.ndarray, path: Path) -> None:
    """Write a PNG with a histogram per measure: the share of each split's images per bin.

    ``splits`` (N,) names the split of each row of ``measures``. The bins go from the 0.5th to the 99.5th percentile;
    what lies outside is counted in the outermost ones.
    """
    figure = Figure(figsize=(10, 5.6), layout="constrained")
    axes = figure.subplots(2, 3)
    for axis, name in zip(axes.flat, MEASURES, strict=True):
        values = measures[name].to_numpy()
        finite = np.isfinite(values)
        axis.set_xlabel(LABELS[name], fontsize=9)
        axis.tick_params(labelsize=8)
        if not finite.any():
            axis.text(0.5, 0.5, "no faces", ha="center", transform=axis.transAxes)
            continue
        low, high = np.quantile(values[finite], [0.005, 0.995])
        if low == high:
            low, high = low - 0.5, high + 0.5
        bins = int(np.clip(np.sqrt(finite.sum()), 10, _BINS))
        for split, style in _STYLES.items():
            part = np.clip(values[finite & (splits == split)], low, high)
            if len(part):
                share = np.full(len(part), 1 / len(part))
                axis.hist(part, np.linspace(low, high, bins + 1), weights=share, label=split, **style)
    axes[0, 0].set_ylabel("share", fontsize=9)
    axes[1, 0].set_ylabel("share", fontsize=9)
    handles, labels = next(
        (pair for pair in (axis.get_legend_handles_labels() for axis in axes.flat) if pair[0]), ((), ())
    )
    if handles:
        figure.legend(handles, labels, loc="outside upper right", ncols=3, fontsize=9, frameon=False)
    with atomic(path) as part_file:
        figure.savefig(part_file, dpi=110, metadata={"Software": None})


RANDOM, WORST, REJECTED = 64, 16, 48
_SEED = 0
_LISTED = 20

Originals = Callable[[Sequence[int]], dict[int, np.ndarray]]


def write_quality_page(
    folder: Path,
    index: pd.DataFrame,
    faces: pd.DataFrame,
    aligned: pd.DataFrame,
    store: np.ndarray,
    policies: dict[str, Any],
    about: dict[str, Any],
    originals: Originals,
) -> dict[str, Any]:
    """Write faces.json, faces.html (self-contained), distributions.png and the three montages; return the report.

    ``store`` (rows of ``aligned``, size, size, 3) may be a memory map: only the faces shown are read. ``about`` says
    what was aligned and by what (dataset, archive, code digests) and comes first in the report. ``originals`` gives the
    source images of some rows of ``index``; it is asked for images that were dropped, which are not in the store.
    """
    report = about | face_report(index, faces, aligned, policies)
    measures = face_measures(index, faces, policies)
    gallery = _Gallery(index, aligned, store)
    draw_distributions(measures, index["split"].to_numpy(), folder / "distributions.png")
    montage(folder / "montage.png", [_random(gallery, index)])
    montage(folder / "montage_worst.png", _worst(gallery, measures, disagreement(index, faces)))
    montage(folder / "montage_rejected.png", _rejected(gallery, faces, measures, policies["no_face"], originals))
    write_json(folder / "faces.json", report)
    write_text(folder / "faces.html", _html(report, index, faces, folder))
    return report


class _Gallery:
    """Tiles of the store's faces, by their row in the index."""

    def __init__(self, index: pd.DataFrame, aligned: pd.DataFrame, store: np.ndarray) -> None:
        self.samples, self.store = index["sample"].astype(str).to_numpy(), store
        self.kept = index["sample"].isin(aligned["sample"]).to_numpy()
        self.row_of = np.cumsum(self.kept) - 1

    def tile(self, i: int, text: str) -> Tile:
        """The aligned face of row ``i`` of the index, with its sample and ``text``."""
        return Tile(np.asarray(self.store[self.row_of[i]]), (self.samples[i], text))


def _draw(rows: np.ndarray, n: int) -> np.ndarray:
    """At most ``n`` of the rows, drawn at random, always the same ones."""
    return np.sort(np.random.default_rng(_SEED).choice(rows, min(n, len(rows)), replace=False))


def _random(gallery: _Gallery, index: pd.DataFrame) -> tuple[str, list[Tile]]:
    rows = _draw(np.flatnonzero(gallery.kept), RANDOM)
    names = index["class_name"].astype(str).to_numpy()
    return f"{len(rows)} of {gallery.kept.sum():,} faces, drawn at random", [gallery.tile(i, names[i]) for i in rows]


def _worst(gallery: _Gallery, measures: pd.DataFrame, distance: np.ndarray | None) -> list[tuple[str, list[Tile]]]:
    """The faces at the bad end of each measure, the worst first; faces of the store only."""
    values = {name: measures[name].to_numpy() for name in measures}
    kinds = [
        ("lowest probability", values["probability"], -values["probability"], "{:.3f}"),
        ("largest residual of the fit (eye distances)", values["residual"], values["residual"], "{:.3f}"),
        ("largest roll (degrees)", values["roll"], np.abs(values["roll"]), "{:+.1f}"),
        ("smallest eye distance (source pixels)", values["eye_distance"], -values["eye_distance"], "{:.1f}"),
    ]
    if distance is not None:
        title = "MTCNN farthest from the supplied landmarks (eye distances)"
        kinds.append((title, distance, distance, "{:.2f}"))
    sections = []
    for title, shown, badness, form in kinds:
        rows = np.flatnonzero(gallery.kept & np.isfinite(badness))
        rows = rows[np.argsort(-badness[rows], kind="stable")][:WORST]
        sections.append((title, [gallery.tile(i, form.format(shown[i])) for i in rows]))
    return sections


def _rejected(
    gallery: _Gallery, faces: pd.DataFrame, measures: pd.DataFrame, no_face: str, originals: Originals
) -> list[tuple[str, list[Tile]]]:
    rejected = np.flatnonzero(~np.isfinite(measures["roll"]) & (faces["status"] != "broken"))
    rows = _draw(rejected, REJECTED)
    if no_face == "whole":
        tiles = [gallery.tile(i, "whole image used") for i in rows]
    else:
        pictures = originals(rows) if len(rows) else {}
        tiles = [Tile(pictures[i], (gallery.samples[i], "dropped")) for i in rows]
    shown = f"{len(rows)} of {len(rejected):,} " if len(rejected) > len(rows) else ""
    return [(f"{shown}images without landmarks", tiles)]


_STYLE = """
body { font: 15px/1.45 sans-serif; margin: 2em auto; max-width: 1000px; padding: 0 1em; color: #111; background: #fff; }
table { border-collapse: collapse; margin: 0.5em 0 1em; } th, td { padding: 2px 10px; text-align: right; }
th:first-child, td:first-child { text-align: left; } tr { border-bottom: 1px solid #ccc; }
tr.split { font-weight: bold; background: #eee; } img { max-width: 100%; } code { overflow-wrap: anywhere; }
"""
_MEANING = (
    "found, none, several, broken: what MTCNN said (several is part of found). no_landmarks: readable images for which "
    "the chosen source of landmarks has none. whole: of these, used as whole images. dropped: left out."
)


def _html(report: dict[str, Any], index: pd.DataFrame, faces: pd.DataFrame, folder: Path) -> str:
    dataset = escape(str(report["dataset"]))
    policies, evaluation = report["policies"], report["evaluation"]
    code = ", ".join(f"{step} {value}" for step, value in report["code"].items())
    facts = {"archive": report["archive"], "code": code} | policies
    facts |= {
        "test faces": f"{evaluation['images']:,}",
        "test faces, aligned pixels (sha256)": evaluation["sha256"],
        "test faces, source files (sha256)": evaluation["source_sha256"],
    }
    parts = [
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>Faces of {dataset}</title>',
        f"<style>{_STYLE}</style></head><body><h1>Faces of {dataset}</h1>",
        _table([[key, f"<code>{escape(str(value))}</code>"] for key, value in facts.items()]),
        "<p>This page may show faces of real people: it is not for publication.</p>",
        f"<h2>Counts</h2><p>{_MEANING}</p>",
        _count_table(report),
        "<h2>Distributions</h2>",
        _quantile_table(report),
        _image(folder / "distributions.png"),
        *_agreement_section(report["agreement"]),
    ]
    for title, name in (("Random", "montage"), ("Worst", "montage_worst"), ("Rejected", "montage_rejected")):
        parts += [f"<h2>{title}</h2>", _image(folder / f"{name}.png")]
    parts += _broken(index, faces)
    return "\n".join([*parts, "</body></html>"]) + "\n"


def _table(rows: Sequence[Sequence[str]], head: Sequence[str] = ()) -> str:
    """An HTML table; the cells are HTML already."""
    lines = ["<tr>" + "".join(f"<th>{cell}</th>" for cell in head) + "</tr>"] if head else []
    lines += ["<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in rows]
    return "<table>" + "\n".join(lines) + "</table>"


def _count_table(report: dict[str, Any]) -> str:
    rows = [["all", *(f"<b>{report['counts'][name]:,}</b>" for name in COUNTS)]]
    for split, part in report["splits"].items():
        rows.append([f"<b>{escape(split)}</b>", *(f"<b>{part['counts'][name]:,}</b>" for name in COUNTS)])
        rows += [[escape(name), *(f"{c[key]:,}" for key in COUNTS)] for name, c in part["classes"].items()]
    return _table(rows, ["", *COUNTS])


def _quantile_table(report: dict[str, Any]) -> str:
    names = list(report["roll"])
    rows = [[label, *(_number(report[name][q]) for q in names)] for name, label in LABELS.items()]
    return _table(rows, ["percentile", *(name.removeprefix("q").lstrip("0") for name in names)])


def _agreement_section(agreement: dict[str, Any] | None) -> list[str]:
    title = "<h2>MTCNN and the supplied landmarks</h2>"
    if agreement is None:
        return [title, "<p>The dataset supplies no landmarks.</p>"]
    quantiles = {key: value for key, value in agreement.items() if key.startswith("q")}
    above = _number(None if agreement[f"above_{DISAGREEMENT}"] is None else 100 * agreement[f"above_{DISAGREEMENT}"])
    text = (
        f"Mean distance of the five points, in eye distances of the supplied ones, over {agreement['faces']:,} faces "
        f"that have both. Above {DISAGREEMENT}: {above} %."
    )
    head = ["percentile", *(name.removeprefix("q").lstrip("0") for name in quantiles)]
    return [title, f"<p>{text}</p>", _table([["distance", *map(_number, quantiles.values())]], head)]


def _broken(index: pd.DataFrame, faces: pd.DataFrame) -> list[str]:
    rows = np.flatnonzero(faces["status"] == "broken")
    if not len(rows):
        return []
    listed = [[escape(str(index["path"].iloc[i])), escape(str(faces["error"].iloc[i]))] for i in rows[:_LISTED]]
    return [f"<h2>Broken: {len(rows):,} images, the first {len(listed)}</h2>", _table(listed, ["image", "reason"])]


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.4g}"


def _image(path: Path) -> str:
    data = base64.b64encode(path.read_bytes()).decode()
    return f'<p><img alt="{path.stem}" src="data:image/png;base64,{data}"></p>'
