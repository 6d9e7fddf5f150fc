"""The space of a search, its grid, and the recipe that its values make."""

import optuna
import pytest
import yaml
from tiny_search import search_params
from tiny_training import tiny_params

from transfer.losses.registry import check_losses
from transfer.models.registry import check_models
from transfer.params import Params
from transfer.params import read as config
from transfer.params.recipes import with_values
from transfer.params.search import SearchDefinition, SearchSpace
from transfer.search.study import cells, conditional, draw, trial_params
from transfer.utils.errors import UserError

SHORT = {"mad": "model.args.mad", "msad": "model.args.msad", "num_lanets": "model.args.num_lanets"}


def full(parts: dict) -> dict:
    """``parts`` of a space, or values, by their dotted keys."""
    return {SHORT.get(key, key): value for key, value in parts.items()}


def short(values: dict) -> dict:
    return {key.rpartition(".")[2]: value for key, value in values.items()}


def space(**parts) -> SearchSpace:
    return SearchDefinition.model_validate({"space": full(parts), "trials": 1}).space


# --- cells of a grid ---


def test_cells_are_all_combinations_in_order():
    found = cells(space(mad=[0.6, 0], msad={"low": 0.0, "high": 0.3, "step": 0.1}), 2)
    assert list(map(short, found)) == [{"mad": mad, "msad": msad} for mad in (0.6, 0) for msad in (0, 0.1, 0.2, 0.3)]


def test_fewer_than_two_lanets_are_one_cell_whatever_mad_is():
    found = cells(space(mad=[0.2, 0.4], num_lanets={"low": 0, "high": 2, "step": 1}), 2)
    more = [{"mad": 0.2, "num_lanets": 2}, {"mad": 0.4, "num_lanets": 2}]
    assert list(map(short, found)) == [{"num_lanets": 0}, {"num_lanets": 1}, *more]


def test_a_range_has_exactly_the_values_that_it_writes():
    values = space(mad={"low": 0, "high": 0.9, "step": 0.3})[SHORT["mad"]].values()
    assert values == [0, 0.3, 0.6, 0.9]  # 3 * 0.3 would be 0.8999999999999999
    assert space(num_lanets={"low": 1, "high": 7, "step": 3})[SHORT["num_lanets"]].values() == [1, 4, 7]


# --- drawing ---


def drawn(definition: dict, lanets: int = 2, n: int = 40) -> list[tuple[dict, dict]]:
    search = SearchDefinition.model_validate({"trials": 1} | definition | {"space": full(definition["space"])})
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=1))
    trials = [study.ask() for _ in range(n)]
    return [(short(draw(trial, search.space, lanets)), short(trial.params)) for trial in trials]


def test_draws_stay_in_the_space():
    parts = {"mad": {"low": 0.1, "high": 0.5, "step": 0.2}, "msad": {"low": 0.01, "high": 1, "log": True}}
    found = drawn({"space": parts | {"num_lanets": [2, 5], "upsample": ["sqrt", "none"]}})
    values = [values for values, _ in found]
    assert {round(v["mad"], 9) for v in values} == {0.1, 0.3, 0.5}
    assert all(0.01 <= v["msad"] <= 1 for v in values) and min(v["msad"] for v in values) < 0.1
    assert {v["num_lanets"] for v in values} == {2, 5} and {v["upsample"] for v in values} == {"sqrt", "none"}
    assert all(values == params for values, params in found)


def test_mad_is_0_and_no_parameter_with_fewer_than_two_lanets():
    found = drawn({"space": {"mad": {"low": 0.1, "high": 0.9}, "num_lanets": {"low": 0, "high": 3, "step": 1}}})
    assert {values["num_lanets"] for values, _ in found} == {0, 1, 2, 3}
    for values, params in found:
        assert (values["mad"] == 0) == (values["num_lanets"] < 2) == ("mad" not in params)


def test_mad_of_the_recipe_is_off_where_a_trial_has_one_lanet():
    params = search_params(space=full({"num_lanets": [1, 3]}))
    run = trial_params(params, "faces", "searched", full({"num_lanets": 1, "mad": 0.0})).run("faces", "searched")
    assert [run.model.args[key] for key in SHORT] == [0, 0.3, 1]
    assert all(
        ("mad" in values) == (values["num_lanets"] == 1) for values, _ in drawn({"space": {"num_lanets": [1, 3]}})
    )


@pytest.mark.parametrize(
    ("parts", "expected"),
    [
        ({"mad": [0.1], "num_lanets": [2, 1]}, True),
        ({"mad": [0.1], "num_lanets": {"low": 1, "high": 2, "step": 1}}, True),
        ({"mad": [0.1], "num_lanets": [2, 3]}, False),
        ({"msad": [0.1], "num_lanets": [0, 1]}, False),
        ({"mad": [0.1]}, False),
    ],
)
def test_conditional(parts, expected):
    assert conditional(space(**parts)) is expected


# --- values as a recipe ---


def test_values_are_a_recipe_on_one_dataset_alone():
    definitions = {name: {"parser": "rafdb", "archive": "none.zip"} for name in ("faces", "others")}
    params = tiny_params(datasets=["faces", "others"], dataset_definitions=definitions)
    recipe = with_values(
        params.recipe_definitions["full"], "faces", full({"mad": 0.1, "num_lanets": 3, "upsample": "none"})
    )
    recipe = with_values(recipe, "others", full({"msad": 0.9}))
    written = yaml.safe_load(yaml.safe_dump({"found": recipe.model_dump(mode="json", exclude_unset=True)}))
    read = Params.model_validate(
        params.model_dump(exclude_unset=True)
        | {"recipe_definitions": params.model_dump(exclude_unset=True)["recipe_definitions"] | written}
    )
    faces, others = read.run("faces", "found"), read.run("others", "found")
    assert [*(faces.model.args[key] for key in SHORT), faces.sampling.upsample] == [0.1, 0.3, 3, "none"]
    assert [others.model.args[key] for key in SHORT] == [0.6, 0.9, 2]
    assert others.sampling.upsample == "full"


def test_trials_are_as_long_as_the_search_says_and_the_recipe_is_not():
    params = search_params(epochs=1)
    assert trial_params(params, "faces", "searched", full({"mad": 0.2})).run("faces", "searched").train.epochs == 1
    assert params.run("faces", "full").train.epochs == 3
    recipe = with_values(params.recipe_definitions["full"], "faces", full({"mad": 0.2}))
    assert recipe.datasets["faces"].model_dump(exclude_unset=True) == {"model": {"args": {"mad": 0.2}}}


# --- what is refused ---


SPACE, RATES = "search_definitions.searched.space", "search_definitions.rates.space"


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("searches=[serched]", "command line: searches: unknown name 'serched'; allowed: searched, "),
        ("search_definitions.searched.recipe=ful", "search_definitions.searched.recipe: unknown name 'ful'; allowed: "),
        ("search_definitions.searched.trials=0", "search_definitions.searched.trials: should be greater than or equal"),
        ("search_definitions.searched.trials=null", "search_definitions.searched.trials: missing; tpe needs a number"),
        ("search_definitions.rates.trials=3", "search_definitions.rates.trials: a grid has as many trials as comb"),
        (f"{RATES}={{model.args.mad: {{low: 0.0, high: 1}}}}", "space.model.args.mad: a grid needs a step"),
        (
            f"{SPACE}={{model.args.mad: [0.1, 1.1]}}",
            "space.model.args.mad: should be less than or equal to 1, found 1.1",
        ),
        (f"{SPACE}={{model.args.mad: [0.1, 0.1]}}", "space.model.args.mad: a value appears twice"),
        (f"{SPACE}={{model.args.mad: {{high: -1}}}}", "space.model.args.mad: expected low < high"),
        (f"{SPACE}={{model.args.mad: {{step: 0.4}}}}", "space.model.args.mad: high is not low plus a whole number of"),
        (f"{SPACE}={{model.args.mad: {{log: true}}}}", "space.model.args.mad: log needs low > 0 and no step"),
        (f"{SPACE}={{train.batch_size: {{low: 8, high: 64}}}}", "whole numbers or all between? add step: 1, or write"),
        (f"{SPACE}={{train.lr: [20]}}", "space.train.lr: should be less than or equal to 10"),
        (f"{SPACE}={{lr: [0.1]}}", "space.lr: lr: unknown key; allowed: upsample, model.name, "),
        (f"{SPACE}={{mad: [0.1]}}", "space.mad: mad: renamed; write model.args.mad"),
        (
            f"{SPACE}={{model.args.mda: [0.1]}}",
            "model.args.mda: transfer_tiny has no such argument; allowed: stem_widths,",
        ),
        (f"{SPACE}={{upsample: [most]}}", "space.upsample: should be 'full', 'sqrt' or 'none'"),
        (
            f"{SPACE}={{model.name: [resnet81]}}",
            "command line: search_definitions.searched.space.model.name: unknown model 'resnet81'; allowed: ",
        ),
        (f"{SPACE}={{train.loss.name: [scn, sc]}}", "searched.space.train.loss.name: unknown loss 'sc'; allowed: "),
        (f"{SPACE}={{train.loss.args.lambda: [1]}}", "args.lambda: cross_entropy has no such argument; allowed: "),
        (f"{SPACE}={{train.loss.name: [dan]}}", "space.train.loss.name: dan needs attention heads, and TransFER has"),
        ("search_definitions.new={space: {}, trials: 1}", "search_definitions.new.space: nothing to search"),
        ("search_definitions.searched.seeds=[1, 1]", "seeds: a value appears twice"),
        ("search_storage=mysql://host/db", "command line: search_storage: expected journal, sqlite:///FILE, postgres"),
    ],
)
def test_a_wrong_search_is_one_line(value, expected):
    with pytest.raises(UserError) as error:
        checks = [check_models, check_losses]
        config.load((), [value, "searches=[searched, rates]"][: 1 + ("searches" not in value)], checks=checks)
    assert expected in str(error.value)
    assert "\n" not in str(error.value)


def test_mad_without_lanets_is_refused():
    with pytest.raises(ValueError, match="needs num_lanets >= 2, but recipe baseline has 0 on faces"):
        search_params(recipe="baseline", space=full({"mad": [0.1, 0.2]}))
    search_params(recipe="baseline", space=full({"mad": [0.1, 0.2], "num_lanets": [0, 2]}))


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://me:s3cret@host/studies",
        "postgresql+psycopg2://me:s3/cr@et@host/studies",
        "postgresql://me:${PASSWORD}s3cret@host/studies",
        "postgresql://host/studies?user=me&password=s3cret",
    ],
)
def test_a_password_in_the_parameters_is_refused_and_not_repeated(url):
    with pytest.raises(UserError, match="search_storage: a password would be written to results/") as error:
        config.load((), [f"search_storage={url}"])
    assert "s3" not in str(error.value)


@pytest.mark.parametrize(
    "url",
    [
        "journal",
        "sqlite:///a:b@c.db",
        "postgresql://me@host:5432/studies",
        "postgresql://me:${PASSWORD}@host:5432/studies",
        "${STUDIES}",
    ],
)
def test_storages_without_a_password_are_taken(url):
    assert config.load((), [f"search_storage={url}"]).search_storage == url
