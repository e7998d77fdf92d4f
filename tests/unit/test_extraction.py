"""Building a representation from a model call, against a sorted float64 softmax written out."""

from __future__ import annotations

import pytest
import torch

from motionclone_core.extraction import DEFAULT_T_ALPHA, RepresentationBuilder, require_extraction
from motionclone_core.grids import RepresentationMismatchError
from motionclone_core.hosts.base import StopForward
from motionclone_core.representation import Provenance
from toy_host import CHANNELS, HEADS, TAPS, Recorder, ToyHost, written_out_attention

# Odd, so that halving rounds up: 5 x 6 -> 3 x 3.
LATENT = (5, 6)
GRIDS = {TAPS[0]: (5, 6), TAPS[1]: (3, 3), TAPS[2]: (3, 3)}


def latents(frames, size=LATENT):
    generator = torch.Generator().manual_seed(0)
    return torch.randn(frames, CHANNELS, *size, generator=generator, dtype=torch.float64)


def build(frames, k, *, taps=TAPS, dtype=torch.float64):
    builder = RepresentationBuilder(taps, k=k, frames=frames, latent_size=LATENT)
    host = ToyHost(frames).to(dtype)
    with pytest.raises(StopForward):
        host.run(latents(frames).to(dtype), builder.observer())
    return builder, host


@pytest.mark.parametrize(("frames", "k"), [(4, 1), (5, 2), (6, 6)])
def test_it_keeps_the_largest_entries_of_each_row(frames, k):
    builder, _ = build(frames, k)
    provenance = Provenance("clip.mp4", "toy/1", "abc", 400, 7)
    motion = builder.representation(provenance)
    assert (motion.latent_size, motion.provenance, motion.k) == (LATENT, provenance, k)
    assert tuple(motion.taps) == TAPS
    recorder = Recorder()
    ToyHost(frames).run(latents(frames), recorder)
    for name, tap in motion.taps.items():
        attention = written_out_attention(*recorder.seen[name], HEADS)
        values, indices = attention.sort(-1, descending=True)
        assert tap.grid == GRIDS[name]
        assert torch.equal(tap.indices.long(), indices[..., :k])
        assert (tap.values.dtype, tap.indices.dtype) == (torch.float16, torch.uint8)
        # Rounded to float16 once: half a unit in the last of 11 places.
        torch.testing.assert_close(tap.values.double(), values[..., :k], rtol=2.0**-11, atol=0)


def test_k_of_all_frames_keeps_whole_rows():
    builder, _ = build(4, 4)
    for tap in builder.representation(Provenance()).taps.values():
        frames = torch.arange(4, dtype=torch.uint8).expand_as(tap.indices)
        assert torch.equal(tap.indices.sort(-1).values, frames)
        total = tap.values.double().sum(-1)
        torch.testing.assert_close(total, torch.ones_like(total), rtol=0, atol=4 * 2.0**-12)


@pytest.mark.parametrize("taps", [TAPS[:1], TAPS[:2], TAPS, (TAPS[0], TAPS[2])])
def test_the_model_stops_at_the_last_tap_that_was_asked_for(taps):
    builder, host = build(4, 1, taps=taps)
    last = TAPS.index(taps[-1])
    # A layer counts as reached once it is through, so the last one does not.
    assert host.reached == list(TAPS[:last])
    assert tuple(builder.representation(Provenance()).taps) == taps


def test_what_is_kept_holds_no_graph_even_if_one_is_recorded():
    builder = RepresentationBuilder(TAPS[:1], k=1, frames=4, latent_size=LATENT)
    with torch.enable_grad(), pytest.raises(StopForward):
        ToyHost(4).run(latents(4).requires_grad_(), builder.observer())
    (tap,) = builder.representation(Provenance()).taps.values()
    assert not tap.values.requires_grad


def test_each_window_is_read_by_itself():
    builder = RepresentationBuilder(TAPS, k=2, frames=6, latent_size=LATENT)
    windows = [(0, 1, 2, 3), (2, 3, 4, 5)]
    for window in windows:
        with pytest.raises(StopForward):
            ToyHost(4).run(latents(6)[list(window)], builder.observer(window))
    motion = builder.representation(Provenance())
    assert (list(motion.windows), motion.frames, motion.k) == (windows, 6, 2)
    for window in windows:
        alone = RepresentationBuilder(TAPS, k=2, frames=4, latent_size=LATENT)
        with pytest.raises(StopForward):
            ToyHost(4).run(latents(6)[list(window)], alone.observer())
        for name, tap in alone.representation(Provenance()).taps.items():
            assert torch.equal(motion.windows[window][name].values, tap.values)
            assert torch.equal(motion.windows[window][name].indices, tap.indices)


def test_k_above_a_window_is_refused():
    builder = RepresentationBuilder(TAPS, k=5, frames=6, latent_size=LATENT)
    with pytest.raises(ValueError, match="k is 5, but the model sees 4 frames at once"):
        builder.observer((0, 1, 2, 3))


def test_a_model_that_is_never_called_is_refused():
    with pytest.raises(ValueError, match="never called"):
        RepresentationBuilder(TAPS, k=1, frames=4, latent_size=LATENT).representation(Provenance())


def test_taps_left_out_are_named():
    builder = RepresentationBuilder(TAPS, k=1, frames=4, latent_size=LATENT)
    ToyHost(4).run(latents(4), builder.observer(), skip=TAPS[1:])
    with pytest.raises(ValueError, match=rf"never reached {TAPS[1]}, {TAPS[2]}:"):
        builder.representation(Provenance())


def test_other_frames_are_named_with_both_numbers():
    builder = RepresentationBuilder(TAPS, k=1, frames=16, latent_size=LATENT)
    with pytest.raises(RepresentationMismatchError, match=rf"{TAPS[0]} attends over 4 frames, not over 16"):
        ToyHost(4).run(latents(4), builder.observer())


def test_positions_that_are_no_halving_are_named():
    builder = RepresentationBuilder(TAPS, k=1, frames=4, latent_size=LATENT)
    with pytest.raises(RepresentationMismatchError, match=r"35 positions.*6 x 5"):
        ToyHost(4).run(latents(4, (5, 7)), builder.observer())


def test_a_model_that_gives_no_numbers_is_refused():
    builder = RepresentationBuilder(TAPS, k=1, frames=4, latent_size=LATENT)
    x = latents(4)
    x[2, 0, 1, 1] = float("nan")
    with pytest.raises(ValueError, match=rf"{TAPS[0]} holds values that are not numbers"):
        ToyHost(4).run(x, builder.observer())


def test_the_default_timestep_is_the_papers():
    assert DEFAULT_T_ALPHA == 400


@pytest.mark.parametrize(
    "settings",
    [{"t_alpha": 0, "k": 1, "frames": 2}, {"t_alpha": 999, "k": 16, "frames": 16}],
)
def test_settings_at_the_edges_are_accepted(settings):
    require_extraction(**settings)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"t_alpha": -1}, r"t_alpha is -1: it must lie in 0 to 999"),
        ({"t_alpha": 1000}, r"t_alpha is 1000: it must lie in 0 to 999"),
        ({"frames": 1}, r"has 1 frame: .*at least 2"),
        ({"k": 0}, r"k is 0, but the reference has 16 frames: choose k from 1 to 16"),
        ({"k": 17}, r"k is 17, but the reference has 16 frames"),
    ],
)
def test_bad_settings_are_named(changed, message):
    with pytest.raises(ValueError, match=message):
        require_extraction(**{"t_alpha": 400, "k": 1, "frames": 16, **changed})


def test_views_of_a_call_are_read_one_after_the_other_and_only_once():
    """Attention that sees two windows in turn hands each tap on twice."""
    windows = [(0, 1, 2, 3), (2, 3, 4, 5)]
    apart = RepresentationBuilder(TAPS, k=1, frames=6, latent_size=LATENT)
    seen = []
    for window in windows:
        recorder = Recorder()
        ToyHost(4).run(latents(6)[list(window)], recorder)
        seen.append(recorder.seen)
        with pytest.raises(StopForward):
            ToyHost(4).run(latents(6)[list(window)], apart.observer(window))
    together = RepresentationBuilder(TAPS, k=1, frames=6, latent_size=LATENT)
    observer = together.observer(*windows)
    handed = [(tap, *view[tap]) for tap in TAPS for view in seen]
    for tap, q, k in handed[:-1]:
        observer.observe(tap, q, k, HEADS)
    with pytest.raises(StopForward):
        observer.observe(*handed[-1], HEADS)
    with pytest.raises(StopForward):
        together.observer(*windows).observe(TAPS[0], seen[0][TAPS[1]][0], seen[0][TAPS[1]][1], HEADS)
    one, other = apart.representation(Provenance()), together.representation(Provenance())
    for window in windows:
        for name, tap in one.windows[window].items():
            assert torch.equal(other.windows[window][name].values, tap.values)
            assert torch.equal(other.windows[window][name].indices, tap.indices)
