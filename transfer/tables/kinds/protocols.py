"""Optimism from selecting the epoch on the test set: the same runs under each protocol, and the differences."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from transfer.tables.kinds import ACCURACY, COUNTS, ROW, Cells, Context, Formats, Kind, accuracy_cells, percent
from transfer.tables.text import ACCURACY_CELLS, UNDEFINED, Cell, by_dataset, code, plain

HONEST = ("last", "val_selected")
ENDS = ("", "_ci95_low", "_ci95_high")
FORMATS: Formats = {
    **ROW,
    **COUNTS,
    "epoch": "text",
    **ACCURACY,
    **{f"gain_over_{protocol}{end}": "percent" for protocol in HONEST for end in ENDS},
}


def rows(context: Context) -> Iterator[Cells]:
    """Accuracy under each protocol, and how far it lies above ``last`` and ``val_selected`` of the same runs."""
    import numpy as np

    from transfer.evaluation.statistics import paired_difference

    for names, ours in context.results():
        row = names | {"epoch": f"{np.mean([result.epoch for result in ours.values()]):.4g}"} | accuracy_cells(ours)
        for other in HONEST:
            runs = context.runs[names["dataset"], names["recipe"]]
            theirs = {seed: run.results[other].correct for seed, run in runs.items() if other in run.results}
            if other != names["protocol"] and theirs:
                paired = paired_difference({seed: result.correct for seed, result in ours.items()}, theirs)
                gain = (paired.difference, paired.ci95_low, paired.ci95_high)
                row |= {f"gain_over_{other}{end}": percent(value) for end, value in zip(ENDS, gain, strict=True)}
        yield row


def _gain(other: str) -> Cell:
    def cell(row: Mapping[str, Any]) -> str:
        gain, low, high = (row[f"gain_over_{other}{end}"] for end in ENDS)
        if gain is None:
            return UNDEFINED
        return f"{gain:+.2f}" + ("" if low is None else f" ({low:+.2f} to {high:+.2f})")

    return cell


KIND = Kind(
    FORMATS,
    rows,
    "Accuracy on the test split, in percent. {statistics} The epoch is the mean over seeds. The columns 'over' are the "
    "gain over another protocol on the same runs and test faces, in points, with the 95 % interval of that difference "
    "(docs/statistics.md): over seeds, or over the faces for a single seed. The gain of `test_selected` over `last` is "
    "what a paper gains by reporting the best epoch on the test set.",
    by_dataset(
        {"recipe": code("recipe"), "protocol": code("protocol"), "epoch": plain("epoch", "{}")},
        ACCURACY_CELLS | {f"over `{other}`": _gain(other) for other in HONEST},
        by=("recipe", "protocol"),
    ),
)
