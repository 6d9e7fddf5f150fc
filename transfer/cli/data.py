"""Parameters, and the steps from archives to aligned, split and balanced faces."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from transfer.cli.options import Dataset, classes_of, existing, read_table, verb, write_table
from transfer.layout import Layout
from transfer.utils.errors import UserError

if TYPE_CHECKING:
    import pandas as pd

    from transfer.params import Params
    from transfer.utils.chain import Chain

app = typer.Typer()
tools = typer.Typer()


@verb(tools)
def params(params: "Params", layout: Layout) -> None:
    """Check the parameters. Reads: parameter files. Writes: the resolved configuration on stdout."""
    import yaml

    resolved = params.model_dump(mode="json", exclude_none=True)
    print(yaml.safe_dump(resolved, sort_keys=False), end="")


@tools.command()
def schema() -> None:
    """Write the JSON schemas of the parameters, the sources and the leaderboard. Reads: nothing. Writes:
    params/schema.json, params/sources.schema.json, leaderboard/task.schema.json, leaderboard/entry.schema.json."""
    from transfer.leaderboard import entries, tasks
    from transfer.params import read
    from transfer.sources import table
    from transfer.utils.files import write_text

    write_text(read.SCHEMA, read.schema_text())
    write_text(table.SCHEMA, read.schema_text(table.Sources, partial=False))
    write_text(tasks.SCHEMA, read.schema_text(tasks.Task, partial=False))
    write_text(entries.SCHEMA, read.schema_text(entries.Entry, partial=False))


@verb(app)
def fetch(
    params: "Params",
    _: Layout,
    names: Annotated[
        list[str] | None, typer.Argument(metavar="[NAME]...", help="Sources, or their files by the path below raw_dir.")
    ] = None,
    everything: Annotated[bool, typer.Option("--all", help="Everything that may be downloaded.")] = False,
    listed: Annotated[bool, typer.Option("--list", help="Show the sources, as without names.")] = False,
    mirror: Annotated[
        str | None,
        typer.Option(metavar="URL", envvar="TRANSFER_MIRROR", help="Server with the files, by their paths in raw_dir."),
    ] = None,
) -> None:
    """Download datasets, lists and weights, or show how to get them. Reads: params/sources.yaml,
    params/sources.lock.json. Writes: their files in raw_dir, params/sources.lock.json."""
    from rich.console import Console

    from transfer.sources import fetch as fetching
    from transfer.sources import table as sources

    table, raw_dir = sources.load(), Path(params.raw_dir)
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
        raise UserError(f"missing; must be obtained manually (see instructions above): {', '.join(missing)}")


@verb(app)
def synthesize(params: "Params", _: Layout, dataset: Dataset) -> None:
    """Render synthetic faces in the layout of a real dataset. Writes: the dataset's archive in raw_dir."""
    from transfer.datasets.synthetic.archives import write_archive

    data = params.dataset_definitions[dataset]
    parser: Any = data.parser
    if data.synthetic is None:
        raise UserError(f"dataset {dataset}: not synthetic; put its archive into {params.raw_dir}")
    write_archive(parser, _archive(params, dataset), seed=data.synthetic, scale=data.synthetic_scale)


@verb(app)
def index(params: "Params", layout: Layout, dataset: Dataset) -> None:
    """List a dataset's images, labels and splits. Reads: its archive in raw_dir. Writes: D/index.parquet,
    D/index.json; D/counts.csv if the counts are not as expected."""
    from transfer.datasets import counts, registry
    from transfer.datasets.archives import open_source
    from transfer.faces.align import require_landmarks
    from transfer.utils.files import write_json, write_text

    definition, path, data = params.dataset_definitions[dataset], _archive(params, dataset), layout.data(dataset)
    parser, classes = registry.get(definition.parser), classes_of(params, dataset)
    options = parser.resolve(definition.options)
    with open_source(path) as archive:
        table = parser.index(archive, **options, missing=definition.missing, raw_dir=params.raw_dir)
    differences, expect = data / "counts.csv", definition.model_dump(mode="json")["expect"]
    differences.unlink(missing_ok=True)
    try:
        counts.check_counts(table, classes, expect, parser.official(**options))
        if params.face_params(dataset).landmarks == "supplied":
            require_landmarks(table)
    except counts.CountsError as error:
        write_text(differences, error.table.to_csv(index=False))
        message = f"dataset {dataset} ({path}): {error} (table: {differences})"
        raise UserError(message, details=counts.as_text(error.table)) from None
    except UserError as error:
        raise UserError(f"dataset {dataset} ({path}): {error}") from None
    about = counts.index_summary(
        table, classes, dataset=dataset, archive=path, parser=parser.name, options=options, expect=expect
    )
    said = counts.in_words(table)
    for attribute in ("repeated", "files"):  # they may be long, and are in index.json
        table.attrs.pop(attribute, None)
    write_table(table, data / "index.parquet")
    write_json(data / "index.json", about)
    raw = [path, *parser.lists(params.raw_dir, **options).values()]
    layout.chain.note([data / "index.parquet", data / "index.json"], raw=raw, raw_dir=params.raw_dir)
    print(f"{dataset}: {said}")


@verb(app)
def subsets(params: "Params", layout: Layout, dataset: Dataset) -> None:
    """Find the challenge subsets of the test split. Reads: D/index.parquet, the lists in raw_dir/challenge_lists.
    Writes: D/subsets.parquet, D/subsets.json."""
    data, definition, chain = layout.data(dataset), params.dataset_definitions[dataset], layout.chain
    listed = read_table(data / "index.parquet", "index", chain)

    from transfer.datasets.subsets import find_subsets, list_files
    from transfer.utils.files import write_json

    lists = list_files(params.raw_dir, definition)
    if not lists:
        print(f"{dataset}: no subsets, since {params.raw_dir}/challenge_lists has no lists for it")
        return
    table, report = find_subsets(listed, definition.parser, len(classes_of(params, dataset)), lists)
    write_table(table, data / "subsets.parquet")
    write_json(data / "subsets.json", report)
    made = [data / "subsets.parquet", data / "subsets.json"]
    chain.note(made, [data / "index.parquet"], lists.values(), params.raw_dir)
    found = ", ".join(f"{subset} {counts['matched']:,} of {counts['unique']:,}" for subset, counts in report.items())
    empty = ", ".join(subset for subset, counts in report.items() if not counts["matched"])
    print(f"{dataset}: {found}" + (f"; warning: no test image is in {empty}" if empty else ""))


@verb(app)
def detect(params: "Params", layout: Layout, dataset: Dataset) -> None:
    """Find faces and five landmarks with MTCNN. Reads: D/index.parquet, the archive. Writes: D/faces.parquet; resumes
    after a kill from R/state/DATASET/detect."""
    index_file, chain = layout.data(dataset) / "index.parquet", layout.chain
    listed = _indexed(params, layout, dataset, chain)

    from transfer.datasets.archives import open_source
    from transfer.faces.detect import DetectionState, detect_dataset, state_key
    from transfer.training.device import claim_device

    faces, path = params.face_params(dataset), _archive(params, dataset)
    search, device = faces.search(), claim_device(params.train, f"detection of {dataset}")
    state = DetectionState(layout.detection_state(dataset), state_key(index_file, path, search, device.type))
    with open_source(path) as archive:
        found = detect_dataset(archive, listed, state, threads=faces.threads, device=str(device), **search)
    write_table(found, layout.data(dataset) / "faces.parquet")
    chain.note([layout.data(dataset) / "faces.parquet"], [index_file])
    state.remove()
    _say(dataset, found["status"].value_counts().items())


@verb(app)
def align(params: "Params", layout: Layout, dataset: Dataset) -> None:
    """Warp the faces onto the template. Reads: D/index.parquet, D/faces.parquet, the archive. Writes: D/aligned.npy,
    D/aligned.parquet, D/evaluation.csv."""
    data, chain = layout.data(dataset), layout.chain
    listed, faces = _indexed(params, layout, dataset, chain), read_table(data / "faces.parquet", "detect", chain)
    store, manifest = data / "aligned.npy", data / "aligned.parquet"

    from transfer.datasets.archives import open_source
    from transfer.datasets.images import HashedSource, stream_images
    from transfer.faces.align import align_dataset
    from transfer.faces.store import evaluation_faces
    from transfer.utils.files import write_text
    from transfer.utils.progress import progress

    with open_source(_archive(params, dataset)) as archive, progress("aligning faces", len(listed)) as report:
        source: Any = HashedSource(archive)
        images, hashes = stream_images(source, listed["path"].tolist()), source.sha256
        options = params.face_params(dataset).alignment()
        counts = align_dataset(images, listed, faces, store, manifest, **options, source_sha256=hashes, progress=report)
    evaluated = evaluation_faces(read_table(manifest, "align"))
    write_text(data / "evaluation.csv", evaluated.to_csv(index=False, lineterminator="\n"))
    chain.note([store, manifest, data / "evaluation.csv"], [data / "index.parquet", data / "faces.parquet"])
    _say(dataset, counts.items())


@verb(app)
def inspect(params: "Params", layout: Layout, dataset: Dataset) -> None:
    """Quality page of detection and alignment. Reads: D/index.parquet, D/faces.parquet, D/aligned.npy,
    D/aligned.parquet, the archive. Writes: D/faces.html, D/faces.json."""
    data, chain = layout.data(dataset), layout.chain
    store = existing(data / "aligned.npy", "align", chain)
    aligned = read_table(data / "aligned.parquet", "align", chain)
    listed, faces = _indexed(params, layout, dataset, chain), read_table(data / "faces.parquet", "detect", chain)

    import numpy as np

    from transfer.datasets.archives import open_source
    from transfer.datasets.images import stream_images
    from transfer.faces.quality import write_quality_page
    from transfer.utils.code_digest import step_digest

    path, alignment = _archive(params, dataset), params.face_params(dataset).alignment()
    code = {step: step_digest(step) for step in ("detect", "align")}
    about = {"dataset": dataset, "archive": path.name, "code": code}

    def originals(rows: Sequence[int]) -> dict[int, Any]:
        with open_source(path) as archive:
            stream = stream_images(archive, listed["path"].iloc[list(rows)].tolist())
            return {rows[position]: image for position, image, _ in stream}

    images = np.load(store, mmap_mode="r")
    report = write_quality_page(data, listed, faces, aligned, images, alignment, about, originals)
    chain.note([data / "faces.json"], [data / "faces.parquet", store, data / "aligned.parquet"])
    _say(dataset, report["counts"].items())


@verb(app, "hash")
def hash_dataset(params: "Params", layout: Layout, dataset: Dataset) -> None:
    """Hash a dataset's images to find duplicates. Reads: D/index.parquet, the archive. Writes: D/hashes.parquet,
    D/thumbnails.npy."""
    data, chain = layout.data(dataset), layout.chain
    listed = _indexed(params, layout, dataset, chain)

    from transfer.audit.copies import hash_images
    from transfer.datasets.archives import open_source
    from transfer.datasets.images import stream_images
    from transfer.utils.progress import progress

    with open_source(_archive(params, dataset)) as archive, progress("hashing", len(listed)) as report:
        stream = stream_images(archive, listed["path"].tolist())
        hashes = hash_images(stream, listed, data / "thumbnails.npy", report)
    write_table(hashes, data / "hashes.parquet")
    chain.note([data / "hashes.parquet", data / "thumbnails.npy"], [data / "index.parquet"])
    _say(dataset, {"images": len(hashes), "of them that cannot be decoded": (hashes["sha256"] == "").sum()}.items())


@verb(app)
def duplicates(params: "Params", layout: Layout, dataset: Dataset) -> None:
    """Find the duplicates within a dataset. Reads: D/hashes.parquet, D/thumbnails.npy. Writes: D/duplicates.parquet."""
    data, chain = layout.data(dataset), layout.chain
    hashes = read_table(data / "hashes.parquet", "hash", chain)
    thumbnails = existing(data / "thumbnails.npy", "hash", chain)

    import numpy as np

    from transfer.audit.copies import duplicates as find_duplicates
    from transfer.utils.progress import progress

    with progress("comparing", 2 * len(hashes)) as report:  # the images, and their mirror images
        pairs = find_duplicates(hashes, np.load(thumbnails, mmap_mode="r"), progress=report)
    write_table(pairs, data / "duplicates.parquet")
    chain.note([data / "duplicates.parquet"], [data / "hashes.parquet", thumbnails])
    _say(dataset, {"pairs": len(pairs), **pairs["kind"].value_counts()}.items())


@verb(app)
def audit(params: "Params", layout: Layout) -> None:
    """Report duplicates within and across splits and datasets. Reads: D/hashes.parquet, D/thumbnails.npy and
    D/duplicates.parquet of all datasets. Writes: R/audit/audit.csv, R/audit/audit.md, R/audit/duplicates.csv,
    R/audit/pairs.png."""
    chain = layout.chain
    for dataset in params.datasets:
        for name in ("hashes.parquet", "thumbnails.npy"):
            existing(layout.data(dataset) / name, "hash", chain)
        existing(layout.data(dataset) / "duplicates.parquet", "duplicates", chain)

    from transfer.audit.report import write_audit

    _say(params.experiment, write_audit(params, layout)[["exact", "near", "mirrored"]].sum().items())


@verb(app)
def sample(params: "Params", layout: Layout, dataset: Dataset) -> None:
    """Split and balance. Reads: D/aligned.parquet, and D/duplicates.parquet unless sampling.duplicates is keep. Writes:
    D/split.parquet, D/plan_full.npy, D/plan_sqrt.npy, D/plan_none.npy."""
    data, sampling, groups = layout.data(dataset), params.sampling_params(dataset), None
    chain, read, written = layout.chain, [data / "aligned.parquet"], [data / "split.parquet"]
    manifest = read_table(read[0], "align", chain)

    import numpy as np

    from transfer.datasets.sampling import split_rows, upsampling_plan
    from transfer.params.base import UPSAMPLING
    from transfer.utils.files import atomic

    if sampling.duplicates != "keep":
        from transfer.audit.copies import KINDS, copy_groups

        read.append(data / "duplicates.parquet")
        pairs = read_table(read[1], "duplicates", chain)
        groups = copy_groups(manifest["sample"].tolist(), pairs, KINDS[sampling.duplicates])
    split = split_rows(manifest, sampling.val_fraction, sampling.split_seed, groups)
    _say(dataset, split["split"].value_counts().items())
    write_table(split, written[0])
    training = split[split["split"] == "train"]
    labels, rows = training["label"].to_numpy(), training["row"].to_numpy()
    for method in UPSAMPLING:
        plan = upsampling_plan(labels, rows, method, sampling.split_seed, classes_of(params, dataset))
        written.append(layout.plan(dataset, method))
        with atomic(written[-1]) as part:
            np.save(part, plan)
    chain.note(written, read)


def _indexed(params: "Params", layout: Layout, dataset: str, chain: "Chain") -> "pd.DataFrame":
    """A dataset's index. Raises UserError: missing, edited, or its archive was changed since."""
    path = layout.data(dataset) / "index.parquet"
    listed = read_table(path, "index", chain)
    chain.check_raw(path, [_archive(params, dataset)], params.raw_dir)
    return listed


def _archive(params: Any, dataset: str) -> Path:
    from transfer.sources.table import archive_path

    return archive_path(params, dataset)


def _say(name: str, counts: Iterable[tuple[Any, Any]]) -> None:
    print(f"{name}: " + ", ".join(f"{n:,} {what}" for what, n in counts))
