import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from scipy import stats
from tiny_training import tiny_params

from transfer.layout import Layout
from transfer.runs.metrics import evaluate
from transfer.runs.predictions import predictions_frame, write_predictions
from transfer.runs.read import read_runs
from transfer.tables.build import table_of
from transfer.tables.kinds import Context
from transfer.tables.kinds.recipes import COLUMNS, FORMATS
from transfer.tables.kinds.reported import load_reported
from transfer.tables.text import to_csv as as_csv
from transfer.tables.text import to_latex, to_markdown
from transfer.utils.errors import UserError

REPORTED = Path(__file__).parents[2] / "params" / "reported.yaml"
CLASSES = ["neutral", "happiness"]
PROTOCOLS = ["last", "test_selected"]
DATASETS = {"ferplus_majority": "ferplus", "demo_rafdb": None}
PARTS = {
    "baseline": {"num_lanets": 0, "mad": 0.0, "msad": 0.0},
    "msad": {"num_lanets": 0, "mad": 0.0, "msad": 0.3},
    "full": {"num_lanets": 2, "mad": 0.6, "msad": 0.3},
}
RECIPES = {(dataset, recipe): parts for dataset in DATASETS for recipe, parts in PARTS.items()}
# faces 0-7 are neutral, 8-9 happiness; a run with k correct faces is right on faces 0 to k-1
CORRECT = {
    "baseline": {"last": [6, 7, 5], "test_selected": [7, 7, 7]},
    "msad": {"last": [7, 8, 6], "test_selected": [7, 7, 7]},
    "full": {"last": [8, 9, 9], "test_selected": [9, 10, 10]},
}


def write_run(runs, dataset, recipe, seed, counts, faces=10, labels=None):
    labels = np.array(labels if labels is not None else [0] * 8 + [1] * 2)[:faces]
    frames = []
    for epoch, (protocol, count) in enumerate(counts.items(), start=3):
        predicted = np.where(np.arange(faces) < count, labels, 1 - labels)
        probabilities = np.where(np.eye(2)[predicted] == 1, 0.75, 0.25)
        samples = [f"face{i}" for i in range(faces)]
        frames.append(
            predictions_frame(samples, labels, probabilities, CLASSES, split="test", protocol=protocol, epoch=epoch)
        )
        # a validation part on which everything is wrong must never reach the table
        frames.append(
            predictions_frame(["v"], [0], np.array([[0, 1]]), CLASSES, split="val", protocol=protocol, epoch=epoch)
        )
    directory = runs / dataset / recipe / f"seed{seed}"
    write_predictions(directory / "predictions.parquet", pd.concat(frames, ignore_index=True))
    evaluate(directory, experiment="fake", dataset=dataset, recipe=recipe, seed=seed, classes=CLASSES)


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """Make the runs that tests only read."""
    runs = tmp_path_factory.mktemp("fake") / "runs"
    for dataset, recipe in RECIPES:
        for seed in range(3):
            counts = {protocol: CORRECT[recipe][protocol][seed] for protocol in PROTOCOLS}
            write_run(runs, dataset, recipe, seed, counts)
    return runs


@pytest.fixture
def runs(built, tmp_path):
    """Copy the runs for a test that changes them."""
    return Path(shutil.copytree(built, tmp_path / "runs"))


@pytest.fixture(scope="module")
def made(built):
    return make_table(built)


@pytest.fixture(scope="module")
def table(made):
    return made.frame


def make_table(runs, seeds=(0, 1, 2), recipes=RECIPES, datasets=DATASETS, protocols=PROTOCOLS, partial=False, **table):
    wanted = [(dataset, recipe, seed) for dataset, recipe in recipes if dataset in datasets for seed in seeds]
    found, _ = read_runs(runs, wanted, protocols, experiment="fake", partial=partial)
    params = tiny_params(
        experiment="fake",
        datasets=list(datasets),
        protocols=protocols,
        model={"args": {"num_lanets": 2, "mad": 0.6, "msad": 0.3}},
        dataset_definitions={
            name: {"parser": name.split("_")[-2 if family else -1], "archive": name, "reported_as": family}
            for name, family in datasets.items()
        },
        recipe_definitions={
            "baseline": {"local_cnns": False},
            "msad": {"local_cnns": False, "msad": True},
            "full": {"mad": True, "msad": True},
        },
        table_definitions={"table1": {"kind": "recipes", "title": "Table 1"} | table},
    )
    return table_of(Context(params, Layout("fake"), "table1", found))


def make(*arguments, **named):
    return make_table(*arguments, **named).frame


def to_csv(table):
    return as_csv(table, FORMATS)


def cell(table, dataset, recipe, protocol):
    rows = table[(table["dataset"] == dataset) & (table["recipe"] == recipe) & (table["protocol"] == protocol)]
    assert len(rows) == 1
    return rows.iloc[0]


def test_columns_and_order_of_rows_are_the_contract(table):
    assert to_csv(table).splitlines()[0] == (
        "experiment,dataset,recipe,local_cnns,mad,msad,protocol,n_seeds,accuracy,accuracy_std,ci95_low,ci95_high,"
        "mean_class_accuracy,delta_vs_baseline,p_value,reported_accuracy,reported_source,"
        "n_faces,delta_ci95_low,delta_ci95_high,p_holm,effect_size,effect,"
        "model,loss,backbone,parameters,macs,pretrained"
    )
    assert to_csv(table).splitlines()[0].startswith(",".join(COLUMNS) + ",n_faces")
    assert list(zip(table["dataset"], table["recipe"], table["protocol"], strict=True)) == [
        (dataset, recipe, protocol) for dataset in DATASETS for recipe in PARTS for protocol in PROTOCOLS
    ]
    assert set(table["experiment"]) == {"fake"}
    assert set(table["n_seeds"]) == {3}


def test_every_number_of_a_row_by_hand(table):
    row = cell(table, "ferplus_majority", "full", "last")
    # 8, 9, 9 of 10: mean 86.67, std 5.77; t(0.975, 2) = 4.3027, so the half width is 14.34
    assert (row["local_cnns"], row["mad"], row["msad"]) == (2, 0.6, 0.3)
    assert row["accuracy"] == 86.67
    assert row["accuracy_std"] == 5.77
    assert (row["ci95_low"], row["ci95_high"]) == (72.32, 100.0)
    # recall of neutral 1, 1, 1; of happiness 0, 1/2, 1/2
    assert row["mean_class_accuracy"] == pytest.approx(66.67)
    # differences 2, 2, 4 faces: mean 2.667, std 1.155, t = 4
    assert row["delta_vs_baseline"] == 26.67
    assert row["p_value"] == pytest.approx(2 * stats.t.sf(4, 2), rel=1e-3) == 0.05719
    assert pd.isna(row["reported_accuracy"])


def test_undefined_cells_are_empty_and_never_zero(table):
    for protocol in PROTOCOLS:
        baseline = cell(table, "demo_rafdb", "baseline", protocol)
        assert pd.isna(baseline["delta_vs_baseline"])
        assert pd.isna(baseline["p_value"])
    # every seed wins exactly one face: a difference, but no variance to test it against
    constant = cell(table, "demo_rafdb", "msad", "last")
    assert constant["delta_vs_baseline"] == 10.0
    assert pd.isna(constant["p_value"])
    # no difference in any seed
    equal = cell(table, "demo_rafdb", "msad", "test_selected")
    assert (equal["delta_vs_baseline"], equal["p_value"], equal["accuracy_std"]) == (0.0, 1.0, 0.0)
    assert to_csv(table).splitlines()[1] == (
        "fake,ferplus_majority,baseline,0,0.0,0.0,last,3,60.00,10.00,35.16,84.84,37.50,,,,,10,,,,,,"
        "transfer_tiny,cross_entropy,IR stem and ViT,363170,5609024,no"
    )


def test_without_the_baseline_there_are_no_differences(built):
    recipes = {key: parts for key, parts in RECIPES.items() if key[1] != "baseline"}
    table = make(built, recipes=recipes)
    assert table["delta_vs_baseline"].isna().all()
    assert table["p_value"].isna().all()


def test_the_largest_seed_is_never_reported(table, runs):
    for (_, recipe), rows in table.groupby(["dataset", "recipe"]):
        for row in rows.itertuples():
            assert row.accuracy == pytest.approx(10 * np.mean(CORRECT[recipe][row.protocol]), abs=0.005)
    # a lucky seed moves the mean by its share only
    write_run(runs, "demo_rafdb", "baseline", 0, {"last": 9, "test_selected": 7})
    table = make(runs, datasets={"demo_rafdb": None})
    assert cell(table, "demo_rafdb", "baseline", "last")["accuracy"] == 70.0


def test_one_seed(built):
    row = cell(make(built, seeds=[0]), "ferplus_majority", "full", "last")
    interval = stats.binomtest(8, 10).proportion_ci(method="wilson")
    assert row["n_seeds"] == 1
    assert row["accuracy"] == 80.0
    assert pd.isna(row["accuracy_std"])
    assert (row["ci95_low"], row["ci95_high"]) == (round(100 * interval.low, 2), round(100 * interval.high, 2))
    # the full recipe wins faces 6 and 7 and loses none: p = 2 / 2^2
    assert row["p_value"] == 0.5


def test_published_numbers_stand_beside_test_selected_only(table, built):
    printed = table[table["reported_accuracy"].notna()]
    assert list(zip(printed["dataset"], printed["recipe"], printed["protocol"], strict=True)) == [
        ("ferplus_majority", "full", "test_selected")
    ]
    assert printed["reported_accuracy"].iloc[0] == 90.83
    assert printed["reported_source"].iloc[0].startswith("second-hand: uncited; ")
    assert make(built, datasets=DATASETS | {"ferplus_majority": None})["reported_accuracy"].isna().all()


def test_the_written_csv_is_read_back_as_the_same_table(table, tmp_path):
    path = tmp_path / "table1.csv"
    path.write_text(to_csv(table))
    back = pd.read_csv(path)
    pd.testing.assert_frame_equal(back, table, check_dtype=False)


def test_the_difference_by_hand(table):
    row = cell(table, "ferplus_majority", "full", "last")
    # differences 20, 20, 40 points: mean 26.67, std 11.55; half width 4.3027 * 11.55 / sqrt(3) = 28.68
    assert (row["delta_ci95_low"], row["delta_ci95_high"]) == (-2.02, 55.35)
    # 26.67 / 11.55 = 2.309, times Hedges' factor for two degrees of freedom, gamma(1) / (sqrt(1) gamma(1/2)) = 0.5642
    assert (row["effect"], row["effect_size"]) == ("hedges_gz", pytest.approx(1.3029, abs=1e-4))
    assert row["n_faces"] == 10
    # under `last` two comparisons have a p-value, the two of `full`, and both have the same
    assert row["p_holm"] == pytest.approx(2 * row["p_value"], rel=1e-3)


def test_a_sweep_has_its_values_as_columns(built, tmp_path):
    for value, recipe in enumerate(("msad", "full"), 1):
        shutil.copytree(built / "demo_rafdb" / recipe, tmp_path / "demo_rafdb" / f"full_stem_stages{value}")
    recipes = {("demo_rafdb", f"full_stem_stages{value}"): None for value in (1, 2)}
    for metrics in tmp_path.rglob("metrics.json"):
        tamper(metrics, lambda content, name=metrics.parts[-3]: content.update(recipe=name))
    sweep = {"sweep": {"over": {"model.args.stem_stages": [1, 2]}}, "baseline": "full_stem_stages1"}
    made = make_table(tmp_path, recipes=recipes, datasets={"demo_rafdb": None}, **sweep)
    assert list(made.frame) == [*FORMATS, "stem_stages"]
    assert list(made.frame["stem_stages"].drop_duplicates()) == [1, 2]
    assert "| recipe | LANets | p1 (MAD) | p2 (MSAD) | stem_stages | `last` |" in to_markdown(made)


def test_a_partial_table_has_what_is_there(runs):
    shutil.rmtree(runs / "demo_rafdb" / "full")
    (runs / "demo_rafdb" / "baseline" / "seed1" / "metrics.json").unlink()
    wanted = [("demo_rafdb", recipe, seed) for recipe in PARTS for seed in range(3)]
    found, missing = read_runs(runs, wanted, PROTOCOLS, experiment="fake", partial=True)
    assert missing == ["demo_rafdb baseline seed1", *(f"demo_rafdb full seed{seed}" for seed in range(3))]
    assert {key[1]: sorted(seeds) for key, seeds in found.items()} == {"baseline": [0, 2], "msad": [0, 1, 2]}
    table = make(runs, datasets={"demo_rafdb": None}, partial=True)
    assert list(table["n_seeds"]) == [2, 2, 3, 3]
    # compared on the two seeds that both have: 7, 6 against 6, 5 of 10
    assert cell(table, "demo_rafdb", "msad", "last")["delta_vs_baseline"] == 10.0
    with pytest.raises(UserError, match="none of the runs of this table is there"):
        make(runs, seeds=[7], partial=True)


def test_latex_has_no_bare_special_character(built):
    text = to_latex(make_table(built, title="Table_50%"))
    assert text.count("\\begin{tabular}") == text.count("\\bottomrule") == len(DATASETS)
    assert "\\texttt{full} & 2 & 0.6 & 0.3 & 86.67 $\\pm$ 5.77 (n=3) &" in text
    assert "Table\\_50\\%: fake: ferplus\\_majority." in text
    assert not set("±Δ–`#") & set(text)
    heads = [line for line in text.splitlines() if line.startswith("recipe")]
    rows = [line for line in text.splitlines() if line.startswith("\\texttt{")]
    assert len({line.count("&") for line in heads + rows if "published" not in line}) == 2  # one dataset has one more


def test_missing_run_names_the_file_and_the_command(runs):
    path = runs / "demo_rafdb" / "msad" / "seed1" / "metrics.json"
    path.unlink()
    with pytest.raises(UserError, match=f"{path}: missing.*snakemake --cores all {path}"):
        make(runs, datasets={"demo_rafdb": None})
    with pytest.raises(UserError, match="seed3/metrics.json: missing"):
        make(runs, seeds=[3], datasets={"demo_rafdb": None})


def tamper(path, change):
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c.update(seed=2), "seed is 2, expected 1"),
        (lambda c: c.update(recipe="full"), "recipe is 'full', expected 'msad'"),
        (lambda c: c.update(experiment="other"), "experiment is 'other', expected 'fake'"),
        (lambda c: c.update(dataset="rafdb"), "dataset is 'rafdb', expected 'demo_rafdb'"),
        (lambda c: c.update(predictions_sha256="0" * 64), "not computed from the present predictions.parquet"),
        (lambda c: c["protocols"]["last"]["splits"]["test"].update(accuracy=0.99), "do not follow from predictions"),
        (lambda c: c["protocols"]["last"]["splits"]["test"].update(mean_class_accuracy=1), "do not follow from"),
        (lambda c: c["protocols"]["last"]["splits"]["test"].update(accuracy=float("nan")), "do not follow from"),
        (lambda c: c["protocols"]["last"]["splits"].pop("test"), "do not follow from predictions"),
        (lambda c: c.pop("protocols"), "do not follow from predictions"),
    ],
)
def test_tampered_metrics_are_refused(runs, change, message):
    path = runs / "demo_rafdb" / "msad" / "seed1" / "metrics.json"
    tamper(path, change)
    with pytest.raises(UserError, match=f"{path}.*{message}.*snakemake"):
        make(runs, datasets={"demo_rafdb": None})


def test_a_protocol_the_runs_do_not_have(built):
    with pytest.raises(UserError, match="predictions.parquet: no test faces under protocol val_selected"):
        make(built, protocols=["last", "val_selected"])


@pytest.mark.parametrize("other", [{"faces": 9}, {"labels": [0] * 7 + [1] * 3}])
def test_runs_tested_on_other_faces_are_refused(runs, other):
    write_run(runs, "demo_rafdb", "msad", 1, {"last": 5, "test_selected": 5}, **other)
    with pytest.raises(UserError, match="demo_rafdb/msad/seed1/predictions.parquet: test faces or labels of .* differ"):
        make(runs, datasets={"demo_rafdb": None})


def test_markdown_says_what_was_measured(made):
    text = to_markdown(made)
    assert text.startswith("# Table 1: fake\n")
    for words in ("over 3 seeds", "never their maximum", "paired t test", "Student's t", "- `last`: the last epoch"):
        assert words in text
    assert "- `test_selected`: the epoch with the best test accuracy" in text
    assert "`val_selected`" not in text
    assert (
        "| `full` | 2 | 0.6 | 0.3 | 86.67 ± 5.77 (n=3) | 72.32 to 100.00 | +26.67 (0.057, 0.11, 1.30) | 96.67 ± 5.77"
        in text
    )
    assert "| `baseline` | 0 | 0 | 0 | 60.00 ± 10.00 (n=3) | 35.16 to 84.84 | – |" in text
    assert "+10.00 (p undefined)" in text
    assert "+26.67 (0.015, 0.061, 2.61) |" in text
    assert "90.83 [1] |" in text
    assert "\n[1] second-hand: " in text
    assert "nan" not in text.lower()


def test_every_table_row_of_the_markdown_has_as_many_cells_as_its_head(made):
    text = to_markdown(made)
    for section in text.split("\n## ")[1:]:
        rows = [line.count("|") for line in section.splitlines() if line.startswith("|")]
        assert len(rows) == 5
        assert len(set(rows)) == 1


def test_markdown_of_one_seed_names_the_other_tests(built):
    text = to_markdown(make_table(built, seeds=[0]))
    assert "One seed (n=1)" in text
    assert "McNemar" in text
    assert "Wilson" in text
    assert "paired t" not in text
    assert "80.00 (n=1)" in text
    assert "±" not in text


def test_reported_numbers_of_the_repository():
    rows = load_reported(REPORTED)
    own = {(row.dataset, row.recipe): (row.accuracy, row.status, row.protocol) for row in rows if row.recipe}
    assert own == {
        ("rafdb", "full"): (90.91, "confirmed", "test_selected"),
        ("ferplus", "full"): (90.83, "second-hand", "test_selected"),
        ("affectnet7", "full"): (66.23, "second-hand", "test_selected"),
    }
    assert {row.method for row in rows if row.recipe} == {"TransFER"}
    assert len({(row.method, row.dataset, row.accuracy) for row in rows}) == len(rows)
    assert {row.method for row in rows if row.doubt} == {"ResEmoteNet", "PAtt-Lite", "ResEmoteNet with synthetic faces"}
    assert [row.accuracy for row in rows if row.protocol == "val_selected"] == [84.99]
    assert all(row.url.startswith("https://") for row in rows)
    assert not [row for row in rows if row.source and "notes" in row.source]


ENTRY = {
    "method": "TransFER",
    "year": 2021,
    "dataset": "rafdb",
    "recipe": "full",
    "accuracy": 90.91,
    "protocol": "test_selected",
    "paper": "arXiv:2108.11116",
    "source": "README",
    "evidence": "train.py:1",
    "status": "confirmed",
}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"source": None}, r"\d+: reported\.1\.source: confirmed without a source"),
        ({"evidence": None}, r"\d+: reported\.1\.evidence: a protocol and its evidence"),
        ({"protocol": "unknown"}, r"\d+: reported\.1\.evidence: a protocol and its evidence"),
        ({"paper": "public notes"}, r"\d+: reported\.1\.paper"),
        ({"source": "  "}, r"\d+: reported\.1\.source"),
        ({"status": "memory"}, r"\d+: reported\.1\.status.*'confirmed'.*'second-hand'"),
        ({"accuracy": 0}, r"\d+: reported\.1\.accuracy"),
        ({"dataset": "demo_rafdb"}, r"\d+: reported\.1\.dataset"),
        ({"acuracy": 1}, r"\d+: reported\.1\.acuracy: unknown key.*did you mean accuracy"),
        ({}, r"\d+: reported\.1: recipe full on rafdb is also reported\.0"),
    ],
)
def test_broken_reported_entries(tmp_path, change, message):
    path = tmp_path / "reported.yaml"
    path.write_text(yaml.safe_dump({"reported": [ENTRY, ENTRY | change]}))
    with pytest.raises(UserError, match=f"{path}:{message}") as error:
        load_reported(path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("reported: [{method: x", ".*not YAML"),
        ("method: x", " reported: missing"),
        ("", " expected a mapping"),
        ("reported: x", "1: reported: .*list"),
        ("reported: [{method: x}]", "1: reported.0.*: missing"),
    ],
)
def test_malformed_reported_file(tmp_path, text, message):
    path = tmp_path / "reported.yaml"
    path.write_text(text)
    with pytest.raises(UserError, match=f"{path}:{message}") as error:
        load_reported(path)
    assert "\n" not in str(error.value)


def test_missing_reported_file(tmp_path):
    with pytest.raises(UserError, match="reported.yaml: no such"):
        load_reported(tmp_path / "reported.yaml")
