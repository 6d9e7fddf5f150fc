import numpy as np
import pandas as pd
import pytest

from transfer.datasets.sampling import split_rows, upsampling_plan
from transfer.utils.errors import UserError

RAFDB_TRAIN = [1290, 281, 717, 4772, 1982, 705, 2524]
NAMES = ["surprise", "fear", "disgust", "happiness", "sadness", "anger", "neutral"]


def table(train, test=(), val=(), shuffle=0):
    """A manifest with train[c], test[c], val[c] rows of class c, shuffled."""
    rows = [
        (s, c)
        for s, counts in (("train", train), ("test", test), ("val", val))
        for c, n in enumerate(counts)
        for _ in range(n)
    ]
    order = np.random.default_rng(shuffle).permutation(len(rows))
    return pd.DataFrame(
        {
            "sample": [f"s{i}" for i in range(len(rows))],
            "split": [rows[i][0] for i in order],
            "label": [rows[i][1] for i in order],
        }
    )


def counts(split, name):
    return split.loc[split["split"] == name, "label"].value_counts().sort_index().tolist()


def test_validation_part_is_stratified_by_hand_computed_counts():
    data = table([100, 14, 3, 2], test=[5, 5, 5, 5])
    split = split_rows(data, 0.1, seed=0)
    assert counts(split, "val") == [10, 1, 1, 1]  # 10; 1.4 -> 1; 0.3 -> at least 1; 0.2 -> at least 1
    assert counts(split, "train") == [90, 13, 2, 1]
    assert counts(split_rows(data, 0.9, seed=0), "train") == [
        10,
        1,
        1,
        1,
    ]  # 14 * 0.9 = 12.6 -> 13; one row always stays


@pytest.mark.parametrize("seed", range(5))
def test_test_rows_are_never_touched_and_every_row_is_kept_once(seed):
    data = table([30, 12, 7], test=[9, 4, 6], shuffle=seed)
    split = split_rows(data, 0.25, seed)
    assert split["row"].tolist() == list(range(len(data)))
    assert split["row"].dtype == np.int64 and split["label"].dtype == np.int64
    assert split["sample"].tolist() == data["sample"].tolist()
    assert split["label"].tolist() == data["label"].tolist()
    was_test, is_test = data["split"] == "test", split["split"] == "test"
    assert was_test.tolist() == is_test.tolist()
    assert set(split.loc[~was_test, "split"]) == {"train", "val"}


def test_a_validation_part_of_the_dataset_is_kept():
    data = table([10, 10], test=[3, 3], val=[2, 1])
    assert split_rows(data, 0.3, 0)["split"].tolist() == data["split"].tolist()


def test_the_split_depends_on_the_seed_alone():
    data = table([40, 40])
    assert split_rows(data, 0.2, 1).equals(split_rows(data, 0.2, 1))
    assert not split_rows(data, 0.2, 1).equals(split_rows(data, 0.2, 2))


def test_the_split_of_one_class_does_not_depend_on_the_others():
    few, many = table([20, 5]), None
    many = pd.concat([few, pd.DataFrame({"sample": ["x"] * 9, "split": "train", "label": 1})], ignore_index=True)
    first, second = split_rows(few, 0.2, 3), split_rows(many, 0.2, 3)
    of_class = few["label"] == 0
    assert first.loc[of_class, "split"].tolist() == second.iloc[: len(few)].loc[of_class, "split"].tolist()


@pytest.mark.parametrize("train", [[5, 1], [5, 0]])
def test_a_class_too_small_to_divide_is_refused(train):
    with pytest.raises(UserError, match="label 1: . training images, validation needs at least 2"):
        split_rows(table(train, test=[3, 3]), 0.1, 0)


def train_part(class_counts, seed=0):
    """Labels and row numbers (with gaps, as after a split) of a training split."""
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.repeat(np.arange(len(class_counts)), class_counts))
    rows = np.sort(rng.choice(3 * len(labels), len(labels), replace=False))
    return labels, rows


def test_sqrt_gives_the_authors_number_for_rafdb():
    labels, rows = train_part(RAFDB_TRAIN)
    plan = upsampling_plan(labels, rows, "sqrt", 0, NAMES)
    assert len(plan) == 15_545
    repeats = pd.Series(plan).value_counts().reindex(rows)
    assert [set(repeats[labels == c]) for c in range(7)] == [{2}, {3}, {2}, {1}, {1}, {2}, {1}]


def test_full_makes_every_class_as_large_as_the_largest():
    labels, rows = train_part(RAFDB_TRAIN)
    plan = upsampling_plan(labels, rows, "full", 0, NAMES)
    repeats = pd.Series(plan).value_counts().reindex(rows)
    for c, n in enumerate(RAFDB_TRAIN):
        assert repeats[labels == c].sum() == 4772
        assert set(repeats[labels == c]) <= {4772 // n, 4772 // n + 1}  # nobody is favoured by more than one repeat


@pytest.mark.parametrize("method", ["none", "full", "sqrt"])
@pytest.mark.parametrize("seed", range(4))
def test_plan_is_sorted_and_holds_every_training_row_and_no_other(method, seed):
    data = split_rows(table([60, 9, 23], test=[9, 9, 9], shuffle=seed), 0.2, seed)
    train = data[data["split"] == "train"]
    plan = upsampling_plan(train["label"].to_numpy(), train["row"].to_numpy(), method, seed, ["a", "b", "c"])
    assert plan.dtype == np.int64
    assert (np.diff(plan) >= 0).all()
    assert set(plan) == set(train["row"])
    if method == "none":
        assert len(plan) == len(train)


def test_full_draws_its_remainder_by_the_seed():
    labels, rows = train_part([50, 30])
    first, again, other = (upsampling_plan(labels, rows, "full", seed, ["a", "b"]) for seed in (0, 0, 1))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


@pytest.mark.parametrize("method", ["none", "full", "sqrt"])
def test_an_empty_class_is_refused_by_name(method):
    labels, rows = train_part([5, 0, 4, 0])
    with pytest.raises(UserError, match="no training images of class fear, contempt"):
        upsampling_plan(labels, rows, method, 0, ["anger", "fear", "sadness", "contempt"])
