"""Datasets: where they are, and how they are read, aligned, split and balanced."""

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field

from transfer.params.base import Below, Fraction, Name, Override, Seed, Split, Strict, Upsample
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


Count = Annotated[int, Field(ge=0, le=10**9)]


class FaceParams(Strict):
    """Detection and alignment."""

    landmarks: Literal["mtcnn", "supplied"] = "mtcnn"
    """Where the five landmarks come from."""
    frame: Literal["upright", "stored"] | None = None
    """Pixels that supplied landmarks belong to where an image's EXIF mark turns it: those of the upright image, or
    those that are stored; null: such an image stops the run."""
    misplaced: Literal["stop", "keep", "no_face"] = "stop"
    """Supplied landmarks above 0.2 eye distances from MTCNN's: stop if these, or landmarks outside the image, are more
    than half; keep: use them; no_face: as without landmarks, like landmarks outside the image always are."""
    template: Template = "arcface"
    """Target of the landmarks. arcface: ArcFace's five points; box: no rotation, the square around MTCNN's box; none:
    the centre square of the image; or five points [x, y] as fractions of the side."""
    size: Annotated[int, Field(ge=32, le=448)] = 112
    """Side of the aligned face in pixels."""
    margin: Annotated[float, Field(ge=0, le=0.4)] = 0.0
    """Context on each side, as a fraction of the side: the face becomes smaller by twice that."""
    no_face: Literal["whole", "drop"] = "whole"
    """Images without a detected face: use the whole image, or leave it out."""
    broken: Literal["drop", "stop"] = "stop"
    """Images that cannot be decoded: leave them out, or stop."""
    min_side: Annotated[int, Field(ge=48, le=320)] = 96
    """Shortest side of an image in detection: smaller images are enlarged to it, larger ones reduced to 320."""
    border: Annotated[float, Field(ge=0, le=1)] = 0.25
    """Border added in detection, as a fraction of the short side: MTCNN misses faces that fill the frame."""
    min_face: Annotated[float, Field(ge=0.05, le=1)] = 0.25
    """Smallest face to detect, as a fraction of the short side."""
    threads: Annotated[int, Field(ge=1, le=256)] | None = None
    """CPU threads of a detection; null: all cores."""

    def search(self) -> dict[str, Any]:
        """The keys that detection depends on."""
        return self.model_dump(include={"min_side", "border", "min_face"})

    def alignment(self) -> dict[str, Any]:
        """The keys that alignment depends on."""
        return self.model_dump(mode="json", exclude={"min_side", "border", "min_face", "threads"})


class FaceOverride(Override, FaceParams):
    """Keys of FaceParams that differ."""


class SamplingParams(Strict):
    """Split and class balance."""

    val_fraction: Annotated[float, Field(gt=0, lt=0.5)] = 0.1
    """Fraction of the training images used for validation if the dataset has no validation split; stratified."""
    split_seed: Seed = 0
    """Seed of that split and of the upsampling's remainder; shared by all runs."""
    upsample: Upsample = "full"
    """Balance of the training set. full: every class as large as the largest; sqrt: as in the authors' later code."""
    duplicates: Literal["keep", "drop_exact", "drop_near"] = "keep"
    """Training images that duplicate validation or test images: keep them, as is common practice, or drop those with
    equal pixels, or near and mirrored duplicates too (docs/leaks.md)."""


class SamplingOverride(Override, SamplingParams):
    """Keys of SamplingParams that differ."""


class DatasetDefinition(Strict):
    """A dataset: where it is, how it is read, and its overrides of the experiment's blocks."""

    about: str = ""
    """A sentence shown with the dataset's results, such as how it is split."""
    parser: Name
    """Name of the parser, a module of transfer/datasets."""
    archive: Below
    """Folder or archive below raw_dir, with or without .zip, .tar, .tar.gz, .tgz."""
    options: dict[str, str | int | bool | list[str]] = {}
    """Options of the parser, such as rule or classes."""
    expect: Literal["any", "official"] | dict[Split, Count | list[Count]] = "any"
    """Required counts: the official ones, or per split a total or a list by class."""
    missing: Literal["stop", "drop"] = "stop"
    """Listed images that are missing: stop, or leave them out."""
    synthetic: Seed | None = None
    """Seed of the renderer, for a synthetic dataset; null: a real one."""
    synthetic_scale: Annotated[float, Field(gt=0, le=10)] = 1.0
    """Factor on the number of synthetic faces."""
    reported_as: Literal["rafdb", "ferplus", "affectnet7", "affectnet8"] | None = None
    """The benchmark whose published numbers are comparable; null: none."""
    faces: FaceOverride = FaceOverride()
    sampling: SamplingOverride = SamplingOverride()
    model: ModelOverride = ModelOverride()
    train: TrainOverride = TrainOverride()

    @property
    def layout(self) -> str:
        """The parser and its options, for captions."""
        return "".join([self.parser, *(f", {key} {value}" for key, value in self.options.items())])
