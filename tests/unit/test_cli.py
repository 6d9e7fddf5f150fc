import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import typer
import yaml

from transfer import cli
from transfer.params import read as config
from transfer.utils.errors import UserError

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def directory(tmp_path, monkeypatch):
    (tmp_path / "params").mkdir()
    for file in ("default.yaml", "reported.yaml", "sources.yaml"):
        (tmp_path / "params" / file).write_bytes((ROOT / "params" / file).read_bytes())
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_params_prints_the_resolved_configuration(transfer, directory):
    (directory / "mine.yaml").write_text("train: {epochs: 3}\n")
    code, out, err = transfer("params", "--params", "mine.yaml", "--set", "seeds=[5]", "--set", "train.lr=0.5")
    assert (code, err) == (0, "")
    resolved = yaml.safe_load(out)
    assert (resolved["train"]["epochs"], resolved["train"]["lr"], resolved["seeds"]) == (3, 0.5, [5])
    (directory / "resolved.yaml").write_text(out)
    assert config.load([Path("resolved.yaml")]).train == config.load([Path("mine.yaml")], ["train.lr=0.5"]).train


def test_schema_writes_the_file(transfer):
    assert transfer("schema")[0] == 0
    assert Path("params/schema.json").read_text() == config.schema_text()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["params", "--set", "train.epochs=0"], "command line: train.epochs: should be greater than or equal to 1"),
        (["params", "--params", "none.yaml"], "none.yaml: no such parameter file"),
        (["index", "--dataset", "rafdb"], "--dataset rafdb: not in experiment demo; allowed: demo_rafdb, "),
        (["train", "--dataset", "demo_rafdb", "--recipe", "x", "--seed", "0"], "--recipe x: not in experiment demo;"),
        (["train", "--dataset", "demo_rafdb", "--recipe", "full", "--seed", "-1"], "'--seed'"),
        (["index"], "Missing option '--dataset'"),
        (["index", "--datset", "demo_rafdb"], "No such option"),
        (["indx"], "No such command 'indx'"),
        (["index", "--dataset", "rafdb", "--set", "datasets=[rafdb]"], "run `transfer fetch rafdb` for instructions"),
        (["synthesize", "--dataset", "rafdb", "--set", "datasets=[rafdb]"], "dataset rafdb: not synthetic"),
        (["subsets", "--dataset", "demo_rafdb"], "index.parquet: missing; make it with transfer index"),
        (["detect", "--dataset", "demo_rafdb"], "index.parquet: missing; make it with transfer index"),
        (["align", "--dataset", "demo_rafdb"], "index.parquet: missing; make it with transfer index"),
        (["inspect", "--dataset", "demo_rafdb"], "aligned.npy: missing; make it with transfer align"),
        (["hash", "--dataset", "demo_rafdb"], "index.parquet: missing; make it with transfer index"),
        (["duplicates", "--dataset", "demo_rafdb"], "hashes.parquet: missing; make it with transfer hash"),
        (["audit"], "data/demo_rafdb/hashes.parquet: missing; make it with transfer hash"),
        (["sample", "--dataset", "demo_rafdb"], "aligned.parquet: missing; make it with transfer align"),
        (["evaluate", "--dataset", "demo_rafdb", "--recipe", "full", "--seed", "0"], "predictions.parquet"),
        (["robustness", "--dataset", "demo_rafdb", "--recipe", "full", "--seed", "0"], "env.json: missing; expected"),
        (
            ["cross", "--dataset", "demo_rafdb", "--recipe", "full", "--seed", "0"],
            "aligned.npy: missing; run: snakemake",
        ),
        (
            ["search", "--search", "rates", "--dataset", "demo_rafdb"],
            "--search rates: not in experiment demo; allowed: ",
        ),
        (["search-report", "--search", "searched", "--set", "searches=[]"], "allowed: none; name it in searches"),
        (["search", "--search", "searched", "--dataset", "demo_rafdb"], "aligned.parquet: missing; make it with"),
        (
            ["diversity", "--dataset", "demo_rafdb", "--recipe", "full", "--seed", "0"],
            "env.json: missing; expected that of a finished run",
        ),
        (["table"], "metrics.json: missing"),
    ],
)
def test_a_mistake_is_exit_code_1_and_one_line(transfer, arguments, message):
    code, out, err = transfer(*arguments)
    assert (code, out) == (1, "")
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert message in err
    assert not Path("results").exists()
    assert not Path("data").exists()


def test_debug_shows_the_traceback(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["transfer", "index", "--dataset", "rafdb", "--debug"])
    with pytest.raises(UserError, match="not in experiment"):
        cli.main()


def test_an_unexpected_error_is_one_line_too(transfer, monkeypatch):
    def broken(*_, **__):
        raise KeyError("x\ny")

    monkeypatch.setattr(config, "load", broken)
    code, _, err = transfer("params")
    assert code == 1
    assert err == "error: KeyError: 'x\\ny' (unexpected; --debug shows the traceback)\n"


def test_help_says_what_each_verb_reads_and_writes(transfer):
    code, out, _ = transfer()
    assert code == 0
    verbs = [
        "predict",
        "package",
        "export",
        "demo",
        "fetch",
        "synthesize",
        "index",
        "subsets",
        "detect",
        "align",
        "inspect",
        "hash",
        "duplicates",
        "audit",
    ]
    verbs += ["sample", "weights", "train", "evaluate", "robustness", "cross", "diversity", "verify"]
    verbs += ["table", "overview", "compare", "publish", "search", "search-report", "prune"]
    commands = typer.main.get_command(cli.app).commands
    assert list(commands) == [*verbs, "params", "schema", "figure", "board", "track", "bench"]
    assert all(command.rich_help_panel for command in commands.values())
    groups = [f"{group} {name}" for group in ("figure", "board", "bench", "track") for name in commands[group].commands]
    for verb in [*verbs, *groups]:
        code, out, _ = transfer(*verb.split(), "--help")
        assert code == 0
        assert "Writes:" in out
        assert "Reads:" in out or verb == "synthesize"
    assert list(typer.main.get_command(cli.app).commands["track"].commands) == ["sync", "check"]
    for verb in ("sync", "check"):
        assert "Reads:" in transfer("track", verb, "--help")[1]


def test_track_says_all_differences_and_ends_with_one_line(transfer, monkeypatch):
    monkeypatch.setattr("transfer.tracking.check.check", lambda params, layout: (34, ["one line", "another"]))
    code, out, err = transfer("track", "check")
    assert (code, out) == (1, "one line\nanother\n")
    assert err == "error: results/demo/table1.csv and MLflow differ in 2 places; see the lines above\n"
    monkeypatch.setattr("transfer.tracking.check.check", lambda params, layout: (34, []))
    assert transfer("track", "check") == (0, "results/demo/table1.csv: 34 cells, all as in MLflow\n", "")


def test_sample_writes_the_split_and_a_plan_for_every_method(transfer):
    data = Path("results/demo/data/demo_rafdb")
    data.mkdir(parents=True)
    names = ["surprise", "fear", "disgust", "happiness", "sadness", "anger", "neutral"]
    labels = np.repeat(np.arange(7), [4, 2, 3, 10, 4, 4, 5])
    rows = [("train", label) for label in labels] + [("test", label) for label in range(7)]
    manifest = pd.DataFrame(rows, columns=["split", "label"])
    manifest["sample"] = [f"face{i}" for i in range(len(manifest))]
    manifest["class_name"] = [names[label] for label in manifest["label"]]
    manifest.to_parquet(data / "aligned.parquet")
    assert transfer("sample", "--dataset", "demo_rafdb")[0] == 0
    split = pd.read_parquet(data / "split.parquet")
    training = split[split["split"] == "train"]
    assert split["split"].value_counts().to_dict() == {"train": 25, "val": 7, "test": 7}
    full, sqrt, none = (np.load(data / f"plan_{method}.npy") for method in ("full", "sqrt", "none"))
    assert none.tolist() == sorted(training["row"])
    assert np.bincount(manifest["label"][full]).tolist() == [9] * 7
    assert set(sqrt) == set(none)
    assert sorted(path.name for path in data.iterdir()) == [
        "aligned.parquet",
        "plan_full.npy",
        "plan_none.npy",
        "plan_sqrt.npy",
        "split.parquet",
    ]


def test_runs_as_a_module_from_the_repository_root():
    command = [sys.executable, "-m", "transfer", "params", "--set", "x=1"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 1
    assert done.stderr.startswith("error: command line: x: unknown key")


def test_a_mistake_about_a_model_of_timm_is_one_line_to_the_very_end():
    """Also of what Python's end may print, which is why a process of its own is needed."""
    values = ["model={name: timm/resnet18, args: {nope: 1}}", "recipes=[plain]", "baseline=plain", "searches=[]"]
    values += ["recipe_definitions={plain: {}}"]
    options = [f"--set={value}" for value in values]
    command = [sys.executable, "-m", "transfer", "params", *options]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 1 and "timm/resnet18 has no such argument" in done.stderr
    assert done.stderr.count("\n") == 1
