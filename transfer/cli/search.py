"""Searches with Optuna."""

from typing import TYPE_CHECKING, Annotated

import typer

from transfer.cli.options import Dataset, ParamFiles, Values, existing, load
from transfer.layout import Layout
from transfer.utils.errors import UserError, choices

if TYPE_CHECKING:
    from transfer.params import Params

app = typer.Typer()

Search = Annotated[str, typer.Option("--search", metavar="NAME", help="One of the experiment's searches.")]


@app.command()
def search(
    name: Search,
    dataset: Dataset,
    worker: Annotated[int, typer.Option(min=0, help="Number of this worker; each runs once at a time.")] = 0,
    files: ParamFiles = None,
    values: Values = None,
) -> None:
    """Work on a study until enough trials are finished. Reads: D/aligned.npy, D/aligned.parquet, D/index.parquet,
    D/split.parquet, D/plan_METHOD.npy (no test row), the study. Writes: the study in search_storage (by default
    R/search/journal.log), R/search/SEARCH/DATASET/workerK.json; unfinished trials lie in R/state/search."""
    chosen, layout = _load(files, values, name, dataset)
    existing(layout.data(dataset) / "aligned.parquet", "align")
    existing(layout.data(dataset) / "split.parquet", "sample")

    from transfer.search.worker import work

    work(chosen, name, dataset, worker, layout)


@app.command("search-report")
def search_report(name: Search, files: ParamFiles = None, values: Values = None) -> None:
    """What a search found. Reads: its studies. Writes: R/search/SEARCH/best.yaml, and in R/search/SEARCH/DATASET
    trials.csv, grid.csv, importances.json, history.png, slices.png, contour.png, importances.png."""
    chosen, layout = _load(files, values, name)

    from transfer.search.results import report

    report(chosen, name, layout)


@app.command()
def dashboard(
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port on 127.0.0.1.")] = 8080,
    files: ParamFiles = None,
    values: Values = None,
) -> None:
    """Show all studies in optuna-dashboard, on 127.0.0.1. Reads: search_storage. Writes: what you change there."""
    chosen, layout = load(files, values)

    from transfer.search.dashboard import serve

    serve(chosen, layout, port)


def _load(files: ParamFiles, values: Values, search: str, dataset: str | None = None) -> "tuple[Params, Layout]":
    chosen, layout = load(files, values, dataset)
    if search not in chosen.searches:
        allowed = choices(search, chosen.searches) if chosen.searches else "allowed: none; name it in searches"
        raise UserError(f"--search {search}: not in experiment {chosen.experiment}; {allowed}")
    return chosen, layout
