"""The study of a search on a dataset: its space, where it is stored, how it samples and prunes, its progress."""

import itertools
import os
import re
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

import optuna
from optuna.exceptions import ExperimentalWarning, StorageInternalError
from optuna.storages import BaseStorage, JournalStorage, RDBStorage, RetryHeartbeatStaleTrialCallback
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy.engine import make_url
from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from transfer.layout import Layout
from transfer.params import Params
from transfer.params.recipes import LANETS, MAD, with_values
from transfer.params.search import SearchDefinition, SearchRange, SearchSpace
from transfer.utils.errors import UserError
from transfer.utils.seeds import stream
from transfer.utils.text import public

warnings.simplefilter("ignore", ExperimentalWarning)  # of heartbeats, retries and samplers

FINISHED = (TrialState.COMPLETE, TrialState.PRUNED)
WORKER = "worker"
"""User attribute of a trial: the worker that trains it."""
HEARTBEAT = 60
"""Seconds between a database's signs of life of a running trial; without one for twice as long it is retried."""
_ATTEMPTS = 6
_CREATING = re.compile("already exists|UNIQUE constraint|database is locked")

retry = RetryHeartbeatStaleTrialCallback()
"""Queues the values of a failed trial again."""


def draw(trial: optuna.Trial, space: SearchSpace, lanets: int) -> dict[str, Any]:
    """Draw the values of ``trial``; ``lanets`` is B if not in the space. Below two LANets mad is 0, and not drawn."""
    values: dict[str, Any] = {}
    parts: list[tuple[str, Any]] = sorted(space.items(), key=lambda item: item[0] != LANETS)  # it decides over MAD
    for name, part in parts:
        if name == MAD and values.get(LANETS, lanets) < 2:
            continue
        if isinstance(part, list):
            values[name] = trial.suggest_categorical(name, part)
        elif part.whole:
            values[name] = trial.suggest_int(name, part.low, part.high, step=part.step)
        else:
            values[name] = trial.suggest_float(name, part.low, part.high, step=part.step, log=part.log)
    return values | ({MAD: 0.0} if values.get(LANETS, 2) < 2 or (MAD in space and MAD not in values) else {})


def cells(space: SearchSpace, lanets: int) -> list[dict[str, Any]]:
    """Every combination of a grid once, in order; without mad where there are fewer than two LANets."""
    lists: list[Any] = [part if isinstance(part, list) else part.values() for part in space.values()]
    found: list[dict[str, Any]] = []
    for combination in itertools.product(*lists):
        cell: dict[str, Any] = dict(zip(space, combination, strict=True))
        if cell.get(LANETS, lanets) < 2:
            cell.pop(MAD, None)
        if cell not in found:
            found.append(cell)
    return found


def conditional(space: SearchSpace) -> bool:
    """Whether some trials have no mad."""
    counts: Any = space.get(LANETS, [2])
    return MAD in space and (counts.low if isinstance(counts, SearchRange) else min(counts)) < 2


def trial_params(params: Params, dataset: str, search: str, values: dict[str, Any]) -> Params:
    """The parameters of a trial's runs: its values are the recipe ``search``, and no protocol is asked for."""
    definition = params.search_definitions[search]
    length = {"train.epochs": definition.epochs} if definition.epochs else {}
    recipe = with_values(params.recipe_definitions[definition.recipe], dataset, length | values)
    recipes = params.recipe_definitions | {search: recipe}
    return params.model_copy(update={"recipe_definitions": recipes, "protocols": []})


def storage_url(params: Params, layout: Layout) -> str:
    """The URL, or path of the journal, of ``search_storage``, variables quoted. Raises UserError: one is not set."""
    named = params.search_storage

    def value(found: re.Match[str]) -> str:
        if found[1] not in os.environ:
            raise UserError(f"search_storage: {named} needs the environment variable {found[1]}; set it")
        return os.environ[found[1]] if found[0] == named else quote(os.environ[found[1]], safe="")

    url = re.sub(r"\$\{(\w+)\}", value, named)
    if url == "journal":
        return str(layout.journal.absolute())  # Optuna's lock is a link to it, stale only where the link leads to it
    if not re.match(r"sqlite:///.|postgresql(\+\w+)?://.", url):
        raise UserError(f"search_storage: {named} is neither sqlite:///FILE nor postgresql://USER@HOST/DATABASE")
    return url


def open_storage(url: str) -> BaseStorage:
    """Optuna's storage, created if there is none. Raises UserError: unreachable, of another Optuna, damaged."""
    path = make_url(url).database if url.startswith("sqlite:") else None if "://" in url else url
    try:
        if path:
            Path(path).absolute().parent.mkdir(parents=True, exist_ok=True)
        if "://" not in url:
            return JournalStorage(JournalFileBackend(url))
        options = {"timeout": 100} if path else {"connect_timeout": 10}
        engine = {"pool_pre_ping": True, "connect_args": options}
        attempts = 0
        while True:
            try:
                return RDBStorage(url, engine, heartbeat_interval=HEARTBEAT, heartbeat_stale_trial_callback=retry)
            except DBAPIError as error:  # workers that start at the same time all try to create the tables
                attempts += 1
                if attempts == _ATTEMPTS or not _CREATING.search(str(error)):
                    raise
                time.sleep(0.5)
    except (ImportError, OSError, RuntimeError, ValueError, LookupError, TypeError, SQLAlchemyError) as error:
        # RuntimeError: tables of another version. ValueError, LookupError, TypeError: a damaged journal.
        raise _unusable(url, error) from None


@contextmanager
def storage_errors(url: str) -> Iterator[None]:
    """Turn the errors of a database that is lost in the middle into a UserError."""
    try:
        yield
    except Exception as error:
        # Optuna 5.0 raises an UnboundLocalError where it cannot even note that a trial failed.
        cause: BaseException | None = error
        while cause is not None and not isinstance(cause, StorageInternalError | SQLAlchemyError):
            cause = cause.__context__
        if cause is None:
            raise
        raise _unusable(url, cause) from None


def _unusable(url: str, error: BaseException) -> UserError:
    cause = error.__cause__ if isinstance(error, StorageInternalError) and error.__cause__ else error
    reason = str(getattr(cause, "orig", None) or cause).strip().partition("\n")[0]
    return UserError(
        f"search_storage {public(url)}: cannot be used ({reason}); repair it, then run the same command again, or "
        "choose another search_storage"
    )


def open_study(params: Params, search: str, dataset: str, layout: Layout, identity: dict[str, Any]) -> optuna.Study:
    """The study, created if there is none. Raises UserError for one whose trials share another ``identity``."""
    name, url = f"{params.experiment}/{search}/{dataset}", storage_url(params, layout)
    storage, rule = open_storage(url), params.search_definitions[search].pruner
    median = optuna.pruners.MedianPruner(rule.startup_trials, rule.warmup_epochs)
    pruner = optuna.pruners.NopPruner() if rule.kind == "none" else median
    with storage_errors(url):
        study = optuna.create_study(
            storage=storage, study_name=name, direction="maximize", load_if_exists=True, pruner=pruner
        )
        known = study.user_attrs.get("identity")
        if known is None:
            study.set_user_attr("identity", identity)
            study.set_metric_names(["validation accuracy"])
        elif changed := sorted(key for key in known | identity if known.get(key) != identity.get(key)):
            raise UserError(
                f"study {name} in {public(url)}: created with another {', '.join(changed)}, so its trials do not "
                "compare; rename the search, or delete the study (docs/search.md)"
            )
    return study


def make_sampler(search: SearchDefinition, worker: int, index: int) -> optuna.samplers.BaseSampler:
    """The sampler of a worker for the ``index``-th trial: made anew, so that a resumed study draws the same values."""
    seed = stream(search.sampler_seed, f"sampler of worker {worker}", index) % 2**32
    if search.sampler != "tpe":  # the values of a grid are given, see free_cells
        return optuna.samplers.RandomSampler(seed=seed)
    return optuna.samplers.TPESampler(
        n_startup_trials=search.startup_trials,
        n_ei_candidates=24,
        seed=seed,
        multivariate=True,
        group=conditional(search.space),
        constant_liar=True,
    )


def progress_of(study: optuna.Study, search: SearchDefinition, lanets: int) -> tuple[int, int, int]:
    """Numbers of finished, running and wanted trials; of a grid, of its cells. ``lanets``: B if not in the space."""
    trials = study.get_trials(deepcopy=False)
    finished = [trial for trial in trials if trial.state in FINISHED]
    running = [trial for trial in trials if trial.state == TrialState.RUNNING and not _is_lost(trial)]
    if search.sampler != "grid":
        return len(finished), len(running), search.trials or 0
    done = {_cell(trial) for trial in finished}
    return len(done), len({_cell(trial) for trial in running} - done), len(cells(search.space, lanets))


def free_cells(study: optuna.Study, search: SearchDefinition, lanets: int) -> list[dict[str, Any]]:
    """Cells of the grid that no trial is finished, running or waiting for.

    Not by Optuna's BruteForceSampler, which raises ValueError ever after a worker was killed while it drew.
    """
    taken = {_cell(trial) for trial in study.get_trials(deepcopy=False) if not _is_lost(trial)}
    return [cell for cell in cells(search.space, lanets) if tuple(sorted(cell.items())) not in taken]


def _is_lost(trial: FrozenTrial) -> bool:
    # it failed, or its worker was killed in the moment before it named itself
    return trial.state == TrialState.FAIL or (trial.state == TrialState.RUNNING and WORKER not in trial.user_attrs)


def _cell(trial: FrozenTrial) -> tuple[tuple[str, Any], ...]:
    return tuple(sorted(trial.system_attrs.get("fixed_params", trial.params).items()))


def origin(trial: FrozenTrial) -> int:
    """Number of the trial that ``trial`` retries: its own, if it is a first try."""
    return [*retry.retry_history(trial), trial.number][0]
