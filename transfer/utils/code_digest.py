"""Digest of the package's code, so that a workflow reruns exactly the steps whose code changed.

Comments, docstrings and formatting do not count: only what the parser sees does.
"""

import ast
import hashlib
from collections.abc import Iterator
from functools import cache
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
    "weights": ("transfer.models.weights.convert",),
    "train": ("transfer.training.run",),
    "evaluate": ("transfer.runs.metrics",),
    "robustness": ("transfer.evaluation.robustness",),
    "cross": ("transfer.evaluation.cross",),
    "diversity": ("transfer.explain.diversity",),
    "attention": ("transfer.explain.attention",),
    "table": ("transfer.tables.build",),
    "overview": ("transfer.tables.overview",),
    "search": ("transfer.search.worker",),
    "search_report": ("transfer.search.results",),
}

# Part of no digest, nor are modules below them. What params and layout decide shows in the parameters and file names
# of a job; files writes what it is given; gpu_locks decides where a run takes place; the others report.
NOT_HASHED = frozenset(
    f"transfer.{name}"
    for name in (
        "cli",
        "layout",
        "params",
        "tracking",
        "training.gpu_locks",
        "utils.code_digest",
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
        self._modules: dict[str, _Module | None] = {}

    def digest(self, *modules: str) -> str:
        """Short hexadecimal digest of ``closure(*modules)``. Raises ValueError for a name that is no module."""
        code = hashlib.sha256()
        for name in sorted(self.closure(*modules)):
            code.update(f"{name} {self._existing(name).digest}\n".encode())
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
            waiting += self._existing(name).imports(self)
            parent = name.rpartition(".")[0]
            waiting += [parent] if parent not in ("", self.root.name) else []
        return frozenset(found)

    def module(self, name: str) -> "_Module | None":
        """The module or package called ``name``; None for a name that is neither."""
        package, *parts = name.split(".")
        if package != self.root.name:
            return None
        if name not in self._modules:
            path = self.root.joinpath(*parts)
            candidates = [path.with_suffix(".py"), path / "__init__.py"] if parts else [path / "__init__.py"]
            file = next((file for file in candidates if file.is_file()), None)
            self._modules[name] = _Module(name, file) if file else None
        return self._modules[name]

    def _existing(self, name: str) -> "_Module":
        module = self.module(name)
        if module is None:
            raise ValueError(f"{name}: no module of {self.root.name}")
        return module


class _Module:
    def __init__(self, name: str, file: Path) -> None:
        self.name, self.file = name, file
        self.digest, self._import_statements = _parsed(file.read_bytes())

    def imports(self, package: Package) -> set[str]:
        """Modules of ``package`` that the import statements name."""
        names: set[str] = set()
        for node in self._import_statements:
            if isinstance(node, ast.Import):
                names.update(alias.name for alias in node.names)
            else:
                base = self._absolute(node)
                imported = [f"{base}.{alias.name}" for alias in node.names]
                # `from transfer import tables` names a module; `from transfer.tables import table1` an attribute.
                names.update(name if package.module(name) else base for name in imported)
        return {name for name in names if package.module(name)}

    def _absolute(self, node: ast.ImportFrom) -> str:
        """The module that an import statement names, with the leading dots resolved."""
        if not node.level:
            return node.module or ""
        parts = self.name.split(".") if self.file.name == "__init__.py" else self.name.split(".")[:-1]
        return ".".join([*parts[: len(parts) - node.level + 1], *filter(None, [node.module])])


@cache
def _parsed(source: bytes) -> tuple[str, list[ast.Import | ast.ImportFrom]]:
    """Digest of a module's syntax tree without docstrings and descriptions of attributes, and its import statements."""
    tree = ast.parse(source)
    nodes = [tree, *_statements(tree)]
    for node in nodes:
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            node.body = [child for child in node.body if not _is_text(child)]
    digest = hashlib.sha256(ast.dump(tree).encode()).hexdigest()
    return digest, [node for node in nodes if isinstance(node, ast.Import | ast.ImportFrom)]


def _statements(node: ast.AST) -> Iterator[ast.AST]:
    """All statements below ``node``, without looking into expressions, which hold none."""
    for block in ("body", "orelse", "finalbody", "handlers", "cases"):
        for child in getattr(node, block, ()):
            yield child
            yield from _statements(child)


def _is_text(node: ast.stmt) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
