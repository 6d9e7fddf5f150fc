import hashlib
import io

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from transfer.datasets.images import decode_oriented
from transfer.faces.align import (
    BOX_COLUMNS,
    LANDMARK_COLUMNS,
    align_dataset,
    landmarks_of,
    placements,
    share_inside,
    similarity,
    template,
    warp,
)
from transfer.utils.errors import UserError


def test_template_at_112_and_other_sizes():
    assert template(112)[0].tolist() == pytest.approx([38.2946, 51.6963])
    assert template(112)[4].tolist() == pytest.approx([70.7299, 92.2041])
    assert np.allclose(template(224), 2 * template(112))
    # A margin of a quarter halves the face and leaves the centre where it is.
    assert np.allclose(template(112, 0.25) - 56, (template(112) - 56) / 2)


def test_similarity_recovers_a_known_transform():
    angle, scale, shift = np.deg2rad(25), 0.7, np.array([3.0, -8.0])
    matrix = scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    source = (template(112) - shift) @ np.linalg.inv(matrix).T
    found = similarity(np.stack([source, template(112)]), template(112))
    assert np.allclose(found[0], np.column_stack([matrix, shift]))
    assert np.allclose(found[1], [[1, 0, 0], [0, 1, 0]])


def test_similarity_is_the_least_squares_optimum():
    rng = np.random.default_rng(0)
    source, target = rng.normal(size=(5, 2)) * 20, template(112)
    # The same problem as a linear system in (a, b, tx, ty): u = a x - b y + tx, v = b x + a y + ty.
    rows = [[x, -y, 1, 0] for x, y in source] + [[y, x, 0, 1] for x, y in source]
    a, b, tx, ty = np.linalg.lstsq(np.array(rows), target.T.ravel(), rcond=None)[0]
    assert np.allclose(similarity(source[None], target)[0], [[a, -b, tx], [b, a, ty]])


def test_similarity_never_reflects():
    mirrored = template(112) * [-1, 1]
    matrix = similarity(mirrored[None], template(112))[0, :, :2]
    assert np.linalg.det(matrix) > 0


def test_similarity_of_coinciding_points_is_nan():
    assert np.isnan(similarity(np.full((1, 5, 2), 7.0), template(112))).all()


def reference_warp(image, matrix, size):
    """cv2.warpAffine by its definition: inverse map, bilinear between pixel centres at integers, zeros outside."""
    inverse = np.linalg.inv(np.vstack([matrix, [0, 0, 1]]))
    out = np.zeros((size, size, 3))
    for v in range(size):
        for u in range(size):
            x, y, _ = inverse @ [u, v, 1]
            x0, y0 = int(np.floor(x)), int(np.floor(y))
            for i, j in ((x0, y0), (x0 + 1, y0), (x0, y0 + 1), (x0 + 1, y0 + 1)):
                if 0 <= i < image.shape[1] and 0 <= j < image.shape[0]:
                    out[v, u] += (1 - abs(x - i)) * (1 - abs(y - j)) * image[j, i]
    return out


@pytest.mark.parametrize(
    "matrix",
    [
        [[1, 0, 0], [0, 1, 0]],
        [[1, 0, 2.5], [0, 1, -1.25]],
        [[2.0, -0.5, 3], [0.5, 2.0, -9]],
        [[0.8, 0.3, -2], [-0.3, 0.8, 6]],
        [[0, -1, 30], [1, 0, 4]],
    ],
)
def test_warp_equals_the_definition(matrix):
    image = np.random.default_rng(0).integers(0, 256, (20, 26, 3), dtype=np.uint8)
    matrix = np.array(matrix, float)
    expected = reference_warp(image, matrix, 24)
    assert np.abs(warp(image, matrix, 24) - expected).max() <= 0.5 + 1e-6


def test_warp_puts_a_landmark_on_the_template():
    """The pixel under the source landmark arrives at the template's place, to a fraction of a pixel."""
    yy, xx = np.mgrid[:120, :140]
    source = template(112) * 0.55 + [31.3, 12.6]
    blob = 255 * np.exp(-((xx - source[2, 0]) ** 2 + (yy - source[2, 1]) ** 2) / 18)
    image = np.repeat(blob.round().astype(np.uint8)[..., None], 3, axis=2)
    out = warp(image, similarity(source[None], template(112))[0], 112)[..., 0].astype(float)
    v, u = np.mgrid[:112, :112]
    centre = [(out * u).sum() / out.sum(), (out * v).sum() / out.sum()]
    assert np.abs(centre - template(112)[2]).max() < 0.05


def test_downscaling_averages_instead_of_skipping_pixels():
    image = np.zeros((800, 800, 3), np.uint8)
    image[::2] = 255  # stripes finer than the output can show: grey, if averaged
    out = warp(image, np.array([[0.1, 0, 0.0], [0, 0.1, 0.0]]), 80)[2:-2, 2:-2]
    assert np.abs(out.astype(float) - 127.5).max() <= 1
    # Bilinear interpolation alone sees only the stripes under its sampling points.
    assert np.abs(reference_warp(image, np.array([[0.1, 0, 0.0], [0, 0.1, 0.0]]), 5) - 127.5).max() > 100


@pytest.mark.parametrize("scale", [0.31, 0.13])
def test_downscaling_keeps_the_place(scale):
    yy, xx = np.mgrid[:600, :500]
    blob = 255 * np.exp(-((xx - 261.4) ** 2 + (yy - 333.7) ** 2) / 500)
    image = np.repeat(blob.round().astype(np.uint8)[..., None], 3, axis=2)
    matrix = np.array([[scale, 0, 20 - scale * 200], [0, scale, 10 - scale * 250]])
    out = warp(image, matrix, 64)[..., 0].astype(float)
    v, u = np.mgrid[:64, :64]
    centre = np.array([(out * u).sum(), (out * v).sum()]) / out.sum()
    assert np.abs(centre - (matrix @ [261.4, 333.7, 1])).max() < 0.05


def test_warp_of_a_face_outside_the_image_is_black():
    assert not warp(np.full((10, 10, 3), 255, np.uint8), np.array([[1.0, 0, 500], [0, 1.0, 0]]), 16).any()


def drawn_picture():
    """A picture by formula, 80 x 96, that looks different at every place; the same on every machine."""
    y, x = np.mgrid[:80, :96]
    return np.stack([(3 * x + y) % 256, (x * x // 16 + 2 * y) % 256, (5 * y + x // 2) % 256], axis=-1).astype(np.uint8)


DRAWN_LANDMARKS = np.array([[30.5, 31.0], [58.0, 25.5], [46.5, 44.0], [37.0, 58.5], [60.5, 54.0]])
# Every 16th pixel of every 16th row, beginning with the 8th: red and green of the aligned picture.
GOLDEN = {
    "arcface": """
          0   0   0   0   0   0   0   0   0   0   0   0   0   0
         14  23  51  30  88  59 125 110 162 181 199  18   0   0
         34  49  71  61 108  93 145 147 182 223 219  63 149 181
         54  77  91  92 128 128 164 185 201   8 238 108  19 230
         73 105 110 123 147 163 184 224 221  51  24 154  39  23
         93 133 130 155 167 199 204   8 241  93  22 200  59  74
        113 162 150 188 187 235 224  47   4 137  41 208  78 124
    """,
    "box": """
         64  45  92  70 121 107 150 155 178 215 207  30 235 112
         73  64 102  89 131 126 159 174 188 234 216  49 245 131
         83  83 112 108 140 145 169 193 197 253 226  68 254 150
         92 102 121 127 150 164 178 212 207  16 235  87   8 169
        102 121 131 146 159 184 188 231 216  35 245 106  17 188
        112 140 140 165 169 203 197 224 226  54 166 125  27 208
        121 159 150 184 178 222 207  14 235  73   8 144  36 227
    """,
}


@pytest.mark.parametrize("kind", list(GOLDEN))
def test_golden_alignment(kind):
    faces = pd.DataFrame([[20.0, 12.0, 70.0, 72.0]], columns=BOX_COLUMNS)
    matrix = placements(DRAWN_LANDMARKS[None], faces, kind, 112, 0.05)[0]
    aligned = warp(drawn_picture(), matrix, 112)
    found = aligned[8::16, 8::16, :2].reshape(7, 14).astype(int)
    expected = np.array([line.split() for line in GOLDEN[kind].strip().splitlines()], int)
    assert np.abs(found - expected).max() <= 1  # a last bit of the matrix may round a pixel the other way
    assert np.abs(aligned - reference_warp(drawn_picture(), matrix, 112)).max() <= 0.5 + 1e-6


# Where faces are taken from


def test_a_template_of_ones_own():
    own = [[0.3, 0.4], [0.7, 0.4], [0.5, 0.6], [0.35, 0.8], [0.65, 0.8]]
    points = 50 * np.array(own) + [7, 3]
    (matrix,) = placements(points[None], pd.DataFrame(), own, 100)
    assert np.allclose(matrix, [[2, 0, -14], [0, 2, -6]])
    (matrix,) = placements(points[None], pd.DataFrame(), own, 100, 0.25)
    assert np.allclose(matrix @ [*points.mean(axis=0), 1], 25 + 50 * np.mean(own, axis=0))


def box_matrix(box, size, margin=0.0):
    faces = pd.DataFrame([box], columns=BOX_COLUMNS)
    return placements(np.full((1, 5, 2), np.nan), faces, "box", size, margin)[0]


def test_the_square_around_the_box():
    # A box of 20 x 40 pixels becomes a square of 40 around the same centre, from edge to edge.
    matrix = box_matrix([9.5, 4.5, 29.5, 44.5], 80)
    assert np.allclose(matrix @ [-0.5, 4.5, 1], [-0.5, -0.5])
    assert np.allclose(matrix @ [39.5, 44.5, 1], [79.5, 79.5])
    assert np.allclose(matrix[:, :2], 2 * np.eye(2)), "upright"


def test_the_margin_around_a_box_is_a_fraction_of_the_side():
    matrix = box_matrix([-0.5, -0.5, 49.5, 49.5], 100, 0.25)
    assert np.allclose(matrix @ [-0.5, -0.5, 1], [24.5, 24.5])
    assert np.allclose(matrix @ [49.5, 49.5, 1], [74.5, 74.5])


def test_a_box_that_is_the_image_changes_nothing():
    image = np.random.default_rng(0).integers(0, 256, (30, 30, 3), dtype=np.uint8)
    assert np.array_equal(warp(image, box_matrix([-0.5, -0.5, 29.5, 29.5], 30), 30), image)


# The dataset: an aligned face, one without a face, a broken one, another aligned one (row 3).


@pytest.fixture
def dataset(tmp_path):
    rng = np.random.default_rng(1)
    images = [
        rng.integers(0, 256, shape, dtype=np.uint8) for shape in ((112, 112, 3), (60, 90, 3), (5, 5, 3), (64, 64, 3))
    ]
    index = pd.DataFrame(
        {
            "sample": ["a", "b", "c", "d"],
            "path": [f"{name}.png" for name in "abcd"],
            "split": ["train", "train", "test", "test"],
            "label": np.array([0, 1, 0, 1]),
            "class_name": ["x", "y", "x", "y"],
        }
    )
    points = np.full((4, 10), np.nan)
    points[0], points[3] = template(112).ravel(), template(64).ravel()
    faces = pd.DataFrame(points, columns=LANDMARK_COLUMNS)
    faces["status"], faces["n_faces"] = ["found", "none", "broken", "found"], [1, 0, 0, 2]
    faces["error"] = ["", "", "cannot identify image file", ""]
    faces["width"], faces["height"], faces["orientation"] = [112, 90, 0, 64], [112, 60, 0, 64], 1
    faces[BOX_COLUMNS] = [[-0.5, -0.5, 111.5, 111.5], [np.nan] * 4, [np.nan] * 4, [16, 16, 47, 47]]
    stream = [(3, images[3], ""), (2, None, "cannot identify"), (0, images[0], ""), (1, images[1], "")]
    return {"images": images, "stream": stream, "index": index, "faces": faces, "npy": tmp_path / "aligned.npy"}


def run(data, **options):
    counts = align_dataset(
        iter(data["stream"]), data["index"], data["faces"], data["npy"], data["npy"].with_suffix(".parquet"), **options
    )
    return counts, np.load(data["npy"]), pd.read_parquet(data["npy"].with_suffix(".parquet"))


def test_rows_are_in_index_order_whatever_the_storage_order(dataset):
    counts, array, manifest = run(dataset)
    assert counts == {"images": 4, "rows": 3, "aligned": 2, "whole": 1, "dropped_no_face": 0, "dropped_broken": 1}
    assert manifest["sample"].tolist() == ["a", "b", "d"]
    assert manifest["status"].tolist() == ["found", "none", "found"]
    assert manifest["n_faces"].tolist() == [1, 0, 2]
    assert manifest[["split", "label", "class_name"]].values.tolist() == [
        ["train", 0, "x"],
        ["train", 1, "y"],
        ["test", 1, "y"],
    ]
    assert array.shape == (3, 112, 112, 3) and array.dtype == np.uint8
    assert np.array_equal(array[0], dataset["images"][0])  # its landmarks are the template's: nothing moves
    assert manifest["sha256"].tolist() == [hashlib.sha256(row.tobytes()).hexdigest() for row in array]


def test_whole_is_the_centre_square(dataset):
    _, array, _ = run(dataset, size=60)
    assert np.array_equal(array[1], dataset["images"][1][:, 15:75])


def test_no_face_drop(dataset):
    counts, array, manifest = run(dataset, no_face="drop")
    assert manifest["sample"].tolist() == ["a", "d"] and len(array) == 2
    assert (counts["dropped_no_face"], counts["dropped_broken"], counts["whole"]) == (1, 1, 0)


def test_broken_stop_names_the_files_and_writes_nothing(dataset):
    with pytest.raises(UserError, match=r"1 broken images \(c\.png: cannot identify image file\)"):
        run(dataset, broken="stop")
    assert not list(dataset["npy"].parent.iterdir())


def test_an_image_that_breaks_later_leaves_nothing_behind(dataset):
    dataset["stream"][2] = (0, None, "image file is truncated")
    with pytest.raises(UserError, match=r"broken now \(a\.png: image file is truncated\); detect again"):
        run(dataset)
    assert not list(dataset["npy"].parent.iterdir())


def supply(dataset, shift=0.0):
    """Landmarks of each image; the one that is broken has those of another one."""
    points = np.stack([template(side).ravel() for side in (112, 60, 64, 64)]) + shift
    dataset["index"][LANDMARK_COLUMNS] = points


def test_supplied_landmarks(dataset):
    supply(dataset, 1.0)
    counts, array, _ = run(dataset, landmarks="supplied")
    assert counts["aligned"] == 3 and counts["whole"] == 0
    assert np.array_equal(array[0, :-1, :-1], dataset["images"][0][1:, 1:])


def test_supplied_landmarks_must_be_there(dataset):
    with pytest.raises(UserError, match="no column landmark_0_x; use landmarks: mtcnn"):
        run(dataset, landmarks="supplied")


@pytest.mark.parametrize("policy", ["whole", "drop"])
def test_the_policy_acts_on_rows_without_supplied_landmarks(dataset, policy):
    supply(dataset)
    dataset["index"].loc[0, "landmark_4_y"] = np.nan
    counts, array, manifest = run(dataset, landmarks="supplied", no_face=policy)
    assert counts["aligned"] == 2
    assert (counts["whole"], counts["dropped_no_face"]) == ((1, 0) if policy == "whole" else (0, 1))
    assert manifest["sample"].tolist() == (["a", "b", "d"] if policy == "whole" else ["b", "d"])
    if policy == "whole":
        assert np.array_equal(array[0], dataset["images"][0])


def test_landmarks_outside_the_image_are_never_used(dataset):
    supply(dataset)
    dataset["index"].loc[1, LANDMARK_COLUMNS] += 600
    counts, array, _ = run(dataset, landmarks="supplied")
    assert (counts["aligned"], counts["whole"]) == (2, 1)
    assert array[1].std() > 0
    dataset["index"][LANDMARK_COLUMNS] += 600
    with pytest.raises(
        UserError, match=r"3 of 3 supplied landmarks are misplaced \(3 outside the image.*first a\.png\)"
    ):
        run(dataset, landmarks="supplied")
    for misplaced in ("keep", "no_face"):
        assert run(dataset, landmarks="supplied", misplaced=misplaced)[0]["whole"] == 3


def test_disagreement_with_mtcnn_stops_or_counts_as_configured(dataset):
    supply(dataset, [3.0, 12.0] * 5)  # within the images, as if of a face below
    dataset["index"].loc[3, LANDMARK_COLUMNS] -= [3.0, 12.0] * 5
    dataset["index"].loc[1, LANDMARK_COLUMNS] = np.nan
    assert run(dataset, landmarks="supplied")[0]["aligned"] == 2, "one of two that MTCNN found"
    assert run(dataset, landmarks="supplied", misplaced="no_face")[0]["aligned"] == 1
    dataset["index"].loc[3, LANDMARK_COLUMNS[::2]] += 12
    with pytest.raises(UserError, match=r"2 of 2 .*\(0 outside the image, 2 more than 0\.2 eye distances from MTCNN's"):
        run(dataset, landmarks="supplied")
    assert run(dataset, landmarks="supplied", misplaced="keep")[0]["aligned"] == 2


@pytest.mark.parametrize("orientation", range(1, 9))
def test_landmarks_of_stored_pixels_turn_with_them(dataset, orientation):
    stored = np.zeros((30, 50, 3), np.uint8)
    spots = [(10, 8), (30, 9), (21, 14), (12, 20), (29, 22)]  # x and y of five spots, each of its own brightness
    for shade, (x, y) in enumerate(spots, 1):
        stored[y, x] = 50 * shade
    exif, file = Image.Exif(), io.BytesIO()
    exif[0x0112] = orientation
    Image.fromarray(stored).save(file, "PNG", exif=exif)
    upright, found = decode_oriented(file.getvalue())
    assert found == orientation
    index = pd.DataFrame([np.ravel(spots)], columns=LANDMARK_COLUMNS)
    faces = pd.DataFrame({"width": [upright.shape[1]], "height": [upright.shape[0]], "orientation": [orientation]})
    x, y = landmarks_of(index, faces, "supplied", "stored")[0].astype(int).T
    mirrored = orientation in (2, 4, 5, 7)  # the left eye is always the one that is left in the pixels
    expected = np.array([2, 1, 3, 5, 4] if mirrored else [1, 2, 3, 4, 5]) * 50
    assert upright[y, x, 0].tolist() == expected.tolist()


def test_an_image_turned_by_exif_needs_a_frame(dataset):
    supply(dataset)
    dataset["faces"].loc[0, "orientation"] = 6
    with pytest.raises(UserError, match=r"1 images are turned by their EXIF mark, first a\.png; set faces: \{frame"):
        run(dataset, landmarks="supplied")
    assert run(dataset, landmarks="supplied", frame="upright")[0]["aligned"] == 3
    assert run(dataset)[0]["aligned"] == 2, "MTCNN has seen the upright image"


def test_a_face_of_one_colour_is_refused(dataset):
    dataset["stream"][2] = (0, np.full((112, 112, 3), 7, np.uint8), "")
    with pytest.raises(UserError, match=r"a\.png: nothing but one colour is in its aligned face"):
        run(dataset)
    assert not list(dataset["npy"].parent.iterdir())


def test_share_of_a_face_inside_its_image(dataset):
    matrices = np.stack([np.eye(2, 3), np.eye(2, 3), np.full((2, 3), np.nan), np.eye(2, 3)])
    matrices[1, 0, 2] = 56  # moved to the right by half of the face
    share = share_inside(matrices, dataset["faces"].assign(width=112, height=112), 112)
    assert share[0] == 1 and share[1] == pytest.approx(0.5, abs=0.1) and np.isnan(share[2])
    assert share_inside(matrices, dataset["faces"].assign(width=112, height=28), 112)[3] == pytest.approx(0.25, abs=0.1)


def test_box_template(dataset):
    counts, array, _ = run(dataset, template="box", size=112)
    assert (counts["aligned"], counts["whole"]) == (2, 1)
    assert np.array_equal(array[0], dataset["images"][0])  # its box is the image
    matrix = box_matrix([16, 16, 47, 47], 112)
    assert np.array_equal(array[2], warp(dataset["images"][3], matrix, 112))


def test_template_none_is_the_image_as_it_is(dataset):
    counts, array, manifest = run(dataset, template="none", size=60)
    assert manifest["sample"].tolist() == ["a", "b", "d"]
    assert (counts["aligned"], counts["whole"]) == (2, 1)
    for row, image in zip(array, (0, 1, 3), strict=True):
        source = Image.fromarray(dataset["images"][image])
        side = min(source.size)
        left, top = (source.width - side) // 2, (source.height - side) // 2
        square = source.crop((left, top, left + side, top + side))
        assert np.array_equal(row, np.asarray(square.resize((60, 60), Image.Resampling.BILINEAR)))
    dropped = run(dataset, template="none", no_face="drop")
    assert dropped[0]["dropped_no_face"] == 1, "the policy is the same: both arms of an ablation have the same faces"


def test_the_hash_of_the_file_stands_beside_that_of_the_pixels(dataset):
    _, _, manifest = run(dataset, source_sha256={"a.png": "1", "d.png": "4"})
    assert manifest["source_sha256"].tolist() == ["1", "", "4"]
    dataset["index"]["path"] = [f"fer.csv#{i}" for i in range(4)]
    _, _, manifest = run(dataset, source_sha256={"fer.csv": "7"})
    assert manifest["source_sha256"].tolist() == ["7", "7", "7"]


def test_progress_counts_every_image(dataset):
    done = []
    run(dataset, progress=done.append)
    assert done == [1, 2, 3, 4]


def test_coinciding_landmarks_are_refused(dataset):
    dataset["faces"].loc[3, LANDMARK_COLUMNS] = 5.0
    with pytest.raises(UserError, match=r"all five landmarks are the same point \(d\)"):
        run(dataset)


def test_nothing_left_is_refused(dataset):
    dataset["faces"][LANDMARK_COLUMNS] = np.nan
    with pytest.raises(UserError, match=r"no image can be aligned \(4 images, 1 broken"):
        run(dataset, no_face="drop")


def test_a_margin_shows_more_of_the_image(dataset):
    dataset["images"][0][:] = 200
    _, array, _ = run(dataset, margin=0.25)
    assert (array[0, 29:83, 29:83] == 200).all()  # the image shrinks to the middle half
    assert not array[0, :27].any() and not array[0, -27:].any()


def test_the_array_is_readable_as_a_picture(dataset):
    _, array, _ = run(dataset)
    assert Image.fromarray(array[0]).size == (112, 112)
