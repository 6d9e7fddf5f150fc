"""The checks of an entry: one table of named checks, each a sentence; docs/leaderboard.md shows the same table."""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from transfer.leaderboard.entries import PLACEHOLDERS, Entry, Submission
from transfer.leaderboard.tasks import Task, Truth

READING = {
    "name": "The folder's name is made of small letters, digits and underscores.",
    "yaml": "entry.yaml is a plain YAML mapping of at most 64 kB, without anchors, aliases, tags or a key twice.",
    "fields": "Every field is known, present, of its type and within its bounds.",
    "files": "Every file of predictions lies in the folder, is no link, has its sha256 and at most 64 MB.",
    "table": "Every file of predictions is a csv or parquet table of one column of text, sample, and numbers.",
}
"""What `read_submission` finds; only an entry that can be read is checked further."""
TOLERANCE = 1e-3
"""Of the sum of a face's probabilities: somebody may write three decimals."""
COPIED_LABELS, SAME_ANSWERS = 0.995, 1e-6
_SHOWN = 3


@dataclass(frozen=True)
class Case:
    """What a check looks at: an entry, its task, and the predictions of other entries by name."""

    name: str
    entry: Entry
    task_name: str
    task: Task
    truth: Truth
    tables: Mapping[int, pd.DataFrame]
    others: Mapping[str, Mapping[int, np.ndarray]] = field(default_factory=dict)


Check = Callable[[Case], Iterator[str]]
OF_ENTRY: dict[str, Check] = {}
OF_TABLES: dict[str, Check] = {}
OF_ANSWERS: dict[str, Check] = {}
"""By what they need: the declaration; tables that can be read; tables that no check refused."""


def _check(stage: dict[str, Check]) -> Callable[[Check], Check]:
    def register(function: Check) -> Check:
        stage[function.__name__.strip("_")] = function
        return function

    return register


def sentences() -> dict[str, str]:
    """Every check by name, in the order in which they run."""
    found = {
        name: " ".join(str(check.__doc__).split())
        for stage in (OF_ENTRY, OF_TABLES, OF_ANSWERS)
        for name, check in stage.items()
    }
    return READING | found


def check(
    submission: Submission, tasks: Mapping[str, Task], truth: Truth, others: Mapping[str, Mapping[int, np.ndarray]]
) -> list[tuple[str, str]]:
    """All faults of an entry, each as (check, what is wrong and where)."""
    faults, entry = list(submission.faults), submission.entry
    if entry is None:
        return faults
    task = tasks[submission.task]
    case = Case(submission.name, entry, submission.task, task, truth, submission.tables, others)
    of_tables = run(case, OF_TABLES)
    faults += [*run(case, OF_ENTRY), *of_tables]
    return faults if of_tables or not case.tables else [*faults, *run(case, OF_ANSWERS)]


def run(case: Case, stage: Mapping[str, Check]) -> list[tuple[str, str]]:
    """The faults that the checks of a stage find."""
    return [(name, fault) for name, function in stage.items() for fault in function(case)]


def answers(table: pd.DataFrame, task: Task, truth: Truth) -> np.ndarray:
    """Probabilities (N, C) of a checked table, in the order of the task.

    A face without a row counts as wrong: its label gets probability 0, and the other classes share it.
    """
    columns = [f"p_{name}" for name in task.classes]
    found: np.ndarray = table.set_index("sample")[columns].reindex(truth.samples).to_numpy(np.float64, copy=True)
    absent = np.isnan(found).any(axis=1)
    found[absent] = 1 / (len(columns) - 1)
    found[absent, truth.labels[absent]] = 0
    return found / found.sum(axis=1, keepdims=True)


def _surprise(faces: int) -> float:
    """A gain in accuracy that chance does not bring, also not the best of many orders on few faces."""
    return 0.2 + 1.5 / math.sqrt(faces)


# ---- Of the declaration


@_check(OF_ENTRY)
def version(case: Case) -> Iterator[str]:
    """The entry is for the present version of its task."""
    if case.entry.task != (present := f"{case.task_name}@{case.task.version}"):
        yield f"{case.entry.task}, but the task is {present} (task); predict its faces and change the entry"


@_check(OF_ENTRY)
def template(case: Case) -> Iterator[str]:
    """Title, author, contact and method are not those of the template."""
    for key, value in PLACEHOLDERS.items():
        if getattr(case.entry, key) in (value, [value]):
            yield f"still {value!r} ({key}); write your own"


@_check(OF_ENTRY)
def selection(case: Case) -> Iterator[str]:
    """An epoch selected on validation faces comes with the validation accuracy, one selected on test faces says so."""
    entry = case.entry
    if entry.protocol == "val_selected" and entry.val_accuracy is None:
        yield "val_selected without a validation accuracy (val_accuracy); give the mean of the selected epochs"
    if entry.protocol == "test_selected" and entry.saw_test not in ("selection", "training"):
        yield f"test_selected, but saw_test is {entry.saw_test} (saw_test); write selection"


@_check(OF_ENTRY)
def seeds(case: Case) -> Iterator[str]:
    """No seed and no file is named twice, and a single run says why there is only one."""
    runs = case.entry.runs
    for what, values in (("seed", [str(run.seed) for run in runs]), ("file", [run.file for run in runs])):
        for value in sorted({value for value in values if values.count(value) > 1}):
            yield f"{what} {value} is named twice (runs); give every run its own"
    if len(runs) == 1 and not case.entry.single_run.strip():
        yield "one run, and no word on why (single_run); add runs of other seeds, or the reason"


@_check(OF_ENTRY)
def detector(case: Case) -> Iterator[str]:
    """Only an entry with its own face detector may leave faces out, and only counted as wrong."""
    if case.entry.undetected and case.entry.faces == "ours":
        yield "undetected faces, but the crops are ours (faces); write own_detector, or predict every face"


@_check(OF_ENTRY)
def label_map(case: Case) -> Iterator[str]:
    """The labels of a tool are mapped to classes of the task."""
    for label, name in case.entry.label_map.items():
        if name not in case.task.classes:
            yield f"{label} leads to {name} (label_map); allowed: {', '.join(case.task.classes)}"


# ---- Of the tables


@_check(OF_TABLES)
def classes(case: Case) -> Iterator[str]:
    """There is one column p_<class> for each class of the task, and no other."""
    expected = {"sample", *(f"p_{name}" for name in case.task.classes)}
    for seed, table in case.tables.items():
        for what, columns in (("missing", expected - set(table)), ("unknown", set(table) - expected)):
            if columns:
                listed = ", ".join(sorted(map(str, columns)))[:200]
                yield f"{what} columns {listed} (seed {seed}); expected sample, p_{', p_'.join(case.task.classes)}"


@_check(OF_TABLES)
def duplicates(case: Case) -> Iterator[str]:
    """No face has two rows."""
    for seed, table in case.tables.items():
        yield from _rows(table, seed, table["sample"].duplicated().to_numpy(), "a second row", "keep one")


@_check(OF_TABLES)
def coverage(case: Case) -> Iterator[str]:
    """Every face of the task has a row, and there is no other; faces that the entry calls undetected may be absent."""
    wanted = pd.Index(case.truth.samples)
    for seed, table in case.tables.items():
        yield from _rows(table, seed, ~table["sample"].isin(wanted).to_numpy(), "not of this task", "leave them out")
        absent = wanted.difference(pd.Index(table["sample"]), sort=False)
        if len(absent) and (not case.entry.undetected or len(absent) == len(wanted)):
            listed = ", ".join(absent[:_SHOWN])
            yield f"{len(absent):,} of {len(wanted):,} faces have no row, first {listed} (seed {seed}); predict all"


@_check(OF_TABLES)
def finite(case: Case) -> Iterator[str]:
    """Every probability is a number from 0 to 1."""
    for seed, table in case.tables.items():
        values = table.drop(columns="sample").to_numpy()
        wrong = np.logical_not(((values >= 0) & (values <= 1)).all(axis=1))
        yield from _rows(table, seed, wrong, "not numbers from 0 to 1", "write probabilities, not logits or percent")


@_check(OF_TABLES)
def sums(case: Case) -> Iterator[str]:
    """The probabilities of a face add up to 1, within 0.001."""
    for seed, table in case.tables.items():
        total = table.drop(columns="sample").to_numpy().sum(axis=1)
        wrong = abs(total - 1) > TOLERANCE  # false for what is no number: another check's
        yield from _rows(table, seed, wrong, "probabilities that do not add up to 1", "divide each row by its sum")


def _rows(table: pd.DataFrame, seed: int, wrong: np.ndarray, what: str, advice: str) -> Iterator[str]:
    if np.any(wrong):
        first = table["sample"].to_numpy()[wrong][:_SHOWN]
        listed = ", ".join(
            f"row {row + 1} {sample[:60]}" for row, sample in zip(np.flatnonzero(wrong), first, strict=False)
        )
        yield f"{what}: {int(wrong.sum()):,} rows (seed {seed}: {listed}); {advice}"


# ---- Of the answers


def _answers(case: Case) -> Iterator[tuple[int, np.ndarray]]:
    for seed, table in case.tables.items():
        yield seed, answers(table, case.task, case.truth)


@_check(OF_ANSWERS)
def constant(case: Case) -> Iterator[str]:
    """The predictions are not the same for every face."""
    for seed, found in _answers(case):
        if np.ptp(found, axis=0).max() < SAME_ANSWERS:
            yield f"every face has the same probabilities (seed {seed}); the majority class is a control already"


@_check(OF_ANSWERS)
def labels(case: Case) -> Iterator[str]:
    """The predictions are not the labels: at most 99.5 % of the faces are right."""
    for seed, found in _answers(case):
        share = (found.argmax(axis=1) == case.truth.labels).mean()
        if share > COPIED_LABELS:
            yield f"{share:.2%} of the labels are reproduced (seed {seed}); labels are not predictions"


@_check(OF_ANSWERS)
def order(case: Case) -> Iterator[str]:
    """The columns are not swapped: no other order of the classes makes 20 % of all faces more right, beyond chance
    and beyond what the largest class alone would."""
    from scipy.optimize import linear_sum_assignment

    for seed, found in _answers(case):
        counts = np.zeros((len(case.task.classes),) * 2)
        np.add.at(counts, (found.argmax(axis=1), case.truth.labels), 1)
        columns, named = linear_sum_assignment(-counts)
        right, could = counts.trace() / counts.sum(), counts[columns, named].sum() / counts.sum()
        if could > max(right + _surprise(len(found)), counts.sum(axis=0).max() / counts.sum() + 0.1):
            pairs = [
                (case.task.classes[i], case.task.classes[j]) for i, j in zip(columns, named, strict=True) if i != j
            ]
            said = ", ".join(f"p_{one} looks like {other}" for one, other in pairs)
            yield f"accuracy {right:.1%}, in another order of classes {could:.1%} (seed {seed}: {said}); rename them"


@_check(OF_ANSWERS)
def shifted(case: Case) -> Iterator[str]:
    """The rows are not shifted: the neighbours' labels do not make 20 % of all faces more right, beyond chance."""
    for seed, table in case.tables.items():
        found = pd.Series(answers(table, case.task, case.truth).argmax(axis=1), index=case.truth.samples)
        label = pd.Series(case.truth.labels, index=case.truth.samples)
        present = table["sample"][table["sample"].isin(case.truth.samples)]
        for names, where in ((present, "rows of the file"), (pd.Series(case.truth.samples), "sorted samples")):
            given, true = found[names].to_numpy(), label[names].to_numpy()
            right = (given == true).mean()
            for shift in (1, -1):
                if (could := (np.roll(given, shift) == true).mean()) > right + _surprise(len(given)):
                    yield (
                        f"accuracy {right:.1%}, moved by {shift} in the {where} {could:.1%} (seed {seed}); "
                        "write each face's own prediction"
                    )


@_check(OF_ANSWERS)
def copies(case: Case) -> Iterator[str]:
    """The predictions of a seed are not those of another seed or of another entry."""
    seen: list[tuple[str, np.ndarray]] = []
    for name, tables in case.others.items():
        seen += [(f"entry {name}, seed {seed}", found) for seed, found in tables.items() if name != case.name]
    for seed, found in _answers(case):
        for where, other in seen:
            if found.shape == other.shape and abs(found - other).max() < SAME_ANSWERS:
                yield f"the same predictions as {where} (seed {seed}); every run has its own"
        seen.append((f"seed {seed}", found))


def markdown() -> str:
    """The table of the checks for docs/leaderboard.md."""
    lines = [f"| `{name}` | {sentence} |" for name, sentence in sentences().items()]
    return "\n".join(["| check | what holds |", "|---|---|", *lines])
