"""Small archives for the tests of the dataset layer."""

import io
import tarfile
import zipfile

import numpy as np
from PIL import Image

FORMS = ("folder", "zip", "tar", "tar.gz")


def pack(files, form, path):
    """Write {name: content} as `path` (a folder) or `path`.<form>; return where."""
    if form == "folder":
        for name, content in files.items():
            (path / name).parent.mkdir(parents=True, exist_ok=True)
            (path / name).write_bytes(content)
        return path
    archive = path.with_name(f"{path.name}.{form}")
    if form == "zip":
        with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as handle:
            for name, content in files.items():
                handle.writestr(name, content)
        return archive
    with tarfile.open(archive, "w:gz" if form != "tar" else "w") as handle:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            handle.addfile(info, io.BytesIO(content))
    return archive


def noise(seed, width=20, height=16, mode="RGB", suffix="png"):
    """An encoded image of noise, and its pixels."""
    channels = () if mode == "L" else (len(mode),)
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, *channels), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG" if suffix == "jpg" else suffix)
    return buffer.getvalue(), pixels
