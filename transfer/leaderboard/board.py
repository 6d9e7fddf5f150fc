"""Build the boards: read and check every entry, score it, rank it, and write pages, csv and JSON."""

import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from transfer.layout import Layout
from transfer.leaderboard import entries, scores, tasks
from transfer.leaderboard.checks import answers, check
from transfer.leaderboard.entries import Submission, read_submission
from transfer.leaderboard.exports import exports
from transfer.leaderboard.page import pages
from transfer.leaderboard.ranks import ranks, sentence
from transfer.leaderboard.scores import TIERS, Board, Row
from transfer.leaderboard.tasks import Task, Truth
from transfer.params import Params
from transfer.params import read as config
from transfer.tables.kinds.reported import UNCITED, Reported, load_reported
from transfer.utils.errors import UserError, choices
from transfer.utils.files import write_json, write_text

RESULTS = Path("leaderboard")
"""Below the results of all experiments."""
_SHARES = ("val_accuracy", "selection_gain", "corrupted_accuracy")
Fault = tuple[str, str, str]
"""Entry, check, what is wrong and where."""


def submissions(folder: Path = entries.FOLDER) -> dict[str, Submission]:
    """All entries by name, as far as they can be read."""
    found = sorted(path for path in folder.iterdir() if not path.name.startswith(".")) if folder.is_dir() else []
    return {path.name: read_submission(path) for path in found}


def present(params: Params, known: Mapping[str, Task]) -> dict[str, Submission]:
    """The entries of the experiment's datasets, and those of no known task; who has their data builds the others."""
    elsewhere = {name for name, task in known.items() if task.dataset not in params.datasets}
    return {name: one for name, one in submissions().items() if one.task not in elsewhere}


def check_entries(
    found: Mapping[str, Submission],
    names: Sequence[str],
    known: Mapping[str, Task],
    truths: dict[str, Truth],
    layout: Layout,
) -> list[Fault]:
    """All faults of the entries ``names``; ``truths`` gets what had to be read."""
    faults: list[Fault] = []
    usable: dict[str, dict[str, dict[int, np.ndarray]]] = {}
    for name in [*(other for other in found if other not in names), *names]:
        one = found[name]
        task = one.task
        if task not in known:
            wrong = [*one.faults, *([("fields", f"task {task} (task); {choices(task, known)}")] if task else [])]
        elif name not in names and task not in {found[other].task for other in names}:
            continue  # nothing here can be a copy of it
        else:
            if task not in truths:
                truths[task] = tasks.checked_truth(task, known[task], layout)
            wrong = check(one, known, truths[task], usable.get(task, {}))
            if not wrong:
                tables = {seed: answers(table, known[task], truths[task]) for seed, table in one.tables.items()}
                usable.setdefault(task, {})[name] = tables
        faults += [(name, *fault) for fault in wrong] if name in names else []
    return faults


def refuse(faults: Sequence[Fault]) -> None:
    """Raise UserError for faults, with all of them as a table."""
    if faults:
        lines = [f"{name}: {which}: {' '.join(text.split())}" for name, which, text in faults]
        more = f" (the first of {len(faults)} faults, all listed above)" if len(faults) > 1 else ""
        raise UserError(f"leaderboard/entries/{lines[0]}{more}; docs/leaderboard.md has the checks", "\n".join(lines))


def boards(params: Params, layout: Layout, finished: bool = False, further: Sequence[Params] = ()) -> list[Board]:
    """The boards of the tasks whose dataset is one of the experiment's, also with runs of ``further`` experiments.

    ``finished``: of datasets without an index and of unfinished runs nothing is shown. Raises UserError: any entry is
    refused, or a run is missing.
    """
    known = tasks.load_tasks()
    here = {name: task for name, task in known.items() if task.dataset in params.datasets}
    if finished:
        here = {
            name: one for name, one in here.items() if (layout.data(one.dataset) / "index.parquet").exists()
        } or here
    truths = {name: tasks.checked_truth(name, task, layout) for name, task in here.items()}
    found = present(params, known)
    earlier = {name: one for name, one in found.items() if one.task in here and one.version < here[one.task].version}
    without_data = known.keys() - here.keys()
    found = {name: one for name, one in found.items() if name not in earlier and one.task not in without_data}
    refuse(check_entries(found, list(found), here, truths, layout))
    made, published = [], load_reported()
    for name, task in here.items():
        rows = scores.own_rows(name, task, truths[name], params, layout, finished)
        for other in (other for other in further if task.dataset in other.datasets):
            below = Layout(other.experiment, layout.results)
            rows += scores.own_rows(name, task, truths[name], other, below, finished=True)
        rows += [scores.of_submission(one, task, truths[name]) for one in found.values() if one.task == name]
        reported_as = params.dataset_definitions[task.dataset].reported_as
        said = [one for one in published if one.dataset == reported_as]
        older = [entry for entry, one in earlier.items() if one.task == name]
        made.append(board(name, task, truths[name], rows, said, older))
    return made


def board(
    name: str, task: Task, truth: Truth, rows: Sequence[Row], reported: Sequence[Reported], earlier: list[str]
) -> Board:
    """Score and rank the rows of a task."""
    content, sentences = [], {}
    for tier in TIERS:
        of_tier = [row for row in rows if row.tier == tier]
        counted = [row for row in of_tier if row.withdrawn is None]
        right = [row.right(truth) for row in counted]
        places = dict(zip((row.name for row in counted), ranks(right), strict=True)) if counted else {}
        if counted:
            sentences[tier] = sentence(right, len(truth.labels))
        scored = [(row, scores.score(row, task, truth)) for row in of_tier]
        for row, numbers in sorted(scored, key=lambda pair: (pair[0].withdrawn is not None, -pair[1]["accuracy"])):
            content.append(
                dict[str, Any](name=row.name, tier=tier, title=row.title)
                | {"rank": asdict(places[row.name]) if row.name in places else None, "scores": numbers}
                | {"about": row.about, "files": dict(row.files)}
                | {"withdrawn": row.withdrawn, "doubts": row.doubts}
            )
    counted = [row for row in rows if row.withdrawn is None]
    return Board(
        name,
        task,
        content,
        sentences,
        scores.controls(task, truth),
        [
            one.model_dump() | {"url": one.url, "said": one.said, "cited": one.source is not None}
            for one in sorted(reported, key=lambda one: -one.accuracy)
        ],
        scores.agreement(counted),
        scores.missed_by_all(counted, truth),
        earlier,
        truth.samples,
    )


def table(found: Sequence[Board]) -> pd.DataFrame:
    """All rows of all boards, one line each: shares in percent."""
    lines = []
    for one in found:
        task = {"task": f"{one.name}@{one.task.version}"}
        for row in one.rows:
            numbers = row["scores"] | {
                key: row["about"].get(key) for key in ("val_accuracy", "selection_gain", "corrupted_accuracy")
            }
            percent = {
                key: value if value is None or key in ("n_seeds", "n_faces", "nll") else round(100 * value, 2)
                for key, value in numbers.items()
            }
            rank = {f"rank_{key}": value for key, value in (row["rank"] or {}).items()}
            head = {key: row[key] for key in ("tier", "name", "title", "withdrawn")} | {"doubts": len(row["doubts"])}
            about = {key: value for key, value in row["about"].items() if key not in ("notes", "single_run", *_SHARES)}
            lines.append(task | head | rank | about | percent)
        for control in one.controls:
            head = {"tier": "control", "title": control["control"], "method": control["assumption"]}
            lines.append(task | head | {"accuracy": round(100 * control["accuracy"], 2)})
        for said in one.reported:
            head = {"tier": "reported" if said["cited"] else UNCITED, "title": said["method"], "method": said["said"]}
            lines.append(task | head | {key: said[key] for key in ("accuracy", "protocol", "paper")})
    frame = pd.DataFrame(lines)
    whole = ["rank_best", "rank_worst", "doubts", "n_seeds", "n_faces", "attempts", "parameters", "macs"]
    present = [column for column in whole if column in frame]
    return frame.astype(dict.fromkeys(present, "Int64"))


def build(
    params: Params, layout: Layout, finished: bool = False, further: Sequence[str] = (), folder: Path | None = None
) -> Path:
    """Write index.html, a page per board and entry, their exports, leaderboard.csv and leaderboard.json.

    ``further``: experiments whose finished runs are rows too. Returns index.html in ``folder``, which can be moved or
    published as it is: the small files of the runs are copied into it; no predictions, weights or images.
    """
    experiments = [params, *(_snapshot(name, layout.results) for name in further)]
    found, folder = boards(params, layout, finished, experiments[1:]), folder or layout.results / RESULTS
    for row in (row for one in found for row in one.rows):
        row["files"] = {key: _linked(path, layout.results, folder) for key, path in row["files"].items()}
    default = Params.model_fields["raw_dir"].default
    for one in experiments:
        config.snapshot(one.model_copy(update={"raw_dir": default}), folder / "runs" / one.experiment / "params.yaml")
    content = {one.id: asdict(one) | {"task": one.task.model_dump(mode="json")} for one in found}
    for shown in content.values():
        del shown["samples"]  # a file of their own
    write_json(folder / "leaderboard.json", content)
    write_text(folder / "leaderboard.csv", table(found).to_csv(index=False, lineterminator="\n", float_format="%.6g"))
    others = {name: task for name, task in tasks.load_tasks().items() if name not in {one.name for one in found}}
    for name, text in (pages(found, others) | exports(found)).items():
        write_text(folder / name, text)
    return folder / "index.html"


def _snapshot(name: str, results: Path) -> Params:
    file = Layout(name, results).params
    if not file.is_file():
        raise UserError(f"{file}: missing; expected the parameters of experiment {name}, as its workflow wrote them")
    return config.load([file])


def _linked(path: Path, results: Path, folder: Path) -> str:
    """Where a page in ``folder`` finds the file ``path``: copied if it is of a run, else where it is."""
    if not path.is_relative_to(results):
        return Path(os.path.relpath(path, folder)).as_posix()
    parts = [part for part in path.relative_to(results).parts if part != "runs"]
    copy = folder.joinpath("runs", *parts)
    if copy.name != "params.yaml":  # written for all rows together
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, copy)
    return copy.relative_to(folder).as_posix()
