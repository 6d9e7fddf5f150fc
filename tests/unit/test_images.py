import contextlib
import hashlib
import io

import numpy as np
import pytest
from archives import FORMS, noise, pack
from PIL import Image

from transfer.datasets import images
from transfer.datasets.archives import open_source
from transfer.datasets.images import BrokenImage, HashedSource, decode, decode_pixels, stream_images
from transfer.utils.errors import UserError


def encode(image, suffix="PNG", **options):
    buffer = io.BytesIO()
    image.save(buffer, suffix, **options)
    return buffer.getvalue()


def test_rgb_and_grey():
    content, pixels = noise(0)
    assert (decode(content) == pixels).all() and decode(content).dtype == np.uint8
    content, pixels = noise(1, mode="L")
    assert (decode(content) == pixels[..., None]).all() and decode(content).shape == (16, 20, 3)
    content, pixels = noise(2, mode="RGBA")
    assert decode(content).shape == (16, 20, 3)
    palette = Image.fromarray(noise(3)[1]).quantize(8)
    assert (decode(encode(palette)) == np.array(palette.convert("RGB"))).all()


def test_exif_orientation():
    pixels = np.kron(np.array([[0, 255]], dtype=np.uint8), np.ones((16, 16), dtype=np.uint8))  # dark left, light right
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees clockwise to see it upright: what was left is at the top
    upright = decode(encode(Image.fromarray(pixels), "JPEG", exif=exif, quality=95))
    assert upright.shape == (32, 16, 3)
    assert upright[:14].max() < 20 and upright[18:].min() > 235


@pytest.mark.parametrize("suffix", ["png", "jpg"])
def test_every_truncation_is_broken(suffix):
    content = noise(0, suffix=suffix)[0]
    # What follows the last pixel may be lost: a PNG's checksums (8 bytes) and last chunk (12), a JPEG's end mark (2).
    last = len(content) - (24 if suffix == "png" else 3)
    for cut in [0, 1, 8, *np.linspace(9, last, 30).astype(int)]:
        with pytest.raises(BrokenImage) as error:
            decode(content[:cut])
        assert str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    "content", [b"", b"<html></html>", b"\x89PNG\r\n\x1a\n" + b"\0" * 100, b"GIF89a" + b"\xff" * 50]
)
def test_not_an_image(content):
    with pytest.raises(BrokenImage):
        decode(content)


@pytest.mark.parametrize(
    ("content", "kind"), [(b"<!DOCTYPE html><p>404", "an HTML page"), (b"version https://git-lfs", "a Git LFS pointer")]
)
def test_what_it_is_instead(content, kind):
    with pytest.raises(BrokenImage, match=f"^is {kind}.*, not an image$"):
        decode(content)


def test_flipped_bytes_never_escape():
    content = noise(0)[0]
    rng = np.random.default_rng(0)
    for _ in range(300):
        damaged = bytearray(content)
        damaged[rng.integers(len(content))] ^= int(rng.integers(1, 256))
        with contextlib.suppress(BrokenImage):
            assert decode(bytes(damaged)).shape[2] == 3


def test_large_image(monkeypatch):
    monkeypatch.setattr(images, "MAX_PIXELS", 20 * 16)
    assert decode(noise(0)[0]).shape == (16, 20, 3)
    monkeypatch.setattr(images, "MAX_PIXELS", 20 * 16 - 1)
    with pytest.raises(BrokenImage, match="20x16 pixels; the limit is 319"):
        decode(noise(0)[0])


def test_pixel_rows():
    pixels = noise(0, 48, 48, "L")[1]
    text = " ".join(map(str, pixels.ravel()))
    assert (decode_pixels(text) == pixels[..., None]).all() and decode_pixels(text).dtype == np.uint8
    for bad, message in (
        (text + " 0", "2305 pixels; expected 2304"),
        (text[:100], "pixels; expected 2304"),
        (" ".join(["256"] * 2304), "not from 0 to 255"),
        (" ".join(["-1"] * 2304), "not from 0 to 255"),
        (" ".join(["x"] * 2304), "not whole numbers"),
        (" ".join(["0.5"] * 2304), "not whole numbers"),
        (" ".join(["9" * 40] * 2304), "not whole numbers"),
    ):
        with pytest.raises(BrokenImage, match=message):
            decode_pixels(bad)


def pixel_row(seed):
    return " ".join(map(str, noise(seed, 48, 48, "L")[1].ravel()))


@pytest.fixture(params=FORMS)
def source(request, tmp_path):
    rows = ["emotion,pixels,Usage", *(f"0,{pixel_row(seed)},Training" for seed in range(4))]
    rows[3] = "0,1 2 3,Training"
    files = {
        "d/b.png": noise(10)[0],
        "d/broken.png": noise(11)[0][:100],
        "d/fer2013.csv": "\n".join(rows).encode(),
        "d/a.png": noise(12, mode="L")[0],
    }
    with open_source(pack(files, request.param, tmp_path / "data")) as source:
        yield source


def test_stream_images(source):
    paths = ["d/a.png", "d/broken.png", "d/fer2013.csv#3", "d/b.png", "d/fer2013.csv#0", "d/fer2013.csv#2", "d/a.png"]
    found = {position: (image, error) for position, image, error in stream_images(source, paths)}
    assert sorted(found) == list(range(7))
    assert (found[0][0] == noise(12, mode="L")[1][..., None]).all() and found[0][1] == ""
    assert (found[6][0] == found[0][0]).all()
    assert found[1][0] is None and found[1][1]
    assert (found[2][0] == noise(3, 48, 48, "L")[1][..., None]).all()
    assert (found[3][0] == noise(10)[1]).all()
    assert (found[4][0] == noise(0, 48, 48, "L")[1][..., None]).all()
    assert found[5] == (None, "3 pixels; expected 2304")


def test_stream_images_follows_the_storage(tmp_path):
    files = {f"{i}.png": noise(i)[0] for i in (2, 0, 1)}
    with open_source(pack(files, "tar.gz", tmp_path / "data")) as source:
        assert [position for position, *_ in stream_images(source, ["0.png", "1.png", "2.png"])] == [2, 0, 1]


@pytest.mark.parametrize(
    ("path", "message"),
    [("d/c.png", r"holds no d/c\.png"), ("d/fer2013.csv#4", r"d/fer2013\.csv: has 4 rows, row 4 is required")],
)
def test_what_is_not_there(path, message, source):
    with pytest.raises(UserError, match=message):
        list(stream_images(source, ["d/a.png", path]))


def test_every_file_that_is_read_is_hashed_and_passed_on(tmp_path):
    content = {"a.png": b"one", "b.png": b"two", "c.png": b"three"}
    for name, data in content.items():
        (tmp_path / name).write_bytes(data)
    with open_source(tmp_path) as archive:
        hashed = HashedSource(archive)
        assert dict(hashed.stream(["b.png", "a.png"])) == {"a.png": b"one", "b.png": b"two"}
        assert hashed.sha256 == {name: hashlib.sha256(content[name]).hexdigest() for name in ("a.png", "b.png")}
        assert [position for position, _, _ in images.stream_images(hashed, ["c.png"])] == [0], "as a source"
        assert set(hashed.sha256) == set(content)
