"""A copy of the repository in which the tests run Snakemake."""

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import IO

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
