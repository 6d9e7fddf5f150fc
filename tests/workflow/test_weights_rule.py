"""A run that begins with third-party weights: imported once, and again when they change."""

import json
import shutil
import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parents[1] / "unit"))

pytestmark = pytest.mark.workflow

RUN = "results/weights/runs/demo_rafdb/full/seed0"
TARGET = f"{RUN}/metrics.json"
FILES = ("backbone_ir50_ms1m_epoch120.pth", "vit_small_p16_224-15ec54c9.pth")
PARAMS = """\
experiment: weights
datasets: [demo_rafdb]
recipes: [full]
baseline: full
seeds: [0]
tracking: false
protocols: [last]
sampling: {upsample: none}
model: {name: transfer_base, img_size: 32, pretrained: [ir50_ms1m, vit_small_p16_224]}
train: {epochs: 1, batch_size: 16, lr: 0.001, warmup_epochs: 0}
dataset_definitions:
  demo_rafdb: {synthetic_scale: 0.05}
"""


@pytest.fixture
def repository(fresh):
    """A bare checkout with a small experiment of the large model, and no weights yet."""
    (fresh.root / "weights.yaml").write_text(PARAMS)
    fresh.replace("params/sources.yaml", "        sha256_prefix: 15ec54c9\n", "")  # that of the real file
    fresh.options = ("--configfile", "weights.yaml")
    return fresh


@pytest.fixture(scope="session")
def files(tmp_path_factory):
    """Random files like the real ones; only made where a test needs them."""
    from weight_files import ir50_shapes, random_tensors, vit_shapes, write_torch

    folder = tmp_path_factory.mktemp("weights")
    for name, shapes in zip(FILES, (ir50_shapes(), vit_shapes()), strict=True):
        write_torch(folder / name, random_tensors(shapes))
    return folder


def test_weights_are_imported_once_and_again_when_they_change(repository, files):
    root = repository.root
    # What has to be asked for is missed before any job, in one line; what may be downloaded is a job.
    done = repository.snakemake(TARGET)
    (error,) = [line for line in done.stdout.splitlines() if line.startswith("error: ")]
    assert done.returncode == 1 and f"data/raw/weights/{FILES[0]} is missing. Download {FILES[0]} from " in error
    assert "Traceback" not in done.stdout and not (root / "results").exists()
    shutil.copytree(files, root / "data/raw/weights")
    (root / "data/raw/weights" / FILES[1]).unlink()
    jobs = repository.scheduled(TARGET)
    assert (jobs["fetch_source"], jobs["import_weights"], jobs["train_model"]) == (1, 2, 1)
    shutil.copy(files / FILES[1], root / "data/raw/weights")

    done = repository.snakemake(TARGET)
    assert done.returncode == 0, done.stdout
    noted = json.loads((root / RUN / "env.json").read_text())["pretrained_sha256"]
    reports = {name: json.loads((root / f"results/weights/weights/{name}.json").read_text()) for name in noted}
    assert noted == {name: report["sha256"] for name, report in reports.items()} and len(noted) == 2
    log = (root / "results/weights/logs/train_model/demo_rafdb/full/seed0.log").read_text()
    assert "pretrained weights ir50_ms1m, vit_small_p16_224:" in log
    assert "1 resized from 14x14 to 4x4" in log and "missing" in log and "(starts fresh)" in log
    assert "loaded 337: stem" in (root / "results/weights/logs/import_weights/ir50_ms1m.log").read_text()
    assert repository.scheduled(TARGET) == {}

    # What runs again: the training alone, or the import of the file that changed and the training.
    below = {"train_model": 1, "evaluate_run": 1}
    fresh_stem = "model={pretrained: [vit_small_p16_224]}"
    assert repository.scheduled(TARGET, "--config", fresh_stem) == below
    for module, imports in (("load.py", 2), ("importers.py", 2)):
        path = root / "transfer/models/weights" / module
        text = path.read_text()
        path.write_text(text + "\nCHANGED = 1\n")
        assert repository.scheduled(TARGET) == below | ({"import_weights": imports} if imports else {}), module
        path.write_text(text)
    (root / "data/raw/weights" / FILES[1]).touch()
    assert repository.scheduled(TARGET) == {}, "what the bytes say decides, not their date"

    # A file cut off is one line in the job's log, and what was made before stays.
    path = root / "data/raw/weights" / FILES[0]
    path.write_bytes(path.read_bytes()[:-1000])
    done = repository.snakemake(TARGET)
    assert done.returncode == 1 and f"{FILES[0]}: " in done.stdout and "fetch it again" in done.stdout
    assert "Traceback" not in done.stdout
    assert not (root / "results/weights/weights/ir50_ms1m.safetensors").exists()
    assert (root / TARGET).exists()
