"""The whole configuration of an experiment: which datasets, recipes, seeds and tables, and what follows from them."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Iterable, Iterator
from functools import cached_property
from typing import Annotated, Any, TypeVar

from pydantic import Field, ValidationError, model_validator

from transfer.params.base import Folder, Name, ParamsError, Protocol, Seeds, Strict, is_transfer, merged, owner
from transfer.params.datasets import DatasetDefinition, FaceParams, SamplingParams
from transfer.params.recipes import (
    LANETS,
    MAD,
    PARTS,
    RecipeDefinition,
    RecipeOnDataset,
    RunParams,
    varied,
    with_values,
)
from transfer.params.search import SearchDefinition
from transfer.params.tables import TableDefinition
from transfer.params.train import ModelParams, RobustnessParams, TrainParams
from transfer.utils.errors import choices

T = TypeVar("T")


class Params(Strict):
    """The whole configuration of an experiment."""

    experiment: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]*$", max_length=64)]
    """Name of the experiment; its files are in results/<experiment>/."""
    raw_dir: Folder = "data/raw"
    """Folder of the datasets' archives."""
    datasets: Annotated[list[Name], Field(min_length=1)]
    """The datasets of this experiment, by name."""
    recipes: Annotated[list[Name], Field(min_length=1)]
    """The recipes of this experiment, by name."""
    baseline: Name = "baseline"
    """The recipe that the others are compared with."""
    seeds: Seeds
    """Seeds of the runs."""
    protocols: Annotated[list[Protocol], Field(min_length=1)] = ["last", "val_selected", "test_selected"]
    """How the reported epoch is selected: one row of the table each."""
    faces: FaceParams = FaceParams()
    sampling: SamplingParams = SamplingParams()
    model: ModelParams = ModelParams()
    train: TrainParams = TrainParams()
    robustness: RobustnessParams = RobustnessParams()
    tracking: bool = True
    """Log the runs to MLflow while they train."""
    searches: list[Name] = []
    """The searches of `snakemake search`, by name."""
    tables: list[Name] = ["table1"]
    """The tables of `snakemake tables`, by name; other defined tables are made by their file names."""
    search_storage: str = "journal"
    """Storage of the studies: journal (a file of the experiment), sqlite:///FILE or postgresql://USER@HOST/DATABASE.
    ${NAME} is replaced by an environment variable; use it for passwords."""
    dataset_definitions: dict[Name, DatasetDefinition]
    recipe_definitions: dict[Name, RecipeDefinition]
    search_definitions: dict[Name, SearchDefinition] = {}
    table_definitions: dict[Name, TableDefinition] = {"table1": TableDefinition(kind="recipes")}

    @model_validator(mode="after")
    def _is_consistent(self) -> Params:
        check(self)
        return self

    @property
    def checkpoint_protocol(self) -> Protocol:
        """The protocol whose epoch is saved as model.safetensors."""
        return "val_selected" if "val_selected" in self.protocols else "last"

    @cached_property
    def variants(self) -> dict[str, RecipeDefinition]:
        """The recipes of the tables' sweeps, by name."""
        found = {}
        for table, definition in self.table_definitions.items():
            sweep = definition.sweep
            if sweep and sweep.recipe in self.recipe_definitions:
                for name, values in sweep.recipes().items():
                    try:
                        found[name] = varied(self.recipe_definitions[sweep.recipe], values)
                    except ValidationError as error:
                        first = error.errors()[0]
                        loc = ("table_definitions", table, "sweep", "over")
                        raise ParamsError(loc, f"{values}: {first['msg']}") from None
        return found

    def recipe(self, name: str) -> RecipeDefinition:
        return self.variants[name] if name in self.variants else self.recipe_definitions[name]

    def table_datasets(self, name: str) -> list[str]:
        return self.table_definitions[name].datasets or self.datasets

    def table_recipes(self, name: str) -> list[str]:
        table = self.table_definitions[name]
        return list(table.sweep.recipes()) if table.sweep else table.recipes or self.recipes

    def table_seeds(self, name: str) -> list[int]:
        return self.table_definitions[name].seeds or self.seeds

    def table_baseline(self, name: str) -> str:
        return self.table_definitions[name].baseline or self.baseline

    def table_runs(self, name: str, dataset: str | None = None) -> list[tuple[str, str, int]]:
        """The runs of a table, on all its datasets or on one: dataset, recipe, seed."""
        datasets = self.table_datasets(name) if dataset is None else [dataset]
        return list(itertools.product(datasets, self.table_recipes(name), self.table_seeds(name)))

    def runs(self) -> list[tuple[str, str, int]]:
        """The experiment's own runs: dataset, recipe, seed."""
        return list(itertools.product(self.datasets, self.recipes, self.seeds))

    def selected_runs(self) -> list[tuple[str, str, int]]:
        """Those of the experiment and of the selected tables."""
        return _once(self.runs(), *map(self.table_runs, self.tables))

    def selected_datasets(self) -> list[str]:
        return _once(dataset for dataset, _, _ in self.selected_runs())

    def all_runs(self) -> list[tuple[str, str, int]]:
        """Those of the experiment and of all defined tables, as are the following."""
        return _once(self.runs(), *map(self.table_runs, self.table_definitions))

    def all_datasets(self) -> list[str]:
        return _once(self.datasets, *map(self.table_datasets, self.table_definitions))

    def all_recipes(self) -> list[str]:
        return _once(self.recipes, *map(self.table_recipes, self.table_definitions))

    def face_params(self, dataset: str) -> FaceParams:
        return merged(self.faces, self.dataset_definitions[dataset].faces)

    def sampling_params(self, dataset: str) -> SamplingParams:
        """Split and class balancing of ``dataset``, before a recipe's override."""
        return merged(self.sampling, self.dataset_definitions[dataset].sampling)

    def run(self, dataset: str, recipe: str) -> RunParams:
        """The resolved parameters of a run: the experiment's blocks, then the dataset's, then the recipe's."""
        if (dataset, recipe) in self._resolved:
            return self._resolved[dataset, recipe]
        data, rec = self.dataset_definitions[dataset], self.recipe(recipe)
        here = rec.datasets.get(dataset, RecipeOnDataset())
        upsample = here.upsample or rec.upsample
        self._resolved[dataset, recipe] = resolved = RunParams(
            model=_model(rec, self.model, data.model, rec.model, here.model),
            train=merged(self.train, data.train, rec.train, here.train),
            sampling=merged(self.sampling, data.sampling, {"upsample": upsample} if upsample else {}),
        )
        return resolved

    def trials(self) -> Iterator[tuple[str, str, dict[str, Any], RunParams]]:
        """Search, dataset, values and run of the trials at the ends of the searches' spaces."""
        for name in self.searches:
            search = self.search_definitions[name]
            for dataset, values in itertools.product(self.datasets, search.ends()):
                recipe = with_values(self.recipe_definitions[search.recipe], dataset, values)
                trial = self.model_copy(update={"recipe_definitions": self.recipe_definitions | {name: recipe}})
                yield name, dataset, values, trial.run(dataset, name)

    @cached_property
    def _resolved(self) -> dict[tuple[str, str], RunParams]:
        return {}


def _model(recipe: RecipeDefinition, *blocks: Strict) -> ModelParams:
    """The model of a recipe, from the blocks of the experiment, the dataset, the recipe, and the recipe there.

    Arguments belong to one model: a block that names another one starts without those of the blocks before it.
    """
    given = [block.model_dump(exclude_unset=True) for block in blocks]
    names = [ModelParams().name]
    for number, block in enumerate(given):
        names.append(block.pop("name", names[-1]))
        if owner({"name": names[-1]}) != owner({"name": names[-2]}):
            for before in given[:number]:
                before.pop("args", None)
    if is_transfer(names[-1]):
        off: dict[str, Any] = {} if recipe.local_cnns else {"num_lanets": 0}
        off |= {part: 0.0 for part in ("mad", "msad") if not getattr(recipe, part)}
        given = [{"args": PARTS}, *given[:2], {"args": off}, *given[2:]]
    return merged(ModelParams(name=names[-1]), *given)


def _once(*several: Iterable[T]) -> list[T]:
    return list(dict.fromkeys(itertools.chain(*several)))


_STORAGE = re.compile(r"journal|sqlite:///.+|postgresql(\+\w+)?://.+|\$\{\w+\}")
_PASSWORD = re.compile(r"://[^:@/]*:(?!\$\{\w+\}@).*@|[?&]password=(?!\$\{\w+\}(&|$))")


def check(params: Params) -> None:
    """Raise ParamsError, with the path of the key, where values contradict each other or names are unknown."""
    for key, names, defined in (
        ("datasets", params.datasets, params.dataset_definitions),
        ("recipes", params.recipes, params.recipe_definitions),
        ("baseline", [params.baseline], params.recipes),
        ("searches", params.searches, params.search_definitions),
        ("tables", params.tables, params.table_definitions),
    ):
        _known((key,), names, defined)
        if len(set(names)) < len(names):
            raise ParamsError((key,), "a name appears twice")
    for table in params.table_definitions:
        _check_table(params, table)
    _check_size(params)
    _check_names(params)
    _check_synthetic_archives(params)
    for dataset in params.all_datasets():
        _check_faces(params, dataset)
    for dataset, recipe in dict.fromkeys((dataset, recipe) for dataset, recipe, _ in params.all_runs()):
        _check_run(params, dataset, recipe)
    for search in params.searches:
        _check_search(params, search)
    if not _STORAGE.fullmatch(params.search_storage):
        raise ParamsError(("search_storage",), "expected journal, sqlite:///FILE, postgresql://... or ${NAME}")
    if _PASSWORD.search(params.search_storage):
        message = "a password would be written to results/; replace it by ${NAME} and set the variable NAME"
        raise ParamsError(("search_storage",), message)


_RESERVED = {"datasets": "search", "recipes": "detect", "table_definitions": "history"}  # folders and files of others
_MOST_RUNS = 20_000


def _check_names(params: Params) -> None:
    """Different names lead to different files, and their number stays within bounds."""
    if params.experiment in ("published", "leaderboard"):
        raise ParamsError(("experiment",), f"results/{params.experiment}/ is not an experiment's; choose another name")
    names = {"datasets": params.all_datasets(), "recipes": params.all_recipes()}
    for key, reserved in _RESERVED.items():
        if reserved in names.get(key, params.table_definitions):
            raise ParamsError((key,), f"'{reserved}' is the name of another folder or file; choose another one")
    figures = [f"{picture}_{dataset}" for picture in ("attention", "lanets") for dataset in params.datasets]
    figures += [f"{table}_{dataset}" for table in params.table_definitions for dataset in params.table_datasets(table)]
    if len(set(figures)) < len(figures):
        twice = next(name for name in figures if figures.count(name) > 1)
        raise ParamsError(("table_definitions",), f"two figures would be {twice}.png; rename the table or the dataset")


def _check_size(params: Params) -> None:
    """Raise ParamsError before a list of very many runs is made."""
    sizes = {"seeds": len(params.datasets) * len(params.recipes) * len(params.seeds)}
    for table in params.table_definitions:
        lists = (params.table_datasets, params.table_recipes, params.table_seeds)
        sizes[f"table_definitions.{table}"] = math.prod(len(names(table)) for names in lists)
    for key, size in sizes.items():
        if size > _MOST_RUNS:
            raise ParamsError(tuple(key.split(".")), f"{size:,} runs; at most {_MOST_RUNS:,}")


def _known(loc: tuple[str, ...], names: Iterable[str], defined: Iterable[str]) -> None:
    for name in names:
        if name not in defined:
            raise ParamsError(loc, f"unknown name '{name}'; {choices(name, defined)}")


def _check_table(params: Params, name: str) -> None:
    table, loc = params.table_definitions[name], ("table_definitions", name)
    if table.sweep:
        _known((*loc, "sweep", "recipe"), [table.sweep.recipe], params.recipe_definitions)
    _known((*loc, "protocols"), table.protocols or (), params.protocols)
    _known((*loc, "datasets"), table.datasets or (), params.dataset_definitions)
    _known((*loc, "recipes"), table.recipes or (), {**params.recipe_definitions, **params.variants})
    _known((*loc, "baseline"), [table.baseline] if table.baseline else (), params.table_recipes(name))


def _check_run(params: Params, dataset: str, recipe: str) -> None:
    run = params.run(dataset, recipe)
    args = run.model.args
    if is_transfer(run.model.name):
        lanets, mad = args["num_lanets"], args["mad"]
        if isinstance(lanets, int) and isinstance(mad, float | int) and mad > 0 and lanets < 2:
            message = f"mad drops one of B LANet maps and needs num_lanets >= 2, but it is {lanets}"
            raise ParamsError(("recipe_definitions", recipe), message)
    if run.train.batch_size % run.train.gpus:
        message = f"batch_size {run.train.batch_size} ({dataset}, {recipe}) does not divide among {run.train.gpus} GPUs"
        raise ParamsError(("train", "gpus"), f"{message}; change one of the two")


def _check_faces(params: Params, dataset: str) -> None:
    faces = params.face_params(dataset)
    own = params.dataset_definitions[dataset].faces.model_fields_set
    key, message = "template", ""
    if faces.template == "box" and faces.landmarks == "supplied":
        message = "box needs the box that MTCNN found, and landmarks: supplied has none; use landmarks: mtcnn"
    elif faces.template == "none" and faces.landmarks == "supplied":
        message = "none keeps the image as it is, without landmarks; use landmarks: mtcnn, which then only describe it"
    elif faces.template == "none" and faces.margin > 0:
        key, message = "margin", "template: none keeps the image as it is, without context; use margin: 0"
    if message:
        loc = ("dataset_definitions", dataset) if own & {key, "template", "landmarks"} else ()
        raise ParamsError((*loc, "faces", key), message)


def _check_synthetic_archives(params: Params) -> None:
    """Datasets may share a synthetic archive, such as two alignments of it, if they agree on how it is made."""
    made: dict[str, tuple[str, Any]] = {}
    for dataset in params.selected_datasets():
        definition, loc = params.dataset_definitions[dataset], ("dataset_definitions", dataset)
        if definition.synthetic is None:
            continue
        if definition.reported_as is not None:
            message = "synthetic faces are not comparable with published numbers; leave it out"
            raise ParamsError((*loc, "reported_as"), message)
        how = (definition.parser, definition.synthetic, definition.synthetic_scale)
        first, expected = made.setdefault(definition.archive, (dataset, how))
        if how != expected:
            message = f"{definition.archive} is already made for {first} in another way; use another name, or the same "
            raise ParamsError((*loc, "archive"), f"{message}parser, synthetic and synthetic_scale")


def _check_search(params: Params, name: str) -> None:
    search, loc = params.search_definitions[name], ("search_definitions", name)
    _known((*loc, "recipe"), [search.recipe], params.recipe_definitions)
    if search.recipe == name:
        message = "a search gives its name to the resulting recipe, and cannot start from it; choose another recipe"
        raise ParamsError((*loc, "recipe"), message)
    for dataset in params.datasets:
        lanets = params.run(dataset, search.recipe).model.args.get("num_lanets", 0)
        if MAD in search.space and LANETS not in search.space and lanets < 2:
            message = f"needs num_lanets >= 2, but recipe {search.recipe} has {lanets} on {dataset}"
            raise ParamsError((*loc, "space", MAD), message)
    for values in search.ends():
        try:
            with_values(params.recipe_definitions[search.recipe], params.datasets[0], values)
        except ValidationError as error:
            first = error.errors()[0]
            key = ".".join(map(str, first["loc"]))
            raise ParamsError((*loc, "space", key), first["msg"].replace("Input ", "")) from None
