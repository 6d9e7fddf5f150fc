"""The parts of an experiment's folder, which ``transfer clean`` removes."""

import csv
from collections.abc import Sequence
from pathlib import Path

from transfer.cleaning.removal import Item, item, leftovers
from transfer.layout import Layout
from transfer.utils.errors import UserError

_TABLES = ("*.csv", "*.md", "*.tex")
PARTS: dict[str, tuple[str, ...]] = {
    "runs": (*_TABLES, "metrics", "figures", "report", "evaluations", "runs"),
    "evaluations": ("evaluations",),
    "state": ("state",),
    "search": ("search", "state/search"),
    "weights": ("weights",),
    "audit": ("audit",),
    "figures": ("figures",),
    "logs": ("logs", "benchmarks"),
    "data": ("data",),
}
"""What each part is, below results/<experiment>/; what was made from the rest comes first."""

# Aligned faces and landmarks take hours of detection, and the snapshot says which experiment this is.
_KEPT = ("data", "params.yaml")


def parts_of(layout: Layout, chosen: Sequence[str], everything: bool) -> list[Item]:
    """What of an experiment goes: the ``chosen`` parts, or everything; where neither is said all but its data.

    Its table in results/ goes with its runs. Raises UserError for an experiment or a part that is not there.
    """
    root = layout.root
    folders = {path.name for path in layout.results.glob("*") if path.is_dir()} - {"published"}
    if layout.experiment not in folders:
        raise UserError(f"{root}: no experiment; there are: {', '.join(sorted(folders)) or 'none'}")
    if unknown := [name for name in chosen if name not in PARTS]:
        raise UserError(f"--part {unknown[0]}: unknown; allowed: {', '.join(PARTS)}")
    if everything:
        paths = [root]
    elif chosen:
        paths = _found(root, [name for part in PARTS if part in chosen for name in PARTS[part]])
    else:
        first = _found(root, PARTS["runs"])
        paths = [*first, *sorted(path for path in root.iterdir() if path.name not in _KEPT and path not in first)]
    found = [item(path, "") for path in paths if path.exists() or path.is_symlink()]
    if everything or not chosen or "runs" in chosen:
        found = [*_shown_tables(layout), *found]
    covered = {entry.path for entry in found}
    cut = [entry for entry in leftovers([root]) if not covered & {entry.path, *entry.path.parents}]
    return [*found, *cut]


def _found(root: Path, patterns: Sequence[str]) -> list[Path]:
    return [path for pattern in patterns for path in sorted(root.glob(pattern))]


def _shown_tables(layout: Layout) -> list[Item]:
    """The tables in results/ that are of this experiment, as csv and md."""
    found = []
    for path in sorted(layout.results.glob("*.csv")):
        with open(path, encoding="utf-8", newline="") as file:
            row = next(csv.DictReader(file), {})
        if row.get("experiment") == layout.experiment:
            found += [item(file, "") for file in (path, path.with_suffix(".md")) if file.is_file()]
    return found
