"""A tar archive, packed by gzip or not."""

import gzip
import posixpath
import tarfile
from pathlib import Path
from typing import IO

from transfer.datasets.source.bounds import Bounds
from transfer.datasets.source.storage import Storage

_STEP = 1 << 20


class Tar(Storage):
    """Members of a tar; the headers lie between the contents, so the bounds are checked on the way through it."""

    def __init__(self, path: Path, file: IO[bytes], packed: bool) -> None:
        """``file`` is the open archive, ``packed`` whether it is a .tar.gz."""
        super().__init__(path)
        bounds = Bounds(path, file.seek(0, 2))
        file.seek(0)
        reader = _Headers(gzip.GzipFile(fileobj=file) if packed else file)
        self._members: dict[str, tarfile.TarInfo] = {}
        links = {}
        with self.intact():
            self._tar = tarfile.open(fileobj=reader, mode="r:")  # noqa: SIM115
            while (member := self._tar.next()) is not None:
                # Before its content is skipped, which for a .tar.gz means to unpack it.
                bounds.add(member.size)
                self._check_name(member.name)
                if member.issym():
                    links[member.name] = posixpath.join(posixpath.dirname(member.name), member.linkname)
                elif member.islnk():
                    links[member.name] = member.linkname
                elif member.isreg():
                    self._members[member.name] = member
            self._check_end(bounds)
        reader.listing = False
        self._register(self._members, links)

    def _check_end(self, bounds: Bounds) -> None:
        """Refuse an archive cut between two members: tarfile takes that for its end.

        An archive ends with zero blocks, and reading to the end of the file lets gzip compare its checksum.
        """
        self._tar.fileobj.seek(self._tar.offset)
        if self._tar.fileobj.read(tarfile.BLOCKSIZE) != tarfile.NUL * tarfile.BLOCKSIZE:
            raise tarfile.ReadError("no end-of-archive mark")
        while self._tar.fileobj.read(_STEP):
            bounds.check(self._tar.fileobj.tell())

    def position(self, member: str) -> int:
        """Where the member lies."""
        return self._members[member].offset_data

    def size(self, member: str) -> int:
        """Bytes that the header declares."""
        return self._members[member].size

    def open(self, member: str) -> IO[bytes]:
        """The member as an open file."""
        return self._tar.extractfile(self._members[member])

    def close(self) -> None:
        """Close the archive; its file is closed by whoever opened it."""
        self._tar.close()


class _Headers:
    """A file whose reads are small while the headers are listed: a header may announce a name of any length."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file, self.listing = file, True

    def seek(self, offset: int) -> int:
        return self._file.seek(offset)

    def tell(self) -> int:
        return self._file.tell()

    def read(self, size: int) -> bytes:
        if self.listing and size > _STEP:
            raise tarfile.ReadError(f"a header of {size:,} bytes")
        return self._file.read(size)
