"""A worker: trains trials of a shared study, one after the other, until enough are finished."""

import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import mean
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState

from transfer.layout import Layout
from transfer.losses.registry import module_of as loss_module
from transfer.models.registry import module_of
from transfer.params import RUNTIME_KEYS, Params, digest
from transfer.search import study as studies
from transfer.search.study import FINISHED, WORKER, draw, open_study, origin, retry, storage_errors, trial_params
from transfer.training.epoch import Diverged
from transfer.training.listeners import Listener
from transfer.training.run import fit
from transfer.training.state import Run
from transfer.utils.code_digest import step_digest
from transfer.utils.errors import UserError
from transfer.utils.files import sha256, write_json
from transfer.utils.text import public

Listeners = Callable[[int], Sequence[Listener]]
"""Number of a trial to those who follow its runs."""


def work(
    params: Params,
    search: str,
    dataset: str,
    number: int,
    layout: Layout,
    listeners: Listeners = lambda trial: (),
    train: Callable[..., Run] = fit,
) -> None:
    """Be worker ``number`` of a study; writes worker<number>.json at the end.

    Takes running trials of its number for dead: do not start a number twice. Raises UserError for a study about
    something else, an unusable storage, and what a run raises; the trial is then queued again.
    """
    definition = params.search_definitions[search]
    if number >= definition.workers:
        raise UserError(f"--worker {number}: search {search} has workers 0 to {definition.workers - 1}")
    lanets = params.run(dataset, definition.recipe).model.args.get("num_lanets", 0)
    url = studies.storage_url(params, layout)
    study = open_study(params, search, dataset, layout, identity(params, search, dataset, layout))

    def state_of(trial: FrozenTrial) -> Path:
        return layout.search_state(search, dataset) / f"trial{origin(trial)}"

    def objective(trial: optuna.Trial) -> float:
        trial.set_user_attr(WORKER, number)
        values = draw(trial, definition.space, lanets)
        trial.set_user_attr("values", values)
        folder = state_of(study.get_trials(deepcopy=False)[trial.number])
        accuracies: dict[int, float] = {}
        try:
            for seed in definition.seeds:
                run = train(
                    trial_params(params, dataset, search, values),
                    dataset,
                    search,
                    seed,
                    layout,
                    splits=("val",),
                    state_dir=folder / f"seed{seed}",
                    listeners=[*listeners(trial.number), TrialListener(trial, list(accuracies.values()))],
                )
                accuracies[seed] = max(row["val_accuracy"] for row in run.history)
        except Diverged as error:
            trial.set_user_attr("diverged", str(error))
            raise optuna.TrialPruned(str(error)) from None
        trial.set_user_attr("accuracies", {str(seed): value for seed, value in accuracies.items()})
        return mean(accuracies.values())

    with storage_errors(url):
        while True:
            requeue(study, number, definition.workers)
            for trial in study.get_trials(deepcopy=False, states=FINISHED):  # also after a kill in this moment
                shutil.rmtree(state_of(trial), ignore_errors=True)
            finished, running, wanted = studies.progress_of(study, definition, lanets)
            if finished + running >= wanted:
                break
            free = studies.free_cells(study, definition, lanets) if definition.sampler == "grid" else []
            if free and not study.get_trials(deepcopy=False, states=(TrialState.WAITING,)):
                study.enqueue_trial(free[number % len(free)])  # another one for each worker
            n_drawn = sum(origin(trial) == trial.number for trial in study.get_trials(deepcopy=False))
            study.sampler = studies.make_sampler(definition, number, n_drawn)
            study.optimize(objective, n_trials=1)
        trials = study.get_trials(deepcopy=False, states=FINISHED)
    own = [trial.number for trial in trials if trial.user_attrs.get(WORKER) == number]
    left = {"study": study.study_name, "storage": public(url), "trials": own}
    write_json(layout.search(search) / dataset / f"worker{number}.json", left)


def requeue(study: optuna.Study, worker: int, workers: int) -> None:
    """Queue again the trials that failed, and those of ``worker``, or of workers no longer there, that never ended."""
    trials = study.get_trials(deepcopy=False)
    retried = {number for trial in trials for number in retry.retry_history(trial)}
    for trial in trials:
        owner = trial.user_attrs.get(WORKER)
        if trial.state == TrialState.RUNNING and owner is not None and (owner == worker or owner >= workers):
            study.tell(trial.number, state=TrialState.FAIL)
        elif trial.state != TrialState.FAIL or trial.number in retried:
            continue
        retry(study, trial)


def identity(params: Params, search: str, dataset: str, layout: Layout) -> dict[str, Any]:
    """What the trials of a study have in common: those of another study do not compare with them."""
    definition = params.search_definitions[search]
    plain = definition.model_dump(mode="json", exclude={"trials", "workers", "recipe", "epochs"})
    start = trial_params(params, dataset, search, {}).run(dataset, search)
    data = layout.data(dataset)
    return plain | {
        "recipe": start.model_dump(mode="json", exclude={"train": RUNTIME_KEYS}),
        "data": digest([sha256(data / name) for name in ("aligned.parquet", "split.parquet")]),
        "code": step_digest("train", module_of(start.model.name), loss_module(start.train.loss.name)),
    }


class TrialListener(Listener):
    """Reports the mean validation accuracy of a trial's seeds, ``before`` of the finished ones, and prunes it."""

    def __init__(self, trial: optuna.Trial, before: Sequence[float]) -> None:
        self.trial, self.before = trial, before

    def on_start(self, run: Run) -> None:
        """Report the epochs of a run that is resumed."""
        self.epochs = run.settings.train.epochs
        for row in run.history:
            self._report(row)

    def on_epoch(self, row: Mapping[str, float]) -> None:
        """Report an epoch; raises TrialPruned for a trial that is not worth going on with."""
        self._report(row)
        if self.trial.should_prune():
            raise optuna.TrialPruned

    def _report(self, row: Mapping[str, float]) -> None:
        step = len(self.before) * self.epochs + int(row["epoch"])
        self.trial.report(mean([*self.before, row["val_accuracy"]]), step)
