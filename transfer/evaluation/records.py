"""What a finished training wrote about itself (env.json), and whether its weights and parameters are still those."""

import json
from pathlib import Path
from typing import Any

from transfer.config import flat
from transfer.errors import UserError
from transfer.files import sha256
from transfer.params import WHERE, RunParams


def run_again(directory: Path) -> str:
    """How a training is made again."""
    return f"run: snakemake --cores all {directory / 'metrics.json'}"


def read_environment(directory: Path) -> dict[str, Any]:
    """The env.json of a training. Raises UserError, naming the file and the command: missing or damaged."""
    path = directory / "env.json"
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path}: missing; expected that of a finished run; {run_again(directory)}") from None
    except ValueError as error:
        raise UserError(f"{path}: not valid JSON ({error}); delete it and {run_again(directory)}") from None


def kept_weights(directory: Path) -> tuple[Path, dict[str, Any]]:
    """The model.safetensors of a training, and its env.json, which describes it.

    Raises UserError, naming the file and the command: one is missing or damaged, or the weights are others.
    """
    weights, again = directory / "model.safetensors", run_again(directory)
    env = read_environment(directory)
    if not weights.is_file():
        raise UserError(f"{weights}: missing; expected the weights of a finished run; {again}")
    if sha256(weights) != env.get("weights_sha256"):
        raise UserError(f"{weights}: not the weights that {directory / 'env.json'} describes; delete it and {again}")
    return weights, env


def refuse_other_parameters(directory: Path, environment: dict[str, Any], expected: RunParams) -> None:
    """Raise UserError where a training had other parameters than ``expected``; where it ran does not count."""
    try:
        found = RunParams.model_validate(environment["params"])
    except (KeyError, TypeError, ValueError):
        said = "not what a training of this version writes"
        raise UserError(f"{directory / 'env.json'}: {said}; {run_again(directory)}") from None
    ours, theirs = (flat(run.model_dump(mode="json", exclude={"train": WHERE})) for run in (expected, found))
    for key in ours:
        if ours[key] != theirs[key]:
            different = f"trained with {key} {theirs[key]}, but the parameters say {ours[key]}"
            raise UserError(f"{directory}: {different}; {run_again(directory)}")
