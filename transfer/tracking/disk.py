"""What every experiment needs on the disk, and how much of it no table needs."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from transfer.cleaning.registry import unneeded_models
from transfer.cleaning.removal import size_of
from transfer.cleaning.unneeded import needed_by, unneeded
from transfer.layout import Layout
from transfer.tracking import store
from transfer.utils.errors import UserError

if TYPE_CHECKING:
    from mlflow import MlflowClient

COLUMNS = ("data", "runs", "weights", "state", "other", "mlflow")
CHECKPOINT = "model.safetensors"


def disk(results: Path = Path("results")) -> dict[str, dict[str, int | None]]:
    """Bytes per experiment: {experiment: {what: bytes}}.

    ``weights`` are the checkpoints of finished runs, ``runs`` the rest of their folders, ``state`` that of interrupted
    ones, ``mlflow`` the artifacts in the store, None where these do not lie on this machine. ``unneeded`` is the part
    of all these that ``transfer prune`` would remove, None where the experiment's snapshot cannot be read. An
    experiment that is only in MLflow counts too. Raises UserError without results and without a store.
    """
    roots = {path.name: path for path in sorted(results.glob("*")) if (path / "params.yaml").is_file()}
    client, artifacts, problem = _artifacts()
    if not roots and not artifacts:
        raise UserError(f"{results}: no experiment here, and none in MLflow{f' ({problem})' if problem else ''}")
    table: dict[str, dict[str, int | None]] = {}
    for name in [*roots, *(name for name in artifacts if name not in roots)]:
        row: dict[str, int | None] = dict.fromkeys(COLUMNS, 0)
        for file in roots[name].rglob("*") if name in roots else ():
            if file.is_file() and not file.is_symlink():
                row[_kind(file.relative_to(roots[name]))] += file.stat().st_size
        folders = artifacts.get(name, [])
        row["mlflow"] = None if problem or None in folders else sum(size_of(folder) for folder in folders)
        row["unneeded"] = _unneeded(Layout(name, results), client) if name in roots else 0
        table[name] = row
    return table


def _kind(file: Path) -> str:
    top = file.parts[0]
    if top == "runs":
        return "weights" if file.name == CHECKPOINT else "runs"
    return top if top in ("data", "state") else "other"


def _unneeded(layout: Layout, client: "MlflowClient | None") -> int | None:
    try:
        items = unneeded(layout, needed_by(layout))
    except UserError:
        return None
    if client:
        items += unneeded_models(client, layout, {entry.path for entry in items})
    return sum(entry.size for entry in items)


def _artifacts() -> "tuple[MlflowClient | None, dict[str, list[Path | None]], str]":
    """MLflow; per experiment the folders of its datasets' artifacts, None for one elsewhere; why there is no answer."""
    found: dict[str, list[Path | None]] = {}
    try:
        client = store.open_existing()
        for experiment in client.search_experiments(max_results=1000) if client else ():
            name, slash, _ = experiment.name.rpartition("/")
            if slash:
                found.setdefault(name, []).append(store.local_path(experiment.artifact_location))
        return client, found, ""
    except Exception as error:  # the files are counted all the same
        return None, {}, str(error)


def human(size: int | None) -> str:
    """Bytes as people write them: 1.5 GB."""
    if size is None:
        return "elsewhere"
    value, unit = float(size), "B"
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if value < 1000 or unit == "TB":
            break
        value /= 1000
    return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"


def as_json(table: dict[str, dict[str, int | None]]) -> list[dict[str, Any]]:
    """A list of experiments with bytes, and their sum."""
    return [
        {"experiment": name, **row, "total": sum(row[column] or 0 for column in COLUMNS)} for name, row in table.items()
    ]
