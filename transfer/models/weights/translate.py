"""Their tensors to ours, one by one: all that must be there, of the right shape, and nothing that nobody explains."""

from collections.abc import Mapping

import torch
from torch import Tensor

from transfer.models.transfer import transfer_base
from transfer.models.weights.importer import Importer, Shape
from transfer.models.weights.report import Loaded, Report
from transfer.utils.errors import UserError

FRESH = "not in such a file; starts fresh"


def translate(importer: Importer, tensors: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], Report]:
    """The tensors of a file under our names, and the report.

    Raises UserError: a tensor is missing, has another shape, holds no numbers or not only finite ones, or is explained
    by nothing. The message has no file name; the caller puts it in front.
    """
    expected = _shapes_of_ours(importer, {name: tuple(value.shape) for name, value in tensors.items()})
    ours: dict[str, Tensor] = {}
    report, used, absent = Report(), set(), []
    for name, shape in expected.items():
        if not importer.is_filled(name):
            report.missing[name] = FRESH
            continue
        theirs = importer.theirs(name)
        if theirs is None:
            report.missing[name] = importer.reason(importer.supplied, name) or ""
            ours[name] = torch.zeros(shape, dtype=torch.int64)
            continue
        source = next((key for key in theirs.names if key in tensors), None)
        if source is None:
            absent.append(f"{' or '.join(theirs.names)} ({_text(theirs.shape(shape))})")
            continue
        tensor, wanted = tensors[source], theirs.shape(shape)
        if tuple(tensor.shape) != wanted:
            raise UserError(f"{source}: expected shape {_text(wanted)}, found {_text(tuple(tensor.shape))}")
        used.add(source)
        ours[name] = _checked(source, tensor.T if theirs.transposed else tensor, name.endswith("num_batches_tracked"))
        report.loaded.append(Loaded(source, name, shape, "transposed" if theirs.transposed else ""))
    _explain_the_rest(importer, tensors, used, report)
    if absent:
        more = f", and {len(absent) - 1} more" if len(absent) > 1 else ""
        raise UserError(f"tensor {absent[0]}{more} missing; expected {importer.about}")
    return ours, report


def _shapes_of_ours(importer: Importer, shapes: Mapping[str, Shape]) -> dict[str, Shape]:
    """Names and shapes of the model that the file was made for; without memory for its numbers."""
    with torch.device("meta"):
        model = transfer_base(**importer.sizes(shapes))
    return {name: tuple(value.shape) for name, value in model.state_dict().items()}


def _checked(source: str, tensor: Tensor, counter: bool) -> Tensor:
    """As stored in our files: contiguous, float32 but for the counters of batch norm."""
    if counter and tensor.dtype == torch.int64:
        return tensor.contiguous()
    if not tensor.is_floating_point():
        raise UserError(f"{source}: expected floating point numbers, found {tensor.dtype}")
    tensor = tensor.float().contiguous()
    bad = int((~tensor.isfinite()).sum())
    if bad:
        raise UserError(f"{source}: {bad} of {tensor.numel()} numbers are NaN or infinite; fetch the file again")
    return tensor


def _explain_the_rest(importer: Importer, tensors: Mapping[str, Tensor], used: set[str], report: Report) -> None:
    for name, tensor in tensors.items():
        if name in used:
            continue
        why = importer.reason(importer.not_wanted, name)
        if why is None:
            raise UserError(f"{name} ({_text(tuple(tensor.shape))}): a tensor that {importer.about} does not have")
        report.not_wanted[name] = why


def _text(shape: Shape) -> str:
    return "x".join(map(str, shape)) or "one number"
