"""Tables and figures of finished runs."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from transfer.cli.options import Dataset, verb
from transfer.layout import Layout
from transfer.utils.errors import UserError, choices

if TYPE_CHECKING:
    from transfer.params import Params

app = typer.Typer()
figure_app = typer.Typer(help="Figures of finished runs.")
TableName = Annotated[str, typer.Option("--name", metavar="NAME", help="One of table_definitions.")]


@verb(app, "table")
def table(
    params: "Params",
    layout: Layout,
    table: TableName = "table1",
    partial: Annotated[bool, typer.Option("--partial", help="Leave out missing runs, and say so.")] = False,
) -> None:
    """Make a table. Reads: metrics.json, predictions.parquet and env.json of its runs, D/faces.json, D/split.parquet,
    and for some kinds R/evaluations/ or params/reported.yaml.
    Writes: R/NAME.csv, R/NAME.md, R/NAME.tex, R/report/NAME.html."""
    from transfer.tables.build import write_table

    write_table(params, layout, table, partial)
    runs = [layout.run(*run) / "metrics.json" for run in params.table_runs(table)]
    layout.chain.note([layout.table(table, suffix) for suffix in ("csv", "md", "tex")], filter(Path.exists, runs))


@verb(figure_app, "table")
def table_figure(params: "Params", layout: Layout, table: TableName, dataset: Dataset) -> None:
    """Draw the figure of a table on one dataset. Reads: the files of the table; history.csv of its runs.
    Writes: R/figures/NAME_DATASET.png, .svg, .json (the caption)."""
    from transfer.tables.build import write_figure

    for path in write_figure(params, layout, table, dataset):
        print(path)


@verb(figure_app)
def attention(
    params: "Params",
    layout: Layout,
    dataset: Annotated[
        str | None, typer.Option(metavar="NAME", help="One of the experiment's datasets; default: the first.")
    ] = None,
    recipes: Annotated[
        str | None, typer.Option(metavar="NAMES", help="The columns, comma-separated; default: all of the experiment.")
    ] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="Seed of the runs; default: the experiment's first.")] = None,
) -> None:
    """Draw where the networks look, in one test face per expression. Reads: model.safetensors, env.json and
    predictions.parquet of a run per recipe, D/aligned.npy, D/aligned.parquet, D/split.parquet.
    Writes: R/figures/attention_DATASET and R/figures/lanets_DATASET, each .png, .svg, .json (the caption).
    Of any photo: transfer predict --attention."""
    dataset = dataset or params.datasets[0]
    named = recipes.split(",") if recipes else params.recipes
    for recipe in named:
        if recipe not in params.recipes:
            allowed = choices(recipe, params.recipes)
            raise UserError(f"--recipes {recipe}: not in experiment {params.experiment}; {allowed}")
    seed = params.seeds[0] if seed is None else seed

    from transfer.explain.attention import write_attention

    for path in write_attention(params, layout, dataset, named, seed):
        print(path)


@verb(app)
def overview(params: "Params", layout: Layout) -> None:
    """Summarise the experiment for `dvc metrics` and `dvc plots`. Reads: R/table1.csv, history.csv of all runs.
    Writes: R/metrics/DATASET/RECIPE.json, R/history.csv."""
    from transfer.tables.publish import write_overview

    write_overview(params, layout)


@app.command()
def compare(
    own: Annotated[Path, typer.Argument(metavar="FOLDER", help="Such as results/demo.")],
    other: Annotated[Path, typer.Argument(metavar="OTHER", help="Such as results/published/demo.")],
) -> None:
    """Compare Table 1 of two results folders cell by cell, with what differs in faces, parameters, code and machine.
    Reads: table1.csv, params.yaml, RUN/env.json, D/evaluation.csv of both. Writes: nothing."""
    from transfer.tables.compare import compare, report

    print(report(compare(own, other)))


@verb(app)
def publish(params: "Params", layout: Layout) -> None:
    """Copy tables and leak audit to a folder for git. Reads: all tables and their charts, D/faces.json; metrics.json,
    history.csv and env.json of all runs; R/audit/. Writes: results/published/EXPERIMENT/."""
    from transfer.tables.publish import publish as publish_results

    print(publish_results(params, layout))
