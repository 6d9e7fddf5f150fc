"""What an importer says: which tensor of somebody else's file becomes which of ours. No torch here."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Theirs:
    """A tensor in their file: the names it may have there, and whether it lies transposed."""

    names: tuple[str, ...]
    transposed: bool = False

    def shape(self, ours: Shape) -> Shape:
        """The shape that their tensor must have, from that of ours."""
        return tuple(reversed(ours)) if self.transposed else ours


@dataclass(frozen=True)
class Importer:
    """How a kind of file is read. Every tensor of the file is either wanted or not wanted for a stated reason."""

    about: str
    """What the file is, in a few words."""
    format: Literal["torch", "paddle"]
    """How it is stored."""
    fills: tuple[str, ...]
    """Beginnings of our tensors' names: the file must hold all of these tensors."""
    theirs: Callable[[str], Theirs | None]
    """Our name to theirs; None for what their framework does not have (see ``supplied``)."""
    not_wanted: Mapping[str, str]
    """Pattern of their names to the reason why such a tensor is left."""
    supplied: Mapping[str, str] = field(default_factory=dict)
    """Pattern of our names that their framework has no tensor for, to the reason; they become 0."""
    sizes: Callable[[Mapping[str, Shape]], dict[str, Any]] = lambda shapes: {}
    """Shapes in the file to the keywords of ``transfer_base`` that it was made with."""
    run: Mapping[str, Any] = field(default_factory=dict)
    """For a whole model: what its model.safetensors says of itself, such as the protocol that chose the epoch."""
    models: tuple[str, ...] = ("transfer_base",)
    """The models of these sizes."""

    def is_filled(self, name: str) -> bool:
        """Whether the file must hold our tensor ``name``."""
        return name.startswith(self.fills)

    def reason(self, patterns: Mapping[str, str], name: str) -> str | None:
        """The reason that ``patterns`` give for ``name``, or None."""
        return next((why for pattern, why in patterns.items() if re.fullmatch(pattern, name)), None)
