"""Means over rectangles of whole pixels, from sums that are made once for each picture."""

import torch

from transfer.faces.networks import CHANNELS


class Areas:
    """Pictures from which levels of a pyramid and crops are taken, each cell the mean of the pixels that it meets.

    The cells are those of torch's ``interpolate(mode="area")``, which facenet-pytorch calls for every crop by itself;
    here all crops of a batch are taken at once, from a summed-area table.
    """

    def __init__(self, pixels: torch.Tensor) -> None:
        """``pixels`` is (N, H, W, 3) uint8; 255 H W must fit into 31 bits: at most 8.4 megapixels."""
        n, height, width, _ = pixels.shape
        sums = torch.zeros(n, height + 1, width + 1, CHANNELS, dtype=torch.int32, device=pixels.device)
        sums[:, 1:, 1:, :3] = pixels
        self._sums = _pack(sums.cumsum_(1).cumsum_(2))  # in place: new memory would cost more than the sums

    def __len__(self) -> int:
        """Number of pictures."""
        return len(self._sums)

    def level(self, height: int, width: int, part: slice) -> torch.Tensor:
        """The pictures ``part`` at another size: (n, height, width, 4) float32 from 0 to 255."""
        sums = self._sums[part]
        (top, bottom), (left, right) = (
            _cells(0, length - 1, count, sums.device)
            for length, count in zip(sums.shape[1:], (height, width), strict=True)
        )
        rows = _pack(_unpack(sums.index_select(1, bottom)).sub_(_unpack(sums.index_select(1, top))))
        total = _unpack(rows.index_select(2, right)).sub_(_unpack(rows.index_select(2, left)))
        return total * _inverse((bottom - top)[:, None] * (right - left))

    def crops(self, owner: torch.Tensor, cut: torch.Tensor, side: int) -> torch.Tensor:
        """Rectangles as squares: (M, side, side, 4) float32 from 0 to 255.

        ``owner`` (M,) numbers the pictures, ``cut`` (M, 4) holds x0, y0, x1, y1, whole numbers: x0 <= x < x1.
        """
        height, width = self._sums.shape[1:]
        x0, y0, x1, y1 = cut[:, :, None].unbind(1)
        left, right = _cells(x0, x1 - x0, side, cut.device)
        top, bottom = _cells(y0, y1 - y0, side, cut.device)
        size = (bottom - top)[:, :, None] * (right - left)[:, None]
        top, bottom = (((owner[:, None] * height + row) * width)[:, :, None] for row in (top, bottom))
        left, right = left[:, None], right[:, None]
        total = self._at(bottom + right).sub_(self._at(bottom + left))
        total.sub_(self._at(top + right)).add_(self._at(top + left))
        return total * _inverse(size)

    def _at(self, index: torch.Tensor) -> torch.Tensor:
        """Sums up to the pixels of these numbers."""
        return _unpack(self._sums.view(-1).index_select(0, index.flatten())).view(*index.shape, CHANNELS)


def _cells(start: torch.Tensor | int, length: torch.Tensor | int, count: int, device: torch.device) -> tuple:
    """First, and one past the last, of the pixels that each of ``count`` cells meets; neighbours may share one."""
    step = torch.arange(count, device=device)
    return start + step * length // count, start - (-(step + 1) * length // count)


def _inverse(size: torch.Tensor) -> torch.Tensor:
    return (1 / size)[..., None]


def _pack(sums: torch.Tensor) -> torch.Tensor:
    """A pixel's four sums of 4 bytes as one value of 16: it moves at once, which is ten times as fast."""
    return sums.view(torch.complex128).squeeze(-1)


def _unpack(packed: torch.Tensor) -> torch.Tensor:
    return packed.unsqueeze(-1).view(torch.int32)
