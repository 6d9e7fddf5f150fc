"""The whole campaign of faults: ``make faults`` runs it and writes its table into docs/reliability.md."""

import datetime
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import trials
from trials import ROOT, Result

from transfer.utils.environment import commit, cores, cpu

PAGE = ROOT / "docs/reliability.md"
BEGIN, END = "<!-- campaign -->", "<!-- end -->"


def main(seed: int) -> int:
    """Run every kind of trial; the number of losses."""
    results: list[tuple[Result, float]] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        campaign: list[Callable[[], Result]] = [
            lambda: trials.kills(folder / "kills", 32, seed, writers=12, seconds=1200),
            lambda: trials.servers(folder / "servers", 30, seed),
            lambda: trials.parameters(folder / "parameters"),
            lambda: trials.archives(folder / "archives", 25, seed),
            lambda: trials.full_disks(folder / "disks", 2, seed),
        ]
        for trial in campaign:
            begin = time.monotonic()
            result = trial()
            results.append((result, time.monotonic() - begin))
            print(f"{result.kind}: {result.trials} trials, {len(result.losses)} losses; {result.note}", flush=True)
            for loss in result.losses:
                print(f"  {loss}", flush=True)
    rows = "\n".join(
        f"| {result.kind} | {result.trials} | {len(result.losses)} | {result.note} | {seconds:.0f} s |"
        for result, seconds in results
    )
    about = f"{datetime.date.today()}, commit {(commit() or 'unknown')[:7]}, seed {seed}, {cpu()}, {cores()} cores"
    table = f"{about}:\n\n| kind | trials | losses | | time |\n|---|---|---|---|---|\n{rows}\n"
    before, _, rest = PAGE.read_text().partition(BEGIN)
    PAGE.write_text(f"{before}{BEGIN}\n{table}{END}{rest.partition(END)[2]}")
    return sum(len(result.losses) for result, _ in results)


if __name__ == "__main__":
    sys.exit(bool(main(int(sys.argv[1]) if sys.argv[1:] else 0)))
