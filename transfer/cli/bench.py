"""The verbs of `transfer bench`: speed and memory, to be measured again on another machine."""

import json
import tempfile
from pathlib import Path
from typing import Annotated, Any

import typer

from transfer.cli.options import Dataset, ParamFiles, Values, load
from transfer.utils.errors import UserError

app = typer.Typer(help="Measure speed, as ratios in one run.")
Rounds = Annotated[int, typer.Option(min=1, help="Number of rounds.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@app.command()
def detect(
    dataset: Dataset,
    images: Annotated[int, typer.Option(min=1, help="Number of images, sampled from the dataset.")] = 288,
    rounds: Rounds = 3,
    as_json: Json = False,
    files: ParamFiles = None,
    values: Values = None,
) -> None:
    """Detection speed against facenet-pytorch's MTCNN.detect. Reads: the archive. Writes: nothing."""
    chosen, _ = load(files, values, dataset)

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
        parser = registry.get(definition.parser)
        listed = parser.index(archive, **definition.options, missing="drop", raw_dir=chosen.raw_dir)
        taken = listed.sample(min(images, len(listed)), random_state=0)["path"].tolist()
        pictures = [image for _, image, _ in stream_images(archive, taken) if image is not None]
    device = str(choose_device(chosen.train.device))
    result = compare(pictures, **faces.search(), threads=faces.threads, device=device, rounds=rounds)
    if as_json:
        print(json.dumps({"dataset": dataset, **result}, indent=2))
        return
    print(f"{dataset}: {result['images']} images, {result['cores']} cores, {rounds} rounds")
    print(f"{'':34}{'images/s':>10}{'of own batches':>16}{'with a face':>13}")
    for way, speed in result["images_per_second"].items():
        print(f"{way:34}{speed:>10.1f}{result['ratio_to_own_batches'][way]:>16.2f}{result['found'][way]:>13.1%}")


@app.command()
def train(
    model: Annotated[str, typer.Option(metavar="NAME", help="Network.")] = "transfer_base",
    img_size: Annotated[int, typer.Option(min=16, help="Side of the input in pixels.")] = 112,
    batch_size: Annotated[int | None, typer.Option(min=2, help="Default: 16 on a CPU, 256 on CUDA.")] = None,
    threads: Annotated[int | None, typer.Option(min=1, help="CPU threads; default: all cores.")] = None,
    rounds: Rounds = 3,
    seconds: Annotated[float, typer.Option(min=0, help="Length of a measurement; at least a batch.")] = 2.0,
    as_json: Json = False,
    files: ParamFiles = None,
    values: Values = None,
) -> None:
    """Training speed on synthetic faces: images/s, model FLOPs utilisation, and the ratio to a plain loop; the rest as
    the parameters say. Reads: nothing. Writes: temporary files."""
    chosen, _ = load(files, values)

    import sys

    from transfer.bench.train import bench_train, table
    from transfer.training.device import choose_device
    from transfer.utils.environment import cores

    batch_size = batch_size or (256 if choose_device(chosen.train.device).type == "cuda" else 16)
    result = bench_train(
        chosen.model.model_copy(update={"name": model, "img_size": img_size}),
        chosen.train.model_copy(update={"batch_size": batch_size}),
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
    rounds: Rounds = 3,
    as_json: Json = False,
    files: ParamFiles = None,
    values: Values = None,
) -> None:
    """Processor seconds of commands before they do any work, and the ratio to `import torch`. Reads: D of a dataset.
    Writes: nothing."""
    from transfer.bench.startup import bench_startup, commands, stand_ins

    run = []
    if dataset:
        load(files, values, dataset)
        run = ["--dataset", dataset, "--recipe", "full", "--seed", "0", "--set", "tracking=false"]
        run += [word for file in files or () for word in ("--params", str(file))]
        run += [word for value in values or () for word in ("--set", value)]
    with tempfile.TemporaryDirectory() as folder:
        stand_ins(Path(folder))
        result = bench_startup(commands(verbs(context.find_root().command), run, Path(folder)), rounds)
    if as_json:
        print(json.dumps(result, indent=2))
        return
    for name, value in result.items():
        print(f"{name:45}{value['seconds']:8.2f} s{value['ratio']:8.2f}")


@app.command()
def scale(
    plans: Annotated[list[int] | None, typer.Option(help="Runs of params/paper.yaml to plan; repeatable.")] = None,
    runs: Annotated[int, typer.Option(min=18, help="Finished runs in a table.")] = 500,
    images: Annotated[int, typer.Option(min=1, help="Images to search for duplicates, and files to digest.")] = 300_000,
) -> None:
    """Processor seconds, seconds and memory of large experiments, on made-up runs and hashes. Reads: nothing. Writes:
    temporary files, about 2 GB."""
    from transfer.bench.scale import bench_scale

    print(f"{'':36}{'processor':>12}{'seconds':>12}{'memory':>12}")
    with tempfile.TemporaryDirectory() as folder:
        for name, cost in bench_scale(Path(folder), plans or [90, 900, 4500], runs, images):
            memory = f"{cost['gigabytes']:9.2f} GB" if "gigabytes" in cost else ""
            print(f"{name:36}{cost['processor']:10.1f} s{cost['seconds']:10.1f} s{memory}", flush=True)


def verbs(root: Any) -> list[str]:
    """All verbs below the command ``root``, such as "train" and "track sync"."""
    commands = root.commands.items()
    return [f"{name} {sub}".strip() for name, command in commands for sub in getattr(command, "commands", [""])]
