"""Reading a dataset where it lies: in a folder, a zip or a tar, and in archives inside these, without unpacking."""

from transfer.datasets.source.names import SUFFIXES, find, locate
from transfer.datasets.source.opening import open_source
from transfer.datasets.source.reading import Source
from transfer.datasets.source.text import csv_rows, split_path, text_lines

__all__ = ["SUFFIXES", "Source", "csv_rows", "find", "locate", "open_source", "split_path", "text_lines"]
