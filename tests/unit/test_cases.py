"""Archives as people have them, from the files to the split: each aligned face is that of its file, with its label."""

import hashlib
import io
import json
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from archives import pack
from PIL import Image
from test_affectnet import POINTS, npy

from transfer.datasets import affectnet, rafdb
from transfer.datasets.synthetic.render import render_face

ROOT = Path(__file__).parents[2]
DATA = Path("results/case/data/d")

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def drawn():
    """Files of drawn faces, each of its own bytes: ``drawn(number, suffix)``."""
    faces = [Image.fromarray(render_face(np.random.default_rng(i), "happiness", 0.6, 64).image) for i in range(4)]

    def encode(number, suffix="jpg"):
        buffer, face = io.BytesIO(), faces[number % 4].copy()
        face.putpixel((0, 0), (number, 0, 0))
        face.save(buffer, "JPEG" if suffix.lower() == "jpg" else suffix, quality=60 + number % 40, lossless=True)
        return buffer.getvalue()

    return encode


def class_folders(drawn):
    """Suffixes of every kind, names that repeat in each folder, and images one folder deeper."""
    files, truth = {}, {}
    for split, suffixes in (("train", ("jpg", "JPG", "bmp", "png")), ("val", ("webp",))):
        for label, name in enumerate(affectnet.CLASSES):
            for k, suffix in enumerate(suffixes):
                path = f"{split}/{label}/{k}.{suffix}"
                files[path], truth[path] = drawn(len(files), suffix), name
            if split == "train":
                files[f"{split}/{label}/part/deep.jpg"] = drawn(len(files))
    return files, truth, {"images in sub-folders of a class folder": 8}


def without_labels(drawn):
    files, truth = {}, {}
    for split, per in (("train_set", 3), ("val_set", 1)):
        for code, name in enumerate(affectnet.CLASSES):
            for k in range(per):
                number = 10 * code + k
                path = f"{split}/images/{number}.jpg"
                files[path] = drawn(len(files))
                files[f"{split}/annotations/{number}_lnd.npy"] = npy(POINTS)
                if k < 2:
                    files[f"{split}/annotations/{number}_exp.npy"], truth[path] = npy(np.str_(code)), name
    return files, truth, {"images without an expression": 8}


def backslashes(drawn):
    files, truth, lines = {}, {}, []
    for split, per in (("train", 2), ("test", 1)):
        for number in range(7 * per):
            name = f"{split}_{number + 1:05d}"
            files[f"basic\\Image\\original\\{name}.jpg"] = drawn(len(files))
            truth[f"basic/Image/original/{name}.jpg"] = rafdb.CLASSES[number % 7]
            lines.append(f"{name}.jpg {number % 7 + 1}")
    return files | {"basic\\EmoLabel\\list_patition_label.txt": "\n".join(lines).encode()}, truth, {}


@pytest.mark.parametrize(
    ("make", "parser", "options"),
    [
        (class_folders, "affectnet", "{classes: 8, release: folders}"),
        (without_labels, "affectnet", "{classes: 8, release: reduced}"),
        (backslashes, "rafdb", "{}"),
    ],
)
def test_from_the_files_to_the_split(make, parser, options, drawn, tmp_path, monkeypatch, transfer):
    files, truth, dropped = make(drawn)
    monkeypatch.chdir(tmp_path)
    Path("params").mkdir()
    Path("params/default.yaml").write_bytes((ROOT / "params/default.yaml").read_bytes())
    Path("raw").mkdir()
    if parser == "rafdb":
        with zipfile.ZipFile("raw/data.zip", "w") as handle:
            for name, content in files.items():
                info = zipfile.ZipInfo("x")
                info.filename = name
                handle.writestr(info, content)
    else:
        pack(files, "folder", Path("raw/data"))
    Path("case.yaml").write_text(
        "experiment: case\nraw_dir: raw\ndatasets: [d]\nrecipes: [baseline]\nbaseline: baseline\ndataset_definitions:\n"
        f"  d: {{parser: {parser}, archive: data, options: {options}, sampling: {{val_fraction: 0.25}}}}\n"
    )
    for verb in ("index", "detect", "align", "inspect", "sample"):
        code, out, err = transfer(verb, "--params", "case.yaml", "--dataset", "d")
        assert code == 0, (verb, out, err)
    paths = pd.read_parquet(DATA / "index.parquet").set_index("sample")["path"]
    manifest = pd.read_parquet(DATA / "aligned.parquet").set_index("sample")
    assert dict(zip(paths[manifest.index], manifest["class_name"], strict=True)) == truth
    contents = {name.replace("\\", "/"): content for name, content in files.items()}
    for sample, row in manifest.iterrows():
        assert row["source_sha256"] == hashlib.sha256(contents[paths[sample]]).hexdigest()
    index = json.loads((DATA / "index.json").read_text())
    assert {why: n for why, n in index["left_out"].items() if n} == dropped
    faces = json.loads((DATA / "faces.json").read_text())["counts"]
    assert faces["images"] == len(truth) and faces["half_outside"] == 0 and "<img" in (DATA / "faces.html").read_text()
    store, split = np.load(DATA / "aligned.npy"), pd.read_parquet(DATA / "split.parquet")
    assert len(store) == len(split) == len(truth) and store.std(axis=(1, 2, 3)).min() > 10
    tested = set(manifest.index[manifest["split"] == "test"])
    assert set(split["sample"][split["split"] == "test"]) == tested and set(split["split"]) == {"train", "val", "test"}
