import gzip
import os
import tarfile
import zipfile

import numpy as np
import pytest
from archives import FORMS, pack

from transfer.datasets.source import csv_rows, locate, open_source, split_path, text_lines
from transfer.errors import UserError

FILES = {
    "top/b.txt": b"bee",
    "top/deep/a.csv": b"1,2\n",
    "top/deep/noise.bin": np.random.default_rng(0).bytes(70_000),
    "top/a.txt": b"ay",
}


@pytest.fixture(params=FORMS)
def source(request, tmp_path):
    with open_source(pack(FILES, request.param, tmp_path / "data")) as source:
        yield source


def test_all_storage_forms_hold_the_same(source):
    assert source.names() == sorted(FILES)
    assert {name: source.read(name) for name in source.names()} == FILES
    assert "top/a.txt" in source and "a.txt" not in source
    assert dict(source.stream(["top/a.txt", "top/b.txt"])) == {"top/a.txt": b"ay", "top/b.txt": b"bee"}
    assert list(source.stream([])) == []


def test_absent_member_is_named(source):
    with pytest.raises(UserError, match=r"data.*: holds no top/c\.txt"):
        source.read("top/c.txt")


def test_find_under_a_top_folder(source):
    assert source.find("deep/a.csv") == source.find("a.csv") == source.find("top/deep/a.csv") == "top/deep/a.csv"
    assert source.find_all("txt") == []
    with pytest.raises(UserError, match=r"holds no eep/a\.csv"):
        source.find("eep/a.csv")


def test_find_wants_one(tmp_path):
    source = open_source(pack({"x/l.txt": b"", "y/l.txt": b""}, "folder", tmp_path / "data"))
    with pytest.raises(UserError, match=r"l\.txt 2 times \(x/l\.txt, y/l\.txt\)"):
        source.find("l.txt")


def test_tar_gz_is_streamed_in_stored_order_and_read_once(tmp_path, monkeypatch):
    files = {f"{i:02d}": np.random.default_rng(i).bytes(50_000) for i in (3, 1, 2, 0, 4)}
    offsets = []
    seek = gzip.GzipFile.seek

    def watched(self, offset, whence=0):
        offsets.append(offset)
        return seek(self, offset, whence)

    with open_source(pack(files, "tar.gz", tmp_path / "data")) as source:
        monkeypatch.setattr(gzip.GzipFile, "seek", watched)
        assert [name for name, _ in source.stream(sorted(files))] == ["03", "01", "02", "00", "04"]
    assert offsets == sorted(offsets) and len(offsets) >= len(files)  # never back: that would unpack it all again


@pytest.mark.parametrize("form", FORMS)
def test_macos_leftovers_are_not_listed(form, tmp_path):
    files = {"d/a.txt": b"a", "__MACOSX/d/._a.txt": b"x", "d/._a.txt": b"x"}
    with open_source(pack(files, form, tmp_path / "data")) as source:
        assert source.names() == ["d/a.txt"]


def test_dot_slash_names_are_normalised(tmp_path):
    with open_source(pack({"./d/a.txt": b"a"}, "tar", tmp_path / "data")) as source:
        assert source.read("d/a.txt") == b"a"


@pytest.mark.parametrize("form", ["zip", "tar", "tar.gz"])
@pytest.mark.parametrize("name", ["../out.txt", "a/../../out.txt", "/out.txt", "..\\out.txt", "C:\\out.txt"])
def test_members_that_leave_the_folder_are_refused(form, name, tmp_path):
    path = pack({"a.txt": b"a", name: b"x"}, form, tmp_path / "data")
    with pytest.raises(UserError, match="leaves the dataset's folder; refused") as error:
        open_source(path)
    assert repr(name) in str(error.value)
    assert os.listdir(tmp_path) == [path.name]


def add_link(path, name, target, kind=tarfile.SYMTYPE):
    with tarfile.open(path, "a") as handle:
        info = tarfile.TarInfo(name)
        info.type, info.linkname = kind, target
        handle.addfile(info)


@pytest.mark.parametrize(
    ("name", "target", "kind"),
    [
        ("d/l", "/etc/passwd", tarfile.SYMTYPE),
        ("d/l", "../../x", tarfile.SYMTYPE),
        ("d/l", "../x", tarfile.LNKTYPE),
        ("d/l", "/etc/passwd", tarfile.LNKTYPE),
    ],
)
def test_tar_links_that_leave_are_refused(name, target, kind, tmp_path):
    path = pack({"d/a.txt": b"a"}, "tar", tmp_path / "data")
    add_link(path, name, target, kind)
    with pytest.raises(UserError, match="link 'd/l' leaves the dataset's folder; refused"):
        open_source(path)


def test_tar_links_inside_are_files(tmp_path):
    path = pack({"d/a.txt": b"a"}, "tar", tmp_path / "data")
    add_link(path, "e/soft", "../d/a.txt")
    add_link(path, "e/chain", "soft")
    add_link(path, "hard", "d/a.txt", tarfile.LNKTYPE)
    add_link(path, "loop", "loop")
    add_link(path, "dangling", "nothing")
    with open_source(path) as source:
        assert source.names() == ["d/a.txt", "e/chain", "e/soft", "hard"]
        assert {content for _, content in source.stream(source.names())} == {b"a"}


@pytest.mark.parametrize(("target", "inside"), [("a.txt", True), ("../../x", False), ("/etc/passwd", False)])
def test_zip_links(target, inside, tmp_path):
    path = pack({"d/a.txt": b"a"}, "zip", tmp_path / "data")
    with zipfile.ZipFile(path, "a") as handle:
        info = zipfile.ZipInfo("d/l")
        info.create_system, info.external_attr = 3, 0o120777 << 16
        handle.writestr(info, target)
    if inside:
        with open_source(path) as source:
            assert source.read("d/l") == b"a"
    else:
        with pytest.raises(UserError, match="link 'd/l' leaves"):
            open_source(path)


def test_folder_links(tmp_path):
    folder = pack({"d/a.txt": b"a"}, "folder", tmp_path / "data")
    (tmp_path / "linked").symlink_to(folder, target_is_directory=True)
    (folder / "soft").symlink_to("d/a.txt")
    with open_source(tmp_path / "linked") as source:
        assert source.names() == ["d/a.txt", "soft"]
        assert source.read("soft") == b"a"
    (tmp_path / "secret").write_bytes(b"x")
    (folder / "d" / "l").symlink_to("../../secret")
    with pytest.raises(UserError, match="link 'd/l' leaves"):
        open_source(folder)
    (folder / "d" / "l").unlink()
    (folder / "m").symlink_to(tmp_path, target_is_directory=True)
    with pytest.raises(UserError, match="link 'm' leaves"):
        open_source(folder)


def read_all(path):
    with open_source(path) as source:
        return dict(source.stream(source.names()))


@pytest.mark.parametrize("form", ["zip", "tar", "tar.gz"])
def test_every_truncation_is_noticed(form, tmp_path):
    whole = pack(FILES, form, tmp_path / "data")
    content = whole.read_bytes()
    # A tar ends with zeros up to a multiple of 10,240 bytes; losing some of these loses nothing.
    end = len(content) if form != "tar" else 512 * (4 + 1 + 1 + 137 + 1) + 511
    cuts = {0, 1, 511, 512, 1023, 1024, end - 1, *np.linspace(2, end - 2, 40).astype(int)}
    for cut in sorted(cuts):
        path = tmp_path / f"cut.{form}"
        path.write_bytes(content[:cut])
        with pytest.raises(UserError, match=rf"cut\.{form}: truncated or corrupt; download it again") as error:
            read_all(path)
        assert "\n" not in str(error.value)


@pytest.mark.parametrize("form", ["zip", "tar.gz"])
def test_flipped_bytes_are_noticed(form, tmp_path):
    content = bytearray(pack(FILES, form, tmp_path / "data").read_bytes())
    middle = len(content) // 2
    content[middle] ^= 0xFF
    path = tmp_path / f"bad.{form}"
    path.write_bytes(content)
    with pytest.raises(UserError, match="truncated or corrupt"):
        read_all(path)


@pytest.mark.parametrize("form", ["zip", "tar", "tar.gz", "tgz"])
def test_name_that_lies(form, tmp_path):
    path = tmp_path / f"data.{form}"
    path.write_bytes(b"<html>404 not found</html>" * 100)
    with pytest.raises(UserError, match="truncated or corrupt"):
        open_source(path)


def test_encrypted_zip(tmp_path):
    path = pack({"a.txt": b"a"}, "zip", tmp_path / "data")
    content = bytearray(path.read_bytes())
    content[6] |= 1  # the encryption flag, in the local header and in the central directory
    content[content.index(b"PK\x01\x02") + 8] |= 1
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"data\.zip: encrypted; unpack it .* folder data/"):
        open_source(path)


def test_zip_method_that_python_lacks(tmp_path):
    path = pack({"a.txt": b"a"}, "zip", tmp_path / "data")
    content = bytearray(path.read_bytes())
    content[content.index(b"PK\x01\x02") + 10] = 9  # Deflate64, which Windows uses above 2 GB
    path.write_bytes(content)
    with pytest.raises(UserError, match="'a.txt' is compressed by method 9"):
        open_source(path)


def test_locate(tmp_path):
    with pytest.raises(UserError) as error:
        locate(tmp_path, "rafdb")
    assert str(error.value) == (
        f"rafdb: not found in {tmp_path} (looked for rafdb/, rafdb.zip, rafdb.tar, rafdb.tar.gz, rafdb.tgz)"
    )
    (tmp_path / "rafdb").write_bytes(b"")  # neither a folder nor an archive
    (tmp_path / "rafdb.tgz").write_bytes(b"")
    assert locate(tmp_path, "rafdb") == locate(tmp_path, "rafdb.tgz") == tmp_path / "rafdb.tgz"
    (tmp_path / "rafdb.zip").write_bytes(b"")
    assert locate(tmp_path, "rafdb") == tmp_path / "rafdb.zip"
    with pytest.raises(UserError, match=r"rafdb\.tar: not found .* \(looked for rafdb\.tar\)"):
        locate(tmp_path, "rafdb.tar")
    (tmp_path / "rafdb").unlink()
    (tmp_path / "rafdb").mkdir()
    assert locate(tmp_path, "rafdb") == tmp_path / "rafdb"
    with pytest.raises(UserError, match="not found"):
        locate(tmp_path / "nowhere", "rafdb")


def test_unknown_kind_of_file(tmp_path):
    (tmp_path / "data.rar").write_bytes(b"Rar!")
    with pytest.raises(UserError, match="neither a folder nor"):
        open_source(tmp_path / "data.rar")


def test_text_helpers():
    assert text_lines("l.txt", b"\xef\xbb\xbfa\r\nb\n") == ["a", "b"]
    with pytest.raises(UserError, match=r"l\.txt: not a UTF-8 text file"):
        text_lines("l.txt", b"\xff\xfe")
    rows = list(csv_rows("l.csv", b'\xef\xbb\xbfa, b\r\n\r\n"c,d",e\n'))
    assert rows == [(1, ["a", "b"]), (3, ["c,d", "e"])]
    with pytest.raises(UserError, match=r"l\.csv, line 2: not a csv file"):
        list(csv_rows("l.csv", b"a\n" + b"x" * 200_000 + b"\n"))
    with pytest.raises(UserError, match=r"l\.csv: not a UTF-8 csv file"):
        list(csv_rows("l.csv", b"a\n\xff\xfe\n"))


def test_split_path():
    assert split_path("d/fer2013.csv#17") == ("d/fer2013.csv", 17)
    assert split_path("d/a#17.png") == ("d/a#17.png", None)
    assert split_path("d/a.csv") == ("d/a.csv", None)
