"""Any images in train/<class>/, val/<class>/ (optional) and test/<class>/, with classes of one's own."""

from collections import defaultdict
from typing import TYPE_CHECKING

from transfer.datasets.archives import Source
from transfer.datasets.folders import only_folders, sample_names
from transfer.datasets.registry import class_list, dataset

if TYPE_CHECKING:
    import pandas as pd


@dataset(
    "image_folder",
    classes=lambda classes: list(classes),
    official=lambda classes: [],
    options={"classes": class_list},
)
def read(source: Source, classes: list[str]) -> "pd.DataFrame":
    """Index in the order of the names. The folders of each split are named by the ``classes``, letter by letter."""
    import pandas as pd

    images, rows, dropped = only_folders(source), [], defaultdict(list)
    found = {match[3] for match in images.values() if match[3]}
    if found != set(classes):
        here = ", ".join(sorted(found)[:10]) or "none"
        wrong = f"class folders are {here}, and option classes is {', '.join(classes)}"
        raise source.lacks(
            f"{wrong}; expected train/<class>/, test/<class>/ for each class and no other", "", remedy=""
        )
    for name, match in images.items():
        split = match[2].lower()
        if not match[3] or "/" in match[4]:
            dropped["images that lie in no class folder, or below it"].append(name)
        else:
            rows.append(
                (name[len(match[1]) :], name, split if split in ("train", "test") else "val", classes.index(match[3]))
            )
    index = pd.DataFrame(rows, columns=["sample", "path", "split", "label"])
    index["sample"] = sample_names(index["sample"].tolist())
    index.attrs["dropped"] = dict(dropped)
    return index
