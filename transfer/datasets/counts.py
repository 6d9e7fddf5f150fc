"""Image counts of an index: the check against the expected ones, and the summary in index.json."""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from transfer.datasets.archives import BY_THE_SYSTEM
from transfer.datasets.registry import OTHER_FILES, Counts
from transfer.params import SPLITS
from transfer.utils.errors import UserError


class CountsError(UserError):
    """Counts that differ from the expected ones; ``table`` is that of `compare`."""

    def __init__(self, message: str, table: pd.DataFrame) -> None:
        super().__init__(message)
        self.table = table


def per_class(index: pd.DataFrame, classes: Sequence[str]) -> dict[str, dict[str, int]]:
    """Images of each split and class, split -> class name -> count; without empty splits."""
    counts = pd.crosstab(index["split"], index["label"]).reindex(columns=range(len(classes)), fill_value=0)
    rows = dict(zip(counts.index, counts.to_numpy().tolist(), strict=True))
    return {split: dict(zip(classes, rows[split], strict=True)) for split in SPLITS if split in rows}


def check_counts(
    index: pd.DataFrame,
    classes: Sequence[str],
    expect: str | Mapping[str, int | Sequence[int]] = "any",
    official: Sequence[Counts] = (),
) -> pd.DataFrame | None:
    """The table of expected and found images, None for "any"; CountsError if it has a difference.

    ``expect`` is "any", "official" (one of ``official``), or a mapping from some splits to their totals or counts per
    class in label order. Rows that the parser left out as repeated count as found: the archive holds them. Whatever is
    expected, a class without a training or test image is a UserError.
    """
    found = per_class(index, classes)
    for split, kind in (("train", "training"), ("test", "test")):
        if empty := [repr(name) for name in classes if not found.get(split, {}).get(name)]:
            verb = "class {} has" if len(empty) == 1 else "classes {} have"
            lacking = f"{verb.format(', '.join(empty))} no {kind} image"
            raise UserError(f"{lacking}; check the archive and the dataset's options")
    if expect == "any":
        return None
    if expect == "official" and not official:
        raise UserError("expect: official, but the official counts of this dataset are not known; give counts, or any")
    for repeated in index.attrs.get("repeated", []):
        found[repeated["split"]][classes[repeated["label"]]] += 1
    wanted = [expect] if isinstance(expect, Mapping) else official
    tables = [compare(found, counts, classes) for counts in wanted]
    table = min(tables, key=lambda table: (table["difference"] != 0).sum())
    wrong = table[table["difference"] != 0]
    if len(wrong):
        split, name, expected, here, _ = wrong.iloc[0]
        first = f"first {split} {name}: expected {expected:,}, found {here:,}"
        remedy = "complete the archive, or set expect to your counts, or to any"
        raise CountsError(f"image counts differ in {len(wrong)} of {len(table)} cells, {first}; {remedy}", table)
    return table


def compare(found: Mapping[str, Mapping[str, int]], wanted: Mapping, classes: Sequence[str]) -> pd.DataFrame:
    """One row per split and class (class "all" where ``wanted`` has a total): expected, found and difference."""
    rows = []
    for split, counts in wanted.items():
        if split not in SPLITS:
            raise UserError(f"expected counts: unknown split {split!r}; allowed: {', '.join(SPLITS)}")
        here = [found.get(split, {}).get(name, 0) for name in classes]
        if isinstance(counts, int):
            rows.append((split, "all", counts, sum(here)))
        elif len(counts) == len(classes):
            rows += [(split, *cells) for cells in zip(classes, counts, here, strict=True)]
        else:
            raise UserError(f"expected counts: {split} lists {len(counts)} classes; the dataset has {len(classes)}")
    table = pd.DataFrame(rows, columns=["split", "class", "expected", "found"])
    table["difference"] = table["found"] - table["expected"]
    return table


def as_text(table: pd.DataFrame) -> str:
    """The table of `compare` for the terminal: aligned columns, and a mark at each difference."""
    lines = [f"{'split':<6} {'class':<12} {'expected':>9} {'found':>9} {'difference':>10}"]
    for split, name, expected, found, difference in table.itertuples(index=False):
        mark = f"{difference:>+10,}  <--" if difference else ""
        lines.append(f"{split:<6} {name:<12} {expected:>9,} {found:>9,} {mark}".rstrip())
    return "\n".join(lines)


def index_summary(
    index: pd.DataFrame,
    classes: Sequence[str],
    *,
    dataset: str,
    archive: Path,
    parser: str,
    options: Mapping[str, Any],
    expect: Any,
) -> dict[str, Any]:
    """The content of index.json, of an index whose counts have been checked; docs/data.md describes it."""
    return {
        "dataset": dataset,
        "archive": archive.name,
        "parser": parser,
        "options": dict(options),
        "layout": index.attrs.get("layout"),
        "counts": per_class(index, classes),
        "expect": expect,
        "left_out": _left_out(index),
        "files": index.attrs["files"],
        "noted": index.attrs.get("noted", {}),
        "repeated": [
            {key: row[key] for key in ("sample", "path", "split", "why")} | {"class": classes[row["label"]]}
            for row in index.attrs.get("repeated", [])
        ],
    }


def in_words(index: pd.DataFrame) -> str:
    """What an index holds and left out, in one line."""
    per_split = ", ".join(f"{n:,} {split}" for split, n in index["split"].value_counts().items())
    layout = f" ({index.attrs['layout']})" if "layout" in index.attrs else ""
    line = f"{per_split}{layout}; left out: {', '.join(f'{n:,} {why}' for why, n in _left_out(index).items())}"
    noted = ", ".join(f"{n:,} {what}" for what, n in index.attrs.get("noted", {}).items() if n)
    return f"{line}; noted: {noted}" if noted else line


def _left_out(index: pd.DataFrame) -> dict[str, int]:
    """Reason -> rows or files; without those files that nobody misses."""
    repeated = Counter(row["why"] for row in index.attrs.get("repeated", []))
    counted = {**index.attrs.get("dropped", {}), **repeated, "missing": index.attrs.get("missing", 0)}
    files = {why: entry["files"] for why, entry in index.attrs.get("files", {}).get("left_out", {}).items()}
    return {why: n for why, n in files.items() if why not in (*counted, OTHER_FILES, BY_THE_SYSTEM)} | counted
