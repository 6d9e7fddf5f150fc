"""The package is a house of floors: a module imports from its own floor and from those below."""

import ast
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

ROOT = Path(__file__).parents[2]
# From the ground up; a new room gets its place here.
FLOORS = (
    ("utils",),
    ("params", "layout"),
    ("datasets",),
    ("sources",),
    ("faces",),
    ("models",),
    ("losses",),
    ("runs",),
    ("training",),
    ("evaluation",),
    ("explain", "audit"),
    ("predict",),
    ("tables",),
    ("leaderboard",),
    ("tracking",),
    ("search",),
    ("prune", "bench"),
    ("cli",),
    ("__main__",),
)
FLOOR = {room: number for number, rooms in enumerate(FLOORS) for room in rooms}


def modules() -> dict[str, Path]:
    """Every module of the package by name; a package by its own."""
    files = {file.relative_to(ROOT): file for file in sorted((ROOT / "transfer").rglob("*.py"))}
    return {".".join(path.with_suffix("").parts).removesuffix(".__init__"): file for path, file in files.items()}


def imports(known: dict[str, Path], file: Path) -> set[str]:
    """Modules of the package that ``file`` imports, also inside functions and for types alone."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(file.read_bytes())):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{file}: relative import"
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            found.update(name if name in known else str(node.module) for name in names)
    return {name for name in found if name in known}


def room(module: str) -> str:
    return module.split(".")[1]


def test_imports_point_down():
    known = modules()
    upward = [
        f"{name} -> {imported}"
        for name, file in known.items()
        for imported in sorted(imports(known, file))
        if "." in name and "." in imported and room(name) != room(imported)
        if FLOOR[room(imported)] > FLOOR[room(name)]
    ]
    assert not upward


def test_there_is_no_circle_of_modules():
    known = modules()
    graph = {name: imports(known, file) - {name, "transfer"} for name, file in known.items()}
    try:
        tuple(TopologicalSorter(graph).static_order())
    except CycleError as error:
        raise AssertionError(" -> ".join(error.args[1])) from None
