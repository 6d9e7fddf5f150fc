"""Reads the configuration: params/default.yaml, override files on it, single values on top; one clear line if wrong."""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import UnionType
from typing import Any, get_args, get_origin

import yaml
from pydantic import BaseModel, ValidationError

from transfer.params import Params, ParamsError, S, merge
from transfer.params.train import RENAMED
from transfer.utils.errors import UserError
from transfer.utils.files import write_text

DEFAULT = Path("params/default.yaml")
SCHEMA = Path("params/schema.json")

# The first line of a snapshot, before the digest of what follows.
_WHOLE = "# All parameters of a workflow, as it started: nothing else is read below this file. "


def load(
    files: Sequence[Path] = (),
    values: Sequence[str] = (),
    command_line: Mapping[str, Any] | None = None,
    checks: Sequence[Callable[[Params], None]] = (),
) -> Params:
    """Read ``files`` one on the other on top of ``params/default.yaml``, then ``values`` ("train.epochs=3").

    A snapshot is whole: what lies below it is not read. ``command_line`` are values that are a mapping already.
    ``checks`` raise ParamsError for what the parameters' own types cannot know, such as the names of models.
    Raises UserError: file, line, key and what is allowed.
    """
    files = _from_the_last_snapshot([DEFAULT, *(Path(file) for file in files if Path(file) != DEFAULT)])
    config: dict[str, Any] = {}
    for file in files:
        config = merge(config, _read(file))
    command_line = dict(command_line or {})
    for value in values:
        key, equals, text = value.partition("=")
        if not equals:
            raise UserError(f"--set {value}: expected key=value, such as train.epochs=3")
        nested: Any = yaml.safe_load(text)
        for part in reversed(key.split(".")):
            nested = {part: nested}
        command_line = merge(command_line, nested)
    return validate(merge(config, command_line), files, command_line, checks)


def validate(
    config: Mapping[str, Any],
    files: Sequence[str | Path],
    command_line: Mapping[str, Any],
    checks: Sequence[Callable[[Params], None]] = (),
) -> Params:
    """Check a merged configuration; ``files`` and ``command_line`` are where it came from, to name the wrong one.

    Raises UserError: file, line, key and what is allowed.
    """
    params = _validated(Params, config, files, command_line)
    try:
        for check in checks:
            check(params)
    except ParamsError as error:
        raise UserError(f"{_origin(error.loc, files, command_line)}: {_key(error.loc)}: {error}") from None
    return params


def read_model(file: Path, model: type[S]) -> S:
    """The content of a YAML file as ``model``.

    Raises UserError: file, line, key and what is allowed.
    """
    return _validated(model, _read(file), [file], {})


def _validated(
    model: type[S], config: Mapping[str, Any], files: Sequence[str | Path], command_line: Mapping[str, Any]
) -> S:
    try:
        return model.model_validate(dict(config))
    except ValidationError as error:
        found = [(_location(details, config), details) for details in error.errors()]
        # Where a value may be of several kinds there is an error for each: the deepest one knows what was meant,
        # and among equals the one that does not miss another type.
        alternatives = [pair for pair in found if pair[0][: len(found[0][0])] == found[0][0]]
        loc, first = max(alternatives, key=lambda pair: (len(pair[0]), not pair[1]["type"].endswith("_type")))
        written = loc[:-1] if first["type"] == "missing" else loc
        origin = _origin(written, files, command_line)
        raise UserError(f"{origin}: {_key(loc)}: {_explain(first, loc, model)}") from None


def snapshot(params: Params, path: Path) -> None:
    """Write the resolved configuration, which the jobs of a workflow read, and nothing besides it."""
    text = yaml.safe_dump(params.model_dump(mode="json", exclude_unset=True), sort_keys=False)
    write_text(path, f"{_WHOLE}{_digest(text)}\n{text}")


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def _from_the_last_snapshot(files: list[Path]) -> list[Path]:
    """``files`` without those below a snapshot. Raises UserError for a snapshot that was edited."""
    for number in reversed(range(len(files))):
        try:
            first, _, rest = files[number].read_text(encoding="utf-8").partition("\n")
        except (OSError, UnicodeDecodeError):  # said where it is read
            continue
        if first.startswith(_WHOLE):
            if first != _WHOLE + _digest(rest):
                raise UserError(
                    f"{files[number]}: edited since a workflow wrote it; start snakemake again, which writes it anew, "
                    "or take its first line away to make it a parameter file of your own"
                )
            return files[number:]
    return files


def differences(one: Params, other: Params) -> list[tuple[str, Any, Any]]:
    """The keys in which two configurations differ, dotted, with both values; None where one has no such key."""
    first, second = (flat(params.model_dump(mode="json", exclude_unset=True)) for params in (one, other))
    keys = dict.fromkeys([*first, *second])
    return [(key, first.get(key), second.get(key)) for key in keys if first.get(key) != second.get(key)]


def flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested parameters by their dotted keys."""
    found: dict[str, Any] = {}
    for key, value in values.items():
        found |= flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return found


def origin(key: str, files: Sequence[Path], command_line: Mapping[str, Any]) -> str:
    """Where the value of a dotted key was set last: the command line, or a file with its line."""
    return _origin(tuple(key.split(".")), [DEFAULT, *files], command_line)


def write_schema(path: Path = SCHEMA) -> None:
    """Write the JSON schema of the parameters, for editors."""
    write_text(path, schema_text())


def schema_text() -> str:
    """The JSON schema of the parameters; nothing is required, since an override file holds only what differs."""
    schema = Params.model_json_schema()
    for block in (schema, *schema["$defs"].values()):
        block.pop("required", None)
    return json.dumps({"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}, indent=2) + "\n"


def _read(file: Path) -> dict[str, Any]:
    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{file}: no such parameter file") from None
    except (yaml.YAMLError, UnicodeDecodeError, IsADirectoryError) as error:
        mark = getattr(error, "problem_mark", None)
        line = f":{mark.line + 1}" if mark else ""
        raise UserError(f"{file}{line}: not a YAML file: {getattr(error, 'problem', None) or error}") from None
    if not isinstance(content, dict):
        raise UserError(f"{file}: expected a mapping of parameters, found {type(content).__name__}")
    return content


def _location(error: Mapping[str, Any], config: Any) -> tuple[str | int, ...]:
    """The keys that lead to the wrong value, without the names that pydantic gives to alternatives."""
    cause = error.get("ctx", {}).get("error")
    if isinstance(cause, ParamsError):
        return (*error["loc"], *cause.loc)
    loc: list[str | int] = []
    for part in error["loc"]:
        try:
            config = config[part]
        except (KeyError, IndexError, TypeError):
            if error["type"] != "missing":
                continue
        loc.append(part)
    return tuple(loc)


def _explain(error: Mapping[str, Any], loc: tuple[str | int, ...], model: type[BaseModel]) -> str:
    """What is wrong with the value and what is allowed."""
    kind, value = error["type"], error.get("input")
    if kind == "value_error":
        return str(error["ctx"]["error"])
    if kind == "extra_forbidden":
        if loc[-1] in RENAMED:
            return f"is now called {RENAMED[loc[-1]]}"
        return f"unknown key; allowed: {', '.join(_allowed(loc[:-1], model))}"
    if kind == "missing":
        return "missing"
    if kind == "model_type":
        return f"should be a mapping, found {value!r}"
    return f"{error['msg'].replace('Input should', 'should')}, found {value!r}"


def _allowed(loc: tuple[str | int, ...], model: type[BaseModel]) -> list[str]:
    """Keys of the block of ``model`` at ``loc``."""
    block: Any = model
    for part in loc:
        holds_many = get_origin(block) in (dict, list)
        block = get_args(block)[-1] if holds_many else block.model_fields[str(part)].annotation
        if get_origin(block) is UnionType:
            block = next(arg for arg in get_args(block) if isinstance(arg, type) and issubclass(arg, BaseModel))
    return sorted(block.model_fields)


def _key(loc: tuple[str | int, ...]) -> str:
    return ".".join(str(part) for part in loc) or "configuration"


def _origin(loc: tuple[str | int, ...], files: Sequence[str | Path], command_line: Mapping[str, Any]) -> str:
    """Where the value at ``loc`` was set last: the command line, or a file with its line."""
    if _line(yaml.compose(yaml.safe_dump(command_line)), loc):
        return "command line"
    for file in reversed(files):
        line = _line(yaml.compose(Path(file).read_text(encoding="utf-8")), loc)
        if line:
            return f"{file}:{line}"
    return str(files[-1])


def _line(node: yaml.Node | None, loc: tuple[str | int, ...]) -> int:
    """1-based line of the key at ``loc``, or 0 if the file does not hold it."""
    line = 0
    for part in loc:
        if isinstance(node, yaml.MappingNode):
            found = next(((key, value) for key, value in node.value if key.value == str(part)), None)
            if found is None:
                return 0
            line, node = found[0].start_mark.line + 1, found[1]
        elif isinstance(node, yaml.SequenceNode) and isinstance(part, int) and part < len(node.value):
            node = node.value[part]
            line = node.start_mark.line + 1
        else:
            break
    return line
