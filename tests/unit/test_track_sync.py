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
from tiny_training import tiny_dataset, tiny_params
from tracking_store import open_client, points, runs, wait_for

from transfer import load
from transfer.datasets.synthetic.render import render_face
from transfer.layout import Layout
from transfer.runs.metrics import evaluate
from transfer.tables.build import build_table
from transfer.tables.text import to_csv
from transfer.tracking.check import check
from transfer.tracking.live import MlflowListener, Tracking
from transfer.tracking.sync import sync
from transfer.training.run import train
from transfer.utils.errors import UserError

ROOT = Path(__file__).parents[2]
SEEDS, RECIPES = (0, 1), ("baseline", "full")
EXPERIMENT = "tiny/faces"
PARAMS = tiny_params(train={"epochs": 2}, faces={"size": 32})
ARTIFACTS = ["env.json", "history.csv", "metrics.json", "predictions.parquet"]


FACES = {
    "counts": {"found": 1, "images": 1},
    "policies": {"landmarks": "mtcnn", "template": "arcface", "size": 32, "margin": 0},
    "evaluation": {"sha256": "0" * 64, "source_sha256": "0" * 64},
}


def write_table(layout: Layout, seeds=SEEDS) -> None:
    """table1.csv, made from the run directories."""
    table = build_table(PARAMS.model_copy(update={"seeds": list(seeds)}), layout, "table1")
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
            evaluate(layout.run("faces", recipe, seed), **identity)
    shutil.copytree(ROOT / "params", folder / "params")
    (layout.data("faces") / "faces.json").write_text(json.dumps(FACES))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        write_table(Layout("tiny"))
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
    assert run.data.params["model.args.mad"] == "0.6" and run.data.params["train.epochs"] == "2"
    assert run.data.tags["transfer.run"].endswith(f"@{env['digest']}")
    for tag in ("commit", "data_digest", "params_digest", "code_digest", "cpu", "device", "precision"):
        assert run.data.tags[tag] == str(env[tag] or "none")
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
    assert [file.path for file in client.list_artifacts(run.info.run_id)] == ARTIFACTS
    copy = Path(client.download_artifacts(run.info.run_id, "metrics.json"))
    assert copy.read_bytes() == (files / "metrics.json").read_bytes()


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
    monkeypatch.setattr("transfer.tracking.sync.register", None)
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
"""


def test_the_registered_model_classifies_faces_and_photos_in_a_fresh_process(view, tmp_path):
    seed = open_client().get_model_version_by_alias("tiny.faces.full", "val_selected").tags["seed"]
    face = render_face(np.random.default_rng(1), "happiness", 0.8, 160)
    Image.fromarray(face.image).save(tmp_path / "photo.png")
    run, faces = view.run("faces", "full", int(seed)), view.data("faces") / "aligned.npy"
    model = load(run, device="cpu")
    tables = [model.predict(np.load(faces)[:3]).frame(), *3 * [model.predict(tmp_path / "photo.png").frame()]]

    environment = os.environ | {"OMP_NUM_THREADS": "1", "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false"}
    environment.pop("PYTHONPATH", None)  # the code comes with the model
    uri, photo = "models:/tiny.faces.full@val_selected", str(tmp_path / "photo.png")
    command = [sys.executable, "-W", "ignore", "-c", FRESH, uri, str(faces), photo]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout.splitlines()[0])
    expected, found = pd.concat(tables, ignore_index=True), pd.DataFrame(answer["rows"])
    assert found.columns.tolist() == expected.columns.tolist() and found["image"].tolist() == list(range(6))
    numbers = [name for name in expected if name.startswith(("p_", "box_", "landmark_"))]
    assert found[["status", "expression"]].equals(expected[["status", "expression"]])
    assert np.allclose(found[numbers].astype(float), expected[numbers].astype(float), atol=1e-6, equal_nan=True)
    assert not answer["code"].startswith(str(ROOT))


def test_the_tables_are_shown_and_a_changed_one_replaced(changed):
    client, table = open_client(), pd.read_csv(changed.table("table1", "csv"))
    experiment = client.get_experiment_by_name("tiny/tables").experiment_id

    def shown() -> dict:
        found = client.search_runs([experiment])
        return {
            run.data.tags["table"]: client.load_table(experiment, f"{run.data.tags['table']}.json", [run.info.run_id])
            for run in found
        }

    pd.testing.assert_frame_equal(shown()["table1"], table, check_dtype=False)
    table.assign(accuracy=1.5).to_csv(changed.table("table1", "csv"), index=False)
    board = changed.results / "leaderboard"
    (board / "runs/tiny").mkdir(parents=True)
    pd.DataFrame({"name": ["first", None]}).to_csv(board / "leaderboard.csv", index=False)
    sync(PARAMS, changed)
    assert set(shown()) == {"table1", "leaderboard"} and set(shown()["table1"]["accuracy"]) == {1.5}


# --- completing what is there ---


def test_what_a_store_lost_comes_back_and_nothing_else(changed):
    before, client, found = everything(), open_client(), by_name()
    run = found["baseline/seed0"].info.run_id
    with sqlite3.connect("mlflow.db") as connection:  # as a live view that broke off
        connection.execute("DELETE FROM metrics WHERE run_uuid = ? AND (step = 2 OR key LIKE 'last/%')", [run])
        connection.execute("DELETE FROM latest_metrics WHERE run_uuid = ? AND key LIKE 'last/%'", [run])
        connection.execute("DELETE FROM tags WHERE run_uuid = ? AND key = 'transfer.files'", [run])
        connection.execute("UPDATE runs SET status = 'RUNNING', end_time = NULL WHERE run_uuid = ?", [run])
    broken = Path(client.get_run(found["full/seed1"].info.run_id).info.artifact_uri.removeprefix("file://"))
    (broken / "history.csv").unlink()

    done = sync(PARAMS, changed)
    assert (done.created, done.completed, done.unchanged, done.registered) == (0, 2, 2, 0)
    assert everything() == before
    assert (broken / "history.csv").is_file()
    assert client.get_run(run).info.end_time


# PARAMS again, in a process that imports no torch, and room for what is to go wrong.
SYNC = """
import os, signal, sys
sys.path.insert(0, sys.argv[1])
from tiny_training import tiny_params
from transfer.layout import Layout
from transfer.tracking import sync as module
from transfer.tracking.sync import sync
exec(sys.argv[2])
sync(tiny_params(train={"epochs": 2}, faces={"size": 32}), Layout("tiny"))
"""
KILL = """
count, read = 0, module.view_of
def view_of(*arguments, **keywords):
    global count
    count += 1
    if count == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return read(*arguments, **keywords)
module.view_of = view_of
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
    assert (done.created, done.completed, done.unchanged, done.registered) == (2, 0, 2, 1)
    assert len(runs(EXPERIMENT)) == 4 and len(runs(EXPERIMENT, parents=True)) == 2
    assert len(open_client().search_model_versions()) == 2
    assert check(PARAMS, layout)[1] == []


def test_two_at_once(layout):
    both = [start_sync() for _ in range(2)]
    errors = [process.communicate()[1] for process in both]
    assert [process.returncode for process in both] == [0, 0], errors
    assert len(runs(EXPERIMENT)) == 4 and len(runs(EXPERIMENT, parents=True)) == 2


def test_a_new_training_takes_the_place_of_the_old_one(changed):
    """Other parameters, another digest: a new run, and the old one no longer counts."""
    env_file = changed.run("faces", "full", 0) / "env.json"
    env = json.loads(env_file.read_text())
    env_file.write_text(json.dumps(env | {"digest": "other"}))
    old = by_name()["full/seed0"].info.run_id
    done = sync(PARAMS, changed)
    assert (done.created, done.unchanged) == (1, 3)
    marks = {run.info.run_id: run.data.tags["transfer.in_table"] for run in runs(EXPERIMENT)}
    assert marks.pop(old) == "false" and set(marks.values()) == {"true"} and len(marks) == 4
    assert check(PARAMS, changed)[1] == []


def test_runs_beside_the_parameters_are_shown_but_not_counted(changed):
    fewer = PARAMS.model_copy(update={"seeds": [0]})
    assert sync(fewer, changed).unchanged == 4
    marks = {run.info.run_name: run.data.tags["transfer.in_table"] for run in runs(EXPERIMENT)}
    assert marks == {"baseline/seed0": "true", "baseline/seed1": "false", "full/seed0": "true", "full/seed1": "false"}
    write_table(changed, seeds=[0])
    assert check(fewer, changed)[1] == []


def test_a_damaged_run_is_left_out_and_said(changed):
    (changed.run("faces", "full", 0) / "history.csv").write_text("epoch,val_loss\n")
    (changed.run("faces", "full", 1) / "env.json").write_text("{}")
    done = sync(PARAMS, changed)
    assert done.unchanged == 2 and len(done.problems) == 2
    assert "seed0/history.csv: not that of a finished run (ValueError" in done.problems[0]
    assert "seed1/env.json: not that of a finished run (KeyError: 'weights_sha256')" in done.problems[1]


def test_a_run_without_metrics_is_evaluated(layout):
    for recipe in RECIPES:
        (layout.run("faces", recipe, 0) / "metrics.json").unlink()
    assert sync(PARAMS, layout).problems == []
    assert "last/test_accuracy" in by_name()["full/seed0"].data.metrics
    assert not (layout.run("faces", "full", 0) / "metrics.json").exists(), "writes nothing below results/"


def test_no_runs(mlflow_store):
    with pytest.raises(UserError, match="results/tiny/runs: no finished run"):
        sync(PARAMS, Layout("tiny"))


# --- check ---


def test_every_cell_agrees(view):
    assert check(PARAMS, view) == (6 * 29, [])


def test_a_metric_that_was_changed_in_mlflow_is_one_line(changed):
    run = by_name()["full/seed0"]
    name = "last/test_accuracy"
    with sqlite3.connect("mlflow.db") as connection:
        connection.execute(
            "UPDATE latest_metrics SET value = 0.125 WHERE run_uuid = ? AND key = ?", [run.info.run_id, name]
        )
    expected = f"faces full seed0: metric {name} is 0.125 in MLflow, {run.data.metrics[name]} in its metrics.json"
    assert check(PARAMS, changed)[1] == [expected]


def test_a_cell_that_was_changed_in_the_table_is_one_line(changed):
    path = changed.root / "table1.csv"
    table = pd.read_csv(path, dtype=str, keep_default_na=False)
    before = table.loc[4, "p_value"]
    table.loc[4, "p_value"] = "0.123"
    table.loc[5, "mad"] = "0.7"
    table.to_csv(path, index=False)
    assert sorted(check(PARAMS, changed)[1]) == [
        f"faces full test_selected: mad is 0.7 in {path}, 0.6 in MLflow",
        f"faces full val_selected: p_value is 0.123 in {path}, {before} in MLflow",
    ]
    table[:5].to_csv(path, index=False)
    lines = check(PARAMS, changed)[1]
    assert f"faces full test_selected: accuracy is empty in {path}" in " ".join(lines)


def test_a_run_that_is_not_in_mlflow(changed):
    open_client().delete_run(by_name()["full/seed1"].info.run_id)
    lines = check(PARAMS, changed)[1]
    assert lines == ["faces full seed1: missing or incomplete in MLflow; run: transfer track sync"]


def test_no_table(mlflow_store):
    with pytest.raises(UserError, match=r"results/tiny/table1\.csv: missing; make it with: snakemake"):
        check(PARAMS, Layout("tiny"))


# --- live and from the files ---


def test_the_sync_completes_what_the_training_showed(trained, mlflow_store):
    shutil.copytree(trained / "results/tiny/data", "results/tiny/data")
    shutil.copytree(trained / "params", "params")
    layout = Layout("tiny")
    train(PARAMS.model_copy(update={"tracking": True}), "faces", "full", 0, layout, listeners=[MlflowListener()])
    wait_for(lambda: not list(Path(os.environ["TMPDIR"]).rglob("*.jsonl")))
    (live,) = runs(EXPERIMENT)
    shown = {metric: len(points(live.info.run_id, metric)) for metric in live.data.metrics}
    assert shown["epoch/val_loss"] == shown["system/epoch_seconds"] == 2 and shown["last/test_accuracy"] == 1
    assert live.info.status == "FINISHED"

    done = sync(PARAMS, layout)
    assert (done.created, done.completed) == (0, 1)
    (run,) = runs(EXPERIMENT)
    assert run.info.run_id == live.info.run_id
    # The same names and values both ways: only what the files alone say is new, and nothing is there twice.
    assert {metric: len(points(run.info.run_id, metric)) for metric in run.data.metrics} == shown
    assert run.data.params == live.data.params
    new = {"weights", "weights_sha256", "transfer.files", "transfer.in_table"}
    assert run.data.tags.keys() - live.data.tags.keys() == new
    assert {key: run.data.tags[key] for key in live.data.tags} == live.data.tags


def test_a_sync_waits_for_the_writer(trained, mlflow_store):
    """A run that ended, but is not shown yet, is not logged twice."""
    shutil.copytree(trained, Path.cwd(), dirs_exist_ok=True)
    layout = Layout("tiny")
    run = layout.run("faces", "full", 0)
    env = json.loads((run / "env.json").read_text())
    start = {"experiment": "tiny", "dataset": "faces", "recipe": "full", "seed": 0, "digest": env["digest"]}
    tracker = Tracking(**start, params={}, tags={})
    for row in pd.read_csv(run / "history.csv").to_dict("records"):
        tracker.log_epoch(row)
    tracker.finish("FINISHED", run)
    done = sync(PARAMS, layout)
    assert (done.created, done.completed) == (3, 1)
    assert [len(points(run.info.run_id, "epoch/val_loss")) for run in runs(EXPERIMENT)] == [2] * 4
