"""Whether the probabilities hold what they promise: calibration error, likelihood, Brier score."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from transfer.evaluation.calibration import bootstrap_intervals, calibration
from transfer.runs.predictions import probabilities_of
from transfer.runs.read import Result
from transfer.tables.cells import accuracy_cells
from transfer.tables.context import Context
from transfer.tables.text import Format, Section, Table, code, grid, interval, mean, protocols_paragraph, rounded

PERCENT = ("ece", "adaptive_ece")
NUMBERS = ("nll", "brier")
INTERVALS = ("ece", "nll", "brier")
FORMATS: dict[str, Format] = {
    "experiment": "text",
    "dataset": "text",
    "recipe": "text",
    "protocol": "text",
    "n_seeds": "count",
    "n_faces": "count",
    "accuracy": "percent",
    "accuracy_std": "percent",
    **{
        f"{name}{end}": "percent" if name in PERCENT else "number"
        for name in (*PERCENT, *NUMBERS)
        for end in ("", "_std", *(("_ci95_low", "_ci95_high") if name in INTERVALS else ()))
    },
}


def table(context: Context) -> Table:
    """ECE (in percent), negative log-likelihood and Brier score of each recipe, as means over seeds."""
    rows = []
    for (dataset, recipe), seeds in context.runs.items():
        for protocol in context.protocols:
            results = {seed: run.results[protocol] for seed, run in seeds.items()}
            names = {"experiment": context.params.experiment, "dataset": dataset, "recipe": recipe}
            rows.append(names | {"protocol": protocol} | accuracy_cells(results) | _cells(list(results.values())))
    frame = rounded(pd.DataFrame(rows), FORMATS)
    header = [
        "Calibration of the test faces' probabilities, as mean ± standard deviation over seeds. ECE: how far "
        "confidence and accuracy of the most probable expression lie apart, over 15 bins of equal width, in percent "
        "(adaptive: 15 bins of as many faces each); NLL: mean of -log p(label) in nats; Brier: squared distance "
        "from the label, 0 to 2; smaller is better. Intervals: 95 % bootstrap over the test faces of the mean "
        "over seeds (docs/statistics.md); they do not cover another seed.",
        protocols_paragraph(context.protocols),
    ]
    sections = [_section(str(dataset), part) for dataset, part in frame.groupby("dataset", sort=False)]
    return Table(context.title, frame, FORMATS, header, sections)


def _cells(results: Sequence[Result]) -> dict[str, float | None]:
    values = pd.DataFrame(
        [calibration(probabilities_of(result.test), result.test["label"].to_numpy()) for result in results]
    )
    intervals = bootstrap_intervals([result.test for result in results], INTERVALS)
    cells: dict[str, float | None] = {}
    for name in values:
        factor = 100 if name in PERCENT else 1
        cells[name] = factor * float(values[name].mean())
        cells[f"{name}_std"] = factor * float(np.std(values[name], ddof=1)) if len(results) > 1 else None
        if name in intervals:
            cells[f"{name}_ci95_low"], cells[f"{name}_ci95_high"] = (factor * end for end in intervals[name])
    return cells


def _section(name: str, rows: pd.DataFrame) -> Section:
    cells = {
        "ECE": mean("ece"),
        "95 %": interval("ece_ci95_low", "ece_ci95_high"),
        "NLL": mean("nll", "{:.3f}"),
        "Brier": mean("brier", "{:.3f}"),
    }
    head, lines = grid(rows, {"recipe": code("recipe")}, cells, across="protocol")
    return Section(name, "", head, lines)
