"""What runs again after a change, and that a killed run continues."""

import fcntl
import os
import signal
import time

import pandas as pd
import pytest

pytestmark = pytest.mark.workflow

RUN = "results/smallest/runs/demo_rafdb/full/seed0"
TABLE = {"make_table": 1, "publish_table": 1}
TRAININGS = {"train_model": 12, "evaluate_run": 12, **TABLE}


def test_a_second_run_has_nothing_to_do(copy):
    done = copy.snakemake()
    assert done.returncode == 0
    assert "Nothing to be done" in done.stdout
    assert copy.scheduled() == {}


def test_code(copy):
    """Each edit is undone before the next: what has run is what would run again."""
    table, lanet = "transfer/tables/kinds/recipes.py", "transfer/models/lanet.py"
    cases = [
        (lanet, '"""', '"""In other words: ', {}),
        (lanet, "import torch", "# a comment\nimport torch", {}),
        (lanet, "import torch", "CHANGED = 1\nimport torch", TRAININGS),
        (table, "COLUMNS = list", "CHANGED = 1\nCOLUMNS = list", TABLE),
        ("transfer/tables/kinds/protocols.py", "HONEST =", "CHANGED = 1\nHONEST =", {}),
        ("transfer/evaluation/statistics.py", "import numpy", "CHANGED = 1\nimport numpy", TABLE),
        ("transfer/faces/quality.py", "import base64", "import base64\n\nCHANGED = 1", {"inspect_faces": 3, **TABLE}),
        ("transfer/cli/__init__.py", "import sys", "import sys\n\nCHANGED = 1", {}),
        ("transfer/tracking/live.py", "import os", "import os\n\nCHANGED = 1", {}),
    ]
    for file, old, new, expected in cases:
        path = copy.root / file
        text = path.read_text()
        assert old in text
        path.write_text(text.replace(old, new, 1))
        assert copy.scheduled() == expected, f"{file}: {new!r}"
        path.write_text(text)
    assert copy.scheduled() == {}


def test_parameters(copy):
    faces = {"align_faces": 3, "inspect_faces": 3, "sample_faces": 3, **TRAININGS}
    one = {"align_faces": 1, "inspect_faces": 1, "sample_faces": 1, "train_model": 4, "evaluate_run": 4, **TABLE}
    cases = {
        "seeds=[0,1,2]": {"train_model": 6, "evaluate_run": 6, **TABLE},
        "recipes=[baseline,msad,full]": {"train_model": 6, "evaluate_run": 6, **TABLE},
        "train={device: cpu, threads: 2}": {},
        "tracking=false": {},
        "faces={threads: 2}": {},
        "train={lr: 0.01}": TRAININGS,
        "dataset_definitions={demo_affectnet: {model: {mad: 0.3}}}": {"train_model": 2, "evaluate_run": 2, **TABLE},
        "recipe_definitions={full: {msad: false}}": {"train_model": 6, "evaluate_run": 6, **TABLE},
        "sampling={upsample: sqrt}": TRAININGS,
        "sampling={val_fraction: 0.2}": {"sample_faces": 3, **TRAININGS},
        "sampling={duplicates: drop_near}": {"hash_images": 3, "find_duplicates": 3, "sample_faces": 3, **TRAININGS},
        "faces={no_face: drop}": faces,
        "faces={margin: 0.1}": faces,
        "dataset_definitions={demo_rafdb: {faces: {template: box}}}": one,
        "dataset_definitions={demo_rafdb: {faces: {landmarks: supplied}}}": one,
    }
    for value, expected in cases.items():
        assert copy.scheduled("--config", value) == expected, value


def test_another_experiment_takes_over_the_published_table(copy):
    """The table of the active experiment is published, also where the other's is newer; drawn archives are shared."""
    names = ["experiment=other", "recipes=[baseline]", "seeds=[0]", "datasets=[demo_rafdb]", "tracking=false"]
    other = copy.snakemake("--config", *names)
    assert other.returncode == 0, other.stdout
    assert set(pd.read_csv(copy.root / "results/table1.csv")["experiment"]) == {"other"}
    assert copy.scheduled() == {"publish_table": 1}
    assert copy.snakemake().returncode == 0
    assert set(pd.read_csv(copy.root / "results/table1.csv")["experiment"]) == {"smallest"}


def test_a_changed_archive_is_read_again(copy):
    archive = copy.root / "data/raw/demo_ferplus.tar.gz"
    os.utime(archive)
    assert copy.scheduled() == {}, "the content of small files counts, not their time"
    archive.write_bytes(archive.read_bytes() + b"more")
    before = {"index_dataset": 1, "detect_faces": 1, "align_faces": 1, "inspect_faces": 1, "sample_faces": 1}
    assert copy.scheduled() == before | {"train_model": 4, "evaluate_run": 4, **TABLE}


def test_a_killed_run_continues_with_the_same_command(copy):
    epochs = 8
    command = (f"{RUN}/metrics.json", "--config", f"train={{epochs: {epochs}}}")
    state = copy.root / "results/smallest/state/demo_rafdb/full/seed0"
    running = copy.start(*command)
    try:
        while not any(path.is_file() for path in state.rglob("*")):
            assert running.poll() is None, "it ended before its first epoch did"
            time.sleep(0.05)
    finally:
        os.killpg(running.pid, signal.SIGKILL)
        running.wait()
    assert not (copy.root / RUN / "predictions.parquet").exists()
    assert list((copy.root / ".snakemake/locks").iterdir()), "Snakemake left its locks"

    with open(copy.root / ".snakemake/running") as alive:  # as if that run were alive, or another one
        fcntl.flock(alive, fcntl.LOCK_SH)
        locked = copy.snakemake(*command)
    assert locked.returncode == 1
    assert "cannot be locked" in locked.stdout

    done = copy.snakemake(*command)
    assert done.returncode == 0, done.stdout
    assert len(pd.read_csv(copy.root / RUN / "history.csv")) == epochs
    assert not [path for path in state.rglob("*") if path.is_file()]
    assert not list((copy.root / ".snakemake").glob("locks/*"))
