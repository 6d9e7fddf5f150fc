"""Hyperparameter searches with Optuna."""

from typing import TYPE_CHECKING, Annotated

import typer

from transfer.cli.options import Dataset, existing, verb
from transfer.layout import Layout

if TYPE_CHECKING:
    from transfer.params import Params

app = typer.Typer()

Search = Annotated[str, typer.Option("--search", metavar="NAME", help="One of the experiment's searches.")]


@verb(app)
def search(
    params: "Params",
    layout: Layout,
    search: Search,
    dataset: Dataset,
    worker: Annotated[int, typer.Option(min=0, help="Number of this worker; run each number once at a time.")] = 0,
) -> None:
    """Train trials of a study until enough are finished. Reads: D/aligned.npy, D/aligned.parquet, D/index.parquet,
    D/split.parquet, D/plan_METHOD.npy (no test row), the study. Writes: the study in search_storage (by default
    R/search/journal.log), R/search/SEARCH/DATASET/workerK.json; state of unfinished trials in R/state/search."""
    existing(layout.data(dataset) / "aligned.parquet", "align")
    existing(layout.data(dataset) / "split.parquet", "sample")

    from transfer.search.worker import work
    from transfer.tracking.live import MlflowListener

    def listeners(trial: int) -> list[MlflowListener]:
        return [MlflowListener(f"search/{search}/{dataset}", f"trial{trial}")] if params.tracking else []

    work(params, search, dataset, worker, layout, listeners)


@verb(app, "search-report")
def search_report(params: "Params", layout: Layout, search: Search) -> None:
    """Report the results of a search. Reads: its studies. Writes: R/search/SEARCH/best.yaml, and in
    R/search/SEARCH/DATASET trials.csv, grid.csv, importances.json, history.png, slices.png, contour.png,
    importances.png."""
    from transfer.search.report import report

    report(params, search, layout)
