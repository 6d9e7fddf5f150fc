"""Which heavy packages a verb of the command line may import before it knows that it has something to do."""

import subprocess
import sys
from pathlib import Path

import pytest
import typer

from transfer import cli

ROOT = Path(__file__).parents[2]
HEAVY = ("torch", "torchvision", "timm", "mlflow", "optuna", "matplotlib", "scipy", "snakemake", "requests", "pandas")
HEAVY += ("numpy", "sqlalchemy", "pyarrow", "PIL", "pydantic", "yaml")
PARAMETERS = {"pydantic", "yaml"}
# Starts the command line with each list of arguments in one process, and prints what is imported after each.
CODE = """
import contextlib, io, sys
from transfer import cli
for arguments in {starts}:
    sys.argv = ["transfer", *arguments]
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        with contextlib.suppress(SystemExit):
            cli.main()
    print(*(name for name in {heavy} if name in sys.modules))
"""


def imported(*starts: list[str]) -> list[set[str]]:
    code = CODE.format(starts=starts, heavy=HEAVY)
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    return [set(line.split()) for line in done.stdout.splitlines()]


def verbs() -> list[list[str]]:
    app = typer.main.get_command(cli.app)
    groups = {name: getattr(command, "commands", None) for name, command in app.commands.items()}
    return [[name, *([sub] if sub else [])] for name, subs in groups.items() for sub in subs or [""]]


def test_help_and_wrong_options_import_nothing_heavy():
    starts = [["--help"], *([*verb, "--help"] for verb in verbs()), *([*verb, "--no-such-option"] for verb in verbs())]
    assert set().union(*imported(*starts)) <= {"pydantic"}, "typer itself reads options with it"


@pytest.mark.parametrize("wrong", [["--params", "none.yaml"], ["--set", "trian=1"], ["--set", "datasets=[rafdc]"]])
def test_wrong_parameters_import_what_reads_parameters(wrong):
    required = ["--dataset", "demo_rafdb", "--recipe", "full", "--seed", "0"]
    starts = [["params"], ["train", *required], ["evaluate", *required], ["index", *required[:2]], ["table"]]
    starts += [["search", "--search", "searched", *required[:2]], ["track", "sync"], ["figure", "attention"]]
    for found in imported(*([*start, *wrong] for start in starts)):
        assert found <= PARAMETERS


def test_what_the_snakefile_imports():
    code = "import sys; import workflow.inputs, workflow.jobs, workflow.session\n"
    code += "from transfer.utils.code_digest import STEPS, step_digest\n"
    code += "workflow.inputs.Inputs(workflow.session.config_files.load()); [step_digest(step) for step in STEPS]\n"
    code += f"print(*(name for name in {HEAVY} if name in sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert set(done.stdout.split()) <= PARAMETERS


def test_importing_the_package_imports_nothing_heavy():
    code = f"import sys, transfer; transfer.load; print(*(name for name in {HEAVY} if name in sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert set(done.stdout.split()) <= {"pydantic"}, "the models' arguments are read with it"
