"""The verbs hash, duplicates and audit one after the other, and sample with the option, on a small archive."""

import io
import json
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from archives import noise, pack
from PIL import Image, ImageOps

from transfer import cli
from transfer.audit.report import chosen_pairs, draw_pairs, write_audit
from transfer.layout import Layout
from transfer.params import read as config
from transfer.tables.build import describe

ROOT = Path(__file__).parents[2]
PARTS = {"FER2013Train": 3, "FER2013Valid": 1, "FER2013Test": 1}
CLASSES = 8
NAMES = [f"ferplus_{name}" for name in ("majority", "argmax")]
SET = [
    "--set=raw_dir=raw",
    "--set=experiment=small",
    f"--set=datasets=[{','.join(NAMES)}]",
    *(f"--set=dataset_definitions.{name}.expect=any" for name in NAMES),
]


@pytest.fixture
def transfer(tmp_path, monkeypatch, capsys):
    """Run a verb in an empty folder; returns what it prints."""
    (tmp_path / "params").mkdir()
    (tmp_path / "params/default.yaml").write_bytes((ROOT / "params/default.yaml").read_bytes())
    monkeypatch.chdir(tmp_path)

    def run(*arguments, code=0):
        monkeypatch.setattr(sys, "argv", ["transfer", *arguments, *SET])
        with pytest.raises(SystemExit) as end:
            cli.main()
        captured = capsys.readouterr()
        assert (end.value.code or 0) == code, captured.err
        return captured.out + captured.err

    return run


@pytest.fixture
def archive():
    """FERPlus in folders, an image of every class three times in train, once in val and in test.

    train 0 is test 0, and train 1 too, mirrored (all neutral); val 1 (happiness) is test 2 (surprise); train 3
    (happiness) and 6 (surprise) are one picture; train 23 is cut off.
    """
    files, seed = {}, 0
    for folder, each in PARTS.items():
        rows = []
        for number in range(each * CLASSES):
            label = number // each
            content, _ = noise(seed, 48, 48, "L")
            files[f"{folder}/{folder}{number}.png"] = content
            votes = [10 if column == label else 0 for column in range(10)]
            rows.append(f'{folder}{number}.png,"(0, 0, 48, 48)",{",".join(map(str, votes))}')
            seed += 1
        files[f"{folder}/label.csv"] = "\n".join(rows).encode()
    name = "{0}/{0}{1}.png".format
    files[name("FER2013Train", 0)] = files[name("FER2013Test", 0)]
    mirrored = io.BytesIO()
    ImageOps.mirror(Image.open(io.BytesIO(files[name("FER2013Test", 0)]))).save(mirrored, "png")
    files[name("FER2013Train", 1)] = mirrored.getvalue()
    files[name("FER2013Valid", 1)] = files[name("FER2013Test", 2)]
    files[name("FER2013Train", 3)] = files[name("FER2013Train", 6)]
    files[name("FER2013Train", 23)] = files[name("FER2013Train", 23)][:400]
    Path("raw").mkdir()
    return pack(files, "tar.gz", Path("raw/ferplus"))


def audited(transfer):
    for name in NAMES:
        for verb in ("index", "hash", "duplicates"):
            transfer(verb, "--dataset", name)
    return transfer("audit")


def test_the_audit_of_an_experiment(transfer, archive):
    printed = audited(transfer)
    assert "small: " in printed
    folder = Path("results/small/audit")
    assert sorted(path.name for path in folder.iterdir()) == ["audit.csv", "audit.md", "duplicates.csv", "pairs.png"]
    pairs = pd.read_csv(folder / "duplicates.csv")
    own = pairs[(pairs["dataset_a"] == NAMES[0]) & (pairs["dataset_b"] == NAMES[0])]
    assert own[["sample_a", "sample_b", "kind", "same_label"]].to_numpy().tolist() == [
        ["FER2013Train0", "FER2013Train1", "mirrored", True],
        ["FER2013Train0", "FER2013Test0", "exact", True],
        ["FER2013Train1", "FER2013Test0", "mirrored", True],
        ["FER2013Train3", "FER2013Train6", "exact", False],
        ["FER2013Valid1", "FER2013Test2", "exact", False],
    ]
    assert own["label_b"].tolist() == ["neutral", "neutral", "neutral", "surprise", "surprise"]
    across = pairs[pairs["dataset_a"] != pairs["dataset_b"]]
    assert (across["kind"] == "exact").sum() == 24 + 8 + 8 - 1 + 2 * 3, "the two names are one archive"

    table = pd.read_csv(folder / "audit.csv")
    row = table[(table["dataset_b"] == NAMES[0]) & (table["split_a"] == "train") & (table["split_b"] == "test")].iloc[0]
    assert row[["images_a", "images_b", "exact", "near", "mirrored"]].tolist() == [23, 8, 1, 0, 1]
    assert row[["copied_a", "copied_b", "exact_copied_a", "exact_copied_b"]].tolist() == [2, 1, 1, 1]

    text = (folder / "audit.md").read_text()
    assert "39 images compared; 1 more cannot be decoded. 3 pictures occur more than once" in text
    assert "2 of them with different labels" in text
    assert "`sampling.duplicates: drop_exact` leaves out 1 training images, `drop_near` 2." in text
    assert "- 8 test images: 1 (12.5%) have a copy in train, 1 (12.5%) pixel for pixel." in text
    assert f"| {NAMES[0]} train – {NAMES[1]} train |" in text
    with Image.open(folder / "pairs.png") as picture:
        assert picture.height > 200


def test_without_copies(transfer, archive):
    audited(transfer)
    for name in NAMES:
        path = Path(f"results/small/data/{name}/duplicates.parquet")
        pd.read_parquet(path)[:0].to_parquet(path)
    params = config.load([], ["experiment=small", f"datasets=[{NAMES[0]}]"])
    table = write_audit(params, Layout("small"))
    assert table[["exact", "near", "mirrored", "copied_a"]].to_numpy().sum() == 0
    text = Path("results/small/audit/audit.md").read_text()
    assert "8 test images: 0 (0.0%) have a copy in train" in text
    assert "Across datasets" not in text


@pytest.mark.parametrize(("way", "dropped"), [("keep", []), ("drop_exact", [0]), ("drop_near", [0, 1])])
def test_sample_leaves_training_copies_out(transfer, archive, way, dropped):
    data = Path("results/small/data") / NAMES[0]
    transfer("index", "--dataset", NAMES[0])
    pd.read_parquet(data / "index.parquet")[["sample", "split", "label"]].to_parquet(data / "aligned.parquet")
    sample = ("sample", "--dataset", NAMES[0], f"--set=sampling.duplicates={way}")
    if way != "keep":
        assert "duplicates.parquet: missing; make it with transfer duplicates" in transfer(*sample, code=1)
        transfer("hash", "--dataset", NAMES[0])
        transfer("duplicates", "--dataset", NAMES[0])
    printed = transfer(*sample)
    split = pd.read_parquet(data / "split.parquet")
    assert split.loc[split["split"] == "dropped", "sample"].tolist() == [f"FER2013Train{i}" for i in dropped]
    assert split["split"].value_counts().drop("dropped", errors="ignore").to_dict() == {
        "train": 24 - len(dropped),
        "val": 8,
        "test": 8,
    }
    assert (f"{len(dropped)} dropped" in printed) == bool(dropped)
    assert set(np.load(data / "plan_none.npy")) == set(split.loc[split["split"] == "train", "row"])
    policies = {"landmarks": "mtcnn", "template": "arcface", "size": 112, "margin": 0}
    report = {"counts": {"images": 40, "found": 39}, "policies": policies}
    report["evaluation"] = {"sha256": "0" * 64, "source_sha256": "1" * 64}
    (data / "faces.json").write_text(json.dumps(report))
    params = config.load([], ["datasets=[ferplus_majority]", f"sampling.duplicates={way}"])
    described = describe(params, Layout("small"), NAMES[0])
    assert f"{24 - len(dropped)} training, 8 validation, 8 test" in described
    assert "Synthetic faces" not in described
    drawn = config.load([], ["dataset_definitions.ferplus_majority.synthetic=1", f"sampling.duplicates={way}"])
    assert describe(drawn, Layout("small"), NAMES[0]) == f"**Synthetic faces: not a result on FERPlus.**\n\n{described}"
    said = f"; {len(dropped)} training faces left out as copies of held-out ones ({way})" in described
    assert said == bool(dropped)


def test_the_picture_shows_the_least_alike(tmp_path):
    kinds = ["near"] * 40 + ["mirrored"] * 3 + ["exact"] * 20
    pairs = pd.DataFrame({"kind": kinds, "similarity": [0.9] * 30 + [0.76] * 10 + [0.8] * 3 + [1.0] * 20})
    shown = chosen_pairs(pairs)
    assert shown["kind"].value_counts().to_dict() == {"near": 32, "exact": 16, "mirrored": 3}
    assert set(range(30, 40)) <= set(shown.index[:16])
    names = {f"{column}_{end}": "x" for column in ("sample", "split", "label") for end in "ab"}
    thumbnails = np.full((len(shown), 32, 32), 100, np.uint8)
    draw_pairs(shown.assign(distance=0, **names), thumbnails, thumbnails + 50, tmp_path / "pairs.png")
    drawn = np.asarray(Image.open(tmp_path / "pairs.png"))
    assert (drawn[:96, :96] == 100).all() and (drawn[:96, 96:192] == 150).all()
    draw_pairs(shown[:0], thumbnails, thumbnails, tmp_path / "none.png")
