"""The pages: self-contained HTML, sortable and filterable, light and dark; everything of strangers is escaped."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from transfer.leaderboard import templates
from transfer.leaderboard.scores import TIERS, Board
from transfer.leaderboard.tasks import Task


class Column(NamedTuple):
    """A column of the ranking: where its value is, how it is written, and what it means."""

    key: str
    head: str
    form: str
    hint: str

    @property
    def title(self) -> str:
        """The head with its unit."""
        return f"{self.head} (%)" if self.form.endswith("%}") else self.head


_PERCENT = "{:.2%}"
COLUMNS = [
    Column("n_seeds", "n", "{}", "Trainings of different seeds; all scores are their means"),
    Column("accuracy", "Accuracy", _PERCENT, "Mean over the seeds, and its standard deviation"),
    Column("ci95", "95 % interval", "", "Over the seeds; of a single run over the faces"),
    Column("protocol", "Selection", "", "How the epoch was selected"),
    Column("weights", "Start", "", "What the training started from: random or pretrained weights"),
    Column("mean_class_accuracy", "Mean class", _PERCENT, "Mean recall of the classes"),
    Column("macro_f1", "Macro F1", _PERCENT, "Mean F1 of the classes"),
    Column("nll", "NLL", "{:.3f}", "Mean negative log-likelihood of the label, in nats"),
    Column("ece", "ECE", _PERCENT, "Expected calibration error, 15 bins"),
    Column("copy_free_accuracy", "Copy-free", _PERCENT, "Accuracy without the faces of which other splits hold a copy"),
    Column("accuracy_clear", "Clear", _PERCENT, "Accuracy where more than 80 % of the votes are the label"),
    Column("accuracy_mixed", "Mixed", _PERCENT, "Accuracy where 60 to 80 % of the votes are the label"),
    Column(
        "accuracy_doubtful", "Doubtful", _PERCENT, "Where at most 60 % of the votes are: fits labels rather than faces"
    ),
    Column(
        "label_fitting",
        "Label fit",
        "{:+.2%}",
        "Doubtful faces: accuracy beyond how often one of the ten taggers gave the label; high values fit labels",
    ),
    Column("corrupted_accuracy", "Corrupted", _PERCENT, "Mean over the corruptions of the robustness table"),
    Column("val_accuracy", "Validation", _PERCENT, "Accuracy on the validation split, where known"),
    Column("selection_gain", "Test gain", "{:+.2%}", "What selecting the epoch on the test faces would add"),
    Column("saw_test", "Saw test", "", "Whether test faces were used to select or to train"),
    Column("attempts", "Attempts", "{:,}", "How often the model was scored on the test faces"),
    Column("parameters", "Parameters", "{:,}", "Number of trained values"),
    Column("macs", "MACs", "{:,}", "Multiplications with additions for one face"),
    Column("train_seconds", "Training s", "{:,.0f}", "Seconds of one training on its hardware"),
    Column("faces_per_second", "Faces/s", "{:,.0f}", "Measured on the machine that the entry's page names"),
]


def pages(boards: Sequence[Board], others: Mapping[str, Task]) -> dict[str, str]:
    """The text of every page by its path; ``others`` are tasks without data here."""
    from jinja2 import DictLoader, Environment, StrictUndefined

    loader = DictLoader({name: getattr(templates, name.upper()) for name in ("base", "index", "task", "entry")})
    environment = Environment(
        autoescape=True, loader=loader, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {"percent": _PERCENT.format, "value": _value, "rank": _rank}
    shared = {"tiers": TIERS, "style": templates.STYLE, "script": templates.SCRIPT}

    def render(template: str, up: str = "", **content: Any) -> str:
        return environment.get_template(template).render(up=up, **shared, **content)

    shown = {column.key for column in COLUMNS}
    found = {"index.html": render("index", boards=boards, others=others)}
    for board in boards:
        tables = {tier: ranking(board, tier) for tier in board.sentences}
        found[f"{board.id}.html"] = render("task", board=board, tables=tables, plot=plot(board))
        for row in board.rows:
            scores = {column.title: cell(row, column) for column in COLUMNS}
            page = render("entry", "../", board=board, row=row, scores=scores, recalls=_recalls(row), shown=shown)
            found[f"entries/{row['name']}.html"] = page
    return found


def ranking(board: Board, tier: str) -> tuple[list[Column], list[tuple[dict[str, Any], list[tuple[str, Any]]]]]:
    """The columns that any row of a tier fills, and for each row its cells: the text, and the value to sort by."""
    rows = [row for row in board.rows if row["tier"] == tier]
    columns = [column for column in COLUMNS if any(cell(row, column)[0] for row in rows)]
    return columns, [(row, [cell(row, column) for column in columns]) for row in rows]


def cell(row: Mapping[str, Any], column: Column) -> tuple[str, Any]:
    """Text and value of a cell; empty where nothing is known."""
    scores = row["scores"]
    if column.key == "ci95":
        low, high = scores["ci95_low"], scores["ci95_high"]
        return f"{100 * low:.1f} to {100 * high:.1f}", low
    value = (scores | row["about"]).get(column.key)
    if value is None or value == "":
        return "", ""
    text = column.form.format(value) if column.form else str(value)
    if column.key == "accuracy" and scores["accuracy_std"] is not None:
        text += f" ± {scores['accuracy_std']:.2%}"
    return text.replace("%", "").strip() if column.form.endswith("%}") else text, value


def _recalls(row: Mapping[str, Any]) -> dict[str, float | None]:
    return {key.removeprefix("recall_"): value for key, value in row["scores"].items() if key.startswith("recall_")}


def _rank(rank: Mapping[str, Any] | None) -> str:
    return "" if rank is None else "–".join(str(place) for place in dict.fromkeys((rank["best"], rank["worst"])))


def _value(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:,.4g}"
    return f"{value:,}" if isinstance(value, int) else str(value)


def plot(board: Board) -> dict[str, Any] | None:
    """Accuracy over the number of parameters: points in a drawing of 640 x 300, and the ticks of both axes."""
    rows = [row for row in board.rows if row["about"].get("parameters") and row["withdrawn"] is None]
    if len(rows) < 2:
        return None
    sizes = [math.log10(row["about"]["parameters"]) for row in rows]
    heights = [row["scores"]["accuracy"] for row in rows]
    left, right = math.floor(min(sizes)), math.ceil(max(sizes) + 1e-9)
    step = next((s for s in (0.01, 0.02, 0.05, 0.1, 0.2) if (max(heights) - min(heights)) / s < 6), 0.25)
    low, high = math.floor(min(heights) / step - 0.2) * step, math.ceil(max(heights) / step + 0.2) * step

    def x(size: float) -> float:
        return round(60 + 560 * (size - left) / (right - left), 1)

    def y(height: float) -> float:
        return round(260 - 240 * (height - low) / (high - low), 1)

    count = round((high - low) / step)
    return {
        "points": [
            {"x": x(size), "y": y(height), "row": row} for size, height, row in zip(sizes, heights, rows, strict=True)
        ],
        "columns": [(x(power), f"{10**power:,}") for power in range(left, right + 1)],
        "lines": [(y(low + i * step), f"{100 * (low + i * step):.0f}") for i in range(count + 1)],
    }
