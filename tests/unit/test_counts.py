import pandas as pd
import pytest

from transfer.datasets.counts import CountsError, as_text, check_counts, per_class
from transfer.utils.errors import UserError

CLASSES = ["fear", "anger"]


def index(**splits):
    rows = [
        (split, label) for split, counts in splits.items() for label, count in enumerate(counts) for _ in range(count)
    ]
    return pd.DataFrame(rows, columns=["split", "label"])


INDEX = index(train=(3, 2), val=(0, 1), test=(1, 1))


@pytest.mark.parametrize(
    "expect",
    ["any", {"train": 5}, {"train": [3, 2], "val": 1, "test": [1, 1]}, {"val": (0, 1)}, {}],
)
def test_as_expected(expect):
    check_counts(INDEX, CLASSES, expect)


def test_official_may_have_versions():
    check_counts(INDEX, CLASSES, "official", [{"train": 7}, {"train": [3, 2], "test": 2}])


@pytest.mark.parametrize(
    ("expect", "official", "message"),
    [
        ({"train": 6}, (), "differ in 1 of 1 cells, first train all: expected 6, found 5; complete"),
        ({"train": [2, 3]}, (), "differ in 2 of 2 cells, first train fear: expected 2, found 3; complete"),
        ({"train": [3, 3], "val": 0}, (), "differ in 2 of 3 cells, first train anger: expected 3, found 2; complete"),
        ("official", [{"train": [3, 2], "test": [1, 3]}], "1 of 4 cells, first test anger: expected 3, found 1;"),
        ("official", [{"train": [1, 1]}, {"train": [3, 1]}], "1 of 2 cells, first train anger: expected 1, found 2;"),
        ({"dev": 1}, (), "unknown split 'dev'; allowed: train, val, test"),
        ({"train": [5]}, (), "train lists 1 classes; the dataset has 2"),
    ],
)
def test_differences_in_one_line(expect, official, message):
    with pytest.raises(UserError) as error:
        check_counts(INDEX, CLASSES, expect, official)
    assert message in str(error.value) and "\n" not in str(error.value)


def test_differences_as_a_table():
    with pytest.raises(CountsError) as error:
        check_counts(INDEX, CLASSES, {"train": [3, 1200], "val": 1, "test": [2, 1]})
    assert error.value.table.to_numpy().tolist() == [
        ["train", "fear", 3, 3, 0],
        ["train", "anger", 1200, 2, -1198],
        ["val", "all", 1, 1, 0],
        ["test", "fear", 2, 1, -1],
        ["test", "anger", 1, 1, 0],
    ]
    assert as_text(error.value.table).splitlines() == [
        "split  class         expected     found difference",
        "train  fear                 3         3",
        "train  anger            1,200         2     -1,198  <--",
        "val    all                  1         1",
        "test   fear                 2         1         -1  <--",
        "test   anger                1         1",
    ]


def test_as_expected_gives_the_table_too():
    table = check_counts(INDEX, CLASSES, "official", [{"train": 7}, {"train": [3, 2], "test": 2}])
    assert table["class"].tolist() == ["fear", "anger", "all"] and (table["difference"] == 0).all()
    assert check_counts(INDEX, CLASSES) is None


def test_repeated_rows_count_as_found():
    """The official counts are those of the rows."""
    repeated = index(train=(3, 2), test=(1, 1))
    repeated.attrs["repeated"] = [{"split": "train", "label": 1}, {"split": "train", "label": 1}]
    check_counts(repeated, CLASSES, {"train": [3, 4]})
    assert per_class(repeated, CLASSES) == {"train": {"fear": 3, "anger": 2}, "test": {"fear": 1, "anger": 1}}


@pytest.mark.parametrize(
    ("splits", "message"),
    [
        ({"train": (0, 2), "test": (1, 1)}, "class 'fear' has no training image"),
        ({"train": (3, 2), "test": (1, 0)}, "class 'anger' has no test image"),
        ({"train": (3, 2)}, "classes 'fear', 'anger' have no test image"),
        ({"train": (0, 0), "test": (1, 1)}, "classes 'fear', 'anger' have no training image"),
    ],
)
def test_empty_class(splits, message):
    with pytest.raises(UserError, match=message):
        check_counts(index(**splits), CLASSES)


def test_official_counts_that_nobody_knows():
    with pytest.raises(UserError, match="official counts of this dataset are not known"):
        check_counts(index(train=[1, 1], test=[1, 1]), ["a", "b"], "official", [])
