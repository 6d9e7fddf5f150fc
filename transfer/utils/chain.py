"""The chain of digests: what each step of an experiment wrote, and what it was made from.

A step that has written its files notes their digests and those of what it read in a small file in ``chain/`` of the
experiment. Whoever reads a file checks it, and what it was made from, up to the raw files: a file that was edited, or
of which a bit flipped, and files that do not belong together are refused. Files without a note are not checked.
"""

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from transfer.utils.digests import contents, file_digest
from transfer.utils.errors import UserError, remake
from transfer.utils.files import WRITTEN, write_json

_LEFT_OUT = ("chain", "logs", "benchmarks", "state")  # folders of an experiment of which no number is made
_READ: set[Path] = set()  # what this process has checked


@dataclass
class Chain:
    """The notes of the experiment in the folder ``root``; each file is read once in the life of this object."""

    root: Path
    _notes: dict[Path, dict[str, dict[str, Any]]] = field(default_factory=dict)
    _digests: dict[Path, str] = field(default_factory=dict)
    _checked: set[Path] = field(default_factory=set)

    @property
    def folder(self) -> Path:
        """Where the notes are, by the paths of what they describe."""
        return self.root / "chain"

    def note(
        self, written: Iterable[Path], read: Iterable[Path] = (), raw: Iterable[Path] = (), raw_dir: str | Path = "."
    ) -> None:
        """Note what a step has ``written``, made from files of the experiment and from ``raw`` files in ``raw_dir``."""
        written = list(written)
        step = {
            "files": {path.name: file_digest(path) for path in written},
            "made_from": {self._name(path): self._noted(path) or self._digest(path) for path in read},
            "raw": {below(path, raw_dir): contents(path) for path in raw},
        }
        write_json(self.folder / f"{self._name(written[0])}.json", step)
        WRITTEN.difference_update(written)

    def note_rest(self) -> None:
        """Note what else this process has written in the experiment, as made from all that it has checked."""
        read = [path for path in sorted(_READ) if path.exists()]
        for path in sorted(path for path in WRITTEN if self._counts(path)):
            self.note([path], [other for other in read if other.is_relative_to(self.root) and other != path])

    def check_raw(self, path: Path, raw: Iterable[Path], raw_dir: str | Path) -> None:
        """Raise UserError where the ``raw`` files are not those that ``path`` was made from."""
        if changed := self.changed(path, _present(raw), raw_dir):
            raise UserError(f"{'; '.join(changed)}: changed since {path} was made; {remake(path)}")

    def check(self, *paths: Path) -> None:
        """Raise UserError for the first of ``paths``, or of what they were made from, that breaks the chain.

        A file that is not there is left to whoever reads it: weights that ``transfer prune`` removed are no break.
        """
        _READ.update(paths)
        for path in paths:
            for problem in self.problems(path):
                raise UserError(problem)

    def problems(self, path: Path) -> Iterator[str]:
        """What breaks the chain at ``path`` and above it; nothing twice."""
        if path in self._checked or not path.exists():
            return
        self._checked.add(path)
        noted, step = self._noted(path), self._step(path)
        if noted is None or step is None:
            return
        if self._digest(path) != noted:
            yield f"{path}: not what was written (it was edited or damaged since); delete it and {remake(path)}"
        for name, digest in step["made_from"].items():
            source = self.root / name
            if source.exists() and (self._noted(source) or self._digest(source)) != digest:
                yield f"{path}: made from another {source}; delete it and {remake(path)}"
            yield from self.problems(source)

    def changed(self, path: Path, raw: Mapping[Path, list[str]], raw_dir: str | Path) -> list[str]:
        """What differs in the ``raw`` files, path -> `contents`, since ``path`` was made from them, in words.

        None where nothing was noted of them.
        """
        before, found = self.raw(path) or {}, []
        for file, now in raw.items():
            noted = before.get(below(file, raw_dir))
            if noted is not None and noted != now:
                parts = sorted({line.rpartition(" ")[0] for line in {*noted} ^ {*now}})
                found.append(f"{file}" if parts == [file.name] else f"{file}: {', '.join(parts[:5])}")
        return found

    def raw(self, path: Path) -> dict[str, list[str]] | None:
        """The raw files that ``path`` was made from, by their path in raw_dir, and their `contents`."""
        step = self._step(path)
        return step["raw"] if step else None

    def verify(self, raw_dir: str | Path) -> tuple[list[str], list[Path]]:
        """What breaks the chain anywhere in the experiment; files about which nothing was noted."""
        problems: list[str] = []
        for note in sorted(self.folder.rglob("*.json")):
            first = self.root / note.relative_to(self.folder).with_suffix("")
            problems += [line for name in self._in(first.parent) for line in self.problems(first.with_name(name))]
            raw = [Path(raw_dir) / name for name in self.raw(first) or ()]
            changed = self.changed(first, _present(raw), raw_dir)
            problems += [f"{first}: made before {what} changed; {remake(first)}" for what in changed]
        files = (path for path in sorted(self.root.rglob("*")) if self._counts(path))
        return problems, [path for path in files if self._noted(path) is None]

    def _counts(self, path: Path) -> bool:
        """Whether ``path`` is a file of the experiment of which numbers are made, or that shows them."""
        inside = path.is_relative_to(self.root) and path.is_file() and not path.name.startswith(".")
        return inside and path.relative_to(self.root).parts[0] not in _LEFT_OUT and path.suffix not in (".lock", ".log")

    def _name(self, path: Path) -> str:
        return path.relative_to(self.root).as_posix()

    def _digest(self, path: Path) -> str:
        if path not in self._digests:
            self._digests[path] = file_digest(path)
        return self._digests[path]

    def _noted(self, path: Path) -> str | None:
        step = self._step(path)
        return step["files"][path.name] if step else None

    def _step(self, path: Path) -> dict[str, Any] | None:
        """The note of the step that wrote ``path``."""
        return self._in(path.parent).get(path.name)

    def _in(self, folder: Path) -> dict[str, dict[str, Any]]:
        """The notes about the files of a folder, by name. Raises UserError for a damaged one."""
        if folder not in self._notes:
            self._notes[folder] = {}
            for note in sorted((self.folder / folder.relative_to(self.root)).glob("*.json")):
                try:
                    step = json.loads(note.read_text(encoding="utf-8"))
                    self._notes[folder] |= dict.fromkeys(step["files"], step)
                except (ValueError, KeyError, TypeError):
                    raise UserError(f"{note}: damaged; delete it and what it describes, and start again") from None
        return self._notes[folder]


def _present(raw: Iterable[Path]) -> dict[Path, list[str]]:
    return {path: contents(path) for path in raw if path.exists()}


def below(path: Path, raw_dir: str | Path) -> str:
    """``path`` as it is named in ``raw_dir``."""
    return path.relative_to(raw_dir).as_posix() if path.is_relative_to(raw_dir) else path.name
