"""The kinds of tables: what ``kind`` of an entry in ``table_definitions`` may name.

Each is one module here, found by its file's name, and ends with ``KIND = Kind(...)``. The workflow imports it to know
the table's inputs, so that a kind imports pandas, numpy, matplotlib and torch only inside its functions.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

from transfer.layout import Layout
from transfer.params import Params
from transfer.tables.text import Format, Section

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

    from transfer.runs.read import Result, Run, Runs

Cells = dict[str, Any]
"""Cells of a row of the csv by column; None where undefined."""
Formats = dict[str, Format]

ROW: Formats = dict.fromkeys(["experiment", "dataset", "recipe", "protocol"], "text")
COUNTS: Formats = dict.fromkeys(["n_seeds", "n_faces"], "count")
INTERVAL: Formats = dict.fromkeys(["ci95_low", "ci95_high"], "percent")
ACCURACY: Formats = COUNTS | dict.fromkeys(["accuracy", "accuracy_std"], "percent") | INTERVAL
"""The columns of ``mean_cells``."""


@dataclass(frozen=True)
class Kind:
    """How tables of a kind are made, and from which files besides those of their runs."""

    formats: Mapping[str, Format]
    """The columns of the csv; values of a sweep that the rows have are appended."""
    rows: Callable[[Context], Iterable[Cells]]
    header: str
    """What was measured. {statistics}, {faces} and {baseline} stand for a paragraph on intervals and tests, the numbers
    of test faces, and the recipe that others are compared with."""
    sections: Callable[[Context, pd.DataFrame], list[Section]]
    """What readers see of the rows, such as ``by_dataset``."""
    figure: Callable[[Context], tuple[Figure, str]] | None = None
    """Draws the runs of one dataset; returns the figure and what it shows."""
    inputs: tuple[str, ...] = ()
    """Files of the repository."""
    dataset_inputs: tuple[str, ...] = ()
    """Files in the folder of every dataset."""
    evaluation: Callable[[Layout, tuple[str, str, int], Sequence[str]], list[Path]] | None = None
    """The evaluations of a run's checkpoint, by layout, run (dataset, recipe, seed) and the table's datasets.

    A table that reads evaluations has one protocol, that of the checkpoint."""
    tools: bool = False
    """Whether it reads the evaluations of tools, with one protocol, too."""


def get(name: str) -> Kind:
    """Return the kind of that name."""
    kind: Kind = importlib.import_module(f"{__name__}.{name}").KIND
    return kind


def protocols_of(params: Params, table: str) -> Sequence[str]:
    """Return the protocols that a table shows."""
    definition = params.table_definitions[table]
    kind = get(definition.kind)
    if kind.evaluation or kind.tools:
        return [params.checkpoint_protocol]
    return definition.protocols or params.protocols


def figure_protocol(params: Params, table: str) -> str:
    """Return the one protocol that a table's figure shows: the checkpoint's, where the table has it."""
    shown = protocols_of(params, table)
    return params.checkpoint_protocol if params.checkpoint_protocol in shown else shown[0]


@dataclass(frozen=True)
class Context:
    """What a table, or its figure on the one dataset of ``runs``, is made from."""

    params: Params
    layout: Layout
    name: str
    runs: Runs

    def results(self) -> Iterator[tuple[Cells, dict[int, Result]]]:
        """Yield for every dataset, recipe and protocol the cells that name them, and the results by seed."""
        for (dataset, recipe), seeds in self.runs.items():
            for protocol in protocols_of(self.params, self.name):
                names = {"experiment": self.params.experiment, "dataset": dataset, "recipe": recipe}
                yield names | {"protocol": protocol}, {seed: run.results[protocol] for seed, run in seeds.items()}

    def each_run(self) -> Iterator[tuple[str, int, Run]]:
        """Yield recipe, seed and run."""
        for (_, recipe), seeds in self.runs.items():
            for seed, run in seeds.items():
                yield recipe, seed, run

    def model_cells(self, dataset: str, recipe: str) -> Cells:
        """Return local_cnns, mad and msad of a recipe; None for another model than TransFER."""
        model = self.params.run(dataset, recipe).model
        return {"local_cnns": model.args.get("num_lanets"), **{key: model.args.get(key) for key in ("mad", "msad")}}

    def size_cells(self, dataset: str, recipe: str) -> Cells:
        """Return model, loss, backbone, parameters, macs and pretrained of a recipe."""
        from transfer.models.registry import size_of

        run = self.params.run(dataset, recipe)
        classes = len(next(iter(self.runs[dataset, recipe].values())).classes)
        return {"model": run.model.name, "loss": run.train.loss.name, **size_of(run.model, classes)}

    @property
    def dataset(self) -> str:
        """The dataset of the figure."""
        return next(iter(self.runs))[0]

    @property
    def protocol(self) -> str:
        """The protocol of the figure."""
        return figure_protocol(self.params, self.name)


def percent(fraction: float | None) -> float | None:
    """Return a fraction in percent; None stays."""
    return None if fraction is None else 100 * fraction


def mean_cells(fractions: Sequence[float], faces: int, name: str = "accuracy") -> Cells:
    """Return the cells of a fraction in [0, 1] per seed, each of the same ``faces``; None where undefined."""
    from transfer.evaluation.statistics import summary

    found = summary(fractions, faces=(round(faces * fractions[0]), faces))
    return {
        "n_seeds": found.n,
        "n_faces": faces,
        name: 100 * found.mean,
        f"{name}_std": percent(found.std),
        "ci95_low": percent(found.ci95_low),
        "ci95_high": percent(found.ci95_high),
    }


def accuracy_cells(seeds: Mapping[int, Result]) -> Cells:
    """Return the cells of the accuracy over seeds, and the mean of the mean-class accuracy."""
    metrics = [result.metrics for result in seeds.values()]
    cells = mean_cells([each["accuracy"] for each in metrics], metrics[0]["n"])
    return cells | {"mean_class_accuracy": 100 * fmean(each["mean_class_accuracy"] for each in metrics)}


def grouped_cells(
    frame: pd.DataFrame, by: Sequence[str], means: Sequence[str] = ("mean_class_accuracy",)
) -> Iterator[Cells]:
    """Yield cells for each value of ``by``; ``frame`` has a row per seed and value: n, accuracy and ``means``."""
    for keys, part in frame.groupby(list(by), sort=False, dropna=False):
        cells = mean_cells(part["accuracy"].tolist(), int(part["n"].iloc[0]))
        yield dict(zip(by, keys, strict=True)) | cells | {name: 100 * float(part[name].mean()) for name in means}
