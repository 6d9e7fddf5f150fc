import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from transfer import cli
from transfer.faces import detect as detect_module
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


def transfer(*arguments):
    """Run the command line in this process; it must succeed."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["transfer", *arguments, "--dataset", "demo_ferplus", *SMALL])
        with pytest.raises(SystemExit) as end:
            cli.main()
    assert not end.value.code


def kill_in_the_fourth_part():
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    with subprocess.Popen([sys.executable, "-c", KILLED], stdout=subprocess.PIPE, env=environment, text=True) as child:
        assert child.stdout.readline() == "now\n"
        child.send_signal(signal.SIGKILL)
    assert child.returncode == -signal.SIGKILL
    assert not FACES.exists()


@pytest.fixture(scope="module")
def killed(tmp_path_factory):
    """A folder with a small synthetic dataset, its index, and what a killed detection left."""
    root = tmp_path_factory.mktemp("killed")
    (root / "params").mkdir()
    (root / "params" / "default.yaml").write_bytes((ROOT / "params" / "default.yaml").read_bytes())
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        transfer("synthesize")
        transfer("index")
        kill_in_the_fourth_part()
    return root


@pytest.fixture(scope="module")
def uninterrupted(killed, tmp_path_factory):
    """The bytes of a detection that nothing stopped."""
    work = shutil.copytree(killed, tmp_path_factory.mktemp("uninterrupted") / "work")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(work)
        patch.setattr(detect_module, "PART_IMAGES", PART)
        shutil.rmtree(STATE)
        transfer("detect")
        return FACES.read_bytes()


@pytest.fixture
def decoded(killed, tmp_path, monkeypatch):
    """Work in a copy of that folder, in small parts; the images that are decoded are noted."""
    work = Path(shutil.copytree(killed, tmp_path / "work"))
    monkeypatch.chdir(work)
    monkeypatch.setattr(detect_module, "PART_IMAGES", PART)
    read, paths = detect_module.stream_images, []
    monkeypatch.setattr(
        detect_module, "stream_images", lambda source, some, *more: paths.extend(some) or read(source, some, *more)
    )
    return paths


def test_a_killed_detection_continues_to_the_same_bytes(decoded, uninterrupted, capsys):
    total = len(pd.read_parquet(FACES.with_name("index.parquet")))
    assert len(list(STATE.iterdir())) == 4  # three parts, and what was being written
    transfer("detect")
    message = capsys.readouterr().err
    assert f"continuing: {3 * PART} of {total} images are done" in message
    assert len(decoded) == total - 3 * PART
    assert not STATE.exists()
    assert FACES.read_bytes() == uninterrupted


def test_after_a_change_it_starts_over_and_a_damaged_part_is_done_again(decoded, uninterrupted, capsys):
    total = len(pd.read_parquet(FACES.with_name("index.parquet")))
    parts = sorted(STATE.glob("[!.]*.parquet"))
    parts[1].write_bytes(parts[1].read_bytes()[:-50])
    copies = {part: part.read_bytes() for part in STATE.iterdir()}
    transfer("detect")
    assert f"{parts[1]}: damaged" in capsys.readouterr().err
    assert len(decoded) == total - PART
    assert FACES.read_bytes() == uninterrupted

    STATE.mkdir()
    for part, content in copies.items():
        part.write_bytes(content)
    decoded.clear()
    transfer("detect", "--set", "faces.min_face=0.3")
    assert "continuing" not in capsys.readouterr().err
    assert len(decoded) == total
    assert not STATE.exists()
    assert FACES.read_bytes() != uninterrupted


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
    before = archive.stat()
    archive.write_bytes(b"archive, ANOTHER one")  # of the same size and date
    os.utime(archive, ns=(before.st_atime_ns, before.st_mtime_ns))
    keys.append(state_key(index, archive, search, "cpu"))
    assert len(set(keys)) == len(keys) - 1
    os.utime(archive, ns=(0, 0))
    assert state_key(index, archive, search, "cpu") == keys[-1], "the content counts, not the date"


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
