"""Histograms of the measures of alignment, split by split; readable in grey."""

from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from transfer.faces.measures import MEASURES
from transfer.files import atomic

LABELS = {
    "probability": "probability (MTCNN)",
    "eye_distance": "eye distance (source pixels)",
    "roll": "roll (degrees, clockwise positive)",
    "yaw_proxy": "yaw proxy (nose off the eyes' middle, eye distances)",
    "residual": "residual of the fit (eye distances)",
    "scale": "scale (aligned pixels per source pixel)",
}
_STYLES = {
    "train": {"histtype": "stepfilled", "color": "0.8"},
    "val": {"histtype": "step", "color": "0.45", "linestyle": "--"},
    "test": {"histtype": "step", "color": "0"},
}
_BINS = 50  # at most; fewer where the images are few


def draw_distributions(measures: pd.DataFrame, splits: np.ndarray, path: Path) -> None:
    """Write a PNG with a histogram per measure: the share of each split's images per bin.

    ``splits`` (N,) names the split of each row of ``measures``. The bins go from the 0.5th to the 99.5th percentile;
    what lies outside is counted in the outermost ones.
    """
    figure = Figure(figsize=(10, 5.6), layout="constrained")
    axes = figure.subplots(2, 3)
    for axis, name in zip(axes.flat, MEASURES, strict=True):
        values = measures[name].to_numpy()
        finite = np.isfinite(values)
        axis.set_xlabel(LABELS[name], fontsize=9)
        axis.tick_params(labelsize=8)
        if not finite.any():
            axis.text(0.5, 0.5, "no faces", ha="center", transform=axis.transAxes)
            continue
        low, high = np.quantile(values[finite], [0.005, 0.995])
        if low == high:
            low, high = low - 0.5, high + 0.5
        bins = int(np.clip(np.sqrt(finite.sum()), 10, _BINS))
        for split, style in _STYLES.items():
            part = np.clip(values[finite & (splits == split)], low, high)
            if len(part):
                share = np.full(len(part), 1 / len(part))
                axis.hist(part, np.linspace(low, high, bins + 1), weights=share, label=split, **style)
    axes[0, 0].set_ylabel("share", fontsize=9)
    axes[1, 0].set_ylabel("share", fontsize=9)
    handles, labels = next(
        (pair for pair in (axis.get_legend_handles_labels() for axis in axes.flat) if pair[0]), ((), ())
    )
    if handles:
        figure.legend(handles, labels, loc="outside upper right", ncols=3, fontsize=9, frameon=False)
    with atomic(path) as part_file:
        figure.savefig(part_file, dpi=110, metadata={"Software": None})
