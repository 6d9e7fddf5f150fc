"""Each kind of table from four short runs: its numbers are those of the runs; what does not belong is refused."""

import json
import shutil
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from tiny_training import CLASSES, tiny_dataset, tiny_params

from transfer.evaluation.robustness import evaluate_robustness
from transfer.explain.diversity import write_diversity
from transfer.params.tables import KINDS as EVERY
from transfer.runs.metrics import evaluate
from transfer.runs.predictions import probabilities_of, read_predictions
from transfer.tables import build, kinds
from transfer.tables.build import write_figure
from transfer.training.run import train
from transfer.utils.errors import UserError

pytestmark = pytest.mark.usefixtures("one_thread")

KINDS = ("recipes", "protocols", "reported", "per_class", "calibration", "robustness", "diversity")


def of_tables(*kinds, lr=0.1):
    """Parameters with a table of each kind, named as it is."""
    changes = {"faces": {"size": 32}, "robustness": {"corruptions": {"blur": [0.05]}}, "tables": []}
    definitions = {kind: {"kind": kind} for kind in kinds}
    return tiny_params(train={"epochs": 2, "lr": lr}, table_definitions=definitions, **changes)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    layout = tiny_dataset(tmp_path_factory.mktemp("kinds") / "results")
    aligned = pd.read_parquet(layout.data("faces") / "aligned.parquet").assign(status="found")
    aligned.to_parquet(layout.data("faces") / "aligned.parquet", index=False)
    report = {
        "counts": {"images": 40, "found": 39},
        "policies": {"landmarks": "mtcnn", "template": "arcface", "size": 32, "margin": 0},
        "evaluation": {"sha256": "0" * 64, "source_sha256": "1" * 64},
    }
    (layout.data("faces") / "faces.json").write_text(json.dumps(report))
    params = of_tables(*KINDS)
    for dataset, recipe, seed in params.runs():
        train(params, dataset, recipe, seed, layout)
        identity = {"experiment": params.experiment, "dataset": dataset, "recipe": recipe, "seed": seed}
        evaluate(layout.run(dataset, recipe, seed), **identity)
        evaluate_robustness(params, layout, dataset, recipe, seed)
        write_diversity(params, layout, dataset, recipe, seed)
    return params, layout


@pytest.fixture
def tables(finished, tmp_path):
    params, layout = finished
    shutil.copytree(layout.results, tmp_path / "results", ignore=shutil.ignore_patterns("chain"))
    return params, type(layout)(layout.experiment, tmp_path / "results")


def frame(tables, kind):
    params, layout = tables
    build.write_table(params, layout, kind)
    return pd.read_csv(layout.table(kind, "csv"))


def of_runs(tables, recipe, protocol, number):
    """What ``number`` says of the test faces of a recipe's runs."""
    params, layout = tables
    found = []
    for seed in params.seeds:
        rows = read_predictions(layout.run("faces", recipe, seed) / "predictions.parquet")
        rows = rows[(rows["split"] == "test") & (rows["protocol"] == protocol)]
        found.append(number(probabilities_of(rows), rows["label"].to_numpy()))
    return found


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_writes_all_of_its_files(tables, kind):
    params, layout = tables
    found = frame(tables, kind)
    measured = found[found["reported"].isna()] if kind == "reported" else found
    assert (measured["n_seeds"] == len(params.seeds)).all()
    assert set(measured["n_faces"]) == ({3, 4} if kind == "per_class" else {10})
    assert set(measured["protocol"]) <= set(params.protocols)
    text = layout.table(kind, "md").read_text()
    assert "MTCNN found a face in 97.5% of 40 images" in text and "nan" not in text.lower().replace("finance", "")
    assert layout.table(kind, "tex").read_text().count("\\begin{table}") == text.count("\n## ")
    assert "<table>" in layout.report(kind).read_text()
    if kinds.get(kind).figure:
        paths = write_figure(params, layout, kind, "faces")
        assert [path.name for path in paths] == [f"{kind}_faces.{suffix}" for suffix in ("png", "svg", "json")]
        caption = json.loads(paths[2].read_text())
        assert caption["n_seeds"] == len(params.seeds) and "10 test faces" in caption["caption"]


def test_what_the_choice_of_the_epoch_flatters(tables):
    found = frame(tables, "protocols").set_index(["recipe", "protocol"])
    for recipe in tables[0].recipes:
        at = {name: found.loc[(recipe, name)] for name in ("last", "val_selected", "test_selected")}
        gain = np.mean(of_runs(tables, recipe, "test_selected", hits)) - np.mean(of_runs(tables, recipe, "last", hits))
        assert at["test_selected"]["gain_over_last"] == pytest.approx(10 * gain, abs=0.006)
        assert np.isnan(at["last"]["gain_over_last"])


def hits(probabilities, labels):
    return (probabilities.argmax(axis=1) == labels).sum()


def test_recall_and_precision_by_hand(tables):
    found = frame(tables, "per_class").set_index(["recipe", "protocol", "expression"])
    for index, name in enumerate(CLASSES):
        row = found.loc[("full", "last", name)]

        def recall(probabilities, labels, index=index):
            return (probabilities.argmax(axis=1) == labels)[labels == index].mean()

        values = of_runs(tables, "full", "last", recall)
        assert row["recall"] == pytest.approx(100 * np.mean(values), abs=0.006)
        assert row["recall_std"] == pytest.approx(100 * np.std(values, ddof=1), abs=0.006)
    faces = found["n_faces"].xs("full", level="recipe").xs("last", level="protocol")
    assert list(faces) == [4, 3, 3]


def test_calibration_of_the_runs(tables):
    row = frame(tables, "calibration").set_index(["recipe", "protocol"]).loc[("full", "val_selected")]

    def nll(probabilities, labels):
        return -np.log(probabilities[np.arange(len(labels)), labels]).mean()

    assert row["nll"] == pytest.approx(np.mean(of_runs(tables, "full", "val_selected", nll)), abs=1e-4)
    assert row["nll_ci95_low"] <= row["nll"] <= row["nll_ci95_high"]


def test_clean_faces_are_those_of_the_runs(tables):
    found = frame(tables, "robustness").set_index(["recipe", "corruption"])
    for recipe in tables[0].recipes:
        clean = np.mean(of_runs(tables, recipe, "val_selected", hits))
        assert found.loc[(recipe, "none"), "accuracy"] == pytest.approx(10 * clean, abs=0.006)
        blurred = found.loc[(recipe, "blur")]
        assert blurred["drop"] == pytest.approx(blurred["clean_accuracy"] - blurred["accuracy"], abs=0.011)
        assert (blurred["severity"], set(found["protocol"])) == (0.05, {"val_selected"})


def test_a_training_of_other_parameters_is_refused(tables):
    _, layout = tables
    other = of_tables(*KINDS, lr=0.2)
    with pytest.raises(UserError, match=r"seed0: trained with train\.lr 0\.1, but the parameters say 0\.2; run:"):
        build.write_table(other, layout, "recipes")
    assert not layout.table("recipes", "csv").exists()


def test_evaluations_of_other_weights_are_refused(tables):
    params, layout = tables
    env = layout.run("faces", "full", 1) / "env.json"
    env.write_text(env.read_text().replace('"weights_sha256": "', '"weights_sha256": "0'))
    for kind in ("robustness", "diversity"):
        with pytest.raises(UserError, match="other weights"):
            build.write_table(params, layout, kind)


def test_a_partial_table_says_so_everywhere(tables):
    params, layout = tables
    shutil.rmtree(layout.run("faces", "full", 1))
    with pytest.raises(UserError, match=r"full/seed1/metrics\.json: missing"):
        build.write_table(params, layout, "recipes")
    build.write_table(params, layout, "recipes", partial=True)
    text = layout.table("recipes", "md").read_text()
    assert "(partial)\n" in text.splitlines(keepends=True)[0]
    assert "**Partial: 1 of 4 runs are missing** (faces full seed1)." in text
    found = pd.read_csv(layout.table("recipes", "csv"))
    assert set(found["missing_runs"]) == {1} and list(found["n_seeds"]) == [2, 2, 2, 1, 1, 1]


def test_cross_needs_a_second_dataset(tables):
    _, layout = tables
    crossed = of_tables("cross")
    with pytest.raises(UserError, match="table cross: needs two datasets, found only faces"):
        build.write_table(crossed, layout, "cross")


def test_a_kind_without_a_figure(tables):
    with pytest.raises(UserError, match="tables of kind protocols have no figure"):
        write_figure(*tables, "protocols", "faces")


def test_the_workflow_learns_inputs_without_large_packages():
    code = f"import sys; from transfer.tables import kinds; list(map(kinds.get, {EVERY})); print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert "transfer.tables.kinds.recipes" in loaded
    assert not {"pandas", "numpy", "scipy", "matplotlib", "torch", "pyarrow"} & set(loaded)


def test_kinds_are_those_that_the_parameters_allow():
    assert all(isinstance(kinds.get(name), kinds.Kind) for name in EVERY)


def test_weights_of_training_faces_beside_votes(tables):
    """Four faces and two seeds by hand; a recipe whose loss weighs no faces has no rows."""
    _, layout = tables
    index = layout.data("faces") / "index.parquet"
    listed = pd.read_parquet(index)
    faces = listed[listed["class_name"] == "happy"]["sample"][:4].tolist()
    for name in CLASSES:
        listed[f"vote_{name}"] = 1
    given = {"happy": (10, 8, 6, 3), "sad": (0, 2, 4, 3), "neutral": (0, 0, 0, 4)}
    for name, column in given.items():
        listed.loc[listed["sample"].isin(faces), f"vote_{name}"] = column
    listed.to_parquet(index)
    for seed, weights in enumerate(([0.9, 0.7, 0.5, 0.3], [0.9, 0.5, 0.7, 0.3])):
        state = {"sample": [*faces, "face099"], "weights": [*weights, np.nan], "relabelled": [-1, -1, -1, 2, -1]}
        pd.DataFrame(state).to_parquet(layout.run("faces", "full", seed) / "loss.parquet", index=False)
    found = frame((of_tables("sample_weights"), layout), "sample_weights").set_index("agreement")
    assert (found["recipe"] == "full").all() and (found["n_seeds"] == 2).all()
    assert found["n_faces"].to_dict() == {"all": 4, "up to 0.6": 2, "0.6 to 0.8": 1, "above 0.8": 1}
    assert found["weight"].tolist() == pytest.approx([0.6, 0.45, 0.6, 0.9])
    assert found["relabelled"].tolist() == [25, 50, 0, 0]
    assert found.loc["all", ["with_share", "with_entropy"]].tolist() == pytest.approx([0.9, -0.9])
    assert found.loc["all", "with_share_std"] == pytest.approx(0.1414) and found["with_share"].notna().sum() == 1
    text = layout.table("sample_weights", "md").read_text()
    assert "0.450 ± 0.071 (n=2)" in text and "0.900 ± 0.141" in text
