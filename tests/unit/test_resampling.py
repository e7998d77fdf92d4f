"""A representation as a call of the model sees it: other cells, other frames, under a mask."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from motionclone_core.editing import retimed
from motionclone_core.energy import sparse_energy
from motionclone_core.grids import Crop, Frame, RepresentationMismatchError
from motionclone_core.representation import MotionRepresentation, TapRepresentation
from motionclone_core.resampling import held_against
from toy_host import TAPS

SIZE = (4, 6)
WHOLE = Crop(0, 0, *SIZE)


def numbered(grid, *, frames=2, window=None):
    """A tap whose value in each cell is the number of the cell (and, in thousandths, of the row's frame)."""
    cells = torch.arange(grid[0] * grid[1]).reshape(-1, 1, 1, 1).expand(-1, 1, frames, 1)
    own = torch.tensor(window or range(frames)).reshape(1, 1, -1, 1)
    return TapRepresentation(((cells + 1) / 64 + own / 1024).half(), (cells % frames).to(torch.uint8), grid)


def motion(frames=2, **edits):
    taps = {TAPS[0]: numbered((4, 6), frames=frames), TAPS[1]: numbered((2, 3), frames=frames)}
    return replace(MotionRepresentation.whole(taps, SIZE), **edits)


def pointing(*rows, values=None):
    """A motion of one cell: each row of one head keeps one entry, at the frame that is given."""
    indices = torch.tensor(rows, dtype=torch.uint8).reshape(1, 1, -1, 1)
    values = torch.tensor([0.5] * len(rows) if values is None else values).half().reshape(indices.shape)
    return MotionRepresentation.whole({TAPS[0]: TapRepresentation(values, indices, (1, 1))}, (1, 1))


def seen(representation, window, crop=None, size=None):
    size = size or representation.latent_size
    return held_against(representation, tuple(window), crop or Crop(0, 0, *size), size)


def test_seen_whole_and_unedited_it_is_what_was_stored():
    whole = motion()
    found = seen(whole, range(2))
    assert {name: id(tap) for name, tap in found.items()} == {name: id(tap) for name, tap in whole.taps.items()}


def test_a_crop_cuts_every_tap_on_its_own_grid():
    found = seen(motion(), range(2), Crop(0, 2, 4, 4))
    # The right two of three columns.
    assert found[TAPS[1]].grid == (2, 2)
    assert (found[TAPS[1]].values[:, 0, 0, 0] * 64 - 1).tolist() == [1, 2, 4, 5]
    assert found[TAPS[0]].grid == (4, 4) and found[TAPS[0]].weights is None


def test_another_size_takes_the_nearest_cells():
    found = seen(motion(), range(2), size=(8, 6))[TAPS[1]]
    assert found.grid == (4, 3)
    assert (found.values[:, 0, 0, 0] * 64 - 1).tolist() == [0, 1, 2, 0, 1, 2, 3, 4, 5, 3, 4, 5]
    assert found.indices[:, 0, 1, 0].tolist() == [n % 2 for n in [0, 1, 2, 0, 1, 2, 3, 4, 5, 3, 4, 5]]


def test_outside_its_frame_it_counts_for_nothing():
    moved = motion(frame=Frame(top=0.5, left=0.0))
    found = seen(moved, range(2))[TAPS[0]]
    assert found.weights[:, 0].reshape(4, 6).tolist() == [[0.0] * 6] * 2 + [[1.0] * 6] * 2
    # The upper half of the motion is in the lower half of the frame.
    lower = (found.values[:, 0, 0, 0] * 64 - 1).reshape(4, 6)[2:]
    assert lower.flatten().tolist() == list(range(12))


def test_a_mask_counts_by_its_mean_over_each_cell():
    mask = torch.zeros(2, 4, 6)
    mask[0, :, :3] = 1.0  # frame 0: the left half; the middle one of three columns is cut in two
    mask[1] = 0.25
    found = seen(motion(mask=mask), range(2))
    assert found[TAPS[1]].weights[:, 0].tolist() == [1.0, 0.5, 0.0] * 2
    assert found[TAPS[1]].weights[:, 1].tolist() == [0.25] * 6
    assert found[TAPS[0]].weights[:, 0].reshape(4, 6)[2].tolist() == [1.0] * 3 + [0.0] * 3


def test_a_mask_finer_than_the_cells_counts_by_its_area():
    line = torch.zeros(1, 512, 768)
    line[:, 300:306] = 1.0  # in the third of four rows of cells, 128 high, and the second of two, 256 high
    found = seen(motion(mask=line), range(2))
    assert found[TAPS[0]].weights[:, 0].reshape(4, 6)[:, 0].tolist() == pytest.approx([0, 0, 6 / 128, 0], rel=1e-6)
    assert found[TAPS[1]].weights[:, 0].reshape(2, 3)[:, 0].tolist() == pytest.approx([0, 6 / 256], rel=1e-6)


@pytest.mark.parametrize("sides", [(1, 1), (32, 48), (7, 5)])
def test_a_mask_of_any_size_is_spread_over_the_frame(sides):
    ramp = torch.linspace(0, 1, sides[1]).expand(1, *sides)
    weights = seen(motion(mask=ramp), range(2))[TAPS[1]].weights
    assert weights.shape == (6, 2) and torch.equal(weights[:, 0], weights[:, 1])
    columns = weights[:, 0].reshape(2, 3)
    assert torch.equal(columns[0], columns[1])
    assert (columns[0].diff() >= 0).all()


def test_a_window_and_a_crop_take_their_part_of_a_mask():
    windows = {w: {TAPS[0]: numbered((4, 6), window=w)} for w in ((0, 1), (1, 2))}
    mask = torch.arange(3).reshape(3, 1, 1) / 4 + torch.zeros(3, 4, 6)
    mask[:, :, 3:] = 1.0
    long = MotionRepresentation(windows, SIZE, mask=mask)
    found = seen(long, (1, 2), Crop(0, 2, 4, 2))[TAPS[0]]
    assert found.weights.reshape(4, 2, 2)[0].tolist() == [[0.25, 0.5], [1.0, 1.0]]


def test_a_window_that_was_not_read_is_named_beside_those_that_were():
    taps = {w: {TAPS[0]: numbered((4, 6), frames=3)} for w in ((0, 1, 2), (4, 3, 2))}
    long = MotionRepresentation(taps, SIZE)
    assert long.frames == 5
    assert seen(long, (4, 3, 2))[TAPS[0]] is long.windows[4, 3, 2][TAPS[0]]
    with pytest.raises(RepresentationMismatchError, match=r"frames 1 to 5 at once.* frames 1 to 3, frames 5, 4, 3"):
        seen(long, range(5))


# --- time -------------------------------------------------------------------------------------------------


def rows_of(found):
    tap = found[TAPS[0]]
    return tap.indices[0, 0, :, 0].tolist(), tap.values[0, 0, :, 0].tolist()


def test_following_every_frame_in_its_place_changes_nothing():
    four = pointing(1, 2, 3, 0, values=[0.25, 0.5, 0.75, 1.0])
    assert rows_of(seen(retimed(four, [0, 1, 2, 3]), range(4))) == ([1, 2, 3, 0], [0.25, 0.5, 0.75, 1.0])


def test_reversed_every_row_points_at_where_its_frame_has_gone():
    found = rows_of(seen(retimed(pointing(1, 2, 3, 0, values=[0.25, 0.5, 0.75, 1.0]), [3, 2, 1, 0]), range(4)))
    # Frame 0 is the old frame 3, which pointed at 0, now frame 3; and so on.
    assert found == ([3, 0, 1, 2], [1.0, 0.75, 0.5, 0.25])


def test_twice_as_slow_points_at_one_of_the_copies_and_halves_what_is_shared_among_them():
    found = rows_of(seen(retimed(pointing(1, 0), [0, 0, 1, 1]), range(4)))
    # Frame 1 was one frame on; of its copies 2 and 3 that is nearer to 2. Frame 0 was one back, of 0 and 1 nearer to 1.
    assert found == ([2, 2, 1, 1], [0.25] * 4)


def test_twice_as_fast_points_at_the_nearest_frame_that_is_left_and_grows_up_to_1():
    found = rows_of(seen(retimed(pointing(2, 0, 3, 0, values=[0.25, 0.5, 0.75, 0.5]), [0, 2]), range(2)))
    # Old frame 3 is gone; nearest to it is 2, now 1. 0.25 doubles, 0.75 would go beyond 1.
    assert found == ([1, 1], [0.5, 1.0])


def test_a_loop_points_into_its_own_turn():
    loop = retimed(pointing(1, 0), [0, 1, 0, 1, 0, 1])
    assert rows_of(seen(loop, range(6)))[0] == [1, 0, 3, 2, 5, 4]
    # A window is read by itself: within it the motion is as it was stored.
    assert rows_of(seen(loop, (2, 3))) == ([1, 0], [0.5, 0.5])


def test_of_the_windows_that_hold_a_frame_that_with_most_around_it_is_read():
    windows = {w: {TAPS[0]: pointing(*[i] * 4).taps[TAPS[0]]} for i, w in enumerate([(0, 1, 2, 3), (2, 3, 4, 5)])}
    long = MotionRepresentation(windows, (1, 1), timing=(0, 1, 2, 3, 4, 5))
    # Frames 0 to 2 are read in the first, where rows point at frame 0, the others in the second, where they point at 3.
    assert rows_of(seen(long, range(6)))[0] == [0, 0, 0, 3, 3, 3]


def test_edits_of_time_and_place_add_up():
    slow = retimed(motion(frames=3), [0, 0, 1, 1, 2, 2])
    back = retimed(slow, [5, 3, 1])
    assert back.timing == (2, 1, 0)
    mask = torch.arange(6).reshape(6, 1, 1) / 8
    followed = retimed(replace(slow, mask=mask), [5, 3, 1]).mask
    assert followed.flatten().tolist() == [5 / 8, 3 / 8, 1 / 8]


def test_a_motion_that_keeps_more_entries_than_there_are_frames_left_still_fits():
    """Even attention over four frames, all of it kept, is even attention over two."""
    everywhere = torch.arange(4, dtype=torch.uint8).expand(1, 1, 4, 4).clone()
    tap = TapRepresentation(torch.full((1, 1, 4, 4), 0.25).half(), everywhere, (1, 1))
    short = retimed(MotionRepresentation.whole({TAPS[0]: tap}, (1, 1)), [0, 2])
    found = seen(short, range(2))[TAPS[0]]
    assert found.values.shape == (1, 1, 2, 2)
    assert float(sparse_energy(torch.full((1, 1, 2, 2), 0.5), found.values, found.indices)) == 0.0
