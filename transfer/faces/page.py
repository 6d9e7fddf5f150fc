"""The quality page of a dataset: one HTML file with counts, distributions and faces to look at."""

import base64
from collections.abc import Callable, Sequence
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from transfer.faces.distributions import LABELS, draw_distributions
from transfer.faces.measures import DISAGREEMENT, disagreement, face_measures
from transfer.faces.montage import Tile, montage
from transfer.faces.report import COUNTS, face_report
from transfer.files import write_json, write_text

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
        *_agreement(report["agreement"]),
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


def _agreement(agreement: dict[str, Any] | None) -> list[str]:
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
