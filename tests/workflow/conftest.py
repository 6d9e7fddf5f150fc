import shutil
import subprocess
from pathlib import Path

import pytest
from repository import ROOT, SMALLEST, Repository


@pytest.fixture(scope="session")
def sources(tmp_path_factory) -> Path:
    """The files of the repository that git knows or would add, and nothing that was made from them.

    Without the published tables, so that what a test finds in results/ was written by that test.
    """
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    root = tmp_path_factory.mktemp("sources") / "repository"
    for name in filter(None, listed.stdout.split("\0")):
        if (ROOT / name).is_file() and not name.startswith("results/"):
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, root / name)
    return root


@pytest.fixture
def smallest(sources, tmp_path) -> Repository:
    """A bare checkout that is to run the smallest experiment."""
    return Repository(shutil.copytree(sources, tmp_path / "smallest"), *SMALLEST)


@pytest.fixture
def fresh(sources, tmp_path) -> Repository:
    """A bare checkout that is to run the default experiment."""
    return Repository(shutil.copytree(sources, tmp_path / "fresh"))


@pytest.fixture(scope="session")
def finished(sources, tmp_path_factory) -> tuple[Repository, str]:
    """The smallest experiment, run once from a bare checkout for all tests, and what was printed; not to be changed."""
    repository = Repository(shutil.copytree(sources, tmp_path_factory.mktemp("finished") / "repository"), *SMALLEST)
    done = repository.snakemake()
    assert done.returncode == 0, done.stdout
    return repository, done.stdout


@pytest.fixture
def copy(finished, tmp_path) -> Repository:
    """A copy of the finished experiment, to be changed."""
    return Repository(shutil.copytree(finished[0].root, tmp_path / "copy"), *SMALLEST)
