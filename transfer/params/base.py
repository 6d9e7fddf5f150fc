"""Building blocks of the parameters: strict models, overrides, and the types of single values."""

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from pathlib import PurePosixPath
from typing import Annotated, Any, Literal, Self, TypeVar, get_args

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, SerializerFunctionWrapHandler, model_serializer

from transfer.utils.errors import shown


def rising(pair: tuple[float, float]) -> tuple[float, float]:
    """Validator: the first bound is not above the second."""
    if pair[0] > pair[1]:
        raise ValueError(f"expected the smaller bound first, found {list(pair)}")
    return pair


def different(values: list[Any]) -> list[Any]:
    """Validator: no duplicates."""
    if len(set(values)) < len(values):
        raise ValueError(f"a value appears twice: {values}")
    return values


def positive(values: tuple[float, ...]) -> tuple[float, ...]:
    """Validator: what is divided by."""
    if min(values) <= 0:
        raise ValueError(f"expected numbers above 0, found {list(values)}")
    return values


_PLAIN = re.compile(r"[\w ./+=@,-]+")
_LONGEST = 200, 500  # bytes of a file's name, and of its path: suffixes, such as that of its log, are added


def plain(path: str) -> str:
    """Validator: a path that is the same in a shell, in Snakemake's patterns and on every file system."""
    names, (name, whole) = path.split("/"), _LONGEST
    wrong = not _PLAIN.fullmatch(path) or any(part != part.strip() or part[:1] == "-" for part in names)
    if wrong or max(len(part.encode()) for part in names) > name or len(path.encode()) > whole:
        raise ValueError(
            "expected a path of letters, digits, blanks between them and . _ - + = @ , whose names do not begin with - "
            f"(at most {name} bytes each, {whole} together), found {shown(path)}"
        )
    return path


def _below(path: str) -> str:
    parts = PurePosixPath(path).parts
    if not parts or path.startswith("/") or ".." in parts or str(PurePosixPath(path)) != path:
        raise ValueError(f"expected a plain path below raw_dir, such as weights/file.pth, found {shown(path)}")
    return plain(path)


Folder = Annotated[str, AfterValidator(plain)]
Below = Annotated[str, AfterValidator(_below)]
Seed = Annotated[int, Field(ge=0, lt=2**31)]
Seeds = Annotated[list[Seed], Field(min_length=1), AfterValidator(different)]
Fraction = Annotated[float, Field(ge=0, le=1)]
Name = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$", max_length=64)]
Range = Annotated[tuple[Fraction, Fraction], AfterValidator(rising)]
Positive = Annotated[float, Field(gt=0)]
NotNegative = Annotated[float, Field(ge=0)]
Channels = tuple[Fraction, Fraction, Fraction]
Protocol = Literal["last", "val_selected", "test_selected"]
Upsample = Literal["full", "sqrt", "none"]
UPSAMPLING: tuple[str, ...] = get_args(Upsample)
Split = Literal["train", "val", "test"]
SPLITS: tuple[str, ...] = get_args(Split)


class Strict(BaseModel):
    """A block of parameters: unknown keys are errors, values are immutable.

    The strings below the fields describe them in the JSON schema.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> Self:
        """A copy with changed values; what was derived from the old ones is derived anew."""
        copied = super().model_copy(update=update, deep=deep)
        for name in copied.__dict__.keys() - type(self).model_fields.keys():
            del copied.__dict__[name]
        return copied


class Override(Strict):
    """Mixin for a block in which every key is optional: only the keys that were set are merged and written."""

    @model_serializer(mode="wrap")
    def _only_what_was_set(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return {key: value for key, value in handler(self).items() if key in self.model_fields_set}


S = TypeVar("S", bound=Strict)


class ParamsError(ValueError):
    """Contradictory or unknown values; ``loc`` is the path of the key."""

    def __init__(self, loc: tuple[str | int, ...], message: str) -> None:
        super().__init__(message)
        self.loc = loc


def merged(base: S, *overrides: Strict | Mapping[str, Any]) -> S:
    """``base`` with ``overrides`` on top, the last one winning."""
    values = base.model_dump()
    for override in overrides:
        values = merge(values, override.model_dump(exclude_unset=True) if isinstance(override, Strict) else override)
    return type(base)(**values)


def merge(base: Mapping[str, Any], override: Mapping[str, Any], same: bool = False) -> dict[str, Any]:
    """``base`` with ``override`` on top: mappings merge, all other values are replaced (as in Snakemake).

    Arguments belong to one model or loss: a block that names another one starts without those of ``base``, unless both
    are of the ``same`` level, such as two values of the command line.
    """
    merged = dict(base)
    for key, value in override.items():
        old = merged.get(key)
        if isinstance(value, Mapping) and isinstance(old, Mapping):
            if not same and "name" in value and owner(value) != owner(old):
                old = {name: kept for name, kept in old.items() if name != "args"}
            value = merge(old, value, same)
        merged[key] = value
    return merged


def owner(block: Mapping[str, Any]) -> Any:
    """Whose arguments a block of a model or loss has: the sizes of TransFER share theirs, and those of a block without
    a name are the default's, TransFER's or cross-entropy's."""
    name = block.get("name", "cross_entropy")
    return None if is_transfer(str(name)) or name == "cross_entropy" else name


def is_transfer(model: str) -> bool:
    """Whether a model's name is one of TransFER's sizes."""
    return model.startswith("transfer_")


def nested(values: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    """Values by dotted keys as nested mappings."""
    found: dict[str, Any] = {}
    for key, value in values:
        for part in reversed(key.split(".")):
            value = {part: value}
        found = merge(found, value, same=True)
    return found


_ARGS = ("num_lanets", "mad", "msad", "msad_mode", "stem_stages", "lanet_norm", "normalization")
RENAMED = {
    "train.processes": "train.gpus",
    "train.flip_views": "train.hflip_tta",
    "train.targets: votes": "train.targets: soft_labels",
    "train.label_smoothing": "train.loss.args.label_smoothing",
    **{f"model.{name}": f"model.args.{name}" for name in _ARGS},
    **{f"space.{name}": f"model.args.{name}" for name in ("mad", "msad", "num_lanets")},
}
"""Keys of earlier versions, or keys with a value, and what they are called now."""


def renamed(key: str, value: Any = None) -> str | None:
    """What to write instead of a dotted ``key``, or of this value of it, where earlier versions had it."""
    for old, new in RENAMED.items():
        if f".{key}".endswith(f".{old}") or f".{key}: {value}".endswith(f".{old}"):
            return f"renamed; write {new}"
    return None


def digest(*values: Any, length: int = 12) -> str:
    """Short hexadecimal digest of models and JSON values."""
    plain = [value.model_dump(mode="json") if isinstance(value, BaseModel) else value for value in values]
    return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()[:length]
