"""Fetches what DVC stored of this commit and lets Snakemake take it over: python -m workflow.dvc.pull (make pull).

After a `dvc pull` alone Snakemake has files whose times say nothing, and no records of how they were made, so that it
would not see that a parameter or code has changed since. The records are stored with the files.
"""

import logging
import re
import shlex
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

from dvc.config import NoRemoteError
from dvc.exceptions import CheckoutError, DvcException
from dvc.lock import LockError
from dvc.repo import Repo
from dvc.stage import PipelineStage

from transfer.utils.errors import UserError
from transfer.utils.locks import nobody_else
from workflow.dvc.records import FOLDER, restore
from workflow.dvc.stages import TARGETS


def pull() -> None:
    """Fetch, take over, and say what is left to be made.

    Raises UserError where nothing can be fetched, and after the rest is taken over where the remote lacks files.
    """
    if not Path("dvc.lock").exists():
        raise UserError("dvc.lock: not there, so nothing of this commit is stored; dvc repro makes everything")
    with nobody_else(), Repo() as repo:
        try:
            stages, private, missing = _fetch(repo)
        except LockError as error:
            raise UserError(f"another DVC command is at work here; wait until it has ended ({_line(error)})") from None
        except DvcException as error:
            raise UserError(f"dvc pull: {_line(error)}") from None
    now = time.time()
    for stage in stages:
        for out in map(Path, map(str, stage.outs)):
            if out.parent.name == FOLDER:
                restore(out, now)
    if stages:
        print(f"fetched: {', '.join(stage.name for stage in stages)}")
        print(_left_to_do(stages))
    if private:
        print(f"never on a remote (push: false), make them with dvc repro: {', '.join(private)}")
    if missing:
        files = ", ".join(missing)
        raise UserError(f"not on the remote: {files}; dvc push where they were made, or dvc repro here")


def _fetch(repo: Repo) -> tuple[list[PipelineStage], list[str], list[str]]:
    """The stages that are now as dvc.lock holds them; outputs that are never sent; others that the remote lacks."""
    stages = [stage for name in TARGETS for stage in repo.index.stages if getattr(stage, "name", "") == name]
    _check_remote(repo)
    try:
        repo.pull(targets=[stage.name for stage in stages], allow_missing=True)
    except CheckoutError as error:
        raise UserError(f"dvc pull: {_line(error)}") from None
    status = repo.status(targets=[stage.name for stage in stages])
    complete, private, missing = [], [], []
    for stage in stages:
        entries = [entry for entry in status.get(stage.name, []) if isinstance(entry, Mapping)]
        changed = {path for entry in entries for path in entry.get("changed outs", {})}
        for out in stage.outs:
            if str(out) in changed:
                (missing if out.can_push else private).append(str(out))
        complete += [] if changed else [stage]
    return complete, private, missing


def _check_remote(repo: Repo) -> None:
    """Raise UserError if there is no default remote, or it cannot be reached."""
    try:
        remote = repo.cloud.get_remote(command="pull")
        there = remote.fs.exists(remote.path)
    except NoRemoteError:
        raise UserError("no DVC remote is configured: dvc remote add --default NAME FOLDER_OR_URL") from None
    except DvcException:
        raise
    except Exception as error:  # whatever the library of the remote's kind raises
        raise UserError(f"DVC remote cannot be reached: {_line(error)}; dvc remote list shows where it is") from None
    if not there:
        raise UserError(
            f"DVC remote {remote.name}: {remote.path} is not there; mount it, or name another: "
            f"dvc remote modify {remote.name} url FOLDER_OR_URL"
        )


def _left_to_do(stages: list[PipelineStage]) -> str:
    """What Snakemake would run for the stages, in one line."""
    targets = [target for stage in stages for target in TARGETS[stage.name]]
    first = [word for word in shlex.split(stages[0].cmd[0]) if word not in TARGETS[stages[0].name]]
    command = [first[0], *targets, *first[1:], "--dry-run"]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if done.returncode:
        errors = [line for line in done.stdout.splitlines() if line.startswith("error: ")]
        raise UserError(errors[0].removeprefix("error: ") if errors else f"snakemake: {' '.join(done.stdout.split())}")
    if "Job stats:" not in done.stdout:
        return "snakemake: nothing to do"
    stats = done.stdout.split("Job stats:")[1].split("\n\n")[0]
    jobs = re.findall(r"^(\w+) +(\d+)$", stats, flags=re.MULTILINE)
    left = ", ".join(f"{rule} {count}" for rule, count in jobs if rule not in ("total", *targets))
    return f"snakemake: parameters, code or data have changed since: {left} are left to do"


def _line(error: Exception) -> str:
    return " ".join(str(error).split())


def main() -> None:
    """Exit code 0, or 1 with one line on stderr."""
    logging.disable()  # what DVC warns of is said here, in one line
    try:
        pull()
    except UserError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
