"""What a search found: best.yaml, tables of its trials and cells, importances and figures."""

import statistics
from typing import Any

import optuna
import pandas as pd
import yaml
from optuna.trial import FrozenTrial, TrialState

from transfer.layout import Layout
from transfer.params import Params
from transfer.search.figures import draw_figures
from transfer.search.space import MODEL_KEYS, cells, trial_params, with_values
from transfer.search.storage import store_of
from transfer.search.study import FINISHED, study_name
from transfer.utils.errors import UserError
from transfer.utils.files import atomic, write_json, write_text

VALUES = (*MODEL_KEYS, "upsample")


def report(params: Params, search: str, layout: Layout) -> None:
    """Write the results of a search on all datasets; reads its studies only.

    best.yaml, and per dataset trials.csv, grid.csv, importances.json (shares of 1) and figures. Raises
    UserError for a study that is not there, not finished, or without a completed trial.
    """
    definition = params.search_definitions[search]
    recipe = params.recipe_definitions[definition.recipe]
    about = []
    for dataset in params.datasets:
        study = _study(params, search, dataset, layout)
        trials = study.get_trials(deepcopy=False)
        completed = [trial for trial in trials if trial.state == TrialState.COMPLETE]
        if not completed:
            raise UserError(f"study {study.study_name}: no trial was completed; see its trials in the dashboard")
        folder = layout.search(search) / dataset
        rows = pd.DataFrame([_row(params, dataset, search, trial) for trial in trials])
        with atomic(folder / "trials.csv") as part:
            rows.to_csv(part, index=False)
        with atomic(folder / "grid.csv") as part:
            _grid(rows[rows["state"] == "complete"]).to_csv(part, index=False)
        evaluator = _evaluator(completed)
        importances = optuna.importance.get_param_importances(study, evaluator=evaluator) if evaluator else {}
        write_json(folder / "importances.json", importances)
        draw_figures(study, evaluator, folder)
        best = max(completed, key=lambda trial: (trial.value, -trial.number))
        recipe = with_values(recipe, dataset, best.user_attrs["values"])
        pruned = sum(trial.state == TrialState.PRUNED for trial in trials)
        counts = f"best of {len(completed)} completed and {pruned} pruned trials"
        about.append(f"# {dataset}: trial {best.number}, validation accuracy {best.value:.4f}, {counts}\n")
    found = {
        "recipes": [*(name for name in params.recipes if name != search), search],
        "recipe_definitions": {search: recipe.model_dump(mode="json", exclude_unset=True)},
    }
    header = f"# What the search {search} found in experiment {params.experiment}, on the validation part alone.\n"
    text = header + "".join(about) + yaml.safe_dump(found, sort_keys=False)
    write_text(layout.search(search) / "best.yaml", text)


def _study(params: Params, search: str, dataset: str, layout: Layout) -> optuna.Study:
    definition = params.search_definitions[search]
    name, store = study_name(params, search, dataset), store_of(params, layout)
    storage = store.open()
    with store.errors():
        if name not in optuna.get_all_study_names(storage):
            raise UserError(f"study {name}: not in {store.shown}; run it with snakemake search, or transfer search")
        study = optuna.load_study(study_name=name, storage=storage)
        finished = len(study.get_trials(deepcopy=False, states=FINISHED))
    lanets = params.run(dataset, definition.recipe).model.num_lanets
    target = definition.trials or len(cells(definition.space, lanets))
    if finished < target:
        raise UserError(f"study {name}: {finished} of {target} trials are finished; start its workers again")
    return study


def _row(params: Params, dataset: str, search: str, trial: FrozenTrial) -> dict[str, Any]:
    values = trial.user_attrs.get("values", {})
    run = trial_params(params, dataset, search, values).run(dataset, search)
    resolved = run.model.model_dump(include=set(MODEL_KEYS)) | {"upsample": run.sampling.upsample}
    accuracies = list(trial.user_attrs.get("accuracies", {}).values())
    return {
        "trial": trial.number,
        "state": trial.state.name.lower(),
        **{name: resolved[name] if values else None for name in VALUES},
        "val_accuracy": trial.value if trial.state == TrialState.COMPLETE else None,
        "val_accuracy_std": statistics.stdev(accuracies) if len(accuracies) > 1 else None,
        "n_seeds": len(accuracies) or None,
        "epochs": max(trial.intermediate_values, default=0),
        "seconds": round(trial.duration.total_seconds(), 1) if trial.duration else None,
        "replaces": trial.user_attrs.get("replaces"),
    }


def _grid(completed: pd.DataFrame) -> pd.DataFrame:
    """One row per combination of values: its mean validation accuracy, over the trials and their seeds."""
    cell = completed.groupby(list(VALUES), as_index=False)
    table = cell.agg(n_trials=("trial", "size"), n_seeds=("n_seeds", "sum"), val_accuracy=("val_accuracy", "mean"))
    spread = cell["val_accuracy_std"].first()["val_accuracy_std"]
    table["val_accuracy_std"] = spread.where(table["n_trials"] == 1)
    return table.astype({"n_seeds": int})


def _evaluator(completed: list[FrozenTrial]) -> optuna.importance.BaseImportanceEvaluator | None:
    """PED-ANOVA with every argument given; None where there is no difference to explain."""
    if len({trial.value for trial in completed}) < 2:
        return None
    return optuna.importance.PedAnovaImportanceEvaluator(
        target_quantile=0.1, region_quantile=1.0, evaluate_on_local=True
    )
