"""What a call of the model is held against: a representation, brought to the frames and the cells that the call sees.

- In space, each cell of the call takes the stored cell that its centre lies in.
- In time, each frame takes the stored row of the frame that it follows. An entry that points at a frame points at the
  frame of the call that follows that one: of several the one as far off as it was; if none does, at one that follows
  the frame nearest to it. As a row is spread over another number of frames, its values grow or shrink in proportion,
  up to 1. Of more entries than the call has frames the strongest count.
- A mask counts by its mean over each cell.

Shapes used here:
    p   positions of the call's grid      n   heads      f   frames of the call      k   kept entries
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .grids import Cells, Crop, Frame, RepresentationMismatchError, Size, halvings
from .representation import MotionRepresentation, TapRepresentation, Window


def held_against(
    representation: MotionRepresentation, window: Window, crop: Crop, size: Size
) -> dict[str, TapRepresentation]:
    """What a call is held against, by tap name.

    Args:
        representation: the motion.
        window: frames of the sampled video that the call sees.
        crop: what it sees of the latent.
        size: height and width of that latent.

    Raises:
        RepresentationMismatchError: the motion was not read in such a window.
    """
    kept = _within(representation, window)
    made_at = representation.latent_size
    whole = (crop, size, representation.frame) == (Crop(0, 0, *made_at), made_at, Frame())
    if whole and representation.mask is None:
        return dict(kept)
    return {name: _seen(tap, representation, window, crop, size) for name, tap in kept.items()}


def held_throughout(representation: MotionRepresentation) -> dict[Window, dict[str, TapRepresentation]]:
    """What the whole video is held against at the size that the motion was read at, by window and tap name.

    A motion that was retimed is read in one window over all frames.
    """
    size, windows = representation.latent_size, tuple(representation.windows)
    if representation.timing is not None:
        windows = (tuple(range(representation.frames)),)
    return {window: held_against(representation, window, Crop(0, 0, *size), size) for window in windows}


def foreground_held(representation: MotionRepresentation) -> Tensor | None:
    """Where the reference's words lie in the frame that is guided, ``[f, y, x]`` in float32, 0 to 1.

    In the motion's own grid, retimed and placed as the motion is; 0 outside its frame. None if no words were read.
    """
    found = representation.foreground
    if found is None:
        return None
    found = found.float()
    if representation.timing is not None:
        found = found[list(representation.timing)]
    size = representation.latent_size
    if representation.frame != Frame():
        cells = Cells(size, halvings(size, found.shape[1] * found.shape[2]))
        rows, columns = cells.at(*cells.centres(Crop(0, 0, *size)), size, representation.frame)
        inside = (rows >= 0)[:, None] & (columns >= 0)
        found = found[:, rows.clamp(min=0)][:, :, columns.clamp(min=0)] * inside
    return found


def _seen(
    tap: TapRepresentation, representation: MotionRepresentation, window: Window, crop: Crop, size: Size
) -> TapRepresentation:
    times = halvings(representation.latent_size, tap.grid[0] * tap.grid[1])
    rows, columns = Cells(size, times).centres(crop)
    stored = Cells(representation.latent_size, times).at(rows, columns, size, representation.frame)
    outside = ((stored[0] < 0)[:, None] | (stored[1] < 0)).flatten()
    taken = (stored[0][:, None] * tap.grid[1] + stored[1]).flatten().masked_fill(outside, 0)
    weights = None
    if bool(outside.any()) or representation.mask is not None:
        weights = torch.ones(len(taken), tap.frames).masked_fill(outside[:, None], 0.0)
    if representation.mask is not None:
        mask = representation.mask
        mask = mask[list(window)] if len(mask) > 1 else mask.expand(len(window), -1, -1)
        weights = weights * _mean_over_cells(mask, rows, columns, 2**times, size)
    return TapRepresentation(tap.values[taken], tap.indices[taken], (len(rows), len(columns)), weights)


def _mean_over_cells(mask: Tensor, rows: Tensor, columns: Tensor, side: int, size: Size) -> Tensor:
    """``[p, f]`` of a mask ``[f, H, W]`` over a latent of ``size``; cells are given by their centres."""
    (height, width), share = mask.shape[1:], mask.double()
    along_rows = _overlaps(rows, side, height / size[0], height)
    along_columns = _overlaps(columns, side, width / size[1], width)
    return (along_rows @ share @ along_columns.T).flatten(1).T.float()


def _overlaps(centres: Tensor, side: int, scale: float, pixels: int) -> Tensor:
    """Which part of each cell each pixel of a mask makes up, along one axis: ``[cells, pixels]``; rows sum to 1."""
    pixel = torch.arange(pixels, dtype=torch.float64)
    start, end = ((centres[:, None] + shift * side) * scale for shift in (-0.5, 0.5))
    overlap = (torch.minimum(end, pixel + 1) - torch.maximum(start, pixel)).clamp(min=0.0)
    # Cells at the border may reach beyond it.
    return overlap / overlap.sum(dim=1, keepdim=True)


# --- time -------------------------------------------------------------------------------------------------


def _within(representation: MotionRepresentation, window: Window) -> Mapping[str, TapRepresentation]:
    if representation.timing is not None:
        return _retimed(representation, [representation.timing[frame] for frame in window])
    if window not in representation.windows:
        read = ", ".join(_spoken(known) for known in representation.windows)
        raise RepresentationMismatchError(
            f"the model is given {_spoken(window)} at once, the motion representation was read in {read}: extract "
            f"it again from a MODEL with the same Context Options"
        )
    return representation.windows[window]


@dataclass(frozen=True)
class _Row:
    """Where a row of a call's attention comes from, and what stands in for each frame that it was read beside."""

    window: Window
    place: int
    stand_ins: Tensor
    scale: float

    @classmethod
    def of(cls, windows: Iterable[Window], follows: Sequence[int], row: int) -> _Row:
        """Of row ``row`` of a call whose frames follow these of the reference's."""
        # Of the windows that a frame was read in, that in which it is farthest from the ends sees most around it.
        window = max(windows, key=lambda w: _depth(w, follows[row]))
        stand_ins = torch.tensor([_nearest(follows, row, frame) for frame in window])
        return cls(window, window.index(follows[row]), stand_ins, len(window) / len(follows))


def _retimed(representation: MotionRepresentation, follows: Sequence[int]) -> dict[str, TapRepresentation]:
    """The taps of a call whose frames follow these of the reference's."""
    rows = [_Row.of(representation.windows, follows, row) for row in range(len(follows))]
    return {
        name: _retimed_tap({window: taps[name] for window, taps in representation.windows.items()}, rows)
        for name in representation.taps
    }


def _retimed_tap(stored: Mapping[Window, TapRepresentation], rows: Sequence[_Row]) -> TapRepresentation:
    values, indices = [], []
    for row in rows:
        tap = stored[row.window]
        # They are kept in order, the strongest first.
        strongest = (slice(None), slice(None), row.place, slice(len(rows)))
        indices.append(row.stand_ins[tap.indices[strongest].long()])
        values.append((tap.values[strongest].float() * row.scale).clamp(max=1.0))
    return TapRepresentation.compact(torch.stack(values, dim=2), torch.stack(indices, dim=2), tap.grid)


def _depth(window: Window, frame: int) -> int:
    """How far a frame is from the ends of a window; -1 if it is not in it."""
    place = window.index(frame) if frame in window else -1
    return min(place, len(window) - 1 - place)


def _nearest(follows: Sequence[int], row: int, frame: int) -> int:
    """The frame of the call that stands for a frame of the reference, seen from one of its rows."""
    away = frame - follows[row]
    return min(range(len(follows)), key=lambda place: (abs(follows[place] - frame), abs(place - row - away)))


def _spoken(window: Window) -> str:
    """A window in words, with frames counted from 1 as people do."""
    if window == tuple(range(window[0], window[0] + len(window))):
        return f"frames {window[0] + 1} to {window[-1] + 1}"
    return f"frames {', '.join(str(frame + 1) for frame in window)}"
