"""A workflow session: parameters, conda, locks, and errors that are reported before any job.

Objects of Snakemake come in as arguments; nothing of it is imported here.
"""

import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from transfer.datasets.archives import UNPACKED
from transfer.layout import Layout
from transfer.losses.registry import check_losses
from transfer.models.registry import check_models
from transfer.params import Params
from transfer.params import read as config_files
from transfer.utils.errors import UserError, did_you_mean, message, one_line
from transfer.utils.locks import RUNNING, nobody_else, share

STALE = ".snakemake/locks"
"""Snakemake's locks: where nobody else runs they are a killed run's, which then continues without --unlock."""
_LISTED = 3  # of the parameters that differ


@contextmanager
def errors_in_lines() -> Iterator[None]:
    """Print wrong input and what the system refuses, a line each, and exit with code 1; Ctrl-C ends quietly."""
    try:
        yield
    except KeyboardInterrupt:
        raise SystemExit(130) from None
    except (UserError, OSError) as error:
        for line in message(error).splitlines():
            print(f"error: {one_line(line)}", file=sys.stderr)
        raise SystemExit(1) from None


def stopped(kind: type[BaseException], error: BaseException, trace: Any) -> None:
    """In place of sys.excepthook: Ctrl-C while Snakemake starts would show a page of traceback."""
    if issubclass(kind, KeyboardInterrupt):
        print("stopped", file=sys.stderr)
    else:
        sys.__excepthook__(kind, error, trace)


def read_config(file: str | Path, filetype: str = "") -> dict[str, Any]:
    """In place of Snakemake's reader of parameter files: bounded, and nothing in them is executed."""
    with errors_in_lines():
        return config_files.read_yaml(Path(file))
    raise AssertionError  # errors_in_lines ends the process


class Session:
    """One start of Snakemake: ``workflow`` is its Workflow, ``config`` the merged configuration.

    A job on another node parses the Snakefile again. ``config`` then names the snapshot that was written when the
    workflow started, so that the job reads the same parameters, even if the files were edited since.
    Raises UserError for a wrong parameter.
    """

    def __init__(self, workflow: Any, config: Mapping[str, Any]) -> None:
        if re.search("[{}]", os.getcwd()):
            raise UserError(f"folder {os.getcwd()}: Snakemake takes braces for wildcards; rename it")
        self._workflow = workflow
        self.params = self._load(config)
        self.snapshot = Layout(self.params.experiment).params.as_posix()
        self._locks: list[IO[str]] = []
        if workflow.exec_mode.name != "DEFAULT":
            return
        RUNNING.parent.mkdir(exist_ok=True)  # Snakemake would need a page of traceback to say that it cannot
        if not workflow.output_settings.dryrun:
            self._locks.append(share(RUNNING, lambda: shutil.rmtree(STALE, ignore_errors=True)))
        if "SOURCES" in {usage.name for usage in workflow.storage_settings.shared_fs_usage}:
            workflow.config_settings.configfiles = []
            workflow.config_settings.config_args = [f"snapshot={self.snapshot}"]

    def _load(self, config: Mapping[str, Any]) -> Params:
        if "snapshot" in config:
            return config_files.load([config["snapshot"]], checks=[check_models, check_losses])
        files = [Path(os.path.relpath(file)) for file in self._workflow.overwrite_configfiles]
        values = self._workflow.config_settings.config  # merged here, since Snakemake knows no arguments of models
        return config_files.load(files, command_line=values, checks=[check_models, check_losses])

    def shell_prefix(self) -> str | None:
        """Prefix of shell commands if jobs run in the current environment; None if they run in conda's.

        Without conda on PATH the deployment method is removed, since Snakemake would stop.
        """
        settings = self._workflow.deployment_settings
        conda = {method for method in settings.deployment_method if method.name == "CONDA"}
        if conda and shutil.which("conda"):
            return None
        if conda:
            settings.deployment_method = set(settings.deployment_method) - conda
            print("conda is not on PATH: the jobs run in the current environment", file=sys.stderr)
        # `python` is the one that runs Snakemake, even if its environment is not activated.
        return f"set -euo pipefail; export PATH={shlex.quote(os.path.dirname(sys.executable))}:$PATH; "

    def start(self) -> None:
        """Before the first job: check the cluster, and write the parameters that the jobs read."""
        with errors_in_lines():
            check_push(self.params)
            if self._workflow.executor_plugin.name == "slurm":
                check_slurm(self._workflow.resource_settings)
            self._locks.append(begin(self.params))

    def end(self) -> None:
        """After the last job: remove what was unpacked for the jobs, if no other workflow runs."""
        for lock in self._locks:
            lock.close()
        with suppress(UserError), nobody_else():
            shutil.rmtree(UNPACKED, ignore_errors=True)

    def check_targets(
        self, arguments: Sequence[str], parsed: Callable[[], Iterable[str]], known: Callable[[], Iterable[str]]
    ) -> None:
        """Raise UserError for a requested target that no rule makes, with the nearest of the ``known`` files and rules.

        Snakemake knows the targets only after the Snakefile, so they are looked up in its command line, ``arguments``;
        only if one of its words could be a wrong target does ``parsed`` read it with Snakemake's own parser.
        """
        rules = {rule.name: rule for rule in self._workflow.rules}

        def is_made(target: str) -> bool:
            path = os.path.relpath(target)
            return target in rules or any(rule.is_producer(name) for rule in rules.values() for name in (target, path))

        def is_wrong(word: str) -> bool:
            return not (word.startswith("-") or word.isdigit() or "=" in word or Path(word).exists() or is_made(word))

        if self._workflow.exec_mode.name != "DEFAULT" or not any(map(is_wrong, arguments)):
            return
        for target in filter(is_wrong, parsed()):
            hint = did_you_mean(os.path.relpath(target), [*rules, *known()])
            raise UserError(f"target {target}: no rule makes it{hint or '; snakemake --list shows the rules'}")


def begin(params: Params) -> IO[str]:
    """Write the snapshot that the jobs read; return the open file whose lock protects it until closed.

    Raises UserError while a workflow of the same experiment runs with other parameters.
    """
    layout = Layout(params.experiment)
    snapshot = layout.params

    def write() -> None:
        config_files.snapshot(params, snapshot)
        layout.chain.note([snapshot])

    lock = share(RUNNING.with_name(f"running-{params.experiment}"), write)
    changes = config_files.differences(config_files.load([snapshot]), params)
    if changes:
        lock.close()
        listed = "; ".join(f"{key} {theirs}, here {ours}" for key, theirs, ours in changes[:_LISTED])
        more = f" and {len(changes) - _LISTED} more" if len(changes) > _LISTED else ""
        raise UserError(
            f"experiment {params.experiment}: a workflow is running with other parameters ({listed}{more}); "
            "wait until it ends, or give this one another name: --config experiment=NAME"
        )
    return lock


def check_push(params: Params, pipeline: Path = Path("dvc.yaml")) -> None:
    """Raise UserError if `dvc push` would upload faces of a real dataset: aligned ones, or those in figures."""
    real = [name for name in params.selected_datasets() if params.dataset_definitions[name].synthetic is None]
    if not real or not pipeline.is_file():
        return
    content, root = config_files.read_yaml(pipeline), Layout(params.experiment).root
    blocks = [block for block in content.get("vars", []) if isinstance(block, dict)]  # others name a file
    values = {key: str(value) for block in blocks for key, value in block.items()}
    for out in [out for stage in content.get("stages", {}).values() for out in stage.get("outs", [])]:
        named, options = next(iter(out.items())) if isinstance(out, dict) else (out, {})
        # A value from elsewhere may be this experiment's name.
        path = Path(re.sub(r"\$\{(\w+)\}", lambda key: values.get(key[1], params.experiment), named))
        places = (root / "data", root / "figures")
        holds = any(path.is_relative_to(place) or place.is_relative_to(path) for place in places)
        if holds and options.get("push", True) and options.get("cache", True):
            raise UserError(
                f"{pipeline}: {named} would go to a remote with dvc push, and holds faces of {', '.join(real)}, which "
                f"their licences forbid to pass on; write {{persist: true, push: false}} behind it"
            )


def check_slurm(settings: Any) -> None:
    """Raise UserError if SLURM is missing or a partition unknown; Snakemake would report that once per job."""
    try:
        answer = subprocess.run(["sinfo", "--all", "--noheader", "--format=%R"], capture_output=True, text=True)
    except FileNotFoundError:
        advice = "run this where sbatch works, or without --profile profiles/slurm"
        raise UserError(f"executor slurm: SLURM's commands are not on PATH; {advice}") from None
    if answer.returncode != 0:
        raise UserError(f"executor slurm: {answer.stderr.strip().partition(chr(10))[0]}; nothing was submitted")
    partitions = answer.stdout.split()
    for resources in (settings.default_resources or {}, *settings.overwrite_resources.values()):
        value = resources["slurm_partition"] if "slurm_partition" in resources else ""  # noqa: SIM401  it has no get
        asked = str(getattr(value, "raw", value)).strip("'\"")
        unknown = set(asked.split(",")) - {"", *partitions}
        if unknown and re.fullmatch(r"[\w.,-]+", asked):  # otherwise it is an expression
            listed = ", ".join(partitions) or "none"
            raise UserError(f"slurm_partition: unknown name '{min(unknown)}'; this cluster has: {listed}")
