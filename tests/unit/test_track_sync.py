"""From the files of a real small experiment to MLflow: everything is there, twice is once, and the table agrees."""

import json
import os
import shutil
import sqlite3
import subprocess
import sys
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from tiny_training import CLASSES, tiny_dataset, tiny_params
from tracking_store import open_client, points, runs

from transfer.datasets.synthetic.render import render_face
from transfer.evaluation.predict import predict_files
from transfer.layout import Layout
from transfer.runs.metrics import evaluate
from transfer.runs.read import read_runs
from transfer.tables.build import table_of
from transfer.tables.kinds import Context
from transfer.tables.text import to_csv
from transfer.tracking import sync as module
from transfer.tracking.check import check
from transfer.tracking.disk import disk
from transfer.tracking.sync import sync
from transfer.training.run import train
from transfer.utils.errors import UserError

ROOT = Path(__file__).parents[2]
SEEDS, RECIPES = (0, 1), ("baseline", "full")
EXPERIMENT = "tiny/faces"
PARAMS = tiny_params(train={"epochs": 2}, faces={"size": 32})
ARTIFACTS = ["confusion.png", "env.json", "history.csv", "metrics.json", "predictions.parquet"]


def write_table(layout: Layout, seeds=SEEDS) -> None:
    wanted = [("faces", recipe, seed) for recipe in RECIPES for seed in seeds]
    runs, _ = read_runs(layout.root / "runs", wanted, PARAMS.protocols, experiment="tiny")
    table = table_of(Context(PARAMS, layout, "table1", runs))
    (layout.root / "table1.csv").write_text(to_csv(table.frame, table.formats))


@pytest.fixture(scope="session")
def trained(tmp_path_factory) -> Path:
    """A folder with results/: two recipes, two seeds, evaluated, and the table; no MLflow."""
    folder = tmp_path_factory.mktemp("trained")
    layout = tiny_dataset(folder / "results")
    for recipe in RECIPES:
        for seed in SEEDS:
            train(PARAMS, "faces", recipe, seed, layout)
            identity = {"experiment": "tiny", "dataset": "faces", "recipe": recipe, "seed": seed}
            evaluate(layout.run("faces", recipe, seed), classes=CLASSES, **identity)
    write_table(layout)
    (layout.root / "params.yaml").touch()
    (folder / "params").mkdir()
    shutil.copy(ROOT / "params/reported.yaml", folder / "params")
    return folder


@pytest.fixture
def layout(trained, mlflow_store) -> Layout:
    """The experiment in the working directory, and an empty store."""
    shutil.copytree(trained, Path.cwd(), dirs_exist_ok=True)
    return Layout("tiny")


@pytest.fixture(scope="session")
def synced(trained, empty_store, tmp_path_factory) -> Path:
    """The same, after a sync; not to be changed."""
    folder = tmp_path_factory.mktemp("synced")
    shutil.copytree(trained, folder, dirs_exist_ok=True)
    shutil.copy(empty_store, folder / "mlflow.db")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        done = sync(PARAMS, Layout("tiny"))
    assert (done.created, done.completed, done.unchanged, done.registered, done.problems) == (4, 0, 0, 2, [])
    return folder


@pytest.fixture
def view(synced, monkeypatch) -> Layout:
    """The synced experiment, to be looked at."""
    monkeypatch.chdir(synced)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return Layout("tiny")


@pytest.fixture
def changed(synced, mlflow_folder, monkeypatch) -> Layout:
    """The synced experiment in a folder and a store that may be changed."""
    # By run id: the copy's runs have the ids of the original, and other folders.
    monkeypatch.setattr("mlflow.tracking._tracking_service.utils._artifact_repos_cache", OrderedDict())
    shutil.copytree(synced, mlflow_folder, dirs_exist_ok=True)
    old, new = (f"file://{folder}/" for folder in (synced, mlflow_folder))
    with sqlite3.connect(mlflow_folder / "mlflow.db") as connection:
        for table, column in (
            ("experiments", "artifact_location"),
            ("runs", "artifact_uri"),
            ("logged_models", "artifact_location"),
        ):
            connection.execute(
                f"UPDATE {table} SET {column} = replace(replace({column}, ?, ?), ?, ?)",
                [old, new, old.removeprefix("file://"), new.removeprefix("file://")],
            )
    return Layout("tiny")


def by_name() -> dict:
    return {run.info.run_name: run for run in runs(EXPERIMENT)}


def everything() -> tuple:
    """All that a store has of the experiment, to compare before and after."""
    client = open_client()
    experiment = client.get_experiment_by_name(EXPERIMENT).experiment_id
    found = client.search_runs([experiment])
    return (
        {run.info.run_id: (run.info.status, run.data.params, run.data.tags) for run in found},
        sorted(
            (run.info.run_id, point.key, point.step, point.value)
            for run in found
            for key in run.data.metrics
            for point in client.get_metric_history(run.info.run_id, key)
        ),
        sorted(model.model_id for model in client.search_logged_models([experiment])),
        sorted((version.name, version.version) for version in client.search_model_versions()),
    )


def test_every_run_is_there_with_all_that_its_files_say(view):
    client, found = open_client(), by_name()
    assert set(found) == {f"{recipe}/seed{seed}" for recipe in RECIPES for seed in SEEDS}
    run, files = found["full/seed1"], view.run("faces", "full", 1)
    env = json.loads((files / "env.json").read_text())
    history = pd.read_csv(files / "history.csv")
    metrics = json.loads((files / "metrics.json").read_text())

    assert run.info.status == "FINISHED"
    assert run.info.end_time == 1000 * env["ended"] > run.info.start_time
    assert run.data.params["model.mad"] == "0.6" and run.data.params["train.epochs"] == "2"
    for tag in ("commit", "digest", "data_digest", "params_digest", "code_digest", "cpu", "device", "precision"):
        assert run.data.tags[tag] == str(env[tag]) if tag != "digest" else env[tag] in run.data.tags["transfer.run"]
    assert run.data.tags["protocols"] == "last,val_selected,test_selected"
    assert run.data.tags["weights_sha256"] == env["weights_sha256"]
    for column in ("train_loss", "val_accuracy", "lr"):
        points = client.get_metric_history(run.info.run_id, f"epoch/{column}")
        assert [(p.step, p.value) for p in points] == list(zip(history["epoch"], history[column], strict=True))
    speed = client.get_metric_history(run.info.run_id, "system/epoch_seconds")
    assert [point.value for point in speed] == env["seconds_per_epoch"]
    for protocol, result in metrics["protocols"].items():
        (point,) = client.get_metric_history(run.info.run_id, f"{protocol}/test_accuracy")
        # Step 0: MLflow then draws a bar, not a curve of one point.
        assert (point.step, point.value) == (0, result["splits"]["test"]["accuracy"])
        assert run.data.metrics[f"{protocol}/epoch"] == result["epoch"]
    inputs = {i.dataset.name: (i.dataset.digest, i.tags[0].value) for i in run.inputs.dataset_inputs}
    names = {"train": "training", "val": "validation", "test": "test"}
    assert inputs == {f"faces/{part}": (env["data_digest"], context) for part, context in names.items()}
    assert [file.path for file in client.list_artifacts(run.info.run_id)] == ARTIFACTS
    copy = Path(client.download_artifacts(run.info.run_id, "metrics.json"))
    assert copy.read_bytes() == (files / "metrics.json").read_bytes()
    with Image.open(client.download_artifacts(run.info.run_id, "confusion.png")) as picture:
        assert picture.width > 300 and len(picture.convert("L").getcolors()) > 10


def test_the_recipe_is_the_parent_and_has_the_means(view):
    found = by_name()
    parents = {run.info.run_name: run for run in runs(EXPERIMENT, parents=True)}
    assert set(parents) == set(RECIPES)
    for name, run in found.items():
        assert run.data.tags["mlflow.parentRunId"] == parents[name.split("/")[0]].info.run_id
    full = parents["full"].data.metrics
    seeds = [found[f"full/seed{seed}"].data.metrics["last/test_accuracy"] for seed in SEEDS]
    assert full["n_seeds"] == 2
    assert full["last/test_accuracy"] == pytest.approx(np.mean(seeds))
    assert full["last/test_accuracy_std"] == pytest.approx(np.std(seeds, ddof=1))
    assert parents["full"].info.status == "FINISHED"
    assert not any(name.startswith("epoch/") for name in full), "curves are those of a seed"


def test_the_means_are_those_of_the_seeds_that_are_asked_for_now(changed):
    sync(PARAMS.model_copy(update={"seeds": [1]}), changed)
    (full,) = (run for run in runs(EXPERIMENT, parents=True) if run.info.run_name == "full")
    assert full.data.metrics["n_seeds"] == 1
    assert full.data.metrics["last/test_accuracy"] == by_name()["full/seed1"].data.metrics["last/test_accuracy"]


def test_a_second_sync_changes_nothing(changed, monkeypatch):
    before = everything()
    monkeypatch.setattr(module.models, "log_model", None)
    done = sync(PARAMS, changed)
    assert (done.created, done.completed, done.unchanged, done.registered) == (0, 0, 4, 0)
    assert everything() == before


def test_the_registered_model_is_chosen_on_the_validation_part(view):
    client, found = open_client(), by_name()
    for recipe in RECIPES:
        version = client.get_model_version_by_alias(f"tiny.faces.{recipe}", "val_selected")
        scores = [found[f"{recipe}/seed{seed}"].data.metrics["val_selected/val_accuracy"] for seed in SEEDS]
        assert version.tags["seed"] == str(int(np.argmax(scores)))  # argmax: the first of equals
        assert version.tags["run"] == found[f"{recipe}/seed{version.tags['seed']}"].info.run_id
        assert (
            version.tags["weights_sha256"] == found[f"{recipe}/seed{version.tags['seed']}"].data.tags["weights_sha256"]
        )


FRESH = """
import base64, sys, json, numpy as np, pandas as pd, mlflow
assert "transfer" not in sys.modules
uri, store, photo = sys.argv[1:]
model = mlflow.pyfunc.load_model(uri)
faces = np.load(store)[:3]
content = open(photo, "rb").read()
rows = [*faces, photo, content, base64.b64encode(content).decode()]
table = model.predict(pd.DataFrame({"image": rows}))
again = model.predict({"image": faces[:1]})
assert again.iloc[0].to_dict() == table.iloc[0].to_dict()
assert model.metadata.signature.inputs.input_names() == ["image"]
import transfer
print(json.dumps({"code": transfer.__file__, "rows": table.to_dict("records")}))
print(model.input_example.to_dict() if model.input_example is not None else None)
"""


@pytest.mark.parametrize("which", ["run", "registered"])
def test_the_model_classifies_faces_and_photos_in_a_fresh_process(view, which, tmp_path):
    run = by_name()["full/seed0"]
    version = open_client().get_model_version_by_alias("tiny.faces.full", "val_selected")
    seed = 0 if which == "run" else int(version.tags["seed"])
    uri = f"runs:/{run.info.run_id}/model" if which == "run" else "models:/tiny.faces.full@val_selected"
    face = render_face(np.random.default_rng(1), "happiness", 0.8, 160)
    Image.fromarray(face.image).save(tmp_path / "photo.png")
    weights, faces = view.run("faces", "full", seed) / "model.safetensors", view.data("faces") / "aligned.npy"
    predict_files(weights, [faces], tmp_path / "faces.parquet")
    predict_files(weights, [tmp_path / "photo.png"], tmp_path / "photo.parquet")

    environment = os.environ | {"OMP_NUM_THREADS": "1", "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false"}
    if which == "run":
        environment["PYTHONPATH"] = str(ROOT)
    else:  # the code comes with the model
        environment.pop("PYTHONPATH", None)
    command = [sys.executable, "-W", "ignore", "-c", FRESH, uri, str(faces), str(tmp_path / "photo.png")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout.splitlines()[0])
    assert done.stdout.splitlines()[1].startswith("{'image': {0: "), "an example comes with the model"
    columns = ["status", "expression", *(f"p_{name}" for name in CLASSES)]
    expected = [pd.read_parquet(tmp_path / f"{name}.parquet")[columns] for name in ("faces", "photo")]
    expected = pd.concat([expected[0][:3], *3 * [expected[1]]], ignore_index=True)
    found = pd.DataFrame(answer["rows"])
    assert found.columns.tolist() == columns
    assert found[columns[:2]].equals(expected[columns[:2]])
    assert np.allclose(found[columns[2:]], expected[columns[2:]], atol=1e-6)
    if which == "registered":
        assert not answer["code"].startswith(str(ROOT))


def test_weights_that_changed_are_not_taken_for_the_runs(changed):
    import mlflow

    run = by_name()["full/seed0"]
    shutil.copy(changed.run("faces", "full", 1) / "model.safetensors", changed.run("faces", "full", 0))
    with pytest.raises(ValueError, match="no longer the weights of this run"):
        mlflow.pyfunc.load_model(f"runs:/{run.info.run_id}/model")
    (changed.run("faces", "full", 0) / "model.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match=r"full/seed0/model\.safetensors .*not here"):
        mlflow.pyfunc.load_model(f"runs:/{run.info.run_id}/model")


# --- completing what is there ---


def test_what_a_store_lost_comes_back_and_nothing_else(changed):
    before, client, found = everything(), open_client(), by_name()
    run = found["baseline/seed0"].info.run_id
    with sqlite3.connect("mlflow.db") as connection:  # as a live view that broke off
        connection.execute("DELETE FROM metrics WHERE run_uuid = ? AND (step = 2 OR key LIKE 'last/%')", [run])
        connection.execute("DELETE FROM latest_metrics WHERE run_uuid = ? AND key LIKE 'last/%'", [run])
        connection.execute("DELETE FROM tags WHERE run_uuid = ? AND key = 'transfer.utils.files'", [run])
        connection.execute("UPDATE runs SET status = 'RUNNING', end_time = NULL WHERE run_uuid = ?", [run])
    broken = Path(client.get_run(found["full/seed1"].info.run_id).info.artifact_uri.removeprefix("file://"))
    (broken / "confusion.png").unlink()

    done = sync(PARAMS, changed)
    assert (done.created, done.completed, done.unchanged, done.registered) == (0, 2, 2, 0)
    assert everything() == before
    assert (broken / "confusion.png").is_file()
    assert client.get_run(run).info.end_time


# PARAMS again, in a process that imports no torch, and room for what is to go wrong.
SYNC = """
import os, signal, sys
sys.path.insert(0, sys.argv[1])
from tiny_training import tiny_params
from transfer.layout import Layout
from transfer.tracking import models
from transfer.tracking.sync import sync
exec(sys.argv[2])
sync(tiny_params(train={"epochs": 2}, faces={"size": 32}), Layout("tiny"))
"""
KILL = """
count, log = 0, models.log_model
def log_model(*arguments, **keywords):
    global count
    count += 1
    if count == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    return log(*arguments, **keywords)
models.log_model = log_model
"""


def start_sync(first: str = "") -> subprocess.Popen:
    command = [sys.executable, "-W", "ignore", "-c", SYNC, str(ROOT / "tests/unit"), first]
    return subprocess.Popen(command, env=os.environ | {"PYTHONPATH": str(ROOT)}, stderr=subprocess.PIPE, text=True)


def test_a_sync_killed_in_the_middle_goes_on(layout):
    killed = start_sync(KILL)
    killed.communicate()
    assert killed.returncode == -9
    assert len(runs(EXPERIMENT)) == 2
    done = sync(PARAMS, layout)
    assert (done.created, done.completed, done.unchanged) == (2, 1, 1)
    assert len(runs(EXPERIMENT)) == 4 and len(runs(EXPERIMENT, parents=True)) == 2
    models = open_client().search_logged_models([runs(EXPERIMENT)[0].info.experiment_id])
    assert len(models) == 6, "a model per run, and a registered one per recipe"
    assert check(layout, "baseline")[1] == []


def test_two_at_once(layout):
    both = [start_sync() for _ in range(2)]
    errors = [process.communicate()[1] for process in both]
    assert [process.returncode for process in both] == [0, 0], errors
    assert len(runs(EXPERIMENT)) == 4 and len(runs(EXPERIMENT, parents=True)) == 2
    assert sum("another sync of tiny is at work; waiting" in error for error in errors) <= 1


def test_a_new_training_takes_the_place_of_the_old_one(changed):
    """Other parameters, another digest: a new run, and the old one no longer counts."""
    env_file = changed.run("faces", "full", 0) / "env.json"
    env = json.loads(env_file.read_text())
    env_file.write_text(json.dumps(env | {"digest": "other", "mlflow_run": None}))
    old = by_name()["full/seed0"].info.run_id
    done = sync(PARAMS, changed)
    assert (done.created, done.unchanged) == (1, 3)
    marks = {run.info.run_id: run.data.tags["transfer.in_table"] for run in runs(EXPERIMENT)}
    assert marks.pop(old) == "false" and set(marks.values()) == {"true"} and len(marks) == 4
    assert check(changed, "baseline")[1] == []


def test_runs_beside_the_parameters_are_shown_but_not_counted(changed):
    fewer = PARAMS.model_copy(update={"seeds": [0]})
    assert sync(fewer, changed).unchanged == 4
    marks = {run.info.run_name: run.data.tags["transfer.in_table"] for run in runs(EXPERIMENT)}
    assert marks == {"baseline/seed0": "true", "baseline/seed1": "false", "full/seed0": "true", "full/seed1": "false"}
    write_table(changed, seeds=[0])
    assert check(changed, "baseline")[1] == []


def test_a_damaged_run_is_left_out_and_said(changed):
    (changed.run("faces", "full", 0) / "history.csv").write_text("epoch,val_loss\n")
    (changed.run("faces", "full", 1) / "env.json").write_text("{}")
    done = sync(PARAMS, changed)
    assert done.unchanged == 2 and len(done.problems) == 2
    assert "seed0/history.csv: 0 epochs, but env.json has the times of 2" in done.problems[0]
    assert "seed1/env.json: not the environment of a run (KeyError: 'protocols')" in done.problems[1]


def test_a_run_without_metrics_is_evaluated(layout):
    for recipe in RECIPES:
        (layout.run("faces", recipe, 0) / "metrics.json").unlink()
    assert sync(PARAMS, layout).problems == []
    assert "last/test_accuracy" in by_name()["full/seed0"].data.metrics
    assert not (layout.run("faces", "full", 0) / "metrics.json").exists(), "writes nothing below results/"


def test_no_runs(mlflow_store):
    with pytest.raises(UserError, match="results/tiny/runs: no runs"):
        sync(PARAMS, Layout("tiny"))


# --- check ---


def test_every_cell_agrees(view):
    assert check(view, "baseline") == (6 * 17, [])


@pytest.mark.parametrize(
    ("column", "metric"),
    [("accuracy", "last/test_accuracy"), ("mean_class_accuracy", "last/test_mean_class_accuracy")],
)
def test_a_cell_that_differs_is_one_line(changed, column, metric):
    run = by_name()["full/seed0"].info.run_id
    with sqlite3.connect("mlflow.db") as connection:
        connection.execute(
            "UPDATE latest_metrics SET value = value / 2 + 0.01 WHERE run_uuid = ? AND key = ?", [run, metric]
        )
    lines = check(changed, "baseline")[1]
    assert all(line.startswith("faces full last: ") for line in lines)
    assert sum(line.startswith(f"faces full last: {column} is ") for line in lines) == 1


def test_a_table_that_differs_is_one_line(changed):
    path = changed.root / "table1.csv"
    table = pd.read_csv(path, dtype=str, keep_default_na=False)
    before = table.loc[4, "p_value"]
    table.loc[4, "p_value"] = "0.123"
    table.loc[5, "mad"] = "0.7"
    table.to_csv(path, index=False)
    assert check(changed, "baseline")[1] == [
        f"faces full val_selected: p_value is 0.123 in {path}, {before} in MLflow",
        f"faces full test_selected: mad is 0.7 in {path}, 0.6 in MLflow",
    ]


def test_a_run_that_is_not_in_mlflow(changed):
    client = open_client()
    client.delete_run(by_name()["full/seed1"].info.run_id)
    lines = check(changed, "baseline")[1]
    assert "faces full last: n_seeds is 2 in results/tiny/table1.csv, 1 in MLflow" in lines
    client.delete_run(by_name()["full/seed0"].info.run_id)
    assert (
        "faces full last: not in MLflow, or not whole there; run: transfer track sync" in check(changed, "baseline")[1]
    )


def test_no_table(mlflow_store):
    with pytest.raises(UserError, match=r"results/tiny/table1\.csv: not there; make it with: snakemake"):
        check(Layout("tiny"), "baseline")


# --- disk ---


def test_disk(changed):
    (changed.root / "state").mkdir(exist_ok=True)
    (changed.root / "state" / "last.pt").write_bytes(b"x" * 100)
    other = Path("results/other/data")
    other.mkdir(parents=True)
    (other / "faces.npy").write_bytes(b"x" * 50)
    Path("results/other/params.yaml").write_bytes(b"y" * 7)
    table = disk()
    weights = sum(file.stat().st_size for file in changed.root.rglob("model.safetensors"))
    assert list(table) == ["other", "tiny"]
    assert table["other"] == {
        "data": 50,
        "runs": 0,
        "weights": 0,
        "state": 0,
        "other": 7,
        "mlflow": 0,
        "unneeded": None,
    }
    assert table["tiny"]["weights"] == weights and table["tiny"]["state"] == 100
    mlflow = sum(file.stat().st_size for file in Path("mlruns").rglob("*") if file.is_file())
    assert table["tiny"]["mlflow"] == mlflow > weights / 4, "the registered models, and the artifacts"
    files = sum(file.stat().st_size for file in changed.root.rglob("*") if file.is_file())
    assert table["tiny"].pop("unneeded") is None
    assert sum(table["tiny"].values()) == files + mlflow


def test_disk_without_anything(mlflow_folder):
    with pytest.raises(UserError, match="results: no experiment here"):
        disk()
    assert not list(mlflow_folder.iterdir()), "looking makes no database"


# --- live and from the files ---


def test_the_sync_completes_what_the_training_showed(trained, mlflow_store):
    shutil.copytree(trained / "results/tiny/data", "results/tiny/data")
    shutil.copytree(trained / "params", "params")
    layout = Layout("tiny")
    train(PARAMS.model_copy(update={"tracking": True}), "faces", "full", 0, layout)
    (live,) = runs(EXPERIMENT)
    assert json.loads((layout.run("faces", "full", 0) / "env.json").read_text())["mlflow_run"] in (
        live.info.run_id,
        None,
    )
    shown = {metric: len(points(live.info.run_id, metric)) for metric in live.data.metrics}
    assert shown["epoch/val_loss"] == shown["system/epoch_seconds"] == 2 and shown["last/test_accuracy"] == 1
    machine = {metric for metric in shown if metric.startswith(("system/cpu", "system/network"))}
    assert live.info.status == "FINISHED" and machine

    done = sync(PARAMS, layout)
    assert (done.created, done.completed) == (0, 1)
    (run,) = runs(EXPERIMENT)
    assert run.info.run_id == live.info.run_id
    # The same names and values by both ways: nothing is new but what the files alone cannot say live, nothing twice.
    assert {metric: len(points(run.info.run_id, metric)) for metric in run.data.metrics} == shown
    assert run.data.params == live.data.params
    new = {"weights", "weights_sha256", "transfer.utils.files", "transfer.in_table"}
    assert run.data.tags.keys() - live.data.tags.keys() == new
    assert {key: run.data.tags[key] for key in live.data.tags} == live.data.tags
