"""A motion as pictures: arrows, what is shown of edited and combined motions, and energies as a plot."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_correspondence import FRAMES, OTHER, TAP, motion, spot

from motionclone_core.editing import masked, placed, retimed
from motionclone_core.grids import Frame, RepresentationMismatchError
from motionclone_core.mixing import Motion, MotionPart
from motionclone_core.representation import MotionRepresentation
from motionclone_core.taps import UnknownTapError
from motionclone_core.visualisation.arrows import AHEAD, draw_arrows
from motionclone_core.visualisation.canvas import BACKGROUND, PATH_COLOUR
from motionclone_core.visualisation.motion import guided_intensity, overlaid
from motionclone_core.visualisation.plot import RUN_COLOURS, energy_plot
from motionclone_core.visualisation.preview import as_video, preview


def grey(frames=FRAMES, height=128, width=128, level=90):
    return np.full((frames, height, width, 3), level, np.uint8)


def coloured(picture, colour=PATH_COLOUR, off=40):
    """Rows and columns of the pixels of a colour."""
    return np.nonzero(np.abs(picture.astype(int) - colour).max(-1) < off)


def centre(heat):
    """Column and row of the middle of a heat map, as shares of its size."""
    y, x = np.indices(heat.shape)
    return np.array([(x * heat).sum() / heat.sum() / heat.shape[1], (y * heat).sum() / heat.sum() / heat.shape[0]])


# --- arrows -------------------------------------------------------------------------------------


def one_arrow(way, *, grid=(4, 4), frames=3):
    """An arrow from row 1, column 2 in the first frame alone."""
    displacement = np.zeros((frames - 1, *grid, 2))
    displacement[:, 1, 2] = way
    told = np.zeros((frames - 1, *grid), bool)
    told[0, 1, 2] = True
    return displacement, told.astype(float), told


@pytest.mark.parametrize("way", [(0.1, 0.0), (-0.05, 0.08), (0.0, -0.06)])
@pytest.mark.parametrize("level", [0, 255])
def test_an_arrow_reaches_from_its_cell_to_where_things_will_be(way, level):
    video = grey(3, 400, 800, level)
    result = draw_arrows(video, *one_arrow(way))
    y, x = coloured(result[0])
    points = np.stack([x, y], axis=-1)
    along = np.array(way) * AHEAD * (800, 400)
    reached = (points - (499.5, 149.5)) @ along / np.linalg.norm(along)
    assert abs(reached.max() - np.linalg.norm(along)) < 3 and abs(reached.min()) < 3
    assert coloured(result[0], (12, 14, 18), 60)[0].size > 100 or level == 0  # dark all around it
    assert np.array_equal(result[1], video[1])


def test_the_last_frame_keeps_the_arrows_of_the_one_before():
    displacement, confidence, told = one_arrow((0.1, 0.0), frames=2)
    result = draw_arrows(grey(2), displacement, confidence, told)
    assert np.array_equal(result[0], result[1]) and not np.array_equal(result[1], grey(1)[0])


def test_of_many_arrows_the_surest_remain():
    displacement = np.zeros((1, 42, 42, 2))
    displacement[..., 0] = 0.02
    confidence = np.zeros((1, 42, 42))
    confidence[:, 1::3, 1::3] = 1
    sparse = draw_arrows(grey(2), displacement, confidence, confidence > 0)
    dense = draw_arrows(grey(2), displacement, confidence, np.ones((1, 42, 42), bool))
    assert np.array_equal(sparse, dense)


@pytest.mark.parametrize(
    ("frames", "cut", "message"),
    [(4, slice(None), "3 frames, the video has 4"), (3, slice(1), r"\(2, 4, 4\).*\(1, 4, 4\)")],
)
def test_arrows_refuse(frames, cut, message):
    displacement, confidence, told = one_arrow((0.1, 0.0))
    with pytest.raises(ValueError, match=message):
        draw_arrows(grey(frames), displacement, confidence[cut], told)


# --- a motion -----------------------------------------------------------------------------------


def test_heat_and_arrows_follow_the_spot():
    video = grey(height=256, width=256)
    shown = preview(motion((0.03, 0.0)), video)
    assert shown.video.shape == video.shape and shown.heat.shape == video.shape[:3]
    assert shown.heat.min() == 0 and shown.heat.max() == 1
    for frame in (2, 6, 9):
        assert centre(shown.heat[frame] ** 4)[0] == pytest.approx(0.5 + 0.03 * (frame - 5.5), abs=0.03)
    assert coloured(shown.video[5])[0].size > 50
    assert coloured(preview(motion((0.03, 0.0)), video, arrows=False).video[5])[0].size == 0


def test_without_a_reference_the_ground_is_dark_and_as_large_as_the_latents():
    shown = preview(motion())
    assert shown.video.shape == (FRAMES, 128, 128, 3)
    assert shown.video[5, :8].max() < 90


def test_a_placed_motion_is_shown_in_its_place_with_its_reference():
    reference = grey()
    reference[:, 60:68, 60:68] = 255
    shown = preview(placed(motion((0.0, 0.0)), x=0.25, y=-0.25, scale=0.5), reference, opacity=0.0)
    assert centre(shown.heat[5] ** 4) == pytest.approx([0.75, 0.25], abs=0.03)
    bright = np.argwhere(shown.video[5, ..., 0] > 120)
    assert bright.mean(axis=0) == pytest.approx([31.5, 95.5], abs=1.0)
    assert shown.video[5, 100, 20].max() < 45 < shown.video[5, 20, 100].max()  # dark where the motion is not


def test_a_retimed_motion_is_shown_in_its_order_with_its_reference():
    reference = grey()
    reference[:] = (10 * np.arange(FRAMES, dtype=np.uint8))[:, None, None, None]
    follows = [3, 3, 8, 0]
    shown = preview(retimed(motion((0.03, 0.0)), follows), reference, opacity=0.0, arrows=False)
    plain = preview(motion((0.03, 0.0)), reference, opacity=0.0, arrows=False)
    assert np.array_equal(shown.video, plain.video[follows])
    middles = [centre(one**4)[0] for one in shown.heat]
    assert middles[3] < middles[0] < middles[2] and middles[0] == pytest.approx(middles[1], abs=0.02)


def test_a_masked_motion_is_shown_where_it_guides():
    mask = torch.zeros(1, 16, 16)
    mask[:, :, :8] = 1
    half = masked(motion((0.05, 0.0)), mask=mask, feather=0.0)
    whole, shown = guided_intensity(motion((0.05, 0.0))), guided_intensity(half)
    np.testing.assert_allclose(shown[:, :, :8], whole[:, :, :8], atol=1e-3)
    assert np.ptp(shown[:, :, 8:]) == 0 and shown[0, 0, 12] < np.median(whole[:, :, :8])


def test_each_of_several_motions_is_shown_by_its_strength():
    left, right = (motion((0.0, 0.0), start=(x, 0.5)) for x in (0.25, 0.75))
    both = Motion((MotionPart(left, 2.0), MotionPart(right, 1.0)))
    heat = preview(both, grey()).heat[5]
    assert heat[:, :64].max() == 1 and heat[:, 64:].max() == pytest.approx(0.5, abs=0.02)
    off = preview(Motion((MotionPart(left, 2.0), MotionPart(right, 0.0))), grey()).heat
    np.testing.assert_array_equal(off, preview(left, grey()).heat)


def test_a_motion_that_guides_no_cell_has_no_heat():
    # Placed by hand: the node refuses this. The middle of a 16 x 16 grid is a corner of four cells.
    nowhere = replace(motion((0.03, 0.0)), frame=Frame(0.475, 0.475, 0.05, 0.05))
    assert not guided_intensity(nowhere).any()
    shown = preview(nowhere, grey())
    assert not shown.heat.any() and np.array_equal(shown.video, preview(nowhere, grey(), opacity=0.0).video)


def test_each_place_has_the_arrows_of_the_motion_that_leads_it_most():
    across, down = motion((0.03, 0.0)), motion((0.0, 0.03))
    alone = preview(across, grey(height=256, width=256)).video
    told = preview(Motion((MotionPart(across, 1.0), MotionPart(down, 1e-3))), grey(height=256, width=256)).video
    arrows = [set(zip(*coloured(video[8]), strict=True)) for video in (alone, told)]
    # Both lie in the same place, so the weak one leads only where the strong one has no heat.
    assert len(arrows[0]) > 50 and arrows[0] == arrows[1]


def test_motions_in_two_places_each_have_their_arrows():
    sides = [placed(motion((0.0, 0.03)), x=x, y=0.0, scale=0.5) for x in (-0.25, 0.25)]
    both = preview(Motion(tuple(MotionPart(side, 1.0) for side in sides)), grey(height=256, width=256)).video
    alone = [preview(side, grey(height=256, width=256)).video for side in sides]
    arrows = [set(zip(*coloured(video[8]), strict=True)) for video in (both, *alone)]
    assert min(map(len, arrows)) > 20 and arrows[0] == arrows[1] | arrows[2]


def test_taps_are_chosen_by_name():
    both = MotionRepresentation.whole(
        {TAP: spot((0, 0), start=(0.25, 0.5)), OTHER: spot((0, 0), grid=(8, 8), start=(0.75, 0.5))}, (16, 16)
    )
    found = [centre(preview(both, grey(), taps=f"up_blocks.{block}").heat[5] ** 4)[0] for block in (1, 0)]
    assert found == pytest.approx([0.25, 0.75], abs=0.04)
    with pytest.raises(UnknownTapError, match=r"'mid_block'.*up_blocks\.0, up_blocks\.1"):
        preview(both, taps="mid_block")


def test_one_picture_is_the_ground_of_all_frames():
    video = grey()
    assert np.array_equal(preview(motion(), video[:1]).video, preview(motion(), video).video)


@pytest.mark.parametrize(
    ("shown", "message"),
    [
        (lambda: motion(), "5 frames, the motion 12:"),
        (lambda: retimed(motion(), range(7)), "5 frames, the motion 7, read off 12:"),
    ],
)
def test_a_reference_of_other_frames_is_refused(shown, message):
    with pytest.raises(RepresentationMismatchError, match=message):
        preview(shown(), grey(5))


def test_motions_of_different_timing_ask_for_one_image_or_none():
    both = Motion((MotionPart(retimed(motion(), range(7))), MotionPart(retimed(motion(), range(1, 8)))))
    with pytest.raises(
        RepresentationMismatchError, match="motions of different timing: connect 1 image as a ground, or none"
    ):
        preview(both, grey(FRAMES))
    assert len(preview(both, grey(1)).video) == len(preview(both).video) == 7


def test_motions_of_one_timing_in_two_places_take_the_images_in_their_order():
    later = retimed(motion(), [8, 3, 5])
    both = Motion((MotionPart(later), MotionPart(placed(later, x=0.25, y=0.0, scale=0.5))))
    reference = grey()
    reference[:] = (10 * np.arange(FRAMES, dtype=np.uint8))[:, None, None, None]
    shown = preview(both, reference, opacity=0.0, arrows=False).video
    assert np.array_equal(shown, overlaid(np.zeros((3, 128, 128), np.float32), reference[[8, 3, 5]]))


def test_images_of_any_channels_are_colours():
    image = torch.rand(2, 6, 4, 4)
    wanted = np.floor(image.numpy() * 255 + 0.5)
    for coloured_one in (image, image[..., :3]):
        assert np.array_equal(as_video(coloured_one), wanted[..., :3])
    for grey_one in (image[..., :1], image[..., :2]):
        assert np.array_equal(as_video(grey_one), np.repeat(wanted[..., :1], 3, axis=-1))
    assert as_video(torch.tensor([-1.0, 2.0, 0.0]).reshape(1, 1, 1, 3)).tolist() == [[[[0, 255, 0]]]]


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_images_that_hold_no_numbers_are_refused(value):
    image = torch.zeros(2, 6, 4, 3)
    image[0, 1:3, 2, 0] = value
    with pytest.raises(ValueError, match=r"2 of 144 values of the images are not finite.*or none"):
        as_video(image)


def test_opacity_is_refused_outside_0_to_1():
    with pytest.raises(ValueError, match=r"opacity of 1\.5"):
        overlaid(np.zeros((2, 8, 8), np.float32), grey(2, 8, 8), opacity=1.5)


# --- energies -----------------------------------------------------------------------------------

FALLING = [(step, 0.08 * math.exp(-step / 5)) for step in range(12)]


def test_a_plot_falls_with_the_energy_over_the_guided_steps():
    picture = energy_plot(FALLING, 20)
    assert picture.shape == (288, 512, 3) and picture.dtype == np.uint8
    y, x = coloured(picture, off=30)
    order = np.argsort(x)
    heights = [y[order][x[order] == column].mean() for column in range(x.min() + 4, x.max() - 4, 12)]
    assert (np.diff(heights) > 0).all()  # down the picture
    # Twelve of twenty columns; the first and the last point lie in the middle of theirs.
    ground = np.nonzero((picture[200] != BACKGROUND).any(-1) & (picture[200].max(-1) < 90))[0]
    width = np.ptp(ground) + 1
    assert np.ptp(x) == pytest.approx(width * 11 / 12, abs=6)


def test_energies_stand_in_proportion():
    picture = energy_plot([(0, 1.0), (1, 0.5), (2, 0.0)], 3)
    y, x = coloured(picture, off=30)
    ends = [y[np.abs(x - at) <= 2].mean() for at in (x.min() + 3, (x.min() + x.max()) / 2, x.max() - 3)]
    assert ends[1] - ends[0] == pytest.approx(ends[2] - ends[1], abs=4)


def test_each_run_has_its_colour_and_a_gap_where_there_is_no_energy():
    broken = [(step, math.nan if step == 6 else energy) for step, energy in FALLING]
    picture = energy_plot({"one": broken, "two": [(step, 2 * energy) for step, energy in FALLING]}, 12)
    plot = picture[60:]  # below the names
    both = [coloured(plot, colour, 30)[1] for colour in RUN_COLOURS[:2]]
    assert all(x.size > 200 for x in both)
    missing = [np.diff(np.unique(x)).max() for x in both]
    assert missing[0] > 25 and missing[1] < 12


def test_without_an_energy_the_plot_says_so():
    empty = energy_plot([], 5)
    assert np.array_equal(empty, energy_plot([(0, math.nan)], 5))
    written = np.argwhere(np.abs(empty.astype(int) - empty[0, 0]).sum(-1) > 60)
    # A line of letters in the middle, and nothing else.
    assert len(written) > 100 and np.abs(written.mean(0) - np.array(empty.shape[:2]) / 2).max() < 12
    assert np.ptp(written[:, 0]) < 20


def lit_columns(picture, steps):
    """Which columns of a plot stand on the lighter ground, by a row of pixels between the lines of its grid."""
    _, columns = np.nonzero((np.abs(picture[60:70].astype(int) - BACKGROUND) > 4).all(-1))
    plain = energy_plot([(0, 1.0)], steps, guided=range(steps), size=picture.shape[:2])
    _, everywhere = np.nonzero((np.abs(plain[60:70].astype(int) - BACKGROUND) > 4).all(-1))
    left, width = everywhere.min(), (np.ptp(everywhere) + 1) / steps
    return {step for step in range(steps) if round(left + (step + 0.5) * width) in columns}


def test_steps_that_were_guided_are_lit_whether_or_not_an_energy_was_read_there():
    energies = [(step, 1e-3) for step in (0, 2, 4)] + [(5, 1.0)]  # low, that no line is where pixels are looked at
    assert lit_columns(energy_plot(energies, 10), 10) == {0, 2, 4, 5}
    assert lit_columns(energy_plot(energies, 10, guided=(0, 1, 2, 3, 4)), 10) == {0, 1, 2, 3, 4}
    assert lit_columns(energy_plot(energies, 10, guided=()), 10) == set()


def test_guided_steps_without_an_energy_are_not_called_unguided():
    guided, free = energy_plot([], 5, guided=(0, 1)), energy_plot([], 5, guided=())
    assert np.array_equal(free, energy_plot([], 5)) and not np.array_equal(guided, free)


@pytest.mark.parametrize("size", [(96, 160), (288, 512)])
@pytest.mark.parametrize("count", [3, 9, 16, 40])
def test_names_that_do_not_fit_are_left_out(count, size):
    runs = {f"run {number}": [(0, 1.0), (1, 0.5)] for number in range(1, count + 1)}
    named, bare = energy_plot(runs, 2, size=size), energy_plot({"": [(0, 1.0), (1, 0.5)]}, 2, size=size)
    head = round(2.4 * max(9, round(size[0] / 22)))  # above the plot
    changed = np.nonzero((named[:head] != bare[:head]).any(-1))[1]
    title = np.nonzero((bare[:head] != BACKGROUND).any(-1))[1].max()
    assert changed.size == 0 or changed.min() > title + 4
    assert changed.size or size == (96, 160)


@settings(max_examples=40, deadline=None)
@given(
    runs=st.lists(st.lists(st.floats(0, allow_infinity=False) | st.just(math.nan), max_size=5), max_size=3),
    guided=st.none() | st.sets(st.integers(0, 4)),
)
def test_every_energy_can_be_drawn(runs, guided):
    named = {f"run {number}": list(enumerate(run)) for number, run in enumerate(runs)}
    assert energy_plot(named, 5, guided=guided, size=(96, 160)).shape == (96, 160, 3)


@pytest.mark.parametrize("energy", [5e-324, 1e-45, 1.7e308, 0.0])
def test_energies_of_any_size_are_drawn_in_the_plot(energy):
    x = coloured(energy_plot([(0, energy), (4, 0.0)], 5), off=30)[1]
    assert x.size > 50 and np.ptp(x) > 200


@pytest.mark.parametrize(
    ("runs", "steps", "options", "message"),
    [
        ([(5, 1.0)], 5, {}, "step 5, it has 5 steps"),
        ({"fast": [(0, -1.0)]}, 5, {}, r"fast has the energy -1\.0"),
        ([(0, 1.0)], 5, {"guided": (5,)}, "step 5 cannot have been guided: the run has 5 steps"),
        ([(0, 1.0)], 5, {"size": (20, 100)}, "100 x 20 pixels: at least 160 x 96"),
    ],
)
def test_a_plot_refuses(runs, steps, options, message):
    with pytest.raises(ValueError, match=message):
        energy_plot(runs, steps, **options)


def _grouped(frames_shown):
    """A motion of FRAMES latent frames of four, over pictures whose level says which they are."""
    shown = motion()
    shown = replace(shown, provenance=replace(shown.provenance, group=4))
    ground = np.stack([np.full((64, 64, 3), 2 * i, np.uint8) for i in range(frames_shown)])
    return preview(shown, ground, arrows=False, opacity=0.0).video


def test_of_latent_frames_that_are_several_the_middle_one_is_shown():
    # Latent frame 0 is frame 0, latent frame i the frames 4 i - 3 to 4 i.
    plain = preview(motion(), grey(FRAMES, 64, 64, 2 * 6), arrows=False, opacity=0.0).video
    video = _grouped(4 * (FRAMES - 1) + 1)
    assert len(video) == FRAMES
    assert np.array_equal(video[2], plain[2])
    assert not np.array_equal(video[1], video[2])


def test_pictures_that_are_neither_are_refused_with_both_numbers():
    seen = 4 * (FRAMES - 1) + 1
    with pytest.raises(RepresentationMismatchError, match=rf"{FRAMES} latent ones \({seen} of the video\)"):
        _grouped(FRAMES + 1)
