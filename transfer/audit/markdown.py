"""The audit for readers."""

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from transfer.audit.pairs import MAX_DISTANCE, SIMILARITY

_HEAD = ["parts", "exact", "near", "mirrored", "other label", "concerned in the first", "in the second"]
_ENVIRONMENT = ("commit", "python", "system")


def to_markdown(
    experiment: str, table: pd.DataFrame, facts: Mapping[str, Mapping[str, Any]], environment: Mapping[str, Any]
) -> str:
    """Return the audit as markdown: ``table`` is that of `audit_table`.

    ``facts`` holds for each dataset about (a sentence, or ""), images, broken, repeated, contradictory, drop_exact and
    drop_near.
    """
    lines = [
        f"# Copies in the data: {experiment}",
        "",
        "Pairs of images that show the same picture. Exact: the same pixels. Near: perceptual hashes that differ in at "
        f"most {MAX_DISTANCE} of 64 bits, and fine structures that agree (similarity at least "
        f"{SIMILARITY['near']:.2f}). Mirrored: the same of one image and the other's mirror image (at least "
        f"{SIMILARITY['mirrored']:.2f}). How sure that is: docs/leaks.md. All pairs: duplicates.csv.",
        "",
        "; ".join(f"{name} {environment[name]}" for name in _ENVIRONMENT) + ".",
    ]
    for dataset, fact in facts.items():
        rows = table[(table["dataset_a"] == dataset) & (table["dataset_b"] == dataset)]
        lines += ["", f"## {dataset}", "", *_facts(fact), "", *_leaks(rows), "", *_rows(rows, with_names=False)]
    across = table[table["dataset_a"] != table["dataset_b"]]
    if len(across):
        found = across[across[["exact", "near", "mirrored"]].sum(axis=1) > 0]
        lines += ["", "## Across datasets", ""]
        lines += _rows(found, with_names=True) if len(found) else ["No copies."]
    return "\n".join(lines) + "\n"


def _facts(fact: Mapping[str, Any]) -> list[str]:
    about = f"{fact['about'].rstrip('.')}. " if fact["about"] else ""
    broken = f"; {fact['broken']:,} more cannot be decoded" if fact["broken"] else ""
    return [
        f"{about}{fact['images']:,} images compared{broken}. {fact['repeated']:,} pictures are there more than once, "
        f"pixel for pixel; {fact['contradictory']:,} of them under different labels. `sampling.duplicates: drop_exact` "
        f"leaves out {fact['drop_exact']:,} training images, `drop_near` {fact['drop_near']:,}."
    ]


def _leaks(rows: pd.DataFrame) -> list[str]:
    """Held-out images that the training part shows."""
    return [
        f"- {row.images_b:,} {row.split_b} images: {row.copied_b:,} ({row.copied_b / row.images_b:.1%}) have a copy in "
        f"{row.split_a}, {row.exact_copied_b:,} of them ({row.exact_copied_b / row.images_b:.1%}) pixel for pixel."
        for row in rows.itertuples()
        if row.split_a != row.split_b
    ]


def _rows(rows: pd.DataFrame, with_names: bool) -> list[str]:
    lines: list[Sequence[str]] = [_HEAD, ["---", *["---:"] * (len(_HEAD) - 1)]]
    for row in rows.itertuples():
        ends = [(row.dataset_a, row.split_a), (row.dataset_b, row.split_b)]
        parts = [f"{dataset} {split}" if with_names else split for dataset, split in ends]
        numbers = [row.exact, row.near, row.mirrored, row.other_label, row.copied_a, row.copied_b]
        lines.append([" – ".join(dict.fromkeys(parts)), *(f"{number:,}" for number in numbers)])
    return ["| " + " | ".join(cells) + " |" for cells in lines]
