"""Random valid archives, in every layout and with random oddities: the index holds what was written, and no more."""

import tempfile
import zipfile
from pathlib import Path

import numpy as np
from archives import FORMS, pack, tar_gz_bytes, zip_bytes
from hypothesis import given, settings
from hypothesis import strategies as st
from test_affectnet import npy
from test_ferplus import TO_FER2013, USAGE
from test_forms import full

from transfer.datasets import affectnet, ferplus, rafdb, registry
from transfer.datasets.archives import BY_THE_SYSTEM, open_source

FIXED = settings(max_examples=30, deadline=None, derandomize=True, database=None)
COORDINATES = st.integers(0, 4000).map(lambda n: n / 8)
ENCODINGS = st.sampled_from(["utf-8", "utf-8-sig", "utf-16"])
LINE_ENDS = st.sampled_from(["\n", "\r\n"])


def lines_of(rows, draw):
    """A text file of these lines, with blank ones between them."""
    end = draw(LINE_ENDS)
    return "".join(row + end * draw(st.integers(1, 2)) for row in rows).encode(draw(ENCODINGS))


def table_of(rows, header, draw):
    """A csv file with its columns in any order, among others."""
    columns = draw(st.permutations([*header, *draw(st.sampled_from([[], [""], ["fold", "note"]]))]))
    rows = [dict.fromkeys(columns, "0") | row for row in rows]
    return full(columns, rows, draw(st.sampled_from(",;\t")), draw(ENCODINGS))


@st.composite
def packed(draw, layout):
    """Parser, its options, files with their packaging, and the truth: path -> (split, label, further columns)."""
    parser, options, files, truth, unlabelled = draw(layout)
    stray = draw(st.dictionaries(st.sampled_from(["notes/a.jpg", "b.PNG", "c.webp"]), st.just(b"x")))
    clutter = {"readme.txt": b"r", "__MACOSX/._x.jpg": b"m", ".DS_Store": b"d", "Thumbs.db": b"t"}
    everything = files | stray | {name: clutter[name] for name in draw(st.sets(st.sampled_from(sorted(clutter))))}
    everything = dict(draw(st.permutations(sorted(everything.items()))))
    if top := draw(st.sampled_from(["", "top/", "a b/ü/"])):
        everything = {top + name: content for name, content in everything.items()}
        truth = {top + path: row for path, row in truth.items()}
    how = draw(st.sampled_from([*FORMS, "windows", "inner zip", "inner tar.gz", "two levels"]))
    return parser, options, everything, truth, len(stray) + unlabelled, how


def write(files, how, folder):
    """Write the files as ``how`` says; return where, and what stands before their names."""
    if how in FORMS:
        return pack(files, how, folder / "data"), ""
    if how == "windows":
        with zipfile.ZipFile(folder / "data.zip", "w") as handle:
            for name, content in files.items():
                info = zipfile.ZipInfo("x")
                info.filename = name.replace("/", "\\")
                handle.writestr(info, content)
        return folder / "data.zip", ""
    if how == "two levels":
        inner = {"in.zip": zip_bytes({"deep.tar.gz": tar_gz_bytes(files)})}
        return pack(inner, "zip", folder / "data"), "in/deep/"
    make, suffix = (zip_bytes, "zip") if how == "inner zip" else (tar_gz_bytes, "tar.gz")
    return pack({f"in.{suffix}": make(files)}, "folder", folder / "data"), "in/"


def check(case):
    parser, options, files, truth, stray, how = case
    with tempfile.TemporaryDirectory() as folder:
        path, prefix = write(files, how, Path(folder))
        with open_source(path) as source:
            table = registry.get(parser).index(source, **options)
            total = len({*source.names(), *source.left_out})
    found = {row["path"]: row for row in table.to_dict("records")}
    assert len(found) == len(table) and set(found) == {prefix + path for path in truth}
    for path, (split, label, columns) in truth.items():
        row = found[prefix + path]
        assert (row["split"], row["label"]) == (split, label), path
        for column, value in columns.items():
            assert np.isclose(row[column], value, equal_nan=True), (path, column)
    about = table.attrs["files"]
    left_out = {why: entry["files"] for why, entry in about["left_out"].items()}
    assert about["total"] == total == about["indexed"] + about["read"] + sum(left_out.values())
    assert sum(n for why, n in left_out.items() if why not in (registry.OTHER_FILES, BY_THE_SYSTEM)) == stray


def splits(draw, names):
    return [(split, n) for split in names for n in range(draw(st.integers(1, 6)))]


@st.composite
def rafdb_layout(draw):
    form = draw(st.sampled_from(["original", "aligned", "aligned_224", "kaggle"]))
    files, truth, lines, points = {}, {}, {"train": [], "test": []}, draw(st.booleans()) and form != "kaggle"
    for split, n in splits(draw, ("train", "test")):
        # The first is of class 1, so that it shows where the numbers start.
        label, stem = draw(st.integers(1, 7)) if n else 1, f"{split}_{n + 1:05d}"
        name = f"{stem}_aligned.jpg" if form in ("aligned", "kaggle") else f"{stem}.jpg"
        path = f"{split}/{label}/{name}" if form == "kaggle" else f"Image/{form}/{name}"
        files[path] = path.encode()
        lines[split].append(f"{name},{label}" if form == "kaggle" else f"{stem}.jpg {label}")
        columns = {}
        if points:
            values = sorted(draw(st.lists(COORDINATES, min_size=10, max_size=10)))
            codes = [draw(st.integers(0, 2)), draw(st.integers(0, 2)), draw(st.integers(0, 4))]
            text = [f"{x}\t{y}" for x, y in zip(values[::2], values[1::2], strict=True)] + list(map(str, codes))
            files[f"Annotation/manual/{stem}_manu_attri.txt"] = "\n".join(text).encode()
            columns = dict(zip(rafdb.ATTRIBUTES, codes, strict=True))
            if form == "original":
                columns |= dict(zip(registry.LANDMARKS, values, strict=True))
        truth[path] = split, label - 1, columns
    if form == "kaggle":
        for split, rows in lines.items():
            files[f"{split}_labels.csv"] = lines_of(["image,label", *rows], draw)
    elif form == "aligned_224":
        files |= {f"EmoLabel/{split}.txt": lines_of(rows, draw) for split, rows in lines.items()}
    else:
        rows = draw(st.permutations([*lines["train"], *lines["test"]]))
        files["EmoLabel/list_patition_label.txt"] = lines_of(rows, draw)
    return "rafdb", {"images": "aligned" if form == "kaggle" else form}, files, truth, 0


@st.composite
def ferplus_layout(draw):
    form, rule = draw(st.sampled_from(["png", "box", "csv", "icml"])), draw(st.sampled_from(["majority", "argmax"]))
    files, truth, rows, without = {}, {}, {split: [] for split in USAGE}, 0
    pixels, new = [], []
    for number, (split, _) in enumerate(splits(draw, USAGE)):
        votes = draw(st.lists(st.integers(0, 10), min_size=10, max_size=10))
        label = int(ferplus.label_votes(np.array([votes]), rule)[0])
        folder = next(name for name, of in ferplus.FOLDERS.items() if of == split)
        name = f"fer{number:07d}.png"
        path = (
            f"{folder}/{name}"
            if form in ("png", "box")
            else f"{'fer2013' if form == 'csv' else 'icml_face_data'}.csv#{number}"
        )
        if form in ("png", "box"):
            files[path] = path.encode()
            box = ['"(0, 0, 48, 48)"'] if form == "box" else []
            rows[split].append(",".join([name, *box, *map(str, votes)]))
            without += label < 0
        majority = int(ferplus.label_votes(np.array([votes]), "majority")[0])
        code = TO_FER2013.get(ferplus.CLASSES[max(majority, 0)], 6)
        pixels.append({"emotion": code, "pixels": "0 1 2", "Usage": USAGE[split]})
        new.append({"Usage": USAGE[split], "Image name": name} | dict(zip(ferplus.COLUMNS, votes, strict=True)))
        if label >= 0:
            truth[path] = split, label, dict(zip(ferplus.VOTES, votes, strict=True))
    if form in ("png", "box"):
        for folder, split in ferplus.FOLDERS.items():
            files[f"{folder}/label.csv"] = lines_of(rows[split], draw)
    else:
        name = "fer2013.csv" if form == "csv" else "icml_face_data.csv"
        files[name] = table_of(pixels, ["emotion", "pixels", "Usage"], draw)
        files["fer2013new.csv"] = table_of(new, ["Usage", "Image name", *ferplus.COLUMNS], draw)
    return "ferplus", {"rule": rule}, files, truth, without


@st.composite
def affectnet_layout(draw):
    release, classes = draw(st.sampled_from(["full", "reduced", "words", "numbers"])), draw(st.sampled_from([7, 8]))
    files, truth, rows, without = {}, {}, {"train": [], "test": []}, 0
    suffixes = st.sampled_from(["jpg", "JPG", "png", "bmp"])
    listed = [*splits(draw, ("train", "test"))]
    for number, (split, n) in enumerate(listed):
        code, suffix = draw(st.integers(0, 10)), draw(suffixes)
        valence, arousal = draw(st.integers(-8, 8)) / 8, draw(st.integers(-8, 8)) / 8
        points = np.array(draw(st.lists(COORDINATES, min_size=2, max_size=2))) + np.arange(136).reshape(68, 2) / 4
        five = [*points[36:42].mean(axis=0), *points[42:48].mean(axis=0), *points[[30, 48, 54]].ravel()]
        columns = {"valence": valence, "arousal": arousal} | dict(zip(registry.LANDMARKS, five, strict=True))
        if release == "full":
            path = f"{affectnet.IMAGES}/{number % 3}/{number}.{suffix}"
            text = ";".join(map(str, points.ravel()))
            row = dict(
                zip(
                    affectnet.HEADER,
                    [f"{number % 3}/{number}.{suffix}", 0, 0, 9, 9, text, code, valence, arousal],
                    strict=True,
                )
            )
            rows[split].append(row | {"expression": draw(st.sampled_from([f"{code}", f"{code}.0"]))})
        elif release == "reduced":
            folder = "train_set" if split == "train" else "val_set"
            path, stem = f"{folder}/images/{n}.{suffix}", f"{folder}/annotations/{n}"
            as_text = draw(st.booleans())
            wrap = (lambda value: npy(str(value))) if as_text else (lambda value: npy(np.float64(value)))
            files |= {f"{stem}_exp.npy": wrap(code), f"{stem}_val.npy": wrap(valence), f"{stem}_aro.npy": wrap(arousal)}
            files[f"{stem}_lnd.npy"] = npy(points.ravel())
        else:
            folder = code if release == "numbers" else [*affectnet.CLASSES, *affectnet.NOT_EXPRESSIONS.values()][code]
            path, columns = f"{'train' if split == 'train' else 'val'}/{folder}/{draw(st.integers(1, 3))}.{suffix}", {}
            if path in files:
                continue
            deep = draw(st.booleans()) and draw(st.booleans())
            path = path.replace(f"/{folder}/", f"/{folder}/sub/") if deep else path
        files[path] = path.encode()
        if code < classes and "/sub/" not in path:
            truth[path] = split, code, columns
        else:
            without += 1
    if release == "numbers":  # without a class 0 it is not known where the numbers start
        files |= {"train/0/first.jpg": b"", "val/0/first.jpg": b"v"}
        truth |= {"train/0/first.jpg": ("train", 0, {}), "val/0/first.jpg": ("test", 0, {})}
    if release == "words":
        files["train/happy/first.jpg"], truth["train/happy/first.jpg"] = b"", ("train", 1, {})
    if release == "full":
        for name, split in (("training.csv", "train"), ("validation.csv", "test")):
            files[name] = table_of(rows[split], affectnet.HEADER, draw)
    options = {"classes": classes, "release": release if release in ("full", "reduced") else "folders"}
    return "affectnet", options, files, truth, without


@FIXED
@given(packed(rafdb_layout()))
def test_rafdb(case):
    check(case)


@FIXED
@given(packed(ferplus_layout()))
def test_ferplus(case):
    check(case)


@FIXED
@given(packed(affectnet_layout()))
def test_affectnet(case):
    check(case)
