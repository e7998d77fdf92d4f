"""Where the cells of a layer lie: sizes after strided convolutions, places in crops and in other frames."""

from __future__ import annotations

import pytest
import torch

from motionclone_core.grids import Cells, Crop, Frame, RepresentationMismatchError, halved, halvings


@pytest.mark.parametrize("size", range(1, 130))
def test_halved_is_the_size_after_strided_convolutions(size):
    # A convolution of 3 with padding 1 and stride 2 starts at every second cell: 0, 2, 4...
    once = len(range(0, size, 2))
    assert halved(size, 0) == size
    assert halved(size, 1) == once
    assert halved(size, 3) == len(range(0, len(range(0, once, 2)), 2))


@pytest.mark.parametrize(
    ("latent", "positions", "times"),
    [((64, 64), 4096, 0), ((64, 64), 256, 2), ((40, 72), 720, 1), ((9, 7), 20, 1), ((9, 7), 6, 2)],
)
def test_halvings(latent, positions, times):
    assert halvings(latent, positions) == times


def test_positions_that_no_halving_gives_are_named():
    with pytest.raises(RepresentationMismatchError, match=r"257 positions.*48 x 64"):
        halvings((64, 48), 257)


@pytest.mark.parametrize(
    ("latent", "times", "crop", "rows", "columns"),
    [
        # The whole.
        ((4, 6), 1, Crop(0, 0, 4, 6), [0, 1], [0, 1, 2]),
        # Latent resolution: just the slice.
        ((4, 6), 0, Crop(1, 2, 2, 3), [1, 2], [2, 3, 4]),
        # Half of it: the right two columns, the lower row.
        ((4, 6), 1, Crop(0, 2, 4, 4), [0, 1], [1, 2]),
        ((4, 6), 1, Crop(2, 0, 2, 4), [1], [0, 1]),
        # Cut through a cell: the crop's cells centre on 2, 4, which begin the cells 1, 2.
        ((4, 6), 1, Crop(0, 1, 4, 4), [0, 1], [1, 2]),
        # An odd length rounds up like the convolution does; its last cell hangs over the edge.
        ((4, 7), 1, Crop(0, 4, 4, 3), [0, 1], [2, 3]),
        ((4, 6), 1, Crop(0, 5, 4, 1), [0, 1], [2]),
        ((8, 8), 2, Crop(4, 4, 4, 4), [1], [1]),
        ((8, 8), 2, Crop(0, 3, 4, 4), [0], [1]),
        ((8, 8), 2, Crop(0, 1, 4, 4), [0], [0]),
    ],
)
def test_a_crop_takes_the_cells_that_its_own_cells_centre_on(latent, times, crop, rows, columns):
    cells = Cells(latent, times)
    found = cells.at(*cells.centres(crop), latent, Frame())
    assert [found[0].tolist(), found[1].tolist()] == [rows, columns]


@pytest.mark.parametrize("times", [0, 1, 2, 3])
@pytest.mark.parametrize("size", [(5, 7), (8, 12), (64, 64), (63, 97), (17, 16)])
def test_at_its_own_size_every_cell_is_found_again(size, times):
    cells = Cells(size, times)
    rows, columns = cells.at(*cells.centres(Crop(0, 0, *size)), size, Frame())
    assert rows.tolist() == list(range(cells.grid[0])) and columns.tolist() == list(range(cells.grid[1]))


@pytest.mark.parametrize(
    ("made_at", "size", "times", "expected"),
    [
        (8, 16, 0, [0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6, 7, 7]),
        (16, 8, 1, [1, 3, 5, 7]),
        (8, 8, 2, [0, 1]),
        (6, 8, 1, [0, 1, 1, 2]),
        (8, 6, 1, [0, 2, 3]),
    ],
)
def test_another_size_is_stretched_over_the_frame(made_at, size, times, expected):
    # Centres at (i + 1/2) of the cells, as a part of the size, in cells of the other.
    rows, columns = Cells((size, size), times).centres(Crop(0, 0, size, size))
    found = Cells((made_at, made_at), times).at(rows, columns, (size, size), Frame())
    assert found[0].tolist() == expected and found[1].tolist() == expected


def test_a_frame_that_is_moved_and_scaled_leaves_the_rest_empty():
    cells = Cells((8, 8), 0)
    centres = cells.centres(Crop(0, 0, 8, 8))
    rows, columns = cells.at(*centres, (8, 8), Frame(top=0.25, left=0.5, height=0.5, width=1.0))
    assert rows.tolist() == [-1, -1, 1, 3, 5, 7, -1, -1]
    assert columns.tolist() == [-1, -1, -1, -1, 0, 1, 2, 3]


@pytest.mark.parametrize(
    ("frame", "inside"),
    [(Frame(), 1.0), (Frame(0.25, 0.5, 0.5, 1.0), 0.25), (Frame(-0.5, -0.5, 2.0, 2.0), 1.0), (Frame(left=1.0), 0.0)],
)
def test_what_part_of_the_frame_is_covered(frame, inside):
    assert frame.inside == inside


@pytest.mark.parametrize("size", [(0.0, 1.0), (1.0, -1.0), (float("nan"), 1.0)])
def test_an_empty_frame_is_refused(size):
    with pytest.raises(ValueError, match="is empty"):
        Frame(height=size[0], width=size[1])


def test_places_are_found_in_double_precision():
    assert Cells((4, 6), 1).centres(Crop(0, 0, 4, 6))[0].dtype == torch.float64
