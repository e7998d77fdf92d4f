"""Scores of motion: known answers for still, reversed, faster, shifted, flickering and black videos."""

from __future__ import annotations

import math
import tracemalloc

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from motionclone_core.metrics import (
    Tracks,
    discrete_frechet,
    frechet_distance,
    motion_fidelity,
    motion_magnitude,
    path_error,
    temporal_consistency,
    track_points,
    velocity_cosine,
)

RIGHT = (1.5, 0.0)


def texture(seed=0, size=128):
    noise = np.random.default_rng(seed).uniform(0, 255, (size, size, 3)).astype(np.float32)
    smooth = cv2.GaussianBlur(noise, (0, 0), 2.5)
    return (smooth - smooth.min()) / np.ptp(smooth) * 255


def moving(step, *, frames=8, size=64, seed=0):
    """A textured plane that moves by ``step`` pixels a frame."""
    plane, middle = texture(seed, size=4 * size), (4 * size - size) / 2
    pictures = []
    for frame in range(frames):
        x, y = middle - frame * step[0], middle - frame * step[1]
        move = np.array([[1, 0, -x], [0, 1, -y]])
        pictures.append(cv2.warpAffine(plane, move, (size, size), flags=cv2.INTER_LINEAR))
    return np.rint(np.stack(pictures)).astype(np.uint8)


def square(centres, *, size=64, side=14, plain=(60, 70, 80), colour=(230, 60, 50)):
    """A square over a plain background, drawn between pixels."""
    y, x = np.indices((size, size), dtype=np.float32)
    pictures = []
    for cx, cy in centres:
        cover = np.clip(side / 2 + 0.5 - np.maximum(np.abs(x - cx), np.abs(y - cy)), 0, 1)[..., None]
        pictures.append(np.array(plain) * (1 - cover) + np.array(colour) * cover)
    return np.rint(np.stack(pictures)).astype(np.uint8)


def straight(speed, *, frames=12, start=14.0):
    return [(start + speed * frame, 30.0) for frame in range(frames)]


def tracks_of(steps, *, size=(60, 80), start=(5.0, 5.0)):
    """Tracks with these displacements [n, f - 1, 2]; the diagonal of the default size is 100."""
    steps = np.asarray(steps, np.float32)
    points = np.concatenate([np.zeros((len(steps), 1, 2)), np.cumsum(steps, axis=1)], axis=1) + start
    return Tracks(points.astype(np.float32), np.ones(points.shape[:2], bool), size)


# --- tracking -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("step", [(1.5, 0.0), (-0.75, 1.25), (0.0, -2.0)])
@pytest.mark.parametrize("size", [48, 64, 300])
def test_tracks_follow_a_plane_that_moves(step, size):
    tracks = track_points(moving(step, size=size))
    seen = np.diff(tracks.points, axis=1)[tracks.measured]
    assert len(seen) > 100
    assert np.abs(np.median(seen, axis=0) - step).max() < 0.03
    assert (np.linalg.norm(seen - step, axis=1) < 0.25).mean() > 0.95


def test_tracks_of_a_small_clip_lie_on_what_moves_in_it():
    path = straight(2.0)
    tracks = track_points(square(path))
    apart = np.abs(tracks.points - np.array(path)[None])[tracks.visible]
    assert apart.max() < 14 / 2 + 3
    assert tracks.visible.mean() > 0.8


def test_points_that_leave_the_picture_are_lost_and_those_that_enter_are_followed():
    tracks = track_points(moving((6.0, 0.0)))
    assert not tracks.visible.all()
    assert (~tracks.visible[:, 0] & tracks.visible[:, -1]).any()
    assert (tracks.visible[:, 0] & ~tracks.visible[:, -1]).any()
    inside = tracks.points[tracks.visible]
    assert inside.min() >= -0.5 and inside.max() <= 63.5


def test_a_cut_is_not_followed():
    video = np.concatenate([moving(RIGHT, frames=4, seed=1), moving(RIGHT, frames=4, seed=2)])
    tracks = track_points(video)
    assert tracks.measured[:, [0, 1, 2, 4, 5, 6]].mean() > 0.3
    assert tracks.measured[:, 3].mean() < 0.1


def test_tracking_twice_gives_the_same_tracks():
    video = moving((1.0, 0.5))
    a, b = track_points(video), track_points(video)
    assert np.array_equal(a.points, b.points) and np.array_equal(a.visible, b.visible)


@pytest.mark.parametrize("grey", [0, 128, 255])
def test_a_video_without_texture_is_a_still_one(grey):
    tracks = track_points(np.full((5, 64, 48, 3), grey, np.uint8))
    assert tracks.visible.all() and len(tracks.points) == 64
    assert motion_magnitude(tracks) == 0
    assert motion_fidelity(tracks, track_points(np.repeat(moving(RIGHT)[:1], 5, axis=0))) == pytest.approx(1)
    x, y = tracks.points[:, 0].T
    assert x.mean() == pytest.approx(23.5) and y.mean() == pytest.approx(31.5)


def test_a_black_frame_in_between_ends_tracks_and_nothing_else():
    video = moving(RIGHT, frames=9)
    video[4] = 0
    tracks = track_points(video)
    # The middle frame is black: what is seen before it and after it is not joined.
    assert not (tracks.visible[:, 3] & tracks.visible[:, 5]).any()
    assert np.isfinite(motion_fidelity(tracks, track_points(moving(RIGHT, frames=9))))
    assert 0 < temporal_consistency(video) < temporal_consistency(moving(RIGHT, frames=9))


# --- motion fidelity ----------------------------------------------------------------------------------------


def test_a_video_moves_like_itself():
    for video in (moving((1.0, 0.5)), square(straight(2.0)), square(straight(0.0))):
        tracks = track_points(video)
        assert motion_fidelity(tracks, tracks) == pytest.approx(1, abs=1e-12)


def test_reversed_motion_is_opposite_motion():
    video = moving(RIGHT)
    backwards = track_points(np.ascontiguousarray(video[::-1]))
    assert motion_fidelity(track_points(video), backwards) < -0.9


def test_still_beside_moving_is_near_0_and_still_beside_still_is_1():
    still, other = (np.repeat(moving(RIGHT, seed=seed)[:1], 8, axis=0) for seed in (0, 1))
    assert motion_fidelity(track_points(still), track_points(moving(RIGHT))) == pytest.approx(0, abs=0.05)
    assert motion_fidelity(track_points(still), track_points(other)) == pytest.approx(1)


def test_another_look_with_the_same_motion_scores_high_and_another_direction_low():
    tracks = track_points(moving(RIGHT, seed=0))
    assert motion_fidelity(tracks, track_points(moving(RIGHT, seed=5))) > 0.95
    assert motion_fidelity(tracks, track_points(moving((0.0, 1.5), seed=5))) < 0.2


def test_speed_counts():
    slow, fast = tracks_of([[RIGHT] * 6]), tracks_of([[(3.0, 0.0)] * 6])
    assert motion_fidelity(slow, fast, still=1e-6) == pytest.approx(4 / 5, abs=1e-4)
    measured = motion_fidelity(track_points(moving((1.0, 0.0))), track_points(moving((2.0, 0.0))))
    assert 0.6 < measured < 0.85


def test_a_value_worked_out_by_hand():
    # Diagonal 100, e = 0.01, so 1 pixel is taken off: u = (2, 0), (0, 0); v = (0, 2), (0, 0) pixels.
    # Step 1: (0 + 1) / (4 + 4 + 1) = 1/9 with weight 2.1, step 2: 1 with weight 0.1; both ways alike.
    a, b = tracks_of([[(3, 0), (0.5, 0)]]), tracks_of([[(0, 3), (0, -1)]])
    assert motion_fidelity(a, b, still=0.01) == pytest.approx((2.1 / 9 + 0.1) / 2.2, rel=1e-5)


def test_displacements_up_to_the_floor_agree_whatever_their_direction():
    a, b = tracks_of([[(0.9, 0.0)] * 4]), tracks_of([[(-0.9, 0.0)] * 4])
    assert motion_fidelity(a, b, still=0.01) == 1
    assert motion_fidelity(a, b, still=0.001) < -0.9


def test_displacements_are_relative_to_the_frame():
    small, large = moving((1.0, 1.0), size=64), moving((4.0, 4.0), size=256)
    assert motion_fidelity(track_points(small), track_points(large)) > 0.95
    a = tracks_of([[(1, 0)] * 4], size=(60, 80))
    assert motion_fidelity(a, tracks_of([[(3, 0)] * 4], size=(180, 240))) == pytest.approx(1, abs=1e-6)


def test_where_things_are_does_not_matter_and_each_takes_its_best_partner():
    left_and_right = [[(2, 0)] * 5, [(-2, 0)] * 5]
    a, b = tracks_of(left_and_right), tracks_of(left_and_right[::-1], start=(30.0, 40.0))
    assert motion_fidelity(a, b) == pytest.approx(1, abs=1e-6)
    # Its second track finds nothing like it.
    one = motion_fidelity(a, tracks_of(left_and_right[:1]), still=1e-6)
    assert one == pytest.approx((1 - 1 + 1) / 3, abs=1e-4)


def test_a_small_thing_is_not_outvoted_by_still_corners():
    still_corners = [[(0, 0)] * 6] * 100
    there, back = (tracks_of([[(speed, 0)] * 6, *still_corners]) for speed in (3.0, -3.0))
    assert motion_fidelity(there, back) < 0.3


def test_a_partner_must_be_there_for_half_of_the_way():
    a = tracks_of([[(2, 0)] * 4])

    def shown(frames, direction=1):
        points = np.where(np.arange(5)[:, None] < frames, direction * a.points[0], np.nan)[None]
        return Tracks(points, np.arange(5)[None] < frames, a.size)

    # Steps at which a partner is lost are left out, so that losing sight is no way around disagreeing.
    assert motion_fidelity(a, shown(3)) == pytest.approx(1)
    assert motion_fidelity(a, shown(3, direction=-1), still=1e-6) == pytest.approx(-1, abs=1e-3)
    # One step of four: of a's four, nobody knows (0); b's one finds a (1).
    assert motion_fidelity(a, shown(2)) == pytest.approx(1 / 5)


steps = arrays(
    np.float32, st.tuples(st.integers(1, 4), st.just(5), st.just(2)), elements=st.floats(-50, 50, width=16)
)


@given(steps, steps)
@settings(max_examples=60, deadline=None)
def test_fidelity_and_distance_are_symmetric_finite_and_in_range(u, v):
    a, b = tracks_of(u), tracks_of(v)
    score = motion_fidelity(a, b)
    assert -1 - 1e-9 <= score <= 1 + 1e-9
    assert score == pytest.approx(motion_fidelity(b, a), abs=1e-9)
    assert motion_fidelity(a, a) == pytest.approx(1, abs=1e-9)
    assert frechet_distance(a, a) == 0 <= frechet_distance(a, b)
    assert frechet_distance(a, b) == pytest.approx(frechet_distance(b, a))


# --- Fréchet distance ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("p", "q", "distance"),
    [
        ([[0, 0]], [[3, 4]], 5),
        ([[0, 0], [1, 0], [2, 0]], [[0, 1], [1, 1], [2, 1]], 1),
        ([[0, 0], [1, 0], [2, 0]], [[2, 0], [1, 0], [0, 0]], 2),
        ([[0, 0], [0, 0], [0, 0]], [[0, 0], [3, 4], [1, 0]], 5),
        # There is no going back: at the detour the leash spans it.
        ([[0, 0], [4, 0]], [[0, 0], [4, 0], [0, 0], [4, 0]], 4),
        ([[0, 0], [10, 0]], [[0, 0], [5, 3], [10, 0]], math.hypot(5, 3)),
        ([[0, 0], [2, 0], [2, 0], [2, 0]], [[0, 0], [0, 0], [2, 0]], 0),
    ],
)
def test_discrete_frechet_in_closed_form(p, q, distance):
    p, q = np.array(p, np.float64), np.array(q, np.float64)
    assert discrete_frechet(p, q) == pytest.approx(distance)
    assert discrete_frechet(q, p) == pytest.approx(distance)


def frechet_by_recursion(p, q, i, j):
    """Eiter and Mannila's definition, as it is written."""
    apart = math.dist(p[i], q[j])
    before = [(a, b) for a, b in ((i - 1, j), (i - 1, j - 1), (i, j - 1)) if a >= 0 and b >= 0]
    return max(apart, min(frechet_by_recursion(p, q, *at) for at in before)) if before else apart


path = arrays(np.float64, st.tuples(st.integers(1, 5), st.just(2)), elements=st.integers(-9, 9))


@given(path, path)
@settings(max_examples=60, deadline=None)
def test_discrete_frechet_is_what_its_definition_says(p, q):
    assert discrete_frechet(p, q) == pytest.approx(frechet_by_recursion(p, q, len(p) - 1, len(q) - 1))


def test_the_distance_of_tracks_is_the_mean_square_of_the_nearest_in_diagonals():
    still = np.zeros((1, 3, 2))
    a = tracks_of(still, size=(100, 100), start=(10, 10))
    b = tracks_of(np.concatenate([still, still]), size=(100, 100), start=(10, 30))
    assert frechet_distance(a, b) == pytest.approx(0.2 / math.sqrt(2))
    mixed = Tracks(np.concatenate([a.points, b.points[:1]]), np.ones((2, 4), bool), (100, 100))
    # Of three tracks, two have a twin.
    assert frechet_distance(a, mixed) == pytest.approx(0.2 / math.sqrt(2) / math.sqrt(3))


def test_paths_that_diverge_are_far_apart_though_they_point_the_same_way():
    near, far = (tracks_of([[(speed, 0)] * 10]) for speed in (1.0, 4.0))
    assert frechet_distance(near, far) == pytest.approx(30 / 80 / math.sqrt(2), rel=1e-5)


def test_a_reversed_video_is_as_far_away_as_its_things_go():
    # One walker starts where the other ends.
    forwards, backwards = tracks_of([[(2, 0)] * 6]), tracks_of([[(-2, 0)] * 6], start=(17.0, 5.0))
    assert frechet_distance(forwards, backwards) == pytest.approx(12 / 80 / math.sqrt(2), rel=1e-5)
    video = square(straight(2.0))
    measured = frechet_distance(track_points(video), track_points(np.ascontiguousarray(video[::-1])))
    assert measured == pytest.approx(22 / 64 / math.sqrt(2), rel=0.1)


def test_a_still_video_is_as_far_away_as_things_go_from_it_and_nowhere_from_itself():
    still, away = tracks_of(np.zeros((1, 6, 2))), tracks_of([[(2, 0)] * 6])
    assert frechet_distance(still, away) == pytest.approx(12 / 80 / math.sqrt(2), rel=1e-5)
    assert frechet_distance(still, still) == 0
    stands = track_points(square(straight(0.0)))
    assert frechet_distance(stands, stands) == 0
    measured = frechet_distance(stands, track_points(square(straight(2.0))))
    # The right corners stand 14 pixels nearer to where the left ones end.
    assert 22 - 14 < measured * 64 * math.sqrt(2) < 22 + 1


def test_of_a_track_that_is_lost_only_the_visible_part_counts():
    whole = tracks_of([[(2, 0)] * 6])
    visible = np.array([[False, True, True, True, True, False, False]])
    points = np.where(visible[..., None], whole.points, np.nan)
    part = Tracks(whole.points[:, 1:5], np.ones((1, 4), bool), whole.size)
    lost = Tracks(points, visible, whole.size)
    assert frechet_distance(lost, part) == 0
    assert np.isfinite(motion_fidelity(lost, whole)) and motion_magnitude(lost) == pytest.approx(0.02)


# --- magnitude and consistency ------------------------------------------------------------------------------


def test_magnitude_is_the_mean_step_in_diagonals():
    assert motion_magnitude(tracks_of([[(3, 4)] * 3, [(0, 0)] * 3])) == pytest.approx(0.025)
    assert motion_magnitude(moving(RIGHT)) == pytest.approx(1.5 / math.hypot(64, 64), rel=0.05)
    assert motion_magnitude(np.repeat(moving(RIGHT)[:1], 4, axis=0)) < 1e-4


def test_a_reversed_video_moves_as_much():
    tracks = tracks_of([[(3, 4)] * 3, [(0, 2)] * 3])
    backwards = Tracks(tracks.points[:, ::-1], tracks.visible[:, ::-1], tracks.size)
    assert motion_magnitude(backwards) == pytest.approx(motion_magnitude(tracks)) == pytest.approx(0.035)
    video = np.ascontiguousarray(moving(RIGHT)[::-1])
    assert motion_magnitude(video) == pytest.approx(1.5 / math.hypot(64, 64), rel=0.05)


def test_a_reversed_video_is_as_consistent():
    for video in (moving(RIGHT), square(straight(2.0)), worsened(square(straight(1.0)), "flicker")):
        backwards = np.ascontiguousarray(video[::-1])
        assert temporal_consistency(backwards) == pytest.approx(temporal_consistency(video), abs=0.01)


def test_a_frozen_video_is_perfectly_consistent():
    for picture in (moving(RIGHT)[:1], np.zeros((1, 64, 64, 3), np.uint8), square(straight(0.0))[:1]):
        assert temporal_consistency(np.repeat(picture, 5, axis=0)) == pytest.approx(1, abs=1e-9)


def test_consistency_holds_two_frames_at_a_time_whatever_the_length():
    def peak(frames):
        video = np.repeat(moving(RIGHT, frames=2, size=256), frames // 2, axis=0)
        tracemalloc.start()
        temporal_consistency(video)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return peak

    # A frame in Lab, float32, has 0.75 MiB.
    assert peak(24) - peak(4) < 0.75 * 2**20


def worsened(video, how, seed=0):
    rng, video = np.random.default_rng(seed), video.astype(np.float64)
    if how == "grain":
        video = video + rng.normal(0, 5, video.shape)
    elif how == "flicker":
        video = video + rng.normal(0, 6, (len(video), 1, 1, 1))
    elif how == "tint":
        video = video + rng.normal(0, 6, (len(video), 1, 1, 3))
    return np.clip(np.rint(video), 0, 255).astype(np.uint8)


@pytest.mark.parametrize("how", ["grain", "flicker", "tint"])
@pytest.mark.parametrize("speed", [0.0, 1.0, 2.5])
def test_what_flickers_or_grains_is_less_consistent_than_what_is_smooth(how, speed):
    smooth = square(straight(speed))
    assert temporal_consistency(worsened(smooth, how)) < temporal_consistency(smooth) - 0.005


@pytest.mark.parametrize("speed", [0.0, 1.0, 2.5])
def test_what_jitters_is_less_consistent_than_what_moves_smoothly(speed):
    centres = np.array(straight(speed))
    jitter = np.random.default_rng(0).normal(0, 1.2, centres.shape)
    assert temporal_consistency(square(centres + jitter)) < temporal_consistency(square(centres)) - 0.005


def test_a_clean_thing_that_moves_is_more_consistent_than_a_grainy_one_that_stands():
    assert temporal_consistency(square(straight(2.0))) > 0.95
    assert temporal_consistency(worsened(square(straight(0.0)), "grain")) < 0.93


def test_unrelated_frames_are_not_consistent():
    video = np.stack([texture(seed, size=64) for seed in range(6)]).astype(np.uint8)
    assert temporal_consistency(video) < 0.4


@given(arrays(np.uint8, (3, 16, 17, 3), elements=st.sampled_from([0, 1, 128, 255]), fill=st.just(0)))
@settings(max_examples=30, deadline=None)
def test_no_video_makes_a_score_nan(video):
    tracks = track_points(video)
    scores = [motion_fidelity(tracks, tracks), frechet_distance(tracks, tracks), motion_magnitude(tracks)]
    assert scores[:2] == [pytest.approx(1), 0] and np.isfinite(scores[2])
    assert -1 <= temporal_consistency(video) <= 1 + 1e-9


# --- exact paths --------------------------------------------------------------------------------------------


def circle_path(frames=16, radius=10.0):
    angle = np.linspace(0, np.pi, frames)
    return np.stack([32 + radius * np.cos(angle), 32 + radius * np.sin(angle)], axis=-1)[None]


def test_path_error_of_a_shift_is_its_length():
    assert path_error(circle_path() + np.array([3, 4]), circle_path()) == pytest.approx(5)
    assert path_error(circle_path(), circle_path()) == 0


def test_path_error_of_what_stands_still_or_goes_backwards():
    true = np.array([straight(1.0, frames=12)])
    # 0, 1 .. 11 pixels away; and 11, 9 .. 1, 1 .. 9, 11.
    assert path_error(np.repeat(true[:, :1], 12, axis=1), true) == pytest.approx(66 / 12)
    assert path_error(true[:, ::-1], true) == pytest.approx(72 / 12)
    assert path_error(np.repeat(true[:, :1], 12, axis=1), np.repeat(true[:, :1], 12, axis=1)) == 0


def test_objects_that_are_swapped_are_assigned():
    true = np.concatenate([circle_path(), circle_path(radius=3.0) - 15])
    assert path_error(true[::-1], true) == 0
    assert velocity_cosine(true[::-1], true) == pytest.approx(1)
    # Each would rather be the first one.
    both_near_the_first = np.stack([true[0] + (1, 0), true[0] + (0, 2)])
    apart = np.linalg.norm(true[0] - true[1], axis=-1)
    kept = (1 + np.linalg.norm(true[0] + (0, 2) - true[1], axis=-1).mean()) / 2
    changed = (2 + np.linalg.norm(true[0] + (1, 0) - true[1], axis=-1).mean()) / 2
    assert apart.min() > 5
    assert path_error(both_near_the_first, true) == pytest.approx(min(kept, changed))


def test_velocity_cosine_of_known_motions():
    true = np.array([straight(1.0)])
    assert velocity_cosine(true, true) == pytest.approx(1)
    assert velocity_cosine(true[:, ::-1], true) == pytest.approx(-1)
    assert velocity_cosine(true[..., ::-1], true) == pytest.approx(0)
    assert velocity_cosine(3 * true + 7, true) == pytest.approx(1)
    assert velocity_cosine(np.zeros_like(true), true) == 0
    turned = np.stack([true[..., 0], true[..., 0]], axis=-1)
    assert velocity_cosine(turned, true) == pytest.approx(math.sqrt(0.5))


@pytest.mark.parametrize("direction", [1, -1])
def test_what_creeps_stands_still(direction):
    true = np.array([straight(2.0)])

    def found(share):
        return true[:, :1] + direction * share * (true - true[:, :1])

    assert velocity_cosine(found(0.005), true) == 0
    assert velocity_cosine(found(0.09), true) == 0
    assert velocity_cosine(found(0.11), true) == pytest.approx(direction)


def test_rounding_is_no_motion():
    true = np.array([straight(1.0)])
    noise = np.random.default_rng(0).normal(0, 1e-12, true.shape)
    assert velocity_cosine(np.full_like(true, 30.0) + noise, true) == 0


def test_what_stands_still_is_decided_frame_by_frame():
    # Ten steps of 4 pixels, ten of 0.4: what goes 0.3 a step stands still beside the first ones.
    true = np.array([[(x, 0.0) for x in np.cumsum([0.0] + [4.0] * 10 + [0.4] * 10)]])
    found = np.array([[(0.3 * frame, 0.0) for frame in range(21)]])
    # Over three steps, the last fast one is 2.8, of which 0.3 is more than a tenth.
    assert velocity_cosine(found, true) == pytest.approx(11 / 20)


def test_velocity_cosine_looks_only_at_frames_in_which_the_true_object_moves():
    true = np.concatenate(
        [np.zeros((1, 10, 2)), np.array([straight(2.0, frames=10, start=2.0)]) * (1, 0)], axis=1
    )
    found = true.copy()
    found[:, :7, 1] = np.random.default_rng(0).normal(0, 1, 7)
    assert velocity_cosine(found, true) == pytest.approx(1)
    assert math.isnan(velocity_cosine(found[:, :8], true[:, :8]))
    assert math.isnan(velocity_cosine(true, true, moving=2.5))


def test_velocity_cosine_forgives_the_jitter_of_detections():
    true = np.array([straight(1.0, frames=16)])
    found = true + np.random.default_rng(0).normal(0, 0.15, true.shape)
    assert velocity_cosine(found, true) > 0.98


@given(
    arrays(np.float64, (2, 7, 2), elements=st.floats(-64, 64)),
    arrays(np.float64, (2, 7, 2), elements=st.floats(-64, 64)),
)
@settings(max_examples=60, deadline=None)
def test_scores_of_paths_stay_in_range(found, true):
    assert 0 <= path_error(found, true) <= np.linalg.norm(found - true, axis=-1).mean() + 1e-9
    cosine = velocity_cosine(found, true)
    assert math.isnan(cosine) or -1 <= cosine <= 1


# --- bad input ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("score", [track_points, temporal_consistency, motion_magnitude])
@pytest.mark.parametrize(
    ("video", "said"),
    [
        (np.zeros((1, 64, 64, 3), np.uint8), ["1 frames", "2"]),
        (np.zeros((4, 64, 64), np.uint8), ["(4, 64, 64)", "(f, h, w, 3)"]),
        (np.zeros((4, 64, 64, 4), np.uint8), ["(4, 64, 64, 4)", "(f, h, w, 3)"]),
        (np.zeros((4, 64, 64, 3), np.float32), ["float32", "uint8"]),
        (np.zeros((4, 64, 8, 3), np.uint8), ["64 x 8", "16 x 16"]),
    ],
)
def test_what_is_no_video_is_refused(score, video, said):
    with pytest.raises(ValueError) as error:
        score(video)
    assert all(word in str(error.value) for word in said)


def test_numbers_of_frames_that_differ_are_named():
    a, b = tracks_of(np.zeros((1, 4, 2))), tracks_of(np.zeros((1, 7, 2)))
    with pytest.raises(ValueError, match="5 and 8 frames"):
        motion_fidelity(a, b)


@pytest.mark.parametrize("still", [0.0, -1.0, math.nan, math.inf])
def test_the_floor_must_be_positive(still):
    a = tracks_of(np.zeros((1, 4, 2)))
    with pytest.raises(ValueError, match="above 0"):
        motion_fidelity(a, a, still=still)


@pytest.mark.parametrize(
    ("points", "visible", "said"),
    [
        (np.zeros((3, 4)), np.ones((3, 4), bool), ["(3, 4)", "(n, f, 2)"]),
        (np.zeros((3, 4, 2)), np.ones((3, 5), bool), ["(3, 4, 2)", "(3, 5)"]),
        (np.zeros((3, 4, 2)), np.ones((3, 4)), ["float64", "bool"]),
        (np.zeros((0, 4, 2)), np.ones((0, 4), bool), ["0 tracks", "at least 1"]),
        (np.zeros((2, 3, 2)), np.array([[True, False, True], [False, True, False]]), ["0 of 2"]),
        (np.full((2, 3, 2), np.nan), np.ones((2, 3), bool), ["12 of 12"]),
    ],
)
def test_tracks_that_cannot_be_scored_are_refused(points, visible, said):
    with pytest.raises(ValueError) as error:
        Tracks(points, visible, (64, 64))
    assert all(word in str(error.value) for word in said)


@pytest.mark.parametrize("score", [path_error, velocity_cosine])
def test_paths_that_do_not_fit_are_refused(score):
    with pytest.raises(ValueError, match=r"\(1, 5, 2\).*\(1, 6, 2\)"):
        score(np.zeros((1, 5, 2)), np.zeros((1, 6, 2)))
    with pytest.raises(ValueError, match="2 found and 0 true"):
        score(np.full((1, 1, 2), np.nan), np.zeros((1, 1, 2)))
    with pytest.raises(ValueError, match=r"\(5, 3\) and \(5, 2\)"):
        discrete_frechet(np.zeros((5, 3)), np.zeros((5, 2)))


def test_one_frame_has_no_velocity():
    with pytest.raises(ValueError, match="1 frames and motion needs at least 2"):
        velocity_cosine(np.zeros((1, 1, 2)), np.zeros((1, 1, 2)))
