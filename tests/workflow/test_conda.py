"""With conda on PATH the jobs run in the environment that it makes; here a conda that only pretends to install."""

import os
import stat
import sys

import pytest

pytestmark = pytest.mark.workflow

CONDA = """#!/bin/sh
case "$1" in
    --version) echo "conda 25.1.0" ;;
    info) echo '{{"conda_prefix": "{base}", "platform": "linux-64"}}' ;;
    config) echo '{{"get": {{"channel_priority": "strict"}}}}' ;;
    env) # env create --quiet --no-default-packages --file FILE --prefix PREFIX
        while [ "$1" != --prefix ]; do shift; done
        mkdir -p "$2/bin"
        printf '#!/bin/sh\\necho "$0" >> "{base}/called"\\nexec "{python}" "$@"\\n' > "$2/bin/python"
        chmod +x "$2/bin/python" ;;
esac
"""
ACTIVATE = 'export CONDA_PREFIX="$1" PATH="$1/bin:$PATH"\n'


def test_jobs_run_in_the_conda_environment(smallest, tmp_path):
    base = tmp_path / "base"
    (base / "bin").mkdir(parents=True)
    conda = base / "bin/conda"
    conda.write_text(CONDA.format(base=base, python=sys.executable))
    conda.chmod(conda.stat().st_mode | stat.S_IXUSR)
    (base / "bin/activate").write_text(ACTIVATE)
    smallest.environment["PATH"] = f"{base}/bin{os.pathsep}{smallest.environment['PATH']}"
    done = smallest.snakemake("results/smallest/data/demo_rafdb/index.parquet")
    assert done.returncode == 0, done.stdout
    assert "conda is not on PATH" not in done.stdout
    assert "Creating conda environment workflow/envs/transfer.yaml" in done.stdout
    called = (base / "called").read_text().splitlines()
    assert len(called) == 2, "synthesize and index"
    assert all(
        str(smallest.root / ".snakemake/conda") in line or line.startswith(".snakemake/conda") for line in called
    )
