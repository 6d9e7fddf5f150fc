"""The embedded default's data: drawn faces in the archive layouts of RAF-DB, FERPlus and AffectNet.

The three archives let every rule of the workflow run where no licensed data are at hand. They are populations of their
own (framing, pose, occlusion, picture quality, imbalance and labels differ), not the datasets whose layout they borrow.
"""

import csv
import gzip
import io
import tarfile
import zipfile
from collections.abc import Callable, Iterator, Mapping
from itertools import count
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image

from transfer.datasets import affectnet, ferplus, rafdb
from transfer.datasets.synthetic.render import Face, Style, background, expose, render_face
from transfer.utils.files import atomic

Kind = Literal["rafdb", "ferplus", "affectnet"]
Counts = Mapping[str, Mapping[str, int]]  # split -> class name -> images
Members = Iterator[tuple[str, bytes]]  # name, content

CLASSES: dict[str, list[str]] = {"rafdb": rafdb.CLASSES, "ferplus": ferplus.CLASSES, "affectnet": affectnet.CLASSES}

# Images per class of the real datasets' parts, whose proportions the drawn ones mirror (FERPlus by the majority rule).
_REAL = {
    "rafdb": {
        "train": (1290, 281, 717, 4772, 1982, 705, 2524),
        "test": (329, 74, 160, 1185, 478, 162, 680),
    },
    "ferplus": {
        "train": (8740, 7287, 3149, 3014, 2100, 119, 532, 119),
        "val": (1182, 865, 415, 351, 287, 24, 62, 13),
        "test": (1090, 893, 396, 384, 273, 18, 83, 16),
    },
    "affectnet": {
        "train": (74874, 134415, 25459, 14090, 6378, 3803, 24882, 3750),
        "test": (500,) * 8,
    },
}
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

_README = """\
Drawn faces, made by a program to try this workflow with. They are not {name}: only the layout of the files is the same.
A figure measured on them says nothing about the real dataset.
"""

# Where a class lies on the circumplex of affect at full intensity: valence, arousal.
_AFFECT = {
    "neutral": (0.0, 0.0),
    "happiness": (0.8, 0.3),
    "sadness": (-0.75, -0.35),
    "surprise": (0.15, 0.8),
    "fear": (-0.5, 0.85),
    "disgust": (-0.75, 0.45),
    "anger": (-0.6, 0.8),
    "contempt": (-0.6, 0.3),
}

# What taggers take a class for when they miss it.
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


def default_counts(kind: Kind, scale: float = 1.0) -> dict[str, dict[str, int]]:
    """Images per split and class: the real dataset's proportions with a floor for rare classes, times ``scale``."""
    counts = {}
    for split, real in _REAL[kind].items():
        share = _TOTAL[kind][split] * scale / sum(real)
        floor = max(2, round(_FLOOR[split] * scale))
        counts[split] = {name: max(floor, round(n * share)) for name, n in zip(CLASSES[kind], real, strict=True)}
    return counts


def write_archive(kind: Kind, path: str | Path, seed: int, scale: float = 1.0, counts: Counts | None = None) -> None:
    """Draw a population of faces and write it to ``path``: a zip for "rafdb" and "affectnet", a tar.gz for "ferplus".

    ``counts`` (split -> class name -> images) replaces ``default_counts(kind, scale)``. The same arguments give the
    same bytes. FERPlus and AffectNet gain a few images that their rules drop: votes for unknown and for not a face,
    expression codes 8 to 10.
    """
    draw, write = _KINDS[kind]
    with atomic(path) as part:
        write(part, draw(seed, counts or default_counts(kind, scale)))


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
        # Named and dated here, since gzip would note the temporary file's name and the time.
        gzip.GzipFile("", "wb", compresslevel=1, fileobj=raw, mtime=0) as packed,
        tarfile.open(fileobj=packed, mode="w", format=tarfile.USTAR_FORMAT) as archive,
    ):
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size, info.mode = len(data), 0o644
            archive.addfile(info, io.BytesIO(data))


def _shuffled(seed: int, split: str, counts: Mapping[str, int]) -> list[str]:
    labels = [name for name, n in counts.items() for _ in range(n)]
    np.random.default_rng([seed, *split.encode()]).shuffle(labels)
    return labels


def _rng(kind: Kind, seed: int, split: str, number: int) -> np.random.Generator:
    """One stream per image, so that an image does not depend on how many others there are."""
    return np.random.default_rng([seed, *(kind + split).encode(), number])


def _intensity(rng: np.random.Generator, least: float) -> float:
    return float(least + (1 - least) * rng.beta(2.2, 1.2))


def _jpeg(image: np.ndarray, quality: int) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()


# --------------------------------------------------------------------------------------------------------------- RAF-DB

# Where RAF-DB's 100 x 100 crops have eyes, nose and mouth corners, about.
_CROP_100 = np.array([(32.5, 40.5), (67.5, 40.5), (50.0, 61.0), (35.5, 80.5), (64.5, 80.5)])


def _crop(face: Face, template: np.ndarray, side: int) -> np.ndarray:
    """The face turned and scaled so that its landmarks lie on ``template`` in the least-squares sense."""
    # In complex numbers a similarity is picture = a * crop + b.
    target, source = template @ [1, 1j], face.landmarks @ [1, 1j]
    centred = target - target.mean()
    a = np.vdot(centred, source) / np.vdot(centred, centred).real
    b = source.mean() - a * target.mean()
    coefficients = (a.real, -a.imag, b.real, a.imag, a.real, b.imag)
    picture = Image.fromarray(face.image)
    return np.asarray(picture.transform((side, side), Image.Transform.AFFINE, coefficients, Image.Resampling.BILINEAR))


def _rafdb(seed: int, counts: Counts) -> Members:
    yield "basic/README.txt", _README.format(name="RAF-DB").encode()
    lines = []
    for split, digits in (("train", 5), ("test", 4)):
        for number, name in enumerate(_shuffled(seed, split, counts[split]), 1):
            rng = _rng("rafdb", seed, split, number)
            size = int(rng.integers(100, 151))
            face = render_face(rng, name, _intensity(rng, 0.75), size, _STYLES["rafdb"])
            stem, quality = f"{split}_{number:0{digits}d}", int(rng.integers(60, 95))
            lines.append(f"{stem}.jpg {rafdb.CLASSES.index(name) + 1}\n")
            yield f"basic/Image/original/{stem}.jpg", _jpeg(face.image, quality)
            yield f"basic/Image/aligned/{stem}_aligned.jpg", _jpeg(_crop(face, _CROP_100, 100), 90)
            points = "".join(f"{x:.2f}\t{y:.2f}\n" for x, y in face.landmarks)
            attributes = f"{points}{face.gender}\n{face.race}\n{face.age}\n"
            yield f"basic/Annotation/manual/{stem}_manu_attri.txt", attributes.encode()
    yield "basic/EmoLabel/list_patition_label.txt", "".join(lines).encode()


# -------------------------------------------------------------------------------------------------------------- FERPlus


def _votes(rng: np.random.Generator, name: str, intensity: float) -> list[int]:
    """Ten taggers' votes over the eight classes, unknown and NF; a faint expression is often read as neutral."""
    chance = np.zeros(10)
    chance[ferplus.CLASSES.index(name)] = 1.0
    doubt = rng.beta(1.2, 3.2) * (1.25 - 0.6 * intensity)
    others = _TAKEN_FOR[name]
    weights = rng.dirichlet(np.full(len(others), 0.6))
    chance = (1 - doubt) * chance
    for other, weight in zip(others, weights, strict=True):
        chance[ferplus.CLASSES.index(other)] += doubt * weight * 0.9
    chance[8] += doubt * 0.1
    return rng.multinomial(10, chance).tolist()


def _ferplus(seed: int, counts: Counts) -> Members:
    yield "ferplus/README.txt", _README.format(name="FERPlus").encode()
    file_numbers = count()
    for split, folder in (("train", "FER2013Train"), ("val", "FER2013Valid"), ("test", "FER2013Test")):
        labels = _shuffled(seed, split, counts[split])
        labels += ["unknown"] * max(1, len(labels) // 60) + ["NF"] * max(1, len(labels) // 150)
        table = io.StringIO()
        rows = csv.writer(table)  # ends its lines with \r\n, as the real file does
        for i, name in enumerate(labels):
            rng = _rng("ferplus", seed, split, i)
            if name == "NF":
                image = expose(rng, background(rng, 48), _STYLES["ferplus"])
                votes = [0] * 9 + [10]
            elif name == "unknown":
                image = render_face(rng, str(rng.choice(ferplus.CLASSES)), 0.3, 48, _STYLES["ferplus"]).image
                votes = rng.multinomial(10, [0.12, 0, 0, 0.12, 0, 0.06, 0, 0.1, 0.6, 0]).tolist()
            else:
                intensity = _intensity(rng, 0.8)
                image = render_face(rng, name, intensity, 48, _STYLES["ferplus"]).image
                votes = _votes(rng, name, intensity)
            file = f"fer{next(file_numbers):07d}.png"
            buffer = io.BytesIO()
            Image.fromarray(image).convert("L").save(buffer, "PNG", compress_level=1)
            yield f"ferplus/{folder}/{file}", buffer.getvalue()
            rows.writerow([file, "(0, 0, 48, 48)", *votes])
        yield f"ferplus/{folder}/label.csv", table.getvalue().encode()


# ------------------------------------------------------------------------------------------------------------ AffectNet


def _affectnet(seed: int, counts: Counts) -> Members:
    yield "README.txt", _README.format(name="AffectNet").encode()
    for split, file in (("train", "training.csv"), ("test", "validation.csv")):
        labels = _shuffled(seed, split, counts[split])
        if split == "train":  # the validation set has the eight classes only
            labels += [name for name in affectnet.NOT_EXPRESSIONS.values() for _ in range(max(1, len(labels) // 100))]
        table = io.StringIO()
        rows = csv.writer(table, lineterminator="\n")
        rows.writerow(affectnet.HEADER)
        for number, name in enumerate(labels):
            rng = _rng("affectnet", seed, split, number)
            size, quality = int(rng.integers(110, 161)), int(rng.integers(60, 95))
            if name in affectnet.CLASSES:
                intensity = _intensity(rng, 0.8)
                face = render_face(rng, name, intensity, size, _STYLES["affectnet"])
                code = affectnet.CLASSES.index(name)
                valence, arousal = np.clip(np.array(_AFFECT[name]) * intensity + rng.normal(0, 0.08, 2), -1, 1)
            else:
                face = render_face(rng, str(rng.choice(affectnet.CLASSES)), 0.3, size, _STYLES["affectnet"])
                code = {text: number for number, text in affectnet.NOT_EXPRESSIONS.items()}[name]
                valence = arousal = -2.0
            image = face.image if name != "no_face" else expose(rng, background(rng, size), _STYLES["affectnet"])
            x0, y0, x1, y1 = face.box
            box = [round(x0), round(y0), round(x1 - x0), round(y1 - y0)]
            points = ";".join(f"{v:.2f}" for v in face.points.ravel())
            member = f"{rng.integers(1, 20)}/{rng.bytes(28).hex()}.jpg"
            rows.writerow([member, *box, points, code, f"{valence:.6f}", f"{arousal:.6f}"])
            yield f"Manually_Annotated_Images/{member}", _jpeg(image, quality)
        yield file, table.getvalue().encode()


_KINDS: dict[str, tuple[Callable[[int, Counts], Members], Callable[[Path, Members], None]]] = {
    "rafdb": (_rafdb, _write_zip),
    "ferplus": (_ferplus, _write_tar_gz),
    "affectnet": (_affectnet, _write_zip),
}
