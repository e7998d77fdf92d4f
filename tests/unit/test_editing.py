"""Edits of a motion: which frames follow which, places, masks; and what is refused."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from motionclone_core.editing import masked, placed, retimed, timing
from motionclone_core.grids import Crop, Frame
from motionclone_core.representation import MotionRepresentation, Provenance, TapRepresentation
from motionclone_core.resampling import held_against
from toy_host import TAPS


def motion(frames=4, group=1):
    shape = (64, 1, frames, 1)
    tap = TapRepresentation(torch.rand(shape).half(), torch.zeros(shape, dtype=torch.uint8), (8, 8))
    return MotionRepresentation.whole({TAPS[0]: tap}, (8, 8), Provenance(group=group))


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, [0, 1, 2, 3, 3, 3, 3, 3]),
        ({"repeat": "loop"}, [0, 1, 2, 3, 0, 1, 2, 3]),
        ({"repeat": "ping-pong"}, [0, 1, 2, 3, 2, 1, 0, 1]),
        ({"reverse": True}, [3, 2, 1, 0, 0, 0, 0, 0]),
        ({"speed": 0.5}, [0, 1, 1, 2, 2, 3, 3, 3]),
        ({"speed": 2.0, "repeat": "loop"}, [0, 2, 0, 2, 0, 2, 0, 2]),
        ({"offset": 2.0, "repeat": "loop"}, [2, 3, 0, 1, 2, 3, 0, 1]),
        ({"offset": -2.0}, [0, 0, 0, 1, 2, 3, 3, 3]),
        ({"offset": -1.0, "repeat": "ping-pong"}, [1, 0, 1, 2, 3, 2, 1, 0]),
        ({"offset": 1.0, "reverse": True, "repeat": "loop"}, [2, 1, 0, 3, 2, 1, 0, 3]),
    ],
)
def test_which_frames_are_followed(settings, expected):
    assert timing(4, 8, **settings) == expected


def test_a_whole_turn_of_any_speed_is_even():
    # 16 frames over 64: each four times, but for the half step at the ends.
    counts = np.bincount(timing(16, 64, speed=0.25))
    assert set(counts[1:-1]) == {4}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"speed": 0.0}, "speed 0.0"),
        ({"speed": math.nan}, "speed nan"),
        ({"offset": math.inf}, "offset inf"),
        ({"repeat": "bounce"}, "repeat is 'bounce'"),
        ({"frames": 1}, "4 frames cannot be retimed to 1"),
    ],
)
def test_timings_that_are_none_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        timing(4, arguments.pop("frames", 8), **arguments)


@pytest.mark.parametrize("follows", [[], [0, 4], [-1, 0]])
def test_frames_that_are_not_there_are_refused(follows):
    with pytest.raises(ValueError, match="4 frames cannot be retimed"):
        retimed(motion(), follows)


def test_a_retimed_motion_that_stands_still_is_refused():
    with pytest.raises(ValueError, match="all frames would follow frame 4: nothing moves"):
        retimed(motion(), timing(4, 8, offset=9.0))


def test_a_motion_is_scaled_about_the_middle_and_moved():
    half = placed(motion(), x=0.25, y=0.0, scale=0.5)
    assert half.frame == Frame(top=0.25, left=0.5, height=0.5, width=0.5)
    back = placed(placed(half, x=-0.25, y=0.0, scale=1.0), x=0.0, y=0.0, scale=2.0)
    assert back.frame == Frame()


@pytest.mark.parametrize("place", [{"x": 1.0}, {"y": -1.0}, {"x": 0.8, "scale": 0.5}])
def test_a_motion_that_would_leave_the_frame_is_refused(place):
    with pytest.raises(ValueError, match="outside the frame: move it less"):
        placed(motion(), **{"x": 0.0, "y": 0.0, "scale": 1.0, **place})


@pytest.mark.parametrize(
    ("place", "guided"),
    [
        # The cells of an 8 x 8 grid are 1/8 wide; the middle of the frame is a corner of four.
        ({"scale": 0.05}, 0),
        ({"scale": 0.12}, 0),
        ({"scale": 0.13}, 4),
        ({"scale": 0.05, "x": 1 / 16, "y": 1 / 16}, 1),
        ({"scale": 0.05, "x": 1 / 16}, 0),
        ({"scale": 1.0, "x": 0.95}, 0),
    ],
)
def test_a_motion_that_covers_the_centre_of_no_cell_is_refused(place, guided):
    settings = {"x": 0.0, "y": 0.0, **place}
    if not guided:
        with pytest.raises(ValueError, match=rf"scaled by {place['scale']:g} .* single cell .* take a larger scale"):
            placed(motion(), **settings)
        return
    weights = held_against(placed(motion(), **settings), (0, 1, 2, 3), Crop(0, 0, 8, 8), (8, 8))[TAPS[0]].weights
    assert int((weights[:, 0] > 0).sum()) == guided


def test_a_motion_whose_mask_leaves_no_covered_cell_is_refused():
    corner = torch.zeros(64, 64)
    corner[:4, :4] = 1.0  # a part of a cell
    inside = masked(motion(), corner)
    assert placed(inside, x=0.0, y=0.0, scale=0.9).coverage > 0
    with pytest.raises(ValueError, match="take a larger scale"):
        # The corner comes to 0.35 to 0.37, in the cell of 0.25 to 0.375, whose centre is not covered.
        placed(inside, x=0.0, y=0.0, scale=0.3)


@pytest.mark.parametrize("scale", [0.0, -1.0, math.nan])
def test_a_scale_that_is_none_is_refused(scale):
    with pytest.raises(ValueError, match="a scale above 0 is needed"):
        placed(motion(), x=0.0, y=0.0, scale=scale)


def test_a_mask_that_is_there_moves_with_the_motion():
    mask = torch.zeros(8, 8)
    mask[:2, :2] = 1.0  # the upper left corner
    moved = placed(masked(motion(), mask), x=0.5, y=0.5, scale=1.0)
    assert torch.equal(moved.mask[0].nonzero(), torch.tensor([[4, 4], [4, 5], [5, 4], [5, 5]]))
    weights = held_against(moved, (0, 1, 2, 3), Crop(0, 0, 8, 8), (8, 8))[TAPS[0]].weights
    assert torch.equal(weights[:, 0].reshape(8, 8), moved.mask[0].float())


def test_masks_multiply():
    left, top = torch.zeros(8, 8), torch.zeros(4, 4, 4)
    left[:, :4], top[:, :2] = 1.0, 0.5
    both = masked(masked(motion(), left), top)
    assert both.mask.shape == (4, 8, 8)  # the finer one's
    assert both.mask[1].tolist() == [[0.5] * 4 + [0.0] * 4] * 4 + [[0.0] * 8] * 4
    assert torch.equal(masked(masked(motion(), top), left).mask, both.mask)


def test_a_mask_and_its_inverse_share_out_the_frame():
    mask = torch.rand(1, 8, 8, generator=torch.Generator().manual_seed(1))
    one, other = (masked(motion(), mask, invert=invert).mask.float() for invert in (False, True))
    torch.testing.assert_close(one + other, torch.ones_like(one), rtol=0, atol=2**-10)


def test_a_feather_is_a_gaussian_over_the_edge():
    step = torch.zeros(1, 64, 64)
    step[..., 32:] = 1.0
    soft = masked(motion(), step, feather=0.0625).mask[0].float()  # sigma: 4 pixels of 64
    # The integral of a Gaussian from the middle of each pixel to the edge.
    wanted = [0.5 * (1 + math.erf((x + 0.5 - 32) / (4 * math.sqrt(2)))) for x in range(64)]
    torch.testing.assert_close(soft[20], torch.tensor(wanted), rtol=0, atol=5e-3)
    assert torch.equal(soft[0], soft[40])  # nothing fades towards the border
    along = masked(motion(), step.transpose(1, 2), feather=0.0625).mask[0].float()
    assert torch.equal(along.T, soft)


def test_what_is_guided_is_told():
    quarter = torch.zeros(8, 8)
    quarter[:4, :4] = 1.0
    assert motion().coverage == 1.0
    assert masked(motion(), quarter).coverage == 0.25
    assert masked(motion(), torch.full((8, 8), 0.5)).coverage == 0.25  # the mean square
    assert placed(motion(), x=0.5, y=0.0, scale=1.0).coverage == 0.5
    # In the right half, of which a mask leaves the upper half.
    assert masked(placed(motion(), x=0.5, y=0.0, scale=1.0), torch.tensor([[1.0], [0.0]])).coverage == 0.25


def test_a_mask_and_a_place_that_share_nothing_are_refused():
    left = torch.zeros(8, 8)
    left[:, :4] = 1.0
    with pytest.raises(ValueError, match="lies where Place Motion has left the frame free"):
        masked(placed(motion(), x=0.5, y=0.0, scale=1.0), left)
    with pytest.raises(ValueError, match="the motion's mask is empty: move it less"):
        placed(masked(motion(), left), x=-0.6, y=0.0, scale=1.0)


@pytest.mark.parametrize(
    ("mask", "options", "message"),
    [
        (torch.ones(3, 8, 8), {}, "the mask has 3 frames, the motion 4"),
        (torch.zeros(8, 8), {}, "leaves nothing of the motion: it is empty"),
        (torch.ones(8, 8), {"invert": True}, "empty when inverted"),
        (torch.full((8, 8), math.nan), {}, "not numbers"),
        (torch.ones(1, 1, 8, 8), {}, r"shape \[1, 1, 8, 8\]"),
        (torch.ones(1, 0, 8), {}, r"shape \[1, 0, 8\]"),
        (torch.ones(8, 8), {"feather": -1.0}, "feather is -1.0"),
        (torch.ones(8, 8), {"feather": math.nan}, "feather is nan"),
    ],
)
def test_masks_that_fit_no_motion_are_refused(mask, options, message):
    with pytest.raises(ValueError, match=message):
        masked(motion(), mask, **options)


def test_frames_that_are_all_masked_out_are_not_followed():
    first = torch.zeros(4, 8, 8)
    first[0] = 1.0
    with pytest.raises(ValueError, match="frames that are followed are all masked out"):
        retimed(masked(motion(), first), [1, 2, 3, 3])


def test_a_mask_that_is_too_faint_to_keep_is_empty():
    with pytest.raises(ValueError, match="it is empty"):
        masked(motion(), torch.full((8, 8), 1e-9))


def test_masks_that_share_nothing_are_refused():
    left = torch.zeros(8, 8)
    left[:, :4] = 1.0
    with pytest.raises(ValueError, match="leaves nothing"):
        masked(masked(motion(), left), left, invert=True)


def test_an_edit_leaves_the_motion_that_it_was_made_of_alone():
    before = motion()
    kept = replace(before)
    masked(placed(retimed(before, [0, 1, 1, 2]), x=0.1, y=0.1, scale=0.5), torch.ones(8, 8))
    assert (before.timing, before.mask, before.frame) == (None, None, Frame())
    assert before.windows is kept.windows


def test_a_mask_for_each_frame_of_the_video_is_the_mean_of_each_group():
    mask = torch.rand(9, 8, 8, generator=torch.Generator().manual_seed(3))
    wanted = torch.stack([mask[0], mask[1:5].mean(0), mask[5:9].mean(0)])
    assert torch.allclose(masked(motion(3, group=4), mask).mask.float(), wanted, atol=2.0**-11)


def test_a_mask_for_each_latent_frame_is_taken_as_it_is():
    mask = torch.rand(3, 8, 8, generator=torch.Generator().manual_seed(4))
    assert torch.equal(masked(motion(3, group=4), mask).mask, mask.half())


def test_a_mask_of_other_frames_says_how_many_the_video_has():
    with pytest.raises(ValueError, match=r"the mask has 5 frames, the motion 3 latent ones \(9 of the video\)"):
        masked(motion(3, group=4), torch.ones(5, 8, 8))
