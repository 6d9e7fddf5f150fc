"""Awkward and hostile text in every parameter that is a string, or is named by one; the schema says which there are."""

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from trials import checkout, run

from transfer.params import merge
from transfer.params import read as config
from transfer.utils.errors import UserError

ROOT = Path(__file__).parents[2]
TEXTS = [
    "; touch harm #", "$(touch harm)", "`touch harm`", "| touch harm", "\ntouch harm\n", "&& touch harm", "> harm",
    "a b", " a", "a ", "", " ", "'", '"', "'\"'", "\\", "a\\b", "a\tb", "{dataset}", "{{}}", "{", "%s%n", "*", "?[a]",
    "~", "$HOME", "../harm", "../../harm.zip", "a/../../harm", "/tmp/harm", "./a", "a//b", "-rf", "--config", ".", "..",
    "a/", "a" * 300, "/".join(["a"] * 1000), "\0", "\x1b[31m", "\u202e", "\u200b", "\ud800", "日本 語.zip",
    "Übung-1+2=3@x,y.zip", "con", "null", "results/harm", ".snakemake/harm", "<script>alert(1)</script>", "search",
    "detect", "published",
]  # fmt: skip
COMMANDS = "$(touch harm) `touch harm` {dataset} 'x\" ; touch harm #"


def strings(schema: dict, block: dict, path: tuple = ()) -> Iterator[tuple]:
    """The places of free text in parameters: paths of keys, 0 for an item of a list, None for a key of one's own."""
    block = merge(block, schema["$defs"][block["$ref"].rpartition("/")[2]]) if "$ref" in block else block
    for alternative in block.get("anyOf", []):
        yield from strings(schema, alternative, path)
    kind = block.get("type")
    if kind == "string" and "enum" not in block and "const" not in block:
        yield path
        if "pattern" in block:
            PATTERNS.add(path)
    elif kind == "array" and "items" in block:
        yield from strings(schema, block["items"], (*path, 0))
    elif kind == "object":
        for key, value in block.get("properties", {}).items():
            yield from strings(schema, value, (*path, key))
        PATTERNS.update([(*path, None)] if "patternProperties" in block else [])
        named = [*block.get("patternProperties", {}).values(), block.get("additionalProperties")]
        for value in filter(lambda value: isinstance(value, dict), named):
            yield (*path, None)
            yield from strings(schema, value, (*path, "demo_rafdb"))


PATTERNS: set[tuple] = set()  # the places whose text has to match one
SCHEMA = json.loads((ROOT / "params/schema.json").read_text())
PLACES = sorted(set(strings(SCHEMA, SCHEMA)), key=str)


def at(place: tuple, text: str) -> dict:
    """Parameters with ``text`` at one place."""
    value: object = text
    for key in reversed(place):
        value = [value] if key == 0 else {text: {}} if key is None else {key: value}
    assert isinstance(value, dict)
    return value


@pytest.fixture(autouse=True)
def in_root(monkeypatch):
    monkeypatch.chdir(ROOT)


def refusal(values: dict) -> str | None:
    """Why parameters are refused; None if they are not."""
    try:
        config.load(command_line=values)
    except UserError as error:
        return str(error)
    return None


def test_the_schema_has_places():
    assert {("raw_dir",), ("dataset_definitions", None), ("dataset_definitions", "demo_rafdb", "archive")} < set(PLACES)
    assert len(PLACES) > 30


@pytest.mark.parametrize("place", PLACES, ids=lambda place: ".".join(map(str, place)))
def test_text_is_refused_in_one_line_or_is_no_name(place):
    """What is accepted names no file, or is a plain path; the workflow below runs with it."""
    for text in TEXTS[:: 9 if place in PATTERNS else 1]:
        refused = refusal(at(place, text))
        if refused is not None:
            assert "\n" not in refused and len(refused) < 3000, refused
        elif place[-1] in ("archive", "raw_dir"):
            assert re.fullmatch(r"[\w ./+=@,-]+", text) and not re.search(r"(^|/)[- ]| (/|$)", text), text
            assert place[-1] == "raw_dir" or ".." not in text.split("/") and text[0] != "/", text
        else:
            assert place[-1] in ("about", "title", "demo_rafdb", 0) or re.fullmatch("[a-z0-9_-]{1,64}", text), (
                place,
                text,
            )


def numbers(schema: dict, block: dict, path: str = "") -> Iterator[tuple[str, dict]]:
    """The numbers of a schema, with what bounds them."""
    for key, value in block.items():
        if isinstance(value, dict):
            if value.get("type") in ("integer", "number"):
                yield f"{path}.{key}", value
            yield from numbers(schema, value, f"{path}.{key}")
        elif isinstance(value, list):
            yield from numbers(
                schema, {str(n): item for n, item in enumerate(value) if isinstance(item, dict)}, path + key
            )


def test_every_number_has_bounds():
    free = {path for path, block in numbers(SCHEMA, SCHEMA) if not {"maximum", "exclusiveMaximum"} & set(block)}
    # Those of a sweep or a search are checked as what they stand for, options by their parser, severities by kind.
    assert all(re.search("Sweep|SearchRange|space|options|corruptions", path) for path in free), free


def test_shell_lines_quote_every_value():
    """Threads are a number of Snakemake's own."""
    for file in sorted((ROOT / "workflow/rules").glob("*.smk")):
        for shell in re.findall(r"shell:\n((?: +[\"(].*\n?)+)", file.read_text()):
            found = re.findall(r"\{([^{}]+)\}", shell)
            assert found and all(name == "threads" or name.endswith(":q") for name in found), (file.name, found)


def test_the_workflow_with_every_accepted_text(tmp_path):
    """Real shells: blanks and letters of other alphabets in paths, commands in titles; no file appears elsewhere."""
    folder = checkout(tmp_path / "checkout")
    definition = {"parser": "rafdb", "synthetic": 1, "synthetic_scale": 0.1}
    place = ("dataset_definitions", "demo_rafdb", "archive")
    accepted = [text for text in TEXTS if not text.isalpha() and refusal(at(place, text)) is None]
    assert len(accepted) >= 4
    archives = [text if text.endswith(".zip") else f"{text}.zip" for text in accepted]
    definitions = {
        f"d{number}": definition | {"archive": archive, "about": COMMANDS} for number, archive in enumerate(archives)
    }
    params = {
        "experiment": "names",
        "raw_dir": "raw dir/日本",
        "datasets": list(definitions),
        "dataset_definitions": definitions,
        "table_definitions": {"table1": {"kind": "recipes", "title": COMMANDS}},
        "tables": ["table1"],
        "searches": [],
    }
    (folder / "awkward file.yaml").write_text(yaml.safe_dump(params, allow_unicode=True))
    before = set(tmp_path.rglob("*"))
    targets = [f"results/names/data/{name}/index.parquet" for name in definitions]
    code, said = run(folder, "snakemake", "--cores", "2", *targets, "--configfile", "awkward file.yaml")
    assert code == 0, said
    for archive in archives:
        assert (folder / "raw dir/日本" / archive).is_file()
    appeared = [path for path in set(tmp_path.rglob("*")) - before if "__pycache__" not in path.parts]
    new = {path.relative_to(folder).parts[0] for path in appeared}
    assert new <= {"results", "raw dir", ".snakemake"} and not list(tmp_path.rglob("harm")), new


@pytest.mark.parametrize(
    "value", ["dataset_definitions={demo_rafdb: {archive: '; touch harm #.zip'}}", "raw_dir='$(touch harm)'"]
)
def test_snakemake_says_so_in_one_line(tmp_path, value):
    folder = checkout(tmp_path / "checkout")
    code, said = run(folder, "snakemake", "--cores", "1", "draw_archives", "--config", value)
    assert code == 1 and said.count("error: command line: ") == 1 and "Traceback" not in said
    assert not list(tmp_path.rglob("harm")) and not (folder / "results").exists()


@given(st.sampled_from(PLACES), st.text(max_size=50) | st.integers() | st.floats() | st.binary(max_size=9) | st.none())
def test_any_value_anywhere(place, value):
    refused = refusal(at(place, value))
    assert refused is None or ("\n" not in refused and len(refused) < 3000), refused


_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9) | st.dates(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=9) | st.integers(), inner, max_size=4),
)


@given(st.dictionaries(st.sampled_from(sorted(SCHEMA["properties"])), _VALUES, max_size=4), st.text(max_size=200))
def test_any_file(values, text):
    for content in (yaml.safe_dump(values), text):
        try:
            found = config.parse(content, "file")
            config.load(command_line=found if isinstance(found, dict) else {})
        except UserError as error:
            assert "\n" not in str(error), str(error)
