"""Names of archives."""

from pathlib import Path

from transfer.utils.errors import UserError

SUFFIXES = (".zip", ".tar", ".tar.gz", ".tgz")


def locate(raw_dir: Path, archive: str) -> Path:
    """Path of ``archive`` under ``raw_dir``: the folder of that name, else the first of name + .zip/.tar/.tar.gz/.tgz.

    ``archive`` may carry its suffix already; then only that file will do. Raises UserError with the names looked for
    when there is none.
    """
    found = find(raw_dir, archive)
    if found is None:
        shown = [name if name.endswith(SUFFIXES) else f"{name}/" for name in _candidates(archive)]
        raise UserError(f"{archive}: not found in {raw_dir} (looked for {', '.join(shown)})")
    return found


def find(raw_dir: Path, archive: str) -> Path | None:
    """As `locate`; None where there is none."""
    paths = (Path(raw_dir) / name for name in _candidates(archive))
    return next((path for path in paths if (path.is_file() if path.name.endswith(SUFFIXES) else path.is_dir())), None)


def _candidates(archive: str) -> list[str]:
    return [archive] if archive.endswith(SUFFIXES) else [archive, *(archive + suffix for suffix in SUFFIXES)]


def folder_name(path: Path) -> str:
    """Name of the folder that an archive is unpacked into: its name without the suffix."""
    suffix = next((suffix for suffix in SUFFIXES if path.name.endswith(suffix)), "")
    return path.name.removesuffix(suffix)
