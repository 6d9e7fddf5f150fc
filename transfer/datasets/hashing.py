"""SHA-256 of a dataset's files, taken while they are read anyway."""

import hashlib
from collections.abc import Collection, Iterator

from transfer.datasets.source import Source


class HashedSource:
    """A source whose ``stream`` notes the SHA-256 of every file that it yields, in ``sha256`` by name."""

    def __init__(self, source: Source) -> None:
        self.path = source.path
        self.sha256: dict[str, str] = {}
        self._source = source

    def stream(self, names: Collection[str]) -> Iterator[tuple[str, bytes]]:
        """As ``Source.stream``."""
        for name, content in self._source.stream(names):
            self.sha256[name] = hashlib.sha256(content).hexdigest()
            yield name, content
