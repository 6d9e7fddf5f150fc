"""Recipes beside the tools that people use (`transfer fetch fer face_api`), all on the same test faces."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from transfer.tables.kinds import ACCURACY, COUNTS, ROW, Cells, Context, Formats, Kind, accuracy_cells, mean_cells
from transfer.tables.text import ACCURACY_CELLS, Section, code, grid, plain

if TYPE_CHECKING:
    import pandas as pd

FORMATS: Formats = {
    **ROW,
    "input": "text",
    **COUNTS,
    **ACCURACY,
    **dict.fromkeys(["mean_class_accuracy", "known_accuracy"], "percent"),
    "known_faces": "count",
    **dict.fromkeys(["parameters", "macs"], "count"),
    **dict.fromkeys(["unknown_classes", "seen", "package"], "text"),
}


def rows(context: Context) -> Iterator[Cells]:
    """Our recipes, then each tool that was fetched, on whole images and on our aligned faces."""
    from transfer.runs.evaluations import read_tool
    from transfer.runs.metrics import frame_metrics
    from transfer.runs.predictions import class_names
    from transfer.sources.table import tools

    for dataset in dict.fromkeys(dataset for dataset, _ in context.runs):
        for names, seeds in context.results():
            if names["dataset"] == dataset:
                size = context.size_cells(dataset, names["recipe"])
                ours = accuracy_cells(seeds)
                ours |= {"known_accuracy": ours["accuracy"], "known_faces": ours["n_faces"], "input": "aligned"}
                yield names | ours | size
                faces = next(iter(seeds.values())).correct.index
        for tool in tools(context.params.raw_dir):
            frame = read_tool(context.layout, dataset, tool, faces)
            about = {key: frame.attrs[key] for key in ("parameters", "macs", "package", "seen")}
            about |= {"unknown_classes": ", ".join(frame.attrs["unknown_classes"])}
            unknown = [class_names(frame).index(name) for name in frame.attrs["unknown_classes"]]
            for shown, part in frame.groupby("input", sort=False):
                found = frame_metrics(part)
                known = part[~part["label"].isin(unknown)]
                names = {"experiment": context.params.experiment, "dataset": dataset, "recipe": tool, "input": shown}
                cells = mean_cells([found["accuracy"]], found["n"])
                cells |= {"mean_class_accuracy": 100 * found["mean_class_accuracy"], "known_faces": len(known)}
                cells |= {"known_accuracy": 100 * frame_metrics(known)["accuracy"]}
                yield names | {"protocol": part["protocol"].iloc[0]} | about | cells


def sections(context: Context, frame: pd.DataFrame) -> list[Section]:
    """Per dataset a line per recipe and per tool and input, and what the tools were trained on."""
    keys = {"recipe or tool": code("recipe"), "input": plain("input", "{}"), "epoch by": code("protocol")}
    cells = ACCURACY_CELLS | {
        "mean class": plain("mean_class_accuracy"),
        "without unknown classes": plain("known_accuracy"),
        "parameters": plain("parameters", "{:,}"),
    }
    found = []
    for name, part in frame.groupby("dataset", sort=False):
        tools = part.dropna(subset="seen").drop_duplicates("recipe")
        notes = [
            f"`{tool}` ({package}): {seen}; it never predicts {unknown or 'a class that we lack'}"
            for tool, package, seen, unknown in tools[["recipe", "package", "seen", "unknown_classes"]].to_numpy()
        ]
        absent = "" if len(tools) else "No tool that knows these classes was fetched (transfer fetch fer face_api)."
        found.append(Section(str(name), absent, *grid(part, keys, cells, by=("recipe", "input")), notes))
    return found


KIND = Kind(
    FORMATS,
    rows,
    "Test accuracy in percent of recipes and of tools that people use, off the shelf, on the same {faces} test faces. "
    "Input: the faces as our runs see them (aligned), or the dataset's whole image. A tool never predicts a class that "
    "it does not know; the accuracy without unknown classes leaves their faces out. Tools are trained elsewhere, on "
    "other labels, and not compared by tests. {statistics}",
    sections,
    tools=True,
)
