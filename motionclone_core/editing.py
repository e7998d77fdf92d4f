"""A motion as a thing to cut, stretch, place and mask: a representation in, another one out (pure).

What is kept of the reference is never changed: edits say how it is read, and add up. Masks are of the frame that is
guided, so an edit that moves a motion moves the masks that it has by then.

Shapes used here:
    f   frames      H, W   height and width of a mask
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor

from .grids import Cells, Crop, Frame, Size, halvings
from .representation import MotionRepresentation

Repeat = Literal["hold", "loop", "ping-pong"]
REPEATS: tuple[Repeat, ...] = ("hold", "loop", "ping-pong")


def timing(
    source: int, frames: int, *, speed: float = 1.0, offset: float = 0.0, reverse: bool = False, repeat: Repeat = "hold"
) -> list[int]:
    """Which frame of a reference each frame of a video follows.

    Frame i follows the frame nearest to ``offset + i * speed``; reversed, counted back from the last one.

    Args:
        source: frames of the reference.
        frames: of the video.
        speed: frames of the reference to one of the video; positive.
        offset: where in the reference the video begins, in frames; may be negative.
        reverse: play it backwards.
        repeat: what follows the last frame: it stays (and so does the first before the first), the motion begins anew,
            or it runs back.

    Raises:
        ValueError: a value is out of range.
    """
    if source < 1 or frames < 2:
        raise ValueError(f"{source} frames cannot be retimed to {frames}: a motion has 2 frames or more")
    if not (math.isfinite(speed) and speed > 0) or not math.isfinite(offset):
        raise ValueError(f"speed {speed} and offset {offset}: a speed above 0 is needed, and numbers")
    if repeat not in REPEATS:
        raise ValueError(f"repeat is {repeat!r}: choose one of {', '.join(REPEATS)}")
    # Half a frame goes up, whatever the frame: rounding to even would stutter.
    places = [math.floor(offset + i * speed + 0.5) for i in range(frames)]
    found = [_repeated(place, source, repeat) for place in places]
    return [source - 1 - place for place in found] if reverse else found


def _repeated(place: int, source: int, repeat: Repeat) -> int:
    if repeat == "loop":
        return place % source
    if repeat == "ping-pong" and source > 1:
        around = place % (2 * source - 2)
        return min(around, 2 * source - 2 - around)
    return min(max(place, 0), source - 1)


def retimed(representation: MotionRepresentation, follows: Sequence[int]) -> MotionRepresentation:
    """The motion in other frames; see `timing`.

    Args:
        representation: the motion.
        follows: which of its frames each frame of the result follows.

    Raises:
        ValueError: it has no such frames, or nothing moves.
    """
    if not follows or min(follows) < 0 or max(follows) >= representation.frames:
        raise ValueError(f"a motion of {representation.frames} frames cannot be retimed to follow {list(follows)}")
    if all(one == other for one, other in pairwise(follows)):
        raise ValueError(f"all frames would follow frame {follows[0] + 1}: nothing moves; change offset or speed")
    own = range(representation.own_frames) if representation.timing is None else representation.timing
    mask = representation.mask
    if mask is not None and len(mask) > 1:
        mask = mask[list(follows)]
    result = replace(representation, timing=tuple(own[frame] for frame in follows), mask=mask)
    if not result.coverage > 0:
        raise ValueError("the frames that are followed are all masked out: nothing of the motion would be left")
    return result


def placed(representation: MotionRepresentation, *, x: float, y: float, scale: float) -> MotionRepresentation:
    """The motion moved and scaled inside the frame, about the frame's middle.

    Args:
        representation: the motion.
        x, y: how far to the right and down, in widths and heights of the frame.
        scale: how large; 1 is as it is.

    Raises:
        ValueError: nothing of it would be left in the frame, or so little that no cell of any layer is guided.
    """
    if not all(map(math.isfinite, (x, y, scale))) or scale <= 0:
        raise ValueError(f"a motion cannot be scaled by {scale} and moved by {x}, {y}: a scale above 0 is needed")
    moved = Frame(0.5 - scale / 2 + y, 0.5 - scale / 2 + x, scale, scale)
    old = representation.frame
    frame = Frame(
        moved.top + scale * old.top, moved.left + scale * old.left, scale * old.height, scale * old.width
    )
    if frame.inside == 0:
        raise ValueError(f"moved by {x:g}, {y:g} and scaled by {scale:g} the motion is outside the frame: move it less")
    mask = None if representation.mask is None else _moved(representation.mask, moved)
    result = replace(representation, frame=frame, mask=mask)
    if not result.coverage > 0:
        raise ValueError(f"moved by {x:g}, {y:g} and scaled by {scale:g} the motion's mask is empty: move it less")
    if not any(_guides(result, grid) for grid in {tap.grid for tap in result.taps.values()}):
        raise ValueError(
            f"moved by {x:g}, {y:g} and scaled by {scale:g} the motion is too small to guide a single cell of its "
            f"layers: take a larger scale"
        )
    return result


def _guides(representation: MotionRepresentation, grid: Size) -> bool:
    """Whether a cell of a tap's grid is guided: its centre lies in the frame, and some of it under the mask."""
    size = representation.latent_size
    cells = Cells(size, halvings(size, grid[0] * grid[1]))
    rows, columns = cells.at(*cells.centres(Crop(0, 0, *size)), size, representation.frame)
    guided = (rows >= 0)[:, None] & (columns >= 0)
    if representation.mask is not None:
        highest = representation.mask.float().amax(dim=0)[None, None]
        guided &= torch.nn.functional.adaptive_max_pool2d(highest, grid)[0, 0] > 0
    return bool(guided.any())


def _moved(mask: Tensor, frame: Frame) -> Tensor:
    """A mask whose frame is moved and scaled inside one of the same size; 0 outside."""
    height, width = mask.shape[1:]
    y = ((torch.arange(height) + 0.5) / height - frame.top) / frame.height
    x = ((torch.arange(width) + 0.5) / width - frame.left) / frame.width
    rows, columns = (y * height).long().clamp(0, height - 1), (x * width).long().clamp(0, width - 1)
    return mask[:, rows][:, :, columns] * frame.holds(height, width)


def masked(
    representation: MotionRepresentation, mask: Tensor, *, feather: float = 0.0, invert: bool = False
) -> MotionRepresentation:
    """The motion in a part of the frame alone; together with the masks that it has already.

    Args:
        representation: the motion.
        mask: 1 where it counts, 0 where it does not, ``[H, W]``, ``[1, H, W]`` or one for each frame, ``[f, H, W]``;
            where a latent frame is several, one for each of the video's frames will do too.
        feather: standard deviation of a Gaussian that softens the mask's edge, as a part of its height; 0 is none.
        invert: the motion counts where the mask does not.

    Raises:
        ValueError: the mask has another number of frames, holds what is no number, or leaves nothing.
    """
    mask = mask[None] if mask.ndim == 2 else mask
    if mask.ndim != 3 or not mask.numel():
        raise ValueError(f"a mask of shape {list(mask.shape)} is none: [frames, height, width] is needed")
    group, frames = representation.provenance.group, representation.frames
    if len(mask) not in (1, frames, representation.shown_frames):
        seen = "" if group == 1 else f" latent ones ({representation.shown_frames} of the video)"
        raise ValueError(
            f"the mask has {len(mask)} frames, the motion {frames}{seen}: give one mask, or one for each frame"
        )
    if not bool(mask.isfinite().all()):
        raise ValueError("the mask holds values that are not numbers")
    mask = mask.detach().to("cpu", torch.float32).clamp(0.0, 1.0)
    if len(mask) not in (1, frames):
        # The first latent frame is one frame, each other one a group.
        mask = torch.cat([mask[:1], mask[1:].unflatten(0, (frames - 1, group)).mean(dim=1)])
    mask = _softened(1.0 - mask if invert else mask, feather)
    if representation.mask is not None:
        size = [max(sides) for sides in zip(mask.shape[1:], representation.mask.shape[1:], strict=True)]
        mask = _fitted(representation.mask.float(), size) * _fitted(mask, size)
    result = replace(representation, mask=mask.to(torch.float16))
    if not result.coverage > 0:
        what = "is empty when inverted" if invert else "is empty"
        if bool(result.mask.any()):
            what = "lies where Place Motion has left the frame free"
        raise ValueError(f"the mask leaves nothing of the motion: it {what}")
    return result


def _softened(mask: Tensor, feather: float) -> Tensor:
    if not feather >= 0 or not math.isfinite(feather):
        raise ValueError(f"feather is {feather}: it must be a number of at least 0")
    sigma = feather * mask.shape[1]
    if sigma < 0.1:  # of a pixel: there is nothing to soften
        return mask
    reach = math.ceil(3 * sigma)
    kernel = torch.exp(-0.5 * (torch.arange(-reach, reach + 1) / sigma).square())
    kernel = (kernel / kernel.sum()).view(1, 1, 1, -1)
    for _ in range(2):  # along the width, then along the height
        padded = torch.nn.functional.pad(mask[:, None], (reach, reach, 0, 0), mode="replicate")
        mask = torch.nn.functional.conv2d(padded, kernel)[:, 0].transpose(1, 2)
    return mask


def _fitted(mask: Tensor, size: Sequence[int]) -> Tensor:
    return torch.nn.functional.interpolate(mask[:, None], size=tuple(size), mode="nearest")[:, 0]
