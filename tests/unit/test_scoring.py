"""Exact scores of drawn clips: perfect on clean pictures, right on blurred and grainy ones, honest on wrong ones."""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from embedded.drawing import COLOURS, GROUNDS, MOTIONS, SHAPES, random_scene
from embedded.scoring import NOTHING, caption_correct, locate, locate_any
from motionclone_core.metrics import path_error, velocity_cosine


def scene(seed, **options):
    return random_scene(np.random.default_rng(seed), **options)


def degraded(video, *, blur=0.0, grain=0.0, seed=0):
    video = video.astype(np.float64)
    if blur:
        video = np.stack([cv2.GaussianBlur(picture, (0, 0), blur) for picture in video])
    video = video + np.random.default_rng(seed).normal(0, grain, video.shape)
    return np.clip(np.rint(video), 0, 255).astype(np.uint8)


def errors(video, drawn):
    return np.linalg.norm(locate(video, drawn).paths - drawn.paths, axis=-1)


# --- clean pictures -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("objects", [1, 2])
@pytest.mark.parametrize("motion", MOTIONS)
def test_clean_clips_are_read_without_a_fault(motion, objects):
    for seed in range(12):
        drawn = scene(seed, motion=motion, objects=objects)
        video = drawn.render()
        seen, at = caption_correct(video, drawn), locate(video, drawn)
        assert seen.right, (seed, drawn.caption, seen)
        assert at.found.all() and at.paths.shape == drawn.paths.shape and at.paths.dtype == np.float32
        assert path_error(at.paths, drawn.paths) < 0.1
        assert np.linalg.norm(at.paths - drawn.paths, axis=-1).max() < 0.3
        cosine = velocity_cosine(at.paths, drawn.paths)
        assert np.isnan(cosine) or cosine > 0.999


def test_other_sizes_and_lengths_are_read_too():
    drawn = scene(3, size=96, frames=5, objects=2)
    assert caption_correct(drawn.render(), drawn).right
    assert errors(drawn.render(), drawn).max() < 0.3


# --- blurred and grainy pictures ----------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{"blur": 1.0}, {"grain": 12.0}, {"blur": 1.0, "grain": 12.0}])
def test_blur_and_grain_cost_little(options):
    shapes, rest, distances = [], [], []
    for seed in range(30):
        drawn = scene(seed, objects=1 + seed % 2)
        video = degraded(drawn.render(), **options, seed=seed)
        seen = caption_correct(video, drawn)
        shapes += seen.shape_right
        rest += [*seen.colour_right, seen.ground_right]
        distances.append(errors(video, drawn).mean())
    assert np.mean(shapes) >= 0.95
    assert all(rest)
    assert np.mean(distances) < 0.15 and max(distances) < 0.4


def test_colours_that_are_somewhat_off_are_still_themselves():
    drawn = scene(5, objects=2)
    washed = drawn.render().astype(np.float64) * 0.85 + 0.15 * 110
    seen = caption_correct(np.rint(washed).astype(np.uint8), drawn)
    assert all(seen.colour_right) and all(seen.shape_right)
    assert errors(np.rint(washed).astype(np.uint8), drawn).max() < 0.5


# --- pictures that are not what the caption says ------------------------------------------------------------


@pytest.mark.parametrize("colour", COLOURS)
def test_a_wrong_colour_is_named_and_its_thing_not_found(colour):
    drawn = scene(1, objects=1)
    other = next(name for name in COLOURS if name != colour)
    video = replace(drawn, things=(replace(drawn.things[0], colour=colour),)).render()
    wanted = replace(drawn, things=(replace(drawn.things[0], colour=other),))
    seen = caption_correct(video, wanted)
    assert (seen.colours, seen.colour_right) == ((colour,), (False,))
    assert (seen.shapes, seen.shape_right) == ((drawn.things[0].shape,), (True,))
    assert not seen.right
    at = locate(video, wanted)
    assert not at.found.any()
    assert (at.paths == 31.5).all()


@pytest.mark.parametrize("shape", SHAPES)
def test_a_wrong_shape_is_named(shape):
    drawn = scene(2, objects=1)
    other = next(name for name in SHAPES if name != shape)
    video = replace(drawn, things=(replace(drawn.things[0], shape=shape),)).render()
    seen = caption_correct(video, replace(drawn, things=(replace(drawn.things[0], shape=other),)))
    assert (seen.shapes, seen.shape_right, seen.colour_right) == ((shape,), (False,), (True,))


@pytest.mark.parametrize("ground", GROUNDS)
def test_a_wrong_ground_is_named_and_spoils_nothing_else(ground):
    drawn = scene(4, objects=2)
    other = next(name for name in GROUNDS if name != ground)
    video = replace(drawn, ground=ground).render()
    wanted = replace(drawn, ground=other)
    seen = caption_correct(video, wanted)
    assert (seen.ground, seen.ground_right) == (ground, False)
    assert all(seen.colour_right) and all(seen.shape_right) and not seen.right
    assert errors(video, wanted).max() < 0.3


def test_things_that_changed_places_are_each_found_where_they_are():
    drawn = next(s for s in map(scene, range(50)) if len(s.things) == 2)
    first, second = drawn.things
    swapped = replace(
        drawn,
        things=(replace(first, colour=second.colour), replace(second, colour=first.colour)),
    )
    at = locate(swapped.render(), drawn).paths
    assert np.linalg.norm(at[::-1] - drawn.paths, axis=-1).max() < 0.3
    assert path_error(at, drawn.paths) < 0.1  # it assigns things


def test_a_thing_that_is_missing_is_nothing():
    drawn = scene(6, objects=2)
    alone = replace(drawn, things=drawn.things[:1])
    seen = caption_correct(alone.render(), drawn)
    assert seen.colour_right == (True, False) and seen.colours[1] == seen.shapes[1] == NOTHING
    assert seen.shape_right == (True, False)
    assert locate(alone.render(), drawn).found.all(axis=1).tolist() == [True, False]


def test_two_things_of_one_colour_are_not_two_colours():
    drawn = scene(6, objects=2)
    same = replace(drawn, things=(drawn.things[0], replace(drawn.things[1], colour=drawn.things[0].colour)))
    assert caption_correct(same.render(), drawn).colour_right == (True, False)


@pytest.mark.parametrize("motion", ["straight", "curved", "turning"])
def test_things_of_any_colour_are_followed_even_of_one(motion):
    drawn = scene(11, motion=motion, objects=2)
    alike = replace(drawn, things=tuple(replace(thing, colour="red") for thing in drawn.things))
    for video in (drawn.render(), alike.render(), degraded(alike.render(), blur=0.7, grain=6)):
        found = locate_any(video, 2)
        assert found.found.all() and path_error(found.paths, drawn.paths) < 0.3


def test_a_followed_thing_keeps_its_track_while_the_other_is_away():
    drawn = scene(12, motion="straight", objects=2)
    video, alone = drawn.render(), drawn.alone(1).render()
    video[:3], video[8:11] = alone[:3], alone[8:11]
    found = locate_any(video, 2)
    away = [*range(3), *range(8, 11)]
    (lost,) = (track for track in range(2) if not found.found[track].all())
    assert np.flatnonzero(~found.found[lost]).tolist() == away
    assert np.abs(found.paths[1 - lost] - drawn.paths[1]).max() < 0.3
    assert found.paths[lost, 8:11] == pytest.approx(np.tile(found.paths[lost, 7], (3, 1)))
    assert found.paths[lost, :3] == pytest.approx(np.tile(found.paths[lost, 3], (3, 1)))


def test_of_many_things_the_largest_are_followed_and_of_none_none():
    drawn = scene(13, motion="still", objects=2)
    video = drawn.render()
    video[:, 1:6, 1:6] = COLOURS[drawn.things[0].colour]
    assert path_error(locate_any(video, 2).paths, drawn.paths) < 0.3
    empty = locate_any(replace(drawn, things=()).render(), 2)
    assert not empty.found.any() and (empty.paths == 31.5).all()


def test_what_vanishes_stands_where_it_was_seen_last():
    drawn = scene(8, motion="straight", objects=1)
    video = drawn.render()
    hidden = [0, 7, 8, 15]
    video[hidden] = ground_only(drawn)[hidden]
    at = locate(video, drawn)
    assert np.flatnonzero(~at.found[0]).tolist() == hidden
    assert (at.paths[0, 0] == at.paths[0, 1]).all() and (at.paths[0, 15] == at.paths[0, 14]).all()
    assert (at.paths[0, 7:9] == at.paths[0, 6]).all() and (at.paths[0, 9] != at.paths[0, 6]).any()


def test_what_is_seen_in_two_frames_only_has_not_followed():
    drawn = scene(8, motion="straight", objects=1)
    video = ground_only(drawn)
    video[[0, 15]] = drawn.render()[[0, 15]]
    at = locate(video, drawn)
    assert at.found.mean() == 2 / 16
    assert path_error(at.paths, drawn.paths) > 0.4 * np.linalg.norm(drawn.paths[0, 15] - drawn.paths[0, 0])
    assert velocity_cosine(at.paths, drawn.paths) < 0.3


def ground_only(drawn):
    """The scene with its things far outside the picture."""
    far = tuple(replace(thing, centre=thing.centre + 1000) for thing in drawn.things)
    return replace(drawn, things=far).render()


def test_a_few_stray_pixels_do_not_move_the_thing():
    drawn = scene(9, objects=1)
    video = drawn.render()
    colour = COLOURS[drawn.things[0].colour]
    rng = np.random.default_rng(0)
    for picture in video:
        for y, x in rng.integers(0, 62, (6, 2)):
            picture[y : y + 1, x : x + 2] = colour
    assert np.median(errors(video, drawn)) < 0.1
    assert errors(video, drawn).max() < 1.5  # a stray pixel may touch it
    assert caption_correct(video, drawn).right


def test_a_scene_without_things_has_only_a_ground():
    drawn = scene(0, objects=1)
    empty = replace(drawn, things=())
    video = ground_only(drawn)
    at, seen = locate(video, empty), caption_correct(video, empty)
    assert at.paths.shape == (0, 16, 2) and at.found.shape == (0, 16)
    assert seen.colours == seen.shapes == () and seen.right


@given(
    arrays(np.uint8, (3, 20, 24, 3), elements=st.integers(0, 255), fill=st.sampled_from([0, 128, 255])),
    st.integers(0, 50),
)
@settings(max_examples=40, deadline=None)
def test_no_video_makes_a_path_nan_or_a_name_unknown(video, seed):
    wanted = scene(seed, frames=3)
    at, seen = locate(video, wanted), caption_correct(video, wanted)
    assert np.isfinite(at.paths).all()
    assert (at.paths >= 0).all() and (at.paths <= (23, 19)).all()
    assert set(seen.colours) <= {*COLOURS, NOTHING} and set(seen.shapes) <= {*SHAPES, NOTHING}
    assert seen.ground in GROUNDS


@pytest.mark.parametrize("grey", [0, 128, 255])
def test_an_empty_picture_shows_nothing_or_one_flat_colour(grey):
    wanted = scene(0, objects=1)
    video = np.full((16, 64, 64, 3), grey, np.uint8)
    at = locate(video, wanted)
    assert np.isfinite(at.paths).all()
    if grey == 0:
        assert not at.found.any() and caption_correct(video, wanted).colours == (NOTHING,)


# --- bad input ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("score", [locate, caption_correct])
@pytest.mark.parametrize(
    ("video", "said"),
    [
        (np.zeros((8, 64, 64, 3), np.uint8), ["8 frames", "16"]),
        (np.zeros((16, 64, 64), np.uint8), ["(16, 64, 64)", "(f, h, w, 3)"]),
        (np.zeros((16, 64, 64, 3), np.float32), ["float32", "uint8"]),
        (np.zeros((16, 0, 64, 3), np.uint8), ["0 x 64", "1 x 1"]),
    ],
)
def test_what_does_not_fit_the_scene_is_refused(score, video, said):
    with pytest.raises(ValueError) as error:
        score(video, scene(0))
    assert all(word in str(error.value) for word in said)
