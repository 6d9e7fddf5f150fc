"""Published numbers (params/reported.yaml), each with its source and how far that source was checked."""

import os
from pathlib import Path
from typing import Annotated, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, StringConstraints, TypeAdapter, ValidationError

from transfer.utils.errors import UserError

REPORTED = Path("params/reported.yaml")
_Text = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1)]


class Reported(BaseModel):
    """A published accuracy (percent)."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    method: _Text
    year: int = Field(ge=2000, le=2100)
    dataset: Literal["rafdb", "ferplus", "affectnet7", "affectnet8"]
    recipe: _Text | None = None
    accuracy: float = Field(gt=0, le=100, allow_inf_nan=False)
    protocol: Literal["test_selected", "unknown"]
    source: _Text
    status: Literal["confirmed", "second-hand"]
    remark: _Text | None = None


def load_reported(path: str | os.PathLike = REPORTED) -> list[Reported]:
    """Read the published numbers. Raises UserError naming the file and the entry (counted from 1)."""
    try:
        rows = TypeAdapter(list[Reported]).validate_python(yaml.safe_load(Path(path).read_text(encoding="utf-8")))
    except FileNotFoundError:
        raise UserError(f"{path}: missing; restore it from the repository") from None
    except yaml.YAMLError as error:
        raise UserError(f"{path}: not valid YAML ({' '.join(str(error).split())}); correct it") from error
    except ValidationError as error:
        first = error.errors()[0]
        if not first["loc"]:
            raise UserError(f"{path}: expected a list of entries; write each as '- method: ...'") from None
        number, *key = first["loc"]
        where = ".".join(map(str, key)) or "entry"
        raise UserError(f"{path}: entry {int(number) + 1}: {where}: {first['msg']}; correct this entry") from error
    cells: dict[tuple[str, str], int] = {}
    for number, row in enumerate(rows, start=1):
        if row.recipe and cells.setdefault((row.dataset, row.recipe), number) != number:
            other = f"recipe {row.recipe} on {row.dataset} already has entry {cells[row.dataset, row.recipe]}"
            raise UserError(f"{path}: entry {number}: {other}; keep one of them")
    return rows
