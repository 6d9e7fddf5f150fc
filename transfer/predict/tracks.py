"""Faces of a video's frames that belong together."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

import numpy as np

from transfer.predict.pictures import Picture
from transfer.predict.results import Face, Photo

OVERLAP = 0.2
"""Least intersection over union of a face's boxes in two frames."""
LOST = 2.0
"""Seconds after which a face that was away is a new one."""


@dataclass
class _Track:
    box: tuple[float, float, float, float]
    time: float


def tracked(pairs: Iterable[tuple[Picture, Photo]]) -> Iterator[tuple[Picture, Photo]]:
    """The photos of a video's frames with the number of each person, from 1; other photos as they are."""
    tracks: dict[int, _Track] = {}
    count, before = 0, -1.0
    for picture, photo in pairs:
        if photo.time is None:
            yield picture, photo
            continue
        if photo.time < before:  # another video
            tracks, count = {}, 0
        before = photo.time
        tracks = {number: track for number, track in tracks.items() if photo.time - track.time <= LOST}
        numbers = _matches(photo.faces, tracks)
        faces = []
        for face, number in zip(photo.faces, numbers, strict=True):
            if number is None:
                count += 1
                number = count
            tracks[number] = _Track(face.box, photo.time)
            faces.append(replace(face, track=number))
        yield picture, replace(photo, faces=faces)


def _matches(faces: list[Face], tracks: dict[int, _Track]) -> list[int | None]:
    """The track of each face, or None: pairs of most overlap in all."""
    from scipy.optimize import linear_sum_assignment

    numbers = list(tracks)
    shared = np.array([[_overlap(face.box, tracks[number].box) for number in numbers] for face in faces])
    found: list[int | None] = [None] * len(faces)
    for row, column in zip(*linear_sum_assignment(-shared.reshape(len(faces), len(numbers))), strict=True):
        if shared[row, column] >= OVERLAP:
            found[row] = numbers[column]
    return found


def _overlap(one: tuple[float, ...], two: tuple[float, ...]) -> float:
    width = min(one[2], two[2]) - max(one[0], two[0])
    height = min(one[3], two[3]) - max(one[1], two[1])
    shared = max(width, 0) * max(height, 0)
    areas = sum((box[2] - box[0]) * (box[3] - box[1]) for box in (one, two))
    return shared / (areas - shared)
