"""Accuracy by gender, race and age on hand-made predictions, and of a drawn archive."""

import numpy as np
import pandas as pd
import pytest

from transfer.datasets import registry
from transfer.datasets.archives import open_source
from transfer.datasets.synthetic.archives import CLASSES, write_archive
from transfer.runs.predictions import predictions_frame
from transfer.tables.kinds.subgroups import LEAST, largest_gaps, subgroups


def predictions(labels, predicted):
    names = [f"f{i}" for i in range(len(labels))]
    faces = {"split": "test", "protocol": "last", "epoch": 1}
    return predictions_frame(names, labels, np.eye(3)[predicted], ["x", "y", "z"], **faces)


def index(gender, race=0, age=0):
    codes = {"gender": gender, "race": race, "age": age}
    table = pd.DataFrame({"sample": [f"f{i}" for i in range(len(gender))]} | codes)
    table = table.astype(dict.fromkeys(codes, "Int64"))
    rest = pd.DataFrame({"sample": [f"f{i}" for i in range(100, 120)], "gender": 1, "race": 2, "age": 4})
    return pd.concat([rest, table.iloc[::-1]], ignore_index=True)


def test_groups_by_hand():
    frame = predictions([0, 0, 1, 1, 2, 2], [0, 1, 1, 1, 0, 2])
    groups = subgroups(frame, index([0, 0, 0, 1, 1, None], race=[2, 2, 2, 2, 2, 2], age=[4, 3, 3, 3, 3, 3]))
    assert groups.columns.tolist() == ["attribute", "group", "n", "accuracy", "mean_class_accuracy"]
    assert groups.to_numpy().tolist() == [
        ["gender", "male", 3, pytest.approx(2 / 3), 0.75],  # x right, x wrong, y right
        ["gender", "female", 2, 0.5, 0.5],  # y right, z wrong; one face is not annotated
        ["race", "Asian", 6, pytest.approx(4 / 6), pytest.approx((0.5 + 1 + 0.5) / 3)],
        ["age", "40-69", 5, 0.6, pytest.approx((0 + 1 + 0.5) / 3)],
        ["age", "70+", 1, 1, 1],
    ]


def table(rows):
    return pd.DataFrame(rows, columns=["attribute", "group", "n", "accuracy", "mean_class_accuracy"])


def test_the_largest_gap():
    groups = table(
        [
            ("gender", "male", 100, 0.8, 0.5),
            ("gender", "female", LEAST, 0.9, 0.45),
            ("gender", "unsure", 50, 0.1, 0.1),
            ("race", "Asian", 40, 0.5, 0.5),
            ("race", "Caucasian", LEAST - 1, 0.1, 0.1),
            ("age", "0-3", 40, 0.6, 0.6),
            ("age", "4-19", 40, 0.7, 0.6),
            ("age", "70+", 40, 0.4, 0.6),
        ]
    )
    assert largest_gaps(groups) == {"gender": pytest.approx(0.1), "age": pytest.approx(0.3)}


def test_a_drawn_archive_is_annotated(tmp_path):
    counts = {split: dict.fromkeys(CLASSES["rafdb"], 2) for split in ("train", "test")}
    write_archive("rafdb", tmp_path / "drawn.zip", seed=1, counts=counts)
    with open_source(tmp_path / "drawn.zip") as archive:
        listed = registry.get("rafdb").index(archive)
    test = listed[listed["split"] == "test"]
    frame = predictions_frame(
        test["sample"],
        test["label"],
        np.eye(7)[test["label"]],
        CLASSES["rafdb"],
        split="test",
        protocol="last",
        epoch=1,
    )
    groups = subgroups(frame, listed)
    assert groups.groupby("attribute")["n"].sum().to_dict() == {"gender": 14, "race": 14, "age": 14}
    assert (groups["accuracy"] == 1).all()
