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

from .grids import Cells, Frame, RepresentationMismatchError, Size, halvings
from .taps import block_of

_FINE = 64  # cells along each side, at least, where a mask meets a frame
Window = tuple[int, ...]  # the frames that a model sees at once


def index_dtype(frames: int) -> torch.dtype:
    """The smallest integer type of safetensors that holds the indices 0 to ``frames - 1``."""
    if frames <= 256:
        return torch.uint8
    return torch.int16 if frames <= 2**15 else torch.int32


def latent_frames(frames: int, group: int) -> int:
    """How many latent frames a video has.

    Args:
        frames: of the video.
        group: see `Provenance.group`.

    Raises:
        ValueError: the frames do not fill them.
    """
    over = (frames - 1) % group
    if frames < 1 or over:
        fitting = f"{frames - over} or {frames - over + group}" if frames > over + 1 else f"{group + 1}"
        raise ValueError(
            f"{frames} frames fill no whole number of latent frames, each of which is {group} after the first, which "
            f"is one: take {fitting}"
        )
    return (frames - 1) // group + 1


@dataclass(frozen=True)
class TapRepresentation:
    """What is kept of the attention of one tap.

    Attributes:
        values: kept entries of A_ref, float16, ``[p, n, f, k]`` (L without its zeros).
        indices: the frames they point at, smallest integer type, same shape (the ones of M).
        grid: height and width of the tap's grid, p = height * width.
        weights: how much each cell of each frame counts, 0 to 1, ``[p, f]``; None is 1 everywhere.
    """

    values: Tensor
    indices: Tensor
    grid: Size
    weights: Tensor | None = None

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
        if self.weights is not None and self.weights.shape != (self.values.shape[0], self.frames):
            raise ValueError(
                f"weights of shape {tuple(self.weights.shape)} do not fit {self.values.shape[0]} positions and "
                f"{self.frames} frames"
            )

    @property
    def heads(self) -> int:
        return self.values.shape[1]

    @property
    def frames(self) -> int:
        return self.values.shape[2]

    @property
    def k(self) -> int:
        return self.values.shape[3]

    def to(self, device: torch.device | str) -> TapRepresentation:
        """On another device; the tensors are always new, so that autograd may save them."""
        weights = None if self.weights is None else self.weights.clone().to(device)
        return TapRepresentation(self.values.clone().to(device), self.indices.clone().to(device), self.grid, weights)

    @classmethod
    def compact(cls, values: Tensor, indices: Tensor, grid: tuple[int, int]) -> TapRepresentation:
        """Store ``values`` in float16 and ``indices`` in the smallest integer type, on the CPU."""
        frames = values.shape[2]
        return cls(values.detach().to("cpu", torch.float16), indices.to("cpu", index_dtype(frames)), grid)


def _require_grid(name: str, grid: Size, latent_size: Size) -> None:
    if min(latent_size) < 1:
        raise ValueError(f"a latent of {latent_size[1]} x {latent_size[0]} cells is empty")
    if grid != Cells(latent_size, halvings(latent_size, grid[0] * grid[1])).grid:
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


@dataclass(frozen=True)
class Provenance:
    """Where a representation comes from.

    Attributes:
        source: name of the reference, for people.
        architecture: model family and base, such as ``animatediff/SD1.5``; guidance needs the same one.
        fingerprint: of the tapped weights; another one is worth a warning only.
        t_alpha: timestep of the single denoising step, 0 to 999.
        noise_seed: seed of the noise added to the reference.
        group: frames of the video in each latent frame but the first, which is one; 4 of CogVideoX and Wan.
    """

    source: str = ""
    architecture: str = ""
    fingerprint: str = ""
    t_alpha: int = 400
    noise_seed: int = 0
    group: int = 1


@dataclass(frozen=True)
class MotionRepresentation:
    """A motion, read off a reference video.

    Attributes:
        windows: what is kept, by tap name, of every window: of each lot of frames that the model saw at once. A clip
            that it saw whole is one window. Windows may overlap; together they hold every frame.
        latent_size: height and width of the latent that it was made from (pixels / 8 for SD).
        provenance: where it comes from.
        frame: where it lies in the frame that it guides.
        timing: which of its own frames each frame that it guides follows; None is each its own.
        mask: how much each place of the guided frame counts, 0 to 1, ``[f or 1, H, W]`` of any size; None is 1.
        foreground: where chosen words lie in the reference, 0 to 1 in each of its frames, float16, ``[f, y, x]`` on
            the grid of the layers that tell; None if none were chosen.
    """

    windows: Mapping[Window, Mapping[str, TapRepresentation]]
    latent_size: Size
    provenance: Provenance = field(default_factory=Provenance)
    frame: Frame = field(default_factory=Frame)
    timing: tuple[int, ...] | None = None
    mask: Tensor | None = None
    foreground: Tensor | None = None

    def __post_init__(self) -> None:
        if not self.windows or not all(self.windows.values()):
            raise ValueError("a motion representation needs at least one tap")
        _require_windows(self.windows)
        for taps in self.windows.values():
            for name, tap in taps.items():
                _require_grid(name, tap.grid, self.latent_size)
        self._require_edits()
        self._require_foreground()

    def _require_foreground(self) -> None:
        if self.foreground is None:
            return
        if self.foreground.ndim != 3 or len(self.foreground) != self.own_frames:
            raise ValueError(f"words of shape {list(self.foreground.shape)} do not lie in {self.own_frames} frames")
        _require_grid("the layer of the words", tuple(self.foreground.shape[1:]), self.latent_size)

    def _require_edits(self) -> None:
        own = range(self.own_frames)
        if self.timing is not None and not (self.timing and all(frame in own for frame in self.timing)):
            raise ValueError(f"a motion of {self.own_frames} frames cannot be timed by {list(self.timing)}")
        if self.mask is not None and (self.mask.ndim != 3 or len(self.mask) not in (1, self.frames)):
            raise ValueError(f"a mask of shape {list(self.mask.shape)} does not fit {self.frames} frames")

    @classmethod
    def whole(
        cls, taps: Mapping[str, TapRepresentation], latent_size: Size, provenance: Provenance | None = None
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
    def own_frames(self) -> int:
        """Of the reference."""
        return 1 + max(max(window) for window in self.windows)

    @property
    def frames(self) -> int:
        """Of the video that it guides."""
        return self.own_frames if self.timing is None else len(self.timing)

    @property
    def k(self) -> int:
        return next(iter(self.taps.values())).k

    @property
    def shown_frames(self) -> int:
        """Of the video that it guides, as people see them: a latent frame may be several."""
        return self.provenance.group * (self.frames - 1) + 1

    @property
    def blocks(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(block_of(tap) for tap in self.taps))

    def nbytes(self) -> int:
        """Bytes of all tensors."""
        taps = (tap for taps in self.windows.values() for tap in taps.values())
        stored = sum(tap.values.nbytes + tap.indices.nbytes for tap in taps)
        return stored + sum(0 if held is None else held.nbytes for held in (self.mask, self.foreground))

    @property
    def coverage(self) -> float:
        """How much of the clip it guides: the mean square of its mask inside its frame, 1 if nothing is left out."""
        if self.mask is None:
            return self.frame.inside
        mask, size = self.mask.float(), [max(side, _FINE) for side in self.mask.shape[1:]]
        if self.frame != Frame():
            mask = torch.nn.functional.interpolate(mask[:, None], size)[:, 0] * self.frame.holds(*size)
        return float(mask.square().mean())

    def require_frames(self, frames: int, group: int = 1) -> None:
        """Check that a video to be guided has as many frames, each but the first of ``group`` that people see.

        Raises:
            RepresentationMismatchError: it has not, or others are in a group; the message says both numbers.
        """
        if group != self.provenance.group:
            raise RepresentationMismatchError(
                f"a frame of the motion representation is {self.provenance.group} of the video, one of this model is "
                f"{group}: extract it again with this model"
            )
        if frames != self.frames:
            kind = "" if group == 1 else " latent"
            seen = "" if group == 1 else f" ({self.shown_frames} and {group * (frames - 1) + 1} of the video)"
            raise RepresentationMismatchError(
                f"the motion representation has {self.frames}{kind} frames, the latent to sample has {frames}{seen}: "
                f"make both the same (frames of Load Reference Video, length or batch size of the empty latent), or "
                f"put Retime Motion between"
            )
