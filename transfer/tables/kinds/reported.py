"""Published accuracies (params/reported.yaml) next to ours: measured | reported."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

from pydantic import Field, StringConstraints, model_validator

from transfer.params import ParamsError, Strict
from transfer.params.read import read_model
from transfer.tables.kinds import COUNTS, INTERVAL, Cells, Context, Formats, Kind, accuracy_cells
from transfer.tables.text import UNDEFINED, Section, grid, interval, mean, plain
from transfer.utils.text import in_markdown

if TYPE_CHECKING:
    import pandas as pd

REPORTED = Path("params/reported.yaml")
UNCITED = "uncited"
_Text = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1)]


class Reported(Strict):
    """A published accuracy (percent), with its source and how far that source was checked."""

    method: _Text
    year: int = Field(ge=2000, le=2100)
    dataset: Literal["rafdb", "ferplus", "affectnet7", "affectnet8"]
    recipe: _Text | None = None
    accuracy: float = Field(gt=0, le=100)
    protocol: Literal["val_selected", "test_selected", "unknown"]
    paper: Annotated[str, StringConstraints(pattern=r"^(arXiv:\d{4}\.\d{4,5}|doi:10\.\d+/\S+|https://\S+)$")]
    source: _Text | None = None
    """The document in which the number was read, that others can cite; None: uncited."""
    status: Literal["confirmed", "second-hand"]
    evidence: _Text | None = None
    """Where the authors' code or log shows the protocol."""
    remark: _Text | None = None
    doubt: _Text | None = None
    """What speaks against the number, and where that stands."""

    @model_validator(mode="after")
    def _is_founded(self) -> Self:
        if self.source is None and self.status == "confirmed":
            raise ParamsError(("source",), "confirmed without a source; name the document in which it was read")
        if (self.evidence is None) != (self.protocol == "unknown"):
            raise ParamsError(("evidence",), "a protocol and its evidence come together; without it: unknown")
        return self

    @property
    def url(self) -> str:
        """The address of the paper."""
        kind, _, number = self.paper.partition(":")
        return {"arXiv": f"https://arxiv.org/abs/{number}", "doi": f"https://doi.org/{number}"}.get(kind, self.paper)

    @property
    def said(self) -> str:
        """Source, remark and doubt in a line."""
        source = f"{self.status}: {self.source or UNCITED}"
        return "; ".join(filter(None, [source, self.remark, self.doubt and f"doubted: {self.doubt}"]))


class ReportedFile(Strict):
    """The content of params/reported.yaml."""

    reported: list[Reported]

    @model_validator(mode="after")
    def _has_a_cell_once(self) -> ReportedFile:
        cells: dict[tuple[str, str], int] = {}
        for number, row in enumerate(self.reported):
            if row.recipe and (first := cells.setdefault((row.dataset, row.recipe), number)) != number:
                message = f"recipe {row.recipe} on {row.dataset} is also reported.{first}; keep one of them"
                raise ParamsError(("reported", number), message)
        return self


def load_reported(path: Path = REPORTED) -> list[Reported]:
    """Read the published numbers. Raises UserError: file, line, entry (counted from 0) and what is allowed."""
    return read_model(path, ReportedFile).reported


FORMATS: Formats = {
    **dict.fromkeys(["experiment", "dataset", "method"], "text"),
    "year": "count",
    "protocol": "text",
    **COUNTS,
    **dict.fromkeys(["measured", "measured_std"], "percent"),
    **INTERVAL,
    "reported": "percent",
    **dict.fromkeys(["status", "paper", "source", "evidence", "remark", "doubt"], "text"),
}
_FREE_TEXT = ("method", "paper", "source", "evidence", "remark", "doubt")
_FAMILIES = {"rafdb": "RAF-DB", "ferplus": "FERPlus", "affectnet7": "AffectNet, 7 classes"}
_FAMILIES |= {"affectnet8": "AffectNet, 8 classes"}


def rows(context: Context) -> Iterator[Cells]:
    """Our accuracies, then the published ones, the highest first."""
    for names, seeds in context.results():
        cells = accuracy_cells(seeds)
        cells |= {"measured": cells["accuracy"], "measured_std": cells["accuracy_std"], "status": "measured"}
        yield names | cells | {"method": f"ours: {names['recipe']}"}
    for entry in sorted(load_reported(), key=lambda entry: -entry.accuracy):
        cells = entry.model_dump(exclude={"recipe", "accuracy"}) | {"reported": entry.accuracy}
        yield cells if entry.source else cells | {"status": UNCITED}


def sections(context: Context, frame: pd.DataFrame) -> list[Section]:
    """Per leaderboard our comparable accuracies and the published ones; other datasets by themselves."""
    definitions = context.params.dataset_definitions
    ours = {name: definitions[name].reported_as or name for name in context.params.table_datasets(context.name)}
    families = frame["dataset"].where(frame["status"] != "measured", frame["dataset"].map(ours))
    found = []
    for family in dict.fromkeys([*_FAMILIES, *families]):
        part = frame[families == family]
        text = "" if family in _FAMILIES else "No published number is comparable with this dataset."
        title, uncited = _FAMILIES.get(family, family), part["status"] == UNCITED
        if len(cited := part[~uncited]):
            found.append(_section(title, text, cited))
        if uncited.any():
            text = "Quoted by others; no document in which the number stands was read. The paper is where to look."
            found.append(_section(f"{title}: uncited", text, part[uncited]))
    return found


def _section(title: str, text: str, rows: pd.DataFrame) -> Section:
    rows = rows.assign(**{name: rows[name].map(in_markdown, na_action="ignore") for name in _FREE_TEXT})
    sources = list(dict.fromkeys(rows["source"].dropna()))

    def source(row: Mapping[str, Any]) -> str:
        if row["status"] == "measured":
            return UNDEFINED
        read = f"{row['status']} [{sources.index(row['source']) + 1}]" if row["source"] else None
        doubt = row["doubt"] and f"doubted: {row['doubt']}"
        return "; ".join(filter(None, [row["paper"], read, row["remark"], doubt]))

    keys = {"method": plain("method", "{}"), "year": plain("year", "{}"), "protocol": plain("protocol", "`{}`")}
    cells = {"measured": mean("measured"), "95 %": interval(), "reported": plain("reported"), "source": source}
    head, lines = grid(rows.assign(line=range(len(rows))), keys, cells, by=("line",))
    return Section(title, text, head, lines, [f"[{i}] {name}" for i, name in enumerate(sources, 1)])


KIND = Kind(
    FORMATS,
    rows,
    "Test accuracy in percent. Measured: mean ± standard deviation over seeds; the interval is Student's t 95 % "
    "over seeds, or Wilson's over the faces for a single seed. Reported: published by the authors of a method, as "
    "a rule a single run; `confirmed` was read in the method's own paper, code or log, `second-hand` in others' "
    "lists or notes, and of `uncited` numbers no document was read. The protocol is what the authors' code shows "
    "(`evidence` in the csv says where), else unknown; the best epoch on the test set is customary.",
    sections,
    inputs=(REPORTED.as_posix(),),
)
