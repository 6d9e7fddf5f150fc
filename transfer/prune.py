"""Files of an experiment that no table needs: checkpoints, resume states, imported weights, old registered models.

What is not certain is kept: only what the experiment's own workflow or ``transfer track sync`` made, which its header,
its name or the store says, and only where neither the given parameters nor those of the last workflow name it.
"""

import contextlib
import json
import os
import re
import shutil
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlparse

from transfer.layout import Layout
from transfer.params import Params
from transfer.params import read as config
from transfer.sources.table import load as load_sources
from transfer.tracking import store
from transfer.utils.errors import UserError
from transfer.utils.files import abandoned

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion

_ASIDE = ".removed."


@dataclass(frozen=True)
class Item:
    """A file or folder that may go, why, and its size in bytes; ``forget`` first removes what refers to it."""

    path: Path
    why: str
    forget: Callable[[], Any] = lambda: None

    @property
    def size(self) -> int:
        """Bytes of all files; links count nothing."""
        files = [self.path, *self.path.rglob("*")]
        return sum(file.stat().st_size for file in files if file.is_file() and not file.is_symlink())

    def remove(self) -> None:
        """Remove it; at every moment a folder is there whole or not at all. Folders left empty above it go too."""
        self.forget()
        if self.path.is_dir() and not self.path.is_symlink():
            aside = self.path.with_name(f"{_ASIDE}{uuid.uuid4().hex[:8]}.{self.path.name}")
            os.replace(self.path, aside)
            shutil.rmtree(aside)
        else:
            self.path.unlink(missing_ok=True)
        with contextlib.suppress(OSError):  # until one is not empty
            for folder in self.path.parents:
                folder.rmdir()


def unneeded(layout: Layout, chosen: Params) -> list[Item]:
    """What neither ``chosen`` nor the parameters of the experiment's last workflow need.

    Raises UserError where there is no experiment, its snapshot is unreadable or MLflow's store cannot be used.
    """
    if not layout.root.is_dir():
        raise UserError(f"{layout.root}: no such experiment; nothing to remove")
    last = [config.load([layout.params])] if layout.params.is_file() else []
    needed = [chosen, *last]
    return [
        *_runs(layout, needed),
        *_states(layout, needed),
        *_weights(layout, needed),
        *_models(layout),
        *_cut(layout, chosen),
    ]


def _unnamed(needed: Sequence[Params], dataset: str, recipe: str, seed: str) -> str | None:
    """Why no parameters name a run; None if some do."""
    missing = []
    for params in needed:
        runs = params.selected_runs()
        named = {"datasets": {run[0] for run in runs}, "recipes": {run[1] for run in runs}}
        named["seeds"] = {f"seed{run[2]}" for run in runs}
        values = dict(zip(named, (dataset, recipe, seed), strict=True))
        absent = [f"{value} is not in {key}" for key, value in values.items() if value not in named[key]]
        if not absent:
            return None
        missing.append(absent)
    return min(missing, key=len)[0]


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
    from transfer.models.weights.catalogue import OF_SOURCE

    runs = [params.run(dataset, recipe) for params in needed for dataset, recipe, _ in params.selected_runs()]
    used = {name for run in runs for name in run.model.pretrained}
    for name in sorted(set(OF_SOURCE) - used):
        if "fills" in _header(layout.weights(name)):
            yield Item(layout.weights(name), "no recipe starts from it; it can be imported again")


def _cut(layout: Layout, chosen: Params) -> Iterator[Item]:
    for path in sorted(layout.root.rglob(f"{_ASIDE}*")):
        whole = re.fullmatch(rf"{re.escape(_ASIDE)}[0-9a-f]{{8}}\..+", path.name)
        if whole and not any(part.startswith(_ASIDE) for part in path.parent.parts):
            yield Item(path, "left by an interrupted removal")
    raw_dir, files = Path(chosen.raw_dir), [file.path for entry in load_sources().values() for file in entry.files]
    made = [*files, *(definition.archive for definition in chosen.dataset_definitions.values())]
    beside = [path for folder in {(raw_dir / name).parent for name in made} for path in folder.glob(".*.part*")]
    for path in sorted([*layout.root.rglob(".*.part*"), *beside]):
        if abandoned(path):
            yield Item(path, "left by a writer that was killed")


def _models(layout: Layout) -> Iterator[Item]:
    """Versions of the experiment's registered models without an alias, whose files lie below this folder."""
    if (database := store.local_database()) and not database.exists():
        return
    client = store.open_store()
    versions = list(store.every_page(client.search_model_versions))
    for version in versions:
        ours = version.name.startswith(f"{layout.experiment}.") and "weights_sha256" in version.tags
        shared = sum(other.source == version.source for other in versions) > 1
        # A search says nothing of aliases.
        if not ours or shared or client.get_model_version(version.name, version.version).aliases:
            continue
        logged = client.get_logged_model(_logged_model(version))
        path = Path(unquote(urlparse(logged.artifact_location).path)).parent
        here, path = Path.cwd().resolve(), path.resolve()
        if path.name == logged.model_id and path.is_relative_to(here):  # else another machine's, or a server's
            why = f"{version.name} version {version.version}, which no alias names"
            yield Item(path.relative_to(here), why, partial(_forget, client, version))


def _forget(client: "MlflowClient", version: "ModelVersion") -> None:
    client.delete_model_version(version.name, version.version)
    client.delete_logged_model(_logged_model(version))


def _logged_model(version: "ModelVersion") -> str:
    return str(version.source).removeprefix("models:/")
