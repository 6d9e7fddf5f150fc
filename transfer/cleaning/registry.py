"""Models in MLflow that nothing needs: registered ones without an alias, and those whose weights are gone."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from transfer.cleaning.removal import Item, item, leftovers, remove
from transfer.layout import Layout
from transfer.tracking import store
from transfer.tracking.runfiles import weights_of_runs

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import LoggedModel
    from mlflow.entities.model_registry import ModelVersion


def unneeded_models(client: "MlflowClient", layout: Layout, going: set[Path]) -> Iterator[Item]:
    """Logged models of an experiment that may go; ``going`` are checkpoints that go with them.

    One with weights of its own goes where no alias names it any more; one that only names a checkpoint, where that is
    gone. Only what lies below the working directory: other artifacts are their server's.
    """
    present = weights_of_runs(layout, going)
    for experiment in client.search_experiments(max_results=1000):
        if experiment.name.rpartition("/")[0] != layout.experiment:
            continue
        versions = _versions(client, experiment.name)
        known = set()
        for model in store.every_page(client.search_logged_models, [experiment.experiment_id]):
            known.add(model.model_id)
            folder = _folder(model.artifact_location)
            if folder and "weights_sha256" in model.tags and (why := _why(model, folder, versions, present)):
                yield item(folder, why, model.model_id)
        models = _folder(f"{experiment.artifact_location}/models/m")
        if models:
            cut = [path for path in sorted(models.glob("m-*")) if path.name not in known]
            yield from (item(path, "left by a removal that was cut off") for path in cut)
            yield from leftovers([models])


def _why(model: "LoggedModel", folder: Path, versions: dict[str, str | None], present: set[str]) -> str | None:
    if model.model_id in versions:
        return versions[model.model_id]
    if any(folder.rglob("*.safetensors")):
        return "never registered"
    if model.tags["weights_sha256"] in present:
        return None
    return f"without weights of its own, and those in {model.tags.get('weights', 'results')} are gone"


def _versions(client: "MlflowClient", experiment: str) -> dict[str, str | None]:
    """Of each registered model why it may go: no alias names it; None where one does, or where others registered it."""
    own = experiment.replace("/", ".") + "."
    found: dict[str, str | None] = {}
    for version in store.every_page(client.search_model_versions):
        # Searches say nothing of aliases and, with a database, nothing of the model's id.
        aliased = client.get_model_version(version.name, version.version).aliases
        free = version.name.startswith(own) and not aliased and found.get(_model_of(version), "") is not None
        found[_model_of(version)] = f"{version.name} version {version.version}, which no alias names" if free else None
    return found


def _model_of(version: "ModelVersion") -> str:
    """Id of the logged model that a registered version is."""
    return version.source.removeprefix("models:/")


def _folder(location: str) -> Path | None:
    """The folder of a logged model by the place of its artifacts; None where that is not below this directory."""
    path = store.local_path(location)
    if path is None or not path.resolve().is_relative_to(Path.cwd().resolve()):
        return None
    return Path(path.resolve().parent.relative_to(Path.cwd().resolve()))


def remove_model(client: "MlflowClient", entry: Item) -> None:
    """Remove a logged model with its registered versions: first what names it, the files last."""
    if entry.model:
        for version in store.every_page(client.search_model_versions):
            if _model_of(version) == entry.model:
                client.delete_model_version(version.name, version.version)
        client.delete_logged_model(entry.model)
    remove(entry.path)
