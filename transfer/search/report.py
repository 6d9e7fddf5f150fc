"""The report of a search: best.yaml, tables of trials and cells, importances and figures."""

import statistics
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib
import optuna
import pandas as pd
import yaml
from matplotlib import pyplot as plt
from optuna.trial import FrozenTrial, TrialState
from optuna.visualization import matplotlib as plots

from transfer.layout import Layout
from transfer.params import Params
from transfer.params.recipes import with_values
from transfer.search.study import open_storage, progress_of, retry, storage_errors, storage_url
from transfer.utils.errors import UserError
from transfer.utils.files import atomic, write_json, write_text
from transfer.utils.text import public

_TARGET = "validation accuracy"


def report(params: Params, search: str, layout: Layout) -> None:
    """Write best.yaml, and per dataset trials.csv, grid.csv, importances.json and figures. Raises UserError."""
    recipe = params.recipe_definitions[params.search_definitions[search].recipe]
    header = [f"# Result of the search {search} in experiment {params.experiment}, on the validation split alone.\n"]
    for dataset in params.datasets:
        study = _load_study(params, search, dataset, layout)
        trials = study.get_trials(deepcopy=False)
        completed = [trial for trial in trials if trial.state == TrialState.COMPLETE]
        if not completed:
            raise UserError(f"study {study.study_name}: no completed trial; see its trials in optuna-dashboard")
        folder = layout.search(search) / dataset
        rows = pd.DataFrame([_row(params, search, trial) for trial in trials])
        write_text(folder / "trials.csv", rows.to_csv(index=False))
        write_text(
            folder / "grid.csv",
            _grid(rows[rows["state"] == "complete"], list(params.search_definitions[search].space)).to_csv(index=False),
        )
        _draw(study, completed, folder)
        best = max(completed, key=lambda trial: (trial.value, -trial.number))
        recipe = with_values(recipe, dataset, best.user_attrs["values"])
        pruned = sum(trial.state == TrialState.PRUNED for trial in trials)
        counts = f"best of {len(completed)} completed and {pruned} pruned trials"
        header.append(f"# {dataset}: trial {best.number}, validation accuracy {best.value:.4f}, {counts}\n")
    found = {
        "recipes": [*(name for name in params.recipes if name != search), search],
        "recipe_definitions": {search: recipe.model_dump(mode="json", exclude_unset=True)},
    }
    write_text(layout.search(search) / "best.yaml", "".join(header) + yaml.safe_dump(found, sort_keys=False))


def _load_study(params: Params, search: str, dataset: str, layout: Layout) -> optuna.Study:
    definition = params.search_definitions[search]
    name, url = f"{params.experiment}/{search}/{dataset}", storage_url(params, layout)
    storage = open_storage(url)
    with storage_errors(url):
        if name not in optuna.get_all_study_names(storage):
            raise UserError(f"study {name}: not in {public(url)}; run it with snakemake search, or transfer search")
        study = optuna.load_study(study_name=name, storage=storage)
        lanets = params.run(dataset, definition.recipe).model.args.get("num_lanets", 0)
        finished, _, wanted = progress_of(study, definition, lanets)
    if finished < wanted:
        raise UserError(f"study {name}: {finished} of {wanted} trials are finished; start its workers again")
    return study


def _row(params: Params, search: str, trial: FrozenTrial) -> dict[str, Any]:
    values = trial.user_attrs.get("values", {})
    accuracies = list(trial.user_attrs.get("accuracies", {}).values())
    return {
        "trial": trial.number,
        "state": trial.state.name.lower(),
        **{name: values.get(name) for name in params.search_definitions[search].space},
        "val_accuracy": trial.value if trial.state == TrialState.COMPLETE else None,
        "val_accuracy_std": statistics.stdev(accuracies) if len(accuracies) > 1 else None,
        "n_seeds": len(accuracies) or None,
        "epochs": max(trial.intermediate_values, default=0),
        "seconds": round(trial.duration.total_seconds(), 1) if trial.duration else None,
        "replaces": next(iter(retry.retry_history(trial)[::-1]), None),
    }


def _grid(completed: pd.DataFrame, names: list[str]) -> pd.DataFrame:
    cell = completed.groupby(names, as_index=False)
    table = cell.agg(n_trials=("trial", "size"), n_seeds=("n_seeds", "sum"), val_accuracy=("val_accuracy", "mean"))
    spread = cell["val_accuracy_std"].first()["val_accuracy_std"]
    table["val_accuracy_std"] = spread.where(table["n_trials"] == 1)
    return table.astype({"n_seeds": int})


def _draw(study: optuna.Study, completed: list[FrozenTrial], folder: Path) -> None:
    values = {(name, value) for trial in completed for name, value in trial.params.items()}
    varied = sorted(name for name, n in Counter(name for name, _ in values).items() if n > 1)
    differ = len({trial.value for trial in completed}) > 1
    evaluator = optuna.importance.PedAnovaImportanceEvaluator(
        target_quantile=0.1, region_quantile=1.0, evaluate_on_local=True
    )
    found = optuna.importance.get_param_importances(study, evaluator=evaluator) if differ else {}
    write_json(folder / "importances.json", found)
    figures: dict[str, Callable[[], Any]] = {
        "history": lambda: plots.plot_optimization_history(study, target_name=_TARGET),
        "slices": lambda: plots.plot_slice(study, target_name=_TARGET),
        "contour": lambda: (
            plots.plot_contour(study, params=varied, target_name=_TARGET)
            if len(varied) > 1
            else _message("fewer than two parameters vary: no contour")
        ),
        "importances": lambda: (
            plots.plot_param_importances(study, evaluator=evaluator, target_name=_TARGET)
            if differ
            else _message("fewer than two different results: no importances")
        ),
    }
    for name, plot in figures.items():
        with matplotlib.rc_context(), warnings.catch_warnings(), atomic(folder / f"{name}.png") as part:
            plt.switch_backend("Agg")
            warnings.simplefilter("ignore")  # experimental, and layouts that do not fit
            plot()
            figure = plt.gcf()
            if len(figure.axes) > 6:  # contours of three parameters and more
                figure.set_size_inches(12, 10)
            figure.savefig(part, dpi=120, bbox_inches="tight")
            plt.close("all")


def _message(text: str) -> None:
    plt.subplots(figsize=(6, 2))
    plt.axis("off")
    plt.text(0.5, 0.5, text, ha="center", va="center")
