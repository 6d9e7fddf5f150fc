"""MLflow (import runs, verify Table 1), and removal of files that no table needs."""

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from transfer.cli.options import verb
from transfer.layout import Layout
from transfer.utils.errors import UserError
from transfer.utils.text import printable

if TYPE_CHECKING:
    from transfer.params import Params

app = typer.Typer(help="MLflow: import runs from their files, verify Table 1.")
top = typer.Typer()


@verb(app)
def sync(params: "Params", layout: Layout) -> None:
    """Import every finished run into MLflow. Reads: RUN/env.json, RUN/history.csv, RUN/predictions.parquet,
    RUN/metrics.json, RUN/model.safetensors. Writes: MLflow's store."""
    from transfer.tracking.sync import sync as import_runs

    done = import_runs(params, layout)
    runs = f"{done.created} runs created, {done.completed} completed, {done.unchanged} unchanged"
    print(f"{layout.experiment}: {runs}; {done.registered} models registered")
    for line in [*done.outdated, *(f"left out: {problem}" for problem in done.problems)]:
        print(printable(line))
    if done.problems:
        raise UserError(f"{len(done.problems)} runs of {layout.experiment} are not in MLflow; see the lines above")


@verb(app)
def check(params: "Params", layout: Layout) -> None:
    """Compare every cell of Table 1 with MLflow; exit code 1 on a difference. Reads: R/table1.csv, MLflow's store.
    Writes: nothing."""
    from transfer.tracking.check import check as compare

    cells, problems = compare(params, layout)
    for problem in problems:
        print(printable(problem))
    table = layout.root / "table1.csv"
    if problems:
        raise UserError(f"{table} and MLflow differ in {len(problems)} places; see the lines above")
    print(f"{table}: {cells} cells, all as in MLflow")


@verb(top)
def prune(
    params: "Params",
    layout: Layout,
    dry_run: Annotated[bool, typer.Option("--dry-run", "-n", help="List, and remove nothing.")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
) -> None:
    """Remove what no table needs: checkpoints and resume states of runs that neither these parameters nor those of the
    last workflow name, imported weights without a recipe, what killed writers left. Reads: R. Writes: nothing; removes
    RUN/model.safetensors, R/state/..., R/weights/.... Predictions stay."""
    from rich.filesize import decimal

    from transfer.prune import unneeded
    from transfer.utils.locks import nobody_else

    with nobody_else():
        items = unneeded(layout, params)
        for item in items:
            print(printable(f"{decimal(item.size):>10}  {item.path}: {item.why}"))
        total = f"{len(items)} files and folders, {decimal(sum(item.size for item in items))}"
        if not items or dry_run:
            print(f"{total} would be removed" if items else "nothing to remove")
            return
        if not yes and not sys.stdin.isatty():
            raise UserError(f"{total}: cannot ask, stdin is no terminal; pass --yes to remove them")
        if not (yes or typer.confirm(f"Remove {total}?")):
            print("nothing was removed")
            return
        for item in items:
            item.remove()
    print(f"removed: {total}")
