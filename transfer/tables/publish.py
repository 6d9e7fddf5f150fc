"""Published results: tables with what they were made from, and the leak audit, in results/published/<experiment>/."""

import re
import shutil
from pathlib import Path

import pandas as pd

from transfer.layout import Layout
from transfer.params import Params
from transfer.params import read as config
from transfer.tables.text import code, grid, markdown_rows, mean
from transfer.utils.errors import UserError, remake
from transfer.utils.files import write_text

README = Path("README.md")


def publish(params: Params, layout: Layout) -> Path:
    """Copy the experiment's tables, charts, parameters and small run files, and its leak audit; returns the folder.

    Whichever of tables and audit exists is replaced; no faces, weights or predictions are copied. The README's table is
    renewed. Raises UserError if both are missing, or a file of the tables is.
    """
    folder = layout.results / "published" / params.experiment
    audit = [layout.audit / name for name in ("audit.csv", "audit.md", "duplicates.csv")]
    files = audit if all(file.exists() for file in audit) else []
    with_tables = not files or layout.table("table1", "csv").exists()
    if with_tables:
        files = [*files, *_table_files(params, layout)]
    for file in files:
        if not file.exists():
            raise UserError(f"{file}: missing; {remake('tables')}")
    if with_tables:
        for old in folder.iterdir() if folder.exists() else ():
            if old.name != "audit":
                shutil.rmtree(old) if old.is_dir() else old.unlink()
        default = Params.model_fields["raw_dir"].default
        config.snapshot(params.model_copy(update={"raw_dir": default}), folder / "params.yaml")
    for file in files:
        copy = folder / file.relative_to(layout.root)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, copy)
    if with_tables and README.exists():
        write_text(README, with_table(README.read_text(encoding="utf-8"), params.experiment, folder))
    return folder


def _table_files(params: Params, layout: Layout) -> list[Path]:
    tables = ["table1", *(name for name in params.table_definitions if layout.table(name, "csv").exists())]
    runs = dict.fromkeys([*params.runs(), *(run for name in tables for run in params.table_runs(name))])
    datasets = dict.fromkeys(dataset for dataset, _, _ in runs)
    # The charts of the tables only: pictures of the attention show faces.
    charts = [layout.figures / f"{name}_{dataset}.png" for name in tables for dataset in params.table_datasets(name)]
    return [
        *(layout.table(name, suffix) for name in dict.fromkeys(tables) for suffix in ("csv", "md", "tex")),
        *(chart for chart in charts if chart.exists()),
        *(layout.data(dataset) / "faces.json" for dataset in datasets),
        *(layout.run(*run) / name for run in runs for name in ("metrics.json", "history.csv", "env.json")),
    ]


def with_table(page: str, experiment: str, folder: Path) -> str:
    """Return ``page`` with the short table of ``experiment`` between its marks; unchanged where there are none."""
    marks = rf"(<!-- table: {re.escape(experiment)} -->\n).*?(<!-- end of table -->)"
    text = f"{short_table(pd.read_csv(folder / 'table1.csv'))}\n\nAll tables of these runs: [{folder}]({folder}).\n"
    return re.sub(marks, lambda found: f"{found[1]}{text}{found[2]}", page, flags=re.DOTALL)


def short_table(table: pd.DataFrame) -> str:
    """Return Table 1 as Markdown: val_selected accuracy in percent, a row per recipe and a column per dataset."""
    selected = table[table["protocol"] == "val_selected"]
    number = f"n={' or '.join(map(str, selected['n_seeds'].unique()))} seeds"
    head = f"Test accuracy in percent, mean ± standard deviation ({number}); epoch selected on the validation split."
    cells = grid(selected, {"recipe": code("recipe")}, {"accuracy": mean("accuracy", n=False)}, across="dataset")
    return "\n".join([head, "", *markdown_rows(*cells)])
