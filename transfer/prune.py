"""Files of an experiment that no table needs: checkpoints, resume states, imported weights.

What is not certain is kept: only what the experiment's own workflow made, and only where neither the given parameters
nor those of the last workflow name it.
"""

import contextlib
import os
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from transfer.layout import Layout
from transfer.params import Params
from transfer.params import read as config
from transfer.utils.errors import UserError

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
    cut = [Item(path, "left by an interrupted removal") for path in sorted(layout.root.rglob(f"{_ASIDE}*"))]
    return [*cut, *_runs(layout, needed), *_states(layout, needed), *_weights(layout, needed)]


def _unnamed(needed: Sequence[Params], *names: str) -> str | None:
    """Why no parameters name a run, by dataset, recipe and seed0; None if they do."""
    runs = [(dataset, recipe, f"seed{seed}") for params in needed for dataset, recipe, seed in params.selected_runs()]
    named = zip(names, zip(*runs, strict=True), ("datasets", "recipes", "seeds"), strict=True)
    return next((f"{name} is not in {key}" for name, known, key in named if name not in known), None)


def _runs(layout: Layout, needed: Sequence[Params]) -> Iterator[Item]:
    """Checkpoints of unnamed runs; their small files stay."""
    for path in sorted((layout.root / "runs").glob("*/*/seed*/model.safetensors")):
        if why := _unnamed(needed, *path.parts[-4:-1]):
            yield Item(path, why)


def _states(layout: Layout, needed: Sequence[Params]) -> Iterator[Item]:
    """Resume states of unnamed runs, datasets and searches."""
    for path in sorted((layout.root / "state").glob("*/*/seed*")):
        if path.parts[-3] != "search" and (why := _unnamed(needed, *path.parts[-3:])):
            yield Item(path, why)
    for path in sorted((layout.root / "state").glob("*/detect")):
        if not any(path.parent.name in params.selected_datasets() for params in needed):
            yield Item(path, f"{path.parent.name} is not in datasets")
    for path in sorted((layout.root / "state" / "search").glob("*/*")):
        search, dataset = path.parts[-2:]
        if not any(search in params.searches and dataset in params.datasets for params in needed):
            yield Item(path, f"search {search} on {dataset} is not in searches and datasets")


def _weights(layout: Layout, needed: Sequence[Params]) -> Iterator[Item]:
    from transfer.models.weights.catalogue import OF_SOURCE

    runs = [params.run(dataset, recipe) for params in needed for dataset, recipe, _ in params.selected_runs()]
    used = {name for run in runs for name in run.model.pretrained}
    for name in sorted(set(OF_SOURCE) - used):
        if layout.weights(name).is_file():
            yield Item(layout.weights(name), "no recipe starts from it; it can be imported again")
