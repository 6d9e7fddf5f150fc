"""The study of a search on a dataset, and the storage that its workers share."""

import os
import re
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
from sqlalchemy.exc import SQLAlchemyError

from transfer.layout import Layout
from transfer.params import Params, PrunerParams, SearchDefinition
from transfer.search.space import cells, conditional
from transfer.utils.errors import UserError
from transfer.utils.seeds import stream

warnings.simplefilter("ignore", ExperimentalWarning)  # of heartbeats, TPE's group and the exhaustive sampler

FINISHED = (TrialState.COMPLETE, TrialState.PRUNED)
WORKER = "worker"  # user attribute of a trial: the worker that trains it
_HEARTBEAT = 60  # seconds; a trial without one for twice as long is stale

retry = RetryHeartbeatStaleTrialCallback(inherit_intermediate_values=True)
"""Queues the values of a failed trial again."""


def study_name(params: Params, search: str, dataset: str) -> str:
    """Name of a study in its storage."""
    return f"{params.experiment}/{search}/{dataset}"


def storage_url(params: Params, layout: Layout) -> str:
    """The URL, or the path of the journal, that ``search_storage`` names. Raises UserError for a variable not set.

    A value that is a part of the URL is quoted: a password may hold any character.
    """
    named = params.search_storage

    def value(found: re.Match[str]) -> str:
        if found[1] not in os.environ:
            raise UserError(f"search_storage: the environment variable {found[1]} is not set; {named} needs it")
        return os.environ[found[1]] if found[0] == named else quote(os.environ[found[1]], safe="")

    url = re.sub(r"\$\{(\w+)\}", value, named)
    if url == "journal":
        return str(layout.journal.absolute())  # Optuna's lock is a link to it, stale only where it leads somewhere
    if not re.match(r"sqlite:///.|postgresql(\+\w+)?://.", url):
        raise UserError(f"search_storage: {named} is neither sqlite:///FILE nor postgresql://USER@HOST/DATABASE")
    return url


def shown(url: str) -> str:
    """``url`` without its password."""
    return make_url(url).render_as_string(hide_password=True) if "://" in url else url


def open_storage(url: str) -> BaseStorage:
    """Optuna's storage, created if there is none. Raises UserError: unreachable, of another Optuna, damaged."""
    try:
        if "://" not in url:
            Path(url).parent.mkdir(parents=True, exist_ok=True)
            return JournalStorage(JournalFileBackend(url))
        if url.startswith("sqlite:"):
            Path(make_url(url).database or "").absolute().parent.mkdir(parents=True, exist_ok=True)
            engine = {"connect_args": {"timeout": 100}}
        else:
            engine = {"pool_pre_ping": True, "connect_args": {"connect_timeout": 10}}
        return RDBStorage(url, engine, heartbeat_interval=_HEARTBEAT, heartbeat_stale_trial_callback=retry)
    except (ImportError, OSError, RuntimeError, ValueError, LookupError, TypeError) as error:
        # ValueError, LookupError and TypeError: of a damaged journal. RuntimeError: of another version's tables.
        raise _unusable(url, error) from None
    except (SQLAlchemyError, StorageInternalError) as error:
        raise _unusable(url, error) from None


@contextmanager
def storage_errors(url: str) -> Iterator[None]:
    """Turn the errors of a database that goes away into a UserError."""
    try:
        yield
    except (SQLAlchemyError, StorageInternalError) as error:
        raise _unusable(url, error) from None


def _unusable(url: str, error: Exception) -> UserError:
    cause = error.__cause__ if isinstance(error, StorageInternalError) and error.__cause__ else error
    reason = str(getattr(cause, "orig", None) or cause).strip().partition("\n")[0]
    return UserError(
        f"search_storage {shown(url)}: cannot be used ({reason}); repair it, or name another search_storage"
    )


def open_study(
    params: Params, search: str, dataset: str, layout: Layout, identity: dict[str, Any]
) -> tuple[optuna.Study, str]:
    """The study, created if there is none, and the URL of its storage.

    ``identity``, plain JSON values, is what all trials have in common. Raises UserError for a study with another one.
    """
    name, url = study_name(params, search, dataset), storage_url(params, layout)
    storage = open_storage(url)
    with storage_errors(url):
        pruner = make_pruner(params.search_definitions[search].pruner)
        study = optuna.create_study(
            storage=storage, study_name=name, direction="maximize", load_if_exists=True, pruner=pruner
        )
        known = study.user_attrs.get("identity")
        if known is None:
            study.set_user_attr("identity", identity)
            study.set_metric_names(["validation accuracy"])
        elif changed := sorted(key for key in known | identity if known.get(key) != identity.get(key)):
            raise UserError(
                f"study {name} in {shown(url)}: created with another {', '.join(changed)}, its trials do not compare; "
                "rename the search, or delete the study (docs/search.md)"
            )
    return study, url


def make_sampler(search: SearchDefinition, worker: int, index: int) -> optuna.samplers.BaseSampler:
    """The sampler of a worker for the ``index``-th trial of a study.

    A new one for each trial, so that a study that is continued draws what it would have drawn. A grid is searched
    exhaustively, in random order; every argument that Optuna has not deprecated is given.
    """
    seed = stream(search.sampler_seed, "sampler", worker, index) % 2**32
    if search.sampler == "grid":
        return optuna.samplers.BruteForceSampler(seed=seed)
    if search.sampler == "random":
        return optuna.samplers.RandomSampler(seed=seed)
    return optuna.samplers.TPESampler(
        n_startup_trials=search.startup_trials,
        n_ei_candidates=24,
        seed=seed,
        multivariate=True,
        group=conditional(search.space),
        constant_liar=True,
    )


def make_pruner(params: PrunerParams) -> optuna.pruners.BasePruner:
    """The pruner; it sees validation accuracies at steps 1, 2, ..."""
    if params.kind == "none":
        return optuna.pruners.NopPruner()
    return optuna.pruners.MedianPruner(
        n_startup_trials=params.startup_trials,
        n_warmup_steps=params.warmup_epochs,
        interval_steps=params.interval_epochs,
        n_min_trials=params.min_trials,
    )


def progress_of(study: optuna.Study, search: SearchDefinition, lanets: int) -> tuple[int, int, int]:
    """Trials that are finished, that are running, and that are wanted; for a grid, its cells. ``lanets``: see `cells`."""
    grid = search.sampler == "grid"
    trials = study.get_trials(deepcopy=False)
    finished = [trial for trial in trials if trial.state in FINISHED]
    running = [trial for trial in trials if trial.state == TrialState.RUNNING and WORKER in trial.user_attrs]
    if not grid:
        return len(finished), len(running), search.trials or 0
    done = {_values(trial) for trial in finished}
    return len(done), len({_values(trial) for trial in running} - done), len(cells(search.space, lanets))


def _values(trial: FrozenTrial) -> tuple[tuple[str, Any], ...]:
    return tuple(sorted(trial.params.items()))


def origin(trial: optuna.Trial | FrozenTrial) -> int:
    """Number of the trial that ``trial`` is a retry of: its own, if it is none."""
    return (retry.retry_history(trial) or [trial.number])[0]  # type: ignore[arg-type]
