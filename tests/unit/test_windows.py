"""Sliding windows without ComfyUI: where they stand, how they are fused, and a run in them."""

from __future__ import annotations

import pytest
import torch

from motionclone_core.windows import fused, pyramid, sliding_windows


@pytest.mark.parametrize(
    ("frames", "length", "overlap", "starts"),
    [
        (16, 16, 4, [0]),
        (5, 16, 4, [0]),
        (17, 16, 4, [0, 1]),
        (32, 16, 4, [0, 12, 16]),
        (28, 16, 4, [0, 12]),
        (6, 4, 2, [0, 2]),
        (8, 4, 0, [0, 4]),
    ],
)
def test_windows_hold_every_frame_and_the_last_ends_with_the_clip(frames, length, overlap, starts):
    found = sliding_windows(frames, length, overlap)
    assert found == tuple(tuple(range(start, min(start + length, frames))) for start in starts)


@pytest.mark.parametrize("overlap", [-1, 4, 9])
def test_windows_that_do_not_slide_are_refused(overlap):
    with pytest.raises(ValueError, match=f"windows of 4 frames cannot share {overlap}: choose from 0 to 3"):
        sliding_windows(8, 4, overlap)


@pytest.mark.parametrize(("length", "weights"), [(1, [1]), (4, [1, 2, 2, 1]), (5, [1, 2, 3, 2, 1])])
def test_a_pyramid(length, weights):
    assert pyramid(length) == weights


@pytest.mark.parametrize("dim", [0, 1, 2])
def test_overlapping_parts_are_averaged_by_their_weights(dim):
    windows = ((0, 1, 2, 3), (2, 3, 4, 5))
    parts = [torch.full((2, 2, 2), float(value)).repeat_interleave(2, dim) for value in (1, 4)]
    whole = fused(parts, windows, dim=dim).movedim(dim, 0)
    # Frame 2 has the third weight of the one, 2, and the first of the other, 1; frame 3 the other way round.
    for frame, value in enumerate([1, 1, 2, 3, 4, 4]):
        assert torch.equal(whole[frame], torch.full((2, 2), float(value)))


def test_parts_of_one_clip_give_the_clip_back():
    clip = torch.randn(3, 10, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    windows = sliding_windows(10, 4, 1)
    parts = [clip[:, list(window)] for window in windows]
    torch.testing.assert_close(fused(parts, windows, dim=1), clip, rtol=1e-12, atol=0)
    assert fused([clip], [tuple(range(10))], dim=1) is clip
