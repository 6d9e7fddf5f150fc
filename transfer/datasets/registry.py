"""The known datasets: each has one parser, in the module of its name in this package."""

import importlib
import pkgutil
import posixpath
import re
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import transfer.datasets
from transfer.datasets.archives import Source
from transfer.datasets.folders import is_image
from transfer.datasets.text import split_path
from transfer.utils.errors import UserError, choices

if TYPE_CHECKING:
    import pandas as pd

Counts = dict[str, int | list[int]]  # per split either the total or the number of images per class, in label order

LANDMARKS = [f"landmark_{i}_{axis}" for i in range(5) for axis in "xy"]
"""Left eye, right eye, nose tip, left and right mouth corner; pixels of the original image; left = smaller x."""

OTHER_FILES = "other files"

_PARSERS: dict[str, "Parser"] = {}


@dataclass(frozen=True)
class Parser:
    """How one dataset is read; every method takes the dataset's ``options`` as keywords."""

    name: str
    read: "Callable[..., pd.DataFrame]"
    class_names: Callable[..., list[str]]
    official_counts: Callable[..., list[Counts]]
    options: Mapping[str, tuple | Callable[[Any], Any]]
    list_files: Callable[..., dict[str, str]]

    def resolve(self, options: Mapping[str, Any]) -> dict[str, Any]:
        """All options with their values; UserError for an unknown one or a value that is not allowed."""
        for key, value in options.items():
            if key not in self.options:
                raise UserError(f"{self.name}: unknown option {key!r}; {choices(key, self.options)}")
            allowed = self.options[key]
            if not callable(allowed) and value not in allowed:
                shown = ", ".join(map(str, allowed))
                raise UserError(f"{self.name}: option {key} is {value!r}; allowed: {shown}")
        return {
            key: allowed(options.get(key)) if callable(allowed) else options.get(key, allowed[0])
            for key, allowed in self.options.items()
        }

    def classes(self, **options: Any) -> list[str]:
        """Class names in label order."""
        return self.class_names(**self.resolve(options))

    def official(self, **options: Any) -> list[Counts]:
        """Image counts per split of the official release; several where several official versions are in use."""
        return self.official_counts(**self.resolve(options))

    def lists(self, raw_dir: str | Path = ".", **options: Any) -> dict[str, Path]:
        """Files besides the archive that the options need: name below ``raw_dir`` -> path."""
        return {file: Path(raw_dir) / file for file in self.list_files(**self.resolve(options))}

    def index(
        self, source: Source, *, missing: str = "stop", raw_dir: str | Path = ".", **options: Any
    ) -> "pd.DataFrame":
        """The index: one row per image, with sample, path, split, label, class_name and what the dataset has besides.

        ``path`` is the name in ``source``, or ``<csv>#<0-based data row>`` for images held in a csv file. ``attrs``
        counts what was left out: ``missing`` (absent images, a UserError unless ``missing`` is "drop") and ``dropped``
        (reason -> rows); ``noted`` counts what is odd and was kept; ``files`` accounts for every file of the archive.
        ``raw_dir`` is the folder of `lists`.
        """
        resolved, lists = self.resolve(options), self.lists(raw_dir, **options)
        for file, path in lists.items():
            if not path.is_file():
                chosen = ", ".join(f"{key} {value}" for key, value in resolved.items())
                raise UserError(f"{self.name} with {chosen} needs {path}; {self.list_files(**resolved)[file]}")
        try:
            index = self.read(source, **resolved, **({"lists": lists} if lists else {}))
        except UserError as error:
            raise error if str(source.path) in str(error) else UserError(f"{source.path}: {error}") from None
        repeated = index["sample"][index["sample"].duplicated()]
        if len(repeated):
            raise UserError(f"{source.path}: {len(repeated)} images are listed twice, such as {repeated.iloc[0]}")
        present = index["path"].map(lambda path: split_path(path)[0] in source).astype(bool)
        absent = index["path"][~present]
        if len(absent) and missing == "stop":
            splits = (~present).groupby(index["split"], sort=False)
            per_split = ", ".join(f"{name} {part.sum():,} of {len(part):,}" for name, part in splits)
            gone = f"{len(absent):,} of {len(index):,} listed images are absent ({per_split})"
            gone, first = f"{gone}, first {', '.join(absent[:3])}", absent.iloc[0]
            remedy = "complete the archive, or set missing: drop for the dataset"
            raise source.lacks(gone, first, f"{posixpath.dirname(first)}/", remedy)
        index = index[present].reset_index(drop=True)
        index.insert(4, "class_name", index["label"].map(dict(enumerate(self.classes(**options)))).astype(str))
        dropped = index.attrs.get("dropped", {})
        index.attrs["files"] = _files(source, index, dropped)
        index.attrs["dropped"] = {why: len(paths) for why, paths in dropped.items()}
        index.attrs["missing"] = len(absent)
        return index


def _files(source: Source, index: "pd.DataFrame", dropped: Mapping[str, Sequence[str]]) -> dict[str, Any]:
    """What became of every file of the archive: how many are images of the index, were read otherwise, or left out."""
    indexed = {split_path(path)[0] for path in index["path"]}
    gone = {path: why for why, paths in dropped.items() for path in paths}
    gone |= {row["path"]: row["why"] for row in index.attrs.get("repeated", [])} | source.left_out
    left_out: dict[str, list[str]] = defaultdict(list)
    for name in {**dict.fromkeys(source.names()), **source.left_out}:
        if name in gone and name not in indexed:
            left_out[gone[name]].append(name)
        elif name not in indexed and name not in source.used:
            left_out["images that nothing names" if is_image(name) else OTHER_FILES].append(name)
    total = len({*source.names(), *source.left_out})
    return {
        "total": total,
        "indexed": len(indexed),
        "read": total - len(indexed) - sum(map(len, left_out.values())),
        "left_out": {why: {"files": len(names), "first": sorted(names)[:3]} for why, names in left_out.items()},
        "damaged": source.damaged,
    }


def dataset(
    name: str,
    *,
    classes: Callable[..., list[str]],
    official: Callable[..., list[Counts]],
    options: Mapping[str, Sequence | Callable[[Any], Any]] | None = None,
    lists: Callable[..., dict[str, str]] | None = None,
) -> "Callable[[Callable[..., pd.DataFrame]], Callable[..., pd.DataFrame]]":
    """Register the decorated function ``read(source, **options)`` as the parser of dataset ``name``.

    ``read`` returns the columns sample, path, split, label in this order, then optional ones; what it left out is in
    ``attrs["dropped"]``, reason -> paths. ``options`` lists the
    allowed values of each option, the default first, or is a function that checks a value (None: not given) and returns
    it; all functions get all of them. ``lists`` names the files below
    raw_dir that these options need, each with the way to get it; ``read`` then gets ``lists``, name -> path.
    """

    def register(read: "Callable[..., pd.DataFrame]") -> "Callable[..., pd.DataFrame]":
        allowed = {key: values if callable(values) else tuple(values) for key, values in (options or {}).items()}
        _PARSERS[name] = Parser(name, read, classes, official, allowed, lists or (lambda **_: {}))
        return read

    return register


def class_list(value: Any) -> list[str]:
    """The option ``classes`` of datasets that have none of their own: two or more names, in label order."""
    names = value if isinstance(value, list) else []
    if (
        len(names) < 2
        or len(set(names)) < len(names)
        or not all(re.fullmatch(r"[\w][\w .+-]{0,39}", name) for name in names)
    ):
        expected = "two or more different names in label order, such as [neutral, joy], of letters, digits and spaces"
        raise UserError(f"option classes is {value!r}; expected {expected}")
    return names


def names() -> list[str]:
    """Names of all datasets."""
    for module in pkgutil.iter_modules(transfer.datasets.__path__):
        importlib.import_module(f"transfer.datasets.{module.name}")
    return sorted(_PARSERS)


def get(name: str) -> Parser:
    """The parser of dataset ``name``; UserError with the known names if there is none."""
    if name not in _PARSERS and name in (module.name for module in pkgutil.iter_modules(transfer.datasets.__path__)):
        importlib.import_module(f"transfer.datasets.{name}")
    if name not in _PARSERS:
        raise UserError(f"unknown dataset {name!r}; {choices(name, names())}")
    return _PARSERS[name]
