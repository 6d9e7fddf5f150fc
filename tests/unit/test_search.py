"""Workers on a study: how many trials, which, on what data, and what a killed one leaves."""

import json
import os
import shutil
import signal

import numpy as np
import pandas as pd
import pytest
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState
from tiny_search import (
    GRID,
    GRID_CELLS,
    LANETS,
    MAD,
    MSAD,
    SPACE,
    kill,
    load,
    outcome,
    scripted,
    search_params,
    start_worker,
    states,
    wait_for,
)
from tiny_training import COUNTS, tiny_dataset

from transfer.layout import Layout
from transfer.search.study import make_sampler, trial_params
from transfer.search.worker import work
from transfer.training import data as data_module
from transfer.training.epoch import Diverged
from transfer.training.listeners import Listener
from transfer.training.run import fit, train
from transfer.training.signals import Stopped
from transfer.utils.errors import UserError


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return tiny_dataset(tmp_path_factory.mktemp("dataset"))


@pytest.fixture
def layout(dataset, tmp_path):
    """The dataset in a folder of its own."""
    shutil.copytree(dataset.root / "data", tmp_path / "tiny" / "data")
    return Layout("tiny", tmp_path)


@pytest.fixture(scope="module")
def uninterrupted(dataset, tmp_path_factory):
    """What one worker finds: the outcome, and where."""
    root = tmp_path_factory.mktemp("uninterrupted")
    shutil.copytree(dataset.root / "data", root / "tiny" / "data")
    layout = Layout("tiny", root)
    work(search_params(), "searched", "faces", 0, layout)
    return outcome(load(search_params(), layout)), layout


class EachEpoch(Listener):
    """Calls a function after each epoch."""

    def __init__(self, function):
        self.function = function

    def on_epoch(self, row):
        self.function(row)


# --- one worker ---


def test_as_many_trials_as_asked_for(uninterrupted):
    found, layout = uninterrupted
    assert len(found) == 5 and states(search_params(), layout) == {"COMPLETE": 5}
    work(search_params(), "searched", "faces", 1, layout)
    assert states(search_params(), layout) == {"COMPLETE": 5}
    assert json.loads((layout.search("searched") / "faces" / "worker0.json").read_text())["trials"] == [0, 1, 2, 3, 4]
    assert json.loads((layout.search("searched") / "faces" / "worker1.json").read_text())["trials"] == []
    assert not list(layout.search_state("searched", "faces").iterdir())
    assert load(search_params(), layout).metric_names == ["validation accuracy"], "the dashboard's axis label"


def test_a_worker_that_the_search_does_not_have(layout):
    with pytest.raises(UserError, match="--worker 2: search searched has workers 0 to 1"):
        work(search_params(), "searched", "faces", 2, layout)


def test_a_study_that_is_continued_is_as_one_in_a_single_go(uninterrupted, layout):
    work(search_params(trials=3), "searched", "faces", 0, layout)
    work(search_params(), "searched", "faces", 0, layout)
    assert outcome(load(search_params(), layout)) == uninterrupted[0]


def test_every_worker_and_every_trial_has_its_own_seed():
    searches = [search_params(sampler_seed=seed).search_definitions["searched"] for seed in (0, 1)]
    samplers = [make_sampler(search, worker, index) for search in searches for worker in (0, 1) for index in (0, 1)]
    assert len({sampler._rng.rng.randint(1 << 30) for sampler in samplers}) == 8


def test_a_trial_is_a_run_of_the_recipe(uninterrupted, layout):
    """Same validation accuracies, epoch by epoch, as a run of the recipe that best.yaml would name."""
    params = search_params()
    trial = load(params, uninterrupted[1]).trials[4]
    recipe = trial_params(params, "faces", "searched", trial.user_attrs["values"])
    train(recipe.model_copy(update={"protocols": ["val_selected"]}), "faces", "searched", 0, layout)
    history = pd.read_csv(layout.run("faces", "searched", 0) / "history.csv")
    assert list(trial.intermediate_values.items()) == list(zip(history["epoch"], history["val_accuracy"], strict=True))
    assert trial.value == history["val_accuracy"].max()


def test_the_value_is_the_mean_over_the_seeds(layout):
    params = search_params(trials=1, seeds=[0, 3])
    accuracies = {0: [0.2, 0.4], 3: [0.8, 0.6]}
    work(params, "searched", "faces", 0, layout, train=scripted(lambda run: accuracies[run.seed]))
    (trial,) = load(params, layout).trials
    assert trial.user_attrs["accuracies"] == {"0": 0.4, "3": 0.8} and trial.value == pytest.approx(0.6)
    assert trial.intermediate_values == pytest.approx({1: 0.2, 2: 0.4, 3: 0.6, 4: 0.5})


@pytest.mark.parametrize("storage", ["journal", "sqlite:///{}/studies.db"])
def test_a_grid_is_every_cell_once(layout, tmp_path, storage):
    params = search_params(storage=storage.format(tmp_path), epochs=1, **GRID)
    work(params, "searched", "faces", 0, layout, train=scripted())
    found = [trial.params for trial in load(params, layout).get_trials(states=[TrialState.COMPLETE])]
    assert len(found) == GRID_CELLS
    for cell in ({LANETS: 1}, *({MAD: mad, LANETS: n} for mad in (0, 0.5) for n in (2, 3))):
        assert cell in found


def test_the_listeners_of_a_trial(layout):
    params, seen = search_params(trials=2), []

    def listeners(trial):
        return [EachEpoch(lambda row: seen.append((trial, row["val_accuracy"])))]

    work(params, "searched", "faces", 0, layout, listeners, scripted(lambda run: [0.1, 0.2]))
    assert seen == [(0, 0.1), (0, 0.2), (1, 0.1), (1, 0.2)]


# --- the test split ---


def test_the_test_split_is_never_read(uninterrupted, layout, monkeypatch):
    """Its labels, votes and pixels are replaced by nonsense, and asking for one of its faces is an error."""
    data = layout.data("faces")
    split = pd.read_parquet(data / "split.parquet")
    test = split["split"] == "test"
    pixels = np.load(data / "aligned.npy")
    pixels[split.loc[test, "row"]] = 255 - pixels[split.loc[test, "row"]]
    np.save(data / "aligned.npy", pixels)
    for name in ("split", "aligned", "index"):
        table = pd.read_parquet(data / f"{name}.parquet")
        table.loc[table["split"] == "test", "label"] = 77
        if "class_name" in table:
            table.loc[table["split"] == "test", "class_name"] = "nonsense"
        table.to_parquet(data / f"{name}.parquet")

    asked = set()

    class Guarded(data_module.FaceStore):
        def __init__(self, path, rows, **input):
            assert not test[rows].any(), "the store is told of test faces"
            super().__init__(path, rows=rows, **input)

        def images(self, rows, device):
            assert not test[rows].any(), "a test face is read"
            asked.update(rows.tolist())
            return super().images(rows, device)

    monkeypatch.setattr(data_module, "FaceStore", Guarded)
    work(search_params(), "searched", "faces", 0, layout)
    assert outcome(load(search_params(), layout)) == uninterrupted[0]
    assert len(asked) == sum(COUNTS["train"]) + sum(COUNTS["val"])


def test_a_trial_s_run_knows_no_test_row(layout, tmp_path):
    params = trial_params(search_params(epochs=1), "faces", "searched", {MAD: 0.5})
    data = fit(params, "faces", "searched", 0, layout, splits=("val",), state_dir=tmp_path / "state").data
    split = pd.read_parquet(layout.data("faces") / "split.parquet").sort_values("row")
    n = len(data.labels)
    test = (split["split"] == "test").to_numpy()[:n]
    assert set(data.rows) == {"train", "val"}
    assert (data.labels[test] == -1).all() and pd.isna(data.samples[test]).all()
    assert (data.labels[~test] == split["label"].to_numpy()[:n][~test]).all()


# --- pruning ---


def test_a_trial_worse_than_the_median_is_pruned(layout):
    accuracies = iter([[0.5, 0.6], [0.5, 0.7], [0.4, 0.9]])
    params = search_params(trials=3, pruner={"kind": "median", "startup_trials": 2, "warmup_epochs": 1})
    work(params, "searched", "faces", 0, layout, train=scripted(lambda run: next(accuracies)))
    trials = load(params, layout).trials
    assert [(trial.state.name, trial.value) for trial in trials] == [
        ("COMPLETE", 0.6),
        ("COMPLETE", 0.7),
        ("PRUNED", 0.4),
    ]
    assert trials[2].intermediate_values == {1: 0.4}


def test_a_diverging_trial_counts_as_pruned(layout):
    runs = iter([Diverged("the loss is not finite"), [0.5]])

    def accuracies(run):
        if isinstance(found := next(runs), Exception):
            raise found
        return found

    params = search_params(trials=2)
    work(params, "searched", "faces", 0, layout, train=scripted(accuracies))
    trials = load(params, layout).trials
    assert [trial.state.name for trial in trials] == ["PRUNED", "COMPLETE"]
    assert "not finite" in trials[0].user_attrs["diverged"]


# --- killed, stopped, failed ---


@pytest.mark.parametrize("storage", ["journal", "sqlite:///{}/studies.db"])
def test_a_killed_worker_changes_nothing_but_one_failed_trial(uninterrupted, layout, tmp_path, storage):
    params = search_params(storage=storage.format(tmp_path))
    state = layout.search_state("searched", "faces") / "trial2" / "seed0" / "last.pt"
    process = start_worker(params, layout)
    wait_for(state.exists)
    kill(process)
    assert states(params, layout) == {"COMPLETE": 2, "RUNNING": 1}
    work(params, "searched", "faces", 0, layout)
    trials = load(params, layout).trials
    assert [trial.state.name for trial in trials] == ["COMPLETE"] * 2 + ["FAIL"] + ["COMPLETE"] * 3
    assert trials[3].params == trials[2].params
    assert outcome(load(params, layout)) == uninterrupted[0]
    assert not list(layout.search_state("searched", "faces").iterdir())


def test_a_retry_continues_the_runs_of_the_killed_trial(layout):
    params, epochs = search_params(trials=1, epochs=3), []

    def count(row):
        epochs.append(row["epoch"])
        if epochs == [1, 2]:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        work(params, "searched", "faces", 0, layout, lambda trial: [EachEpoch(count)])
    work(params, "searched", "faces", 0, layout, lambda trial: [EachEpoch(count)])
    assert epochs == [1, 2, 3]
    failed, finished = load(params, layout).trials
    assert (failed.state.name, finished.state.name) == ("FAIL", "COMPLETE")
    assert list(finished.intermediate_values) == [1, 2, 3]


def test_a_stopped_worker_saves_its_trial(uninterrupted, layout):
    """SIGTERM in the second trial: the next worker continues it."""
    params, epochs = search_params(), []

    def stop(row):
        epochs.append(row["epoch"])
        if len(epochs) == 3:
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(Stopped) as caught:
        work(params, "searched", "faces", 0, layout, lambda trial: [EachEpoch(stop)])
    assert caught.value.exit_code == 143
    assert states(params, layout) == {"COMPLETE": 1, "FAIL": 1}
    work(params, "searched", "faces", 0, layout)
    assert outcome(load(params, layout)) == uninterrupted[0]


def test_a_trial_that_cannot_be_trained_is_retried(layout):
    params = search_params(trials=2)

    def no_gpu(run):
        raise UserError("no GPU")

    with pytest.raises(UserError, match="no GPU"):
        work(params, "searched", "faces", 0, layout, train=scripted(no_gpu))
    assert states(params, layout) == {"FAIL": 1}
    work(params, "searched", "faces", 1, layout, train=scripted())
    trials = load(params, layout).trials
    assert [trial.state.name for trial in trials] == ["FAIL", "COMPLETE", "COMPLETE"]
    assert trials[1].params == trials[0].params


def test_kills_between_any_two_writes_lose_no_cell(layout, monkeypatch):
    params = search_params(epochs=1, **GRID)
    append, writes = JournalFileBackend.append_logs, []

    def dying(backend, logs):
        writes.append(logs)
        if len(writes) >= die_at:  # and so do the writes by which Optuna would note the failure
            raise KeyboardInterrupt
        append(backend, logs)

    for die_at in range(1, 12):  # noqa: B007  dying() reads it
        writes.clear()
        with monkeypatch.context() as patch:
            patch.setattr(JournalFileBackend, "append_logs", dying)
            with pytest.raises((KeyboardInterrupt, UnboundLocalError)):
                work(params, "searched", "faces", 0, layout, train=scripted())
    work(params, "searched", "faces", 0, layout, train=scripted())
    finished = load(params, layout).get_trials(states=[TrialState.COMPLETE])
    assert len({tuple(sorted(trial.params.items())) for trial in finished}) == len(finished) == GRID_CELLS


# --- several workers ---


def test_two_workers_share_a_study(layout):
    # always two LANets or more: mad, a real number, tells any two draws apart
    params = search_params(trials=6, epochs=1, space=SPACE | {LANETS: {"low": 2, "high": 3, "step": 1}})
    workers = [start_worker(params, layout, number) for number in range(2)]
    for process in workers:
        process.join(timeout=100)
    assert [process.exitcode for process in workers] == [0, 0]
    found = states(params, layout)
    assert set(found) == {"COMPLETE"} and found["COMPLETE"] in (6, 7), "at most one more per other worker"
    trials = load(params, layout).trials
    assert len({json.dumps(trial.params) for trial in trials}) == len(trials)


def test_a_worker_leaves_the_trials_of_others_alone(layout):
    params = search_params(trials=2)

    def meanwhile(run):
        if run.seed == 0 and not started:
            started.append(True)
            work(params, "searched", "faces", 1, layout, train=scripted())
        return [0.5]

    started = []
    work(params, "searched", "faces", 0, layout, train=scripted(meanwhile))
    assert states(params, layout) == {"COMPLETE": 2}


def test_a_trial_of_a_worker_that_is_no_longer_there_is_retried(layout):
    def killed(run):
        raise SystemExit  # Optuna does not see it: the trial stays running

    params = search_params(trials=1, workers=4)
    with pytest.raises(SystemExit):
        work(params, "searched", "faces", 3, layout, train=scripted(killed))
    work(params, "searched", "faces", 0, layout, train=scripted())
    assert states(params, layout) == {"RUNNING": 1}, "worker 3 may be at work"
    fewer = search_params(trials=1, workers=2)
    work(fewer, "searched", "faces", 0, layout, train=scripted())
    assert states(params, layout) == {"FAIL": 1, "COMPLETE": 1}


# --- a study about something else ---


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"space": {MAD: {"low": 0, "high": 0.8}}}, "another space,"),
        ({"seeds": [1]}, "another seeds,"),
        ({"epochs": 3}, "another recipe,"),
        ({"recipe": "baseline", "space": {MSAD: [0.1]}}, "another recipe, space,"),
        ({"model": {"msad_mode": "token"}}, "another recipe,"),
        (GRID, "another sampler, space,"),
    ],
)
def test_a_study_about_something_else_is_refused(uninterrupted, changes, what):
    with pytest.raises(UserError, match="study tiny/searched/faces in .* created with") as error:
        work(search_params(**changes), "searched", "faces", 0, uninterrupted[1])
    assert what in str(error.value) and "\n" not in str(error.value)
    assert len(load(search_params(), uninterrupted[1]).trials) == 5


def test_a_study_of_other_faces_is_refused(uninterrupted, layout):
    shutil.copytree(uninterrupted[1].root / "search", layout.root / "search")
    split = pd.read_parquet(layout.data("faces") / "split.parquet")
    split.iloc[::-1].to_parquet(layout.data("faces") / "split.parquet")
    with pytest.raises(UserError, match="created with another data,"):
        work(search_params(), "searched", "faces", 0, layout)
