"""Searches on the faces of tiny_training, with real or scripted runs, and processes that work on them."""

import multiprocessing
import os
import signal
import time
from collections import Counter
from types import SimpleNamespace

import optuna
from optuna.trial import TrialState
from tiny_training import tiny_params

from transfer.params import Params
from transfer.search.study import open_storage, storage_url
from transfer.search.worker import work

MAD, MSAD, LANETS = "model.args.mad", "model.args.msad", "model.args.num_lanets"
SPACE = {MAD: {"low": 0, "high": 0.9}, MSAD: [0.0, 0.3, 0.6], LANETS: {"low": 1, "high": 3, "step": 1}}
GRID = {"sampler": "grid", "space": {MAD: [0, 0.5], LANETS: [1, 2, 3]}, "trials": None}
GRID_CELLS = 5  # with one LANet there is no mad


def search_params(*, storage: str = "journal", model: dict | None = None, tracking: bool = False, **changes) -> Params:
    """The tiny parameters with a search that prunes nothing, unless told otherwise."""
    search = {"space": SPACE, "trials": 5, "startup_trials": 3, "pruner": {"kind": "none"}, "epochs": 2} | changes
    return tiny_params(
        model={"args": {"num_lanets": 2} | (model or {})},
        tracking=tracking,
        searches=["searched"],
        search_definitions={"searched": search},
        search_storage=storage,
    )


def scripted(accuracies=lambda run: [0.5]):
    """In place of `fit`: a run whose epochs have the ``accuracies`` of its parameters; see `work`."""

    def train(params, dataset, recipe, seed, layout, *, splits, state_dir, listeners):
        assert splits == ("val",)
        settings = params.run(dataset, recipe)
        run = SimpleNamespace(params=params, settings=settings, dataset=dataset, recipe=recipe, seed=seed, history=[])
        for listener in listeners:
            listener.on_start(run)
        for epoch, accuracy in enumerate(accuracies(run), start=1):
            run.history.append({"epoch": epoch, "val_accuracy": accuracy})
            for listener in listeners:
                listener.on_epoch(run.history[-1])
        return run

    return train


def load(params, layout) -> optuna.Study:
    """The study, as its storage has it now."""
    storage = open_storage(storage_url(params, layout))
    return optuna.load_study(study_name=f"{params.experiment}/{'searched'}/{'faces'}", storage=storage)


def states(params, layout) -> Counter:
    """Number of trials by state."""
    return Counter(trial.state.name for trial in load(params, layout).get_trials())


def outcome(study) -> list[tuple]:
    """What the finished trials were and gave, in order."""
    trials = study.get_trials(states=(TrialState.COMPLETE, TrialState.PRUNED))
    return [(trial.params, trial.state, trial.value, trial.intermediate_values) for trial in trials]


def start_worker(params, layout, number: int = 0) -> multiprocessing.Process:
    """A worker in a process of its own."""
    context = multiprocessing.get_context("forkserver")  # a process that works at once, without importing torch again
    context.set_forkserver_preload(["transfer.search.worker"])
    process = context.Process(target=_work, args=(dict(os.environ), params, number, layout), daemon=True)
    process.start()
    return process


def _work(environment, params, number, layout) -> None:
    os.environ.update(environment)  # that of the server of processes is from before this test
    work(params, "searched", "faces", number, layout)


def kill(process: multiprocessing.Process) -> None:
    """SIGKILL, as from a machine that has no memory left."""
    os.kill(process.pid, signal.SIGKILL)
    process.join(timeout=60)
    assert process.exitcode == -signal.SIGKILL


def wait_for(condition, seconds: float = 60) -> None:
    """Wait until ``condition()``."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not come to that"
        time.sleep(0.002)
