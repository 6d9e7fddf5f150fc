"""Digest of the package's code, so that a workflow reruns exactly the steps whose code changed.

Comments, docstrings and formatting do not count: only what the parser sees does.
"""

import ast
import hashlib
from collections.abc import Iterator
from functools import cache
from importlib.util import resolve_name
from pathlib import Path

# The modules in which each step starts; their imports lead to the rest, except to what is found by its name: the parser
# of a dataset, the module of a model, the kind of a table.
STEPS = {
    "synthesize": ("transfer.datasets.synthetic.archives",),
    "index": ("transfer.datasets.registry", "transfer.datasets.counts"),
    "subsets": ("transfer.datasets.subsets",),
    "detect": ("transfer.faces.detect",),
    "align": ("transfer.faces.align", "transfer.faces.store", "transfer.datasets.images"),
    "inspect": ("transfer.faces.quality", "transfer.datasets.images"),
    "hash": ("transfer.audit.copies", "transfer.datasets.images"),
    "duplicates": ("transfer.audit.copies",),
    "audit": ("transfer.audit.report",),
    "sample": ("transfer.datasets.sampling",),
    "weights": ("transfer.models.weights.importers",),
    "train": ("transfer.training.run",),
    "evaluate": ("transfer.runs.metrics",),
    "robustness": ("transfer.evaluation.robustness",),
    "cross": ("transfer.evaluation.cross",),
    "inference": ("transfer.evaluation.inference",),
    "tools": ("transfer.evaluation.tools",),
    "diversity": ("transfer.explain.diversity",),
    "attention": ("transfer.explain.attention",),
    "table": ("transfer.tables.build",),
    "leaderboard": ("transfer.leaderboard.board",),
    "overview": ("transfer.tables.publish",),
    "search": ("transfer.search.worker",),
    "search_report": ("transfer.search.report",),
}

# Part of no digest, nor are modules below them. What params and layout decide shows in the parameters and file names
# of a job; files writes what it is given; gpu_locks decides where a run takes place; chain and digests check what is
# read; the others report.
NOT_HASHED = frozenset(
    f"transfer.{name}"
    for name in (
        "cli",
        "layout",
        "params",
        "tracking",
        "training.gpu_locks",
        "utils.chain",
        "utils.code_digest",
        "utils.digests",
        "utils.environment",
        "utils.errors",
        "utils.files",
        "utils.progress",
    )
)


def step_digest(step: str, *modules: str) -> str:
    """Digest of the code that a step of the workflow depends on, and of further ``modules``."""
    return code_digest(*STEPS[step], *modules)


@cache
def code_digest(*modules: str) -> str:
    """Digest of ``modules`` and of everything in this package that they import; see ``Package``."""
    return _package().digest(*modules)


def closure(*modules: str) -> frozenset[str]:
    """``modules`` and everything in this package that they import; see ``Package``."""
    return _package().closure(*modules)


@cache
def _package() -> "Package":
    return Package(Path(__file__).parents[1])


class Package:
    """The modules below ``root``, each parsed once."""

    def __init__(self, root: Path, not_hashed: frozenset[str] = NOT_HASHED) -> None:
        self.root, self.not_hashed = root, not_hashed
        self._files: dict[str, Path | None] = {}
        self._parsed: dict[str, tuple[str, set[str]]] = {}

    def digest(self, *modules: str) -> str:
        """Short hexadecimal digest of ``closure(*modules)``. Raises ValueError for a name that is no module."""
        code = hashlib.sha256()
        for name in sorted(self.closure(*modules)):
            code.update(f"{name} {self._parse(name)[0]}\n".encode())
        return code.hexdigest()[:12]

    def closure(self, *modules: str) -> frozenset[str]:
        """``modules`` and the modules of the package that they import, also inside functions; without ``not_hashed``.

        The package's own ``__init__`` counts only where it is imported by name: every import runs it, but it only
        registers the models. Raises ValueError for a name that is no module of the package.
        """
        found: set[str] = set()
        waiting = list(modules)
        while waiting:
            name = waiting.pop()
            if name in found or any(f"{name}.".startswith(f"{module}.") for module in self.not_hashed):
                continue
            found.add(name)
            waiting += self._parse(name)[1]
            parent = name.rpartition(".")[0]
            waiting += [parent] if parent not in ("", self.root.name) else []
        return frozenset(found)

    def module(self, name: str) -> Path | None:
        """The file of the module or package called ``name``; None for a name that is neither."""
        if name not in self._files:
            package, *parts = name.split(".")
            path = self.root.joinpath(*parts)
            files = [path.with_suffix(".py"), path / "__init__.py"] if package == self.root.name else []
            self._files[name] = next((file for file in files if file.is_file()), None)
        return self._files[name]

    def _parse(self, name: str) -> tuple[str, set[str]]:
        """Digest of a module's syntax tree without docstrings and descriptions of attributes; what it imports."""
        if name in self._parsed:
            return self._parsed[name]
        file = self.module(name)
        if file is None:
            raise ValueError(f"{name}: no module of {self.root.name}")
        tree = ast.parse(file.read_bytes())
        package = name if file.name == "__init__.py" else name.rpartition(".")[0]
        imported: set[str] = set()
        for node in [tree, *_statements(tree)]:
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                node.body = [child for child in node.body if not _is_text(child)]
            elif isinstance(node, ast.Import):
                imported.update(alias.name for alias in node.names)
            elif isinstance(node, ast.ImportFrom):
                # `from transfer import tables` names a module; `from transfer.tables import table1` an attribute.
                base = resolve_name("." * node.level + (node.module or ""), package)
                named = [f"{base}.{alias.name}" for alias in node.names]
                imported.update(module if self.module(module) else base for module in named)
        digest = hashlib.sha256(ast.dump(tree).encode()).hexdigest()
        self._parsed[name] = digest, {module for module in imported if self.module(module)}
        return self._parsed[name]


def _statements(node: ast.AST) -> Iterator[ast.AST]:
    """All statements below ``node``, without looking into expressions, which hold none."""
    for block in ("body", "orelse", "finalbody", "handlers", "cases"):
        for child in getattr(node, block, ()):
            yield child
            yield from _statements(child)


def _is_text(node: ast.stmt) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
