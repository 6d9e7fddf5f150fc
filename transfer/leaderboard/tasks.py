"""Tasks: which faces are tested under which labels, in which version."""

import datetime
import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import pandas as pd
import yaml
from pydantic import AfterValidator, Field, model_validator

from transfer.audit.copies import KINDS, copy_groups
from transfer.datasets.ferplus import CLASSES as VOTED
from transfer.datasets.ferplus import VOTES
from transfer.layout import Layout
from transfer.params import Params, ParamsError, Strict
from transfer.params.base import Name, different
from transfer.params.read import read_model
from transfer.utils.errors import UserError, choices
from transfer.utils.files import write_text

FOLDER = Path("leaderboard/tasks")
SCHEMA = Path("leaderboard/task.schema.json")
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class Change(Strict):
    """A version and what is new in it."""

    version: Annotated[int, Field(ge=1)]
    date: datetime.date
    text: str


class Task(Strict):
    """A test split and the labels of its faces; a change of either is a new version."""

    title: str
    about: str = ""
    """What readers must know, such as where the faces come from."""
    version: Annotated[int, Field(ge=1)]
    dataset: Name
    """One of dataset_definitions."""
    labels: str
    """The label rule, in words."""
    split: Literal["test"] = "test"
    classes: Annotated[list[str], Field(min_length=2), AfterValidator(different)]
    """Class names, in the order of the pages."""
    faces: Annotated[int, Field(ge=1)] | None = None
    """Number of faces; null until `transfer board task` fills it, with the digest."""
    digest: Sha256 | None = None
    """Of the sorted lines "sample<TAB>class name"."""
    metric: Literal["accuracy"] = "accuracy"
    secondary: list[Literal["mean_class_accuracy", "macro_f1", "nll", "ece"]] = []
    changelog: Annotated[list[Change], Field(min_length=1)]

    @model_validator(mode="after")
    def _is_consistent(self) -> "Task":
        if [change.version for change in self.changelog] != list(range(1, self.version + 1)):
            raise ParamsError(("changelog",), f"expected versions 1 to {self.version}, one entry each, in this order")
        if (self.faces is None) != (self.digest is None):
            raise ParamsError(("digest",), "faces and digest come together; run: transfer board task NAME")
        return self


def load_tasks(folder: Path = FOLDER) -> dict[str, Task]:
    """All tasks by name. Raises UserError: file, line, key and what is allowed."""
    return {file.stem: read_model(file, Task) for file in sorted(folder.glob("*.yaml"))}


def named(tasks: dict[str, Task], name: str) -> Task:
    """The task ``name``. Raises UserError with the known ones."""
    if name not in tasks:
        raise UserError(f"task {name}: not in {FOLDER}; {choices(name, tasks)}")
    return tasks[name]


@dataclass(frozen=True)
class Truth:
    """The N test faces of a task, sorted by sample, and what the dataset knows of them."""

    samples: list[str]
    labels: np.ndarray
    """(N,) positions in the task's classes."""
    votes: np.ndarray | None
    """(N, 10) votes of the taggers: the classes of FERPlus in its order, then unknown and NF."""
    prior: np.ndarray
    """(C,) shares of the classes in the training split."""
    copied: np.ndarray | None
    """(N,) whether the training or validation split holds a copy of the face; None if nobody has looked."""

    def digest(self, classes: list[str]) -> str:
        """sha256 of the sorted lines "sample<TAB>class name"."""
        pairs = zip(self.samples, self.labels, strict=True)
        return hashlib.sha256("".join(f"{name}\t{classes[label]}\n" for name, label in pairs).encode()).hexdigest()


def read_truth(name: str, task: Task, layout: Layout) -> Truth:
    """The faces of a task, from its dataset's index.parquet. Raises UserError: missing, or of other classes."""
    data = layout.data(task.dataset)
    file = data / "index.parquet"
    if not file.exists():
        raise UserError(f"{file}: missing; make it with transfer index --dataset {task.dataset}")
    index = pd.read_parquet(file)
    if unknown := set(index["class_name"]) - set(task.classes):
        raise UserError(
            f"{FOLDER / name}.yaml: classes lack {min(unknown)}, which {file} holds; name all classes of the dataset"
        )
    test = index[index["split"] == "test"].sort_values("sample")
    train = index.loc[index["split"] == "train", "class_name"].value_counts(normalize=True)
    found = data / "duplicates.parquet"
    copied = None
    if found.exists():
        groups = copy_groups(index["sample"], pd.read_parquet(found), KINDS["drop_near"])
        copied = np.isin(groups[test.index], groups[(index["split"] != "test").to_numpy()])
    return Truth(
        test["sample"].tolist(),
        np.array([task.classes.index(label) for label in test["class_name"]]),
        test[VOTES].to_numpy() if set(VOTES) <= set(test) and task.classes == VOTED else None,
        train.reindex(task.classes, fill_value=0).to_numpy(),
        copied,
    )


def checked_truth(name: str, task: Task, layout: Layout) -> Truth:
    """As `read_truth`. Raises UserError if these are not the faces and labels that the task describes."""
    truth, file = read_truth(name, task, layout), FOLDER / f"{name}.yaml"
    if task.digest is None:
        raise UserError(f"{file}: digest: not filled; run: transfer board task {name}, with the data of {task.dataset}")
    if truth.digest(task.classes) != task.digest:
        raise UserError(
            f"{file}: {task.faces:,} faces with digest {task.digest[:12]}, but the test split of {task.dataset} has "
            f"{len(truth.samples):,} with {truth.digest(task.classes)[:12]}; get the right data, or make a new "
            f'version: transfer board task {name} --why "what changed"'
        )
    return truth


def fill(name: str, params: Params, layout: Layout, why: str | None, folder: Path = FOLDER) -> str:
    """Write number and digest of the test faces into a task, as a new version if it had others; returns what was done.

    Raises UserError: a new version without ``why``.
    """
    task = named(load_tasks(folder), name)
    if task.dataset not in params.dataset_definitions:
        known = choices(task.dataset, params.dataset_definitions)
        raise UserError(f"{folder / name}.yaml: dataset {task.dataset} is not in dataset_definitions; {known}")
    truth = read_truth(name, task, layout)
    digest = truth.digest(task.classes)
    if digest == task.digest:
        return f"{name}@{task.version}: {task.faces:,} faces, digest {digest[:12]}: as it says"
    update: dict[str, object] = {"faces": len(truth.samples), "digest": digest}
    if task.digest is not None:
        if not why:
            raise UserError(f'{folder / name}.yaml: the test split changed: a new version; say --why "what changed"')
        change = Change(version=task.version + 1, date=datetime.date.today(), text=why)
        update |= {"version": change.version, "changelog": [*task.changelog, change]}
    task = task.model_copy(update=update)
    write_task(folder / f"{name}.yaml", task)
    return f"{name}@{task.version}: {task.faces:,} faces, digest {digest[:12]}: written"


def write_task(file: Path, task: Task) -> None:
    """Write a task as YAML."""
    content = yaml.safe_dump(task.model_dump(mode="python"), sort_keys=False, allow_unicode=True, width=110)
    write_text(file, f"# yaml-language-server: $schema=../{SCHEMA.name}\n{content}")
