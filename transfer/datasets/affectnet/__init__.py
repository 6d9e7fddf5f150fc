"""AffectNet, manually annotated part, in its three releases: manual (csv files), arrays and folders.

The test part of AffectNet was never released: the field tests on the validation part, so it is the test split here.
"""

import pandas as pd

from transfer.datasets.affectnet import arrays, folders, manual
from transfer.datasets.affectnet.codes import CLASSES, NOT_EXPRESSIONS
from transfer.datasets.affectnet.landmarks import five_landmarks
from transfer.datasets.affectnet.manual import HEADER
from transfer.datasets.affectnet.repeated import without_others, without_repeats
from transfer.datasets.registry import Counts, dataset
from transfer.datasets.source import Source
from transfer.utils.errors import UserError

__all__ = ["CLASSES", "HEADER", "NOT_EXPRESSIONS", "five_landmarks", "read"]

RELEASES = {
    "full": (manual, "training.csv, validation.csv and Manually_Annotated_Images/"),
    "reduced": (arrays, "train_set/ and val_set/ with annotations/*.npy"),
    "folders": (folders, "train_class/class001/ to class008/ and val_class/, or train/0/ to 7/ and val/"),
}
# Training images per class: RAN's AffectNet_dir/simple_sample/train_affectnet8part_label.txt. The reduced release has
# the same, and one face of contempt less to test on: AU/AffectNet_peocess.py of forever208/FMAE-IAT counts 287,651 and
# 3,999 images.
_TRAIN = [74874, 134415, 25459, 14090, 6378, 3803, 24882, 3750]
_TEST = {"full": [500] * 8, "reduced": [500] * 7 + [499]}


def _classes(classes: int, release: str) -> list[str]:
    return CLASSES[:classes]


def _official(classes: int, release: str) -> list[Counts]:
    if release == "folders":
        return [{"train": 37553, "test": 4000}] if classes == 8 else []
    return [{"train": _TRAIN[:classes], "test": _TEST[release][:classes]}]


@dataset(
    "affectnet",
    classes=_classes,
    official=_official,
    options={"classes": (7, 8), "release": ("full", "reduced", "folders")},
)
def read(source: Source, classes: int, release: str) -> pd.DataFrame:
    """Index of the expressions 0..6 (7 classes) or 0..7 (8, with contempt); with landmarks, valence and arousal.

    ``release`` is what the archive has to hold, see `RELEASES`; "folders" has labels alone. Raises UserError (file,
    line) for malformed rows, and for another release, saying which. ``attrs``: ``dropped`` counts the rows of other
    categories, ``repeated`` lists those that name an image again, ``layout`` is the release.
    """
    here = [name for name, (module, _) in RELEASES.items() if module.found(source)]
    if release not in here:
        _, holds = RELEASES[release]
        if not here:
            raise UserError(f"{source.path}: holds no {holds}; check that it is the right and complete archive")
        raise UserError(
            f"{source.path}: holds {RELEASES[here[0]][1]}, not {holds}: "
            f"set options: {{release: {here[0]}}} for the dataset"
        )
    rows = manual.rows(source, classes) if release == "full" else RELEASES[release][0].rows(source)
    once = without_repeats(rows, classes)
    index = without_others(once, classes)
    index.attrs |= {"repeated": once.attrs["repeated"], "layout": f"release {release}"}
    return index
