"""How alike the LANets' maps and the heads of a block are: the paper's claim about MAD and MSAD, measured."""

import pandas as pd

from transfer.evaluation.statistics import over_seeds
from transfer.runs.evaluations import MEASURES, read_diversity
from transfer.tables.context import Context
from transfer.tables.text import Format, Section, Table, code, grid, interval, mean, plain, protocols_paragraph, rounded

FORMATS: dict[str, Format] = {
    "experiment": "text",
    "dataset": "text",
    "recipe": "text",
    "local_cnns": "count",
    "mad": "text",
    "msad": "text",
    "protocol": "text",
    "measure": "text",
    "n_seeds": "count",
    "n_faces": "count",
    "value": "number",
    "value_std": "number",
    "ci95_low": "number",
    "ci95_high": "number",
}
SHOWN = ("lanets_overlap", "lanets_correlation", "heads_class_cosine", "heads_class_correlation")


def table(context: Context) -> Table:
    """Each measure of each recipe, as the mean over seeds."""
    (protocol,) = context.protocols
    rows = []
    for (dataset, recipe), seeds in context.runs.items():
        parts = context.params.run(dataset, recipe).model
        found = read_diversity(context.layout, dataset, [recipe], list(seeds))
        for measure, values in found.groupby("measure", sort=False):
            over = over_seeds(values["value"].to_numpy(), *MEASURES[str(measure)])
            rows.append(
                {
                    "experiment": context.params.experiment,
                    "dataset": dataset,
                    "recipe": recipe,
                    "local_cnns": parts.num_lanets,
                    "mad": parts.mad,
                    "msad": parts.msad,
                    "protocol": protocol,
                    "measure": measure,
                    "n_seeds": len(values),
                    "n_faces": int(values["faces"].iloc[0]),
                    "value": over["mean"],
                    "value_std": over["std"],
                    "ci95_low": over["ci95_low"],
                    "ci95_high": over["ci95_high"],
                }
            )
    frame = rounded(pd.DataFrame(rows), FORMATS)
    faces = " and ".join(f"{n:,}" for n in dict.fromkeys(frame["n_faces"]))
    header = [
        "How alike the LANets' maps are (overlap: soft intersection over union; correlation of their cells) and how "
        "alike the heads of a block (cosine and correlation of the class token's attention, over the blocks): mean "
        f"over all pairs and the test faces ({faces}), as mean ± standard deviation over seeds: low is diverse. The "
        "interval is Student's t 95 % over seeds; one seed has none. Further measures are in the csv, the formulas in "
        "docs/attention.md. A recipe without two LANets has no overlap.",
        protocols_paragraph(context.protocols),
    ]
    shown = frame[frame["measure"].isin(SHOWN)]
    sections = [_section(str(dataset), part) for dataset, part in shown.groupby("dataset", sort=False)]
    return Table(context.title, frame, FORMATS, header, sections)


def _section(name: str, rows: pd.DataFrame) -> Section:
    keys = {"recipe": code("recipe"), "p1 (MAD)": plain("mad", "{:g}"), "p2 (MSAD)": plain("msad", "{:g}")}
    cells = {"value": mean("value", "{:.3f}"), "95 %": interval("ci95_low", "ci95_high", "{:.3f}")}
    head, lines = grid(rows, keys, cells, across="measure")
    return Section(name, "", head, lines)
