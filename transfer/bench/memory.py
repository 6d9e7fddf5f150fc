"""Resident memory of this process, from /proc/self/status (Linux)."""

from pathlib import Path

from transfer.utils.errors import UserError

_STATUS = Path("/proc/self/status")


def resident(*names: str) -> dict[str, int]:
    """Bytes under the given names: VmHWM (peak of all), RssAnon (the process's own), RssFile (mapped files).

    Raises UserError on a system without /proc.
    """
    if not _STATUS.exists():
        raise UserError(f"{_STATUS}: not there; memory is measured on Linux only")
    lines = dict(line.split(":", 1) for line in _STATUS.read_text().splitlines())
    return {name: int(lines[name].split()[0]) * 1024 for name in names}
