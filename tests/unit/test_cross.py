"""A run on another dataset's test faces: classes by name, which faces count, and which pairs are refused."""

import hashlib

import numpy as np
import pandas as pd
import pytest
from finished_runs import CLASSES, params_of_two

from transfer.evaluation.cross import evaluate_cross
from transfer.params import read as config
from transfer.runs.evaluations import cross_accuracy, read_evaluation
from transfer.runs.predictions import probabilities_of
from transfer.utils.errors import UserError

pytestmark = pytest.mark.usefixtures("one_thread")


def evaluated(layout, recipe="full", **changes):
    return evaluate_cross(params_of_two(**changes), layout, "faces", recipe, 0, ["others"])["others"]


def refused(layout, **changes):
    with pytest.raises(UserError) as caught:
        evaluated(layout, **changes)
    assert "\n" not in str(caught.value)
    assert not (layout.root / "evaluations").exists()
    return str(caught.value)


def test_the_frame(layout):
    frame = evaluated(layout)
    fixed = ["sample", "label", "protocol", "epoch", "test_dataset", "class_name", "test_label", "in_own_test"]
    assert frame.columns.tolist() == [*fixed, *(f"p_{name}" for name in CLASSES)]
    manifest = pd.read_parquet(layout.data("others") / "aligned.parquet")
    known = manifest[manifest["class_name"] != "contempt"]
    assert frame["sample"].tolist() == known["sample"].tolist() and len(known) == 7
    assert frame["class_name"].tolist() == known["class_name"].tolist()
    assert [CLASSES[label] for label in frame["label"]] == known["class_name"].tolist()
    assert frame["test_label"].tolist() == known["label"].tolist() and set(known["label"]) == {0, 2}
    assert not frame["in_own_test"].any() and set(frame["test_dataset"]) == {"others"}
    assert frame.attrs == {"left_out": {"contempt": 3}}
    read = read_evaluation(
        layout.evaluation("cross", "faces", "full", 0) / "others.parquet", layout.run("faces", "full", 0)
    )
    pd.testing.assert_frame_equal(read, frame, check_dtype=False)
    assert read.attrs["left_out"] == {"contempt": 3} and read.attrs["dataset"] == "faces"


def test_the_same_picture_has_the_same_probabilities_there(layout):
    frame = evaluated(layout)
    kept = pd.read_parquet(layout.run("faces", "full", 0) / "predictions.parquet")
    kept = kept.query("split == 'test' and protocol == 'val_selected'").set_index("sample")
    own = kept.loc[frame["sample"].str.replace("other", "face")]
    assert np.allclose(probabilities_of(frame), probabilities_of(own), atol=1e-5)
    assert frame["label"].tolist() == own["label"].tolist()


def test_faces_of_another_size_are_shown_at_the_networks(layout):
    data = layout.data("others")
    pixels = np.load(data / "aligned.npy").repeat(2, axis=1).repeat(2, axis=2)
    before = probabilities_of(evaluated(layout))
    np.save(data / "aligned.npy", pixels)
    manifest = pd.read_parquet(data / "aligned.parquet")
    manifest["sha256"] = [hashlib.sha256(face.tobytes()).hexdigest() for face in pixels]
    manifest.to_parquet(data / "aligned.parquet", index=False)
    after = probabilities_of(evaluated(layout))
    assert after.shape == before.shape and abs(after - before).max() < 0.2


def renamed(layout, split):
    """Give the first test face of the other dataset the name of a face of the first in ``split``."""
    own = pd.read_parquet(layout.data("faces") / "split.parquet")
    name = own.loc[own["split"] == split, "sample"].iloc[0]
    for file in ("aligned.parquet", "split.parquet"):
        table = pd.read_parquet(layout.data("others") / file)
        table.loc[0, "sample"] = name
        table.to_parquet(layout.data("others") / file, index=False)
    return name


ONE_ARCHIVE = {
    "dataset_definitions": {
        "faces": {"parser": "rafdb", "archive": "one.tar.gz"},
        "others": {"parser": "rafdb", "archive": "one", "options": {"images": "aligned"}},
    }
}


@pytest.mark.parametrize("split", ["train", "val"])
def test_faces_that_the_training_has_seen_are_refused(layout, split):
    name = renamed(layout, split)
    message = refused(layout, **ONE_ARCHIVE)
    assert f"1 of the 10 test faces of others (first {name}) are among those that faces is trained and" in message
    assert len(evaluated(layout)) > 0, "another archive may use the same names"


def test_faces_of_its_own_test_part_are_marked(layout):
    name = renamed(layout, "test")
    frame = evaluated(layout, **ONE_ARCHIVE)
    assert frame.loc[frame["in_own_test"], "sample"].tolist() == [name]
    assert not evaluated(layout)["in_own_test"].any()


def test_no_class_in_common(layout):
    manifest = pd.read_parquet(layout.data("others") / "aligned.parquet")
    manifest["class_name"] = "no " + manifest["class_name"]
    manifest.to_parquet(layout.data("others") / "aligned.parquet", index=False)
    said = "faces and others have no class in common: happy, sad, neutral against no neutral, no contempt, no happy"
    assert refused(layout) == said


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("data/others/aligned.npy", "missing; run: snakemake --cores all"),
        ("data/others/aligned.parquet", "missing; run: snakemake --cores all"),
        ("data/faces/split.parquet", "missing; run: snakemake --cores all"),
        ("runs/faces/full/seed0/model.safetensors", "missing; expected the weights of a finished run"),
    ],
)
def test_a_missing_file(layout, name, said):
    (layout.root / name).unlink()
    assert f"{name}: {said}" in refused(layout)


def test_accuracy_by_hand():
    """Three classes, of which the test set has the first and the last."""
    frame = pd.DataFrame(
        {
            "label": [0, 0, 0, 2],
            "p_a": [0.5, 0.3, 0.1, 0.1],
            "p_b": [0.2, 0.6, 0.2, 0.5],
            "p_c": [0.3, 0.1, 0.7, 0.4],
        }
    )
    found = cross_accuracy(frame)
    assert found == {
        "n": 4,
        "common_classes": 2,
        "accuracy": 0.75,  # without b: a, a, c, c
        "mean_class_accuracy": pytest.approx((2 / 3 + 1) / 2),
        "all_classes_accuracy": 0.25,  # a, b, c, b
        "all_classes_mean_class_accuracy": pytest.approx((1 / 3 + 0) / 2),
    }


def test_the_verb(layout, transfer, monkeypatch):
    monkeypatch.chdir(layout.results.parent)
    config.snapshot(params_of_two(), layout.results.parent / "params.yaml")
    config.snapshot(params_of_two(datasets=["faces"]), layout.results.parent / "alone.yaml")
    verb = ("cross", "--dataset", "faces", "--recipe", "full", "--seed", "0", "--params")
    code, out, _ = transfer(*verb, "params.yaml")
    assert code == 0 and out.startswith("faces on others: ") and out.endswith("% of 7, 3 of contempt left out\n")
    for arguments, said in (
        (["params.yaml", "--on", "faces"], "--on faces: not another dataset of experiment tiny; allowed: others"),
        (["alone.yaml"], "experiment tiny has no other dataset than faces; add one to datasets"),
    ):
        code, out, err = transfer(*verb, *arguments)
        assert (code, out, err) == (1, "", f"error: {said}\n")
