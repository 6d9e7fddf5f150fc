"""Use a trained model: on photos and videos, in other programs."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from transfer.models.weights import catalogue
from transfer.utils.errors import UserError

if TYPE_CHECKING:
    from transfer.predict.results import Results

app = typer.Typer()
ModelOption = Annotated[
    Path | None,
    typer.Option("--model", metavar="RUN", help="A run's folder, or weights; default: the model that comes along."),
]
TABLES = (".csv", ".parquet", ".json")
ANNOTATED = (".jpg", ".jpeg", ".png", ".webp")
FIGURES = (".png", ".svg")


@app.command()
def predict(
    images: Annotated[
        list[str],
        typer.Argument(metavar="IMAGE...", help="Photos, folders, patterns, videos, - (stdin), or stores (.npy)."),
    ],
    model: ModelOption = None,
    out: Annotated[
        Path | None, typer.Option(metavar="FILE", help=f"Write the table: {', '.join(TABLES)}; a row per face.")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
    csv: Annotated[bool, typer.Option("--csv", help="Print CSV instead of a table.")] = False,
    annotate: Annotated[
        Path | None, typer.Option(metavar="OUT", help="Draw boxes and bars: an image file, or a folder for several.")
    ] = None,
    attention: Annotated[
        Path | None, typer.Option(metavar="OUT", help="Draw where the network looks: .png or .svg, or a folder.")
    ] = None,
    aligned: Annotated[bool, typer.Option("--aligned", help="Every image is a face already: take it whole.")] = False,
    fps: Annotated[float, typer.Option(min=0.01, max=1000, help="Frames of a video to look at, per second.")] = 2.0,
) -> None:
    """Expressions of all faces in photos and videos. Reads: images, the model. Writes: a table on stdout; OUT."""
    if json and csv:
        raise UserError("--json and --csv exclude each other; use one")
    if out is not None and out.suffix not in TABLES:
        raise UserError(f"{out}: expected a name that ends in {', '.join(TABLES)}")

    from itertools import chain, islice

    from transfer.predict.pictures import pictures

    stream = pictures(images, fps)
    first = list(islice(stream, 2))
    if len(first) == 1 and first[0].error:  # before the seconds that torch takes to start
        raise UserError(f"{first[0].name}: {first[0].error}; give another image")
    for path, suffixes in ((annotate, ANNOTATED), (attention, FIGURES)):
        _check_output(path, suffixes, len(first))
    weights = catalogue.find_weights(model)

    from transfer.predict import draw
    from transfer.predict.model import Model
    from transfer.predict.results import Results

    loaded = Model(weights)
    results = Results(classes=loaded.classes)
    found = loaded.stream(chain(first, stream), aligned=aligned, attention=attention is not None)
    for picture, photo in found:
        results.append(photo)
        if photo.error:
            print(f"{photo.name}: {photo.error}", file=sys.stderr)
        if annotate is not None and picture.image is not None:
            draw.save(draw.annotated(picture.image, photo), _target(annotate, photo.name, ".jpg"))
        if attention is not None and photo.faces:
            draw.save_attention(photo.faces, Path(photo.name).name, _target(attention, photo.name, ".png"))
    _show(results, out, json, csv)
    if broken := sum(bool(photo.error) for photo in results):
        raise UserError(f"{broken} of {len(results)} images cannot be read (above); the others are done")


def _check_output(path: Path | None, suffixes: tuple[str, ...], pictures: int) -> None:
    """One picture goes into a file, several into a folder."""
    if path is None:
        return
    if path.suffix.lower() in suffixes:
        if pictures > 1:
            raise UserError(f"{path}: a file, and there are several pictures; name a folder instead")
    elif path.suffix or (path.exists() and not path.is_dir()):
        raise UserError(f"{path}: expected a folder, or a name that ends in {', '.join(suffixes)}")


def _target(path: Path, name: str, suffix: str) -> Path:
    """Where what is drawn of the picture ``name`` goes: ``path``, or in this folder the name with _ for folders."""
    if path.suffix:
        return path
    return path / (name.strip("./").replace("/", "_") + suffix)


def _show(results: "Results", out: Path | None, json: bool, csv: bool) -> None:
    from json import dumps

    from transfer.utils.files import atomic, write_json

    if out is not None and out.suffix == ".json":
        write_json(out, results.to_json())
    elif out is not None:
        frame = results.frame()
        with atomic(out) as part:
            frame.to_csv(part, index=False) if out.suffix == ".csv" else frame.to_parquet(part, index=False)
    if json:
        print(dumps(results.to_json(), indent=1))
    elif csv:
        print(results.frame().to_csv(index=False), end="")
    elif out is None:
        print(results)


@app.command()
def package(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Folder of a finished run.")],
    out: Annotated[
        Path, typer.Option(metavar="FILE", help="Weights; the card is written beside them.")
    ] = catalogue.PACKAGED,
) -> None:
    """Make a run the model that comes along. Reads: RUN/model.safetensors, RUN/env.json, RUN/metrics.json,
    RUN/predictions.parquet, D/aligned.npy, D/aligned.parquet, D/split.parquet. Writes: OUT (half precision), OUT.md."""
    catalogue.find_weights(run)

    from transfer.predict.package import package as package_run

    print(package_run(run, out))


@app.command()
def export(
    model: ModelOption = None,
    onnx: Annotated[Path, typer.Option(metavar="FILE", help="The file to write.")] = Path("transfer.onnx"),
    faces: Annotated[
        Path | None,
        typer.Option(metavar="IMAGES", help="Photos to compare on; default: the run's test faces, else drawn faces."),
    ] = None,
) -> None:
    """Export a model to ONNX, normalisation inside, and compare it with torch: above 1e-4 nothing is written. Reads:
    the model, IMAGES or D/aligned.npy. Writes: OUT."""
    weights = catalogue.find_weights(model)
    if onnx.suffix != ".onnx":
        raise UserError(f"{onnx}: expected a name that ends in .onnx")

    import numpy as np

    from transfer.predict.export import export_onnx
    from transfer.predict.model import Model

    loaded, what, pixels = Model(weights), "drawn faces", None
    store = weights.resolve().parents[4] / "data" / weights.resolve().parts[-4] / "aligned.npy"
    if faces is not None:
        what = f"faces of {faces}"
        found = [face.aligned for face in loaded.predict(str(faces)).faces if face.aligned is not None]
        if not found:
            raise UserError(f"{faces}: no face found; give other photos")
        pixels = np.stack(found)
    elif store.is_file():
        what, pixels = f"faces of {store}", np.load(store, mmap_mode="r")
    print(f"{onnx}: largest difference to torch {export_onnx(loaded, onnx, pixels):.1e}, on {what}")


@app.command()
def demo(
    model: ModelOption = None,
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port of the page; 0: any free one.")] = 7860,
    browser: Annotated[bool, typer.Option(help="Open the page in the browser.")] = True,
) -> None:
    """Try models in the browser, with photos and the camera; only on this machine. Reads: the model that comes along,
    results/*/runs. Writes: nothing."""
    chosen = None if model is None else catalogue.find_weights(model)

    import webbrowser

    from transfer.predict.demo import Demo, models

    try:
        server = Demo(models(chosen, catalogue.PACKAGED), port)
    except OSError as error:
        raise UserError(f"port {port}: {error.strerror}; give another with --port") from None
    print(f"{server.url} (stop it with Ctrl-C)", flush=True)
    if browser:
        webbrowser.open(server.url)
    server.serve_forever()
