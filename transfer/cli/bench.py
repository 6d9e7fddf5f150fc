"""The verbs of `transfer bench`: speed and memory, to be measured again on another machine."""

import json
from typing import Annotated

import typer

from transfer.cli.options import Dataset, ParamFiles, Values, existing, load
from transfer.utils.errors import UserError

app = typer.Typer(help="Measure speed, as ratios in one run.")


@app.callback()
def bench() -> None:
    """Measure speed, as ratios in one run."""


@app.command()
def detect(
    dataset: Dataset,
    images: Annotated[int, typer.Option(min=1, help="Number of images, sampled from the dataset.")] = 288,
    rounds: Annotated[int, typer.Option(min=1, help="Number of rounds.")] = 3,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    files: ParamFiles = None,
    values: Values = None,
) -> None:
    """Detection speed against facenet-pytorch's MTCNN.detect. Reads: the archive. Writes: nothing."""
    chosen, _ = load(files, values, dataset)

    from rich.console import Console
    from rich.table import Table

    from transfer.bench.detect import compare
    from transfer.datasets import registry
    from transfer.datasets.archives import open_source
    from transfer.datasets.images import stream_images
    from transfer.sources.table import archive_path
    from transfer.training.device import choose_device

    faces, definition = chosen.face_params(dataset), chosen.dataset_definitions[dataset]
    path = archive_path(chosen, dataset)
    if not path.exists():
        raise UserError(f"{path}: missing; make it with transfer synthesize --dataset {dataset}")
    with open_source(path) as archive:
        listed = registry.get(definition.parser).index(
            archive, **definition.options, missing="drop", raw_dir=chosen.raw_dir
        )
        drawn = listed.sample(min(images, len(listed)), random_state=0)
        pictures = [image for _, image, _ in stream_images(archive, drawn["path"].tolist()) if image is not None]
    device = str(choose_device(chosen.train.device))
    result = {"dataset": dataset}
    result |= compare(pictures, **faces.search(), threads=faces.threads, device=device, rounds=rounds)
    if as_json:
        print(json.dumps(result, indent=2))
        return
    console = Console()
    table = Table(title=f"{dataset}: {result['images']} images, {result['cores']} cores, {rounds} rounds")
    table.add_column("way")
    table.add_column("images/s", justify="right")
    table.add_column("of own batches", justify="right")
    for way, speed in result["images_per_second"].items():
        table.add_row(way, f"{speed:.1f}", f"{result['ratio_to_own_batches'][way]:.2f}")
    console.print(table)
    for title, numbers in (("Agreement", result["agreement"]), ("Share of images with a face", result["found"])):
        console.print(f"{title}: " + ", ".join(f"{name} {value:.4g}" for name, value in numbers.items()))


@app.command()
def train(
    dataset: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Train on its aligned faces as its parameters say; else on synthetic faces."),
    ] = None,
    model: Annotated[str | None, typer.Option(help="Default: the dataset's, without one transfer_base.")] = None,
    img_size: Annotated[int | None, typer.Option(min=16, help="Default: the dataset's, without one 112.")] = None,
    batch_size: Annotated[
        int | None, typer.Option(min=2, help="Default: the dataset's, without one 16 on a CPU, 256 on CUDA.")
    ] = None,
    threads: Annotated[int | None, typer.Option(min=1, help="CPU threads; default: all cores.")] = None,
    rounds: Annotated[int, typer.Option(min=1, help="Number of rounds.")] = 3,
    seconds: Annotated[float, typer.Option(min=0, help="Length of a measurement; at least a batch.")] = 2.0,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    files: ParamFiles = None,
    values: Values = None,
) -> None:
    """Training speed of the full recipe: images/s, model FLOPs utilisation, and the ratio to a plain loop; precision
    and device are those of the parameters. Reads: D/aligned.npy, D/aligned.parquet of a dataset. Writes: temporary
    files."""
    chosen, layout = load(files, values, dataset)

    import sys
    from functools import partial

    from transfer.bench.train import bench_train, stored_faces, synthetic_faces, table
    from transfer.training.device import choose_device
    from transfer.utils.environment import cores

    given = {key: value for key, value in (("name", model), ("img_size", img_size)) if value is not None}
    if dataset:
        run = chosen.run(dataset, "full")
        network, training = run.model, run.train
        paths = [existing(layout.data(dataset) / f"aligned.{end}", "align") for end in ("npy", "parquet")]
        source = partial(stored_faces, dataset, *paths)
    else:
        network = chosen.model.model_copy(update={"name": "transfer_base", "img_size": 112})
        cuda = choose_device(chosen.train.device).type == "cuda"
        training = chosen.train.model_copy(update={"batch_size": 256 if cuda else 16})
        source = partial(synthetic_faces, side=given.get("img_size", 112))
    result = bench_train(
        network.model_copy(update=given),
        training.model_copy(update={"batch_size": batch_size} if batch_size else {}),
        source,
        threads=threads or cores(),
        rounds=rounds,
        seconds=seconds,
        progress=lambda line: print(line, file=sys.stderr, flush=True),
    )
    print(json.dumps(result, indent=2) if as_json else table(result))


@app.command()
def startup(
    context: typer.Context,
    dataset: Annotated[
        str | None, typer.Option(metavar="NAME", help="Also start a run of its full recipe, until the first step.")
    ] = None,
    rounds: Annotated[int, typer.Option(min=1, help="Number of rounds.")] = 3,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    files: ParamFiles = None,
    values: Values = None,
) -> None:
    """Processor seconds of commands before they do any work, and the ratio to `import torch`. Reads: D of a dataset.
    Writes: nothing."""
    from transfer.bench.startup import bench_startup, commands

    run = []
    if dataset:
        load(files, values, dataset)
        run = ["--dataset", dataset, "--recipe", "full", "--seed", "0", "--set", "tracking=false"]
        run += [word for file in files or () for word in ("--params", str(file))]
        run += [word for value in values or () for word in ("--set", value)]
    verbs = [
        f"{name} {part}".strip()
        for name, command in getattr(context.find_root().command, "commands", {}).items()
        for part in getattr(command, "commands", [""])
    ]
    result = bench_startup(commands(verbs, run), rounds)
    if as_json:
        print(json.dumps(result, indent=2))
        return
    for name, value in result.items():
        print(f"{name:45}{value['seconds']:8.2f} s{value['ratio']:8.2f}")
