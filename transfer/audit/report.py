"""The leak audit of an experiment: copies within each dataset and between every two, as tables, text and picture."""

from collections.abc import Iterator, Mapping, Sequence
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
from transfer.utils.text import in_markdown

_KINDS = ["exact", "near", "mirrored"]
_HEAD = ["splits", *_KINDS, "different labels", "copied images of the first", "of the second"]
_EACH = 16  # pairs of a kind in the picture
_ACROSS, _TEXT, _GAP = 6, 38, 12  # its columns, and pixels below and beside a pair


def write_audit(params: Params, layout: Layout) -> pd.DataFrame:
    """Write duplicates.csv, audit.csv, audit.md and pairs.png into the experiment's audit folder; returns the table."""
    data = {name: layout.data(name) for name in params.datasets}
    hashes = {name: pd.read_parquet(folder / "hashes.parquet") for name, folder in data.items()}
    thumbnails = {name: np.load(folder / "thumbnails.npy", mmap_mode="r") for name, folder in data.items()}
    own = {name: pd.read_parquet(folder / "duplicates.parquet") for name, folder in data.items()}
    pairs = [frame.assign(dataset_a=name, dataset_b=name) for name, frame in own.items()]
    for a, b in combinations(params.datasets, 2):
        with progress(f"comparing {a} with {b}", 2 * len(hashes[a])) as report:
            found = duplicates(hashes[a], thumbnails[a], hashes[b], thumbnails[b], report)
        pairs.append(found.assign(dataset_a=a, dataset_b=b))
    every = pd.concat(pairs, ignore_index=True)
    front = [f"{column}_{end}" for end in "ab" for column in ("dataset", "sample", "split", "label")]
    every = every[[*front, *every.columns.difference(front, sort=False)]]

    usable = {name: table[table["sha256"] != ""] for name, table in hashes.items()}
    table = audit_table(pd.concat([images.assign(dataset=name) for name, images in usable.items()]), every)
    facts = {}
    for name, images in usable.items():
        counts = {"broken": len(hashes[name]) - len(images)} | dataset_facts(images, own[name])
        facts[name] = {"about": params.dataset_definitions[name].about, **counts}
    shown = chosen_pairs(every)
    rows = {name: pd.Series(range(len(frame)), frame["sample"]) for name, frame in hashes.items()}
    first, second = (
        [thumbnails[name][rows[name][sample]] for name, sample in shown[[f"dataset_{end}", f"sample_{end}"]].to_numpy()]
        for end in "ab"
    )
    write_text(layout.audit / "duplicates.csv", every.to_csv(index=False))
    write_text(layout.audit / "audit.csv", table.to_csv(index=False))
    write_text(layout.audit / "audit.md", to_markdown(params.experiment, table, facts, environment()))
    draw_pairs(shown, first, second, layout.audit / "pairs.png")
    return table


def audit_table(images: pd.DataFrame, pairs: pd.DataFrame) -> pd.DataFrame:
    """Return one row per pair of splits, within and across datasets, also where there are no copies.

    ``images`` has a row per compared image: dataset, sample, split; ``pairs`` the columns of `duplicates` and
    dataset_a, dataset_b. Columns: dataset_a, split_a, images_a, dataset_b, split_b, images_b; exact, near, mirrored
    (pairs by kind); exact_other_label, other_label (exact and all pairs whose labels differ); exact_copied_a, copied_a,
    exact_copied_b, copied_b: images of a that have an exact copy, or any, in b; of b in a.
    """
    rows = []
    by_splits = dict(iter(pairs.groupby(["dataset_a", "split_a", "dataset_b", "split_b"])))
    sizes = images.groupby(["dataset", "split"], sort=False).size()
    names = list(images["dataset"].unique())
    for a, b in [*zip(names, names, strict=True), *combinations(names, 2)]:
        for split_a, split_b in product(SPLITS, SPLITS):
            if not {(a, split_a), (b, split_b)} <= set(sizes.index):
                continue
            if a == b and SPLITS.index(split_a) > SPLITS.index(split_b):
                continue
            found = by_splits.get((a, split_a, b, split_b), pairs.iloc[:0])
            exact = found[found["kind"] == "exact"]
            row = {"dataset_a": a, "split_a": split_a, "images_a": sizes[a, split_a]}
            row |= {"dataset_b": b, "split_b": split_b, "images_b": sizes[b, split_b]}
            row |= {kind: int((found["kind"] == kind).sum()) for kind in _KINDS}
            row |= {"exact_other_label": int((~exact["same_label"]).sum())}
            row |= {"other_label": int((~found["same_label"]).sum())}
            for end in "ab":
                # in a pair of a split with itself both ends count
                ends = [f"sample_{name}" for name in ("ab" if (a, split_a) == (b, split_b) else end)]
                row |= {f"exact_copied_{end}": exact[ends].stack().nunique()}
                row |= {f"copied_{end}": found[ends].stack().nunique()}
            rows.append(row)
    return pd.DataFrame(rows)


def dataset_facts(images: pd.DataFrame, pairs: pd.DataFrame) -> dict[str, int]:
    """Return counts of one dataset's ``images`` (sample, split, class_name) with these ``pairs`` of copies.

    repeated, the pictures that occur more than once, pixel for pixel, and contradictory, those of them with several
    labels; drop_exact and drop_near, the training images that each value of `sampling.duplicates` leaves out.
    """
    split = images["split"].to_numpy(dtype=object)
    groups = {way: copy_groups(images["sample"], pairs, kinds) for way, kinds in KINDS.items()}
    labels = images["class_name"].groupby(groups["drop_exact"])
    repeated = labels.size() > 1
    counts = {"repeated": repeated.sum(), "contradictory": (labels.nunique()[repeated] > 1).sum()}
    counts |= {way: training_copies(split, numbers).sum() for way, numbers in groups.items()}
    return {"images": len(images)} | {name: int(number) for name, number in counts.items()}


def to_markdown(
    experiment: str, table: pd.DataFrame, facts: Mapping[str, Mapping[str, Any]], environment: Mapping[str, Any]
) -> str:
    """Return the audit as Markdown; ``facts`` by dataset are those of `dataset_facts`, about (or "") and broken."""
    paragraphs = [
        f"# Copies in the data: {experiment}",
        "Pairs of images that show the same picture. Exact: the same pixels. Near: perceptual hashes that differ in at "
        f"most {MAX_DISTANCE} of 64 bits, and similar fine structure (similarity at least "
        f"{SIMILARITY['near']:.2f}). Mirrored: the same for one image and the mirror image of the other (at least "
        f"{SIMILARITY['mirrored']:.2f}). Error rates: docs/leaks.md. All pairs: duplicates.csv.",
        "; ".join(f"{name} {in_markdown(environment[name] or 'unknown')}" for name in ("commit", "python", "system"))
        + ".",
    ]
    for dataset, fact in facts.items():
        rows = table[(table["dataset_a"] == dataset) & (table["dataset_b"] == dataset)]
        about = f"{in_markdown(fact['about'].rstrip('.'))}. " if fact["about"] else ""
        broken = f"; {fact['broken']:,} more cannot be decoded" if fact["broken"] else ""
        text = (
            f"{about}{fact['images']:,} images compared{broken}. {fact['repeated']:,} pictures occur more than once, "
            f"pixel for pixel; {fact['contradictory']:,} of them with different labels. `sampling.duplicates: "
            f"drop_exact` leaves out {fact['drop_exact']:,} training images, `drop_near` {fact['drop_near']:,}."
        )
        paragraphs += [f"## {dataset}", text, "\n".join(_leaks(rows)), _grid(rows, with_names=False)]
    across = table[table["dataset_a"] != table["dataset_b"]]
    if len(across):
        found = across[across[_KINDS].sum(axis=1) > 0]
        paragraphs += ["## Across datasets", _grid(found, with_names=True) if len(found) else "No copies."]
    return "\n\n".join(filter(None, paragraphs)) + "\n"


def _leaks(rows: pd.DataFrame) -> Iterator[str]:
    for row in rows[rows["split_a"] != rows["split_b"]].to_dict("records"):
        copied, exact = (f"{n:,} ({n / row['images_b']:.1%})" for n in (row["copied_b"], row["exact_copied_b"]))
        images = f"{row['images_b']:,} {row['split_b']} images"
        yield f"- {images}: {copied} have a copy in {row['split_a']}, {exact} pixel for pixel."


def _grid(rows: pd.DataFrame, with_names: bool) -> str:
    lines: list[Sequence[str]] = [_HEAD, ["---", *["---:"] * (len(_HEAD) - 1)]]
    for row in rows.to_dict("records"):
        ends = [f"{row[f'dataset_{end}']} {row[f'split_{end}']}" if with_names else row[f"split_{end}"] for end in "ab"]
        numbers = [f"{row[column]:,}" for column in (*_KINDS, "other_label", "copied_a", "copied_b")]
        lines.append([" – ".join(dict.fromkeys(ends)), *numbers])
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)


def chosen_pairs(pairs: pd.DataFrame, seed: int = 0) -> pd.DataFrame:
    """Return the pairs to show: of near and mirrored ones the 16 least alike and 16 at random; of exact ones 16."""
    parts = []
    for kind in ("near", "mirrored", "exact"):
        of_kind = pairs[pairs["kind"] == kind].sort_values("similarity", kind="stable")
        worst = 0 if kind == "exact" else _EACH
        rest = of_kind[worst:]
        parts += [of_kind[:worst], rest.sample(min(_EACH, len(rest)), random_state=seed)]
    return pd.concat(parts)


def draw_pairs(pairs: pd.DataFrame, first: Sequence[np.ndarray], second: Sequence[np.ndarray], path: Path) -> None:
    """Write a PNG of pairs side by side, from thumbnails (32, 32) uint8, with their kind, similarity, and names."""
    width, height = 2 * SIDE + _GAP, SIDE + _TEXT
    sheet = Image.new("L", (_ACROSS * width, max(1, -(-len(pairs) // _ACROSS)) * height), 255)
    draw = ImageDraw.Draw(sheet)
    for i, row in enumerate(pairs.to_dict("records")):
        x, y = i % _ACROSS * width, i // _ACROSS * height
        for end, thumbnail in enumerate((first[i], second[i])):
            large = Image.fromarray(np.asarray(thumbnail)).resize((SIDE, SIDE), Image.Resampling.BICUBIC)
            sheet.paste(large, (x + end * SIDE, y))
        text = (
            "{kind} {similarity:.2f}, {distance} bits, {split_a} | {split_b}\n"
            "{label_a} | {label_b}\n{sample_a} | {sample_b}"
        ).format_map(row | {name: row[name][-16:] for name in ("sample_a", "sample_b")})
        draw.multiline_text((x + 1, y + SIDE), text, fill=0, font_size=10, spacing=1)
    with atomic(path) as part:
        sheet.save(part)
