"""The configuration's typed models: what ``params/*.yaml`` may say, and what each key means.

``transfer.config`` reads the files; the JSON schema ``params/schema.json`` is generated from these models.
"""

import hashlib
import itertools
import json
import re
from collections.abc import Mapping
from decimal import Decimal
from functools import cached_property
from typing import Annotated, Any, Literal, TypeVar, get_args

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, create_model, model_validator

from transfer.evaluation.severities import SEVERITIES

Fraction = Annotated[float, Field(ge=0, le=1)]


def _rising(pair: tuple[float, float]) -> tuple[float, float]:
    if pair[0] > pair[1]:
        raise ValueError(f"expected the smaller bound first, found {list(pair)}")
    return pair


Name = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$")]
Range = Annotated[tuple[Fraction, Fraction], AfterValidator(_rising)]
Protocol = Literal["last", "val_selected", "test_selected"]
Upsample = Literal["full", "sqrt", "none"]
Split = Literal["train", "val", "test"]
SPLITS: tuple[str, ...] = get_args(Split)


class Strict(BaseModel):
    """A block of parameters: unknown keys are errors, and values do not change after loading."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True, allow_inf_nan=False)


S = TypeVar("S", bound=Strict)


class ParamsError(ValueError):
    """A value that contradicts another one; ``loc`` is the path of the key."""

    def __init__(self, loc: tuple[str | int, ...], message: str) -> None:
        super().__init__(message)
        self.loc = loc


def _template(value: str | list[tuple[float, float]]) -> str | list[tuple[float, float]]:
    if not isinstance(value, str):
        left, right, _, mouth_left, mouth_right = value if len(value) == 5 else [(0, 0)] * 5
        if left[0] >= right[0] or mouth_left[0] >= mouth_right[0] or max(left[1], right[1]) >= mouth_left[1]:
            raise ValueError(
                "expected five [x, y]: left eye, right eye, nose, left and right mouth corner, left being the smaller "
                f"x, found {[list(point) for point in value]}"
            )
    return value


Template = Annotated[Literal["arcface", "box", "none"] | list[tuple[Fraction, Fraction]], AfterValidator(_template)]


class ModelParams(Strict):
    """The network, and the rates that a recipe uses when it switches a part on."""

    name: Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$")] = "transfer_tiny"
    """Name in timm's registry, such as transfer_base."""
    img_size: Annotated[int, Field(ge=16, le=448)] = 112
    """Side of the square input in pixels; the aligned faces are resized to it."""
    stem_stages: Annotated[int, Field(ge=1, le=4)] = 3
    """How many stages of the IR stem are used."""
    num_lanets: Annotated[int, Field(ge=0, le=16)] = 2
    """B, the number of LANets of the recipes with Local CNNs."""
    mad: Fraction = 0.6
    """p1, the probability that MAD drops one LANet's map, for the recipes with MAD."""
    msad: Fraction = 0.3
    """p2, the probability that MSAD drops one head of a block, for the recipes with MSAD."""
    msad_mode: Literal["head", "token"] = "head"
    """head: as in the paper; token: as in the released code."""
    lanet_norm: bool = True
    """Batch norm in the LANets, as released; the paper names none."""
    normalization: Literal["imagenet", "half"] = "imagenet"
    """What the stem sees: ImageNet's mean and standard deviation, as released, or 0.5, with which IR-50 was trained."""
    pretrained: list[Name] = []
    """Weights to begin with, by their names in params/sources.yaml; the tensors that none of them has start fresh."""


class Augmentation(Strict):
    """Training augmentation, drawn per sample; the defaults are the authors' (APViT configs/_base_/datasets/RAF.py)."""

    rotate: Fraction = 0.5
    """Probability of a rotation."""
    degrees: Annotated[float, Field(ge=0, le=180)] = 6.0
    """Largest angle of the rotation."""
    crop_scale: Range = (0.8, 1.0)
    """Range of the resized crop's area, as a fraction of the image."""
    flip: Fraction = 0.5
    """Probability of a horizontal flip."""
    grey: Fraction = 0.2
    """Probability of a conversion to grey."""
    jitter: Fraction = 0.8
    """Probability of a colour jitter."""
    brightness: Fraction = 0.4
    contrast: Fraction = 0.4
    saturation: Fraction = 0.4
    hue: Annotated[float, Field(ge=0, le=0.5)] = 0.1
    erase: Fraction = 0.5
    """Probability of random erasing."""
    erase_scale: Range = (0.02, 0.33)
    """Range of the erased area, as a fraction of the image."""


class TrainParams(Strict):
    """The training run."""

    epochs: Annotated[int, Field(ge=1, le=10000)] = 40
    batch_size: Annotated[int, Field(ge=2, le=65536)] = 128
    """Images of a step; batch norm needs two at least."""
    lr: Annotated[float, Field(gt=0, le=10)] = 1e-3
    """Peak learning rate."""
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    nesterov: bool = False
    weight_decay: Annotated[float, Field(ge=0, le=1)] = 5e-4
    """L2 weight decay; position embeddings and the class token have none."""
    schedule: Literal["cosine", "step"] = "cosine"
    milestones: list[Annotated[int, Field(ge=1)]] = [15, 30]
    """Epochs after which the step schedule multiplies the rate by gamma."""
    gamma: Annotated[float, Field(gt=0, le=1)] = 0.1
    warmup_epochs: Annotated[float, Field(ge=0)] = 0.0
    """Length of the linear warm-up."""
    clip_norm: Annotated[float, Field(ge=0)] = 10.0
    """Largest L2 norm of the gradient; 0 switches clipping off."""
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0
    ema: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Decay per step of the exponential average of the weights, which is then what is evaluated and kept; 0: none."""
    targets: Literal["label", "votes"] = "label"
    """votes: the taggers' votes over the classes as soft labels, where the dataset has them."""
    augment: Augmentation = Augmentation()
    flip_views: bool = False
    """Average the probabilities of the face and its mirror image in validation and test."""
    precision: Literal["auto", "bf16", "fp32"] = "auto"
    """auto: bf16 autocast where the hardware computes in it, else fp32."""
    deterministic: bool = False
    """On a GPU: only operations that give the same bits every time, which takes longer. On a CPU they always do."""
    compile: bool = False
    """Compile the network's training step with torch.compile: a minute or two at the start, faster steps, other
    roundings. Needs a C++ compiler."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    threads: Annotated[int, Field(ge=1, le=256)] = 1
    """CPU threads of one training, or of each of its processes."""
    processes: Annotated[int, Field(ge=1, le=64)] = 1
    """Processes that share the batches of one training, each with a CUDA device of its own where there are any."""
    jobs_per_device: Annotated[int, Field(ge=1, le=64)] = 1
    """Jobs on one machine that use the same CUDA device at a time; further ones wait."""


WHERE = {"device", "threads", "processes", "jobs_per_device"}
"""Keys of TrainParams that say where a training runs, and change nothing in what it computes but rounding."""


class SamplingParams(Strict):
    """Split and class balance."""

    val_fraction: Annotated[float, Field(gt=0, lt=0.5)] = 0.1
    """Part of the training images that becomes the validation part where the dataset has none; stratified by class."""
    split_seed: int = 0
    """Seed of that split and of the upsampling's remainder; the same for all training seeds."""
    upsample: Upsample = "full"
    """full: every class as large as the largest; sqrt: as in the authors' later code; the training part only."""
    duplicates: Literal["keep", "drop_exact", "drop_near"] = "keep"
    """Training images that are copies of validation or test images: kept, as the field does, or left out: those with
    the same pixels, or near and mirrored copies too (docs/leaks.md)."""


class FaceParams(Strict):
    """Detection and alignment."""

    landmarks: Literal["mtcnn", "supplied"] = "mtcnn"
    """Where the five landmarks come from."""
    template: Template = "arcface"
    """Where the landmarks go. arcface: ArcFace's five points; box: no rotation, the square around MTCNN's box; none:
    the centre square of the image as it is; or five points [x, y] as fractions of the side."""
    size: Annotated[int, Field(ge=32, le=448)] = 112
    """Side of the aligned face in pixels."""
    margin: Annotated[float, Field(ge=0, le=0.4)] = 0.0
    """Context on each side, as a fraction of the side: the face becomes smaller by twice that."""
    no_face: Literal["whole", "drop"] = "whole"
    """What happens to an image in which no face is found: used as a whole, or left out."""
    broken: Literal["drop", "stop"] = "stop"
    """What happens to an image that cannot be decoded."""
    min_side: Annotated[int, Field(ge=48, le=320)] = 96
    """Images whose short side is smaller are enlarged to it before detection; larger ones are reduced to 320."""
    border: Annotated[float, Field(ge=0, le=1)] = 0.25
    """Border around the image in detection, as a fraction of its short side: MTCNN misses faces that fill the frame."""
    min_face: Annotated[float, Field(ge=0.05, le=1)] = 0.25
    """The smallest face that is looked for, as a fraction of the image's short side."""
    threads: Annotated[int, Field(ge=1, le=256)] | None = None
    """Cores of one detection; null: all that there are."""

    def search(self) -> dict[str, Any]:
        """What decides which faces are found."""
        return self.model_dump(include={"min_side", "border", "min_face"})

    def alignment(self) -> dict[str, Any]:
        """What the aligned store depends on besides the faces that are found."""
        return self.model_dump(mode="json", include={"landmarks", "template", "size", "margin", "no_face", "broken"})


def _partial(model: type[Strict], name: str) -> type[Strict]:
    """``model`` with every key optional: a block of overrides."""
    fields = {}
    for key, field in model.model_fields.items():
        annotation = Annotated[field.annotation, *field.metadata] if field.metadata else field.annotation
        fields[key] = (annotation | None, Field(default=None, description=field.description))
    return create_model(name, __base__=Strict, __doc__=f"Keys of {model.__name__} that differ.", **fields)


ModelOverride = _partial(ModelParams, "ModelOverride")
TrainOverride = _partial(TrainParams, "TrainOverride")
SamplingOverride = _partial(SamplingParams, "SamplingOverride")
FaceOverride = _partial(FaceParams, "FaceOverride")


class DatasetDefinition(Strict):
    """A dataset: where it lies, how it is read, and what it changes in the blocks below."""

    about: str = ""
    """A sentence that stands above the dataset's results, such as what its parts are."""
    parser: Name
    """The parser's name: a module of transfer/datasets."""
    archive: str
    """Folder or archive below raw_dir, with or without .zip, .tar, .tar.gz, .tgz."""
    options: dict[str, str | int | bool] = {}
    """The parser's own options, such as rule or classes."""
    expect: Literal["any", "official"] | dict[Split, int | list[int]] = "any"
    """Counts to insist on: the official ones, or per split a total or a list by class."""
    missing: Literal["stop", "drop"] = "stop"
    """What happens to listed images that are not there."""
    synthetic: Annotated[int, Field(ge=0)] | None = None
    """Seed of the renderer that draws this dataset where it is not a real one."""
    synthetic_scale: Annotated[float, Field(gt=0, le=10)] = 1.0
    """Multiplies the number of drawn faces."""
    reported_as: Literal["rafdb", "ferplus", "affectnet7", "affectnet8"] | None = None
    """The leaderboard on which published numbers compare with this dataset; null: none does."""
    faces: FaceOverride = FaceOverride()
    sampling: SamplingOverride = SamplingOverride()
    model: ModelOverride = ModelOverride()
    train: TrainOverride = TrainOverride()


class RecipeOnDataset(Strict):
    """What a recipe changes on one dataset alone, such as the values that a search found there."""

    model: ModelOverride = ModelOverride()
    train: TrainOverride = TrainOverride()
    upsample: Upsample | None = None
    """Balance of the training part on this dataset; null: that of the recipe."""


class RecipeDefinition(Strict):
    """A recipe: which parts of TransFER are on, and what else it changes."""

    local_cnns: bool = True
    """LANets between stem and ViT."""
    mad: bool = False
    """Multi-attention dropping of LANet maps."""
    msad: bool = False
    """Multi-head self-attention dropping."""
    model: ModelOverride = ModelOverride()
    train: TrainOverride = TrainOverride()
    upsample: Upsample | None = None
    """Balance of this recipe's training part; null: that of the dataset. The split is the same for all recipes."""
    datasets: dict[Name, RecipeOnDataset] = {}
    """What differs on single datasets; it wins over the keys above."""


def _stepped(low: float, high: float, step: float) -> list[float]:
    """low, low + step, ... high, without the rounding errors of repeated addition."""
    first, last, width = (Decimal(str(value)) for value in (low, high, step))
    if (last - first) % width:
        raise ValueError(f"high is not low plus a whole number of steps: {low}, {high}, {step}")
    return [type(low)(first + i * width) for i in range(int((last - first) / width) + 1)]


class RateRange(Strict):
    """A range of rates to search in."""

    low: Fraction
    high: Fraction
    step: Annotated[float, Field(gt=0, le=1)] | None = None
    """Distance of the values; null: any value of the range."""
    log: bool = False
    """Search in the logarithm of the rate."""

    @model_validator(mode="after")
    def _is_a_range(self) -> "RateRange":
        if self.low >= self.high:
            raise ValueError(f"expected low < high, found {self.low} and {self.high}")
        if self.log and (self.step or self.low == 0):
            raise ValueError("log needs low > 0 and no step")
        if self.step:
            _stepped(self.low, self.high, self.step)
        return self

    def values(self) -> list[float] | None:
        """All values, in order; None where they are not countable."""
        return _stepped(self.low, self.high, self.step) if self.step else None


class CountRange(Strict):
    """A range of whole numbers to search in."""

    low: Annotated[int, Field(ge=0, le=16)]
    high: Annotated[int, Field(ge=0, le=16)]
    step: Annotated[int, Field(ge=1)] = 1

    @model_validator(mode="after")
    def _is_a_range(self) -> "CountRange":
        if self.low >= self.high:
            raise ValueError(f"expected low < high, found {self.low} and {self.high}")
        _stepped(self.low, self.high, self.step)
        return self

    def values(self) -> list[int]:
        """All values, in order."""
        return _stepped(self.low, self.high, self.step)


def _different(values: list) -> list:
    if len(set(values)) < len(values):
        raise ValueError(f"a value appears twice: {values}")
    return values


Rates = Annotated[list[Fraction], Field(min_length=1), AfterValidator(_different)]
Counts = Annotated[list[Annotated[int, Field(ge=0, le=16)]], Field(min_length=1), AfterValidator(_different)]
Balances = Annotated[list[Upsample], Field(min_length=1), AfterValidator(_different)]


class SearchSpace(Strict):
    """What a search varies: each a range or a list of choices; null: as the recipe has it."""

    mad: RateRange | Rates | None = None
    """p1. With fewer than two LANets there is nothing to drop: it is 0 then, and no part of that trial."""
    msad: RateRange | Rates | None = None
    """p2."""
    num_lanets: CountRange | Counts | None = None
    """B."""
    upsample: Balances | None = None
    """Balance of the training part."""

    @model_validator(mode="after")
    def _is_not_empty(self) -> "SearchSpace":
        if not self.model_dump(exclude_none=True):
            raise ValueError("nothing to search; give mad, msad, num_lanets or upsample a range or a list")
        return self


class PrunerParams(Strict):
    """When a trial is given up for its validation accuracy."""

    kind: Literal["median", "none"] = "median"
    """median: its best epoch so far is worse than the median of the other trials at that epoch."""
    startup_trials: Annotated[int, Field(ge=0)] = 5
    """Completed trials before any is given up."""
    warmup_epochs: Annotated[int, Field(ge=0)] = 5
    """Epochs of a trial before it may be given up."""
    interval_epochs: Annotated[int, Field(ge=1)] = 1
    """Epochs between two decisions."""
    min_trials: Annotated[int, Field(ge=1)] = 1
    """Trials that must have come to that epoch."""


class SearchDefinition(Strict):
    """A search: a study per dataset; what it finds is a recipe of the same name."""

    recipe: Name = "full"
    """The recipe that it starts from."""
    space: SearchSpace
    sampler: Literal["tpe", "random", "grid"] = "tpe"
    """grid: every combination once."""
    trials: Annotated[int, Field(ge=1, le=100000)] | None = None
    """Trials to finish, completed or given up, per dataset; a grid has as many as combinations."""
    workers: Annotated[int, Field(ge=1, le=1000)] = 2
    """Processes that work on one study."""
    epochs: Annotated[int, Field(ge=1, le=10000)] | None = None
    """Length of its trainings; null: train.epochs. The recipe that is found does not take it over."""
    seeds: Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=1), AfterValidator(_different)] = [0]
    """Training seeds: a trial's value is the mean over them."""
    sampler_seed: Annotated[int, Field(ge=0)] = 0
    startup_trials: Annotated[int, Field(ge=1)] = 10
    """Trials that tpe draws at random first."""
    pruner: PrunerParams = PrunerParams()

    @model_validator(mode="after")
    def _fits_its_sampler(self) -> "SearchDefinition":
        if self.sampler != "grid":
            if self.trials is None:
                raise ParamsError(("trials",), f"missing; {self.sampler} needs a number of trials")
            return self
        if self.trials is not None:
            raise ParamsError(("trials",), "a grid has as many trials as combinations; leave it out")
        for name in ("mad", "msad"):
            part = getattr(self.space, name)
            if isinstance(part, RateRange) and part.step is None:
                raise ParamsError(("space", name), "a grid needs a step or a list")
        return self


class RobustnessParams(Strict):
    """What is done to the test faces of a finished training."""

    corruptions: Literal["all"] | dict[Name, list[float]] = "all"
    """Severities of each corruption, in the units of docs/robustness.md; all: every corruption at its own list."""
    seed: Annotated[int, Field(ge=0)] = 0
    """Seed of the noise and of the random places: the same for all recipes and training seeds."""

    @model_validator(mode="after")
    def _are_severities(self) -> "RobustnessParams":
        for name, severities in self.chosen().items():
            if name not in SEVERITIES:
                raise ParamsError(("corruptions",), f"unknown name '{name}'; allowed: {', '.join(SEVERITIES)}")
            scale = SEVERITIES[name]
            outside = [severity for severity in severities if not scale.least < severity <= scale.most]
            if outside:
                expected = f"expected more than {scale.least} and at most {scale.most} ({scale.unit})"
                raise ParamsError(("corruptions", name), f"{outside[0]:g}: {expected}")
            if len(set(severities)) < len(severities):
                raise ParamsError(("corruptions", name), f"a value appears twice: {severities}")
        return self

    def chosen(self) -> dict[str, list[float]]:
        """Corruption -> severities; a corruption without any is left out."""
        if self.corruptions == "all":
            return {name: list(scale.severities) for name, scale in SEVERITIES.items()}
        return {name: sorted(severities) for name, severities in self.corruptions.items() if severities}


TableKind = Literal[
    "recipes", "protocols", "reported", "per_class", "subgroups", "calibration", "robustness", "cross", "diversity"
]
WITH_FIGURE = ("recipes", "per_class", "calibration", "robustness", "diversity")
OF_WEIGHTS = ("robustness", "cross", "diversity")
"""The kinds that are made from what the kept weights say of other faces than those of the test part as they are."""


class Sweep(Strict):
    """Variants of one recipe, one for every combination of the listed values."""

    recipe: Name = "full"
    """The recipe that is varied."""
    over: Annotated[
        dict[Annotated[str, Field(pattern=r"^((model|train)\.[a-z_]+|upsample)$")], list[int | float | str]],
        Field(min_length=1),
    ]
    """Values by key, such as model.num_lanets. With fewer than two LANets there is no MAD."""

    @model_validator(mode="after")
    def _has_values(self) -> "Sweep":
        for key, values in self.over.items():
            if not values:
                raise ParamsError(("over", key), "no values; list at least one")
            if len(set(values)) < len(values):
                raise ParamsError(("over", key), f"a value appears twice: {values}")
        return self

    def recipes(self) -> dict[str, dict[str, Any]]:
        """The variants by name, such as full_num_lanets3: keys and their values."""
        found = {}
        for values in itertools.product(*self.over.values()):
            chosen = dict(zip(self.over, values, strict=True))
            found["_".join([self.recipe, *(_label(key, value) for key, value in chosen.items())])] = chosen
        return found


def _label(key: str, value: int | float | str) -> str:
    return key.rpartition(".")[2] + re.sub(r"[^a-z0-9]", "", str(value).lower())


class TableDefinition(Strict):
    """A table: what it shows, and of which trainings; null: those of the experiment."""

    kind: TableKind
    """recipes: accuracies against a baseline; protocols: what the choice of the epoch flatters; reported: beside
    published numbers; per_class: recall by expression; subgroups: by attributes of the faces; calibration: of the
    probabilities; robustness: under corruptions and on challenge subsets; cross: on the other datasets; diversity: of
    the attention."""
    title: str = ""
    """What stands above it; empty: its name."""
    datasets: Annotated[list[Name], Field(min_length=1)] | None = None
    recipes: Annotated[list[Name], Field(min_length=1)] | None = None
    sweep: Sweep | None = None
    """Recipes that are variants of one, in the place of `recipes`."""
    baseline: Name | None = None
    """The recipe that the others are compared with; of a sweep, any of its recipes; null: that of the experiment."""
    protocols: Annotated[list[Protocol], Field(min_length=1)] | None = None
    seeds: Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=1), AfterValidator(_different)] | None = None

    @model_validator(mode="after")
    def _names_its_recipes_once(self) -> "TableDefinition":
        if self.recipes and self.sweep:
            raise ParamsError(("sweep",), "a table has recipes or a sweep, not both")
        return self


_STORAGE = re.compile(r"journal|sqlite:///.+|postgresql(\+\w+)?://.+|\$\{\w+\}")
_PASSWORD = re.compile(r"://[^:@/]*:(?!\$\{\w+\}@).*@|[?&]password=(?!\$\{\w+\}(&|$))")


class Params(Strict):
    """The whole configuration of an experiment."""

    experiment: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]*$")]
    """Name of the experiment: its files lie in results/<experiment>/."""
    raw_dir: str = "data/raw"
    """Where the datasets' archives lie."""
    datasets: Annotated[list[Name], Field(min_length=1)]
    """The datasets of this experiment, by name."""
    recipes: Annotated[list[Name], Field(min_length=1)]
    """The recipes of this experiment, by name."""
    baseline: Name = "baseline"
    """The recipe that the others are compared with."""
    seeds: Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=1)]
    """Seeds of the trainings."""
    protocols: Annotated[list[Protocol], Field(min_length=1)] = ["last", "val_selected", "test_selected"]
    """How the reported epoch is chosen: one row of the table each."""
    faces: FaceParams = FaceParams()
    sampling: SamplingParams = SamplingParams()
    model: ModelParams = ModelParams()
    train: TrainParams = TrainParams()
    robustness: RobustnessParams = RobustnessParams()
    tracking: bool = True
    """Show the trainings in MLflow."""
    searches: list[Name] = []
    """The searches of `snakemake search`, by name."""
    tables: list[Name] = ["table1"]
    """The tables of `snakemake tables`, by name; any defined one is made by its file's name."""
    search_storage: str = "journal"
    """Where the studies are kept: journal (a file of the experiment), sqlite:///FILE, postgresql://USER@HOST/DATABASE.
    ${NAME} stands for an environment variable, which is where a password belongs."""
    dataset_definitions: dict[Name, DatasetDefinition]
    recipe_definitions: dict[Name, RecipeDefinition]
    search_definitions: dict[Name, SearchDefinition] = {}
    table_definitions: dict[Name, TableDefinition] = {"table1": TableDefinition(kind="recipes")}

    @model_validator(mode="after")
    def _names_are_defined(self) -> "Params":
        for key, names, defined in (
            ("datasets", self.datasets, self.dataset_definitions),
            ("recipes", self.recipes, self.recipe_definitions),
            ("baseline", [self.baseline], dict.fromkeys(self.recipes)),
            ("searches", self.searches, self.search_definitions),
            ("tables", self.tables, self.table_definitions),
        ):
            for name in names:
                if name not in defined:
                    raise ParamsError((key,), f"unknown name '{name}'; allowed: {', '.join(defined)}")
            if len(set(names)) < len(names):
                raise ParamsError((key,), "a name appears twice")
        if len(set(self.seeds)) < len(self.seeds):
            raise ParamsError(("seeds",), "a seed appears twice")
        for table in self.table_definitions:
            self._check_table(table)
        self._check_drawn_archives()
        for dataset in self.every_dataset():
            self._check_faces(dataset)
        for dataset, recipe in dict.fromkeys((dataset, recipe) for dataset, recipe, _ in self.every_run()):
            self._check_run(dataset, recipe)
        for search in self.searches:
            self._check_search(search)
        if not _STORAGE.fullmatch(self.search_storage):
            raise ParamsError(("search_storage",), "expected journal, sqlite:///FILE, postgresql://... or ${NAME}")
        if _PASSWORD.search(self.search_storage):
            message = "a password would be written to results/; put ${NAME} in its place and set the variable NAME"
            raise ParamsError(("search_storage",), message)
        return self

    def _check_table(self, name: str) -> None:
        table, loc = self.table_definitions[name], ("table_definitions", name)
        if table.sweep and table.sweep.recipe not in self.recipe_definitions:
            allowed = ", ".join(self.recipe_definitions)
            raise ParamsError((*loc, "sweep", "recipe"), f"unknown name '{table.sweep.recipe}'; allowed: {allowed}")
        recipes = {**self.recipe_definitions, **self.variants}
        for key, names, defined in (
            ("protocols", table.protocols or [], dict.fromkeys(self.protocols)),
            ("datasets", table.datasets or [], self.dataset_definitions),
            ("recipes", table.recipes or [], recipes),
            ("baseline", [table.baseline] if table.baseline else [], dict.fromkeys(self.table_recipes(name))),
        ):
            for item in names:
                if item not in defined:
                    raise ParamsError((*loc, key), f"unknown name '{item}'; allowed: {', '.join(defined)}")

    def _check_run(self, dataset: str, recipe: str) -> None:
        run = self.run(dataset, recipe)
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

    @property
    def kept_protocol(self) -> Protocol:
        """The protocol whose weights become model.safetensors."""
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
                        found[name] = _varied(self.recipe_definitions[sweep.recipe], values)
                    except ValidationError as error:
                        first = error.errors()[0]
                        loc = ("table_definitions", table, "sweep", "over")
                        raise ParamsError(loc, f"{values}: {first['msg']}") from None
        return found

    def recipe(self, name: str) -> RecipeDefinition:
        """The recipe of that name, defined or of a sweep."""
        return self.variants[name] if name in self.variants else self.recipe_definitions[name]

    def table_datasets(self, name: str) -> list[str]:
        """The datasets of a table."""
        return self.table_definitions[name].datasets or self.datasets

    def table_recipes(self, name: str) -> list[str]:
        """The recipes of a table, those of its sweep by their names."""
        table = self.table_definitions[name]
        return list(table.sweep.recipes()) if table.sweep else table.recipes or self.recipes

    def table_seeds(self, name: str) -> list[int]:
        """The seeds of a table."""
        return self.table_definitions[name].seeds or self.seeds

    def table_protocols(self, name: str) -> list[Protocol]:
        """The protocols of a table; where it evaluates weights, that of the weights which are kept."""
        table = self.table_definitions[name]
        return [self.kept_protocol] if table.kind in OF_WEIGHTS else table.protocols or self.protocols

    def table_baseline(self, name: str) -> str:
        """The recipe that those of a table are compared with."""
        return self.table_definitions[name].baseline or self.baseline

    def table_runs(self, name: str) -> list[tuple[str, str, int]]:
        """The trainings of a table: dataset, recipe, seed."""
        return list(itertools.product(self.table_datasets(name), self.table_recipes(name), self.table_seeds(name)))

    def has_figure(self, name: str) -> bool:
        """Whether a table has a figure: of a sweep, of one or two values."""
        table = self.table_definitions[name]
        return len(table.sweep.over) < 3 if table.sweep else table.kind in WITH_FIGURE

    def runs(self) -> list[tuple[str, str, int]]:
        """The experiment's own trainings: dataset, recipe, seed."""
        return list(itertools.product(self.datasets, self.recipes, self.seeds))

    def chosen_runs(self) -> list[tuple[str, str, int]]:
        """The trainings of the experiment and of the tables that are chosen."""
        return list(dict.fromkeys([*self.runs(), *(run for name in self.tables for run in self.table_runs(name))]))

    def chosen_datasets(self) -> list[str]:
        """The datasets of the experiment and of the tables that are chosen."""
        return list(dict.fromkeys(dataset for dataset, _, _ in self.chosen_runs()))

    def every_run(self) -> list[tuple[str, str, int]]:
        """The trainings of the experiment and of all tables that are defined, chosen or not."""
        return list(
            dict.fromkeys([*self.runs(), *(run for name in self.table_definitions for run in self.table_runs(name))])
        )

    def every_dataset(self) -> list[str]:
        """The datasets of the experiment and of all tables that are defined."""
        return list(
            dict.fromkeys(
                [*self.datasets, *(name for table in self.table_definitions for name in self.table_datasets(table))]
            )
        )

    def every_recipe(self) -> list[str]:
        """The recipes of the experiment and of all tables that are defined."""
        return list(
            dict.fromkeys(
                [*self.recipes, *(name for table in self.table_definitions for name in self.table_recipes(table))]
            )
        )

    def _check_drawn_archives(self) -> None:
        """Datasets may share a drawn archive, such as two alignments of it, if they agree on what is drawn."""
        drawn: dict[str, tuple[str, Any]] = {}
        for dataset in self.chosen_datasets():
            definition = self.dataset_definitions[dataset]
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

    def _check_faces(self, dataset: str) -> None:
        faces = self.face_params(dataset)
        own = self.dataset_definitions[dataset].faces.model_fields_set
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

    def _check_search(self, name: str) -> None:
        search = self.search_definitions[name]
        if search.recipe not in self.recipe_definitions:
            allowed = ", ".join(self.recipe_definitions)
            message = f"unknown name '{search.recipe}'; allowed: {allowed}"
            raise ParamsError(("search_definitions", name, "recipe"), message)
        if search.recipe == name:
            message = "a search gives its name to the recipe that it finds, and cannot start from it"
            raise ParamsError(("search_definitions", name, "recipe"), message)
        for dataset in self.datasets:
            lanets = self.run(dataset, search.recipe).model.num_lanets
            if search.space.mad and not search.space.num_lanets and lanets < 2:
                message = f"needs num_lanets >= 2, but recipe {search.recipe} has {lanets} on {dataset}"
                raise ParamsError(("search_definitions", name, "space", "mad"), message)

    def face_params(self, dataset: str) -> FaceParams:
        """Detection and alignment of ``dataset``."""
        return _merged(self.faces, self.dataset_definitions[dataset].faces)

    def sampling_params(self, dataset: str) -> SamplingParams:
        """Split and class balance of ``dataset``, before a recipe's own balance."""
        return _merged(self.sampling, self.dataset_definitions[dataset].sampling)

    def run(self, dataset: str, recipe: str) -> "RunParams":
        """What one training sees: the experiment's blocks, then the dataset's, then the recipe's."""
        data, rec = self.dataset_definitions[dataset], self.recipe(recipe)
        here = rec.datasets.get(dataset, RecipeOnDataset())
        upsample = here.upsample or rec.upsample
        off = {} if rec.local_cnns else {"num_lanets": 0}
        off |= {part: 0.0 for part in ("mad", "msad") if not getattr(rec, part)}
        return RunParams(
            model=_merged(self.model, data.model, off, rec.model, here.model),
            train=_merged(self.train, data.train, rec.train, here.train),
            sampling=_merged(self.sampling, data.sampling, {"upsample": upsample} if upsample else {}),
        )


def _varied(recipe: RecipeDefinition, values: Mapping[str, Any]) -> RecipeDefinition:
    """``recipe`` with the values of a sweep by their dotted keys, which win over all else that it says."""
    content = recipe.model_dump(exclude_unset=True)
    content["datasets"] = {}
    for key, value in values.items():
        block, _, name = key.rpartition(".")
        content = merge(content, {block: {name: value}} if block else {name: value})
        if name in ("mad", "msad"):
            content[name] = True
    if values.get("model.num_lanets", 2) < 2:
        content = merge(content, {"mad": False, "model": {"mad": 0.0}})
    return RecipeDefinition.model_validate(content)


class RunParams(Strict):
    """The resolved parameters of one training."""

    model: ModelParams
    train: TrainParams
    sampling: SamplingParams


def _merged(base: S, *overrides: Strict | Mapping[str, Any]) -> S:
    values = base.model_dump()
    for override in overrides:
        values = merge(values, override.model_dump(exclude_unset=True) if isinstance(override, Strict) else override)
    return type(base)(**values)


def merge(base: Mapping[str, Any], override: Mapping[str, Any]) -> dict[str, Any]:
    """``base`` with ``override`` on top: mappings merge, everything else replaces (as in Snakemake)."""
    merged = dict(base)
    for key, value in override.items():
        both = isinstance(value, Mapping) and isinstance(merged.get(key), Mapping)
        merged[key] = merge(merged[key], value) if both else value
    return merged


def digest(*values: Any, length: int = 12) -> str:
    """Short hexadecimal digest of parameters (models, or anything that is JSON)."""
    plain = [value.model_dump(mode="json") if isinstance(value, BaseModel) else value for value in values]
    return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()[:length]
