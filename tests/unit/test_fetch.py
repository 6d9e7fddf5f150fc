import contextlib
import hashlib
import json
import os
import random
import resource
import sys
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from file_server import FileServer, cut, hold, instead, status

from transfer import cli
from transfer.sources import fetch as module
from transfer.sources import table as sources
from transfer.sources.fetch import check, download, fetch, fetch_file, is_there
from transfer.sources.table import SourceEntry, SourceFile
from transfer.utils.errors import UserError, message

ROOT = Path(__file__).parents[2]
CONTENT = random.Random(1).randbytes(5000)
SHA256 = hashlib.sha256(CONTENT).hexdigest()
PATH = "weights/w-of me.bin"


@pytest.fixture(autouse=True)
def directory(tmp_path, monkeypatch):
    for name in list(os.environ):
        if name.lower().endswith("_proxy") or name == "TRANSFER_MIRROR":
            monkeypatch.delenv(name)
    (tmp_path / "params").mkdir()
    for name in ("default.yaml", "sources.yaml"):
        (tmp_path / "params" / name).write_bytes((ROOT / "params" / name).read_bytes())
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(autouse=True)
def waits(monkeypatch):
    """The waits between attempts, noted instead of being waited for."""
    waited = []
    monkeypatch.setattr(module.time, "sleep", waited.append)
    return waited


@pytest.fixture
def server():
    with FileServer({PATH.replace(" ", "%20"): CONTENT}) as running:
        yield running


def entry(how="download", archive=None, path=PATH, **file):
    url = "https://example.org/w" if how == "download" else None
    return SourceEntry(
        kind="weights",
        how=how,
        title="a title",
        page="https://example.org",
        licence="a licence",
        citation="a citation",
        ask="" if how == "download" else f"put it to RAW_DIR/{path}",
        archive=archive,
        files=[SourceFile(path=path, url=url, **file)],
        checked="nowhere",
    )


def done(entry, server, name="w"):
    return list(fetch(name, entry, Path("raw"), mirror=f"{server.url}/"))


def locked():
    return json.loads(module.LOCK.read_text())


def test_a_known_checksum_is_compared_and_not_recorded(server):
    wanted = entry(sha256=SHA256, size=5000)
    assert done(wanted, server) == [f"raw/{PATH}: downloaded, sha256 {SHA256[:12]}... as in params/sources.yaml"]
    assert done(wanted, server) == [f"raw/{PATH}: present, sha256 {SHA256[:12]}... as in params/sources.yaml"]
    assert len(server.requests) == 1
    assert not module.LOCK.exists()


def test_the_first_checksum_is_recorded_and_later_ones_have_to_agree(server):
    module.LOCK.write_text('{"a": "b"}')
    wanted = entry()
    assert done(wanted, server)[0].endswith("recorded in params/sources.lock.json")
    assert locked() == {"a": "b", PATH: SHA256}
    assert done(wanted, server)[0].endswith("as in params/sources.lock.json")
    (Path("raw") / PATH).unlink()
    assert done(wanted, server)[0].endswith("as in params/sources.lock.json")
    (Path("raw") / PATH).unlink()
    server.files = {PATH.replace(" ", "%20"): bytes(5000)}
    with pytest.raises(UserError, match=f"w-of me.bin: sha256 is .*; first seen as {SHA256} ") as error:
        done(wanted, server)
    assert ".part" not in str(error.value) and "\n" not in str(error.value)
    assert not (Path("raw") / PATH).exists()
    assert locked() == {"a": "b", PATH: SHA256}


@pytest.mark.parametrize("content", ["{", "[]"])
def test_a_broken_lock_file_is_one_line(server, content):
    module.LOCK.write_text(content)
    with pytest.raises(UserError, match="params/sources.lock.json: "):
        done(entry(), server)
    assert not server.requests


@pytest.mark.parametrize(
    ("known", "message"),
    [
        ({"sha256": "0" * 64}, f"sha256 is {SHA256}; expected 0000"),
        ({"sha256_prefix": "0" * 8}, f"sha256 is {SHA256}; expected 00000000 "),
        ({"md5": "0" * 32}, f"md5 is {hashlib.md5(CONTENT).hexdigest()}; expected 0000"),
        ({"size": 5001}, "5,000 bytes"),
    ],
)
@pytest.mark.parametrize("by_hand", [False, True])
def test_what_is_not_the_expected_file_is_refused(server, known, message, by_hand):
    path = Path("raw") / PATH
    if by_hand:
        path.parent.mkdir(parents=True)
        path.write_bytes(CONTENT)
    with pytest.raises(UserError, match=message):
        done(entry(**known), server)
    assert path.exists() == by_hand, "what was put there by hand stays"
    assert not module.LOCK.exists()


def test_what_is_the_expected_file_passes(directory):
    path = directory / "file"
    path.write_bytes(CONTENT)
    known = {"sha256_prefix": SHA256[:9], "md5": hashlib.md5(CONTENT).hexdigest(), "size": 5000}
    assert check(SourceFile(path="file", **known), path) == SHA256
    assert check(SourceFile(path="file", sha256=SHA256), path) == SHA256


def test_a_saved_web_page_is_not_a_weight_file(directory):
    path = directory / "file.pth"
    path.write_bytes(b"<!DOCTYPE html><title>Google Drive - Quota exceeded</title>")
    with pytest.raises(UserError, match="file.pth: a web page instead of the file"):
        check(SourceFile(path="file.pth"), path)


def test_without_a_mirror_the_own_address_is_asked(monkeypatch):
    asked = []
    monkeypatch.setattr(module, "download", lambda url, path, *_: asked.append(url) or path.write_bytes(CONTENT))
    Path("raw/weights").mkdir(parents=True)
    fetch_file(entry(), entry().files[0], Path("raw"))
    assert asked == ["https://example.org/w"]


def test_a_file_that_is_asked_for_by_hand_is_not_downloaded(server):
    with pytest.raises(UserError, match=r"raw/weights/w-of me.bin: missing, .*https://example.org: put it to raw/w"):
        done(entry(how="manual"), server)
    assert not server.requests


def test_a_file_beside_a_packed_dataset_is_not_downloaded(server):
    Path("raw").mkdir()
    Path("raw/ferplus.tar.gz").write_bytes(b"")
    wanted = entry(archive="ferplus", path="ferplus/votes.csv")
    assert is_there(wanted, Path("raw"))
    assert done(wanted, server) == ["w: raw/ferplus.tar.gz is present; nothing to fetch"]
    with pytest.raises(UserError, match="its folder would be read instead of raw/ferplus.tar.gz"):
        fetch_file(wanted, wanted.files[0], Path("raw"))
    Path("raw/ferplus").mkdir()
    assert not is_there(wanted, Path("raw"))


@pytest.fixture
def transfer(monkeypatch, capsys):
    """Run ``transfer fetch`` in this process: exit code, stdout, stderr."""

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["transfer", "fetch", *arguments])
        monkeypatch.setenv("COLUMNS", "200")
        with pytest.raises(SystemExit) as end:
            cli.main()
        return (end.value.code or 0, *capsys.readouterr())

    return run


def test_the_list_says_what_is_there(transfer):
    lists = Path("data/raw/challenge_lists/RAF_DB_dir")
    lists.mkdir(parents=True)
    (lists / "val_raf_db_list.txt").write_text("")
    Path("data/raw/affectnet.zip").write_text("")
    code, out, err = transfer()
    assert (code, err) == (0, "")
    assert out == transfer("--list", "rafdb")[1]
    rows = {line.split()[0]: line for line in out.splitlines()[1:]}
    assert list(rows) == list(sources.load())
    for name, state in {"ran_rafdb": "1 of 3", "affectnet": "yes", "ferplus_votes": "no", "rafdb": "no"}.items():
        assert f" {state} " in rows[name]
    assert "1,602,762" in rows["ferplus_votes"]
    assert " ? " in rows["vit_small_p16_224"]


def test_what_has_to_be_asked_for_is_explained(transfer):
    code, out, err = transfer("rafdb", "fer2013", "--set", "raw_dir=my raw")
    assert code == 1
    assert err == "error: missing; must be obtained manually (see instructions above): rafdb, fer2013\n"
    assert "rafdb is missing and must be downloaded manually:\n" in out
    assert "http://www.whdeng.cn/RAF/model1.html" in out
    assert "my raw/rafdb/" in " ".join(out.split())
    assert "RAW_DIR" not in out
    Path("my raw/rafdb").mkdir(parents=True)
    code, out, err = transfer("rafdb", "--set", "raw_dir=my raw")
    assert (code, out, err) == (0, "rafdb: my raw/rafdb is present\n", "")


def test_unknown_names_are_refused_before_anything(transfer, server, monkeypatch):
    monkeypatch.setenv("TRANSFER_MIRROR", server.url)
    code, out, err = transfer("ran_rafdb", "nope")
    assert (code, out) == (1, "")
    assert "no source 'nope'; allowed: rafdb, " in err
    assert not server.requests


def shortened(path="params/sources.yaml"):
    """Make the repository's table one of two small lists and a dataset; their contents by path."""
    table = yaml.safe_load(Path(path).read_text())["sources"]
    table = {name: table[name] for name in ("ran_rafdb", "vit_small_p16_224", "rafdb")}
    contents = {}
    for name in ("ran_rafdb", "vit_small_p16_224"):
        for number, file in enumerate(table[name]["files"]):
            contents[file["path"]] = f"{name} {number}".encode()
            for key in ("size", "sha256", "sha256_prefix"):
                file.pop(key, None)
    Path(path).write_text(yaml.safe_dump({"sources": table}))
    return contents


def test_all_fetches_what_may_be_downloaded(transfer):
    contents = shortened()
    with FileServer(contents) as server:
        code, out, err = transfer("--all", "--mirror", server.url)
        assert code == 0, err
        for path, content in contents.items():
            assert (Path("data/raw") / path).read_bytes() == content
        assert len(out.splitlines()) == 4
        assert set(locked()) == set(contents)
        path = "weights/vit_small_p16_224-15ec54c9.pth"
        code, out, err = transfer(path, "--mirror", server.url)
        assert (code, len(out.splitlines())) == (0, 1)
        assert out.startswith(f"data/raw/{path}: present, ")
        assert len(server.requests) == 4


def test_a_failed_file_leaves_those_before_it(transfer):
    contents = shortened()
    with FileServer(contents) as server:
        server.script = [instead(b"first"), instead(b"<html>")]
        code, out, err = transfer("ran_rafdb", "--mirror", server.url)
    assert code == 1
    assert len(out.splitlines()) == 1
    assert err.splitlines()[-1].startswith("error: data/raw/challenge_lists")
    assert "a web page" in err
    assert len(locked()) == 1


BIG = random.Random(0).randbytes(1_000_000)
TARGET = Path("raw/a.bin")


def get(server, path="a.bin", content=BIG, **options):
    server.files["a.bin"] = content
    download(f"{server.url}/{path}", TARGET, lambda part: None, **options)


def left():
    return sorted(path.name for path in TARGET.parent.iterdir())


def test_a_download_is_whole_or_absent(server):
    get(server)
    assert TARGET.read_bytes() == BIG and left() == ["a.bin"]
    mask = os.umask(0)
    os.umask(mask)
    assert TARGET.stat().st_mode & 0o777 == 0o666 & ~mask


def test_a_cut_connection_is_tried_again(server, waits):
    server.script = [cut(300_000), cut(1)]
    get(server)
    assert TARGET.read_bytes() == BIG
    assert server.sent == [300_000, 1, 1_000_000] and waits == [1, 2]


def test_attempts_end_and_nothing_is_kept(server, waits):
    server.script = [cut(1000)] * 4
    with pytest.raises(UserError, match=r"^http://127.0.0.1:\d+/a.bin: the connection was cut$"):
        get(server)
    assert waits == [1, 2, 4] and left() == []


def test_silence_is_tried_again(server, monkeypatch):
    monkeypatch.setattr(module, "TIMEOUT", 0.2)
    server.script = [hold(300_000)]
    get(server)
    assert TARGET.read_bytes() == BIG


@pytest.mark.parametrize("code", [429, 500, 503])
def test_a_busy_server_is_asked_again(server, waits, code):
    server.script = [status(code)]
    get(server)
    assert waits == [1]
    server.script = [status(code)] * 4
    with pytest.raises(UserError, match=rf"a.bin: HTTP {code} "):
        get(server)


def test_an_error_that_stays_is_one_line_at_once(server, waits):
    with pytest.raises(UserError, match=r"^http://127.0.0.1:\d+/nowhere: HTTP 404 Not Found$"):
        get(server, "nowhere")
    assert not waits and left() == []


def test_no_network_is_one_line(waits):
    with pytest.raises(UserError, match=r"^http://127.0.0.1:9/a.bin: no connection to 127.0.0.1:9$"):
        download("http://127.0.0.1:9/a.bin", TARGET, lambda part: None)
    assert len(waits) == 3


def test_a_web_page_is_refused_before_it_is_read(server):
    server.script = [instead(b"<p>Sign in", Content_Type="text/html; charset=utf-8")]
    with pytest.raises(UserError, match="returned a web page instead of the file"):
        get(server)
    assert left() == []


@pytest.mark.parametrize("size", [999_999, 1_000_001])
def test_another_size_is_refused_before_the_download(server, size):
    with pytest.raises(UserError, match=f"1,000,000 bytes on the server; expected {size:,}"):
        get(server, size=size)
    assert left() == []


@pytest.mark.parametrize("length", ["-5", "1e9", "x", "9" * 5000, "10, 10", "1_000", "\u00b2", " 0x10"])
def test_odd_lengths_are_one_line(server, length):
    server.script = [instead(BIG, Content_Length=length)]
    with pytest.raises(UserError, match="a.bin: ") as caught:
        get(server)
    assert len(str(caught.value)) < 300 and left() == []


@pytest.mark.parametrize("answer", [status(204), status(206), status(302, Location="http://[x")])
def test_odd_answers_are_one_line(server, answer):
    server.script = [answer]
    with pytest.raises(UserError, match="^http://"):
        get(server)
    assert left() == []


def test_what_never_ends_is_cut_off(server):
    """Without a length, and with one; the bound is the table's, or the size that is known."""

    def endless(handler, content, start):
        handler.begin(content, start, Content_Length="", Transfer_Encoding="chunked")
        with contextlib.suppress(OSError):
            while True:
                handler.send(b"10000\r\n" + bytes(65536) + b"\r\n")

    server.script = [endless]
    with pytest.raises(UserError, match="a.bin: more than 2,000,000 bytes came"):
        get(server, at_most=2_000_000)
    assert left() == [] and server.sent[0] < 20_000_000
    with pytest.raises(UserError, match="1,000,000 bytes on the server; at most 999,999 by params/sources.yaml"):
        get(server, at_most=999_999)


@pytest.mark.parametrize("headers", [True, False])
def test_a_trickle_is_tried_again_and_ends(server, waits, monkeypatch, headers):
    """A byte now and then, in the content or in an endless line of headers."""
    monkeypatch.setattr(module, "WINDOW", 0.1)

    def trickle(handler, content, start):
        if headers:
            handler.begin(content, start)
        with contextlib.suppress(OSError):
            while not handler.connection._closed:
                handler.wfile.write(b"x")
                threading.Event().wait(0.01)

    server.script = [trickle, trickle]
    get(server)
    assert TARGET.read_bytes() == BIG and waits == [1, 2]
    TARGET.unlink()
    server.script = [trickle] * 4
    with pytest.raises(UserError, match="a.bin: less than 60,000 bytes in 0.1 seconds; try again later"):
        get(server)
    assert left() == []


def test_room_is_left_on_the_disk(server, monkeypatch):
    rooms = iter([10**9, 10**9, 40_000_000])
    monkeypatch.setattr(module.shutil, "disk_usage", lambda _: SimpleNamespace(free=next(rooms)))
    with pytest.raises(UserError, match="raw/a.bin: less than 50,000,000 bytes would be left on the disk"):
        get(server)
    assert left() == []


def test_a_length_that_is_not_stated_is_refused(server):
    server.script = [instead(BIG, Content_Length="")]
    with pytest.raises(UserError, match="does not state the length"):
        get(server)


@pytest.mark.parametrize("address", ["http://example.org/a.bin", "http://127.0.0.1.example.org/a.bin", "ftp://x/a"])
def test_nothing_comes_over_plain_http_from_elsewhere(server, address):
    server.script = [status(302, Location=address)]
    for url in (address, f"{server.url}/a.bin"):
        server.files["a.bin"] = BIG
        with pytest.raises(UserError, match=f"^{address}: not downloaded; the address must be https"):
            download(url, TARGET, lambda part: None)


def test_redirects_are_followed(server):
    server.files["old.bin"] = b"-"
    server.script = [status(302, Location="/a.bin")]
    get(server, "old.bin")
    assert TARGET.read_bytes() == BIG


def test_a_full_disk_is_one_line(server):
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, limits[1]))  # the kernel refuses as on a full disk
    try:
        with pytest.raises(OSError, match="File too large") as caught:
            get(server)
        assert message(caught.value).startswith("raw/a.bin: File too large; ")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert left() == []


def test_a_disk_that_is_too_small_is_seen_before(server, monkeypatch):
    monkeypatch.setattr(module.shutil, "disk_usage", lambda _: SimpleNamespace(free=10))
    with pytest.raises(UserError, match="needs 1,000,000 bytes, 10 are free on the disk"):
        get(server)
    assert left() == []
