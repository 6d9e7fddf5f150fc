"""The network: the contract's numbers, the shapes of Figure 2, and the fast paths against the plain ones."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import timm
import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

import transfer  # noqa: F401
from transfer.models.ir50 import PReLU
from transfer.models.vit import attend

NAMES = ("transfer_base", "transfer_small", "transfer_tiny")


def parameters(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


@pytest.fixture(scope="module")
def base():
    return timm.create_model("transfer_base", num_classes=7).eval()


def test_base_has_the_published_size(base):
    """facts of the released model: 65,217,869 parameters, of them 17,611,968 in the stem and 4,163 a LANet."""
    assert parameters(base) == 65_217_869
    assert parameters(base.stem) == 17_611_968
    assert parameters(base.local_cnns.lanets[0]) == 4_163
    assert parameters(base.proj) == 197_376
    assert parameters(base.blocks[0]) == 5_905_152
    assert parameters(base.head) == 5_383


def test_base_needs_the_published_macs(base):
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        base(torch.zeros(1, 3, 112, 112))
    assert counter.get_total_flops() / 2 / 1e9 == pytest.approx(15.28, abs=0.005)


def test_base_shapes_of_figure_2(base):
    x = torch.randn(2, 3, 112, 112)
    with torch.no_grad():
        features = base.stem(x)
        assert features.shape == (2, 256, 14, 14)
        assert base.local_cnns.attention_maps(features).shape == (2, 2, 14, 14)
        tokens = base.forward_features(x)
        assert tokens.shape == (2, 197, 768)
        assert base.forward_head(tokens, pre_logits=True).shape == (2, 768)
        assert base(x).shape == (2, 7)


def test_the_head_starts_at_zero(base):
    with torch.no_grad():
        assert (base(torch.randn(1, 3, 112, 112)) == 0).all()


@pytest.mark.parametrize("order", ["import transfer, timm", "import timm, transfer", "import timm.layers, transfer"])
def test_registered_in_any_order_of_imports(order):
    code = f"{order}\nimport timm\nassert set({NAMES}) <= set(timm.list_models('transfer_*'))"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_importing_the_package_alone_is_light():
    code = "import sys, transfer, transfer.params.read\nassert not {'torch', 'timm', 'mlflow'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("name", NAMES[1:])
@pytest.mark.parametrize("mode", ["head", "token"])
def test_every_registered_model_trains(name, mode):
    torch.manual_seed(0)
    model = timm.create_model(name, num_classes=5, img_size=32, mad=0.5, msad=0.5, msad_mode=mode)
    x, y = torch.randn(4, 3, 32, 32), torch.tensor([0, 1, 2, 3])
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(2):  # the head's zeros hide everything before it from the first gradient
        nn.functional.cross_entropy(model(x), y).backward()
        missing = [n for n, p in model.named_parameters() if p.grad is None]
        assert not missing
        optimizer.step()
    assert model.get_classifier().out_features == 5
    model.reset_classifier(3)
    assert model(x).shape == (4, 3)


@pytest.mark.parametrize(("stages", "cells"), [(1, 1024), (2, 256), (3, 64), (4, 16)])
def test_stem_stages_set_the_grid(stages, cells):
    model = timm.create_model("transfer_tiny", img_size=64, stem_stages=stages)
    assert model.pos_embed.shape[1] == 1 + cells
    assert model(torch.randn(1, 3, 64, 64)).shape == (1, 7)


@pytest.mark.parametrize("lanets", [0, 1, 2, 5])
def test_num_lanets(lanets):
    model = timm.create_model("transfer_tiny", img_size=32, num_lanets=lanets)
    found = [n for n, _ in model.named_parameters() if n.startswith("local_cnns")]
    assert bool(found) == bool(lanets)
    assert model(torch.randn(1, 3, 32, 32)).shape == (1, 7)


def test_recipes_of_one_seed_start_from_the_same_weights():
    states = []
    for lanets in (0, 2):
        torch.manual_seed(3)
        states.append(timm.create_model("transfer_tiny", img_size=32, num_lanets=lanets).state_dict())
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])
    assert len(states[1]) > len(states[0])


@pytest.mark.parametrize(
    ("keywords", "said"),
    [
        ({"mad": 0.5, "num_lanets": 1}, "num_lanets >= 2"),
        ({"mad": 0.5, "num_lanets": 0}, "num_lanets >= 2"),
        ({"mad": 1.5}, "probabilities"),
        ({"msad": -0.1}, "probabilities"),
        ({"msad_mode": "heads"}, "msad_mode"),
        ({"img_size": 100}, "multiple of 8"),
        ({"stem_stages": 5}, "stem_stages"),
        ({"pretrained": True}, "no model comes with"),
    ],
)
def test_contradictory_keywords_are_refused(keywords, said):
    with pytest.raises(ValueError, match=said):
        timm.create_model("transfer_tiny", **keywords)


def test_evaluation_ignores_the_drop_rates():
    x = torch.randn(2, 3, 32, 32)
    outputs = []
    for rates in ({}, {"mad": 1.0, "msad": 1.0}, {"msad": 1.0, "msad_mode": "token"}):
        torch.manual_seed(0)
        model = timm.create_model("transfer_tiny", img_size=32, **rates).eval()
        nn.init.normal_(model.head.weight)
        outputs.append(model(x))
    assert torch.equal(outputs[0], outputs[1]) or torch.allclose(outputs[0], outputs[1])


def test_one_sample_does_not_depend_on_its_batch():
    torch.manual_seed(0)
    model = timm.create_model("transfer_tiny", img_size=32).eval()
    nn.init.normal_(model.head.weight)
    x = torch.randn(6, 3, 32, 32)
    torch.testing.assert_close(model(x)[2:3], model(x[2:3]), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_fast_prelu_is_prelu(dtype):
    torch.manual_seed(0)
    fast, plain = PReLU(6), nn.PReLU(6)
    with torch.no_grad():
        fast.weight.copy_(torch.tensor([-0.5, 0.0, 0.25, 1.0, 1.5, 0.1]))
        plain.load_state_dict(fast.state_dict())
    fast, plain = fast.to(dtype), plain.to(dtype)
    inputs = [torch.randn(3, 6, 5, 4, dtype=dtype).to(memory_format=torch.channels_last) for _ in range(1)] * 2
    inputs = [x.clone().requires_grad_() for x in inputs]
    with torch.no_grad():
        for x in inputs:
            x[0, :, 0, 0] = 0
    gradient = torch.randn_like(inputs[0])
    outputs = [layer(x) for layer, x in zip((fast, plain), inputs, strict=True)]
    for out in outputs:
        out.backward(gradient)
    tolerance = {"rtol": 2e-2, "atol": 2e-2} if dtype == torch.bfloat16 else {}
    torch.testing.assert_close(outputs[0], outputs[1], **tolerance)
    torch.testing.assert_close(inputs[0].grad, inputs[1].grad, **tolerance)
    torch.testing.assert_close(fast.weight.grad, plain.weight.grad, **tolerance)
    if dtype == torch.float64:
        x = inputs[0].detach().requires_grad_()
        assert torch.autograd.gradcheck(fast, (x + 0.01).detach().requires_grad_())


def test_attention_for_training_on_cpus_is_fused_attention():
    torch.manual_seed(0)
    q, k, v = (torch.randn(2, 3, 9, 4, dtype=torch.float64, requires_grad=True) for _ in range(3))
    plain = attend(q, k, v)
    with torch.no_grad():
        fused = attend(q, k, v)
    torch.testing.assert_close(plain, fused)


def test_evaluation_uses_fused_attention():
    model = timm.create_model("transfer_tiny", img_size=32, msad=0.5).eval()
    with torch.no_grad(), torch.profiler.profile() as profile, sdpa_kernel(SDPBackend.FLASH_ATTENTION):
        model(torch.randn(2, 3, 32, 32))
    assert any("flash_attention" in event.key for event in profile.key_averages())


@pytest.mark.parametrize("first", ["import transfer.models.imported_first", "import transfer, timm"])
def test_a_model_in_a_module_that_imports_timm_is_registered(first, tmp_path):
    """As docs/adding-a-model.md has it; the module is found by lying in the folder."""
    package = shutil.copytree(Path(transfer.__file__).parent, tmp_path / "transfer")
    (package / "models/imported_first.py").write_text(
        "from timm.models.resnet import BasicBlock, ResNet\nfrom transfer.models.registry import register\n\n"
        "@register\ndef small_resnet(num_classes=7, **unused):\n"
        "    return ResNet(BasicBlock, [1, 1, 1, 1], num_classes=num_classes)\n"
    )
    code = (
        f"{first}\nimport timm\nfrom transfer.models.registry import model_function\n"
        "assert timm.create_model('small_resnet', num_classes=3).fc.out_features == 3\n"
        "assert model_function('small_resnet')(num_classes=3).fc.out_features == 3\n"
        "assert timm.is_model('transfer_base')"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=tmp_path, env={**os.environ, "PYTHONPATH": ""})
