"""Trainings, and what they predict."""

from pathlib import Path
from typing import Annotated

import typer

from transfer.cli.options import Dataset, ParamFiles, Recipe, Seed, Values, classes_of, load

app = typer.Typer()


@app.command()
def train(dataset: Dataset, recipe: Recipe, seed: Seed, files: ParamFiles = None, values: Values = None) -> None:
    """Train once. Reads: D/aligned.npy, D/aligned.parquet, D/index.parquet, D/split.parquet, D/plan_METHOD.npy.
    Writes: RUN/model.safetensors, RUN/history.csv, RUN/predictions.parquet, RUN/env.json; continues after a kill from
    R/state/DATASET/RECIPE/seedSEED."""
    chosen, layout = load(files, values, dataset, recipe)

    from transfer.training import run

    run.train(chosen, dataset, recipe, seed, layout)


@app.command()
def predict(
    images: Annotated[list[Path], typer.Argument(metavar="IMAGE...", help="Image files, or one aligned store (.npy).")],
    weights: Annotated[Path, typer.Option(metavar="FILE", help="model.safetensors of a training.")],
    out: Annotated[Path, typer.Option(metavar="FILE", help="Where the probabilities go: .csv or .parquet.")],
) -> None:
    """Probabilities of the expressions. Reads: images, weights. Writes: OUT, a row per image and a column per class."""
    from transfer.training.predict import predict_files

    predict_files(weights, images, out)


@app.command()
def evaluate(dataset: Dataset, recipe: Recipe, seed: Seed, files: ParamFiles = None, values: Values = None) -> None:
    """Metrics of a training under each protocol. Reads: RUN/predictions.parquet; D/subsets.parquet where it is there.
    Writes: RUN/metrics.json."""
    chosen, layout = load(files, values, dataset, recipe)

    from transfer.evaluation import metrics

    metrics.evaluate(
        layout.run(dataset, recipe, seed),
        experiment=chosen.experiment,
        dataset=dataset,
        recipe=recipe,
        seed=seed,
        classes=classes_of(chosen, dataset),
        subsets=subsets if (subsets := layout.data(dataset) / "subsets.parquet").exists() else None,
    )
