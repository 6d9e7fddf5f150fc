"""Are the images of an index those that were expected?"""

from collections.abc import Mapping, Sequence

import pandas as pd

from transfer.datasets.registry import Counts
from transfer.errors import UserError


def check_counts(
    index: pd.DataFrame,
    classes: Sequence[str],
    expect: str | Mapping[str, int | Sequence[int]] = "any",
    official: Sequence[Counts] = (),
) -> None:
    """Raise UserError if a class has no training or test image, or if the counts differ from what is expected.

    ``expect`` is "any", "official" (one of ``official``, see `Parser.official`), or a mapping from split to its total
    or its counts per class in label order. Splits that the expectation does not name are not compared.
    """
    found = {split: _per_class(index, split, len(classes)) for split in ("train", "val", "test")}
    for split, part in (("train", "training"), ("test", "test")):
        empty = [name for name, count in zip(classes, found[split], strict=True) if count == 0]
        if empty:
            named = ", ".join(repr(name) for name in empty)
            verb = "class {} has" if len(empty) == 1 else "classes {} have"
            raise UserError(f"{verb.format(named)} no {part} image; check the archive and the dataset's options")
    if expect == "any":
        return
    if expect == "official" and not official:
        raise UserError("expect: official, but the official counts of this dataset are not known; give counts, or any")
    wanted = official if expect == "official" else [expect]
    differences = min((_differences(found, counts, classes) for counts in wanted), key=len)
    if differences:
        raise UserError(
            f"image counts differ: {'; '.join(differences)}; complete the archive, "
            "or set expect to the counts meant, or to any"
        )


def _per_class(index: pd.DataFrame, split: str, classes: int) -> list[int]:
    counts = index.loc[index["split"] == split, "label"].value_counts()
    return [int(counts.get(label, 0)) for label in range(classes)]


def _differences(found: dict[str, list[int]], wanted: Mapping, classes: Sequence[str]) -> list[str]:
    differences = []
    for split, counts in wanted.items():
        if split not in found:
            raise UserError(f"expected counts: unknown split {split!r}; allowed: {', '.join(found)}")
        if isinstance(counts, int):
            if sum(found[split]) != counts:
                differences.append(f"{split} expected {counts}, found {sum(found[split])}")
            continue
        if len(counts) != len(classes):
            raise UserError(f"expected counts: {split} lists {len(counts)} classes; the dataset has {len(classes)}")
        differences += [
            f"{split} {name} expected {count}, found {here}"
            for name, count, here in zip(classes, counts, found[split], strict=True)
            if count != here
        ]
    return differences
