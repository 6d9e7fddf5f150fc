"""Third-party weights to tensors under this project's names: one function per kind of file, and the conversion.

No code in a file is ever run. Every tensor of a file is wanted, or not wanted for a stated reason, and every tensor
that a file is for must be in it, finite and with its shape. Anything else is an error: nothing is half loaded.
"""

import json
import pickle
import re
import warnings
import zipfile
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor

from transfer.models.transfer import transfer_base
from transfer.models.weights.catalogue import FILLS, MODEL, OWN
from transfer.models.weights.load import KEY, Loaded, Report, read_safetensors, shape_text
from transfer.params import FaceParams, ModelParams
from transfer.utils.code_digest import step_digest
from transfer.utils.errors import UserError
from transfer.utils.files import atomic, sha256, write_json
from transfer.utils.filetype import HEAD, HTML, ZIP, looks_like

MAX_BYTES = 2 << 30
"""Largest file, and largest sum of tensors, that is read: IR-50 with its last layers has 0.2 GB."""

Tensors = dict[str, Tensor]
Imported = tuple[Tensors, Report]
"""A state dict under our names, and what became of every tensor."""

# Label order of the authors' RAF-DB lists, which is RAF-DB's own (their labels 1 to 7, less 1).
CLASSES = ["surprise", "fear", "disgust", "happiness", "sadness", "anger", "neutral"]


def read_torch(path: Path) -> Tensors:
    """Tensors of a torch state dict by name. Raises UserError: damaged, or not just tensors."""
    expected = "a torch state dict without code"
    try:
        _refuse_too_large(path)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about pickle protocols of files that are then refused
            content = torch.load(path, map_location="cpu", weights_only=True)
    except UserError:
        raise
    except Exception as error:  # torch.load raises nearly anything on damaged data
        # without torch's advice, which is to run the code in the file
        patterns = r"GLOBAL \S+[^.\n]*", r"(?<=Unpickler error: ).*", r".*"
        reason = next(found[0] for pattern in patterns if (found := re.search(pattern, str(error))))
        raise _unreadable(path, expected, reason, usual=ZIP) from None
    return _tensors(path, content, expected)


def read_paddle(path: Path) -> Tensors:
    """Tensors of a ``paddle.save`` state dict by name, without Paddle. Raises UserError: damaged, not just arrays."""
    expected = "Paddle parameters, a pickle of numpy arrays"
    _refuse_too_large(path)
    try:
        with path.open("rb") as handle:
            content = _ArrayUnpickler(handle).load()
        if isinstance(content, dict):
            content.pop("StructuredToParameterName@@", None)  # a table of names that paddle.save adds
            content = {name: item.tensor() if isinstance(item, _Array) else item for name, item in content.items()}
    except Exception as error:  # the unpickler raises nearly anything on damaged data
        raise _unreadable(path, expected, f"{type(error).__name__}: {error}") from None
    return _tensors(path, content, expected)


class _Dtype:
    """Stands in for numpy.dtype: plain numbers only, no objects and no fields."""

    def __init__(self, code: str, *_: Any) -> None:
        if code not in ("f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "b1"):
            raise pickle.UnpicklingError(f"contains an array of type {code!r}")
        self.dtype = np.dtype(code)

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self.dtype = self.dtype.newbyteorder(state[1])


class _Array:
    """Stands in for numpy.ndarray, whose own __setstate__ is not made for hostile input."""

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _, shape, kind, fortran, data = state
        self.array = np.frombuffer(data, kind.dtype).reshape(shape, order="F" if fortran else "C")

    def tensor(self) -> Tensor:
        """In this machine's byte order, and in memory that torch may write to: astype copies."""
        return torch.from_numpy(self.array.astype(self.array.dtype.newbyteorder("=")))


class _ArrayUnpickler(pickle._Unpickler):  # in Python: the C version allocates whatever memo size a file names
    """Knows the few names that arrays need and refuses every other one before anything is called."""

    def find_class(self, module: str, name: str) -> Any:
        if name == "_reconstruct" and module in ("numpy.core.multiarray", "numpy._core.multiarray"):
            return lambda *_: _Array()
        allowed: dict[str, Any] = {"numpy.dtype": _Dtype, "numpy.ndarray": _Array}
        allowed["_codecs.encode"] = lambda text, _: text.encode("latin1")  # bytes, in pickles of protocol 2
        if f"{module}.{name}" not in allowed:
            raise pickle.UnpicklingError(f"asks for {module}.{name}, and arrays need no code")
        return allowed[f"{module}.{name}"]


def _refuse_too_large(path: Path) -> None:
    """Raise UserError for a file that unpacks to more than MAX_BYTES, or whose table of tensors is absurdly long."""
    if path.is_file() and zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            sizes = {member.filename: member.file_size for member in archive.infolist()}
    else:
        sizes = {"": path.stat().st_size if path.is_file() else 0}
    table = max((size for name, size in sizes.items() if name.endswith(".pkl")), default=0)
    if sum(sizes.values()) > MAX_BYTES or table > MAX_BYTES >> 7:
        raise UserError(f"{path}: unpacks to more than any supported weights; check that it is the right file")


def _unreadable(path: Path, expected: str, reason: str, usual: str = "") -> UserError:
    if not path.is_file():
        return UserError(f"{path}: no such file; expected {expected}")
    with path.open("rb") as handle:
        kind = looks_like(handle.read(HEAD))
    advice = "a web page was saved in place of the file, download it again" if kind == HTML else "fetch it again"
    found = f"found {kind}" if kind not in (None, usual) else f"it is damaged, or another file ({reason[:160]})"
    return UserError(f"{path}: expected {expected}, {found}; {advice}")


def _tensors(path: Path, content: Any, expected: str) -> Tensors:
    if not isinstance(content, dict) or not all(isinstance(name, str) for name in content):
        raise UserError(f"{path}: expected {expected} by name, found {type(content).__name__}; fetch it again")
    for name, value in content.items():
        if not isinstance(value, Tensor) or value.layout != torch.strided:
            raise UserError(f"{path}: {name}: expected a tensor, found {type(value).__name__}; fetch it again")
    return content


def face_evolve_ir50(theirs: Tensors) -> Imported:
    """face.evoLVe's IR-50 (model_irse.py), of MS-Celeb-1M: backbone_ir50_ms1m_epoch120.pth, a torch state dict."""
    left = {"output_layer.": "face recognition's own last layers"}
    return _renamed(theirs, lambda name: f"stem.{_stages(name)}", FILLS["face_evolve_ir50"], left, stem_stages=4)


def timm_vit_small(theirs: Tensors) -> Imported:
    """timm's first ViT-S/16 (release v0.1-weights, 768 wide): vit_small_p16_224-15ec54c9.pth, a torch state dict.

    The names are ours. timm scaled q k by 768 ** -0.5 with these weights; the authors of TransFER, and this project, by
    the width of a head, 96 ** -0.5.
    """
    left = {
        "patch_embed.": "projects 16x16 pixels of 3 channels; TransFER projects cells of the stem's map",
        "head.": "the 1,000 classes of ImageNet",
    }
    return _renamed(theirs, lambda name: name, FILLS["timm_vit_small"], left)


def transfer_paddle(theirs: Tensors) -> Imported:
    """The authors' TransFER in PaddlePaddle: RAFa_2_6131_ep33_90p91_param.pdiparams, a pickle of numpy arrays.

    Weights of linear layers are (in, out) in Paddle, hence transposed. A PReLU's slope is ``weight`` in the released
    file and ``_weight`` in today's Paddle.
    """
    lanets = {found[1] for name in theirs if (found := re.match(r"attention\.las\.(\d{1,2})\.", name))}
    sizes = {"num_lanets": len(lanets), "num_classes": len(theirs.get("head.fc.bias", CLASSES))}
    return _renamed(theirs, _paddle_name, FILLS["transfer_paddle"], {}, paddle=True, **sizes)


def own(theirs: Tensors) -> Imported:
    """The model that comes along, without the head, whose classes are its own."""
    ours = {name: value.float() if value.is_floating_point() else value for name, value in theirs.items()}
    left = {name: "its own classes" for name in theirs if not name.startswith(FILLS[OWN])}
    loaded = [Loaded(name, name, tuple(value.shape)) for name, value in ours.items() if name not in left]
    return {item.target: ours[item.target] for item in loaded}, Report(loaded, not_wanted=left)


IMPORTERS: dict[str, tuple[Callable[[Path], Tensors], Callable[[Tensors], Imported]]] = {
    "face_evolve_ir50": (read_torch, face_evolve_ir50),
    "timm_vit_small": (read_torch, timm_vit_small),
    "transfer_paddle": (read_paddle, transfer_paddle),
    OWN: (lambda path: read_safetensors(path)[0], own),
}
"""How a kind of file is read, and how its tensors are renamed."""


def convert(source: Path, importer: str, out: Path) -> Report:
    """Read ``source`` with this importer, write ``out`` (safetensors) and its report (.json). Raises UserError."""
    tensors, about, report = read(source, importer)
    with atomic(out) as part:
        save_file(tensors, part, {KEY: json.dumps(about)})
    content = {key: about[key] for key in ("importer", "source", "source_sha256", "code_digest")}
    write_json(out.with_suffix(".json"), content | {"sha256": sha256(out)} | asdict(report))
    return report


def read(source: Path, importer: str) -> tuple[Tensors, dict[str, Any], Report]:
    """Tensors, header and report of ``source``. Raises UserError as `convert` does."""
    read_file, rename = IMPORTERS[importer]
    theirs = read_file(source)
    try:
        tensors, report = rename(theirs)
    except UserError as error:
        raise UserError(f"{source}: {error}") from None
    about = {
        "importer": importer,
        "source": source.name,
        "source_sha256": sha256(source),
        "code_digest": step_digest("weights"),
        "fills": FILLS[importer],
    }
    return tensors, about | (_whole_model(tensors) if "head.bias" in tensors else {}), report


def _whole_model(tensors: Tensors) -> dict[str, Any]:
    n_classes = len(tensors["head.bias"])
    lanets = {name.split(".")[2] for name in tensors if name.startswith("local_cnns.")}
    # Nothing is dropped in evaluation; the rates stay at 0, since one LANet is too few for MAD.
    model = ModelParams(name=MODEL, args={"num_lanets": len(lanets), "mad": 0.0, "msad": 0.0})
    return {
        "model": model.model_dump(mode="json"),
        "faces": FaceParams().model_dump(mode="json"),
        "classes": CLASSES if n_classes == len(CLASSES) else [f"class{label}" for label in range(n_classes)],
        "hflip_tta": False,
        # By the file's name, epoch 33 with 90.91 %: their training keeps the epoch that is best on the test set.
        "protocol": "test_selected",
        "epoch": 33,
    }


def _renamed(
    theirs: Tensors,
    rename: Callable[[str], str],
    fills: tuple[str, ...],
    not_wanted: dict[str, str],
    paddle: bool = False,
    **sizes: int,
) -> Imported:
    """The tensors that a model of these ``sizes`` has under ``fills``, from theirs. Raises UserError.

    ``not_wanted``: prefix of their names to the reason. ``paddle``: matrices are transposed, and batch norm's counters,
    which Paddle does not have, become 0.
    """
    with torch.device("meta"):  # names and shapes, without memory for the numbers
        expected = transfer_base(**sizes).state_dict()
    ours: Tensors = {}
    report = Report()
    for source, tensor in theirs.items():
        if reason := next((why for prefix, why in not_wanted.items() if source.startswith(prefix)), ""):
            report.not_wanted[source] = reason
            continue
        target = rename(source)
        if target not in expected or not target.startswith(fills) or target in ours:
            raise UserError(f"{source} ({shape_text(tensor)}): a tensor that such a file does not have")
        change = "transposed" if paddle and expected[target].ndim == 2 else ""
        wanted = expected[target].T if change else expected[target]
        if tensor.shape != wanted.shape:
            raise UserError(f"{source}: expected shape {shape_text(wanted)}, found {shape_text(tensor)}")
        if tensor.dtype != torch.int64 or not target.endswith("num_batches_tracked"):
            if not tensor.is_floating_point():
                raise UserError(f"{source}: expected floating point numbers, found {tensor.dtype}")
            tensor = tensor.float()
            if bad := int((~tensor.isfinite()).sum()):
                raise UserError(f"{source}: {bad} of {tensor.numel()} numbers are NaN or infinite; fetch it again")
        ours[target] = (tensor.T if change else tensor).contiguous()
        report.loaded.append(Loaded(source, target, tuple(ours[target].shape), change))
    for name, tensor in expected.items():
        if not name.startswith(fills):
            report.missing[name] = "not in such a file; starts fresh"
        elif paddle and name.endswith("num_batches_tracked"):
            report.missing[name] = "Paddle's batch norm counts no batches; without effect here"
            ours[name] = torch.zeros(tensor.shape, dtype=torch.int64)
    if absent := [f"{name} ({shape_text(expected[name])})" for name in expected if name not in ours | report.missing]:
        raise UserError(f"no tensor for {absent[0]}, and for {len(absent) - 1} more; fetch it again")
    return ours, report


def _stages(name: str) -> str:
    """body.<unit>, counted through all stages of the IR-50, to stages.<stage>.<unit>."""
    if not (found := re.match(r"body\.(\d{1,3})\.", name)):
        return name
    first = max(first for first in (0, 3, 7, 21) if first <= int(found[1]))
    return f"stages.{(0, 3, 7, 21).index(first)}.{int(found[1]) - first}.{name[found.end() :]}"


def _paddle_name(name: str) -> str:
    for pattern, ours in {
        r"^attention\.las\.": "local_cnns.lanets.",
        r"\.LA_conv1\.": ".0.",
        r"\.bn1\.": ".1.",
        r"\.LA_conv2\.": ".3.",
        r"\.bn2\.": ".4.",
        r"^convert\.proj\.": "proj.",
        r"^vit\.": "",
        r"^head\.fc\.": "head.",
        r"\._mean$": ".running_mean",
        r"\._variance$": ".running_var",
        r"\._weight$": ".weight",
    }.items():
        name = re.sub(pattern, ours, name)
    return f"stem.{_stages(name.removeprefix('extractor.'))}" if name.startswith("extractor.") else name
