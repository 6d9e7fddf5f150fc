"""Archives as people have them, and archives that are made to hurt."""

import bz2
import gzip
import lzma
import os
import resource
import sys
import tarfile
import time
import zipfile

import numpy as np
import pytest
from archives import aes_zip_bytes, deflate64_zip_bytes, pack, seven_zip_bytes, tar_gz_bytes, zip_bytes

from transfer.datasets.archives import UNPACKED, locate, open_source
from transfer.utils.errors import UserError

FILES = {
    "top/a.txt": b"ay" * 500,
    "top/deep/noise.bin": np.random.default_rng(0).bytes(70_000),
    "top/b.csv": b"1,2\n" * 30_000,
}


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def read_all(path):
    with open_source(path) as source:
        return dict(source.stream(source.names()))


@pytest.mark.parametrize(
    ("suffix", "content"),
    [
        ("zip", deflate64_zip_bytes(FILES)),
        ("7z", seven_zip_bytes(FILES)),
        ("tar.bz2", bz2.compress(gzip.decompress(tar_gz_bytes(FILES)))),
        ("tar.xz", lzma.compress(gzip.decompress(tar_gz_bytes(FILES)))),
    ],
)
def test_read(suffix, content, tmp_path):
    path = tmp_path / f"data.{suffix}"
    path.write_bytes(content)
    assert read_all(path) == FILES
    (tmp_path / "outer.zip").write_bytes(zip_bytes({f"x/inner.{suffix}": content}))
    inside = read_all(tmp_path / "outer.zip")
    assert {name.removeprefix("x/inner/") for name in inside} == {*FILES, f"x/inner.{suffix}"}
    for cut in (1, len(content) // 2, len(content) - 1):
        path.write_bytes(content[:cut])
        with pytest.raises(UserError, match=rf"data\.{suffix}: truncated or corrupt") as error:
            read_all(path)
        assert "\n" not in str(error.value)


@pytest.mark.parametrize("make", [aes_zip_bytes, lambda files, word: seven_zip_bytes(files, word.decode())])
def test_password(make, tmp_path):
    content = make(FILES, b"se cret")
    path = tmp_path / ("data.zip" if content.startswith(b"PK") else "data.7z")
    path.write_bytes(content)
    with pytest.raises(UserError, match=rf"{path.name}: encrypted; write its password into .*{path.name}\.password"):
        read_all(path)
    password = path.with_name(f"{path.name}.password")
    password.write_text("guess")
    with pytest.raises(UserError, match=rf"{path.name}: wrong password \(.*{path.name}\.password\)"):
        read_all(path)
    password.write_text("se cret\n")
    assert read_all(path) == FILES


def test_a_7z_is_unpacked_once(tmp_path, monkeypatch):
    import py7zr

    unpacked = []
    extract = py7zr.SevenZipFile.extractall
    monkeypatch.setattr(py7zr.SevenZipFile, "extractall", lambda *given: (unpacked.append(1), extract(*given)))
    path = tmp_path / "data.7z"
    path.write_bytes(seven_zip_bytes(FILES))
    assert read_all(path) == read_all(path) == read_all(path.rename(tmp_path / "other.7z")) == FILES and unpacked == [1]
    changed = FILES | {"top/a.txt": b"changed"}
    (tmp_path / "other.7z").write_bytes(seven_zip_bytes(changed))
    assert read_all(tmp_path / "other.7z") == changed and unpacked == [1, 1]
    assert sorted(folder.name.isalnum() for folder in UNPACKED.iterdir()) == [True, True]


def test_7z_without_its_library(tmp_path, monkeypatch):
    (tmp_path / "data.7z").write_bytes(seven_zip_bytes(FILES))
    monkeypatch.setitem(sys.modules, "py7zr", None)
    with pytest.raises(UserError, match=r"needs py7zr; pip install .*, or unpack data\.7z with 7-Zip into the folder"):
        open_source(tmp_path / "data.7z")


def test_names_of_windows(tmp_path):
    with zipfile.ZipFile(tmp_path / "data.zip", "w") as handle:
        for name, content in {"top\\": b"", **FILES}.items():
            info = zipfile.ZipInfo("x")
            info.filename = name.replace("/", "\\")
            handle.writestr(info, content)
    assert read_all(tmp_path / "data.zip") == FILES


def test_names_with_accents(tmp_path):
    """UTF-8 that its writer does not mark, and letters apart from their accents: both as macOS writes."""

    class Unmarked(zipfile.ZipInfo):
        def _encodeFilenameFlags(self):  # noqa: N802
            return self.filename.encode(self.comment.decode()), self.flag_bits

    with zipfile.ZipFile(tmp_path / "data.zip", "w") as handle:
        for stored, encoding in {
            "\u00fc/\u00e9.jpg": "utf-8",
            "u\u0308/o.jpg": "utf-8",
            "\u00fc/a.jpg": "cp437",
        }.items():
            info = Unmarked(stored)
            info.comment = encoding.encode()
            handle.writestr(info, stored)
        handle.writestr("u\u0308/i.jpg", b"")
    assert set(read_all(tmp_path / "data.zip")) == {f"\u00fc/{name}.jpg" for name in ("\u00e9", "o", "a", "i")}
    folder = pack({"u\u0308/e\u0301.jpg": b"x"}, "folder", tmp_path / "data")
    assert read_all(folder) == {"\u00fc/\u00e9.jpg": b"x"}


def test_untouched_archives_two_levels_deep(tmp_path):
    inner = zip_bytes({"original/a.jpg": b"a", "original/original/b.jpg": b"b"})
    middle = tar_gz_bytes({"basic/Image/original.zip": inner, "basic/list.txt": b"l"})
    path = pack({"basic.tar.gz": middle}, "zip", tmp_path / "data")
    with open_source(path) as source:
        assert source.find_all("a.jpg") == ["basic/Image/original/a.jpg"]
        assert source.read("basic/Image/original/original/b.jpg") == b"b" and source.read("basic/list.txt") == b"l"


def test_a_name_that_two_files_have(tmp_path):
    for form in ("zip", "tar"):
        path = pack({"a.txt": b"one"}, form, tmp_path / "data")
        with zipfile.ZipFile(path, "a") if form == "zip" else tarfile.open(path, "a") as handle:
            if form == "zip":
                handle.writestr("./a.txt", b"one")
                assert read_all(path)
                handle.writestr("a.txt", b"two")
            else:
                handle.addfile(tarfile.TarInfo("a.txt"))
        with pytest.raises(UserError, match=rf"data\.{form}: holds 'a.txt' twice, with different content; keep one"):
            open_source(path)


def test_what_is_left_out_has_a_reason(tmp_path):
    files = {"d/a.jpg": b"a", "__MACOSX/d/._a.jpg": b"", "d/.DS_Store": b"", "d/in.zip": b"no zip", "d/two.zip": b""}
    folder = pack(files | {"d/two/b.jpg": b"b"}, "folder", tmp_path / "data")
    (folder / "link").symlink_to("d", target_is_directory=True)
    (folder / "none").symlink_to("nothing")
    os.mkfifo(folder / "pipe")
    with open_source(folder) as source:
        left_out = dict(source.left_out)
        assert "not" not in source.names() and source.names() == ["d/a.jpg", "d/in.zip", "d/two.zip", "d/two/b.jpg"]
        assert "truncated or corrupt" in source.damaged["d/in.zip"]
    assert left_out == {
        "d/in.zip": "archives that cannot be read",
        "__MACOSX/d/._a.jpg": "files of the operating system",
        "d/.DS_Store": "files of the operating system",
        "d/two.zip": "archives that lie beside their unpacked folder",
        "link": "links to folders",
        "none": "links to no file",
        "pipe": "special files",
    }


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["rafdb.rar"], r"holds rafdb\.rar, .*; unpack it with 7-Zip into the folder rafdb/"),
        (["rafdb.part1.rar", "rafdb.part2.rar"], r"holds rafdb\.part1\.rar, .*; unpack it .* folder rafdb/"),
        (["rafdb.zip.001", "rafdb.zip.002"], r"holds rafdb\.zip\.001, .*; join .*: cat rafdb\.zip\.\* > rafdb\.zip"),
        (["rafdb.tar.gz.aa"], r"holds rafdb\.tar\.gz\.aa, .*: cat rafdb\.tar\.gz\.\* > rafdb\.tar\.gz"),
        (["rafdb.zip.001", "rafdb.zip.003"], r"holds rafdb\.zip\.001, .*; its part 2 is missing: get all parts again"),
        (["rafdb.z02"], r"holds rafdb\.z02, .*; its part 1 is missing"),
        (["rafdb.zip.gz"], r"holds rafdb\.zip\.gz, .*; finish its download, or unpack it into the folder rafdb/"),
        (["rafdb.zip.crdownload"], r"holds rafdb\.zip\.crdownload, .*; finish its download"),
        (["rafdb (1).zip"], r"holds rafdb \(1\)\.zip, .*; rename it to rafdb\.zip"),
        (["rafdb_aligned.zip"], r"rafdb: not found in "),
        (["rafdb.z01"], r"holds rafdb\.z01, .*: zip -s 0 rafdb\.zip --out rafdb_whole\.zip"),
        (["RAFDB.ZIP"], r"holds RAFDB\.ZIP, .*; rename it to rafdb\.zip"),
        (["rafdb"], r"holds rafdb, .*; it is a file; give it a name that says so"),
        (["rafdb.zip.password", "other.rar"], r"rafdb: not found in "),
    ],
)
def test_locate_names_what_is_there(names, message, tmp_path):
    for name in names:
        (tmp_path / name).write_bytes(b"x")
    with pytest.raises(UserError, match=message):
        locate(tmp_path, "rafdb")


def test_parts_of_a_split_zip(tmp_path):
    path = pack({"a.txt": b"a"}, "zip", tmp_path / "data")
    path.with_suffix(".z01").write_bytes(b"x")
    with pytest.raises(UserError, match=r"data\.zip: the last part of a split zip; join the parts first: zip -s 0"):
        open_source(path)
    inside = pack({"d/a.zip": zip_bytes(FILES), "d/a.z01": b"x", "d/b.rar": b"y"}, "zip", tmp_path / "outer")
    with open_source(inside) as source, pytest.raises(UserError, match=r"d/a\.zip: the last part of a split zip"):
        source.find("list.txt")
    inside = pack({"d/b.part1.rar": b"y"}, "zip", tmp_path / "outer")
    with (
        open_source(inside) as source,
        pytest.raises(UserError, match=r"holds d/b\.part1\.rar, .*; unpack it .* folder b/"),
    ):
        source.find("list.txt")


def test_damaged_archive_that_nobody_needs(tmp_path):
    path = pack({"good.zip": zip_bytes(FILES), "bad.zip": zip_bytes(FILES)[:-40]}, "zip", tmp_path / "data")
    with open_source(path) as source:
        assert source.read("good/top/a.txt") == FILES["top/a.txt"]
        assert list(source.damaged) == ["bad.zip"]


def headers(kind, number):
    def tar():
        info = tarfile.TarInfo("././@LongLink")
        info.type, info.size = kind, 100
        return (info.tobuf() + b"x" * 512) * number + tarfile.TarInfo("a").tobuf() + bytes(1024)

    return tar


def link_chain():
    def link(number):
        info = tarfile.TarInfo(f"l{number}")
        info.type, info.linkname = tarfile.SYMTYPE, f"l{number + 1}"
        return info.tobuf()

    return b"".join(map(link, range(50_000))) + bytes(1024)


def sparse(size, blocks=0):
    def tar():
        info = tarfile.TarInfo("a.jpg")
        info.type, info.size = tarfile.GNUTYPE_SPARSE, 0
        head = bytearray(info.tobuf())
        head[483:495] = b"%011o\0" % size
        head[482] = bool(blocks)
        head[148:156] = b" " * 8
        head[148:156] = b"%06o\0 " % sum(head)
        more = bytearray(512)
        more[:504] = b"%011o\0%011o\0" % (1, 1) * 21
        more[504] = 1
        return bytes(head) + bytes(more) * blocks + bytes(1024)

    return tar


HOSTILE = {
    "nested long names": ("tar", headers(tarfile.GNUTYPE_LONGNAME, 5000)),
    "nested pax headers": ("tar", headers(tarfile.XHDTYPE, 5000)),
    "chain of links": ("tar", link_chain),
    "sparse": ("tar", sparse(1 << 32)),
    "sparse map without end": ("tar", sparse(1000, 400_000)),
    "bad name": ("zip", lambda: zip_bytes({"ü.jpg": b"a"}).replace("ü".encode(), b"\xff\xfe")),
    "inner archives": ("zip", lambda: zip_bytes({f"{n}.zip": zip_bytes({"a": b"a"}) for n in range(1500)})),
    "deep": ("zip", lambda: zip_bytes({"d/" * 1000 + f"{n}.txt": b"a" for n in range(100)})),
    "deep tar": ("tar.gz", lambda: tar_gz_bytes({"d/" * 1000 + "a.txt": b"a"})),
    "zip in zip in zip": ("zip", lambda: nested(9)),
}


def nested(levels):
    return zip_bytes({"a.zip": nested(levels - 1)}) if levels else zip_bytes({"a.txt": bytes(60 << 20)})


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_archives_are_one_line_soon(name, tmp_path):
    form, make = HOSTILE[name]
    path = tmp_path / f"data.{form}"
    path.write_bytes(make())
    start, before = time.process_time(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    try:
        with open_source(path) as source:
            source.find("list.txt")
    except UserError as error:
        assert str(path) in str(error) and "\n" not in str(error) and len(str(error)) < 3000
        str(error).encode()
    assert time.process_time() - start < 10
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 500_000, "kilobytes"


def test_names_that_are_no_text(tmp_path):
    folder = pack({"d/a.txt": b"a"}, "folder", tmp_path / "data")
    (folder / "d" / os.fsdecode(b"\xff.txt")).write_bytes(b"b")
    assert read_all(folder) == {"d/a.txt": b"a", "d/\\udcff.txt": b"b"}
