"""Tables of finished trainings."""

from typing import Annotated

import typer

from transfer.cli.options import ParamFiles, Values, load
from transfer.utils.errors import UserError, choices

app = typer.Typer()


@app.command()
def table(
    name: Annotated[str, typer.Option(metavar="NAME", help="One of table_definitions.")] = "table1",
    partial: Annotated[bool, typer.Option("--partial", help="Leave out missing trainings, and say so.")] = False,
    files: ParamFiles = None,
    values: Values = None,
) -> None:
    """A table. Reads: metrics.json, predictions.parquet and env.json of its runs, D/faces.json, params/reported.yaml,
    and for some kinds R/evaluations/. Writes: R/NAME.csv, R/NAME.md, R/NAME.tex, R/report/NAME.html."""
    chosen, layout = load(files, values)
    if name not in chosen.table_definitions:
        raise UserError(f"--name {name}: not in table_definitions; {choices(name, chosen.table_definitions)}")

    from transfer.tables.build import write_table

    write_table(chosen, layout, name, partial)


@app.command()
def overview(files: ParamFiles = None, values: Values = None) -> None:
    """What `dvc metrics` and `dvc plots` show. Reads: R/table1.csv, history.csv of all runs.
    Writes: R/metrics/DATASET/RECIPE.json, R/history.csv."""
    chosen, layout = load(files, values)

    from transfer.tables.overview import write_overview

    write_overview(chosen, layout)


@app.command()
def publish(files: ParamFiles = None, values: Values = None) -> None:
    """Keep a table and the leak audit in git. Reads: R/table1.csv, R/table1.md, D/faces.json; metrics.json, history.csv
    and env.json of all runs; R/audit/. Writes: results/published/EXPERIMENT/, and the experiment's table in README.md
    and its audit in docs/leaks.md where they have a place."""
    chosen, layout = load(files, values)

    from transfer.tables.publish import publish as publish_results

    print(publish_results(chosen, layout))
