"""Runs on corrupted faces: what is predicted, of which faces, and what is refused."""

import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from finished_runs import CLASSES, WHOLE, params_of_two

from transfer.evaluation import network, robustness
from transfer.evaluation.robustness import evaluate_robustness, face_seeds, on_template
from transfer.faces.align import LANDMARK_COLUMNS
from transfer.params import read as config
from transfer.runs.evaluations import accuracies, read_evaluation
from transfer.runs.predictions import class_names, probabilities_of
from transfer.utils.errors import UserError

pytestmark = pytest.mark.usefixtures("one_thread")
CHOSEN = {"corruptions": {"occlude_random": [0.5, 0.25], "occlude_nose": [0.5], "noise": [0.3], "blur": []}}
CONDITIONS = [("none", 0.0), ("occlude_random", 0.25), ("occlude_random", 0.5), ("occlude_nose", 0.5), ("noise", 0.3)]


def evaluated(layout, recipe="full", **changes):
    params = params_of_two(**{"robustness": CHOSEN} | changes)
    return evaluate_robustness(params, layout, "faces", recipe, 0)


def file_of(layout, recipe="full"):
    return layout.evaluation("robustness", "faces", recipe, 0) / "robustness.parquet"


def refused(layout, **changes):
    with pytest.raises(UserError) as caught:
        evaluated(layout, **changes)
    message = str(caught.value)
    assert "\n" not in message and not file_of(layout).exists()
    return message


def test_the_table(layout):
    table = evaluated(layout)
    assert file_of(layout) == layout.results / "tiny/evaluations/robustness/faces/full/seed0/robustness.parquet"
    fixed = ["sample", "label", "protocol", "epoch", "corruption", "severity"]
    assert table.columns.tolist() == [*fixed, *(f"p_{name}" for name in CLASSES)]
    parts = dict(list(table.groupby(["corruption", "severity"], sort=False)))
    assert list(parts) == CONDITIONS
    whole = set(table["sample"][:WHOLE])
    for (corruption, _), part in parts.items():
        expected = table["sample"][:10].tolist()
        if corruption == "occlude_nose":
            expected = [sample for sample in expected if sample not in whole]
        assert part["sample"].tolist() == expected
        assert np.allclose(probabilities_of(part).sum(axis=1), 1, atol=1e-5)
    assert set(table["protocol"]) == {"val_selected"} and set(table["epoch"]) == {1}
    assert table.attrs == {"without_landmarks": WHOLE}
    read = read_evaluation(file_of(layout), layout.run("faces", "full", 0))
    pd.testing.assert_frame_equal(read, table, check_dtype=False)
    noted = {"experiment": "tiny", "dataset": "faces", "recipe": "full", "seed": 0, "without_landmarks": WHOLE}
    assert noted.items() < read.attrs.items()


def test_clean_faces_give_the_predictions_of_the_run(layout):
    table = evaluated(layout)
    kept = pd.read_parquet(layout.run("faces", "full", 0) / "predictions.parquet")
    kept = kept.query("split == 'test' and protocol == 'val_selected'")
    clean = table[table["corruption"] == "none"]
    assert clean["sample"].tolist() == kept["sample"].tolist()
    assert clean["label"].tolist() == kept["label"].tolist()
    assert np.array_equal(probabilities_of(clean), probabilities_of(kept))
    noisy = table[table["corruption"] == "noise"]
    assert abs(probabilities_of(noisy) - probabilities_of(kept)).max() > 1e-4


def test_all_recipes_are_shown_the_same_faces(layout, monkeypatch):
    shown, made = [], robustness.corrupt

    def corrupt(images, *arguments):
        shown[-1].append(made(images, *arguments).double().sum().item())
        return made(images, *arguments)

    monkeypatch.setattr(robustness, "corrupt", corrupt)
    for recipe, seed in (("baseline", 0), ("full", 0), ("full", 1)):
        shown.append([])
        evaluated(layout, recipe, robustness=CHOSEN | {"seed": seed})
    assert shown[0] == shown[1] and len(shown[0]) == 4
    assert [one != other for one, other in zip(shown[1], shown[2], strict=True)] == [True, True, False, True]


def test_a_face_is_corrupted_by_its_own_seed_whatever_batch_it_is_in(layout, monkeypatch):
    seeds, made = {}, robustness.corrupt

    def corrupt(images, name, severity, own, points):
        seeds.setdefault((name, severity), []).extend(own)
        return made(images, name, severity, own, points)

    monkeypatch.setattr(robustness, "corrupt", corrupt)
    table = evaluated(layout)
    for condition, part in table.groupby(["corruption", "severity"]):
        if condition[0] != "none":
            assert seeds[condition] == face_seeds(0, condition[0], part["sample"])
    monkeypatch.setattr(network, "BATCH", 3)
    again = evaluated(layout)
    assert np.allclose(probabilities_of(again), probabilities_of(table), atol=1e-5)


def test_corrupted_faces_are_uint8_of_the_same_shape():
    faces = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3)).astype(np.uint8)
    assert robustness.corrupted(faces, "none", 0, [1, 2, 3], None) is faces
    made = robustness.corrupted(faces, "darker", 0.1, [1, 2, 3], None)
    assert made.dtype == np.uint8 and made.shape == faces.shape
    assert abs(made.astype(float) - faces * 0.9).max() <= 0.5001


# --- which faces have a place for eyes, nose and mouth ---


@pytest.mark.parametrize("template", ["box", "none"])
def test_without_a_template_of_landmarks_there_is_none(layout, template):
    table = evaluated(layout, faces={"size": 32, "template": template})
    assert "occlude_nose" not in set(table["corruption"]) and table.attrs["without_landmarks"] == 10


def test_a_template_of_ones_own_says_where_the_nose_is():
    points = [[0.2, 0.3], [0.8, 0.3], [0.5, 0.5], [0.3, 0.75], [0.7, 0.75]]
    faces = params_of_two(faces={"size": 40, "margin": 0.1, "template": points}).faces
    assert robustness.landmark_points(faces)[2].tolist() == [20, 20]
    assert np.allclose(robustness.landmark_points(faces)[0], [4 + 0.2 * 32, 4 + 0.3 * 32])


def test_supplied_landmarks_decide_where_they_are_missing(layout):
    data = layout.data("faces")
    index = pd.read_parquet(data / "index.parquet")
    index[LANDMARK_COLUMNS] = 1.0
    manifest = pd.read_parquet(data / "aligned.parquet").query("split == 'test'")
    index.loc[index["sample"] == manifest["sample"].iloc[4], "landmark_3_y"] = np.nan
    index.iloc[::-1].to_parquet(data / "index.parquet", index=False)
    faces = params_of_two(faces={"size": 32, "landmarks": "supplied"}).faces
    assert np.flatnonzero(~on_template(manifest, data, faces)).tolist() == [4]


# --- accuracies ---


def test_accuracies_by_hand():
    rows = [
        ("a", 0, "none", 0, 0.9),
        ("b", 0, "none", 0, 0.2),
        ("c", 1, "none", 0, 0.1),
        ("b", 0, "blur", 0.1, 0.6),
        ("c", 1, "blur", 0.1, 0.7),
        ("a", 0, "blur", 0.2, 0.4),
    ]
    frame = pd.DataFrame(rows, columns=["sample", "label", "corruption", "severity", "p_x"])
    frame["p_y"] = 1 - frame["p_x"]
    found = accuracies(frame)
    assert found.columns.tolist() == [
        "corruption", "severity", "n", "accuracy", "mean_class_accuracy", "clean_accuracy"
    ]  # fmt: skip
    assert found.to_numpy().tolist() == [
        ["none", 0, 3, pytest.approx(2 / 3), 0.75, pytest.approx(2 / 3)],
        ["blur", 0.1, 2, 0.5, 0.5, 0.5],
        ["blur", 0.2, 1, 0, 0, 1],
    ]


# --- broken input ---


@pytest.mark.parametrize("name", ["model.safetensors", "predictions.parquet", "env.json"])
def test_a_missing_file_of_the_run(layout, name):
    (layout.run("faces", "full", 0) / name).unlink()
    assert f"faces/full/seed0/{name}: missing; " in refused(layout)


@pytest.mark.parametrize("name", ["aligned.npy", "aligned.parquet", "split.parquet"])
def test_a_missing_file_of_the_dataset(layout, name):
    (layout.data("faces") / name).unlink()
    assert f"data/faces/{name}: missing; run: snakemake" in refused(layout)


def test_weights_that_were_exchanged_or_cut(layout):
    weights = layout.run("faces", "full", 0) / "model.safetensors"
    said = "model.safetensors: not the weights that"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-40])
    assert said in refused(layout)
    weights.write_bytes(whole[:-1] + b"\x01")
    assert said in refused(layout)
    shutil.copy(layout.run("faces", "baseline", 0) / "model.safetensors", weights)
    assert said in refused(layout)


def test_the_folder_of_another_run(layout):
    run = layout.run("faces", "full", 0)
    shutil.rmtree(run)
    shutil.copytree(layout.run("faces", "baseline", 0), run)
    assert "trained with model.args.num_lanets 0, but the parameters say 2" in refused(layout)
    env = json.loads((run / "env.json").read_text())
    env["params"] = params_of_two().run("faces", "full").model_dump(mode="json")
    (run / "env.json").write_text(json.dumps(env))
    assert "of the run tiny/faces/baseline/seed0; delete it and run: snakemake" in refused(layout)


def test_other_parameters_than_those_of_the_training(layout):
    assert "trained with train.lr 0.1, but the parameters say 0.2" in refused(layout, train={"lr": 0.2, "epochs": 1})
    table = evaluated(layout, train={"epochs": 1, "lr": 0.1, "hflip_tta": True, "threads": 2})
    assert len(table) == 48, "where a training runs is no part of it"


def test_an_environment_that_is_not_one(layout):
    env = layout.run("faces", "full", 0) / "env.json"
    content = json.loads(env.read_text())
    env.write_text(env.read_text()[:-30])
    assert "env.json: not valid JSON" in refused(layout)
    content["params"]["train"]["speed"] = 3
    env.write_text(json.dumps(content))
    assert "not what a run of this version writes" in refused(layout)


def edit_predictions(layout, change):
    path = layout.run("faces", "full", 0) / "predictions.parquet"
    frame = pd.read_parquet(path)
    change(frame)
    frame.to_parquet(path, index=False)


def test_predictions_of_another_network(layout):
    def exchange(frame):
        columns = [f"p_{name}" for name in CLASSES]
        frame[columns] = np.roll(frame[columns].to_numpy(), 1, axis=1)

    edit_predictions(layout, exchange)
    assert "model.safetensors gives probabilities that differ by 0." in refused(layout)


def test_predictions_of_other_faces(layout):
    edit_predictions(layout, lambda frame: frame.update({"sample": frame["sample"].replace("face003", "face999")}))
    edit_predictions(layout, lambda frame: frame.update({"label": (frame["label"] + 1) % 3}))
    assert "predictions.parquet: other test faces or labels than those of the aligned store" in refused(layout)


def test_predictions_of_other_classes(layout):
    path = layout.run("faces", "full", 0) / "predictions.parquet"
    pd.read_parquet(path).rename(columns={"p_sad": "p_bored"}).to_parquet(path, index=False)
    assert "classes are not those of predictions.parquet" in refused(layout)


def test_a_protocol_that_keeps_no_predictions_of_its_weights(layout):
    path = layout.run("faces", "full", 0) / "predictions.parquet"
    pd.read_parquet(path).query("protocol == 'test_selected'").to_parquet(path, index=False)
    assert "no predictions of protocol val_selected, whose weights are kept" in refused(layout)


def test_a_store_that_was_damaged(layout):
    store = layout.data("faces") / "aligned.npy"
    pixels = np.load(store)
    pixels[pd.read_parquet(layout.data("faces") / "split.parquet").query("split == 'test'")["row"].iloc[-1], 0, 0] ^= 1
    np.save(store, pixels)
    assert "not the face that was aligned" in refused(layout)


def test_reading(layout):
    path, run = file_of(layout), layout.run("faces", "full", 0)
    with pytest.raises(UserError, match=r"robustness.parquet: missing; run: snakemake --cores all \S+robustness"):
        read_evaluation(path, run)
    evaluated(layout)
    assert class_names(read_evaluation(path, run)) == CLASSES
    with pytest.raises(UserError, match="robustness.parquet: of other weights than those of"):
        read_evaluation(path, layout.run("faces", "baseline", 0))
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(UserError, match="robustness.parquet: not a readable parquet file"):
        read_evaluation(path, run)


def test_the_verb(layout, transfer, monkeypatch):
    monkeypatch.chdir(layout.results.parent)
    params = params_of_two(robustness=CHOSEN)
    config.snapshot(params, Path("params.yaml"))
    verb = ("robustness", "--params", "params.yaml", "--dataset", "faces", "--recipe", "full", "--seed", "0")
    code, out, err = transfer(*verb)
    assert code == 0 and file_of(layout).is_file()
    first, *lines = out.splitlines()
    assert first == "faces: 2 faces without landmarks are excluded from occlusions of eyes, nose and mouth"
    assert [line.partition(":")[0] for line in lines] == [f"{name} {severity:g}" for name, severity in CONDITIONS]
    assert all(" of 8 (" in line or "nose" not in line for line in lines)
    (layout.run("faces", "full", 0) / "env.json").unlink()
    code, out, err = transfer(*verb)
    assert (code, out) == (1, "") and err.startswith("error: ") and err.count("\n") == 1
