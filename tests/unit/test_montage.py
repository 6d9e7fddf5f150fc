import numpy as np
from PIL import Image

from transfer.faces.quality import COLUMNS, SIDE, Tile, montage


def tiles(n, shape=(SIDE, SIDE)):
    return [Tile(np.full((*shape, 3), 10 + i, np.uint8), (f"sample{i}", "0.5")) for i in range(n)]


def test_every_tile_is_shown_and_the_file_repeats_itself(tmp_path):
    sections = [("first", tiles(11)), ("second", tiles(3)), ("third", [])]
    for name in ("a.png", "b.png"):
        montage(tmp_path / name, sections)
    picture = np.asarray(Image.open(tmp_path / "a.png"))
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    values, areas = np.unique(picture.reshape(-1, 3), axis=0, return_counts=True)
    by_colour = {tuple(value): area for value, area in zip(values.tolist(), areas, strict=True)}
    for i in range(11):
        shown = by_colour[(10 + i,) * 3] / SIDE**2
        assert round(shown) == (2 if i < 3 else 1)


def test_the_layout_does_not_depend_on_the_faces(tmp_path):
    sizes = set()
    for shape in ((40, 40), (224, 224), (30, 90)):
        montage(tmp_path / "a.png", [("title", tiles(COLUMNS + 1, shape))])
        sizes.add(Image.open(tmp_path / "a.png").size)
    assert len(sizes) == 1


def test_proportions_are_kept(tmp_path):
    montage(tmp_path / "a.png", [("title", tiles(1, (28, 56)))])
    rows, columns = np.nonzero((np.asarray(Image.open(tmp_path / "a.png")) == 10).all(axis=2))
    assert (np.ptp(columns) + 1, np.ptp(rows) + 1) == (SIDE, SIDE // 2)


def test_a_long_name_does_not_run_into_its_neighbour(tmp_path):
    face = np.full((SIDE, SIDE, 3), 255, np.uint8)
    montage(tmp_path / "a.png", [("", [Tile(face, ("W" * 200, "")), Tile(face, ("", ""))])])
    dark = np.asarray(Image.open(tmp_path / "a.png").convert("L"))[30:] < 128
    assert dark.any() and not dark[:, 2 * SIDE :].any()
