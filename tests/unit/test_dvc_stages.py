"""dvc.yaml: that of the embedded default is the committed one, and no code or parameter of a stage is left out."""

import pkgutil
from pathlib import Path

import pytest
import yaml

from transfer import datasets
from transfer.models.registry import modules
from transfer.params import Params, SamplingParams
from transfer.utils.code_digest import STEPS, closure
from transfer.utils.errors import UserError
from workflow.dvc.stages import CODE, PARAMETERS, TARGETS, pipeline, to_text

ROOT = Path(__file__).parents[2]
# The steps that each stage runs (transfer/utils/code_digest.py).
STEPS_OF = {
    "data": ["synthesize"],
    "align": ["index", "subsets", "detect", "align", "inspect", "hash", "duplicates", "sample"],
    "train": ["weights", "train", "evaluate"],
    "tables": ["robustness", "cross", "diversity", "attention", "table", "overview"],
    "search": ["search", "search_report"],
}
# Of no stage: what they decide changes no output that is stored.
UNVERSIONED = {"tracking", "search_storage"}


@pytest.fixture(autouse=True)
def root(monkeypatch):
    monkeypatch.chdir(ROOT)


def test_the_committed_pipeline_is_that_of_the_embedded_default():
    assert (ROOT / "dvc.yaml").read_text() == to_text([]), "run python -m workflow.dvc.stages"


@pytest.mark.parametrize("stage", TARGETS)
def test_a_stage_depends_on_all_code_that_its_steps_import(stage):
    parsers = [f"transfer.datasets.{module.name}" for module in pkgutil.iter_modules(datasets.__path__)]
    networks = modules().values()
    by_name = {"align": parsers, "train": networks, "tables": networks, "search": networks}
    imported = closure(*(module for step in STEPS_OF[stage] for module in STEPS[step]), *by_name.get(stage, []))
    files = [str(Path(*module.split("."))) for module in imported]
    listed = [path.removesuffix(".py") for path in CODE[stage]]
    assert [file for file in files if not any(f"{file}/".startswith(f"{path}/") for path in listed)] == []


def test_every_step_and_parameter_has_a_stage():
    steps = {step for steps in STEPS_OF.values() for step in steps}
    assert set(STEPS) - steps == {"audit"}, "the leak audit is not stored"
    keys = {key for keys in PARAMETERS.values() for key in keys}
    assert {key.partition(".")[0] for key in keys} == set(Params.model_fields) - UNVERSIONED
    assert {key.partition(".")[2] for key in keys if key.startswith("sampling.")} == set(SamplingParams.model_fields)


def test_parameters_of_each_stage_by_hand():
    stages = pipeline([])["stages"]
    default = {name: stage["params"][0]["params/default.yaml"] for name, stage in stages.items()}
    stages_of = {key: {name for name, keys in default.items() if key in keys} for key in ("train", "faces", "raw_dir")}
    assert stages_of == {"train": {"train", "search"}, "faces": {"align"}, "raw_dir": {"data", "align"}}
    assert {name for name, keys in default.items() if "baseline" in keys} == {"tables"}


def test_another_parameter_file(tmp_path, monkeypatch):
    raw = tmp_path / "raw"
    raw.mkdir()
    mine = tmp_path / "mine.yaml"
    mine.write_text(f"experiment: mine\nraw_dir: {raw}\ndatasets: [ferplus_dev_majority]\nsearches: []\n")
    with pytest.raises(UserError, match="ferplus"):
        pipeline([mine])
    (raw / "ferplus.tar.gz").touch()
    content = pipeline([mine])
    assert list(content["stages"]) == ["align", "train", "tables"], "nothing is drawn, and nothing searched"
    align = content["stages"]["align"]
    assert align["cmd"][0] == f"snakemake --cores all --use-conda prepare_data --configfile {mine}"
    assert str(raw / "ferplus.tar.gz") in align["deps"]
    pushed = {
        path: out.get("push", True)
        for stage in content["stages"].values()
        for item in stage["outs"]
        for path, out in item.items()
    }
    assert [path for path in pushed if not pushed[path]] == ["results/mine/data"], "faces go to no remote by themselves"
    stored = [path for stage in content["stages"].values() for out in stage["outs"] for path in out]
    assert not [path for path in stored if "ferplus" in path], "archives of real datasets are never stored"
    for stage in content["stages"].values():
        assert stage["params"][1] == {str(mine): None}, "the whole file"
        assert all(path.startswith(("results/mine/", "results/table1.")) for out in stage["outs"] for path in out)
    assert yaml.safe_load(to_text([mine])) == content
    mine.write_text(f"experiment: mine\nraw_dir: {raw}\n")
    with pytest.raises(UserError, match="raw_dir: .* lies outside of the repository"):
        pipeline([mine])


def test_artifacts_are_archives_stores_and_checkpoints():
    found = {artifact["path"] for artifact in pipeline([])["artifacts"].values()}
    archives = {"data/raw/demo_rafdb.zip", "data/raw/demo_ferplus.tar.gz", "data/raw/demo_affectnet.zip"}
    names = ("demo_rafdb", "demo_ferplus", "demo_affectnet")
    stores = {f"results/demo/data/{name}/aligned.npy" for name in names}
    assert found == archives | stores | {f"results/demo/runs/{name}" for name in names}
