"""Weights that a loss such as SCN learnt for each training face, beside the annotators' votes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from transfer.tables.kinds import Cells, Context, Formats, Kind
from transfer.tables.text import by_dataset, code, count, mean, plain
from transfer.utils.errors import UserError

if TYPE_CHECKING:
    import pandas as pd

CORRELATIONS = ("with_share", "with_entropy")
FORMATS: Formats = {
    **dict.fromkeys(["experiment", "dataset", "recipe", "agreement"], "text"),
    **dict.fromkeys(["n_seeds", "n_faces"], "count"),
    **dict.fromkeys(["weight", "weight_std"], "number"),
    **dict.fromkeys(["relabelled", "relabelled_std"], "percent"),
    **{f"{name}{part}": "number" for name in CORRELATIONS for part in ("", "_std")},
}
BINS = {"all": (0.0, 1.0), "up to 0.6": (0.0, 0.6), "0.6 to 0.8": (0.6, 0.8), "above 0.8": (0.8, 1.0)}
"""Share of the votes that the label has: above the first bound, up to the second."""


def rows(context: Context) -> Iterator[Cells]:
    """Of each recipe with such a loss all training faces, then those of each agreement, as means over seeds."""
    import pandas as pd

    from transfer.evaluation.statistics import summary

    for (dataset, recipe), seeds in context.runs.items():
        files = [run.directory / "loss.parquet" for run in seeds.values()]
        if not any(file.exists() for file in files):
            continue
        context.layout.chain.check(*files)
        voted = votes(context.layout.data(dataset) / "index.parquet")
        found = pd.concat([measures(_weighed(file, voted)) for file in files])
        for agreement, values in found.groupby("agreement", sort=False):
            names = {"experiment": context.params.experiment, "dataset": dataset, "recipe": recipe}
            cells: Cells = {"agreement": agreement, "n_seeds": len(values), "n_faces": int(values["n"].iloc[0])}
            for name in ("weight", "relabelled", *CORRELATIONS):
                over = summary(values[name].dropna().tolist()) if values[name].notna().any() else None
                scale = 100 if name == "relabelled" else 1
                cells[name] = over and scale * over.mean
                cells[f"{name}_std"] = over and over.std and scale * over.std
            yield names | cells


def votes(index: Path) -> pd.DataFrame:
    """By sample the share of the votes that its label has, and the entropy of its votes in bits. Raises UserError."""
    import numpy as np
    import pandas as pd

    frame = pd.read_parquet(index).set_index("sample")
    given = frame.filter(like="vote_").to_numpy(float)
    if not given.size:
        raise UserError(f"{index}: no votes; take a dataset that has them, such as FERPlus")
    shares = given / given.sum(axis=1, keepdims=True)
    columns = frame.filter(like="vote_").columns.get_indexer(pd.Index("vote_" + frame["class_name"]))
    entropy = -np.where(shares > 0, shares * np.log2(np.where(shares > 0, shares, 1)), 0).sum(axis=1)
    share = np.round(shares[np.arange(len(frame)), columns], 6)
    return pd.DataFrame({"share": share, "entropy": entropy}, index=frame.index)


def _weighed(file: Path, voted: pd.DataFrame) -> pd.DataFrame:
    import pandas as pd

    if not file.exists():
        raise UserError(f"{file}: missing; train the run again: snakemake --forcerun train_model")
    found = pd.read_parquet(file).set_index("sample")
    return found[found["weights"].notna()].join(voted)


def measures(faces: pd.DataFrame) -> pd.DataFrame:
    """Of ``faces`` (weights, relabelled, share, entropy) by agreement: n, mean weight, share that got another label;
    of all the rank correlations (Spearman) of the weights with share and entropy, NaN where one is constant."""
    import pandas as pd

    lines = []
    for name, (low, high) in BINS.items():
        part = faces[(faces["share"] > low) & (faces["share"] <= high)]
        line = {"agreement": name, "n": len(part), "weight": part["weights"].mean()}
        line["relabelled"] = (part["relabelled"] >= 0).mean()
        for column, ranks in zip(("share", "entropy"), CORRELATIONS, strict=True):
            line[ranks] = part["weights"].corr(part[column], method="spearman") if name == "all" else float("nan")
        lines.append(line)
    return pd.DataFrame(lines)


KIND = Kind(
    FORMATS,
    rows,
    "Weights of training faces at the end of the training, mean ± standard deviation over seeds, by the share of all "
    "votes that the label has. ρ: Spearman's rank correlation of weight and share (positive: faces on which the "
    "annotators agree weigh more), and of weight and entropy of the votes. Relabelled: faces, in percent, that got "
    "another label from the loss. Recipes whose loss weighs no faces are left out.",
    by_dataset(
        {"recipe": code("recipe"), "agreement": plain("agreement", "{}"), "faces": count("n_faces")},
        {
            "weight": mean("weight", "{:.3f}"),
            "relabelled": mean("relabelled", n=False),
            "ρ with share": mean("with_share", "{:.3f}", n=False),
            "ρ with entropy": mean("with_entropy", "{:.3f}", n=False),
        },
        by=("recipe", "agreement"),
    ),
    dataset_inputs=("index.parquet",),
)
