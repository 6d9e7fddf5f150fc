import hashlib

import numpy as np
import pandas as pd
from archives import noise
from PIL import Image
from scipy import fft

from transfer.audit.copies import (
    HASHES,
    MIRRORED,
    OPPOSITE,
    SIDE,
    SIGMA,
    THUMBNAIL,
    hash_images,
    perceptual_hashes,
    similarity,
)


def grey(seed, width=SIDE, height=SIDE):
    """A picture with structure at all scales."""
    rng = np.random.default_rng(seed)
    layers = [rng.integers(0, 256, (n, n), dtype=np.uint8) for n in (4, 8, 16, 32)]
    large = [np.asarray(Image.fromarray(layer).resize((width, height), Image.Resampling.BICUBIC)) for layer in layers]
    return np.mean(large, axis=0).astype(np.uint8)


def index(n):
    return pd.DataFrame(
        {
            "sample": [f"face{i}" for i in range(n)],
            "split": ["train", "test"] * (n // 2) + ["train"] * (n % 2),
            "class_name": "anger",
        }
    )


def test_a_hash_is_the_signs_of_the_lowest_cosine_coefficients_about_their_median():
    picture = grey(0)
    coefficients = fft.dctn(picture.astype(np.float64))[:8, :8].ravel()
    bits = np.unpackbits(perceptual_hashes(picture)[0][:1].view(np.uint8))
    assert bits.tolist() == (coefficients > np.median(coefficients)).tolist()
    assert bits.sum() == 32


def test_the_mirrored_hashes_are_those_of_the_mirror_image():
    for seed in range(5):
        picture = grey(seed)
        assert perceptual_hashes(picture)[1].tolist() == perceptual_hashes(picture[:, ::-1])[0].tolist()


def test_opposite_corners_of_two_cuts_of_one_photograph_show_the_same():
    photograph = grey(3, SIDE + 4, SIDE + 4)
    top, left = photograph[:SIDE], photograph[:, :SIDE]
    cuts = {"upper left": top[:, :SIDE], "lower right": photograph[4:, 4:]}
    cuts |= {"upper right": top[:, 4:], "lower left": left[4:]}
    hashes = {name: perceptual_hashes(cut)[0] for name, cut in cuts.items()}
    for one, other in (("upper left", "lower right"), ("upper right", "lower left")):
        same = hashes[one] == hashes[other][OPPOSITE]
        assert same.any() and not same[0], "the whole cuts differ, a corner does not"
    assert [OPPOSITE[window] for window in OPPOSITE] == [0, 1, 2, 3, 4]


def test_rows_are_those_of_the_index_and_a_broken_image_is_counted(tmp_path):
    images = [noise(seed)[1] for seed in range(3)]
    stream = [(2, images[2], ""), (0, images[0], ""), (3, images[0].copy(), ""), (1, None, "cut off")]
    seen = []
    table = hash_images(stream, index(4), tmp_path / "thumbnails.npy", seen.append)
    thumbnails = np.load(tmp_path / "thumbnails.npy")
    assert list(table) == ["sample", "split", "class_name", "sha256", "error", *HASHES, *MIRRORED]
    assert table["sample"].tolist() == ["face0", "face1", "face2", "face3"]
    assert table["error"].tolist() == ["", "cut off", "", ""]
    assert table["sha256"][0] == table["sha256"][3], "the same picture under two names"
    assert table["sha256"][0] == hashlib.sha256(b"(16, 20, 3)" + images[0].tobytes()).hexdigest()
    assert table["sha256"][1] == "" and table["sha256"][2] not in ("", table["sha256"][0])
    assert (table[HASHES].dtypes == np.uint64).all()
    assert table.loc[1, [*HASHES, *MIRRORED]].sum() == 0
    assert thumbnails.shape == (4, THUMBNAIL, THUMBNAIL)
    assert (thumbnails[0] == thumbnails[3]).all() and not (thumbnails[0] == thumbnails[2]).all()
    assert seen == [1, 2, 3, 4]
    assert [path.name for path in tmp_path.iterdir()] == ["thumbnails.npy"]


def test_the_digest_sees_the_shape(tmp_path):
    stream = [(0, np.zeros((2, 8, 3), np.uint8), ""), (1, np.zeros((4, 4, 3), np.uint8), "")]
    table = hash_images(stream, index(2), tmp_path / "thumbnails.npy")
    assert table["sha256"].nunique() == 2


def small(picture):
    return np.asarray(Image.fromarray(picture).reduce(3))[None]


def test_similarity_is_of_the_fine_structure():
    """Written out: blur taken away, faded window, correlation at the best shift."""
    first, second = small(grey(1))[0], small(grey(2))[0]

    def fine(thumbnail):
        from scipy.ndimage import gaussian_filter

        x = thumbnail.astype(np.float64)
        x -= gaussian_filter(x, SIGMA, mode="nearest", truncate=16)
        fade = np.sqrt(np.hanning(THUMBNAIL + 2)[1:-1])
        x *= fade[:, None] * fade
        x -= x.mean()
        return x / np.linalg.norm(x)

    a, b = fine(first), fine(second)
    shifts = [(a * np.roll(b, (dy, dx), (0, 1))).sum() for dy in range(-3, 4) for dx in range(-3, 4)]
    assert np.isclose(similarity(first[None], second[None])[0], max(shifts), atol=1e-4)


def test_similarity_does_not_see_light_contrast_and_small_shifts():
    picture = grey(4, SIDE + 9, SIDE + 9)
    first, shifted = small(picture[:SIDE, :SIDE]), small(picture[9:, 9:])
    assert np.isclose(similarity(first, first)[0], 1, atol=1e-5)
    assert similarity(first, (first * 0.5 + 40).astype(np.uint8))[0] > 0.98
    assert similarity(first, shifted)[0] > 0.8
    assert similarity(first, small(picture[:SIDE, :SIDE][::-1]))[0] < 0.6
    assert similarity(first, small(grey(5)))[0] < 0.6


def test_similarity_of_a_picture_of_one_grey_is_nothing():
    flat = np.full((1, THUMBNAIL, THUMBNAIL), 7, np.uint8)
    assert similarity(flat, flat)[0] == 0
    assert similarity(flat[:0], flat[:0]).shape == (0,)
