"""Digest of the package's code, so that a workflow reruns exactly the steps whose code changed.

Comments, docstrings and layout do not count: only what the parser sees does.
"""

import ast
import hashlib
from functools import cache
from pathlib import Path

_ROOT = Path(__file__).parents[1]
_PACKAGE = _ROOT.name

# The modules in which the work of each step begins; imports lead to the rest. Parsers and models are found by their
# names, so that imports do not lead there: `index` needs the parser's module as well, `train` that of the model.
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
    "table_figure": ("transfer.figures.tables",),
    "overview": ("transfer.tables.overview",),
    "search": ("transfer.search.worker",),
    "search_report": ("transfer.search.results",),
}

# Left out of every digest. What config, params and layout decide shows in the parameters and in the names of the files;
# files writes what it is given; gpu_locks decides where a run takes place; the others show or note what happens.
TRANSPARENT = frozenset(
    f"{_PACKAGE}.{name}"
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


def code_digest(*modules: str) -> str:
    """Short hexadecimal digest of ``modules`` and of all that they import inside this package, directly or not.

    Raises ValueError for a name that is no module of this package.
    """
    code = hashlib.sha256()
    for module in sorted(closure(*modules)):
        code.update(f"{module}\n{_syntax(module)}\n".encode())
    return code.hexdigest()[:12]


def closure(*modules: str) -> frozenset[str]:
    """``modules`` and the modules of this package that they import, also inside functions; without ``TRANSPARENT``.

    The package's own ``__init__`` counts only where it is imported by name: every import runs it, but it only
    registers the models. Raises ValueError for a name that is no module of this package.
    """
    found: set[str] = set()
    waiting = list(modules)
    while waiting:
        module = waiting.pop()
        if module in found or module in TRANSPARENT:
            continue
        if _file(module) is None:
            raise ValueError(f"{module}: no module of {_PACKAGE}")
        found.add(module)
        waiting += _imports(module)
        parent = module.rpartition(".")[0]
        waiting += [parent] if parent not in ("", _PACKAGE) else []
    return frozenset(found)


@cache
def _file(module: str) -> Path | None:
    """The source file of a module or package, None for a name that is neither."""
    package, *parts = module.split(".")
    if package != _PACKAGE:
        return None
    path = _ROOT.joinpath(*parts)
    candidates = [path / "__init__.py"] if not parts else [path.with_suffix(".py"), path / "__init__.py"]
    return next((file for file in candidates if file.is_file()), None)


@cache
def _tree(module: str) -> ast.Module:
    """The module's syntax tree without docstrings."""
    file = _file(module)
    assert file is not None
    tree = ast.parse(file.read_bytes(), filename=str(file))
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            node.body = [child for child in node.body if not _is_text(child)]
    return tree


def _is_text(node: ast.stmt) -> bool:
    """Whether a statement is a bare string: a docstring, or the description of an attribute."""
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)


@cache
def _syntax(module: str) -> str:
    return ast.dump(_tree(module))


@cache
def _imports(module: str) -> frozenset[str]:
    """Modules of this package that ``module`` names in its import statements."""
    names: set[str] = set()
    for node in ast.walk(_tree(module)):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = _absolute(module, node)
            imported = [f"{base}.{alias.name}" for alias in node.names]
            # `from transfer import tables` names a module; `from transfer.tables import table1` a module's content.
            names.update(name if _file(name) else base for name in imported)
    return frozenset(name for name in names if _file(name))


def _absolute(module: str, node: ast.ImportFrom) -> str:
    """The module that an import statement of ``module`` names, with the leading dots resolved."""
    if not node.level:
        return node.module or ""
    file = _file(module)
    parts = module.split(".") if file and file.name == "__init__.py" else module.split(".")[:-1]
    return ".".join([*parts[: len(parts) - node.level + 1], *filter(None, [node.module])])
