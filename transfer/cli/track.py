"""MLflow (import runs, verify Table 1), and removal of files that no table needs."""

import sys
from typing import Annotated

import typer

from transfer.cli.options import ParamFiles, Values, load
from transfer.utils.errors import UserError

app = typer.Typer(help="MLflow: import runs from their files, verify Table 1.")
top = typer.Typer()


@app.command()
def sync(files: ParamFiles = None, values: Values = None) -> None:
    """Import every finished run into MLflow. Reads: RUN/env.json, RUN/history.csv, RUN/predictions.parquet,
    RUN/metrics.json, RUN/model.safetensors. Writes: MLflow's store."""
    chosen, layout = load(files, values)

    from transfer.tracking.sync import sync as import_runs

    done = import_runs(chosen, layout)
    print(
        f"{layout.experiment}: {done.created} runs created, {done.completed} completed, {done.unchanged} unchanged; "
        f"{done.registered} models registered"
    )
    for line in [*done.outdated, *(f"left out: {problem}" for problem in done.problems)]:
        print(line)
    if done.problems:
        raise UserError(f"{len(done.problems)} runs of {layout.experiment} are not in MLflow; see the lines above")


@app.command()
def check(files: ParamFiles = None, values: Values = None) -> None:
    """Compare every cell of Table 1 with MLflow; exit code 1 on a difference. Reads: R/table1.csv, MLflow's store.
    Writes: nothing."""
    chosen, layout = load(files, values)

    from transfer.tracking.check import check as compare

    cells, problems = compare(chosen, layout)
    for problem in problems:
        print(problem)
    if problems:
        raise UserError(
            f"{layout.root / 'table1.csv'} and MLflow differ in {len(problems)} places; see the lines above"
        )
    print(f"{layout.root / 'table1.csv'}: {cells} cells, all as in MLflow")


@top.command()
def prune(
    files: ParamFiles = None,
    values: Values = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", "-n", help="List, and remove nothing.")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
) -> None:
    """Remove what no table needs: checkpoints and resume states of runs that neither these parameters nor those of the
    last workflow name, imported weights without a recipe, registered models without an alias. Reads: R, MLflow's store.
    Writes: nothing; removes RUN/model.safetensors, R/state/..., R/weights/..., model versions. Predictions stay."""
    chosen, layout = load(files, values)

    from transfer.prune import unneeded
    from transfer.utils.locks import nobody_else

    with nobody_else():
        items = unneeded(layout, chosen)
        for item in items:
            print(f"{_human(item.size):>10}  {item.path}: {item.why}")
        total = f"{len(items)} files and folders, {_human(sum(item.size for item in items))}"
        if not items or dry_run:
            print(f"{total} would be removed" if items else "nothing to remove")
            return
        if not yes and not sys.stdin.isatty():
            raise UserError(f"{total}: cannot ask, stdin is no terminal; pass --yes to remove them")
        if not yes and not typer.confirm(f"Remove {total}?"):
            print("nothing was removed")
            return
        for item in items:
            item.remove()
    print(f"removed: {total}")


def _human(size: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} TB"
