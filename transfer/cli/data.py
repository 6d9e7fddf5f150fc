"""From archives to the faces that are trained and tested on."""

import typer

from transfer.cli.options import Dataset, ParamFiles, Values, classes_of, existing, load, write_table
from transfer.errors import UserError
from transfer.layout import UPSAMPLING, archive_path

app = typer.Typer()


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
    D/aligned.parquet, D/faces.json, D/montage.png."""
    chosen, layout = load(files, values, dataset)
    data = layout.data(dataset)
    index_file, faces_file = existing(data / "index.parquet", "index"), existing(data / "faces.parquet", "detect")

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


@app.command("hash")
def hash_dataset(dataset: Dataset, files: ParamFiles = None, values: Values = None) -> None:
    """Hash a dataset's images, to find copies by. Reads: D/index.parquet, the archive. Writes: D/hashes.parquet,
    D/thumbnails.npy."""
    chosen, layout = load(files, values, dataset)
    data = layout.data(dataset)
    index_file = existing(data / "index.parquet", "index")

    import pandas as pd

    from transfer.audit.hashes import hash_images
    from transfer.datasets import images, source
    from transfer.progress import progress

    listed = pd.read_parquet(index_file)
    with source.open_source(archive_path(chosen, dataset)) as archive, progress("hashing", len(listed)) as report:
        stream = images.stream_images(archive, listed["path"].tolist())
        hashes = hash_images(stream, listed, data / "thumbnails.npy", report)
    write_table(hashes, data / "hashes.parquet")
    broken = (hashes["sha256"] == "").sum()
    print(f"{dataset}: {len(hashes):,} images, {broken:,} of them cannot be decoded")


@app.command()
def duplicates(dataset: Dataset, files: ParamFiles = None, values: Values = None) -> None:
    """Find the copies within a dataset. Reads: D/hashes.parquet, D/thumbnails.npy. Writes: D/duplicates.parquet."""
    chosen, layout = load(files, values, dataset)
    data = layout.data(dataset)
    hashes_file, thumbnails_file = (existing(data / name, "hash") for name in ("hashes.parquet", "thumbnails.npy"))

    import numpy as np
    import pandas as pd

    from transfer.audit.pairs import duplicates as find_duplicates
    from transfer.progress import progress

    hashes, thumbnails = pd.read_parquet(hashes_file), np.load(thumbnails_file, mmap_mode="r")
    with progress("comparing", 2 * len(hashes)) as report:  # with the images, and with their mirror images
        pairs = find_duplicates(hashes, thumbnails, progress=report)
    write_table(pairs, data / "duplicates.parquet")
    print(f"{dataset}: {len(pairs):,} pairs" + "".join(f", {n:,} {k}" for k, n in pairs["kind"].value_counts().items()))


@app.command()
def audit(files: ParamFiles = None, values: Values = None) -> None:
    """Report copies within and across splits and datasets. Reads: D/hashes.parquet, D/thumbnails.npy and
    D/duplicates.parquet of all datasets. Writes: R/audit/audit.csv, R/audit/audit.md, R/audit/duplicates.csv,
    R/audit/pairs.png."""
    chosen, layout = load(files, values)
    verbs = {"hashes.parquet": "hash", "thumbnails.npy": "hash", "duplicates.parquet": "duplicates"}
    for dataset in chosen.datasets:
        for name, verb in verbs.items():
            existing(layout.data(dataset) / name, verb)

    from transfer.audit.experiment import write_audit

    table = write_audit(chosen, layout)
    pairs = table[["exact", "near", "mirrored"]].sum()
    print(f"{chosen.experiment}: " + ", ".join(f"{n:,} {kind}" for kind, n in pairs.items()))


@app.command()
def sample(dataset: Dataset, files: ParamFiles = None, values: Values = None) -> None:
    """Split and balance. Reads: D/aligned.parquet, and D/duplicates.parquet unless sampling.duplicates is keep. Writes:
    D/split.parquet, D/plan_full.npy, D/plan_sqrt.npy, D/plan_none.npy."""
    chosen, layout = load(files, values, dataset)

    import numpy as np
    import pandas as pd

    from transfer.files import atomic
    from transfer.sampling import split_rows, upsampling_plan

    sampling = chosen.sampling_params(dataset)
    manifest = pd.read_parquet(existing(layout.data(dataset) / "aligned.parquet", "align"))
    groups = None
    if sampling.duplicates != "keep":
        from transfer.audit.groups import KINDS, copy_groups

        pairs = pd.read_parquet(existing(layout.data(dataset) / "duplicates.parquet", "duplicates"))
        groups = copy_groups(manifest["sample"], pairs, KINDS[sampling.duplicates])
    split = split_rows(manifest, sampling.val_fraction, sampling.split_seed, groups)
    print(f"{dataset}: " + ", ".join(f"{n:,} {part}" for part, n in split["split"].value_counts().items()))
    write_table(split, layout.data(dataset) / "split.parquet")
    training = split[split["split"] == "train"]
    labels, rows = training["label"].to_numpy(), training["row"].to_numpy()
    for method in UPSAMPLING:
        plan = upsampling_plan(labels, rows, method, sampling.split_seed, classes_of(chosen, dataset))
        with atomic(layout.plan(dataset, method)) as part:
            np.save(part, plan)
