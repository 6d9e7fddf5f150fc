"""A table as text: csv with as many digits as are shown; Markdown, LaTeX and HTML from the same cells."""

from __future__ import annotations

import html
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from transfer.utils.text import from_markdown

if TYPE_CHECKING:
    import pandas as pd

Format = Literal["percent", "p", "number", "count", "text"]
Cell = Callable[[Mapping[str, Any]], str]
"""Makes the text of a cell from a row, in which None is undefined."""
UNDEFINED = "–"
PROTOCOLS = {
    "last": "the last epoch; nothing is selected",
    "val_selected": "the epoch with the best validation accuracy; validation faces are never tested on",
    "test_selected": "the epoch with the best test accuracy, as is customary in the field; optimistic, and included "
    "only for comparison with published numbers",
}


@dataclass(frozen=True)
class Section:
    """A section of a table, such as one dataset."""

    title: str
    text: str
    head: list[str]
    rows: list[list[str]]
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Table:
    """A table: the rows of the csv with their formats, and what readers see."""

    title: str
    frame: pd.DataFrame
    formats: dict[str, Format]
    header: list[str]
    """Paragraphs above the table: what was measured, by which test, over how many seeds."""
    sections: list[Section]


_DECIMALS = {"percent": 2, "number": 4}
_WRITTEN = {"percent": "{:.2f}", "number": "{:.4f}", "p": "{:.4g}"}


def rounded(frame: pd.DataFrame, formats: Mapping[str, Format]) -> pd.DataFrame:
    """Return ``frame`` with the columns of ``formats``, in their order and with as many digits as are shown."""
    frame = frame.reindex(columns=list(formats))
    for column, kind in formats.items():
        if kind in _DECIMALS:
            frame[column] = frame[column].astype(float).round(_DECIMALS[kind]) + 0.0  # turns -0.0 into 0.0
        elif kind == "p":
            frame[column] = [float(f"{p:.4g}") for p in frame[column].astype(float)]
        elif kind == "count":
            frame[column] = frame[column].astype("Int64")
    return frame


def to_csv(frame: pd.DataFrame, formats: Mapping[str, Format]) -> str:
    """Return csv text with the digits of each format; undefined cells are empty."""
    written = {
        column: frame[column].map(_WRITTEN[kind].format, na_action="ignore").astype(object)
        for column, kind in formats.items()
        if kind in _WRITTEN
    }
    return frame.assign(**written).to_csv(index=False, lineterminator="\n")


def grid(
    rows: pd.DataFrame,
    keys: Mapping[str, Cell],
    cells: Mapping[str, Cell],
    across: str | None = None,
    by: Sequence[str] = ("recipe",),
) -> tuple[list[str], list[list[str]]]:
    """Return heads and lines: a line per value of ``by``, with its ``keys`` and, per value of ``across``, ``cells``."""
    records = rows.astype(object).where(rows.notna(), None).to_dict("records")
    values = list(dict.fromkeys(record[across] for record in records)) if across else [None]
    first, *others = cells
    name = "" if first in ("", "accuracy", "value") else f"{first} "
    head = [*keys, *(title for value in values for title in (f"{name}`{value}`" if across else first, *others))]
    groups: dict[tuple[Any, ...], dict[Any, Mapping[Any, Any]]] = {}
    for record in records:
        groups.setdefault(tuple(record[column] for column in by), {}).setdefault(across and record[across], record)
    lines = []
    for group in groups.values():
        line = [key(next(iter(group.values()))) for key in keys.values()]
        for value in values:
            line += [cell(group[value]) if value in group else UNDEFINED for cell in cells.values()]
        lines.append(line)
    return head, lines


def by_dataset(
    keys: Mapping[str, Cell],
    cells: Mapping[str, Cell],
    across: str | None = None,
    by: Sequence[str] = ("recipe",),
    title: str = "{}",
) -> Callable[[Any, pd.DataFrame], list[Section]]:
    """Return a function that makes a section with the ``grid`` of each dataset."""
    return lambda context, frame: [
        Section(title.format(name), "", *grid(part, keys, cells, across, by))
        for name, part in frame.groupby("dataset", sort=False)
    ]


def plain(column: str, template: str = "{:.2f}") -> Cell:
    """Cell: the column's value through a format."""
    return lambda row: UNDEFINED if row[column] is None else template.format(row[column])


def code(column: str) -> Cell:
    """Cell: the column's value as a name."""
    return plain(column, "`{}`")


def count(column: str) -> Cell:
    """Cell: a whole number."""
    return plain(column, "{:,}")


def spread(value: float, std: float | None, template: str = "{:.2f}") -> str:
    """Mean ± standard deviation, which is None or NaN for a single seed."""
    return template.format(value) + ("" if std is None or std != std else f" ± {template.format(std)}")


def mean(column: str, template: str = "{:.2f}", n: bool = True) -> Cell:
    """Cell: mean ± standard deviation of ``column`` and ``column``_std, with the number of seeds for ``n``."""

    def cell(row: Mapping[str, Any]) -> str:
        if row[column] is None:
            return UNDEFINED
        return spread(row[column], row[f"{column}_std"], template) + (f" (n={row['n_seeds']})" if n else "")

    return cell


def interval(low: str = "ci95_low", high: str = "ci95_high", template: str = "{:.2f}") -> Cell:
    """Cell: an interval."""
    return lambda row: UNDEFINED if row[low] is None else f"{template} to {template}".format(row[low], row[high])


ACCURACY_CELLS: dict[str, Cell] = {"accuracy": mean("accuracy"), "95 %": interval()}


def to_markdown(table: Table) -> str:
    """Return the table as Markdown, numbers to the right."""
    paragraphs = [f"# {table.title}", *table.header]
    for section in table.sections:
        lines = [section.head, ["---", *["---:"] * (len(section.head) - 1)], *section.rows]
        cells = "\n".join(f"| {' | '.join(line)} |" for line in lines)
        paragraphs += [f"## {section.title}", section.text, cells, *section.notes]
    return "\n\n".join(filter(None, paragraphs)) + "\n"


_STYLE = """
body { font: 14px/1.5 sans-serif; margin: 1.5em; color: #222; background: #fff; }
table { border-collapse: collapse; margin: 1em 0; }
th, td { padding: 0.2em 0.7em; border-bottom: 1px solid #ddd; text-align: right; white-space: nowrap; }
th:first-child, td:first-child { text-align: left; }
th { border-bottom: 2px solid #444; }
"""


def to_html(title: str, markdown: str) -> str:
    """Return a self-contained page of a table's Markdown, for Snakemake's report and for any browser."""
    from markdown_it import MarkdownIt

    body = MarkdownIt("commonmark", {"html": False}).enable("table").render(markdown)
    head = f'<meta charset="utf-8"><title>{html.escape(from_markdown(title))}</title><style>{_STYLE}</style>'
    return f'<!DOCTYPE html>\n<html lang="en"><head>{head}</head>\n<body>\n{body}</body></html>\n'


def to_latex(table: Table) -> str:
    """Return the table as LaTeX, a `table` environment per section; needs the packages booktabs and graphicx."""
    lines = [f"% {table.title}", "% \\usepackage{booktabs,graphicx}"]
    for section in table.sections:
        head, *rows = (" & ".join(map(_latex, cells)) + " \\\\" for cells in [section.head, *section.rows])
        caption = [f"{table.title}: {section.title}.", section.text, *table.header, *section.notes]
        lines += ["", "\\begin{table}", "\\centering", "\\resizebox{\\linewidth}{!}{%"]
        lines += [f"\\begin{{tabular}}{{l{'r' * (len(section.head) - 1)}}}", "\\toprule", head, "\\midrule", *rows]
        lines += ["\\bottomrule", "\\end{tabular}}", f"\\caption{{{_latex(' '.join(filter(None, caption)))}}}"]
        lines.append("\\end{table}")
    return "\n".join(lines) + "\n"


_LATEX = str.maketrans(
    {character: f"\\{character}" for character in "&%#$_{}"}
    | {"\\": "\\textbackslash{}", "~": "\\textasciitilde{}", "^": "\\textasciicircum{}", "<": "$<$", ">": "$>$"}
    | {"±": "$\\pm$", "Δ": "$\\Delta$", "–": "--", "×": "$\\times$", "°": "$^\\circ$", "−": "$-$"}
)


def _latex(text: str) -> str:
    text = from_markdown(text).replace("\n- ", " ").replace("\n", " ").translate(_LATEX)
    text = re.sub(r"`([^`]*)`", r"\\texttt{\1}", text)
    return re.sub(r"\*\*([^*]+)\*\*", r"\\textbf{\1}", text)


def protocols_paragraph(protocols: Sequence[str]) -> str:
    """Return what the protocols of a table are."""
    return "\n".join(["Selection of the epoch:", "", *(f"- `{name}`: {PROTOCOLS[name]}" for name in protocols)])


def statistics_paragraph(frame: pd.DataFrame) -> str:
    """Return what the intervals and p-values of a table are, by its numbers of seeds."""
    counts = sorted(set(frame["n_seeds"]))
    several = (
        f"Each accuracy is the mean ± standard deviation over {' or '.join(str(n) for n in counts if n > 1)} seeds, "
        "never their maximum. The interval is Student's t 95 % of the mean over seeds; p is the paired t test of "
        "the seeds' differences, with the same seeds and the same test faces on both sides. Neither covers the choice "
        "of the test faces."
    )
    one = (
        "One seed (n=1): there is no standard deviation; the interval is Wilson's 95 % over the test faces, and "
        "p is the exact McNemar test over the faces. Neither says how much another seed would change."
    )
    paragraphs = [*([several] if counts[-1] > 1 else []), *([one] if counts[0] == 1 else [])]
    return " ".join([*paragraphs, f"Test faces: {faces_text(frame)}."])


def faces_text(frame: pd.DataFrame) -> str:
    """Return the numbers of test faces of a table."""
    return " and ".join(f"{n:,}" for n in dict.fromkeys(frame["n_faces"].dropna()))
