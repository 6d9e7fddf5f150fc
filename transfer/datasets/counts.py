"""Are the images of an index those that were expected?"""

from collections.abc import Mapping, Sequence

import pandas as pd

from transfer.datasets.registry import Counts
from transfer.errors import UserError
from transfer.params import SPLITS

ALL = "all"
"""Stands for a split's classes together, where only the total is expected."""


class CountsError(UserError):
    """Counts that differ from what was expected; ``table`` is that of `compare`."""

    def __init__(self, message: str, table: pd.DataFrame) -> None:
        super().__init__(message)
        self.table = table


def per_class(index: pd.DataFrame, classes: Sequence[str]) -> dict[str, dict[str, int]]:
    """Images of each split and class, split -> class name -> count; without splits that have none."""
    counts = pd.crosstab(index["split"], index["label"])
    counts = counts.reindex(index=SPLITS, columns=range(len(classes)), fill_value=0)
    return {
        split: dict(zip(classes, map(int, row), strict=True))
        for split, row in zip(SPLITS, counts.to_numpy(), strict=True)
        if row.any()
    }


def check_counts(
    index: pd.DataFrame,
    classes: Sequence[str],
    expect: str | Mapping[str, int | Sequence[int]] = "any",
    official: Sequence[Counts] = (),
) -> pd.DataFrame | None:
    """The table of expected and found images, None for "any"; CountsError if it has a difference.

    ``expect`` is "any", "official" (one of ``official``, see `Parser.official`), or a mapping from split to its total
    or its counts per class in label order. Splits that the expectation does not name are not compared. Rows that the
    parser left out as repeated (``attrs["repeated"]``) count as found: the archive holds them. Raises UserError if a
    class has no training or test image, whatever is expected.
    """
    found = per_class(index, classes)
    for split, part in (("train", "training"), ("test", "test")):
        empty = [name for name in classes if not found.get(split, {}).get(name)]
        if empty:
            named = ", ".join(repr(name) for name in empty)
            verb = "class {} has" if len(empty) == 1 else "classes {} have"
            raise UserError(f"{verb.format(named)} no {part} image; check the archive and the dataset's options")
    if expect == "any":
        return None
    if expect == "official" and not official:
        raise UserError("expect: official, but the official counts of this dataset are not known; give counts, or any")
    for repeated in index.attrs.get("repeated", []):
        found[repeated["split"]][classes[repeated["label"]]] += 1
    wanted = official if expect == "official" else [expect]
    table = min(
        (compare(found, counts, classes) for counts in wanted), key=lambda table: (table["difference"] != 0).sum()
    )
    wrong = table[table["difference"] != 0]
    if len(wrong):
        first = wrong.iloc[0]
        raise CountsError(
            f"image counts differ in {len(wrong)} of {len(table)} cells, first {first['split']} {first['class']}: "
            f"expected {first['expected']:,}, found {first['found']:,}; complete the archive, "
            "or set expect to the counts meant, or to any",
            table,
        )
    return table


def compare(found: Mapping[str, Mapping[str, int]], wanted: Mapping, classes: Sequence[str]) -> pd.DataFrame:
    """One row per split and class (or per split, where ``wanted`` has its total): expected, found and difference."""
    rows = []
    for split, counts in wanted.items():
        if split not in SPLITS:
            raise UserError(f"expected counts: unknown split {split!r}; allowed: {', '.join(SPLITS)}")
        here = [found.get(split, {}).get(name, 0) for name in classes]
        if isinstance(counts, int):
            rows.append((split, ALL, counts, sum(here)))
            continue
        if len(counts) != len(classes):
            raise UserError(f"expected counts: {split} lists {len(counts)} classes; the dataset has {len(classes)}")
        rows += [(split, *cells) for cells in zip(classes, counts, here, strict=True)]
    table = pd.DataFrame(rows, columns=["split", "class", "expected", "found"])
    table["difference"] = table["found"] - table["expected"]
    return table


def as_text(table: pd.DataFrame) -> str:
    """The table of `compare` for people: aligned columns, and a mark at each difference."""
    lines = [f"{'split':<6} {'class':<12} {'expected':>9} {'found':>9} {'difference':>10}"]
    for split, name, expected, found, difference in table.itertuples(index=False):
        mark = f"{difference:>+10,}  <--" if difference else ""
        lines.append(f"{split:<6} {name:<12} {expected:>9,} {found:>9,} {mark}".rstrip())
    return "\n".join(lines)
