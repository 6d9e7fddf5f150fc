"""Tables of finished trainings."""

import typer

from transfer.cli.options import ParamFiles, Values, load

app = typer.Typer()


@app.command()
def table(files: ParamFiles = None, values: Values = None) -> None:
    """Table 1. Reads: metrics.json, predictions.parquet and env.json of all runs, D/faces.json, params/reported.yaml.
    Writes: R/table1.csv, R/table1.md."""
    chosen, layout = load(files, values)

    from transfer.tables.experiment import write_experiment

    write_experiment(chosen, layout)


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
