"""Detection over a whole dataset that continues where it was killed.

What is done lies in small files, one for each part, below the experiment's state folder, which no rule declares:
Snakemake deletes declared outputs before a job.
"""

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from transfer.datasets.images import stream_images
from transfer.datasets.source import Source
from transfer.digest import step_digest
from transfer.faces.detect import assemble, detect_parts
from transfer.files import atomic, sha256
from transfer.params import digest
from transfer.progress import progress


def detect_dataset(archive: Source, listed: pd.DataFrame, state: "DetectionState", **options) -> pd.DataFrame:
    """Find the face of every image of an index; a run that was killed goes on after its last whole part.

    ``listed`` is the index (sample, path), ``options`` are those of :func:`transfer.faces.detect.detect_parts`. Returns
    the table of :func:`transfer.faces.detect.assemble`, the same whether or not the run was interrupted.
    """
    parts = state.load()
    done = {row for part in parts for row in part["row"]}
    if done:
        print(f"continuing: {len(done):,} of {len(listed):,} images were searched before", file=sys.stderr, flush=True)
    # Without the images of whole parts the others come in the same order as before, and make the same parts.
    rest = [row for row in range(len(listed)) if row not in done]
    stream = stream_images(archive, listed["path"].iloc[rest].tolist())
    images = ((rest[position], image, error) for position, image, error in stream)
    with progress("detecting faces", len(rest)) as report:
        for part in detect_parts(images, progress=report, **options):
            state.save(len(parts), part)
            parts.append(part)
    return assemble(parts, listed["sample"].tolist())


def state_key(index_file: Path, archive: Path, search: Mapping[str, Any], device: str) -> str:
    """Digest of all that decides what a detection finds: index, archive, parameters, code, torch and device.

    Of the archive (or of the folder) only size and time of change count.
    """
    stat = archive.stat()
    source = [str(archive), stat.st_size, stat.st_mtime_ns]
    return digest(sha256(index_file), source, dict(search), step_digest("detect"), torch.__version__, device)


class DetectionState:
    """The finished parts of a detection, a file for each; ``key`` stands for images, parameters and code."""

    def __init__(self, folder: Path, key: str) -> None:
        self.folder, self.key = folder, key

    def load(self) -> list[pd.DataFrame]:
        """The parts before the first that is missing or damaged; all other files, such as those of other keys, go."""
        parts: list[pd.DataFrame] = []
        try:
            while self._file(len(parts)).exists():
                parts.append(pd.read_parquet(self._file(len(parts))))
        except Exception as error:  # pyarrow raises nearly anything on damaged data
            file = self._file(len(parts))
            print(f"{file}: damaged ({type(error).__name__}); detection goes on before it", file=sys.stderr)
        wanted = {self._file(number) for number in range(len(parts))}
        for file in self._files() - wanted:
            file.unlink()
        return parts

    def save(self, number: int, part: pd.DataFrame) -> None:
        """Write a part; after a kill the file is there as a whole or not at all."""
        with atomic(self._file(number)) as unfinished:
            part.to_parquet(unfinished, index=False)

    def remove(self) -> None:
        """Delete all parts: the detection is complete and written."""
        for file in self._files():
            file.unlink()
        if self.folder.exists() and not any(self.folder.iterdir()):
            self.folder.rmdir()

    def _file(self, number: int) -> Path:
        return self.folder / f"{self.key}-{number}.parquet"

    def _files(self) -> set[Path]:
        return set(self.folder.glob("*.parquet"))
