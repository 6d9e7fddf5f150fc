import hashlib

from transfer.datasets import images, source
from transfer.datasets.images import HashedSource


def test_every_file_that_is_read_is_hashed_and_passed_on(tmp_path):
    content = {"a.png": b"one", "b.png": b"two", "c.png": b"three"}
    for name, data in content.items():
        (tmp_path / name).write_bytes(data)
    with source.open_source(tmp_path) as archive:
        hashed = HashedSource(archive)
        assert dict(hashed.stream(["b.png", "a.png"])) == {"a.png": b"one", "b.png": b"two"}
        assert hashed.sha256 == {name: hashlib.sha256(content[name]).hexdigest() for name in ("a.png", "b.png")}
        assert [position for position, _, _ in images.stream_images(hashed, ["c.png"])] == [0], "as a source"
        assert set(hashed.sha256) == set(content)
