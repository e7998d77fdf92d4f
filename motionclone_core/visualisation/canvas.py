"""What all pictures are made of: colours, painting, letters, checks and files.

Pictures are uint8 RGB, pixel (0, 0) is the top left one and its centre has the coordinates (0, 0).

Shapes used here: f frames, H, W pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from ..paths import write_whole

Picture = NDArray[np.uint8]  # [H, W, 3]
Video = NDArray[np.uint8]  # [f, H, W, 3]
Colour = tuple[int, int, int]
Cover = NDArray[np.float32]  # [H, W], how much of each pixel is covered, 0 to 1

# Dark enough to hold a page together in a light theme, light enough to be seen as a card in a dark one.
BACKGROUND: Colour = (24, 28, 36)
INK: Colour = (238, 241, 246)
MUTED: Colour = (152, 162, 178)
OUTLINE: Colour = (12, 14, 18)
PATH_COLOUR: Colour = (64, 232, 244)
COMPARED_COLOUR: Colour = (255, 255, 255)

_SUPERSAMPLING = 4
_SUBPIXEL_BITS = 4


# --- painting ---------------------------------------------------------------------------------------------


def blank(height: int, width: int) -> Picture:
    """A page with nothing on it."""
    return np.full((height, width, 3), BACKGROUND, np.uint8)


def line_cover(shape: tuple[int, int], lines: Sequence[NDArray[np.floating]], width: float) -> Cover:
    """How much of each pixel lines cover, 0 to 1, ``[H, W]``."""
    thickness = max(1, round(width * _SUPERSAMPLING))
    return _cover(
        shape, lambda big, fine: cv2.polylines(big, [fine(line) for line in lines], False, 255, thickness,
                                               cv2.LINE_8, _SUBPIXEL_BITS)
    )


def dot_cover(shape: tuple[int, int], centres: Sequence[NDArray[np.floating]], radius: float) -> Cover:
    """How much of each pixel discs cover, 0 to 1, ``[H, W]``."""
    size = round(radius * _SUPERSAMPLING * 2**_SUBPIXEL_BITS)

    def draw(big: NDArray[np.uint8], fine: Callable[..., NDArray[np.int32]]) -> None:
        for x, y in fine(np.array(centres)):
            cv2.circle(big, (int(x), int(y)), size, 255, cv2.FILLED, cv2.LINE_8, _SUBPIXEL_BITS)

    return _cover(shape, draw)


def area_cover(shape: tuple[int, int], areas: Sequence[NDArray[np.floating]]) -> Cover:
    """How much of each pixel polygons ``[corners, 2]`` cover, 0 to 1, ``[H, W]``."""
    return _cover(
        shape, lambda big, fine: [cv2.fillPoly(big, [fine(area)], 255, cv2.LINE_8, _SUBPIXEL_BITS) for area in areas]
    )


def _cover(shape: tuple[int, int], draw: Callable[..., object]) -> Cover:
    # OpenCV's own smoothing of thick lines is uneven: drawn large and averaged they are clean at any width.
    big = np.zeros((shape[0] * _SUPERSAMPLING, shape[1] * _SUPERSAMPLING), np.uint8)

    def fine(points: NDArray[np.floating]) -> NDArray[np.int32]:
        moved = ((points + 0.5) * _SUPERSAMPLING - 0.5) * 2**_SUBPIXEL_BITS
        # Far outside the picture is as good as further: OpenCV's fixed point numbers end at 2^31.
        return np.rint(np.clip(moved, -(2**24), 2**24)).astype(np.int32)

    draw(big, fine)
    return cv2.resize(big, shape[::-1], interpolation=cv2.INTER_AREA).astype(np.float32) / 255


def painted(picture: Picture, covered: Cover, colour: Colour, opacity: float) -> Picture:
    """A colour over part of a picture."""
    share = opacity * covered[..., None]
    return np.rint(picture + share * (np.array(colour, np.float32) - picture)).astype(np.uint8)


# --- letters ----------------------------------------------------------------------------------------------


def write(
    sheet: Picture, text: str, at: tuple[int, int], size: int, colour: Colour, *, bold: bool = False
) -> None:
    """Write a line, its baseline beginning at x, y."""
    if hasattr(cv2, "FontFace"):  # OpenCV 5 brings a real typeface
        cv2.putText(sheet, text, at, colour, cv2.FontFace("sans"), size, 600 if bold else 400)
    else:
        cv2.putText(sheet, text, at, cv2.FONT_HERSHEY_SIMPLEX, *_stroke(size, colour, bold), cv2.LINE_AA)


def text_width(text: str, size: int, bold: bool) -> int:
    """In pixels."""
    if hasattr(cv2, "FontFace"):
        weight = 600 if bold else 400
        return cv2.getTextSize((0, 0), text, (0, 0), cv2.FontFace("sans"), size, weight)[2]
    scale, _, thickness = _stroke(size, INK, bold)
    return cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, scale, thickness)[0][0]


def fitting(text: str, width: int, size: int, *, bold: bool = False) -> int:
    """The size, or the smaller one at which the text is no wider than ``width``."""
    return max(6, int(size * min(1.0, width / max(1, text_width(text, size, bold)))))


def _stroke(size: int, colour: Colour, bold: bool) -> tuple[float, Colour, int]:
    # Capitals of that typeface are 21 pixels high at scale 1; here, as usual, 0.7 of the size.
    return 0.7 * size / 21, colour, max(1, round(size / (11 if bold else 18)))


def wrapped(text: str, width: int, size: int, *, bold: bool = False) -> list[str]:
    """The text in lines that fit, broken between words."""
    lines: list[str] = []
    for word in text.split():
        if lines and text_width(f"{lines[-1]} {word}", size, bold) <= width:
            lines[-1] += f" {word}"
        else:
            lines.append(word)
    return lines


# --- files and checks -------------------------------------------------------------------------------------


def write_picture(picture: Picture, path: Path) -> None:
    """Write a PNG; whole or not at all.

    Args:
        picture: ``[H, W, 3]``.
        path: a ``.png`` file; its folder is made if it is missing.

    Raises:
        ValueError: the picture or the name's ending does not fit.
    """
    path = Path(path)
    if path.suffix.lower() != ".png":
        raise ValueError(f"a picture is written as .png, not as {path.suffix or 'a file without ending'!r}")
    if np.ndim(picture) != 3:
        raise ValueError(f"a picture has 3 axes [height, width, 3], got {np.shape(picture)}")
    require_video("the picture", picture[None])
    _, content = cv2.imencode(".png", cv2.cvtColor(picture, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_PNG_COMPRESSION, 9])
    write_whole(path, content.tobytes())


def require_video(what: str, video: Video) -> None:
    """Check that a video is one.

    Raises:
        ValueError: it has another shape or type; the message says which.
    """
    shape, dtype = np.shape(video), getattr(video, "dtype", type(video).__name__)
    if len(shape) != 4 or shape[-1] != 3 or 0 in shape or dtype != np.uint8:
        raise ValueError(f"{what} must be uint8 RGB [frames, height, width, 3], got {dtype} {shape}")
