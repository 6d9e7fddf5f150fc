"""The quality report of detection and alignment: counts, measures, and a page to look at."""

import base64
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from PIL import Image

from transfer.faces.align import LANDMARK_COLUMNS, landmarks_of, placements, similarity, template
from transfer.faces.store import digest_test_faces
from transfer.utils.files import write_json, write_text

MEASURES = {
    "probability": "probability (MTCNN)",
    "eye_distance": "eye distance (source pixels)",
    "roll": "roll (degrees, clockwise positive)",
    "yaw_proxy": "yaw proxy (nose off centre, eye distances)",
    "residual": "residual of the fit (eye distances)",
    "scale": "scale (aligned pixels per source pixel)",
}
COUNTS = ["images", "found", "none", "several", "broken", "no_landmarks", "dropped", "whole"]
QUANTILES = (0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99)
DISAGREEMENT = 0.2
"""Eye distances beyond which MTCNN's landmarks count as far from the supplied ones."""
RANDOM, WORST, REJECTED, BROKEN = 64, 16, 48, 20
"""What the page shows at most: random faces, worst faces by each measure, images without landmarks, broken images."""
_SIDE = 224  # pixels of a picture on the page, at most
_SEED = 0

Originals = Callable[[list[int]], dict[int, np.ndarray]]


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
    originals: Originals,
) -> dict[str, Any]:
    """Write faces.json and faces.html, which needs no other file; return the report.

    ``store`` (rows of ``aligned``, size, size, 3) may be a memory map: only the faces shown are read. ``about`` (what
    was aligned and by what: dataset, archive, code digests) comes first in the report. ``originals`` gives the source
    images of some rows of ``index``: those that were dropped, which are not in the store.
    """
    report = about | face_report(index, faces, aligned, policies)
    measures = face_measures(index, faces, policies)
    samples = index["sample"].astype(str).to_numpy()
    kept = index["sample"].isin(aligned["sample"]).to_numpy()
    row_of = np.cumsum(kept) - 1

    def stored(i: int, text: str) -> Tile:
        return Tile(np.asarray(store[row_of[i]]), samples[i], text)

    shown = _choice(np.flatnonzero(kept), RANDOM)
    names = index["class_name"].astype(str).to_numpy()
    lacking = np.flatnonzero(~np.isfinite(measures["roll"]) & (faces["status"] != "broken"))
    rejected = _choice(lacking, REJECTED)
    if policies["no_face"] == "whole":
        tiles = [stored(i, "whole image used") for i in rejected]
    else:
        pictures = originals(rejected) if rejected else {}
        tiles = [Tile(pictures[i], samples[i], "dropped") for i in rejected]
    sections = {
        f"Random faces: {len(shown)} of {kept.sum():,}": [stored(i, names[i]) for i in shown],
        **_worst(stored, kept, measures, disagreement(index, faces)),
        f"Images without landmarks: {len(rejected)} of {len(lacking):,}": tiles,
    }
    write_json(folder / "faces.json", report)
    write_text(folder / "faces.html", _page(report, index, faces, measures, sections))
    return report


def _choice(rows: np.ndarray, n: int) -> list[int]:
    """At most ``n`` random rows, always the same ones."""
    return np.sort(np.random.default_rng(_SEED).choice(rows, min(n, len(rows)), replace=False)).tolist()


def _worst(
    stored: Callable[[int, str], Tile], kept: np.ndarray, measures: pd.DataFrame, distance: np.ndarray | None
) -> dict[str, list[Tile]]:
    """The faces at the bad end of each measure, the worst first; faces of the store only."""
    values = {name: measures[name].to_numpy() for name in measures}
    kinds = [
        ("Lowest probability", values["probability"], -values["probability"], "{:.3f}"),
        ("Largest residual of the fit (eye distances)", values["residual"], values["residual"], "{:.3f}"),
        ("Largest roll (degrees)", values["roll"], np.abs(values["roll"]), "{:+.1f}"),
        ("Smallest eye distance (source pixels)", values["eye_distance"], -values["eye_distance"], "{:.1f}"),
    ]
    if distance is not None:
        kinds.append(("Farthest from the supplied landmarks (eye distances)", distance, distance, "{:.2f}"))
    sections = {}
    for title, shown, badness, form in kinds:
        rows = np.flatnonzero(kept & np.isfinite(badness))
        rows = rows[np.argsort(-badness[rows], kind="stable")][:WORST]
        sections[title] = [stored(i, form.format(shown[i])) for i in rows.tolist()]
    return sections


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
    return {_key(q): round(float(np.quantile(values, q)), 4) if len(values) else None for q in QUANTILES}


def _key(quantile: float) -> str:
    return f"q{quantile * 100:02.0f}"


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


_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Faces of {{ dataset }}</title>
<style>
body { font: 15px/1.5 system-ui, sans-serif; margin: 2em auto; max-width: 980px; padding: 0 1em; color: #1a1a1a; }
h1 { margin-bottom: 0.2em; } h2 { margin: 2em 0 0.4em; border-bottom: 2px solid #1a1a1a; }
p { max-width: 46em; } p.warning { color: #8a1c00; font-weight: 600; }
table { border-collapse: collapse; margin: 0.6em 0 1em; font-variant-numeric: tabular-nums; }
th, td { padding: 3px 12px; text-align: right; } th:first-child, td:first-child { text-align: left; }
td.text, th.text { text-align: left; } thead th { border-bottom: 1px solid #888; }
tbody tr { border-bottom: 1px solid #e4e4e4; } tr.total td { font-weight: 600; background: #f2f2f2; }
td.zero { color: #b0b0b0; } img { max-width: 100%; } code { overflow-wrap: anywhere; font-size: 13px; }
figure { display: inline-block; width: 112px; margin: 0 6px 8px 0; font-size: 12px; line-height: 1.3; }
figure img { width: 112px; height: 112px; object-fit: contain; background: #eee; }
figcaption { overflow: hidden; text-overflow: ellipsis; white-space: nowrap; }
</style>
</head>
<body>
{% macro quantiles(rows) %}
<table>
<thead><tr><th>percentile</th>{% for q in percentiles %}<th>{{ q }}</th>{% endfor %}</tr></thead>
<tbody>
{% for label, values in rows.items() %}
<tr><td>{{ label }}</td>{% for key in keys %}<td>{{ values[key] | number }}</td>{% endfor %}</tr>
{% endfor %}
</tbody>
</table>
{% endmacro %}
{% macro counts(label, values, kind) %}
<tr class="{{ kind }}"><td>{{ label }}</td>{% for name in columns %}
<td{% if not values[name] %} class="zero"{% endif %}>{{ "{:,}".format(values[name]) }}</td>{% endfor %}</tr>
{% endmacro %}
<h1>Faces of {{ dataset }}</h1>
<p class="warning">This page may show faces of real people: do not publish it.</p>
<table>
<tbody>
{% for key, value in facts.items() %}
<tr><td>{{ key }}</td><td class="text"><code>{{ value }}</code></td></tr>
{% endfor %}
</tbody>
</table>
<h2>Counts</h2>
<p>Detection: found, none (no face), several (part of found) and broken images. no_landmarks: readable images without
landmarks of the chosen source; of these, whole were used as whole images. dropped: left out.</p>
<table>
<thead><tr><th></th>{% for name in columns %}<th>{{ name }}</th>{% endfor %}</tr></thead>
<tbody>
{{ counts("all", report.counts, "total") }}
{% for split, part in report.splits.items() %}
{{ counts(split, part.counts, "total") }}
{% for name, values in part.classes.items() %}{{ counts(name, values, "class") }}{% endfor %}
{% endfor %}
</tbody>
</table>
<h2>Distributions</h2>
{{ quantiles(measures) }}
<img alt="Histograms of the measures by split" src="{{ histograms }}">
<h2>Supplied landmarks</h2>
{% if agreement is none %}
<p>The dataset supplies no landmarks.</p>
{% else %}
<p>Mean distance of MTCNN's five points from the supplied ones, in eye distances, over
{{ "{:,}".format(agreement.faces) }} faces that have both; above {{ limit }}: {{ above | number }} %.</p>
{{ quantiles({"distance": agreement}) }}
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
{% if broken.total %}
<h2>Broken images: {{ "{:,}".format(broken.total) }}, the first {{ broken.rows | length }}</h2>
<table>
<thead><tr><th>image</th><th class="text">reason</th></tr></thead>
<tbody>
{% for path, error in broken.rows %}
<tr><td>{{ path }}</td><td class="text">{{ error }}</td></tr>
{% endfor %}
</tbody>
</table>
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
    """The page as html."""
    from jinja2 import Environment

    evaluation, agreement = report["evaluation"], report["agreement"]
    facts = {"archive": report["archive"], "code": ", ".join(f"{step} {code}" for step, code in report["code"].items())}
    facts |= report["policies"]
    facts |= {
        "test faces": f"{evaluation['images']:,}",
        "sha256 of their aligned pixels": evaluation["sha256"],
        "sha256 of their source files": evaluation["source_sha256"],
    }
    above = agreement and agreement[f"above_{DISAGREEMENT}"]
    rows = np.flatnonzero(faces["status"] == "broken")
    listed = zip(index["path"].iloc[rows[:BROKEN]], faces["error"].iloc[rows[:BROKEN]], strict=True)
    jinja = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    jinja.filters["number"] = lambda value: "–" if value is None else f"{value:.4g}"
    return jinja.from_string(_PAGE).render(
        dataset=report["dataset"],
        facts=facts,
        report=report,
        columns=COUNTS,
        measures={label: report[name] for name, label in MEASURES.items()},
        keys=[_key(q) for q in QUANTILES],
        percentiles=[f"{q * 100:.0f}" for q in QUANTILES],
        agreement=agreement,
        limit=DISAGREEMENT,
        above=None if above is None else 100 * above,
        broken={"total": len(rows), "rows": list(listed)},
        histograms=_histograms(measures, index["split"].to_numpy()),
        sections=sections,
        jpeg=_jpeg,
    )


def _jpeg(pixels: np.ndarray) -> str:
    """A picture as a data URL, reduced to ``_SIDE`` pixels."""
    image, file = Image.fromarray(np.ascontiguousarray(pixels)), io.BytesIO()
    image.thumbnail((_SIDE, _SIDE))
    image.save(file, "JPEG", quality=90)
    return f"data:image/jpeg;base64,{base64.b64encode(file.getvalue()).decode()}"


def _histograms(measures: pd.DataFrame, splits: np.ndarray) -> str:
    """A data URL: a histogram per measure, the share of each split's images per bin.

    ``splits`` (N,) names the split of each row of ``measures``. The bins go from the 0.5th to the 99.5th percentile;
    what lies outside is counted in the outermost ones.
    """
    from matplotlib.figure import Figure

    styles: dict[str, dict[str, Any]] = {
        "train": {"histtype": "stepfilled", "color": "0.8"},
        "val": {"histtype": "step", "color": "0.45", "linestyle": "--"},
        "test": {"histtype": "step", "color": "0"},
    }
    figure, handles = Figure(figsize=(10, 5.6), layout="constrained"), {}
    axes = figure.subplots(2, 3)
    for axis, (name, label) in zip(axes.flat, MEASURES.items(), strict=True):
        values = measures[name].to_numpy()
        finite = np.isfinite(values)
        axis.set_xlabel(label, fontsize=9)
        axis.tick_params(labelsize=8)
        if not finite.any():
            axis.text(0.5, 0.5, "no faces", ha="center", transform=axis.transAxes)
            continue
        low, high = np.quantile(values[finite], [0.005, 0.995])
        if low == high:
            low, high = low - 0.5, high + 0.5
        bins = np.linspace(low, high, int(np.clip(np.sqrt(finite.sum()), 10, 50)) + 1)
        for split, style in styles.items():
            part = np.clip(values[finite & (splits == split)], low, high)
            if len(part):
                handles[split] = axis.hist(part, bins, weights=np.full(len(part), 1 / len(part)), **style)[2][0]
    axes[0, 0].set_ylabel("share", fontsize=9)
    axes[1, 0].set_ylabel("share", fontsize=9)
    figure.legend(handles.values(), handles, loc="outside upper right", ncols=3, fontsize=9, frameon=False)
    file = io.BytesIO()
    figure.savefig(file, dpi=110, metadata={"Software": None})
    return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"
