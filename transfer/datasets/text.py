"""Text files of a dataset: label files, csv tables, published lists of images, and paths that name a csv row."""

import csv
import io
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from transfer.utils.errors import UserError
from transfer.utils.filetype import HEAD, looks_like

LISTS_FOLDER = "challenge_lists"  # where the RAN authors' lists lie below raw_dir, under the names of their repository


@dataclass(frozen=True)
class NameList:
    """A list with one image a line; ``pattern`` finds its name and label."""

    file: str
    pattern: str
    example: str


def read_list(file: Path, entry: NameList) -> list[tuple[str, int]]:
    """Names and labels in the order of the list; blank lines are skipped. UserError (file, line) for any other line."""
    rows = []
    for number, line in enumerate(text_lines(str(file), file.read_bytes()), 1):
        if not line.strip():
            continue
        match = re.fullmatch(entry.pattern, line.strip())
        if not match:
            raise UserError(f"{file}, line {number}: {line.strip()[:80]!r}; expected a line such as {entry.example!r}")
        rows.append((match["name"], int(match["label"])))
    return rows


def text_lines(name: str, content: bytes) -> list[str]:
    """Lines of a text file (UTF-8, with or without a byte order mark); UserError with its name for anything else."""
    _check_text(name, content)
    try:
        return content.decode("utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise UserError(f"{name}: not a UTF-8 text file ({error})") from error


def csv_rows(name: str, content: bytes) -> Iterator[tuple[int, list[str]]]:
    """Yield (1-based line number, stripped fields) of each non-empty row; UserError if it is not a csv file."""
    _check_text(name, content)
    reader = csv.reader(io.TextIOWrapper(io.BytesIO(content), "utf-8-sig", newline=""))
    try:
        for row in reader:
            if row:
                yield reader.line_num, [field.strip() for field in row]
    except csv.Error as error:
        raise UserError(f"{name}, line {reader.line_num}: not a csv file ({error})") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{name}: not a UTF-8 csv file ({error})") from error


def _check_text(name: str, content: bytes) -> None:
    kind = looks_like(content[:HEAD])
    if kind:
        raise UserError(f"{name}: is {kind}, not a text file; get the file again")


def split_path(path: str) -> tuple[str, int | None]:
    """Split the path of an index into file name and row: "fer2013.csv#17" -> ("fer2013.csv", 17), else row None."""
    name, mark, row = path.rpartition("#")
    return (name, int(row)) if mark and name.endswith(".csv") else (path, None)
