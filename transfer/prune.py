"""Files of an experiment that no table needs: checkpoints, resume states, imported weights.

What is not certain is kept: only what the experiment's own workflow made, which its header or its name says, and only
where neither the given parameters nor those of the last workflow name it.
"""

import contextlib
import json
import os
import re
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transfer.datasets.archives import UNPACKED
from transfer.layout import Layout
from transfer.params import Params
from transfer.params import read as config
from transfer.sources.table import load as load_sources
from transfer.utils.errors import UserError
from transfer.utils.files import abandoned

_ASIDE = ".removed."


@dataclass(frozen=True)
class Item:
    """A file or folder that may go, and why."""

    path: Path
    why: str

    @property
    def size(self) -> int:
        """Bytes of all files; links count nothing."""
        files = [self.path, *self.path.rglob("*")]
        return sum(file.stat().st_size for file in files if file.is_file() and not file.is_symlink())

    def remove(self) -> None:
        """Remove it; at every moment a folder is there whole or not at all. Folders left empty above it go too."""
        if self.path.is_dir() and not self.path.is_symlink():
            aside = self.path.with_name(f"{_ASIDE}{self.path.name.removeprefix(_ASIDE)}")
            os.replace(self.path, aside)
            shutil.rmtree(aside)
        else:
            self.path.unlink(missing_ok=True)
        with contextlib.suppress(OSError):  # until one is not empty
            for folder in self.path.parents:
                folder.rmdir()


def unneeded(layout: Layout, chosen: Params) -> list[Item]:
    """What neither ``chosen`` nor the parameters of the experiment's last workflow need.

    Raises UserError where there is no experiment or its snapshot is unreadable.
    """
    if not layout.root.is_dir():
        raise UserError(f"{layout.root}: no such experiment; nothing to remove")
    last = [config.load([layout.params])] if layout.params.is_file() else []
    needed = [chosen, *last]
    return [*_cut(layout, chosen), *_runs(layout, needed), *_states(layout, needed), *_weights(layout, needed)]


def _unnamed(needed: Sequence[Params], *names: str) -> str | None:
    """Why no parameters name a run, by dataset, recipe and seed0; None if they do."""
    runs = [(dataset, recipe, f"seed{seed}") for params in needed for dataset, recipe, seed in params.selected_runs()]
    named = zip(names, zip(*runs, strict=True), ("datasets", "recipes", "seeds"), strict=True)
    return next((f"{name} is not in {key}" for name, known, key in named if name not in known), None)


def _runs(layout: Layout, needed: Sequence[Params]) -> Iterator[Item]:
    """Checkpoints of unnamed runs; their small files stay."""
    for path in sorted((layout.root / "runs").glob("*/*/seed*/model.safetensors")):
        ours = _header(path).get("run") == "/".join([layout.experiment, *path.parts[-4:-1]])
        if ours and (why := _unnamed(needed, *path.parts[-4:-1])):
            yield Item(path, why)


def _header(path: Path) -> dict[str, Any]:
    """What this project wrote into a file of weights; empty for a link and for any other file."""
    from safetensors import SafetensorError, safe_open

    from transfer.models.weights.load import KEY

    try:
        with safe_open(path, "pt") as file:
            about = json.loads((file.metadata() or {})[KEY])
    except (OSError, SafetensorError, KeyError, ValueError):
        return {}
    return about if isinstance(about, dict) and not path.is_symlink() else {}


def _states(layout: Layout, needed: Sequence[Params]) -> Iterator[Item]:
    """Resume states of unnamed runs, datasets and searches."""
    for path in sorted((layout.root / "state").glob("*/*/seed*")):
        is_run = path.parts[-3] != "search" and re.fullmatch(r"seed\d+", path.name)
        if is_run and _holds_only(path, ".pt") and (why := _unnamed(needed, *path.parts[-3:])):
            yield Item(path, why)
    for path in sorted((layout.root / "state").glob("*/detect")):
        named = any(path.parent.name in params.selected_datasets() for params in needed)
        if not named and _holds_only(path, ".parquet"):
            yield Item(path, f"{path.parent.name} is not in datasets")
    for path in sorted((layout.root / "state" / "search").glob("*/*")):
        search, dataset = path.parts[-2:]
        named = any(search in params.searches and dataset in params.datasets for params in needed)
        if not named and _holds_only(path, ".pt"):
            yield Item(path, f"search {search} on {dataset} is not in searches and datasets")


def _holds_only(folder: Path, suffix: str) -> bool:
    """Whether ``folder`` is one, not a link, with nothing in it but files of this suffix."""
    files = [path for path in folder.rglob("*") if path.is_symlink() or not path.is_dir()]
    plain = all(path.suffix == suffix and not path.is_symlink() for path in files)
    return folder.is_dir() and not folder.is_symlink() and plain


def _weights(layout: Layout, needed: Sequence[Params]) -> Iterator[Item]:
    from transfer.models.weights.catalogue import FITS

    runs = [params.run(dataset, recipe) for params in needed for dataset, recipe, _ in params.selected_runs()]
    used = {name for run in runs for name in run.model.pretrained}
    for name in sorted(set(FITS) - used):
        if "fills" in _header(layout.weights(name)):
            yield Item(layout.weights(name), "no recipe starts from it; it can be imported again")


def _cut(layout: Layout, chosen: Params) -> Iterator[Item]:
    if UNPACKED.is_dir():
        yield Item(UNPACKED, "what was in 7z archives, which are unpacked again when they are read")
    for path in sorted((layout.root / "state").rglob(f"{_ASIDE}*")):
        if not any(part.startswith(_ASIDE) for part in path.parent.parts):
            yield Item(path, "left by an interrupted removal")
    raw_dir, files = Path(chosen.raw_dir), [file.path for entry in load_sources().values() for file in entry.files]
    made = [*files, *(definition.archive for definition in chosen.dataset_definitions.values())]
    beside = [path for folder in {(raw_dir / name).parent for name in made} for path in folder.glob(".*.part*")]
    for path in sorted([*layout.root.rglob(".*.part*"), *beside]):
        if abandoned(path):
            yield Item(path, "left by a writer that was killed")
