import os
import signal
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from transfer import cli
from transfer.faces import detect as detect_module
from transfer.faces import detect as resume
from transfer.faces.detect import DetectionState, state_key

ROOT = Path(__file__).parents[2]
STATE = Path("results/demo/state/demo_ferplus/detect")
FACES = Path("results/demo/data/demo_ferplus/faces.parquet")
SMALL = ["--set", "dataset_definitions.demo_ferplus.synthetic_scale=0.1"]
PART = 16

# Hangs when the fourth part is written under its temporary name, but not yet renamed.
KILLED = f"""
import os, sys, time
from transfer import cli
from transfer.utils import files
from transfer.faces import detect
detect.PART_IMAGES = {PART}
renamed, rename = 0, os.replace
def slow(*paths):
    global renamed
    renamed += 1
    if renamed == 4:
        print("now", flush=True)
        time.sleep(600)
    rename(*paths)
files.os.replace = slow
sys.argv = ["transfer", "detect", "--dataset", "demo_ferplus", *{SMALL}]
cli.main()
"""


@pytest.fixture
def transfer(monkeypatch, capsys):
    """Run the command line in this process: stderr; it must succeed."""

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["transfer", *arguments, "--dataset", "demo_ferplus", *SMALL])
        with pytest.raises(SystemExit) as end:
            cli.main()
        output = capsys.readouterr()
        assert not end.value.code, output.err
        return output.err

    return run


@pytest.fixture
def dataset(tmp_path, monkeypatch, transfer):
    """A small drawn dataset with its index, in small parts; the images that are decoded are counted."""
    (tmp_path / "params").mkdir()
    (tmp_path / "params" / "default.yaml").write_bytes((ROOT / "params" / "default.yaml").read_bytes())
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(detect_module, "PART_IMAGES", PART)
    read = resume.stream_images
    paths = []
    monkeypatch.setattr(resume, "stream_images", lambda source, some: paths.extend(some) or read(source, some))
    transfer("synthesize")
    transfer("index")
    return paths


def kill_in_the_fourth_part():
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    with subprocess.Popen([sys.executable, "-c", KILLED], stdout=subprocess.PIPE, env=environment, text=True) as child:
        assert child.stdout.readline() == "now\n"
        child.send_signal(signal.SIGKILL)
    assert child.returncode == -signal.SIGKILL
    assert not FACES.exists()


def test_a_killed_detection_continues_to_the_same_bytes(dataset, transfer):
    total = len(pd.read_parquet(FACES.with_name("index.parquet")))
    kill_in_the_fourth_part()
    assert len(list(STATE.iterdir())) == 4  # three parts, and what was being written
    message = transfer("detect")
    assert f"continuing: {3 * PART} of {total} images are done" in message
    assert len(dataset) == total - 3 * PART
    assert not STATE.exists()
    continued = FACES.read_bytes()
    FACES.unlink()
    transfer("detect")
    assert len(dataset) == 2 * total - 3 * PART
    assert FACES.read_bytes() == continued


def test_after_a_change_it_starts_over_and_a_damaged_part_ends_the_past(dataset, transfer):
    total = len(pd.read_parquet(FACES.with_name("index.parquet")))
    kill_in_the_fourth_part()
    parts = sorted(STATE.glob("[!.]*.parquet"))
    parts[1].write_bytes(parts[1].read_bytes()[:-50])
    copies = {part: part.read_bytes() for part in STATE.iterdir()}
    message = transfer("detect")
    assert f"{parts[1]}: damaged" in message
    assert len(dataset) == total - PART
    expected = FACES.read_bytes()

    STATE.mkdir()
    for part, content in copies.items():
        part.write_bytes(content)
    dataset.clear()
    assert "continuing" not in transfer("detect", "--set", "faces.min_face=0.3")
    assert len(dataset) == total
    assert not STATE.exists()
    transfer("detect")
    assert FACES.read_bytes() == expected


def test_the_key_stands_for_index_archive_parameters_and_device(tmp_path):
    index, archive = tmp_path / "index.parquet", tmp_path / "faces.zip"
    index.write_bytes(b"index")
    archive.write_bytes(b"archive")
    search = {"min_side": 96, "border": 0.25, "min_face": 0.25}
    keys = [state_key(index, archive, search, "cpu"), state_key(index, archive, search, "cpu")]
    assert keys[0] == keys[1]
    keys.append(state_key(index, archive, search | {"border": 0.3}, "cpu"))
    keys.append(state_key(index, archive, search, "cuda"))
    index.write_bytes(b"other")
    keys.append(state_key(index, archive, search, "cpu"))
    archive.write_bytes(b"archive, another one")
    keys.append(state_key(index, archive, search, "cpu"))
    os.utime(archive, ns=(0, 0))
    keys.append(state_key(index, archive, search, "cpu"))
    assert len(set(keys)) == len(keys) - 1


def test_parts_are_kept_in_order_and_strange_files_go(tmp_path):
    state = DetectionState(tmp_path / "detect", "abc")
    assert state.load() == []
    for number in (0, 1, 3):  # 2 is missing: 3 belongs to nothing
        state.save(number, pd.DataFrame({"row": [number]}))
    DetectionState(tmp_path / "detect", "def").save(0, pd.DataFrame({"row": [9]}))
    (tmp_path / "detect" / "seed0").mkdir()  # resume state of a training whose recipe is called detect
    assert [part["row"].tolist() for part in state.load()] == [[0], [1]]
    assert sorted(file.name for file in state.folder.iterdir()) == ["abc-0.parquet", "abc-1.parquet", "seed0"]
    state.remove()
    assert [file.name for file in state.folder.iterdir()] == ["seed0"]
