"""Lists of images that others have published: text files with one image a line, below raw_dir."""

import re
from dataclasses import dataclass
from pathlib import Path

from transfer.datasets.source import text_lines
from transfer.utils.errors import UserError

FOLDER = "challenge_lists"
"""Where the RAN authors' lists lie below raw_dir, under the names of their repository."""


@dataclass(frozen=True)
class NameList:
    """A list with one image a line; ``pattern`` finds its name and label, ``example`` shows a line."""

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
