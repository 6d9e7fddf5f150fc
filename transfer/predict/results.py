"""What a model says of pictures: typed, printed as a table, and as a DataFrame or JSON."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import pandas as pd

_BOX = ["box_x0", "box_y0", "box_x1", "box_y1"]
_LANDMARKS = [f"landmark_{i}_{axis}" for i in range(5) for axis in "xy"]  # as in faces.parquet
FOUND, NONE, ALIGNED, BROKEN = "found", "none", "aligned", "broken"


@dataclass(frozen=True)
class Face:
    """A face; pixels are those of the upright picture, with centres at integers."""

    expression: str
    """The most probable one."""
    probability: float
    probabilities: dict[str, float]
    """Of every expression, in the model's order."""
    box: tuple[float, float, float, float]
    """Left, top, right, bottom."""
    detection: float | None = None
    """Probability that it is a face; None where the picture was said to be one."""
    landmarks: np.ndarray | None = field(default=None, repr=False)
    """(5, 2): eyes, nose, corners of the mouth; the left ones of the picture first."""
    aligned: np.ndarray | None = field(default=None, repr=False)
    """(S, S, 3) uint8: what the network saw, before it was brought to the network's size."""
    relevance: np.ndarray | None = field(default=None, repr=False)
    """(S, S) from 0 to 1: where the network looked, with ``attention=True``."""
    lanets: np.ndarray | None = field(default=None, repr=False)
    """(B, S, S): the LANets' maps, with ``attention=True``."""
    track: int | None = None
    """Number of a person in a video, from 1."""

    def __str__(self) -> str:
        best = sorted(self.probabilities.items(), key=lambda pair: -pair[1])[:3]
        return ", ".join(f"{name} {value:.1%}" for name, value in best)


@dataclass(frozen=True)
class Photo:
    """A picture and its faces, the largest first; ``error`` says why it could not be read."""

    name: str
    width: int
    height: int
    faces: list[Face]
    error: str = ""
    time: float | None = None

    @property
    def status(self) -> str:
        """found, none (no face), aligned (the picture is a face), broken."""
        if self.error:
            return BROKEN
        return NONE if not self.faces else FOUND if self.faces[0].detection is not None else ALIGNED


class Results(list[Photo]):
    """Photos in the order of the pictures; prints as a table. ``classes`` are the model's."""

    def __init__(self, photos: Iterable[Photo] = (), classes: Sequence[str] = ()) -> None:
        super().__init__(photos)
        self.classes = list(classes)

    @property
    def faces(self) -> list[Face]:
        """All faces of all photos."""
        return [face for photo in self for face in photo.faces]

    def frame(self) -> "pd.DataFrame":
        """A row per face, and one for each picture without any: image, time (s, of videos), track, face, status,
        expression, probability, detection, box_*, landmark_*, p_<class>, error."""
        import pandas as pd

        columns = ["image", "time", "track", "face", "status", "expression", "probability", "detection", *_BOX]
        columns += [*_LANDMARKS, *(f"p_{name}" for name in self.classes), "error"]
        frame = pd.DataFrame([row for photo in self for row in _rows(photo)], columns=columns)
        frame["face"] = frame["face"].astype("Int64")
        return frame.drop(columns=[name for name in ("time", "track", "error") if frame[name].isin([None, ""]).all()])

    def to_json(self) -> list[dict[str, Any]]:
        """A dictionary per picture, of what JSON can hold."""
        return [
            {"image": photo.name, "width": photo.width, "height": photo.height, "status": photo.status}
            | ({"error": photo.error} if photo.error else {})
            | ({"time": round(photo.time, 3)} if photo.time is not None else {})
            | {"faces": [_json(face) for face in photo.faces]}
            for photo in self
        ]

    def __str__(self) -> str:
        said = {NONE: "no face found", BROKEN: "broken"}
        rows = [
            (photo.name, "" if face is None else str(number), *_words(face, said.get(photo.status, "")))
            for photo in self
            for number, face in enumerate(photo.faces or [None], 1)
        ]
        rows.insert(0, ("image", "face", "expression", "detection", "box"))
        wide = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
        lines = ("  ".join(cell.ljust(width) for cell, width in zip(row, wide, strict=True)).rstrip() for row in rows)
        return "\n".join(lines)

    __repr__ = __str__


def _words(face: Face | None, otherwise: str) -> tuple[str, str, str]:
    if face is None:
        return otherwise, "", ""
    left, top, right, bottom = (round(value) for value in face.box)
    who = "" if face.track is None else f"person {face.track}: "
    sure = "" if face.detection is None else f"{face.detection:.2f}"
    return f"{who}{face}", sure, f"{right - left}x{bottom - top} at {left},{top}"


def _rows(photo: Photo) -> list[dict[str, Any]]:
    common = {"image": photo.name, "time": photo.time, "status": photo.status, "error": photo.error}
    rows = []
    for number, face in enumerate(photo.faces, 1):
        row = common | {"face": number, "track": face.track, "expression": face.expression}
        row |= {"probability": face.probability, "detection": face.detection}
        row |= zip(_BOX, face.box, strict=True)
        if face.landmarks is not None:
            row |= zip(_LANDMARKS, face.landmarks.ravel().tolist(), strict=True)
        rows.append(row | {f"p_{name}": value for name, value in face.probabilities.items()})
    return rows or [common]


def _json(face: Face) -> dict[str, Any]:
    landmarks = None if face.landmarks is None else np.round(face.landmarks, 2).tolist()
    found = {"expression": face.expression, "probability": round(face.probability, 6), "detection": face.detection}
    found |= {"box": [round(value, 2) for value in face.box], "landmarks": landmarks}
    found |= {"track": face.track} if face.track is not None else {}
    return found | {"probabilities": {name: round(value, 6) for name, value in face.probabilities.items()}}
