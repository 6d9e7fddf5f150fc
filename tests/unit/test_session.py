"""What a workflow does before its first job, and the locks that keep workflows and clean-up apart."""

import shutil
import subprocess
import sys
import threading
from enum import Enum
from pathlib import Path
from types import SimpleNamespace

import pytest

from transfer.layout import Layout
from transfer.params import read
from transfer.utils.errors import UserError
from transfer.utils.locks import RUNNING, nobody_else, share
from workflow.session import Session, begin, check_push, check_slurm, errors_in_lines

ROOT = Path(__file__).parents[2]
SNAPSHOT = Layout("demo").params


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    shutil.copytree(ROOT / "params", tmp_path / "params")
    monkeypatch.chdir(tmp_path)


Method = Enum("Method", "CONDA")


def snakemake(mode="DEFAULT", dryrun=False, **settings):
    """As much of a Workflow as a session looks at."""
    defaults = {
        "exec_mode": SimpleNamespace(name=mode),
        "overwrite_configfiles": [],
        "config_settings": SimpleNamespace(config={}, configfiles=["a.yaml"], config_args=["a=1"]),
        "output_settings": SimpleNamespace(dryrun=dryrun),
        "storage_settings": SimpleNamespace(shared_fs_usage=[SimpleNamespace(name="SOURCES")]),
        "deployment_settings": SimpleNamespace(deployment_method={Method.CONDA}),
        "rules": [],
    }
    return SimpleNamespace(**defaults | settings)


def config():
    return read.load().model_dump(mode="json", exclude_unset=True)


def test_faces_of_licensed_datasets_cannot_be_pushed_by_accident():
    """The repository's pipeline, with the experiment changed as its comments say, and every way to forget an option."""
    paper, text = read.load([Path("params/paper.yaml")]), (ROOT / "dvc.yaml").read_text()
    pipeline = Path("dvc.yaml")
    check_push(paper)  # without DVC
    pipeline.write_text(text)
    check_push(read.load()), check_push(paper)  # synthetic faces; the files of another experiment
    pipeline.write_text(text.replace("experiment: demo", "experiment: paper"))
    for name in ("data", "figures"):
        with pytest.raises(UserError, match=rf"^dvc.yaml: results/.*/{name} would go to .* faces of rafdb, "):
            check_push(paper)
        line = f"results/${{experiment}}/{name}: {{persist: true"
        assert line in pipeline.read_text()
        pipeline.write_text(pipeline.read_text().replace(line, f"{line}, push: false"))
    check_push(paper)
    for out in ("results", "results/${item}/data/rafdb/aligned.npy", "results/paper/figures: {push: true}"):
        pipeline.write_text(f"stages:\n  all:\n    outs:\n      - {out}\n")
        with pytest.raises(UserError, match="would go to a remote"):
            check_push(paper)


def test_the_first_workflow_is_alone_and_others_are_not():
    calls = []
    first = share(RUNNING, lambda: calls.append("first"))
    second = share(RUNNING, lambda: calls.append("second"))
    assert calls == ["first"]
    first.close()
    with pytest.raises(UserError, match="a workflow is running in this folder"), nobody_else():
        pass
    second.close()
    with nobody_else():
        pass
    share(RUNNING, lambda: calls.append("third")).close()
    assert calls == ["first", "third"]


def test_a_killed_workflow_holds_nothing():
    code = "import os, signal; from transfer.utils.locks import *; held = share(RUNNING, lambda: None)\n"
    code += "os.kill(os.getpid(), signal.SIGKILL)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == -9
    assert RUNNING.exists()
    with nobody_else():
        pass


def test_a_workflow_waits_for_a_removal_and_says_so(capsys):
    held = []
    with nobody_else():
        waiting = threading.Thread(target=lambda: held.append(share(RUNNING, lambda: None)))
        waiting.start()
        waiting.join(0.2)
        assert waiting.is_alive()
    waiting.join(10)
    assert ".snakemake/running: held by a process that removes files" in capsys.readouterr().err
    held[0].close()


def test_stale_locks_of_snakemake_are_removed_and_those_of_a_live_workflow_are_not():
    locks = Path(".snakemake/locks")
    locks.mkdir(parents=True)
    first = Session(snakemake(), config())
    assert not locks.exists()
    locks.mkdir()
    Session(snakemake(), config())
    assert locks.exists()
    del first


def test_a_dry_run_holds_and_removes_nothing():
    Path(".snakemake/locks").mkdir(parents=True)
    Session(snakemake(dryrun=True), config())
    assert Path(".snakemake/locks").exists() and not RUNNING.exists()


def test_a_folder_with_braces_is_refused_in_one_line(tmp_path, monkeypatch):
    (tmp_path / "{x}").mkdir()
    monkeypatch.chdir(tmp_path / "{x}")
    with pytest.raises(UserError, match=r"\{x\}: Snakemake takes braces for wildcards; rename it"):
        Session(snakemake(), {})


def test_jobs_read_the_snapshot_and_not_files_edited_since():
    workflow = snakemake()
    session = Session(workflow, config())
    assert (workflow.config_settings.configfiles, workflow.config_settings.config_args) == (
        [],
        [f"snapshot={SNAPSHOT}"],
    )
    begin(session.params).close()
    read.DEFAULT.write_text(read.DEFAULT.read_text().replace("  lr: 0.05", "  lr: 0.04"))
    job = Session(snakemake("REMOTE"), {"snapshot": str(SNAPSHOT)})
    assert job.params == session.params and read.load().train.lr == 0.04


def test_other_parameters_of_an_experiment_wait_and_the_same_do_not():
    params, other = read.load(), read.load((), ["train.lr=0.5", "seeds=[7]"])
    one = begin(params)
    snapshot = SNAPSHOT.read_bytes()
    two = begin(params)
    with pytest.raises(UserError) as error:
        begin(other)
    assert str(error.value) == (
        "experiment demo: a workflow is running with other parameters (seeds [0, 1, 2], here [7]; train.lr 0.05, "
        "here 0.5); wait until it ends, or give this one another name: --config experiment=NAME"
    )
    assert SNAPSHOT.read_bytes() == snapshot
    elsewhere = begin(read.load((), ["experiment=other", "train.lr=0.5"]))
    one.close()
    with pytest.raises(UserError, match="experiment demo: a workflow is running"):
        begin(other)
    two.close()
    begin(other).close()
    assert read.load([SNAPSHOT]).train.lr == 0.5
    elsewhere.close()


def test_every_mistake_is_a_line_and_the_exit_code_is_1(capsys):
    with pytest.raises(SystemExit) as end, errors_in_lines():
        raise UserError("one thing\nanother")
    assert end.value.code == 1
    assert capsys.readouterr().err == "error: one thing\nerror: another\n"


def test_without_conda_the_jobs_run_in_this_environment(monkeypatch, capsys, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path / "empty"))
    workflow = snakemake(dryrun=True)
    prefix = Session(workflow, config()).shell_prefix()
    assert f"export PATH={Path(sys.executable).parent}:$PATH; " in prefix
    assert workflow.deployment_settings.deployment_method == set()
    assert capsys.readouterr().err == "conda is not on PATH: the jobs run in the current environment\n"


def test_with_conda_its_environment_is_used(monkeypatch, tmp_path):
    (tmp_path / "conda").touch(mode=0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    workflow = snakemake(dryrun=True)
    assert Session(workflow, config()).shell_prefix() is None
    assert len(workflow.deployment_settings.deployment_method) == 1


@pytest.mark.parametrize(
    ("arguments", "targets", "message"),
    [
        (["-n", "results/table1.csv", "--cores", "2", "--config", "a=b"], ["results/table1.csv"], None),
        (["all", "./params/default.yaml"], ["all", "params/default.yaml"], None),
        (["--configfile", "not/there.yaml"], [], None),
        (["results/tabel1.csv"], ["results/tabel1.csv"], "no rule makes it; did you mean results/table1.csv?"),
        (["al"], ["al"], "target al: no rule makes it; did you mean all?"),
        (["nothing"], ["nothing"], "target nothing: no rule makes it; snakemake --list shows the rules"),
    ],
)
def test_a_target_that_no_rule_makes_is_one_line_with_the_nearest(arguments, targets, message):
    rule = SimpleNamespace(name="all", is_producer=lambda path: path == "results/table1.csv")
    session = Session(snakemake(dryrun=True, rules=[rule]), config())

    def check():
        session.check_targets(arguments, lambda: targets, lambda: ["results/table1.csv"])

    if message is None:
        check()
        return
    with pytest.raises(UserError, match=message.replace("?", r"\?")):
        check()


@pytest.mark.parametrize(
    ("sinfo", "partition", "message"),
    [
        ("echo main; echo urgent", "main,urgent", None),
        ("echo main", "lookup('queue')", None),
        ("echo main; echo urgent", "'night'", "slurm_partition: unknown name 'night'; this cluster has: main, urgent"),
        ("echo down >&2; exit 1", "main", "executor slurm: down; nothing was submitted"),
        (None, "main", "executor slurm: SLURM's commands are not on PATH; run this where sbatch works, or without"),
    ],
)
def test_what_slurm_cannot_do_is_one_line_before_any_job(tmp_path, monkeypatch, sinfo, partition, message):
    if sinfo:
        (tmp_path / "sinfo").write_text(f"#!/bin/sh\n{sinfo}\n")
        (tmp_path / "sinfo").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin" if sinfo else str(tmp_path))
    settings = SimpleNamespace(default_resources={"slurm_partition": partition}, overwrite_resources={})
    if message is None:
        check_slurm(settings)
        return
    with pytest.raises(UserError) as error:
        check_slurm(settings)
    assert str(error.value).startswith(message)
