"""What all blocks of parameters are made of: strict models, their merging, and the types of single values."""

import hashlib
import json
from collections.abc import Mapping
from typing import Annotated, Any, Literal, TypeVar, get_args

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, create_model


def rising(pair: tuple[float, float]) -> tuple[float, float]:
    """Validator: the first of two bounds is not larger."""
    if pair[0] > pair[1]:
        raise ValueError(f"expected the smaller bound first, found {list(pair)}")
    return pair


def different(values: list) -> list:
    """Validator: no value appears twice."""
    if len(set(values)) < len(values):
        raise ValueError(f"a value appears twice: {values}")
    return values


Fraction = Annotated[float, Field(ge=0, le=1)]
Name = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$")]
Range = Annotated[tuple[Fraction, Fraction], AfterValidator(rising)]
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


def partial(model: type[Strict], name: str) -> type[Strict]:
    """``model`` with every key optional: a block of overrides."""
    fields = {}
    for key, field in model.model_fields.items():
        annotation = Annotated[field.annotation, *field.metadata] if field.metadata else field.annotation
        fields[key] = (annotation | None, Field(default=None, description=field.description))
    about = {"__doc__": f"Keys of {model.__name__} that differ.", "__module__": model.__module__}  # where pickle looks
    return create_model(name, __base__=Strict, **about, **fields)


def merged(base: S, *overrides: Strict | Mapping[str, Any]) -> S:
    """A block with others on top, of which what was set wins."""
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
