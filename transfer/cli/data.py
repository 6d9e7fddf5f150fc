"""From archives to the faces that are trained and tested on."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from transfer.cli.options import Dataset, ParamFiles, Values, classes_of, existing, load, write_table
from transfer.layout import UPSAMPLING
from transfer.sources import table as sources
from transfer.sources.table import archive_path
from transfer.utils.errors import UserError

app = typer.Typer()


@app.command()
def fetch(
    names: Annotated[
        list[str] | None,
        typer.Argument(metavar="[NAME]...", help="Sources, or files of theirs by their path below raw_dir."),
    ] = None,
    everything: Annotated[bool, typer.Option("--all", help="Whatever may be downloaded.")] = False,
    listed: Annotated[bool, typer.Option("--list", help="Show the sources, as without names.")] = False,
    mirror: Annotated[
        str | None,
        typer.Option(
            metavar="URL", envvar="TRANSFER_MIRROR", help="Where the files lie under their paths below raw_dir."
        ),
    ] = None,
    files: ParamFiles = None,
    values: Values = None,
) -> None:
    """Download datasets, lists and weights, or say how to get them. Reads: params/sources.yaml,
    params/sources.lock.json. Writes: their files in raw_dir, params/sources.lock.json."""
    chosen, _ = load(files, values)
    table, raw_dir = sources.load(), Path(chosen.raw_dir)

    from rich.console import Console

    from transfer.sources.table import fetch as fetching

    if listed or not (names or everything):
        Console().print(fetching.overview(table, raw_dir))
        return
    downloads = [name for name, entry in table.items() if entry.how == "download"] if everything else []
    missing = []
    for name, entry, file in [sources.find(name, table) for name in dict.fromkeys([*(names or ()), *downloads])]:
        if file is not None:
            print(fetching.fetch_file(entry, file, raw_dir, mirror))
        elif entry.how == "download" or fetching.is_there(entry, raw_dir):
            for line in fetching.fetch(name, entry, raw_dir, mirror):
                print(line, flush=True)
        else:
            print(fetching.instructions(name, entry, raw_dir))
            missing.append(name)
    if missing:
        raise UserError(f"not there, to be had by hand as said above: {', '.join(missing)}")


@app.command()
def synthesize(dataset: Dataset, files: ParamFiles = None, values: Values = None) -> None:
    """Draw faces in the layout of a real dataset. Writes: the dataset's archive in raw_dir."""
    chosen, _ = load(files, values, dataset)

    from transfer.datasets.synthetic.archives import write_archive

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
    """List a dataset's images, labels and splits. Reads: its archive in raw_dir. Writes: D/index.parquet,
    D/index.json; D/counts.csv where the counts are not the expected ones."""
    chosen, layout = load(files, values, dataset)

    from transfer.datasets import counts, registry, source
    from transfer.datasets import counts as summary
    from transfer.faces import align as placement
    from transfer.utils.files import write_json, write_text

    definition = chosen.dataset_definitions[dataset]
    parser = registry.get(definition.parser)
    path, data = archive_path(chosen, dataset), layout.data(dataset)
    options, classes = parser.resolve(definition.options), classes_of(chosen, dataset)
    with source.open_source(path) as archive:
        table = parser.index(archive, **options, missing=definition.missing, raw_dir=chosen.raw_dir)
    differences = data / "counts.csv"
    differences.unlink(missing_ok=True)
    try:
        counts.check_counts(table, classes, definition.expect, parser.official(**options))
    except counts.CountsError as error:
        write_text(differences, error.table.to_csv(index=False))
        message = f"dataset {dataset} ({path}): {error} (table: {differences})"
        raise UserError(message, details=counts.as_text(error.table)) from None
    except UserError as error:
        raise UserError(f"dataset {dataset} ({path}): {error}") from None
    if chosen.face_params(dataset).landmarks == "supplied":
        placement.require_landmarks(table)
    about = summary.index_summary(
        table,
        classes,
        dataset=dataset,
        archive=path,
        parser=parser.name,
        options=options,
        expect=definition.model_dump(mode="json")["expect"],
    )
    said = summary.in_words(table)
    table.attrs.pop("repeated", None)  # which may be long, and is in index.json
    write_table(table, data / "index.parquet")
    write_json(data / "index.json", about)
    print(f"{dataset}: {said}")


@app.command()
def subsets(dataset: Dataset, files: ParamFiles = None, values: Values = None) -> None:
    """Find the challenge subsets of the test split. Reads: D/index.parquet, the lists in raw_dir/challenge_lists.
    Writes: D/subsets.parquet, D/subsets.json."""
    chosen, layout = load(files, values, dataset)
    data = layout.data(dataset)
    index_file = existing(data / "index.parquet", "index")

    import pandas as pd

    from transfer.datasets.subsets import find_subsets, list_files
    from transfer.utils.files import write_json

    definition = chosen.dataset_definitions[dataset]
    lists = list_files(chosen.raw_dir, definition)
    if not lists:
        print(f"{dataset}: no subsets, since {chosen.raw_dir}/challenge_lists has no lists for it")
        return
    table, report = find_subsets(
        pd.read_parquet(index_file), definition.parser, len(classes_of(chosen, dataset)), lists
    )
    write_table(table, data / "subsets.parquet")
    write_json(data / "subsets.json", report)
    found = ", ".join(f"{subset} {counts['matched']:,} of {counts['unique']:,}" for subset, counts in report.items())
    print(f"{dataset}: {found}")


@app.command()
def detect(dataset: Dataset, files: ParamFiles = None, values: Values = None) -> None:
    """Find faces and five landmarks with MTCNN. Reads: D/index.parquet, the archive. Writes: D/faces.parquet; continues
    after a kill from R/state/DATASET/detect."""
    chosen, layout = load(files, values, dataset)
    index_file = existing(layout.data(dataset) / "index.parquet", "index")

    import pandas as pd

    from transfer.datasets import source
    from transfer.faces.detect import DetectionState, detect_dataset, state_key
    from transfer.training.device import claim_device

    faces = chosen.face_params(dataset)
    search, device = faces.search(), claim_device(chosen.train, f"detection of {dataset}")
    path = archive_path(chosen, dataset)
    state = DetectionState(layout.detection_state(dataset), state_key(index_file, path, search, device.type))
    with source.open_source(path) as archive:
        found = detect_dataset(
            archive, pd.read_parquet(index_file), state, threads=faces.threads, device=str(device), **search
        )
    write_table(found, layout.data(dataset) / "faces.parquet")
    state.remove()
    print(f"{dataset}: " + ", ".join(f"{n:,} {status}" for status, n in found["status"].value_counts().items()))


@app.command()
def align(dataset: Dataset, files: ParamFiles = None, values: Values = None) -> None:
    """Warp the faces onto the template. Reads: D/index.parquet, D/faces.parquet, the archive. Writes: D/aligned.npy,
    D/aligned.parquet, D/evaluation.csv."""
    chosen, layout = load(files, values, dataset)
    data = layout.data(dataset)
    index_file, faces_file = existing(data / "index.parquet", "index"), existing(data / "faces.parquet", "detect")

    import pandas as pd

    from transfer.datasets import images, source
    from transfer.datasets import images as hashing
    from transfer.faces.align import align_dataset
    from transfer.faces.store import evaluation_faces
    from transfer.utils.files import write_text
    from transfer.utils.progress import progress

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
            **chosen.face_params(dataset).alignment(),
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
    from transfer.faces.quality import write_quality_page
    from transfer.utils.code_digest import step_digest

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
        chosen.face_params(dataset).alignment(),
        {
            "dataset": dataset,
            "archive": path.name,
            "code": {step: step_digest(step) for step in ("detect", "align")},
        },
        originals,
    )
    print(f"{dataset}: " + ", ".join(f"{n:,} {what}" for what, n in report["counts"].items()))


@app.command("hash")
def hash_dataset(dataset: Dataset, files: ParamFiles = None, values: Values = None) -> None:
    """Hash a dataset's images, to find copies by. Reads: D/index.parquet, the archive. Writes: D/hashes.parquet,
    D/thumbnails.npy."""
    chosen, layout = load(files, values, dataset)
    data = layout.data(dataset)
    index_file = existing(data / "index.parquet", "index")

    import pandas as pd

    from transfer.audit.copies import hash_images
    from transfer.datasets import images, source
    from transfer.utils.progress import progress

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

    from transfer.audit.copies import duplicates as find_duplicates
    from transfer.utils.progress import progress

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

    from transfer.audit.report import write_audit

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

    from transfer.datasets.sampling import split_rows, upsampling_plan
    from transfer.utils.files import atomic

    sampling = chosen.sampling_params(dataset)
    manifest = pd.read_parquet(existing(layout.data(dataset) / "aligned.parquet", "align"))
    groups = None
    if sampling.duplicates != "keep":
        from transfer.audit.copies import KINDS, copy_groups

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
