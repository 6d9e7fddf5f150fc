import json
import pickle
import shutil
from itertools import chain
from pathlib import Path

import jsonschema
import pytest
import yaml
from snakemake.utils import update_config

from transfer.layout import Layout
from transfer.models.registry import check_models
from transfer.params import merge
from transfer.params import read as config
from transfer.params.train import SEVERITIES
from transfer.sources.table import archive_path
from transfer.utils.errors import UserError

ROOT = Path(__file__).parents[2]
NO_PARAMETERS = ("reported.yaml", "sources.yaml")
FILES = [*sorted(path for path in (ROOT / "params").glob("*.yaml") if path.name not in NO_PARAMETERS)]
FILES += [ROOT / "tests/workflow/smallest.yaml"]


@pytest.fixture(autouse=True)
def in_root(monkeypatch):
    monkeypatch.chdir(ROOT)


def test_schema_is_current():
    assert (ROOT / "params/schema.json").read_text() == config.schema_text(), "run: transfer schema"


@pytest.mark.parametrize("file", FILES, ids=lambda path: path.name)
def test_files_of_the_repository_are_valid(file):
    config.load([file])
    jsonschema.validate(yaml.safe_load(file.read_text()), json.loads((ROOT / "params/schema.json").read_text()))


def test_parameters_travel_to_other_processes():
    params = config.load()
    assert pickle.loads(pickle.dumps(params)) == params


def test_corruptions_that_are_chosen():
    short = config.load().robustness.selected()
    assert set(short) == set(SEVERITIES) and short["blur"] == [0.02, 0.04]
    every = config.load(values=["robustness.corruptions=all"]).robustness.selected()
    assert every == {name: list(scale.severities) for name, scale in SEVERITIES.items()}
    assert config.load([ROOT / "params/paper.yaml"]).robustness.selected() == every
    own = config.load(values=["robustness.corruptions={blur: [], noise: [0.3, 0.1]}"]).robustness.selected()
    assert "blur" not in own and own["noise"] == [0.1, 0.3]


def test_paper_is_the_papers_grid():
    params = config.load([ROOT / "params/paper.yaml"])
    assert (len(params.datasets), len(params.recipes), len(params.seeds)) == (3, 6, 5)
    run = params.run("affectnet7", "full")
    assert (run.model.name, run.model.args["mad"], run.model.args["msad"]) == ("transfer_base", 0.2, 0.6)
    assert (run.train.epochs, run.train.batch_size, run.train.lr, run.train.weight_decay) == (40, 128, 1e-3, 5e-4)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("trian.epochs=3", "; did you mean train?"),
        ("trian.epochs=3", "command line: trian: unknown key; allowed: baseline, dataset_definitions,"),
        ("train.epoch=3", "command line: train.epoch: unknown key; allowed: augment, batch_size, "),
        ("train.epoch=3", "; did you mean epochs?"),
        ("train.processes=2", "command line: train.processes: renamed; write train.gpus"),
        ("train.flip_views=true", "command line: train.flip_views: renamed; write train.hflip_tta"),
        ("train.targets=votes", "command line: train.targets: renamed; write train.targets: soft_labels"),
        ("recipe_definitions.full.train.processes=2", "full.train.processes: renamed; write train.gpus"),
        ("datasets=[rafdc]", "; did you mean rafdb?"),
        ("tables=[tabel1]", "; did you mean table1?"),
        ("searches=[serached]", "; did you mean searched?"),
        ("train.schedule=cosin", "should be 'cosine' or 'step', found 'cosin'; did you mean cosine?"),
        ("train.epochs=many", "command line: train.epochs: should be a valid integer"),
        ("train.epochs=0", "command line: train.epochs: should be greater than or equal to 1, found 0"),
        ("train.lr=.nan", "command line: train.lr: should be a finite number, found nan"),
        ("train=3", "command line: train: should be a mapping, found 3"),
        ("seeds=[0, -1]", "command line: seeds.1: should be greater than or equal to 0, found -1"),
        ("seeds=[1, 1]", "command line: seeds: a value appears twice: [1, 1]"),
        ("datasets=[rafdc]", "command line: datasets: unknown name 'rafdc'; allowed: demo_rafdb, "),
        ("recipes=[baseline, ful]", "command line: recipes: unknown name 'ful'; allowed: baseline, local_cnns, "),
        ("model.args.num_lanets=1", "recipe_definitions.local_cnns_mad: mad drops one of B LANet maps"),
        ("dataset_definitions.rafdb.expect=most", "dataset_definitions.rafdb.expect: should be 'any' or 'official'"),
        ("dataset_definitions.rafdb.expect={trian: 1}", "dataset_definitions.rafdb.expect.trian: should be 'train', "),
        ("dataset_definitions.new.archive=x", "command line: dataset_definitions.new.parser: missing"),
        ("experiment=My Table", "command line: experiment: String should match pattern"),
        ("train.epochs", "--set train.epochs: expected key=value"),
        ("faces.template=arc", "command line: faces.template: should be 'arcface', 'box' or 'none', found 'arc'"),
        ("faces.template=[[0.3, 0.4]]", "faces.template: expected five [x, y]: left eye, right eye, nose, "),
        (
            "faces.template=[[0.7, 0.4], [0.3, 0.4], [0.5, 0.6], [0.4, 0.8], [0.6, 0.8]]",
            "faces.template: expected five [x, y]: left eye, right eye, nose, left and right mouth corner",
        ),
        (
            "faces.template=[[34, 46], [66, 46], [50, 64], [37, 82], [63, 82]]",
            "faces.template.0.0: should be less than or equal to 1, found 34",
        ),
        ("faces.margin=0.5", "command line: faces.margin: should be less than or equal to 0.4, found 0.5"),
        (
            "faces={template: box, landmarks: supplied}",
            "command line: faces.template: box needs the box that MTCNN found, and landmarks: supplied has none",
        ),
        (
            "dataset_definitions.demo_rafdb.faces={template: none, landmarks: supplied}",
            "command line: dataset_definitions.demo_rafdb.faces.template: none keeps the image as it is",
        ),
        (
            "dataset_definitions.demo_rafdb.faces={template: none, margin: 0.1}",
            "dataset_definitions.demo_rafdb.faces.margin: template: none keeps the image as it is, without context",
        ),
        (
            "dataset_definitions.demo_ferplus={reported_as: ferplus}",
            "dataset_definitions.demo_ferplus.reported_as: synthetic faces are not comparable with published",
        ),
        (
            "dataset_definitions.demo_ferplus={archive: demo_rafdb.zip}",
            "dataset_definitions.demo_ferplus.archive: demo_rafdb.zip is already made for demo_rafdb in another way",
        ),
        (
            "robustness.corruptions={blurr: [1]}",
            "command line: robustness.corruptions: unknown name 'blurr'; allowed: occlude_random, occlude_eyes, ",
        ),
        (
            "robustness.corruptions.blur=[0.1, 0.3]",
            "command line: robustness.corruptions.blur: 0.3: expected more than 0 and at most 0.25 (standard deviation",
        ),
        (
            "robustness.corruptions.low_resolution=[1]",
            "command line: robustness.corruptions.low_resolution: 1: expected more than 1 and at most 32 (side of the",
        ),
        ("robustness.corruptions.noise=[0.1, 0.1]", "robustness.corruptions.noise: a value appears twice: [0.1, 0.1]"),
        ("robustness.corruptions.noise=0.1", "robustness.corruptions.noise: should be a valid list, found 0.1"),
        ("robustness.seed=-1", "command line: robustness.seed: should be greater than or equal to 0, found -1"),
    ],
)
def test_a_wrong_value_is_one_line_with_key_and_what_is_allowed(value, expected):
    with pytest.raises(UserError) as error:
        config.load((), [value])
    assert expected in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("model.name=transfer_tinny", "command line: model.name: unknown model 'transfer_tinny'; allowed: "),
        ("model.name=transfer_tinny", "; did you mean transfer_tiny?"),
        ("model.pretrained=[ir50_ms1]", "; did you mean ir50_ms1m?"),
        (
            "model.name=timm/resnet18",
            "recipe_definitions.baseline.local_cnns: only TransFER has it, and the model is timm/resnet18; ",
        ),
        ("recipe_definitions.full.model.name=x", "command line: recipe_definitions.full.model.name: unknown model 'x'"),
    ],
)
def test_models_and_weights_are_checked_before_any_job(value, expected):
    with pytest.raises(UserError) as error:
        config.load((), [value], checks=[check_models])
    assert expected in str(error.value)


@pytest.mark.parametrize(
    ("files", "values", "expected"),
    [
        # a file names another model: neither the default's arguments nor those of the datasets for TransFER
        (["model: {name: resnet18}"], [], {}),
        ([], ["model.name=resnet18"], {}),
        (["model: {name: resnet18, args: {width: 16}}"], [], {"width": 16}),
        (
            ["model: {name: resnet18, args: {width: 16}}", "model: {args: {stem: 7x7}}"],
            [],
            {"width": 16, "stem": "7x7"},
        ),
        (["model: {name: resnet18, args: {width: 16}}", "model: {name: vgg13}"], [], {}),
        ([], ["model.args.width=16", "model.name=resnet18"], {"width": 16}),
        # a dataset, a recipe, a recipe there
        (["dataset_definitions: {demo_affectnet: {model: {name: resnet18}}}"], [], {}),
        (["model: {name: resnet18}"], ["dataset_definitions.demo_affectnet.model.args.width=8"], {"width": 8}),
        (["recipe_definitions: {plain: {model: {name: resnet18, args: {width: 8}}}}"], [], {"width": 8}),
        (
            ["recipe_definitions: {plain: {model: {name: resnet18, args: {width: 8}}}}"],
            ["recipe_definitions.plain.datasets.demo_affectnet.model.args.stem=7x7"],
            {"width": 8, "stem": "7x7"},
        ),
        (
            ["recipe_definitions: {plain: {model: {name: resnet18, args: {width: 8}}}}"],
            ["recipe_definitions.plain.datasets.demo_affectnet.model.name=dan"],
            {},
        ),
        (["model: {name: resnet18, args: {width: 8}}"], ["recipe_definitions.plain.model.name=dan"], {}),
    ],
)
def test_arguments_do_not_pass_to_another_model(tmp_path, files, values, expected):
    paths = [tmp_path / f"{number}.yaml" for number in range(len(files))]
    for path, text in zip(paths, files, strict=True):
        path.write_text(text)
    alone = ["recipe_definitions.plain.train.epochs=1", "recipes=[plain]", "baseline=plain", "tables=[]", "searches=[]"]
    params = config.load(paths, [*alone, *values], checks=[check_models])
    assert params.run("demo_affectnet", "plain").model.args == expected


def test_the_sizes_of_transfer_share_their_arguments(tmp_path):
    (tmp_path / "mine.yaml").write_text("model: {name: transfer_small}\ndatasets: [demo_affectnet]")
    args = config.load([tmp_path / "mine.yaml"]).run("demo_affectnet", "full").model.args
    assert (args["mad"], args["msad"], args["num_lanets"]) == (0.2, 0.6, 2)
    other = ["model={name: resnet18, args: {width: 8}}", "recipe_definitions.full.model={name: transfer_tiny}"]
    assert config.load((), other).run("demo_rafdb", "full").model.args == {"num_lanets": 2, "mad": 0.6, "msad": 0.3}


def test_arguments_do_not_pass_to_another_loss(tmp_path):
    (tmp_path / "a.yaml").write_text("train: {loss: {args: {label_smoothing: 0.1}}}")
    (tmp_path / "b.yaml").write_text("train: {loss: {name: eac}}")
    loss = config.load([tmp_path / "a.yaml", tmp_path / "b.yaml"]).train.loss
    assert (loss.name, loss.args) == ("eac", {})
    run = config.load([tmp_path / "a.yaml"], ["recipe_definitions.full.train.loss.name=scn"]).run("demo_rafdb", "full")
    assert (run.train.loss.name, run.train.loss.args) == ("scn", {})


def test_variants_of_models_keep_the_arguments_that_they_name():
    over = "{model.args.width: [8, 16], model.name: [resnet18, dan]}"
    sweep = f"table_definitions.mine={{kind: recipes, sweep: {{recipe: plain, over: {over}}}}}"
    params = config.load((), ["recipe_definitions.plain.train.epochs=1", sweep])
    found = {name: params.run("demo_rafdb", name).model for name in params.table_recipes("mine")}
    assert [(model.name, model.args) for model in found.values()] == [
        (name, {"width": width}) for width in (8, 16) for name in ("resnet18", "dan")
    ]


def test_overrides_hold_what_was_set_and_nothing_else():
    params = config.load((), ["dataset_definitions.demo_rafdb.train={lr: 0.3}"])
    override = params.dataset_definitions["demo_rafdb"].train
    assert override.model_dump() == {"lr": 0.3}
    assert params.run("demo_rafdb", "full").train == params.train.model_copy(update={"lr": 0.3})
    assert params.run("demo_rafdb", "full") is params.run("demo_rafdb", "full"), "resolved once"


def test_a_changed_copy_resolves_its_runs_anew():
    params = config.load()
    assert params.run("demo_rafdb", "full").model.args["mad"] == 0.6 and params.variants
    changed = params.model_copy(
        update={"model": params.model.model_copy(update={"args": {"mad": 0.5}}), "table_definitions": {}, "tables": []}
    )
    assert changed.run("demo_rafdb", "full").model.args["mad"] == 0.5 and not changed.variants
    assert params.run("demo_rafdb", "full").model.args["mad"] == 0.6


def test_the_file_and_line_of_a_wrong_value_are_named(tmp_path):
    first, second = tmp_path / "first.yaml", tmp_path / "second.yaml"
    first.write_text("# a comment\ntrain:\n  lr: 0.1\n  epochs: -1\n")
    second.write_text("seeds: [0]\n")
    with pytest.raises(UserError, match=rf"^{first}:4: train.epochs: "):
        config.load([first, second])
    assert config.load([first, second], ["train.epochs=7"]).train.epochs == 7


def test_the_default_file_is_named_where_nothing_overrides_it(tmp_path, monkeypatch):
    (tmp_path / "params").mkdir()
    text = (ROOT / "params/default.yaml").read_text()
    (tmp_path / "params/default.yaml").write_text(text.replace("\n  epochs: 3\n", "\n  epochs: ten\n"))
    monkeypatch.chdir(tmp_path)
    line = next(i for i, text in enumerate(text.splitlines(), 1) if text.startswith("  epochs:"))
    with pytest.raises(UserError, match=rf"^params/default.yaml:{line}: train.epochs: .*found 'ten'"):
        config.load()


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("train: {epochs: 3", r"bad.yaml:\d+: not YAML: "),
        ("- 1\n- 2\n", "bad.yaml: expected a mapping of parameters, found list"),
        ("", "bad.yaml: expected a mapping of parameters, found NoneType"),
    ],
)
def test_a_file_that_is_no_parameter_file(tmp_path, content, expected):
    (tmp_path / "bad.yaml").write_text(content)
    with pytest.raises(UserError, match=expected):
        config.load([tmp_path / "bad.yaml"])


def test_a_missing_file():
    with pytest.raises(UserError, match="none.yaml: no such parameter file"):
        config.load([Path("none.yaml")])


def test_files_merge_as_in_snakemake():
    default = yaml.safe_load((ROOT / "params/default.yaml").read_text())
    for file in FILES:
        override = yaml.safe_load(file.read_text())
        ours, theirs = merge(default, override), json.loads(json.dumps(default))
        update_config(theirs, override)
        assert ours == theirs


def test_snapshot_resolves_to_the_same_parameters(tmp_path):
    params = config.load([ROOT / "tests/workflow/smallest.yaml"], ["train.epochs=2"])
    config.snapshot(params, tmp_path / "params.yaml")
    again = config.load([tmp_path / "params.yaml"])
    assert again == params
    assert again.run("demo_affectnet", "full") == params.run("demo_affectnet", "full")
    assert again.run("demo_affectnet", "full").model.args["mad"] == 0.2, "an override keeps out what it does not set"


def test_below_a_snapshot_nothing_is_read(tmp_path, monkeypatch):
    """What a running workflow's jobs read does not change where a parameter file is edited meanwhile."""
    shutil.copytree(ROOT / "params", tmp_path / "params")
    monkeypatch.chdir(tmp_path)
    params = config.load()
    config.snapshot(params, tmp_path / "params.yaml")
    default = Path("params/default.yaml")
    default.write_text(default.read_text().replace("  lr: 0.05", "  momentum: 0.5\n  lr: 0.04"))
    assert (config.load().train.lr, config.load().train.momentum) == (0.04, 0.5)
    assert config.load([Path("params.yaml")]) == params
    assert config.load([Path("params.yaml")], ["train.lr=0.03"]).train.lr == 0.03
    Path("mine.yaml").write_text("train: {lr: 0.02}\n")
    assert config.load([Path("params.yaml"), Path("mine.yaml")]).train.lr == 0.02
    assert config.load([Path("mine.yaml"), Path("params.yaml")]) == params
    default.write_text("broken: [")
    assert config.load([Path("params.yaml")]) == params
    Path("mine.yaml").write_text("train: {lr: 1000}\n")
    with pytest.raises(UserError, match=r"^mine.yaml:1: train.lr: should be"):
        config.load([Path("params.yaml"), Path("mine.yaml")])


def test_differences_name_the_keys():
    one = config.load()
    assert config.differences(one, config.load()) == []
    other = config.load((), ["train.lr=0.5", "seeds=[1]", "train.augment.hue=0.2", "train.gamma=0.3"])
    assert sorted(config.differences(one, other)) == [
        ("seeds", [0, 1, 2], [1]),
        ("train.augment.hue", 0, 0.2),
        ("train.gamma", None, 0.3),
        ("train.lr", 0.05, 0.5),
    ]


def test_archive_path(tmp_path):
    params = config.load((), [f"raw_dir={tmp_path}", "datasets=[rafdb]"])
    assert archive_path(params, "demo_rafdb") == tmp_path / "demo_rafdb.zip", "synthetic: need not exist"
    with pytest.raises(
        UserError, match="rafdb: not found in .* Available from http://www.whdeng.cn/.* `transfer fetch rafdb`"
    ):
        archive_path(params, "rafdb")
    (tmp_path / "rafdb").mkdir()
    assert archive_path(params, "rafdb") == tmp_path / "rafdb"


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("parser=rafdc", "dataset_definitions.ferplus_majority: unknown dataset 'rafdc'"),
        ("options={rule: most}", "dataset_definitions.ferplus_majority: .*rule is 'most'; allowed: majority, argmax"),
        ("options={rules: argmax}", "dataset_definitions.ferplus_majority: .*unknown option 'rules'; allowed: rule"),
    ],
)
def test_wrong_parser_or_option_is_named_before_the_archive_is_looked_for(value, expected):
    params = config.load((), [f"dataset_definitions.ferplus_majority.{value}"])
    with pytest.raises(UserError, match=expected):
        archive_path(params, "ferplus_majority")


def test_layout():
    layout = Layout("demo")
    assert layout.params.as_posix() == "results/demo/params.yaml"
    assert layout.plan("d", "sqrt").as_posix() == "results/demo/data/d/plan_sqrt.npy"
    assert layout.run("d", "r", 3).as_posix() == "results/demo/runs/d/r/seed3"
    assert layout.state("d", "r", 3).as_posix() == "results/demo/state/d/r/seed3"
    assert layout.evaluation("cross", "d", "r", 3).as_posix() == "results/demo/evaluations/cross/d/r/seed3"


def test_pins_of_the_conda_environment_are_those_of_the_lock_file():
    pins = (ROOT / "requirements.lock").read_text().split()
    environment = yaml.safe_load((ROOT / "workflow/envs/transfer.yaml").read_text())
    assert environment["dependencies"][-1] == {"pip": pins}
    assert pins == sorted(pins, key=lambda pin: pin.lower())
    assert all(pin.count("==") == 1 and not set(pin) & set("@/;[ ") for pin in pins)


def test_the_lock_file_pins_every_dependency():
    import tomllib

    from packaging.requirements import Requirement
    from packaging.utils import canonicalize_name

    pins = dict(pin.split("==") for pin in (ROOT / "requirements.lock").read_text().split())
    pins = {canonicalize_name(name): version for name, version in pins.items()}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    wanted = [*project["project"]["dependencies"], *project["build-system"]["requires"]]
    wanted += chain.from_iterable(project["project"]["optional-dependencies"].values())
    for requirement in map(Requirement, wanted):
        assert pins.get(canonicalize_name(requirement.name), "") in requirement.specifier, requirement


def test_default_is_found_from_the_working_directory_only(tmp_path, monkeypatch):
    shutil.copytree(ROOT / "params", tmp_path / "params")
    monkeypatch.chdir(tmp_path)
    assert config.load().experiment == "demo"
    monkeypatch.chdir(tmp_path / "params")
    with pytest.raises(UserError, match="params/default.yaml: no such parameter file"):
        config.load()


def test_an_alignment_of_its_own_for_each_dataset_of_one_archive():
    own = [[0.3, 0.4], [0.7, 0.4], [0.5, 0.6], [0.35, 0.8], [0.65, 0.8]]
    block = "{parser: rafdb, archive: demo_rafdb.zip, synthetic: 1}"
    values = [f"dataset_definitions.demo_other={block}", "datasets=[demo_rafdb, demo_other]"]
    values.append(f"dataset_definitions.demo_other.faces={{template: {own}, margin: 0.1}}")
    params = config.load((), values)
    assert params.face_params("demo_rafdb").template == "arcface"
    assert params.face_params("demo_other").model_dump(mode="json")["template"] == own
    assert params.face_params("demo_other").margin == 0.1


def test_a_template_of_ones_own_survives_the_snapshot(tmp_path):
    own = "[[0.3, 0.4], [0.7, 0.4], [0.5, 0.6], [0.35, 0.8], [0.65, 0.8]]"
    params = config.load((), [f"faces.template={own}"])
    config.snapshot(params, tmp_path / "params.yaml")
    assert config.load([tmp_path / "params.yaml"]).faces == params.faces
