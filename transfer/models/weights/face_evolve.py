"""face.evoLVe's IR-50, trained on MS-Celeb-1M: backbone_ir50_ms1m_epoch120.pth, a torch state dict (model_irse.py).

    theirs                     ours
    input_layer.*              stem.input_layer.*
    body.0 to body.2           stem.stages.0.0 to stem.stages.0.2     64 channels
    body.3 to body.6           stem.stages.1.0 to stem.stages.1.3    128
    body.7 to body.20          stem.stages.2.0 to stem.stages.2.13   256
    body.21 to body.23         stem.stages.3.0 to stem.stages.3.2    512, left out by models with three stages
    output_layer.*             -

Inside a unit the names are the same.
"""

import re

from transfer.models.weights.importer import Importer, Theirs

UNITS = (3, 4, 14, 3)


def body(name: str) -> str:
    """Name of ours without "stem." to theirs: the units are counted through all stages."""
    return re.sub(r"^stages\.(\d)\.(\d+)", lambda at: f"body.{sum(UNITS[: int(at[1])]) + int(at[2])}", name)


IR50 = Importer(
    about="IR-50 of face.evoLVe, trained on MS-Celeb-1M",
    format="torch",
    fills=("stem.",),
    theirs=lambda name: Theirs((body(name.removeprefix("stem.")),)),
    not_wanted={r"output_layer\..+": "face recognition's own last layers"},
    sizes=lambda shapes: {"stem_stages": 4},
)
