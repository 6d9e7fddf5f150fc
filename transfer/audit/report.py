"""The audit of a whole experiment: its datasets, each in itself and every two against each other."""

from collections.abc import Mapping, Sequence
from itertools import combinations, product
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image, ImageDraw

from transfer.audit.copies import KINDS, MAX_DISTANCE, SIDE, SIMILARITY, copy_groups, duplicates
from transfer.datasets.sampling import training_copies
from transfer.layout import Layout
from transfer.params import SPLITS, Params
from transfer.utils.environment import environment
from transfer.utils.files import atomic, write_text
from transfer.utils.progress import progress

_KEY = ["dataset_a", "split_a", "dataset_b", "split_b"]


def audit_table(images: pd.DataFrame, pairs: pd.DataFrame) -> pd.DataFrame:
    """One row per pair of splits, within and across datasets; all of them, also where there are no copies.

    ``images`` has a row per compared image: dataset, sample, split; ``pairs`` the columns of `transfer.audit.copies`
    and dataset_a, dataset_b. Columns: dataset_a, split_a, images_a, dataset_b, split_b, images_b; exact, near,
    mirrored (pairs by kind); exact_other_label, other_label (pairs whose labels differ: exact ones, all); and
    exact_copied_a, copied_a, exact_copied_b, copied_b: images of a that have an exact copy, or any, in b; of b in a.
    """
    rows = []
    by_parts = dict(iter(pairs.groupby(_KEY)))
    sizes = images.groupby(["dataset", "split"], sort=False).size()
    datasets = list(images["dataset"].unique())
    parts = {name: [split for split in SPLITS if (name, split) in sizes.index] for name in datasets}
    for a, b in [(name, name) for name in datasets] + list(combinations(datasets, 2)):
        for split_a, split_b in product(parts[a], parts[b]):
            if a == b and SPLITS.index(split_a) > SPLITS.index(split_b):
                continue
            found = by_parts.get((a, split_a, b, split_b), pairs.iloc[:0])
            exact = found[found["kind"] == "exact"]
            row = {"dataset_a": a, "split_a": split_a, "images_a": sizes[a, split_a]}
            row |= {"dataset_b": b, "split_b": split_b, "images_b": sizes[b, split_b]}
            row |= {kind: int((found["kind"] == kind).sum()) for kind in ("exact", "near", "mirrored")}
            row |= {"exact_other_label": int((~exact["same_label"]).sum())}
            row |= {"other_label": int((~found["same_label"]).sum())}
            for end in "ab":
                row |= {f"exact_copied_{end}": _copied(exact, row, end), f"copied_{end}": _copied(found, row, end)}
            rows.append(row)
    return pd.DataFrame(rows)


def removed(images: pd.DataFrame, pairs: pd.DataFrame) -> dict[str, int]:
    """How many training images each way of `sampling.duplicates` leaves out, by the dataset's own splits.

    ``images`` (sample, split) and ``pairs`` are those of one dataset.
    """
    split = images["split"].to_numpy(dtype=object)
    return {
        way: int(training_copies(split, copy_groups(images["sample"], pairs, kinds)).sum())
        for way, kinds in KINDS.items()
    }


def contradictions(images: pd.DataFrame, pairs: pd.DataFrame) -> tuple[int, int]:
    """Pictures that one dataset holds more than once, pixel for pixel, and those of them with more than one label.

    ``images`` has the columns sample and class_name.
    """
    groups = images.assign(group=copy_groups(images["sample"], pairs, ["exact"])).groupby("group")["class_name"]
    repeated = groups.size() > 1
    return int(repeated.sum()), int((groups.nunique()[repeated] > 1).sum())


def _copied(pairs: pd.DataFrame, row: dict, end: str) -> int:
    """Images of one end that have a copy in the other; in a pair of a split with itself both ends count."""
    same = (row["dataset_a"], row["split_a"]) == (row["dataset_b"], row["split_b"])
    ends = ["a", "b"] if same else [end]
    return len(np.unique(np.concatenate([pairs[f"sample_{name}"].to_numpy(dtype=str) for name in ends])))


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
        lines += ["", f"## {dataset}", "", *_facts_lines(fact), "", *_leaks(rows), "", *_rows(rows, with_names=False)]
    across = table[table["dataset_a"] != table["dataset_b"]]
    if len(across):
        found = across[across[["exact", "near", "mirrored"]].sum(axis=1) > 0]
        lines += ["", "## Across datasets", ""]
        lines += _rows(found, with_names=True) if len(found) else ["No copies."]
    return "\n".join(lines) + "\n"


def _facts_lines(fact: Mapping[str, Any]) -> list[str]:
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


_COLUMNS, _TEXT, _GAP = 6, 38, 12
_EACH = 16


def chosen_pairs(pairs: pd.DataFrame, seed: int = 0) -> pd.DataFrame:
    """The pairs to show: of near and mirrored ones the 16 least alike and 16 by chance; of exact ones 16 by chance."""
    parts = []
    for kind in ("near", "mirrored", "exact"):
        of_kind = pairs[pairs["kind"] == kind].sort_values("similarity", kind="stable")
        worst = of_kind[:_EACH] if kind != "exact" else of_kind[:0]
        rest = of_kind[len(worst) :]
        parts += [worst, rest.sample(min(_EACH, len(rest)), random_state=seed)]
    return pd.concat(parts)


def draw_pairs(pairs: pd.DataFrame, first: np.ndarray, second: np.ndarray, path: str | Path) -> None:
    """Write a PNG of pairs side by side with their kind, similarity, splits, labels and names.

    ``pairs`` has the columns of `transfer.audit.copies`; ``first`` and ``second``, (N, side, side) uint8, are the
    thumbnails of its images. A mirrored pair is shown as it is.
    """
    width, height = 2 * SIDE + _GAP, SIDE + _TEXT
    lines = -(-len(pairs) // _COLUMNS)
    sheet = Image.new("L", (_COLUMNS * width, max(1, lines) * height), 255)
    draw = ImageDraw.Draw(sheet)
    for i, row in enumerate(pairs.itertuples()):
        x, y = i % _COLUMNS * width, i // _COLUMNS * height
        for end, thumbnail in enumerate((first[i], second[i])):
            large = Image.fromarray(np.asarray(thumbnail)).resize((SIDE, SIDE), Image.Resampling.BICUBIC)
            sheet.paste(large, (x + end * SIDE, y))
        text = [f"{row.kind} {row.similarity:.2f}, {row.distance} bits, {row.split_a} | {row.split_b}"]
        text += [f"{row.label_a} | {row.label_b}", f"{row.sample_a[-16:]} | {row.sample_b[-16:]}"]
        draw.multiline_text((x + 1, y + SIDE), "\n".join(text), fill=0, font_size=10, spacing=1)
    with atomic(path) as part:
        sheet.save(part)


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
