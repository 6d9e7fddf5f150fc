"""The tables of an experiment, made from metrics.json and predictions.parquet of its runs."""

from transfer.tables.markdown import to_markdown
from transfer.tables.reported import Reported, load_reported
from transfer.tables.table1 import COLUMNS, table1, to_csv, write_table1

__all__ = ["COLUMNS", "Reported", "load_reported", "table1", "to_csv", "to_markdown", "write_table1"]
