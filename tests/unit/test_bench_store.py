"""The benchmark of the store: what it reports, never how fast it is."""

import json
import sys

import numpy as np
import pytest

from transfer.bench import store as bench
from transfer.cli import main

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="memory is read from /proc")


@pytest.fixture(autouse=True)
def few(monkeypatch):
    for name, value in (("DRAWN", 2), ("COPIES", 2), ("FACES", 4), ("BATCH", 2), ("ROUNDS", 2)):
        monkeypatch.setattr(bench, name, value)


def test_the_files_and_the_store_hold_the_same_faces(tmp_path):
    store, jpegs = bench._draw(tmp_path)
    faces = np.load(store)
    assert faces.shape == (4, 112, 112, 3)
    assert all(np.array_equal(face, bench._decoded(file)) for face, file in zip(faces, jpegs, strict=True))
    assert not np.array_equal(faces[0], faces[1]) and np.array_equal(faces[0], faces[2])


def test_speed(tmp_path):
    result = bench.speed(tmp_path)
    assert (result["faces"], result["batch"]) == (4, 2)
    for state in ("warm", "cold"):
        assert result[state]["ratio"] == pytest.approx(result[state]["store"] / result[state]["jpeg"], abs=0.06)


def test_memory_of_an_epoch(tmp_path):
    result = bench.epoch_memory(tmp_path, 7, 32, 48)
    assert (result["faces"], result["seen"], result["img_size"]) == (7, 6, 32)
    assert result["store"] == 128 + 7 * 48 * 48 * 3
    assert 0 < result["before"] <= result["peak"] and 0 < result["peak_anon"] <= result["peak"]


def test_it_prints_a_table_or_json_and_leaves_nothing(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    for options in ([], ["--json"]):
        monkeypatch.setattr(sys, "argv", ["transfer", "bench", "store", "--faces", "128", "--img-size", "32", *options])
        with pytest.raises(SystemExit) as end:
            main()
        assert not end.value.code
        out = capsys.readouterr().out
        if options:
            assert json.loads(out)["memory"]["seen"] == 128
        else:
            assert "128 faces" in out and "ratio" in out and "peak" in out
    assert not list(tmp_path.iterdir())
