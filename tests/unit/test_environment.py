import json
import os
import re
import socket
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

from transfer.utils.environment import PACKAGES, ROOT, commit, cpu, environment


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    """A repository with one commit."""
    for name in [name for name in os.environ if name.startswith("GIT_")]:  # as in a hook
        monkeypatch.delenv(name)
    git(tmp_path, "init", "--quiet")
    (tmp_path / "code.py").write_text("x = 1\n")
    git(tmp_path, "add", "code.py")
    git(tmp_path, "-c", "user.name=t", "-c", "user.email=t@localhost", "commit", "--quiet", "-m", "first")
    return tmp_path


def git(folder: Path, *arguments: str) -> str:
    return subprocess.run(["git", *arguments], cwd=folder, check=True, capture_output=True, text=True).stdout.strip()


def test_what_it_says():
    noted = environment()
    assert json.loads(json.dumps(noted)) == noted
    assert list(noted) == ["commit", "python", "packages", "system", "cpu", "cores", "deployment"]
    assert noted["packages"] == {name: version(name) for name in PACKAGES}
    assert noted["python"] == ".".join(map(str, sys.version_info[:3]))
    assert 1 <= noted["cores"] <= os.cpu_count()
    assert noted["commit"] is None or re.fullmatch(r"[0-9a-f]{40}(-dirty)?", noted["commit"])


def test_it_names_no_user_host_or_folder():
    text = json.dumps(environment()).lower()
    for private in (Path.home().name or "/", socket.gethostname(), str(Path.home()), str(Path.cwd()), sys.prefix):
        assert not re.search(rf"(?<!\w){re.escape(private.lower())}(?!\w)", text)


def test_commit(checkout):
    assert commit(checkout) == git(checkout, "rev-parse", "HEAD")
    git(checkout, "tag", "v1.0")
    assert commit(checkout) == git(checkout, "rev-parse", "HEAD")  # never a tag's name
    (checkout / "results.txt").write_text("untracked files do not count")
    assert not commit(checkout).endswith("-dirty")
    (checkout / "code.py").write_text("x = 2\n")
    assert commit(checkout) == git(checkout, "rev-parse", "HEAD") + "-dirty"


@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="not a checkout")
def test_the_commit_of_this_checkout():
    assert commit().removesuffix("-dirty") == git(ROOT, "rev-parse", "HEAD")


def test_no_commit_outside_a_checkout(tmp_path):
    assert commit(tmp_path) is None


def test_the_commit_of_a_repository_around_the_code_is_not_the_codes(checkout):
    inside = checkout / ".venv" / "site-packages"
    inside.mkdir(parents=True)
    assert commit(inside) is None


def test_no_commit_without_git(checkout, monkeypatch):
    monkeypatch.setenv("PATH", "")
    assert commit(checkout) is None


@pytest.mark.parametrize(
    ("folder", "base", "expected"), [("conda-meta", None, "conda"), ("", "/usr", "venv"), ("", None, "system python")]
)
def test_deployment(tmp_path, monkeypatch, folder, base, expected):
    (tmp_path / folder).mkdir(exist_ok=True)
    monkeypatch.setattr(sys, "prefix", str(tmp_path))
    monkeypatch.setattr(sys, "base_prefix", base or str(tmp_path))
    monkeypatch.setenv("CONDA_PREFIX", "/opt/conda")  # a venv made and used inside conda's base is still a venv
    assert environment()["deployment"] == expected


def test_a_machine_that_does_not_name_its_processor(tmp_path):
    (tmp_path / "cpuinfo").write_text("processor : 0\nBogoMIPS : 50.00\n")
    assert cpu(tmp_path / "cpuinfo") == "unknown"


def test_versions_are_learned_without_importing_the_packages():
    code = (
        "import sys; from transfer.utils.environment import environment\n"
        "environment(); print(sorted({'torch', 'torchvision', 'timm', 'mlflow', 'snakemake'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
