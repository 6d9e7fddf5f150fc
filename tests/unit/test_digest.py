from pathlib import Path

import pytest

import transfer
from transfer.models.registry import module_of
from transfer.utils.code_digest import NOT_HASHED, STEPS, Package, closure, code_digest, step_digest

MODULES = {
    "__init__.py": "from transfer.models import registry\n",
    "utils/errors.py": "class UserError(Exception): ...\n",
    "models/__init__.py": "",
    "models/registry.py": "X = 1\n",
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
def package(tmp_path):
    root = tmp_path / "transfer"
    for name, text in MODULES.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return Package(root)


def names(package, *modules):
    return {module.removeprefix("transfer.") for module in package.closure(*modules)}


def test_closure_follows_imports_and_adds_packages(package):
    assert names(package, "transfer.models.net") == {"models", "models.net", "models.part"}
    assert names(package, "transfer.tables") == {"tables", "tables.text"}
    assert names(package, "transfer.tables.text") == {"tables", "tables.text"}, "importing a module runs its package"
    assert names(package, "transfer.late") == {"late", "models", "models.net", "models.part"}, (
        "imports inside functions count"
    )
    assert names(package, "transfer.circle_a") == {"circle_a", "circle_b"}


def test_relative_imports(package):
    assert names(package, "transfer.dots") == {"dots", "dots.one", "dots.two", "models", "models.part"}


def test_the_package_itself_counts_only_where_it_is_named(package):
    assert "transfer" not in package.closure("transfer.models.net")
    assert {"transfer", "transfer.models.registry"} <= package.closure("transfer.whole")


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
        ("utils/errors.py", "...", "X = 1", set()),
        ("models/registry.py", "X = 1", "X = 2", set()),
        ("circle_b.py", "import", "Y = 1\nimport", {"transfer.circle_a"}),
    ],
)
def test_only_code_changes_change_the_digest_and_only_of_what_depends_on_it(package, file, old, new, changed):
    watched = ["transfer.models.net", "transfer.tables", "transfer.late", "transfer.dots", "transfer.circle_a"]
    before = {module: package.digest(module) for module in watched}
    text = (package.root / file).read_text()
    assert old in text
    (package.root / file).write_text(text.replace(old, new))
    again = Package(package.root)
    assert {module for module in watched if again.digest(module) != before[module]} == changed


def test_order_does_not_matter(package):
    assert package.digest("transfer.tables", "transfer.late") == package.digest("transfer.late", "transfer.tables")


def test_unknown_module():
    with pytest.raises(ValueError, match="transfer.nothing: no module of transfer"):
        code_digest("transfer.nothing")


def test_every_step_and_every_module_left_out_exists():
    for step in STEPS:
        assert len(step_digest(step)) == 12
    package = Package(Path(transfer.__file__).parent)
    assert all(package.module(module) for module in NOT_HASHED)


@pytest.mark.parametrize(
    ("step", "apart_from"),
    [
        ("synthesize", ("faces", "models", "training", "evaluation", "tables", "datasets.sampling")),
        ("index", ("faces", "models", "training", "evaluation", "tables", "datasets.sampling")),
        ("subsets", ("faces", "models", "training", "evaluation", "tables", "datasets.sampling")),
        ("detect", ("models", "training", "evaluation", "tables", "datasets.sampling")),
        ("align", ("models", "training", "evaluation", "tables", "datasets.sampling")),
        ("inspect", ("models", "training", "evaluation", "tables", "datasets.sampling")),
        ("hash", ("faces", "models", "training", "evaluation", "tables", "datasets.sampling")),
        ("duplicates", ("datasets", "faces", "models", "training", "evaluation", "tables", "datasets.sampling")),
        ("audit", ("datasets.archives", "faces.detect", "faces.align", "models", "training", "evaluation", "tables")),
        ("sample", ("datasets.archives", "datasets.registry", "faces", "models", "training", "evaluation", "tables")),
        (
            "train",
            (
                "evaluation",
                "datasets.archives",
                "faces.detect",
                "faces.align",
                "faces.mtcnn",
                "tables",
                "datasets.sampling",
            ),
        ),
        ("evaluate", ("evaluation", "datasets", "faces", "models", "training", "tables", "datasets.sampling")),
        ("robustness", ("tables", "datasets.sampling")),
        ("cross", ("tables", "datasets.sampling")),
        ("diversity", ("audit", "bench", "cli", "figures", "datasets.sampling", "search", "tables")),
        ("attention", ("audit", "bench", "cli", "datasets.sampling", "search", "tables")),
        ("table", ("faces", "models.transfer", "training", "datasets.sampling")),
    ],
)
def test_a_step_depends_on_its_own_part_of_the_package(step, apart_from):
    found = closure(*STEPS[step])
    assert not [
        module
        for module in found
        for part in (*apart_from, "params", "cli")
        if f"{module}.".startswith(f"transfer.{part}.")
    ]
    assert not closure(*STEPS[step]) & NOT_HASHED


def test_training_depends_on_the_model():
    ours = closure(*STEPS["train"], module_of("transfer_base"))
    assert {"transfer.models.lanet", "transfer.models.dropping", "transfer.training.loop"} <= ours
    assert not {"transfer.models.lanet", "transfer.models.transfer"} & closure(*STEPS["train"], module_of("timm/vgg13"))


def test_the_page_is_no_part_of_the_alignment():
    """Or a change of its looks would train everything again."""
    assert "transfer.faces.quality" in closure(*STEPS["inspect"])
    assert "transfer.faces.quality" not in closure(*STEPS["align"])
