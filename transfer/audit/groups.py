"""Groups of copies: if A is a copy of B and B of C, the three are one group."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

KINDS = {"drop_exact": ["exact"], "drop_near": ["exact", "near", "mirrored"]}
"""The kinds of copies that each way of `sampling.duplicates` removes."""


def copy_groups(samples: Sequence[str], pairs: pd.DataFrame, kinds: Sequence[str]) -> np.ndarray:
    """A group number for every sample (N,), int64: the same one for all that are copies of each other.

    ``pairs`` has the columns sample_a, sample_b and kind; pairs of other ``kinds`` do not count. A chain may lead
    through images that are not in ``samples``.
    """
    pairs = pairs[pairs["kind"].isin(kinds)]
    names = pd.Index(pd.unique(pd.concat([pd.Series(samples), pairs["sample_a"], pairs["sample_b"]])))
    ends = names.get_indexer(pairs["sample_a"]), names.get_indexer(pairs["sample_b"])
    links = coo_array((np.ones(len(pairs), bool), ends), shape=(len(names), len(names)))
    return connected_components(links, directed=False)[1][names.get_indexer(samples)].astype(np.int64)
