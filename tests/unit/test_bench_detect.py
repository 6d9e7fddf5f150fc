import json
import sys
from pathlib import Path

import numpy as np
import pytest

from transfer import cli
from transfer.bench.detect import OURS, SINGLE, agreement, iou
from transfer.faces.detect import Detection
from transfer.faces.mtcnn import Faces

ROOT = Path(__file__).parents[2]


def faces(*boxes, points=0.0):
    return Faces(np.array([[*box, 0.9] for box in boxes], float).reshape(-1, 5), np.full((len(boxes), 5, 2), points))


def test_iou():
    first = np.array([[0, 0, 10, 10], [0, 0, 5, 10.0]])
    second = np.array([[0, 0, 10, 10], [5, 0, 15, 10], [20, 20, 30, 30.0]])
    assert np.allclose(iou(first, second), [[1, 50 / 150, 0], [0.5, 0, 0]])
    assert iou(first[:0], second).shape == (0, 3)


def test_agreement_counts_faces_that_only_one_found_and_leaves_out_the_mirror():
    theirs = [
        faces((0, 0, 100, 100), (200, 200, 250, 250)),  # the second one is missing below
        faces((0, 0, 100, 100)),
        faces(),
        faces(),
    ]
    ours = [
        Detection(faces((0, 0, 100, 100), points=3.0), False),
        Detection(faces((0, 0, 100, 80), points=4.0), False),  # IoU 0.8
        Detection(faces((0, 0, 50, 50)), False),  # found by this one only
        Detection(faces((0, 0, 50, 50)), True),  # found in the mirror image: not compared
    ]
    result = agreement(theirs, ours)
    assert result["faces"] == 4
    assert result["both"] == pytest.approx(2 / 4)
    assert result["equal"] == pytest.approx(1 / 2)
    assert result["median_iou"] == pytest.approx(0.9)
    assert result["smallest_iou"] == pytest.approx(0.8)
    assert result["median_landmark_distance"] == pytest.approx(3.5 * 2**0.5)
    assert agreement([faces()], [Detection(faces(), False)]) == {"faces": 0, "both": 0.0}


def test_the_verb_finds_the_same_faces_in_both(tmp_path, monkeypatch, capsys):
    (tmp_path / "params").mkdir()
    (tmp_path / "params" / "default.yaml").write_bytes((ROOT / "params" / "default.yaml").read_bytes())
    monkeypatch.chdir(tmp_path)

    def transfer(*arguments):
        values = ["--dataset", "demo_rafdb", "--set", "dataset_definitions.demo_rafdb.synthetic_scale=0.1"]
        monkeypatch.setattr(sys, "argv", ["transfer", *arguments, *values])
        with pytest.raises(SystemExit) as end:
            cli.main()
        return end.value.code, *capsys.readouterr()

    bench = ["bench", "detect", "--images", "12", "--rounds", "1", "--set", "faces.threads=1"]
    assert transfer(*bench)[0] == 1  # not drawn yet
    transfer("synthesize")
    code, out, _ = transfer(*bench, "--json")
    result = json.loads(out)
    assert not code
    assert (result["images"], result["cores"], result["agreement"]["both"], result["agreement"]["equal"]) == (
        12,
        1,
        1,
        1,
    )
    assert result["ratio_to_own_batches"][result["own_batches"]] == 1
    assert len(result["images_per_second"]) == 5 and {OURS, SINGLE} <= set(result["images_per_second"])
    assert result["found"][OURS] >= result["found"]["facenet-pytorch"] >= 0.8
    code, out, _ = transfer(*bench)
    assert not code and "image by image" in out and "Agreement" in out
