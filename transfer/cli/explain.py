"""What a training's network looks at, in numbers; the pictures are those of `transfer figure`."""

import typer

from transfer.cli.options import Dataset, ParamFiles, Recipe, Seed, Values, load

app = typer.Typer()


@app.command()
def diversity(dataset: Dataset, recipe: Recipe, seed: Seed, files: ParamFiles = None, values: Values = None) -> None:
    """How diverse a training's LANet maps are and how alike its heads, on the test faces. Reads:
    RUN/model.safetensors, RUN/env.json, D/aligned.npy, D/aligned.parquet, D/split.parquet.
    Writes: R/evaluations/attention/DATASET/RECIPE/seedSEED/diversity.json."""
    chosen, layout = load(files, values, dataset, recipe)

    from transfer.explain.diversity import write_diversity

    found = write_diversity(layout, dataset, recipe, seed, chosen.train)
    lanets = found["lanets"] or {}
    print(f"{dataset} {recipe} seed{seed}, {found['n']:,} test faces:")
    print("LANets: " + (", ".join(f"{name} {value:.3f}" for name, value in lanets.items()) or "fewer than two"))
    for name, blocks in found["heads"].items():
        print(f"heads, {name.replace('_', ' ')}, by block: {' '.join(f'{value:.3f}' for value in blocks)}")
