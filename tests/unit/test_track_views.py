"""What a new experiment in MLflow offers: its description and its saved views, as MLflow's pages read them."""

import base64
import json
import zlib

import pytest
from tracking_store import open_client

from transfer.tracking.store import experiment_id


def views(client, name: str) -> tuple[str, dict[str, dict]]:
    tags = client.get_experiment(experiment_id(client, name)).tags
    saved = {}
    for key, value in tags.items():
        if key.startswith("mlflow.sharedViewState."):
            content = json.loads(value)
            assert key.endswith(f".{content['name']}") and len(value) < 5000, "MLflow's limit for a tag"
            method, _, state = content["state"].partition(";")
            assert method == "deflate"
            saved[content["name"]] = json.loads(zlib.decompress(base64.b64decode(state)))
    return tags["mlflow.note.content"], saved


@pytest.fixture
def client(mlflow_store):
    return open_client()


def test_trainings(client):
    note, saved = views(client, "demo/demo_rafdb")
    assert "per recipe" in note and list(saved) == ["accuracies", "curves"]
    columns = [f"metrics.`{protocol}/test_accuracy`" for protocol in ("last", "val_selected", "test_selected")]
    assert saved["accuracies"]["selectedColumns"] == columns
    assert set(saved["accuracies"]["columnWidths"]) == set(columns) < set(saved["accuracies"]["columnOrder"])
    assert saved["accuracies"]["searchFilter"] == "", "parents and seeds"
    assert saved["curves"]["groupBy"]["groupByKeys"] == [{"mode": "tag", "groupByData": "recipe"}]
    assert saved["curves"]["searchFilter"] == "tags.seed != ''"


def test_a_search(client):
    note, saved = views(client, "demo/search/searched/demo_rafdb")
    assert note == "Search searched of demo: a run per trial, below it one per seed" and list(saved) == ["trials"]
    assert saved["trials"]["selectedColumns"][:2] == ["metrics.`epoch/val_accuracy`", "params.`model.mad`"]
    assert saved["trials"]["orderByKey"] == "metrics.`epoch/val_accuracy`" and not saved["trials"]["orderByAsc"]


def test_what_was_chosen_in_mlflow_stays(client):
    name = "demo/demo_rafdb"
    client.set_experiment_tag(experiment_id(client, name), "mlflow.note.content", "mine")
    assert views(client, name)[0] == "mine"
