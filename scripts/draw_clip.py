#!/usr/bin/env python3
"""Draws a reference video: a disc that crosses a textured background from left to right."""

from __future__ import annotations

import argparse
from pathlib import Path

import cv2
import numpy as np


def draw_clip(
    path: Path, frames: int = 16, size: tuple[int, int] = (256, 256), *, fps: float = 8.0, seed: int = 0
) -> Path:
    """Writes a video (MPEG-4 Part 2, which every build of OpenCV can write) and returns its path.

    Args:
        path: ends in ``.mp4``; its folder is made if needed.
        frames: how many.
        size: width and height in pixels, each even.
        fps: frames per second.
        seed: of the background.

    Raises:
        ValueError: no frames, or an odd or empty size.
        RuntimeError: OpenCV cannot write the file.
    """
    width, height = size
    if frames < 1 or min(size) < 2 or width % 2 or height % 2:
        raise ValueError(f"{frames} frames of {width} x {height}: give 1 or more, of even width and height")
    path.parent.mkdir(parents=True, exist_ok=True)
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), fps, size)
    if not writer.isOpened():
        raise RuntimeError(f"OpenCV cannot write {path}")
    background = _background(size, seed)
    for index in range(frames):
        writer.write(_frame(background, index / max(1, frames - 1)))
    writer.release()
    return path


def draw_inputs(folder: Path, *, size: tuple[int, int] = (256, 256)) -> list[Path]:
    """What the example workflows load, under the names that they ask for: two clips, a picture, a sketch and a mask."""
    clips = [draw_clip(folder / "reference.mp4", 24, size), draw_clip(folder / "camera.mp4", 24, size, seed=5)]
    picture = _frame(_background(size, 3), 0.3)
    lines = cv2.Canny(picture, 60, 160)
    middle, axes = (size[0] * 7 // 10, size[1] // 2), (size[0] // 4, size[1] // 3)
    mask = cv2.ellipse(np.zeros(size[::-1], np.uint8), middle, axes, 0, 0, 360, 255, -1)
    drawn = {"picture.png": picture, "sketch.png": lines, "mask.png": mask}
    for name, content in drawn.items():
        cv2.imwrite(str(folder / name), content)
    return [*clips, *(folder / name for name in drawn)]


def _background(size: tuple[int, int], seed: int) -> np.ndarray:
    """Smooth coloured noise, (height, width, 3) uint8: only texture shows that a background stands still."""
    coarse = np.random.default_rng(seed).integers(60, 180, (9, 9, 3), dtype=np.uint8)
    return cv2.resize(coarse, size, interpolation=cv2.INTER_CUBIC)


def _frame(background: np.ndarray, progress: float) -> np.ndarray:
    """One picture; ``progress`` goes from 0 to 1."""
    height, width = background.shape[:2]
    radius = min(height, width) // 6
    centre = (round(radius + progress * (width - 2 * radius)), height // 2)
    frame = cv2.circle(background.copy(), centre, radius, (40, 200, 250), -1, cv2.LINE_AA)
    return cv2.circle(frame, centre, radius // 2, (30, 60, 160), -1, cv2.LINE_AA)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("path", type=Path)
    parser.add_argument("--frames", type=int, default=16)
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--height", type=int, default=256)
    parser.add_argument("--fps", type=float, default=8.0)
    args = parser.parse_args()
    print(draw_clip(args.path, args.frames, (args.width, args.height), fps=args.fps))


if __name__ == "__main__":
    main()
