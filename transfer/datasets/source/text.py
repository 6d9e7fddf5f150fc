"""Text and csv files inside a source, and the paths by which an index names their rows."""

import csv
import io
from collections.abc import Iterator

from transfer.utils.errors import UserError
from transfer.utils.filetype import HEAD, looks_like


def text_lines(name: str, content: bytes) -> list[str]:
    """Lines of a text file (UTF-8, with or without a byte order mark).

    Raises UserError with the file's name for what is no UTF-8 text, and for another kind of file under a text's name.
    """
    check_text(name, content)
    try:
        return content.decode("utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise UserError(f"{name}: not a UTF-8 text file ({error})") from error


def csv_rows(name: str, content: bytes) -> Iterator[tuple[int, list[str]]]:
    """Yield (1-based line number, stripped fields) of each non-empty row; UserError if it is not a csv file."""
    check_text(name, content)
    text = io.TextIOWrapper(io.BytesIO(content), "utf-8-sig", newline="")
    reader = csv.reader(text)
    try:
        for row in reader:
            if row:
                yield reader.line_num, [field.strip() for field in row]
    except csv.Error as error:
        raise UserError(f"{name}, line {reader.line_num}: not a csv file ({error})") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{name}: not a UTF-8 csv file ({error})") from error


def check_text(name: str, content: bytes) -> None:
    """Raise UserError if the content of a text file is by its first bytes something else, such as an HTML page."""
    kind = looks_like(content[:HEAD])
    if kind:
        raise UserError(f"{name}: is {kind}, not a text file; get the file again")


def split_path(path: str) -> tuple[str, int | None]:
    """Split the path of an index into file name and row: "fer2013.csv#17" -> ("fer2013.csv", 17), else row None."""
    name, mark, row = path.rpartition("#")
    return (name, int(row)) if mark and name.endswith(".csv") else (path, None)
