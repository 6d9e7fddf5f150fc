"""Workers on a study: how many trials, which, on what data, and what a killed one leaves."""

import json
import multiprocessing
import os
import random
import shutil
import signal
import time
from collections import Counter

import numpy as np
import optuna
import pandas as pd
import pytest
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState
from tiny_search import GRID, GRID_CELLS, kill, outcome, search_params, start_worker, wait_for
from tiny_training import COUNTS, tiny_dataset

from transfer.layout import Layout
from transfer.search import study as shared
from transfer.search import trial as trial_module
from transfer.search import worker as worker_module
from transfer.search.space import trial_params
from transfer.search.storage import store_of
from transfer.search.study import SharedStudy
from transfer.search.worker import work
from transfer.training import batches, run
from transfer.training.epoch import Diverged
from transfer.training.run import train
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


def load(params, layout) -> optuna.Study:
    return optuna.load_study(study_name="tiny/searched/faces", storage=store_of(params, layout).open())


def states(params, layout) -> Counter:
    return Counter(trial.state.name for trial in load(params, layout).get_trials())


def open_study(params, layout) -> SharedStudy:
    return SharedStudy(params, "searched", "faces", layout, {"about": "the same"})


# --- one worker ---


def test_as_many_trials_as_asked_for_and_no_more(uninterrupted):
    found, layout = uninterrupted
    assert len(found) == 6
    assert states(search_params(), layout) == {"COMPLETE": 6}
    work(search_params(), "searched", "faces", 0, layout)
    work(search_params(workers=3), "searched", "faces", 2, layout)
    assert states(search_params(), layout) == {"COMPLETE": 6}
    assert json.loads((layout.search("searched") / "faces" / "worker0.json").read_text())["trials"] == []
    assert not layout.search_state("searched", "faces").exists()
    assert load(search_params(), layout).metric_names == ["validation accuracy"], (
        "what the dashboard writes at its axes"
    )


def test_more_trials_of_the_same_study(uninterrupted, layout):
    shutil.copytree(uninterrupted[1].root / "search", layout.root / "search")
    work(search_params(trials=8), "searched", "faces", 0, layout)
    again = outcome(load(search_params(), layout))
    assert len(again) == 8 and again[:6] == uninterrupted[0]


def test_one_worker_and_a_seed_fix_every_bit(uninterrupted, layout):
    work(search_params(), "searched", "faces", 0, layout)
    assert outcome(load(search_params(), layout)) == uninterrupted[0]


def test_another_sampler_seed_draws_other_values(layout):
    params = search_params(trials=1, sampler_seed=1, epochs=1)
    work(params, "searched", "faces", 0, layout)
    assert load(params, layout).trials[0].params != {}
    drawn = [shared.make_sampler(params.search_definitions["searched"], i)._rng.rng.randint(1 << 30) for i in (0, 1)]
    other = search_params().search_definitions["searched"]
    assert len({*drawn, *(shared.make_sampler(other, i)._rng.rng.randint(1 << 30) for i in (0, 1))}) == 4


def test_a_trial_is_the_training_of_the_recipe(uninterrupted, layout):
    """Same validation accuracies, epoch by epoch, as a training of the recipe that best.yaml would name."""
    params = search_params()
    trial = load(params, uninterrupted[1]).trials[4]
    recipe = trial_params(params, "faces", "searched", trial.user_attrs["values"])
    train(recipe.model_copy(update={"protocols": ["val_selected"]}), "faces", "searched", 0, layout)
    history = pd.read_csv(layout.run("faces", "searched", 0) / "history.csv")
    assert list(trial.intermediate_values.items()) == list(zip(history["epoch"], history["val_accuracy"], strict=True))
    assert trial.value == history["val_accuracy"].max()


def test_the_value_is_the_mean_over_the_seeds(layout):
    params = search_params(trials=1, seeds=[0, 3])
    work(params, "searched", "faces", 0, layout)
    (trial,) = load(params, layout).trials
    accuracies = trial.user_attrs["accuracies"]
    assert list(accuracies) == ["0", "3"] and trial.value == pytest.approx(np.mean(list(accuracies.values())))
    steps = trial.intermediate_values
    assert list(steps) == [1, 2, 3, 4]
    assert max(steps[1], steps[2]) == accuracies["0"]
    assert max(2 * steps[3], 2 * steps[4]) - accuracies["0"] == pytest.approx(accuracies["3"])


@pytest.mark.parametrize("storage", ["journal", "sqlite:///{}/studies.db"])
def test_a_grid_is_every_cell_once(layout, tmp_path, storage):
    params = search_params(storage=storage.format(tmp_path), epochs=1, **GRID)
    work(params, "searched", "faces", 0, layout)
    found = [trial.params for trial in load(params, layout).get_trials(states=[TrialState.COMPLETE])]
    assert found == [
        {"num_lanets": 1},
        {"mad": 0, "num_lanets": 2},
        {"mad": 0, "num_lanets": 3},
        *({"mad": 0.5, "num_lanets": lanets} for lanets in (2, 3)),
    ]


def test_every_trial_is_a_run_in_mlflow(layout, monkeypatch):
    begun, epochs, ended = [], [], []

    class Recorder:
        run_id = None

        def log_epoch(self, epoch, metrics):
            epochs.append((epoch, metrics["val_accuracy"]))

        def finish(self, status):
            ended.append(status)

    monkeypatch.setattr("transfer.tracking.Tracking.start", lambda **start: begun.append(start) or Recorder())
    params = search_params(trials=2, tracking=True)
    work(params, "searched", "faces", 0, layout)
    trials = load(params, layout).trials
    names = [(start["experiment"], start["dataset"], start["recipe"], start["seed"]) for start in begun]
    assert names == [("tiny", "search/searched/faces", f"trial{number}", 0) for number in range(2)]
    assert [start["params"]["model"]["msad"] for start in begun] == [trial.params["msad"] for trial in trials]
    assert all(start["enabled"] and start["tags"]["search"] == "searched" for start in begun)
    assert epochs == [point for trial in trials for point in trial.intermediate_values.items()]
    assert ended == ["FINISHED", "FINISHED"]


# --- the test part ---


def test_the_test_part_is_never_read(uninterrupted, dataset, layout, monkeypatch):
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

    class Guarded(batches.FaceStore):
        def __init__(self, path, img_size, rows):
            assert not test[rows].any(), "the store is told of test faces"
            super().__init__(path, img_size, rows)

        def images(self, rows, device):
            assert not test[rows].any(), "a test face is read"
            asked.update(rows.tolist())
            return super().images(rows, device)

    monkeypatch.setattr(run, "FaceStore", Guarded)
    work(search_params(), "searched", "faces", 0, layout)
    assert outcome(load(search_params(), layout)) == uninterrupted[0]
    assert len(asked) == sum(COUNTS["train"]) + sum(COUNTS["val"])


def test_no_part_of_a_trial_knows_a_test_row(layout, tmp_path):
    params = trial_params(search_params(), "faces", "searched", {"mad": 0.5})
    training = trial_module.TrialTraining(params, "faces", "searched", 0, 0, tmp_path, layout)
    split = pd.read_parquet(layout.data("faces") / "split.parquet").sort_values("row")
    test = (split["split"] == "test").to_numpy()
    assert set(training.rows) == {"train", "val"}
    n = len(training.labels)
    assert (training.labels[test[:n]] == -1).all() and pd.isna(training.samples[test[:n]]).all()
    assert (training.labels[~test[:n]] == split["label"].to_numpy()[:n][~test[:n]]).all()


# --- giving up ---


def test_a_trial_worse_than_the_median_is_given_up(layout, monkeypatch):
    accuracies = iter([0.5, 0.6, 0.5, 0.7, 0.4])  # two trials of two epochs; the third is below their median at once

    def scripted(self, row):
        self.history.append(row | {"val_accuracy": next(accuracies), "val_loss": 1.0})

    monkeypatch.setattr(run.Training, "_evaluate", scripted)
    pruner = {"kind": "median", "startup_trials": 2, "warmup_epochs": 1}
    params = search_params(trials=3, pruner=pruner)
    work(params, "searched", "faces", 0, layout)
    trials = load(params, layout).trials
    assert [(trial.state.name, trial.value) for trial in trials] == [
        ("COMPLETE", 0.6),
        ("COMPLETE", 0.7),
        ("PRUNED", 0.4),
    ]
    assert trials[2].intermediate_values == {1: 0.4}


def test_a_diverging_trial_is_given_up_and_the_search_goes_on(layout, monkeypatch):
    evaluate, calls = run.Training._evaluate, []

    def diverging(self, row):
        calls.append(row["epoch"])
        if len(calls) == 2:
            raise Diverged("the loss is no longer finite")
        evaluate(self, row)

    monkeypatch.setattr(run.Training, "_evaluate", diverging)
    params = search_params(trials=2)
    work(params, "searched", "faces", 0, layout)
    trials = load(params, layout).trials
    assert [trial.state.name for trial in trials] == ["PRUNED", "COMPLETE"]
    assert "no longer finite" in trials[0].user_attrs["diverged"]
    assert not layout.search_state("searched", "faces").exists()


# --- what is killed, or fails ---


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
    assert [trial.state.name for trial in trials] == ["COMPLETE"] * 2 + ["FAIL"] + ["COMPLETE"] * 4
    assert (trials[3].user_attrs["replaces"], trials[3].params) == (2, trials[2].params)
    assert outcome(load(params, layout)) == uninterrupted[0]
    assert not layout.search_state("searched", "faces").exists()


def test_the_repetition_continues_the_trainings_of_the_killed_trial(layout, monkeypatch):
    params = search_params(trials=1, epochs=3)
    epochs = []
    train_epoch = run.train_epoch

    def counting(*arguments):
        epochs.append(arguments[3].epoch)
        if epochs == [0, 1]:
            raise KeyboardInterrupt
        return train_epoch(*arguments)

    monkeypatch.setattr(run, "train_epoch", counting)
    with pytest.raises(KeyboardInterrupt):
        work(params, "searched", "faces", 0, layout)
    work(params, "searched", "faces", 0, layout)
    assert epochs == [0, 1, 1, 2]
    failed, finished = load(params, layout).trials
    assert (failed.state.name, finished.state.name) == ("FAIL", "COMPLETE")
    assert list(finished.intermediate_values) == [1, 2, 3]


def test_a_worker_that_is_told_to_stop_saves_its_trial(uninterrupted, layout, monkeypatch):
    """SIGTERM in the middle of an epoch: the next worker begins with the next step."""
    train_epoch, steps = run.train_epoch, []

    def signalled(model, optimizer, batches, running, *rest):
        def watched():
            for batch in batches:
                steps.append(running.step)
                if len(steps) == 5:
                    os.kill(os.getpid(), signal.SIGTERM)
                yield batch

        return train_epoch(model, optimizer, watched(), running, *rest)

    monkeypatch.setattr(run, "train_epoch", signalled)
    params = search_params()
    with pytest.raises(Stopped, match="after step 2 of 3") as caught:
        work(params, "searched", "faces", 0, layout)
    assert caught.value.exit_code == 143
    waiting = states(params, layout)
    assert (waiting["FAIL"], waiting["WAITING"], waiting["RUNNING"]) == (1, 1, 0)
    work(params, "searched", "faces", 0, layout)
    assert steps[:7] == [0, 1, 2, 0, 1, 2, 0]
    assert outcome(load(params, layout)) == uninterrupted[0]


def test_a_trial_that_cannot_be_trained_is_put_again_and_said(layout, monkeypatch):
    params = search_params(trials=2)
    with monkeypatch.context() as patch:
        patch.setattr(worker_module.TrialTraining, "validate", lambda *_: (_ for _ in ()).throw(UserError("no GPU")))
        with pytest.raises(UserError, match="no GPU"):
            work(params, "searched", "faces", 0, layout)
    assert states(params, layout) == {"FAIL": 1, "WAITING": 1}
    work(params, "searched", "faces", 0, layout)
    trials = load(params, layout).trials
    assert [trial.state.name for trial in trials] == ["FAIL", "COMPLETE", "COMPLETE"]
    assert trials[1].params == trials[0].params


def test_kills_at_every_step_of_a_claim_lose_no_cell(layout, monkeypatch):
    """A worker that dies between two writes of the study leaves a grid that is still finished once."""
    params = search_params(epochs=1, **GRID)
    monkeypatch.setattr(worker_module, "_objective", lambda *_: 0.5)
    append, writes = JournalFileBackend.append_logs, []

    def dying(backend, logs):
        writes.append(logs)
        if len(writes) == die_at:
            raise KeyboardInterrupt
        append(backend, logs)

    for die_at in range(1, 9):  # noqa: B007  dying() reads it
        writes.clear()
        with monkeypatch.context() as patch:
            patch.setattr(JournalFileBackend, "append_logs", dying)
            with pytest.raises(KeyboardInterrupt):
                work(params, "searched", "faces", 0, layout)
    work(params, "searched", "faces", 0, layout)
    finished = [trial.params for trial in load(params, layout).get_trials(states=shared.FINISHED)]
    assert len(finished) == GRID_CELLS == len({json.dumps(cell, sort_keys=True) for cell in finished})
    assert states(params, layout)["RUNNING"] == 0


# --- several workers ---


def _claim_and_tell(params, layout, number, seed):
    """A worker whose trainings take a moment, and no computation."""
    pauses = random.Random(seed)
    study = open_study(params, layout)
    with study.worker(number):
        while claimed := study.claim():
            time.sleep(pauses.uniform(0, 0.02))
            study.tell(claimed[0], TrialState.COMPLETE, pauses.random())


@pytest.mark.parametrize("storage", ["journal", "sqlite:///{}/studies.db"])
@pytest.mark.parametrize("grid", [False, True])
def test_four_workers_finish_exactly_what_was_asked_for(layout, tmp_path, storage, grid):
    changes = {"sampler": "grid", "space": {"mad": [0, 0.5], "msad": [0, 0.2, 0.4]}, "trials": None} if grid else {}
    params = search_params(storage=storage.format(tmp_path), **({"trials": 11} | changes))
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["transfer.search.worker"])
    workers = [context.Process(target=_claim_and_tell, args=(params, layout, n, n), daemon=True) for n in range(4)]
    for process in workers:
        process.start()
    for process in workers:
        process.join(timeout=100)
    assert [process.exitcode for process in workers] == [0] * 4
    trials = load(params, layout).trials
    assert Counter(trial.state.name for trial in trials) == {"COMPLETE": 6 if grid else 11}
    if grid:
        assert len({tuple(trial.params.values()) for trial in trials}) == 6


def test_trials_at_work_count(layout):
    params = search_params(trials=2)
    one, two, three = (open_study(params, layout) for _ in range(3))
    with one.worker(0), two.worker(1), three.worker(2):
        first, _ = one.claim()
        second, _ = two.claim()
        assert three.claim() is None, "two are at work, and two were asked for"
        one.tell(first, TrialState.COMPLETE, 0.5)
        assert three.claim() is None and one.claim() is None
        two.put_again(second)
        again, _ = three.claim()
        three.tell(again, TrialState.PRUNED)
        assert two.claim() is None
    assert states(params, layout) == {"COMPLETE": 1, "PRUNED": 1, "FAIL": 1}


def test_the_trial_of_a_dead_worker_goes_to_a_living_one_and_that_of_a_living_one_does_not(layout):
    params = search_params(trials=4)
    alive, other = open_study(params, layout), open_study(params, layout)
    process = start_worker_that_claims(params, layout, number=7)
    with alive.worker(0), other.worker(1):
        own, _ = alive.claim()
        kill(process)
        taken, values = other.claim()
        trials = load(params, layout).trials
        assert [trial.state.name for trial in trials] == ["FAIL", "RUNNING", "RUNNING"]
        assert taken.user_attrs["replaces"] == 0 and taken.params == trials[0].params
        assert own.number == 1 and own.params != taken.params
        assert {trial.user_attrs["worker"] for trial in trials[1:]} == {"worker0", "worker1"}


def _claim_and_hang(params, layout, number):
    study = open_study(params, layout)
    with study.worker(number):
        study.claim()
        time.sleep(600)


def start_worker_that_claims(params, layout, number):
    context = multiprocessing.get_context("forkserver")
    process = context.Process(target=_claim_and_hang, args=(params, layout, number), daemon=True)
    process.start()
    wait_for(lambda: store_of(params, layout).journal.exists() and states(params, layout)["RUNNING"] == 1)
    wait_for(lambda: "worker" in load(params, layout).trials[0].user_attrs)
    return process


def test_the_same_worker_twice_is_refused(layout, monkeypatch):
    monkeypatch.setattr(shared, "_STARTUP", 0.1)
    params = search_params()
    one, two = open_study(params, layout), open_study(params, layout)
    with one.worker(3):
        with pytest.raises(UserError, match=r"worker 3 of study tiny/searched/faces runs already \(.*worker3 is held"):
            two.worker(3).__enter__()
        with two.worker(4):
            pass
    with two.worker(3):
        pass


def test_a_study_locked_by_a_process_that_hangs_is_said(layout, monkeypatch):
    monkeypatch.setattr(shared, "_PATIENCE", 0.1)
    params = search_params()
    one, two = open_study(params, layout), open_study(params, layout)
    with one.locked(), pytest.raises(UserError, match="faces/study: held by another process for"):
        two.claim()


# --- a study about something else ---


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"space": {"mad": {"low": 0, "high": 0.8}}}, "another space:"),
        ({"seeds": [1]}, "another seeds:"),
        ({"epochs": 3}, "another recipe:"),
        ({"recipe": "baseline", "space": {"msad": [0.1]}}, "another recipe, space:"),
        ({"model": {"msad_mode": "token"}}, "another recipe:"),
    ],
)
def test_a_study_about_something_else_is_refused(uninterrupted, changes, what):
    with pytest.raises(UserError, match="study tiny/searched/faces in .* was begun with") as error:
        work(search_params(**changes), "searched", "faces", 0, uninterrupted[1])
    assert what in str(error.value) and "\n" not in str(error.value)
    assert len(load(search_params(), uninterrupted[1]).trials) == 6


def test_a_study_of_other_faces_is_refused(uninterrupted, layout):
    shutil.copytree(uninterrupted[1].root / "search", layout.root / "search")
    split = pd.read_parquet(layout.data("faces") / "split.parquet")
    split.iloc[::-1].to_parquet(layout.data("faces") / "split.parquet")
    with pytest.raises(UserError, match="begun with another data:"):
        work(search_params(), "searched", "faces", 0, layout)


def test_a_grid_under_the_name_of_another_search_leaves_it_alone(uninterrupted):
    with pytest.raises(UserError, match="another pruner|another sampler"):
        work(search_params(**GRID), "searched", "faces", 0, uninterrupted[1])
    assert states(search_params(), uninterrupted[1]) == {"COMPLETE": 6}
