"""Published results: a table with what it was made from, in results/published/, and its short form in the README."""

import re
import shutil
from pathlib import Path

import pandas as pd

from transfer import config
from transfer.errors import UserError
from transfer.files import write_text
from transfer.layout import Layout
from transfer.params import Params

README = Path("README.md")
_RUN_FILES = ("metrics.json", "history.csv", "env.json")
_PROTOCOL = "val_selected"


def publish(params: Params, layout: Layout) -> Path:
    """Copy the experiment's table, parameters and small run files to results/published/<experiment>/; returns it.

    No images, weights or predictions, and no folder of this machine: raw_dir becomes the default. Where the README has
    a line ``<!-- table: EXPERIMENT -->``, the short table after it is renewed. Raises UserError if a file is missing.
    """
    folder = layout.results / "published" / params.experiment
    runs = [
        layout.run(dataset, recipe, seed)
        for dataset in params.datasets
        for recipe in params.recipes
        for seed in params.seeds
    ]
    files = [layout.root / "table1.csv", layout.root / "table1.md"]
    files += [layout.data(dataset) / "faces.json" for dataset in params.datasets]
    files += [run / name for run in runs for name in _RUN_FILES]
    for file in files:
        if not file.exists():
            raise UserError(f"{file}: missing; run: snakemake --cores all results/table1.csv")
    shutil.rmtree(folder, ignore_errors=True)
    for file in files:
        copy = folder / file.relative_to(layout.root)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, copy)
    config.snapshot(
        params.model_copy(update={"raw_dir": Params.model_fields["raw_dir"].default}), folder / "params.yaml"
    )
    if README.exists():
        write_text(README, with_table(README.read_text(encoding="utf-8"), params.experiment, folder))
    return folder


def with_table(readme: str, experiment: str, folder: Path) -> str:
    """``readme`` with the short table of ``experiment`` between its marks; unchanged where there are none."""
    text = short_table(pd.read_csv(folder / "table1.csv"))
    text += f"\n\nAll protocols, intervals and tests: [{folder}/table1.md]({folder}/table1.md).\n"
    marks = rf"(<!-- table: {re.escape(experiment)} -->\n).*?(<!-- end of table -->)"
    return re.sub(marks, lambda found: f"{found[1]}{text}{found[2]}", readme, flags=re.DOTALL)


def short_table(table: pd.DataFrame) -> str:
    """One row per recipe, one column per dataset: accuracy in percent under val_selected, and its spread over seeds."""
    chosen = table[table["protocol"] == _PROTOCOL]
    datasets = list(chosen["dataset"].unique())
    seeds = ", ".join(map(str, chosen["n_seeds"].unique()))
    lines = [["recipe", *(f"`{name}`" for name in datasets)], ["---", *["---:"] * len(datasets)]]
    for recipe, rows in chosen.groupby("recipe", sort=False):
        cells = rows.set_index("dataset").loc[datasets]
        spread = cells["accuracy_std"].map(lambda std: "" if pd.isna(std) else f" ± {std:.2f}")
        lines.append([f"`{recipe}`", *(cells["accuracy"].map("{:.2f}".format) + spread)])
    head = f"Test accuracy in percent; epoch chosen on the validation part (`{_PROTOCOL}`); number of seeds: {seeds}."
    return "\n".join([head, "", *("| " + " | ".join(cells) + " |" for cells in lines)])
