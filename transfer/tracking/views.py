"""What MLflow's page of an experiment shows before anybody has chosen anything: a description and a saved view.

The runs' table has no metrics until its columns are chosen by hand. MLflow keeps a saved view in a tag of the
experiment, as its interface writes it (looked up in MLflow 3.17: name, times, and the state, deflated); an interface
that does not know it shows its own columns.
"""

import base64
import json
import time
import zlib

from transfer.tracking.shown import EPOCH

_SEARCH = "/search/"
_ACCURACIES = ("val_selected/test_accuracy", "val_selected/test_mean_class_accuracy", "last/test_accuracy")
_TABLE = [*(f"metrics.`{name}`" for name in (*_ACCURACIES, "test_selected/test_accuracy")), "attributes.`Models`"]
_VALUES = ("model.mad", "model.msad", "model.num_lanets", "sampling.upsample")
_TRIALS = [f"metrics.`{EPOCH}val_accuracy`", *(f"params.`{name}`" for name in _VALUES)]

# Everything but the columns is as the interface has it by itself.
_STATE = {
    "searchFilter": "",
    "orderByKey": "attributes.start_time",
    "orderByAsc": False,
    "startTime": "ALL",
    "lifecycleFilter": "Active",
    "datasetsFilter": [],
    "modelVersionFilter": "All Runs",
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
    """The tags of a new MLflow experiment: its description, and the view ``accuracies`` or ``trials``."""
    if _SEARCH in name:
        experiment, _, searched = name.partition(_SEARCH)
        note = f"Search {searched.partition('/')[0]} of {experiment}: a run per trial, below it one per seed"
        view, columns = "trials", _TRIALS
    else:
        note = "A run per recipe with the means over its seeds, below it a run per seed with its curves"
        view, columns = "accuracies", _TABLE
    now = int(time.time() * 1000)
    state = base64.b64encode(zlib.compress(json.dumps(_STATE | {"selectedColumns": columns}).encode())).decode()
    saved = {"name": view, "createdAt": now, "updatedAt": now, "state": f"deflate;{state}"}
    return {"mlflow.note.content": note, f"mlflow.sharedViewState.{view}": json.dumps(saved)}
