"""Exports: Croissant for a task; a model card and Hugging Face's .eval_results for each measured row."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
import yaml

from transfer.leaderboard.scores import Board
from transfer.leaderboard.templates import CARD

CROISSANT = "http://mlcommons.org/croissant/1.0"
_TERMS = ("column", "extract", "field", "fileObject", "key", "recordSet", "source")
SCORES = ("accuracy", "mean_class_accuracy", "macro_f1", "nll", "ece")


def exports(boards: Sequence[Board]) -> dict[str, str]:
    """The text of every export by its path."""
    from jinja2 import Environment, StrictUndefined

    card = Environment(undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True).from_string(CARD)
    found = {}
    for board in boards:
        listed = pd.DataFrame({"sample": board.samples}).to_csv(index=False, lineterminator="\n")
        found[f"{board.id}.samples.csv"] = listed
        found[f"{board.id}.croissant.json"] = json.dumps(croissant(board, listed), indent=1, ensure_ascii=False) + "\n"
        for row in board.rows:
            if row["tier"] == "measured":
                folder, said = f"models/{row['name']}", eval_results(board, row)
                index = yaml.safe_dump(_front(board, row), sort_keys=False, allow_unicode=True)
                found[f"{folder}/README.md"] = card.render(board=board, row=row, index=index)
                found[f"{folder}/.eval_results/{board.name}.yaml"] = yaml.safe_dump(said, sort_keys=False)
    return found


def eval_results(board: Board, row: Mapping[str, Any]) -> list[dict[str, Any]]:
    """A row as `.eval_results/*.yaml` of a model repository: a list of results, accuracy in percent."""
    scores, about = row["scores"], row["about"]
    spread = f"mean of {scores['n_seeds']} seeds" if scores["n_seeds"] > 1 else "single run"
    return [
        {
            "dataset": {"id": board.task.dataset, "task_id": f"{board.name}@{board.task.version}"},
            "value": round(100 * scores["accuracy"], 2),
            "date": board.task.changelog[-1].date.isoformat(),
            "source": {"url": f"../../../{board.id}.html", "name": board.task.title},
            "notes": f"{spread}; epoch: {about['protocol']}; 95 % interval {100 * scores['ci95_low']:.2f} to "
            f"{100 * scores['ci95_high']:.2f}; commit {about['code_commit']}",
        }
    ]


def _front(board: Board, row: Mapping[str, Any]) -> dict[str, Any]:
    """The front matter of a model card (Hugging Face's model-index)."""
    task = board.task
    metrics = [{"type": name, "value": round(row["scores"][name], 6)} for name in SCORES]
    dataset = {"type": task.dataset, "name": task.title, "split": task.split, "revision": f"version {task.version}"}
    result = {"task": {"type": "image-classification"}, "dataset": dataset, "metrics": metrics}
    return {
        "pipeline_tag": "image-classification",
        "tags": ["facial-expression-recognition", row["about"]["model_architecture"]],
        "datasets": [task.dataset],
        "model-index": [{"name": row["name"], "results": [result]}],
    }


def croissant(board: Board, listed: str) -> dict[str, Any]:
    """A task as Croissant 1.0 JSON-LD: its samples, ``listed`` as csv, and its classes; never the images."""
    task, samples = board.task, f"{board.id}.samples.csv"
    field = {"@type": "cr:Field", "dataType": "sc:Text"}
    column = {"fileObject": {"@id": samples}, "extract": {"column": "sample"}}
    return {
        "@context": {
            "@language": "en",
            "@vocab": "https://schema.org/",
            "sc": "https://schema.org/",
            "cr": "http://mlcommons.org/croissant/",
            "dct": "http://purl.org/dc/terms/",
            "conformsTo": "dct:conformsTo",
            **{
                name: f"cr:{name}"
                for name in ("column", "extract", "field", "fileObject", "recordSet", "source", "key")
            },
            "data": {"@id": "cr:data", "@type": "@json"},
            "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
        },
        "@type": "sc:Dataset",
        "conformsTo": CROISSANT,
        "name": board.id,
        "description": f"{task.title}. {task.about} Labels: {task.labels}. sha256 of the sorted lines "
        f"'sample TAB class name': {task.digest}.",
        "version": f"{task.version}.0.0",
        "datePublished": task.changelog[-1].date.isoformat(),
        "url": f"{board.id}.html",
        "distribution": [
            {
                "@type": "cr:FileObject",
                "@id": samples,
                "name": samples,
                "contentUrl": samples,
                "encodingFormat": "text/csv",
                "sha256": hashlib.sha256(listed.encode()).hexdigest(),
            }
        ],
        "recordSet": [
            {
                "@type": "cr:RecordSet",
                "@id": "samples",
                "name": "samples",
                "description": f"The {task.faces} faces of the {task.split} split, as the entries name them.",
                "field": [field | {"@id": "samples/sample", "name": "sample", "source": column}],
            },
            {
                "@type": "cr:RecordSet",
                "@id": "classes",
                "name": "classes",
                "dataType": "sc:Enumeration",
                "key": {"@id": "classes/name"},
                "field": [field | {"@id": "classes/name", "name": "name"}],
                "data": [{"classes/name": name} for name in task.classes],
            },
        ],
    }
