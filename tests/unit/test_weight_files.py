"""Readers of weight files: contents come back exactly, anything else is one line, and no code in a file is run."""

import collections
import io
import json
import os
import pickle
import struct
import zipfile

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from transfer.evaluation.network import load_model
from transfer.models.registry import create_model
from transfer.models.weights import importers
from transfer.models.weights.importers import read_paddle, read_torch
from transfer.models.weights.load import load_pretrained, read_safetensors
from transfer.params import ModelParams
from transfer.utils.errors import UserError


def refused(read, path, *arguments) -> str:
    """The message, which is one line that begins with the file's name."""
    with pytest.raises(UserError) as caught:
        read(path, *arguments)
    message = str(caught.value)
    assert message.startswith(f"{path}: ") and "\n" not in message
    return message.removeprefix(f"{path}: ")


class Calls:
    """Pickles as a call of ``function``."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


# --- contents come back ---


@pytest.mark.parametrize("zipped", [True, False])
def test_torch(tmp_path, zipped):
    tensors = {"a": torch.arange(6.0).reshape(2, 3).T, "n": torch.tensor(7), "half": torch.ones(2).half()}
    torch.save(collections.OrderedDict(tensors), tmp_path / "x.pth", _use_new_zipfile_serialization=zipped)
    read = read_torch(tmp_path / "x.pth")
    assert list(read) == list(tensors)
    assert all(torch.equal(read[name], tensors[name]) and read[name].dtype == tensors[name].dtype for name in tensors)


@pytest.mark.parametrize("protocol", [2, 3, 4])
def test_paddle(tmp_path, protocol):
    rng = np.random.default_rng(0)
    arrays = {
        "matrix": rng.standard_normal((3, 5)).astype(np.float32),
        "columns first": np.asfortranarray(rng.standard_normal((4, 2))),
        "big endian": np.arange(4, dtype=">f4"),
        "half": np.ones((2, 2, 2), np.float16),
        "scalar": np.array(3, np.int64),
    }
    path = tmp_path / "x.pdparams"
    path.write_bytes(pickle.dumps(arrays | {"StructuredToParameterName@@": {"matrix": "w_0"}}, protocol))
    read = read_paddle(path)
    assert list(read) == list(arrays)
    for name, array in arrays.items():
        found = read[name].numpy()
        assert np.array_equal(found, array) and found.dtype == array.dtype.newbyteorder("="), name


def test_paddle_of_numpy_1(tmp_path):
    """The names by which numpy rebuilt arrays before its version 2, as in the released file."""
    blob = pickle.dumps({"a": np.arange(3.0)}, 2)
    assert b"numpy._core.multiarray" in blob
    (tmp_path / "x.pdparams").write_bytes(blob.replace(b"numpy._core.multiarray", b"numpy.core.multiarray"))
    assert read_paddle(tmp_path / "x.pdparams")["a"].tolist() == [0, 1, 2]


# --- another file than its name says, or a damaged one ---


@pytest.mark.parametrize("read", [read_torch, read_paddle])
@pytest.mark.parametrize(
    ("start", "found"),
    [
        (b"\n<!DOCTYPE html><html><body>Google Drive - Virus scan warning", "found an HTML page; a web page was saved"),
        (b"", "damaged, or another file"),
        (b"\x1f\x8b\x08\0", "found a gzip file"),
        (b"version https://git-lfs.github.com/spec/v1", "found a Git LFS pointer"),
        (b"\0\0\0\0\xff\xff", "damaged, or another file"),
        (b"cos\nsystem\n(S'true'\ntR.", "damaged, or another file"),  # a pickle of protocol 0
    ],
)
def test_not_what_the_name_says(tmp_path, read, start, found):
    (tmp_path / "x.pth").write_bytes(start)
    assert found in refused(read, tmp_path / "x.pth")


@pytest.mark.parametrize("read", [read_torch, read_paddle, read_safetensors])
def test_missing_folder_and_zip_of_something_else(tmp_path, read):
    assert "o such file" in refused(read, tmp_path / "absent.pth")
    refused(read, tmp_path)
    with zipfile.ZipFile(tmp_path / "x.pth", "w") as archive:
        archive.writestr("readme.txt", "x")
    refused(read, tmp_path / "x.pth")


def test_another_framework_s_file(tmp_path):
    torch.save({"a": torch.zeros(3)}, tmp_path / "x.pth")
    save_file({"a": torch.zeros(3)}, tmp_path / "x.safetensors")
    assert "found a zip archive" in refused(read_paddle, tmp_path / "x.pth")
    assert "damaged, or another file" in refused(read_paddle, tmp_path / "x.safetensors")
    assert "nor imported weights ('transfer')" in refused(read_safetensors, tmp_path / "x.safetensors")


@pytest.mark.parametrize("keep", [0.3, 0.9, 0.999])
def test_truncated(tmp_path, keep):
    tensors = {f"t{i}": torch.randn(50) for i in range(40)}
    arrays = {name: tensor.numpy() for name, tensor in tensors.items()}
    torch.save(tensors, tmp_path / "zip.pth")
    torch.save(tensors, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    (tmp_path / "x.pdparams").write_bytes(pickle.dumps(arrays, 4))
    save_file(tensors, tmp_path / "x.safetensors", {"transfer": "{}"})
    for name, read, said in (
        ("zip.pth", read_torch, "fetch it again"),
        ("old.pth", read_torch, "fetch it again"),
        ("x.pdparams", read_paddle, "fetch it again"),
        ("x.safetensors", read_safetensors, "nor imported weights"),
    ):
        blob = (tmp_path / name).read_bytes()
        (tmp_path / name).write_bytes(blob[: int(len(blob) * keep)])
        assert said in refused(read, tmp_path / name), name


# --- no code in a file is run ---


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("function", [os.system, eval, exec])
def test_torch_pickle_with_code(tmp_path, zipped, function):
    trace = tmp_path / "trace"
    code = f"touch {trace}" if function is os.system else f"open({str(trace)!r}, 'w')"
    torch.save(
        {"a": torch.zeros(3), "b": Calls(function, code)}, tmp_path / "x.pth", _use_new_zipfile_serialization=zipped
    )
    assert ("posix.system" if function is os.system else function.__name__) in refused(read_torch, tmp_path / "x.pth")
    assert not trace.exists()


def test_torch_file_that_is_a_bare_pickle_with_code(tmp_path):
    trace = tmp_path / "trace"
    (tmp_path / "x.pth").write_bytes(pickle.dumps({"a": Calls(os.system, f"touch {trace}")}, 2))
    refused(read_torch, tmp_path / "x.pth")
    assert not trace.exists()


def test_a_whole_module_is_refused(tmp_path):
    """A file that needs the code of its network."""
    torch.save(torch.nn.Linear(2, 2), tmp_path / "x.pth")
    message = refused(read_torch, tmp_path / "x.pth")
    assert "GLOBAL torch.nn.modules.linear.Linear was not an allowed global" in message
    assert "add_safe_globals" not in message, "torch's advice is to run the code"


@pytest.mark.parametrize("protocol", [2, 4, 5])
@pytest.mark.parametrize("function", [os.system, eval, exec, getattr, __import__])
def test_paddle_pickle_with_code(tmp_path, protocol, function):
    trace = tmp_path / "trace"
    code = f"touch {trace}" if function is os.system else f"open({str(trace)!r}, 'w')"
    arguments = {getattr: ("text", "upper"), __import__: ("os",)}.get(function, (code,))
    (tmp_path / "x.pdparams").write_bytes(pickle.dumps({"a": np.zeros(2), "b": Calls(function, *arguments)}, protocol))
    message = refused(read_paddle, tmp_path / "x.pdparams")
    assert "asks for " in message and "arrays need no code" in message
    if protocol == 4:
        assert f"{'posix' if function is os.system else 'builtins'}.{function.__name__}, " in message
    assert not trace.exists()


def _global(name):
    return b"c" + name.encode() + b"\n"


@pytest.mark.parametrize(
    "body",
    [
        _global("numpy\nfromfile") + b"X\x01\0\0\0a\x85R",
        _global("numpy.core.multiarray\nfrombuffer") + b"X\x01\0\0\0a\x85R",
        _global("numpy\nload") + b"X\x01\0\0\0a\x85R",
        # dotted names, which protocol 4 follows from attribute to attribute
        b"\x8c\x05numpy\x8c\x14core.multiarray.dtype\x93",
        b"\x8c\x05numpy\x8c\x15ndarray.__reduce_ex__\x93",
        # a change of what the allowed names stand for
        _global("numpy\ndtype") + b"N}X\x04\0\0\0callX\x01\0\0\0xs\x86b",
        _global("numpy\ndtype") + b"}X\x04\0\0\0callX\x01\0\0\0xsb",
        _global("numpy\nndarray") + b"}X\x04\0\0\0callX\x01\0\0\0xsb",
        _global("numpy.core.multiarray\n_reconstruct") + b"N}X\x0c\0\0\0__defaults__X\x01\0\0\0xs\x86b",
        # an array without its content
        _global("numpy\nndarray") + b")\x81",
        _global("numpy\nndarray") + b")R",
        b"X\x01\0\0\0aQ",  # an object outside the file
        b"\x82\x01",  # a name from the registry of extensions
    ],
)
def test_paddle_pickle_with_other_names(tmp_path, body):
    path = tmp_path / "x.pdparams"
    path.write_bytes(b"\x80\x04}X\x01\0\0\0k" + body + b"s.")
    refused(read_paddle, path)
    good = pickle.dumps({"a": np.arange(3.0)}, 4)
    path.write_bytes(good)
    assert read_paddle(path)["a"].tolist() == [0, 1, 2], "a file does not change how the next one is read"


# --- headers ---

DEEP = "[" * 100_000 + "]" * 100_000


@pytest.mark.parametrize(
    "header", ["null", "[]", '"x"', "3", DEEP, "[" + "[]," * 400_000 + "1]", '{"a":', "9" * 5000, "NaN", ""]
)
def test_a_header_that_is_no_object(tmp_path, header):
    path = tmp_path / "x.safetensors"
    save_file({"a": torch.zeros(1)}, path, {"transfer": header})
    assert "nor imported weights" in refused(read_safetensors, path)
    assert "\n" not in refused(load_model, path) and len(refused(load_model, path)) < 500


@pytest.mark.parametrize(
    "header",
    [b"null", b"[]", b"3", DEEP.encode(), b'{"__metadata__":null}', b'{"__metadata__":[]}',
     b'{"__metadata__":{"transfer":1}}',
     b'{"a":null}', b'{"a":{"dtype":"F32","shape":[1099511627776],"data_offsets":[0,4398046511104]}}',
     b'{"a":{"dtype":"F32","shape":[-1],"data_offsets":[0,4]}}'],
)  # fmt: skip
def test_a_safetensors_header_of_another_kind(tmp_path, header):
    path = tmp_path / "x.safetensors"
    for length in (len(header), 1 << 40):
        path.write_bytes(struct.pack("<Q", length) + header + bytes(4))
        assert "nor imported weights" in refused(read_safetensors, path)


@pytest.mark.parametrize(
    "change",
    [
        {"model": None},
        {"model": []},
        {"model": {"name": "transfer_tiny", "img_size": 10**9}},
        {"classes": []},
        {"classes": "happiness"},
        {"classes": [1, 2]},
        {"classes": ["a\x1b[2J", "b"]},
        {"faces": [1]},
        {"faces": {"size": "large"}},
        {"protocol": {"a": 1}},
        {"epoch": "three"},
        {"hflip_tta": "maybe"},
    ],
    ids=str,
)
def test_a_header_whose_values_are_of_another_kind(tmp_path, change):
    path = tmp_path / "x.safetensors"
    about = {"model": {"name": "transfer_tiny"}, "faces": {}, "classes": ["a", "b"], "protocol": "last", "epoch": 1}
    model = create_model(ModelParams(name="transfer_tiny"), 2)
    save_file(model.state_dict(), path, {"transfer": json.dumps(about)})
    assert load_model(path)[1]["epoch"] == 1
    save_file({"a": torch.zeros(1)}, path, {"transfer": json.dumps(about | change)})
    assert "not the model.safetensors of a run" in refused(load_model, path)


@pytest.mark.parametrize("fills", [None, 3, "stem.", [1], {"stem.": 1}])
def test_imported_weights_that_do_not_say_what_they_fill(tmp_path, fills):
    path = tmp_path / "x.safetensors"
    save_file({"a": torch.zeros(1)}, path, {"transfer": json.dumps({"fills": fills})})
    assert "not imported weights" in refused(lambda file: load_pretrained(torch.nn.Linear(1, 1), [file]), path)


# --- other contents, and absurd sizes ---


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (np.array([{}, 1], dtype=object), "contains an array of type 'O8'"),
        (np.array(["text"]), "contains an array of type 'U4'"),
        (np.zeros(2, [("x", "f4")]), "contains an array of type 'V4'"),
        (3.0, "k: expected a tensor, found float"),
        ({"a": 1}, "k: expected a tensor, found dict"),
    ],
)
def test_paddle_content_that_is_no_array_of_numbers(tmp_path, value, said):
    (tmp_path / "x.pdparams").write_bytes(pickle.dumps({"k": value}, 4))
    assert said in refused(read_paddle, tmp_path / "x.pdparams")


@pytest.mark.parametrize("shape", [(1 << 40,), (-3, -1), (1 << 33, 1 << 33)])
def test_paddle_array_of_absurd_size(tmp_path, shape):
    array = np.zeros(3, np.float32)
    rebuild, arguments, (version, _, dtype, order, data) = array.__reduce__()
    state = version, shape, dtype, order, data

    class Huge:
        def __reduce__(self):
            return rebuild, arguments, state

    (tmp_path / "x.pdparams").write_bytes(pickle.dumps({"k": Huge()}, 4))
    assert "ValueError" in refused(read_paddle, tmp_path / "x.pdparams")


def test_paddle_pickle_that_asks_for_all_memory(tmp_path):
    path = tmp_path / "x.pdparams"
    path.write_bytes(b"\x80\x02}r" + struct.pack("<I", (1 << 31) - 1) + b".")  # entry 2 ** 31 of the memo
    assert read_paddle(path) == {}
    path.write_bytes(b"\x80\x04\x8e" + struct.pack("<Q", 1 << 45) + b"abc.")  # 2 ** 45 bytes
    assert "fetch it again" in refused(read_paddle, path)


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ({"state_dict": {"a": torch.zeros(2)}}, "state_dict: expected a tensor, found dict"),
        ({"epoch": 3}, "epoch: expected a tensor, found int"),
        ([torch.zeros(2)], "by name, found list"),
        ({"a": torch.eye(2).to_sparse()}, "a: expected a tensor"),
    ],
)
def test_torch_content_that_is_no_state_dict(tmp_path, value, said):
    torch.save(value, tmp_path / "x.pth")
    assert said in refused(read_torch, tmp_path / "x.pth")


def test_torch_files_that_unpack_to_too_much(tmp_path, monkeypatch):
    path = tmp_path / "x.pth"
    torch.save({"a": torch.zeros(1 << 20)}, path)
    blob = io.BytesIO()
    with zipfile.ZipFile(path) as full, zipfile.ZipFile(blob, "w", zipfile.ZIP_DEFLATED) as packed:
        for name in full.namelist():
            packed.writestr(name, full.read(name))
    path.write_bytes(blob.getvalue())
    assert len(read_torch(path)["a"]) == 1 << 20
    monkeypatch.setattr(importers, "MAX_BYTES", 1 << 20)
    assert "unpacks to more than" in refused(read_torch, path)
    torch.save({"a": torch.zeros(1)}, path)
    assert read_torch(path)["a"].tolist() == [0]
