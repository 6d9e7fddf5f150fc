"""Make a table or figure of an experiment: check its runs, let its kind compute it, and write it."""

import json
from dataclasses import replace
from pathlib import Path

import pandas as pd

from transfer.layout import Layout
from transfer.params import Params
from transfer.runs.read import Runs, read_environment, read_runs
from transfer.tables import kinds
from transfer.tables.kinds import Context
from transfer.tables.text import (
    Table,
    faces_text,
    protocols_paragraph,
    rounded,
    statistics_paragraph,
    to_csv,
    to_html,
    to_latex,
    to_markdown,
)
from transfer.utils.errors import UserError
from transfer.utils.files import write_text
from transfer.utils.plots import put_title, save_captioned, style
from transfer.utils.text import in_markdown

_REAL = {"rafdb": "RAF-DB", "ferplus": "FERPlus", "affectnet": "AffectNet"}
_ENVIRONMENT = ("commit", "python", "torch", "timm", "cpu", "cores", "device", "precision", "deployment")


def write_table(params: Params, layout: Layout, name: str, partial: bool = False) -> None:
    """Write NAME.csv, .md, .tex and report/NAME.html, ``partial`` without missing runs. Raises UserError."""
    table = build_table(params, layout, name, partial)
    text = to_markdown(table)
    write_text(layout.table(name, "csv"), to_csv(table.frame, table.formats))
    write_text(layout.table(name, "tex"), to_latex(table))
    write_text(layout.report(name), to_html(table.title, text))
    write_text(layout.table(name, "md"), text)


def build_table(params: Params, layout: Layout, name: str, partial: bool = False) -> Table:
    """Return the table ``name``. Raises UserError as `read_runs`."""
    runs, missing = read_table_runs(params, layout, name, partial=partial)
    table = table_of(Context(params, layout, name, runs))
    header, title = [*table.header, f"Environment: {_environment(runs)}."], table.title
    if missing:
        total, title = len(params.table_runs(name)), f"{title} (partial)"
        header.insert(0, f"**Partial: {len(missing)} of {total} runs are missing** ({', '.join(missing)}).")
        table.frame.insert(1, "missing_runs", len(missing))
    about = {dataset: describe(params, layout, dataset) for dataset in dict.fromkeys(dataset for dataset, _ in runs)}
    sections = [
        replace(section, text=" ".join(filter(None, [about.get(section.title), section.text])))
        for section in table.sections
    ]
    return replace(table, title=title, header=header, sections=sections)


def table_of(context: Context) -> Table:
    """Return the table of runs that were read."""
    params, name = context.params, context.name
    definition = params.table_definitions[name]
    kind = kinds.get(definition.kind)
    rows = list(kind.rows(context))
    swept = [key.rpartition(".")[2] for key in definition.sweep.over] if definition.sweep and rows else []
    formats = dict(kind.formats) | dict.fromkeys((key for key in swept if key in rows[0]), "text")
    frame = rounded(pd.DataFrame(rows), formats)
    about = {"baseline": params.table_baseline(name), "faces": faces_text(frame)}
    if "{statistics}" in kind.header:
        about["statistics"] = statistics_paragraph(frame)
    header = [kind.header.format(**about), protocols_paragraph(kinds.protocols_of(params, name))]
    title = f"{in_markdown(definition.title) or name}: {params.experiment}"
    return Table(title, frame, formats, header, kind.sections(context, frame))


def write_figure(params: Params, layout: Layout, name: str, dataset: str) -> list[Path]:
    """Write figures/NAME_DATASET.png, .svg and .json (the caption); returns their paths. Raises UserError."""
    kind = params.table_definitions[name].kind
    draw = kinds.get(kind).figure
    if draw is None:
        raise UserError(f"table {name}: tables of kind {kind} have no figure")
    if dataset not in params.table_datasets(name):
        allowed = ", ".join(params.table_datasets(name))
        raise UserError(f"--dataset {dataset}: not in table {name}; allowed: {allowed}")
    context = Context(params, layout, name, read_table_runs(params, layout, name, dataset)[0])
    synthetic = params.dataset_definitions[dataset].synthetic is not None
    seeds, faces = len(params.table_seeds(name)), len(next(context.each_run())[2].results[context.protocol].test)
    of = (
        f"{params.experiment}, {dataset}{' (synthetic faces)' if synthetic else ''}, protocol {context.protocol}, "
        f"{seeds} seed{'s' if seeds > 1 else ''}, {faces:,} test faces"
    )
    with style():
        figure, what = draw(context)
        put_title(figure, what, of)
    about = {"caption": f"{what} ({of}).", "dataset": dataset, "synthetic": synthetic, "n_seeds": seeds}
    return save_captioned(figure, layout.figures / f"{name}_{dataset}", about)


def read_table_runs(
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
    about = f"{in_markdown(definition.about.rstrip('.'))}. " if definition.about else ""
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
    values: dict[str, dict[str, None]] = {name: {} for name in _ENVIRONMENT}
    for run in (run for seeds in runs.values() for run in seeds.values()):
        env = read_environment(run.directory)
        for name in _ENVIRONMENT:
            values[name][str((env | env["packages"]).get(name) or "unknown")] = None
    return "; ".join(f"{name} {in_markdown(' and '.join(found))}" for name, found in values.items())
