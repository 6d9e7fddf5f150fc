import numpy as np
import pandas as pd
import pytest

from transfer.runs.predictions import (
    class_names,
    correct_faces,
    predictions_frame,
    probabilities_of,
    read_predictions,
    write_predictions,
)
from transfer.utils.errors import UserError

CLASSES = ["surprise", "fear", "disgust"]


def frame(split="test", protocol="last", prefix="t", epoch=3):
    return predictions_frame(
        [f"{prefix}0", f"{prefix}1", f"{prefix}2"],
        [0, 1, 2],
        np.array([[0.8, 0.1, 0.1], [0.6, 0.3, 0.1], [0.0, 0.0, 1.0]]),
        CLASSES,
        split=split,
        protocol=protocol,
        epoch=epoch,
    )


def whole():
    return pd.concat([frame(), frame("val", prefix="v"), frame(protocol="val_selected", epoch=2)], ignore_index=True)


def test_columns_and_types_are_those_of_the_contract(tmp_path):
    path = tmp_path / "run" / "predictions.parquet"
    write_predictions(path, whole())
    back = read_predictions(path)
    assert list(back.columns) == ["sample", "label", "split", "protocol", "epoch", "p_surprise", "p_fear", "p_disgust"]
    assert back["label"].dtype == np.int64
    assert (back.dtypes[["p_surprise", "p_fear", "p_disgust"]] == np.float32).all()
    pd.testing.assert_frame_equal(back, whole())
    assert class_names(back) == CLASSES
    assert probabilities_of(back).shape == (9, 3)
    assert [file.name for file in path.parent.iterdir()] == ["predictions.parquet"]


def test_correct_faces_do_not_depend_on_the_order_of_rows():
    expected = {("t0", 0): True, ("t1", 1): False, ("t2", 2): True}
    faces = correct_faces(whole(), "last")
    assert faces.to_dict() == expected
    shuffled = correct_faces(whole().sample(frac=1, random_state=1), "last")
    assert shuffled.index.equals(faces.index)
    assert shuffled.to_dict() == expected


def corrupted(column, value, row=0):
    def change(predictions):
        predictions[column] = predictions[column].astype(
            object if isinstance(value, str) else predictions[column].dtype
        )
        predictions.loc[row, column] = value
        return predictions

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda p: p.drop(columns="epoch"), "column epoch is missing"),
        (lambda p: p.drop(columns=["p_fear", "p_disgust"]), "9 rows of 1 classes"),
        (lambda p: p.iloc[:0], "0 rows of 3 classes"),
        (corrupted("p_fear", np.nan), "column p_fear holds object, expected floats without missing values|with sum 1"),
        (corrupted("p_fear", 0.2), r"the probabilities are not in \[0, 1\] with sum 1 \(sample t0\)"),
        (lambda p: p.assign(p_surprise=p["p_surprise"] + 1, p_fear=p["p_fear"] - 1), "the probabilities are not in"),
        (corrupted("label", 3, row=1), r"the label is not in 0 to 2 \(sample t1\)"),
        (corrupted("label", -1, row=1), r"the label is not in 0 to 2 \(sample t1\)"),
        (lambda p: p.assign(label=p["label"] + 0.5), "column label holds float64"),
        (lambda p: p.assign(p_fear=["0.1"] * 9), "column p_fear holds (object|str), expected floats"),
        (corrupted("split", "train"), r"the split is not one of val, test \(sample t0\)"),
        (corrupted("protocol", "best"), "the protocol is not one of last"),
        (corrupted("sample", "t1"), "a sample occurs twice in a split and protocol"),
        (corrupted("sample", "t0", row=3), "sample t0 is in both val and test"),
        (corrupted("epoch", 7), "a protocol mixes several epochs"),
    ],
)
def test_broken_content_is_one_line_that_names_the_file(tmp_path, change, message):
    path = tmp_path / "predictions.parquet"
    broken = change(whole())
    with pytest.raises(UserError, match=message):
        write_predictions(path, broken)
    assert not path.exists()
    broken.to_parquet(path, index=False)
    with pytest.raises(UserError, match=message) as error:
        read_predictions(path)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("keep", [0, 4, 0.5, -1])
def test_truncated_file(tmp_path, keep):
    path = tmp_path / "predictions.parquet"
    write_predictions(path, whole())
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * keep) if isinstance(keep, float) else keep])
    with pytest.raises(UserError, match="predictions.parquet: not a readable parquet file") as error:
        read_predictions(path)
    assert "\n" not in str(error.value)


def test_missing_file(tmp_path):
    with pytest.raises(UserError, match="predictions.parquet: missing"):
        read_predictions(tmp_path / "predictions.parquet")
