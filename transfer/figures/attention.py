"""The paper's visualisation: where each recipe's network looks, one test face per expression."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from matplotlib.figure import Figure

from transfer.digest import step_digest
from transfer.errors import UserError
from transfer.explain.faces import Explained, explain, one_per_class
from transfer.explain.finished import EvaluationFaces, Finished, load_finished, load_test_faces, probabilities_of_faces
from transfer.explain.photo import Photo
from transfer.figures.grid import Tile, draw_grid
from transfer.figures.names import recipe_name
from transfer.figures.overlay import stretched
from transfer.figures.save import save
from transfer.files import write_json
from transfer.layout import Layout
from transfer.params import Params
from transfer.training.device import choose_device

RULE = (
    "the first test face, in the order of the aligned store, that all columns classify correctly; where there is none, "
    "the first"
)


class Column(NamedTuple):
    """What a recipe's network sees in the chosen faces, and takes them for."""

    recipe: str
    run: Finished
    explained: Explained
    probabilities: np.ndarray
    """(N, C)."""


def write_attention(params: Params, layout: Layout, dataset: str, recipes: Sequence[str], seed: int) -> list[Path]:
    """Write attention_DATASET and lanets_DATASET as .png, .svg and .json (the caption) into the figures' folder.

    The .json says ``synthetic``: whether the faces are drawn; pictures of others show real people. Returns the paths.
    Raises UserError: a file of a run is missing or not the run's, or recipes whose networks tell other classes apart.
    """
    faces = load_test_faces(layout, dataset)
    runs = {recipe: load_finished(layout, dataset, recipe, seed, faces) for recipe in recipes}
    classes = _classes(runs)
    probabilities = {recipe: probabilities_of_faces(run, faces) for recipe, run in runs.items()}
    chosen = one_per_class(faces.labels, [of_faces.argmax(axis=1) for of_faces in probabilities.values()])
    device = choose_device(params.train.device)
    columns = [
        _column(recipe, run, faces, probabilities[recipe][chosen], faces.rows[chosen], device)
        for recipe, run in runs.items()
    ]
    names = [classes[label] for label in chosen.index]
    definition = params.dataset_definitions[dataset]
    synthetic = definition.synthetic is not None
    about = {
        "experiment": params.experiment,
        "dataset": dataset,
        "about": definition.about,
        "synthetic": synthetic,
        "recipes": list(recipes),
        "seed": seed,
        "protocol": columns[0].run.about["protocol"],
        "n": len(names),
        "faces": {name: str(sample) for name, sample in zip(names, faces.samples[chosen], strict=True)},
        "weights_sha256": {column.recipe: column.run.weights_sha256 for column in columns},
        "code_digest": step_digest("attention"),
    }
    what = (
        f"{dataset}{' (drawn faces)' if synthetic else ''}, {len(names)} test faces, seed {seed}, {about['protocol']}"
    )
    figures = {
        f"attention_{dataset}": (attention_figure(what, columns, names), _attention_caption(what)),
        f"lanets_{dataset}": (lanets_figure(what, columns, names), _lanets_caption(what)),
    }
    written = []
    for stem, (figure, caption) in figures.items():
        for ending in (".png", ".svg"):
            written.append(layout.figures / f"{stem}{ending}")
            save(figure, written[-1])
        written.append(layout.figures / f"{stem}.json")
        write_json(written[-1], {"caption": caption} | about)
    return written


def attention_figure(what: str, columns: Sequence[Column], names: Sequence[str]) -> Figure:
    """A row per expression: the face, and the relevance for the class that each column's network predicts."""
    rows = []
    for i, name in enumerate(names):
        tiles = [Tile(columns[0].explained.faces[i])]
        for column in columns:
            said = column.run.about["classes"][column.probabilities[i].argmax()]
            wrong = "" if said == name else "\N{BALLOT X} "
            text = f"{wrong}{said} {column.probabilities[i].max():.2f}"
            tiles.append(Tile(column.explained.faces[i], column.explained.relevance[i], text))
        rows.append((name, tiles))
    return draw_grid(f"Relevance of the predicted class: {what}", ["face", *_headings(columns)], rows)


def lanets_figure(what: str, columns: Sequence[Column], names: Sequence[str]) -> Figure:
    """A row per expression: the face, and each LANet's map of the columns that have LANets."""
    headings, rows = ["face"], []
    for column in columns:
        lanets = range(column.explained.lanets.shape[1])
        headings += [f"{recipe_name(column.recipe)}: {k + 1}" for k in lanets]
    for i, name in enumerate(names):
        maps = [(column.explained.faces[i], heat) for column in columns for heat in column.explained.lanets[i]]
        rows.append((name, [Tile(columns[0].explained.faces[i]), *(_lanet(face, heat) for face, heat in maps)]))
    none = "" if len(headings) > 1 else " (these recipes have no LANets)"
    return draw_grid(f"LANets' maps{none}: {what}", headings, rows)


def photo_figure(photo: Photo) -> Figure:
    """A photo's face, the relevance for its most probable class, and each LANet's map."""
    face, relevance, lanets = (part[0] for part in photo.explained)
    best = int(photo.probabilities.argmax())
    said = f"{photo.classes[best]} {photo.probabilities[best]:.2f}"
    tiles = [Tile(face), Tile(face, relevance, said), *(_lanet(face, heat) for heat in lanets)]
    headings = ["face", "relevance", *(f"LANet {k + 1}" for k in range(len(lanets)))]
    return draw_grid(photo.run, headings, [("", tiles)])


def _column(
    recipe: str, run: Finished, faces: EvaluationFaces, probabilities: np.ndarray, rows: np.ndarray, device: object
) -> Column:
    store = faces.opened(run.about["model"]["img_size"], rows)
    explained = explain(run.model.to(device), store, rows, probabilities.argmax(axis=1))
    return Column(recipe, run, explained, probabilities)


def _classes(runs: dict[str, Finished]) -> list[str]:
    classes = [run.about["classes"] for run in runs.values()]
    for run in runs.values():
        if run.about["classes"] != classes[0]:
            raise UserError(
                f"{run.folder}: classes are {', '.join(run.about['classes'])}; expected those of the first recipe, "
                f"{', '.join(classes[0])}; train it again"
            )
    return classes[0]


def _headings(columns: Sequence[Column]) -> list[str]:
    return [recipe_name(column.recipe) for column in columns]


def _lanet(face: np.ndarray, heat: np.ndarray) -> Tile:
    return Tile(face, stretched(heat), f"{heat.min():.2f} to {heat.max():.2f}")


_COLOURS = (
    "Blue is low, red is high, each map stretched from its lowest to its highest value; the white line is half way."
)


def _attention_caption(what: str) -> str:
    return (
        f"Relevance (Chefer, Gur and Wolf, CVPR 2021) of the predicted class in the ViT part, laid over the face: "
        f"{what}. {_COLOURS} Under each map the predicted class and its probability; \N{BALLOT X} marks a wrong one. "
        f"The face of an expression is {RULE}."
    )


def _lanets_caption(what: str) -> str:
    return (
        f"The LANets' maps one by one, before their maximum: {what}. {_COLOURS} Under each map its lowest and highest "
        f"value. The face of an expression is {RULE}."
    )
