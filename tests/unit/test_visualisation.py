"""Pictures of motions and results: what they show, where, and how large; files that are whole or absent."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch
from PIL import Image, ImageSequence

from animation import write_animation
from motionclone_core.representation import MotionRepresentation, TapRepresentation
from motionclone_core.visualisation.canvas import BACKGROUND, COMPARED_COLOUR, PATH_COLOUR, write_picture
from motionclone_core.visualisation.motion import guided_intensity, heat_map
from motionclone_core.visualisation.sheets import Panel, contact_sheet, enlarged, side_by_side
from motionclone_core.visualisation.tracks import draw_paths

FINE, COARSE = "up_blocks.1.motion.0.attention.0", "up_blocks.0.motion.0.attention.0"
FRAMES = 4


def tap(grid=(4, 6), *, heads=2, value=0.25):
    """Entries of one value; every frame attends to itself."""
    shape = (grid[0] * grid[1], heads, FRAMES, 1)
    own = torch.arange(FRAMES)[:, None].expand(shape)
    return TapRepresentation.compact(torch.full(shape, value), own, grid)


def representation(**taps):
    return MotionRepresentation.whole({FINE: tap(), **taps}, (4, 6))


def clip(frames=FRAMES, height=64, width=96, level=90):
    """Flat grey."""
    return np.full((frames, height, width, 3), level, np.uint8)


def noise(frames=FRAMES, height=64, width=64, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (frames, height, width, 3), np.uint8)


# --- the motion -----------------------------------------------------------------------------------


def test_intensity_is_the_mean_over_heads_and_kept_entries_of_each_position_and_frame():
    values = torch.rand(24, 2, FRAMES, 3, generator=torch.Generator().manual_seed(1))
    motion = representation(**{FINE: TapRepresentation.compact(values, torch.zeros_like(values), (4, 6))})
    result = guided_intensity(motion)
    assert result.shape == (FRAMES, 4, 6) and result.dtype == np.float32
    kept = values.half().float().numpy()
    for frame, y, x in ((0, 0, 0), (2, 3, 1), (3, 1, 5)):
        assert result[frame, y, x] == pytest.approx(kept[y * 6 + x, :, frame].mean(), abs=1e-6)


def test_intensity_weighs_alike_the_windows_that_hold_a_frame():
    first, second = (tuple(range(start, start + FRAMES)) for start in (0, 2))
    motion = MotionRepresentation({first: {FINE: tap(value=0.25)}, second: {FINE: tap(value=0.75)}}, (4, 6))
    result = guided_intensity(motion)
    assert len(result) == FRAMES + 2
    expected = [0.25] * 2 + [0.5] * (FRAMES - 2) + [0.75] * 2
    np.testing.assert_allclose(result[:, 0, 0], expected, rtol=1e-3)


def test_intensity_weighs_taps_alike_and_lays_coarse_grids_over_the_finest():
    coarse = tap((2, 3), heads=8, value=0.5)
    coarse.values[0] = 1.0  # the top left cell
    result = guided_intensity(representation(**{COARSE: coarse}))
    assert result.shape == (FRAMES, 4, 6)
    assert result[0, 0, 0] == pytest.approx((0.25 + 1.0) / 2)
    assert result[0, 3, 5] == pytest.approx((0.25 + 0.5) / 2)
    assert np.all((result >= 0.375 - 1e-6) & (result <= 0.625 + 1e-6))


# --- heat maps ------------------------------------------------------------------------------------


def saturation(picture):
    return picture.max(-1).astype(int) - picture.min(-1)


def test_a_heat_map_burns_where_the_representation_is_high():
    hot = tap(value=0.1)
    hot.values[1 * 6 + 4, :, 2] = 0.9  # row 1, column 4, frame 2
    result = heat_map(guided_intensity(representation(**{FINE: hot})), clip())
    colour = saturation(result)
    assert np.argwhere(colour[2] > 0).mean(0) == pytest.approx([1.5 * 16 - 0.5, 4.5 * 16 - 0.5], abs=1)
    assert colour[[0, 1, 3]].max() == 0  # grey as the video where nothing moves
    assert colour[2, :, :32].max() == 0


def test_the_hottest_pixels_have_the_last_colour():
    intensity = np.zeros((FRAMES, 4, 6), np.float32)
    intensity[1] = 1
    last = cv2.applyColorMap(np.full((1, 1), 255, np.uint8), cv2.COLORMAP_INFERNO)[0, 0, ::-1]
    result = heat_map(intensity, clip()).astype(int)
    assert np.abs(result[1] - last).max() < 0.05 * 255
    assert saturation(result[0]).max() == 0


def test_the_clips_own_range_is_shown():
    intensity = np.linspace(0.4, 0.41, FRAMES * 24, dtype=np.float32).reshape(FRAMES, 4, 6)
    faint, strong = heat_map(intensity, clip()).astype(int), heat_map(50 * intensity, clip())
    assert saturation(faint).max() > 100
    assert np.abs(faint - strong).max() < 8  # a level of the map or two


def test_a_clip_without_any_difference_stays_grey():
    assert saturation(heat_map(np.full((FRAMES, 4, 6), 0.3, np.float32), noise())).max() == 0


def test_the_video_shows_through_a_heat_map():
    video = clip()
    video[:, :, 48:] = 200
    result = heat_map(np.zeros((FRAMES, 4, 6), np.float32), video)
    assert (result[:, :, 60:].astype(int).mean() - result[:, :, :40].mean()) > 30


@pytest.mark.parametrize(
    ("intensity", "message"),
    [
        (np.zeros((3, 4, 6)), "3 frames, the video has 4"),
        (np.zeros((4, 6)), r"\(4, 6\)"),
        (np.full((4, 2, 2), np.nan), "16 of 16"),
    ],
)
def test_a_heat_map_refuses(intensity, message):
    with pytest.raises(ValueError, match=message):
        heat_map(intensity, clip())


# --- enlarging ------------------------------------------------------------------------------------


def test_enlarging_keeps_proportions_and_flat_areas():
    result = enlarged(clip(), 200)
    assert result.shape == (FRAMES, 200, 300, 3)
    assert (result == 90).all()


def test_an_enlarged_edge_is_sharp_and_has_no_halo():
    video = clip(1, 32, 32, level=60)
    video[:, :, 16:] = 180
    row = enlarged(video, 256)[0, 128, :, 0].astype(int)
    assert row.min() == 60 and row.max() == 180  # Lanczos alone overshoots
    assert (np.diff(row) >= 0).all()
    assert np.count_nonzero((row > 70) & (row < 170)) <= 10  # of 8 pixels each
    assert np.diff(row).max() < 60  # no step either


def test_a_shrunk_video_is_averaged():
    video = clip(1, 8, 8)
    video[:, ::2] = 110
    assert (enlarged(video, 4) == 100).all()


def test_enlarging_refuses():
    with pytest.raises(ValueError, match="0 pixels"):
        enlarged(clip(), 0)
    with pytest.raises(ValueError, match=r"float64 \(4, 8, 8, 3\)"):
        enlarged(np.zeros((4, 8, 8, 3)), 16)
    with pytest.raises(ValueError, match=r"uint8 \(8, 8, 3\)"):
        enlarged(clip()[0, :8, :8], 16)


# --- paths ----------------------------------------------------------------------------------------


def straight(frames=FRAMES, y=32.0):
    """From x = 10 to x = 70 at one height, ``[1, f, 2]``."""
    return np.stack([np.linspace(10, 70, frames), np.full(frames, y)], axis=-1)[None]


def changed(before, after):
    return (before != after).any(-1)


def test_drawing_changes_pixels_near_the_path_only():
    video = clip()
    touched = changed(video, draw_paths(video, straight()))
    _, y, x = np.nonzero(touched)
    assert touched.any(axis=(1, 2)).all()
    assert y.min() > 32 - 5 and y.max() < 32 + 5
    assert x.min() > 10 - 5 and x.max() < 70 + 5
    assert (video == 90).all()  # the given video is left alone


def test_the_dot_is_where_the_object_is_in_each_frame():
    paths = straight()
    result = draw_paths(clip(height=256, width=384), paths, measured_in=(64, 96))
    for frame, (x, y) in zip(result, paths[0], strict=True):
        centre = round((y + 0.5) * 4 - 0.5), round((x + 0.5) * 4 - 0.5)
        assert tuple(frame[centre]) == PATH_COLOUR


def test_the_dot_lies_exactly_on_the_path():
    """Of an off-grid point, so that rounding to pixels would show."""
    paths = np.full((1, 1, 2), 20.3)
    touched = changed(clip(1, 256, 256), draw_paths(clip(1, 256, 256), paths, measured_in=(64, 64)))[0]
    weight = np.argwhere(touched).mean(0)
    assert weight == pytest.approx([(20.3 + 0.5) * 4 - 0.5] * 2, abs=0.3)


def test_the_path_is_strong_behind_the_object_and_faint_ahead():
    result = draw_paths(clip(height=256, width=384), straight(), measured_in=(64, 96))
    behind, ahead = result[2, 130, 4 * 20].astype(int), result[2, 130, 4 * 60].astype(int)
    assert np.abs(behind - PATH_COLOUR).max() == 0
    assert 0 < np.abs(ahead - 90).max() < np.abs(behind - 90).max()


def test_a_path_to_compare_with_is_dashed_and_in_its_own_colour():
    video = clip(height=256, width=384)
    alone = draw_paths(video, straight(), measured_in=(64, 96))
    both = draw_paths(video, straight(), compared=straight(y=50.0), measured_in=(64, 96))
    assert not changed(alone[:, :170], both[:, :170]).any()
    line = both[-1, 201, 42:280]  # the second path, up to the last dot
    drawn = (line == COMPARED_COLOUR).all(-1)
    assert np.count_nonzero(np.diff(drawn.astype(int)) == 1) > 4
    assert 0.25 < drawn.mean() < 0.75


def test_dashes_lie_still_while_the_path_grows():
    first, second = (
        (draw_paths(clip(level=0), straight(y=10.0), compared=straight())[i, 32] == COMPARED_COLOUR).all(-1)
        for i in (2, 3)
    )
    assert (first[15:40] == second[15:40]).all() and first[15:40].any()


def test_no_paths_are_drawn_as_nothing():
    video, none = noise(), np.zeros((0, FRAMES, 2), np.float32)
    assert (draw_paths(video, none, compared=none) == video).all()
    assert (draw_paths(video, straight(), compared=none) == draw_paths(video, straight())).all()


def test_things_that_stand_still_or_leave_the_picture_are_drawn():
    still = np.full((2, FRAMES, 2), 20.0)
    still[1] = 1e12
    touched = changed(clip(), draw_paths(clip(), still, compared=still))
    _, y, x = np.nonzero(touched)
    assert touched.any(axis=(1, 2)).all()
    assert max(y.max(), x.max()) < 26


@pytest.mark.parametrize(
    ("paths", "options", "message"),
    [
        (np.zeros((1, 3, 2)), {}, "3 frames, the video has 4"),
        (np.zeros((0, 3, 2)), {}, "3 frames, the video has 4"),
        (np.zeros((4, 2)), {}, r"\(4, 2\)"),
        (np.zeros(0), {}, r"\(0,\)"),
        (np.full((1, 4, 2), np.inf), {}, "8 of 8"),
        (np.zeros((1, 4, 2)), {"compared": np.zeros((1, 5, 2))}, "5 frames, the video has 4"),
        (np.zeros((1, 4, 2)), {"measured_in": (0, 64)}, "64 x 0"),
    ],
)
def test_paths_are_refused(paths, options, message):
    with pytest.raises(ValueError, match=message):
        draw_paths(clip(), paths, **options)


# --- sheets and rows ------------------------------------------------------------------------------


def panels(count=2, **size):
    return [Panel(f"Row {i}", noise(seed=i, **size), "a caption") for i in range(count)]


def places_of(picture, whole):
    """Where the inner part of a panel is found in a larger picture: list of y, x."""
    inner = picture[8:-8, 8:-8]
    score = cv2.matchTemplate(whole, inner, cv2.TM_SQDIFF_NORMED)
    return [tuple(int(c) - 8 for c in place) for place in np.argwhere(score < 1e-4)]


def test_a_sheet_holds_every_frame_of_every_row_once_in_even_distances():
    rows, frames = panels(3), (0, 2, 3)
    sheet = contact_sheet(rows, frames)
    found = [[places_of(panel.video[frame], sheet) for frame in frames] for panel in rows]
    assert all(len(spot) == 1 for row in found for spot in row)
    spots = np.array(found)[:, :, 0]  # row, column, (y, x)
    down, across = np.diff(spots[:, :, 0], axis=0), np.diff(spots[:, :, 1], axis=1)
    assert len(np.unique(down)) == len(np.unique(across)) == 1
    assert down[0, 0] == across[0, 0] > 64
    assert (np.ptp(spots[:, :, 0], axis=1) == 0).all() and (np.ptp(spots[:, :, 1], axis=0) == 0).all()
    margins = np.array(sheet.shape[:2]) - spots[-1, -1] - 64
    assert margins[0] == margins[1] > 0


def test_the_size_of_a_sheet_adds_up():
    small, wider, taller = (
        contact_sheet(panels(rows), range(columns)).shape[:2] for rows, columns in ((1, 1), (1, 3), (4, 1))
    )
    step = (wider[1] - small[1]) // 2
    assert wider == (small[0], small[1] + 2 * step) and taller == (small[0] + 3 * step, small[1])
    assert 64 < step < 64 + 8


def test_names_are_written_beside_their_rows_and_nowhere_else():
    bare = contact_sheet([Panel("", noise(height=200, width=200, seed=i)) for i in range(2)], [0, 1])
    video = noise(height=200, width=200, seed=0)
    named = contact_sheet([Panel("Reference", video, "red circle"), Panel("", noise(height=200, width=200, seed=1))],
                          [0, 1])
    y, x = np.nonzero(changed(bare, named))
    (top, left), = places_of(video[0], named)
    assert x.max() < left and top < y.min() and y.max() < top + 200
    assert abs((y.min() + y.max()) / 2 - (top + 100)) < 20


def test_a_long_name_stays_in_its_column():
    video = noise(height=120, width=120)
    bare = contact_sheet([Panel("", video)], [0])
    long = contact_sheet([Panel("Extraordinarilylongnameofarow", video, "and a caption of many words " * 2)], [0])
    (_, left), = places_of(video[0], bare)
    _, x = np.nonzero(changed(bare, long))
    assert x.max() < left


def test_a_note_is_added_below():
    plain, noted = contact_sheet(panels(), [0]), contact_sheet(panels(), [0], note="dashed: the reference")
    assert noted.shape[0] > plain.shape[0] and noted.shape[1] == plain.shape[1]
    (last, _), = places_of(panels()[1].video[0], noted)
    assert not changed(noted[: last + 64], plain[: last + 64]).any()
    written = np.nonzero((noted[last + 64 :] != BACKGROUND).any(-1))[0]
    assert written.min() > 0 and written.max() < len(noted) - last - 64 - 1  # not cut off


def test_a_row_holds_every_video_in_every_frame():
    rows = panels(3)
    result = side_by_side(rows)
    assert result.dtype == np.uint8 and len(result) == FRAMES
    for i in range(FRAMES):
        spots = [places_of(panel.video[i], result[i]) for panel in rows]
        assert [len(spot) for spot in spots] == [1, 1, 1]
        assert len({spot[0][0] for spot in spots}) == 1
    x = [spot[0][1] for spot in spots]
    assert x[1] - x[0] == x[2] - x[1] > 64


def test_a_row_without_names_leaves_no_space_for_them():
    bare = side_by_side([Panel("", panel.video) for panel in panels()])
    named = side_by_side(panels())
    (top, left), = places_of(panels()[0].video[0], bare[0])
    assert top == left == bare.shape[1] - 64 - top
    assert named.shape[1] > bare.shape[1] and named.shape[2] == bare.shape[2]


def test_letters_are_drawn_by_an_opencv_without_typefaces(monkeypatch):
    monkeypatch.delattr(cv2, "FontFace", raising=False)
    named, bare = (
        contact_sheet([Panel(name, noise(height=200, width=200))], [0]) for name in ("Reference", "")
    )
    y, x = np.nonzero(changed(named, bare))
    assert 60 < np.ptp(x) < 190 and 10 < np.ptp(y) < 30


@pytest.mark.parametrize(
    ("rows", "frames", "message"),
    [
        ([], [0], "0 videos"),
        (panels(), [], "0 frames"),
        (panels(), [0, 4], "frame 4 of videos of 4 frames"),
        (panels(), [-1], "frame -1"),
        ([Panel("a", noise()), Panel("b", noise(3))], [0], r"\(3, 64, 64, 3\).*\(4, 64, 64, 3\)"),
        ([Panel("a", noise().astype(np.float32))], [0], "'a' must be uint8.*float32"),
    ],
)
def test_a_sheet_refuses(rows, frames, message):
    with pytest.raises(ValueError, match=message):
        contact_sheet(rows, frames)


def test_a_row_refuses_videos_of_different_size():
    with pytest.raises(ValueError, match=r"\(4, 32, 64, 3\).*\(4, 64, 64, 3\)"):
        side_by_side([Panel("a", noise()), Panel("b", noise(height=32))])


# --- files ----------------------------------------------------------------------------------------


def test_a_picture_is_read_back_as_it_was(tmp_path):
    picture = noise(1)[0]
    write_picture(picture, tmp_path / "new" / "picture.png")
    assert (np.array(Image.open(tmp_path / "new" / "picture.png")) == picture).all()


def flat_colours():
    """Red, green, blue and grey, in which one square moves."""
    video = np.zeros((FRAMES, 40, 60, 3), np.uint8)
    for i, colour in enumerate(((228, 52, 48), (64, 192, 84), (64, 120, 240), (90, 90, 90))):
        video[i] = colour
        video[i, 10:20, 10 * i : 10 * i + 10] = 255
    return video


@pytest.mark.parametrize(("name", "tolerance"), [("a.gif", 4), ("a.webp", 12), ("A.GIF", 4)])
def test_an_animation_is_read_back_with_its_frames_size_pace_and_colours(tmp_path, name, tolerance):
    video = flat_colours()
    write_animation(video, tmp_path / name, fps=10)
    with Image.open(tmp_path / name) as animation:
        # The pace of a WebP frame is known once it is read.
        read = [(np.array(frame.convert("RGB")), frame.info["duration"]) for frame in ImageSequence.Iterator(animation)]
        assert animation.info["loop"] == 0  # for ever
    assert [duration for _, duration in read] == [100] * FRAMES
    for (frame, _), given in zip(read, video, strict=True):
        assert frame.shape == given.shape
        assert np.abs(frame[25:35].astype(int) - given[25:35]).max() <= tolerance


def test_a_gif_is_not_dithered(tmp_path):
    ramp = np.linspace(0, 255, 512).astype(np.uint8)
    video = np.broadcast_to(np.stack([ramp, ramp[::-1], ramp // 2], axis=-1), (2, 64, 512, 3)).copy()
    video[1, :4] = 255
    write_animation(video, tmp_path / "ramp.gif")
    read = np.array(Image.open(tmp_path / "ramp.gif").convert("RGB"))
    assert (read == read[:1]).all()  # every row alike: dithering would scatter


def test_an_animation_stays_small(tmp_path):
    """Three clips in which a disc crosses a background that slides, so that every pixel changes."""
    x, y = np.meshgrid(np.arange(64), np.arange(64))
    colours = np.array([(40, 46, 60), (70, 80, 98), (228, 52, 48)], np.uint8)
    stripes = [(x * 0.8 + y * 0.6 + 2 * i) % 20 < 10 for i in range(16)]
    discs = [np.hypot(x - 8 - 3 * i, y - 32) < 9 for i in range(16)]
    video = np.stack([colours[np.where(disc, 2, stripe)] for disc, stripe in zip(discs, stripes, strict=True)])
    video = draw_paths(enlarged(video, 256), straight(16), measured_in=(64, 64))
    row = side_by_side([Panel("clip", video)] * 3)
    write_animation(row, tmp_path / "row.gif")
    assert (tmp_path / "row.gif").stat().st_size < 1.5e6


@pytest.mark.parametrize(
    ("write", "name"),
    [(write_animation, "a.gif"), (write_animation, "a.webp"), (lambda v, path: write_picture(v[0], path), "a.png")],
)
def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch, write, name):
    (tmp_path / name).write_bytes(b"old")

    def fail(*_):
        raise OSError("disk full")

    monkeypatch.setattr("os.replace", fail)
    with pytest.raises(OSError, match="disk full"):
        write(flat_colours(), tmp_path / name)
    assert [file.name for file in tmp_path.iterdir()] == [name]
    assert (tmp_path / name).read_bytes() == b"old"


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("a.mp4", {}, r"\.gif or \.webp, not as '\.mp4'"),
        ("a", {}, "file without ending"),
        ("a.gif", {"fps": 0}, "0 frames per second"),
        ("a.gif", {"fps": 60}, "60 frames per second.*50"),
        ("a.gif", {"fps": float("nan")}, "nan frames"),
    ],
)
def test_an_animation_refuses(tmp_path, name, options, message):
    with pytest.raises(ValueError, match=message):
        write_animation(flat_colours(), tmp_path / name, **options)
    assert not list(tmp_path.iterdir())


def test_a_picture_refuses(tmp_path):
    with pytest.raises(ValueError, match=r"not as '\.jpg'"):
        write_picture(noise(1)[0], tmp_path / "a.jpg")
    with pytest.raises(ValueError, match=r"\(4, 64, 64, 3\)"):
        write_picture(noise(), tmp_path / "a.png")
    with pytest.raises(ValueError, match="float64"):
        write_picture(np.zeros((4, 4, 3)), tmp_path / "a.png")
    assert not list(tmp_path.iterdir())
