"""A search from the command `snakemake search` to its row in the table; killed on the way."""

import contextlib
import os
import signal
import sqlite3
import time

import pandas as pd
import pytest
from repository import SMALLEST, Repository

pytestmark = pytest.mark.workflow

ONE = ("--config", "datasets=[demo_rafdb]")
BEST = "results/smallest/search/searched/best.yaml"


def test_search(copy):
    assert copy.scheduled("search", *ONE) == {"search_worker": 2, "report_search": 1, "search": 1}

    # Everything is killed while a trial is trained.
    running = copy.start("search", *ONE)
    end = time.monotonic() + 300
    while not list(copy.root.glob("results/smallest/state/search/searched/demo_rafdb/trial*/seed0/last.pt")):
        assert running.poll() is None and time.monotonic() < end
        time.sleep(0.05)
    os.killpg(running.pid, signal.SIGKILL)
    running.wait()
    assert not (copy.root / BEST).exists()

    done = copy.snakemake("search", *ONE)
    assert done.returncode == 0, done.stdout
    folder = copy.root / "results/smallest/search/searched/demo_rafdb"
    trials = pd.read_csv(folder / "trials.csv")
    assert trials["state"].isin(["complete", "pruned"]).sum() in (4, 5), "at most one more, by the other worker"
    assert (trials["state"] == "fail").sum() == trials["replaces"].notna().sum() >= 1
    for name in ("grid.csv", "importances.json", "history.png", "slices.png", "contour.png", "importances.png"):
        assert (folder / name).stat().st_size > 0 or name == "grid.csv", name
    assert copy.scheduled("search", *ONE) == {}
    runs = copy.root / "results/smallest/state/search"
    assert not [path for path in runs.rglob("*") if path.is_file()], "no checkpoint is left"

    # Every trial that was finished is a run in MLflow, but one that ended in the moment of the kill.
    with contextlib.closing(sqlite3.connect(copy.root / "mlflow.db")) as database:
        query = "SELECT r.name FROM runs r JOIN experiments e USING (experiment_id) WHERE e.name = ?"
        shown = {name for (name,) in database.execute(query, ["smallest/search/searched/demo_rafdb"])}
    finished = trials.loc[trials["state"] != "fail", "trial"]
    assert len({f"trial{number}/seed0" for number in finished} - shown) <= 1

    # What it found is a recipe that the table names; nothing else is trained again.
    found = Repository(copy.root, *SMALLEST, BEST, *ONE)
    jobs = found.scheduled()
    assert (jobs["train_model"], jobs["evaluate_run"]) == (2, 2)
    done = found.snakemake()
    assert done.returncode == 0, done.stdout
    table = pd.read_csv(copy.root / "results/table1.csv").set_index(["recipe", "protocol"])
    assert table.index.unique("recipe").tolist() == ["baseline", "full", "searched"]
    best = trials[trials["state"] == "complete"].sort_values("val_accuracy", kind="stable", ascending=False)
    best = best[best["val_accuracy"] == best["val_accuracy"].iloc[0]].iloc[0]
    row = table.loc[("searched", "val_selected")]
    assert row["local_cnns"] == best["model.args.num_lanets"]
    assert (row["mad"], row["msad"]) == pytest.approx((best["model.args.mad"], best["model.args.msad"]))


def test_more_trials_run_the_search_again_and_nothing_else(copy):
    more = ("--config", "datasets=[demo_rafdb]", "search_definitions={searched: {workers: 3}}")
    assert copy.scheduled("search", *more) == {"search_worker": 3, "report_search": 1, "search": 1}
