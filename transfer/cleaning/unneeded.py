"""What of an experiment no table needs: old checkpoints, resume states that nothing continues, imported weights."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

from transfer.cleaning.removal import Item, item, leftovers
from transfer.layout import Layout
from transfer.models.weights.catalogue import OF_SOURCE
from transfer.params import Params
from transfer.params import read as config
from transfer.utils.errors import UserError


def needed_by(layout: Layout, chosen: Params | None = None) -> list[Params]:
    """The configurations whose trainings stay: ``chosen``, and what the last workflow used, which its table shows.

    Raises UserError for a snapshot that cannot be read.
    """
    last = [config.load([layout.params])] if layout.params.is_file() else []
    return [*filter(None, [chosen]), *last]


def unneeded(layout: Layout, needed: Sequence[Params]) -> list[Item]:
    """What neither the tables nor a training of ``needed`` use; several configurations may share an experiment.

    Of a training that no configuration names, the checkpoint: its figures are small and stay. A resume state goes where
    no training would continue it.
    """
    return [
        *_checkpoints(layout, needed),
        *_states(layout, needed),
        *_search_states(layout, needed),
        *_imported(layout, needed),
        *leftovers([layout.root]),
    ]


def _unnamed(needed: Sequence[Params], dataset: str, recipe: str, seed: str) -> str | None:
    """Why no configuration names a training; None if one does."""
    values = {"datasets": dataset, "recipes": recipe, "seeds": seed}
    missing = []
    for params in needed:
        lists = dict(zip(values, map(set, zip(*params.selected_runs(), strict=True)), strict=True))
        lists["seeds"] = {f"seed{number}" for number in lists["seeds"]}
        absent = [key for key, value in values.items() if value not in lists[key]]
        if not absent:
            return None
        missing.append(absent)
    key = min(missing, key=len)[0]
    return f"{values[key]} is not in {key}"


def _checkpoints(layout: Layout, needed: Sequence[Params]) -> Iterator[Item]:
    for path in sorted((layout.root / "runs").glob("*/*/seed*/model.safetensors")):
        if why := _unnamed(needed, *path.parts[-4:-1]):
            yield item(path, why)


def _states(layout: Layout, needed: Sequence[Params]) -> Iterator[Item]:
    root = layout.root / "state"
    for path in sorted(root.glob("*/*/seed*")):
        dataset, recipe, seed = path.parts[-3:]
        if dataset != "search" and (why := _unnamed(needed, dataset, recipe, seed) or _of_another(path, needed)):
            yield item(path, why)
    for path in sorted(root.glob("*/detect")):
        if not any(path.parent.name in params.selected_datasets() for params in needed):
            yield item(path, f"{path.parent.name} is not in datasets")


def _of_another(folder: Path, needed: Sequence[Params]) -> str | None:
    """Why no training continues the state in ``folder``; None if one does, or nothing can be said."""
    if not any(folder.iterdir()):
        return None

    from transfer.params import digest
    from transfer.training.run import run_identity
    from transfer.training.state import find_state

    dataset, recipe, seed = folder.parts[-3:]
    layout = Layout(folder.parts[-5], Path(*folder.parts[:-5]))
    why = None
    for params in needed:
        if _unnamed([params], dataset, recipe, seed) is None:
            try:
                number = int(seed.removeprefix("seed"))
                identity = run_identity(params, dataset, recipe, number, layout)
            except (UserError, OSError):  # such as data that are not there: they may come back
                return None
            state, problem = find_state(folder / "last.pt", identity)
            if state is not None:
                return _finished(layout.run(dataset, recipe, number), digest(identity))
            why = problem.partition(": ")[2] or None
    return why


def _finished(run: Path, digest: str) -> str | None:
    try:
        env = json.loads((run / "env.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return "its training is finished" if env.get("digest") == digest else None


def _search_states(layout: Layout, needed: Sequence[Params]) -> Iterator[Item]:
    for path in sorted((layout.root / "state" / "search").glob("*/*")):
        search, dataset = path.parts[-2:]
        if not any(search in params.searches and dataset in params.datasets for params in needed):
            yield item(path, f"search {search} on {dataset} is not in searches and datasets")


def _imported(layout: Layout, needed: Sequence[Params]) -> Iterator[Item]:
    runs = [params.run(dataset, recipe) for params in needed for dataset, recipe, _ in params.selected_runs()]
    used = {name for run in runs for name in run.model.pretrained}
    for name in OF_SOURCE:
        path = layout.weights(name)
        if name not in used and path.is_file():
            yield item(path, "no recipe begins with it; it is imported again from its source's file")
