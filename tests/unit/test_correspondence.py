"""Displacements from what a representation keeps: of a spot that moves along a known path."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from motionclone_core.correspondence import correspondence
from motionclone_core.editing import masked, placed, retimed
from motionclone_core.representation import MotionRepresentation, TapRepresentation
from motionclone_core.taps import UnknownTapError

TAP, OTHER = "up_blocks.1.motion.0.attention.0", "up_blocks.0.motion.0.attention.0"
FRAMES = 12


def spot(velocity, *, grid=(16, 16), start=(0.5, 0.5), frames=FRAMES, seed=0):
    """A tap that is sharp where a spot is: it starts at x, y and goes by a velocity, in shares of the frame."""
    time = np.arange(frames) - (frames - 1) / 2
    y, x = ((np.arange(side) + 0.5) / side for side in grid)
    at = np.array(start) + time[:, None] * np.array(velocity)
    far = (x[None, None] - at[:, 0, None, None]) ** 2 + (y[None, :, None] - at[:, 1, None, None]) ** 2
    sharp = 0.1 * np.exp(1.5 * np.exp(-far / (2 * 0.1**2)))  # [f, h, w]
    # Every frame has a level of its own, as positional encodings give it, and there is some noise.
    rng = np.random.default_rng(seed)
    sharp = sharp * (1 + 0.3 * rng.random(frames))[:, None, None] * np.exp(0.02 * rng.standard_normal(sharp.shape))
    values = torch.from_numpy(sharp.reshape(frames, -1).T.copy())[:, None, :, None].expand(-1, 2, -1, -1)
    own = torch.arange(frames)[:, None].expand(values.shape)
    return TapRepresentation.compact(values, own, grid)


def motion(velocity=(0.03, 0.01), **changes):
    tap = spot(velocity, **changes)
    return MotionRepresentation.whole({TAP: tap}, tap.grid)


def mean_of(found):
    assert found.told.any()
    return found.displacement[found.told].mean(axis=0)


@pytest.mark.parametrize("velocity", [(0.03, 0.0), (0.0, -0.03), (-0.02, 0.02), (0.05, 0.03)])
@pytest.mark.parametrize("grid", [(8, 8), (16, 16), (12, 20)])
def test_a_spot_that_moves_is_followed(velocity, grid):
    found = correspondence(motion(velocity, grid=grid))
    assert found.displacement.shape == (FRAMES - 1, *grid, 2) and found.confidence.shape == (FRAMES - 1, *grid)
    moved = mean_of(found)
    cosine = moved @ velocity / np.linalg.norm(moved) / np.linalg.norm(velocity)
    assert cosine > 0.99
    # Slopes between coarse cells are flatter than the spot's, and displacements longer.
    assert 0.8 < np.linalg.norm(moved) / np.linalg.norm(velocity) < 1.3


def test_it_is_told_where_the_spot_is():
    told = correspondence(motion((0.03, 0.0))).told
    for pair in (2, 5, 8):
        rows, columns = np.nonzero(told[pair])
        assert abs((columns.mean() + 0.5) / 16 - (0.5 + 0.03 * (pair + 0.5 - 5.5))) < 0.04
        assert abs((rows.mean() + 0.5) / 16 - 0.5) < 0.04


def test_nothing_is_told_of_a_spot_that_stands_still():
    assert not correspondence(motion((0.0, 0.0))).told.any()


def test_two_spots_are_told_apart():
    left, right = spot((0.0, 0.03), start=(0.2, 0.5)), spot((0.0, -0.03), start=(0.8, 0.5), seed=1)
    both = TapRepresentation.compact(torch.maximum(left.values, right.values).float(), left.indices, left.grid)
    found = correspondence(MotionRepresentation.whole({TAP: both}, (16, 16)))
    down = found.displacement[..., 1]
    assert down[:, :, :8][found.told[:, :, :8]].min() > 0 > down[:, :, 8:][found.told[:, :, 8:]].max()


def test_further_entries_change_nothing():
    one = motion()
    tap = one.taps[TAP]
    weaker = torch.cat([tap.values, 0.5 * tap.values], dim=3)
    more = TapRepresentation(weaker, torch.cat([tap.indices, (tap.indices + 1) % FRAMES], dim=3), tap.grid)
    again = correspondence(MotionRepresentation.whole({TAP: more}, one.latent_size))
    assert np.array_equal(again.displacement, correspondence(one).displacement)


def test_a_motion_backwards_points_the_other_way():
    forwards, backwards = motion((0.03, 0.01)), retimed(motion((0.03, 0.01)), range(FRAMES - 1, -1, -1))
    np.testing.assert_allclose(mean_of(correspondence(backwards)), -mean_of(correspondence(forwards)), atol=0.002)


def test_a_motion_in_half_the_size_goes_half_as_far():
    whole, half = correspondence(motion()), correspondence(placed(motion(), x=0.25, y=0.0, scale=0.5))
    assert (np.nonzero(half.told)[2] >= 8).all()
    np.testing.assert_allclose(mean_of(half), mean_of(whole) / 2, atol=0.005)


def test_nothing_is_told_where_a_mask_guides_nothing():
    mask = torch.zeros(1, 16, 16)
    mask[:, :, :8] = 1
    found = correspondence(masked(motion((0.05, 0.0)), mask=mask, feather=0.0))
    assert found.told[:, :, :7].any() and not found.told[:, :, 8:].any()


def test_windows_make_one_film():
    tap = motion().taps[TAP]
    parts = [tuple(range(8)), tuple(range(4, 12))]
    cut = {
        window: {TAP: TapRepresentation(tap.values[:, :, list(window)], tap.indices[:, :, :8], tap.grid)}
        for window in parts
    }
    found = correspondence(MotionRepresentation(cut, (16, 16)))
    np.testing.assert_allclose(found.displacement, correspondence(motion()).displacement, atol=1e-5)


def test_taps_are_chosen_by_name():
    still = spot((0.0, 0.0), grid=(8, 8))
    both = MotionRepresentation.whole({TAP: spot((0.03, 0.0)), OTHER: still}, (16, 16))
    alone = correspondence(motion((0.03, 0.0)))
    np.testing.assert_array_equal(correspondence(both, "up_blocks.1").displacement, alone.displacement)
    assert correspondence(both, "up_blocks.0").displacement.shape == (FRAMES - 1, 8, 8, 2)
    with pytest.raises(UnknownTapError, match=r"'mid_block'.*up_blocks\.0, up_blocks\.1"):
        correspondence(both, "mid_block")


def test_one_frame_has_no_next():
    found = correspondence(motion(frames=1))
    assert found.displacement.shape == (0, 16, 16, 2) and found.told.shape == (0, 16, 16)
