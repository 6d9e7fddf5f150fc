"""Synthetic datasets: procedurally generated faces in the archive layouts of RAF-DB, FERPlus and AffectNet.

The three archives let every rule of the workflow run without licensed data. They are populations of their own (framing,
pose, occlusion, picture quality, imbalance and labels differ), not the datasets whose layout they borrow.
"""

import gzip
import io
import tarfile
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from itertools import count
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image

from transfer.datasets import affectnet, ferplus, rafdb, registry
from transfer.datasets.synthetic.render import Face, Style, background, expose, render_face
from transfer.utils.files import atomic

Kind = Literal["rafdb", "ferplus", "affectnet"]
Counts = Mapping[str, Mapping[str, int]]  # split -> class name -> images
Members = Iterator[tuple[str, bytes]]  # name, content

CLASSES: dict[str, list[str]] = {"rafdb": rafdb.CLASSES, "ferplus": ferplus.CLASSES, "affectnet": affectnet.CLASSES}
_TOTAL = {
    "rafdb": {"train": 480, "test": 300},
    "ferplus": {"train": 480, "val": 100, "test": 300},
    "affectnet": {"train": 480, "test": 240},
}
_FLOOR = {"train": 24, "val": 10, "test": 10}
_STYLES = {
    "rafdb": Style(),
    "ferplus": Style(scale=(0.31, 0.37), shift=0.02, roll=6, yaw=9, pitch=6, occlusion=0.10, blur=0.6, noise=6),
    "affectnet": Style(scale=(0.20, 0.30), shift=0.04, roll=8, yaw=12, pitch=8, occlusion=0.20, blur=0.7, noise=7),
}
# Part of the archives' bytes.
_README = """\
Drawn faces, made by a program to try this workflow with. They are not {name}: only the layout of the files is the same.
A figure measured on them says nothing about the real dataset.
"""

# class -> valence and arousal at full intensity (the circumplex of affect)
_AFFECT = {
    "neutral": (0.0, 0.0), "happiness": (0.8, 0.3), "sadness": (-0.75, -0.35), "surprise": (0.15, 0.8),
    "fear": (-0.5, 0.85), "disgust": (-0.75, 0.45), "anger": (-0.6, 0.8), "contempt": (-0.6, 0.3),
}  # fmt: skip
# class -> what taggers mistake it for
_TAKEN_FOR = {
    "neutral": ("sadness", "happiness", "anger", "contempt"),
    "happiness": ("neutral", "surprise", "contempt"),
    "surprise": ("fear", "happiness", "neutral"),
    "sadness": ("neutral", "fear", "disgust"),
    "anger": ("disgust", "neutral", "sadness"),
    "disgust": ("anger", "sadness", "contempt"),
    "fear": ("surprise", "sadness"),
    "contempt": ("neutral", "happiness", "anger"),
}
# Where RAF-DB's 100 x 100 crops have eyes, nose and mouth corners, about.
_CROP_100 = np.array([(32.5, 40.5), (67.5, 40.5), (50.0, 61.0), (35.5, 80.5), (64.5, 80.5)])


def default_counts(kind: Kind, scale: float = 1.0) -> dict[str, dict[str, int]]:
    """Images per split and class: the real dataset's proportions with a floor for rare classes, times ``scale``."""
    options = {"classes": 8} if kind == "affectnet" else {}
    official, counts = registry.get(kind).official(**options)[0], {}
    for split, total in _TOTAL[kind].items():
        real, floor = np.array(official[split]), max(2, round(_FLOOR[split] * scale))
        share = total * scale / real.sum()
        counts[split] = {name: max(floor, round(n * share)) for name, n in zip(CLASSES[kind], real, strict=True)}
    return counts


def write_archive(kind: Kind, path: str | Path, seed: int, scale: float = 1.0, counts: Counts | None = None) -> None:
    """Write a synthetic dataset to ``path``: a zip for "rafdb" and "affectnet", a tar.gz for "ferplus".

    ``counts`` replaces ``default_counts(kind, scale)``. The same arguments give the same bytes. FERPlus and AffectNet
    gain a few images that their rules drop: votes for unknown and for not a face, expression codes 8 to 10.
    """
    write = _write_tar_gz if kind == "ferplus" else _write_zip
    with atomic(path) as part:
        write(part, _MEMBERS[kind](seed, counts or default_counts(kind, scale)))


def _write_zip(path: Path, members: Members) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in members:
            info = zipfile.ZipInfo(name)  # dated 1980
            info.external_attr = 0o644 << 16
            info.compress_type = zipfile.ZIP_STORED if name.endswith(".jpg") else zipfile.ZIP_DEFLATED
            archive.writestr(info, data)


def _write_tar_gz(path: Path, members: Members) -> None:
    with (
        open(path, "wb") as raw,
        # Named and dated here, since gzip would record the temporary file's name and the time.
        gzip.GzipFile("", "wb", compresslevel=1, fileobj=raw, mtime=0) as packed,
        tarfile.open(fileobj=packed, mode="w", format=tarfile.USTAR_FORMAT) as archive,
    ):
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size, info.mode = len(data), 0o644
            archive.addfile(info, io.BytesIO(data))


def _images(
    kind: Kind, seed: int, split: str, counts: Counts, others: Sequence[str] = (), first: int = 0
) -> Iterator[tuple[int, str, np.random.Generator]]:
    """Number from ``first``, class name and random stream of each image of a split, shuffled; then ``others``."""
    labels = [name for name, n in counts[split].items() for _ in range(n)]
    np.random.default_rng([seed, *split.encode()]).shuffle(labels)
    for number, name in enumerate([*labels, *others], first):
        # One stream per image, so that an image does not depend on how many others there are.
        yield number, name, np.random.default_rng([seed, *(kind + split).encode(), number])


def _intensity(rng: np.random.Generator, least: float) -> float:
    return float(least + (1 - least) * rng.beta(2.2, 1.2))


def _encode(image: Image.Image, form: str, **options: int) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


def _crop(face: Face, template: np.ndarray, side: int) -> Image.Image:
    """The face with its landmarks on ``template``, a least-squares similarity: picture = a * crop + b, complex."""
    target, source = template @ [1, 1j], face.landmarks @ [1, 1j]
    centred = target - target.mean()
    a = np.vdot(centred, source) / np.vdot(centred, centred).real
    b = source.mean() - a * target.mean()
    affine = (a.real, -a.imag, b.real, a.imag, a.real, b.imag)
    form, smooth = Image.Transform.AFFINE, Image.Resampling.BILINEAR
    return Image.fromarray(face.image).transform((side, side), form, affine, smooth)


def _rafdb(seed: int, counts: Counts) -> Members:
    yield "basic/README.txt", _README.format(name="RAF-DB").encode()
    lines = ""
    for split, digits in (("train", 5), ("test", 4)):
        for number, name, rng in _images("rafdb", seed, split, counts, first=1):
            size = int(rng.integers(100, 151))
            face = render_face(rng, name, _intensity(rng, 0.75), size, _STYLES["rafdb"])
            stem, original = f"{split}_{number:0{digits}d}", Image.fromarray(face.image)
            lines += f"{stem}.jpg {rafdb.CLASSES.index(name) + 1}\n"
            yield f"basic/Image/original/{stem}.jpg", _encode(original, "JPEG", quality=int(rng.integers(60, 95)))
            yield f"basic/Image/aligned/{stem}_aligned.jpg", _encode(_crop(face, _CROP_100, 100), "JPEG", quality=90)
            points = "".join(f"{x:.2f}\t{y:.2f}\n" for x, y in face.landmarks)
            attributes = f"{points}{face.gender}\n{face.race}\n{face.age}\n"
            yield f"basic/Annotation/manual/{stem}_manu_attri.txt", attributes.encode()
    yield f"basic/{rafdb.LIST}", lines.encode()


def _ferplus(seed: int, counts: Counts) -> Members:
    yield "ferplus/README.txt", _README.format(name="FERPlus").encode()
    files, style = count(), _STYLES["ferplus"]
    for folder, split in ferplus.FOLDERS.items():
        lines, images = "", sum(counts[split].values())
        others = ["unknown"] * max(1, images // 60) + ["NF"] * max(1, images // 150)
        for _, name, rng in _images("ferplus", seed, split, counts, others):
            if name == "NF":
                pixels, votes = expose(rng, background(rng, 48), style), [0] * 9 + [10]
            elif name == "unknown":
                pixels = render_face(rng, str(rng.choice(ferplus.CLASSES)), 0.3, 48, style).image
                votes = rng.multinomial(10, [0.12, 0, 0, 0.12, 0, 0.06, 0, 0.1, 0.6, 0]).tolist()
            else:
                intensity = _intensity(rng, 0.8)
                pixels = render_face(rng, name, intensity, 48, style).image
                votes = _votes(rng, name, intensity)
            file = f"fer{next(files):07d}.png"
            yield f"ferplus/{folder}/{file}", _encode(Image.fromarray(pixels).convert("L"), "PNG", compress_level=1)
            lines += f'{file},"(0, 0, 48, 48)",{",".join(map(str, votes))}\r\n'  # ends as in the real file
        yield f"ferplus/{folder}/label.csv", lines.encode()


def _votes(rng: np.random.Generator, name: str, intensity: float) -> list[int]:
    """Ten taggers' votes over the eight classes, unknown and NF; a faint expression is often read as neutral."""
    chance, others = np.zeros(10), _TAKEN_FOR[name]
    doubt = rng.beta(1.2, 3.2) * (1.25 - 0.6 * intensity)
    chance[ferplus.CLASSES.index(name)] = 1 - doubt
    for other, weight in zip(others, rng.dirichlet(np.full(len(others), 0.6)), strict=True):
        chance[ferplus.CLASSES.index(other)] += doubt * weight * 0.9
    chance[8] += doubt * 0.1
    return rng.multinomial(10, chance).tolist()


def _affectnet(seed: int, counts: Counts) -> Members:
    yield "README.txt", _README.format(name="AffectNet").encode()
    codes = {name: code for code, name in (dict(enumerate(affectnet.CLASSES)) | affectnet.NOT_EXPRESSIONS).items()}
    style = _STYLES["affectnet"]
    for split, file in (("train", "training.csv"), ("test", "validation.csv")):
        lines, others = ",".join(affectnet.HEADER) + "\n", []
        if split == "train":  # the validation set has the eight classes only
            images = sum(counts[split].values())
            others = [name for name in affectnet.NOT_EXPRESSIONS.values() for _ in range(max(1, images // 100))]
        for _, name, rng in _images("affectnet", seed, split, counts, others):
            size, quality = int(rng.integers(110, 161)), int(rng.integers(60, 95))
            valence = arousal = -2.0
            if name in affectnet.CLASSES:
                intensity = _intensity(rng, 0.8)
                face = render_face(rng, name, intensity, size, style)
                valence, arousal = np.clip(np.array(_AFFECT[name]) * intensity + rng.normal(0, 0.08, 2), -1, 1)
            else:
                face = render_face(rng, str(rng.choice(affectnet.CLASSES)), 0.3, size, style)
            pixels = face.image if name != "no_face" else expose(rng, background(rng, size), style)
            x0, y0, x1, y1 = face.box
            box = f"{round(x0)},{round(y0)},{round(x1 - x0)},{round(y1 - y0)}"
            points = ";".join(f"{v:.2f}" for v in face.points.ravel())
            member = f"{rng.integers(1, 20)}/{rng.bytes(28).hex()}.jpg"
            lines += f"{member},{box},{points},{codes[name]},{valence:.6f},{arousal:.6f}\n"
            yield f"{affectnet.IMAGES}/{member}", _encode(Image.fromarray(pixels), "JPEG", quality=quality)
        yield file, lines.encode()


_MEMBERS = {"rafdb": _rafdb, "ferplus": _ferplus, "affectnet": _affectnet}
