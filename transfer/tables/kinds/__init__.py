"""The kinds of tables: what ``kind`` of an entry in ``table_definitions`` may name.

Each is one module here, found by its file's name, and ends with ``KIND = Kind(...)``. The workflow imports it to know
the table's inputs, so that a kind imports pandas, numpy, matplotlib and torch only inside its functions.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from transfer.layout import Layout
from transfer.params import Params, TableDefinition
from transfer.tables.text import Format, Section, Table, protocols_paragraph, rounded

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

    from transfer.runs.read import Result, Run, Runs
    from transfer.utils.plots import About


@dataclass(frozen=True)
class Kind:
    """How tables of a kind are made, and from which files besides the runs' own."""

    table: Callable[[Context], Table]
    """Makes the table."""
    figure: Callable[[Context], tuple[Figure, str]] | None = None
    """Draws the runs of one dataset; returns the figure and its caption."""
    inputs: tuple[str, ...] = ()
    """Files of the repository."""
    dataset_inputs: tuple[str, ...] = ()
    """Files in the folder of every dataset."""
    evaluation: Callable[[Layout, tuple[str, str, int], Sequence[str]], list[Path]] | None = None
    """The evaluations of a run's checkpoint, by layout, run (dataset, recipe, seed) and the table's datasets.

    A table that reads evaluations has one protocol, that of the checkpoint."""


def names() -> list[str]:
    """Return all kinds."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__))


def get(name: str) -> Kind:
    """Return the kind of that name."""
    return importlib.import_module(f"{__name__}.{name}").KIND


def protocols_of(params: Params, table: str) -> Sequence[str]:
    """Return the protocols that a table shows."""
    definition = params.table_definitions[table]
    if get(definition.kind).evaluation:
        return [params.kept_protocol]
    return definition.protocols or params.protocols


def figure_protocol(params: Params, table: str) -> str:
    """Return the one protocol that a table's figure shows: the checkpoint's, where the table has it."""
    shown = protocols_of(params, table)
    return params.kept_protocol if params.kept_protocol in shown else shown[0]


@dataclass(frozen=True)
class Context:
    """What a table or figure is made from: the parameters, the table's name, its runs, and where files lie.

    Of a figure the runs are those of one dataset.
    """

    params: Params
    layout: Layout
    name: str
    runs: Runs

    @property
    def definition(self) -> TableDefinition:
        """The table's entry in the parameters."""
        return self.params.table_definitions[self.name]

    @property
    def title(self) -> str:
        """The title of the table."""
        return f"{self.definition.title or self.name}: {self.params.experiment}"

    @property
    def protocols(self) -> Sequence[str]:
        """The protocols of the table."""
        return protocols_of(self.params, self.name)

    def rows(self) -> Iterator[tuple[dict[str, Any], dict[int, Result]]]:
        """Yield for every dataset, recipe and protocol the cells that name them, and the results by seed."""
        for (dataset, recipe), seeds in self.runs.items():
            for protocol in self.protocols:
                names = {"experiment": self.params.experiment, "dataset": dataset, "recipe": recipe}
                yield names | {"protocol": protocol}, {seed: run.results[protocol] for seed, run in seeds.items()}

    def frame(self, rows: Iterable[Mapping[str, Any]], formats: Mapping[str, Format]) -> pd.DataFrame:
        """Return the rows with the columns of ``formats``, rounded as they are written."""
        import pandas as pd

        return rounded(pd.DataFrame(rows), formats)

    def table(self, frame: pd.DataFrame, formats: dict[str, Format], header: str, sections: list[Section]) -> Table:
        """Return the table, below ``header`` and what its protocols are."""
        return Table(self.title, frame, formats, [header, protocols_paragraph(self.protocols)], sections)

    # ---- For figures

    @property
    def dataset(self) -> str:
        """The dataset of the figure."""
        return next(iter(self.runs))[0]

    @property
    def protocol(self) -> str:
        """The protocol of the figure."""
        return figure_protocol(self.params, self.name)

    def each_run(self) -> Iterator[tuple[str, int, Run]]:
        """Yield recipe, seed and run."""
        for (_, recipe), seeds in self.runs.items():
            for seed, run in seeds.items():
                yield recipe, seed, run

    @property
    def about(self) -> About:
        """What the figure's title says of its runs."""
        from transfer.utils.plots import About

        synthetic = self.params.dataset_definitions[self.dataset].synthetic is not None
        note = "synthetic faces" if synthetic else ""
        return About(self.params.experiment, self.dataset, self.protocol, note)

    @property
    def of(self) -> str:
        """What a caption says of the figure's runs."""
        about, seeds = self.about, len(self.params.table_seeds(self.name))
        faces = len(next(self.each_run())[2].results[self.protocol].test)
        dataset = f"{about.dataset} ({about.note})" if about.note else about.dataset
        number = f"{seeds} seed{'s' if seeds > 1 else ''}, {faces:,} test faces"
        return f"{about.experiment}, {dataset}, protocol {about.protocol}, {number}"
