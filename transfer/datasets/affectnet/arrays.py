"""The reduced release (4 GB): train_set/ and val_set/, each with images/N.jpg and annotations/N_{exp,val,aro,lnd}.npy.

Layout: AU/AffectNet_peocess.py of forever208/FMAE-IAT, and thread 14 of sb-ai-lab/EmotiEffLib for the four arrays; the
landmarks are 136 numbers x, y, x, ... in pixels of the image.
"""

import io
import re
from collections.abc import Callable

import numpy as np
import pandas as pd

from transfer.datasets.affectnet.codes import expression
from transfer.datasets.affectnet.landmarks import five_of
from transfer.datasets.registry import LANDMARKS
from transfer.datasets.source import Source
from transfer.utils.errors import UserError

FOLDERS = {"train_set": "train", "val_set": "test"}
_ANNOTATION = re.compile(r"(.*/)?(train_set|val_set)/annotations/(\d+)_(exp|val|aro|lnd)\.npy")
_MAGIC = b"\x93NUMPY\x01\x00"
_HEADERS: dict[bytes, tuple[tuple[int, ...], np.dtype]] = {}


def found(source: Source) -> bool:
    """Whether this release lies in the source."""
    return any(_ANNOTATION.fullmatch(name) for name in source.names())


def rows(source: Source) -> pd.DataFrame:
    """One row per _exp.npy, with its code as label, valence, arousal and five landmarks; NaN for arrays not there.

    Raises UserError, naming the file, for what is no array of the expected kind.
    """
    faces: dict[tuple[str, int], dict] = {}
    readers: dict[str, Callable] = {"exp": _expression, "val": _number, "aro": _number, "lnd": _landmarks}
    names = {name: match for name in source.names() if (match := _ANNOTATION.fullmatch(name))}
    for name, content in source.stream(names):
        top, folder, number, kind = names[name].groups()
        face = faces.setdefault((folder, int(number)), {"top": top or "", "name": number})
        face[kind] = readers[kind](content, f"{source.path}: {name}")
    ordered = sorted((folder, number) for folder, number in faces if "exp" in faces[folder, number])
    table = pd.DataFrame(
        [
            (
                f"{folder}/{(face := faces[folder, number])['name']}",
                f"{face['top']}{folder}/images/{face['name']}.jpg",
                FOLDERS[folder],
                face["exp"],
                face.get("val", np.nan),
                face.get("aro", np.nan),
            )
            for folder, number in ordered
        ],
        columns=["sample", "path", "split", "label", "valence", "arousal"],
    )
    none = np.full(len(LANDMARKS), np.nan)
    points = [faces[key].get("lnd", none) for key in ordered]
    table[LANDMARKS] = np.array(points).reshape(-1, len(LANDMARKS))
    return table


def load_array(content: bytes, where: str) -> np.ndarray:
    """The array of an .npy file, as `numpy.load` without pickles gives it; UserError if there is none.

    A million small files have a handful of headers: reading each of these once makes it several times as fast.
    """
    start = 10 + int.from_bytes(content[8:10], "little")
    header = content[:start]
    try:
        if header not in _HEADERS:
            if not header.startswith(_MAGIC):
                raise ValueError("not an .npy file of version 1")
            shape, fortran, dtype = np.lib.format.read_array_header_1_0(io.BytesIO(header[8:]))
            if dtype.hasobject:
                raise ValueError("it holds pickled objects, which are not read")
            if fortran:
                raise ValueError("its order is not C's")
            _HEADERS[header] = (shape, dtype)
        shape, dtype = _HEADERS[header]
        return np.frombuffer(content, dtype, offset=start).reshape(shape)
    except ValueError as error:
        raise UserError(f"{where}: not a numpy array as expected ({error}); get the file again") from error


def _expression(content: bytes, where: str) -> int:
    array = load_array(content, where)
    if array.size != 1:
        raise UserError(f"{where}: {array.size} values; expected one expression")
    return expression(str(array.item()), where)


def _number(content: bytes, where: str) -> float:
    array = load_array(content, where)
    try:
        return float(array.item())
    except ValueError as error:
        raise UserError(f"{where}: {array.size} values, first {array.ravel()[:1]}; expected one number") from error


def _landmarks(content: bytes, where: str) -> np.ndarray:
    array = load_array(content, where)
    try:
        return five_of(array.astype(float))
    except ValueError as error:
        raise UserError(f"{where}: shape {array.shape}, {array.dtype}; expected 68 points, 136 numbers") from error
