import pytest

from transfer.utils import code_digest as digest
from transfer.utils.code_digest import STEPS, TRANSPARENT, closure, code_digest, step_digest

MODULES = {
    "__init__.py": "from transfer.models import registration\n",
    "errors.py": "class UserError(Exception): ...\n",
    "models/__init__.py": "",
    "models/registration.py": "X = 1\n",
    "models/net.py": '"""A network."""\nfrom transfer.models.part import part\nSIZE = 3\n',
    "models/part.py": "from transfer.utils.errors import UserError\ndef part():\n    return 1\n",
    "tables/__init__.py": "from transfer.tables.text import text\n",
    "tables/text.py": 'def text(x):\n    """Text."""\n    # a comment\n    return str(x)\n',
    "late.py": "def f():\n    from transfer.models import net\n    return net\n",
    "dots/__init__.py": "from . import one\n",
    "dots/one.py": "from .two import x\nfrom ..models import part\n",
    "dots/two.py": "x = 1\n",
    "circle_a.py": "import transfer.circle_b\n",
    "circle_b.py": "import transfer.circle_a\n",
    "whole.py": "import transfer\n",
}


@pytest.fixture
def package(tmp_path, monkeypatch):
    root = tmp_path / "transfer"
    for name, text in MODULES.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    monkeypatch.setattr(digest, "_ROOT", root)
    forget()
    yield root
    forget()


def forget():
    for function in (digest._file, digest._tree, digest._syntax, digest._imports):
        function.cache_clear()


def names(*modules):
    return {module.removeprefix("transfer.") for module in closure(*modules)}


def test_closure_follows_imports_and_adds_packages(package):
    assert names("transfer.models.net") == {"models", "models.net", "models.part"}
    assert names("transfer.tables") == {"tables", "tables.text"}
    assert names("transfer.tables.text") == {"tables", "tables.text"}, "importing a module runs its package"
    assert names("transfer.late") == {"late", "models", "models.net", "models.part"}, "imports inside functions count"
    assert names("transfer.circle_a") == {"circle_a", "circle_b"}


def test_relative_imports(package):
    assert names("transfer.dots") == {"dots", "dots.one", "dots.two", "models", "models.part"}


def test_the_package_itself_counts_only_where_it_is_named(package):
    assert "transfer" not in closure("transfer.models.net")
    assert {"transfer", "transfer.models.registry"} <= closure("transfer.whole")


@pytest.mark.parametrize(
    ("file", "old", "new", "changed"),
    [
        ("tables/text.py", "# a comment", "# another comment,\n    # longer", set()),
        ("tables/text.py", '"""Text."""', '"""The text of x."""', set()),
        ("tables/text.py", "str(x)", "str( x )", set()),
        ("tables/text.py", "str(x)", "repr(x)", {"transfer.tables"}),
        ("models/net.py", '"""A network."""\n', "", set()),
        ("models/net.py", "SIZE = 3", "SIZE = 4", {"transfer.models.net", "transfer.late"}),
        ("models/part.py", "return 1", "return 2", {"transfer.models.net", "transfer.late", "transfer.dots"}),
        ("errors.py", "...", "X = 1", set()),
        ("models/registration.py", "X = 1", "X = 2", set()),
        ("circle_b.py", "import", "Y = 1\nimport", {"transfer.circle_a"}),
    ],
)
def test_only_code_changes_change_the_digest_and_only_of_what_depends_on_it(package, file, old, new, changed):
    watched = ["transfer.models.net", "transfer.tables", "transfer.late", "transfer.dots", "transfer.circle_a"]
    before = {module: code_digest(module) for module in watched}
    text = (package / file).read_text()
    assert old in text
    (package / file).write_text(text.replace(old, new))
    forget()
    assert {module for module in watched if code_digest(module) != before[module]} == changed


def test_order_does_not_matter(package):
    assert code_digest("transfer.tables", "transfer.late") == code_digest("transfer.late", "transfer.tables")


def test_unknown_module(package):
    with pytest.raises(ValueError, match="transfer.nothing: no module of transfer"):
        code_digest("transfer.nothing")


def test_every_step_and_every_transparent_module_exists():
    for step in STEPS:
        assert len(step_digest(step)) == 12
    assert all(digest._file(module) for module in TRANSPARENT)


@pytest.mark.parametrize(
    ("step", "apart_from"),
    [
        ("synthesize", ("faces", "models", "training", "evaluation", "tables", "sampling")),
        ("index", ("faces", "models", "training", "evaluation", "tables", "sampling")),
        ("subsets", ("faces", "models", "training", "evaluation", "tables", "sampling")),
        ("detect", ("models", "training", "evaluation", "tables", "sampling")),
        ("align", ("models", "training", "evaluation", "tables", "sampling")),
        ("inspect", ("models", "training", "evaluation", "tables", "sampling")),
        ("hash", ("faces", "models", "training", "evaluation", "tables", "sampling")),
        ("duplicates", ("datasets", "faces", "models", "training", "evaluation", "tables", "sampling")),
        ("audit", ("datasets", "faces", "models", "training", "evaluation", "tables")),
        ("sample", ("datasets", "faces", "models", "training", "evaluation", "tables")),
        ("train", ("datasets", "faces", "tables", "sampling")),
        ("evaluate", ("datasets", "faces", "models", "training", "tables", "sampling")),
        ("robustness", ("tables", "sampling")),
        ("cross", ("tables", "sampling")),
        ("diversity", ("audit", "bench", "cli", "figures", "sampling", "search", "tables")),
        ("attention", ("audit", "bench", "cli", "sampling", "search", "tables")),
        ("table_figure", ("audit", "bench", "cli", "faces", "models", "training", "sampling")),
        ("table", ("faces", "models", "training", "sampling")),
    ],
)
def test_a_step_depends_on_its_own_part_of_the_package(step, apart_from):
    parts = {module.split(".")[1] for module in closure(*STEPS[step])}
    assert not parts & set(apart_from)
    assert not closure(*STEPS[step]) & TRANSPARENT


def test_training_depends_on_the_model():
    assert {"transfer.models.lanet", "transfer.models.dropping", "transfer.training.loop"} <= closure(*STEPS["train"])


def test_the_page_is_no_part_of_the_alignment():
    """Or a change of its looks would train everything again."""
    assert "transfer.faces.quality" in closure(*STEPS["inspect"])
    assert "transfer.faces.quality" not in closure(*STEPS["align"])
