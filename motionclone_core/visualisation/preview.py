"""What a motion will guide, over the video that it was read off: where something moves, and which way.

Pictures are uint8 RGB, pixel (0, 0) is the top left one and its centre has the coordinates (0, 0).

Shapes used here: f frames, H, W pixels, h, w cells, c channels.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import torch
from torch import Tensor

from ..correspondence import Correspondence, correspondence
from ..grids import Frame, RepresentationMismatchError
from ..mixing import Motion, MotionPart
from ..series import AnyReading
from ..taps import select_taps
from .arrows import draw_arrows
from .canvas import Video, require_video
from .motion import OPACITY, Intensity, guided_intensity, heat, overlaid

_CELL = 8  # pixels of a latent cell, as in SD


@dataclass(frozen=True)
class Preview:
    """A motion as pictures.

    Attributes:
        video: ``[f, H, W, 3]``.
        heat: ``[f, H, W]``, 0 where nothing moves to 1; see `motion.heat`.
    """

    video: Video
    heat: Intensity


def preview(
    motion: Motion | AnyReading,
    reference: Video | None = None,
    *,
    taps: str = "*",
    arrows: bool = True,
    opacity: float = OPACITY,
    timestep: float | None = None,
) -> Preview:
    """Show a motion: its heat over the greyed reference, and arrows where it tells which way things move.

    Of several motions each place shows the one that leads it most: each has its own heat, times its strength as a
    share of the largest, and its arrows where that is the highest; curves over the steps are left aside, and a motion
    of strength 0 is not shown.

    Args:
        motion: one or several; those that are retimed, placed or masked are shown as what they guide.
        reference: the pictures that it was read off, of any size, ``[f, H, W, 3]``: as many as the motion has frames,
            as the video has where a latent frame is several, or 1 that stands for all. Those of a motion that is
            retimed or placed are shown in its order and place; of several motions, as far as these are the same for
            all. None is a dark ground of the size of the motion's latent.
        taps: which to show, see `taps.select_taps`; of each motion those that it has.
        arrows: whether to draw them.
        opacity: of the hottest colour, 0 to 1.
        timestep: of a motion read at several noise levels the reading nearest to it is shown; None: the middle one.

    Raises:
        taps.UnknownTapError: a pattern matches none; the message lists what there is.
        RepresentationMismatchError: the reference has another number of frames; the message says both.
        ValueError: the reference is no video, or the opacity is outside 0 to 1.
    """
    motion = Motion.of(motion).at(timestep)
    names = select_taps(motion.taps, taps)
    ground = ground_of(motion, reference)
    led = [(part, shown) for part in motion.parts if part.strength and (shown := _own(part, names))]
    if not led:
        raise ValueError(f"the motions that have {taps!r} are of strength 0: raise one of them, or name other taps")
    largest = max(part.strength for part in motion.parts)
    hot = np.zeros(ground.shape[:3], np.float32)
    ways: list[tuple[Correspondence, Intensity]] = []
    for part, shown in led:
        own = heat(guided_intensity(part.representation, shown), ground.shape[1:3])
        own *= np.float32(part.strength / largest)
        np.maximum(hot, own, out=hot)
        if arrows:
            found = correspondence(part.representation, shown)
            ways.append((found, _at_cells(own, found.told.shape)))
    video = overlaid(hot, ground, opacity=opacity)
    for found, own in ways:
        leads = own >= _at_cells(hot, found.told.shape)
        video = draw_arrows(video, found.displacement, found.confidence, found.told & leads)
    return Preview(video, hot)


def _at_cells(hot: Intensity, cells: tuple[int, ...]) -> Intensity:
    """Heat ``[f, H, W]`` at the middles of cells, ``[f - 1, h, w]``; for each frame from which something moves on."""
    frames, *grid = cells
    rows, columns = (
        ((np.arange(count) + 0.5) / count * side).astype(int) for count, side in zip(grid, hot.shape[1:], strict=True)
    )
    return hot[:frames, rows[:, None], columns]


def as_video(images: Tensor) -> Video:
    """Images as the video that a motion is shown over.

    Args:
        images: ``[f, H, W, c]``, 0 to 1, which what lies beyond is brought to. Of four channels or more the first three
            are the colours; one (or a grey and its opacity) is grey.

    Returns:
        ``[f, H, W, 3]``.

    Raises:
        ValueError: the images hold what is no number.
    """
    bad = int((~images.isfinite()).sum())
    if bad:
        raise ValueError(
            f"{bad} of {images.numel()} values of the images are not finite, as when sampling overflows: connect the "
            f"images that the motion was read off, 1 image as a ground for all, or none"
        )
    colours = images[..., :3] if images.shape[-1] > 2 else images[..., :1].expand(*images.shape[:-1], 3)
    return (colours.detach().cpu().float().clamp(0, 1) * 255).round().to(torch.uint8).numpy()


def _own(part: MotionPart, names: tuple[str, ...]) -> str:
    """Those of the taps that a part has, as a pattern."""
    return ", ".join(name for name in names if name in part.representation.taps)


def ground_of(motion: Motion, reference: Video | None) -> Video:
    """What a motion is shown over; see `preview`."""
    first = motion.representations[0]
    if reference is None:
        height, width = (_CELL * side for side in first.latent_size)
        return np.zeros((motion.frames, height, width, 3), np.uint8)
    require_video("the reference", reference)
    reference = _timed(reference, motion)
    # Motions in several places: one set of pictures cannot lie in all of them.
    return reference if len({one.frame for one in motion.representations}) > 1 else _placed(reference, first.frame)


def _timed(reference: Video, motion: Motion) -> Video:
    """The reference with a picture for every frame, in the motion's order; as it is for motions of several orders."""
    first, alike = motion.representations[0], len({(m.timing, m.own_frames) for m in motion.representations}) == 1
    if len(reference) == 1:
        return np.repeat(reference, motion.frames, axis=0)
    group = first.provenance.group
    if group > 1 and len(reference) == group * (first.own_frames - 1) + 1:
        # The first latent frame is the first picture, the others show the middle of theirs.
        reference = reference[[max(0, group * i - group // 2) for i in range(first.own_frames)]]
    if alike and first.timing is not None and len(reference) == first.own_frames:
        return reference[list(first.timing)]
    if len(reference) != motion.frames:
        seen = "" if group == 1 else f" latent ones ({first.shown_frames} of the video)"
        has = f"the reference has {len(reference)} frames, the motion {motion.frames}{seen}"
        if not alike:
            raise RepresentationMismatchError(
                f"{has}, made of motions of different timing: connect 1 image as a ground, or none"
            )
        read = "" if first.timing is None else f", read off {first.own_frames}"
        raise RepresentationMismatchError(
            f"{has}{read}: connect the images that the motion was read off, 1 image as a ground for all, or none"
        )
    return reference


def _placed(reference: Video, frame: Frame) -> Video:
    """The reference where the motion lies, on black."""
    if frame == Frame():
        return reference
    height, width = reference.shape[1:3]
    # The middle of pixel i of n lies at (i + 1/2) / n of its side.
    to = np.array([
        [frame.width, 0, frame.left * width + (frame.width - 1) / 2],
        [0, frame.height, frame.top * height + (frame.height - 1) / 2],
    ])
    return np.stack([cv2.warpAffine(picture, to, (width, height), flags=cv2.INTER_LINEAR) for picture in reference])
