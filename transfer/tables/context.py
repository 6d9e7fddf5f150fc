"""What every kind of table is made from."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from transfer.layout import Layout
from transfer.params import Params, TableDefinition
from transfer.runs.read import Runs
from transfer.tables.text import Table


@dataclass(frozen=True)
class Context:
    """A table's name and definition, the trainings that it shows, and where their files lie."""

    params: Params
    layout: Layout
    name: str
    runs: Runs

    @property
    def definition(self) -> TableDefinition:
        """Its entry in the parameters."""
        return self.params.table_definitions[self.name]

    @property
    def protocols(self) -> Sequence[str]:
        """Its protocols."""
        return self.params.table_protocols(self.name)

    @property
    def baseline(self) -> str:
        """The recipe that its others are compared with."""
        return self.params.table_baseline(self.name)

    @property
    def title(self) -> str:
        """What stands above it."""
        return f"{self.definition.title or self.name}: {self.params.experiment}"


Kind = Callable[[Context], Table]
"""A function that makes a table of one kind."""
