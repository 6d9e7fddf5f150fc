"""The authors' TransFER in PaddlePaddle: RAFa_2_6131_ep33_90p91_param.pdiparams, a pickle of numpy arrays.

    theirs                                       ours
    extractor.input_layer.*, extractor.body.k.*  stem.*, units counted as in face_evolve.py
    attention.las.i.LA_conv1                     local_cnns.lanets.i.0
    attention.las.i.bn1                          local_cnns.lanets.i.1
    attention.las.i.LA_conv2                     local_cnns.lanets.i.3
    attention.las.i.bn2                          local_cnns.lanets.i.4
    convert.proj                                 proj
    vit.cls_token, .pos_embed, .blocks, .norm    cls_token, pos_embed, blocks, norm
    head.fc                                      head

Linear weights are (in, out) in Paddle and lie transposed; convolutions do not. Batch norm has _mean and _variance.
A PReLU's slope is called weight in the released file, and _weight by today's Paddle.
"""

import re
from collections.abc import Mapping
from typing import Any

from transfer.models.weights.face_evolve import body
from transfer.models.weights.importer import Importer, Shape, Theirs

# Label order of the authors' RAF-DB lists, which is RAF-DB's own (their labels 1 to 7, less 1).
CLASSES = ["surprise", "fear", "disgust", "happiness", "sadness", "anger", "neutral"]

_LANET = {"0": "LA_conv1", "1": "bn1", "3": "LA_conv2", "4": "bn2"}
_LINEAR = re.compile(r"(blocks\.\d+\.(attn\.(qkv|proj)|mlp\.fc[12])|head)\.weight")
_PRELU = re.compile(r"stem\.(input_layer|stages\.\d+\.\d+\.res_layer)\.2\.weight")
_COUNTER = r".*\.num_batches_tracked"


def _theirs(name: str) -> Theirs | None:
    if re.fullmatch(_COUNTER, name):
        return None
    part, _, rest = name.partition(".")
    if part == "stem":
        theirs = f"extractor.{body(rest)}"
    elif part == "local_cnns":
        theirs = re.sub(r"^lanets\.(\d+)\.(\d)", lambda at: f"attention.las.{at[1]}.{_LANET[at[2]]}", rest)
    else:
        theirs = {"proj": "convert.proj", "head": "head.fc"}.get(part, f"vit.{part}") + (f".{rest}" if rest else "")
    theirs = re.sub(r"running_mean$", "_mean", re.sub(r"running_var$", "_variance", theirs))
    if _PRELU.fullmatch(name):
        return Theirs((theirs, re.sub(r"weight$", "_weight", theirs)))
    return Theirs((theirs,), transposed=bool(_LINEAR.fullmatch(name)))


def _sizes(shapes: Mapping[str, Shape]) -> dict[str, Any]:
    """B from the LANets' numbers, the classes from the head."""
    lanets = [int(found[1]) for name in shapes if (found := re.match(r"attention\.las\.(\d{1,2})\.", name))]
    bias = shapes.get("head.fc.bias", ())
    return {"num_lanets": max(lanets, default=-1) + 1, "num_classes": bias[0] if len(bias) == 1 else len(CLASSES)}


TRANSFER_PADDLE = Importer(
    about="TransFER as its authors released it, trained on RAF-DB",
    format="paddle",
    fills=("",),
    theirs=_theirs,
    not_wanted={},
    supplied={_COUNTER: "Paddle's batch norm counts no batches; without effect here"},
    sizes=_sizes,
    # From the file's name: epoch 33 with 90.91 %. Their training tests every epoch on the test set and keeps the best.
    run={"protocol": "test_selected", "epoch": 33},
)
