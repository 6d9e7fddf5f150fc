"""A table as text: csv with as many digits as are shown, markdown and LaTeX from the same cells."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import pandas as pd

Format = Literal["percent", "p", "number", "count", "text"]
UNDEFINED = "–"
PROTOCOLS = {
    "last": "the last epoch; nothing is selected",
    "val_selected": "the epoch with the best validation accuracy; validation faces are never tested on",
    "test_selected": "the epoch with the best test accuracy, the field's custom; it flatters, and is here only to be "
    "comparable with papers",
}
_DIGITS = {"percent": 2, "number": 4}


@dataclass(frozen=True)
class Section:
    """A part of a table, such as one dataset: a text, the cells below their heads, and notes."""

    title: str
    text: str
    head: list[str]
    rows: list[list[str]]
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Table:
    """A table: what the csv holds, one row per number, and what readers see."""

    title: str
    frame: pd.DataFrame
    formats: dict[str, Format]
    """How the columns of the csv are written."""
    header: list[str]
    """Paragraphs above it: what was measured, by which test, over how many seeds."""
    sections: list[Section]


def rounded(frame: pd.DataFrame, formats: Mapping[str, Format]) -> pd.DataFrame:
    """``frame`` with the columns of ``formats``, in their order and with as many digits as are shown."""
    frame = frame.reindex(columns=list(formats))
    for column, kind in formats.items():
        if kind in _DIGITS:
            frame[column] = frame[column].astype(float).round(_DIGITS[kind]) + 0.0  # turns -0.0 into 0.0
        elif kind == "p":
            frame[column] = [float(f"{p:.4g}") for p in frame[column].astype(float)]
        elif kind == "count":
            frame[column] = frame[column].astype("Int64")
    return frame


def to_csv(frame: pd.DataFrame, formats: Mapping[str, Format]) -> str:
    """Csv text: two decimals in percent columns, four in numbers, four significant in p-values; empty if undefined."""
    write: dict[str, Callable[[float], str]] = {
        "percent": "{:.2f}".format,
        "number": "{:.4f}".format,
        "p": "{:.4g}".format,
    }
    text = frame.copy()
    for column, kind in formats.items():
        if kind in write:
            text[column] = ["" if pd.isna(value) else write[kind](value) for value in frame[column]]
    return text.to_csv(index=False, lineterminator="\n")


def grid(
    rows: pd.DataFrame,
    keys: Mapping[str, Callable[[pd.Series], str]],
    cells: Mapping[str, Callable[[pd.Series], str]],
    across: str | None = None,
    by: Sequence[str] = ("recipe",),
) -> tuple[list[str], list[list[str]]]:
    """Heads and cells: a line per value of ``by``, with its ``keys`` and, for each value of ``across``, ``cells``.

    The first cell of each value of ``across`` has that value in its head, beside its own name where it is not the
    accuracy; the others have their own.
    """
    values = [None] if across is None else list(dict.fromkeys(rows[across]))
    head = list(keys)
    for value in values:
        first, *others = cells
        named = "" if first in ("accuracy", "value") else f"{first} "
        head += [first if value is None else f"{named}`{value}`", *others]
    lines = []
    for _, group in rows.groupby(list(by), sort=False, dropna=False):
        line = [key(group.iloc[0]) for key in keys.values()]
        for value in values:
            found = group if value is None else group[group[across] == value]
            line += [cell(found.iloc[0]) if len(found) else UNDEFINED for cell in cells.values()]
        lines.append(line)
    return head, lines


def code(column: str) -> Callable[[pd.Series], str]:
    """Cell: the column's value as a name."""
    return lambda row: UNDEFINED if pd.isna(row[column]) else f"`{row[column]}`"


def count(column: str) -> Callable[[pd.Series], str]:
    """Cell: a whole number."""
    return lambda row: UNDEFINED if pd.isna(row[column]) else f"{int(row[column]):,}"


def plain(column: str, template: str = "{:.2f}") -> Callable[[pd.Series], str]:
    """Cell: the column's value through a format."""
    return lambda row: UNDEFINED if pd.isna(row[column]) else template.format(row[column])


def mean(column: str, template: str = "{:.2f}") -> Callable[[pd.Series], str]:
    """Cell: mean ± standard deviation (number of seeds) of ``column`` and ``column``_std."""

    def cell(row: pd.Series) -> str:
        if pd.isna(row[column]):
            return UNDEFINED
        spread = "" if pd.isna(row[f"{column}_std"]) else f" ± {template.format(row[f'{column}_std'])}"
        return f"{template.format(row[column])}{spread} (n={row['n_seeds']})"

    return cell


def interval(low: str, high: str, template: str = "{:.2f}") -> Callable[[pd.Series], str]:
    """Cell: an interval."""
    return lambda row: (
        UNDEFINED if pd.isna(row[low]) else f"{template.format(row[low])} to {template.format(row[high])}"
    )


def to_markdown(table: Table) -> str:
    """The table as markdown."""
    lines = [f"# {table.title}"]
    for paragraph in table.header:
        lines += ["", paragraph]
    for section in table.sections:
        lines += ["", f"## {section.title}"] + (["", section.text] if section.text else [])
        cells = [section.head, ["---", *["---:"] * (len(section.head) - 1)], *section.rows]
        lines += ["", *("| " + " | ".join(row) + " |" for row in cells)]
        for note in section.notes:
            lines += ["", note]
    return "\n".join(lines) + "\n"


def to_latex(table: Table) -> str:
    """The table as LaTeX, a `table` environment per section; needs the packages booktabs and graphicx."""
    lines = [f"% {table.title}", "% \\usepackage{booktabs,graphicx}"]
    for section in table.sections:
        columns = "l" + "r" * (len(section.head) - 1)
        lines += ["", "\\begin{table}", "\\centering", "\\resizebox{\\linewidth}{!}{%"]
        lines += [f"\\begin{{tabular}}{{{columns}}}", "\\toprule", _latex_row(section.head), "\\midrule"]
        lines += [_latex_row(row) for row in section.rows]
        lines += ["\\bottomrule", "\\end{tabular}}"]
        said = [f"{table.title}: {section.title}.", section.text, *table.header, *section.notes]
        lines += [f"\\caption{{{_latex(' '.join(filter(None, said)))}}}", "\\end{table}"]
    return "\n".join(lines) + "\n"


_LATEX = {
    "\\": "\\textbackslash{}",
    "&": "\\&",
    "%": "\\%",
    "#": "\\#",
    "$": "\\$",
    "_": "\\_",
    "{": "\\{",
    "}": "\\}",
    "~": "\\textasciitilde{}",
    "^": "\\textasciicircum{}",
    "<": "$<$",
    ">": "$>$",
    "±": "$\\pm$",
    "Δ": "$\\Delta$",
    "–": "--",
    "×": "$\\times$",
    "°": "$^\\circ$",
    "−": "$-$",
}


def _latex(text: str) -> str:
    """Markdown's few marks (code, bold, line items, escaped asterisks) and all special characters, for LaTeX."""
    text = text.replace("\\*", "*").replace("\n- ", " ").replace("\n", " ")
    text = "".join(_LATEX.get(character, character) for character in text)
    text = re.sub(r"`([^`]*)`", r"\\texttt{\1}", text)
    return re.sub(r"\*\*([^*]+)\*\*", r"\\textbf{\1}", text)


def _latex_row(cells: Sequence[str]) -> str:
    return " & ".join(_latex(cell) for cell in cells) + " \\\\"


def protocols_paragraph(protocols: Sequence[str]) -> str:
    """What the protocols of a table are."""
    return "\n".join(["How the epoch was chosen:", "", *(f"- `{name}`: {PROTOCOLS[name]}" for name in protocols)])


def statistics_paragraph(frame: pd.DataFrame) -> str:
    """What the intervals and p-values of a table are, by its numbers of seeds."""
    counts = sorted(set(frame["n_seeds"]))
    one = (
        "One seed (n=1), so there is no standard deviation: the interval is Wilson's 95 % over the test faces, and "
        "p is the exact McNemar test over the faces. Neither says how much another seed would change."
    )
    several = (
        f"Each accuracy is the mean ± standard deviation over {' or '.join(str(n) for n in counts if n > 1)} seeds, "
        "never their maximum. The interval is Student's t 95 % of the mean over seeds, and p is the paired t test over "
        "the seeds' differences, with the same seeds and the same test faces on both sides. Neither covers the choice "
        "of the test faces."
    )
    faces = " and ".join(f"{n:,}" for n in dict.fromkeys(frame["n_faces"]))
    return " ".join([*([several] if max(counts) > 1 else []), *([one] if min(counts) == 1 else []), f"Faces: {faces}."])
