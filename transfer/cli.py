"""The command line: one verb per step of the workflow; ``transfer.layout`` names the files."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from transfer import config
from transfer.errors import UserError
from transfer.layout import UPSAMPLING, Layout, archive_path
from transfer.params import Params

if TYPE_CHECKING:
    import pandas as pd

app = typer.Typer(
    add_completion=False,
    pretty_exceptions_enable=False,
    help="TransFER and its ablations, step by step; the workflow (snakemake) calls the same verbs. "
    "R stands for results/EXPERIMENT, D for R/data/DATASET, RUN for R/runs/DATASET/RECIPE/seedSEED. "
    "With --debug anywhere on the line an error shows its traceback.",
)

ParamFiles = Annotated[
    list[Path] | None,
    typer.Option("--params", metavar="FILE", help="Parameter file on top of params/default.yaml; repeatable."),
]
Values = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="A single parameter, such as train.epochs=3; repeatable."),
]
Dataset = Annotated[str, typer.Option(metavar="NAME", help="One of the experiment's datasets.")]
Recipe = Annotated[str, typer.Option(metavar="NAME", help="One of the experiment's recipes.")]
Seed = Annotated[int, typer.Option(min=0, help="Seed of the training.")]


def main() -> None:
    """Run the command line: exit code 0, or 1 with one line on stderr; a traceback only under ``--debug``."""
    arguments = [argument for argument in sys.argv[1:] if argument != "--debug"]
    debug = len(arguments) < len(sys.argv) - 1
    try:
        sys.exit(app(args=arguments or ["--help"], prog_name="transfer", standalone_mode=False))
    except (KeyboardInterrupt, typer.Abort):
        sys.exit(130)
    except Exception as error:
        if debug:
            raise
        if isinstance(error, UserError):
            message = str(error)
        elif hasattr(error, "format_message"):  # a mistake on the command line, found by typer
            message = f"{error.format_message()} (see transfer --help)"
        else:
            message = f"{type(error).__name__}: {error} (unexpected: --debug shows where)"
        print(f"error: {' '.join(message.split())}", file=sys.stderr)
        sys.exit(1)


@app.command()
def params(files: ParamFiles = None, values: Values = None) -> None:
    """Check the parameters. Reads: parameter files. Writes: the resolved configuration on stdout."""
    import yaml

    resolved = config.load(files or (), values or ()).model_dump(mode="json", exclude_none=True)
    print(yaml.safe_dump(resolved, sort_keys=False), end="")


@app.command()
def schema() -> None:
    """Write the JSON schema of the parameters. Writes: params/schema.json."""
    config.write_schema()


@app.command()
def synthesize(dataset: Dataset, files: ParamFiles = None, values: Values = None) -> None:
    """Draw faces in the layout of a real dataset. Writes: the dataset's archive in raw_dir."""
    chosen, _ = _load(files, values, dataset)

    from transfer.datasets.synthetic import write_archive

    definition = chosen.dataset_definitions[dataset]
    if definition.synthetic is None:
        raise UserError(f"dataset {dataset}: not a drawn one; put its archive into {chosen.raw_dir}")
    write_archive(
        definition.parser,
        archive_path(chosen, dataset),
        seed=definition.synthetic,
        scale=definition.synthetic_scale,
    )


@app.command()
def index(dataset: Dataset, files: ParamFiles = None, values: Values = None) -> None:
    """List a dataset's images, labels and splits. Reads: its archive in raw_dir. Writes: D/index.parquet."""
    chosen, layout = _load(files, values, dataset)

    from transfer.datasets import counts, registry, source

    definition = chosen.dataset_definitions[dataset]
    parser = registry.get(definition.parser)
    path = archive_path(chosen, dataset)
    with source.open_source(path) as archive:
        table = parser.index(archive, **definition.options, missing=definition.missing)
    try:
        counts.check_counts(
            table, parser.classes(**definition.options), definition.expect, parser.official(**definition.options)
        )
    except UserError as error:
        raise UserError(f"dataset {dataset} ({path}): {error}") from None
    _write(table, layout.data(dataset) / "index.parquet")
    per_split = ", ".join(f"{n:,} {split}" for split, n in table["split"].value_counts().items())
    left_out = table.attrs.get("dropped", {}) | {"missing": table.attrs.get("missing", 0)}
    print(f"{dataset}: {per_split}; left out: {', '.join(f'{n:,} {why}' for why, n in left_out.items())}")


@app.command()
def detect(dataset: Dataset, files: ParamFiles = None, values: Values = None) -> None:
    """Find faces and five landmarks with MTCNN. Reads: D/index.parquet, the archive. Writes: D/faces.parquet."""
    chosen, layout = _load(files, values, dataset)
    index_file = _existing(layout.data(dataset) / "index.parquet", "index")

    import pandas as pd

    from transfer.datasets import images, source
    from transfer.faces.detect import detect as detect_faces
    from transfer.progress import progress
    from transfer.training.device import choose_device

    faces = chosen.face_params(dataset)
    listed = pd.read_parquet(index_file)
    with (
        source.open_source(archive_path(chosen, dataset)) as archive,
        progress("detecting faces", len(listed)) as report,
    ):
        found = detect_faces(
            images.stream_images(archive, listed["path"].tolist()),
            listed["sample"].tolist(),
            min_side=faces.min_side,
            threads=faces.threads,
            device=str(choose_device(chosen.train.device)),
            progress=report,
        )
    _write(found, layout.data(dataset) / "faces.parquet")
    print(f"{dataset}: " + ", ".join(f"{n:,} {status}" for status, n in found["status"].value_counts().items()))


@app.command()
def align(dataset: Dataset, files: ParamFiles = None, values: Values = None) -> None:
    """Warp the faces onto the template. Reads: D/index.parquet, D/faces.parquet, the archive. Writes: D/aligned.npy,
    D/aligned.parquet, D/faces.json, D/montage.png."""
    chosen, layout = _load(files, values, dataset)
    data = layout.data(dataset)
    index_file, faces_file = _existing(data / "index.parquet", "index"), _existing(data / "faces.parquet", "detect")

    import numpy as np
    import pandas as pd

    from transfer.datasets import images, source
    from transfer.faces.align import align_dataset
    from transfer.faces.report import face_report, montage
    from transfer.files import write_json

    policies = chosen.face_params(dataset).model_dump(include={"landmarks", "size", "no_face", "broken"})
    listed, faces = pd.read_parquet(index_file), pd.read_parquet(faces_file)
    with source.open_source(archive_path(chosen, dataset)) as archive:
        stream = images.stream_images(archive, listed["path"].tolist())
        counts = align_dataset(stream, listed, faces, data / "aligned.npy", data / "aligned.parquet", **policies)
    manifest = pd.read_parquet(data / "aligned.parquet")
    write_json(data / "faces.json", face_report(listed, faces, manifest, policies))
    montage(np.load(data / "aligned.npy", mmap_mode="r"), data / "montage.png")
    print(f"{dataset}: " + ", ".join(f"{n:,} {what}" for what, n in counts.items()))


@app.command()
def sample(dataset: Dataset, files: ParamFiles = None, values: Values = None) -> None:
    """Split and balance. Reads: D/aligned.parquet. Writes: D/split.parquet, D/plan_full.npy, D/plan_sqrt.npy,
    D/plan_none.npy."""
    chosen, layout = _load(files, values, dataset)

    import numpy as np
    import pandas as pd

    from transfer.files import atomic
    from transfer.sampling import split_rows, upsampling_plan

    sampling = chosen.sampling_params(dataset)
    manifest = pd.read_parquet(_existing(layout.data(dataset) / "aligned.parquet", "align"))
    split = split_rows(manifest, sampling.val_fraction, sampling.split_seed)
    _write(split, layout.data(dataset) / "split.parquet")
    training = split[split["split"] == "train"]
    labels, rows = training["label"].to_numpy(), training["row"].to_numpy()
    for method in UPSAMPLING:
        plan = upsampling_plan(labels, rows, method, sampling.split_seed, _classes(chosen, dataset))
        with atomic(layout.plan(dataset, method)) as part:
            np.save(part, plan)


@app.command()
def train(dataset: Dataset, recipe: Recipe, seed: Seed, files: ParamFiles = None, values: Values = None) -> None:
    """Train once. Reads: D/aligned.npy, D/aligned.parquet, D/index.parquet, D/split.parquet, D/plan_METHOD.npy.
    Writes: RUN/model.safetensors, RUN/history.csv, RUN/predictions.parquet, RUN/env.json; continues after a kill from
    R/state/DATASET/RECIPE/seedSEED."""
    chosen, layout = _load(files, values, dataset, recipe)

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
    """Metrics of a training under each protocol. Reads: RUN/predictions.parquet. Writes: RUN/metrics.json."""
    chosen, layout = _load(files, values, dataset, recipe)

    from transfer.evaluation import metrics

    metrics.evaluate(
        layout.run(dataset, recipe, seed),
        experiment=chosen.experiment,
        dataset=dataset,
        recipe=recipe,
        seed=seed,
        classes=_classes(chosen, dataset),
    )


@app.command()
def table(files: ParamFiles = None, values: Values = None) -> None:
    """Table 1. Reads: metrics.json, predictions.parquet and env.json of all runs, D/faces.json, params/reported.yaml.
    Writes: R/table1.csv, R/table1.md."""
    chosen, layout = _load(files, values)

    from transfer.tables.experiment import write_experiment

    write_experiment(chosen, layout)


@app.command()
def publish(files: ParamFiles = None, values: Values = None) -> None:
    """Keep a table in git. Reads: R/table1.csv, R/table1.md, D/faces.json; metrics.json, history.csv and env.json of
    all runs. Writes: results/published/EXPERIMENT/, and the experiment's table in README.md where it has a place."""
    chosen, layout = _load(files, values)

    from transfer.tables.publish import publish as publish_results

    print(publish_results(chosen, layout))


def _load(
    files: list[Path] | None, values: list[str] | None, dataset: str | None = None, recipe: str | None = None
) -> tuple[Params, Layout]:
    """The parameters and where their files lie; UserError for a dataset or recipe that the experiment has not."""
    chosen = config.load(files or (), values or ())
    for what, name, known in (("dataset", dataset, chosen.datasets), ("recipe", recipe, chosen.recipes)):
        if name is not None and name not in known:
            raise UserError(f"--{what} {name}: not in experiment {chosen.experiment}; allowed: {', '.join(known)}")
    return chosen, Layout(chosen.experiment)


def _classes(chosen: Params, dataset: str) -> list[str]:
    """Class names in label order."""
    from transfer.datasets import registry

    definition = chosen.dataset_definitions[dataset]
    return registry.get(definition.parser).classes(**definition.options)


def _existing(path: Path, verb: str) -> Path:
    if not path.exists():
        raise UserError(f"{path}: not there; make it with transfer {verb}, or let snakemake do it")
    return path


def _write(frame: "pd.DataFrame", path: Path) -> None:
    from transfer.files import atomic

    with atomic(path) as part:
        frame.to_parquet(part, index=False)
