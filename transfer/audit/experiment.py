"""The audit of a whole experiment: its datasets, each in itself and every two against each other."""

from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd

from transfer.audit.markdown import to_markdown
from transfer.audit.pairs import duplicates
from transfer.audit.picture import chosen_pairs, draw_pairs
from transfer.audit.table import audit_table, contradictions, removed
from transfer.environment import environment
from transfer.files import atomic, write_text
from transfer.layout import Layout
from transfer.params import Params
from transfer.progress import progress


def write_audit(params: Params, layout: Layout) -> pd.DataFrame:
    """Write duplicates.csv, audit.csv, audit.md and pairs.png into the experiment's audit folder; returns the table.

    Reads hashes.parquet, thumbnails.npy and duplicates.parquet of every dataset.
    """
    hashes = {name: pd.read_parquet(layout.data(name) / "hashes.parquet") for name in params.datasets}
    thumbnails = {name: np.load(layout.data(name) / "thumbnails.npy", mmap_mode="r") for name in params.datasets}
    pairs = [
        pd.read_parquet(layout.data(name) / "duplicates.parquet").assign(dataset_a=name, dataset_b=name)
        for name in params.datasets
    ]
    for a, b in combinations(params.datasets, 2):
        with progress(f"comparing {a} with {b}", 2 * len(hashes[a])) as report:
            found = duplicates(hashes[a], thumbnails[a], hashes[b], thumbnails[b], report)
        pairs.append(found.assign(dataset_a=a, dataset_b=b))
    every = pd.concat(pairs, ignore_index=True)

    whole = {name: table[table["sha256"] != ""] for name, table in hashes.items()}
    table = audit_table(pd.concat([images.assign(dataset=name) for name, images in whole.items()]), every)
    facts = {name: _facts(params, name, hashes[name], own) for name, own in zip(params.datasets, pairs, strict=False)}
    shown = chosen_pairs(every)
    ends = [_thumbnails(shown, end, hashes, thumbnails) for end in "ab"]

    front = [f"{column}_{end}" for end in "ab" for column in ("dataset", "sample", "split", "label")]
    with atomic(layout.audit / "duplicates.csv") as part:
        every[[*front, *(column for column in every if column not in front)]].to_csv(part, index=False)
    with atomic(layout.audit / "audit.csv") as part:
        table.to_csv(part, index=False)
    write_text(layout.audit / "audit.md", to_markdown(params.experiment, table, facts, environment()))
    draw_pairs(shown, *ends, layout.audit / "pairs.png")
    return table


def _facts(params: Params, name: str, hashes: pd.DataFrame, pairs: pd.DataFrame) -> dict[str, Any]:
    images = hashes[hashes["sha256"] != ""]
    repeated, contradictory = contradictions(images, pairs)
    return {
        "about": params.dataset_definitions[name].about,
        "images": len(images),
        "broken": len(hashes) - len(images),
        "repeated": repeated,
        "contradictory": contradictory,
        **removed(images, pairs),
    }


def _thumbnails(
    pairs: pd.DataFrame, end: str, hashes: dict[str, pd.DataFrame], thumbnails: dict[str, np.ndarray]
) -> list[np.ndarray]:
    """The thumbnails of one end of the pairs."""
    rows = {name: dict(zip(table["sample"], range(len(table)), strict=True)) for name, table in hashes.items()}
    ends = zip(pairs[f"dataset_{end}"], pairs[f"sample_{end}"], strict=True)
    return [thumbnails[name][rows[name][sample]] for name, sample in ends]
