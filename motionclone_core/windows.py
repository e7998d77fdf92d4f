"""Sliding context windows: which frames a model sees at once, and how what it says of them is fused (pure).

What AnimateDiff-Evolved does with its standard static windows and pyramid weights, for hosts that have none of their
own.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .representation import Window


def sliding_windows(frames: int, length: int, overlap: int) -> tuple[Window, ...]:
    """Windows that together hold every frame, the last of which ends with the last frame.

    Args:
        frames: of the clip.
        length: of a window.
        overlap: frames that one shares with the next; the last may share more.

    Raises:
        ValueError: windows of such a length do not slide.
    """
    if frames <= length:
        return (tuple(range(frames)),)
    if not 0 <= overlap < length:
        raise ValueError(f"windows of {length} frames cannot share {overlap}: choose from 0 to {length - 1}")
    starts = [*range(0, frames - length, length - overlap), frames - length]
    return tuple(tuple(range(start, start + length)) for start in starts)


def pyramid(length: int) -> list[float]:
    """Weights of a window's frames: how far each is from the nearer end, counted from 1."""
    return [float(min(place, length - 1 - place) + 1) for place in range(length)]


def fused(parts: Sequence[Tensor], windows: Sequence[Window], *, dim: int) -> Tensor:
    """Parts of a clip, one for each window, as one: where windows overlap, the mean by pyramid weights.

    Args:
        parts: one for each window; its frames lie along ``dim``.
        windows: the frames that each holds.
        dim: which dimension holds the frames.
    """
    if len(windows) == 1:
        return parts[0]
    frames = 1 + max(map(max, windows))
    shape = [*parts[0].shape]
    shape[dim] = frames
    total, weights = parts[0].new_zeros(shape), parts[0].new_zeros(frames)
    for part, window in zip(parts, windows, strict=True):
        own, places = part.new_tensor(pyramid(len(window))), torch.tensor(window, device=part.device)
        total.index_add_(dim, places, part * _along(own, dim, part.ndim))
        weights.index_add_(0, places, own)
    return total / _along(weights, dim, total.ndim)


def _along(values: Tensor, dim: int, ndim: int) -> Tensor:
    return values.reshape([-1 if i == dim % ndim else 1 for i in range(ndim)])
