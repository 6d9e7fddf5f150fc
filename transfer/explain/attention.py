"""The paper's visualisation: where each recipe's network looks, one test face per expression."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib
import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure

from transfer.evaluation.network import load_network, read_faces, store_of
from transfer.explain.diversity import lanet_maps, resized, transfer_only
from transfer.explain.relevance import relevance_maps
from transfer.layout import Layout
from transfer.models.transfer import TransFER
from transfer.params import Params
from transfer.runs.predictions import probabilities_of
from transfer.runs.read import read_run
from transfer.training.batches import FaceStore
from transfer.utils.code_digest import step_digest
from transfer.utils.plots import recipe_name, save_captioned

_RULE = (
    "the first test face, in the order of the aligned store, that all columns classify correctly; where there is none, "
    "the first"
)
_COLOURS = (
    "Blue is low, red is high, each map stretched from its lowest to its highest value; the white line is half way."
)

JET = matplotlib.colormaps["jet"]
"""OpenCV's COLORMAP_JET: blue is low, red is high."""


class Explained(NamedTuple):
    """N faces; all pictures at the size of the aligned faces, S pixels."""

    faces: np.ndarray  # (N, S, S, 3) uint8
    relevance: np.ndarray  # (N, S, S) float32 from 0 to 1
    lanets: np.ndarray  # (N, B, S, S) float32 in (0, 1), before dropping


class Column(NamedTuple):
    """A recipe's network on the chosen faces."""

    recipe: str
    classes: list[str]
    explained: Explained
    probabilities: np.ndarray  # (N, C)


def explain(
    model: TransFER, store: FaceStore, rows: np.ndarray, classes: Sequence[int], batch_size: int = 8
) -> Explained:
    """Relevance of ``rows`` of the store for their ``classes``, and their LANets' maps; below 0.2 GB per face."""
    device = next(model.parameters()).device
    side = store.pixels.shape[1]
    relevance, lanets = [], []
    for start in range(0, len(rows), batch_size):
        batch = slice(start, start + batch_size)
        images = store.normalize(store.images(rows[batch], device))
        of_classes = torch.as_tensor(classes[batch], dtype=torch.long)
        relevance.append(relevance_maps(model, images, of_classes, side).cpu())
        lanets.append(resized(lanet_maps(model, images), side).cpu())
    return Explained(np.array(store.pixels[rows]), torch.cat(relevance).numpy(), torch.cat(lanets).numpy())


def write_attention(params: Params, layout: Layout, dataset: str, recipes: Sequence[str], seed: int) -> list[Path]:
    """Write attention_DATASET and lanets_DATASET as .png, .svg and .json (the caption) into the figures' folder.

    ``synthetic`` in the .json says whether the faces are; pictures of others show real people. Returns the paths.
    Raises UserError: files are missing or do not belong together, or a network is no TransFER.
    """
    faces = read_faces(layout.data(dataset))
    networks, probabilities = {}, {}
    for recipe in recipes:
        run = read_run(params, layout, dataset, recipe, seed)
        network = load_network(run, params.run(dataset, recipe).train, "attention", faces)
        classes, protocol = run.classes, network.about["protocol"]
        rows = run.predictions.query("split == 'test' and protocol == @protocol").set_index("sample")
        networks[recipe], probabilities[recipe] = network, probabilities_of(rows.loc[faces.manifest["sample"]])
    chosen = one_per_class(faces.manifest["label"].to_numpy(), [p.argmax(axis=1) for p in probabilities.values()])
    columns = []
    for recipe, network in networks.items():
        store = store_of(faces.store, network.about, faces.rows[chosen])
        model, of_faces = transfer_only(network.model, network.run.weights), probabilities[recipe][chosen]
        explained = explain(model, store, faces.rows[chosen], of_faces.argmax(axis=1).tolist())
        columns.append(Column(recipe, classes, explained, of_faces))
    names = [classes[label] for label in chosen.index]
    definition = params.dataset_definitions[dataset]
    synthetic = definition.synthetic is not None
    about: dict[str, Any] = {
        "experiment": params.experiment,
        "dataset": dataset,
        "about": definition.about,
        "synthetic": synthetic,
        "recipes": list(recipes),
        "seed": seed,
        "protocol": protocol,
        "n": len(names),
        "faces": dict(zip(names, faces.manifest["sample"].iloc[chosen].tolist(), strict=True)),
        "weights_sha256": {recipe: network.run.environment["weights_sha256"] for recipe, network in networks.items()},
        "code_digest": step_digest("attention"),
    }
    what = f"{dataset}{' (synthetic faces)' if synthetic else ''}, {len(names)} test faces, seed {seed}, {protocol}"
    figures = {
        "attention": (
            attention_figure(what, columns, names),
            "Relevance (Chefer, Gur and Wolf, CVPR 2021) of the predicted class in the ViT, laid over the face: "
            f"{what}. {_COLOURS} Under each map the predicted class and its probability; \N{BALLOT X} marks a wrong "
            f"one. The face of an expression is {_RULE}.",
        ),
        "lanets": (
            lanets_figure(what, columns, names),
            f"The LANets' maps one by one, before their maximum: {what}. {_COLOURS} Under each map its lowest and "
            f"highest value. The face of an expression is {_RULE}.",
        ),
    }
    written = []
    for name, (figure, caption) in figures.items():
        written += save_captioned(figure, layout.figures / f"{name}_{dataset}", {"caption": caption} | about)
    return written


def one_per_class(labels: np.ndarray, predicted: Sequence[np.ndarray]) -> pd.Series:
    """Class in ``labels`` (N,) to the place of its first face that all ``predicted`` have right, or of its first."""
    right = np.all([classes == labels for classes in predicted], axis=0)
    frame = pd.DataFrame({"label": labels, "wrong": ~right, "place": np.arange(len(labels))})
    return frame.sort_values(["label", "wrong", "place"]).groupby("label")["place"].first()


class Tile(NamedTuple):
    """A face (S, S, 3) uint8, perhaps under a heat map (S, S) from 0 to 1, and the line below it."""

    face: np.ndarray
    heat: np.ndarray | None = None
    text: str = ""


def attention_figure(what: str, columns: Sequence[Column], names: Sequence[str]) -> Figure:
    """A row per expression: the face, and the relevance for the class that each column's network predicts."""
    rows = []
    for i, name in enumerate(names):
        tiles = [Tile(columns[0].explained.faces[i])]
        for column in columns:
            said = column.classes[column.probabilities[i].argmax()]
            wrong = "" if said == name else "\N{BALLOT X} "
            text = f"{wrong}{said} {column.probabilities[i].max():.2f}"
            tiles.append(Tile(column.explained.faces[i], column.explained.relevance[i], text))
        rows.append((name, tiles))
    headings = ["face", *(recipe_name(column.recipe) for column in columns)]
    return draw_grid(f"Relevance of the predicted class: {what}", headings, rows)


def lanets_figure(what: str, columns: Sequence[Column], names: Sequence[str]) -> Figure:
    """A row per expression: the face, and each LANet's map of the columns that have LANets."""
    counts = {column.recipe: column.explained.lanets.shape[1] for column in columns}
    headings = ["face", *(f"{recipe_name(recipe)}: {k + 1}" for recipe, n in counts.items() for k in range(n))]
    rows = []
    for i, name in enumerate(names):
        maps = [(column.explained.faces[i], heat) for column in columns for heat in column.explained.lanets[i]]
        rows.append((name, [Tile(columns[0].explained.faces[i]), *(lanet_tile(face, heat) for face, heat in maps)]))
    none = "" if len(headings) > 1 else " (these recipes have no LANets)"
    return draw_grid(f"LANets' maps{none}: {what}", headings, rows)


def lanet_tile(face: np.ndarray, heat: np.ndarray) -> Tile:
    """A LANet's map over a face."""
    return Tile(face, stretched(heat), f"{heat.min():.2f} to {heat.max():.2f}")


def stretched(heat: np.ndarray) -> np.ndarray:
    """A map from its lowest to its highest value, as 0 to 1; 0 where it is flat."""
    low, high = heat.min(), heat.max()
    return (heat - low) / (high - low) if high > low else np.zeros_like(heat)


def overlay(face: np.ndarray, heat: np.ndarray) -> np.ndarray:
    """A face (S, S, 3) uint8 under a heat map (S, S) from 0 to 1: the mean of its pixels and the map's colours."""
    return np.rint((face + 255 * JET(heat)[..., :3]) / 2).astype(np.uint8)


def draw_grid(title: str, headings: Sequence[str], rows: Sequence[tuple[str, Sequence[Tile]]]) -> Figure:
    """A figure of rows, each a name and a tile per heading; a white line marks half of a heat map's height."""
    figure = Figure(figsize=(0.9 + 1.25 * len(headings), 0.6 + 1.45 * len(rows)), layout="constrained")
    figure.suptitle(title, fontsize=8)
    for number, (name, tiles) in enumerate(rows):
        for column, (heading, tile) in enumerate(zip(headings, tiles, strict=True)):
            axes = figure.add_subplot(len(rows), len(headings), number * len(headings) + column + 1)
            axes.set(xticks=[], yticks=[])
            axes.spines[:].set_visible(False)
            axes.imshow(tile.face if tile.heat is None else overlay(tile.face, tile.heat))
            axes.set_xlabel(tile.text, fontsize=7)
            if number == 0:
                axes.set_title(heading, fontsize=8, weight="bold")
            if column == 0:
                axes.set_ylabel(name, fontsize=8, rotation=0, ha="right", va="center")
            if tile.heat is not None and tile.heat.min() < 0.5 < tile.heat.max():
                axes.contour(tile.heat, levels=[0.5], colors="white", linewidths=0.8)
    return figure
