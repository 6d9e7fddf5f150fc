import numpy as np
import pytest
from PIL import Image

from transfer.datasets.synthetic.render import Style, render_face
from transfer.faces import detect as detect_module
from transfer.faces.align import LANDMARK_COLUMNS
from transfer.faces.detect import BOX_COLUMNS, choose, detect, detect_parts
from transfer.faces.mtcnn import Cascade, Faces

N = 12


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def faces():
    """Synthetic faces, easy ones: their images and the true five landmarks."""
    style = Style(noise=2.0)
    drawn = [render_face(np.random.default_rng(i), "happiness", 0.6, 96, style) for i in range(N)]
    points = [
        [face.points[36:42].mean(0), face.points[42:48].mean(0), face.points[30], face.points[48], face.points[54]]
        for face in drawn
    ]
    return [face.image for face in drawn], np.array(points)


def run(images, **options):
    return detect(((i, image, "") for i, image in enumerate(images)), [f"s{i}" for i in range(len(images))], **options)


def landmarks(table):
    return table[LANDMARK_COLUMNS].to_numpy().reshape(-1, 5, 2)


def resize(image, side):
    return np.asarray(Image.fromarray(image).resize((side, side), Image.Resampling.BICUBIC))


def test_landmarks_lie_where_they_were_drawn(faces):
    images, truth = faces
    table = run(images)
    assert (table["status"] == "found").mean() >= 0.9
    eye_distance = np.linalg.norm(truth[:, 1] - truth[:, 0], axis=1)
    error = np.linalg.norm(landmarks(table) - truth, axis=2).mean(axis=1) / eye_distance
    assert np.nanmedian(error) < 0.1
    found = table[table["status"] == "found"]
    assert (found["probability"] > 0.7).all()
    assert (found["box_x0"] < found["landmark_0_x"]).all() and (found["landmark_1_x"] < found["box_x1"]).all()
    assert (found["landmark_0_x"] < found["landmark_1_x"]).all() and (
        found["landmark_3_x"] < found["landmark_4_x"]
    ).all()
    assert (table["width"] == 96).all() and (table["height"] == 96).all()


@pytest.mark.parametrize("side", [48, 70, 240, 700])
def test_landmarks_do_not_move_with_the_size_of_the_image(faces, side):
    """Enlarged before detection (48, 70), as it is (240) or reduced (700): the same places, no systematic shift."""
    images, _ = faces
    reference, other = landmarks(run(images)), landmarks(run([resize(image, side) for image in images]))
    # Centres of pixels, not their numbers, scale with the image.
    shift = ((other + 0.5) * 96 / side - 0.5 - reference).mean(axis=1)
    assert np.isfinite(shift).all(axis=1).mean() >= 0.8
    assert np.abs(np.nanmedian(shift, axis=0)).max() < 0.35
    assert np.nanmedian(np.abs(shift)) < 0.7


def test_a_mirrored_face_has_mirrored_landmarks(faces):
    images, _ = faces
    plain, mirrored = landmarks(run(images)), landmarks(run([image[:, ::-1] for image in images]))
    back = mirrored[:, [1, 0, 2, 4, 3]] * [-1, 1] + [95, 0]
    shift = (back - plain).mean(axis=1)
    assert np.abs(np.nanmedian(shift, axis=0)).max() < 0.5


def test_a_face_seen_only_in_the_mirror_is_mirrored_back(faces, monkeypatch):
    images, _ = faces
    expected = run(images)
    find = Cascade.find
    calls = []

    def blind_at_first(self, pixels, min_face):
        """Finds nothing in the plain pictures; the mirrored pictures are turned back, searched, and mirrored again."""
        calls.append(len(pixels))
        if len(calls) % 2:
            return [Faces(np.zeros((0, 5)), np.zeros((0, 5, 2)))] * len(pixels)
        found = []
        for boxes, points in find(self, pixels[:, :, ::-1], min_face):
            boxes, points = boxes.copy(), points[:, [1, 0, 2, 4, 3]]
            boxes[:, [0, 2]] = pixels.shape[2] + 1 - boxes[:, [2, 0]]
            points[..., 0] = pixels.shape[2] - points[..., 0]
            found.append(Faces(boxes, points))
        return found

    monkeypatch.setattr(Cascade, "find", blind_at_first)
    table = run(images, threads=1)
    numbers = [*BOX_COLUMNS, *LANDMARK_COLUMNS]
    seen = ((expected["status"] == "found") & (table["status"] == "found")).to_numpy()
    assert seen.mean() >= 0.8
    assert np.allclose(table.loc[seen, numbers], expected.loc[seen, numbers], atol=1e-3)


def test_landmarks_of_a_face_that_fills_the_frame(faces):
    """Cut close around the face, so that its box leaves the picture: the landmarks are those of the whole picture."""
    images, truth = faces
    whole = landmarks(run(images))
    eye_distance = np.median(np.linalg.norm(truth[:, 1] - truth[:, 0], axis=1))
    cut = 20
    close = landmarks(run([np.ascontiguousarray(image[cut:-cut, cut:-cut]) for image in images])) + cut
    distance = np.linalg.norm(close - whole, axis=2).mean(axis=1) / eye_distance
    assert np.isfinite(distance).mean() >= 0.7
    assert np.nanmedian(distance) < 0.08


def test_pictures_without_a_face_and_broken_files(faces):
    images, _ = faces
    flat, noise = np.full((48, 48, 3), 90, np.uint8), np.random.default_rng(0).integers(0, 256, (64, 50, 3), np.uint8)
    stream = [(4, images[0], ""), (1, None, "truncated file"), (0, flat, ""), (3, noise, ""), (2, images[0], "")]
    table = detect(iter(stream), list("abcde"))
    assert table["sample"].tolist() == list("abcde")
    assert table["status"].tolist() == ["none", "broken", "found", "none", "found"]
    assert table["n_faces"].tolist() == [0, 0, 1, 0, 1]
    assert table["error"].tolist() == ["", "truncated file", "", "", ""]
    assert table.loc[[0, 1, 3], [*BOX_COLUMNS, "probability", *LANDMARK_COLUMNS]].isna().all(axis=None)
    assert table[["width", "height"]].values.tolist() == [[48, 48], [0, 0], [96, 96], [50, 64], [96, 96]]
    assert np.allclose(landmarks(table)[2], landmarks(table)[4])
    assert list(table.columns) == [
        *["sample", "status", "n_faces", *BOX_COLUMNS, "probability", *LANDMARK_COLUMNS],
        *["width", "height", "orientation", "error"],
    ]


def test_choose_weighs_area_against_the_distance_to_the_centre():
    # Areas 400 and 900; distances to the centre (50, 50): 0 and hypot(20, 10): 900 - 2 * 500 = -100 < 400.
    boxes = np.array([[40, 40, 60, 60], [55, 45, 85, 75]], float)
    assert choose(boxes, 100, 100) == 0
    # In a picture whose centre is (60, 55): 400 - 2 * 125 = 150 < 900 - 2 * 125 = 650.
    assert choose(boxes, 120, 110) == 1


def test_of_two_faces_the_central_large_one_is_taken_and_both_are_counted(faces):
    images, _ = faces
    picture = np.full((240, 320, 3), 110, np.uint8)
    alone = picture.copy()
    for canvas in (picture, alone):
        canvas[60:180, 80:200] = resize(images[0], 120)
    picture[150:222, 240:312] = resize(images[1], 72)
    table = run([picture, alone], min_face=0.12)
    assert table["n_faces"].tolist() == [2, 1]
    assert np.abs(landmarks(table)[0] - landmarks(table)[1]).max() < 1


def test_a_box_is_that_of_facenet_pytorch_in_pixels_of_the_image(faces, monkeypatch):
    """On the canvas pixels count from 1 and the last one is inside; in the image the first pixel's centre is at 0."""
    images, _ = faces
    boxes, points = np.array([[25.0, 33, 120, 136, 0.9]]), np.tile([24.0, 144.0], (1, 5, 1))
    monkeypatch.setattr(Cascade, "find", lambda *_: [Faces(boxes, points)])
    row = run([resize(images[0], 48)]).iloc[0]  # twice as large on the canvas, with 24 pixels around
    assert np.allclose(row[BOX_COLUMNS].astype(float), [-0.5, 3.5, 47.5, 55.5])
    assert np.allclose(row[LANDMARK_COLUMNS].astype(float), [-0.5, 59.5] * 5)


def mixed_sizes(images, count):
    return [resize(images[i % N], 96 + 16 * (i % 3)) for i in range(count)]


def test_the_number_of_workers_changes_nothing(faces, monkeypatch):
    images = mixed_sizes(faces[0], 14)
    monkeypatch.setattr(detect_module, "BATCH_BYTES", {"cpu": 3_000_000})
    assert run(images, threads=3).equals(run(images, threads=1))


def test_the_company_in_a_batch_changes_nothing(faces, monkeypatch):
    images = mixed_sizes(faces[0], 9)
    together = run(images)
    monkeypatch.setattr(detect_module, "BATCH_BYTES", {"cpu": 1})
    alone = run(images[::-1])[::-1].reset_index(drop=True)
    assert (together["status"] == alone["status"]).all() and (together["n_faces"] == alone["n_faces"]).all()
    assert np.allclose(landmarks(together), landmarks(alone), atol=0.01, equal_nan=True)
    assert np.allclose(together[BOX_COLUMNS], alone[BOX_COLUMNS], atol=0.01, equal_nan=True)


def test_a_batch_is_as_large_as_its_memory(faces, monkeypatch):
    sizes = []
    search = detect_module.search
    monkeypatch.setattr(
        detect_module, "search", lambda *a: sizes.append((len(a[1]), a[1][0].pixels.shape)) or search(*a)
    )
    monkeypatch.setattr(detect_module, "BATCH_BYTES", {"cpu": 4 * 144 * 144 * 64})
    run([resize(faces[0][0], side) for side in [96] * 5 + [192] * 2], threads=1)
    assert sizes == [(4, (144, 144, 3)), (1, (144, 144, 3)), (1, (288, 288, 3)), (1, (288, 288, 3))]


def test_a_part_begins_where_the_one_before_ended(faces, monkeypatch):
    """What a run does that continues behind the first part: the same parts as if it had done that one itself."""
    monkeypatch.setattr(detect_module, "PART_PIXELS", 70_000)
    stream = [(i, image, "") for i, image in enumerate(mixed_sizes(faces[0], 10))]
    stream[4] = (4, None, "damaged")
    parts = list(detect_parts(stream))
    done = set(parts[0]["row"])
    rest = list(detect_parts([entry for entry in stream if entry[0] not in done]))
    assert len(parts) >= 3
    assert sorted(row for part in parts for row in part["row"]) == list(range(10))
    assert all(one.equals(other) for one, other in zip(parts[1:], rest, strict=True))


def test_many_images_do_not_pile_up_in_memory(faces, monkeypatch):
    monkeypatch.setattr(detect_module, "PART_IMAGES", 3)
    mixed = mixed_sizes(faces[0], 14)
    largest, done = 0, 0

    def stream():
        nonlocal largest
        for i, image in enumerate(mixed):
            largest = max(largest, i + 1 - done)
            yield i, image, ""

    def progress(count):
        nonlocal done
        assert count >= done
        done = count

    detect(stream(), [f"s{i}" for i in range(14)], progress=progress)
    assert done == 14
    assert largest <= 6


def test_ribbons_are_survived():
    table = run([np.full((3, 4000, 3), 50, np.uint8), np.full((900, 1, 3), 50, np.uint8)])
    assert table["status"].tolist() == ["none", "none"]
    assert table["width"].tolist() == [4000, 1]
