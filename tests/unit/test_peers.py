"""The peers: their authors' numbers of parameters, operations, and the shapes that losses count on."""

import json
import shutil
from pathlib import Path

import pytest
import timm
import torch
import yaml
from tiny_training import tiny_dataset, tiny_params
from weight_files import ir50_shapes, random_tensors, write_torch

import transfer  # noqa: F401
from transfer.losses.registry import check_losses
from transfer.models.apvit import keep, pooling_block
from transfer.models.registry import check_models, create_model, input_of, size_of
from transfer.models.transfer import transfer_tiny
from transfer.models.weights.importers import convert
from transfer.params import ModelParams
from transfer.training import run

# Those at 224, 64 and 112 are the authors' modules (docs/faithfulness.md).
SIZES = [
    ("resnet18", {"stem": "7x7"}, 224, 7, 11_180_103, 1.814),
    ("resnet18", {}, 48, 8, 11_172_936, 0.542),
    ("dan", {"stem": "7x7"}, 224, 7, 19_723_733, 2.225),
    ("rul", {"stem": "7x7"}, 224, 7, 14_388_615, 1.817),
    ("vgg13", {}, 64, 8, 8_757_704, 0.876),
    ("apvit", {}, 112, 7, 65_209_543, 12.647),
    ("ir50", {}, 112, 7, 17_611_968 + 13_115_392 + 512 * 7 + 7, 6.284),
    ("dcs", {}, 112, 7, 40_700_039, 8.118),
    ("timm/resnet18", {}, 224, 1000, 11_689_512, 1.814),
]


@pytest.mark.parametrize(("name", "args", "side", "classes", "parameters", "gmacs"), SIZES)
def test_sizes(name, args, side, classes, parameters, gmacs):
    found = size_of(ModelParams(name=name, args=args, img_size=side), classes)
    assert found["parameters"] == parameters and found["macs"] / 1e9 == pytest.approx(gmacs, abs=0.005)
    assert found["pretrained"] == "no"


@pytest.mark.parametrize("name", ["resnet18", "dan", "rul"])
def test_the_last_map_at_48_pixels_is_6x6(name):
    model = create_model(ModelParams(name=name, img_size=48), 8).eval()
    assert model.forward_features(torch.zeros(2, 3, 48, 48)).shape == (2, 512, 6, 6)
    assert model(torch.zeros(2, 3, 48, 48)).shape == (2, 8)
    half = create_model(ModelParams(name=name, args={"width": 32}, img_size=48), 8).eval()
    assert half.forward_features(torch.zeros(2, 3, 48, 48)).shape == (2, 256, 6, 6)
    assert half(torch.zeros(2, 3, 48, 48)).shape == (2, 8)


def test_ours_do_not_replace_those_of_timm():
    assert type(timm.create_model("vgg13", num_classes=3)).__module__ == "timm.models.vgg"
    assert type(create_model(ModelParams(name="vgg13"), 3)).__module__ == "transfer.models.vgg13"
    assert type(timm.create_model("dan", num_classes=3)).__module__ == "transfer.models.dan"


def test_the_input_is_the_models_own_unless_said_otherwise():
    own = input_of(ModelParams(name="timm/vit_tiny_patch16_224"))
    assert own == {"img_size": 224, "mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)}
    assert input_of(ModelParams(name="vgg13"))["img_size"] == 64
    assert input_of(ModelParams(name="transfer_base"))["img_size"] == 112
    said = input_of(ModelParams(name="timm/vit_tiny_patch16_224", img_size=48, mean=[0.0, 0.0, 0.0]))
    assert said == {"img_size": 48, "mean": (0.0, 0.0, 0.0), "std": (0.5, 0.5, 0.5)}
    assert input_of(ModelParams(name="timm/convnext_atto"))["mean"] == pytest.approx((0.485, 0.456, 0.406))


def test_keep_takes_the_highest_in_their_order():
    tokens = torch.arange(5.0)[None, :, None]
    assert keep(tokens, torch.tensor([[5.0, 1.0, 4.0, 2.0, 3.0]]), 0.6).flatten().tolist() == [0, 2, 4]
    assert keep(tokens, torch.tensor([[5.0, 1.0, 4.0, 2.0, 3.0]]), 0.1).flatten().tolist() == [0], "at least one"


def test_apvit_that_keeps_all_is_transfer_without_its_modules():
    theirs = transfer_tiny(img_size=32, num_lanets=0).eval()
    torch.nn.init.normal_(theirs.head.weight)
    sizes = {"stem_widths": [32, 32, 64, 128], "stem_units": [1, 1, 2, 1], "embed_dim": 96, "depth": 2, "num_heads": 4}
    args = {"keep_cells": 1.0, "keep_tokens": 1.0, **sizes}
    ours = create_model(ModelParams(name="apvit", img_size=32, args=args), 7).eval()
    ours.load_state_dict(theirs.state_dict())
    images = torch.randn(2, 3, 32, 32)
    assert torch.allclose(ours(images), theirs(images), atol=1e-5)
    x = torch.randn(2, 17, 96)
    assert pooling_block(ours.blocks[1], x, 0.5).shape == (2, 1 + 8, 96)


@pytest.mark.parametrize("recipe", ["eac", "dan", "dcs"])
def test_the_peers_of_one_pretrained_stem_train(recipe, tmp_path, stem_weights):
    """params/peers.yaml at its smallest: random faces of 32 pixels, made-up weights in the form of the real ones."""
    written = yaml.safe_load((Path(__file__).parents[2] / "params/peers.yaml").read_text())
    params = tiny_params(
        train={"epochs": 1, "lr": 0.001, "batch_size": 16},
        model={"name": "transfer_base", "img_size": 32, "pretrained": ["ir50_ms1m"]},
        recipe_definitions={recipe: written["recipe_definitions"][recipe]},
        recipes=[recipe],
        baseline=recipe,
        protocols=["last"],
        sampling={"upsample": "full"},
    )
    check_models(params)
    check_losses(params)
    layout = tiny_dataset(tmp_path)
    layout.weights("ir50_ms1m").parent.mkdir()
    shutil.copy(stem_weights, layout.weights("ir50_ms1m"))
    layout.chain.note([layout.weights("ir50_ms1m")], [])
    run.train(params, "faces", recipe, 0, layout)
    env = json.loads((layout.run("faces", recipe, 0) / "env.json").read_text())
    assert set(env["pretrained_sha256"]) == {"ir50_ms1m"}


@pytest.fixture(scope="module")
def stem_weights(tmp_path_factory):
    folder = tmp_path_factory.mktemp("weights")
    file = write_torch(folder / "made_up.pth", random_tensors(ir50_shapes()))
    convert(file, "face_evolve_ir50", folder / "ir50_ms1m.safetensors")
    return folder / "ir50_ms1m.safetensors"
