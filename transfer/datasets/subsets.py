"""Challenge subsets of the test split: occluded faces, and faces turned by more than 30 and 45 degrees.

The lists are those of the RAN authors (kaiwang960112/Challenge-condition-FER-dataset; Wang et al., TIP 2020), under
their folders and names. Their labels are those of our indices: RAF-DB from surprise, FERPlus in the order of the vote
columns, AffectNet by its codes. The files are read unchanged; oddities are counted.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from transfer.datasets.text import LISTS_FOLDER, NameList, read_list
from transfer.params.datasets import DatasetDefinition
from transfer.utils.files import sha256

if TYPE_CHECKING:
    import pandas as pd

_SHOWN = 10
_RAFDB_POSE = r"(?P<label>[0-6])/(?P<name>test_\d+)_aligned\.jpg"
_FERPLUS_POSE = r"(?P<label>[0-7])/(?P<name>fer\d+)\.jpg"
_HASH = r"(?P<label>[0-7])/(?P<name>[0-9a-f]{56})"
_EXAMPLE = "83dac9d7eec7fb0bfef79b4d35ddc69a6f7fb458d3bffc4e78f33ad9"
_RAFDB_OCCLUSION = r"(?P<name>test_\d+)_aligned (?P<label>[0-6]) [0-4]"  # the last number is the kind of occlusion
_FERPLUS_OCCLUSION = r"(?P<label>[0-7])_(?P<name>fer\d+)\.png \d \d"  # the number of crops, the kind of occlusion

LISTS: dict[str, dict[str, NameList]] = {
    "rafdb": {
        "occlusion": NameList("RAF_DB_dir/rafdb_occlusion_list.txt", _RAFDB_OCCLUSION, "test_0003_aligned 3 4"),
        "pose30": NameList("RAF_DB_dir/val_raf_db_list.txt", _RAFDB_POSE, "0/test_0004_aligned.jpg"),
        "pose45": NameList("RAF_DB_dir/val_raf_db_list_45.txt", _RAFDB_POSE, "0/test_0004_aligned.jpg"),
    },
    "ferplus": {
        "occlusion": NameList("FERplus_dir/jianfei_occlusion_list.txt", _FERPLUS_OCCLUSION, "1_fer0034656.png 8 0"),
        "pose30": NameList("FERplus_dir/pose_30_ferplus_list.txt", _FERPLUS_POSE, "0/fer0032226.jpg"),
        "pose45": NameList("FERplus_dir/pose_45_ferplus_list.txt", _FERPLUS_POSE, "0/fer0032226.jpg"),
    },
    "affectnet": {
        "occlusion": NameList("AffectNet_dir/occlusion_affectnet_list.txt", rf"val/{_HASH}/", f"val/0/{_EXAMPLE}/"),
        "pose30": NameList("AffectNet_dir/pose_30_affectnet_list.txt", rf"{_HASH}\.jpg", f"0/{_EXAMPLE}.jpg"),
        # each image is a folder of crops there, the eighth being the whole face
        "pose45": NameList("AffectNet_dir/pose_45_affectnet_list.txt", rf"{_HASH}/8\.jpg", f"0/{_EXAMPLE}/8.jpg"),
    },
}
"""Parser -> subset -> list."""


def list_files(raw_dir: str | Path, definition: DatasetDefinition) -> dict[str, Path]:
    """The lists of a dataset that are present, subset -> file.

    None for synthetic faces, which have the names of real ones, nor for AffectNet's reduced release, which renumbers.
    """
    if definition.synthetic is not None or definition.options.get("release") == "reduced":
        return {}
    lists = LISTS.get(definition.parser, {})
    files = {subset: Path(raw_dir) / LISTS_FOLDER / entry.file for subset, entry in lists.items()}
    return {subset: file for subset, file in files.items() if file.is_file()}


def find_subsets(
    index: "pd.DataFrame", parser: str, classes: int, files: Mapping[str, Path]
) -> tuple["pd.DataFrame", dict[str, dict[str, Any]]]:
    """Faces of the test split that the lists name, and for each subset a report on its list.

    ``files`` are those of `list_files`. The table has the columns sample and subset. In the report, other_class counts
    absent names with a label beyond the ``classes`` of this dataset, such as contempt, and absent the others.
    """
    import pandas as pd

    test = index.loc[index["split"] == "test", ["sample", "label"]]
    # AffectNet's samples have a folder, its lists have not.
    test = test.assign(name=test["sample"].str.rpartition("/")[2])
    # Nor have class folders that repeat a name: which of its images a list means is not known.
    test = test[~test["name"].duplicated(keep=False)]
    tested = set(test["name"])
    tables, report = [], {}
    for subset, file in files.items():
        rows = read_list(file, LISTS[parser][subset])
        listed = pd.DataFrame(rows, columns=["name", "listed"])
        matched = test.merge(listed, on="name")
        names = dict(rows)
        absent = {name: label for name, label in names.items() if name not in tested}
        foreign = [name for name, label in absent.items() if label >= classes]
        missing = [name for name, label in absent.items() if label < classes]
        differs = matched.loc[matched["label"] != matched["listed"], "sample"].unique().tolist()
        samples = matched["sample"].drop_duplicates()
        tables.append(samples.to_frame().assign(subset=subset))
        report[subset] = {
            "file": file.name,
            "sha256": sha256(file),
            "rows": len(rows),
            "unique": len(names),
            "listed_twice": listed["name"][listed["name"].duplicated()].unique().tolist(),
            "other_class": len(foreign),
            "absent": len(missing),
            "absent_first": missing[:_SHOWN],
            "label_differs": len(differs),
            "label_differs_first": differs[:_SHOWN],
            "matched": len(samples),
        }
    table = pd.concat(tables, ignore_index=True) if tables else pd.DataFrame(columns=["sample", "subset"], dtype="str")
    return table, report
