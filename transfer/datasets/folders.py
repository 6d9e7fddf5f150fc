"""Images in a folder per class, <split>/<class>/<image>: classes by name, or by a number that has to be trusted."""

import posixpath
import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from transfer.datasets.archives import Source
from transfer.datasets.text import text_lines
from transfer.utils.errors import UserError

IMAGES = (
    ".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".bmp", ".webp", ".tif", ".tiff", ".gif", ".ppm", ".avif", ".heic",
)  # fmt: skip
"""Suffixes of images, those too that cannot be decoded: left out they would vanish, detection names them."""
SYNONYMS = {
    "angry": "anger", "happy": "happiness", "sad": "sadness", "surprised": "surprise", "fearful": "fear",
    "afraid": "fear", "disgusted": "disgust",
}  # fmt: skip
_PLACE = re.compile(r"((?:.*/)?)(train|val|valid|validation|test)(?:_class|_set)?/(?:([^/]+)/)?(.+)", re.IGNORECASE)
_NUMBER = re.compile(r"(class)?0*(\d{1,3})", re.IGNORECASE)
_EXACT, _CLOSE = 0.02, 0.1  # total variation between two distributions of the classes
_ENOUGH = 1000  # training images from which on their numbers per class have to tell one order from another


@dataclass
class ClassFolders:
    """Images of class folders: rows (path, split, label), what was left out, and in words what the numbers mean."""

    rows: list[tuple[str, str, int]] = field(default_factory=list)
    dropped: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    numbered: str = ""


def is_image(name: str) -> bool:
    """Whether a file is an image by its suffix, in whatever case."""
    return name.lower().endswith(IMAGES)


def class_of(name: str, classes: Sequence[str]) -> int | None:
    """Label of a class by its name or a synonym of it, in whatever case."""
    name = name.strip().lower()
    name = SYNONYMS.get(name, name)
    return classes.index(name) if name in classes else None


def find_folders(source: Source) -> dict[str, re.Match[str]]:
    """Images below a folder of a split, name -> root, split, class folder, rest."""
    return {name: match for name in source.names() if is_image(name) and (match := _PLACE.fullmatch(name))}


def only_folders(source: Source) -> dict[str, re.Match[str]]:
    """As `find_folders`; UserError where they are in two places, or an archive that may hold more cannot be read."""
    source.require("")
    images = find_folders(source)
    roots = sorted({match[1] for match in images.values() if match[3]})
    if len(roots) > 1:
        places = ", ".join(map(repr, roots[:3]))
        raise UserError(f"{source.path}: class folders in {len(roots)} places ({places}); keep one")
    return images


def read_folders(
    source: Source,
    classes: Sequence[str],
    first: int,
    official: Sequence[int] | None,
    others: Mapping[int, str] | None = None,
) -> ClassFolders:
    """The images of train/ and test/ (or val/: the only other split is the one that is tested on).

    The class folders are named by the ``classes``, or numbered from ``first`` (class001: from 1); a classes.txt in the
    archive (one name a line in the order of the numbers, or "number name") says what the numbers mean. Without it, the
    images per class have to be near the ``official`` ones of the training set, and not as near in alphabetical order
    of the names, unless they are a handful; None: the caller knows the numbers. ``others`` are numbers that mean no
    class, label -> name.
    """
    found, images = ClassFolders(), only_folders(source)
    folders = {match[3] for match in images.values() if match[3]}
    by_name = {folder: label for folder in folders if (label := class_of(folder, classes)) is not None}
    numbers = {folder: int(match[2]) for folder in folders if (match := _NUMBER.fullmatch(folder))}
    if by_name and numbers:
        mixed = f"{next(iter(sorted(by_name)))}/ and {next(iter(sorted(numbers)))}/"
        raise UserError(f"{source.path}: class folders by name and by number ({mixed}); keep one kind")
    trained = [match[3] for match in images.values() if match[2].lower() == "train" and "/" not in match[4]]
    counts = Counter(numbers[folder] for folder in trained if folder in numbers)
    if len({*numbers.values()}) < len(numbers):
        raise UserError(f"{source.path}: two class folders have one number ({', '.join(sorted(numbers))}); keep one")
    if numbers:
        by_name = _labels(source, numbers, counts, classes, first, official)
        in_order = sorted(by_name.items(), key=lambda item: numbers[item[0]])
        named = [
            f"{folder} {classes[n]} {counts[numbers[folder]]:,}" for folder, n in in_order if 0 <= n < len(classes)
        ]
        found.numbered = f"; training images by number: {', '.join(named)}"
    splits = {match[2].lower() for match in images.values()} - {"train"}
    for name, match in images.items():
        split, label = match[2].lower(), by_name.get(match[3] or "", -1)
        if not 0 <= label < len(classes):
            found.dropped[(others or {}).get(label, "images in folders of no class")].append(name)
        elif "/" in match[4]:
            found.dropped["images in sub-folders of a class folder"].append(name)
        elif split == "train":
            found.rows.append((name, split, label))
        else:
            found.rows.append((name, "val" if len(splits) > 1 and split != "test" else "test", label))
    return found


def _labels(
    source: Source,
    numbers: Mapping[str, int],
    counts: Counter,
    classes: Sequence[str],
    first: int,
    official: Sequence[int] | None,
) -> dict[str, int]:
    """Label of each numbered class folder."""
    if source.find_all("classes.txt"):
        return _listed(source, source.find("classes.txt"), numbers, classes)
    here = sorted(set(numbers.values()))
    first = 1 if any(folder.lower().startswith("class") for folder in numbers) else first
    start = first if here[0] == first else 1 - first
    if official is not None:
        # AffectNet's last class, contempt, is often left out.
        classes = classes[: len(here)] if len(here) == len(classes) - 1 else classes
        per_number = [counts[start + label] for label in range(len(classes))]
        order = sorted(range(len(classes)), key=classes.__getitem__)
        # The official counts, and those of a copy with at most so many images of a class.
        known = [list(official[: len(classes)]), [min(n, max(per_number)) for n in official[: len(classes)]]]
        near = min(_distance(per_number, those) for those in known)
        alphabetical = min(_distance(per_number, [those[label] for label in order]) for those in known)
        shown, what = ", ".join(f"{number}: {counts[number]:,}" for number in here), ""
        if alphabetical < min(_CLOSE, near / 2):
            what = f"the images per class folder ({shown}) are those of the classes in alphabetical order"
        elif start != first and (near > _EXACT or near >= alphabetical / 2):
            what = f"class folders {here[0]} to {here[-1]}, where the official numbers start at {first}"
        elif counts.total() >= _ENOUGH and (near > _CLOSE or near >= alphabetical / 2):
            what = f"the images per class folder ({shown}) do not tell whether the numbers are the official ones"
        if what:
            listed = f"a class name a line, in the order of the numbers; the official one is {', '.join(classes)}"
            remedy = f"put a classes.txt beside them ({listed}), or name the folders"
            raise UserError(f"{source.path}: {what}; which class a number is cannot be known: {remedy}")
    return {folder: number - start for folder, number in numbers.items() if number >= start}


def _listed(source: Source, file: str, numbers: Mapping[str, int], classes: Sequence[str]) -> dict[str, int]:
    where = f"{source.path}: {file}"
    lines = [line.split() for line in text_lines(where, source.read(file)) if line.strip()]
    in_order = dict(zip(sorted(set(numbers.values())), lines, strict=False))
    pairs = [(str(number), line[0]) for number, line in in_order.items() if len(line) == 1]
    if pairs and len(lines) != len(set(numbers.values())):
        raise UserError(f"{where}: {len(lines)} lines for {len(set(numbers.values()))} numbered folders; one for each")
    names: dict[int, int] = {}
    for number, name in pairs or [(line[0], " ".join(line[1:])) for line in lines]:
        label = class_of(name.strip(":,;"), classes)
        match = _NUMBER.fullmatch(number.strip(":,;"))
        if label is None or match is None or label in names.values():
            expected = f"a number and one of {', '.join(classes)}, or the name alone, each once"
            raise UserError(f"{where}: {number} {name!r}; expected {expected}")
        names[int(match[2])] = label
    return {folder: names.get(number, len(classes)) for folder, number in numbers.items()}


def _distance(one: Sequence[int], other: Sequence[int]) -> float:
    """Total variation distance of two distributions given by counts."""
    if not sum(one) or not sum(other):
        return 1.0
    return sum(abs(a / sum(one) - b / sum(other)) for a, b in zip(one, other, strict=True)) / 2


def sample_names(paths: Sequence[str]) -> list[str]:
    """The paths without their suffixes, except where two paths differ in nothing else."""
    stems = {path: posixpath.splitext(path)[0] for path in paths}
    times = Counter(stems.values())
    return [stems[path] if times[stems[path]] == 1 else path for path in paths]
