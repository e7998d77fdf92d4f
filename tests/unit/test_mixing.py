"""Several motions in one run."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from motionclone_core.editing import retimed
from motionclone_core.grids import RepresentationMismatchError
from motionclone_core.mixing import Motion, MotionPart
from motionclone_core.representation import MotionRepresentation, Provenance, TapRepresentation
from motionclone_core.schedule import Keyframe, StrengthCurve
from toy_host import TAPS


def motion(frames=4, *, taps=TAPS[:1], architecture="toy/1", mask=None):
    tap = TapRepresentation(torch.rand(4, 1, frames, 1).half(), torch.zeros(4, 1, frames, 1, dtype=torch.uint8), (2, 2))
    whole = MotionRepresentation.whole(dict.fromkeys(taps, tap), (2, 2), Provenance(architecture=architecture))
    return replace(whole, mask=mask)


FADING = StrengthCurve((Keyframe(0.0, 1.0), Keyframe(1.0, 0.0)))


def test_one_motion_is_itself():
    one = motion()
    assert Motion.of(one).representations == (one,) and Motion.of(Motion.of(one)) == Motion.of(one)
    assert Motion.of(one).strengths(3, 10) == [1.0]


def test_strengths_are_each_ones_own_over_the_steps():
    mix = Motion((MotionPart(motion(), 0.5), MotionPart(motion(), 2.0, FADING)))
    found = [list(mix.strengths(step, 5)) for step in range(5)]
    assert found == [[0.5, 2.0], [0.5, 1.5], [0.5, 1.0], [0.5, 0.5], [0.5, 0.0]]


def test_taps_are_those_of_all_in_the_order_of_execution():
    assert Motion((MotionPart(motion(taps=TAPS[2:])), MotionPart(motion(taps=TAPS[:1])))).taps == (TAPS[0], TAPS[2])


def test_what_is_guided_is_shared_out_by_strength():
    left = torch.tensor([[[1.0, 0.0]]])
    mix = Motion((MotionPart(motion(mask=left)), MotionPart(motion(mask=1 - left))))
    assert mix.coverage([1.0, 1.0]) == 1.0
    assert mix.coverage([3.0, 0.0]) == 0.5
    assert mix.coverage([2.0, 1.0]) == 0.5 + 0.25 * 0.5
    assert Motion((MotionPart(motion()), MotionPart(motion()))).coverage([1.0, 1.0]) == 1.0


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (motion(5), "motion 1 has 4 frames and motion 2 has 5: put Retime Motion"),
        (motion(architecture="toy/2"), "motion 1 was made with toy/1 and motion 2 with toy/2"),
        (replace(motion(), provenance=Provenance(group=4)), "motion 1 is 1 of the video, one of motion 2 is 4"),
    ],
)
def test_motions_that_do_not_go_together_are_named(other, message):
    with pytest.raises(RepresentationMismatchError, match=message):
        Motion((MotionPart(motion()), MotionPart(other)))


def test_motions_read_in_other_windows_are_refused_unless_one_is_retimed():
    tap = motion().taps
    windows = {window: {TAPS[0]: tap[TAPS[0]]} for window in ((0, 1, 2, 3), (2, 3, 4, 5))}
    whole, sliding = motion(6), MotionRepresentation(windows, (2, 2), Provenance(architecture="toy/1"))
    with pytest.raises(RepresentationMismatchError, match=r"motion 1 and motion 2 were read in other windows \(1"):
        Motion.of(Motion((MotionPart(whole), MotionPart(sliding))))
    Motion((MotionPart(whole), MotionPart(retimed(sliding, range(6)))))


def test_motions_without_strength_are_refused():
    with pytest.raises(ValueError, match="strength of every motion is 0"):
        Motion((MotionPart(motion(), 0.0), MotionPart(motion(), 0.0)))


def test_no_motion_is_refused():
    with pytest.raises(RepresentationMismatchError, match="at least 1"):
        Motion(())


@pytest.mark.parametrize("strength", [-1.0, math.inf, math.nan])
def test_strengths_that_are_none_are_refused(strength):
    with pytest.raises(ValueError, match="strength of a motion"):
        MotionPart(motion(), strength)
