"""A representation as heat maps: where and when something moves.

Pictures are uint8 RGB, pixel (0, 0) is the top left one and its centre has the coordinates (0, 0).

Shapes used here:
    f   frames      h, w   cells of a tap's grid      H, W   pixels
    p   positions of a tap, h * w      n   heads      k   kept entries per row of attention
"""

from __future__ import annotations

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from ..representation import MotionRepresentation, TapRepresentation
from ..resampling import held_throughout
from ..taps import select_taps
from .canvas import Picture, Video, require_video

Intensity = NDArray[np.float32]  # [f, h, w]

_HEAT = cv2.COLORMAP_INFERNO  # rises evenly for the eye
OPACITY = 0.95
# Under a heat map the video is grey, from the first light to the sum of both: the colours are to be the brightest.
_GREY_FLOOR, _GREY_RANGE = 36.0, 110.0
_PERCENTILES = (5.0, 99.5)  # a few stray cells must not decide the scale of all others


def guided_intensity(representation: MotionRepresentation, taps: str = "*") -> Intensity:
    """Mean of the kept attention, the quantity of the paper's Fig. 3: high where and when something moves.

    ``mean over taps, heads n and kept entries k of L[p, n, i, k]`` for every position p and frame i. Where
    nothing moves all frames look alike and attention is spread evenly, 1 / f; where something passes a frame
    resembles few others, and attention is sharp. So every value lies between 1 / f and 1.

    A representation that is retimed, placed or masked is shown as what it guides: over the frames and in the place
    that it leads, and where nothing is guided as where nothing moves.

    Args:
        representation: what was kept of the reference's attention.
        taps: which to take the mean of, see `taps.select_taps`.

    Returns:
        ``[f, h, w]``, 0 to 1 (an attention probability), on the largest of the taps' grids; coarser ones are
        interpolated linearly. Each tap counts the same, and each window that holds a frame.

    Raises:
        taps.UnknownTapError: a pattern matches none.
    """
    names = select_taps(representation.taps, taps)
    grids = [representation.taps[name].grid for name in names]
    height, width = max(grids, key=lambda grid: grid[0] * grid[1])
    total, weights = np.zeros((2, representation.frames, height, width), np.float32)
    seen = np.zeros((representation.frames, 1, 1), np.float32)
    for window, held in held_throughout(representation).items():
        for name in names:
            maps, counted = _maps(held[name], (width, height))
            total[list(window)] += maps
            weights[list(window)] += counted
            seen[list(window)] += 1
    return _where_guided(np.clip(total / seen, 0, 1), weights / seen)


def _maps(tap: TapRepresentation, size: tuple[int, int]) -> tuple[Intensity, Intensity]:
    """The mean kept attention of one tap and how much each cell is guided, enlarged to a width and a height."""
    means = tap.values.float().mean(dim=(1, 3)).cpu()
    weights = torch.ones_like(means) if tap.weights is None else tap.weights.cpu()
    both = [one.T.reshape(tap.frames, *tap.grid).numpy() for one in (means, weights)]
    # Linear: a cubic would leave the range of what it interpolates.
    maps, counted = (
        np.stack([cv2.resize(one, size, interpolation=cv2.INTER_LINEAR) for one in frames]) for frames in both
    )
    return maps, counted


def _where_guided(intensity: Intensity, weights: Intensity) -> Intensity:
    """An intensity that is nothing, the least of what is guided, where nothing is guided; 0 if nothing is at all."""
    if (weights == 1).all():
        return intensity
    if not (weights > 0).any():
        return np.zeros_like(intensity)
    # The very least: enlarged, a guided cell below it would have a rim of heat around it.
    nothing = intensity[weights > 0].min()
    return nothing + weights * (intensity - nothing)


def heat(intensity: Intensity, size: tuple[int, int]) -> Intensity:
    """An intensity as it is shown: 0 is nothing, 1 the full colour.

    The clip's 5th percentile is nothing, its 99.5th the full colour.

    Args:
        intensity: ``[f, h, w]``, of `guided_intensity`; enlarged by bicubic interpolation.
        size: height and width of the result in pixels.

    Returns:
        ``[f, H, W]``, 0 to 1.

    Raises:
        ValueError: the intensity has other axes, or is not finite.
    """
    _require_intensity(intensity)
    low, high = (float(x) for x in np.percentile(intensity, _PERCENTILES))
    # A clip without any difference is shown as nothing, not as noise in full colour.
    scale = 1 / (high - low) if high - low > 1e-6 else 1.0
    out = np.empty((len(intensity), *size), np.float32)
    for cells, target in zip(intensity, out, strict=True):
        smooth = cv2.resize(cells.astype(np.float32), size[::-1], interpolation=cv2.INTER_CUBIC)
        target[:] = np.clip((smooth - low) * scale, 0, 1)
    return out


def heat_map(intensity: Intensity, video: Video) -> Video:
    """An intensity in colours over the greyed video; the weaker it is, the more of the video shows.

    Args:
        intensity: ``[f, h, w]``, of `guided_intensity`; see `heat`.
        video: ``[f, H, W, 3]``.

    Raises:
        ValueError: shapes do not fit, or intensities are not finite.
    """
    require_video("the video", video)
    return overlaid(heat(intensity, video.shape[1:3]), video)


def overlaid(heat: Intensity, video: Video, *, opacity: float = OPACITY) -> Video:
    """Heat in colours over the greyed video.

    Args:
        heat: ``[f, H, W]``, 0 to 1.
        video: ``[f, H, W, 3]``.
        opacity: of the full colour, 0 to 1.

    Raises:
        ValueError: frames or sizes differ, or the opacity is outside 0 to 1.
    """
    require_video("the video", video)
    if len(heat) != len(video):
        raise ValueError(f"the intensity has {len(heat)} frames, the video has {len(video)}")
    if heat.shape != video.shape[:3]:
        raise ValueError(f"heat of {heat.shape[2]} x {heat.shape[1]} pixels lies over {video.shape[2]} x "
                         f"{video.shape[1]}: make it of the video's size")
    if not 0 <= opacity <= 1:
        raise ValueError(f"an opacity of {opacity:g}: choose 0 to 1")
    return np.stack([_overlaid(frame, strength, opacity) for frame, strength in zip(video, heat, strict=True)])


def _overlaid(frame: Picture, strength: NDArray[np.float32], opacity: float) -> Picture:
    levels = np.rint(strength * 255).astype(np.uint8)
    hot = cv2.cvtColor(cv2.applyColorMap(levels, _HEAT), cv2.COLOR_BGR2RGB).astype(np.float32)
    grey = _GREY_FLOOR + cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY)[..., None] * np.float32(_GREY_RANGE / 255)
    return np.rint(grey + opacity * strength[..., None] * (hot - grey)).astype(np.uint8)


def _require_intensity(intensity: Intensity) -> None:
    shape = np.shape(intensity)
    if len(shape) != 3 or 0 in shape:
        raise ValueError(f"an intensity has 3 axes [frames, height, width], got {shape}")
    if not np.isfinite(intensity).all():
        raise ValueError(f"{np.sum(~np.isfinite(intensity))} of {np.size(intensity)} intensities are not finite")
