"""Diversity of a training's maps and heads: the file, the table over seeds, the figure; and what is refused."""

import json
import shutil

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_training import tiny_dataset, tiny_params

from transfer.evaluation.predict import load_model
from transfer.explain import relevance as walk
from transfer.explain.diversity import lanet_maps, over_seeds, read_diversity, write_diversity
from transfer.tables.kinds.diversity import diversity_figure
from transfer.training.batches import FaceStore, normalize
from transfer.training.run import train
from transfer.utils.errors import UserError
from transfer.utils.files import sha256

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A layout with four short trainings, all measured."""
    layout = tiny_dataset(tmp_path_factory.mktemp("results"))
    params = tiny_params(train={"epochs": 1, "lr": 0.1})
    for recipe in params.recipes:
        for seed in params.seeds:
            train(params, "faces", recipe, seed, layout)
            write_diversity(layout, "faces", recipe, seed, params.train)
    return params, layout


@pytest.fixture
def copy_of(finished, tmp_path):
    """The same, to be damaged."""
    params, layout = finished
    shutil.copytree(layout.results, tmp_path / "results")
    return params, type(layout)(layout.experiment, tmp_path / "results")


def content(layout, recipe, seed):
    return json.loads((layout.evaluation("attention", "faces", recipe, seed) / "diversity.json").read_text())


def test_the_file_says_what_was_measured(finished):
    params, layout = finished
    found = content(layout, "full", 1)
    assert {key: found[key] for key in ("experiment", "dataset", "recipe", "seed", "split", "n")} == {
        "experiment": "tiny",
        "dataset": "faces",
        "recipe": "full",
        "seed": 1,
        "split": "test",
        "n": 10,
    }
    assert (found["num_lanets"], found["num_heads"], found["protocol"], found["epoch"]) == (2, 4, "val_selected", 1)
    assert found["weights_sha256"] == sha256(layout.run("faces", "full", 1) / "model.safetensors")
    assert len(found["code_digest"]) == 12
    assert all(len(blocks) == 2 for blocks in found["heads"].values())


def test_the_numbers_are_those_of_the_test_faces(finished):
    params, layout = finished
    model, _ = load_model(layout.run("faces", "full", 0) / "model.safetensors")
    split = pd.read_parquet(layout.data("faces") / "split.parquet")
    rows = np.sort(split.loc[split["split"] == "test", "row"].to_numpy())
    store = FaceStore(layout.data("faces") / "aligned.npy", 16, rows)
    with torch.no_grad():
        images = normalize(store.images(rows, torch.device("cpu")))
        first, second = lanet_maps(model, images).unbind(1)
        x = walk.tokens(model, images)
        attention = walk.through_block(model.blocks[0], x).attention[:, :, 0].numpy()
    ratios = [
        np.minimum(a, b).sum() / np.maximum(a, b).sum() for a, b in zip(first.numpy(), second.numpy(), strict=True)
    ]
    found = content(layout, "full", 0)
    assert found["lanets"]["overlap"] == pytest.approx(np.mean(ratios), abs=1e-6)
    pairs = [(i, j) for i in range(4) for j in range(i + 1, 4)]
    cosines = [
        [a @ b / np.linalg.norm(a) / np.linalg.norm(b) for a, b in ((face[i], face[j]) for i, j in pairs)]
        for face in attention
    ]
    assert found["heads"]["class_cosine"][0] == pytest.approx(np.mean(cosines), abs=1e-6)
    correlations = [np.mean([np.corrcoef(face[i], face[j])[0, 1] for i, j in pairs]) for face in attention]
    assert found["heads"]["class_correlation"][0] == pytest.approx(np.mean(correlations), abs=1e-5)


def test_recipes_without_two_lanets_have_no_overlap(finished):
    params, layout = finished
    assert content(layout, "baseline", 0)["lanets"] is None
    found = read_diversity(layout, "faces", params.recipes, params.seeds).set_index(["recipe", "measure", "seed"])
    assert len(found) == 2 * 7 * 2 and set(found["faces"]) == {10}
    for seed in params.seeds:
        assert np.isnan(found.loc[("baseline", "lanets_overlap", seed), "value"])
        full = content(layout, "full", seed)["lanets"]["overlap"]
        assert found.loc[("full", "lanets_overlap", seed), "value"] == pytest.approx(full)
        heads = np.mean(content(layout, "baseline", seed)["heads"]["class_cosine"])
        assert found.loc[("baseline", "heads_class_cosine", seed), "value"] == pytest.approx(heads)


def test_intervals_over_seeds_by_hand():
    # values 0.1, 0.3, 0.5: mean 0.3, std 0.2, half the width t(0.975, 2) * 0.2 / sqrt(3) = 4.302653 * 0.1154701
    found = over_seeds(np.array([0.1, 0.3, 0.5]), -1.0, 1.0)
    expected = {"mean": 0.3, "std": 0.2, "ci95_low": 0.3 - 0.496827, "ci95_high": 0.3 + 0.496827}
    assert found == pytest.approx(expected, abs=1e-5)
    assert over_seeds(np.array([0.1, 0.3, 0.5]), 0.0, 1.0)["ci95_low"] == 0
    one = over_seeds(np.array([-0.5]), -1.0, 1.0)
    assert one["mean"] == -0.5 and np.isnan([one["std"], one["ci95_low"], one["ci95_high"]]).all()
    assert np.isnan(list(over_seeds(np.array([0.5, np.nan]), 0.0, 1.0).values())).all()


def test_the_figure_draws_every_seed(finished):
    params, layout = finished
    found = read_diversity(layout, "faces", params.recipes, params.seeds)
    panels = diversity_figure(found).axes
    assert len(panels) == 4
    assert [text.get_text() for text in panels[0].get_yticklabels()][0] == "baseline"
    overlap = panels[0].lines[3 * params.recipes.index("full")].get_xdata()  # circles, mean, interval of each recipe
    values = found[(found["recipe"] == "full") & (found["measure"] == "lanets_overlap")]["value"]
    assert list(overlap) == list(values) and len(values) == len(params.seeds)


def test_a_run_that_was_not_measured(copy_of):
    params, layout = copy_of
    path = layout.evaluation("attention", "faces", "full", 1) / "diversity.json"
    path.unlink()
    with pytest.raises(UserError, match=r"full/seed1/diversity\.json: not there; make it with"):
        read_diversity(layout, "faces", params.recipes, params.seeds)


def test_measures_of_other_weights(copy_of):
    params, layout = copy_of
    env = layout.run("faces", "full", 1) / "env.json"
    env.write_text(env.read_text().replace(content(layout, "full", 1)["weights_sha256"], "0" * 64))
    with pytest.raises(UserError, match=r"full/seed1/diversity\.json: measured on other weights"):
        read_diversity(layout, "faces", params.recipes, params.seeds)
    with pytest.raises(UserError, match=r"full/seed1/model\.safetensors: not the weights that .*env\.json describes"):
        write_diversity(layout, "faces", "full", 1, params.train)


@pytest.mark.parametrize("name", ["model.safetensors", "env.json"])
def test_a_missing_file_of_the_run(copy_of, name):
    params, layout = copy_of
    (layout.run("faces", "full", 0) / name).unlink()
    with pytest.raises(UserError, match=rf"full/seed0/{name}: missing; expected .* snakemake") as caught:
        write_diversity(layout, "faces", "full", 0, params.train)
    assert "\n" not in str(caught.value)


def test_damaged_files(copy_of):
    params, layout = copy_of
    weights = layout.run("faces", "full", 0) / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-100])
    with pytest.raises(UserError, match="not the weights that"):
        write_diversity(layout, "faces", "full", 0, params.train)
    weights.write_bytes(whole)
    env = weights.parent / "env.json"
    env.write_text(env.read_text()[:200])
    with pytest.raises(UserError, match=r"env\.json: not valid JSON"):
        write_diversity(layout, "faces", "full", 0, params.train)


def test_other_test_faces_than_those_of_the_training(copy_of):
    params, layout = copy_of
    path = layout.data("faces") / "aligned.parquet"
    aligned = pd.read_parquet(path)
    first = aligned.index[aligned["split"] == "test"][0]
    aligned.loc[first, "label"] = (aligned.loc[first, "label"] + 1) % 3
    aligned.to_parquet(path, index=False)
    with pytest.raises(UserError, match="tested on other faces than those in"):
        write_diversity(layout, "faces", "full", 0, params.train)


def test_another_kind_of_network_is_refused(copy_of, monkeypatch):
    params, layout = copy_of
    monkeypatch.setattr("transfer.explain.finished.load_model", lambda path: (torch.nn.Linear(1, 1), {}))
    with pytest.raises(UserError, match="a Linear; attention is shown of TransFER models only"):
        write_diversity(layout, "faces", "full", 0, params.train)


def test_mad_and_msad_are_off(copy_of):
    """Rates of 1 in the weights' description change nothing: the measures are those of evaluation."""
    params, layout = copy_of
    weights = layout.run("faces", "full", 0) / "model.safetensors"
    from safetensors import safe_open

    with safe_open(weights, "pt") as file:
        about = json.loads(file.metadata()["transfer"])
    about["model"] |= {"mad": 1.0, "msad": 1.0}
    before = content(layout, "full", 0)
    env = weights.parent / "env.json"
    save_file(load_file(weights), weights, {"transfer": json.dumps(about)})
    env.write_text(json.dumps(json.loads(env.read_text()) | {"weights_sha256": sha256(weights)}))
    after = write_diversity(layout, "faces", "full", 0, params.train)
    assert after["lanets"] == before["lanets"] and after["heads"] == before["heads"]
