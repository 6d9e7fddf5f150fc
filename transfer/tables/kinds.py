"""The kinds of tables: what `kind` of an entry in `table_definitions` may name, and the function that makes it."""

from transfer.tables.calibration import calibration_table
from transfer.tables.context import Kind
from transfer.tables.cross import cross_table
from transfer.tables.diversity import diversity_table
from transfer.tables.per_class import per_class_table
from transfer.tables.protocols import protocols_table
from transfer.tables.recipes import recipes_table
from transfer.tables.robustness import robustness_table
from transfer.tables.state_of_the_art import state_of_the_art_table
from transfer.tables.subgroups import subgroups_table

KINDS: dict[str, Kind] = {
    "recipes": recipes_table,
    "protocols": protocols_table,
    "reported": state_of_the_art_table,
    "per_class": per_class_table,
    "subgroups": subgroups_table,
    "calibration": calibration_table,
    "robustness": robustness_table,
    "cross": cross_table,
    "diversity": diversity_table,
}
