"""What every experiment needs on the disk."""

from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlparse

from transfer.errors import UserError
from transfer.tracking import store

COLUMNS = ("data", "runs", "weights", "state", "other", "mlflow")
CHECKPOINT = "model.safetensors"


def disk(results: Path = Path("results")) -> dict[str, dict[str, int | None]]:
    """Bytes per experiment: {experiment: {what: bytes}}.

    ``weights`` are the checkpoints of finished runs, ``runs`` the rest of their folders, ``state`` that of interrupted
    ones, ``mlflow`` the artifacts in the store, None where these do not lie on this machine. An experiment that is only
    in MLflow counts too. Raises UserError without results and without a store.
    """
    roots = {path.name: path for path in sorted(results.glob("*")) if (path / "params.yaml").is_file()}
    artifacts, problem = _artifacts()
    if not roots and not artifacts:
        raise UserError(f"{results}: no experiment here, and none in MLflow{f' ({problem})' if problem else ''}")
    table: dict[str, dict[str, int | None]] = {}
    for name in [*roots, *(name for name in artifacts if name not in roots)]:
        row: dict[str, int | None] = dict.fromkeys(COLUMNS, 0)
        for file in roots[name].rglob("*") if name in roots else ():
            if file.is_file() and not file.is_symlink():
                row[_kind(file.relative_to(roots[name]))] += file.stat().st_size
        folders = artifacts.get(name, [])
        row["mlflow"] = None if problem or None in folders else sum(_size(folder) for folder in folders)
        table[name] = row
    return table


def _kind(file: Path) -> str:
    top = file.parts[0]
    if top == "runs":
        return "weights" if file.name == CHECKPOINT else "runs"
    return top if top in ("data", "state") else "other"


def _size(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file() and not file.is_symlink())


def _artifacts() -> tuple[dict[str, list[Path | None]], str]:
    """Per experiment the folders of its datasets' artifacts, None for one elsewhere; and why there is no answer."""
    import mlflow

    uri = mlflow.get_tracking_uri()
    if uri.startswith("sqlite:///") and not Path(uri.removeprefix("sqlite:///")).exists():
        return {}, ""  # looking makes no database
    try:
        client = store.open_store()
        found: dict[str, list[Path | None]] = {}
        for experiment in client.search_experiments(max_results=1000):
            name, slash, _ = experiment.name.rpartition("/")
            if slash:
                found.setdefault(name, []).append(_local(experiment.artifact_location))
        return found, ""
    except Exception as error:  # the files are counted all the same
        return {}, str(error)


def _local(uri: str) -> Path | None:
    parsed = urlparse(uri)
    if parsed.scheme not in ("", "file"):
        return None
    return Path(unquote(parsed.path))


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
    return [{"experiment": name, **row, "total": sum(filter(None, row.values()))} for name, row in table.items()]
