"""RAF-DB, single-label (basic) images: EmoLabel/list_patition_label.txt, Image/ and Annotation/manual/."""

import math
import re
from typing import TYPE_CHECKING

from transfer.datasets.archives import Source
from transfer.datasets.registry import LANDMARKS, Counts, dataset
from transfer.datasets.text import text_lines
from transfer.utils.errors import UserError

if TYPE_CHECKING:
    import pandas as pd

CLASSES = ["surprise", "fear", "disgust", "happiness", "sadness", "anger", "neutral"]
LIST = "EmoLabel/list_patition_label.txt"
# The codes are those of RAF-DB's own readme.txt, and so is the layout.
ATTRIBUTES = {
    "gender": ["male", "female", "unsure"],
    "race": ["Caucasian", "African-American", "Asian"],
    "age": ["0-3", "4-19", "20-39", "40-69", "70+"],
}
OFFICIAL: Counts = {"train": [1290, 281, 717, 4772, 1982, 705, 2524], "test": [329, 74, 160, 1185, 478, 162, 680]}


@dataset(
    "rafdb",
    classes=lambda images: list(CLASSES),
    official=lambda images: [OFFICIAL],
    options={"images": ("original", "aligned")},
)
def read(source: Source, images: str) -> "pd.DataFrame":
    """Index in the order of the list file; with landmarks and attributes if Annotation/manual/ is present.

    ``images`` chooses Image/original/ or the authors' 100x100 Image/aligned/. The landmarks are those of the original
    image, hence left out for the aligned ones. ``gender``, ``race`` and ``age`` are codes, see `ATTRIBUTES`.
    """
    import pandas as pd

    list_name = source.find(LIST)
    prefix = list_name.removesuffix(LIST)
    rows = []
    for number, line in enumerate(text_lines(list_name, source.read(list_name)), 1):
        if not line.strip():
            continue
        match = re.fullmatch(r"((train|test)_\d+)\.jpg\s+([1-7])", line.strip())
        if not match:
            expected = "a name and a label from 1 to 7, such as 'train_00001.jpg 5'"
            where = f"{source.path}: {list_name}, line {number}"
            raise UserError(f"{where}: {line.strip()[:60]!r}; expected {expected}")
        sample, split, label = match.groups()
        name = f"{sample}_aligned.jpg" if images == "aligned" else f"{sample}.jpg"
        rows.append((sample, f"{prefix}Image/{images}/{name}", split, int(label) - 1))
    index = pd.DataFrame(rows, columns=["sample", "path", "split", "label"])
    annotations = {f"{prefix}Annotation/manual/{sample}_manu_attri.txt": sample for sample in index["sample"]}
    present = [name for name in annotations if name in source]
    if not present:
        return index
    numbers = {annotations[n]: _annotation(f"{source.path}: {n}", content) for n, content in source.stream(present)}
    table = pd.DataFrame(numbers, index=[*LANDMARKS, *ATTRIBUTES]).T
    # The authors do not say whose left comes first; it is the same for all images, so the typical face decides.
    if (table["landmark_0_x"] - table["landmark_1_x"]).median() > 0:
        mirrored = [f"landmark_{i}_{axis}" for i in (1, 0, 2, 4, 3) for axis in "xy"]
        table = table.rename(columns=dict(zip(LANDMARKS, mirrored, strict=True)))
    columns = [*(LANDMARKS if images == "original" else []), *ATTRIBUTES]
    return index.join(table[columns].astype(dict.fromkeys(ATTRIBUTES, "Int64")), on="sample")


def _annotation(name: str, content: bytes) -> list[float]:
    """Five lines 'x y', then gender, race and age, one a line: 13 numbers."""
    try:
        values = [float(text) for text in " ".join(text_lines(name, content)).split()]
    except ValueError:
        values = []
    if len(values) != len(LANDMARKS) + len(ATTRIBUTES) or not all(map(math.isfinite, values)):
        raise UserError(f"{name}: expected five lines 'x y', then gender, race and age, one a line")
    for line, (value, (attribute, meanings)) in enumerate(zip(values[-3:], ATTRIBUTES.items(), strict=True), 6):
        if value not in range(len(meanings)):
            codes = ", ".join(f"{code} ({meaning})" for code, meaning in enumerate(meanings))
            raise UserError(f"{name}, line {line}: {attribute} is {value:g}; expected {codes}")
    return values
