"""The pictures of attention: which faces, what is drawn, the same bytes every time."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from finished_runs import CLASSES, params_of_two
from PIL import Image

from transfer.evaluation.network import load_model, read_faces
from transfer.explain.attention import (
    JET,
    Tile,
    draw_grid,
    explain,
    lanets_figure,
    one_per_class,
    overlay,
    stretched,
    write_attention,
)
from transfer.explain.relevance import relevance_maps
from transfer.runs.predictions import read_predictions
from transfer.training.batches import FaceStore, normalize
from transfer.utils.errors import UserError
from transfer.utils.plots import save

pytestmark = pytest.mark.usefixtures("one_thread")
RECIPES = ["baseline", "full"]
PARAMS = params_of_two()


@pytest.fixture(scope="module")
def weights(finished):
    return finished.run("faces", "full", 0) / "model.safetensors"


def test_the_first_face_that_all_have_right():
    labels = np.array([2, 0, 0, 1, 2, 0, 1])
    one, other = np.array([2, 0, 0, 0, 1, 0, 0]), np.array([0, 1, 0, 1, 2, 0, 1])
    # 0: the face at 1 is wrong in one column; 1: none that both have right, so the first; 2: neither, the first
    assert one_per_class(labels, [one, other]).to_dict() == {0: 2, 1: 3, 2: 0}
    assert one_per_class(labels, [one]).to_dict() == {0: 1, 1: 3, 2: 0}


# --- drawing ---


def test_overlay_is_the_mean_of_face_and_colour():
    face = np.array([[[0, 0, 0], [200, 100, 50]]], np.uint8)
    found = overlay(face, np.array([[0.0, 1.0]]))
    low, high = (np.array(JET(value)[:3]) * 255 for value in (0.0, 1.0))
    assert np.abs(found[0, 0] - low / 2).max() <= 0.5
    assert np.abs(found[0, 1] - (high + [200, 100, 50]) / 2).max() <= 0.5
    assert low.argmax() == 2 and high.argmax() == 0, "blue is low, red is high"


def test_stretched():
    assert stretched(np.array([0.25, 0.5, 0.75])).tolist() == [0, 0.5, 1]
    assert stretched(np.full(3, 0.7)).tolist() == [0, 0, 0]


def test_a_grid_has_a_picture_for_every_tile(tmp_path):
    face = np.zeros((8, 8, 3), np.uint8)
    heat = np.linspace(0, 1, 64).reshape(8, 8)
    rows = [("first", [Tile(face), Tile(face, heat, "0.5")]), ("second", [Tile(face), Tile(face, heat * 0)])]
    figure = draw_grid("title", ["face", "map"], rows)
    assert len(figure.axes) == 4
    words = [(axes.get_title(), axes.get_ylabel(), axes.get_xlabel()) for axes in figure.axes]
    assert words == [("face", "first", ""), ("map", "", "0.5"), ("", "second", ""), ("", "", "")]
    assert figure.get_suptitle() == "title"
    figure.draw_without_rendering()
    boxes = [axes.get_position() for axes in figure.axes]
    assert all(0 <= box.x0 < box.x1 <= 1 and 0 <= box.y0 < box.y1 <= 1 for box in boxes)
    assert not any(boxes[i].overlaps(boxes[j]) for i in range(4) for j in range(i))
    assert [len(axes.collections) for axes in figure.axes] == [0, 1, 0, 0], "a flat map has no line half way"
    with pytest.raises(UserError, match=r"x\.gif: unknown kind of picture; use a name that ends in \.png or \.svg"):
        save(figure, tmp_path / "x.gif")
    assert not list(tmp_path.iterdir())


# --- an experiment ---


def test_the_figures_of_an_experiment(layout):
    paths = write_attention(PARAMS, layout, "faces", RECIPES, 0)
    kinds = ("png", "svg", "json")
    assert [path.name for path in paths] == [
        f"{name}_faces.{kind}" for name in ("attention", "lanets") for kind in kinds
    ]
    before = [path.read_bytes() for path in paths]
    assert [path.read_bytes() for path in write_attention(PARAMS, layout, "faces", RECIPES, 0)] == before
    assert Image.open(paths[0]).size[0] > 300
    svg = paths[1].read_text()
    assert "<svg" in svg and "<dc:date>" not in svg and svg.count("<image") == len(CLASSES) * 3
    about = json.loads(paths[2].read_text())
    assert about["synthetic"] is False, "nobody said that these faces are synthetic"
    assert (about["n"], about["seed"], about["protocol"], about["recipes"]) == (3, 0, "val_selected", RECIPES)
    assert set(about["faces"]) == set(CLASSES)
    assert "3 test faces, seed 0, val_selected" in about["caption"] and "(synthetic faces)" not in about["caption"]


def test_synthetic_faces_are_marked(layout):
    definitions = {"faces": {"parser": "rafdb", "archive": "one", "synthetic": 1}}
    params = params_of_two(dataset_definitions=definitions, datasets=["faces"])
    paths = write_attention(params, layout, "faces", ["full"], 0)
    about = json.loads(paths[2].read_text())
    assert about["synthetic"] is True and "(synthetic faces)" in about["caption"]


def test_faces_are_those_that_the_predictions_have_right(layout):
    about = json.loads(write_attention(PARAMS, layout, "faces", RECIPES, 0)[2].read_text())
    faces = read_faces(layout.data("faces"))
    right = {}
    for recipe in RECIPES:
        found = read_predictions(layout.run("faces", recipe, 0) / "predictions.parquet")
        found = found[(found["split"] == "test") & (found["protocol"] == "val_selected")].set_index("sample")
        said = found[[f"p_{name}" for name in CLASSES]].to_numpy().argmax(axis=1)
        right[recipe] = dict(zip(found.index, said == found["label"], strict=True))
    for label, name in enumerate(CLASSES):
        candidates = faces.manifest.loc[faces.manifest["label"] == label, "sample"]
        both = [sample for sample in candidates if all(right[recipe][sample] for recipe in RECIPES)]
        assert about["faces"][name] == (both or list(candidates))[0]


def test_maps_are_for_the_predicted_class_at_the_size_of_the_faces(finished):
    layout = finished
    model, about = load_model(layout.run("faces", "full", 0) / "model.safetensors")
    faces = read_faces(layout.data("faces"))
    rows = faces.rows[:3]
    store = FaceStore(faces.store, 16, rows)
    found = explain(model, store, rows, [2, 0, 1])
    assert found.faces.shape == (3, 32, 32, 3) and found.lanets.shape == (3, 2, 32, 32)
    expected = relevance_maps(model, normalize(store.images(rows, torch.device("cpu"))), torch.tensor([2, 0, 1]), 32)
    assert np.allclose(found.relevance, expected, atol=1e-4)
    assert (found.faces == np.load(faces.store)[rows]).all()


def test_more_faces_than_fit_into_a_batch(finished):
    layout = finished
    model, _ = load_model(layout.run("faces", "full", 0) / "model.safetensors")
    faces = read_faces(layout.data("faces"))
    store, classes = FaceStore(faces.store, 16, faces.rows), faces.manifest["label"].tolist()
    whole = explain(model, store, faces.rows, classes)
    parts = explain(model, store, faces.rows, classes, batch_size=3)
    assert np.allclose(whole.relevance, parts.relevance, atol=1e-3) and np.allclose(
        whole.lanets, parts.lanets, atol=1e-5
    )


def test_recipes_without_lanets(layout):
    paths = write_attention(PARAMS, layout, "faces", ["baseline"], 0)
    assert paths[4].read_text().count("<image") == len(CLASSES)
    figure = lanets_figure("what", [], [])
    assert "these recipes have no LANets" in figure.get_suptitle()


def test_a_missing_dataset(layout):
    (layout.data("faces") / "split.parquet").unlink()
    with pytest.raises(UserError, match=r"split\.parquet: missing; run: snakemake"):
        write_attention(PARAMS, layout, "faces", RECIPES, 0)


# --- the command line ---


@pytest.fixture
def directory(tmp_path, monkeypatch):
    (tmp_path / "params").mkdir()
    shutil.copy(Path(__file__).parents[2] / "params" / "default.yaml", tmp_path / "params")
    monkeypatch.chdir(tmp_path)


@pytest.mark.usefixtures("directory")
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["attention", "--recipes", "baseline,fuller"], "--recipes fuller: not in experiment demo; allowed: baseline"),
        (["attention", "--dataset", "rafdb"], "--dataset rafdb: not in experiment demo"),
        (["attention"], "results/demo/data/demo_rafdb/aligned.npy: missing; run: snakemake"),
        (
            ["table", "--name", "nothing", "--dataset", "demo_rafdb"],
            "--name nothing: not in table_definitions; allowed",
        ),
    ],
)
def test_figure_mistakes_are_one_line(transfer, arguments, message):
    code, out, err = transfer("figure", *arguments)
    assert (code, out) == (1, "") and err.startswith("error: ") and err.count("\n") == 1
    assert message in err
    assert not Path("results").exists()
