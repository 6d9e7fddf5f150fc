"""Robustness: accuracy on corrupted test faces and on the challenge subsets."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from transfer.layout import Layout
from transfer.tables.kinds import ACCURACY, ROW, Cells, Context, Formats, Kind, grouped_cells
from transfer.tables.text import ACCURACY_CELLS, UNDEFINED, by_dataset, code, count, plain
from transfer.utils.plots import line_styles, panels, recipe_name

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

FORMATS: Formats = {
    **ROW,
    **dict.fromkeys(["corruption", "severity"], "text"),
    **ACCURACY,
    **dict.fromkeys(["mean_class_accuracy", "clean_accuracy", "drop"], "percent"),
}


def evaluation(layout: Layout, run: tuple[str, str, int], datasets: Sequence[str]) -> list[Path]:
    """The predictions of a run on its corrupted test faces."""
    return [layout.evaluation("robustness", *run) / "robustness.parquet"]


def rows(context: Context) -> Iterator[Cells]:
    """Accuracy under each corruption and severity, and on each challenge subset, as means over seeds."""
    import numpy as np
    import pandas as pd

    means = ["mean_class_accuracy", "clean_accuracy", "drop"]
    for names, seeds in context.results():
        frames = []
        for seed, result in seeds.items():
            frames.append(_accuracies(context, names["dataset"], names["recipe"], seed))
            for name, found in result.subsets.items():
                subset = {"corruption": f"subset {name}", "severity": np.nan}
                frames.append(pd.DataFrame([found | subset | {"clean_accuracy": result.metrics["accuracy"]}]))
        frame = pd.concat(frames)
        frame["drop"] = frame["clean_accuracy"] - frame["accuracy"]
        yield from (names | cells for cells in grouped_cells(frame, ["corruption", "severity"], means))


def _accuracies(context: Context, dataset: str, recipe: str, seed: int) -> pd.DataFrame:
    from transfer.runs.evaluations import accuracies, read_evaluation

    (path,) = evaluation(context.layout, (dataset, recipe, seed), [])
    return accuracies(read_evaluation(path, context.runs[dataset, recipe][seed].directory))


def figure(context: Context) -> tuple[Figure, str]:
    """Accuracy against severity."""
    import pandas as pd

    frames = [
        _accuracies(context, context.dataset, recipe, seed).assign(recipe=recipe, seed=seed)
        for recipe, seed, _ in context.each_run()
    ]
    frame = pd.concat(frames)
    what = "Accuracy on corrupted test faces (docs/robustness.md): mean over seeds, bars from lowest to highest"
    return robustness_figure(frame[frame["corruption"] != "none"]), what


def robustness_figure(frame: pd.DataFrame) -> Figure:
    """Draw a panel per corruption, a line per recipe: mean, lowest and highest over seeds; clean faces come first."""
    import pandas as pd

    from transfer.params.train import SEVERITIES

    corruptions, recipes = list(frame["corruption"].unique()), list(frame["recipe"].unique())
    figure, every = panels(len(corruptions), (2.9, 2.4), (0, 1), 4.5, sharey=True)
    styles = line_styles(recipes)
    for axes, corruption in zip(every, corruptions, strict=True):
        rows = frame[frame["corruption"] == corruption]
        start = rows.drop_duplicates(["recipe", "seed"]).assign(severity=SEVERITIES[corruption].least)
        start["accuracy"] = start["clean_accuracy"]
        for recipe, part in pd.concat([start, rows]).groupby("recipe", sort=False):
            over = 100 * part.groupby("severity")["accuracy"].agg(["mean", "min", "max"])
            bars = [over["mean"] - over["min"], over["max"] - over["mean"]]
            line = {"label": recipe_name(recipe), "elinewidth": 0.7, "capsize": 2, **styles[recipe]}
            axes.errorbar(over.index, over["mean"], bars, **line)
        axes.set(title=corruption.replace("_", " "), xlabel=SEVERITIES[corruption].unit)
    figure.supylabel("accuracy (%)", fontsize=8)
    handles, labels = every[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=min(len(recipes), 6), handlelength=4)
    return figure


KIND = Kind(
    FORMATS,
    rows,
    "Accuracy on corrupted test faces and on challenge subsets, in percent, as mean ± standard deviation over "
    "seeds. `drop` is the loss against the same faces without corruption, in points; for a subset, against all "
    "test faces. The interval is Student's t 95 % over seeds, or Wilson's over the faces for a single seed. Each "
    "face has the same corruption for all recipes and seeds; the corruptions and their severities are described "
    "in docs/robustness.md. All predictions are made with the checkpoint of each run.",
    by_dataset(
        {"condition": code("corruption"), "severity": plain("severity", "{:g}"), "faces": count("n_faces")},
        ACCURACY_CELLS | {"drop": lambda row: UNDEFINED if row["corruption"] == "none" else f"{row['drop']:.2f}"},
        across="recipe",
        by=("corruption", "severity"),
    ),
    figure,
    evaluation=evaluation,
)
