"""The pictures of attention: which faces, what is drawn, the same bytes every time; and any photo."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from finished_runs import CLASSES, edited, params_of_two
from PIL import Image

from transfer.datasets.synthetic.render import render_face
from transfer.evaluation.network import load_model, read_faces
from transfer.explain.attention import (
    JET,
    Tile,
    draw_grid,
    explain,
    explain_photo,
    lanets_figure,
    one_per_class,
    overlay,
    photo_figure,
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


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Photos by what is in them."""
    folder = tmp_path_factory.mktemp("photos")
    one = render_face(np.random.default_rng(160), "happiness", 0.8, 160).image
    small = render_face(np.random.default_rng(120), "neutral", 0.8, 110).image
    two = np.full((170, 290, 3), 128, np.uint8)
    two[5:165, 5:165] = one
    two[30:140, 175:285] = small
    for name, pixels in (("one", one), ("two", two), ("empty", np.full((70, 90, 3), 120, np.uint8))):
        Image.fromarray(pixels).save(folder / f"{name}.png")
    (folder / "text.png").write_bytes(b"not an image")
    return folder


# --- which faces ---


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


# --- photos ---


def test_a_photo(weights, photos, tmp_path):
    photo = explain_photo(photos / "one.png", weights)
    assert photo.n_faces == 1 and photo.classes == CLASSES
    assert photo.probabilities.sum() == pytest.approx(1, abs=1e-5)
    assert photo.explained.faces.shape == (1, 32, 32, 3) and photo.explained.lanets.shape == (1, 2, 32, 32)
    assert photo.run == "tiny/faces/full/seed0"
    save(photo_figure(photo), tmp_path / "a.png")
    save(photo_figure(explain_photo(photos / "one.png", weights)), tmp_path / "b.png")
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


def test_of_two_faces_the_one_nearest_the_centre_by_area(weights, photos):
    photo = explain_photo(photos / "two.png", weights)
    assert photo.n_faces == 2
    alone = explain_photo(photos / "one.png", weights).explained.faces.astype(float)
    assert np.abs(photo.explained.faces - alone).mean() < 20, "the larger one"


def test_a_photo_without_a_face_is_taken_whole_or_refused_as_in_the_run(weights, photos, tmp_path):
    photo = explain_photo(photos / "empty.png", weights)
    assert photo.n_faces == 0 and set(np.unique(photo.explained.faces)) == {120}

    faces = load_model(weights)[1]["faces"] | {"no_face": "drop"}
    dropping = edited(weights, tmp_path / "w.safetensors", faces=faces)
    with pytest.raises(UserError, match=r"empty\.png: no face found, and the run left such images out"):
        explain_photo(photos / "empty.png", dropping)
    assert explain_photo(photos / "empty.png", dropping, aligned=True).n_faces == 0


def test_an_aligned_photo_is_taken_as_it_is(weights, photos):
    photo = explain_photo(photos / "one.png", weights, aligned=True)
    whole = np.asarray(Image.open(photos / "one.png").resize((32, 32), Image.Resampling.BILINEAR)).astype(float)
    assert np.abs(photo.explained.faces[0] - whole).mean() < 1


def test_no_photo(weights, photos):
    with pytest.raises(UserError, match=r"absent\.png: no such file"):
        explain_photo(photos / "absent.png", weights)
    with pytest.raises(UserError, match=r"text\.png: not an image that can be read") as caught:
        explain_photo(photos / "text.png", weights)
    assert "\n" not in str(caught.value)
    with pytest.raises(UserError, match=r"text\.png: not the model\.safetensors of a run"):
        explain_photo(photos / "one.png", photos / "text.png")


# --- the command line ---


@pytest.fixture
def directory(tmp_path, monkeypatch):
    (tmp_path / "params").mkdir()
    shutil.copy(Path(__file__).parents[2] / "params" / "default.yaml", tmp_path / "params")
    monkeypatch.chdir(tmp_path)


@pytest.mark.usefixtures("directory")
def test_figure_attention_of_a_photo(transfer, weights, photos):
    code, out, err = transfer("figure", "attention", "--image", str(photos / "one.png"), "--weights", str(weights))
    assert (code, err.count("\n")) == (0, err.count("faces:"))
    lines = out.splitlines()
    assert lines[0].endswith("one.png: one face; figure: one_attention.png")
    assert {line.split()[0] for line in lines[1:]} == set(CLASSES)
    values = [float(line.split()[1]) for line in lines[1:]]
    assert values == sorted(values, reverse=True)
    assert Path("one_attention.png").stat().st_size > 1000
    two = ["figure", "attention", "--image", str(photos / "two.png"), "--weights", str(weights), "--out", "two.svg"]
    assert "2 faces: the one nearest the centre by area" in transfer(*two)[1]
    assert Path("two.svg").read_text().startswith("<?xml")
    empty = ["figure", "attention", "--image", str(photos / "empty.png"), "--weights", str(weights)]
    assert "no face found: the whole image" in transfer(*empty)[1]


@pytest.mark.usefixtures("directory")
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["attention", "--image", "x.png"], "results/demo/runs/demo_rafdb/full/seed0/model.safetensors: missing; give"),
        (["attention", "--image", "x.png", "--weights", "w.safetensors"], "w.safetensors: missing; give"),
        (["attention", "--image", "x.png", "--weights", "params", "--out", "x.pdf"], "x.pdf: expected a name"),
        (["attention", "--image", "x.png", "--weights", "params"], "x.png: no such file"),
        (["attention", "--weights", "w.safetensors"], "are for a photo; add --image"),
        (["attention", "--aligned"], "are for a photo; add --image"),
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
