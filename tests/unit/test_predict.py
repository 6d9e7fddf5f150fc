"""A model on photos: what is found, in Python and on the command line, and one line for whatever is wrong."""

import io
import json
import subprocess
import sys
import zipfile

import numpy as np
import pandas as pd
import pytest
import torch
from finished_runs import CLASSES, edited
from PIL import Image, ImageOps
from safetensors.torch import save_file

import transfer as package
from transfer.datasets.synthetic.render import render_face
from transfer.evaluation.network import load_model
from transfer.predict.results import Results
from transfer.runs.predictions import probabilities_of, read_predictions
from transfer.utils.errors import UserError


@pytest.fixture(scope="module")
def weights(finished):
    return finished.run("faces", "full", 0) / "model.safetensors"


@pytest.fixture(scope="module")
def model(weights, one_thread):
    return package.load(weights, device="cpu", threads=1)


def face(seed, size):
    return render_face(np.random.default_rng(seed), "happiness", 0.8, size).image


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """A synthetic face, two of them in one picture, and a picture without any."""
    folder = tmp_path_factory.mktemp("photos")
    two = np.full((300, 560, 3), 120, np.uint8)
    two[60:220, 30:190], two[20:280, 270:530] = face(1, 160), face(2, 260)
    for name, pixels in (("one", face(160, 160)), ("two", two), ("empty", np.full((70, 90, 3), 120, np.uint8))):
        Image.fromarray(pixels).save(folder / f"{name}.png")
    return folder


# --- Python ---


def test_every_face_of_a_photo(model, photos):
    [photo] = model.predict(photos / "two.png")
    assert (photo.width, photo.height, photo.status, len(photo.faces)) == (560, 300, "found", 2)
    large, small = photo.faces
    assert large.box[0] > 270 and small.box[2] < 190, "the largest first"
    for found in photo.faces:
        left, top, right, bottom = found.box
        assert (found.landmarks > [left, top]).all() and (found.landmarks < [right, bottom]).all()
        assert 0.9 <= found.detection <= 1 and found.aligned.shape == (32, 32, 3)
        assert list(found.probabilities) == CLASSES and sum(found.probabilities.values()) == pytest.approx(1, abs=1e-5)
        assert found.probability == max(found.probabilities.values()) == found.probabilities[found.expression]


def test_whatever_holds_a_picture(model, photos, monkeypatch):
    path = photos / "one.png"
    expected = model.predict(path).to_json()[0]["faces"]
    image = Image.open(path)
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(path.read_bytes())))
    kinds = [
        str(path),
        path.read_bytes(),
        image,
        np.asarray(image),
        image.convert("RGBA"),
        str(photos / "on*.png"),
        "-",
    ]
    for kind in kinds:
        [photo] = model.predict(kind)
        assert Results([photo]).to_json()[0]["faces"] == expected, kind
    together = model.predict([*kinds[:-1], photos])
    assert [photo.status for photo in together] == ["found"] * 6 + ["none", "found", "found"]
    alone = expected[0]["probabilities"]["happy"]
    assert together[0].faces[0].probabilities["happy"] == pytest.approx(alone, abs=0.01)  # perhaps in bf16


def test_a_grey_and_a_turned_picture_are_read_upright(model, photos):
    image = Image.open(photos / "one.png")
    turned, exif = image.transpose(Image.Transpose.ROTATE_90), Image.Exif()
    exif[0x0112] = 6  # to be turned by 270 degrees
    file = io.BytesIO()
    turned.save(file, "PNG", exif=exif)
    upright = model.predict(Image.open(photos / "one.png")).faces[0]
    found = model.predict(file.getvalue()).faces[0]
    assert np.allclose(found.box, upright.box) and found.expression == upright.expression
    assert model.predict(ImageOps.grayscale(image))[0].status == "found"
    assert model.predict(np.asarray(ImageOps.grayscale(image)))[0].status == "found"
    assert model.predict(image.convert("CMYK"))[0].status == "found"


def test_an_aligned_store_gets_the_predictions_of_the_training(finished, model):
    table = model.predict(finished.data("faces") / "aligned.npy").frame()
    assert set(table["status"]) == {"aligned"} and table["detection"].isna().all()
    assert table["image"].tolist() == [f"aligned.npy#{row}" for row in range(len(table))]
    predictions = read_predictions(model.weights.parent / "predictions.parquet").query("protocol == 'val_selected'")
    rows = predictions["sample"].str.removeprefix("face").astype(int)
    columns = [f"p_{name}" for name in CLASSES]
    assert np.allclose(table.loc[rows, columns], probabilities_of(predictions), atol=0.02)  # perhaps in bf16
    store = np.load(finished.data("faces") / "aligned.npy")
    assert (
        model.predict(store[:3]).frame()[columns].equals(model.predict(list(store[:3]), aligned=True).frame()[columns])
    )


def test_results_as_text_and_frame(model, photos):
    results = model.predict([photos / "two.png", photos / "empty.png", b"text"])
    lines = str(results).splitlines()
    assert lines[0].split() == ["image", "face", "expression", "detection", "box"] and len(lines) == 5
    assert lines[3].endswith("no face found") and lines[4].split() == ["image", "2", "broken"]
    frame = results.frame()
    assert frame["image"].tolist() == [str(photos / "two.png")] * 2 + [str(photos / "empty.png"), "image 2"]
    assert frame["status"].tolist() == ["found", "found", "none", "broken"]
    assert frame["face"].tolist()[:2] == [1, 2] and frame["face"].isna().tolist()[2:] == [True, True]
    assert "not an image" in frame["error"].iloc[3] and "time" not in frame
    assert "tiny/faces/full/seed0" in repr(model) and "happy" in repr(model)


def test_attention(model, photos, finished):
    [found] = model.predict(photos / "one.png", attention=True).faces
    assert found.relevance.shape == (32, 32) and found.relevance.max() == 1 and found.lanets.shape == (2, 32, 32)


def test_photos_are_put_onto_the_template_of_the_training_data(weights, photos, tmp_path):
    faces = load_model(weights)[1]["faces"] | {"template": "none", "size": 40}
    whole = package.load(edited(weights, tmp_path / "w.safetensors", faces=faces)).predict(photos / "one.png")
    assert whole[0].status == "aligned" and whole.faces[0].aligned.shape == (40, 40, 3)
    old = {"landmarks": "mtcnn", "size": 32, "no_face": "whole", "broken": "stop", "min_side": 96, "threads": 1}
    before_templates = package.load(edited(weights, tmp_path / "old.safetensors", faces=old))
    assert before_templates.predict(photos / "one.png")[0].status == "found"


def video(path, frames, rate=10):
    import av

    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=rate)
        stream.width, stream.height, stream.pix_fmt = 320, 240, "yuv420p"
        for pixels in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode())


def test_a_video_is_sampled_and_its_faces_are_followed(model, tmp_path):
    def frame(k):
        pixels = np.full((240, 320, 3), 90, np.uint8)
        pixels[20 + k // 3 : 180 + k // 3, k : k + 160] = face(3, 160)
        if k >= 20:
            pixels[100:200, 220:320] = face(4, 100)
        return pixels

    video(tmp_path / "film.mp4", [frame(k) for k in range(30)])
    results = model.predict(tmp_path / "film.mp4", fps=2)
    assert [photo.time for photo in results] == pytest.approx([0, 0.5, 1, 1.5, 2, 2.5])
    assert [[face.track for face in photo.faces] for photo in results] == [[1]] * 4 + [[1, 2]] * 2
    assert results.frame()["time"].nunique() == 6


@pytest.mark.parametrize("content", [b"", b"text", b"\0" * 5000])
def test_a_video_without_frames(model, tmp_path, content):
    (tmp_path / "film.mp4").write_bytes(content)
    with pytest.raises(UserError, match=r"film\.mp4: (not a video that can be read|a video without frames)"):
        model.predict(tmp_path / "film.mp4")


# --- the command line ---


@pytest.fixture
def predict(transfer, weights, tmp_path, monkeypatch, one_thread):
    monkeypatch.chdir(tmp_path)
    return lambda *arguments: transfer("predict", "--model", str(weights.parent), *map(str, arguments))


def test_a_table_and_what_is_drawn(predict, photos, tmp_path):
    drawn = ["--annotate", "boxes.jpg", "--attention", "maps.svg", "--out", "new/two.csv"]
    code, out, err = predict(photos / "two.png", *drawn)
    assert (code, out, err) == (0, "", "")
    table = pd.read_csv("new/two.csv")
    assert table["status"].tolist() == ["found", "found"] and "p_neutral" in table
    before, after = (np.asarray(Image.open(path)).astype(int) for path in (photos / "two.png", "boxes.jpg"))
    assert after.shape == before.shape and (np.abs(after - before).max(axis=2) > 60).sum() > 1000
    assert (tmp_path / "maps.svg").read_text().startswith("<?xml")

    code, out, err = predict(photos, "--annotate", "drawn", "--attention", "maps", "--json")
    assert code == 0 and [photo["status"] for photo in json.loads(out)] == ["none", "found", "found"]
    assert len(list((tmp_path / "drawn").iterdir())) == 3 and len(list((tmp_path / "maps").iterdir())) == 2
    assert pd.read_csv(io.StringIO(predict(photos, "--csv")[1]))["status"].tolist() == ["none", *3 * ["found"]]
    assert "no face found" in predict(photos / "empty.png")[1]


def test_one_broken_image_of_several(predict, photos, tmp_path):
    (tmp_path / "cut.png").write_bytes((photos / "two.png").read_bytes()[:3000])
    code, out, err = predict(photos / "one.png", "cut.png", photos / "empty.png")
    assert code == 1 and [line.split()[0].split("/")[-1] for line in out.splitlines()[1:]] == [
        "one.png",
        "cut.png",
        "empty.png",
    ]
    assert err.splitlines()[0].startswith("cut.png: ")
    assert err.splitlines()[1] == "error: 1 of 3 images cannot be read (above); the others are done"


def zipped():
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("a.txt", "a")
    return file.getvalue()


def saved(mode, size=(40, 40), kind="PNG", **options):
    file = io.BytesIO()
    Image.new(mode, size).save(file, kind, **options)
    return file.getvalue()


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("absent.jpg", None, "absent.jpg: no such file; check the path"),
        ("*.jpg", None, "*.jpg: no file matches this pattern"),
        ("https://example.org/a.jpg", None, "https://example.org/a.jpg: a URL, and nothing is downloaded here"),
        ("bare", "folder", "bare: a folder without images"),
        ("empty.jpg", b"", "empty.jpg: empty"),
        ("text.jpg", b"text", "text.jpg: not an image that can be decoded"),
        ("zip.jpg", zipped(), "zip.jpg: is a zip archive, not an image"),
        ("cut.jpg", saved("RGB", (200, 200), "JPEG")[:500], "cut.jpg: "),
        ("giant.png", saved("1", (9000, 9000)), "giant.png: 9000x9000 pixels; the limit is 50,000,000"),
        ("float.tif", saved("F", kind="TIFF"), "float.tif: its pixels are floating point numbers"),
        ("store.npy", b"text", "store.npy: not an aligned store"),
        ("film.mp4", b"text", "film.mp4: not a video that can be read"),
    ],
)
def test_what_is_no_picture_is_one_line_without_torch(tmp_path, name, content, message):
    if content == "folder":
        (tmp_path / name).mkdir()
    elif content is not None:
        (tmp_path / name).write_bytes(content)
    code = f"""
import sys
from transfer import cli
sys.argv = ["transfer", "predict", {name!r}]
try:
    cli.main()
finally:
    assert "torch" not in sys.modules
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (1, "") and done.stderr.count("\n") == 1, done.stderr
    assert f"error: {message}" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--out", "a.xlsx"], "a.xlsx: expected a name that ends in .csv"),
        (["--annotate", "a.pdf"], "a.pdf: expected a folder, or a name that ends in .jpg"),
        (["--attention", "a.gif"], "a.gif: expected a folder, or a name that ends in .png"),
        (["--json", "--csv"], "--json and --csv exclude each other"),
        (["--annotate", "a.jpg", "two"], "a.jpg: a file, and there are several pictures"),
        (["--model", "nowhere"], "nowhere: no such file; give the folder of a finished run"),
    ],
)
def test_wrong_options_are_one_line(predict, photos, arguments, message):
    arguments = [photos / "two.png" if argument == "two" else argument for argument in arguments]
    code, out, err = predict(photos / "one.png", *arguments)
    assert (code, out) == (1, "") and err.startswith(f"error: {message}") and err.count("\n") == 1


def test_no_model_comes_along_yet(monkeypatch, tmp_path):
    monkeypatch.setattr("transfer.models.weights.catalogue.PACKAGED", tmp_path / "none.safetensors")
    with pytest.raises(UserError, match="no model comes with this copy of the project; make it with transfer package"):
        package.load()


@pytest.mark.parametrize(
    "array",
    [np.zeros((2, 32, 32), np.uint8), np.zeros((2, 32, 16, 3), np.uint8), np.zeros((2, 32, 32, 3), np.float32)],
)
def test_an_array_that_holds_no_faces(model, tmp_path, array):
    np.save(tmp_path / "faces.npy", array)
    with pytest.raises(UserError, match=r"faces\.npy: expected uint8 \(faces, size, size, 3\), found"):
        model.predict(tmp_path / "faces.npy")


@pytest.mark.parametrize(("shape", "kind"), [((5, 5, 3), float), ((0, 5, 3), np.uint8), ((5, 5, 2, 2, 2), np.uint8)])
def test_an_array_that_is_no_picture(model, shape, kind):
    with pytest.raises(UserError, match="image 0: expected uint8 height x width x 3"):
        model.predict(np.zeros(shape, kind))


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
