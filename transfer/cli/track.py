"""MLflow: bring runs in, compare the tables with it, and what lies on the disk."""

import json
from typing import Annotated

import typer

from transfer.cli.options import ParamFiles, Values, load
from transfer.layout import Layout
from transfer.utils.errors import UserError

app = typer.Typer(help="MLflow: bring runs in from their files, compare the tables with it, see what needs room.")


@app.command()
def sync(files: ParamFiles = None, values: Values = None) -> None:
    """Bring every run into MLflow. Reads: RUN/env.json, RUN/history.csv, RUN/predictions.parquet, RUN/metrics.json,
    RUN/model.safetensors, D/split.parquet. Writes: MLflow's store, and nothing else."""
    chosen, layout = load(files, values)

    from transfer.tracking.sync import sync as bring_in

    done = bring_in(chosen, layout)
    print(
        f"{layout.experiment}: {done.created} runs created, {done.completed} completed, {done.unchanged} unchanged; "
        f"{done.registered} models registered"
    )
    for line in done.outdated:
        print(line)
    for problem in done.problems:
        print(f"left out: {problem}")
    if done.problems:
        raise UserError(f"{len(done.problems)} runs of {layout.experiment} are not in MLflow: see the lines above")


@app.command()
def check(files: ParamFiles = None, values: Values = None) -> None:
    """Compare every cell of Table 1 with MLflow. Reads: R/table1.csv, MLflow's store. Writes: nothing.
    Exit code 1 on a difference."""
    chosen, layout = load(files, values)

    from transfer.tracking.check import check as compare

    cells, problems = compare(layout, chosen.baseline)
    for problem in problems:
        print(problem)
    if problems:
        raise UserError(
            f"{layout.root / 'table1.csv'} and MLflow differ in {len(problems)} places: see the lines above"
        )
    print(f"{layout.root / 'table1.csv'}: {cells} cells, all as in MLflow")


@app.command()
def disk(
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, in bytes.")] = False,
) -> None:
    """What every experiment needs on the disk, and what no table needs. Reads: results/, MLflow's store.
    Writes: nothing."""
    from transfer.tracking import disk as usage

    table = usage.disk()
    if as_json:
        print(json.dumps(usage.as_json(table), indent=2))
        return

    from rich.console import Console
    from rich.table import Table

    shown = Table("experiment", *(f"{name}" for name in (*usage.COLUMNS, "total")))
    for column in shown.columns[1:]:
        column.justify = "right"
        column.no_wrap = True
    for row in usage.as_json(table):
        shown.add_row(row["experiment"], *(usage.human(row[name]) for name in (*usage.COLUMNS, "total")))
    Console().print(shown)
    for name, row in table.items():
        if row["unneeded"]:
            needless = f"{name}: no table needs {usage.human(row['unneeded'])} of it"
            print(f"{needless}; to remove it: transfer prune --params {Layout(name).params}")
