"""The datasets: where they lie, how they are read, aligned, split and balanced."""

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field

from transfer.params.base import Fraction, Name, Override, Split, Strict, Upsample
from transfer.params.train import ModelOverride, TrainOverride


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


class FaceOverride(Override, FaceParams):
    """Keys of FaceParams that differ."""


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


class SamplingOverride(Override, SamplingParams):
    """Keys of SamplingParams that differ."""


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

    @property
    def layout(self) -> str:
        """How its labels are read: the parser and its options, for readers."""
        return "".join([self.parser, *(f", {key} {value}" for key, value in self.options.items())])
