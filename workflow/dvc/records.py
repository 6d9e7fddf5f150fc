"""Snakemake's records of how files were made, kept beside them: python -m workflow.dvc.records STAGE.

Snakemake keeps them in .snakemake/, per checkout; without them it sees no change of a parameter or of code. As an
output of each stage of dvc.yaml they are stored with the files and fetched with them (docs/dvc.md).
"""

import json
import os
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import yaml
from snakemake.persistence import MetadataRecord
from snakemake.persistence.file import FilePersistence

from transfer.utils.files import write_json

PIPELINE = Path("dvc.yaml")
FOLDER = "records"
# What decides whether a job runs again. Not the times, with which no two runs would store the same; nor the software
# environment, whose versions are pinned alike with conda and without.
_KEPT = ("rule", "input", "log", "shellcmd", "params", "code", "record_format_version", "input_checksums")


def save(stage: str) -> None:
    """Write the records of a stage's outputs to that of them which is results/<experiment>/records/<stage>.json."""
    outs = yaml.safe_load(PIPELINE.read_text(encoding="utf-8"))["stages"][stage]["outs"]
    paths = [Path(path) for out in outs for path in out]
    (target,) = (path for path in paths if path.parent.name == FOLDER)
    persistence = FilePersistence()
    found = {str(path): persistence._read_record(str(path)) for path in _files(paths) if path != target}
    records = {path: {key: found[path].get(key) for key in _KEPT} for path in sorted(found) if found[path]}
    write_json(target, records)


def restore(file: Path, now: float) -> None:
    """Hand the records in ``file`` to Snakemake, and give their files the time ``now`` (seconds since 1970).

    With one time for all, none is older than what it was made of. The files must be those that were stored with them.
    """
    persistence = FilePersistence()
    records: dict[str, dict[str, Any]] = json.loads(file.read_text(encoding="utf-8"))
    for path, record in records.items():
        persistence._write_record(path, MetadataRecord(**record, incomplete=False))
        os.utime(path, (now, now))
    # Of earlier jobs here, and outputs too where Snakemake compares times.
    for path in (file.parents[1] / "benchmarks").rglob("*.tsv"):
        os.utime(path, (now, now))


def _files(paths: Iterable[Path]) -> Iterator[Path]:
    for path in paths:
        if path.is_dir():
            yield from (file for file in path.rglob("*") if file.is_file())
        elif path.exists():
            yield path


if __name__ == "__main__":
    save(sys.argv[1])
