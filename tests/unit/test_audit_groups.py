import numpy as np
import pandas as pd
import pytest

from transfer.audit.copies import KINDS, copy_groups
from transfer.audit.report import audit_table, dataset_facts
from transfer.datasets.sampling import split_rows, training_copies


def pairs_of(*rows):
    return pd.DataFrame(rows, columns=["sample_a", "sample_b", "kind"])


def grouped(samples, groups):
    """The groups of more than one, as sets of names."""
    frame = pd.DataFrame({"sample": list(samples), "group": groups})
    return sorted(sorted(names) for _, names in frame.groupby("group")["sample"] if len(names) > 1)


def test_copies_of_copies_are_one_group():
    pairs = pairs_of(("a", "b", "exact"), ("b", "c", "near"), ("e", "d", "mirrored"))
    assert grouped("abcdef", copy_groups(list("abcdef"), pairs, KINDS["drop_near"])) == [["a", "b", "c"], ["d", "e"]]
    assert grouped("abcdef", copy_groups(list("abcdef"), pairs, KINDS["drop_exact"])) == [["a", "b"]]
    assert len(set(copy_groups(list("abcdef"), pairs, []))) == 6
    assert copy_groups(list("abc"), pairs[:0], ["exact"]).tolist() == [0, 1, 2]


def test_a_chain_may_lead_through_an_image_that_is_not_used():
    pairs = pairs_of(("a", "x", "exact"), ("x", "b", "exact"), ("y", "x", "near"))
    assert grouped("cba", copy_groups(list("cba"), pairs, ["exact"])) == [["a", "b"]]


def test_training_copies_by_hand():
    split = np.array(["train", "train", "test", "val", "train", "train", "train"], dtype=object)
    groups = np.array([0, 0, 0, 1, 1, 2, 2])
    assert training_copies(split, groups).tolist() == [True, True, False, False, True, False, False]


def manifest(splits, labels):
    return pd.DataFrame({"sample": [f"s{i}" for i in range(len(splits))], "split": splits, "label": labels})


def test_the_training_copy_of_a_held_out_face_is_dropped_and_the_rest_stays():
    table = manifest(["train", "train", "val", "train", "test", "test", "val"], [0, 1, 0, 1, 0, 1, 1])
    #                  copy of 4         copy of 4  in train only
    groups = np.array([7, 1, 7, 1, 7, 2, 2])
    split = split_rows(table, 0.1, 0, groups)
    assert split["split"].tolist() == ["dropped", "train", "val", "train", "test", "test", "val"]
    assert split["row"].tolist() == list(range(7))
    assert split_rows(table, 0.1, 0)["split"].tolist() == table["split"].tolist()


@pytest.mark.parametrize("seed", range(4))
def test_no_group_straddles_a_validation_part_that_is_drawn(seed):
    rng = np.random.default_rng(seed)
    table = manifest(rng.choice(["train", "test"], 400, p=[0.8, 0.2]), rng.integers(0, 3, 400))
    groups = rng.integers(0, 250, 400)
    split = split_rows(table, 0.2, seed, groups)["split"].to_numpy()
    parts = {name: set(groups[split == name]) for name in ("train", "val", "test", "dropped")}
    assert not parts["train"] & (parts["val"] | parts["test"])
    assert not parts["val"] & parts["test"], "what is dropped for the test split is not drawn"
    assert parts["dropped"] <= parts["val"] | parts["test"]
    assert ((split == "test") == (table["split"] == "test")).all()
    assert (split == "val").sum() > 0
    assert (split == "dropped").sum() > 10


def test_groups_of_one_change_nothing():
    table = manifest(["train"] * 40 + ["test"] * 10, [0, 1] * 25)
    assert split_rows(table, 0.2, 0, np.arange(50)).equals(split_rows(table, 0.2, 0))


IMAGES = pd.DataFrame(
    [
        ("d", "a", "train", "fear"),
        ("d", "b", "train", "fear"),
        ("d", "c", "train", "anger"),
        ("d", "t", "test", "fear"),
        ("d", "u", "test", "anger"),
        ("e", "v", "val", "fear"),
        ("e", "w", "test", "fear"),
    ],
    columns=["dataset", "sample", "split", "class_name"],
)


def audited(*rows):
    """Pairs written as (first, second, kind)."""
    facts = IMAGES.set_index("sample")
    columns = {}
    for i, end in enumerate("ab"):
        names = [row[i] for row in rows]
        columns[f"sample_{end}"] = names
        for column, name in (("dataset", "dataset"), ("split", "split"), ("label", "class_name")):
            columns[f"{column}_{end}"] = facts.loc[names, name].tolist()
    pairs = pd.DataFrame(columns | {"kind": [row[2] for row in rows], "distance": 0, "similarity": 1.0})
    return pairs.assign(same_label=pairs["label_a"] == pairs["label_b"])


PAIRS = audited(
    ("a", "b", "exact"),
    ("a", "t", "exact"),
    ("b", "t", "exact"),
    ("c", "t", "near"),
    ("c", "u", "mirrored"),
    ("t", "w", "exact"),
)


def test_the_table_by_hand():
    table = audit_table(IMAGES, PAIRS).set_index(["dataset_a", "split_a", "dataset_b", "split_b"])
    assert list(table) == [
        *("images_a", "images_b", "exact", "near", "mirrored", "exact_other_label", "other_label"),
        *("exact_copied_a", "copied_a", "exact_copied_b", "copied_b"),
    ]
    assert {key: row.tolist() for key, row in table.iterrows()} == {
        ("d", "train", "d", "train"): [3, 3, 1, 0, 0, 0, 0, 2, 2, 2, 2],
        ("d", "train", "d", "test"): [3, 2, 2, 1, 1, 0, 1, 2, 3, 1, 2],
        ("d", "test", "d", "test"): [2, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0],
        ("e", "val", "e", "val"): [1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0],
        ("e", "val", "e", "test"): [1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0],
        ("e", "test", "e", "test"): [1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0],
        ("d", "train", "e", "val"): [3, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0],
        ("d", "train", "e", "test"): [3, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0],
        ("d", "test", "e", "val"): [2, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0],
        ("d", "test", "e", "test"): [2, 1, 1, 0, 0, 0, 0, 1, 1, 1, 1],
    }


def test_what_the_option_would_remove():
    own = IMAGES[IMAGES["dataset"] == "d"]
    facts = dataset_facts(own, PAIRS[PAIRS["dataset_b"] == "d"])
    assert (facts["images"], facts["drop_exact"], facts["drop_near"]) == (5, 2, 3)


def test_the_same_pixels_under_several_labels():
    images = pd.DataFrame({"sample": list("abcdef"), "split": "train", "class_name": ["x", "y", "x", "x", "x", "y"]})
    pairs = pairs_of(("a", "b", "exact"), ("b", "c", "exact"), ("d", "e", "exact"), ("e", "f", "near"))
    for found, expected in ((pairs, (2, 1)), (pairs[:0], (0, 0))):
        facts = dataset_facts(images, found)
        assert (facts["repeated"], facts["contradictory"]) == expected
