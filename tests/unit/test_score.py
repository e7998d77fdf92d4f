"""Scores of drawn clips, whose motions are known: the same, mirrored, faster, still; and the best of several."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from embedded.drawing import Camera, Scene, Thing
from motionclone_core.metrics import motion_fidelity, track_agreement
from motionclone_core.score import (
    CRITERIA,
    ClipScore,
    MotionScore,
    NotFiniteError,
    TrackedVideo,
    best_of,
    comparison,
    score_motion,
)

FRAMES = 8
DIAGONAL = math.hypot(64, 64)


def clip(speed, *, frames=FRAMES, size=64, colour="red"):
    """A square that goes to the right by ``speed`` pixels of 64 a frame, in [0, 1]."""
    x = 20 + speed * np.arange(frames, dtype=np.float32)
    path = np.stack([x, np.full_like(x, 32)], axis=-1)
    still = np.zeros((frames, 2), np.float32), np.ones(frames, np.float32)
    thing = Thing("square", colour, path, np.full(frames, 9, np.float32), np.zeros(frames, np.float32))
    scene = Scene((thing,), "plain", "slate", 0.0, Camera(*still), "straight")
    return (scene if size == 64 else scene.enlarged(size)).render().astype(np.float32) / 255


def tracked(images, name="the video"):
    return TrackedVideo.of(images, name)


@pytest.fixture(scope="module")
def reference():
    return tracked(clip(2.0), "the reference")


def test_a_clip_against_itself(reference):
    score = score_motion(reference, reference)
    assert score.motion_fidelity == pytest.approx(1, abs=1e-12)
    assert score.trajectory_distance == 0
    # All points that can be followed lie on the square.
    assert score.motion_magnitude == pytest.approx(2.0 / DIAGONAL, rel=0.05)
    assert score.motion_magnitude == score.reference_magnitude
    assert (score.frames, score.notes) == (FRAMES, ())


def test_another_look_with_the_same_motion(reference):
    score = score_motion(reference, tracked(clip(2.0, colour="green")))
    assert score.motion_fidelity > 0.95 and score.trajectory_distance < 0.01


def test_the_mirror_goes_the_other_way(reference):
    score = score_motion(reference, tracked(clip(2.0)[:, :, ::-1]))
    assert score.motion_fidelity < -0.9
    # From x 20 to 34 and from 43 to 29: no pairing of the frames is nearer than the ends.
    assert 5 / DIAGONAL < score.trajectory_distance < 23 / DIAGONAL


def test_twice_as_fast_scores_four_fifths(reference):
    score = score_motion(reference, tracked(clip(4.0)))
    # 2uv / (u^2 + v^2) of two displacements, both shortened by a thousandth of the diagonal.
    u, v = 2 / DIAGONAL - 0.001, 4 / DIAGONAL - 0.001
    assert score.motion_fidelity == pytest.approx((2 * u * v + 1e-6) / (u * u + v * v + 1e-6), abs=0.02)
    assert score.motion_magnitude == pytest.approx(2 * score.reference_magnitude, rel=0.05)


@pytest.mark.parametrize("name", ["frozen", "black"])
def test_what_stands_still_is_consistent_and_follows_nothing(reference, name):
    images = np.repeat(clip(2.0)[:1], FRAMES, axis=0) if name == "frozen" else np.zeros((FRAMES, 64, 64, 3), np.float32)
    score = score_motion(reference, tracked(images))
    assert score.motion_magnitude == 0 and score.stands_still
    assert score.temporal_consistency == pytest.approx(1, abs=1e-6)
    assert abs(score.motion_fidelity) < 0.05
    assert "hardly moves" in score.report()


def test_a_black_reference_is_named(reference):
    black = tracked(np.zeros((FRAMES, 64, 64, 3), np.float32))
    score = score_motion(black, reference)
    assert abs(score.motion_fidelity) < 0.05 and not score.stands_still
    assert "The reference does not move" in score.report()
    assert score_motion(black, black).motion_fidelity == pytest.approx(1, abs=1e-12)


BLACK = np.zeros((FRAMES, 64, 64, 3), np.float32)


@pytest.mark.parametrize(("levels", "blank"), [(0, FRAMES), (2, FRAMES), (3, 0)])
@pytest.mark.parametrize("base", [0.0, 0.4])
def test_a_frame_shows_nothing_if_its_colours_differ_by_at_most_2_levels(base, levels, blank):
    images = np.full((FRAMES, 64, 64, 3), base, np.float32)
    images[:, 20:40, 20:40, 1] += levels / 255  # one colour is enough to see something
    assert tracked(images).blank_frames == blank


def test_frames_that_show_nothing_are_counted_in_both_videos(reference):
    images = clip(2.0)
    images[[2, 5, 6]] = 0
    some = tracked(images)
    score = score_motion(reference, some)
    assert (score.blank_frames, score.reference_blank_frames) == (3, 0)
    assert f"3 of {FRAMES} frames of the video show nothing (black?): " in score.report()
    assert "--fp32-vae" in score.report() and "of the reference show nothing" not in score.report()
    turned = score_motion(some, reference)
    assert (turned.blank_frames, turned.reference_blank_frames) == (0, 3)
    assert f"3 of {FRAMES} frames of the reference show nothing (black?): choose" in turned.report()
    assert "of the video show nothing" not in turned.report()
    assert f"{FRAMES} of {FRAMES} frames of the video show nothing" in score_motion(reference, tracked(BLACK)).report()


def test_other_sizes_are_measured_in_shares_of_the_frame(reference):
    score = score_motion(reference, tracked(clip(2.0, size=128)))
    assert score.motion_fidelity > 0.95 and score.trajectory_distance < 0.01
    assert "The video is 128 x 128 and the reference 64 x 64" in score.report()


def test_what_lies_outside_0_to_1_is_cut_off_and_a_fourth_channel_left_out():
    images = clip(2.0)
    wild = np.concatenate([np.where(images > 0.5, 3.0, -1.0), np.zeros_like(images[..., :1])], axis=-1)
    assert np.array_equal(tracked(wild).frames, np.where(images > 0.5, 255, 0))


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (clip(2.0)[:1], "the video has 1 frame and motion needs at least 2"),
        (clip(2.0)[:, :8, :8], "the video: the frames are 8 x 8 pixels"),
        (clip(2.0)[..., :1], r"the video is \(8, 64, 64, 1\): give frames"),
    ],
)
def test_what_is_no_video_is_refused(images, message):
    with pytest.raises(ValueError, match=message):
        tracked(images)


def test_values_that_are_not_finite_are_counted():
    images = clip(2.0)
    images[3, :2, 0, 0] = np.nan
    images[4, 0, 0, 1] = np.inf
    with pytest.raises(NotFiniteError, match=f"3 of {images.size} values of the video are not finite"):
        tracked(images)


def test_videos_of_other_lengths_are_refused(reference):
    with pytest.raises(ValueError, match="the reference has 8 frames and the video 6"):
        score_motion(reference, tracked(clip(2.0)[:6]))


def test_agreement_of_tracks_is_what_fidelity_counts(reference):
    other = tracked(clip(4.0))
    best = [track_agreement(a, b).max(axis=1) for a, b in
            ((reference.tracks, other.tracks), (other.tracks, reference.tracks))]  # fmt: skip
    ends = min(one.min() for one in best), max(one.max() for one in best)
    assert ends[0] - 1e-9 <= motion_fidelity(reference.tracks, other.tracks) <= ends[1] + 1e-9


# --- words ----------------------------------------------------------------------------------------------

SCORE = MotionScore(0.5, 0.25, 0.01, 0.0125, 0.9, 0.8, 16, (64, 64), (64, 64))


def test_the_report_is_a_table_in_columns():
    asked = replace(SCORE, clip=ClipScore(0.3, 0.95, ("A note.",)))
    lines = asked.report().splitlines()
    assert lines == [
        "                       video  reference",
        "motion fidelity       0.5000          1",
        "trajectory distance   0.2500          0",
        "motion magnitude      0.0100     0.0125",
        "temporal consistency  0.9000     0.8000",
        "CLIP consistency      0.9500",
        "textual alignment     0.3000",
        "A note.",
    ]
    assert "CLIP" not in SCORE.report()


# --- the best -------------------------------------------------------------------------------------------


def scores(*pairs):
    return [replace(SCORE, motion_fidelity=f, trajectory_distance=d) for f, d in pairs]


@pytest.mark.parametrize(("by", "best"), [("motion fidelity", 1), ("trajectory distance", 2), ("both", 0)])
def test_the_best_by_each_criterion(by, best):
    # Places by fidelity 1, 0, 2, 3; by distance 1, 3, 0, 2: sums 2, 3, 2, 5, and the first has more fidelity.
    assert best_of(scores((0.8, 0.11), (0.9, 0.40), (0.3, 0.10), (0.2, 0.20)), by) == best


def test_of_equals_the_first_wins():
    assert best_of(scores((0.1, 0.1), (0.5, 0.2), (0.5, 0.2)), "motion fidelity") == 1


def test_what_hardly_moves_or_overflowed_does_not_win():
    still = replace(SCORE, motion_fidelity=0.99, trajectory_distance=0.0, motion_magnitude=0.00124)
    several = [None, still, *scores((0.1, 0.4))]
    for by in ("motion fidelity", "trajectory distance", "both"):
        assert best_of(several, by) == 2
        assert best_of(several[:2], by) == 1
    table = comparison(several, 2, (7, 8, 9)).splitlines()
    assert table[1].split() == ["7", "not", "finite"]
    assert table[3].split() == ["*", "9", "0.1000", "0.4000", "0.0100", "0.9000"]
    assert table[4].split() == ["reference", "1", "0", "0.0125", "0.8000"]
    assert table[5] == "Hardly moving, so chosen last: 8."


@pytest.mark.parametrize("images", [BLACK, np.repeat(clip(2.0)[:1], FRAMES, axis=0)], ids=["black", "still"])
def test_a_black_video_does_not_win_though_the_reference_is_still_or_black(images):
    given = tracked(images, "the reference")
    flash = clip(2.0)
    flash[3] = 0
    several = [score_motion(given, tracked(one)) for one in (BLACK, flash, clip(2.0))]
    assert several[0].motion_fidelity == pytest.approx(1, abs=1e-12)
    for by in CRITERIA:
        assert best_of(several, by) == 2
        assert best_of(several[:2], by) == 1
    table = comparison(several, 2).splitlines()
    last = f"Frames that show nothing (black?), so chosen last of all: 0 ({FRAMES} of {FRAMES}), 1 (1 of {FRAMES}). "
    assert table[5].startswith(last) and "--fp32-vae" in table[5]
    assert table[-1] == "The reference does not move, or shows nothing that can be followed."
    assert any(f"{FRAMES} frames of the reference" in line for line in table) == (images is BLACK)


def test_a_black_video_comes_after_one_that_hardly_moves(reference):
    frozen = np.repeat(clip(2.0)[:1], FRAMES, axis=0)
    several = [score_motion(reference, tracked(one)) for one in (BLACK, frozen)]
    assert best_of(several, "motion fidelity") == best_of(several, "trajectory distance") == 1
    table = comparison(several, 1)
    assert "Hardly moving, so chosen last: 1." in table and "chosen last of all: 0 (8 of 8)." in table
    assert "The reference does not move" not in table


def test_a_choice_that_cannot_be_made():
    with pytest.raises(ValueError, match="0 of 2 videos could be scored"):
        best_of([None, None], "both")
    with pytest.raises(ValueError, match="0 videos were given: give at least 1"):
        best_of([], "both")
    with pytest.raises(ValueError, match="'luck' is no way to choose: take one of motion fidelity"):
        best_of([SCORE], "luck")
    with pytest.raises(ValueError, match="3 seeds for 1 videos"):
        comparison([SCORE], 0, (1, 2, 3))
