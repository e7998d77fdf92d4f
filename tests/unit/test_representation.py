"""What a representation keeps, refuses and cuts out under a crop."""

from __future__ import annotations

import pytest
import torch

from motionclone_core.attention import strongest, temporal_attention
from motionclone_core.energy import tap_energy
from motionclone_core.representation import (
    Crop,
    MotionRepresentation,
    RepresentationMismatchError,
    TapRepresentation,
    halved,
    halvings,
    index_dtype,
)
from toy_host import HEADS, TAPS, Recorder, ToyHost, written_out_attention


def tap(grid=(2, 3), *, n=2, f=4, k=1, seed=0):
    generator = torch.Generator().manual_seed(seed)
    attention = torch.rand(grid[0] * grid[1], n, f, f, generator=generator, dtype=torch.float64)
    values, indices = attention.sort(-1, descending=True)
    return TapRepresentation.compact(values[..., :k], indices[..., :k], grid)


@pytest.mark.parametrize(
    ("frames", "dtype"),
    [
        (2, torch.uint8),
        (256, torch.uint8),
        (257, torch.int16),
        (32768, torch.int16),
        (32769, torch.int32),
    ],
)
def test_the_last_frame_fits_the_index_type_and_no_smaller_one_would_do(frames, dtype):
    assert index_dtype(frames) == dtype
    assert torch.iinfo(dtype).max >= frames - 1
    assert all(
        torch.iinfo(smaller).max < frames - 1
        for smaller in (torch.uint8, torch.int16)
        if torch.iinfo(smaller).bits < torch.iinfo(dtype).bits
    )


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


def test_compact_rounds_values_to_float16_and_keeps_indices():
    values = torch.tensor([[[[0.7, 0.1]] * 2]], dtype=torch.float64, requires_grad=True)
    indices = torch.tensor([[[[1, 0]] * 2]])
    kept = TapRepresentation.compact(values, indices, (1, 1))
    assert kept.values.dtype == torch.float16
    assert not kept.values.requires_grad
    assert kept.values.tolist() == [[[[0.7001953125, 0.0999755859375]] * 2]]
    assert (kept.indices.dtype, kept.indices.tolist()) == (torch.uint8, indices.tolist())
    assert (kept.heads, kept.frames, kept.k) == (1, 2, 2)


@pytest.mark.parametrize(
    ("values", "indices", "grid", "message"),
    [
        ((6, 2, 4, 1), (6, 2, 4, 2), (2, 3), r"\(6, 2, 4, 1\).*\(6, 2, 4, 2\)"),
        ((6, 2, 4), (6, 2, 4), (2, 3), r"\(6, 2, 4\)"),
        ((6, 2, 4, 1), (6, 2, 4, 1), (2, 4), r"6 positions.*2 x 4"),
        ((6, 2, 4, 1), (6, 2, 4, 1), (-2, -3), r"6 positions.*-2 x -3"),
        ((0, 2, 4, 1), (0, 2, 4, 1), (0, 3), r"0 positions.*0 x 3"),
        ((6, 0, 4, 1), (6, 0, 4, 1), (2, 3), r"0 heads"),
        ((6, 2, 4, 5), (6, 2, 4, 5), (2, 3), r"5 entries.*have 4"),
        ((6, 2, 4, 0), (6, 2, 4, 0), (2, 3), r"0 entries.*have 4"),
    ],
)
def test_tensors_that_do_not_fit_are_refused(values, indices, grid, message):
    with pytest.raises(ValueError, match=message):
        TapRepresentation(torch.zeros(values), torch.zeros(indices, dtype=torch.uint8), grid)


@pytest.mark.parametrize(
    ("taps", "latent", "message"),
    [
        ({}, (2, 3), "at least one tap"),
        ({TAPS[0]: tap(f=4), TAPS[1]: tap(f=5)}, (2, 3), r"a window of 4 frames holds taps of \[4, 5\]"),
        ({TAPS[0]: tap(k=1), TAPS[1]: tap(k=2)}, (2, 3), r"differ in k: \[1, 2\]"),
        ({TAPS[0]: tap((3, 2))}, (2, 3), r"2 x 3 cells.*3 x 2 cells"),
        ({TAPS[0]: tap((2, 3))}, (8, 8), r"6 positions.*8 x 8"),
        ({TAPS[0]: tap((2, 3))}, (-2, -3), r"-3 x -2 cells is empty"),
    ],
)
def test_taps_that_do_not_fit_one_another_are_refused(taps, latent, message):
    with pytest.raises(ValueError, match=message):
        MotionRepresentation.whole(taps, latent)


@pytest.mark.parametrize(
    ("windows", "message"),
    [
        ({(0, 1, 2): {TAPS[0]: tap(f=4)}}, r"a window of 3 frames holds taps of \[4\]"),
        ({(0, 1, 2, 2): {TAPS[0]: tap(f=4)}}, r"a window of 4 frames"),
        ({(0, 1): {TAPS[0]: tap(f=2)}, (3, 4): {TAPS[0]: tap(f=2)}}, r"leave out frames of 0 to 4.*\[0, 1, 3, 4\]"),
        ({(0, 1): {TAPS[0]: tap(f=2)}, (1, 2): {TAPS[1]: tap(f=2)}}, "differ in their taps"),
        ({(0, 1): {TAPS[0]: tap(f=2)}, (1, 2): {TAPS[0]: tap(f=2, k=2)}}, r"differ in k: \[1, 2\]"),
        ({(0, 1): {}}, "at least one tap"),
    ],
)
def test_windows_that_do_not_fit_one_another_are_refused(windows, message):
    with pytest.raises(ValueError, match=message):
        MotionRepresentation(windows, (2, 3))


def test_a_window_that_was_not_read_is_named_beside_those_that_were():
    motion = MotionRepresentation({w: {TAPS[0]: tap(f=3)} for w in ((0, 1, 2), (4, 3, 2))}, (2, 3))
    assert motion.frames == 5
    assert motion.within((4, 3, 2)) is motion.windows[4, 3, 2]
    with pytest.raises(RepresentationMismatchError, match=r"frames 1 to 5 at once.* frames 1 to 3, frames 5, 4, 3"):
        motion.within((0, 1, 2, 3, 4))


def test_what_it_says_of_itself():
    taps = {TAPS[0]: tap((4, 6), k=3), TAPS[1]: tap((2, 3), k=3), TAPS[2]: tap((2, 3), k=3)}
    representation = MotionRepresentation.whole(taps, (4, 6))
    assert (representation.frames, representation.k) == (4, 3)
    assert representation.blocks == ("down_blocks.0", "up_blocks.1")
    assert representation.nbytes() == (24 + 6 + 6) * 2 * 4 * 3 * (2 + 1)


def test_a_video_of_its_size_passes_and_others_are_named_with_both_numbers():
    representation = MotionRepresentation.whole({TAPS[0]: tap()}, (2, 3))
    representation.require_video(4, (2, 3))
    with pytest.raises(RepresentationMismatchError, match=r"has 4 frames, the latent to sample has 16"):
        representation.require_video(16, (2, 3))
    with pytest.raises(RepresentationMismatchError, match=r"3 x 2 latent cells.*is 2 x 3 \(width x height"):
        representation.require_video(4, (3, 2))


def cell_numbers(grid):
    """A tap whose value in each cell is the cell's number."""
    numbers = torch.arange(grid[0] * grid[1], dtype=torch.float16).reshape(-1, 1, 1, 1)
    return TapRepresentation(
        numbers.expand(-1, 1, 2, 1), (numbers % 2).to(torch.uint8).expand(-1, 1, 2, 1), grid
    )


@pytest.mark.parametrize(
    ("latent", "grid", "crop", "expected"),
    [
        # The whole.
        ((4, 6), (2, 3), Crop(0, 0, 4, 6), [[0, 1, 2], [3, 4, 5]]),
        # Latent resolution: just the slice.
        ((4, 6), (4, 6), Crop(1, 2, 2, 3), [[8, 9, 10], [14, 15, 16]]),
        # Half of it: the right two columns, the lower row.
        ((4, 6), (2, 3), Crop(0, 2, 4, 4), [[1, 2], [4, 5]]),
        ((4, 6), (2, 3), Crop(2, 0, 2, 4), [[3, 4]]),
        # Cut through a cell: the crop's cells centre on 2, 4, which begin the cells 1, 2.
        ((4, 6), (2, 3), Crop(0, 1, 4, 4), [[1, 2], [4, 5]]),
        # An odd length rounds up like the convolution does; its last cell hangs over the edge.
        ((4, 7), (2, 4), Crop(0, 4, 4, 3), [[2, 3], [6, 7]]),
        ((4, 6), (2, 3), Crop(0, 5, 4, 1), [[2], [5]]),
        ((8, 8), (2, 2), Crop(4, 4, 4, 4), [[3]]),
        ((8, 8), (2, 2), Crop(0, 3, 4, 4), [[1]]),
        ((8, 8), (2, 2), Crop(0, 1, 4, 4), [[0]]),
    ],
)
def test_a_crop_takes_the_cells_that_its_own_cells_centre_on(latent, grid, crop, expected):
    cut = cell_numbers(grid).cropped(crop, latent)
    assert cut.grid == (len(expected), len(expected[0]))
    numbers = [number for row in expected for number in row]
    assert cut.values[:, 0, 0, 0].tolist() == numbers
    assert cut.indices[:, 0, 1, 0].tolist() == [number % 2 for number in numbers]


def test_to_a_device_gives_new_ordinary_tensors():
    with torch.inference_mode():
        kept = tap()
    with torch.inference_mode(False):
        moved = kept.to("cpu")
    assert kept.values.is_inference()
    for old, new in ((kept.values, moved.values), (kept.indices, moved.indices)):
        assert not new.is_inference()
        assert old.data_ptr() != new.data_ptr()
        assert torch.equal(old, new)


def maps_of_the_toy_host(k, *, frames=5):
    """Per tap: q, k, and the k largest entries of its attention, float64."""
    recorder = Recorder()
    x = torch.randn(frames, 4, 4, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    ToyHost(frames).run(x, recorder)
    for name in TAPS:
        queries, keys = recorder.seen[name]
        order = written_out_attention(queries, keys, HEADS).argsort(-1, descending=True)
        yield queries, keys, order[..., :k]


@pytest.mark.parametrize("k", [1, 3, 5])
def test_against_itself_the_energy_is_0_but_for_the_rounding_to_float16(k):
    for queries, keys, indices in maps_of_the_toy_host(k):
        attention = written_out_attention(queries, keys, HEADS)
        kept = TapRepresentation.compact(attention.gather(-1, indices), indices, (attention.shape[0], 1))
        energy = tap_energy(queries, keys, HEADS, kept.values, kept.indices)
        # Values up to 1 are rounded by 2^-12 at most.
        assert 0 < energy < 2.0**-24


@pytest.mark.parametrize("k", [1, 3, 5])
def test_against_itself_the_energy_of_unrounded_values_is_exactly_0(k):
    for queries, keys, _ in maps_of_the_toy_host(k):
        queries, keys = queries.float(), keys.float()
        values, indices = strongest(temporal_attention(queries, keys, HEADS), k)
        assert tap_energy(queries, keys, HEADS, values, indices).item() == 0.0
