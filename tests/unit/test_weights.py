"""Third-party weights: every tensor accounted for, the authors' logits to the last digits, loaded where they belong."""

import re
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from weight_files import (
    authors_logits,
    ir50_shapes,
    paddle_shapes,
    random_tensors,
    vit_shapes,
    write_paddle,
    write_torch,
)

from transfer.datasets import registry
from transfer.evaluation.predict import load_model
from transfer.models.transfer import transfer_base, transfer_small
from transfer.models.weights import catalogue
from transfer.models.weights.importers import CLASSES, IMPORTERS, convert
from transfer.models.weights.load import load_pretrained
from transfer.utils.errors import UserError

LISTS = Path(__file__).parents[3] / "shared" / "checkpoints"


def as_torch(arrays):
    return {name: torch.from_numpy(np.asarray(value)) for name, value in arrays.items()}


@pytest.fixture(scope="module")
def tensors():
    """The content of the three files."""
    return {
        "face_evolve_ir50": random_tensors(ir50_shapes()),
        "timm_vit_small": random_tensors(vit_shapes()),
        "transfer_paddle": random_tensors(paddle_shapes()),
    }


@pytest.fixture(scope="module")
def files(tensors, tmp_path_factory):
    """The three files."""
    folder = tmp_path_factory.mktemp("raw")
    return {
        "face_evolve_ir50": write_torch(folder / "ir50.pth", tensors["face_evolve_ir50"]),
        "timm_vit_small": write_torch(folder / "vit.pth", tensors["timm_vit_small"]),
        "transfer_paddle": write_paddle(folder / "authors.pdiparams", tensors["transfer_paddle"]),
    }


@pytest.fixture(scope="module")
def imported(files, tmp_path_factory):
    """The three files, converted."""
    folder = tmp_path_factory.mktemp("imported")
    for name, file in files.items():
        convert(file, name, folder / f"{name}.safetensors")
    return {name: folder / f"{name}.safetensors" for name in files}


# --- the lists of names ---


@pytest.mark.parametrize(
    ("list_", "shapes"),
    [
        ("ir50_face_evolve.tsv", ir50_shapes()),
        ("vit_small_p16_224_timm_v0.1.tsv", vit_shapes()),
        ("transfer_paddle.tsv", paddle_shapes()),
    ],
)
def test_the_files_of_these_tests_are_like_the_real_ones(list_, shapes):
    if not (LISTS / list_).exists():
        pytest.skip("the lists of names of the real files are not here")
    rows = [line.split("\t") for line in (LISTS / list_).read_text().splitlines()[1:]]
    real = {name: tuple(map(int, shape.split("x"))) if shape != "scalar" else () for name, shape, _ in rows}
    assert real == shapes


def test_every_source_of_weights_has_an_importer():
    from transfer.sources import table as sources

    table = {name: entry for name, entry in sources.load().items() if entry.kind == "weights"}
    assert set(table) == set(catalogue.OF_SOURCE) == set(catalogue.FITS) - {catalogue.OWN}
    assert all(len(entry.files) == 1 for entry in table.values())


# --- each tensor in its place ---


def test_ir50_units_are_counted_through_the_stages(tensors):
    theirs = as_torch(tensors["face_evolve_ir50"])
    ours, report = IMPORTERS["face_evolve_ir50"][1](as_torch(tensors["face_evolve_ir50"]))
    places = {0: "0.0", 2: "0.2", 3: "1.0", 6: "1.3", 7: "2.0", 20: "2.13", 21: "3.0", 23: "3.2"}
    for unit, place in places.items():
        inside = [name for name in theirs if name.startswith(f"body.{unit}.")]
        assert inside
        for name in inside:
            target = name.replace(f"body.{unit}.", f"stem.stages.{place}.")
            assert torch.equal(ours[target], theirs[name]), target
    assert torch.equal(ours["stem.input_layer.0.weight"], theirs["input_layer.0.weight"])
    assert len(ours) == len(report.loaded) == len(theirs) - 12
    assert set(report.not_wanted) == {name for name in theirs if name.startswith("output_layer.")}
    assert {name.partition(".")[0] for name in report.missing} == {
        "cls_token", "pos_embed", "blocks", "norm", "proj", "local_cnns", "head"
    }  # fmt: skip


def test_vit_takes_no_patches_and_no_head(tensors):
    theirs = as_torch(tensors["timm_vit_small"])
    ours, report = IMPORTERS["timm_vit_small"][1](as_torch(tensors["timm_vit_small"]))
    assert set(report.not_wanted) == {f"{part}.{kind}" for part in ("patch_embed.proj", "head") for kind in
                                      ("weight", "bias")}  # fmt: skip
    assert set(ours) == set(theirs) - set(report.not_wanted)
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


@pytest.mark.parametrize(("slope", "lanets", "classes"), [("_weight", 2, 7), ("weight", 3, 8)])
def test_paddle_model_gives_the_authors_logits(tmp_path, slope, lanets, classes):
    """The reference never sees our names: a transpose forgotten, also of a square matrix, is far off."""
    arrays = random_tensors(paddle_shapes(slope, lanets, classes), seed=3)
    model, about = load_model(write_paddle(tmp_path / "x.pdiparams", arrays))
    images = torch.randn(2, 3, 112, 112, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        found, expected = model(images), authors_logits(arrays, images, lanets)
    assert (found - expected).abs().max() < 1e-4 * expected.abs().max()
    assert (expected[0] - expected[1]).abs().max() > 0.05, "the image counts"
    assert about["model"]["args"]["num_lanets"] == lanets and (about["protocol"], about["epoch"]) == (
        "test_selected",
        33,
    )
    assert len(about["classes"]) == classes and (about["classes"] == CLASSES) == (classes == 7)


def test_every_paddle_tensor_counts(tensors):
    """If a tensor of the reference is changed the logits change: none is left unread, by either side."""
    arrays = tensors["transfer_paddle"]
    ours, report = IMPORTERS["transfer_paddle"][1](as_torch(tensors["transfer_paddle"]))
    assert {item.source for item in report.loaded} == set(arrays)
    counters = [name for name in ours if name.endswith("num_batches_tracked")]
    assert set(report.missing) == set(counters) and all(ours[name] == 0 for name in counters)
    matrices = {name for name, value in arrays.items() if value.ndim == 2}
    assert {item.source for item in report.loaded if item.change == "transposed"} == matrices
    for item in report.loaded:
        value = torch.from_numpy(arrays[item.source])
        assert torch.equal(ours[item.target], value.T if value.ndim == 2 else value)


def test_the_authors_classes_are_rafdb_s():
    assert registry.get("rafdb").classes() == CLASSES


# --- what does not fit ---


def problem(importer, tensors):
    with pytest.raises(UserError) as caught:
        IMPORTERS[importer][1](tensors)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("importer", "name", "target", "ours", "theirs_shape"),
    [
        ("face_evolve_ir50", "body.9.res_layer.1.weight", "stem.stages.2.2.res_layer.1.weight", "256x256x3x3", ""),
        (
            "face_evolve_ir50",
            "body.23.res_layer.4.num_batches_tracked",
            "stem.stages.3.2.res_layer.4.num_batches_tracked",
            "one number",
            "",
        ),
        ("timm_vit_small", "cls_token", "cls_token", "1x1x768", ""),
        (
            "transfer_paddle",
            "vit.blocks.0.attn.qkv.weight",
            "blocks.0.attn.qkv.weight",
            "2304x768",
            "768x2304",
        ),
        (
            "transfer_paddle",
            "attention.las.0.bn2._variance",
            "local_cnns.lanets.0.4.running_var",
            "1",
            "",
        ),
        ("transfer_paddle", "extractor.body.4.res_layer.2._weight", "stem.stages.1.1.res_layer.2.weight", "128", ""),
    ],
)
def test_one_tensor_missing_or_of_another_shape(tensors, importer, name, target, ours, theirs_shape):
    theirs = as_torch(tensors[importer])
    changed = {key: value for key, value in theirs.items() if key != name}
    assert problem(importer, changed) == f"no tensor for {target} ({ours}), and for 0 more; fetch it again"
    wrong = torch.zeros(*theirs[name].shape, 5)
    found = "x".join(map(str, wrong.shape))
    message = problem(importer, theirs | {name: wrong})
    assert message == f"{name}: expected shape {theirs_shape or ours}, found {found}"


def test_several_missing_are_counted(tensors):
    theirs = {name: value for name, value in as_torch(tensors["timm_vit_small"]).items() if "blocks.7." not in name}
    assert "no tensor for blocks.7.norm1.weight (768), and for 10 more" in problem("timm_vit_small", theirs)


def test_a_paddle_matrix_that_is_stored_as_in_torch(tensors):
    name = "vit.blocks.3.mlp.fc1.weight"
    theirs = as_torch(tensors["transfer_paddle"])
    assert problem("transfer_paddle", theirs | {name: theirs[name].T}) == (
        f"{name}: expected shape 768x2304, found 2304x768"
    )


@pytest.mark.parametrize(
    ("importer", "name"),
    [
        ("face_evolve_ir50", "body.24.res_layer.0.weight"),
        ("face_evolve_ir50", "module.output_layer.0.weight"),
        ("timm_vit_small", "blocks.0.attn.qkv.bias"),
        ("timm_vit_small", "blocks.8.norm1.weight"),
        ("transfer_paddle", "extractor.body.21.res_layer.0.weight"),
    ],
)
def test_a_tensor_that_nothing_explains(tensors, importer, name):
    theirs = as_torch(tensors[importer]) | {name: torch.zeros(64)}
    assert problem(importer, theirs) == f"{name} (64): a tensor that such a file does not have"


def test_a_prelu_by_both_names(tensors):
    theirs = as_torch(tensors["transfer_paddle"])
    twice = theirs | {"extractor.input_layer.2.weight": theirs["extractor.input_layer.2._weight"]}
    assert problem("transfer_paddle", twice).startswith("extractor.input_layer.2.weight (64): a tensor that ")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_numbers_that_are_not_finite(tensors, value):
    theirs = as_torch(tensors["timm_vit_small"])
    broken = theirs["norm.bias"].clone()
    broken[3] = value
    assert problem("timm_vit_small", theirs | {"norm.bias": broken}) == (
        "norm.bias: 1 of 768 numbers are NaN or infinite; fetch it again"
    )
    assert "expected floating point numbers" in problem("timm_vit_small", theirs | {"norm.bias": broken.int()})
    too_large = theirs["norm.bias"].double() * 1e300
    assert "768 of 768 numbers" in problem("timm_vit_small", theirs | {"norm.bias": too_large})


def test_a_file_that_does_not_fit_leaves_nothing(files, tmp_path):
    with pytest.raises(UserError, match=rf"^{re.escape(str(files['timm_vit_small']))}: "):
        convert(files["timm_vit_small"], "face_evolve_ir50", tmp_path / "out" / "x.safetensors")
    assert not list(tmp_path.iterdir())


# --- converted once ---


def test_converted_files_are_the_same_every_time_and_say_where_they_come_from(files, imported, tmp_path):
    import json

    from transfer.utils.files import sha256

    again = tmp_path / "timm_vit_small.safetensors"
    report = convert(files["timm_vit_small"], "timm_vit_small", again)
    assert again.read_bytes() == imported["timm_vit_small"].read_bytes()
    content = json.loads(again.with_suffix(".json").read_text())
    assert content["source_sha256"] == sha256(files["timm_vit_small"]) and content["sha256"] == sha256(again)
    assert (content["importer"], content["source"]) == ("timm_vit_small", "vit.pth")
    assert [item["target"] for item in content["loaded"]] == [item.target for item in report.loaded]
    assert content["not_wanted"]["head.bias"] == "the 1,000 classes of ImageNet"
    with safe_open(again, "pt") as file:
        about = json.loads(file.metadata()["transfer"])
    assert about["source_sha256"] == content["source_sha256"] and about["code_digest"] == content["code_digest"]
    assert report.to_text().splitlines()[0] == "  loaded 92: cls_token, pos_embed, blocks, norm"
    assert "  not wanted 2: head (the 1,000 classes of ImageNet)" in report.to_text().splitlines()


# --- into the model ---


def model_of_seed(seed=5, **keywords):
    torch.manual_seed(seed)
    return transfer_base(**keywords)


def zero_model(**keywords):
    """A model without the seconds that its start values take."""
    with torch.device("meta"):
        model = transfer_base(**keywords)
    model.to_empty(device="cpu")
    model.load_state_dict({name: torch.zeros(()).expand(value.shape) for name, value in model.state_dict().items()})
    return model


def test_both_files_and_the_fresh_parts_of_the_seed(imported):
    model, fresh = model_of_seed(), model_of_seed().state_dict()
    report = load_pretrained(model, [imported["face_evolve_ir50"], imported["timm_vit_small"]])
    state = model.state_dict()
    given = load_file(imported["face_evolve_ir50"]) | load_file(imported["timm_vit_small"])
    parts = ("proj.", "local_cnns.", "head.")
    for name, value in state.items():
        assert torch.equal(value, fresh[name] if name.startswith(parts) else given[name]), name
    assert set(report.missing) == {name for name in state if name.startswith(parts)}
    assert set(report.not_wanted) == {name for name in given if name.startswith("stem.stages.3.")}
    assert set(report.not_wanted.values()) == {"the model's stem has 3 stages"}
    assert len(report.loaded) + len(report.missing) == len(state)
    assert not any(item.change for item in report.loaded)


def test_without_local_cnns_the_other_parts_are_the_same(imported):
    states = []
    for lanets in (0, 2):
        model = model_of_seed(num_lanets=lanets)
        load_pretrained(model, [imported["face_evolve_ir50"], imported["timm_vit_small"]])
        states.append(model.state_dict())
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    assert not torch.equal(model_of_seed(6).proj.weight, states[0]["proj.weight"])


def test_one_file_alone(imported):
    model = zero_model()
    report = load_pretrained(model, [imported["timm_vit_small"]])
    assert model.norm.weight.all() and not model.stem.input_layer[0].weight.any()
    assert {name.partition(".")[0] for name in report.missing} == {"stem", "proj", "local_cnns", "head"}


@pytest.mark.parametrize(
    ("keywords", "cells"), [({"stem_stages": 2}, 28), ({"stem_stages": 4}, 7), ({"img_size": 64}, 8)]
)
def test_the_position_embedding_follows_the_grid(imported, keywords, cells):
    model = zero_model(**keywords)
    report = load_pretrained(model, [imported["face_evolve_ir50"], imported["timm_vit_small"]])
    given = load_file(imported["timm_vit_small"])["pos_embed"]
    assert model.pos_embed.shape == (1, 1 + cells**2, 768)
    assert torch.equal(model.pos_embed[:, :1], given[:, :1]), "the class token's stays"
    # Bilinear by hand: cell i of the new grid lies at (i + 0.5) * 14 / cells - 0.5 of the old one.
    place = ((np.arange(cells) + 0.5) * 14 / cells - 0.5).clip(0)
    low = np.floor(place).astype(int)
    high, part = np.minimum(low + 1, 13), torch.from_numpy(place - low).float()[:, None]
    grid = given[0, 1:].reshape(14, 14, 768)
    rows = grid[low] * (1 - part[..., None]) + grid[high] * part[..., None]
    both = rows[:, low] * (1 - part) + rows[:, high] * part
    assert torch.allclose(model.pos_embed[0, 1:].reshape(cells, cells, 768), both, atol=1e-5)
    change = next(item.change for item in report.loaded if item.target == "pos_embed")
    assert change == f"resized from 14x14 to {cells}x{cells}"
    if keywords.get("stem_stages") == 4:
        assert not report.not_wanted


def test_a_whole_model_goes_on_from_the_authors(imported):
    model = zero_model()
    report = load_pretrained(model, [imported["transfer_paddle"]])
    assert not report.missing and not report.not_wanted
    baseline = zero_model(num_lanets=0)
    report = load_pretrained(baseline, [imported["transfer_paddle"]])
    assert set(report.not_wanted.values()) == {"the model has no Local CNNs"}


@pytest.mark.parametrize(
    ("keywords", "said"),
    [
        (
            {"num_classes": 8},
            "head.bias: the model's shape is 8, the file's 7; these weights are for another model or other ",
        ),
        ({"num_lanets": 3}, "local_cnns.lanets.2.0.weight (16x256x1x1) missing, and 13 more"),
        ({"num_lanets": 1}, "local_cnns.lanets.1.0.bias: a tensor that the model does not have"),
        ({"depth": 6}, "blocks.6.attn.proj.bias: a tensor that the model does not have"),
        ({"stem_stages": 4}, "local_cnns.lanets.0.0.bias: the model's shape is 32, the file's 16"),
    ],
)
def test_a_whole_model_into_another_one(imported, keywords, said):
    model = zero_model(**keywords)
    with pytest.raises(UserError, match=re.escape(said)):
        load_pretrained(model, [imported["transfer_paddle"]])
    assert not any(value.any() for value in model.state_dict().values()), "nothing is changed"


def test_a_model_of_another_width(imported):
    for name in ("timm_vit_small", "face_evolve_ir50"):
        with pytest.raises(UserError, match=r"the model's shape is .* these weights are for another model or other cl"):
            load_pretrained(transfer_small(), [imported[name]])


# --- known before any job ---


@pytest.mark.parametrize(
    ("keywords", "said"),
    [
        ({"pretrained": []}, None),
        ({"model": "transfer_base", "pretrained": ["ir50_ms1m", "vit_small_p16_224"]}, None),
        ({"model": "transfer_base", "pretrained": ["ir50"]}, "unknown weights 'ir50'; allowed: ir50_ms1m, "),
        (
            {"model": "transfer_small", "pretrained": ["ir50_ms1m"]},
            "ir50_ms1m fits transfer_base or apvit or ir50 or dan_ir50, and model.name is tr",
        ),
        (
            {"model": "transfer_base", "pretrained": ["ir50_ms1m", "transfer_paddle"]},
            "ir50_ms1m and transfer_paddle set",
        ),
        ({"model": "transfer_base", "pretrained": ["ir50_ms1m", "ir50_ms1m"]}, "ir50_ms1m and ir50_ms1m set the same"),
    ],
)
def test_a_choice_that_cannot_be(keywords, said):
    found = catalogue.problem(**{"model": "transfer_base", "pretrained": []} | keywords)
    assert found is None if said is None else found.startswith(said)


# --- timm ---


def test_timm_loads_an_imported_model(imported, tensors):
    import transfer  # noqa: F401

    model = timm.create_model("transfer_base", num_classes=7, checkpoint_path=str(imported["transfer_paddle"])).eval()
    images = torch.randn(1, 3, 112, 112)
    with torch.inference_mode():
        expected = authors_logits(tensors["transfer_paddle"], images)
        assert torch.allclose(model(images), expected, atol=1e-4)
    with pytest.raises(ValueError, match="no model comes with|weights come along for"):
        timm.create_model("transfer_base", pretrained=True)
