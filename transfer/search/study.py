"""The study of a search on a dataset: what it is about, how it samples and prunes, how far it is."""

from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState

from transfer.layout import Layout
from transfer.params import Params, PrunerParams, SearchDefinition
from transfer.search.space import cells, conditional
from transfer.search.storage import open_storage, retry, shown, storage_errors, storage_url
from transfer.utils.errors import UserError
from transfer.utils.seeds import stream

FINISHED = (TrialState.COMPLETE, TrialState.PRUNED)

WORKER = "worker"
"""User attribute of a trial: the worker that trains it."""


def study_name(params: Params, search: str, dataset: str) -> str:
    """Name of a study in its storage."""
    return f"{params.experiment}/{search}/{dataset}"


def open_study(params: Params, search: str, dataset: str, layout: Layout, identity: dict[str, Any]) -> optuna.Study:
    """The study, created if there is none.

    ``identity``, plain JSON values, is what all trials have in common. Raises UserError for a study with another one.
    """
    name, url = study_name(params, search, dataset), storage_url(params, layout)
    storage, pruner = open_storage(url), make_pruner(params.search_definitions[search].pruner)
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
                f"study {name} in {shown(url)}: created with another {', '.join(changed)}, so its trials do not "
                "compare; rename the search, or delete the study (docs/search.md)"
            )
    return study


def make_sampler(search: SearchDefinition, worker: int, index: int) -> optuna.samplers.BaseSampler:
    """The sampler of a worker for the ``index``-th trial of a study.

    A new one for each trial, so that a study that is continued draws what it would have drawn. Every argument that
    Optuna has not deprecated is given.
    """
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
    """Numbers of trials that are finished, running and wanted; of a grid, numbers of its cells.

    ``lanets`` is B where the space does not have it.
    """
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
    return trial.state == TrialState.FAIL or (trial.state == TrialState.RUNNING and WORKER not in trial.user_attrs)


def _cell(trial: FrozenTrial) -> tuple[tuple[str, Any], ...]:
    return tuple(sorted(trial.system_attrs.get("fixed_params", trial.params).items()))


def origin(trial: FrozenTrial) -> int:
    """Number of the trial that ``trial`` retries: its own, if it is a first try."""
    return [*retry.retry_history(trial), trial.number][0]
