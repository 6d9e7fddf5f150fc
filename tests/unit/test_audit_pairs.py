import io

import numpy as np
import pandas as pd
import pytest
from archives import FORMS, noise, pack
from PIL import Image, ImageEnhance, ImageOps

from transfer.audit import copies as module
from transfer.audit.copies import COLUMNS, close_pairs, duplicates, hash_images
from transfer.datasets.archives import open_source
from transfer.datasets.images import stream_images
from transfer.datasets.synthetic.render import EXPRESSIONS, render_face


def encoded(image, suffix="png", **options):
    buffer = io.BytesIO()
    image.save(buffer, suffix, **options)
    return buffer.getvalue()


def jpeg(image, quality):
    return Image.open(io.BytesIO(encoded(image, "JPEG", quality=quality)))


def cut(image):
    return image.crop((2, 2, image.width - 2, image.height - 2))


COPIES = {
    "exact": lambda image: image,
    "near jpeg": lambda image: jpeg(image, 40),
    "near larger": lambda image: image.resize((200, 200), Image.Resampling.BICUBIC),
    "near darker": lambda image: ImageEnhance.Brightness(image).enhance(0.6),
    "near grey": lambda image: image.convert("L").convert("RGB"),
    "near cut": cut,
    "mirrored": ImageOps.mirror,
    "mirrored jpeg": lambda image: jpeg(ImageOps.mirror(image), 60),
}


@pytest.fixture(scope="module")
def faces():
    """Synthetic faces of different people."""
    names = [name for name in EXPRESSIONS for _ in range(3)]
    drawn = [render_face(np.random.default_rng(seed), name, 1.0, 100) for seed, name in enumerate(names)]
    return [Image.fromarray(face.image) for face in drawn]


def hashed(tmp_path, files, splits, labels=None, form="zip"):
    """Hashes and thumbnails of an archive of files, read as the workflow reads it."""
    index = pd.DataFrame({"sample": list(files), "split": splits, "class_name": labels or ["anger"] * len(files)})
    with open_source(pack(files, form, tmp_path / "archive")) as source:
        table = hash_images(stream_images(source, list(files)), index, tmp_path / "thumbnails.npy")
    return table, np.load(tmp_path / "thumbnails.npy", mmap_mode="r")


@pytest.mark.parametrize("within", [True, False])
@pytest.mark.parametrize("blocks", [(3, 5, 2), (7, 7, 100), (100, 100, 100)])
def test_close_pairs_are_those_of_brute_force(monkeypatch, within, blocks):
    monkeypatch.setattr(module, "_ROWS", blocks[0])
    monkeypatch.setattr(module, "_OTHERS", blocks[1])
    monkeypatch.setattr(module, "_PAIRS", blocks[2])
    rng = np.random.default_rng(0)
    first = rng.integers(0, 2**64, (23, 3), dtype=np.uint64)
    second = first if within else rng.integers(0, 2**64, (17, 3), dtype=np.uint64)
    limit = 25  # so that chance gives some pairs
    expected = {
        (a, b): min(int(x ^ y).bit_count() for x, y in zip(first[a].tolist(), second[b].tolist(), strict=True))
        for a in range(len(first))
        for b in range(len(second))
        if not within or a < b
    }
    expected = {pair: distance for pair, distance in expected.items() if distance <= limit}
    assert 5 < len(expected) < 100
    found = {}
    done = -1
    for now, a, b, distance in close_pairs(first, second, limit, within):
        assert now >= done
        done = now
        for pair in zip(a.tolist(), b.tolist(), distance.tolist(), strict=True):
            assert pair[:2] not in found
            found[pair[:2]] = pair[2]
    assert found == expected
    assert done == len(first)


def test_distance_is_inclusive():
    hashes = np.array([[0], [(1 << 12) - 1], [(1 << 13) - 1]], np.uint64)
    found = [(x, y) for _, a, b, _ in close_pairs(hashes, hashes, 12, True) for x, y in zip(a, b, strict=True)]
    assert found == [(0, 1), (1, 2)]


@pytest.mark.parametrize("form", FORMS)
def test_injected_copies_are_found_and_nothing_else(tmp_path, faces, form):
    """Every way of copying, applied to another drawn face each; the originals train, the copies test."""
    files = {f"face{i}.png": encoded(face) for i, face in enumerate(faces)}
    copies = {f"{name}.png": encoded(change(faces[i])) for i, (name, change) in enumerate(COPIES.items())}
    splits = ["train"] * len(files) + ["test"] * len(copies)
    pairs = duplicates(*hashed(tmp_path, files | copies, splits, form=form))
    assert list(pairs) == COLUMNS
    found = dict(zip(zip(pairs["sample_a"], pairs["sample_b"], strict=True), pairs["kind"], strict=True))
    assert found == {(f"face{i}.png", f"{name}.png"): name.split()[0] for i, name in enumerate(COPIES)}
    assert (pairs["split_a"] == "train").all() and (pairs["split_b"] == "test").all()
    assert pairs.loc[pairs["kind"] == "exact", ["distance", "similarity"]].to_numpy().tolist() == [[0, 1]]
    assert pairs["similarity"].between(0.75, 1).all() and pairs["distance"].between(0, 12).all()


def test_two_cuts_of_one_photograph_are_found_by_their_opposite_corners(monkeypatch, tmp_path, faces):
    monkeypatch.setattr(module, "similarity", lambda first, second, of: np.ones(len(of), np.float32))
    cuts, ends = {}, []
    for i, face in enumerate(faces):
        cuts[f"upper left {i}"] = encoded(face.crop((0, 0, 96, 96)))
        cuts[f"lower right {i}"] = encoded(face.crop((4, 4, 100, 100)))
        cuts[f"mirrored {i}"] = encoded(ImageOps.mirror(face.crop((4, 4, 100, 100))))
        ends += [(f"upper left {i}", f"lower right {i}"), (f"upper left {i}", f"mirrored {i}")]
    table, thumbnails = hashed(tmp_path, cuts, "train")
    whole = table.set_index("sample")["hash_0"]
    apart = [ends[i] for i in range(0, len(ends), 2) if int(whole[ends[i][0]] ^ whole[ends[i][1]]).bit_count() > 12]
    assert len(apart) > 3, "their whole hashes do not show it"
    pairs = duplicates(table, thumbnails)
    found = set(zip(pairs["sample_a"], pairs["sample_b"], strict=True))
    assert set(ends) <= found


def test_pictures_that_are_no_copies_are_not_called_so(tmp_path):
    files = {f"{seed}.png": noise(seed, 40, 40)[0] for seed in range(60)}
    assert duplicates(*hashed(tmp_path, files, "train")).empty


def test_hashes_alone_do_not_make_a_copy(tmp_path, faces):
    table, thumbnails = hashed(tmp_path, {f"{i}.png": encoded(face) for i, face in enumerate(faces[:6])}, "train")
    columns = [name for name in table if name.startswith(("hash_", "mirrored_"))]
    table[columns] = np.uint64(0)
    assert duplicates(table, thumbnails).empty


def test_a_pair_is_written_once_with_the_held_out_image_second(tmp_path, faces):
    one, other = encoded(faces[0]), encoded(jpeg(faces[0], 90))
    files = {"a": one, "b": one, "c": other, "d": one}
    pairs = duplicates(*hashed(tmp_path, files, ["test", "train", "val", "train"], ["anger", "fear", "fear", "anger"]))
    rows = pairs[["sample_a", "split_a", "label_a", "sample_b", "split_b", "kind", "same_label"]]
    assert rows.to_numpy().tolist() == [
        ["b", "train", "fear", "a", "test", "exact", False],
        ["c", "val", "fear", "a", "test", "near", False],
        ["d", "train", "anger", "a", "test", "exact", True],
        ["b", "train", "fear", "c", "val", "near", True],
        ["b", "train", "fear", "d", "train", "exact", False],
        ["d", "train", "anger", "c", "val", "near", False],
    ]


def test_across_datasets_each_image_of_one_is_compared_with_all_of_the_other(tmp_path, faces):
    folders = [tmp_path / name for name in "ab"]
    for folder in folders:
        folder.mkdir()
    first = hashed(folders[0], {f"{i}": encoded(face) for i, face in enumerate(faces[:4])}, "test")
    copies = {"x": encoded(faces[3]), "y": encoded(faces[9]), "z": encoded(ImageOps.mirror(faces[0]))}
    second = hashed(folders[1], copies, "train", ["fear", "fear", "anger"])
    seen = []
    pairs = duplicates(*first, *second, progress=seen.append)
    rows = pairs[["sample_a", "split_a", "sample_b", "split_b", "kind", "same_label"]].to_numpy().tolist()
    assert rows == [["0", "test", "z", "train", "mirrored", True], ["3", "test", "x", "train", "exact", False]]
    assert seen[-1] == 8 and seen == sorted(seen)


def test_broken_images_have_no_copies(tmp_path, faces):
    whole = encoded(faces[0])
    files = {"a": whole, "cut 1": whole[:200], "cut 2": whole[:200], "b": whole, "text": b"no image"}
    table, thumbnails = hashed(tmp_path, files, "train")
    assert (table["sha256"] == "").tolist() == [False, True, True, False, True]
    assert table["error"][1] and table["error"][4]
    assert duplicates(table, thumbnails)[["sample_a", "sample_b"]].to_numpy().tolist() == [["a", "b"]]


def test_all_images_broken(tmp_path):
    table, thumbnails = hashed(tmp_path, {"a": b"x", "b": b"x"}, "train")
    assert duplicates(table, thumbnails).empty
