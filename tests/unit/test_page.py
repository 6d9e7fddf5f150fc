"""The quality page: its files, what they show, and that it needs nothing else."""

import json
import re

import numpy as np
import pandas as pd
import pytest

from transfer.faces import quality as page
from transfer.faces.align import BOX_COLUMNS, LANDMARK_COLUMNS, template
from transfer.faces.quality import write_quality_page

POLICIES = {
    "landmarks": "mtcnn",
    "template": "arcface",
    "size": 112,
    "margin": 0.0,
    "no_face": "whole",
    "broken": "drop",
}
ABOUT = {"dataset": "faces<1>", "archive": "faces.zip", "code": {"detect": "d1", "align": "a1"}}


@pytest.fixture
def dataset():
    """Forty images; every fifth without a face, the last one broken."""
    n = 40
    rng = np.random.default_rng(0)
    points = template(112) * rng.uniform(0.5, 2, (n, 1, 1)) + rng.normal(0, 2, (n, 5, 2))
    points[::5] = np.nan
    points[-1] = np.nan
    status = np.where(np.isfinite(points[:, 0, 0]), "found", "none").astype(object)
    status[-1] = "broken"
    index = pd.DataFrame(
        {
            "sample": [f"s{i:02}" for i in range(n)],
            "path": [f"{i}.png" for i in range(n)],
            "split": np.where(np.arange(n) % 2, "train", "test"),
            "label": np.arange(n) % 4 // 2,
            "class_name": np.where(np.arange(n) % 4 < 2, "happy & glad", "sad"),
        }
    )
    faces = pd.DataFrame(points.reshape(n, 10), columns=LANDMARK_COLUMNS)
    faces[BOX_COLUMNS] = [10.0, 10, 90, 90]
    faces["status"], faces["n_faces"], faces["error"] = status, (status == "found").astype(int), ""
    faces["probability"] = np.where(status == "found", rng.uniform(0.9, 1, n), np.nan)
    faces["width"] = faces["height"] = 120
    faces.loc[n - 1, "error"] = "cut <off>"
    return index, faces


def write(folder, dataset, **changes):
    index, faces = dataset
    policies = POLICIES | changes
    kept = faces["status"] == "found" if policies["no_face"] == "drop" else faces["status"] != "broken"
    aligned = index[kept].reset_index(drop=True).assign(sha256="0", source_sha256="1")
    store = np.zeros((len(aligned), 112, 112, 3), np.uint8)
    store[:] = np.flatnonzero(kept)[:, None, None, None]  # a face is as bright as its row in the index
    asked = []

    def originals(rows):
        asked.extend(rows)
        return {row: np.full((60, 120, 3), 200, np.uint8) for row in rows}

    report = write_quality_page(folder, index, faces, aligned, store, policies, ABOUT, originals)
    return report, asked


def shown(monkeypatch):
    """Record what each montage shows: file name to titles and (sample, value, brightness)."""
    seen = {}

    def record(path, sections):
        seen[path.name] = {
            title: [(*tile.caption, int(tile.pixels[0, 0, 0])) for tile in tiles] for title, tiles in sections
        }
        path.write_bytes(b"png")

    monkeypatch.setattr(page, "montage", record)
    return seen


def test_files(tmp_path, dataset):
    report, asked = write(tmp_path, dataset)
    pictures = ["distributions.png", "montage.png", "montage_rejected.png", "montage_worst.png"]
    assert sorted(file.name for file in tmp_path.iterdir()) == [
        *pictures[:1],
        "faces.html",
        "faces.json",
        *pictures[1:],
    ]
    assert json.loads((tmp_path / "faces.json").read_text()) == report
    assert list(report)[:3] == ["dataset", "archive", "code"]
    assert report["counts"]["whole"] == 8 and asked == []
    before = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
    write(tmp_path, dataset)
    assert before == {file.name: file.read_bytes() for file in tmp_path.iterdir()}


def test_the_page_stands_alone_and_is_html(tmp_path, dataset):
    write(tmp_path, dataset)
    html = (tmp_path / "faces.html").read_text()
    assert set(re.findall(r'src="([^,"]*)', html)) == {"data:image/png;base64"}
    assert html.count("<img") == 4 and "http" not in html and "<script" not in html
    for text in ("faces&lt;1&gt;", "happy &amp; glad", "cut &lt;off&gt;", "39.png", "faces.zip", "d1", "a1", "arcface"):
        assert text in html, text
    for tag in ("table", "tr", "td", "th", "p", "h2", "html", "body"):
        assert html.count(f"<{tag}>") + html.count(f"<{tag} ") == html.count(f"</{tag}>"), tag


def test_random_faces_belong_to_their_names(tmp_path, dataset, monkeypatch):
    seen = shown(monkeypatch)
    write(tmp_path, dataset, no_face="drop")
    ((title, tiles),) = seen["montage.png"].items()
    assert title == "31 of 31 faces, drawn at random"
    assert all(int(sample[1:]) == brightness for sample, _, brightness in tiles)


def test_the_worst_come_first(tmp_path, dataset, monkeypatch):
    seen = shown(monkeypatch)
    index, faces = dataset
    write(tmp_path, dataset)
    lowest = seen["montage_worst.png"]["lowest probability"]
    order = faces["probability"].sort_values().index[: page.WORST]
    assert [sample for sample, _, _ in lowest] == index.loc[order, "sample"].tolist()
    assert lowest[0][1] == f"{faces['probability'].min():.3f}" and lowest[0][2] == order[0]
    rolls = [float(value) for _, value, _ in seen["montage_worst.png"]["largest roll (degrees)"]]
    assert [abs(roll) for roll in rolls] == sorted((abs(roll) for roll in rolls), reverse=True) and min(rolls) < 0
    assert len(seen["montage_worst.png"]) == 4


def test_disagreement_with_supplied_landmarks_is_shown(tmp_path, dataset, monkeypatch):
    seen = shown(monkeypatch)
    index, faces = dataset
    supplied = faces[LANDMARK_COLUMNS].copy()
    supplied.loc[7] += 100
    write(tmp_path, (pd.concat([index, supplied], axis=1), faces))
    title = "MTCNN farthest from the supplied landmarks (eye distances)"
    assert seen["montage_worst.png"][title][0][0] == "s07"


@pytest.mark.parametrize(
    ("policy", "text", "brightness"), [("whole", "whole image used", None), ("drop", "dropped", 200)]
)
def test_rejected_images_are_shown_as_they_are_used(tmp_path, dataset, monkeypatch, policy, text, brightness):
    seen = shown(monkeypatch)
    _, asked = write(tmp_path, dataset, no_face=policy)
    rows = list(range(0, 39, 5))
    expected = [(f"s{row:02}", text, row if brightness is None else brightness) for row in rows]
    assert seen["montage_rejected.png"] == {"images without landmarks": expected}
    assert asked == ([] if policy == "whole" else rows)


def test_only_the_shown_images_are_asked_for(tmp_path, dataset, monkeypatch):
    monkeypatch.setattr(page, "REJECTED", 3)
    _, asked = write(tmp_path, dataset, no_face="drop")
    assert len(asked) == 3


def test_no_face_at_all(tmp_path, dataset):
    index, faces = dataset
    faces[[*LANDMARK_COLUMNS, "probability"]] = np.nan
    faces["status"] = "none"
    report, _ = write(tmp_path, (index, faces), template="none")
    assert report["counts"]["whole"] == 40
    assert report["scale"]["q50"] == pytest.approx(112 / 120, abs=1e-4)
