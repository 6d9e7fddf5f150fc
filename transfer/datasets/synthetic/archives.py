"""Synthetic datasets: procedurally generated faces in the archive layouts of RAF-DB, FERPlus and AffectNet.

The three archives let every rule of the workflow run without licensed data. They are populations of their own (framing,
pose, picture quality, imbalance and labels differ), not the datasets whose layout they borrow.
"""

import gzip
import io
import tarfile
import zipfile
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
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
_TOTAL = {"train": 250, "val": 100, "test": 200}
_FLOOR = {"train": 20, "val": 10, "test": 10}
# Part of the archives' bytes.
_README = """\
Drawn faces, made by a program to try this workflow with. They are not {name}: only the layout of the files is the same.
A figure measured on them says nothing about the real dataset.
"""

# class -> valence and arousal at full intensity (the circumplex of affect), and what taggers mistake it for
_READ = {
    "neutral": (0.0, 0.0, "sadness"), "happiness": (0.8, 0.3, "surprise"), "sadness": (-0.75, -0.35, "neutral"),
    "surprise": (0.15, 0.8, "fear"), "fear": (-0.5, 0.85, "surprise"), "disgust": (-0.75, 0.45, "anger"),
    "anger": (-0.6, 0.8, "disgust"), "contempt": (-0.6, 0.3, "neutral"),
}  # fmt: skip


def default_counts(kind: Kind, scale: float = 1.0) -> dict[str, dict[str, int]]:
    """Images per split and class: the real dataset's proportions with a floor for rare classes, times ``scale``."""
    options = {"classes": 8} if kind == "affectnet" else {}
    counts = {}
    for split, official in registry.get(kind).official(**options)[0].items():
        real, floor = np.array(official), max(3, round(_FLOOR[split] * scale))
        share = _TOTAL[split] * scale / real.sum()
        counts[split] = {name: max(floor, round(n * share)) for name, n in zip(CLASSES[kind], real, strict=True)}
    return counts


def write_archive(kind: Kind, path: str | Path, seed: int, scale: float = 1.0, counts: Counts | None = None) -> None:
    """Write a synthetic dataset to ``path``: a zip for "rafdb" and "affectnet", a tar.gz for "ferplus".

    ``counts`` replaces ``default_counts(kind, scale)``. The same arguments give the same bytes. FERPlus and AffectNet
    gain a few images that their rules drop: votes for unknown and for not a face, expression codes 8 to 10.
    """
    write = _write_tar_gz if kind == "ferplus" else _write_zip
    with atomic(path) as part:
        write(part, _members(kind, seed, counts or default_counts(kind, scale)))


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


@dataclass(frozen=True)
class _Sample:
    """An image of an archive: a class or one of the layout's further labels, its ``number`` in the split from 1."""

    split: str
    number: int
    label: str
    intensity: float
    face: Face
    rng: np.random.Generator

    def jpeg(self) -> bytes:
        return _encode(Image.fromarray(self.face.image), "JPEG", quality=int(self.rng.integers(60, 95)))


def _members(kind: Kind, seed: int, counts: Counts) -> Members:
    """The files of an archive: the images, in random order, with what belongs to each, then the lists of labels."""
    root, title, files_of, style, others = _LAYOUTS[kind]
    yield f"{root}README.txt", _README.format(name=title).encode()
    lists: dict[str, str] = defaultdict(str)
    for split in counts:
        labels = [name for name, n in counts[split].items() for _ in range(n)]
        np.random.default_rng([seed, *split.encode()]).shuffle(labels)
        extra = {} if (kind, split) == ("affectnet", "test") else others  # the eight classes only
        labels += [name for name, every in extra.items() for _ in range(max(1, len(labels) // every))]
        for number, label in enumerate(labels, 1):
            # One stream per image, so that an image does not depend on how many others there are.
            rng = np.random.default_rng([seed, *(kind + split).encode(), number])
            known = label in CLASSES[kind]
            intensity = 0.85 + 0.15 * rng.beta(2.2, 1.2) if known else 0.3
            expression = label if known else str(rng.choice(CLASSES[kind]))
            size = int(rng.integers(*style.size))
            face = render_face(rng, expression, intensity, size, style)
            if label in ("NF", "no_face"):
                face = replace(face, image=expose(rng, background(rng, size), style))
            files, name, line = files_of(_Sample(split, number, label, intensity, face, rng))
            yield from files.items()
            lists[name] += line
    for name, lines in lists.items():
        yield name, (",".join(affectnet.HEADER) + "\n" if kind == "affectnet" else "").encode() + lines.encode()


def _encode(image: Image.Image, form: str, **options: int) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


_Files = tuple[dict[str, bytes], str, str]  # files by name; a list of labels, and the line in it


def _rafdb(image: _Sample) -> _Files:
    face, stem = image.face, f"{image.split}_{image.number:0{5 if image.split == 'train' else 4}d}"
    crop = Image.fromarray(face.image).resize((100, 100), Image.Resampling.BILINEAR, face.box)
    attributes = "".join(f"{x:.2f}\t{y:.2f}\n" for x, y in face.landmarks)
    attributes += f"{face.who.gender}\n{face.who.race}\n{face.who.age}\n"
    files = {
        f"basic/Image/original/{stem}.jpg": image.jpeg(),
        f"basic/Image/aligned/{stem}_aligned.jpg": _encode(crop, "JPEG", quality=90),
        f"basic/Annotation/manual/{stem}_manu_attri.txt": attributes.encode(),
    }
    return files, f"basic/{rafdb.LIST}", f"{stem}.jpg {rafdb.CLASSES.index(image.label) + 1}\n"


def _ferplus(image: _Sample) -> _Files:
    part, folder = {split: (part, folder) for part, (folder, split) in enumerate(ferplus.FOLDERS.items())}[image.split]
    file, grey = f"fer{10_000 * part + image.number:07d}.png", Image.fromarray(image.face.image).convert("L")
    line = f'{file},"(0, 0, 48, 48)",{",".join(map(str, _votes(image)))}\r\n'  # ends as in the real file
    return {f"ferplus/{folder}/{file}": _encode(grey, "PNG", compress_level=1)}, f"ferplus/{folder}/label.csv", line


def _votes(image: _Sample) -> list[int]:
    """Ten taggers' votes over the eight classes, unknown and NF; a faint expression is often read as another."""
    chance = dict.fromkeys([*ferplus.CLASSES, "unknown", "NF"], 0.0) | {image.label: 1.0}
    if image.label in _READ:
        doubt = image.rng.beta(1.2, 4) * (1.25 - 0.6 * image.intensity)
        chance |= {image.label: 1 - doubt, _READ[image.label][2]: 0.9 * doubt, "unknown": 0.1 * doubt}
    return list(image.rng.multinomial(10, list(chance.values())))


def _affectnet(image: _Sample) -> _Files:
    names = dict(enumerate(affectnet.CLASSES)) | affectnet.NOT_EXPRESSIONS
    code = next(code for code, name in names.items() if name == image.label)
    valence = arousal = -2.0
    if image.label in affectnet.CLASSES:
        affect = np.array(_READ[image.label][:2]) * image.intensity + image.rng.normal(0, 0.08, 2)
        valence, arousal = np.clip(affect, -1, 1)
    x0, y0, x1, y1 = map(round, image.face.box)
    points = ";".join(f"{v:.2f}" for v in image.face.points.ravel())
    file = f"{image.rng.integers(1, 20)}/{image.rng.bytes(28).hex()}.jpg"
    line = f"{file},{x0},{y0},{x1 - x0},{y1 - y0},{points},{code},{valence:.6f},{arousal:.6f}\n"
    table = "training.csv" if image.split == "train" else "validation.csv"
    return {f"{affectnet.IMAGES}/{file}": image.jpeg()}, table, line


# Folder of the archive, name of the real dataset, a sample's files, its style, and further labels, each once in so many
# images.
_GREY = Style(size=(48, 49), scale=(0.28, 0.34), roll=6, yaw=9, pitch=6, blur=0.5, noise=5)
_FOUND = Style(size=(110, 161), scale=(0.20, 0.30), shift=0.04, roll=8, yaw=12, pitch=8)
_LAYOUTS: dict[str, tuple[str, str, Callable[[_Sample], _Files], Style, dict[str, int]]] = {
    "rafdb": ("basic/", "RAF-DB", _rafdb, Style(), {}),
    "ferplus": ("ferplus/", "FERPlus", _ferplus, _GREY, {"unknown": 60, "NF": 150}),
    "affectnet": ("", "AffectNet", _affectnet, _FOUND, dict.fromkeys(affectnet.NOT_EXPRESSIONS.values(), 100)),
}
