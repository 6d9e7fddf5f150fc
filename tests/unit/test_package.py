"""What becomes of a finished run: the model that comes along, its card, ONNX, a start for other classes."""

import json

import numpy as np
import pytest
import timm
import torch
from finished_runs import CLASSES

import transfer as package
from transfer.models.registry import create_model
from transfer.models.weights import catalogue
from transfer.models.weights.importers import convert
from transfer.models.weights.load import load_pretrained
from transfer.params import ModelParams
from transfer.runs.metrics import evaluate
from transfer.utils.errors import UserError


@pytest.fixture
def run(layout):
    """A run that was evaluated."""
    run = layout.run("faces", "full", 0)
    evaluate(run, experiment="tiny", dataset="faces", recipe="full", seed=0)
    return run


@pytest.fixture
def packaged(run, tmp_path, monkeypatch, transfer):
    path = tmp_path / "package" / "ferplus.safetensors"
    monkeypatch.setattr(catalogue, "PACKAGED", path)
    code, out, err = transfer("package", str(run), "--out", str(path))
    assert (code, err) == (0, "")
    assert out.rstrip() == path.with_suffix(".md").read_text().rstrip()
    return path


def test_the_model_that_comes_along(packaged, run, finished):
    faces = np.load(finished.data("faces") / "aligned.npy")
    whole, half = package.load(run, device="cpu"), package.load(device="cpu")
    assert packaged.stat().st_size < 0.55 * (run / "model.safetensors").stat().st_size
    assert np.abs(whole.probabilities(faces) - half.probabilities(faces)).max() < 0.02
    env = json.loads((run / "env.json").read_text())
    assert half.about["run_digest"] == env["digest"] and half.about["weights_sha256"] == env["weights_sha256"]
    card = packaged.with_suffix(".md").read_text()
    metrics = json.loads((run / "metrics.json").read_text())["protocols"]["val_selected"]["splits"]["test"]
    assert f"(before halving {metrics['accuracy']:.2%})" in card and env["digest"] in card
    assert all(f"| {name} | " in card for name in CLASSES)
    assert not any(len(line) > 400 or line.endswith(" ") for line in card.splitlines())


def test_a_run_that_cannot_come_along(run, tmp_path, monkeypatch, transfer):
    out = tmp_path / "w.safetensors"
    monkeypatch.setattr("transfer.predict.package.MOST_BYTES", 1000)
    code, _, err = transfer("package", str(run), "--out", str(out))
    assert code == 1 and "bytes in half precision; at most 1,000" in err and err.count("\n") == 1
    monkeypatch.undo()
    monkeypatch.setattr("transfer.predict.package.MOST_LOST", -1.0)
    code, _, err = transfer("package", str(run), "--out", str(out))
    assert code == 1 and "in half precision" in err and not out.exists() and not out.with_suffix(".md").exists()
    (run / "metrics.json").unlink()
    assert "metrics.json" in transfer("package", str(run), "--out", str(out))[2]
    assert transfer("package", str(tmp_path / "none"))[2].startswith(f"error: {tmp_path / 'none'}: no such file")


def test_timm_gives_our_pretrained_model(packaged, finished):
    model = timm.create_model("transfer_tiny", pretrained=True).eval()
    ours = package.load(device="cpu")
    images = ours.images(np.load(finished.data("faces") / "aligned.npy")[:2])
    with torch.inference_mode():
        assert torch.allclose(model(images), ours.network(images), atol=1e-5)
    other = timm.create_model("transfer_tiny", pretrained=True, num_classes=5)
    assert other.head.out_features == 5 and torch.equal(other.proj.weight, model.proj.weight)
    assert timm.create_model("transfer_tiny", pretrained=True, num_classes=0)(images).ndim == 2
    with pytest.raises(ValueError, match="weights come along for transfer_tiny only"):
        timm.create_model("transfer_base", pretrained=True)


def test_a_start_for_other_classes(packaged, tmp_path):
    convert(packaged, catalogue.OWN, tmp_path / "start.safetensors")
    params = ModelParams(name="transfer_tiny", img_size=32, args=package.load().about["model"]["args"])
    model = create_model(params, 5)
    head = model.head.weight.clone()
    report = load_pretrained(model, [tmp_path / "start.safetensors"])
    assert {name.partition(".")[0] for name in report.missing} == {"head"} and torch.equal(model.head.weight, head)
    assert any(item.change.startswith("resized") for item in report.loaded), "the position embedding, to 32 pixels"
    assert torch.equal(model.proj.weight, package.load(device="cpu").network.proj.weight)


def test_what_it_fits():
    assert catalogue.problem("transfer_medium", [catalogue.OWN]) is None
    assert "ferplus fits transfer_medium" in catalogue.problem("transfer_base", [catalogue.OWN])
    if catalogue.PACKAGED.is_file():
        assert package.load(device="cpu").about["model"]["name"] in catalogue.FITS[catalogue.OWN]


def test_onnx_gives_the_same_numbers(run, transfer, tmp_path):
    import onnxruntime

    path = tmp_path / "model.onnx"
    code, out, err = transfer("export", "--model", str(run), "--onnx", str(path))
    assert (code, err) == (0, "") and "largest difference to torch" in out and "aligned.npy" in out
    model, store = package.load(run, device="cpu"), np.load(run.parents[3] / "data" / "faces" / "aligned.npy")
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    about = session.get_modelmeta().custom_metadata_map
    assert json.loads(about["classes"]) == CLASSES and about["protocol"] == "val_selected"
    assert about["run"] == "tiny/faces/full/seed0" and len(about["weights_sha256"]) == 64
    faces = np.ascontiguousarray(store[:5, ::2, ::2])
    for n in (1, 5):
        [found] = session.run(None, {"faces": faces[:n]})
        assert np.abs(found - model.probabilities(faces[:n])).max() < 0.02  # perhaps in bf16


def test_a_difference_is_refused(run, transfer, tmp_path, monkeypatch):
    monkeypatch.setattr("transfer.predict.export.MOST", 0.0)
    code, out, err = transfer("export", "--model", str(run), "--onnx", str(tmp_path / "model.onnx"))
    assert code == 1 and "differs from torch by" in err and not (tmp_path / "model.onnx").exists()
    assert transfer("export", "--model", str(run), "--onnx", "a.pt")[2].startswith("error: a.pt: expected a name")


def test_no_exporter_is_one_line(run, monkeypatch, tmp_path):
    from transfer.predict.export import export_onnx

    monkeypatch.setitem(__import__("sys").modules, "onnxruntime", None)
    with pytest.raises(UserError, match=r"export needs onnxruntime; pip install 'transfer-fer\[export\]'"):
        export_onnx(package.load(run, device="cpu"), tmp_path / "a.onnx")
