"""Published accuracies (params/reported.yaml) with ours beside them: measured | reported."""

import pandas as pd

from transfer.tables.cells import accuracy_cells
from transfer.tables.context import Context
from transfer.tables.reported import REPORTED, load_reported
from transfer.tables.text import (
    UNDEFINED,
    Format,
    Section,
    Table,
    grid,
    interval,
    mean,
    plain,
    protocols_paragraph,
    rounded,
)

FORMATS: dict[str, Format] = {
    "experiment": "text",
    "dataset": "text",
    "method": "text",
    "year": "count",
    "protocol": "text",
    "n_seeds": "count",
    "n_faces": "count",
    "measured": "percent",
    "measured_std": "percent",
    "ci95_low": "percent",
    "ci95_high": "percent",
    "reported": "percent",
    "status": "text",
    "source": "text",
    "remark": "text",
}
_FAMILIES = {"rafdb": "RAF-DB", "ferplus": "FERPlus", "affectnet7": "AffectNet, 7 classes"}
_FAMILIES |= {"affectnet8": "AffectNet, 8 classes"}


def table(context: Context) -> Table:
    """Per leaderboard the published numbers by accuracy, after ours on the datasets that compare with it.

    Ours on other datasets (drawn faces, development splits) stand alone: nothing published compares with them.
    """
    experiment, definitions = context.params.experiment, context.params.dataset_definitions
    rows = []
    for (dataset, recipe), seeds in context.runs.items():
        for protocol in context.protocols:
            cells = accuracy_cells({seed: run.results[protocol] for seed, run in seeds.items()})
            cells |= {"measured": cells["accuracy"], "measured_std": cells["accuracy_std"]}
            names = {"experiment": experiment, "dataset": dataset, "method": f"ours: {recipe}", "protocol": protocol}
            rows.append(names | cells | {"status": "measured", "family": definitions[dataset].reported_as or dataset})
    for entry in sorted(load_reported(REPORTED), key=lambda entry: -entry.accuracy):
        row = entry.model_dump(include={"method", "year", "protocol", "status", "source", "remark"})
        rows.append(row | {"dataset": entry.dataset, "family": entry.dataset, "reported": entry.accuracy})
    everything = pd.DataFrame(rows)
    frame = rounded(everything, FORMATS)
    header = [
        "Test accuracy in percent: measured here (mean ± standard deviation over seeds; the interval is Student's t "
        "95 % over seeds, or Wilson's over the faces where there is one seed), or reported by the authors of a "
        "method. A reported number is one run as a rule; `confirmed` was read in the method's own paper, code or log, "
        "`second-hand` in others' notes or tables. How its epoch was chosen is mostly unknown; the field's custom is "
        "the best one on the test set.",
        protocols_paragraph(context.protocols),
    ]
    sections = []
    for family in [*_FAMILIES, *(name for name in dict.fromkeys(everything["family"]) if name not in _FAMILIES)]:
        part = frame[everything["family"] == family]
        title, text = _FAMILIES.get(family, family), ""
        if family not in _FAMILIES:
            text = "No published number compares with this dataset."
        if len(part):
            sections.append(_section(title, text, part))
    return Table(context.title, frame, FORMATS, header, sections)


def _section(title: str, text: str, rows: pd.DataFrame) -> Section:
    sources = list(dict.fromkeys(rows["source"].dropna()))
    rows = rows.assign(accuracy=rows["measured"], accuracy_std=rows["measured_std"], line=range(len(rows)))
    keys = {"method": plain("method", "{}"), "year": plain("year", "{}"), "protocol": plain("protocol", "`{}`")}

    def source(row: pd.Series) -> str:
        remark = "" if pd.isna(row["remark"]) else f"; {row['remark']}"
        return UNDEFINED if pd.isna(row["source"]) else f"{row['status']} [{sources.index(row['source']) + 1}]{remark}"

    cells = {
        "measured": mean("accuracy"),
        "95 %": interval("ci95_low", "ci95_high"),
        "reported": plain("reported"),
        "source": source,
    }
    head, lines = grid(rows, keys, cells, by=("line",))
    return Section(title, text, head, lines, [f"[{i}] {name}" for i, name in enumerate(sources, 1)])
