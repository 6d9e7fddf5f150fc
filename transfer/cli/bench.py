"""Measurements: what the project says about its speed and memory, to be tried on another machine."""

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
    images: Annotated[int, typer.Option(min=1, help="How many images, drawn from the dataset.")] = 288,
    rounds: Annotated[int, typer.Option(min=1, help="How often each way runs.")] = 3,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    files: ParamFiles = None,
    values: Values = None,
) -> None:
    """Detection beside facenet-pytorch's MTCNN.detect, fed image by image and in batches. Reads: the archive. Writes:
    nothing."""
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
        raise UserError(f"{path}: not there; make it with transfer synthesize --dataset {dataset}")
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
def grid(
    images_per_second: Annotated[float, typer.Option(min=1e-6, help="Images that one device trains in a second.")],
    predicted_per_second: Annotated[
        float | None, typer.Option(min=1e-6, help="Images that it predicts in a second; default: three times as many.")
    ] = None,
    devices: Annotated[list[int] | None, typer.Option(min=1, help="How many devices; repeatable.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    files: ParamFiles = None,
    values: Values = None,
) -> None:
    """How long all trainings of an experiment take, at a rate that was measured. Reads: D/split.parquet and the plans
    where they are there, else the official numbers of images. Writes: nothing."""
    chosen, layout = load(files, values)

    from transfer.bench.grid import as_text, estimate

    result = estimate(chosen, layout, images_per_second, predicted_per_second, devices or [1, 8, 64])
    print(json.dumps(result, indent=2) if as_json else as_text(result))


@app.command()
def store(
    faces: Annotated[int, typer.Option(min=128, help="Rows of the sparse store; AffectNet has 283901.")] = 20_000,
    img_size: Annotated[int, typer.Option(min=16, help="Side that the network wants; the store has 112.")] = 112,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """The aligned store against JPEG files, and the memory of an epoch. Reads: nothing. Writes: temporary files."""
    from transfer.bench.store import bench_store, table

    result = bench_store(faces, img_size)
    print(json.dumps(result, indent=2) if as_json else table(result))


@app.command()
def train(
    dataset: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Train on its aligned faces as its parameters say; else on drawn faces."),
    ] = None,
    model: Annotated[str | None, typer.Option(help="Default: the dataset's, without one transfer_base.")] = None,
    img_size: Annotated[int | None, typer.Option(min=16, help="Default: the dataset's, without one 112.")] = None,
    batch_size: Annotated[
        int | None, typer.Option(min=2, help="Default: the dataset's, without one 16 on a CPU, 256 on CUDA.")
    ] = None,
    threads: Annotated[int | None, typer.Option(min=1, help="CPU threads; default: all cores.")] = None,
    rounds: Annotated[int, typer.Option(min=1, help="How often each way runs.")] = 3,
    seconds: Annotated[float, typer.Option(min=0, help="How long each way runs in a round; at least a batch.")] = 2.0,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    files: ParamFiles = None,
    values: Values = None,
) -> None:
    """A training of the full recipe beside the machine's matrix rate and a plain loop; precision and device are those
    of the parameters (train.precision, train.device). Reads: D/aligned.npy, D/aligned.parquet of a dataset. Writes:
    temporary files."""
    chosen, layout = load(files, values, dataset)

    import sys
    from functools import partial

    from transfer.bench.train import bench_train, drawn_faces, stored_faces, table
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
        source = partial(drawn_faces, side=given.get("img_size", 112))
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
