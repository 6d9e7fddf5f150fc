"""Models in MLflow that nothing needs, on a real small experiment; the table and its check stay as they are."""

import shutil
from pathlib import Path

import mlflow
import numpy as np
import pandas as pd
import pytest
from test_track_sync import EXPERIMENT, PARAMS, changed, synced, trained, write_table  # noqa: F401  fixtures
from tracking_store import open_client

from transfer.cleaning.registry import remove_model, unneeded_models
from transfer.cleaning.removal import remove
from transfer.cleaning.unneeded import unneeded
from transfer.layout import Layout
from transfer.tracking.check import check
from transfer.tracking.sync import sync

NAME = "tiny.faces.full"


def only(seed: int):
    return PARAMS.model_copy(update={"seeds": [seed]})


def best() -> int:
    """The seed whose model is registered."""
    return int(open_client().get_model_version_by_alias(NAME, "val_selected").tags["seed"])


def found(layout: Layout, *needed) -> list:
    items = unneeded(layout, needed)
    return items + list(unneeded_models(open_client(), layout, {entry.path for entry in items}))


def prune(layout: Layout, *needed) -> None:
    for entry in found(layout, *needed):
        remove_model(open_client(), entry) if entry.model else remove(entry.path)


def logged() -> set[str]:
    client = open_client()
    experiment = client.get_experiment_by_name(EXPERIMENT).experiment_id
    return {model.model_id for model in client.search_logged_models([experiment])}


def folders() -> set[str]:
    return {path.name for path in Path("mlruns").glob("*/models/*")}


@pytest.fixture
def other(changed) -> tuple[Layout, int]:  # noqa: F811
    """The seed that is left after the best one of the recipe full was taken out of the parameters; all is in line."""
    seed = 1 - best()
    write_table(changed, seeds=[seed])
    assert sync(only(seed), changed).registered >= 1
    assert check(changed, "baseline")[1] == []
    return changed, seed


def test_nothing_goes_where_every_training_is_named(changed):  # noqa: F811
    assert found(changed, PARAMS) == []
    assert logged() == folders() and len(logged()) == 6


def test_what_went_out_of_the_parameters_goes_and_the_table_still_agrees(other):
    layout, seed = other
    why = {entry.path.as_posix(): entry.why for entry in found(layout, only(seed))}
    gone = f"results/tiny/runs/faces/full/seed{1 - seed}/model.safetensors"
    assert why[gone] == f"seed{1 - seed} is not in seeds"
    assert f"{NAME} version 1, which no alias names" in why.values()
    assert f"without weights of its own, and those in {gone} are gone" in why.values()
    assert len([path for path in why if path.startswith("results")]) == 2
    prune(layout, only(seed))
    assert found(layout, only(seed)) == [] and logged() == folders()
    assert [version.version for version in open_client().search_model_versions(f"name = '{NAME}'")] in (["2"], [2])
    assert check(layout, "baseline")[1] == []
    assert sync(only(seed), layout).unchanged == 4, "the runs stay, with their figures"
    model = mlflow.pyfunc.load_model(f"models:/{NAME}@val_selected")
    faces = list(np.load(layout.data("faces") / "aligned.npy")[:2])
    assert list(model.predict(pd.DataFrame({"image": faces}))["status"]) == ["aligned", "aligned"]


def test_named_again_its_figures_are_there_and_its_weights_are_asked_for(other):
    layout, seed = other
    prune(layout, only(seed))
    write_table(layout)
    done = sync(PARAMS, layout)
    assert done.problems == [] and check(layout, "baseline")[1] == []
    assert f"{NAME}@val_selected is not renewed, since its weights were removed" in " ".join(done.outdated)
    assert f"runs/faces/full/seed{1 - seed}/model.safetensors" in " ".join(done.outdated)


def test_what_others_registered_or_gave_an_alias_stays(other):
    layout, seed = other
    client = open_client()
    old = client.get_model_version(NAME, "1")
    client.set_registered_model_alias(NAME, "shown_in_march", "1")
    assert old.source.removeprefix("models:/") not in {entry.model for entry in found(layout, only(seed))}
    client.delete_registered_model_alias(NAME, "shown_in_march")
    client.create_registered_model("mine")
    client.create_model_version("mine", old.source)
    assert old.source.removeprefix("models:/") not in {entry.model for entry in found(layout, only(seed))}
    client.delete_registered_model("mine")
    assert old.source.removeprefix("models:/") in {entry.model for entry in found(layout, only(seed))}


def test_artifacts_outside_of_this_folder_are_left_alone(other, tmp_path, monkeypatch):
    layout, seed = other
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{Path.cwd()}/mlflow.db")
    shutil.copytree("results", tmp_path / "elsewhere/results")
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert all(entry.path.parts[0] == "results" for entry in found(layout, only(seed)))


class Killed(BaseException):
    pass


@pytest.mark.parametrize("step", ["delete_model_version", "delete_logged_model", "rmtree", "first file"])
def test_a_kill_in_the_middle_is_completed_by_the_next_time(other, step, monkeypatch):
    """Killed after each step: the version is gone, the model, its folder has another name, that is half empty."""
    layout, seed = other
    (entry,) = (entry for entry in found(layout, only(seed)) if entry.why.startswith(NAME))

    def killed(*arguments):
        if step == "first file":
            next(path for path in arguments[0].rglob("*") if path.is_file()).unlink()
        elif step != "rmtree":
            real(*arguments)
        raise Killed

    with monkeypatch.context() as patch:
        client = open_client()
        if step.startswith("delete"):
            real = getattr(client, step)
            patch.setattr(client, step, killed)
        else:
            patch.setattr(shutil, "rmtree", killed)
        with pytest.raises(Killed):
            remove_model(client, entry)
    assert check(layout, "baseline")[1] == []
    prune(layout, only(seed))
    assert found(layout, only(seed)) == [] and logged() == folders()
    assert mlflow.pyfunc.load_model(f"models:/{NAME}@val_selected")
