import json

import numpy as np
import pandas as pd
import pytest
import torch
from finished_runs import CLASSES, edited, params_of_two
from PIL import Image
from safetensors.torch import save_file

from transfer.datasets.synthetic.render import render_face
from transfer.evaluation.network import load_model
from transfer.evaluation.predict import predict_files
from transfer.runs.predictions import probabilities_of, read_predictions
from transfer.utils.errors import UserError

COLUMNS = ["image", "status", "expression", *(f"p_{name}" for name in CLASSES)]


@pytest.fixture
def weights(finished):
    return finished.run("faces", "full", 0) / "model.safetensors"


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Two synthetic faces of different sizes, and a picture without one."""
    folder = tmp_path_factory.mktemp("photos")
    for name, size in (("one.png", 160), ("two.jpg", 120)):
        face = render_face(np.random.default_rng(size), "happiness", 0.8, size)
        Image.fromarray(face.image).save(folder / name)
    Image.new("RGB", (90, 70), (120, 130, 90)).save(folder / "empty.png")
    return [folder / name for name in ("one.png", "empty.png", "two.jpg")]


def test_photos(weights, photos, tmp_path):
    predict_files(weights, photos, tmp_path / "out.csv")
    table = pd.read_csv(tmp_path / "out.csv")
    assert table.columns.tolist() == COLUMNS
    assert table["image"].tolist() == [str(path) for path in photos]
    assert table["status"].tolist() == ["found", "none", "found"]
    probabilities = table[COLUMNS[3:]].to_numpy()
    assert np.allclose(probabilities.sum(axis=1), 1, atol=1e-5)
    assert table["expression"].tolist() == [CLASSES[i] for i in probabilities.argmax(axis=1)]
    assert not np.allclose(probabilities[0], probabilities[2], atol=1e-6)
    assert [file.name for file in tmp_path.iterdir()] == ["out.csv"]


def test_photos_are_detected_and_aligned_as_the_training_data_was(weights, photos, tmp_path, monkeypatch):
    seen = {}

    def detect(images, names, **keywords):
        seen.update(keywords)
        raise UserError("enough")

    monkeypatch.setattr("transfer.evaluation.predict.detect", detect)
    with pytest.raises(UserError, match="enough"):
        predict_files(weights, photos, tmp_path / "out.csv")
    assert seen == params_of_two().faces.search()
    assert load_model(weights)[1]["faces"]["size"] == 32


def test_an_aligned_store_gets_the_predictions_of_the_training(finished, weights, tmp_path):
    predict_files(weights, [finished.data("faces") / "aligned.npy"], tmp_path / "out.parquet")
    table = pd.read_parquet(tmp_path / "out.parquet")
    assert table.columns.tolist() == COLUMNS and set(table["status"]) == {"aligned"}
    assert table["image"].tolist() == [f"aligned.npy#{row}" for row in range(len(table))]
    predictions = read_predictions(weights.parent / "predictions.parquet").query("protocol == 'val_selected'")
    rows = predictions["sample"].str.removeprefix("face").astype(int)
    assert np.allclose(table.loc[rows, COLUMNS[3:]], probabilities_of(predictions), atol=0.02)  # perhaps in bf16


def test_photos_are_put_onto_the_template_of_the_training_data(weights, photos, tmp_path, monkeypatch):
    faces = params_of_two().faces.model_dump(mode="json") | {"template": "box", "size": 40, "margin": 0.2}
    seen = {}

    def align(*_, **keywords):
        seen.update(keywords)
        raise UserError("enough")

    monkeypatch.setattr("transfer.evaluation.predict.align_dataset", align)
    with pytest.raises(UserError, match="enough"):
        predict_files(edited(weights, tmp_path / "w.safetensors", faces=faces), photos[:1], tmp_path / "out.csv")
    assert seen == {"template": "box", "size": 40, "margin": 0.2, "broken": "stop"}


def test_weights_from_before_templates_were_a_choice(weights, photos, tmp_path):
    faces = {"landmarks": "mtcnn", "size": 32, "no_face": "whole", "broken": "stop", "min_side": 96, "threads": 1}
    old = edited(weights, tmp_path / "w.safetensors", faces=faces)
    predict_files(old, photos[:1], tmp_path / "out.csv")
    predict_files(weights, photos[:1], tmp_path / "new.csv")
    assert (tmp_path / "out.csv").read_text() == (tmp_path / "new.csv").read_text()


@pytest.mark.parametrize("content", [b"", b"not an image", b"\x89PNG\r\n\x1a\n"])
def test_a_broken_image(weights, photos, tmp_path, content):
    (tmp_path / "broken.png").write_bytes(content)
    with pytest.raises(UserError, match=r"1 broken images \(.*broken\.png") as caught:
        predict_files(weights, [photos[1], tmp_path / "broken.png"], tmp_path / "out.csv")
    assert "\n" not in str(caught.value) and not (tmp_path / "out.csv").exists()


def test_a_missing_image(weights, photos, tmp_path):
    with pytest.raises(UserError, match=r"absent\.png: no such file"):
        predict_files(weights, [photos[0], tmp_path / "absent.png"], tmp_path / "out.csv")


def test_an_unknown_kind_of_table(weights, photos, tmp_path):
    with pytest.raises(UserError, match=r"out\.xlsx: expected a name that ends in \.csv or \.parquet"):
        predict_files(weights, photos, tmp_path / "out.xlsx")


def test_a_folder_for_the_table_is_made(finished, weights, tmp_path):
    predict_files(weights, [finished.data("faces") / "aligned.npy"], tmp_path / "new" / "out.csv")
    assert (tmp_path / "new" / "out.csv").is_file()


@pytest.mark.parametrize(
    "array",
    [np.zeros((2, 32, 32), np.uint8), np.zeros((2, 32, 16, 3), np.uint8), np.zeros((2, 32, 32, 3), np.float32)],
)
def test_an_array_that_holds_no_faces(weights, tmp_path, array):
    np.save(tmp_path / "faces.npy", array)
    with pytest.raises(UserError, match=r"faces\.npy: expected uint8 \(faces, size, size, 3\), found"):
        predict_files(weights, [tmp_path / "faces.npy"], tmp_path / "out.csv")


@pytest.mark.parametrize("content", [b"", b"text", b"\x93NUMPY\x01\x00"])
def test_a_broken_store(weights, tmp_path, content):
    (tmp_path / "faces.npy").write_bytes(content)
    with pytest.raises(UserError, match=r"faces\.npy: not an aligned store"):
        predict_files(weights, [tmp_path / "faces.npy"], tmp_path / "out.csv")


def test_a_truncated_store(finished, weights, tmp_path):
    content = (finished.data("faces") / "aligned.npy").read_bytes()
    (tmp_path / "faces.npy").write_bytes(content[: len(content) // 2])
    with pytest.raises(UserError, match=r"faces\.npy: not an aligned store"):
        predict_files(weights, [tmp_path / "faces.npy"], tmp_path / "out.csv")


# --- weights ---


def test_missing_and_foreign_weights(tmp_path, weights):
    foreign = tmp_path / "foreign.safetensors"
    save_file({"weight": torch.zeros(2)}, foreign)
    other = tmp_path / "other.safetensors"
    save_file({"weight": torch.zeros(2)}, other, {"transfer": "not json", "model": "resnet"})
    (tmp_path / "text.safetensors").write_text("not safetensors")
    truncated = tmp_path / "truncated.safetensors"
    truncated.write_bytes(weights.read_bytes()[:-100])
    for path in (tmp_path / "absent.safetensors", foreign, other, tmp_path / "text.safetensors", truncated, tmp_path):
        with pytest.raises(UserError, match="not the model.safetensors of a run") as caught:
            load_model(path)
        assert str(path) in str(caught.value)


def test_weights_that_do_not_fit_their_description(weights, tmp_path):
    model = json.loads(json.dumps(load_model(weights)[1]["model"]))
    with pytest.raises(UserError, match="its tensors do not fit the model that it names"):
        load_model(edited(weights, tmp_path / "a.safetensors", model=model | {"args": {"num_lanets": 0}}))
    with pytest.raises(UserError, match="not the model.safetensors of a run"):
        load_model(edited(weights, tmp_path / "b.safetensors", model=model | {"unheard_of": 1}))
    with pytest.raises(UserError, match="^model.name: unknown model"):
        load_model(edited(weights, tmp_path / "c.safetensors", model=model | {"name": "transfer_huge"}))
