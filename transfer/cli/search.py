"""Hyperparameter searches with Optuna."""

from typing import Annotated

import typer

from transfer.cli.options import Dataset, ParamFiles, Values, existing, load
from transfer.layout import Layout
from transfer.params import Params
from transfer.utils.errors import UserError

app = typer.Typer()

Search = Annotated[str, typer.Option("--search", metavar="NAME", help="One of the experiment's searches.")]


@app.command()
def search(
    name: Search,
    dataset: Dataset,
    worker: Annotated[int, typer.Option(min=0, help="Number of this worker; run each number once at a time.")] = 0,
    files: ParamFiles = None,
    values: Values = None,
) -> None:
    """Train trials of a study until enough are finished. Reads: D/aligned.npy, D/aligned.parquet, D/index.parquet,
    D/split.parquet, D/plan_METHOD.npy (no test row), the study. Writes: the study in search_storage (by default
    R/search/journal.log), R/search/SEARCH/DATASET/workerK.json; state of unfinished trials in R/state/search."""
    chosen, layout = _load(files, values, name, dataset)
    existing(layout.data(dataset) / "aligned.parquet", "align")
    existing(layout.data(dataset) / "split.parquet", "sample")

    from transfer.search.worker import work
    from transfer.tracking.listener import MlflowListener

    def listeners(trial: int) -> list[MlflowListener]:
        return [MlflowListener(f"search/{name}/{dataset}", f"trial{trial}")] if chosen.tracking else []

    work(chosen, name, dataset, worker, layout, listeners)


@app.command("search-report")
def search_report(name: Search, files: ParamFiles = None, values: Values = None) -> None:
    """Report the results of a search. Reads: its studies. Writes: R/search/SEARCH/best.yaml, and in
    R/search/SEARCH/DATASET trials.csv, grid.csv, importances.json, history.png, slices.png, contour.png,
    importances.png."""
    chosen, layout = _load(files, values, name)

    from transfer.search.report import report

    report(chosen, name, layout)


def _load(files: ParamFiles, values: Values, search: str, dataset: str | None = None) -> tuple[Params, Layout]:
    chosen, layout = load(files, values, dataset)
    if search not in chosen.searches:
        allowed = ", ".join(chosen.searches) or "none; name it in searches"
        raise UserError(f"--search {search}: not in experiment {chosen.experiment}; allowed: {allowed}")
    return chosen, layout
