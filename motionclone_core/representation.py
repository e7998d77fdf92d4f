"""The motion representation H = {L, M} (paper, Eq. 6), kept sparse.

Shapes used here:
    p   spatial positions of a tap, row by row: height * width of its grid
    n   heads
    f   frames
    k   kept entries per row of attention
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from .taps import block_of

Window = tuple[int, ...]  # the frames that a model sees at once

_MOST_HALVINGS = 6


class RepresentationMismatchError(ValueError):
    """A representation does not fit the model or the video that it is to guide."""


def index_dtype(frames: int) -> torch.dtype:
    """The smallest integer type of safetensors that holds the indices 0 to ``frames - 1``."""
    if frames <= 256:
        return torch.uint8
    return torch.int16 if frames <= 2**15 else torch.int32


def halved(size: int, times: int) -> int:
    """``size`` after ``times`` strided convolutions, each of which halves it and rounds up."""
    for _ in range(times):
        size = -(-size // 2)
    return size


def halvings(latent_size: tuple[int, int], positions: int) -> int:
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
class Crop:
    """A rectangle of latent cells that a model call sees (an area condition); all of it by default."""

    top: int
    left: int
    height: int
    width: int


@dataclass(frozen=True)
class TapRepresentation:
    """What is kept of the attention of one tap.

    Attributes:
        values: kept entries of A_ref, float16, ``[p, n, f, k]`` (L without its zeros).
        indices: the frames they point at, smallest integer type, same shape (the ones of M).
        grid: height and width of the tap's grid, p = height * width.
    """

    values: Tensor
    indices: Tensor
    grid: tuple[int, int]

    def __post_init__(self) -> None:
        if self.values.shape != self.indices.shape or self.values.ndim != 4:
            raise ValueError(
                f"values and indices need one shape [positions, heads, frames, k], got "
                f"{tuple(self.values.shape)} and {tuple(self.indices.shape)}"
            )
        if min(self.grid) < 1 or self.values.shape[0] != self.grid[0] * self.grid[1]:
            raise ValueError(
                f"{self.values.shape[0]} positions do not fill a grid of {self.grid[0]} x {self.grid[1]}"
            )
        if self.heads < 1:
            raise ValueError("a tap has 0 heads: at least 1 is needed")
        if not 1 <= self.k <= self.frames:
            raise ValueError(f"{self.k} entries are kept of rows that have {self.frames}")

    @property
    def heads(self) -> int:
        return self.values.shape[1]

    @property
    def frames(self) -> int:
        return self.values.shape[2]

    @property
    def k(self) -> int:
        return self.values.shape[3]

    def cropped(self, crop: Crop, latent_size: tuple[int, int]) -> TapRepresentation:
        """The part under ``crop``: each cell of the crop's own grid takes the cell its centre lies in.

        Args:
            crop: in latent cells.
            latent_size: height and width of the whole latent.
        """
        if crop == Crop(0, 0, *latent_size):
            return self
        times = halvings(latent_size, self.grid[0] * self.grid[1])
        rows = _cells_under(crop.top, crop.height, times, self.grid[0])
        columns = _cells_under(crop.left, crop.width, times, self.grid[1])
        cells = (rows[:, None] * self.grid[1] + columns).flatten()
        return TapRepresentation(self.values[cells], self.indices[cells], (len(rows), len(columns)))

    def to(self, device: torch.device | str) -> TapRepresentation:
        """On another device; the tensors are always new, so that autograd may save them."""
        return TapRepresentation(self.values.clone().to(device), self.indices.clone().to(device), self.grid)

    @classmethod
    def compact(cls, values: Tensor, indices: Tensor, grid: tuple[int, int]) -> TapRepresentation:
        """Store ``values`` in float16 and ``indices`` in the smallest integer type, on the CPU."""
        frames = values.shape[2]
        return cls(values.detach().to("cpu", torch.float16), indices.to("cpu", index_dtype(frames)), grid)


def _cells_under(start: int, length: int, times: int, cells: int) -> Tensor:
    side = 2**times
    centres = start + (torch.arange(halved(length, times)) + 0.5) * side
    return (centres / side).floor().long().clamp(0, cells - 1)


def _require_grid(name: str, grid: tuple[int, int], latent_size: tuple[int, int]) -> None:
    if min(latent_size) < 1:
        raise ValueError(f"a latent of {latent_size[1]} x {latent_size[0]} cells is empty")
    times = halvings(latent_size, grid[0] * grid[1])
    if grid != (halved(latent_size[0], times), halved(latent_size[1], times)):
        raise ValueError(
            f"{name} has a grid of {grid[1]} x {grid[0]} cells, which no halving of a latent of "
            f"{latent_size[1]} x {latent_size[0]} cells gives"
        )


def _require_windows(windows: Mapping[Window, Mapping[str, TapRepresentation]]) -> None:
    """Check that windows are alike and that together they hold every frame."""
    for window, taps in windows.items():
        found = {tap.frames for tap in taps.values()}
        if found != {len(window)} or len(set(window)) != len(window):
            raise ValueError(f"a window of {len(window)} frames holds taps of {sorted(found)}")
    kept = {tap.k for taps in windows.values() for tap in taps.values()}
    if len(kept) > 1:
        raise ValueError(f"the taps of one representation differ in k: {sorted(kept)}")
    if len({tuple((name, tap.grid, tap.heads) for name, tap in taps.items()) for taps in windows.values()}) > 1:
        raise ValueError("the windows of one representation differ in their taps")
    held = {frame for window in windows for frame in window}
    if min(held) != 0 or len(held) != max(held) + 1:
        raise ValueError(f"the windows leave out frames of 0 to {max(held)}: they hold {sorted(held)}")


def _spoken(window: Window) -> str:
    """A window in words, with frames counted from 1 as people do."""
    if window == tuple(range(window[0], window[0] + len(window))):
        return f"frames {window[0] + 1} to {window[-1] + 1}"
    return f"frames {', '.join(str(frame + 1) for frame in window)}"


@dataclass(frozen=True)
class Provenance:
    """Where a representation comes from.

    Attributes:
        source: name of the reference, for people.
        architecture: model family and base, such as ``animatediff/SD1.5``; guidance needs the same one.
        fingerprint: of the tapped weights; another one is worth a warning only.
        t_alpha: timestep of the single denoising step, 0 to 999.
        noise_seed: seed of the noise added to the reference.
    """

    source: str = ""
    architecture: str = ""
    fingerprint: str = ""
    t_alpha: int = 400
    noise_seed: int = 0


@dataclass(frozen=True)
class MotionRepresentation:
    """A motion, read off a reference video.

    Attributes:
        windows: what is kept, by tap name, of every window: of each lot of frames that the model saw at once. A clip
            that it saw whole is one window. Windows may overlap; together they hold every frame.
        latent_size: height and width of the latent that it was made from (pixels / 8 for SD).
        provenance: where it comes from.
    """

    windows: Mapping[Window, Mapping[str, TapRepresentation]]
    latent_size: tuple[int, int]
    provenance: Provenance = field(default_factory=Provenance)

    def __post_init__(self) -> None:
        if not self.windows or not all(self.windows.values()):
            raise ValueError("a motion representation needs at least one tap")
        _require_windows(self.windows)
        for taps in self.windows.values():
            for name, tap in taps.items():
                _require_grid(name, tap.grid, self.latent_size)

    @classmethod
    def whole(
        cls, taps: Mapping[str, TapRepresentation], latent_size: tuple[int, int], provenance: Provenance | None = None
    ) -> MotionRepresentation:
        """Of a clip that the model saw whole.

        Args:
            taps: what is kept, by tap name.
            latent_size: see the class.
            provenance: likewise.
        """
        frames = next(iter(taps.values())).frames if taps else 0
        return cls({tuple(range(frames)): taps}, latent_size, provenance or Provenance())

    @property
    def taps(self) -> Mapping[str, TapRepresentation]:
        """Of the first window; names, grids, heads and k are those of all."""
        return next(iter(self.windows.values()))

    @property
    def frames(self) -> int:
        return 1 + max(max(window) for window in self.windows)

    @property
    def k(self) -> int:
        return next(iter(self.taps.values())).k

    @property
    def blocks(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(block_of(tap) for tap in self.taps))

    def nbytes(self) -> int:
        """Bytes of all values and indices."""
        taps = (tap for taps in self.windows.values() for tap in taps.values())
        return sum(tap.values.nbytes + tap.indices.nbytes for tap in taps)

    def within(self, window: Window) -> Mapping[str, TapRepresentation]:
        """What is kept of one window, by tap name.

        Raises:
            RepresentationMismatchError: the motion was not read in such a window.
        """
        if window not in self.windows:
            read = ", ".join(_spoken(known) for known in self.windows)
            raise RepresentationMismatchError(
                f"the model is given {_spoken(window)} at once, the motion representation was read in {read}: extract "
                f"it again from a MODEL with the same Context Options"
            )
        return self.windows[window]

    def require_video(self, frames: int, latent_size: tuple[int, int]) -> None:
        """Check that a video to be guided has the size of this representation.

        Raises:
            RepresentationMismatchError: frames or size differ; the message says both numbers.
        """
        if frames != self.frames:
            raise RepresentationMismatchError(
                f"the motion representation has {self.frames} frames, the latent to sample has {frames}: "
                f"make both the same (frames of Load Reference Video, batch size of the empty latent)"
            )
        if tuple(latent_size) != tuple(self.latent_size):
            made, got = self.latent_size, latent_size
            raise RepresentationMismatchError(
                f"the motion representation was made at {made[1]} x {made[0]} latent cells, the latent to "
                f"sample is {got[1]} x {got[0]} (width x height, pixels / 8): sample at the reference's "
                f"size or extract again at the new one"
            )
