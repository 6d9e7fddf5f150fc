"""What a run ran on: code, versions, hardware, deployment."""

import os
import platform
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

PACKAGES = ("torch", "torchvision", "timm", "numpy", "facenet-pytorch", "snakemake", "mlflow")
ROOT = Path(__file__).resolve().parents[2]


def environment() -> dict[str, Any]:
    """Commit (-dirty if tracked files were changed), Python, packages, system, processor, cores, deployment.

    Nothing in it names a user, a host or a folder.
    """
    conda = (Path(sys.prefix) / "conda-meta").is_dir()  # CONDA_PREFIX is also set for a venv that is used inside conda
    return {
        "commit": commit(),
        "python": platform.python_version(),
        "packages": {name: version(name) for name in PACKAGES},
        "system": f"{platform.system()} {platform.machine()}",
        "cpu": cpu(),
        "cores": cores(),
        "deployment": "conda" if conda else "venv" if sys.prefix != sys.base_prefix else "system python",
    }


def commit(root: Path = ROOT) -> str | None:
    """The git commit of the code below ``root``, "-dirty" if tracked files were changed; None outside a checkout."""
    try:
        described = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"],
            cwd=root,
            env=os.environ | {"GIT_CEILING_DIRECTORIES": str(root.parent)},  # not a repository that surrounds the code
            capture_output=True,
            text=True,
            check=True,
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return described.stdout.strip()


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def cpu(cpuinfo: Path = Path("/proc/cpuinfo")) -> str:
    """Model name of the processor."""
    try:
        lines = cpuinfo.read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown")
