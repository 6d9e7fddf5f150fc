"""The reduced release in eight folders: train_class/class001/ to class008/ and val_class/, one folder per class.

Layout: README of the repository of ExpLLM (starhiking), which counts 37,553 and 4,000 images. Others make folders
train/0/ to 7/ and val/ of the images (utils/convert_affectnet.py of yaoing/DAN); these are read too.
"""

import re

import pandas as pd

from transfer.datasets.source import Source

SPLITS = {"train": "train", "val": "test"}
_IMAGE = re.compile(r"(?:.*/)?(train|val)(?:_class/class00([1-8])|/([0-7]))/([^/]+)\.(?:jpg|jpeg|png)")


def found(source: Source) -> bool:
    """Whether this release lies in the source."""
    return any(_IMAGE.fullmatch(name) for name in source.names())


def rows(source: Source) -> pd.DataFrame:
    """One row per image, with the code of its folder as label."""
    table = []
    for name in source.names():
        match = _IMAGE.fullmatch(name)
        if match:
            split, counted, code, stem = match.groups()
            table.append((f"{split}/{stem}", name, SPLITS[split], int(code) if code else int(counted) - 1))
    return pd.DataFrame(table, columns=["sample", "path", "split", "label"])
