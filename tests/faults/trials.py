"""Trials of what goes wrong in practice: kills, full disks, killed writers, hostile archives, parameters and servers.

Each function makes a number of trials from a seed and returns what was lost, one line each; the tests make a few, and
``make faults`` all of them (campaign.py).
"""

import contextlib
import os
import random
import re
import resource
import shutil
import signal
import sqlite3
import subprocess
import sys
import tarfile
import threading
import time
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import torch
from file_server import FileServer, Handler, cut, hold, instead, status

from transfer.sources import fetch
from transfer.sources.fetch import download
from transfer.utils.errors import UserError

ROOT = Path(__file__).parents[2]
SECONDS, BYTES = 10, 10**9  # of the processor and of memory, in which a hostile input is refused
SMALL = """experiment: faults
datasets: [demo_rafdb]
recipes: [baseline, full]
seeds: [0, 1]
tables: [table1]
searches: []
sampling: {upsample: none}
model: {img_size: 32}
train: {epochs: 30, batch_size: 32, warmup_epochs: 0}
dataset_definitions:
  demo_rafdb: {synthetic_scale: 0.15}
"""


@dataclass
class Result:
    """What a kind of trial came to."""

    kind: str
    trials: int = 0
    losses: list[str] = field(default_factory=list)
    note: str = ""

    def expect(self, holds: object, loss: str) -> None:
        if not holds:
            self.losses.append(loss)


# --- a checkout, and processes in it ---


def checkout(folder: Path) -> Path:
    """A copy of the repository's files, without results, and the parameters SMALL."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", ":!results", ":!docs", ":!tests"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    for name in filter(None, listed.stdout.split("\0")):
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)
    (folder / "small.yaml").write_text(SMALL)
    (folder / "tmp").mkdir()
    return folder


def environment(folder: Path) -> dict[str, str]:
    dropped = ("PYTHONPATH", "SNAKEMAKE_PROFILE", "MLFLOW_TRACKING_URI", "CONDA_PREFIX")
    kept = {key: value for key, value in os.environ.items() if key not in dropped}
    path = os.pathsep.join([str(Path(sys.executable).parent), kept["PATH"]])
    return kept | {"PATH": path, "OMP_NUM_THREADS": "1", "TMPDIR": str(folder / "tmp"), "PYTHONPATH": str(folder)}


def start(folder: Path, *command: str, **options: Any) -> subprocess.Popen[str]:
    """A process in a group of its own; stdout and stderr come together."""
    return subprocess.Popen(
        command,
        cwd=folder,
        env=environment(folder),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        start_new_session=True,
        **options,
    )


def run(folder: Path, *command: str, limit: float = 600) -> tuple[int, str]:
    process = start(folder, *command)
    try:
        said = process.communicate(timeout=limit)[0]
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        said = process.communicate()[0] + "\nno end"
    return process.returncode, said


def verb(folder: Path, *arguments: str, limit: float = 600) -> tuple[int, str]:
    return run(folder, sys.executable, "-m", "transfer", *arguments, limit=limit)


def snakemake(target: str) -> list[str]:
    return ["snakemake", "--cores", "2", target, "--configfile", "small.yaml", "--quiet", "all"]


def parts(folder: Path) -> list[str]:
    """Half-written files."""
    places = [folder / "results", folder / "data"]
    return [str(path.relative_to(folder)) for place in places for path in place.rglob("*") if ".part" in path.name]


def outputs(folder: Path) -> dict[str, bytes]:
    """What must be the same after any number of kills."""
    root = folder / "results"
    names = ("model.safetensors", "predictions.parquet", "metrics.json", "aligned.npy", "split.parquet", "table1.csv")
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.name in names}


def one_line(said: str) -> bool:
    """Whether what was said is one error and no traceback."""
    return said.count("error: ") == 1 and "Traceback" not in said and "(unexpected" not in said


# --- kills ---


def epochs(folder: Path) -> dict[str, int]:
    """Epochs in each resume state, and -1 for one that cannot be read."""
    found = {}
    for path in sorted((folder / "results/faults/state").glob("*/*/seed*/last.pt")):
        try:
            found[str(path.parent)] = len(torch.load(path, weights_only=True)["history"])
        except Exception:  # anything on damaged data
            found[str(path.parent)] = -1
    return found


def trainings(process: subprocess.Popen[str]) -> list[int]:
    with contextlib.suppress(psutil.Error):
        children = psutil.Process(process.pid).children(recursive=True)
        return [child.pid for child in children if "train" in child.cmdline()[3:4]]
    return []


def writer(folder: Path) -> int | None:
    """The process that writes to MLflow, if it is alive."""
    for lock in (folder / "tmp").glob("transfer-mlflow-*/*/writer.lock"):
        with contextlib.suppress(ValueError, psutil.Error):
            if psutil.Process(int(lock.read_text())).is_running():
                return int(lock.read_text())
    return None


def kills(
    folder: Path, in_trainings: int, seed: int, writers: int = 0, seconds: float = 480, limit: int = 10_000
) -> Result:
    """Kill the workflow until this many kills fell into trainings; meanwhile also kill MLflow's writer, at least as
    often as ``writers`` says, while it writes.

    Nothing may be lost: no finished epoch, no output, no metric in MLflow; and nothing half-written may be left.
    """
    rng, result = random.Random(seed), Result("workflow killed (SIGKILL)")
    checkout(folder)
    code, said = run(folder, *snakemake("results/table1.csv"))
    if code:
        result.losses.append(f"no reference: {said[-300:]}")
        return result
    reference, hits, written = outputs(folder), 0, 0
    end = time.monotonic() + seconds
    shutil.rmtree(folder / "results")
    while (hits < in_trainings or written < writers) and result.trials < limit and time.monotonic() < end:
        before = epochs(folder)
        process = start(folder, *snakemake("results/table1.csv"))
        drain = threading.Thread(target=process.stdout.read, daemon=True)  # type: ignore[union-attr]
        drain.start()
        # Every other start comes to its end, so that the writer too is killed in all of its work.
        kill_at = rng.uniform(0, 9) if hits < in_trainings and rng.random() < 0.85 else None
        if kill_at is None and rng.random() < 0.3:
            kill_at = rng.uniform(0, 12)
        else:
            while process.poll() is None and not trainings(process):
                time.sleep(0.05)
        written += kill_writer(folder, process, rng, kill_at, writers > 0)
        if process.poll() is None:
            hit = bool(trainings(process))
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            hits, result.trials = hits + hit, result.trials + 1
            for run_, count in epochs(folder).items():
                result.expect(count >= before.get(run_, 0), f"kill {result.trials}: {run_}: epoch {count} of {before}")
            continue
        if process.returncode:
            result.losses.append(f"after {result.trials} kills: exit code {process.returncode}")
            break
        _compare(folder, reference, result)
        shutil.rmtree(folder / "results")
    code, said = run(folder, *snakemake("results/table1.csv"))
    result.expect(code == 0, f"last start: {said[-300:]}")
    _compare(folder, reference, result)
    code, said = run(folder, *snakemake("track"))
    result.expect(code == 0, f"MLflow and the table differ: {said[-500:]}")
    _check_store(folder, result)
    result.note = f"{hits} in trainings; MLflow's writer killed {written} times in the middle of a transaction"
    return result


def kill_writer(
    folder: Path, process: subprocess.Popen[str], rng: random.Random, seconds: float | None, wanted: bool = True
) -> int:
    """Wait until ``process`` ends, at most ``seconds``; if ``wanted``, kill MLflow's writer while sqlite's journal lies
    there, which is in the middle of a transaction, and the next one some seconds later. How often it was killed."""
    killed, again, end = 0, 0.0, time.monotonic() + (600 if seconds is None else seconds)
    while process.poll() is None and time.monotonic() < end:
        if wanted and time.monotonic() > again and (folder / "mlflow.db-journal").exists() and (pid := writer(folder)):
            os.kill(pid, signal.SIGKILL)
            killed, again = killed + 1, time.monotonic() + rng.uniform(0, 4)
        time.sleep(0.001)
    return killed


def _check_store(folder: Path, result: Result) -> None:
    """MLflow's database is sound, has no value twice, and every run of the table with all of its epochs."""
    with contextlib.closing(sqlite3.connect(folder / "mlflow.db")) as store:
        sound = store.execute("PRAGMA integrity_check").fetchall()
        result.expect(sound == [("ok",)], f"mlflow.db: {sound[:3]}")
        twice = store.execute("SELECT key, step, COUNT(*) n FROM metrics GROUP BY run_uuid, key, step HAVING n > 1")
        twice = twice.fetchall()
        result.expect(not twice, f"MLflow has {len(twice)} values twice: {twice[:3]}")
        counts = store.execute(
            "SELECT COUNT(DISTINCT step) FROM metrics JOIN tags USING (run_uuid) WHERE metrics.key LIKE 'epoch/%'"
            " AND tags.key = 'transfer.in_table' AND tags.value = 'true' GROUP BY run_uuid, metrics.key"
        ).fetchall()
        result.expect(counts and {*counts} == {(30,)}, f"epochs in MLflow: {counts}")


def _compare(folder: Path, reference: dict[str, bytes], result: Result) -> None:
    found = outputs(folder)
    for name in reference:
        result.expect(found.get(name) == reference[name], f"after {result.trials} kills: {name} differs")
    left = parts(folder)
    result.expect(not left, f"after {result.trials} kills: left {left}")


# --- full disks ---

RUN = ("--dataset", "demo_rafdb", "--recipe", "full", "--seed", "0")
VERBS = {
    **{name: (name, "--dataset", "demo_rafdb") for name in ("synthesize", "index", "detect", "align", "inspect")},
    **{name: (name, "--dataset", "demo_rafdb") for name in ("sample", "hash", "duplicates")},
    "audit": ("audit",),
    **{name: (name, *RUN) for name in ("train", "evaluate", "robustness", "diversity")},
    "table": ("table", "--name", "table1"),
    "figure": ("figure", "table", "--name", "table1", "--dataset", "demo_rafdb"),
    "attention": ("figure", "attention"),
    "overview": ("overview",),
    "publish": ("publish",),
    "search": ("search", "--search", "s", "--dataset", "demo_rafdb"),
    "search-report": ("search-report", "--search", "s"),
    "task": ("board", "task", "demo_rafdb", "--why", "a smaller one"),
    "board": ("board", "build"),
    "new": ("board", "new", "mine", "--task", "demo_rafdb"),
    "track": ("track", "sync"),
}
_SET = (
    "tracking=false", "recipes=[full]", "baseline=full", "seeds=[0]", "train.epochs=2", "searches=[s]",
    "search_definitions={s: {recipe: full, trials: 1, workers: 1, space: {train.lr: [0.001, 0.002]}}}",
)  # fmt: skip
DISK = [f"--set={value}" for value in _SET]


@contextlib.contextmanager
def small_disk(folder: Path, megabytes: int = 64) -> Iterator[None]:
    """A file system of its own on ``folder``. Raises CalledProcessError where it may not be mounted."""
    folder.mkdir(parents=True, exist_ok=True)
    mount = ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", str(folder)]
    subprocess.run(mount, check=True, capture_output=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def full_disks(
    folder: Path, rounds: int, seed: int, only: tuple[str, ...] = tuple(VERBS), steps: tuple[str, ...] = tuple(VERBS)
) -> Result:
    """Every step, or ``only`` some of the ``steps``, on a disk with hardly any room, then again with room."""
    rng, result = random.Random(seed), Result("disk full")
    folder.mkdir(parents=True, exist_ok=True)
    with small_disk(folder / "disk"):
        root = checkout(folder / "disk/checkout")
        filler = folder / "disk/filler"
        for number in range(rounds):
            for name in steps:
                command = (*VERBS[name], "--params", "small.yaml", *DISK)
                if name in only:
                    free = shutil.disk_usage(folder / "disk").free
                    room = rng.choice([0, 4096, 8192, 32768]) if number else 0
                    filler.write_bytes(bytes(max(0, free - room)))
                    code, said = verb(root, *command)
                    ended = code == 1 and one_line(said) and ("No space left" in said or "disk is full" in said)
                    # What is smaller than the room may be written.
                    result.expect(ended or (room and code == 0), f"{name} with {room} bytes: {code} {said[-300:]}")
                    result.expect(not parts(root), f"{name} with {room} bytes: left {parts(root)}")
                    filler.unlink()
                    result.trials += 1
                    if code == 0:
                        continue
                code, said = verb(root, *command)
                result.expect(code == 0, f"{name} with room: {code} {said[-300:]}")
            for left in ("results", "data/raw", "leaderboard", *(path.name for path in root.glob("ml*"))):
                shutil.rmtree(root / left) if (root / left).is_dir() else (root / left).unlink()
            shutil.copytree(ROOT / "leaderboard", root / "leaderboard")
            (root / "data/raw").mkdir()
    return result


# --- hostile inputs ---


def _limits() -> None:
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def bounded(folder: Path, *command: str) -> tuple[int, str, str]:
    """The exit code of a module of Python, what it said, and how it went beyond the bounds of a hostile input."""
    with start(folder, sys.executable, "-m", *command, preexec_fn=_limits) as process:
        timer = threading.Timer(6 * SECONDS, process.kill)
        timer.start()
        said = process.stdout.read()  # type: ignore[union-attr]
        _, code, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(code)
        timer.cancel()
    # Of the processor: others may use the machine too. Waiting for ever ends by the timer.
    seconds, memory = usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024
    most = max(BYTES, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)  # it began as a copy of this process
    beyond = f"{seconds:.0f} s" if seconds > SECONDS else f"{memory / 1e9:.1f} GB" if memory > most else ""
    return process.returncode, said, beyond


def _aliases(item: str, names: str = "abcdefghijklmnopqr") -> str:
    lines = [f"{names[0]}: &{names[0]} {item}"]
    lines += [f"{b}: &{b} [{', '.join([f'*{a}'] * 9)}]" for a, b in zip(names, names[1:], strict=False)]
    return "\n".join([*lines, f"seeds: *{names[-1]}"])


_RATES = ", ".join(f"0.0{number}" for number in range(1, 40))
_SWEEP = ", ".join(f"train.{key}: [{_RATES}]" for key in ("lr", "gamma", "ema", "momentum"))
PARAMETERS: dict[str, str | bytes] = {
    "aliases that unfold": _aliases("[0, 1]"),
    "merges that unfold": re.sub(r"\[(\*.*)\]", r"{<<: [\1]}", _aliases("{a: 1}")),
    "self-reference": "train: &a {augment: *a}",
    "list in itself": "seeds: &a [*a]",
    "deep list": "seeds: " + "[" * 100_000,
    "deep mapping": "train: " + "{a: " * 50_000,
    "deep blocks": "\n".join(" " * depth + "a:" for depth in range(900)),
    "many digits": f"seeds: [{'9' * 5000}]",
    "many hexadecimal digits": f"seeds: [0x{'f' * 5000}]",
    "many digits in quotes": f"seeds: ['{'9' * 5000}']",
    "sixties": f"seeds: [{'1:' * 50_000}1]",
    "huge number": "seeds: [1180591620717411303424]",
    "huge exponent": "train: {lr: 1e400}",
    "no date": "seeds: 2001-99-99",
    "many keys": "\n".join(f"k{number}: 1" for number in range(40_000)),
    "many seeds": f"seeds: [{', '.join(map(str, range(40_000)))}]",
    "many wrong seeds": f"seeds: [{', '.join(['x'] * 40_000)}]",
    "long key": f"? {'a' * 900_000}\n: 1",
    "long name": f"experiment: {'a' * 900_000}",
    "long name in quotes": f"experiment: '{'a' * 900_000}'",
    "twice the same key": "seeds: [0]\nseeds: [1]",
    "key null": "null: 1",
    "key number": "1: 1",
    "key list": "[a]: 1",
    "tag of Python": "train: !!python/object/apply:os.system ['touch harm']",
    "code for Snakemake's reader": "__use_yte__: true\n__definitions__:\n  - open('harm', 'w')\nseeds: ?open('harm')",
    "set": "train: !!set {a, b}",
    "NUL": "experiment: a\0b",
    "escape codes": 'experiment: "\\e[2J\\e]0;harm\\a"',
    "half a surrogate": 'experiment: "\\ud800"',
    "UTF-16": "seeds: [0]".encode("utf-16"),
    "Latin-1": "experiment: \xe4".encode("latin-1"),
    "two documents": "seeds: [0]\n---\nseeds: [1]",
    "two megabytes": "#" * 2_000_000,
    "endless grid": "search_definitions: {s: {sampler: grid, space: {train.lr: {low: 0, high: 1, step: 1.0e-300}}}}",
    "endless sweep": f"table_definitions: {{t: {{kind: recipes, sweep: {{over: {{{_SWEEP}}}}}}}}}",
}


def parameters(folder: Path) -> Result:
    """Every hostile text as a parameter file."""
    result = Result("hostile parameter files")
    checkout(folder)
    for name, text in PARAMETERS.items():
        (folder / "hostile.yaml").write_bytes(text if isinstance(text, bytes) else text.encode())
        for reader in (["transfer", "params", "--params"], ["snakemake", "--dry-run", "--configfile"]):
            code, said, beyond = bounded(folder, *reader, "hostile.yaml")
            result.trials += 1
            result.expect(code == 1 and one_line(said), f"{reader[0]}, {name}: {code} {said[:300]}")
            result.expect(not beyond and len(said) < 4000, f"{reader[0]}, {name}: {beyond} {len(said)} characters")
            result.expect("\x1b" not in said and not (folder / "harm").exists(), f"{reader[0]}, {name}: {said[:300]!r}")
    return result


def _bomb(path: Path) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("EmoLabel/list_patition_label.txt", bytes(10**9))


def _names(path: Path) -> None:
    with tarfile.open(path, "w:gz") as archive:
        for name in ("../harm", "/tmp/harm", "a/../../harm", "-rf", "a\x1b[2Jb", "a" * 5000, "/".join(["a"] * 2000)):
            archive.addfile(tarfile.TarInfo(name))


def _links(path: Path) -> None:
    with tarfile.open(path, "w:gz") as archive:
        for number in range(20_000):
            member = tarfile.TarInfo(f"Image/{number}")
            member.type, member.linkname = tarfile.SYMTYPE, f"{number + 1}"
            archive.addfile(member)
        loop = tarfile.TarInfo("EmoLabel/list_patition_label.txt")
        loop.type, loop.linkname = tarfile.SYMTYPE, "list_patition_label.txt"
        archive.addfile(loop)


def _digits(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("EmoLabel/list_patition_label.txt", f"train_00001.jpg {'9' * 5000}\n")
        archive.writestr("Image/original/train_00001.jpg", b"\xff\xd8\xff")


def _nothing(path: Path) -> None:
    path.write_bytes(b"")


ARCHIVES: dict[str, tuple[str, Callable[[Path], None]]] = {
    "empty file": ("zip", _nothing),
    "label of 5,000 digits": ("zip", _digits),
    "a gigabyte of zeros": ("zip", _bomb),
    "names that lead elsewhere": ("tar.gz", _names),
    "20,000 links": ("tar.gz", _links),
}


def archives(folder: Path, damaged: int, seed: int) -> Result:
    """Made-up archives, and archives of the demo with random damage."""
    rng, result = random.Random(seed), Result("hostile archives")
    checkout(folder)
    whole = folder / "data/raw/demo_rafdb.zip"
    code, said = verb(folder, "synthesize", "--dataset", "demo_rafdb", "--params", "small.yaml")
    result.expect(code == 0, said)
    content = whole.read_bytes()
    whole.unlink()

    def damage(path: Path) -> None:
        data = bytearray(content)
        kind = rng.choice(["cut", "flip", "fill", "twice"])
        place, size = rng.randrange(len(data)), rng.randrange(1, 2000)
        if kind == "cut":
            del data[place:]
        elif kind == "flip":
            for _ in range(20):
                data[rng.randrange(len(data) - 4000, len(data))] ^= 1 << rng.randrange(8)  # among the headers
        elif kind == "fill":
            data[place : place + size] = rng.randbytes(size)
        else:
            data[place:place] = data[place : place + size]
        path.write_bytes(data)

    trials = [*ARCHIVES.items(), *((f"damage {number}", ("zip", damage)) for number in range(damaged))]
    for name, (suffix, make) in trials:
        make(folder / f"data/raw/hostile.{suffix}")
        block = "{parser: rafdb, archive: hostile, expect: any}"
        code, said, beyond = bounded(
            folder, "transfer", "index", "--dataset", "hostile", "--set", f"dataset_definitions.hostile={block}",
            "--set", "datasets=[hostile]", "--set", "tables=[]", "--set", "table_definitions={}",
        )  # fmt: skip
        result.trials += 1
        fine = (code == 1 and one_line(said)) or (code == 0 and "damage" in name)
        result.expect(fine, f"{name}: {code} {said[-300:]}")
        result.expect(not beyond and "\x1b" not in said, f"{name}: {beyond} {said[-300:]!r}")
        (folder / f"data/raw/hostile.{suffix}").unlink()
        for path in ("/tmp/harm", folder / "harm", folder / "data/harm", folder / "data/raw/harm"):
            result.expect(not os.path.lexists(path), f"{name}: wrote {path}")
        shutil.rmtree(folder / "results", ignore_errors=True)
    return result


def servers(folder: Path, rounds: int, seed: int) -> Result:
    """Downloads from servers that misbehave in one way or several after each other."""
    rng, result = random.Random(seed), Result("broken servers")
    content = rng.randbytes(300_000)

    def endless(handler: Handler, content: bytes, start: int) -> None:
        handler.begin(content, start, Content_Length="", Transfer_Encoding="chunked")
        with contextlib.suppress(OSError):
            while True:
                handler.send(b"10000\r\n" + bytes(65536) + b"\r\n")

    def trickle(handler: Handler, content: bytes, start: int) -> None:
        with contextlib.suppress(OSError, ValueError):
            for _ in range(500):
                handler.wfile.write(b"HTTP/1.1 200 OK\r\nA: " if _ == 0 else b"x")
                time.sleep(0.01)

    def noise(handler: Handler, content: bytes, start: int) -> None:
        handler.wfile.write(rng.randbytes(2000) + b"\r\n\r\n")

    answers = [
        endless, trickle, noise, cut(0), cut(100_000), hold(1000), status(500), status(404), status(204), status(206),
        status(301, Location="ftp://x"), status(302, Location="http://[x"), status(302, Location="/a.bin"),
        *(instead(content, Content_Length=length) for length in ("-1", "1e6", "x", "9" * 5000, "1, 2", "")),
        instead(b"<html>", Content_Type="text/html"), instead(b""), instead(content[:-1]), instead(content + b"x"),
        instead(content, Content_Encoding="gzip"), instead(content, **{f"X{n}": "y" for n in range(300)}),
    ]  # fmt: skip
    before = fetch.WINDOW, fetch.TIMEOUT, fetch.WAITS
    fetch.WINDOW, fetch.TIMEOUT, fetch.WAITS = 0.3, 0.3, (0, 0, 0)  # type: ignore[assignment]
    try:
        with FileServer({"a.bin": content}) as server:
            scripts = [[answer] * 4 for answer in answers]
            scripts += [rng.choices(answers, k=rng.randrange(1, 5)) for _ in range(rounds)]
            for number, script in enumerate(scripts):
                server.script = list(script)
                target = folder / f"{number}/a.bin"
                try:
                    size = len(content)
                    download(f"{server.url}/a.bin", target, lambda _: None, size=size, at_most=size)
                except UserError as error:
                    result.expect("\n" not in str(error) and len(str(error)) < 1000, f"server {number}: {error}")
                except Exception as error:
                    result.expect(False, f"server {number}: {type(error).__name__}: {error}")
                else:
                    result.expect(target.read_bytes() == content, f"server {number}: other bytes were kept")
                left = [path.name for path in target.parent.iterdir() if path.name != "a.bin"]
                result.expect(not left, f"server {number}: left {left}")
                result.trials += 1
    finally:
        fetch.WINDOW, fetch.TIMEOUT, fetch.WAITS = before
    return result
