"""What a representation keeps, refuses and cuts out under a crop."""

from __future__ import annotations

import pytest
import torch

from motionclone_core.attention import strongest, temporal_attention
from motionclone_core.energy import sparse_energy
from motionclone_core.grids import RepresentationMismatchError
from motionclone_core.representation import (
    MotionRepresentation,
    Provenance,
    TapRepresentation,
    index_dtype,
    latent_frames,
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


def test_what_it_says_of_itself():
    taps = {TAPS[0]: tap((4, 6), k=3), TAPS[1]: tap((2, 3), k=3), TAPS[2]: tap((2, 3), k=3)}
    representation = MotionRepresentation.whole(taps, (4, 6))
    assert (representation.frames, representation.k) == (4, 3)
    assert representation.blocks == ("down_blocks.0", "up_blocks.1")
    assert representation.nbytes() == (24 + 6 + 6) * 2 * 4 * 3 * (2 + 1)


def test_other_numbers_of_frames_are_named_with_both_numbers():
    representation = MotionRepresentation.whole({TAPS[0]: tap()}, (2, 3))
    representation.require_frames(4)
    with pytest.raises(RepresentationMismatchError, match=r"has 4 frames, the latent to sample has 16"):
        representation.require_frames(16)


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
        energy = sparse_energy(temporal_attention(queries, keys, HEADS), kept.values, kept.indices)
        # Values up to 1 are rounded by 2^-12 at most.
        assert 0 < energy < 2.0**-24


@pytest.mark.parametrize("k", [1, 3, 5])
def test_against_itself_the_energy_of_unrounded_values_is_exactly_0(k):
    for queries, keys, _ in maps_of_the_toy_host(k):
        queries, keys = queries.float(), keys.float()
        values, indices = strongest(temporal_attention(queries, keys, HEADS), k)
        assert sparse_energy(temporal_attention(queries, keys, HEADS), values, indices).item() == 0.0


@pytest.mark.parametrize(
    ("frames", "group", "expected"), [(1, 4, 1), (5, 4, 2), (49, 4, 13), (81, 4, 21), (81, 8, 11), (16, 1, 16)]
)
def test_a_video_s_frames_fill_latent_frames(frames, group, expected):
    assert latent_frames(frames, group) == expected


@pytest.mark.parametrize(
    ("frames", "message"), [(16, "16 frames.*4 after the first.*take 13 or 17"), (3, "3 frames.*take 5"), (0, "take")]
)
def test_frames_that_fill_no_whole_group_are_refused_with_those_that_do(frames, message):
    with pytest.raises(ValueError, match=message):
        latent_frames(frames, 4)


@pytest.mark.parametrize(
    ("group", "said"),
    [
        (1, "has 4 frames, the latent to sample has 5: make"),
        (4, r"has 4 latent frames, the latent to sample has 5 \(13 and 17 of the video\): make"),
    ],
)
def test_another_number_of_frames_is_refused_in_those_that_people_see(group, said):
    motion = MotionRepresentation.whole({TAPS[1]: tap()}, (4, 6), Provenance(group=group))
    assert motion.shown_frames == group * 3 + 1
    motion.require_frames(4, group)
    with pytest.raises(RepresentationMismatchError, match=said):
        motion.require_frames(5, group)


@pytest.mark.parametrize("frames", [4, 7])
def test_a_motion_in_other_groups_of_frames_is_refused(frames):
    of_eight = MotionRepresentation.whole({TAPS[1]: tap()}, (4, 6), Provenance(group=8))
    with pytest.raises(RepresentationMismatchError, match=r"is 8 of the video, one of this model is 4: extract"):
        of_eight.require_frames(frames, 4)
