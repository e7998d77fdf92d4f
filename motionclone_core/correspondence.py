"""Which way things move, as far as a motion representation tells.

Temporal attention compares a position with itself at other frames: what is kept of it holds no displacement in space.
But attention is sharp where something passes, and the sharp place moves along with it. So the kept attention of each
head is looked at as a film, and the film's optical flow is taken, by least squares in a window of space and time
(Lucas and Kanade, 1981; Bigün's structure tensor over all heads).

- The film is the logarithm of the strongest entry, less its median over the frame: a model's habits at each frame,
  which come from the positional encoding, are the same everywhere and drop out. Further entries add next to nothing.
- All lengths are shares of the frame, so that taps of any grid are read alike. A displacement of more than about an
  eighth of the frame from one frame to the next is beyond the window.
- A displacement is told where something stands out and the film changes as that displacement says. Where either is
  missing, as on still clips, on flat ground and in things that grow or turn on the spot, the confidence is low.

Shapes used here:
    c   channels, one a head of each tap      f   frames      h, w   cells of the finest grid
    p   positions of a tap, row by row      n   heads      k   kept entries per row of attention
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from .representation import MotionRepresentation, TapRepresentation
from .resampling import held_throughout
from .taps import select_taps

Array = NDArray[np.float32]

# Chosen on clips that the reported numbers do not come from (docs/CORRESPONDENCE.md).
ENOUGH = 0.27
"""The confidence from which on a displacement is worth an arrow."""

_FILM_SPACE, _WINDOW_SPACE = 1 / 16, 1 / 7  # standard deviations, in shares of the frame
_FILM_TIME, _WINDOW_TIME = 1.0, 1.0  # in frames
_DAMPING = 0.05  # of the median gradient: displacements of next to nothing stay small
_LEAST = 1e-4  # of attention; its logarithm must be finite


@dataclass(frozen=True)
class Correspondence:
    """Displacements from each frame to the next.

    Attributes:
        displacement: ``[f - 1, h, w, 2]``, to the right and down, in widths and heights of the frame per frame.
        confidence: ``[f - 1, h, w]``, at least 0: the geometric mean of how far the cell stands out, twice, and of
            how much change the displacement explains there (root mean square), both in logarithms of attention; times
            how much of the cell is guided.
    """

    displacement: Array
    confidence: Array

    @property
    def told(self) -> NDArray[np.bool_]:
        """Where the confidence is enough, ``[f - 1, h, w]``."""
        return self.confidence >= ENOUGH


def correspondence(representation: MotionRepresentation, taps: str = "*") -> Correspondence:
    """Estimate how things move from frame to frame.

    Args:
        representation: a motion; one that is retimed, placed or masked is taken as what it guides.
        taps: which taps to look at, see `taps.select_taps`.

    Raises:
        taps.UnknownTapError: a pattern matches none.
    """
    film, weights = _film(representation, select_taps(representation.taps, taps))
    cells = float(np.sqrt(film.shape[2] * film.shape[3]))
    standing_out = np.maximum((film[:, 1:] + film[:, :-1]).mean(0) / 2, 0)
    film = _smoothed(film, _FILM_TIME, _FILM_SPACE * cells)
    change, between = film[:, 1:] - film[:, :-1], (film[:, 1:] + film[:, :-1]) / 2
    counted = np.minimum(weights[1:], weights[:-1])
    gradients = [_slope(between, 3), _slope(between, 2), change]
    tensor = np.empty((3, 3, *change.shape[1:]), np.float32)
    for i, one in enumerate(gradients):
        for j, other in enumerate(gradients):
            tensor[i, j] = _smoothed((one * other).mean(0) * _eroded(counted), _WINDOW_TIME, _WINDOW_SPACE * cells)
    moved, explained = _least_squares(tensor)
    share = np.array([film.shape[3], film.shape[2]], np.float32)
    return Correspondence(moved / share, np.cbrt(standing_out**2 * np.sqrt(explained)) * counted)


def _film(representation: MotionRepresentation, names: tuple[str, ...]) -> tuple[Array, Array]:
    """The channels ``[c, f, h, w]``, 0 where nothing stands out, and how much each cell counts ``[f, h, w]``."""
    grids = [representation.taps[name].grid for name in names]
    finest = max(grids, key=lambda grid: grid[0] * grid[1])
    heads = sum(representation.taps[name].heads for name in names)
    film = np.zeros((heads, representation.frames, *finest), np.float32)
    weights = np.zeros((representation.frames, *finest), np.float32)
    seen = np.zeros((representation.frames, 1, 1), np.float32)
    for window, taps in held_throughout(representation).items():
        channels, counted = zip(*(_channels(taps[name], finest) for name in names), strict=True)
        film[:, list(window)] += np.concatenate(channels)
        weights[list(window)] += np.mean(counted, axis=0)
        seen[list(window)] += 1
    return film / seen, weights / seen


def _channels(tap: TapRepresentation, grid: tuple[int, int]) -> tuple[Array, Array]:
    """Of one tap: ``[n, f, h, w]``, and how much each cell counts ``[f, h, w]``."""
    kept = np.log(np.maximum(tap.values[..., 0].float().cpu().numpy(), _LEAST))  # [p, n, f]
    weights = np.ones((kept.shape[0], kept.shape[2]), np.float32) if tap.weights is None else tap.weights.cpu().numpy()
    guided = weights > 0
    usual = np.ma.median(np.ma.array(kept, mask=np.broadcast_to(~guided[:, None], kept.shape)), axis=0).filled(0)
    film = np.where(guided[:, None], kept - usual, 0).astype(np.float32)
    film = film.transpose(1, 2, 0).reshape(*kept.shape[1:], *tap.grid)
    counted = weights.T.reshape(-1, *tap.grid).astype(np.float32)
    return _resized(film, grid), _resized(counted, grid)


def _resized(maps: Array, grid: tuple[int, int]) -> Array:
    flat = maps.reshape(-1, *maps.shape[-2:])
    larger = [cv2.resize(one, grid[::-1], interpolation=cv2.INTER_LINEAR) for one in flat]
    return np.stack(larger).reshape(*maps.shape[:-2], *grid)


def _smoothed(maps: Array, time: float, space: float) -> Array:
    """Gaussian means over the last three axes; at the ends over what there is. ``space`` is in cells."""
    for axis, deviation in ((-3, time), (-2, space), (-1, space)):
        along = np.arange(maps.shape[axis])
        share = np.exp(-((along[:, None] - along) ** 2) / (2 * deviation**2))
        share = (share / share.sum(axis=1, keepdims=True)).astype(np.float32)
        maps = np.moveaxis(np.moveaxis(maps, axis, -1) @ share.T, -1, axis)
    return maps


def _slope(maps: Array, axis: int) -> Array:
    return np.gradient(maps, axis=axis) if maps.shape[axis] > 1 else np.zeros_like(maps)


def _eroded(weights: Array) -> Array:
    # A slope beside what is not guided is the border's, not the film's.
    return np.stack([cv2.erode(one, np.ones((3, 3), np.uint8)) for one in weights]) if len(weights) else weights


def _least_squares(tensor: Array) -> tuple[Array, Array]:
    """The displacement ``[f - 1, h, w, 2]`` in cells that explains most of the change, and how much it explains.

    ``tensor[i, j]`` holds the windowed products of the film's slopes along x and y and its change over time.
    """
    (xx, xy, xt), (_, yy, yt), _ = tensor
    damping = _DAMPING * np.median(xx + yy) + 1e-9 if xx.size else 0.0
    xx, yy = xx + damping, yy + damping
    moved = np.stack([xy * yt - yy * xt, xy * xt - xx * yt], axis=-1) / (xx * yy - xy * xy)[..., None]
    explained = -(moved[..., 0] * xt + moved[..., 1] * yt)
    return moved, np.maximum(explained, 0)
