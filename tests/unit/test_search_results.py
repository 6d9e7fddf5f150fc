"""What a search leaves: best.yaml, tables, importances, figures, and its studies in the dashboard."""

import json
import os
import shutil
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path

import optuna
import pandas as pd
import pytest
import yaml
from PIL import Image
from tiny_search import GRID, GRID_CELLS, search_params, wait_for
from tiny_training import tiny_dataset

from transfer.layout import Layout
from transfer.params import Params, merge
from transfer.search import worker
from transfer.search.dashboard import serve
from transfer.search.results import report
from transfer.search.storage import Store
from transfer.utils.errors import UserError

ROOT = Path(__file__).parents[2]

FIGURES = ("history.png", "slices.png", "contour.png", "importances.png")


@pytest.fixture
def layout(tmp_path):
    return tiny_dataset(tmp_path)


@pytest.fixture
def searched(layout, monkeypatch):
    """Run a search whose trials are not trained: their values are a function of their parameters."""

    def run(value, params=None, **changes):
        def objective(study, trial, *_):
            accuracy = value(trial)
            trial.set_user_attr("accuracies", {"0": accuracy - 0.01, "1": accuracy + 0.01})
            return accuracy

        monkeypatch.setattr(worker, "_objective", objective)
        params = params or search_params(**changes)
        worker.work(params, "searched", "faces", 0, layout)
        report(params, "searched", layout)
        return params, layout.search("searched")

    return run


def looked_at(folder) -> None:
    """The figures are pictures with something on them."""
    for name in FIGURES:
        with Image.open(folder / name) as picture:
            assert min(picture.size) > 100 and len(picture.convert("RGB").getcolors(1 << 24)) > 10, name


def test_the_best_trial_is_the_recipe_searched(searched):
    params, folder = searched(lambda trial: 0.9 - abs(trial.params["msad"] - 0.3), trials=8)
    text = (folder / "best.yaml").read_text()
    trials = pd.read_csv(folder / "faces" / "trials.csv")
    best = trials.loc[trials["val_accuracy"].idxmax()]  # the first of equals
    assert f"# faces: trial {best['trial']}, validation accuracy 0.9000, best of 8 completed and 0 pruned" in text
    written = yaml.safe_load(text)
    assert written["recipes"] == ["baseline", "full", "searched"]
    read = Params.model_validate(merge(params.model_dump(mode="json", exclude_unset=True), written))
    run = read.run("faces", "searched")
    assert (run.model.mad, run.model.msad, run.model.num_lanets) == tuple(best[["mad", "msad", "num_lanets"]])
    assert run.train == params.run("faces", "full").train, "the length of the search's trainings is not taken over"
    assert read.run("faces", "full") == params.run("faces", "full")
    looked_at(folder / "faces")


def test_tables_of_trials_and_cells(searched):
    params, folder = searched(lambda trial: 0.5 + trial.params["num_lanets"] / 10, **GRID)
    trials = pd.read_csv(folder / "faces" / "trials.csv")
    assert len(trials) == GRID_CELLS and (trials["state"] == "complete").all()
    grid = pd.read_csv(folder / "faces" / "grid.csv")
    names = ["mad", "msad", "num_lanets", "upsample", "n_trials", "n_seeds", "val_accuracy", "val_accuracy_std"]
    assert grid.columns.tolist() == names
    assert grid[["mad", "num_lanets"]].to_numpy().tolist() == [[0, 1], [0, 2], [0, 3], [0.5, 2], [0.5, 3]]
    assert (grid["msad"] == 0.3).all() and (grid["upsample"] == "full").all(), "what the recipe has, where not searched"
    assert grid["val_accuracy"].tolist() == pytest.approx([0.6, 0.7, 0.8, 0.7, 0.8])
    assert grid["val_accuracy_std"].tolist() == pytest.approx([0.02 / 2**0.5] * GRID_CELLS)
    assert (grid["n_trials"] == 1).all() and (grid["n_seeds"] == 2).all()
    importances = json.loads((folder / "faces" / "importances.json").read_text())
    assert list(importances)[0] == "num_lanets" and sum(importances.values()) == pytest.approx(1)
    looked_at(folder / "faces")


def test_pruned_trials_are_shown_and_never_best(searched):
    def value(trial):
        trial.report(0.99 if trial.number == 1 else 0.5, 1)
        if trial.number == 1:
            raise optuna.TrialPruned
        return 0.6

    _, folder = searched(value, trials=3)
    trials = pd.read_csv(folder / "faces" / "trials.csv")
    assert trials["state"].tolist() == ["complete", "pruned", "complete"]
    assert trials["val_accuracy"].isna().tolist() == [False, True, False]
    assert "trial 0, validation accuracy 0.6000, best of 2 completed and 1 pruned" in (folder / "best.yaml").read_text()
    assert pd.read_csv(folder / "faces" / "grid.csv")["n_trials"].sum() == 2
    assert json.loads((folder / "faces" / "importances.json").read_text()) == {}, "all completed trials are alike"
    looked_at(folder / "faces")


def test_one_parameter_and_one_trial_have_figures_too(searched):
    _, folder = searched(lambda trial: 0.5, trials=1, space={"upsample": ["full", "none"]})
    looked_at(folder / "faces")


def test_a_recipe_that_is_searched_again_stands_once(searched):
    again = search_params(trials=1).model_copy(update={"recipes": ["baseline", "searched", "full"]})
    _, folder = searched(lambda trial: 0.5, params=again)
    assert yaml.safe_load((folder / "best.yaml").read_text())["recipes"] == ["baseline", "full", "searched"]


def test_an_unfinished_search_has_no_result(searched, layout):
    with pytest.raises(UserError, match="study tiny/searched/faces: not in .*journal.log; run it with"):
        report(search_params(), "searched", layout)
    searched(lambda trial: 0.5, trials=2)
    (layout.search("searched") / "best.yaml").unlink()
    with pytest.raises(UserError, match="study tiny/searched/faces: 2 of 3 trials are finished; start its workers"):
        report(search_params(trials=3), "searched", layout)
    assert not (layout.search("searched") / "best.yaml").exists()


def test_a_search_without_a_completed_trial_says_so(searched):
    def value(trial):
        raise optuna.TrialPruned

    with pytest.raises(UserError, match="study tiny/searched/faces: no trial was completed"):
        searched(value, trials=2)


# --- the dashboard ---


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def test_the_dashboard_shows_every_study_on_loopback_alone(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "params").mkdir()
    shutil.copy(ROOT / "params" / "default.yaml", tmp_path / "params")
    storage = Store(str(Layout("demo").journal)).open()
    names = {"demo/searched/demo_rafdb", "demo/rates/demo_ferplus"}
    for name in names:
        optuna.create_study(storage=storage, study_name=name, direction="maximize")
    port = free_port()
    command = [sys.executable, "-P", "-m", "transfer", "dashboard", "--port", str(port)]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)
    try:

        def answer(path):
            with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=10) as page:
                return page.read().decode()

        def ready():
            assert process.poll() is None, process.stderr.read()
            try:
                return bool(answer("/api/studies"))
            except (urllib.error.URLError, ConnectionError):
                return False

        wait_for(ready)
        shown = json.loads(answer("/api/studies"))["study_summaries"]
        assert {study["study_name"] for study in shown} == names
        assert "<html" in answer("/dashboard/").lower()
        with open("/proc/net/tcp") as table:
            listening = [line.split()[1] for line in table if line.split()[3] == "0A" and f":{port:04X}" in line]
        assert listening == [f"0100007F:{port:04X}"]
    finally:
        process.terminate()
        process.wait(timeout=30)


def test_a_dashboard_without_a_study_says_so(layout):
    with pytest.raises(UserError, match="journal.log: no study yet; make one with snakemake search"):
        serve(search_params(), layout, free_port())
    assert not layout.journal.exists()


def test_a_port_that_is_taken_is_said(searched, layout):
    params, _ = searched(lambda trial: 0.5, trials=1)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(UserError, match="port [0-9]+: Address already in use; choose another one with --port"):
            serve(params, layout, taken.getsockname()[1])
