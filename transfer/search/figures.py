"""The figures of a study, drawn by Optuna with matplotlib."""

import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib import pyplot as plt
from optuna import Study
from optuna.importance import BaseImportanceEvaluator
from optuna.trial import TrialState
from optuna.visualization import matplotlib as plots

from transfer.utils.files import atomic

_TARGET = "validation accuracy"


def draw_figures(study: Study, evaluator: BaseImportanceEvaluator | None, folder: Path) -> None:
    """Write history.png, slices.png, contour.png and importances.png of the completed trials into ``folder``.

    Without an ``evaluator`` there are no importances to show, and where fewer than two parameters vary no contour; the
    picture says so.
    """
    trials = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    values = {(name, value) for trial in trials for name, value in trial.params.items()}
    varied = sorted(name for name, n in Counter(name for name, _ in values).items() if n > 1)
    _draw(folder / "history.png", lambda: plots.plot_optimization_history(study, target_name=_TARGET))
    _draw(folder / "slices.png", lambda: plots.plot_slice(study, target_name=_TARGET))
    if len(varied) > 1:
        _draw(folder / "contour.png", lambda: plots.plot_contour(study, params=varied, target_name=_TARGET))
    else:
        _draw(folder / "contour.png", lambda: _say("fewer than two parameters vary: no contour"))
    if evaluator:
        drawn = {"evaluator": evaluator, "target_name": _TARGET}
        _draw(folder / "importances.png", lambda: plots.plot_param_importances(study, **drawn))
    else:
        _draw(folder / "importances.png", lambda: _say("fewer than two different results: no importances"))


def _draw(path: Path, plot: Callable[[], Any]) -> None:
    with matplotlib.rc_context(), warnings.catch_warnings(), atomic(path) as part:
        plt.switch_backend("Agg")
        warnings.simplefilter("ignore")  # experimental, and layouts that do not fit: a picture is drawn all the same
        plot()
        figure = plt.gcf()
        if len(figure.axes) > 6:  # the contours of three parameters and more
            figure.set_size_inches(12, 10)
        figure.savefig(part, dpi=120, bbox_inches="tight")
        plt.close("all")


def _say(text: str) -> None:
    plt.subplots(figsize=(6, 2))
    plt.axis("off")
    plt.text(0.5, 0.5, text, ha="center", va="center")
