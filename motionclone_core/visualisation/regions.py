"""Where the subject of a reference is, as semantic guidance sees it: bright and outlined, over the video.

Pictures are uint8 RGB, pixel (0, 0) is the top left one and its centre has the coordinates (0, 0).

Shapes used here: f frames, H, W pixels, y, x cells.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from ..appearance import reference_foreground
from ..mixing import Motion
from ..semantics import Semantics
from ..series import AnyReading
from .canvas import OUTLINE, PATH_COLOUR, Colour, Cover, Picture, Video, dot_cover, line_cover, painted
from .preview import ground_of

_WARM: Colour = (255, 176, 60)
_DIMMED = 0.55  # what is left of the light outside the foreground
_TINT = 0.35
_LINE = 1 / 110  # of the picture's height


@dataclass(frozen=True)
class RegionsPreview:
    """The foreground of a reference as pictures.

    Attributes:
        video: ``[f, H, W, 3]``.
        foreground: how much each pixel counts, ``[f, H, W]``, 0 to 1.
    """

    video: Video
    foreground: NDArray[np.float32]


def regions_preview(
    motion: Motion | AnyReading,
    semantics: Semantics,
    reference: Video | None = None,
    *,
    timestep: float | None = None,
) -> RegionsPreview:
    """Show the reference's foreground: in colour where it is, warmer where it counts more, a dot in its middle.

    Args:
        motion: one that holds words, if no mask takes their place.
        semantics: thresholds, Gaussian and masks.
        reference: see `preview.preview`.
        timestep: likewise.

    Raises:
        RepresentationMismatchError: the motion holds no words, and no mask is given; or the reference has another
            number of frames.
    """
    motion = Motion.of(motion).at(timestep)
    cells = reference_foreground(semantics, motion.representations[0])[0].numpy()
    ground = ground_of(motion, reference)
    size = (ground.shape[2], ground.shape[1])
    shares = np.stack([cv2.resize(frame, size, interpolation=cv2.INTER_NEAREST) for frame in cells])
    video = np.stack([_shown(picture, share) for picture, share in zip(ground, shares, strict=True)])
    return RegionsPreview(video, shares.astype(np.float32))


def _shown(picture: Picture, share: Cover) -> Picture:
    inside = share > 0
    grey = cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY)[..., None].astype(np.float32)
    dimmed = np.rint(np.repeat(grey, 3, axis=-1) * _DIMMED).astype(np.uint8)
    shown = painted(np.where(inside[..., None], picture, dimmed), share.astype(np.float32), _WARM, _TINT)
    width = max(1.5, picture.shape[0] * _LINE)
    edges = [_closed(contour) for contour in _contours(inside)]
    if edges:
        shown = painted(shown, line_cover(share.shape, edges, 2 * width), OUTLINE, 0.75)
        shown = painted(shown, line_cover(share.shape, edges, width), PATH_COLOUR, 1.0)
        middle = [_middle(share)]
        shown = painted(shown, dot_cover(share.shape, middle, 2.6 * width), OUTLINE, 0.85)
        shown = painted(shown, dot_cover(share.shape, middle, 1.7 * width), PATH_COLOUR, 1.0)
    return shown


def _contours(inside: NDArray[np.bool_]) -> list[NDArray[np.int32]]:
    found, _ = cv2.findContours(inside.astype(np.uint8), cv2.RETR_LIST, cv2.CHAIN_APPROX_SIMPLE)
    return [contour[:, 0] for contour in found]


def _closed(contour: NDArray[np.int32]) -> NDArray[np.floating]:
    return np.concatenate([contour, contour[:1]]).astype(np.float64)


def _middle(share: Cover) -> NDArray[np.floating]:
    """The centroid, as x and y."""
    rows, columns = np.indices(share.shape)
    return np.array([(columns * share).sum(), (rows * share).sum()]) / share.sum()
