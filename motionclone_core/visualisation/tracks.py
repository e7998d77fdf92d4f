"""Where things go, drawn into a video.

Pictures are uint8 RGB, pixel (0, 0) is the top left one and its centre has the coordinates (0, 0).

Shapes used here: f frames, H, W pixels, o objects.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from .canvas import (
    COMPARED_COLOUR,
    OUTLINE,
    PATH_COLOUR,
    Colour,
    Picture,
    Video,
    dot_cover,
    line_cover,
    painted,
    require_video,
)


def draw_paths(
    video: Video,
    paths: NDArray[np.floating],
    *,
    compared: NDArray[np.floating] | None = None,
    measured_in: tuple[int, int] | None = None,
) -> Video:
    """Draw where things go: a line up to the current frame, faint afterwards, and a dot where they are now.

    Args:
        video: ``[f, H, W, 3]``.
        paths: ``[o, f, 2]``, x and y in pixels of a picture of the size ``measured_in``; there may be none.
        compared: other paths to compare with, such as the reference's, same frames; dashed, with a ring.
        measured_in: height and width of the pictures that the paths were measured in, before any enlargement;
            this video's by default.

    Returns:
        A new video of the same shape.

    Raises:
        ValueError: the paths have other frames or another shape, or are not finite.
    """
    require_video("the video", video)
    height, width = video.shape[1:3]
    from_height, from_width = measured_in or (height, width)
    if min(from_height, from_width) < 1:
        raise ValueError(f"paths measured in {from_width} x {from_height} pixels: at least 1 x 1 is needed")
    scale = np.array([width / from_width, height / from_height])
    ours, others = (
        [] if given is None else [(path + 0.5) * scale - 0.5 for path in _required_paths(given, len(video))]
        for given in (paths, compared)
    )
    pen = max(1.0, height / 90)
    out = video.copy()
    for i in range(len(out)):
        if others:
            out[i] = _traced(out[i], others, i, pen=0.8 * pen, colour=COMPARED_COLOUR, dashed=True)
        if ours:
            out[i] = _traced(out[i], ours, i, pen=pen, colour=PATH_COLOUR, dashed=False)
    return out


def _traced(
    picture: Picture, paths: Sequence[NDArray[np.floating]], frame: int, *, pen: float, colour: Colour, dashed: bool
) -> Picture:
    """One picture with all paths of one kind; ``pen`` is the width of a line in pixels."""
    shape = picture.shape[:2]
    dash = 3.5 * pen if dashed else None
    rest = [line for path in paths for line in _strokes(path, frame, len(path) - 1, dash)]
    past = [line for path in paths for line in _strokes(path, 0, frame, dash)]
    here = [path[frame] for path in paths]
    picture = painted(picture, line_cover(shape, rest, pen), colour, 0.5)
    picture = painted(picture, line_cover(shape, past, 2.2 * pen), OUTLINE, 0.6)
    picture = painted(picture, line_cover(shape, past, pen), colour, 1.0)
    picture = painted(picture, dot_cover(shape, here, 2.7 * pen), OUTLINE, 0.85)
    picture = painted(picture, dot_cover(shape, here, 2.0 * pen), colour, 1.0)
    # A ring where a dot would hide the one it is compared with.
    return painted(picture, dot_cover(shape, here, 1.1 * pen), OUTLINE, 1.0) if dashed else picture


def _strokes(
    path: NDArray[np.floating], first: int, last: int, dash: float | None
) -> list[NDArray[np.floating]]:
    """The lines to draw between two frames of a path: one, or dashes that lie still as the path grows."""
    if dash is None:
        return [path[first : last + 1]]
    steps = np.linalg.norm(np.diff(path, axis=0), axis=-1)
    walked = np.concatenate([[0.0], np.cumsum(steps)])
    strokes = []
    for start in np.arange(0, walked[-1], 2 * dash):
        begin, end = max(start, walked[first]), min(start + dash, walked[last])
        if begin < end:
            inside = walked[(walked > begin) & (walked < end)]
            along = np.concatenate([[begin], inside, [end]])
            strokes.append(np.stack([np.interp(along, walked, path[:, axis]) for axis in (0, 1)], axis=-1))
    return strokes


def _required_paths(paths: NDArray[np.floating], frames: int) -> NDArray[np.float64]:
    paths = np.asarray(paths, np.float64)
    if paths.ndim != 3 or paths.shape[2] != 2:
        raise ValueError(f"paths must be [objects, frames, 2], got {paths.shape}")
    if paths.shape[1] != frames:
        raise ValueError(f"the paths have {paths.shape[1]} frames, the video has {frames}")
    if not np.isfinite(paths).all():
        raise ValueError(f"{np.sum(~np.isfinite(paths))} of {paths.size} coordinates are not finite")
    return paths
