"""Where the cells of a layer lie in a frame: a UNet halves its latent, and a call may see a part of it (pure).

Sizes are height and width, lengths are in latent cells (pixels / 8 for SD).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

_MOST_HALVINGS = 6

Size = tuple[int, int]  # height and width


class RepresentationMismatchError(ValueError):
    """A representation does not fit the model or the video that it is to guide."""


@dataclass(frozen=True)
class Crop:
    """A rectangle of latent cells that a model call sees (an area condition)."""

    top: int
    left: int
    height: int
    width: int


def halved(size: int, times: int) -> int:
    """``size`` after ``times`` strided convolutions, each of which halves it and rounds up."""
    for _ in range(times):
        size = -(-size // 2)
    return size


def halvings(latent_size: Size, positions: int) -> int:
    """How often a UNet has halved the latent when a layer sees ``positions`` cells.

    Raises:
        RepresentationMismatchError: no number of halvings gives that many.
    """
    for times in range(_MOST_HALVINGS + 1):
        if halved(latent_size[0], times) * halved(latent_size[1], times) == positions:
            return times
    raise RepresentationMismatchError(
        f"a layer sees {positions} positions, which no halving of a latent of {latent_size[1]} x "
        f"{latent_size[0]} cells gives: this model does not shrink its input the way a UNet does"
    )


@dataclass(frozen=True)
class Frame:
    """Where the rectangle that a motion was read in lies in the frame that it guides, by default all over it.

    Lengths are parts of the guided frame's height and width. Each axis is stretched by itself: a motion that was read
    in a square fills a wide frame.

    Attributes:
        top, left: where the rectangle begins; may be negative.
        height, width: how large it is; positive.
    """

    top: float = 0.0
    left: float = 0.0
    height: float = 1.0
    width: float = 1.0

    @property
    def inside(self) -> float:
        """Which part of the guided frame it covers."""
        height = min(self.top + self.height, 1.0) - max(self.top, 0.0)
        width = min(self.left + self.width, 1.0) - max(self.left, 0.0)
        return max(height, 0.0) * max(width, 0.0)

    def holds(self, height: int, width: int) -> Tensor:
        """Which pixels of the guided frame it covers, by their centres: ``[height, width]``, booleans."""
        y, x = ((torch.arange(count) + 0.5) / count for count in (height, width))
        rows = (y >= self.top) & (y < self.top + self.height)
        return rows[:, None] & ((x >= self.left) & (x < self.left + self.width))

    def __post_init__(self) -> None:
        if not (self.height > 0 and self.width > 0):
            raise ValueError(f"a frame of {self.width:g} x {self.height:g} is empty: both must be above 0")


@dataclass(frozen=True)
class Cells:
    """The grid of a layer: a latent, halved a number of times.

    Attributes:
        latent: height and width.
        times: how often it is halved.
    """

    latent: Size
    times: int

    @property
    def grid(self) -> Size:
        return halved(self.latent[0], self.times), halved(self.latent[1], self.times)

    def centres(self, crop: Crop) -> tuple[Tensor, Tensor]:
        """The centres of the cells of a call that sees ``crop``, ``[rows]`` and ``[columns]``, in latent cells."""
        return self._centres(0, crop.top, crop.height), self._centres(1, crop.left, crop.width)

    def _centres(self, axis: int, start: int, length: int) -> Tensor:
        side = 2**self.times
        begins = start + torch.arange(halved(length, self.times), dtype=torch.float64) * side
        # The last cell of an odd length hangs over the edge.
        return (begins + (begins + side).clamp(max=self.latent[axis])) / 2

    def at(self, rows: Tensor, columns: Tensor, size: Size, frame: Frame) -> tuple[Tensor, Tensor]:
        """The cells under places of another latent; -1 where there is none.

        Args:
            rows, columns: places, in cells of that latent.
            size: height and width of that latent.
            frame: where in it these cells lie.

        Returns:
            Row of each of ``rows``, column of each of ``columns``.
        """
        return (
            self._at(0, rows, size[0], frame.top, frame.height),
            self._at(1, columns, size[1], frame.left, frame.width),
        )

    def _at(self, axis: int, places: Tensor, size: int, begin: float, extent: float) -> Tensor:
        offsets = places - begin * size
        # One division, so that sizes that are equal cancel out to the bit.
        found = ((offsets * self.latent[axis]) / (extent * size * 2**self.times)).floor().long()
        return found.where((offsets >= 0) & (offsets < extent * size), -1)
