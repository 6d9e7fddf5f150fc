"""What became of every tensor, of the file and of the model: for people and as JSON."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True)
class Loaded:
    """A tensor that was taken over: its name in the file, its name in the model, and how it was changed."""

    source: str
    target: str
    shape: tuple[int, ...]
    change: str = ""


@dataclass
class Report:
    """Nothing is left out: a tensor that no list explains is an error before there is a report."""

    loaded: list[Loaded] = field(default_factory=list)
    missing: dict[str, str] = field(default_factory=dict)
    """Tensors of the model that the file does not have, with the reason why that is right."""
    not_wanted: dict[str, str] = field(default_factory=dict)
    """Tensors of the file that the model does not have, with the reason."""

    def to_json(self) -> dict[str, Any]:
        """Every tensor by name."""
        return asdict(self)

    def to_text(self) -> str:
        """A few lines: numbers of tensors by part and reason."""
        changes = Counter(item.change for item in self.loaded if item.change)
        parts = [_parts(item.target for item in self.loaded), *(f"{n} {change}" for change, n in changes.items())]
        lines = [f"  loaded {len(self.loaded)}: {', '.join(parts)}"]
        lines += _grouped("missing", self.missing)
        lines += _grouped("not wanted", self.not_wanted)
        return "\n".join(lines)


def _grouped(what: str, tensors: Mapping[str, str]) -> list[str]:
    reasons = dict.fromkeys(tensors.values())
    of = {why: [name for name in tensors if tensors[name] == why] for why in reasons}
    return [f"  {what} {len(names)}: {_parts(names)} ({why})" for why, names in of.items()]


def _parts(names: Any) -> str:
    """The first parts of the names, each once."""
    return ", ".join(dict.fromkeys(name.partition(".")[0] for name in names)) or "none"
