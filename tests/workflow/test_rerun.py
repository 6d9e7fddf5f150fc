"""What runs again after a change, and that a killed run continues; tests/unit/test_versions.py has the whole table."""

import fcntl
import json
import os
import signal
import subprocess
import time

import pandas as pd
import pytest

pytestmark = pytest.mark.workflow

RUN = "results/smallest/runs/demo_rafdb/full/seed0"
STATE = "results/smallest/state/demo_rafdb/full/seed0"
TABLE = {"make_table": 1, "publish_table": 1}
RUNS = {"train_model": 12, "evaluate_run": 12, **TABLE}


def start(repository, *arguments, log=subprocess.DEVNULL):
    """Start a run of eight epochs, and wait until the first is done."""
    running = repository.start(f"{RUN}/metrics.json", "--config", "train={epochs: 8}", *arguments, log=log)
    while not any(path.is_file() for path in (repository.root / STATE).rglob("*")):
        assert running.poll() is None, "it ended before its first epoch did"
        time.sleep(0.05)
    return running


def test_a_change_of_code_reruns_its_steps_and_what_lies_below(copy):
    """An edit of a comment is none: had it counted, the second edit would not be the only reason."""
    assert copy.scheduled() == {}
    lanet = "transfer/models/lanet.py"
    copy.replace(lanet, "import torch\n", "# a comment\nimport torch\n")
    assert copy.scheduled() == {}
    copy.replace(lanet, "# a comment\n", "CHANGED = 1\n")
    assert copy.scheduled() == RUNS


def test_a_change_of_parameters_reruns_its_steps_and_what_lies_below(copy):
    cases = {
        "sampling={duplicates: drop_near}": {"hash_images": 3, "find_duplicates": 3, "sample_faces": 3, **RUNS},
        "dataset_definitions={demo_rafdb: {faces: {template: box}}}": {
            **{"align_faces": 1, "inspect_faces": 1, "sample_faces": 1, "train_model": 4, "evaluate_run": 4},
            **TABLE,
        },
    }
    for value, expected in cases.items():
        assert copy.scheduled("--config", value) == expected, value


def test_another_experiment_takes_over_the_published_table(copy):
    """The table of the active experiment is published, even if the other's is newer; archives are shared."""
    names = ["experiment=other", "recipes=[baseline]", "seeds=[0]", "datasets=[demo_rafdb]", "tracking=false"]
    other = copy.snakemake("--config", *names)
    assert other.returncode == 0, other.stdout
    assert set(pd.read_csv(copy.root / "results/table1.csv")["experiment"]) == {"other"}
    again = copy.snakemake()
    assert again.returncode == 0 and "rule publish_table" in again.stdout and "rule make_table" not in again.stdout
    assert set(pd.read_csv(copy.root / "results/table1.csv")["experiment"]) == {"smallest"}


def test_a_changed_archive_is_read_again(copy):
    archive = copy.root / "data/raw/demo_ferplus.tar.gz"
    os.utime(archive)  # the content of small files counts, not their time
    archive.with_name("demo_rafdb.zip").touch()
    archive.write_bytes(archive.read_bytes() + b"more")
    before = {"index_dataset": 1, "detect_faces": 1, "align_faces": 1, "inspect_faces": 1, "sample_faces": 1}
    assert copy.scheduled() == before | {"train_model": 4, "evaluate_run": 4, **TABLE}


def test_a_killed_run_continues_with_the_same_command(copy):
    running = start(copy)
    os.killpg(running.pid, signal.SIGKILL)
    running.wait()
    assert not (copy.root / RUN / "predictions.parquet").exists()
    assert list((copy.root / ".snakemake/locks").iterdir()), "Snakemake left its locks"

    command = (f"{RUN}/metrics.json", "--config", "train={epochs: 8}")
    with open(copy.root / ".snakemake/running") as alive:  # as if that run were alive, or another one
        fcntl.flock(alive, fcntl.LOCK_SH)
        locked = copy.snakemake(*command)
    assert locked.returncode == 1
    assert "cannot be locked" in locked.stdout

    done = copy.snakemake(*command)
    assert done.returncode == 0, done.stdout
    assert len(pd.read_csv(copy.root / RUN / "history.csv")) == 8
    assert not [path for path in (copy.root / STATE).rglob("*") if path.is_file()]
    assert not list((copy.root / ".snakemake").glob("locks/*"))


def test_parameters_edited_or_broken_while_a_workflow_runs(copy, tmp_path):
    """Its jobs keep to what it started with, also those that begin later; the edit counts for the next run."""
    edited = "  lr: 0.04\n  momentum: 0.5\n"
    with open(tmp_path / "log", "w") as log:
        running = start(copy, log=log)
        os.killpg(running.pid, signal.SIGSTOP)  # it is alive, and cannot end before the edits
        try:
            copy.replace("params/default.yaml", "  lr: 0.05\n", edited)
            copy.replace("tests/workflow/smallest.yaml", "seeds: [0, 1]", "seeds: [0, 1, 5]")
            before = (copy.root / "results/smallest/params.yaml").read_bytes()
            other = copy.snakemake("results/smallest/runs/demo_rafdb/full/seed5/metrics.json")
            assert other.returncode == 1 and "Traceback" not in other.stdout
            (error,) = [line for line in other.stdout.splitlines() if line.startswith("error: ")]
            assert "experiment smallest: a workflow is running with other parameters" in error
            assert "seeds [0, 1], here [0, 1, 5]" in error and "train.lr 0.05, here 0.04" in error
            assert (copy.root / "results/smallest/params.yaml").read_bytes() == before
            copy.replace("params/default.yaml", "experiment: demo", "experiment: [")
            os.killpg(running.pid, signal.SIGCONT)
            assert running.wait(300) == 0, (tmp_path / "log").read_text()
        finally:
            if running.poll() is None:
                os.killpg(running.pid, signal.SIGKILL)
                running.wait()
    trained = json.loads((copy.root / RUN / "env.json").read_text())["params"]["train"]
    assert (trained["epochs"], trained["lr"], trained["momentum"]) == (8, 0.05, 0.9)
    assert len(pd.read_csv(copy.root / RUN / "history.csv")) == 8
    copy.replace("params/default.yaml", "experiment: [", "experiment: demo")
    assert copy.scheduled()["train_model"] == 3 * 2 * 3, "all runs, with the new values"


def test_a_job_on_another_node_reads_what_its_workflow_started_with(copy):
    """There the Snakefile is parsed again: as a cluster's executor calls it, after everything was edited."""
    (copy.root / RUN / "metrics.json").unlink()
    copy.replace("params/default.yaml", "experiment: demo", "experiment: [")
    (copy.root / "tests/workflow/smallest.yaml").write_text("experiment: edited\n")
    job = "evaluate_run:experiment=smallest,dataset=demo_rafdb,recipe=full,seed=0"
    command = ["snakemake", "--cores", "1", "--mode", "remote", "--target-jobs", job, "--allowed-rules", "evaluate_run"]
    command += ["--force", "--nolock", "--no-hooks", "--ignore-incomplete"]
    command += ["--config", "snapshot=results/smallest/params.yaml"]
    done = subprocess.run(command, cwd=copy.root, env=copy.environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert (copy.root / RUN / "metrics.json").exists()
