"""Names of archives."""

from pathlib import Path

from transfer.errors import UserError

SUFFIXES = (".zip", ".tar", ".tar.gz", ".tgz")


def locate(raw_dir: Path, archive: str) -> Path:
    """Path of ``archive`` under ``raw_dir``: the folder of that name, else the first of name + .zip/.tar/.tar.gz/.tgz.

    ``archive`` may carry its suffix already; then only that file will do. Raises UserError with the names looked for
    when there is none.
    """
    candidates = [archive] if archive.endswith(SUFFIXES) else [archive, *(archive + suffix for suffix in SUFFIXES)]
    for name in candidates:
        path = Path(raw_dir) / name
        if path.is_file() if name.endswith(SUFFIXES) else path.is_dir():
            return path
    shown = [name if name.endswith(SUFFIXES) else f"{name}/" for name in candidates]
    raise UserError(f"{archive}: not found in {raw_dir} (looked for {', '.join(shown)})")


def folder_name(path: Path) -> str:
    """Name of the folder that an archive is unpacked into: its name without the suffix."""
    suffix = next((suffix for suffix in SUFFIXES if path.name.endswith(suffix)), "")
    return path.name.removesuffix(suffix)
