"""Rows of the board: entries and the project's own runs, scored by us; controls; what the votes and copies tell."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from transfer.datasets.ferplus import label_votes
from transfer.evaluation.calibration import calibration
from transfer.evaluation.statistics import summary
from transfer.layout import Layout
from transfer.leaderboard.checks import OF_TABLES, Case, answers, run
from transfer.leaderboard.entries import Entry, Submission
from transfer.leaderboard.tasks import Task, Truth
from transfer.params import Params
from transfer.runs.evaluations import CLEAN, accuracies, read_evaluation
from transfer.runs.metrics import metrics, read_json
from transfer.runs.predictions import correct_faces
from transfer.runs.read import Run, read_runs
from transfer.utils.errors import UserError

DIFFICULTY = {"clear": (0.8, 1.0), "mixed": (0.6, 0.8), "doubtful": (0.0, 0.6)}
"""Share of the ten votes that the label has: above the first bound, up to the second."""
TIERS = {
    "measured": "trained and tested by this workflow",
    "verified": "others' predictions, scored here",
    "tool": "off the shelf, trained elsewhere on other labels",
}
PANELS = 200
SAME_FACE = 1e-3
"""By how much a face's probabilities may change with the other faces of its batch, in fp32."""
_SINGLE = ("mean_class_accuracy", "macro_f1", "nll", "ece")


@dataclass(frozen=True)
class Row:
    """An entry with its probabilities (N, C) by seed."""

    name: str
    tier: str
    title: str
    answers: Mapping[int, np.ndarray]
    about: dict[str, Any]
    """Columns that are not scores: protocol, weights, cost and so on; None where unknown."""
    files: dict[str, Path] = field(default_factory=dict)
    """Where its numbers come from, by what it is."""
    withdrawn: str | None = None
    doubts: list[dict[str, Any]] = field(default_factory=list)

    def right(self, truth: Truth) -> np.ndarray:
        """(seeds, N) booleans."""
        return np.stack([found.argmax(axis=1) == truth.labels for found in self.answers.values()])


@dataclass(frozen=True)
class Board:
    """A task with its scored rows, best first; everything that its page shows."""

    name: str
    task: Task
    rows: list[dict[str, Any]]
    """name, tier, title, rank (best, worst, letters; None if withdrawn), scores, about, files, withdrawn, doubts."""
    sentences: dict[str, str]
    """By tier."""
    controls: list[dict[str, Any]]
    reported: list[dict[str, Any]]
    agreement: dict[str, dict[str, float]]
    missed: list[str]
    earlier: list[str]
    """Entries of earlier versions, which are not scored."""
    samples: list[str]
    """All faces of the task."""

    @property
    def id(self) -> str:
        """The name of its files."""
        return f"{self.name}-v{self.task.version}"

    def title(self, name: str) -> str:
        """The title of the row ``name``."""
        return next(str(row["title"]) for row in self.rows if row["name"] == name)


def of_submission(found: Submission, task: Task, truth: Truth) -> Row:
    """The row of an entry that no check refused."""
    entry = found.entry
    assert isinstance(entry, Entry)
    said = entry.model_dump(mode="json")
    nested = ("runs", "model", "code", "withdrawn", "skeptical", "title", "tier", "task", "contact")
    about = {
        key: (", ".join(value) or "none") if isinstance(value, list) else value
        for key, value in said.items()
        if key not in nested
    }
    about |= {f"model_{key}": value for key, value in said["model"].items()}
    about |= {f"code_{key}": value for key, value in (said["code"] or {}).items()}
    about |= {"parameters": about.pop("model_parameters"), "macs": about.pop("model_macs")}
    about["label_map"] = ", ".join(f"{label} → {name}" for label, name in entry.label_map.items())
    tables = {seed: answers(table, task, truth) for seed, table in sorted(found.tables.items())}
    files = {"entry.yaml": found.folder / "entry.yaml"} | {run.file: found.folder / run.file for run in entry.runs}
    withdrawn = f"{entry.withdrawn.date}: {entry.withdrawn.reason}" if entry.withdrawn else None
    return Row(found.name, entry.tier, entry.title, tables, about, files, withdrawn, said["skeptical"])


def own_rows(name: str, task: Task, truth: Truth, params: Params, layout: Layout, finished: bool = False) -> list[Row]:
    """The recipes of an experiment on the dataset of a task, or only their ``finished`` runs.

    Raises UserError: runs missing, tested on other faces, or with predictions that depend on the batch.
    """
    wanted = [run for run in params.runs() if run[0] == task.dataset]
    if finished:
        wanted = [run for run in wanted if (layout.run(*run) / "metrics.json").exists()]
    parameters = {(dataset, recipe): params.run(dataset, recipe) for dataset, recipe, _ in wanted}
    folder, experiment = layout.root / "runs", params.experiment
    runs, _ = read_runs(folder, wanted, params.protocols, experiment=experiment, parameters=parameters)
    return [_own_row(name, task, truth, params, layout, dict(sorted(seeds.items()))) for seeds in runs.values()]


def _own_row(name: str, task: Task, truth: Truth, params: Params, layout: Layout, seeds: Mapping[int, Run]) -> Row:
    from transfer.models.registry import size_of

    found, protocol, runs = {}, params.checkpoint_protocol, list(seeds.values())
    first = runs[0]
    dataset, recipe = first.identity["dataset"], first.identity["recipe"]
    for seed, one in seeds.items():
        test = one.results[protocol].test
        table = test[["sample", *(column for column in test if str(column).startswith("p_"))]]
        case = Case("", None, name, task, truth, {seed: table})  # type: ignore[arg-type]
        labelled = dict(zip(test["sample"], (one.classes[label] for label in test["label"]), strict=True))
        faults = [text for _, text in run(case, OF_TABLES)]
        if not faults and [labelled[sample] for sample in truth.samples] != [task.classes[i] for i in truth.labels]:
            faults = ["its labels are not those of the task"]
        if faults:
            raise UserError(f"{one.directory / 'predictions.parquet'}: {faults[0]} (task {name}); {one.again}")
        found[seed] = answers(table, task, truth)
    env, said = first.environment, params.run(dataset, recipe)
    size = size_of(said.model, len(first.classes))
    about = {
        "protocol": protocol,
        "weights": "random" if size["pretrained"] == "no" else "pretrained",
        "saw_test": "selection" if protocol == "test_selected" else "no",
        "val_accuracy": float(np.mean([correct_faces(one.predictions, protocol, "val").mean() for one in runs])),
        "attempts": None,
        "hardware": f"{env['cpu']}, threads: {env['threads']}" if env["device"] == "cpu" else env["device"],
        "train_seconds": float(np.mean([sum(one.environment["seconds_per_epoch"]) for one in runs])),
        "parameters": size["parameters"],
        "macs": size["macs"],
        "backbone": size["backbone"],
        "method": f"recipe {recipe} of experiment {params.experiment}",
        "model_architecture": said.model.name,
        "model_input_size": said.model.img_size,
        "loss": said.train.loss.name,
        "training_data": dataset,
        "tuning_data": f"validation split of {dataset}" if protocol == "val_selected" else "none",
        "code_commit": env["commit"],
        "code_command": f"snakemake --cores all {first.directory / 'metrics.json'} --configfile {layout.params}",
    }
    about |= _speed(first, layout) | _corrupted(seeds, layout)
    if "test_selected" in first.results:
        both = [[one.results[of].metrics["accuracy"] for one in runs] for of in ("test_selected", protocol)]
        about["selection_gain"] = float(np.mean(both[0]) - np.mean(both[1]))
    small = ("metrics.json", "env.json")
    files = {f"seed {seed}: {name}": one.directory / name for seed, one in seeds.items() for name in small}
    row = "-".join([params.experiment, dataset, recipe])
    return Row(row, "measured", recipe, found, about, files | {"parameters": layout.params})


def _speed(first: Run, layout: Layout) -> dict[str, Any]:
    """Faces/s and the machine, where `transfer board measure` has measured them. Raises UserError: out of date."""
    file = layout.inference
    runs = read_json(file)["runs"] if file.exists() else {}
    measured = runs.get(f"{first.identity['dataset']}/{first.identity['recipe']}")
    if measured is None:
        return {}
    if measured["weights_sha256"] != first.environment["weights_sha256"]:
        raise UserError(f"{file}: of other weights than those of {first.directory}; run: transfer board measure")
    if measured["difference"] > SAME_FACE:
        raise UserError(
            f"{first.directory}: probabilities of a face differ by {measured['difference']:.3f} with the others "
            "of its batch; the model must predict each face by itself (take it out of recipes, or mend it)"
        )
    return {"faces_per_second": measured["faces_per_second"], "measured_on": measured["hardware"]}


def _corrupted(seeds: Mapping[int, Run], layout: Layout) -> dict[str, Any]:
    """Mean accuracy over the corruptions of the robustness table, where every run has them."""
    files = [
        layout.evaluation("robustness", one.identity["dataset"], one.identity["recipe"], seed) / "robustness.parquet"
        for seed, one in seeds.items()
    ]
    if not all(file.exists() for file in files):
        return {}
    found = [accuracies(read_evaluation(file, one.directory)) for file, one in zip(files, seeds.values(), strict=True)]
    found = [frame[frame["corruption"] != CLEAN] for frame in found]
    conditions = found[0].groupby("corruption")["severity"].apply(lambda values: ", ".join(f"{v:g}" for v in values))
    return {
        "corrupted_accuracy": float(np.mean([frame["accuracy"].mean() for frame in found])),
        "corruptions": "; ".join(f"{name} {severities}" for name, severities in conditions.items()),
    }


def score(row: Row, task: Task, truth: Truth) -> dict[str, Any]:
    """All numbers of a row, means over its seeds; fractions, or None where undefined."""
    right, seeds = row.right(truth), list(row.answers.values())
    each = [metrics(found, truth.labels, task.classes) | calibration(found, truth.labels) for found in seeds]
    total = summary([one["accuracy"] for one in each], (int(right[0].sum()), len(truth.labels)))
    scores: dict[str, Any] = {"n_seeds": total.n, "n_faces": len(truth.labels), "accuracy": total.mean}
    scores |= {"accuracy_std": total.std, "ci95_low": total.ci95_low, "ci95_high": total.ci95_high}
    scores |= {key: float(np.mean([one[key] for one in each])) for key in _SINGLE}
    scores["copy_free_accuracy"] = None if truth.copied is None else _share(right, ~truth.copied)
    levels = difficulty(truth)
    scores |= {f"accuracy_{level}": _share(right, where) for level, where in levels.items()}
    if levels and levels["doubtful"].any():
        scores["label_fitting"] = scores["accuracy_doubtful"] - float(tagger(truth)[levels["doubtful"]].mean())
    scores |= {f"recall_{name}": _share(right, truth.labels == label) for label, name in enumerate(task.classes)}
    return scores


def _share(right: np.ndarray, where: np.ndarray) -> float | None:
    return float(right[:, where].mean()) if where.any() else None


def difficulty(truth: Truth) -> dict[str, np.ndarray]:
    """Which faces the votes make clear, mixed or doubtful; empty without votes."""
    if truth.votes is None:
        return {}
    share = tagger(truth)
    return {name: (share > low) & (share <= high) for name, (low, high) in DIFFICULTY.items()}


def tagger(truth: Truth) -> np.ndarray:
    """The chance (N,) that one of a face's ten taggers gives its label."""
    assert truth.votes is not None
    share: np.ndarray = truth.votes[np.arange(len(truth.labels)), truth.labels] / truth.votes.sum(axis=1)
    return share


def controls(task: Task, truth: Truth) -> list[dict[str, Any]]:
    """What needs no network: rows with name, accuracy and the assumption behind it."""
    shares = np.bincount(truth.labels, minlength=len(task.classes)) / len(truth.labels)
    most = int(truth.prior.argmax())
    rows = [
        ("majority class", shares[most], f"always {task.classes[most]}, the largest class of the training split"),
        (
            "drawn from the priors",
            truth.prior @ shares,
            "expected accuracy of drawing from the training split's classes",
        ),
    ]
    if truth.votes is not None:
        chances = truth.votes / truth.votes.sum(axis=1, keepdims=True)
        one = tagger(truth).mean()
        generator, labelled, agreed = np.random.default_rng(0), 0, 0
        for _ in range(PANELS):
            panel = label_votes(generator.multinomial(10, chances), "majority")
            labelled, agreed = labelled + (panel >= 0).sum(), agreed + (panel == truth.labels).sum()
        given = labelled / (PANELS * len(truth.labels))
        assumed = "draws from the ten votes of the face, independently; the label comes from the same votes, so this is"
        rows += [
            ("one more tagger", one, f"{assumed} optimistic"),
            (
                "ten more taggers",
                agreed / labelled,
                f"each {assumed} an upper estimate of what ten votes can tell; over the {given:.1%} of faces and "
                f"{PANELS} drawn panels in which the majority rule gives a label",
            ),
        ]
    return [{"control": name, "accuracy": float(value), "assumption": text} for name, value, text in rows]


def agreement(rows: Iterable[Row]) -> dict[str, dict[str, float]]:
    """Share of the faces to which two rows give the same answer, each by the mean of its seeds' probabilities."""
    called = {row.name: np.mean(list(row.answers.values()), axis=0).argmax(axis=1) for row in rows}
    return {one: {two: float((a == b).mean()) for two, b in called.items()} for one, a in called.items()}


def missed_by_all(rows: list[Row], truth: Truth) -> list[str]:
    """Samples that no seed of any row gets right."""
    if not rows:
        return []
    never = ~np.any([row.right(truth).any(axis=0) for row in rows], axis=0)
    return [sample for sample, missed in zip(truth.samples, never, strict=True) if missed]
