"""The steps of benchmarks/gpu.sh."""

import argparse
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import yaml
from PIL import Image

DATASET = "ferplus_dev_majority"
EXPERIMENTS = ("ferplus-gpu", "ferplus-methods")  # whose parameter files name the runs; both train on the same faces
TWICE = ["ferplus-gpu-first", "ferplus-gpu-second"]  # the same deterministic run
GPU = Path("gpu")
COLUMNS = 168  # faces in a line of the sheet
PIECE = 15_000_000  # bytes of each file of results
START = time.monotonic()


def pack(experiment: str) -> None:
    """Faces, splits and digests as the workflow made them, and the wheels that a PyTorch image lacks, into gpu/."""
    data = Path("results", experiment, "data", DATASET)
    (GPU / "data").mkdir(parents=True, exist_ok=True)
    faces = np.load(data / "aligned.npy", mmap_mode="r")
    if not (faces == faces[..., :1]).all():
        raise SystemExit(f"{data / 'aligned.npy'}: has colours; only grey faces are packed")
    side, lines = faces.shape[1], -(-len(faces) // COLUMNS)
    sheet = np.zeros((lines * COLUMNS, side, side), np.uint8)
    sheet[: len(faces)] = faces[..., 0]
    sheet = sheet.reshape(lines, COLUMNS, side, side).transpose(0, 2, 1, 3).reshape(lines * side, COLUMNS * side)
    Image.fromarray(sheet).save(GPU / "faces.png")
    for name in ("aligned.parquet", "split.parquet", "index.parquet", "plan_none.npy"):
        shutil.copy(data / name, GPU / "data")
    shutil.copytree(f"results/{experiment}/chain/data", GPU / "chain", dirs_exist_ok=True)
    wheels = ["pydantic", "pydantic_core", "annotated-types", "typing-inspection", "filelock"]
    locked = dict(line.split("==") for line in Path("requirements.lock").read_text().split() if "==" in line)
    named = [f"{name}=={locked[name]}" for name in wheels]
    platform = ["--python-version=3.12", "--implementation=cp", "--platform=manylinux2014_x86_64"]
    command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--only-binary=:all:", *platform]
    subprocess.run([*command, f"--dest={GPU}", *named], check=True)
    print(f"{GPU}: {sum(file.stat().st_size for file in GPU.rglob('*') if file.is_file()) / 1e6:.1f} MB")


def unpack() -> None:
    """The folders of both experiments as the workflow leaves them before the first training."""
    Image.MAX_IMAGE_PIXELS = None
    sheet = np.asarray(Image.open(GPU / "faces.png"))
    side = sheet.shape[1] // COLUMNS
    faces = sheet.reshape(-1, side, COLUMNS, side).transpose(0, 2, 1, 3).reshape(-1, side, side, 1)
    count = pq.read_metadata(GPU / "data" / "aligned.parquet").num_rows
    for experiment in (*EXPERIMENTS, *TWICE):
        folder = Path("results", experiment)
        data = shutil.copytree(GPU / "data", folder / "data" / DATASET, dirs_exist_ok=True)
        shutil.copytree(GPU / "chain", folder / "chain" / "data", dirs_exist_ok=True)
        np.save(data / "aligned.npy", np.repeat(faces[:count], 3, axis=-1))


class Session:
    """Commands one after the other or side by side until ``seconds`` after the start of this process."""

    def __init__(self, out: Path, seconds: float, smallest: bool) -> None:
        self.out, self.end, self.smallest = out, START + seconds, smallest

    def left(self) -> float:
        """Seconds until the end."""
        return self.end - time.monotonic()

    def run(self, name: str, command: list[str], limit: float = 600) -> str:
        """Output, also in OUT/NAME.log; stopped by SIGTERM at the limit, so that a training keeps its state."""
        limit, begin = min(limit, self.left()), time.monotonic()
        if limit < 5:
            return ""
        log = self.out / f"{name}.log"
        with open(log, "w") as handle:
            code = subprocess.run(
                ["timeout", "--kill-after=8", f"{limit:.0f}", *command], stdout=handle, stderr=subprocess.STDOUT
            ).returncode
        with open(self.out / "steps.txt", "a") as steps:
            print(f"{name}: exit code {code}, {time.monotonic() - begin:.0f} s", file=steps)
        return log.read_text()

    def transfer(self, name: str, verb: str, file: str, *options: str, limit: float = 600, **sets: object) -> str:
        """A verb of ``transfer`` with the parameters of an experiment; ``sets`` have __ for a dot."""
        given = {"tracking": "false", **sets} | (
            {"train.device": "cpu", "train.compile": "false"} if self.smallest else {}
        )
        command = [sys.executable, "-m", "transfer", *verb.split(), "--params", f"params/{file}.yaml"]
        for key, value in given.items():
            command += ["--set", f"{key.replace('__', '.')}={value}"]
        return self.run(name, [*command, *options], limit)

    def train(self, file: str, recipe: str, seed: int, limit: float = 600, **sets: object) -> None:
        """One run; stopped at the end, it keeps its state."""
        options = ["--dataset", DATASET, "--recipe", recipe, "--seed", str(seed)]
        if self.smallest:
            sets |= {f"recipe_definitions__{recipe}__train__epochs": 1, "train__batch_size": 1024}
        name = f"{sets.get('experiment', file)}-{recipe}-{seed}"
        self.transfer(name, "train", file, *options, limit=limit, **{"train__threads": 1, **sets})

    def collect(self) -> None:
        """Everything that ``transfer`` reads as runs, in OUT; of the weights only the small `full`'s first seed."""
        pieces, kept = self.out / "results.tar.xz", re.compile(r"runs/.*/full/seed0/model\.safetensors")
        with tarfile.open(pieces, "w:xz", preset=1) as archive:
            for experiment in (*EXPERIMENTS, *TWICE):
                for folder in ("runs", "chain"):
                    for file in sorted(Path("results", experiment, folder).rglob("*")):
                        if file.is_file() and (file.suffix != ".safetensors" or kept.search(str(file))):
                            archive.add(file)
            for log in sorted(self.out.glob("*.log")):
                archive.add(log, f"logs/{log.name}")
        whole = pieces.read_bytes()
        for number in range(0, len(whole), PIECE):
            Path(f"{pieces}.{number // PIECE}").write_bytes(whole[number : number + PIECE])
        pieces.unlink()


def run(out: Path, seconds: float, smallest: bool) -> None:
    """All steps; each leaves its output in ``out``."""
    out.mkdir(parents=True, exist_ok=True)
    session = Session(out, seconds - 25, smallest)  # the rest packs the results
    session.run("gpu", ["nvidia-smi", "--query-gpu=name,driver_version,memory.total", "--format=csv"])
    unpack()
    session.run("tests", [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/gpu"], 90)
    rate = 0.0
    for compiled in ("true", "false"):
        options = (
            ["--model", "transfer_tiny", "--img-size", "24", "--rounds", "1", "--seconds", "0"] if smallest else []
        )
        found = session.transfer(
            f"bench-compile-{compiled}", "bench train", EXPERIMENTS[0], *options, limit=75, train__compile=compiled
        )
        rate = max([rate, *(float(text) for text in re.findall(r"^transfer, \w+\s+([\d.]+)", found, re.M))])
    session.collect()

    # The paper's network, for the epochs that fit beside the small ones at half its rate alone
    images = len(np.load(GPU / "data" / "plan_none.npy"))
    epochs = 1 if smallest else max(3, min(60, int(rate / 2 * (session.left() - 60) / images)))
    tiny = {"recipe_definitions__base__model__name": "transfer_tiny", "recipe_definitions__base__model__img_size": 24}
    jobs: list[tuple[str, str, int, dict[str, object]]] = []
    base = {"recipe_definitions__base__train__epochs": epochs, "train__threads": 1 if smallest else 2}
    jobs.append((EXPERIMENTS[0], "base", 0, base | (tiny if smallest else {})))
    for seed in (0, 1, 2):
        for experiment in EXPERIMENTS:
            recipes = yaml.safe_load(Path(f"params/{experiment}.yaml").read_text())["recipes"]
            jobs += [(experiment, recipe, seed, {}) for recipe in recipes if recipe != "base"]
        if seed == 0:
            short = {"train__deterministic": "true", "train__epochs": 2}
            jobs += [(EXPERIMENTS[0], "full", 0, short | {"experiment": name}) for name in TWICE]
    if smallest:
        jobs = jobs[:2] + [job for job in jobs if "experiment" in job[3]]
    with ThreadPoolExecutor(2 if smallest else 14) as pool:
        started = [pool.submit(session.train, *job, **sets) for *job, sets in jobs]
    for future in started:
        future.result()
    session.collect()

    digests = [
        [
            hashlib.sha256(file.read_bytes()).hexdigest()
            for file in sorted(Path("results", name, "runs").rglob("*s*.[ps]*"))
        ]
        for name in TWICE
    ]
    done = {name: len(list(Path("results", name, "runs").rglob("env.json"))) for name in EXPERIMENTS}
    summary = {"identical": bool(digests[0]) and digests[0] == digests[1], "runs": done, "base_epochs": epochs}
    (out / "summary.json").write_text(json.dumps(summary, indent=2))
    print((out / "steps.txt").read_text(), json.dumps(summary))


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    parser = argparse.ArgumentParser(description=__doc__)
    steps = parser.add_subparsers(dest="step", required=True)
    steps.add_parser("pack").add_argument("experiment")
    there = steps.add_parser("run")
    there.add_argument("out", type=Path)
    there.add_argument("--seconds", type=float, default=535)
    there.add_argument("--smallest", action="store_true")
    given = parser.parse_args()
    if given.step == "pack":
        pack(given.experiment)
    else:
        run(given.out, given.seconds, given.smallest)
