"""Supplied landmarks in another frame than their images: from a small AffectNet to aligned faces, by the verbs."""

import csv
import io
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from transfer.datasets.affectnet import CLASSES
from transfer.datasets.synthetic.render import Style, render_face

SIDE = 120
HEADER = ["subDirectory_filePath", "face_x", "face_y", "face_width", "face_height", "facial_landmarks"]
HEADER += ["expression", "valence", "arousal"]
ROOT = Path(__file__).parents[2]
PARAMS = """
experiment: small
raw_dir: raw
datasets: [d]
dataset_definitions:
  d: {parser: affectnet, archive: affectnet, options: {classes: 8}, faces: {landmarks: supplied}}
"""

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def faces():
    """A drawn face per class and split, with its 68 true points."""
    style = Style(noise=2.0)
    return [render_face(np.random.default_rng(i), "happiness", 0.6, SIDE, style) for i in range(2 * len(CLASSES))]


@pytest.fixture
def faces_of(faces, tmp_path, monkeypatch, transfer):
    """Write the dataset, each image and its points through ``change``; run index and detect, and return align."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "params").mkdir()
    shutil.copy(ROOT / "params/default.yaml", "params")
    root = tmp_path / "raw/affectnet"

    def make(change):
        for split, name in enumerate(("training.csv", "validation.csv")):
            rows = []
            for label in range(len(CLASSES)):
                face = faces[split * len(CLASSES) + label]
                image, points, options = change(Image.fromarray(face.image), face.points.copy())
                path, file = f"0/{split}{label}.jpg", io.BytesIO()
                image.save(file, "JPEG", quality=95, **options)
                folder = root / "Manually_Annotated_Images/0"
                folder.mkdir(parents=True, exist_ok=True)
                (folder / f"{split}{label}.jpg").write_bytes(file.getvalue())
                points = ";".join(f"{value:.2f}" for value in points.ravel())
                rows.append([path, 0, 0, SIDE, SIDE, points, label, 0, 0])
            with open(root / name, "w", newline="") as handle:
                csv.writer(handle).writerows([HEADER, *rows])
        (tmp_path / "small.yaml").write_text(PARAMS)
        for verb in ("index", "detect"):
            assert transfer(verb, "--params", "small.yaml", "--dataset", "d")[0] == 0

    def align(*settings):
        options = [option for value in settings for option in ("--set", f"dataset_definitions.d.faces.{value}")]
        arguments = ["--params", "small.yaml", "--dataset", "d", *options]
        code, _, err = transfer("align", *arguments)
        if code:
            return err
        assert transfer("inspect", *arguments)[0] == 0
        data = tmp_path / "results/small/data/d"
        return np.load(data / "aligned.npy"), json.loads((data / "faces.json").read_text())

    return lambda change: (make(change), align)[1]


def test_images_turned_by_exif(faces_of):
    straight, report = faces_of(lambda image, points: (image, points, {}))()
    assert report["counts"]["misplaced"] == report["counts"]["whole"] == report["counts"]["half_outside"] == 0
    assert report["agreement"]["above_0.2"] < 0.2

    def turn(image, points):
        exif = Image.Exif()
        exif[0x0112] = 6
        return image.rotate(90, expand=True), np.stack([points[:, 1], SIDE - 1 - points[:, 0]], axis=1), {"exif": exif}

    align = faces_of(turn)
    assert (
        "16 images are turned by their EXIF mark, first Manually_Annotated_Images/0/00.jpg; set faces: {frame:"
        in align()
    )
    stored, report = align("frame=stored")
    assert np.abs(stored.astype(int) - straight).mean() < 3, "upright, as those that nothing turned"
    assert report["policies"]["frame"] == "stored" and report["agreement"]["above_0.2"] < 0.2
    assert "16 supplied landmarks are misplaced" in align("frame=upright")


def test_landmarks_of_another_resolution(faces_of):
    align = faces_of(lambda image, points: (image, points + 600, {}))
    assert "16 of 16 supplied landmarks are misplaced (16 outside the image" in align()
    whole, report = align("misplaced=no_face")
    assert report["counts"]["misplaced"] == report["counts"]["whole"] == 16
    assert (whole.reshape(16, -1).std(axis=1) > 10).all(), "no face is black"


def test_landmarks_of_a_smaller_copy(faces_of):
    align = faces_of(lambda image, points: (image, points / 2, {}))
    assert "supplied landmarks are misplaced (0 outside the image" in align()
