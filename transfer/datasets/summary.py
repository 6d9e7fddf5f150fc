"""What an index holds and what was left out, for people and for the report: D/index.json."""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from transfer.datasets.counts import per_class


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
    """The content of index.json; ``expect`` has been met.

    archive is a name without its folder; layout is the release that the parser recognised, None where there is one
    only; counts are split -> class -> images; left_out is reason -> rows; noted is what is odd and was kept; repeated
    has every row that was left out as naming an image again (sample, split, class, why).
    """
    repeated = [{**row, "class": classes[row["label"]]} for row in index.attrs.get("repeated", [])]
    return {
        "dataset": dataset,
        "archive": archive.name,
        "parser": parser,
        "options": dict(options),
        "layout": index.attrs.get("layout"),
        "counts": per_class(index, classes),
        "expect": expect,
        "left_out": left_out(index),
        "noted": index.attrs.get("noted", {}),
        "repeated": [{key: row[key] for key in ("sample", "split", "class", "why")} for row in repeated],
    }


def left_out(index: pd.DataFrame) -> dict[str, int]:
    """Rows that are not in the index, reason -> count."""
    repeated = Counter(row["why"] for row in index.attrs.get("repeated", []))
    return {**index.attrs.get("dropped", {}), **repeated, "missing": index.attrs.get("missing", 0)}


def in_words(index: pd.DataFrame) -> str:
    """The summary in one line."""
    per_split = ", ".join(f"{n:,} {split}" for split, n in index["split"].value_counts().items())
    layout = f" ({index.attrs['layout']})" if "layout" in index.attrs else ""
    line = f"{per_split}{layout}; left out: {', '.join(f'{n:,} {why}' for why, n in left_out(index).items())}"
    noted = ", ".join(f"{n:,} {what}" for what, n in index.attrs.get("noted", {}).items() if n)
    return f"{line}; noted: {noted}" if noted else line
