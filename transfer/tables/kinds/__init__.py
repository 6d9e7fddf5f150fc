"""The kinds of tables: what `kind` of an entry in `table_definitions` may name. Each is a module here, found by itself.

A kind's function ``table`` makes a table of the trainings in its ``Context``.
"""

import importlib
import pkgutil
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transfer.tables.context import Kind


def names() -> list[str]:
    """All kinds."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__))


def get(kind: str) -> "Kind":
    """The function that makes tables of a kind."""
    return importlib.import_module(f"{__name__}.{kind}").table
