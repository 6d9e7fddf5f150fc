"""Table 1 for readers: markdown that says what was measured, how the epoch was chosen, and what the tests mean."""

from collections.abc import Mapping
from typing import Any

import pandas as pd

_PROTOCOLS = {
    "last": "the last epoch; nothing is selected",
    "val_selected": "the epoch with the best validation accuracy; validation faces are never tested on",
    "test_selected": "the epoch with the best test accuracy, the field's custom; it flatters, and is here only to be "
    "comparable with papers",
}
_UNDEFINED = "–"


def to_markdown(table: pd.DataFrame, *, data: Mapping[str, str], environment: Mapping[str, Any]) -> str:
    """Return Table 1 (as from ``table1`` or read back from its csv) as markdown.

    ``data`` says of every dataset in one line what it is (label rule, number of test faces); ``environment`` is what
    the runs ran in (commit, torch, hardware ...), printed as it is.
    """
    experiment = table["experiment"].iloc[0]
    lines = [f"# Table 1: {experiment}", "", *_header(table, environment)]
    for dataset, rows in table.groupby("dataset", sort=False):
        lines += ["", f"## {dataset}", "", data[str(dataset)], "", *_section(rows)]
    return "\n".join(lines) + "\n"


def _header(table: pd.DataFrame, environment: Mapping[str, Any]) -> list[str]:
    n = int(table["n_seeds"].iloc[0])
    if n == 1:
        statistics = (
            "One seed (n=1), so there is no standard deviation: the interval is Wilson's 95 % over the test faces, and "
            "p is the exact McNemar test over the faces. Neither says how much another seed would change."
        )
    else:
        statistics = (
            f"Each accuracy is the mean ± standard deviation over {n} seeds (n={n}), never their maximum. The interval "
            "is Student's t 95 % of the mean over seeds, and p is the paired t test over the seeds' differences. "
            "Neither covers the choice of the test faces."
        )
    lines = [
        f"Accuracy on the test split, in percent. {statistics} Δ is the difference to the baseline recipe in points. "
        "Marks: \\* p < 0.05, \\*\\* p < 0.01, two-sided, not corrected for the number of comparisons "
        "(docs/statistics.md). Mean-class accuracy is in the csv.",
        "",
        "How the epoch was chosen:",
        "",
    ]
    lines += [f"- `{protocol}`: {_PROTOCOLS[protocol]}" for protocol in table["protocol"].unique()]
    return [*lines, "", "Environment: " + "; ".join(f"{key} {value}" for key, value in environment.items()) + "."]


def _section(rows: pd.DataFrame) -> list[str]:
    protocols = list(rows["protocol"].unique())
    published = rows[rows["reported_accuracy"].notna()]
    head = ["recipe", "LANets", "p1 (MAD)", "p2 (MSAD)"]
    for protocol in protocols:
        head += [f"`{protocol}`", "95 %", "Δ (p)"]
    if len(published):
        head.append("published (`test_selected`)")
    sources = list(published["reported_source"].unique())
    lines = [head, ["---", *["---:"] * (len(head) - 1)]]
    for recipe, group in rows.groupby("recipe", sort=False):
        first = group.iloc[0]
        cells = [f"`{recipe}`", f"{first['local_cnns']}", f"{first['mad']:g}", f"{first['msad']:g}"]
        for protocol in protocols:
            row = group[group["protocol"] == protocol].iloc[0]
            cells += [_accuracy(row), f"{row['ci95_low']:.2f} to {row['ci95_high']:.2f}", _difference(row)]
        if len(published):
            number = group[group["reported_accuracy"].notna()]
            cells.append(
                f"{number['reported_accuracy'].iloc[0]:.2f} [{sources.index(number['reported_source'].iloc[0]) + 1}]"
                if len(number)
                else _UNDEFINED
            )
        lines.append(cells)
    text = ["| " + " | ".join(cells) + " |" for cells in lines]
    return [*text, *(line for i, source in enumerate(sources, 1) for line in ("", f"[{i}] {source}"))]


def _accuracy(row: pd.Series) -> str:
    spread = "" if pd.isna(row["accuracy_std"]) else f" ± {row['accuracy_std']:.2f}"
    return f"{row['accuracy']:.2f}{spread} (n={row['n_seeds']})"


def _difference(row: pd.Series) -> str:
    if pd.isna(row["delta_vs_baseline"]):
        return _UNDEFINED
    if pd.isna(row["p_value"]):
        return f"{row['delta_vs_baseline']:+.2f} (p undefined)"
    p = row["p_value"]
    mark = "\\*\\*" if p < 0.01 else "\\*" if p < 0.05 else ""
    return f"{row['delta_vs_baseline']:+.2f} (p={p:.2g}){mark}"
