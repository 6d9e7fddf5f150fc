"""Diversity of a run's maps and heads: the measures, the file, the figure; and what is refused."""

import json
import math
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from finished_runs import params_of_two
from safetensors.torch import load_file, save_file

from transfer.evaluation.network import load_model
from transfer.explain.diversity import correlation, cosine, lanet_maps, overlap, transfer_only, write_diversity
from transfer.explain.relevance import tokens, trace
from transfer.layout import Layout
from transfer.runs.evaluations import read_diversity
from transfer.tables.kinds.diversity import diversity_figure
from transfer.training.batches import FaceStore, normalize
from transfer.utils.errors import UserError
from transfer.utils.files import sha256

pytestmark = pytest.mark.usefixtures("one_thread")
PARAMS = params_of_two()


@pytest.fixture(scope="module")
def measured(finished, tmp_path_factory):
    """All runs, measured; only to be read."""
    results = shutil.copytree(finished.results, tmp_path_factory.mktemp("measured") / "results")
    layout = Layout("tiny", results)
    for recipe in PARAMS.recipes:
        for seed in PARAMS.seeds:
            write_diversity(PARAMS, layout, "faces", recipe, seed)
    return layout


@pytest.fixture
def layout(measured, tmp_path):
    """A copy of ``measured`` that a test may change."""
    shutil.copytree(measured.results, tmp_path / "results", ignore=shutil.ignore_patterns("chain"))
    return Layout("tiny", tmp_path / "results")


def content(layout, recipe, seed):
    return json.loads((layout.evaluation("attention", "faces", recipe, seed) / "diversity.json").read_text())


def test_the_file_says_what_was_measured(measured):
    layout = measured
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


def test_the_numbers_are_those_of_the_test_faces(measured):
    layout = measured
    model, _ = load_model(layout.run("faces", "full", 0) / "model.safetensors")
    split = pd.read_parquet(layout.data("faces") / "split.parquet")
    rows = np.sort(split.loc[split["split"] == "test", "row"].to_numpy())
    store = FaceStore(layout.data("faces") / "aligned.npy", 16, rows)
    with torch.no_grad():
        images = normalize(store.images(rows, torch.device("cpu")))
        first, second = lanet_maps(model, images).unbind(1)
        x = tokens(model, images)
        attention = trace(model.blocks[0], x).attention[:, :, 0].numpy()
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


def test_recipes_without_two_lanets_have_no_overlap(measured):
    layout = measured
    assert content(layout, "baseline", 0)["lanets"] is None
    found = read_diversity(layout, "faces", PARAMS.recipes, PARAMS.seeds).set_index(["recipe", "measure", "seed"])
    assert len(found) == 2 * 7 * 2 and set(found["faces"]) == {10}
    for seed in PARAMS.seeds:
        assert np.isnan(found.loc[("baseline", "lanets_overlap", seed), "value"])
        full = content(layout, "full", seed)["lanets"]["overlap"]
        assert found.loc[("full", "lanets_overlap", seed), "value"] == pytest.approx(full)
        heads = np.mean(content(layout, "baseline", seed)["heads"]["class_cosine"])
        assert found.loc[("baseline", "heads_class_cosine", seed), "value"] == pytest.approx(heads)


def test_the_figure_draws_every_seed(measured):
    layout = measured
    found = read_diversity(layout, "faces", PARAMS.recipes, PARAMS.seeds)
    panels = diversity_figure(found).axes
    assert len(panels) == 4
    assert [text.get_text() for text in panels[0].get_yticklabels()][0] == "baseline"
    overlap = panels[0].lines[3 * PARAMS.recipes.index("full")].get_xdata()  # circles, mean, interval of each recipe
    values = found[(found["recipe"] == "full") & (found["measure"] == "lanets_overlap")]["value"]
    assert list(overlap) == list(values) and len(values) == len(PARAMS.seeds)


def test_a_run_that_was_not_measured(layout):
    path = layout.evaluation("attention", "faces", "full", 1) / "diversity.json"
    path.unlink()
    with pytest.raises(UserError, match=r"full/seed1/diversity\.json: missing; expected"):
        read_diversity(layout, "faces", PARAMS.recipes, PARAMS.seeds)


def test_measures_of_other_weights(layout):
    env = layout.run("faces", "full", 1) / "env.json"
    env.write_text(env.read_text().replace(content(layout, "full", 1)["weights_sha256"], "0" * 64))
    with pytest.raises(UserError, match=r"full/seed1/diversity\.json: of other weights than those of"):
        read_diversity(layout, "faces", PARAMS.recipes, PARAMS.seeds)
    with pytest.raises(UserError, match=r"full/seed1/model\.safetensors: not the weights that .*env\.json describes"):
        write_diversity(PARAMS, layout, "faces", "full", 1)


@pytest.mark.parametrize("name", ["model.safetensors", "env.json", "predictions.parquet"])
def test_a_missing_file_of_the_run(layout, name):
    (layout.run("faces", "full", 0) / name).unlink()
    with pytest.raises(UserError, match=rf"full/seed0/{name}: missing; .*run") as caught:
        write_diversity(PARAMS, layout, "faces", "full", 0)
    assert "\n" not in str(caught.value)


def test_damaged_files(layout):
    weights = layout.run("faces", "full", 0) / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-100])
    with pytest.raises(UserError, match="not the weights that"):
        write_diversity(PARAMS, layout, "faces", "full", 0)
    weights.write_bytes(whole)
    env = weights.parent / "env.json"
    env.write_text(env.read_text()[:200])
    with pytest.raises(UserError, match=r"env\.json: not valid JSON"):
        write_diversity(PARAMS, layout, "faces", "full", 0)


def test_other_test_faces_than_those_of_the_training(layout):
    path = layout.data("faces") / "aligned.parquet"
    aligned = pd.read_parquet(path)
    first = aligned.index[aligned["split"] == "test"][0]
    aligned.loc[first, "label"] = (aligned.loc[first, "label"] + 1) % 3
    aligned.to_parquet(path, index=False)
    with pytest.raises(UserError, match="tested on other faces than those in"):
        write_diversity(PARAMS, layout, "faces", "full", 0)


def test_another_kind_of_network_is_refused():
    with pytest.raises(UserError, match="w: a Linear; attention is shown of TransFER models only"):
        transfer_only(torch.nn.Linear(1, 1), Path("w"))


def test_mad_and_msad_are_off(layout):
    """Rates of 1 in the weights' description change nothing: the measures are those of evaluation."""
    weights = layout.run("faces", "full", 0) / "model.safetensors"
    from safetensors import safe_open

    with safe_open(weights, "pt") as file:
        about = json.loads(file.metadata()["transfer"])
    about["model"]["args"] |= {"mad": 1.0, "msad": 1.0}
    before = content(layout, "full", 0)
    env = weights.parent / "env.json"
    save_file(load_file(weights), weights, {"transfer": json.dumps(about)})
    env.write_text(json.dumps(json.loads(env.read_text()) | {"weights_sha256": sha256(weights)}))
    after = write_diversity(PARAMS, layout, "faces", "full", 0)
    assert after["lanets"] == before["lanets"] and after["heads"] == before["heads"]


# --- how alike maps are, by hand ---


def maps(*values):
    """One face's maps of 2 x 2 cells."""
    return torch.tensor(values).reshape(1, len(values), 2, 2)


def test_overlap_of_two_maps():
    assert overlap(maps([1.0, 0.5, 0.0, 0.0], [0.5, 0.5, 1.0, 0.0])).item() == pytest.approx(1.0 / 2.5)
    assert overlap(maps([1.0, 0.0, 0.0, 0.0], [0.0, 1.0, 0.0, 0.0])).item() == 0
    assert overlap(maps([0.2, 0.4, 0.1, 0.9], [0.2, 0.4, 0.1, 0.9])).item() == 1
    assert overlap(maps([0.5] * 4, [1.0] * 4)).item() == 0.5, "it sees how high maps are"
    assert overlap(maps([0.0] * 4, [0.0] * 4)).item() == 1


def test_overlap_is_the_mean_over_all_pairs():
    one, other, third = [1.0, 0, 0, 0], [1.0, 1, 0, 0], [0.0, 0, 1, 0]
    assert overlap(maps(one, other, third)).item() == pytest.approx((1 / 2 + 0 + 0) / 3)
    assert overlap(maps(third, one, other)).item() == pytest.approx((1 / 2 + 0 + 0) / 3)


def test_cosine_of_vectors():
    vectors = torch.tensor([[[3.0, 4.0], [4.0, 3.0]], [[1.0, 0.0], [0.0, 5.0]], [[0.0, 0.0], [1.0, 2.0]]])
    assert cosine(vectors).tolist() == pytest.approx([24 / 25, 0, 0])
    three = torch.tensor([[[1.0, 0.0], [1.0, 1.0], [0.0, 1.0]]])
    assert cosine(three).item() == pytest.approx((math.sqrt(0.5) + 0 + math.sqrt(0.5)) / 3)


def test_correlation_sees_places_and_not_heights():
    rising = [0.1, 0.2, 0.3, 0.4]
    assert correlation(maps(rising, [0.5, 0.7, 0.9, 1.1])).item() == pytest.approx(1)
    assert correlation(maps(rising, rising[::-1])).item() == pytest.approx(-1)
    assert correlation(maps(rising, [0.7] * 4)).item() == pytest.approx(0, abs=1e-6), "a flat map"
    assert correlation(maps([1.0, 0, 0, 0], [0.0, 1, 0, 0])).item() == pytest.approx(-1 / 3)


def test_every_face_for_itself():
    torch.manual_seed(0)
    faces = torch.rand(5, 4, 3, 3)
    for measure in (overlap, correlation, lambda found: cosine(found.flatten(2))):
        together = measure(faces)
        assert together.shape == (5,)
        for i in range(5):
            assert torch.allclose(measure(faces[i : i + 1]), together[i : i + 1])
