"""A worker: takes trials of a shared study and trains them until enough are finished."""

import shutil
import sys
from pathlib import Path
from statistics import mean
from typing import Any

import optuna
from optuna.trial import TrialState

from transfer.layout import Layout
from transfer.models.registry import modules
from transfer.params import RUNTIME_KEYS, Params, digest
from transfer.search.space import trial_params
from transfer.search.study import SharedStudy, checkpoints
from transfer.search.trial import validate
from transfer.training.epoch import Diverged
from transfer.utils.code_digest import step_digest
from transfer.utils.files import sha256, write_json


def work(params: Params, search: str, dataset: str, number: int, layout: Layout) -> None:
    """Be worker ``number`` of the study of ``search`` on ``dataset``; writes worker<number>.json.

    Raises UserError for a study about something else, a storage that cannot be used, a worker of that number at work,
    and what a training raises; the trial is then put again.
    """
    study = SharedStudy(params, search, dataset, layout, declaration(params, search, dataset, layout))
    done = []
    with study.worker(number):
        while claimed := study.claim():
            trial, values = claimed
            state, value = _run(study, trial, trial_params(params, dataset, search, values), search, dataset, layout)
            done.append(trial.number)
            shown = ", ".join(f"{name} {value:g}" if name != "upsample" else value for name, value in values.items())
            result = f"{state.name.lower()}" + (f", validation accuracy {value:.4f}" if value is not None else "")
            print(f"{study.name}: trial {trial.number} ({shown}): {result}", file=sys.stderr)
    finished = len(study.finished())
    if finished >= study.target:  # what a worker left that was killed between its result and its checkpoint's removal
        shutil.rmtree(layout.search_state(search, dataset), ignore_errors=True)
    print(f"{study.name}: {finished} of {study.target} trials are finished", file=sys.stderr)
    write_json(
        layout.search(search) / dataset / f"worker{number}.json",
        {"study": study.name, "storage": study.store.shown, "trials": done},
    )


def declaration(params: Params, search: str, dataset: str, layout: Layout) -> dict[str, Any]:
    """What a study's trials have in common; trials of another one do not compare with them."""
    definition = params.search_definitions[search]
    plain = definition.model_dump(mode="json", exclude={"trials", "workers", "recipe", "epochs"})
    start = trial_params(params, dataset, search, {}).run(dataset, search)
    data = layout.data(dataset)
    return plain | {
        "recipe": start.model_dump(mode="json", exclude={"train": RUNTIME_KEYS}),
        "data": digest([sha256(data / name) for name in ("aligned.parquet", "split.parquet")]),
        "code": step_digest("train", modules()[start.model.name]),
    }


def _run(
    study: SharedStudy, trial: optuna.Trial, params: Params, search: str, dataset: str, layout: Layout
) -> tuple[TrialState, float | None]:
    folder = checkpoints(layout, search, dataset, trial)
    value, state = None, TrialState.PRUNED
    try:
        value, state = _objective(study, trial, params, dataset, search, layout, folder), TrialState.COMPLETE
    except optuna.TrialPruned:
        pass
    except Diverged as error:
        with study.store.errors():
            trial.set_user_attr("diverged", str(error))
    except Exception:
        study.put_again(trial)
        raise
    study.tell(trial, state, value)
    shutil.rmtree(folder, ignore_errors=True)
    return state, value


def _objective(
    study: SharedStudy, trial: optuna.Trial, params: Params, dataset: str, search: str, layout: Layout, folder: Path
) -> float:
    """Train with every seed of the search: the mean validation accuracy.

    After each epoch the mean over the seeds so far is reported, at steps that go on from seed to seed.
    """
    accuracies: dict[int, float] = {}
    for seed in params.search_definitions[search].seeds:
        before = len(accuracies) * params.run(dataset, search).train.epochs

        def report(row: dict[str, float], again: bool, before: int = before) -> None:
            with study.store.errors():
                trial.report(mean([*accuracies.values(), row["val_accuracy"]]), before + int(row["epoch"]))
                if not again and trial.should_prune():
                    raise optuna.TrialPruned

        accuracies[seed] = validate(params, dataset, search, trial.number, seed, folder, layout, report)
    with study.store.errors():
        trial.set_user_attr("accuracies", {str(seed): value for seed, value in accuracies.items()})
    return mean(accuracies.values())
