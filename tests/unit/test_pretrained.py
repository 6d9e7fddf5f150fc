"""A training that begins with weights of others, and the evaluation of any weight file."""

import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_training import tiny_dataset, tiny_params
from weight_files import authors_logits, paddle_shapes, random_tensors, write_paddle, write_torch

from transfer.evaluation.predict import evaluate_weights
from transfer.layout import Layout
from transfer.models.transfer import transfer_tiny
from transfer.models.weights.importers import CLASSES
from transfer.params import TrainParams
from transfer.params import read as config
from transfer.runs.predictions import probabilities_of, read_predictions
from transfer.training import run
from transfer.training.batches import FaceStore, evaluation_batches
from transfer.training.run import fit, train
from transfer.utils.errors import UserError
from transfer.utils.files import sha256

ROOT = Path(__file__).parents[2]
NAME = "vit_small_p16_224"
# A rate at which nothing moves, so that a training ends with what it began with; batch norm's statistics do.
PARAMS = {"train": {"epochs": 2, "lr": 1e-12, "weight_decay": 0}, "protocols": ["last"]}
GIVEN = ("cls_token", "pos_embed", "blocks.", "norm.")


def tiny_weights(layout, seed=9):
    """Weights for the tiny model as if imported: the ViT of another seed, at a larger grid."""
    torch.manual_seed(seed)
    model = transfer_tiny(num_classes=3, img_size=32)
    tensors = {name: value for name, value in model.state_dict().items() if name.startswith(GIVEN)}
    path = layout.weights(NAME)
    path.parent.mkdir(exist_ok=True)
    save_file(tensors, path, {"transfer": json.dumps({"fills": GIVEN})})
    return tensors


@pytest.fixture
def layout(tmp_path):
    return tiny_dataset(tmp_path)


def with_weights(**changes):
    return tiny_params(**(PARAMS | changes), model={"pretrained": [NAME]})


# --- training ---


def test_a_training_begins_with_the_weights_and_the_seed_draws_the_rest(layout, capsys):
    given = tiny_weights(layout)
    train(with_weights(), "faces", "full", 0, layout)
    folder = layout.run("faces", "full", 0)
    began = load_file(folder / "model.safetensors")
    assert "loaded 26: blocks, cls_token, norm, pos_embed, 1 resized from 4x4 to 2x2" in capsys.readouterr().err
    train(tiny_params(**PARAMS), "faces", "full", 0, layout)
    fresh = load_file(folder / "model.safetensors")
    for name, value in began.items():
        if "running" in name or "num_batches" in name:
            continue
        expected = given[name] if name.startswith(GIVEN) and name != "pos_embed" else fresh[name]
        if name != "pos_embed":
            assert torch.allclose(value, expected, atol=1e-6), name
    assert torch.allclose(began["pos_embed"][:, 0], given["pos_embed"][:, 0], atol=1e-6)


def test_the_digest_of_the_weights_is_noted(layout):
    from safetensors import safe_open

    tiny_weights(layout)
    train(with_weights(), "faces", "full", 0, layout)
    folder, digest = layout.run("faces", "full", 0), {NAME: sha256(layout.weights(NAME))}
    assert json.loads((folder / "env.json").read_text())["pretrained_sha256"] == digest
    with safe_open(folder / "model.safetensors", "pt") as file:
        assert json.loads(file.metadata()["transfer"])["pretrained_sha256"] == digest


def interrupted(layout, monkeypatch):
    """Two epochs, cut off in the second."""
    train_epoch = run.train_epoch

    def stopping(*arguments):
        if arguments[3].epoch == 1:
            raise KeyboardInterrupt
        return train_epoch(*arguments)

    monkeypatch.setattr(run, "train_epoch", stopping)
    with pytest.raises(KeyboardInterrupt):
        train(with_weights(), "faces", "full", 0, layout)
    monkeypatch.setattr(run, "train_epoch", train_epoch)


def test_a_training_that_goes_on_does_not_load_them_again(layout, monkeypatch):
    tiny_weights(layout)
    interrupted(layout, monkeypatch)

    def load(*_):
        raise AssertionError("loaded twice")

    monkeypatch.setattr(run, "load_pretrained", load)
    train(with_weights(), "faces", "full", 0, layout)
    assert len(pd.read_csv(layout.run("faces", "full", 0) / "history.csv")) == 2


def test_other_weights_are_another_run(layout, monkeypatch, capsys):
    tiny_weights(layout)
    interrupted(layout, monkeypatch)
    tiny_weights(layout, seed=10)
    train(with_weights(), "faces", "full", 0, layout)
    assert "resume state of another run (other pretrained weights)" in capsys.readouterr().err


def test_weights_that_are_not_there(layout):
    with pytest.raises(UserError, match=rf"{NAME}\.safetensors: missing; make it with transfer weights {NAME}"):
        fit(with_weights(), "faces", "full", 0, layout)


# --- any weight file on a dataset ---


@pytest.fixture(scope="module")
def authors(tmp_path_factory):
    """A weight file of the authors' kind, RAF-DB's classes, and a dataset of few faces of that many classes."""
    folder = tmp_path_factory.mktemp("authors")
    arrays = random_tensors(paddle_shapes(), seed=4)
    layout = tiny_dataset(folder / "results", side=112)
    return arrays, write_paddle(folder / "authors.pdiparams", arrays), layout


def test_the_authors_logits_on_a_dataset(authors):
    arrays, file, layout = authors
    content = evaluate_weights(file, layout, "faces", CLASSES, TrainParams(device="cpu"))
    folder = layout.root / "weights" / f"authors-{sha256(file)[:8]}" / "faces"
    predictions = read_predictions(folder / "predictions.parquet")
    split = pd.read_parquet(layout.data("faces") / "split.parquet").query("split == 'test'")
    assert predictions["sample"].tolist() == split["sample"].tolist()
    assert predictions["label"].tolist() == split["label"].tolist()
    assert set(zip(predictions["split"], predictions["protocol"], predictions["epoch"], strict=True)) == {
        ("test", "test_selected", 33)
    }
    rows = split["row"].to_numpy()
    store = FaceStore(layout.data("faces") / "aligned.npy", 112, rows)
    with torch.inference_mode():
        batches = evaluation_batches(store, rows, torch.device("cpu"))
        exact = {name: array.astype(np.float64) for name, array in arrays.items()}  # one face is ill-conditioned
        expected = torch.cat([authors_logits(exact, images.double()) for images in batches]).numpy()
    logits = predictions[[f"logit_{name}" for name in CLASSES]].to_numpy()
    assert abs(logits - expected).max() < 1e-4 * abs(expected).max()
    softmax = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    assert np.allclose(probabilities_of(predictions), softmax, atol=1e-6)
    metrics = json.loads((folder / "metrics.json").read_text())
    assert metrics == json.loads(json.dumps(content))
    test = metrics["protocols"]["test_selected"]["splits"]["test"]
    assert test["n"] == len(rows)
    assert test["accuracy"] == pytest.approx((logits.argmax(axis=1) == split["label"]).mean())
    assert metrics["weights"] == "authors.pdiparams" and metrics["weights_sha256"] == sha256(file)
    assert metrics["predictions_sha256"] == sha256(folder / "predictions.parquet")


def test_a_run_s_own_weights(layout):
    params = tiny_params(train={"epochs": 1, "lr": 0.1, "hflip_tta": True})
    train(params, "faces", "full", 0, layout)
    weights = layout.run("faces", "full", 0) / "model.safetensors"
    evaluate_weights(weights, layout, "faces", ["happy", "sad", "neutral"], params.train)
    own = read_predictions(weights.parent / "predictions.parquet").query(
        "split == 'test' and protocol == 'val_selected'"
    )
    folder = layout.root / "weights" / f"model-{sha256(weights)[:8]}" / "faces"
    again = read_predictions(folder / "predictions.parquet")
    assert again["sample"].tolist() == own["sample"].tolist()
    assert np.allclose(probabilities_of(again), probabilities_of(own), atol=1e-5)
    assert set(again["protocol"]) == {"val_selected"}
    # Classes are matched by name: in another order, and with one that the network does not know.
    evaluate_weights(weights, layout, "faces", ["neutral", "surprise", "happy", "sad"], params.train)
    other = read_predictions(folder / "predictions.parquet")
    for name in ("happy", "sad", "neutral"):
        assert np.allclose(other[f"p_{name}"], again[f"p_{name}"], atol=1e-6)
    assert (other["p_surprise"] == 0).all() and np.isneginf(other["logit_surprise"]).all()


def test_other_classes(authors, layout):
    with pytest.raises(UserError, match=r"knows surprise, fear, .*; faces has only happy, sad, neutral"):
        evaluate_weights(authors[1], layout, "faces", ["happy", "sad", "neutral"], TrainParams())
    assert not (layout.root / "weights").exists()


def test_no_aligned_faces(authors, tmp_path):
    with pytest.raises(UserError, match=r"aligned.npy: missing; run: snakemake "):
        evaluate_weights(authors[1], Layout("x", tmp_path), "faces", CLASSES, TrainParams())


# --- the command line ---


@pytest.fixture
def directory(tmp_path, monkeypatch):
    (tmp_path / "params").mkdir()
    for file in ("default.yaml", "paper.yaml", "sources.yaml"):
        shutil.copy(ROOT / "params" / file, tmp_path / "params")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["weights", "ir50"],
            "ir50: no weights of params/sources.yaml (for a file, add --importer); allowed: ir50_ms1m, vit",
        ),
        (["weights", "x.pth"], "x.pth: no weights of params/sources.yaml"),
        (["weights", "x.pth", "--importer", "resnet"], "--importer resnet: unknown; allowed: face_evolve_ir50, "),
        (["weights", "x.pth", "--importer", "timm_vit_small"], "x.pth: no such file; expected a torch state dict"),
        (
            ["weights", "ir50_ms1m"],
            "data/raw/weights/backbone_ir50_ms1m_epoch120.pth is missing. Download backbone_ir",
        ),
        (["weights", "vit_small_p16_224"], "15ec54c9.pth: missing; make it with transfer fetch vit_small"),
        (["evaluate", "--dataset", "demo_rafdb"], "Missing option '--recipe', or --weights instead"),
        (["evaluate", "--dataset", "demo_rafdb", "--recipe", "full"], "Missing option '--seed', or --weights instead"),
        (["evaluate", "--dataset", "demo_rafdb", "--weights", "x.pdiparams"], "x.pdiparams: no such file"),
        (
            ["evaluate", "--dataset", "demo_rafdb", "--weights", "x.safetensors", "--seed", "0"],
            "--weights and --tool take the place of --recipe and --seed",
        ),
        (["params", "--set", "model.pretrained=[ir50]"], "command line: model.pretrained: unknown weights 'ir50'"),
        (["params", "--set", "model.pretrained=[ir50_ms1m]"], "and model.name is transfer_tiny; change one of them"),
        (["params", "--set", "model.pretrained=ir50_ms1m"], "model.pretrained: should be a valid list"),
    ],
)
def test_a_mistake_is_one_line(transfer, directory, arguments, message):
    code, out, err = transfer(*arguments)
    assert (code, out) == (1, "")
    assert err.startswith("error: ") and err.count("\n") == 1 and message in err
    assert not (directory / "results").exists()


def test_a_source_s_file_that_is_another_one(transfer, directory):
    write_torch(directory / "data/raw/weights/backbone_ir50_ms1m_epoch120.pth", {"fc.weight": np.zeros((2, 3), "f4")})
    code, out, err = transfer("weights", "ir50_ms1m")
    assert code == 1 and err.count("\n") == 1
    assert "epoch120.pth: fc.weight (2x3): a tensor that such a file does not have" in err
    assert not (directory / "results").exists()


def test_paddle_weights_by_the_command_line(transfer, directory, authors):
    code, out, err = transfer("weights", str(authors[1]), "--importer", "transfer_paddle")
    assert (code, err) == (0, "")
    assert out.splitlines()[0] == f"{authors[1]} as transfer_paddle:" and "  loaded 367: " in out
    assert sorted(path.name for path in Path("results/demo/weights").iterdir()) == [
        "authors.json",
        "authors.safetensors",
    ]


def test_the_paper_begins_with_both(directory):
    params = config.load([Path("params/paper.yaml")])
    for dataset in params.datasets:
        for recipe in params.recipes:
            assert params.run(dataset, recipe).model.pretrained == ["ir50_ms1m", NAME]


def test_a_source_s_file_with_another_checksum(transfer, directory):
    write_torch(directory / "data/raw/weights/vit_small_p16_224-15ec54c9.pth", {"x": np.zeros(3, "f4")})
    code, out, err = transfer("weights", "vit_small_p16_224")
    assert code == 1 and err.count("\n") == 1
    assert "15ec54c9.pth: sha256 is " in err and "expected 15ec54c9 (params/sources.yaml): damaged, or another" in err
    assert not (directory / "results").exists()
