import hashlib
import json
import os
import random
import resource
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from file_server import FileServer, cut, hold, instead, status

from transfer.sources import download as module
from transfer.sources.download import Damaged, download
from transfer.utils.errors import UserError

SIZE = 1_000_000
CONTENT = random.Random(0).randbytes(SIZE)
ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch):
    """The waits between tries, noted in place of being waited for; no proxy between here and 127.0.0.1."""
    for name in list(os.environ):
        if name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)
    waited = []
    monkeypatch.setattr(module, "time", SimpleNamespace(sleep=waited.append))
    return waited


@pytest.fixture
def server():
    with FileServer({"a.bin": CONTENT}) as running:
        yield running


@pytest.fixture
def target(tmp_path):
    return tmp_path / "raw" / "a.bin"


def right(path):
    if hashlib.sha256(path.read_bytes()).digest() != hashlib.sha256(CONTENT).digest():
        raise Damaged(f"{path}: wrong")


def anything(path):
    pass


def names(target):
    return sorted(path.name for path in target.parent.iterdir())


def get(server, target, check=right, **options):
    download(f"{server.url}/a.bin", target, check=check, **options)


def test_a_file_comes_whole_and_leaves_nothing_beside_it(server, target):
    get(server, target)
    assert target.read_bytes() == CONTENT
    assert names(target) == ["a.bin"]
    assert server.sent == [SIZE]
    assert target.stat().st_mode & 0o777 == 0o666 & ~umask()


def umask():
    mask = os.umask(0)
    os.umask(mask)
    return mask


def test_what_is_there_is_not_asked_for_again(server, target):
    target.parent.mkdir()
    target.write_bytes(b"mine")
    get(server, target)
    assert target.read_bytes() == b"mine"
    assert not server.requests


def test_a_cut_connection_is_continued_at_the_byte_where_it_was_cut(server, target, no_waiting):
    server.script = [cut(300_000), cut(1), cut(200_000)]
    get(server, target)
    assert target.read_bytes() == CONTENT
    assert server.sent == [300_000, 1, 200_000, SIZE - 500_001]
    assert [request.range for request in server.requests] == [
        None,
        "bytes=300000-",
        "bytes=300001-",
        "bytes=500001-",
    ]
    assert no_waiting == [1, 1, 1], "the waits begin anew when bytes have come"


def test_waits_grow_and_tries_end(server, target, no_waiting):
    server.script = [cut(1000)] + [status(503)] * 10
    with pytest.raises(UserError, match=r"a.bin: HTTP 503 .*, 5 times; 1,000 bytes are kept, run again to continue"):
        get(server, target)
    assert no_waiting == [1, 2, 4, 8]
    assert names(target) == [".a.bin.lock", "a.bin.part", "a.bin.part.json"]
    server.script = []
    get(server, target)
    assert server.sent[-1] == SIZE - 1000
    assert names(target) == ["a.bin"]


@pytest.mark.parametrize(
    ("answers", "waits"),
    [
        ([status(500), status(502)], [1, 2]),
        ([status(429, Retry_After="7")], [7]),
        ([status(503, Retry_After="0"), status(429, Retry_After="nonsense")], [1, 2]),
    ],
)
def test_a_busy_server_is_asked_again_when_it_says(server, target, no_waiting, answers, waits):
    server.script = answers
    get(server, target)
    assert target.read_bytes() == CONTENT
    assert no_waiting == waits


def test_a_server_that_asks_for_an_hour_is_not_waited_for(server, target, no_waiting):
    server.script = [status(429, Retry_After="3600")]
    with pytest.raises(UserError, match="HTTP 429 .* asks to come back in 3,600 seconds"):
        get(server, target)
    assert not no_waiting


def test_a_server_without_ranges_sends_it_all_again(server, target):
    server.ranges = False
    server.script = [cut(300_000), cut(400_000)]
    get(server, target)
    assert target.read_bytes() == CONTENT
    assert server.sent == [300_000, 400_000, SIZE]


def test_a_file_that_changed_between_two_tries_begins_anew(server, target):
    server.files["a.bin"] = bytes(SIZE)
    server.script = [cut(300_000)] + [status(404)]
    with pytest.raises(UserError, match="HTTP 404"):
        get(server, target)
    server.files["a.bin"] = CONTENT
    get(server, target, check=anything)
    assert target.read_bytes() == CONTENT
    assert server.sent == [300_000, 0, SIZE]


@pytest.mark.parametrize("size", [SIZE, SIZE // 2, 300_000])
def test_a_changed_file_is_seen_where_the_server_does_not_know_if_range(server, target, size):
    server.files["a.bin"] = bytes(size)
    server.script = [cut(290_000) if size == 300_000 else cut(300_000), status(404)]
    with pytest.raises(UserError, match="HTTP 404"):
        get(server, target)
    server.files["a.bin"] = CONTENT
    offset = module._Part(target).length()
    # A range of the new file, although the old one's version was named.
    server.script = [lambda handler, content, start: (handler.begin(content, offset), handler.send(content[offset:]))]
    get(server, target, check=anything)
    assert target.read_bytes() == CONTENT


def test_bytes_without_a_version_are_continued_only_if_the_content_is_known(server, target):
    server.versions = False
    server.script = [cut(300_000), cut(1000)]
    get(server, target, known=True)
    assert server.sent == [300_000, 1000, SIZE - 301_000]
    target.unlink()
    server.requests.clear()
    server.script = [cut(300_000)]
    get(server, target, check=anything)
    assert target.read_bytes() == CONTENT
    assert server.sent == [300_000, SIZE]


def test_a_wrong_beginning_is_found_out_and_downloaded_from_the_beginning(server, target):
    server.versions = False
    server.script = [cut(300_000), status(404)]
    with pytest.raises(UserError, match="HTTP 404"):
        get(server, target, known=True)
    part = target.with_name("a.bin.part")
    part.write_bytes(bytes(300_000))
    get(server, target, known=True)
    assert target.read_bytes() == CONTENT
    assert server.sent == [300_000, 0, SIZE - 300_000, SIZE]


def test_wrong_bytes_are_refused_and_not_kept(server, target):
    server.files["a.bin"] = bytes(SIZE)
    with pytest.raises(Damaged, match="wrong"):
        get(server, target)
    assert names(target) == [".a.bin.lock"]
    assert len(server.requests) == 1, "a whole download that is wrong is not repeated"


def test_a_part_that_is_whole_is_not_asked_for_again(server, target):
    server.script = [cut(1000), status(404)]
    with pytest.raises(UserError, match="HTTP 404"):
        get(server, target)
    target.with_name("a.bin.part").write_bytes(CONTENT)
    server.requests.clear()
    get(server, target)
    assert target.read_bytes() == CONTENT
    assert not server.requests


def test_a_part_that_is_longer_than_the_file_begins_anew(server, target):
    server.script = [cut(1000), status(404)]
    with pytest.raises(UserError, match="HTTP 404"):
        get(server, target)
    target.with_name("a.bin.part").write_bytes(CONTENT + b"more")
    get(server, target)
    assert target.read_bytes() == CONTENT


@pytest.mark.parametrize("state", ["", "[]", '{"url": 1}', None])
def test_a_part_without_a_state_that_can_be_read_begins_anew(server, target, state):
    target.parent.mkdir()
    target.with_name("a.bin.part").write_bytes(bytes(1000))
    if state is not None:
        target.with_name("a.bin.part.json").write_text(state)
    get(server, target)
    assert server.sent == [SIZE]


def test_a_part_of_another_address_begins_anew(server, target):
    server.files["b.bin"] = CONTENT
    server.script = [cut(300_000), status(404)]
    with pytest.raises(UserError, match="HTTP 404"):
        get(server, target)
    download(f"{server.url}/b.bin", target, check=right)
    assert server.sent == [300_000, 0, SIZE]


@pytest.mark.parametrize(
    "page",
    [
        instead(b"<html>Sign in</html>", Content_Type="text/html; charset=utf-8"),
        instead(b"\n<!DOCTYPE html><p>Quota exceeded"),
        instead(b"\xef\xbb\xbf<HTML>"),
    ],
)
def test_a_web_page_is_not_the_file(server, target, page):
    server.script = [page]
    with pytest.raises(UserError, match="a web page came in place of the file: a page for login, quota or errors"):
        get(server, target, check=anything)
    assert not target.exists()


def test_a_web_page_does_not_cost_what_has_come(server, target):
    server.script = [cut(300_000), instead(b"<html>", Content_Type="text/html")]
    with pytest.raises(UserError, match="a web page"):
        get(server, target)
    get(server, target)
    assert server.sent[-1] == SIZE - 300_000


@pytest.mark.parametrize("size", [SIZE - 1, SIZE + 1])
def test_another_size_is_refused_before_the_download(server, target, size):
    with pytest.raises(UserError, match=f"1,000,000 bytes on the server; expected {size:,}"):
        get(server, target, size=size)
    assert names(target) == [".a.bin.lock"]


def chunked(body, end=True):
    def answer(handler, content, start):
        handler.protocol_version = "HTTP/1.1"
        handler.begin(content, 0, Content_Length="", Transfer_Encoding="chunked")
        handler.wfile.write(b"%x\r\n%s\r\n" % (len(body), body) + (b"0\r\n\r\n" if end else b""))
        handler.close_connection = True

    return answer


def test_more_than_the_expected_bytes_are_refused(server, target):
    server.script = [chunked(CONTENT + b"more")]
    with pytest.raises(Damaged, match="more than the expected 1,000,000 bytes came"):
        get(server, target, check=anything, size=SIZE)
    assert names(target) == [".a.bin.lock"]


def test_chunks_do_without_a_length_and_a_missing_end_is_seen(server, target):
    server.script = [chunked(CONTENT[:500_000], end=False), chunked(CONTENT)]
    get(server, target, check=anything)
    assert target.read_bytes() == CONTENT
    server.script = [chunked(CONTENT[:500_000])]
    target.unlink()
    get(server, target, check=anything, size=SIZE)
    assert target.read_bytes() == CONTENT, "too little, although whole by its chunks"


def test_compression_is_refused(server, target):
    server.script = [instead(CONTENT, Content_Encoding="gzip")]
    with pytest.raises(UserError, match="the server compresses the file although it was not asked to"):
        get(server, target)


def test_a_file_of_unknown_length_is_refused(server, target):
    server.script = [instead(CONTENT, Content_Length="")]
    with pytest.raises(UserError, match="does not say how long the file is"):
        get(server, target, check=anything)


def test_redirects_are_followed_with_the_range(server, target):
    server.files["old.bin"] = b"-"
    moved = status(302, Location="/a.bin")
    server.script = [moved, cut(300_000), moved]
    download(f"{server.url}/old.bin", target, check=right)
    assert server.sent == [0, 300_000, 0, SIZE - 300_000]


@pytest.mark.parametrize("address", ["http://example.org/a.bin", "http://127.0.0.1.example.org/a.bin", "ftp://x/a"])
def test_nothing_comes_over_plain_http_from_elsewhere(server, target, address):
    server.script = [status(302, Location=address)]
    with pytest.raises(UserError, match="not downloaded"):
        get(server, target)
    with pytest.raises(UserError, match="not downloaded"):
        download(address, target, check=anything)


def test_no_network_is_one_line(target, no_waiting):
    with pytest.raises(UserError, match=r"^http://127.0.0.1:9/a.bin: no connection to 127.0.0.1:9, 5 times$"):
        download("http://127.0.0.1:9/a.bin", target, check=anything)
    assert no_waiting == [1, 2, 4, 8]


def test_an_answer_that_stops_is_continued(server, target, monkeypatch):
    monkeypatch.setattr(module, "TIMEOUT", (1, 0.2))
    server.script = [hold(300_000)]
    get(server, target)
    assert target.read_bytes() == CONTENT
    assert server.sent == [300_000, SIZE - 300_000]


def test_a_full_disk_is_one_line_and_the_part_is_kept(server, target):
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, limits[1]))  # the kernel refuses as on a full disk
    try:
        with pytest.raises(UserError, match=r"a.bin.part: File too large; what has come is kept") as error:
            get(server, target)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert "\n" not in str(error.value)
    get(server, target)
    assert server.sent[-1] == SIZE - 300_000
    assert target.read_bytes() == CONTENT


def test_a_disk_that_is_too_small_is_seen_before(server, target, monkeypatch):
    monkeypatch.setattr(module.shutil, "disk_usage", lambda _: SimpleNamespace(free=10))
    with pytest.raises(UserError, match="1,000,000 bytes are to come and 10 are free on the disk"):
        get(server, target)
    assert names(target) == [".a.bin.lock"]


def test_two_downloads_of_one_file_are_one(server, target):
    begun, errors = threading.Event(), []

    def slow(handler, content, start):
        handler.begin(content, start)
        handler.send(content[:1000])
        begun.set()
        threading.Event().wait(0.3)
        handler.send(content[1000:])

    def run():
        try:
            get(server, target)
        except Exception as error:
            errors.append(error)

    server.script = [slow]
    first, second = threading.Thread(target=run), threading.Thread(target=run)
    first.start()
    assert begun.wait(10)
    second.start()
    first.join(20)
    second.join(20)
    assert not errors
    assert target.read_bytes() == CONTENT
    assert server.sent == [SIZE]
    assert names(target) == ["a.bin"]


def test_a_killed_download_is_continued(server, target):
    server.script = [hold(600_000)]
    code = (
        "import sys; from pathlib import Path; from transfer.sources.download import download\n"
        "download(sys.argv[1], Path(sys.argv[2]), check=lambda path: None)"
    )
    command = [sys.executable, "-c", code, f"{server.url}/a.bin", str(target)]
    child = subprocess.Popen(command, cwd=ROOT)
    part, end = target.with_name("a.bin.part"), time.monotonic() + 30
    while (not part.exists() or part.stat().st_size < 500_000) and time.monotonic() < end:
        threading.Event().wait(0.02)
    child.send_signal(signal.SIGKILL)
    child.wait()
    kept = part.stat().st_size
    assert 500_000 <= kept <= 600_000
    assert json.loads(target.with_name("a.bin.part.json").read_text())["size"] == SIZE
    assert not target.exists()
    get(server, target)
    assert target.read_bytes() == CONTENT
    assert server.sent == [600_000, SIZE - kept]
