"""Read the configuration: params/default.yaml, override files, single values; any mistake is one line."""

import ast
import inspect
import json
import re
import textwrap
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import UnionType
from typing import Any, get_args, get_origin

import yaml
from pydantic import BaseModel, ValidationError

from transfer.params.base import ParamsError, S, Strict, merge, nested, owner, renamed
from transfer.params.experiment import Params
from transfer.utils.errors import UserError, choices, did_you_mean, one_line, shown
from transfer.utils.files import write_text

DEFAULT = Path("params/default.yaml")
SCHEMA = Path("params/schema.json")
_SNAPSHOT = "# All parameters of a workflow, as it started: nothing else is read below this file."
_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # ten times as fast
_MOST_BYTES, _MOST_VALUES, _DEEPEST = 1_000_000, 50_000, 20
_LONGEST = 1000  # characters of what may be a number

Source = tuple[Sequence[str | Path], Mapping[str, Any]]
"""Where a configuration came from: files, the later ones on top, and values of the command line."""


def load(
    files: Sequence[Path] = (),
    values: Sequence[str] = (),
    command_line: Mapping[str, Any] | None = None,
    checks: Sequence[Callable[[Params], None]] = (),
) -> Params:
    """Read ``files`` on top of ``params/default.yaml``, then ``values`` ("train.epochs=3").

    A snapshot is complete: files below it are not read. ``command_line`` holds values that are already a mapping.
    ``checks`` raise ParamsError for what the types cannot know, such as model names.
    Raises UserError: file, line, key and what is allowed.
    """
    files = [DEFAULT, *(Path(file) for file in files if Path(file) != DEFAULT)]
    snapshots = [number for number, file in enumerate(files) if _is_snapshot(file)]
    files = files[snapshots[-1] if snapshots else 0 :]
    config: dict[str, Any] = {}
    for file in files:
        config = _on_top(config, read_yaml(file))
    single: list[tuple[str, Any]] = []
    for value in values:
        key, equals, text = value.partition("=")
        if not equals:
            raise UserError(f"--set {value}: expected key=value, such as train.epochs=3")
        if key.count(".") > _DEEPEST:
            raise UserError(f"--set {shown(value)}: nested deeper than {_DEEPEST}")
        single.append((key, parse(text, f"--set {shown(value)}")))
    command_line = merge(command_line or {}, nested(single), same=True)
    params = _validated(Params, _on_top(config, command_line), (files, command_line))
    try:
        for check in checks:
            check(params)
    except ParamsError as error:
        raise UserError(f"{_origin(error.loc, (files, command_line))}: {_key(error.loc)}: {error}") from None
    return params


def _on_top(config: Mapping[str, Any], override: Mapping[str, Any]) -> dict[str, Any]:
    """``override`` merged into ``config``, whose datasets keep no arguments of a model or loss that is replaced."""
    for path in (("model",), ("train", "loss")):
        old, new = _block(config, *path), _block(override, *path)
        if "name" in new and owner(new) != owner(old):
            for definition in _block(config, "dataset_definitions").values():
                if "name" not in (own := _block(definition, *path)):
                    own.pop("args", None)
    return merge(config, override)


def _block(values: Any, *path: str) -> dict[str, Any]:
    for part in path:
        values = values.get(part) if isinstance(values, dict) else None
    return values if isinstance(values, dict) else {}


def read_model(file: Path, model: type[S]) -> S:
    """The content of a YAML file as ``model``. Raises UserError: file, line, key and what is allowed."""
    return _validated(model, read_yaml(file), ([file], {}))


def parse(text: str, where: str) -> Any:
    """The value of a YAML text. Raises UserError if it is none, or for a key given twice and for what would never end:
    very many or deeply nested values, also where aliases unfold to them."""
    try:
        _check_events(yaml.parse(text, _Loader), where)  # before there is a tree: to build one is what takes for ever
        return yaml.load(text, _Loader)
    except (yaml.YAMLError, ValueError) as error:  # ValueError: a date or a number that is none
        mark = getattr(error, "problem_mark", None)
        line = f":{mark.line + 1}" if mark else ""
        raise UserError(f"{where}{line}: not YAML: {one_line(getattr(error, 'problem', None) or str(error))}") from None


def _check_events(events: Iterable[Any], where: str) -> None:
    sizes: dict[str | None, int] = {}  # of what has an anchor, with its aliases unfolded
    # What is open, the outermost first: where it starts, the sizes of its items, its keys if it is a mapping.
    above: list[tuple[Any, list[int], set[str] | None]] = [(None, [], None)]
    for event in events:
        wrong, size = "", 1
        if isinstance(event, yaml.CollectionStartEvent):
            above.append((event, [], set() if isinstance(event, yaml.MappingStartEvent) else None))
            wrong = f"nested deeper than {_DEEPEST}" if len(above) > _DEEPEST else ""
        elif isinstance(event, yaml.CollectionEndEvent):
            start, items, _ = above.pop()
            sizes[start.anchor] = size = sum(items) + 1
        elif isinstance(event, yaml.AliasEvent):
            size = sizes.get(event.anchor, 1)
            wrong = "" if event.anchor in sizes else f"*{event.anchor} is inside of itself, or not defined"
        elif isinstance(event, yaml.ScalarEvent):
            if event.anchor:
                sizes[event.anchor] = 1
            _, items, keys = above[-1]
            if keys is not None and len(items) % 2 == 0:
                wrong = f"the key {shown(event.value)} is there twice" if event.value in keys else ""
                keys.add(event.value)
            if event.implicit[0] and len(event.value) > _LONGEST and " " not in event.value:
                wrong = f"a number or word of more than {_LONGEST} characters"
        if size > _MOST_VALUES:
            wrong = f"more than {_MOST_VALUES:,} values, with aliases (&, *) unfolded"
        if wrong:
            raise UserError(f"{where}:{event.start_mark.line + 1}: {wrong}")
        if isinstance(event, yaml.NodeEvent | yaml.CollectionEndEvent) and not isinstance(
            event, yaml.CollectionStartEvent
        ):
            above[-1][1].append(size)


def _text(file: str | Path) -> str:
    with open(file, "rb") as handle:
        content = handle.read(_MOST_BYTES + 1)
    if len(content) > _MOST_BYTES:
        raise UserError(f"{file}: more than {_MOST_BYTES:,} bytes; not a parameter file")
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        raise UserError(f"{file}: not YAML: {error}") from None


def _validated(model: type[S], config: Mapping[str, Any], source: Source) -> S:
    try:
        return model.model_validate(dict(config))
    except ValidationError as error:
        raise UserError(next(explained(error, model, config, source))) from None
    except UnicodeEncodeError as error:  # pydantic's, of a key that ends in half a character
        raise UserError(f"the key {shown(error.object)}: expected text") from None


def explained(error: ValidationError, model: type[S], config: Mapping[str, Any], source: Source) -> Iterator[str]:
    """What is wrong, one line per key: where it was set, the key, what is allowed."""
    faults: dict[tuple[str | int, ...], list[tuple[tuple[str | int, ...], Any]]] = {}
    for details in error.errors(include_url=False):
        loc = _location(details, config)
        # A union reports one error per alternative: those below the key of its first one are about the same value.
        above = (loc[:length] for length in range(len(loc)))
        faults.setdefault(next((key for key in above if key in faults), loc), []).append((loc, details))
    for alternatives in faults.values():
        # The deepest one knows what was meant, and among equals the one that is not about the type.
        loc, first = max(alternatives, key=lambda pair: (len(pair[0]), not pair[1]["type"].endswith("_type")))
        written = loc[:-1] if first["type"] == "missing" else loc
        yield f"{_origin(written, source)}: {_key(loc)}: {_explain(first, loc, model)}"


def snapshot(params: Params, path: Path) -> None:
    """Write the resolved configuration, the only parameters that the jobs of a workflow read."""
    text = yaml.safe_dump(params.model_dump(mode="json", exclude_unset=True), sort_keys=False)
    write_text(path, f"{_SNAPSHOT}\n{text}")


def _is_snapshot(file: Path) -> bool:
    return file.is_file() and _text(file).startswith(_SNAPSHOT)


def differences(one: Params, other: Params) -> list[tuple[str, Any, Any]]:
    """Dotted keys in which two configurations differ, with both values; None where one lacks the key."""
    first, second = (flat(params.model_dump(mode="json", exclude_unset=True)) for params in (one, other))
    keys = dict.fromkeys([*first, *second])
    return [(key, first.get(key), second.get(key)) for key in keys if first.get(key) != second.get(key)]


def flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested parameters by their dotted keys."""
    found: dict[str, Any] = {}
    for key, value in values.items():
        found |= flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return found


def holds(values: Any, loc: Sequence[str | int]) -> bool:
    """Whether nested ``values`` have the key at ``loc``."""
    for part in loc:
        if not isinstance(values, Mapping | list):
            break
        try:
            values = values[part]  # type: ignore[index]
        except (KeyError, IndexError, TypeError):
            return False
    return True


def where(params: Params, dataset: str, recipe: str, key: tuple[str, ...]) -> tuple[str, ...]:
    """The place of a run's resolved ``key``, such as ("model", "name"), in the parameters: the last one that set it."""
    places: list[tuple[str, ...]] = [
        ("table_definitions", name, "sweep", "over", ".".join(key))
        for name, table in params.table_definitions.items()
        if table.sweep and recipe in table.sweep.recipes()
    ]
    recipes = ("recipe_definitions", recipe)
    places += [(*recipes, "datasets", dataset, *key), (*recipes, *key), ("dataset_definitions", dataset, *key), key]
    values = params.model_dump(exclude_unset=True)
    return next((place for place in places if holds(values, place)), key)


def space(search: str, values: Mapping[str, Any], key: tuple[str, ...]) -> tuple[str, ...]:
    """The place of a trial's wrong ``key`` in the parameters: that of its search, or the last of the trial's values."""
    dotted = ".".join(key)
    return ("search_definitions", search, "space", dotted if dotted in values else list(values)[-1])


def schema_text(model: type[Strict] = Params, partial: bool = True) -> str:
    """JSON schema of ``model`` for editors; ``partial``: no key is required, since override files hold only changes."""
    schema = model.model_json_schema()
    blocks = {model.__name__: schema, **schema.get("$defs", {})}
    for kind in _subclasses(Strict):
        for key, entry in blocks.get(kind.__name__, {}).get("properties", {}).items():
            if text := _descriptions(kind).get(key):
                entry["description"] = text
            if kind.__name__.endswith("Override"):
                entry.pop("default", None)
    if partial:
        for block in blocks.values():
            block.pop("required", None)
    return json.dumps({"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}, indent=2) + "\n"


def _subclasses(kind: type[Strict]) -> Iterator[type[Strict]]:
    for child in kind.__subclasses__():
        yield child
        yield from _subclasses(child)


def _descriptions(kind: type[BaseModel]) -> dict[str, str]:
    """The strings below the fields of ``kind``. Pydantic can read them too, but at every import."""
    found: dict[str, str] = {}
    for base in reversed([base for base in kind.__mro__ if issubclass(base, Strict)]):
        (block,) = ast.parse(textwrap.dedent(inspect.getsource(base))).body
        assert isinstance(block, ast.ClassDef)
        for field, below in zip(block.body, block.body[1:], strict=False):
            match field, below:
                case ast.AnnAssign(target=target), ast.Expr(value=ast.Constant(value=str(text))):
                    found[ast.unparse(target)] = inspect.cleandoc(text)
    return found


def read_yaml(file: Path) -> dict[str, Any]:
    """The mapping in a YAML file. Raises UserError as :func:`parse` does, and for anything else than a mapping."""
    try:
        content = parse(_text(file), str(file))
    except FileNotFoundError:
        raise UserError(f"{file}: no such parameter file") from None
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
    kind, value = error["type"], error.get("input")
    if kind == "value_error":
        return str(error["ctx"]["error"])
    key = _key(loc)
    if advice := renamed(key, value):
        return advice
    if kind == "extra_forbidden":
        return f"unknown key; {choices(str(loc[-1]), _allowed(loc[:-1], model))}"
    if kind == "missing":
        return "missing"
    if kind == "model_type":
        return f"should be a mapping, found {shown(value)}"
    allowed = re.findall(r"'([^']*)'", error["msg"]) if kind == "literal_error" else []
    return f"{error['msg'].replace('Input should', 'should')}, found {shown(value)}{did_you_mean(str(value), allowed)}"


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
    names = (str(part) for part in loc)
    return ".".join(name if re.fullmatch(r"[\w.-]{1,64}", name) else shown(name) for name in names) or "configuration"


def _origin(loc: tuple[str | int, ...], source: Source) -> str:
    """Where the value at ``loc`` was set last: the command line, or a file with its line."""
    files, command_line = source
    if loc and holds(command_line, loc):
        return "command line"
    for file in reversed(files):
        if line := _line(yaml.compose(_text(file), _Loader), loc):
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
