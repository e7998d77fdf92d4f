"""Animated GIF and WebP files."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from motionclone_core.paths import write_whole

Video = NDArray[np.uint8]  # [f, H, W, 3]
_GIF_COLOURS = 256


def write_animation(video: Video, path: Path, *, fps: float = 8.0) -> None:
    """Write an animation that loops for ever, whole or not at all.

    A GIF has one palette for all frames and no dithering: nothing flickers, and flat areas stay flat. Frames that
    do not differ are stored as one that is shown longer. WebP keeps all colours.

    Args:
        video: ``[f, H, W, 3]``.
        path: a ``.gif`` or ``.webp`` file; its folder is made if it is missing.
        fps: frames per second, up to 50; beyond that browsers slow a GIF down. GIF counts time in hundredths of a
            second.

    Raises:
        ValueError: the video, the name's ending or the frame rate does not fit.
    """
    path = Path(path)
    if video.dtype != np.uint8 or video.ndim != 4 or video.shape[-1] != 3:
        raise ValueError(f"an animation is uint8 [f, H, W, 3], got {video.dtype} {list(video.shape)}")
    if path.suffix.lower() not in _ENCODERS:
        raise ValueError(f"an animation is written as .gif or .webp, not as {path.suffix or 'a file without ending'!r}")
    if not 0 < fps <= 50:
        raise ValueError(f"{fps} frames per second: choose above 0, up to 50")
    write_whole(path, _ENCODERS[path.suffix.lower()](video, 1000 / fps))


def _gif(video: Video, milliseconds: float) -> bytes:
    # A part of the pixels is plenty to choose colours from, in a fraction of the time.
    step = max(1, video.shape[1] // 96)
    together = Image.fromarray(np.concatenate(video[:, ::step, ::step]))
    palette = together.quantize(_GIF_COLOURS, Image.Quantize.MEDIANCUT, kmeans=1)
    frames = [Image.fromarray(frame).quantize(palette=palette, dither=Image.Dither.NONE) for frame in video]
    content = io.BytesIO()
    frames[0].save(
        content, "GIF", save_all=True, append_images=frames[1:], loop=0, duration=round(milliseconds / 10) * 10
    )
    return content.getvalue()


def _webp(video: Video, milliseconds: float) -> bytes:
    frames = [Image.fromarray(frame) for frame in video]
    content = io.BytesIO()
    frames[0].save(
        content, "WEBP", save_all=True, append_images=frames[1:], loop=0, duration=round(milliseconds),
        quality=90, method=4,
    )
    return content.getvalue()


_ENCODERS: dict[str, Callable[[Video, float], bytes]] = {".gif": _gif, ".webp": _webp}
