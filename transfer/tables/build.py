"""Make a table of an experiment: check its trainings, let its kind count, and write csv, markdown and LaTeX."""

import json
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd

from transfer.layout import Layout
from transfer.params import Params
from transfer.runs.read import Runs, read_environment, read_runs
from transfer.tables import kinds
from transfer.tables.context import Context
from transfer.tables.html import to_html
from transfer.tables.text import Table, to_csv, to_latex, to_markdown
from transfer.utils.files import write_text

PARTS = {"train": "to train on", "val": "to validate on", "test": "to test on"}
_REAL = {"rafdb": "RAF-DB", "ferplus": "FERPlus", "affectnet": "AffectNet"}
_ENVIRONMENT = ("commit", "python", "torch", "timm", "cpu", "cores", "device", "precision", "deployment")


def build_table(params: Params, layout: Layout, name: str, partial: bool = False) -> Table:
    """The table ``name``; ``partial`` leaves out the trainings that are missing, and says so.

    Raises UserError, naming the file and the command, for a training that is missing, was made otherwise than the
    parameters say, or whose metrics do not follow from its predictions.
    """
    runs, missing = read_table_runs(params, layout, name, partial)
    context = Context(params, layout, name, runs)
    table = kinds.get(params.table_definitions[name].kind)(context)
    datasets = list(dict.fromkeys(dataset for dataset, _ in runs))
    sections = [
        replace(section, text=" ".join(filter(None, [describe(params, layout, section.title), section.text])))
        if section.title in datasets
        else section
        for section in table.sections
    ]
    header = [*table.header, f"Environment: {environment(context)}."]
    if missing:
        names = ", ".join(missing)
        total = len(params.table_runs(name))
        header.insert(0, f"**Partial: {len(missing)} of {total} trainings are missing** ({names}).")
        table.frame.insert(1, "missing_runs", len(missing))
    title = f"{table.title} (partial)" if missing else table.title
    return replace(table, title=title, header=header, sections=sections)


def read_table_runs(
    params: Params, layout: Layout, name: str, partial: bool = False, dataset: str | None = None
) -> tuple[Runs, list[str]]:
    """The trainings of the table ``name``, all or of one dataset, and which are missing.

    Raises UserError as ``build_table``.
    """
    wanted = params.table_runs(name, dataset)
    return read_runs(
        layout.root / "runs",
        wanted,
        params.table_protocols(name),
        experiment=params.experiment,
        parameters={(dataset, recipe): params.run(dataset, recipe) for dataset, recipe, _ in wanted},
        partial=partial,
    )


def write_table(params: Params, layout: Layout, name: str, partial: bool = False) -> None:
    """Write results/<experiment>/<name>.csv, .md, .tex and report/<name>.html. Raises UserError as ``build_table``."""
    table = build_table(params, layout, name, partial)
    write_text(layout.table(name, "csv"), to_csv(table.frame, table.formats))
    write_text(layout.table(name, "tex"), to_latex(table))
    text = to_markdown(table)
    write_text(layout.report(name), to_html(table.title, text))
    write_text(layout.table(name, "md"), text)


def describe(params: Params, layout: Layout, dataset: str) -> str:
    """What readers must know of a dataset: what it is, its options, its faces by part, and how many were found."""
    definition = params.dataset_definitions[dataset]
    about = f"{definition.about.rstrip('.')}. " if definition.about else ""
    if definition.synthetic is not None:
        about = f"**Drawn faces: not a result on {_REAL[definition.parser]}.**\n\n{about}"
    parts = pd.read_parquet(layout.data(dataset) / "split.parquet", columns=["split"])["split"].value_counts()
    faces = ", ".join(f"{parts[part]:,} {name}" for part, name in PARTS.items())
    if "dropped" in parts:
        way = params.sampling_params(dataset).duplicates
        faces += f"; {parts['dropped']:,} more left out of training as copies of held-out faces ({way})"
    report = _json(layout.data(dataset) / "faces.json")
    counts, policies, evaluation = report["counts"], report["policies"], report["evaluation"]
    kind = policies["template"] if isinstance(policies["template"], str) else "of its own"
    return (
        f"{about}Layout {definition.layout}; faces: {faces}; "
        f"MTCNN found a face in {counts['found'] / counts['images']:.1%} of {counts['images']:,} images; "
        f"landmarks {policies['landmarks']}, template {kind}, size {policies['size']}, margin {policies['margin']:g}; "
        f"test faces {evaluation['sha256'][:12]}, their files {evaluation['source_sha256'][:12]} (docs/alignment.md)."
    )


def environment(context: Context) -> str:
    """What the runs ran in; where they differ, all of it."""
    values: dict[str, dict[str, None]] = {}
    for run in _all(context):
        env = read_environment(run)
        for name, value in (env | env["packages"]).items():
            if name in _ENVIRONMENT:
                values.setdefault(name, {})[str(value or "unknown")] = None
    return "; ".join(f"{name} {' and '.join(values[name])}" for name in _ENVIRONMENT)


def _all(context: Context) -> Iterable[Path]:
    return (run.directory for seeds in context.runs.values() for run in seeds.values())


def _json(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8"))
