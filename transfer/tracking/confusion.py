"""The picture of a run's confusion matrices."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np


def draw_confusion(metrics: Mapping[str, Any], path: Path) -> None:
    """Write a PNG with the test set's confusion matrix per protocol, from the content of metrics.json.

    Rows are the truth; a cell says how many faces, its shade which part of the row.
    """
    from matplotlib.figure import Figure

    classes = metrics["classes"]
    panels = [(name, result["splits"]["test"]) for name, result in metrics["protocols"].items()]
    side = 1.4 + 0.42 * len(classes)
    figure = Figure(figsize=(side * len(panels), side), dpi=80, layout="constrained")
    for axes, (protocol, test) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
        counts = np.array(test["confusion"])
        parts = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
        axes.imshow(parts, cmap="Blues", vmin=0, vmax=1)
        for row, column in np.argwhere(counts > 0):
            shade = "white" if parts[row, column] > 0.5 else "black"
            axes.text(column, row, str(counts[row, column]), ha="center", va="center", color=shade, fontsize=8)
        axes.set_xticks(range(len(classes)), classes, rotation=90, fontsize=8)
        axes.set_yticks(range(len(classes)), classes, fontsize=8)
        axes.set_title(f"{protocol}: {test['accuracy']:.2%}", fontsize=10)
        axes.set_xlabel("predicted", fontsize=8)
        axes.set_ylabel("true", fontsize=8)
    figure.savefig(path)
