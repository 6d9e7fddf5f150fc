"""The figure of a table on one dataset: what its trainings did, drawn."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from transfer.evaluation.calibration import reliability_curve
from transfer.figures.confusion import confusion_figure
from transfer.figures.curves import curves_figure
from transfer.figures.diversity import diversity_figure
from transfer.figures.reliability import reliability_figure
from transfer.figures.robustness import robustness_figure
from transfer.figures.sweep import grid_figure, sweep_figure
from transfer.layout import Layout
from transfer.params import Params
from transfer.params.train import SEVERITIES
from transfer.runs.evaluations import CLEAN, accuracies, read_diversity, read_evaluation
from transfer.runs.predictions import probabilities_of
from transfer.runs.read import Run
from transfer.tables.build import read_table_runs
from transfer.tables.overview import read_history
from transfer.utils.errors import UserError
from transfer.utils.files import write_json
from transfer.utils.plots import About, save_pair


def write_table_figure(params: Params, layout: Layout, name: str, dataset: str) -> list[Path]:
    """Write figures/NAME_DATASET.png, .svg and .json (the caption); returns their paths.

    Raises UserError for a table or dataset without a figure, and as the table itself does.
    """
    table = params.table_definitions[name]
    if not params.has_figure(name):
        raise UserError(f"table {name}: tables of kind {table.kind} have no figure")
    if dataset not in params.table_datasets(name):
        allowed = ", ".join(params.table_datasets(name))
        raise UserError(f"--dataset {dataset}: not in table {name}; allowed: {allowed}")
    figure = TableFigure(params, layout, name, dataset)
    draw: Callable[[], Figure] = getattr(figure, "sweep" if table.sweep else table.kind)
    stem = layout.figures / f"{name}_{dataset}"
    paths = save_pair(draw(), stem)
    caption = {"caption": figure.caption, "dataset": dataset, "drawn_faces": figure.drawn}
    write_json(stem.with_suffix(".json"), caption | {"n_seeds": len(params.table_seeds(name))})
    return [*paths, stem.with_suffix(".json")]


class TableFigure:
    """The trainings of a table on one dataset, and a method per kind that draws them and says what is seen."""

    def __init__(self, params: Params, layout: Layout, name: str, dataset: str) -> None:
        self.params, self.layout, self.name, self.dataset = params, layout, name, dataset
        runs, _ = read_table_runs(params, layout, name, dataset=dataset)
        self.runs: dict[str, dict[int, Run]] = {recipe: dict(seeds) for (_, recipe), seeds in runs.items()}
        self.protocol = params.figure_protocol(name)
        self.drawn = params.dataset_definitions[dataset].synthetic is not None
        self.about = About(params.experiment, dataset, self.protocol, "drawn faces" if self.drawn else "")
        faces = len(next(iter(next(iter(self.runs.values())).values())).results[self.protocol].test)
        seeds = len(params.table_seeds(name))
        self.of = (
            f"{params.experiment}, {dataset}{' (drawn faces)' if self.drawn else ''}, protocol {self.protocol}, "
            f"{seeds} seed{'s' if seeds > 1 else ''}, {faces:,} test faces"
        )
        self.caption = ""

    def recipes(self) -> Figure:
        """Learning curves."""
        frames = []
        for recipe, seeds in self.runs.items():
            for seed in seeds:
                history = read_history(self.layout, self.dataset, recipe, seed)
                frames.append(history.assign(recipe=recipe, seed=seed))
        self.caption = (
            f"Training loss and validation accuracy by epoch ({self.of}): the mean over the seeds, and a band from the "
            "lowest to the highest."
        )
        about = About(self.about.experiment, self.dataset, None, self.about.note)
        return curves_figure(pd.concat(frames), about)

    def sweep(self) -> Figure:
        """Test accuracy against what was varied."""
        definition = self.params.table_definitions[self.name].sweep
        assert definition is not None
        values = definition.recipes()
        names = [key.rpartition(".")[2] for key in definition.over]
        rows = [
            (*values[recipe].values(), seed, run.results[self.protocol].metrics["accuracy"])
            for recipe, seeds in self.runs.items()
            for seed, run in seeds.items()
        ]
        self.caption = f"Test accuracy against {' and '.join(names)} ({self.of}), with Student's t 95 % interval."
        if len(names) == 1:
            return sweep_figure(pd.DataFrame(rows, columns=["value", "seed", "accuracy"]), names[0], self.about)
        frame = pd.DataFrame(rows, columns=["first", "second", "seed", "accuracy"])
        return grid_figure(frame, (names[0], names[1]), self.about)

    def per_class(self) -> Figure:
        """Confusion matrices."""
        classes = next(iter(next(iter(self.runs.values())).values())).classes
        matrices = {
            recipe: [np.array(run.results[self.protocol].metrics["confusion"]) for run in seeds.values()]
            for recipe, seeds in self.runs.items()
        }
        self.caption = (
            f"Confusion matrices ({self.of}): percent of the faces of an expression, a row each, and their number "
            "summed over the seeds."
        )
        return confusion_figure(matrices, classes, self.about)

    def calibration(self) -> Figure:
        """Reliability diagrams."""
        frames = []
        for recipe, seeds in self.runs.items():
            for seed, run in seeds.items():
                test = run.results[self.protocol].test
                curve = reliability_curve(probabilities_of(test), test["label"].to_numpy())
                frames.append(curve.assign(recipe=recipe, seed=seed))
        self.caption = f"Accuracy by confidence of the most probable expression ({self.of}); ECE in 15 bins."
        return reliability_figure(pd.concat(frames), self.about)

    def robustness(self) -> Figure:
        """Accuracy against severity."""
        frames = []
        for recipe, seeds in self.runs.items():
            for seed, run in seeds.items():
                folder = self.layout.evaluation("robustness", self.dataset, recipe, seed)
                found = accuracies(read_evaluation(folder / "robustness.parquet", run.directory))
                frames.append(found[found["corruption"] != CLEAN].assign(recipe=recipe, seed=seed))
        self.caption = (
            f"Accuracy on corrupted test faces against the severity ({self.of}): the mean over the seeds, from the "
            "lowest to the highest. docs/robustness.md says what each corruption does."
        )
        clean = {name: scale.least for name, scale in SEVERITIES.items()}
        units = {name: scale.unit for name, scale in SEVERITIES.items()}
        return robustness_figure(pd.concat(frames), self.about, clean, units)

    def diversity(self) -> Figure:
        """How alike maps and heads are."""
        seeds = self.params.table_seeds(self.name)
        found = read_diversity(self.layout, self.dataset, list(self.runs), seeds)
        self.caption = (
            f"How alike the LANets' maps and the heads of a block are, mean over all pairs and test faces ({self.of}): "
            "low is diverse. A circle is a seed, the line their mean, the bar its 95 % interval (Student's t). A "
            "recipe without two LANets has no overlap. docs/attention.md has the formulas."
        )
        return diversity_figure(found, self.of)
