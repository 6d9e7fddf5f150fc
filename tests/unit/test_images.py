import hashlib
import io
import struct
import zlib

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


def smooth(seed, width=61, height=45):
    """A picture of coloured patches."""
    patches = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    return Image.fromarray(patches).resize((width, height), Image.Resampling.BICUBIC)


def test_one_face_in_every_mode():
    grey = np.array(smooth(0).convert("L"))
    face = np.repeat(grey[..., None], 3, axis=2)
    sixteen = Image.fromarray(grey.astype(np.uint16) * 257)
    for image, suffix in (
        (sixteen, "PNG"),
        (sixteen, "TIFF"),
        (Image.fromarray(face).convert("RGBA"), "PNG"),
        (Image.fromarray(grey).convert("LA"), "PNG"),
        (Image.fromarray(grey), "GIF"),
        (Image.fromarray(face), "BMP"),
        (Image.fromarray(face), "WEBP"),
        (Image.merge("CMYK", [*Image.fromarray(255 - face).split(), Image.new("L", grey.shape[::-1])]), "TIFF"),
    ):
        found = decode(encode(image, suffix, **({"lossless": True} if suffix == "WEBP" else {})))
        assert np.array_equal(found, face), (image.mode, suffix)
    binary = smooth(0).convert("1")
    assert np.array_equal(decode(encode(binary))[..., 0], np.array(binary) * 255)


@pytest.mark.parametrize(("kind", "message"), [(np.int32, "32-bit integers"), (np.float32, "floating point")])
def test_pixels_without_a_range_are_broken(kind, message):
    with pytest.raises(BrokenImage, match=f"{message}.*; convert it to 8 bits"):
        decode(encode(Image.fromarray(np.arange(300, dtype=kind).reshape(15, 20)), "TIFF"))


def test_transparent_pixels_are_black():
    red = Image.new("RGBA", (20, 16), (255, 0, 0, 255))
    red.putpixel((3, 2), (0, 255, 0, 0))
    red.putpixel((4, 2), (0, 200, 0, 128))
    found = decode(encode(red))
    assert (
        found[2, 3].tolist() == [0, 0, 0]
        and found[2, 4].tolist() == [0, 100, 0]
        and found[0, 0].tolist() == [255, 0, 0]
    )
    palette = Image.new("P", (20, 16), 1)
    palette.putpalette([0, 255, 0, 9, 8, 7])
    palette.putpixel((5, 6), 0)
    found = decode(encode(palette, transparency=0))
    assert found[6, 5].tolist() == [0, 0, 0] and found[0, 0].tolist() == [9, 8, 7]


@pytest.mark.parametrize("suffix", ["GIF", "WEBP", "PNG", "TIFF"])
def test_the_first_frame_counts(suffix):
    frames = [Image.new("RGB", (20, 16), (shade, shade, shade)) for shade in (40, 200)]
    content = encode(
        frames[0], suffix, save_all=True, append_images=frames[1:], **({"lossless": True} if suffix == "WEBP" else {})
    )
    assert (decode(content) == 40).all()


@pytest.mark.parametrize("suffix", ["PPM", "TGA", "ICO", "EPS", "PDF", "JPEG2000"])
def test_other_formats_are_not_opened(suffix):
    with pytest.raises(BrokenImage) as error:
        decode(encode(smooth(0), suffix))
    assert "0x" not in str(error.value) and "object" not in str(error.value)


JPEGS = [
    {},
    {"subsampling": 0},
    {"progressive": True},
    {"restart_marker_blocks": 2},
    {"mode": "L"},
    {"mode": "CMYK"},
]


@pytest.mark.parametrize("form", JPEGS, ids=str)
def test_a_truncated_jpeg_is_broken_whatever_its_end_says(form):
    """Anywhere behind its header, down to the last byte, with an end mark, zeros or nothing in place of the rest."""
    form = {"mode": "RGB"} | form
    options = {key: value for key, value in form.items() if key != "mode"}
    for seed in range(6):
        content = encode(smooth(seed, 61 + seed).convert(form["mode"]), "JPEG", quality=85, **options)
        assert (decode(content + b"what cameras leave behind the end \xff\xd9") == decode(content)).all()
        start, end = content.index(b"\xff\xda") + 14, len(content) - 2
        for cut in {*np.linspace(start, end - 1, 20).astype(int).tolist(), *range(end - 9, end)}:
            for rest in (b"\xff\xd9", bytes(len(content) - cut), b""):
                with pytest.raises(BrokenImage):
                    decode(content[:cut].removesuffix(b"\xff") + rest)


def png_of(rows, width, height):
    """A PNG, correct in every checksum, that holds ``rows``."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def test_half_a_png_is_broken_whatever_its_checksums_say():
    rows = b"".join(b"\0" + bytes(range(row, row + 20)) for row in range(16))
    assert decode(png_of(rows, 20, 16))[15, 19].tolist() == [34, 34, 34]
    for part in (rows[:168], rows[:-1], b"", rows + rows):
        with pytest.raises(BrokenImage):
            decode(png_of(part, 20, 16))
    for image in (smooth(0), smooth(1).quantize(64), smooth(2).convert("1"), smooth(3).convert("RGBA")):
        content, rng = encode(image), np.random.default_rng(0)
        decode(content)
        for place in rng.integers(content.index(b"IDAT") + 4, len(content) - 24, 60):
            for damaged in (
                content[:place] + bytes(len(content) - place),
                content[:place] + b"\0\0\0\0IEND\xaeB`\x82",
                content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :],
            ):
                with pytest.raises(BrokenImage):
                    decode(damaged)


def test_an_interlaced_png_is_whole():
    """Two passes of Adam7 are empty in an image of one column."""
    for width in (1, 3, 9):
        passes = [(0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2)]
        grey = np.arange(width * 7, dtype=np.uint8).reshape(7, width)
        parts = [grey[y::down, x::across] for x, y, across, down in passes]
        rows = b"".join(b"\0" + row.tobytes() for part in parts if part.size for row in part)
        content = bytearray(png_of(rows, width, 7))
        content[28] = 1
        content[29:33] = struct.pack(">I", zlib.crc32(content[12:29]))
        assert (decode(bytes(content))[..., 0] == grey).all()


def test_grey_corners_are_no_truncation():
    for options in ({}, {"progressive": True}, {"restart_marker_blocks": 1}):
        assert (decode(encode(Image.new("RGB", (40, 40), (128, 128, 128)), "JPEG", **options)) == 128).all()


def test_a_jpeg_of_endless_scans_is_broken():
    content = encode(smooth(0), "JPEG", progressive=True)
    last = content.rindex(b"\xff\xda")
    with pytest.raises(BrokenImage, match="a JPEG of 1.* scans; the limit is 100"):
        decode(content[:last] + 1000 * content[last:-2] + content[-2:])


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


@pytest.mark.parametrize("suffix", ["PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP"])
def test_flipped_bytes_never_escape(suffix, recwarn):
    content = encode(Image.fromarray(noise(0)[1]), suffix)
    rng = np.random.default_rng(0)
    for _ in range(150):
        damaged = bytearray(content)
        damaged[rng.integers(len(content))] ^= int(rng.integers(1, 256))
        try:
            assert decode(bytes(damaged)).shape[2] == 3
        except BrokenImage as error:
            assert " at 0x" not in str(error)
    assert not recwarn.list


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
