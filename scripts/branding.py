#!/usr/bin/env python3
"""Draws the icon and the banner that the Comfy registry shows: one motion, and another thing that has it."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from motionclone_core.visualisation.canvas import (
    BACKGROUND,
    INK,
    MUTED,
    OUTLINE,
    PATH_COLOUR,
    Colour,
    write_picture,
)

Picture = NDArray[np.uint8]  # [H, W, 3]
Canvas = NDArray[np.float32]  # [H, W, 3]
Points = NDArray[np.float64]  # [n, 2], x and y
Cover = Callable[[Points, float, float], NDArray[np.float32]]

OUTPUT = Path(__file__).parent.parent / "docs" / "pictures"
ICON_SIDE = 400
BANNER_SIZE = (1680, 720)  # width and height, 21 : 9
SUPERSAMPLING = 3
STAMPS = 160
LIGHTER: Colour = (38, 45, 60)  # where the light falls on the background
HEAT = cv2.COLORMAP_INFERNO  # of what is read of a reference, as in the heat maps
# One way for both things: a cubic Bezier curve in a square of side 1.
WAY = np.array([[0.10, 0.56], [0.16, 0.18], [0.46, 0.04], [0.76, 0.245]])
BESIDE = np.array([0.08, 0.35])  # from the reference's way to that of what follows it


# --- shapes -----------------------------------------------------------------------------------------------


def way(count: int) -> Points:
    """Points along the curve, from its beginning."""
    t = np.linspace(0, 1, count)[:, None]
    a, b, c, d = WAY
    return (1 - t) ** 3 * a + 3 * (1 - t) ** 2 * t * b + 3 * (1 - t) * t**2 * c + t**3 * d


def disc(offset: Points, radius: float, pixel: float) -> NDArray[np.float32]:
    """How much of each pixel a disc about the origin covers, 0 to 1."""
    return _cover(np.hypot(offset[..., 0], offset[..., 1]) - radius, pixel)


def tile(offset: Points, radius: float, pixel: float) -> NDArray[np.float32]:
    """The same of a square with round corners, as large as a disc of this radius looks."""
    return rounded(offset, (0.9 * radius, 0.9 * radius), 0.32 * radius, pixel)


def rounded(offset: Points, half: tuple[float, float], corner: float, pixel: float) -> NDArray[np.float32]:
    """The same of a rectangle with round corners."""
    away = np.abs(offset) - np.array(half) + corner
    outside = np.hypot(*np.moveaxis(np.maximum(away, 0), -1, 0))
    return _cover(outside + np.minimum(away.max(axis=-1), 0) - corner, pixel)


def _cover(distance: NDArray[np.floating], pixel: float) -> NDArray[np.float32]:
    return np.clip(0.5 - distance / pixel, 0, 1).astype(np.float32)


# --- drawing ----------------------------------------------------------------------------------------------


def blank(width: int, height: int, light: tuple[float, float]) -> Canvas:
    """The background, lit from a point that is given as shares of width and height."""
    x, y = np.meshgrid(np.linspace(0, 1, width), np.linspace(0, 1, height))
    far = np.clip(np.hypot((x - light[0]) * width / height, y - light[1]), 0, 1)[..., None]
    return ((1 - far) * np.array(LIGHTER) + far * np.array(BACKGROUND)).astype(np.float32)


def paint(canvas: Canvas, cover: NDArray[np.float32], colour: Sequence[float]) -> None:
    """Lay a colour over a canvas."""
    canvas += cover[..., None] * (np.array(colour, np.float32) - canvas)


def shape_at(canvas: Canvas, at: Points, radius: float, shape: Cover, colour: Sequence[float], opacity: float) -> None:
    """Draw one shape, given in pixels; only the part of the canvas that it may touch is gone through."""
    reach = int(1.5 * radius) + 2
    left, top = (max(0, int(one) - reach) for one in at)
    part = canvas[top : int(at[1]) + reach, left : int(at[0]) + reach]
    y, x = np.mgrid[top : top + part.shape[0], left : left + part.shape[1]]
    offset = np.stack((x + 0.5 - at[0], y + 0.5 - at[1]), axis=-1)
    paint(part, opacity * shape(offset, radius, 1.0), colour)


def comet(canvas: Canvas, points: Points, radius: float, shape: Cover, colours: NDArray[np.floating]) -> None:
    """A thing at the end of its way, and where it has been: thinner and fainter the longer ago."""
    for i, (at, colour) in enumerate(zip(points, colours, strict=True)):
        age = i / (len(points) - 1)
        shape_at(canvas, at, radius * (0.16 + 0.36 * age), disc, colour, 0.9 * age**1.6)
    shape_at(canvas, points[-1], 1.13 * radius, shape, OUTLINE, 0.85)
    shape_at(canvas, points[-1], radius, shape, colours[-1], 1.0)


def heat(count: int) -> NDArray[np.float64]:
    """Colours of the heat maps, from faint to strong."""
    ramp = np.linspace(70, 238, count).astype(np.uint8)[:, None]
    return cv2.applyColorMap(ramp, HEAT)[:, 0, ::-1].astype(np.float64)


def cool(count: int) -> NDArray[np.float64]:
    """The colour of paths, from dark to light."""
    share = np.linspace(0.35, 1, count)[:, None]
    return share * np.array(PATH_COLOUR) + (1 - share) * np.array((30, 70, 140))


def cloned_motion(canvas: Canvas, corner: tuple[float, float], side: float, radius: float) -> None:
    """The reference's motion, and below it another thing that has the same."""
    path = np.array(corner) + side * way(STAMPS)
    comet(canvas, path, radius, disc, heat(STAMPS))
    comet(canvas, path + side * BESIDE, radius, tile, cool(STAMPS))


def smaller(canvas: Canvas) -> Picture:
    """What was drawn larger, at its size."""
    size = (canvas.shape[1] // SUPERSAMPLING, canvas.shape[0] // SUPERSAMPLING)
    return np.rint(np.clip(cv2.resize(canvas, size, interpolation=cv2.INTER_AREA), 0, 255)).astype(np.uint8)


# --- the pictures -----------------------------------------------------------------------------------------


def icon() -> Picture:
    """A square, to be read at 32 pixels too."""
    side = ICON_SIDE * SUPERSAMPLING
    canvas = blank(side, side, (0.3, 0.15))
    cloned_motion(canvas, (-0.03 * side, 0.03 * side), 0.98 * side, 0.135 * side)
    return smaller(canvas)


def banner() -> Picture:
    """The name, what it does, and the icon's motif."""
    width, height = (side * SUPERSAMPLING for side in BANNER_SIZE)
    canvas = blank(width, height, (0.75, 0.3))
    _frames(canvas, height)
    cloned_motion(canvas, (0.575 * width, 0.06 * height), 0.9 * height, 0.092 * height)
    picture = np.rint(np.clip(canvas, 0, 255)).astype(np.uint8)
    left = int(0.062 * width)
    _write(picture, "MotionClone", (left, int(0.42 * height)), 0.158, INK, 700)
    _write(picture, "The motion of one video in another,", (left, int(0.555 * height)), 0.056, PATH_COLOUR, 400)
    _write(picture, "with AnimateDiff, without training.", (left, int(0.635 * height)), 0.056, PATH_COLOUR, 400)
    _write(picture, "Nodes for ComfyUI", (left, int(0.765 * height)), 0.042, MUTED, 400)
    return smaller(picture.astype(np.float32))


def _frames(canvas: Canvas, height: int) -> None:
    """Frames of a film behind the motif, the last one nearest."""
    rows, columns = canvas.shape[:2]
    y, x = np.mgrid[:rows, :columns].astype(np.float32) / height
    for i in range(5):
        middle = np.array([1.57 + 0.105 * i, 0.5])
        offset = np.stack((x - middle[0], y - middle[1]), axis=-1)
        inside = rounded(offset, (0.26, 0.39), 0.035, 1 / height)
        edge = inside - rounded(offset, (0.257, 0.387), 0.032, 1 / height)
        paint(canvas, 0.14 * inside, BACKGROUND)
        paint(canvas, (0.1 + 0.06 * i) * edge, MUTED)


def _write(picture: Picture, text: str, at: tuple[int, int], size: float, colour: Colour, weight: int) -> None:
    """A line of text, its baseline beginning at ``at``; its size is a share of the height."""
    if not hasattr(cv2, "FontFace"):
        raise RuntimeError(f"OpenCV {cv2.__version__} has no typeface to write with: the banner needs OpenCV 5")
    cv2.putText(picture, text, at, colour, cv2.FontFace("sans"), round(size * picture.shape[0]), weight)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, default=OUTPUT)
    folder = parser.parse_args().output
    for name, picture in (("icon", icon()), ("banner", banner())):
        write_picture(picture, folder / f"{name}.png")
        print(f"{folder / name}.png: {picture.shape[1]} x {picture.shape[0]}")


if __name__ == "__main__":
    main()
