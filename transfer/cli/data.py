"""From archives to the faces that are trained and tested on."""

from collections.abc import Sequence

import typer

from transfer.cli.options import Dataset, ParamFiles, Values, classes_of, existing, load, write_table
from transfer.errors import UserError
from transfer.layout import UPSAMPLING, archive_path

app = typer.Typer()

ALIGNMENT = {"landmarks", "template", "size", "margin", "no_face", "broken"}
"""The keys of faces on which the aligned store depends; min_side belongs to the detection."""


@app.command()
def synthesize(dataset: Dataset, files: ParamFiles = None, values: Values = None) -> None:
    """Draw faces in the layout of a real dataset. Writes: the dataset's archive in raw_dir."""
    chosen, _ = load(files, values, dataset)

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
    chosen, layout = load(files, values, dataset)

    from transfer.datasets import counts, registry, source
    from transfer.faces import placement

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
    if chosen.face_params(dataset).landmarks == "supplied":
        placement.require_landmarks(table)
    write_table(table, layout.data(dataset) / "index.parquet")
    per_split = ", ".join(f"{n:,} {split}" for split, n in table["split"].value_counts().items())
    left_out = table.attrs.get("dropped", {}) | {"missing": table.attrs.get("missing", 0)}
    print(f"{dataset}: {per_split}; left out: {', '.join(f'{n:,} {why}' for why, n in left_out.items())}")


@app.command()
def detect(dataset: Dataset, files: ParamFiles = None, values: Values = None) -> None:
    """Find faces and five landmarks with MTCNN. Reads: D/index.parquet, the archive. Writes: D/faces.parquet."""
    chosen, layout = load(files, values, dataset)
    index_file = existing(layout.data(dataset) / "index.parquet", "index")

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
    write_table(found, layout.data(dataset) / "faces.parquet")
    print(f"{dataset}: " + ", ".join(f"{n:,} {status}" for status, n in found["status"].value_counts().items()))


@app.command()
def align(dataset: Dataset, files: ParamFiles = None, values: Values = None) -> None:
    """Warp the faces onto the template. Reads: D/index.parquet, D/faces.parquet, the archive. Writes: D/aligned.npy,
    D/aligned.parquet, D/evaluation.csv."""
    chosen, layout = load(files, values, dataset)
    data = layout.data(dataset)
    index_file, faces_file = existing(data / "index.parquet", "index"), existing(data / "faces.parquet", "detect")

    import pandas as pd

    from transfer.datasets import hashing, images, source
    from transfer.faces.align import align_dataset
    from transfer.files import write_text
    from transfer.manifest import evaluation_faces
    from transfer.progress import progress

    listed, faces = pd.read_parquet(index_file), pd.read_parquet(faces_file)
    with (
        source.open_source(archive_path(chosen, dataset)) as archive,
        progress("aligning faces", len(listed)) as report,
    ):
        hashed = hashing.HashedSource(archive)
        counts = align_dataset(
            images.stream_images(hashed, listed["path"].tolist()),
            listed,
            faces,
            data / "aligned.npy",
            data / "aligned.parquet",
            **chosen.face_params(dataset).model_dump(include=ALIGNMENT),
            source_sha256=hashed.sha256,
            progress=report,
        )
    evaluated = evaluation_faces(pd.read_parquet(data / "aligned.parquet"))
    write_text(data / "evaluation.csv", evaluated.to_csv(index=False, lineterminator="\n"))
    print(f"{dataset}: " + ", ".join(f"{n:,} {what}" for what, n in counts.items()))


@app.command()
def inspect(dataset: Dataset, files: ParamFiles = None, values: Values = None) -> None:
    """Quality page of detection and alignment. Reads: D/index.parquet, D/faces.parquet, D/aligned.npy,
    D/aligned.parquet, the archive. Writes: D/faces.html, D/faces.json, D/distributions.png, D/montage.png,
    D/montage_worst.png, D/montage_rejected.png."""
    chosen, layout = load(files, values, dataset)
    data = layout.data(dataset)
    store, manifest = (existing(data / f"aligned{suffix}", "align") for suffix in (".npy", ".parquet"))

    import numpy as np
    import pandas as pd

    from transfer.datasets import images, source
    from transfer.digest import step_digest
    from transfer.faces.page import write_quality_page

    path = archive_path(chosen, dataset)
    listed = pd.read_parquet(data / "index.parquet")

    def originals(rows: Sequence[int]) -> dict[int, np.ndarray]:
        with source.open_source(path) as archive:
            stream = images.stream_images(archive, listed["path"].iloc[rows].tolist())
            return {rows[position]: image for position, image, _ in stream}

    report = write_quality_page(
        data,
        listed,
        pd.read_parquet(data / "faces.parquet"),
        pd.read_parquet(manifest),
        np.load(store, mmap_mode="r"),
        chosen.face_params(dataset).model_dump(mode="json", include=ALIGNMENT),
        {
            "dataset": dataset,
            "archive": path.name,
            "code": {step: step_digest(step) for step in ("detect", "align")},
        },
        originals,
    )
    print(f"{dataset}: " + ", ".join(f"{n:,} {what}" for what, n in report["counts"].items()))


@app.command()
def sample(dataset: Dataset, files: ParamFiles = None, values: Values = None) -> None:
    """Split and balance. Reads: D/aligned.parquet. Writes: D/split.parquet, D/plan_full.npy, D/plan_sqrt.npy,
    D/plan_none.npy."""
    chosen, layout = load(files, values, dataset)

    import numpy as np
    import pandas as pd

    from transfer.files import atomic
    from transfer.sampling import split_rows, upsampling_plan

    sampling = chosen.sampling_params(dataset)
    manifest = pd.read_parquet(existing(layout.data(dataset) / "aligned.parquet", "align"))
    split = split_rows(manifest, sampling.val_fraction, sampling.split_seed)
    write_table(split, layout.data(dataset) / "split.parquet")
    training = split[split["split"] == "train"]
    labels, rows = training["label"].to_numpy(), training["row"].to_numpy()
    for method in UPSAMPLING:
        plan = upsampling_plan(labels, rows, method, sampling.split_seed, classes_of(chosen, dataset))
        with atomic(layout.plan(dataset, method)) as part:
            np.save(part, plan)
