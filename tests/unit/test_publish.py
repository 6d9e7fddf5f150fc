"""Published tables: what is copied, and that the README's tables are those of results/published/."""

import re
from pathlib import Path

import pandas as pd
import pytest

from transfer.layout import Layout
from transfer.params import read as config
from transfer.tables.publish import publish
from transfer.utils.errors import UserError

ROOT = Path(__file__).parents[2]


def table() -> pd.DataFrame:
    rows = [
        ("d1", "baseline", "last", 2, 10.0, 1.0),
        ("d1", "baseline", "val_selected", 2, 71.5, 0.25),
        ("d1", "full", "val_selected", 2, 80.0, None),
        ("d2", "baseline", "val_selected", 2, 60.0, 2.0),
        ("d2", "full", "val_selected", 2, 61.25, 0.0),
    ]
    return pd.DataFrame(rows, columns=["dataset", "recipe", "protocol", "n_seeds", "accuracy", "accuracy_std"])


def test_publish_copies_what_git_may_hold(tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    params = config.load([], ["raw_dir=/somewhere/else"])
    monkeypatch.chdir(tmp_path)
    layout = Layout("demo")
    with pytest.raises(UserError, match="table1.csv: missing"):
        publish(params, layout)
    files = [
        *(layout.table("protocols", suffix) for suffix in ("csv", "md", "tex")),
        layout.table("table1", "md"),
        layout.table("table1", "tex"),
        *(layout.data(dataset) / "faces.json" for dataset in params.datasets),
    ]
    for dataset in params.datasets:
        for recipe in params.recipes:
            for seed in params.seeds:
                run = layout.run(dataset, recipe, seed)
                files += [run / name for name in ("metrics.json", "history.csv", "env.json", "model.safetensors")]
    for file in files:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("{}")
    table().to_csv(layout.root / "table1.csv", index=False)
    kept, stale = (layout.results / "published/demo" / name for name in ("audit/audit.csv", "runs/old/metrics.json"))
    for file in (kept, stale):
        file.parent.mkdir(parents=True)
        file.write_text("earlier")
    folder = publish(params, layout)
    assert kept.read_text() == "earlier" and not stale.exists()
    published = {str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file()}
    assert {
        "table1.csv",
        "table1.md",
        "table1.tex",
        "params.yaml",
        "runs/demo_rafdb/full/seed0/metrics.json",
    } <= published
    assert not any(name.endswith("model.safetensors") for name in published)
    assert "/somewhere/else" not in (folder / "params.yaml").read_text()


def test_every_number_of_the_readme_is_that_of_a_file():
    readme = (ROOT / "README.md").read_text()
    shown = re.findall("<!-- table: (.*?) -->\n(.*?)<!-- end of table -->", readme, flags=re.DOTALL)
    for experiment, text in shown:
        table = pd.read_csv(ROOT / "results/published" / experiment / "table1.csv")
        rows = list(table[table["protocol"] == "val_selected"].itertuples())
        expected = {(row.recipe, f"{row.accuracy:.2f} ± {row.accuracy_std:.2f}") for row in rows}
        assert set(re.findall(r"\| `(\w+)` \| (\d.*?) \|", text)) == expected
        assert f"(n={rows[0].n_seeds} seeds)" in text
        readme = readme.replace(text, "")
    assert shown
    audit = pd.read_csv(ROOT / "results/published/ferplus-cpu/audit/audit.csv").set_index(["split_a", "split_b"])
    leaked, paper = audit.loc["train", "test"], config.load([ROOT / "params/paper.yaml"])
    for number in (f"{100 * leaked.copied_b / leaked.images_b:.0f} %", f"{len(paper.runs())} runs"):
        assert number in readme
        readme = readme.replace(number, "")
    assert not re.search(r"\d %|\d ±|\d (M|runs|epochs|seeds)\b", readme), "a number that is tied to no file"


def test_the_audit_is_published_with_the_table_or_without(tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    params = config.load()
    monkeypatch.chdir(tmp_path)
    layout = Layout("demo")
    old = tmp_path / "results/published/demo/table1.csv"
    old.parent.mkdir(parents=True)
    old.write_text("published earlier")
    layout.audit.mkdir(parents=True)
    for name, text in (("audit.csv", "a,b\n"), ("duplicates.csv", "a,b\n"), ("pairs.png", "faces")):
        (layout.audit / name).write_text(text)
    with pytest.raises(UserError, match="table1.csv: missing"):
        publish(params, layout)
    (layout.audit / "audit.md").write_text("# Copies\n")
    folder = publish(params, layout)
    published = {str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file()}
    assert published == {"table1.csv", "audit/audit.csv", "audit/audit.md", "audit/duplicates.csv"}, "no pictures"
    assert (folder / "table1.csv").read_text() == "published earlier"
    table().to_csv(layout.root / "table1.csv", index=False)
    with pytest.raises(UserError, match="table1.md: missing"):
        publish(params, layout)


def test_the_docs_quote_the_published_audit():
    table = pd.read_csv(ROOT / "results/published/ferplus-cpu/audit/audit.csv").set_index(["split_a", "split_b"])
    row = table.loc[("train", "test")]
    copied, exact = (f"{n} ({n / row['images_b']:.1%})".replace("%", " %") for n in row[["copied_b", "exact_copied_b"]])
    text = " ".join((ROOT / "docs/leaks.md").read_text().split())
    assert f"Of {row['images_b']:,} test images {copied} have a copy in train, {exact} pixel for pixel." in text
