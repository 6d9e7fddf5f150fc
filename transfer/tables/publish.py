"""Published results: a table with what it was made from and the leak audit, in results/published/, and in the docs."""

import re
import shutil
from pathlib import Path

import pandas as pd

from transfer.layout import Layout
from transfer.params import Params
from transfer.params import read as config
from transfer.utils.errors import UserError
from transfer.utils.files import write_text

README = Path("README.md")
LEAKS = Path("docs/leaks.md")
_RUN_FILES = ("metrics.json", "history.csv", "env.json")
_AUDIT_FILES = ("audit.csv", "audit.md", "duplicates.csv")
_PROTOCOL = "val_selected"


def publish(params: Params, layout: Layout) -> Path:
    """Copy the experiment's table and its leak audit to results/published/<experiment>/; returns that folder.

    Each is published where it is there, and leaves what is published of the other as it is. Raises UserError where
    neither is there, or where a file of the table is missing.
    """
    folder = layout.results / "published" / params.experiment
    audited = all((layout.audit / name).exists() for name in _AUDIT_FILES)
    if audited:
        publish_audit(params, layout, folder)
    if not audited or (layout.root / "table1.csv").exists():
        publish_table(params, layout, folder)
    return folder


def publish_audit(params: Params, layout: Layout, folder: Path) -> None:
    """Copy the audit's counts and names, no pictures, and renew them in docs/leaks.md after their mark there."""
    for name in _AUDIT_FILES:
        copy = folder / "audit" / name
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(layout.audit / name, copy)
    if LEAKS.exists():
        write_text(LEAKS, with_audit(LEAKS.read_text(encoding="utf-8"), params.experiment, folder))


def publish_table(params: Params, layout: Layout, folder: Path) -> None:
    """Copy the table, the parameters and the small files of the runs, and renew the short table in the README.

    No faces, weights or predictions, and no folder of this machine: raw_dir becomes the default. The short table
    stands after the line ``<!-- table: EXPERIMENT -->``. Raises UserError if a file is missing.
    """
    others = [name for name in params.table_definitions if layout.table(name, "csv").exists()]
    tables = dict.fromkeys(["table1", *others])
    runs = dict.fromkeys([*params.runs(), *(run for name in tables for run in params.table_runs(name))])
    files = [layout.table(name, suffix) for name in tables for suffix in ("csv", "md", "tex")]
    # charts of the tables; the pictures of the attention show faces, and stay
    charts = [layout.figures / f"{name}_{dataset}.png" for name in tables for dataset in params.table_datasets(name)]
    files += [chart for chart in charts if chart.exists()]
    files += [layout.data(dataset) / "faces.json" for dataset in dict.fromkeys(dataset for dataset, _, _ in runs)]
    files += [layout.run(*run) / name for run in runs for name in _RUN_FILES]
    for file in files:
        if not file.exists():
            raise UserError(f"{file}: missing; run: snakemake --cores all tables")
    for old in folder.iterdir() if folder.exists() else ():
        if old.name != "audit":
            shutil.rmtree(old) if old.is_dir() else old.unlink()
    for file in files:
        copy = folder / file.relative_to(layout.root)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, copy)
    config.snapshot(
        params.model_copy(update={"raw_dir": Params.model_fields["raw_dir"].default}), folder / "params.yaml"
    )
    if README.exists():
        write_text(README, with_table(README.read_text(encoding="utf-8"), params.experiment, folder))


def with_table(readme: str, experiment: str, folder: Path) -> str:
    """``readme`` with the short table of ``experiment`` and links between its marks; unchanged where there are none."""
    text = short_table(pd.read_csv(folder / "table1.csv"))
    text += f"\n\nAll protocols, intervals and tests: [{folder}/table1.md]({folder}/table1.md).\n"
    if others := sorted(page.stem for page in folder.glob("*.md") if page.stem != "table1"):
        text += f"Of the same trainings: {', '.join(f'[{name}]({folder}/{name}.md)' for name in others)}.\n"
    return _between_marks(readme, "table", experiment, text)


def with_audit(page: str, experiment: str, folder: Path) -> str:
    """``page`` with the audit of ``experiment``, from its first dataset on, between its marks."""
    text = (folder / "audit" / "audit.md").read_text(encoding="utf-8")
    datasets = re.sub("^## ", "### ", text[text.index("\n## ") + 1 :], flags=re.MULTILINE)
    return _between_marks(page, "audit", experiment, datasets)


def _between_marks(page: str, what: str, experiment: str, text: str) -> str:
    marks = rf"(<!-- {what}: {re.escape(experiment)} -->\n).*?(<!-- end of {what} -->)"
    return re.sub(marks, lambda found: f"{found[1]}{text}{found[2]}", page, flags=re.DOTALL)


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
