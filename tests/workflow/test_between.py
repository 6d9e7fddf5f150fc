"""Between runs, and what happens where files change while one is at work."""

import fcntl
import json
import os
import re
import signal
import subprocess
import sys
import time

import pandas as pd
import pytest

pytestmark = pytest.mark.workflow

RUN = "results/smallest/runs/demo_rafdb/full/seed0"
TABLE = {"make_table": 1, "publish_table": 1}
PARAMS = ("--params", "tests/workflow/smallest.yaml")


def transfer(repository, *arguments):
    return repository.process(sys.executable, "-m", "transfer", *arguments)


def start(repository, log, *arguments):
    """Begin a training of eight epochs, and wait until it has done the first."""
    state = repository.root / "results/smallest/state/demo_rafdb/full/seed0"
    running = repository.start(f"{RUN}/metrics.json", "--config", "train={epochs: 8}", *arguments, log=log)
    while not any(path.is_file() for path in state.rglob("*")):
        assert running.poll() is None, "it ended before its first epoch did"
        time.sleep(0.05)
    return running


def test_parameters_edited_while_a_workflow_runs(copy, tmp_path):
    """Its jobs keep to what it started with, also those that begin later; it says so; then the edit counts."""
    edited = "  lr: 0.04\n  momentum: 0.5\n"
    with open(tmp_path / "log", "w") as log:
        running = start(copy, log)
        os.killpg(running.pid, signal.SIGSTOP)  # it is alive, and cannot end before the edits
        try:
            copy.replace("params/default.yaml", "  lr: 0.05\n", edited)
            copy.replace("tests/workflow/smallest.yaml", "seeds: [0, 1]", "seeds: [0, 1, 5]")
            before = (copy.root / "results/smallest/params.yaml").read_bytes()
            other = copy.snakemake("results/smallest/runs/demo_rafdb/full/seed5/metrics.json")
            assert other.returncode == 1
            (error,) = [line for line in other.stdout.splitlines() if line.startswith("error: ")]
            assert "experiment smallest: a workflow is at work on it with other parameters" in error
            assert "seeds [0, 1], here [0, 1, 5]" in error and "train.lr 0.05, here 0.04" in error
            assert "Traceback" not in other.stdout
            assert (copy.root / "results/smallest/params.yaml").read_bytes() == before
            cleaning = transfer(copy, "clean", "smallest", "--yes")
            assert cleaning.returncode == 1 and "a workflow is at work in this folder" in cleaning.stdout
            os.killpg(running.pid, signal.SIGCONT)
            assert running.wait(300) == 0
        finally:
            if running.poll() is None:
                os.killpg(running.pid, signal.SIGKILL)
                running.wait()
    said = [line for line in (tmp_path / "log").read_text().splitlines() if "edited since this workflow" in line]
    assert len(said) == 1
    assert said[0].startswith("edited since this workflow started: ")
    assert re.search(r"params/default.yaml:\d+ \(train.lr 0.05 -> 0.04\)", said[0])
    assert re.search(r"params/default.yaml:\d+ \(train.momentum None -> 0.5\)", said[0])
    assert re.search(r"tests/workflow/smallest.yaml:4 \(seeds \[0, 1\] -> \[0, 1, 5\]\)", said[0])
    trained = json.loads((copy.root / RUN / "env.json").read_text())["params"]["train"]
    assert (trained["epochs"], trained["lr"], trained["momentum"]) == (8, 0.05, 0.9)
    assert len(pd.read_csv(copy.root / RUN / "history.csv")) == 8
    assert copy.scheduled()["train_model"] == 3 * 2 * 3, "all trainings, with the new values"
    copy.replace("params/default.yaml", edited, "  lr: 0.05\n")
    copy.replace("tests/workflow/smallest.yaml", "seeds: [0, 1, 5]", "seeds: [0, 1]")
    assert copy.scheduled(f"{RUN}/metrics.json", "--config", "train={epochs: 8}") == {}, "what was trained stays"


def test_a_parameter_file_broken_while_a_workflow_runs(copy, tmp_path):
    with open(tmp_path / "log", "w") as log:
        running = start(copy, log)
        os.killpg(running.pid, signal.SIGSTOP)
        with open(copy.root / "params/default.yaml", "a") as file:
            file.write("train: [\n")
        os.killpg(running.pid, signal.SIGCONT)
        assert running.wait(300) == 0, (tmp_path / "log").read_text()
    said = [line for line in (tmp_path / "log").read_text().splitlines() if "edited since this workflow" in line]
    assert len(said) == 1 and "params/default.yaml:" in said[0] and "not a YAML file" in said[0]
    assert (copy.root / RUN / "metrics.json").exists()


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


def test_a_pruned_experiment_has_nothing_to_do_and_agrees_with_mlflow(copy):
    one = ("--config", "seeds=[0]")
    copy.environment["MLFLOW_TRACKING_URI"] = "sqlite:///other.db"  # its artifacts lie in the copy
    done = copy.snakemake("results/table1.csv", "track", *one)
    assert done.returncode == 0, done.stdout
    pruned = transfer(copy, "prune", *PARAMS, "--set", "seeds=[0]", "--yes")
    assert pruned.returncode == 0 and "seed1/model.safetensors: seed1 is not in seeds" in pruned.stdout
    left = sorted(path.parent.name for path in (copy.root / "results/smallest/runs").rglob("model.safetensors"))
    assert left == ["seed0"] * 6
    assert copy.scheduled(*one) == {}
    checked = transfer(copy, "track", "check", *PARAMS, "--set", "seeds=[0]")
    assert checked.returncode == 0 and "cells, all as in MLflow" in checked.stdout, checked.stdout
    assert copy.scheduled() == TABLE, "named again, the figures are still there"


def test_after_a_clean_only_what_went_is_made_again(copy):
    data = {path: path.stat().st_mtime for path in (copy.root / "results/smallest/data").rglob("*") if path.is_file()}
    assert transfer(copy, "clean", "smallest", "--part", "state", "--part", "logs", "--yes").returncode == 0
    assert copy.scheduled() == {}
    done = transfer(copy, "clean", "smallest", "--yes")
    assert done.returncode == 0 and "results/table1.csv" in done.stdout
    assert not (copy.root / "results/table1.csv").exists()
    assert copy.scheduled() == {"train_model": 12, "evaluate_run": 12, **TABLE}
    assert {path: path.stat().st_mtime for path in data} == data
    assert (copy.root / "data/raw/demo_rafdb.zip").exists()


def test_a_workflow_waits_for_a_removal_and_says_so(copy):
    with open(copy.root / ".snakemake/running", "w") as removal:
        fcntl.flock(removal, fcntl.LOCK_EX)
        running = subprocess.Popen(
            copy.command(),
            cwd=copy.root,
            env=copy.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        line = next(line for line in running.stdout if "held by" in line)
        assert ".snakemake/running: held by a process that removes files" in line
    assert "Nothing to be done" in running.communicate(timeout=100)[0]
    assert running.returncode == 0
