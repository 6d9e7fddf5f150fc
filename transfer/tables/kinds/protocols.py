"""What the choice of the epoch flatters: the same trainings under each protocol, and the differences between them."""

from collections.abc import Mapping

import numpy as np
import pandas as pd

from transfer.evaluation.statistics import paired_difference
from transfer.runs.read import Run
from transfer.tables.cells import ACCURACY, accuracy_cells, percent
from transfer.tables.context import Context
from transfer.tables.text import (
    UNDEFINED,
    Format,
    Section,
    Table,
    code,
    grid,
    interval,
    mean,
    plain,
    protocols_paragraph,
    rounded,
    statistics_paragraph,
)

HONEST = ("last", "val_selected")
FORMATS: dict[str, Format] = {
    "experiment": "text",
    "dataset": "text",
    "recipe": "text",
    "protocol": "text",
    **dict.fromkeys(["n_seeds", "n_faces"], "count"),
    "epoch": "text",
    **ACCURACY,
    **{
        f"{what}_over_{protocol}{end}": "percent"
        for protocol in HONEST
        for what, end in (("gain", ""), ("gain", "_ci95_low"), ("gain", "_ci95_high"))
    },
}


def table(context: Context) -> Table:
    """Accuracy under each protocol, and how far it lies above ``last`` and ``val_selected`` on the same trainings."""
    rows = []
    for (dataset, recipe), seeds in context.runs.items():
        for protocol in context.protocols:
            ours = {seed: run.results[protocol] for seed, run in seeds.items()}
            epochs = [result.epoch for result in ours.values()]
            rows.append(
                {
                    "experiment": context.params.experiment,
                    "dataset": dataset,
                    "recipe": recipe,
                    "protocol": protocol,
                    "epoch": f"{np.mean(epochs):.4g}",
                    **accuracy_cells(ours),
                    **_gains(seeds, protocol, [name for name in HONEST if name in context.protocols]),
                }
            )
    frame = rounded(pd.DataFrame(rows), FORMATS)
    header = [
        f"Accuracy on the test split, in percent. {statistics_paragraph(frame)} The epoch is the mean over seeds. The "
        "columns 'over' are how far a protocol lies above another one on the same trainings and test faces, in points, "
        "with the 95 % interval of that difference (docs/statistics.md): over seeds, or over the faces where there is "
        "one. What `test_selected` lies above `last` is what a paper gains by its best epoch on the test set.",
        protocols_paragraph(context.protocols),
    ]
    sections = [_section(str(dataset), part) for dataset, part in frame.groupby("dataset", sort=False)]
    return Table(context.title, frame, FORMATS, header, sections)


def _gains(seeds: Mapping[int, Run], protocol: str, others: list[str]) -> dict[str, float | None]:
    cells = {}
    for other in others:
        if other == protocol:
            continue
        ours, theirs = ({seed: run.results[name].correct for seed, run in seeds.items()} for name in (protocol, other))
        paired = paired_difference(ours, theirs)
        ends = {"": paired.difference, "_ci95_low": paired.ci95_low, "_ci95_high": paired.ci95_high}
        cells |= {f"gain_over_{other}{end}": percent(value) for end, value in ends.items()}
    return cells


def _section(name: str, rows: pd.DataFrame) -> Section:
    keys = {"recipe": code("recipe"), "protocol": code("protocol"), "epoch": plain("epoch", "{}")}
    cells = {"accuracy": mean("accuracy"), "95 %": interval("ci95_low", "ci95_high")}
    cells |= {f"over `{other}`": _gain(other) for other in HONEST if rows[f"gain_over_{other}"].notna().any()}
    head, lines = grid(rows, keys, cells, by=("recipe", "protocol"))
    return Section(name, "", head, lines)


def _gain(other: str):
    def cell(row: pd.Series) -> str:
        gain, low, high = (row[f"gain_over_{other}{end}"] for end in ("", "_ci95_low", "_ci95_high"))
        if pd.isna(gain):
            return UNDEFINED
        return f"{gain:+.2f}" + ("" if pd.isna(low) else f" ({low:+.2f} to {high:+.2f})")

    return cell
