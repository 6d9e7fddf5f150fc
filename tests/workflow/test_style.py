"""The workflow's files are as snakefmt writes them and as Snakemake's own lint wants them."""

import subprocess

import pytest

pytestmark = pytest.mark.workflow


def test_lint(fresh):
    done = subprocess.run(
        ["snakemake", "--lint"], cwd=fresh.root, env=fresh.environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "in a good condition" in done.stderr


def test_snakefmt(fresh):
    command = ["snakefmt", "--check", "Snakefile", "workflow"]
    done = subprocess.run(command, cwd=fresh.root, env=fresh.environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
