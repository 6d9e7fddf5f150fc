"""Robustness: accuracy on corrupted test faces and on the challenge subsets."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from transfer.layout import Layout
from transfer.tables.cells import ACCURACY, ROW, mean_cells
from transfer.tables.kinds import Context, Kind
from transfer.tables.text import ACCURACY_CELLS, UNDEFINED, Format, by_dataset, code, count, plain
from transfer.utils.plots import line_styles, panels, recipe_name

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

    from transfer.runs.read import Run

FORMATS: dict[str, Format] = {
    **ROW,
    **dict.fromkeys(["corruption", "severity"], "text"),
    **ACCURACY,
    **dict.fromkeys(["mean_class_accuracy", "untouched_accuracy", "drop"], "percent"),
}


def evaluation(layout: Layout, run: tuple[str, str, int], datasets: Sequence[str]) -> list[Path]:
    """The predictions of a run on its corrupted test faces."""
    return [layout.evaluation("robustness", *run) / "robustness.parquet"]


def rows(context: Context) -> Iterator[dict[str, Any]]:
    """Accuracy under each corruption and severity, and on each challenge subset, as means over seeds."""
    import pandas as pd

    for names, seeds in context.results():
        dataset, recipe = names["dataset"], names["recipe"]
        frames = []
        for seed, result in seeds.items():
            frames.append(_accuracies(context, recipe, seed, context.runs[dataset, recipe][seed], dataset))
            for name, found in result.subsets.items():
                values = {key: found[key] for key in ("n", "accuracy", "mean_class_accuracy")}
                values |= {"corruption": f"subset {name}", "untouched_accuracy": result.metrics["accuracy"]}
                frames.append(pd.DataFrame([values | {"severity": float("nan")}]))
        conditions = pd.concat(frames).groupby(["corruption", "severity"], sort=False, dropna=False)
        for (corruption, severity), part in conditions:
            yield {
                **names,
                "corruption": corruption,
                "severity": severity,
                **mean_cells(list(part["accuracy"]), int(part["n"].iloc[0])),
                "mean_class_accuracy": 100 * float(part["mean_class_accuracy"].mean()),
                "untouched_accuracy": 100 * float(part["untouched_accuracy"].mean()),
                "drop": 100 * float((part["untouched_accuracy"] - part["accuracy"]).mean()),
            }


def _accuracies(context: Context, recipe: str, seed: int, run: Run, dataset: str) -> pd.DataFrame:
    from transfer.runs.evaluations import accuracies, read_evaluation

    (path,) = evaluation(context.layout, (dataset, recipe, seed), [])
    return accuracies(read_evaluation(path, run.directory))


def figure(context: Context) -> tuple[Figure, str]:
    """Accuracy against severity."""
    import pandas as pd

    frames = [
        _accuracies(context, recipe, seed, run, context.dataset).assign(recipe=recipe, seed=seed)
        for recipe, seed, run in context.each_run()
    ]
    frame = pd.concat(frames)
    what = "Accuracy on corrupted test faces (docs/robustness.md): mean over seeds, bars from lowest to highest"
    return robustness_figure(frame[frame["corruption"] != "none"]), what


def robustness_figure(frame: pd.DataFrame) -> Figure:
    """Draw a panel per corruption and in it a line per recipe: the mean over seeds, its bars from lowest to highest.

    ``frame``: corruption, severity, recipe, seed, accuracy and untouched_accuracy (that of the same faces without
    corruption) in [0, 1]. Each line begins with the clean faces, at the corruption's least severity.
    """
    import pandas as pd

    from transfer.params.train import SEVERITIES

    corruptions, recipes = list(frame["corruption"].unique()), list(frame["recipe"].unique())
    figure, every = panels(len(corruptions), (2.9, 2.4), (0, 1), 4.5, sharey=True)
    styles = line_styles(recipes)
    for axes, corruption in zip(every, corruptions, strict=True):
        rows = frame[frame["corruption"] == corruption]
        start = rows.drop_duplicates(["recipe", "seed"]).assign(severity=SEVERITIES[corruption].least)
        start["accuracy"] = start["untouched_accuracy"]
        for recipe, part in pd.concat([start, rows]).groupby("recipe", sort=False):
            over = 100 * part.groupby("severity")["accuracy"].agg(["mean", "min", "max"])
            bars = [over["mean"] - over["min"], over["max"] - over["mean"]]
            line = {"label": recipe_name(recipe), "elinewidth": 0.7, "capsize": 2, **styles[recipe]}
            axes.errorbar(over.index, over["mean"], bars, **line)
        axes.set(title=corruption.replace("_", " "), xlabel=SEVERITIES[corruption].unit)
    figure.supylabel("accuracy (%)", fontsize=8)
    legend = {"loc": "outside lower center", "ncols": min(len(recipes), 6), "handlelength": 4}
    figure.legend(*every[0].get_legend_handles_labels(), **legend)
    return figure


def _drop(row: Mapping[str, Any]) -> str:
    return UNDEFINED if row["corruption"] == "none" else f"{row['drop']:.2f}"


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
        ACCURACY_CELLS | {"drop": _drop},
        across="recipe",
        by=("corruption", "severity"),
    ),
    figure,
    evaluation=evaluation,
)
