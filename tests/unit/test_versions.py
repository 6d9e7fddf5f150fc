"""Which jobs an edit of code or parameters puts out of date: exactly these, and no other."""

import shutil
from collections import Counter
from itertools import product
from pathlib import Path
from types import SimpleNamespace

import pytest

from transfer.params import read
from transfer.utils.code_digest import STEPS, Package
from workflow.inputs import Inputs
from workflow.versions import Versions

ROOT = Path(__file__).parents[2]
SMALLEST = ROOT / "tests/workflow/smallest.yaml"
# Per rule: the datasets, or dataset x recipe, ..., of tests/workflow/smallest.yaml.
DATASETS, RUNS = 3, 6


@pytest.fixture(autouse=True)
def in_root(monkeypatch):
    monkeypatch.chdir(ROOT)


def load(*values):
    return read.load([SMALLEST], values)


def jobs(params, code=None):
    """The version of every job of an experiment, by rule and wildcards."""
    archives = {name: params.dataset_definitions[name].archive for name in params.datasets}
    versions = Versions(params, archives, code) if code else Versions(params, archives)
    wildcards = {
        **dict.fromkeys(
            ("index", "subsets", "detect", "align", "inspect", "hash", "duplicates", "sample"),
            [{"dataset": dataset} for dataset in params.datasets],
        ),
        **dict.fromkeys(
            ("train", "evaluate", "robustness", "diversity"),
            [{"dataset": dataset, "recipe": recipe} for dataset, recipe in product(params.datasets, params.recipes)],
        ),
        "cross": [{"dataset": params.datasets[0], "recipe": "full", "test_dataset": params.datasets[1]}],
        "search": [{"dataset": params.datasets[0], "search": "searched"}],
        "search_report": [{"search": "searched"}],
        "table": [{"table": "table1"}, {"table": "protocols"}],
        "figure": [{"table": "table1", "dataset": params.datasets[0]}],
        **dict.fromkeys(("synthesize", "audit", "attention", "overview", "leaderboard"), [{}]),
    }
    return {
        (rule, *job.values()): getattr(versions, rule, lambda _, rule=rule: versions.of(rule))(SimpleNamespace(**job))
        for rule, listed in wildcards.items()
        for job in listed
    }


def out_of_date(before, after):
    """Jobs whose version changed, counted by rule; jobs of only one side do not count."""
    return Counter(job[0] for job in before if job in after and before[job] != after[job])


@pytest.fixture(scope="module")
def current():
    return jobs(read.load([SMALLEST]))


def test_versions_repeat_themselves(current):
    assert jobs(load()) == current


MODEL = {"train": RUNS, "robustness": RUNS, "diversity": RUNS, "cross": 1, "search": 1, "attention": 1}


@pytest.mark.parametrize(
    ("file", "old", "new", "expected"),
    [
        ("models/lanet.py", '"""', '"""In other words: ', {}),
        ("models/lanet.py", "import torch", "# a comment\nimport torch", {}),
        ("models/lanet.py", "import torch", "CHANGED = 1\nimport torch", MODEL),
        ("tables/kinds/recipes.py", "from collections", "CHANGED = 1\nfrom collections", {"table": 1, "figure": 1}),
        ("tables/kinds/protocols.py", "from collections", "CHANGED = 1\nfrom collections", {"table": 1}),
        ("tables/text.py", "import", "CHANGED = 1\nimport", {"table": 2, "figure": 1, "leaderboard": 1}),
        ("faces/quality.py", "import", "CHANGED = 1\nimport", {"inspect": DATASETS}),
        ("cli/__init__.py", "import", "CHANGED = 1\nimport", {}),
        ("tracking/live.py", "import", "CHANGED = 1\nimport", {}),
        ("params/read.py", "import", "CHANGED = 1\nimport", {}),
        ("datasets/rafdb.py", "import", "CHANGED = 1\nimport", {"index": DATASETS, "synthesize": 1}),
    ],
)
def test_an_edit_of_code_puts_exactly_its_steps_out_of_date(tmp_path, current, file, old, new, expected):
    root = shutil.copytree(ROOT / "transfer", tmp_path / "transfer", ignore=shutil.ignore_patterns("__pycache__"))
    head, found, tail = (root / file).read_text().partition(f"\n{old}" if old != '"""' else old)
    assert found
    (root / file).write_text(f"{head}{found.replace(old, new)}{tail}")
    package = Package(root)
    edited = jobs(load(), lambda step, *modules: package.digest(*STEPS[step], *modules))
    assert out_of_date(current, edited) == expected


FACES = {"align": DATASETS, "inspect": DATASETS}
ONE_TRAINING = {"train": RUNS, "search": 1, "search_report": 1}
EDITS = {
    "seeds=[0,1,2]": {"table": 2, "figure": 1, "leaderboard": 1},
    "recipes=[baseline,msad,full]": {"table": 2, "figure": 1, "search_report": 1, "attention": 1, "leaderboard": 1},
    "train={device: cpu, threads: 2}": {"search_report": 1},
    "tracking=false": {},
    "faces={threads: 2}": {},
    "train={lr: 0.01}": ONE_TRAINING,
    "protocols=[last]": {"train": RUNS, "table": 2, "figure": 1, "leaderboard": 1},
    "dataset_definitions={demo_affectnet: {model: {args: {mad: 0.3}}}}": {"train": 1, "search_report": 1},
    "recipe_definitions={full: {msad: false}}": {"train": 3, "search": 1, "search_report": 1},
    "sampling={upsample: sqrt}": {"search": 1, "search_report": 1},  # the run has another plan as its input
    "sampling={val_fraction: 0.2}": {"sample": DATASETS, "search_report": 1},
    "sampling={split_seed: 1}": {"sample": DATASETS, "search_report": 1},
    "sampling={duplicates: drop_near}": {"sample": DATASETS, "search_report": 1},
    "faces={no_face: drop}": FACES,
    "faces={margin: 0.1}": FACES,
    "faces={border: 0.1}": {"detect": DATASETS},
    "dataset_definitions={demo_rafdb: {faces: {template: box}}}": {"align": 1, "inspect": 1},
    "dataset_definitions={demo_rafdb: {faces: {landmarks: supplied}}}": {"align": 1, "inspect": 1},
    "dataset_definitions={demo_rafdb: {expect: official}}": {"index": 1},
    "dataset_definitions={demo_ferplus: {options: {rule: argmax}}}": {"index": 1, "subsets": 1},
    "robustness={seed: 3}": {"robustness": RUNS},
    "search_definitions={searched: {trials: 9}}": {"search": 1},
    "search_definitions={searched: {workers: 9}}": {},
    "table_definitions={table1: {title: Mine}}": {"table": 1, "figure": 1},
    "baseline=full": {"table": 2},
}


@pytest.mark.parametrize(("value", "expected"), EDITS.items(), ids=EDITS)
def test_an_edit_of_parameters_puts_exactly_its_steps_out_of_date(current, value, expected):
    assert out_of_date(current, jobs(load(value))) == expected


def test_what_a_job_reads_follows_the_parameters():
    job = SimpleNamespace(dataset="demo_rafdb", recipe="full", table="table1", search="searched")
    inputs = Inputs(load())
    data = "results/smallest/data/demo_rafdb"
    assert inputs.plan_of(job) == f"{data}/plan_none.npy"
    assert Inputs(load("sampling.upsample=sqrt")).plan_of(job) == f"{data}/plan_sqrt.npy"
    assert inputs.copies_of(job) == [] and inputs.subsets_of(job) == []
    assert Inputs(load("sampling.duplicates=drop_near")).copies_of(job) == [f"{data}/duplicates.parquet"]
    assert len(inputs.table_inputs(job)["metrics"]) == 3 * 2 * 2
    assert len(Inputs(load("seeds=[0, 1, 2]")).table_inputs(job)["metrics"]) == 3 * 2 * 3
    assert inputs.table_inputs(job)["repository"] == ["params/reported.yaml"]
    assert len(inputs.search_workers_of(job)) == 3 * 2
    assert inputs.archive_of(job) == ["data/raw/demo_rafdb.zip"]
    assert "results/table1.csv" in inputs.targets()
    assert "results/smallest/runs/demo_rafdb/full/seed0/metrics.json" in inputs.targets()


def test_a_synthetic_archive_does_not_depend_on_the_name_of_its_dataset():
    inputs = Inputs(load())
    assert inputs.synthetic["demo_rafdb.zip"] == "demo_rafdb"
    options = inputs.synthetic_values(SimpleNamespace(archive="demo_rafdb.zip"))
    assert options[:2] == ["--set=raw_dir=data/raw", "--set=datasets=[synthetic]"]
    assert "demo_rafdb.zip" in options[2] and '"synthetic":1' in options[2]


def test_all_missing_archives_and_weights_are_named_at_once(tmp_path):
    with pytest.raises(read.UserError) as error:
        Inputs(read.load([ROOT / "params/paper.yaml"], [f"raw_dir={tmp_path}"]))
    lines = str(error.value).splitlines()
    assert [line.split(":")[0] for line in lines] == [
        *("dataset rafdb", "dataset ferplus_majority", "dataset affectnet7", "weights ir50_ms1m")
    ]
    assert all("transfer fetch" in line for line in lines[:3])
