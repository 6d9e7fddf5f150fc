"""Figures of finished trainings."""

from pathlib import Path
from typing import Annotated

import typer

from transfer.cli.options import Dataset, ParamFiles, Values, load
from transfer.utils.errors import UserError, choices

app = typer.Typer(help="Figures of finished trainings.")


@app.callback()
def figure() -> None:
    """Figures of finished trainings."""


@app.command()
def attention(
    dataset: Annotated[
        str | None, typer.Option(metavar="NAME", help="One of the experiment's datasets; default: the first.")
    ] = None,
    recipes: Annotated[
        str | None, typer.Option(metavar="NAMES", help="The columns, with commas; default: all of the experiment.")
    ] = None,
    seed: Annotated[
        int | None, typer.Option(min=0, help="Seed of the trainings; default: the experiment's first.")
    ] = None,
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
    """Where the networks look, one test face per expression. Reads: model.safetensors, env.json and predictions.parquet
    of a training per recipe, D/aligned.npy, D/aligned.parquet, D/split.parquet.
    Writes: R/figures/attention_DATASET and R/figures/lanets_DATASET, each .png, .svg, .json (the caption).
    With --image: any photo. Reads: the photo, weights. Writes: OUT; prints the probabilities."""
    chosen, layout = load(files, values, dataset)
    dataset = dataset or chosen.datasets[0]
    named = recipes.split(",") if recipes else chosen.recipes
    for recipe in named:
        if recipe not in chosen.recipes:
            allowed = ", ".join(chosen.recipes)
            raise UserError(f"--recipes {recipe}: not in experiment {chosen.experiment}; allowed: {allowed}")
    seed = chosen.seeds[0] if seed is None else seed
    if image is not None:
        _photo(image, weights or layout.run(dataset, named[-1], seed) / "model.safetensors", aligned, out)
        return
    if weights is not None or aligned or out is not None:
        raise UserError("--weights, --aligned and --out are for a photo; give it with --image")

    from transfer.explain.attention import write_attention

    for path in write_attention(chosen, layout, dataset, named, seed):
        print(path)


def _photo(image: Path, weights: Path, aligned: bool, out: Path | None) -> None:
    if not weights.exists():
        raise UserError(f"{weights}: not there; give a training's model.safetensors with --weights, or train this one")
    out = out or Path(f"{image.stem}_attention.png")
    if out.suffix not in (".png", ".svg"):
        raise UserError(f"{out}: expected a name that ends in .png or .svg")

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
def table(
    name: Annotated[str, typer.Option(metavar="NAME", help="One of table_definitions.")],
    dataset: Dataset,
    files: ParamFiles = None,
    values: Values = None,
) -> None:
    """The figure of a table on one dataset. Reads: history.csv, or metrics.json and predictions.parquet, of its runs,
    and for some kinds R/evaluations/. Writes: R/figures/NAME_DATASET.png, .svg, .json (the caption)."""
    chosen, layout = load(files, values, dataset)
    if name not in chosen.table_definitions:
        raise UserError(f"--name {name}: not in table_definitions; {choices(name, chosen.table_definitions)}")

    from transfer.tables.build import write_figure

    for path in write_figure(chosen, layout, name, dataset):
        print(path)
