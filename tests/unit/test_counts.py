import pandas as pd
import pytest

from transfer.datasets.counts import check_counts
from transfer.errors import UserError

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
        ({"train": 6}, (), "image counts differ: train expected 6, found 5; complete"),
        ({"train": [2, 3]}, (), "differ: train fear expected 2, found 3; train anger expected 3, found 2; complete"),
        ({"train": [3, 3], "val": 0}, (), "differ: train anger expected 3, found 2; val expected 0, found 1; complete"),
        ("official", [{"train": [3, 2], "test": [1, 3]}], "differ: test anger expected 3, found 1; complete"),
        ("official", [{"train": [1, 1]}, {"train": [3, 1]}], "differ: train anger expected 1, found 2; complete"),
        ({"dev": 1}, (), "unknown split 'dev'; allowed: train, val, test"),
        ({"train": [5]}, (), "train lists 1 classes; the dataset has 2"),
    ],
)
def test_differences_in_one_line(expect, official, message):
    with pytest.raises(UserError) as error:
        check_counts(INDEX, CLASSES, expect, official)
    assert message in str(error.value) and "\n" not in str(error.value)


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
