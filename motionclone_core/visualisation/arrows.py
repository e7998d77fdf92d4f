"""Displacements as arrows over a video.

Pictures are uint8 RGB, pixel (0, 0) is the top left one and its centre has the coordinates (0, 0).

Shapes used here: f frames, h, w cells, H, W pixels.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from .canvas import OUTLINE, PATH_COLOUR, Picture, Video, area_cover, painted, require_video

AHEAD = 3
"""How many frames an arrow looks ahead: from one to the next things move too little to be seen."""

_MOST = 14  # arrows along the longer side: more than that are no arrows but a fur
_HEAD, _BARB = 2.9, 1.6  # length of a head and half its width, in widths of a shaft
_SHORTEST = 0.35  # of a head: shorter than that an arrow has no direction that could be seen


def draw_arrows(
    video: Video, displacement: NDArray[np.floating], confidence: NDArray[np.floating], told: NDArray[np.bool_]
) -> Video:
    """Draw where things will be `AHEAD` frames on if they go on as they do.

    Args:
        video: ``[f, H, W, 3]``.
        displacement: ``[f - 1, h, w, 2]``, to the right and down in widths and heights of the frame per frame. An
            arrow begins at the middle of its cell. The last frame, from which nothing moves on, shows the same
            arrows as the one before.
        confidence: ``[f - 1, h, w]``; of too many arrows those of the highest remain.
        told: ``[f - 1, h, w]``, where there is to be an arrow.

    Returns:
        A new video of the same shape.

    Raises:
        ValueError: the shapes do not fit.
    """
    require_video("the video", video)
    _require_cells(displacement, confidence, told, len(video))
    out = video.copy()
    for i in range(len(out) if len(displacement) else 0):
        pair = min(i, len(displacement) - 1)
        cells = _thinned(told[pair], confidence[pair])
        out[i] = _with_arrows(out[i], cells, displacement[pair])
    return out


def _require_cells(
    displacement: NDArray[np.floating], confidence: NDArray[np.floating], told: NDArray[np.bool_], frames: int
) -> None:
    if displacement.ndim != 4 or displacement.shape[3] != 2:
        raise ValueError(f"displacements must be [frames - 1, height, width, 2], got {displacement.shape}")
    if not displacement.shape[:3] == confidence.shape == told.shape:
        raise ValueError(
            f"displacements of {displacement.shape[:3]} cells, a confidence of {confidence.shape} and arrows of "
            f"{told.shape}: they must be the same"
        )
    if len(displacement) != frames - 1:
        raise ValueError(f"the arrows have {len(displacement) + 1} frames, the video has {frames}")


def _thinned(told: NDArray[np.bool_], confidence: NDArray[np.floating]) -> NDArray[np.intp]:
    """Rows and columns of the arrows of one frame, ``[arrows, 2]``: of each block of cells the most certain."""
    side = -(-max(told.shape) // _MOST)
    best: dict[tuple[int, int], tuple[float, int, int]] = {}
    for row, column in np.argwhere(told):
        found = (float(confidence[row, column]), int(row), int(column))
        block = (row // side, column // side)
        best[block] = max(best.get(block, found), found)
    return np.array([cell[1:] for cell in best.values()], np.intp).reshape(-1, 2)


def _with_arrows(picture: Picture, cells: NDArray[np.intp], displacement: NDArray[np.floating]) -> Picture:
    shape = picture.shape[:2]
    size = np.array(shape[::-1], np.float64)
    grid = np.array(displacement.shape[1::-1])
    pen = max(1.0, min(shape) / 110)
    starts = (cells[:, ::-1] + 0.5) / grid * size - 0.5
    ways = AHEAD * displacement[cells[:, 0], cells[:, 1]] * size
    seen = np.linalg.norm(ways, axis=1) > _SHORTEST * _HEAD * pen
    arrows = list(zip(starts[seen], ways[seen], strict=True))
    picture = painted(picture, area_cover(shape, _outlines(arrows, pen, 0.8 * pen)), OUTLINE, 0.85)
    return painted(picture, area_cover(shape, _outlines(arrows, pen, 0.0)), PATH_COLOUR, 1.0)


def _outlines(
    arrows: Sequence[tuple[NDArray[np.float64], NDArray[np.float64]]], pen: float, edge: float
) -> list[NDArray[np.float64]]:
    return [_outline(start, way, pen, edge) for start, way in arrows]


def _outline(
    start: NDArray[np.float64], way: NDArray[np.float64], pen: float, edge: float
) -> NDArray[np.float64]:
    """An arrow as a polygon, grown by an edge: a shaft that widens, a head with its tip where the way ends."""
    length = float(np.linalg.norm(way))
    along = way / length
    head = min(_HEAD * pen, 0.75 * length)
    barb = _BARB * pen * head / (_HEAD * pen)
    # The sides of the head meet at an angle: a band of even width round it reaches farther at its corners.
    slant = float(np.hypot(head, barb))
    tip, side, back = length + edge * slant / barb, barb + edge * (slant + barb) / head, length - head - edge
    thin, thick = 0.25 * pen + edge, 0.5 * min(pen, barb) + edge
    half = [(-edge, thin), (back, thick), (back, side)]
    corners = [*half, (tip, 0.0), *((a, -b) for a, b in reversed(half))]
    across = np.array([-along[1], along[0]])
    return np.array([start + a * along + b * across for a, b in corners])
