"""Where datasets, lists and weight files come from: ``params/sources.yaml``, typed and checked."""

from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, model_validator

from transfer.datasets import archives, registry
from transfer.params import Name, Params, ParamsError, Strict
from transfer.params.read import read_model, schema_text
from transfer.utils.errors import UserError
from transfer.utils.files import write_text

SOURCES = Path("params/sources.yaml")
SCHEMA = Path("params/sources.schema.json")


def _below(path: str) -> str:
    parts = PurePosixPath(path).parts
    if not parts or path.startswith("/") or ".." in parts or "\\" in path or str(PurePosixPath(path)) != path:
        raise ValueError(f"expected a plain path below raw_dir, such as weights/file.pth, found {path!r}")
    return path


Below = Annotated[str, AfterValidator(_below)]
Page = Annotated[str, Field(pattern=r"^https?://\S+$")]


class SourceFile(Strict):
    """A file, and how it is told from another one; what is not known is left out."""

    path: Below
    """Where it lies below raw_dir."""
    url: Annotated[str, Field(pattern=r"^https://\S+$")] | None = None
    """Where it is downloaded from; null: by hand."""
    size: Annotated[int, Field(ge=1)] | None = None
    """Bytes."""
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")] | None = None
    sha256_prefix: Annotated[str, Field(pattern=r"^[0-9a-f]{8,63}$")] | None = None
    """The first digits of the sha256, which timm writes into its file names."""
    md5: Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")] | None = None


class SourceEntry(Strict):
    """A dataset, some lists or a weight file: where it comes from and how it is had."""

    kind: Literal["dataset", "list", "weights"]
    how: Literal["download", "form", "kaggle", "manual"]
    """download: `transfer fetch` does it; the others are asked for by a person, as ``ask`` says."""
    title: str
    page: Page
    """The page of its authors, where it is asked for if it is not downloaded."""
    licence: str
    citation: str
    ask: str = ""
    """What to ask for, and which file to put where."""
    archive: Below | None = None
    """Folder or archive below raw_dir that a dataset is read from, as in dataset_definitions."""
    files: list[SourceFile] = []
    """Its files one by one, where they have fixed names."""
    checked: str
    """Where these facts were read."""
    unconfirmed: str = ""
    """What could not be confirmed."""

    @model_validator(mode="after")
    def _can_be_had(self) -> "SourceEntry":
        downloads = self.how == "download"
        if downloads and not (self.files and all(file.url for file in self.files)):
            raise ValueError("how: download needs files with a url each")
        if not downloads and any(file.url for file in self.files):
            raise ValueError(f"how: {self.how} has no url in its files; what is downloaded says how: download")
        if not downloads and not self.ask:
            raise ValueError(f"how: {self.how} needs ask: what to ask for, and which file to put where")
        if not self.files and not self.archive:
            raise ValueError("needs files, or the archive that they make up")
        return self


class Sources(Strict):
    """The whole table."""

    sources: Annotated[dict[Name, SourceEntry], Field(min_length=1)]

    @model_validator(mode="after")
    def _files_are_told_apart(self) -> "Sources":
        owners: dict[str, str] = {}
        for name, entry in self.sources.items():
            for file in entry.files:
                if file.path in owners:
                    other = owners[file.path]
                    raise ParamsError(("sources", name, "files"), f"{file.path} is a file of {other} already")
                owners[file.path] = name
        return self


def load(path: Path = SOURCES) -> dict[str, SourceEntry]:
    """The sources by name. Raises UserError: file, line, key and what is allowed."""
    return read_model(path, Sources).sources


def get(name: str, path: Path = SOURCES) -> SourceEntry:
    """One source; UserError with the known names if there is none of this name."""
    table = load(path)
    if name not in table:
        raise UserError(f"{path}: no source {name!r}; allowed: {', '.join(table)}")
    return table[name]


def find(name: str, table: Mapping[str, SourceEntry]) -> tuple[str, SourceEntry, SourceFile | None]:
    """The source called ``name``, or the one that has a file of this path, and that file.

    Raises UserError, with the known names, if there is neither.
    """
    if name in table:
        return name, table[name], None
    for owner, entry in table.items():
        for file in entry.files:
            if file.path == name:
                return owner, entry, file
    raise UserError(f"{SOURCES}: no source {name!r}; allowed: {', '.join(table)}, or the path of one of their files")


def where_to_get(archive: str, table: Mapping[str, SourceEntry]) -> str:
    """Where a dataset is asked for that is read from ``archive``, in one line; empty if no source makes it up."""
    found = {
        name: entry for name, entry in table.items() if entry.archive and archive in archives.spellings(entry.archive)
    }
    if not found:
        return ""
    pages = " and ".join(entry.page for entry in found.values())
    return f"It is had from {pages}: transfer fetch {' '.join(found)} says how"


def archive_path(params: Params, dataset: str) -> Path:
    """Folder or archive in which ``dataset`` lies; one that the workflow draws need not be there yet.

    Raises UserError for an unknown parser or a wrong option, and with the way to get it for an archive that is missing.
    """
    definition = params.dataset_definitions[dataset]
    try:
        parser = registry.get(definition.parser)
        parser.resolve(definition.options)
    except UserError as error:
        raise UserError(f"dataset_definitions.{dataset}: {error}") from None
    if definition.synthetic is not None:
        return Path(params.raw_dir) / definition.archive
    try:
        return archives.locate(Path(params.raw_dir), definition.archive)
    except UserError as error:
        hint = where_to_get(definition.archive, load())
        raise UserError(f"dataset {dataset}: {error}. {hint}".rstrip()) from None


def archive_is_there(params: Params, dataset: str) -> bool:
    """Whether the workflow could begin with ``dataset``: its folder or archive is there, or is drawn."""
    try:
        archive_path(params, dataset)
    except UserError:
        return False
    return True


def weights_path(params: Params, name: str) -> Path:
    """The file of a source of weights in params/sources.yaml; one that the workflow downloads need not be there yet.

    Raises UserError, with the way to get it, for a missing one that has to be put there by hand.
    """
    entry = get(name)
    path = Path(params.raw_dir) / entry.files[0].path
    if entry.how != "download" and not path.is_file():
        ask = entry.ask.replace("RAW_DIR", params.raw_dir)
        raise UserError(f"weights {name}: {path} is not there. {ask}")
    return path


def write_schema(path: Path = SCHEMA) -> None:
    """Write the JSON schema of the table."""
    write_text(path, schema_text(Sources, partial=False))
