"""Entries: what somebody says of their model, and its predictions; everything here is data of strangers."""

import datetime
import re
import stat
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import pandas as pd
import yaml
from pydantic import BeforeValidator, Field, ValidationError

from transfer.leaderboard.tasks import Sha256
from transfer.params import Strict
from transfer.params.read import explained, parse
from transfer.runs.predictions import parquet_columns
from transfer.utils.errors import UserError
from transfer.utils.files import sha256, whole_folder, write_text

FOLDER = Path("leaderboard/entries")
SCHEMA = Path("leaderboard/entry.schema.json")
YAML_BYTES, TABLE_BYTES = 64 * 1024, 64 * 1024**2
"""Largest entry.yaml and largest file of predictions."""
_DEPTH, _ROWS, _COLUMNS = 8, 500_000, 100

# Text of strangers goes to pages and to spreadsheets, where a first "=" would be a formula.
Line = Annotated[str, Field(pattern=r"^[^\W_][^\x00-\x1f\x7f]*$", max_length=100)]
Text = Annotated[str, Field(max_length=2000)]
Url = Annotated[str, Field(pattern=r"^https?://[^\s\"'<>`]+$", max_length=300)]
Names = Annotated[list[Line], Field(max_length=50)]


def _no(value: Any) -> Any:
    """YAML reads the word no as false."""
    return "no" if value is False else value


class Code(Strict):
    """Where the code is, and how it was run."""

    url: Url
    commit: Annotated[str, Field(pattern=r"^[0-9a-f]{7,40}$")] | None = None
    command: Text = ""
    licence: Line | None = None


class Network(Strict):
    """The model and what it costs."""

    architecture: Line
    parameters: Annotated[int, Field(strict=True, ge=0)] | None = None
    macs: Annotated[int, Field(strict=True, ge=0)] | None = None
    """Multiplications with additions for one face."""
    input_size: Annotated[int, Field(strict=True, ge=1)] | None = None


class SeedFile(Strict):
    """Predictions of one training."""

    seed: Annotated[int, Field(strict=True, ge=0)]
    file: Annotated[str, Field(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.-]{0,80}\.(csv|parquet)$")]
    """In the folder of the entry."""
    sha256: Sha256


class Doubt(Strict):
    """What somebody else could not reproduce or believe."""

    who: Line
    date: datetime.date
    text: Text
    url: Url


class Withdrawal(Strict):
    """Why an entry no longer counts; it stays on the board, struck out."""

    date: datetime.date
    reason: Annotated[str, Field(min_length=3, max_length=500)]


class Entry(Strict):
    """entry.yaml: who, what, trained and selected on what; the labels and the scores are ours."""

    title: Line
    tier: Literal["verified", "tool"]
    """verified: trained for this kind of labels; tool: off the shelf. Rows of the project's own runs need no entry."""
    task: Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*@[1-9][0-9]*$")]
    """NAME@VERSION of leaderboard/tasks."""
    date: datetime.date
    authors: Annotated[list[Line], Field(min_length=1, max_length=50)]
    contact: Line
    licence_of_predictions: Literal[
        "CC0-1.0", "CC-BY-4.0", "CC-BY-SA-4.0", "ODC-By-1.0", "ODbL-1.0", "MIT", "Apache-2.0"
    ]
    paper: Url | None = None
    code: Code | None = None
    model: Network
    weights: Literal["random", "pretrained"]
    """Where the training started."""
    pretraining_data: Names = []
    training_data: Names
    """All datasets whose labels the weights have seen; an empty list is a claim too."""
    tuning_data: Names
    """What hyperparameters and epochs were chosen on."""
    saw_test: Annotated[Literal["no", "selection", "training", "unknown"], BeforeValidator(_no)]
    """Whether the test faces were used: to select the epoch or the settings, to train, or nobody knows."""
    protocol: Literal["last", "val_selected", "test_selected", "untrained_here"]
    val_accuracy: Annotated[float, Field(strict=True, ge=0, le=1)] | None = None
    """Of the selected epoch, mean of the seeds; obligatory for val_selected."""
    runs: Annotated[list[SeedFile], Field(min_length=1, max_length=100)]
    single_run: Text = ""
    """Why there is only one run, if there is."""
    attempts: Annotated[int, Field(strict=True, ge=1)]
    """How often this model or an earlier form of it was scored on the test faces."""
    hardware: Line | None = None
    train_seconds: Annotated[float, Field(strict=True, ge=0)] | None = None
    """Of one training."""
    faces_per_second: Annotated[float, Field(strict=True, gt=0)] | None = None
    """Measured on ``hardware``."""
    faces: Literal["ours", "own_detector"] = "ours"
    """Whose crops were seen."""
    undetected: Literal["wrong"] | None = None
    """Faces without a row count as wrong: for tools whose own detector finds no face."""
    label_map: Annotated[dict[Line, Line], Field(max_length=50)] = {}
    """The tool's label -> the task's class; a class that no label leads to has probability 0."""
    method: Annotated[str, Field(min_length=3, max_length=200)]
    notes: Text = ""
    withdrawn: Withdrawal | None = None
    skeptical: Annotated[list[Doubt], Field(max_length=50)] = []
    """Doubts of others."""


@dataclass
class Submission:
    """A folder of entries as it was read: what could not be read is None or absent."""

    name: str
    folder: Path
    entry: Entry | None = None
    faults: list[tuple[str, str]] = field(default_factory=list)
    """(check, fault) found while reading."""
    tables: dict[int, pd.DataFrame] = field(default_factory=dict)
    """Predictions by seed: sample as text, everything else as numbers (NaN where it is none)."""

    @property
    def task(self) -> str:
        """The name of its task; empty where it cannot be read."""
        return self.entry.task.partition("@")[0] if self.entry else ""

    @property
    def version(self) -> int:
        """The version of the task that it is for."""
        return int(self.entry.task.partition("@")[2]) if self.entry else 0


def read_submission(folder: Path) -> Submission:
    """Read a folder of entries; whatever is wrong with it becomes a fault, never an error."""
    found = Submission(folder.name, folder)
    if not re.fullmatch(r"[a-z][a-z0-9_]{0,60}", folder.name):
        found.faults.append(("name", f"{folder.name!r} (folder); use small letters, digits and underscores"))
        return found
    file = folder / "entry.yaml"
    try:
        content = _mapping(file)
    except ValueError as error:
        found.faults.append(("yaml", f"{error} ({file}); see docs/leaderboard.md"))
        return found
    try:
        found.entry = Entry.model_validate(content)
    except ValidationError as error:
        found.faults += [("fields", line) for line in islice(explained(error, Entry, content, ([file], {})), 50)]
        return found
    for run in found.entry.runs:
        path = folder / run.file
        try:
            _plain(path, TABLE_BYTES)
            if (digest := sha256(path)) != run.sha256:
                raise ValueError(f"sha256 is {digest}, the entry says {run.sha256}")
        except ValueError as error:
            found.faults.append(("files", f"{error} ({path}); give the file that the entry describes"))
            continue
        try:
            found.tables[run.seed] = _table(path)
        except (OSError, ValueError, KeyError, OverflowError) as error:
            reason = " ".join(str(error).split())[:200]
            found.faults.append(("table", f"{reason} ({path}); write one column sample and one p_<class> for each"))
    return found


def _plain(path: Path, most: int) -> None:
    """Raise ValueError unless ``path`` is a regular file, no link, of at most ``most`` bytes."""
    try:
        about = path.lstat()
    except OSError:
        raise ValueError("missing") from None
    if not stat.S_ISREG(about.st_mode):
        raise ValueError("not a regular file")
    if about.st_size > most:
        raise ValueError(f"{about.st_size:,} bytes, at most {most:,} are read")


def _mapping(file: Path) -> dict[str, Any]:
    """A YAML mapping of plain values. Raises ValueError: anchors, aliases, tags, deep nesting, a key twice."""
    _plain(file, YAML_BYTES)
    try:
        text = file.read_bytes().decode()
        depth = 0
        for token in yaml.scan(text, yaml.SafeLoader):
            if isinstance(token, yaml.AliasToken | yaml.AnchorToken | yaml.TagToken):
                raise ValueError(f"line {token.start_mark.line + 1}: anchors, aliases and tags are not read")
            depth += isinstance(token, yaml.FlowSequenceStartToken | yaml.FlowMappingStartToken)
            depth += isinstance(token, yaml.BlockSequenceStartToken | yaml.BlockMappingStartToken)
            depth -= isinstance(token, yaml.FlowSequenceEndToken | yaml.FlowMappingEndToken | yaml.BlockEndToken)
            if depth > _DEPTH:
                raise ValueError(f"line {token.start_mark.line + 1}: nested more than {_DEPTH} deep")
        content = parse(text, file.name)
    except UserError as error:
        raise ValueError(str(error)) from None
    except UnicodeDecodeError:
        raise ValueError("not UTF-8 text") from None
    except yaml.YAMLError as error:
        raise ValueError(f"not YAML: {' '.join(str(error).split())[:200]}") from None
    if not isinstance(content, dict) or not all(isinstance(key, str) for key in content):
        raise ValueError("not a mapping of named fields")
    return content


def _table(path: Path) -> pd.DataFrame:
    """The columns of a csv or parquet file: sample as text, the others as numbers. Raises ValueError, OSError."""
    if path.suffix == ".parquet":
        from pyarrow.parquet import read_metadata

        about = read_metadata(path)
        unpacked = sum(about.row_group(i).total_byte_size for i in range(about.num_row_groups))
        if about.num_rows > _ROWS or about.num_columns > _COLUMNS or unpacked > 4 * TABLE_BYTES:
            raise ValueError(f"{about.num_rows:,} rows, {about.num_columns} columns, {unpacked:,} bytes are too much")
        if len(names := about.schema.names) > len(set(names)):
            raise ValueError("two columns have the same name")
        frame = pd.DataFrame(parquet_columns(path))
    else:
        with path.open(encoding="utf-8") as file:
            names = file.readline(10_000).strip().split(",")
        if len(names) > len(set(names)) or len(names) > _COLUMNS:
            raise ValueError(f"{len(names)} columns of {len(set(names))} names")
        frame = pd.read_csv(path, dtype=str, keep_default_na=False, nrows=_ROWS + 1)
    # where rows are longer than the header, pandas takes their first field for an index
    if "sample" not in frame or len(frame) > _ROWS or not isinstance(frame.index, pd.RangeIndex):
        raise ValueError(f"{len(frame):,} rows of the columns {', '.join(map(str, frame))[:100]}")
    numbers = frame.columns.drop("sample")
    if path.suffix == ".csv":
        frame = frame.assign(**{name: pd.to_numeric(frame[name], "coerce") for name in numbers})
    if wrong := [name for name in numbers if len(frame) and frame[name].dtype.kind not in "fiu"]:
        raise ValueError(f"column {wrong[0]} holds no numbers")
    return frame.assign(sample=frame["sample"].astype(str)).astype(dict.fromkeys(numbers, np.float64))


def new_entry(folder: Path, task: str, classes: list[str], samples: list[str]) -> None:
    """Write a commented entry.yaml and the table to fill into a new ``folder``. Raises UserError if it exists."""
    if not re.fullmatch(r"[a-z][a-z0-9_]{0,60}", folder.name):
        raise UserError(f"name {folder.name!r}: use small letters, digits and underscores, starting with a letter")
    if folder.exists():
        raise UserError(f"{folder}: exists; choose another name, or go on with transfer board check {folder.name}")
    table = pd.DataFrame({"sample": samples}).reindex(columns=["sample", *(f"p_{name}" for name in classes)])
    with whole_folder(folder) as part:
        write_text(part / "seed0.csv", table.to_csv(index=False))
        write_text(part / "entry.yaml", _TEMPLATE.format(task=task, today=datetime.date.today(), **PLACEHOLDERS))


PLACEHOLDERS = {
    "title": "My method",
    "authors": "First Author",
    "contact": "an address or an account",
    "method": "What it does in 200 characters",
}
"""What `new_entry` writes and everybody replaces."""
_TEMPLATE = """# yaml-language-server: $schema=../../entry.schema.json
# One entry of the leaderboard. Fill in every value; docs/leaderboard.md explains them. Delete what you do not need.
title: {title} # shown on the board
tier: verified # verified: trained for this kind of labels; tool: off the shelf
task: {task}
date: {today}
authors: [{authors}]
contact: {contact}
licence_of_predictions: CC-BY-4.0
# paper: https://doi.org/...
# code: {{url: https://..., commit: 0123abc, command: python train.py, licence: MIT}}
model: {{architecture: logistic regression, parameters: 0, input_size: 48}}
weights: random # random or pretrained; then pretraining_data: [NAMES]
training_data: [] # all datasets whose labels the weights have seen
tuning_data: [] # what epochs and settings were chosen on
saw_test: unknown # no, selection, training or unknown
protocol: last # last, val_selected (give val_accuracy), test_selected or untrained_here
# val_accuracy: 0.80 # a fraction: the mean over your seeds
runs: # one table per seed; transfer board check prints the digest
  - {{seed: 0, file: seed0.csv, sha256: "{zeros}"}}
single_run: "" # why there is only one, if there is
attempts: 1 # how often this model was scored on the test faces, this time included
# hardware: two CPU cores
# train_seconds: 60
# undetected: wrong # with faces: own_detector, for a tool that finds no face in some images; leave out their rows
# label_map: {{fear: afraid}} # of tools: their label -> our class
method: {method}
notes: ""
""".replace("{zeros}", "0" * 64)
