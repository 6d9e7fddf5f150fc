import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import IO

import pytest

ROOT = Path(__file__).parents[2]
SMALLEST = ("--configfile", "tests/workflow/smallest.yaml")


class Repository:
    """A copy of the repository in which Snakemake runs."""

    def __init__(self, root: Path, *options: str) -> None:
        self.root, self.options = root, options
        # As on a machine that has no conda, with the environment of this Python active.
        folders = [Path(sys.executable).parent, *map(Path, os.environ["PATH"].split(os.pathsep))]
        path = [str(folder) for folder in folders if not (folder / "conda").exists()]
        dropped = ("PYTHONPATH", "SNAKEMAKE_PROFILE", "MLFLOW_TRACKING_URI", "CONDA_PREFIX")
        self.environment = {key: value for key, value in os.environ.items() if key not in dropped}
        self.environment |= {"PATH": os.pathsep.join(path), "OMP_NUM_THREADS": "1"}

    def command(self, *arguments: str) -> list[str]:
        target = [] if arguments and not arguments[0].startswith("-") else ["results/table1.csv"]
        return ["snakemake", "--cores", "2", "--use-conda", *target, *arguments, *self.options]

    def snakemake(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run to the table, or to the target that comes first; stdout and stderr come together."""
        return self.process(*self.command(*arguments))

    def process(self, *command: str) -> subprocess.CompletedProcess[str]:
        """Any command; stdout and stderr come together."""
        return subprocess.run(
            command,
            cwd=self.root,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=900,
        )

    def start(self, *arguments: str, log: IO | int = subprocess.DEVNULL) -> subprocess.Popen[bytes]:
        """Run in the background, in a process group of its own; ``log`` gets stdout and stderr."""
        return subprocess.Popen(
            self.command(*arguments),
            cwd=self.root,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )

    def scheduled(self, *arguments: str) -> dict[str, int]:
        """The jobs that a run would do, counted by rule."""
        done = self.snakemake(*arguments, "--dry-run")
        assert done.returncode == 0, done.stdout
        if "Nothing to be done" in done.stdout:
            return {}
        stats = done.stdout.split("Job stats:")[1].split("\n\n")[0]
        jobs = {name: int(count) for name, count in re.findall(r"^(\w+) +(\d+)$", stats, flags=re.MULTILINE)}
        assert jobs.pop("total") == sum(jobs.values())
        return jobs

    def replace(self, file: str, old: str, new: str) -> None:
        """Edit a file of the copy; the text must be there once."""
        path = self.root / file
        text = path.read_text()
        assert text.count(old) == 1, f"{old!r} is {text.count(old)} times in {file}"
        path.write_text(text.replace(old, new))


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
