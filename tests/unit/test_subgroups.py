"""Accuracy by gender, race and age on hand-made predictions, and of a drawn archive."""

import numpy as np
import pandas as pd
import pytest

from transfer.datasets import registry
from transfer.datasets.archives import open_source
from transfer.datasets.synthetic.archives import CLASSES, write_archive
from transfer.runs.predictions import predictions_frame
from transfer.tables.kinds.subgroups import LEAST, largest_gaps, subgroups
from transfer.utils.errors import UserError


def predictions(labels, predicted, protocol="last"):
    parts = []
    for split, shift in (("test", 0), ("val", 100)):
        names = [f"f{i + shift}" for i in range(len(labels))]
        chosen = predicted if split == "test" else labels
        parts.append(
            predictions_frame(
                names, labels, np.eye(3)[chosen], ["x", "y", "z"], split=split, protocol=protocol, epoch=1
            )
        )
    return pd.concat(parts, ignore_index=True)


def index(gender, race=0, age=0):
    codes = {"gender": gender, "race": race, "age": age}
    table = pd.DataFrame({"sample": [f"f{i}" for i in range(len(gender))]} | codes)
    table = table.astype(dict.fromkeys(codes, "Int64"))
    rest = pd.DataFrame({"sample": [f"f{i}" for i in range(100, 120)], "gender": 1, "race": 2, "age": 4})
    return pd.concat([rest, table.iloc[::-1]], ignore_index=True)


def test_groups_by_hand():
    frame = predictions([0, 0, 1, 1, 2, 2], [0, 1, 1, 1, 0, 2])
    groups = subgroups(frame, index([0, 0, 0, 1, 1, None], race=[2, 2, 2, 2, 2, 2], age=[4, 3, 3, 3, 3, 3]), "last")
    assert groups.columns.tolist() == ["attribute", "group", "n", "accuracy", "mean_class_accuracy"]
    assert groups.to_numpy().tolist() == [
        ["gender", "male", 3, pytest.approx(2 / 3), 0.75],  # x right, x wrong, y right
        ["gender", "female", 2, 0.5, 0.5],  # y right, z wrong; one face is not annotated
        ["race", "Asian", 6, pytest.approx(4 / 6), pytest.approx((0.5 + 1 + 0.5) / 3)],
        ["age", "40-69", 5, 0.6, pytest.approx((0 + 1 + 0.5) / 3)],
        ["age", "70+", 1, 1, 1],
    ]


def test_only_the_protocol_and_the_test_part_count():
    frame = pd.concat([predictions([0, 1], [0, 0]), predictions([0, 1], [0, 1], "test_selected")])
    table = index([0, 0])
    assert subgroups(frame, table, "last")["accuracy"].tolist() == [0.5] * 3
    assert subgroups(frame, table, "test_selected")["accuracy"].tolist() == [1] * 3
    with pytest.raises(UserError, match="no test predictions of protocol val_selected"):
        subgroups(frame, table, "val_selected")


def test_broken_input():
    frame = predictions([0, 1], [0, 0])
    with pytest.raises(UserError, match="no column race; RAF-DB alone is annotated with it"):
        subgroups(frame, index([0, 0]).drop(columns="race"), "last")
    with pytest.raises(UserError, match="test face f1 is not in the dataset's index"):
        subgroups(frame, index([0]), "last")


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
    gaps = largest_gaps(groups)
    assert gaps.columns.tolist() == ["attribute", "gap", "best", "worst"]
    assert gaps.to_numpy().tolist() == [
        ["gender", pytest.approx(0.1), "female", "male"],
        ["age", pytest.approx(0.3), "4-19", "70+"],
    ]
    assert largest_gaps(groups, "mean_class_accuracy").iloc[0].tolist() == [
        "gender", pytest.approx(0.05), "male", "female"
    ]  # fmt: skip
    assert largest_gaps(groups[groups["attribute"] == "race"]).empty


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
    groups = subgroups(frame, listed, "last")
    assert groups.groupby("attribute")["n"].sum().to_dict() == {"gender": 14, "race": 14, "age": 14}
    assert (groups["accuracy"] == 1).all()
