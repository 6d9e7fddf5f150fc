"""What an experiment's parameters must agree on: names, rates, faces, archives, searches."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from transfer.params.strict import ParamsError

if TYPE_CHECKING:
    from transfer.params.experiment import Params

_STORAGE = re.compile(r"journal|sqlite:///.+|postgresql(\+\w+)?://.+|\$\{\w+\}")
_PASSWORD = re.compile(r"://[^:@/]*:(?!\$\{\w+\}@).*@|[?&]password=(?!\$\{\w+\}(&|$))")


def check(params: Params) -> None:
    """Raise ParamsError, with the path of the key, where values contradict each other or names are unknown."""
    for key, names, defined in (
        ("datasets", params.datasets, params.dataset_definitions),
        ("recipes", params.recipes, params.recipe_definitions),
        ("baseline", [params.baseline], dict.fromkeys(params.recipes)),
        ("searches", params.searches, params.search_definitions),
        ("tables", params.tables, params.table_definitions),
    ):
        for name in names:
            if name not in defined:
                raise ParamsError((key,), f"unknown name '{name}'; allowed: {', '.join(defined)}")
        if len(set(names)) < len(names):
            raise ParamsError((key,), "a name appears twice")
    if len(set(params.seeds)) < len(params.seeds):
        raise ParamsError(("seeds",), "a seed appears twice")
    for table in params.table_definitions:
        _check_table(params, table)
    _check_drawn_archives(params)
    for dataset in params.every_dataset():
        _check_faces(params, dataset)
    for dataset, recipe in dict.fromkeys((dataset, recipe) for dataset, recipe, _ in params.every_run()):
        _check_run(params, dataset, recipe)
    for search in params.searches:
        _check_search(params, search)
    if not _STORAGE.fullmatch(params.search_storage):
        raise ParamsError(("search_storage",), "expected journal, sqlite:///FILE, postgresql://... or ${NAME}")
    if _PASSWORD.search(params.search_storage):
        message = "a password would be written to results/; put ${NAME} in its place and set the variable NAME"
        raise ParamsError(("search_storage",), message)


def _check_table(params: Params, name: str) -> None:
    table, loc = params.table_definitions[name], ("table_definitions", name)
    if table.sweep and table.sweep.recipe not in params.recipe_definitions:
        allowed = ", ".join(params.recipe_definitions)
        raise ParamsError((*loc, "sweep", "recipe"), f"unknown name '{table.sweep.recipe}'; allowed: {allowed}")
    recipes = {**params.recipe_definitions, **params.variants}
    for key, names, defined in (
        ("protocols", table.protocols or [], dict.fromkeys(params.protocols)),
        ("datasets", table.datasets or [], params.dataset_definitions),
        ("recipes", table.recipes or [], recipes),
        ("baseline", [table.baseline] if table.baseline else [], dict.fromkeys(params.table_recipes(name))),
    ):
        for item in names:
            if item not in defined:
                raise ParamsError((*loc, key), f"unknown name '{item}'; allowed: {', '.join(defined)}")


def _check_run(params: Params, dataset: str, recipe: str) -> None:
    run = params.run(dataset, recipe)
    if run.model.mad > 0 and run.model.num_lanets < 2:
        raise ParamsError(
            ("recipe_definitions", recipe),
            f"mad drops one of B LANet maps and needs num_lanets >= 2, but it is {run.model.num_lanets}",
        )
    if run.train.batch_size % run.train.processes:
        raise ParamsError(
            ("train", "processes"),
            f"batch_size {run.train.batch_size} ({dataset}, {recipe}) does not divide evenly among "
            f"{run.train.processes} processes; change one of the two",
        )


def _check_faces(params: Params, dataset: str) -> None:
    faces = params.face_params(dataset)
    own = params.dataset_definitions[dataset].faces.model_fields_set
    for key, wrong, message in (
        (
            "template",
            faces.template == "box" and faces.landmarks == "supplied",
            "box is the box that MTCNN found, and landmarks: supplied has none; use landmarks: mtcnn",
        ),
        (
            "template",
            faces.template == "none" and faces.landmarks == "supplied",
            "none takes the image as it is, without landmarks; use landmarks: mtcnn, which then only describe it",
        ),
        (
            "margin",
            faces.template == "none" and faces.margin > 0,
            "template: none takes the image as it is, without context around it; use margin: 0",
        ),
    ):
        if wrong:
            loc = ("dataset_definitions", dataset) if own & {key, "template", "landmarks"} else ()
            raise ParamsError((*loc, "faces", key), message)


def _check_drawn_archives(params: Params) -> None:
    """Datasets may share a drawn archive, such as two alignments of it, if they agree on what is drawn."""
    drawn: dict[str, tuple[str, Any]] = {}
    for dataset in params.chosen_datasets():
        definition = params.dataset_definitions[dataset]
        if definition.synthetic is not None:
            if definition.reported_as is not None:
                raise ParamsError(
                    ("dataset_definitions", dataset, "reported_as"),
                    "drawn faces do not compare with published numbers; leave it out",
                )
            how = (definition.parser, definition.synthetic, definition.synthetic_scale)
            first, expected = drawn.setdefault(definition.archive, (dataset, how))
            if how != expected:
                raise ParamsError(
                    ("dataset_definitions", dataset, "archive"),
                    f"{definition.archive} is drawn for {first} in another way; use another name, or the same "
                    "parser, synthetic and synthetic_scale",
                )


def _check_search(params: Params, name: str) -> None:
    search = params.search_definitions[name]
    if search.recipe not in params.recipe_definitions:
        allowed = ", ".join(params.recipe_definitions)
        message = f"unknown name '{search.recipe}'; allowed: {allowed}"
        raise ParamsError(("search_definitions", name, "recipe"), message)
    if search.recipe == name:
        message = "a search gives its name to the recipe that it finds, and cannot start from it"
        raise ParamsError(("search_definitions", name, "recipe"), message)
    for dataset in params.datasets:
        lanets = params.run(dataset, search.recipe).model.num_lanets
        if search.space.mad and not search.space.num_lanets and lanets < 2:
            message = f"needs num_lanets >= 2, but recipe {search.recipe} has {lanets} on {dataset}"
            raise ParamsError(("search_definitions", name, "space", "mad"), message)
