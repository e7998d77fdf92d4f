"""Pictures of tracks: which colours stand over which video."""

from __future__ import annotations

import numpy as np
import pytest

from motionclone_core.metrics import Tracks
from motionclone_core.visualisation.agreement import draw_tracks

FRAMES, SIDE = 4, 64
GREY = np.full((FRAMES, SIDE, SIDE, 3), 90, np.uint8)
RIGHT, LEFT, DOWN, STILL = (6.0, 0.0), (-6.0, 0.0), (0.0, 6.0), (0.0, 0.0)


def tracks(*starts_and_steps, size=(SIDE, SIDE)):
    points = [np.array(start) + np.arange(FRAMES)[:, None] * np.array(step) for start, step in starts_and_steps]
    points = np.stack(points).astype(np.float32)
    return Tracks(points, np.ones(points.shape[:2], bool), size)


def halves(pictures):
    middle = pictures.shape[2] // 2
    return pictures[:, :, :middle], pictures[:, :, middle:]


def hues(pictures):
    """The colours that stand out, rounded; whites, greys and what is blended with them do not."""
    pixels = pictures.reshape(-1, 3).astype(int)
    vivid = pixels[np.ptp(pixels, axis=1) > 90]
    found, counts = np.unique(vivid // 8, axis=0, return_counts=True)
    return {tuple(map(int, colour)) for colour in found[counts > 40]}


def white(pictures):
    # Below the letters above the videos.
    return int((pictures[:, 160:].min(axis=-1) > 225).sum())


TWO = tracks(((10, 16), RIGHT), ((50, 16), DOWN))


def test_what_moves_alike_has_one_colour_wherever_it_is():
    left, right = halves(draw_tracks(GREY, GREY, (TWO, tracks(((20, 50), RIGHT)))))
    of_first = hues(halves(draw_tracks(GREY, GREY, (TWO, TWO)))[1])
    assert hues(right) and hues(right) < of_first
    assert hues(right) <= hues(left)
    # The one that goes down has no partner.
    assert white(left) > 100 and white(right) == 0


def test_what_moves_otherwise_is_white():
    left, right = halves(draw_tracks(GREY, GREY, (tracks(((10, 16), RIGHT)), tracks(((50, 16), LEFT)))))
    assert not hues(left) and not hues(right)
    assert white(left) > 100 and white(right) > 100


def test_of_equal_partners_the_nearest_gives_the_colour():
    reference = tracks(((10, 10), RIGHT), ((40, 54), RIGHT))
    near_first, near_second = (
        hues(halves(draw_tracks(GREY, GREY, (reference, tracks((start, RIGHT)))))[1]) for start in ((12, 12), (38, 52))
    )
    both = hues(halves(draw_tracks(GREY, GREY, (reference, reference)))[0])
    assert near_first and near_second and near_first.isdisjoint(near_second)
    assert near_first | near_second <= both


def test_nothing_is_drawn_where_a_point_is_not_seen():
    seen = tracks(((10, 16), RIGHT))
    hidden = Tracks(seen.points, np.array([[True, True, False, False]]), seen.size)
    drawn, gone = (halves(draw_tracks(GREY, GREY, (one, one)))[0] for one in (seen, hidden))
    # Two thirds of the path are missing in the last frame, and the dot.
    assert (np.ptp(drawn[3].astype(int), axis=-1) > 90).sum() > 2 * (np.ptp(gone[3].astype(int), axis=-1) > 90).sum()


def test_a_still_video_is_drawn_and_is_grey():
    still = tracks(((10, 16), STILL))
    left, right = halves(draw_tracks(GREY, GREY, (still, still)))
    assert not hues(left) and not hues(right) and (right[:, 160:].max(axis=-1) > 110).any()


def test_sizes_may_differ_and_are_brought_to_one_height():
    wide = np.full((FRAMES, 32, SIDE, 3), 90, np.uint8)
    pictures = draw_tracks(GREY, wide, (TWO, tracks(((20, 16), RIGHT), size=(32, 64))))
    height, width = pictures.shape[1:3]
    assert height > 384 and width > 2 * 768


@pytest.mark.parametrize("shape", [(32, 720), (16, 1920), (1080, 1920)])
def test_a_wide_video_keeps_its_shape_and_the_page_below_2048_pixels(shape):
    h, w = shape
    wide = np.full((2, h, w, 3), 200, np.uint8)
    still = Tracks(np.full((1, 2, 2), 8, np.float32), np.ones((1, 2), bool), shape)
    page = draw_tracks(wide, wide, (still, still))
    assert page.shape[2] < 2048 and page.shape[1] < 1000
    # The video is grey and the page nearly black: its rows and columns, across and down its middle.
    left = page[0, :, : page.shape[2] // 2].mean(axis=-1) > 110
    rows = np.flatnonzero(left.sum(axis=1) > 400)
    height, width = len(rows), int(left[rows[len(rows) // 2]].sum())
    assert height == pytest.approx(940 * h / w, abs=1) and 800 < width <= 940
    assert width == pytest.approx(height * w / h, abs=2)


def test_a_tall_video_keeps_its_shape_and_has_room_for_its_caption():
    tall = np.full((2, 720, 32, 3), 200, np.uint8)
    still = Tracks(np.full((1, 2, 2), 8, np.float32), np.ones((1, 2), bool), (720, 32))
    page = draw_tracks(tall, tall, (still, still), captions=("a caption", "fidelity 0.50"))
    assert page.shape[1] < 1100 and 2 * 240 < page.shape[2] < 1000
    lit = page[0, :, : page.shape[2] // 2].mean(axis=-1) > 110
    assert int(lit[page.shape[1] // 2].sum()) == pytest.approx(32, abs=2)


def test_a_wide_and_a_square_video_stand_beside_one_another():
    wide = np.full((FRAMES, 32, 720, 3), 90, np.uint8)
    pictures = draw_tracks(GREY, wide, (TWO, tracks(((20, 16), RIGHT), size=(32, 720))))
    assert pictures.shape[1] > 384 and pictures.shape[2] < 2048


def test_other_numbers_of_frames_are_refused():
    with pytest.raises(ValueError, match=r"videos and tracks of \[3, 4\] frames"):
        draw_tracks(GREY, GREY[:3], (TWO, TWO))
