"""A study that several workers share: each trial is given to one of them, and exactly as many finish as were asked for.

Finished means completed or given up by the pruner. Workers take their trials one after the other, under the study's
lock. A trial whose worker has died is failed, and put again with the same values.
"""

import json
import sys
import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState

from transfer.layout import Layout
from transfer.params import Params, PrunerParams, SearchDefinition
from transfer.search.space import cells, conditional, draw
from transfer.search.storage import Store, store_of
from transfer.utils.errors import UserError
from transfer.utils.seeds import stream

FINISHED = (TrialState.COMPLETE, TrialState.PRUNED)
_PATIENCE = 600  # seconds for the study's lock, which is held for moments
_STARTUP = 10  # seconds for a worker's own lock, which others hold for a moment to see whether it is alive

# Attributes of a trial: the worker that trains it; the trial whose values and checkpoint it continues; the failed trial
# that it replaces.
WORKER, ORIGIN, REPLACES = "worker", "origin", "replaces"


def study_name(params: Params, search: str, dataset: str) -> str:
    """Name of a study in its storage."""
    return f"{params.experiment}/{search}/{dataset}"


def make_sampler(search: SearchDefinition, index: int) -> optuna.samplers.BaseSampler:
    """The sampler of the ``index``-th trial, with every argument that Optuna still lets one choose.

    Each trial has a sampler of its own, seeded by its index: a study that is continued draws what it would have drawn.
    """
    seed = stream(search.sampler_seed, "sampler", index) % 2**32
    if search.sampler == "tpe":
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)  # group
            return optuna.samplers.TPESampler(
                n_startup_trials=search.startup_trials,
                n_ei_candidates=24,
                seed=seed,
                multivariate=True,
                group=conditional(search.space),
                constant_liar=True,
            )
    return optuna.samplers.RandomSampler(seed=seed)


def make_pruner(params: PrunerParams) -> optuna.pruners.BasePruner:
    """The pruner, with every argument given; it sees validation accuracies at steps 1, 2, ..."""
    if params.kind == "none":
        return optuna.pruners.NopPruner()
    return optuna.pruners.MedianPruner(
        n_startup_trials=params.startup_trials,
        n_warmup_steps=params.warmup_epochs,
        interval_steps=params.interval_epochs,
        n_min_trials=params.min_trials,
    )


class SharedStudy:
    """One study, as one process sees it. Raises UserError for a storage that cannot be used, or another's study."""

    def __init__(self, params: Params, search: str, dataset: str, layout: Layout, declaration: dict[str, Any]) -> None:
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self.search = params.search_definitions[search]
        self.lanets = params.run(dataset, self.search.recipe).model.num_lanets
        self.name = study_name(params, search, dataset)
        self.store: Store = store_of(params, layout)
        self.grid = cells(self.search.space, self.lanets) if self.search.sampler == "grid" else []
        self.target = len(self.grid) if self.grid else self.search.trials
        with self.locked():
            storage = self.store.open()
            with self.store.errors():
                self.study = optuna.create_study(
                    storage=storage,
                    study_name=self.name,
                    direction="maximize",
                    load_if_exists=True,
                    sampler=make_sampler(self.search, 0),
                    pruner=make_pruner(self.search.pruner),
                )
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
                    self.study.set_metric_names(["validation accuracy"])  # what the dashboard writes at its axes
                self._declare(json.loads(json.dumps(declaration)))
                for cell in self.grid:
                    self.study.enqueue_trial(cell, skip_if_exists=True)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the study's lock."""
        lock = self.store.lock(self.name, "study")
        with self.store.errors():
            held = lock.acquire(_PATIENCE)
        if not held:
            raise UserError(f"{lock.shown}: held by another process for {_PATIENCE} seconds; end that process")
        try:
            yield
        finally:
            lock.release()

    def _declare(self, declaration: dict[str, Any]) -> None:
        """Note what the study is about; refuse one that is about something else."""
        known = self.study.user_attrs.get("declaration")
        if known is None:
            self.study.set_user_attr("declaration", declaration)
            return
        changed = sorted(key for key in known.keys() | declaration.keys() if known.get(key) != declaration.get(key))
        if changed:
            raise UserError(
                f"study {self.name} in {self.store.shown} was begun with another {', '.join(changed)}: its trials do "
                "not compare with those asked for; give the search another name, or delete the study (docs/search.md)"
            )

    @contextmanager
    def worker(self, number: int) -> Iterator[None]:
        """Be worker ``number``. Raises UserError where another process is."""
        self._worker = f"worker{number}"
        lock = self.store.lock(self.name, self._worker)
        with self.store.errors():
            held = lock.acquire(_STARTUP)
        if not held:
            raise UserError(
                f"worker {number} of study {self.name} runs already ({lock.shown} is held by another process); end it, "
                "or give this one another number"
            )
        try:
            yield
        finally:
            lock.release()

    def claim(self) -> tuple[optuna.Trial, dict[str, Any]] | None:
        """The next trial and its values, which no other worker gets; None if enough are finished or at work."""
        with self.locked(), self.store.errors():
            self._recover()
            trials = self.study.get_trials(deepcopy=False)
            states = Counter(trial.state for trial in trials)
            if states[TrialState.RUNNING] + sum(states[state] for state in FINISHED) >= self.target:
                return None
            drawn = sum(WORKER in trial.user_attrs and ORIGIN not in trial.user_attrs for trial in trials)
            self.study.sampler = make_sampler(self.search, drawn)
            trial = self.study.ask()
            values = draw(trial, self.search, self.lanets)
            trial.set_user_attr("values", values)
            trial.set_user_attr(WORKER, self._worker)
            return trial, values

    def _recover(self) -> None:
        """Fail the trials whose workers have died, and put them again; the study is locked."""
        for trial in self.study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            owner = trial.user_attrs.get(WORKER)
            if owner not in (None, self._worker):
                lock = self.store.lock(self.name, owner)
                if not lock.acquire(0):
                    continue
                lock.release()
            self._put_again(trial)

    def put_again(self, trial: optuna.Trial) -> None:
        """Fail a trial that could not be trained; its values wait for the next worker."""
        with self.locked(), self.store.errors():
            known = self.study.get_trials(deepcopy=False)[trial.number]
            if known.state == TrialState.RUNNING:
                self._put_again(known)

    def _put_again(self, trial: FrozenTrial) -> None:
        # A worker that died before it had all values leaves a trial that nobody has seen, unless they were given.
        given = trial.params if WORKER in trial.user_attrs else trial.system_attrs.get("fixed_params")
        trials = self.study.get_trials(deepcopy=False)
        replaced = any(other.user_attrs.get(REPLACES) == trial.number for other in trials)
        if given is not None and not replaced:
            attributes = {REPLACES: trial.number}
            if WORKER in trial.user_attrs or ORIGIN in trial.user_attrs:
                attributes[ORIGIN] = origin(trial)
            self.study.enqueue_trial(given, user_attrs=attributes)
        self.study.tell(trial.number, state=TrialState.FAIL)
        print(f"{self.name}: trial {trial.number} was not finished; it is put again", file=sys.stderr)

    def tell(self, trial: optuna.Trial, state: TrialState, value: float | None = None) -> None:
        """Finish a trial."""
        with self.store.errors():
            self.study.tell(trial, value, state=state)

    def finished(self) -> list[FrozenTrial]:
        """Its finished trials, by number."""
        with self.store.errors():
            return self.study.get_trials(deepcopy=False, states=FINISHED)


def origin(trial: optuna.Trial | FrozenTrial) -> int:
    """Number of the trial that ``trial`` continues: its own, if it is no repetition."""
    return trial.user_attrs.get(ORIGIN, trial.number)


def checkpoints(layout: Layout, search: str, dataset: str, trial: optuna.Trial | FrozenTrial) -> Path:
    """Folder of a trial's resume state; a repetition continues that of its origin."""
    return layout.search_state(search, dataset) / f"trial{origin(trial)}"
