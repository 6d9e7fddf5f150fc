"""A picture of pairs, to judge by eye what the audit calls a copy."""

from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image, ImageDraw

from transfer.audit.hashes import SIDE
from transfer.files import atomic

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

    ``pairs`` has the columns of `transfer.audit.pairs`; ``first`` and ``second``, (N, side, side) uint8, are the
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
