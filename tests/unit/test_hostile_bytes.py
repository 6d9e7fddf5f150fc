"""Archives, lists and arrays with bytes changed at random: read, or one clear line; never anything else."""

import bz2
import gzip
import lzma
import random
import time

import pytest
from archives import aes_zip_bytes, deflate64_zip_bytes, pack, seven_zip_bytes, tar_gz_bytes, zip_bytes
from test_affectnet import arrays_release
from test_forms import class_folders, ferplus_csv, full_release, kaggle_rafdb, rafdb_list

from transfer.datasets import affectnet, registry
from transfer.datasets.archives import open_source
from transfer.utils.errors import UserError

FILES = {"a/x.txt": b"abc" * 50, "a/y.jpg": bytes(range(256)) * 20, "in.zip": zip_bytes({"q.txt": b"q" * 100})}
TAR = gzip.decompress(tar_gz_bytes(FILES))
ARCHIVES = [
    *[("zip", zip_bytes(FILES, method)) for method in (8, 12, 14)],
    ("zip", deflate64_zip_bytes(FILES)),
    ("zip", aes_zip_bytes(FILES, b"pw")),
    *[("tar", TAR), ("tar.gz", gzip.compress(TAR)), ("tar.xz", lzma.compress(TAR)), ("tar.bz2", bz2.compress(TAR))],
    ("7z", seven_zip_bytes(FILES)),
]
LISTED = {f"Image/original/{name}.jpg": b"" for name, _ in rafdb_list()[0]}
POINTS = {"Annotation/manual/train_00001_manu_attri.txt": b"1 2\n3 2\n1 4\n0 5\n3 6\n0\n1\n2\n"}
LAYOUTS = [
    ("affectnet", full_release()[0], {"classes": 8}),
    ("affectnet", arrays_release(), {"classes": 8, "release": "reduced"}),
    (
        "affectnet",
        class_folders(range(8))[0] | {"x/classes.txt": "\n".join(affectnet.CLASSES).encode()},
        {"classes": 8, "release": "folders"},
    ),
    ("rafdb", kaggle_rafdb()[0], {"images": "aligned"}),
    ("rafdb", LISTED | POINTS | {"EmoLabel/list_patition_label.txt": "\n".join(rafdb_list()[1]).encode()}, {}),
    ("ferplus", ferplus_csv()[0], {}),
    (
        "csv",
        {"a.png": b"", "labels.csv": b"path,label,split,vote_x,vote_y\na.png,x,train,1,2\n"},
        {"classes": ["x", "y"]},
    ),
]
WORDS = [
    b"1" * 5000,
    b"nan",
    b"inf",
    b"-1",
    b'"',
    b",",
    b";",
    b"\0",
    b"\xff\xfe",
    b"\n",
    b"\r",
    b"7.0",
    b"1e9",
    b"../x",
]
WORDS += ["٣".encode(), "\u2028".encode(), b"\xff\xff\xff\xff", b"\0\0\0\0", b"\xff\xff\xff\x7f", b"9" * 18]


def changed(content, chance, within):
    content = bytearray(content)
    for _ in range(chance.choice([1, 1, 2, 4, 16])):
        at = chance.randrange(min(within, len(content)) + 1)
        content[at : at + chance.choice([0, 1, 4, 20])] = chance.choice([*WORDS, bytes([chance.randrange(256)]), b""])
    return bytes(content)


def try_it(path, read):
    start = time.process_time()
    try:
        read()
    except UserError as error:
        assert str(path) in str(error) and "\n" not in str(error) and len(str(error)) < 2000
    assert time.process_time() - start < 10


TRIALS = [pytest.param(150), pytest.param(1500, marks=pytest.mark.slow)]


@pytest.mark.parametrize("trials", TRIALS)
def test_archives(trials, tmp_path):
    chance = random.Random(trials)
    for _ in range(trials):
        suffix, content = chance.choice(ARCHIVES)
        path = tmp_path / f"data.{suffix}"
        path.write_bytes(changed(content, chance, len(content)))
        path.with_name("data.zip.password").write_text("pw")

        def read(path=path):
            with open_source(path) as source:
                dict(source.stream(source.names()))

        try_it(path, read)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("trials", TRIALS)
def test_lists_and_arrays(trials, tmp_path):
    chance = random.Random(trials)
    for _ in range(trials):
        parser, files, options = chance.choice(LAYOUTS)
        name = chance.choice([name for name in files if name.endswith((".csv", ".txt", ".npy"))])
        content = changed(files[name], chance, chance.choice([120, len(files[name])]))
        path = pack(files | {name: content}, "zip", tmp_path / "data")

        def read(path=path, parser=parser, options=options):
            with open_source(path) as source:
                registry.get(parser).index(source, **options)

        try_it(path, read)
