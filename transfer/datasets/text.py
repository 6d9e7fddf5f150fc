"""Text files of a dataset: label files, csv tables, published lists of images, and paths that name a csv row."""

import codecs
import csv
import io
import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from transfer.utils.errors import UserError
from transfer.utils.filetype import HEAD, looks_like

_FIRST = 1 << 16  # characters of a first line that are looked at
_WHOLE = re.compile(r"\s*([+-]?\d{1,12})(?:\.0*)?\s*", re.ASCII)
_ROW = re.compile(r"(.*\.csv)#(\d{1,12})", re.ASCII | re.DOTALL)
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
    """Lines of a text file (UTF-8, or UTF-16 with its mark); UserError with its name for anything else."""
    encoding = _encoding(name, content)
    try:
        return content.decode(encoding).splitlines()
    except UnicodeDecodeError as error:
        raise UserError(f"{name}: not a UTF-8 text file ({error}); save it as UTF-8") from error


def csv_rows(name: str, content: bytes) -> Iterator[tuple[int, list[str]]]:
    """Yield (1-based line number, stripped fields) of each row that is not empty; UserError if it is not a csv file.

    Fields are separated by commas; by semicolons or tabs if the first line has no comma.
    """
    text = io.TextIOWrapper(io.BytesIO(content), _encoding(name, content), newline="")
    try:
        first = text.readline(_FIRST)
        text.seek(0)
        reader = csv.reader(text, delimiter=next((mark for mark in ",;\t" if mark in first), ","))
        for row in reader:
            fields = [field.strip() for field in row]
            if any(fields):
                yield reader.line_num, fields
    except csv.Error as error:
        raise UserError(f"{name}, line {reader.line_num}: not a csv file ({error})") from error
    except UnicodeError as error:
        raise UserError(f"{name}: not a UTF-8 csv file ({error}); save it as UTF-8") from error


def csv_records(
    name: str,
    content: bytes,
    columns: Sequence[str],
    optional: Collection[str] = (),
    bare: Collection[Sequence[str]] = (),
) -> Iterator[tuple[str, dict[str, str]]]:
    """Yield ("<name>, line <n>", field of each column) of the rows of a csv file, read by its header.

    Other columns are passed over. ``optional`` columns may be absent, as may the header, if ``bare`` has columns of as
    many fields as the first row. UserError (file, line, what was found) for anything else.
    """
    header: Sequence[str] = ()
    known = {*columns, *optional}
    for line, fields in csv_rows(name, content):
        where = f"{name}, line {line}"
        if not header:
            header = fields
            if not known & set(fields):
                header = next((layout for layout in bare if len(layout) == len(fields)), ())
            lacking = [column for column in columns if column not in header]
            if lacking or len(known & set(header)) < sum(column in known for column in header):
                twice = f"{lacking[0]} is missing" if lacking else "a column is there twice"
                found = ",".join(fields)
                found = f"{found[:120]}..." if len(found) > 120 else found
                raise UserError(f"{where}: expected the header {','.join(columns)}, found {found!r} ({twice})")
            if header is fields:
                continue
        if len(fields) != len(header):
            raise UserError(f"{where}: {len(fields)} columns; expected {len(header)}: {','.join(header)}")
        yield where, {column: field for column, field in zip(header, fields, strict=True) if column in known}


def _encoding(name: str, content: bytes) -> str:
    marked = content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    encoding, kind = "utf-16" if marked else "utf-8-sig", looks_like(content[:HEAD])
    if kind:
        raise UserError(f"{name}: is {kind}, not a text file; get the file again")
    if "\0" in content[:HEAD].decode(encoding, "ignore"):
        raise UserError(f"{name}: not a UTF-8 text file (it holds null characters); save it as UTF-8")
    return encoding


def whole_number(text: str) -> int | None:
    """The whole number that a text such as "7", " 7" or "7.0" means, None if it means none."""
    match = _WHOLE.fullmatch(text)
    return int(match[1]) if match else None


def split_path(path: str) -> tuple[str, int | None]:
    """Split the path of an index into file name and row: "fer2013.csv#17" -> ("fer2013.csv", 17), else row None."""
    match = _ROW.fullmatch(path)
    return (match[1], int(match[2])) if match else (path, None)
