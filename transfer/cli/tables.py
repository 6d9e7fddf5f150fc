"""Tables and figures of finished runs."""

from pathlib import Path
from typing import Annotated

import typer

from transfer.cli.options import Dataset, ParamFiles, Values, load
from transfer.layout import Layout
from transfer.params import Params
from transfer.utils.errors import UserError, choices

app = typer.Typer()
figure_app = typer.Typer(help="Figures of finished runs.")
TableName = Annotated[str, typer.Option("--name", metavar="NAME", help="One of table_definitions.")]


def _load(files: ParamFiles, values: Values, table: str, dataset: str | None = None) -> tuple[Params, Layout]:
    params, layout = load(files, values, dataset)
    if table not in params.table_definitions:
        raise UserError(f"--name {table}: not in table_definitions; {choices(table, params.table_definitions)}")
    return params, layout


@app.command("table")
def table(
    name: TableName = "table1",
    partial: Annotated[bool, typer.Option("--partial", help="Leave out missing runs, and say so.")] = False,
    files: ParamFiles = None,
    values: Values = None,
) -> None:
    """Make a table. Reads: metrics.json, predictions.parquet and env.json of its runs, D/faces.json, D/split.parquet,
    and for some kinds R/evaluations/ or params/reported.yaml.
    Writes: R/NAME.csv, R/NAME.md, R/NAME.tex, R/report/NAME.html."""
    params, layout = _load(files, values, name)

    from transfer.tables.build import write_table

    write_table(params, layout, name, partial)


@figure_app.command("table")
def table_figure(name: TableName, dataset: Dataset, files: ParamFiles = None, values: Values = None) -> None:
    """Draw the figure of a table on one dataset. Reads: the files of the table; history.csv of its runs.
    Writes: R/figures/NAME_DATASET.png, .svg, .json (the caption)."""
    params, layout = _load(files, values, name, dataset)

    from transfer.tables.build import write_figure

    for path in write_figure(params, layout, name, dataset):
        print(path)


@figure_app.command()
def attention(
    dataset: Annotated[
        str | None, typer.Option(metavar="NAME", help="One of the experiment's datasets; default: the first.")
    ] = None,
    recipes: Annotated[
        str | None, typer.Option(metavar="NAMES", help="The columns, comma-separated; default: all of the experiment.")
    ] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="Seed of the runs; default: the experiment's first.")] = None,
    image: Annotated[Path | None, typer.Option(metavar="FILE", help="A photo, instead of the test faces.")] = None,
    weights: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="model.safetensors for the photo; default: that of the last of the recipes."),
    ] = None,
    aligned: Annotated[bool, typer.Option("--aligned", help="The photo is an aligned face: take it as it is.")] = False,
    out: Annotated[
        Path | None, typer.Option(metavar="FILE", help="The photo's figure, .png or .svg; default: STEM_attention.png.")
    ] = None,
    files: ParamFiles = None,
    values: Values = None,
) -> None:
    """Draw where the networks look, in one test face per expression. Reads: model.safetensors, env.json and
    predictions.parquet of a run per recipe, D/aligned.npy, D/aligned.parquet, D/split.parquet.
    Writes: R/figures/attention_DATASET and R/figures/lanets_DATASET, each .png, .svg, .json (the caption).
    With --image: in any photo. Reads: the photo, weights. Writes: OUT; prints the probabilities."""
    params, layout = load(files, values, dataset)
    dataset = dataset or params.datasets[0]
    named = recipes.split(",") if recipes else params.recipes
    for recipe in named:
        if recipe not in params.recipes:
            allowed = choices(recipe, params.recipes)
            raise UserError(f"--recipes {recipe}: not in experiment {params.experiment}; {allowed}")
    seed = params.seeds[0] if seed is None else seed
    if image is not None:
        _photo(image, weights or layout.run(dataset, named[-1], seed) / "model.safetensors", aligned, out)
        return
    if weights is not None or aligned or out is not None:
        raise UserError("--weights, --aligned and --out are for a photo; add --image")

    from transfer.explain.attention import write_attention

    for path in write_attention(params, layout, dataset, named, seed):
        print(path)


def _photo(image: Path, weights: Path, aligned: bool, out: Path | None) -> None:
    if not weights.exists():
        raise UserError(f"{weights}: missing; give a run's model.safetensors with --weights, or train this one")
    out = out or Path(f"{image.stem}_attention.png")

    from transfer.explain.attention import explain_photo, photo_figure
    from transfer.utils.plots import save

    photo = explain_photo(image, weights, aligned)
    save(photo_figure(photo), out)
    found = {0: "no face found: the whole image", 1: "one face"}
    taken = found.get(photo.n_faces, f"{photo.n_faces} faces: the one nearest the centre by area")
    print(f"{image}: {'taken as it is' if aligned else taken}; figure: {out}")
    for name, probability in sorted(zip(photo.classes, photo.probabilities, strict=True), key=lambda pair: -pair[1]):
        print(f"{name} {probability:.3f}")


@app.command()
def overview(files: ParamFiles = None, values: Values = None) -> None:
    """Summarise the experiment for `dvc metrics` and `dvc plots`. Reads: R/table1.csv, history.csv of all runs.
    Writes: R/metrics/DATASET/RECIPE.json, R/history.csv."""
    params, layout = load(files, values)

    from transfer.tables.overview import write_overview

    write_overview(params, layout)


@app.command()
def publish(files: ParamFiles = None, values: Values = None) -> None:
    """Copy tables and leak audit to a folder for git. Reads: all tables and their charts, D/faces.json; metrics.json,
    history.csv and env.json of all runs; R/audit/. Writes: results/published/EXPERIMENT/, and the experiment's table in
    README.md where it has one."""
    params, layout = load(files, values)

    from transfer.tables.publish import publish as publish_results

    print(publish_results(params, layout))
