"""What evaluation saw: digests of the test faces, and the check of the store."""

import hashlib

import numpy as np
import pandas as pd
import pytest

from transfer.faces.store import EVALUATION_COLUMNS, check_store, digest_test_faces, evaluation_faces
from transfer.utils.errors import UserError


@pytest.fixture
def aligned(tmp_path):
    """Manifest and path of a store of five faces: two to train on, one to validate on, two to test on."""
    pixels = np.random.default_rng(0).integers(0, 256, (5, 32, 32, 3), dtype=np.uint8)
    np.save(tmp_path / "aligned.npy", pixels)
    table = pd.DataFrame(
        {
            "sample": ["t1", "b", "v", "t2", "a"],
            "split": ["train", "test", "val", "train", "test"],
            "label": [0, 0, 0, 1, 1],
            "class_name": ["x", "x", "x", "y", "y"],
            "sha256": [hashlib.sha256(face.tobytes()).hexdigest() for face in pixels],
            "source_sha256": list("12345"),
        }
    )
    return table, tmp_path / "aligned.npy"


def test_the_manifest_lists_what_is_never_trained_on(aligned):
    table, _ = aligned
    listed = evaluation_faces(table)
    assert listed.columns.tolist() == EVALUATION_COLUMNS
    assert listed[["sample", "split", "source_sha256"]].values.tolist() == [
        ["a", "test", "5"],
        ["b", "test", "2"],
        ["v", "val", "3"],
    ]


def test_the_digest_by_its_definition(aligned):
    table, _ = aligned
    hashes = table.set_index("sample")["sha256"]
    lines = f"a 1 {hashes['a']}\nb 0 {hashes['b']}\n"
    found = digest_test_faces(table)
    assert found["images"] == 2
    assert found["sha256"] == hashlib.sha256(lines.encode()).hexdigest()
    assert found["source_sha256"] == hashlib.sha256(b"a 1 5\nb 0 2\n").hexdigest()


def test_the_digest_changes_with_test_faces_alone(aligned):
    table, _ = aligned
    before = digest_test_faces(table)
    assert digest_test_faces(table.iloc[::-1]) == before, "order"
    training = table.copy()
    training.loc[table["split"] != "test", ["label", "sha256", "source_sha256"]] = [7, "0", "0"]
    assert digest_test_faces(training) == before
    for column, value in (("sample", "c"), ("label", 3), ("sha256", "0")):
        changed = table.copy()
        changed.loc[1, column] = value
        assert digest_test_faces(changed)["sha256"] != before["sha256"], column
    changed = table.copy()
    changed.loc[1, "sha256"] = "0"
    assert digest_test_faces(changed)["source_sha256"] == before["source_sha256"]


def test_an_untouched_store_passes(aligned):
    table, path = aligned
    check_store(path, table)


def test_one_changed_byte_of_a_test_face_is_found(aligned):
    table, path = aligned
    content = bytearray(path.read_bytes())
    content[-(32 * 32 * 3) - 1] ^= 1  # the last byte of a training face is not looked at
    path.write_bytes(content)
    check_store(path, table)
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"aligned\.npy, row 4 \(a\): not the face that was aligned; make it again"):
        check_store(path, table)


def test_a_store_of_another_alignment(aligned):
    table, path = aligned
    np.save(path, np.load(path)[:4])
    with pytest.raises(UserError, match=r"holds uint8 \(4, 32, 32, 3\), but its manifest lists 5 faces"):
        check_store(path, table)


@pytest.mark.parametrize("length", [0, 10, 1000])
def test_a_truncated_store(aligned, length):
    table, path = aligned
    path.write_bytes(path.read_bytes()[:length])
    with pytest.raises(UserError, match=r"aligned\.npy: not an aligned store .*; make it again") as caught:
        check_store(path, table)
    assert "\n" not in str(caught.value)


def test_a_manifest_of_an_older_version(aligned):
    table, path = aligned
    with pytest.raises(UserError, match=r"aligned\.parquet: no column source_sha256; make it again"):
        check_store(path, table.drop(columns="source_sha256"))
