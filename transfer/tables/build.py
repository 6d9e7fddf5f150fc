"""Make a table or figure of an experiment: check its runs, let its kind compute it, and write it."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pandas as pd

from transfer.layout import Layout
from transfer.params import Params
from transfer.runs.read import Runs, read_environment, read_runs
from transfer.tables import kinds
from transfer.tables.kinds import Context
from transfer.tables.text import Section, Table, to_csv, to_html, to_latex, to_markdown
from transfer.utils.errors import UserError
from transfer.utils.files import write_json, write_text
from transfer.utils.plots import save_pair

_REAL = {"rafdb": "RAF-DB", "ferplus": "FERPlus", "affectnet": "AffectNet"}
_ENVIRONMENT = ("commit", "python", "torch", "timm", "cpu", "cores", "device", "precision", "deployment")


def write_table(params: Params, layout: Layout, name: str, partial: bool = False) -> None:
    """Write results/<experiment>/<name>.csv, .md, .tex and report/<name>.html.

    ``partial`` leaves out missing runs, and says so. Raises UserError, naming the file and the command, for a run that
    is missing, has other parameters, or whose metrics do not follow from its predictions.
    """
    table = build_table(params, layout, name, partial)
    text = to_markdown(table)
    write_text(layout.table(name, "csv"), to_csv(table.frame, table.formats))
    write_text(layout.table(name, "tex"), to_latex(table))
    write_text(layout.report(name), to_html(table.title, text))
    write_text(layout.table(name, "md"), text)


def build_table(params: Params, layout: Layout, name: str, partial: bool = False) -> Table:
    """Return the table ``name``. Raises UserError as ``write_table``."""
    runs, missing = _read_runs(params, layout, name, partial=partial)
    table = kinds.get(params.table_definitions[name].kind).table(Context(params, layout, name, runs))
    header = [*table.header, f"Environment: {_environment(runs)}."]
    if missing:
        total = len(params.table_runs(name))
        header.insert(0, f"**Partial: {len(missing)} of {total} runs are missing** ({', '.join(missing)}).")
        table.frame.insert(1, "missing_runs", len(missing))
    datasets = {dataset for dataset, _ in runs}

    def described(section: Section) -> Section:
        about = describe(params, layout, section.title) if section.title in datasets else ""
        return replace(section, text=" ".join(filter(None, [about, section.text])))

    title = f"{table.title} (partial)" if missing else table.title
    return replace(table, title=title, header=header, sections=list(map(described, table.sections)))


def write_figure(params: Params, layout: Layout, name: str, dataset: str) -> list[Path]:
    """Write figures/NAME_DATASET.png, .svg and .json (the caption); returns their paths.

    Raises UserError for a table or dataset without a figure, and as the table itself does.
    """
    kind = params.table_definitions[name].kind
    draw = kinds.get(kind).figure
    if draw is None:
        raise UserError(f"table {name}: tables of kind {kind} have no figure")
    if dataset not in params.table_datasets(name):
        allowed = ", ".join(params.table_datasets(name))
        raise UserError(f"--dataset {dataset}: not in table {name}; allowed: {allowed}")
    context = Context(params, layout, name, _read_runs(params, layout, name, dataset)[0])
    figure, caption = draw(context)
    stem = layout.figures / f"{name}_{dataset}"
    synthetic = params.dataset_definitions[dataset].synthetic is not None
    content = {"caption": caption, "dataset": dataset, "drawn_faces": synthetic}
    paths = save_pair(figure, stem)
    write_json(stem.with_suffix(".json"), content | {"n_seeds": len(params.table_seeds(name))})
    return [*paths, stem.with_suffix(".json")]


def _read_runs(
    params: Params, layout: Layout, name: str, dataset: str | None = None, partial: bool = False
) -> tuple[Runs, list[str]]:
    """Return the runs of a table, all or of one dataset, and which are missing."""
    wanted = params.table_runs(name, dataset)
    return read_runs(
        layout.root / "runs",
        wanted,
        kinds.protocols_of(params, name),
        experiment=params.experiment,
        parameters={(dataset, recipe): params.run(dataset, recipe) for dataset, recipe, _ in wanted},
        partial=partial,
    )


def describe(params: Params, layout: Layout, dataset: str) -> str:
    """Return what readers must know of a dataset: what it is, its options, its faces by split, detection rate."""
    definition = params.dataset_definitions[dataset]
    about = f"{definition.about.rstrip('.')}. " if definition.about else ""
    if definition.synthetic is not None:
        about = f"**Synthetic faces: not a result on {_REAL[definition.parser]}.**\n\n{about}"
    splits = pd.read_parquet(layout.data(dataset) / "split.parquet", columns=["split"])["split"].value_counts()
    faces = f"{splits['train']:,} training, {splits['val']:,} validation, {splits['test']:,} test"
    if "dropped" in splits:
        way = params.sampling_params(dataset).duplicates
        faces += f"; {splits['dropped']:,} training faces left out as copies of held-out ones ({way})"
    report = json.loads((layout.data(dataset) / "faces.json").read_text(encoding="utf-8"))
    counts, policies, evaluation = report["counts"], report["policies"], report["evaluation"]
    template = policies["template"] if isinstance(policies["template"], str) else "custom"
    return (
        f"{about}Layout {definition.layout}; faces: {faces}; "
        f"MTCNN found a face in {counts['found'] / counts['images']:.1%} of {counts['images']:,} images; "
        f"landmarks {policies['landmarks']}, template {template}, size {policies['size']}, "
        f"margin {policies['margin']:g}; digests of the test faces {evaluation['sha256'][:12]} and of their files "
        f"{evaluation['source_sha256'][:12]} (docs/alignment.md)."
    )


def _environment(runs: Runs) -> str:
    """Return what the runs ran in; where they differ, all of it."""
    values: dict[str, dict[str, None]] = {name: {} for name in _ENVIRONMENT}
    for env in _environments(runs):
        for name in _ENVIRONMENT:
            values[name][str((env | env["packages"]).get(name) or "unknown")] = None
    return "; ".join(f"{name} {' and '.join(found)}" for name, found in values.items())


def _environments(runs: Runs) -> Iterator[dict]:
    return (read_environment(run.directory) for seeds in runs.values() for run in seeds.values())
