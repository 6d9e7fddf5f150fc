"""What the pictures show of a face: the face itself, the relevance of its cells, the LANets' maps."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch

from transfer.explain.maps import lanet_maps, resized
from transfer.explain.relevance import relevance_maps
from transfer.models.transfer import TransFER
from transfer.training.batches import FaceStore, normalize

_BATCH = 8  # a face takes the largest model less than 0.2 GB


class Explained(NamedTuple):
    """N faces; all pictures at the size of the aligned faces, S pixels."""

    faces: np.ndarray
    """(N, S, S, 3) uint8."""
    relevance: np.ndarray
    """(N, S, S) float32 from 0 to 1."""
    lanets: np.ndarray
    """(N, B, S, S) float32 in (0, 1), before dropping."""


def explain(model: TransFER, store: FaceStore, rows: np.ndarray, classes: Sequence[int]) -> Explained:
    """Relevance of ``rows`` of the store for their ``classes``, and their LANets' maps."""
    device = next(model.parameters()).device
    side = store.pixels.shape[1]
    relevance, lanets = [], []
    for start in range(0, len(rows), _BATCH):
        batch = slice(start, start + _BATCH)
        images = normalize(store.images(rows[batch], device))
        of_classes = torch.as_tensor(classes[batch], dtype=torch.long)
        relevance.append(relevance_maps(model, images, of_classes, side).cpu())
        lanets.append(resized(lanet_maps(model, images), side).cpu())
    return Explained(np.array(store.pixels[rows]), torch.cat(relevance).numpy(), torch.cat(lanets).numpy())


def one_per_class(labels: np.ndarray, predicted: Sequence[np.ndarray]) -> pd.Series:
    """The place of a face of each class that occurs in ``labels`` (N,), indexed by class.

    The first one that all of ``predicted``, (N,) each, have right; where there is none, the first one.
    """
    right = np.all([classes == labels for classes in predicted], axis=0)
    frame = pd.DataFrame({"label": labels, "wrong": ~right, "place": np.arange(len(labels))})
    return frame.sort_values(["label", "wrong", "place"]).groupby("label")["place"].first()
