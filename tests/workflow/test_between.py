"""Removing files between runs: what is left is up to date, and what went is made again."""

import sys

import pytest

pytestmark = pytest.mark.workflow

TABLE = {"make_table": 1, "publish_table": 1}
PARAMS = ("--params", "tests/workflow/smallest.yaml")


def transfer(repository, *arguments):
    return repository.process(sys.executable, "-m", "transfer", *arguments)


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
    done = copy.process("sh", "-c", "echo y | make clean EXPERIMENT=smallest")
    assert done.returncode == 0 and "results/table1.csv" in done.stdout, done.stdout
    assert not (copy.root / "results/table1.csv").exists()
    assert copy.scheduled() == {"train_model": 12, "evaluate_run": 12, **TABLE}
    assert {path: path.stat().st_mtime for path in data} == data
    assert (copy.root / "data/raw/demo_rafdb.zip").exists()
