"""Ranks that say what can be told apart: paired tests of all entries of a tier on the same faces."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from string import ascii_lowercase

import numpy as np

from transfer.evaluation.statistics import faces_and_seeds, holm, visible_difference

LEVEL = 0.05


@dataclass(frozen=True)
class Rank:
    """Places ``best`` to ``worst`` that the tests leave open; entries that share a letter cannot be told apart."""

    best: int
    worst: int
    letters: str


def ranks(right: Sequence[np.ndarray]) -> list[Rank]:
    """The rank of each of K entries, from which of the N faces each seed got right: (seeds, N) booleans each.

    Holm's correction over all pairs. best is 1 + the number of entries that are significantly better, worst is K - the
    number that are significantly worse.
    """
    accuracy = [float(runs.mean()) for runs in right]
    pairs = list(combinations(range(len(right)), 2))
    corrected = holm([faces_and_seeds(right[i], right[j]) for i, j in pairs])
    apart = {
        (i, j) if accuracy[i] > accuracy[j] else (j, i)
        for (i, j), p in zip(pairs, corrected, strict=True)
        if p is not None and p < LEVEL
    }
    order = sorted(range(len(right)), key=lambda i: -accuracy[i])
    letters = _letters(order, apart)
    return [
        Rank(
            1 + sum(loser == i for _, loser in apart), len(right) - sum(winner == i for winner, _ in apart), letters[i]
        )
        for i in range(len(right))
    ]


def _letters(order: Sequence[int], apart: set[tuple[int, int]]) -> dict[int, str]:
    """Compact letter display: insert and absorb (Piepho, J. Comput. Graph. Stat. 13, 2004)."""
    groups = [frozenset(order)]
    for pair in sorted(apart):
        split = [group - {one} for group in groups if {*pair} <= group for one in pair]
        groups = [group for group in groups if not {*pair} <= group]
        for part in split:
            if not any(part <= group for group in groups):
                groups = [*(group for group in groups if not group <= part), part]
    place = {entry: number for number, entry in enumerate(order)}
    groups.sort(key=lambda group: sorted(place[entry] for entry in group))
    names = [ascii_lowercase[i % 26] * (1 + i // 26) for i in range(len(groups))]
    return {
        entry: " ".join(name for name, group in zip(names, groups, strict=True) if entry in group) for entry in order
    }


def sentence(right: Sequence[np.ndarray], faces: int) -> str:
    """What two entries of this tier need to be told apart, by the median of how often their first seeds disagree."""
    pairs = list(combinations(right, 2))
    if not pairs:
        return f"One entry on {faces:,} faces: nothing to compare."
    typical = float(np.median([(one[0] != other[0]).mean() for one, other in pairs]))
    needed = [visible_difference(faces, typical, tests) for tests in (1, len(pairs))]
    alone, corrected = ("more than there is" if x is None else f"{100 * x:.1f} points" for x in needed)
    many = f", and {corrected} as one of {len(pairs)} pairs" if len(pairs) > 1 else ""
    return (
        f"With {faces:,} faces, two single runs of which one is right and the other wrong on {typical:.1%} of them "
        f"(the median of these entries) need {alone} to be told apart{many}."
    )
