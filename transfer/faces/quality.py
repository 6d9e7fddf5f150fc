"""The quality report of detection and alignment: counts, measures, and a page to look at."""

import base64
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from PIL import Image

from transfer.faces.align import (
    DISAGREEMENT,
    LANDMARK_COLUMNS,
    disagreement,
    landmarks_of,
    landmarks_to_use,
    placements,
    share_inside,
    similarity,
    template,
)
from transfer.faces.store import digest_test_faces
from transfer.params import SPLITS
from transfer.utils.files import write_json, write_text

MEASURES = {
    "probability": "probability (MTCNN)",
    "eye_distance": "eye distance (source pixels)",
    "roll": "roll (degrees, clockwise positive)",
    "yaw_proxy": "yaw proxy (nose off centre, eye distances)",
    "residual": "residual of the fit (eye distances)",
    "scale": "scale (aligned pixels per source pixel)",
}
QUANTILES = {"q01": 0.01, "q05": 0.05, "q25": 0.25, "q50": 0.5, "q75": 0.75, "q95": 0.95, "q99": 0.99}
RANDOM, WORST, REJECTED, BROKEN = 64, 16, 48, 20
"""What the page shows at most: random faces, worst faces by each measure, images without landmarks, broken images."""
_SIDE = 224  # pixels of a picture on the page, at most
_SEED = 0


class Tile(NamedTuple):
    """A picture (H, W, 3) uint8 of the page with its caption."""

    pixels: np.ndarray
    sample: str
    text: str


def write_quality_page(
    folder: Path,
    index: pd.DataFrame,
    faces: pd.DataFrame,
    aligned: pd.DataFrame,
    store: np.ndarray,
    policies: dict[str, Any],
    about: dict[str, Any],
    originals: Callable[[list[int]], dict[int, np.ndarray]],
) -> dict[str, Any]:
    """Write faces.json and faces.html, which needs no other file; return the report.

    ``store`` (rows of ``aligned``, size, size, 3) may be a memory map. ``about`` (dataset, archive, code digests) comes
    first in the report. ``originals`` gives the source images of rows of ``index`` that are not in the store.
    """
    report = about | face_report(index, faces, aligned, policies)
    measures = face_measures(index, faces, policies)
    samples, names = index["sample"].astype(str).to_numpy(), index["class_name"].astype(str).to_numpy()
    kept = index["sample"].isin(aligned["sample"]).to_numpy()
    row_of = np.cumsum(kept) - 1

    def stored(i: int, text: str) -> Tile:
        return Tile(np.asarray(store[row_of[i]]), samples[i], text)

    shown = _choice(np.flatnonzero(kept), RANDOM)
    sections = {f"Random faces: {len(shown)} of {kept.sum():,}": [stored(i, names[i]) for i in shown]}
    # The faces at the bad end of each measure, the worst first.
    probability, eyes, roll, _, residual, _ = measures[list(MEASURES)].to_numpy().T
    kinds = [
        ("Lowest probability", probability, -probability, "{:.3f}"),
        ("Largest residual of the fit (eye distances)", residual, residual, "{:.3f}"),
        ("Largest roll (degrees)", roll, np.abs(roll), "{:+.1f}"),
        ("Smallest eye distance (source pixels)", eyes, -eyes, "{:.1f}"),
    ]
    distance = _distance_from_supplied(index, faces, policies)
    if distance is not None:
        kinds.append(("Farthest from the supplied landmarks (eye distances)", distance, distance, "{:.2f}"))
    for title, values, badness, form in kinds:
        rows = np.flatnonzero(kept & np.isfinite(badness))
        worst = rows[np.argsort(-badness[rows], kind="stable")][:WORST]
        sections[title] = [stored(i, form.format(values[i])) for i in worst.tolist()]
    lacking = np.flatnonzero(~np.isfinite(roll) & (faces["status"] != "broken"))
    rejected = _choice(lacking, REJECTED)
    if policies["no_face"] == "whole":
        tiles = [stored(i, "whole image used") for i in rejected]
    else:
        pictures = originals(rejected) if rejected else {}
        tiles = [Tile(pictures[i], samples[i], "dropped") for i in rejected]
    sections[f"Images without landmarks: {len(rejected)} of {len(lacking):,}"] = tiles
    write_json(folder / "faces.json", report)
    write_text(folder / "faces.html", _page(report, index, faces, measures, sections))
    return report


def _choice(rows: np.ndarray, n: int) -> list[int]:
    """At most ``n`` random rows, always the same ones."""
    return np.sort(np.random.default_rng(_SEED).choice(rows, min(n, len(rows)), replace=False)).tolist()


def face_report(
    index: pd.DataFrame, faces: pd.DataFrame, aligned: pd.DataFrame, policies: dict[str, Any]
) -> dict[str, Any]:
    """Counts per split and class and the distributions of the measures, as a JSON-ready dictionary.

    ``index`` and ``faces`` have the same rows; ``aligned`` is the manifest of the rows that were kept; ``policies``
    holds landmarks, template, size, margin, no_face and broken. The counts are explained on the page; quantiles are
    null where no face was found. agreement: quantiles of MTCNN's distance from the supplied landmarks and the share of
    faces above 0.2 eye distances, null where none are supplied. evaluation: number and digests of the test faces.
    """
    points = landmarks_to_use(index, faces, *_selection(policies))
    lacking = ~np.isfinite(points).all(axis=(1, 2))
    given = np.isfinite(landmarks_of(index, faces, policies["landmarks"])).all(axis=(1, 2))
    inside = share_inside(_matrices(points, faces, policies), faces, policies["size"])
    kept = index["sample"].isin(aligned["sample"]).to_numpy()
    broken = (faces["status"] == "broken").to_numpy()
    flags = pd.DataFrame(
        {
            "images": True,
            **{status: (faces["status"] == status).to_numpy() for status in ("found", "none")},
            "several": (faces["n_faces"] > 1).to_numpy(),
            "broken": broken,
            "misplaced": lacking & given & ~broken,
            "no_landmarks": lacking & ~broken,
            "dropped": ~kept,
            "whole": kept & lacking,
            "half_outside": kept & (inside < 0.5),
        },
        index=pd.MultiIndex.from_frame(index[["split", "class_name"]]),
    )
    splits = {
        split: {
            "counts": part.sum().to_dict(),
            "classes": {name: rows.sum().to_dict() for name, rows in part.groupby(level="class_name", sort=False)},
        }
        for split, part in flags.groupby(level="split", sort=False)
    }
    measures, distance = face_measures(index, faces, policies), _distance_from_supplied(index, faces, policies)
    agreement: dict[str, Any] | None = None
    if distance is not None:
        distance = distance[np.isfinite(distance)]
        above = round(float((distance > DISAGREEMENT).mean()), 4) if len(distance) else None
        agreement = {"faces": len(distance), f"above_{DISAGREEMENT}": above, **_quantiles(distance)}
    return {
        "policies": policies,
        "counts": flags.sum().to_dict(),
        "splits": splits,
        **{name: _quantiles(measures[name].to_numpy()) for name in MEASURES},
        "agreement": agreement,
        "evaluation": digest_test_faces(aligned),
    }


def _quantiles(values: np.ndarray) -> dict[str, float | None]:
    values = values[np.isfinite(values)]
    return {key: round(float(np.quantile(values, q)), 4) if len(values) else None for key, q in QUANTILES.items()}


def face_measures(index: pd.DataFrame, faces: pd.DataFrame, policies: dict[str, Any]) -> pd.DataFrame:
    """The ``MEASURES`` of each image, NaN where they do not apply; rows as in ``index`` and ``faces``.

    probability is MTCNN's, whichever landmarks are used. yaw_proxy is how far the nose is from the middle of the eyes
    along their line, positive to the right; no angle, since it depends on the face too. residual is the root mean
    square distance of the landmarks from the fitted template (ArcFace's where the template is a box or none).
    """
    kind, size = policies["template"], policies["size"]
    points = landmarks_to_use(index, faces, *_selection(policies))
    eyes = points[:, 1] - points[:, 0]
    distance = np.hypot(eyes[:, 0], eyes[:, 1])
    nose = points[:, 2] - (points[:, 0] + points[:, 1]) / 2
    target = template(1, 0.0, kind)
    fit = similarity(points, target)
    error = np.einsum("nij,nkj->nki", fit[:, :, :2], points) + fit[:, None, :, 2] - target
    matrices = _matrices(points, faces, policies)
    scale = np.hypot(matrices[:, 0, 0], matrices[:, 1, 0])
    whole = size / faces[["width", "height"]].min(axis=1).replace(0, np.nan).to_numpy(np.float64)
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


def _selection(policies: dict[str, Any]) -> tuple[str, str | None, str]:
    return policies["landmarks"], policies["frame"], policies["misplaced"]


def _matrices(points: np.ndarray, faces: pd.DataFrame, policies: dict[str, Any]) -> np.ndarray:
    return placements(points, faces, policies["template"], policies["size"], policies["margin"])


def _distance_from_supplied(index: pd.DataFrame, faces: pd.DataFrame, policies: dict[str, Any]) -> np.ndarray | None:
    """MTCNN's `disagreement` with the supplied landmarks; None where the dataset supplies none at all."""
    if not set(LANDMARK_COLUMNS) <= set(index.columns):
        return None
    return disagreement(landmarks_of(index, faces, "supplied", policies["frame"]), faces)


_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Faces of {{ report.dataset }}</title>
<style>
body { font: 15px/1.5 system-ui, sans-serif; margin: 2em auto; max-width: 980px; padding: 0 1em; color: #1a1a1a; }
h2 { margin: 2em 0 0.4em; border-bottom: 2px solid #1a1a1a; }
p { max-width: 46em; } p.warning { color: #8a1c00; font-weight: 600; }
table { border-collapse: collapse; margin: 0.6em 0 1em; font-variant-numeric: tabular-nums; }
th, td { padding: 3px 12px; text-align: right; overflow-wrap: anywhere; } tbody th, td.text { text-align: left; }
tbody tr { border-bottom: 1px solid #e4e4e4; } img { max-width: 100%; }
figure { display: inline-block; width: 112px; margin: 0 6px 8px 0; font-size: 12px; line-height: 1.3; }
figure img { width: 112px; height: 112px; object-fit: contain; background: #eee; }
figcaption { overflow: hidden; text-overflow: ellipsis; white-space: nowrap; }
</style>
</head>
<body>
<h1>Faces of {{ report.dataset }}</h1>
<p class="warning">This page may show faces of real people: do not publish it.</p>
{{ facts }}
<h2>Counts</h2>
<p>Detection: found, none (no face), several (part of found) and broken images. no_landmarks: readable images without
landmarks of the chosen source, those that are misplaced among them; of these, whole were used as whole images. dropped:
left out. half_outside: less than half of the aligned face lies inside the image.</p>
{{ counts }}
<h2>Distributions</h2>
{{ quantiles }}
<img alt="Histograms of the measures by split" src="{{ histograms }}">
<h2>Supplied landmarks</h2>
{% if report.agreement is none %}
<p>The dataset supplies no landmarks.</p>
{% else %}
<p>Mean distance of MTCNN's five points from the supplied ones, in eye distances, over
{{ "{:,}".format(report.agreement.faces) }} faces that have both; above_{{ limit }} is the share above {{ limit }}.</p>
{{ agreement }}
{% endif %}
{% for title, tiles in sections.items() %}
<h2>{{ title }}</h2>
{% for tile in tiles %}
<figure><img alt="" src="{{ jpeg(tile.pixels) }}"><figcaption title="{{ tile.sample }}">
{{- tile.sample }}<br>{{ tile.text }}</figcaption></figure>
{% else %}
<p>none</p>
{% endfor %}
{% endfor %}
{% if broken %}
<h2>{{ broken_title }}</h2>
{{ broken }}
{% endif %}
</body>
</html>
"""


def _page(
    report: dict[str, Any],
    index: pd.DataFrame,
    faces: pd.DataFrame,
    measures: pd.DataFrame,
    sections: dict[str, list[Tile]],
) -> str:
    from jinja2 import Environment
    from markupsafe import Markup

    def table(rows: dict[Any, Any], form: str = "{}", **options: Any) -> Markup:
        cells = pd.DataFrame(rows).T.map(lambda value: "–" if value is None else form.format(value))
        return Markup(cells.to_html(border=0, **options))

    evaluation, agreement = report["evaluation"], report["agreement"]
    facts = {"archive": report["archive"], "code": ", ".join(f"{step} {code}" for step, code in report["code"].items())}
    facts |= report["policies"]
    facts |= {
        "test faces": f"{evaluation['images']:,}",
        "sha256 of their aligned pixels": evaluation["sha256"],
        "sha256 of their source files": evaluation["source_sha256"],
    }
    counts = {("all", ""): report["counts"]}
    for split, part in report["splits"].items():
        counts |= {(split, "all"): part["counts"]} | {(split, name): row for name, row in part["classes"].items()}
    lost = faces["status"] == "broken"
    reasons = dict(zip(index.loc[lost, "path"], faces.loc[lost, "error"], strict=True))
    listed = {path: {"reason": reasons[path]} for path in list(reasons)[:BROKEN]}
    far = {name: value for name, value in (agreement or {}).items() if name != "faces"}
    with pd.option_context("display.max_colwidth", None):
        tables = {
            "facts": table({key: {"": value} for key, value in facts.items()}, header=False),
            "counts": table(counts, "{:,}"),
            "quantiles": table({label: report[name] for name, label in MEASURES.items()}, "{:.4g}"),
            "agreement": table({"distance": far}, "{:.4g}"),
            "broken": table(listed) if listed else "",
        }
    return (
        Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
        .from_string(_PAGE)
        .render(
            **tables,
            report=report,
            limit=DISAGREEMENT,
            broken_title=f"Broken images: {len(reasons):,}, the first {len(listed)}",
            histograms=_histograms(measures, index["split"].to_numpy()),
            sections=sections,
            jpeg=_jpeg,
        )
    )


def _jpeg(pixels: np.ndarray) -> str:
    image, file = Image.fromarray(np.ascontiguousarray(pixels)), io.BytesIO()
    image.thumbnail((_SIDE, _SIDE))
    image.save(file, "JPEG", quality=90)
    return f"data:image/jpeg;base64,{base64.b64encode(file.getvalue()).decode()}"


def _histograms(measures: pd.DataFrame, splits: np.ndarray) -> str:
    """A histogram per measure, the share of each split's images per bin; the outermost bins hold what lies outside."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 5.6), layout="constrained")
    for axis, (name, label) in zip(figure.subplots(2, 3).flat, MEASURES.items(), strict=True):
        values = measures[name].clip(*measures[name].quantile([0.005, 0.995]))
        parts = [values[splits == split].dropna() for split in SPLITS]
        shares = [np.full(len(part), 1 / max(len(part), 1)) for part in parts]
        axis.hist(parts, 30, weights=shares, histtype="step", color=["0.7", "tab:orange", "k"], label=SPLITS)
        axis.set_xlabel(label, fontsize=9)
        axis.tick_params(labelsize=8)
    figure.supylabel("share of images", fontsize=9)
    figure.legend(*axis.get_legend_handles_labels(), loc="outside upper right", ncols=3, fontsize=9, frameon=False)
    file = io.BytesIO()
    figure.savefig(file, dpi=110, metadata={"Software": None})
    return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"
