"""What MLflow's page of an experiment offers before anybody has chosen anything: a description, and saved views.

Without, its table of runs has no metrics until columns are chosen by hand. MLflow keeps a saved view in a tag of the
experiment, as its interface writes it (looked up in MLflow 3.17: name, times, and the state, deflated); an interface
that does not know them shows what it shows by itself.
"""

import base64
import json
import time
import zlib
from typing import Any

from transfer.tracking.shown import EPOCH

_SEARCH = "/search/"
_ACCURACIES = [f"metrics.`{protocol}/test_accuracy`" for protocol in ("last", "val_selected", "test_selected")]
_VALUES = [f"params.`{name}`" for name in ("model.mad", "model.msad", "model.num_lanets", "sampling.upsample")]
_WIDE, _NARROW = 210, 160  # pixels, for the names of the metrics and of the parameters
_ALWAYS = ["attributes.`Run Name`", "runDateAndNestInfo"]

_DEFAULT = {
    "searchFilter": "",
    "orderByKey": "attributes.start_time",
    "orderByAsc": False,
    "startTime": "ALL",
    "lifecycleFilter": "Active",
    "datasetsFilter": [],
    "modelVersionFilter": "All Runs",
    "selectedColumns": [],
    "columnOrder": [],
    "columnWidths": {},
    "runsHiddenMode": "FIRST_10_RUNS",
    "viewMaximized": False,
    "runListHidden": False,
    "isAccordionReordered": False,
    "useGroupedValuesInCharts": True,
    "hideEmptyCharts": True,
    "groupBy": None,
    "groupsExpanded": {},
    "globalLineChartConfig": {"xAxisKey": "step", "lineSmoothness": 0, "selectedXAxisMetricKey": ""},
}


def experiment_tags(name: str) -> dict[str, str]:
    """The tags of a new MLflow experiment: its description, and its views.

    Of trainings ``accuracies``, by protocol, and ``curves``, the means over a recipe's seeds; of a search ``trials``.
    """
    accuracy = f"metrics.`{EPOCH}val_accuracy`"
    # In another order than by time MLflow shows no parents: seeds alone, which have what is to be seen.
    seeds = {"searchFilter": "tags.seed != ''", "orderByKey": accuracy}
    if _SEARCH in name:
        experiment, _, searched = name.partition(_SEARCH)
        note = f"Search {searched.partition('/')[0]} of {experiment}: a run per trial, below it one per seed"
        widths = {accuracy: _WIDE} | dict.fromkeys(_VALUES, _NARROW)
        views = {"trials": seeds | _columns(widths)}
    else:
        note = "A run per recipe with the means over its seeds, below it a run per seed with its curves"
        widths = dict.fromkeys(_ACCURACIES, _WIDE)
        group = {"aggregateFunction": "average", "groupByKeys": [{"mode": "tag", "groupByData": "recipe"}]}
        views = {
            "accuracies": _columns(widths),
            "curves": seeds | {"groupBy": group, "selectedColumns": _ACCURACIES},
        }
    return {"mlflow.note.content": note} | {
        f"mlflow.sharedViewState.{view}": _saved(view, views[view]) for view in views
    }


def _columns(widths: dict[str, int]) -> dict[str, Any]:
    """Columns behind those that are always there; MLflow takes the widths of columns whose order it is given."""
    order = [*_ALWAYS, *widths, "duration"]
    return {"selectedColumns": list(widths), "columnOrder": order, "columnWidths": widths}


def _saved(name: str, changes: dict[str, Any]) -> str:
    state = base64.b64encode(zlib.compress(json.dumps(_DEFAULT | changes).encode())).decode()
    now = int(time.time() * 1000)
    return json.dumps({"name": name, "createdAt": now, "updatedAt": now, "state": f"deflate;{state}"})
