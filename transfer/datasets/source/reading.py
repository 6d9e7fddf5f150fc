"""Reading files by name, wherever they are stored."""

from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path

from transfer.datasets.source.bounds import check_file
from transfer.datasets.source.storage import Storage
from transfer.utils.errors import UserError


class Source:
    """The regular files of a dataset; names are relative, with forward slashes."""

    def __init__(self, path: Path, parts: Sequence[tuple[Storage, Mapping[str, str]]], opened: ExitStack) -> None:
        """``path`` names the source in messages; ``parts`` are storages with what is read from them, name -> member.

        A name that several parts have is the first one's. ``opened`` closes the parts.
        """
        self.path = path
        self._parts = [storage for storage, _ in parts]
        self._opened = opened
        found = {
            name: (number, member)
            for number, (_, names) in reversed(list(enumerate(parts)))
            for name, member in names.items()
        }
        self._found = dict(sorted(found.items()))

    def names(self) -> list[str]:
        """All file names, sorted; without the ``__MACOSX`` folder and ``._`` files that macOS adds to archives."""
        return list(self._found)

    def __contains__(self, name: str) -> bool:
        """Whether the source holds the file ``name``."""
        return name in self._found

    def find_all(self, suffix: str) -> list[str]:
        """Names that are ``suffix`` or end with ``/suffix``: many archives hold everything in one top folder."""
        return [name for name in self._found if name == suffix or name.endswith("/" + suffix)]

    def find(self, suffix: str) -> str:
        """The one name that is ``suffix`` or ends with ``/suffix``; UserError if there is none or more than one."""
        found = self.find_all(suffix)
        if not found:
            raise UserError(f"{self.path}: holds no {suffix}; check that it is the right and complete archive")
        if len(found) > 1:
            raise UserError(
                f"{self.path}: holds {suffix} {len(found)} times ({', '.join(found[:3])}); keep one of them"
            )
        return found[0]

    def read(self, name: str) -> bytes:
        """The content of one file. For more than a few files use `stream`: a .tar.gz is read from its start."""
        return next(self.stream([name]))[1]

    def stream(self, names: Collection[str]) -> Iterator[tuple[str, bytes]]:
        """Yield (name, content) of the wanted files, in one pass, in the order in which they are stored.

        Raises UserError for a name that the source does not hold and for a damaged archive.
        """
        aliases: dict[tuple[int, str], list[str]] = defaultdict(list)
        for name in dict.fromkeys(names):
            if name not in self._found:
                raise UserError(f"{self.path}: holds no {name}; if the archive has changed, index it again")
            aliases[self._found[name]].append(name)
        for number, member in sorted(aliases, key=lambda at: (at[0], self._parts[at[0]].position(at[1]))):
            content = _content(self._parts[number], member)
            for name in aliases[number, member]:
                yield name, content

    def __enter__(self) -> "Source":
        """Return the open source."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the archives."""
        self.close()

    def close(self) -> None:
        """Close the archives."""
        self._opened.close()


def _content(storage: Storage, member: str) -> bytes:
    with storage.intact():
        size = storage.size(member)
        check_file(storage.path, member, size)
        # Asked for no more than was declared, a member that yields more fails its checksum, and memory stays bounded.
        with storage.open(member) as file:
            return file.read(size)
