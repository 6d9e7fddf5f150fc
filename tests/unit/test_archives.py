import gzip
import os
import tarfile
import tracemalloc
import zipfile

import numpy as np
import pytest
from archives import FORMS, encrypted_zip_bytes, pack, tar_gz_bytes, zip_bytes

from transfer.datasets import archives
from transfer.datasets.archives import locate, open_source
from transfer.datasets.text import csv_rows, split_path, text_lines
from transfer.utils.errors import UserError

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

    monkeypatch.setattr(gzip.GzipFile, "seek", watched)
    with open_source(pack(files, "tar.gz", tmp_path / "data")) as source:
        offsets.clear()
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


HTML = b"\n <!DOCTYPE html><title>Sign in</title>" + b"x" * 2000
KINDS = {
    "html": (HTML, "an HTML page"),
    "zip": (zip_bytes({"a.txt": b"a"}), "a zip archive"),
    "tar.gz": (tar_gz_bytes({"a.txt": b"a"}), "a gzip file"),
    "tar": (gzip.decompress(tar_gz_bytes({"a.txt": b"a"})), "a tar archive"),
    "rar": (b"Rar!\x1a\x07\x01\x00" + bytes(2000), "a RAR archive"),
    "pdf": (b"%PDF-1.7" + bytes(2000), "a PDF document"),
}


@pytest.mark.parametrize(
    ("content", "name", "remedy"),
    [
        ("html", "zip", "the download returned a login or error page"),
        ("html", "tar.gz", "the download returned a login or error page"),
        ("rar", "zip", "unpack data.zip with 7-Zip into the folder data/"),
        ("zip", "tar.gz", r"rename it to data\.zip"),
        ("tar", "tar.gz", r"rename it to data\.tar"),
        ("tar", "tgz", r"rename it to data\.tar"),
        ("tar.gz", "tar", r"rename it to data\.tar\.gz"),
        ("tar.gz", "zip", r"rename it to data\.tar\.gz"),
        ("pdf", "tar", "download it again"),
    ],
)
def test_name_that_lies(content, name, remedy, tmp_path):
    path = tmp_path / f"data.{name}"
    path.write_bytes(KINDS[content][0])
    with pytest.raises(UserError, match=rf"data\.{name}: is {KINDS[content][1]}, not .*; {remedy}"):
        open_source(path)


@pytest.mark.parametrize("form", ["zip", "tar", "tar.gz"])
def test_what_nothing_is_known_of(form, tmp_path):
    path = tmp_path / f"data.{form}"
    path.write_bytes(b"who knows" * 100)
    with pytest.raises(UserError, match="truncated or corrupt"):
        open_source(path)


SECRETS = {"d/a.txt": b"ay" * 500, "d/b.txt": np.random.default_rng(1).bytes(3000), "d/empty": b""}


@pytest.fixture
def encrypted(tmp_path):
    path = tmp_path / "data.zip"
    path.write_bytes(encrypted_zip_bytes(SECRETS, b"se cret"))
    return path


@pytest.mark.parametrize("text", ["se cret", "se cret\n", "\ufeffse cret\r\n"])
def test_encrypted_zip(text, encrypted):
    encrypted.with_name("data.zip.password").write_text(text, newline="")
    assert read_all(encrypted) == SECRETS


def test_encrypted_zip_without_password(encrypted):
    with pytest.raises(
        UserError, match=r"data\.zip: encrypted; write its password into .*data\.zip\.password, or"
    ) as error:
        open_source(encrypted)
    assert "\n" not in str(error.value)


def test_every_wrong_password_is_noticed_on_opening(encrypted):
    """One of 256 passes the check that the format has: a thousand would show it."""
    for number in range(1000):
        encrypted.with_name("data.zip.password").write_text(f"guess{number}")
        with pytest.raises(UserError, match=r"wrong password \(.*data\.zip\.password\)"):
            open_source(encrypted)


@pytest.mark.parametrize("text", ["", "\n", "two\nlines\n"])
def test_password_is_one_line(text, encrypted):
    encrypted.with_name("data.zip.password").write_text(text)
    with pytest.raises(UserError, match=r"data\.zip\.password: expected one line"):
        open_source(encrypted)


def test_member_with_another_password(encrypted):
    content = encrypted.read_bytes()
    other = encrypted_zip_bytes(SECRETS, b"other")
    at = content.index(b"PK\3\4", 4)  # from the second member on the content is another one's
    encrypted.write_bytes(content[:at] + other[at:])
    encrypted.with_name("data.zip.password").write_text("se cret")
    with pytest.raises(UserError, match=r"data\.zip"):
        read_all(encrypted)


def test_strong_encryption_is_not_read(encrypted):
    content = bytearray(encrypted.read_bytes())
    content[content.index(b"PK\1\2") + 8] |= 0x40
    encrypted.write_bytes(content)
    with pytest.raises(UserError, match=r"data\.zip: .*strongly encrypted, .* 7-Zip into the folder data/"):
        open_source(encrypted)


INNER = {"train_1.jpg": b"one", "train_2.jpg": b"two"}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("top", ["", "original/"])
@pytest.mark.parametrize("make", [zip_bytes, tar_gz_bytes])
def test_archive_inside_is_read_as_if_unpacked_there(form, top, make, tmp_path):
    name = "original.zip" if make is zip_bytes else "original.tar.gz"
    inner = make({f"{top}{name}": content for name, content in INNER.items()})
    files = {"basic/list.txt": b"l", f"basic/Image/{name}": inner}
    found = read_all(pack(files, form, tmp_path / "data"))
    assert found == files | {f"basic/Image/original/{name}": content for name, content in INNER.items()}


def test_archive_inside_that_has_been_unpacked_is_left_alone(tmp_path):
    files = {"Image/original.zip": b"not even a zip", "Image/original/train_1.jpg": b"unpacked"}
    assert read_all(pack(files, "folder", tmp_path / "data")) == files


@pytest.mark.parametrize("form", ["folder", "zip"])
def test_archive_inside_may_have_the_password(form, tmp_path):
    path = pack({"Image/original.zip": encrypted_zip_bytes(SECRETS, b"pw")}, form, tmp_path / "data")
    message = rf"{path.name}/Image/original\.zip: encrypted; write its password into .*{path.name}\.password"
    with open_source(path) as source, pytest.raises(UserError, match=message):
        source.find("a.txt")
    path.with_name(f"{path.name}.password").write_text("pw\n")
    found = read_all(path)
    assert {name: found[f"Image/original/{name}"] for name in SECRETS} == SECRETS


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    ("inner", "message"),
    [
        (HTML, "is an HTML page, not a zip archive"),
        (zip_bytes(INNER)[:-30], "truncated or corrupt"),
        (zip_bytes({"../out.txt": b""}), "leaves the dataset's folder"),
        (zip_bytes({"zeros": bytes(80 << 20)}), "refused as a zip bomb"),
    ],
)
def test_bad_archive_inside_is_named(form, inner, message, tmp_path):
    path = pack({"a/original.zip": inner}, form, tmp_path / "data")
    with open_source(path) as source:
        assert list(source.left_out) == ["a/original.zip"] and source.names() == ["a/original.zip"]
        for read in (lambda: source.find("train_1.jpg"), lambda: source.require("a/original/")):
            with pytest.raises(UserError, match=rf"data.*/a/original\.zip: .*{message}"):
                read()
        source.require("b/")


def test_copy_of_an_archive_inside_needs_room(tmp_path, monkeypatch):
    path = pack({"original.zip": zip_bytes(INNER)}, "zip", tmp_path / "data")
    monkeypatch.setattr("shutil.disk_usage", lambda _: type("Usage", (), {"free": 10}))
    message = r"data\.zip: 'original\.zip' has \d+ bytes, .* unpack data\.zip with 7-Zip into"
    with open_source(path) as source, pytest.raises(UserError, match=message):
        source.find("train_1.jpg")


ZEROS = bytes(80 << 20)


@pytest.mark.parametrize("form", ["zip", "tar.gz"])
def test_bomb_is_refused_before_it_is_unpacked(form, tmp_path, monkeypatch):
    path = pack({"zeros.jpg": ZEROS}, form, tmp_path / "data")
    limit = archives.MAX_RATIO * path.stat().st_size + archives.FREE
    assert limit < len(ZEROS)
    unpacked = []
    read = gzip.GzipFile.read
    monkeypatch.setattr(gzip.GzipFile, "read", lambda self, size: unpacked.append(size) or read(self, size))
    with pytest.raises(UserError, match=rf"data\.{form}: [\d,]+ bytes unpack to 83,886,080 or more, .* zip bomb"):
        open_source(path)
    assert sum(unpacked) < 10_000


def test_files_that_are_read_into_memory_are_bounded(tmp_path, monkeypatch):
    monkeypatch.setattr(archives, "MAX_FILE", 1 << 16)
    with open_source(pack(FILES, "folder", tmp_path / "data")) as source:
        assert source.read("top/a.txt") == b"ay"
        with pytest.raises(UserError, match=r"data: 'top/deep/noise\.bin' has 70,000 bytes; the limit is"):
            source.read("top/deep/noise.bin")


def test_zeros_after_the_end_of_a_tar_are_bounded(tmp_path):
    path = tmp_path / "data.tar.gz"
    path.write_bytes(gzip.compress(gzip.decompress(tar_gz_bytes({"a.txt": b"a"})) + ZEROS))
    with pytest.raises(UserError, match="refused as a zip bomb"):
        open_source(path)


def test_tar_header_that_announces_a_long_name(tmp_path):
    info = tarfile.TarInfo("././@LongLink")
    info.type, info.size = tarfile.GNUTYPE_LONGNAME, 60 << 20
    path = tmp_path / "data.tar.gz"
    path.write_bytes(gzip.compress(info.tobuf() + b"x" * info.size))
    with pytest.raises(UserError, match=r"truncated or corrupt; .*a header of more than 1,048,576 bytes"):
        open_source(path)


def test_member_that_yields_more_than_it_declares(tmp_path):
    content = bytearray(zip_bytes({"a.jpg": ZEROS}))
    size = len(ZEROS).to_bytes(4, "little")
    assert content.count(size) == 2
    path = tmp_path / "data.zip"
    path.write_bytes(content.replace(size, (1000).to_bytes(4, "little")))
    with open_source(path) as source:
        tracemalloc.start()
        with pytest.raises(UserError, match=r"data\.zip: truncated or corrupt"):
            source.read("a.jpg")
        assert tracemalloc.get_traced_memory()[1] < 2 << 20
        tracemalloc.stop()


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_methods_that_unpack_without_bound(method, tmp_path):
    path = tmp_path / "data.zip"
    path.write_bytes(zip_bytes(FILES, method))
    assert read_all(path) == FILES
    content = bytearray(zip_bytes({"a.jpg": ZEROS}, method))
    path.write_bytes(content.replace(len(ZEROS).to_bytes(4, "little"), (1000).to_bytes(4, "little")))
    with open_source(path) as source:
        tracemalloc.start()
        with pytest.raises(UserError, match=r"data\.zip: truncated or corrupt"):
            source.read("a.jpg")
        assert tracemalloc.get_traced_memory()[1] < 200 << 20
        tracemalloc.stop()


def test_zip_method_that_nobody_here_reads(tmp_path):
    path = pack({"a.txt": b"a"}, "zip", tmp_path / "data")
    content = bytearray(path.read_bytes())
    content[content.index(b"PK\x01\x02") + 10] = 98  # PPMd
    path.write_bytes(content)
    with pytest.raises(UserError, match="'a.txt' is compressed by method 98, .* into the folder data/"):
        open_source(path)


def test_locate(tmp_path):
    with pytest.raises(UserError) as error:
        locate(tmp_path, "rafdb")
    assert str(error.value) == (
        f"rafdb: not found in {tmp_path} (looked for rafdb/, rafdb.zip, rafdb.tar, rafdb.tar.gz, "
        "rafdb.tgz, rafdb.tar.bz2, rafdb.tar.xz, rafdb.7z)"
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
    assert text_lines("l.txt", "\ufeffä\n".encode("utf-16-le")) == ["ä"]
    with pytest.raises(UserError, match=r"l\.txt: not a UTF-8 text file"):
        text_lines("l.txt", b"\xff\xfd")
    assert list(csv_rows("l.csv", "\ufeffa;ä\n1;2\n".encode("utf-16-be"))) == [(1, ["a", "ä"]), (2, ["1", "2"])]
    assert list(csv_rows("l.csv", b"a\tb\n1\t2,3\n")) == [(1, ["a", "b"]), (2, ["1", "2,3"])]
    rows = list(csv_rows("l.csv", b'\xef\xbb\xbfa, b\r\n\r\n"c,d",e\n'))
    assert rows == [(1, ["a", "b"]), (3, ["c,d", "e"])]
    with pytest.raises(UserError, match=r"l\.csv, line 2: not a csv file"):
        list(csv_rows("l.csv", b"a\n" + b"x" * 200_000 + b"\n"))
    with pytest.raises(UserError, match=r"l\.csv: not a UTF-8 csv file"):
        list(csv_rows("l.csv", b"a\n\xff\xfe\n"))
    for kind, what in KINDS.values():
        for read in (text_lines, csv_rows):
            with pytest.raises(UserError, match=f"l: is {what}, not a text file; get the file again"):
                list(read("l", kind))


def test_split_path():
    assert split_path("d/fer2013.csv#17") == ("d/fer2013.csv", 17)
    assert split_path("d/a#17.png") == ("d/a#17.png", None)
    assert split_path("d/a.csv#x") == ("d/a.csv#x", None)
    assert split_path("d/a.csv") == ("d/a.csv", None)
