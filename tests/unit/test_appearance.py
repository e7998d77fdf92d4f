"""Guidance held against an unguided video, on a small network: its gradient, its steps, what it asks of a host.

Shapes used here:
    p   positions of a tap      f   frames      c   channels of a key      y, x   rows and columns of its grid
"""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from test_guidance import GRIDS, LATENT, noise, reference

from motionclone_core.appearance import AppearanceReader, word_map
from motionclone_core.grids import Crop, Frame, RepresentationMismatchError
from motionclone_core.guidance import MotionGuidance
from motionclone_core.hosts.base import View
from motionclone_core.mixing import Motion, MotionPart
from motionclone_core.resampling import foreground_held
from motionclone_core.schedule import PRESETS, GuidanceWindow, Keyframe, StrengthCurve
from motionclone_core.semantics import Semantics, Words
from toy_host import TAPS, Recorder, ToyHost, written_out_attention, written_out_energy

FRAMES = 4
WEIGHTS = {"up_blocks.1": 200.0, "down_blocks.0": 30.0}
CAT = Words("a cat", ("cat",), (2,))


def random(*shape, seed):
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def attention(seed=7):
    """Cross-attention to a word in the coarser grid, [f, p]."""
    return random(FRAMES, 6, seed=seed)


def motion(**changes):
    return replace(reference(FRAMES), foreground=word_map(attention(8), LATENT), **changes)


def view_of(appearance, **changes):
    return View([tuple(range(FRAMES))], [Crop(0, 0, *LATENT)], LATENT, appearance=appearance, **changes)


def shown(host, x, guidance):
    """What the unguided video shows, as a host reads it."""
    reader = guidance.reader(FRAMES, LATENT)
    if reader.tokens:
        reader.attend(attention())
    with torch.no_grad():
        host.run(x, reader)
    return reader.result()


def gradient(host, x, guidance, appearance, **step):
    with torch.enable_grad():
        x = x.clone().requires_grad_()
        observer = guidance.observer(x, view_of(appearance, **step), scale=1.0)
        host.run(x, observer)
    return observer.result()


def mean_key(k, mask):
    """Of keys [p, f, c] under [f, y, x]: [f, c]."""
    mask = mask.flatten(1).T[..., None].double()
    return (k * mask).sum(0) / (mask.sum(0) + 1e-5)


def spread(mask, grid):
    times = grid[0] // mask.shape[1]
    return mask.repeat_interleave(times, 1).repeat_interleave(times, 2)


def around(mask, sigma=5.0):
    """The Gaussian of each frame, cell by cell."""
    found = torch.zeros_like(mask)
    for f, frame in enumerate(mask):
        y, x = (axis.double().mean() for axis in torch.nonzero(frame, as_tuple=True))
        for row in range(mask.shape[1]):
            for column in range(mask.shape[2]):
                found[f, row, column] = torch.exp(-((row - y) ** 2 + (column - x) ** 2) / (2 * sigma**2))
    return found


def energy_by_hand(host, x, unguided, representation, words):
    """2000 * motion + the semantic energies, as the first version writes them."""
    seen, beside = Recorder(), Recorder()
    host.run(x, seen)
    with torch.no_grad():
        host.run(unguided, beside)
    taps = representation.taps.items()
    total = 2000.0 * sum(
        written_out_energy(written_out_attention(*seen.seen[name], 2), tap.values, tap.indices) for name, tap in taps
    )
    own = (representation.foreground.double() > 0.3).double()
    new = attention().unflatten(1, GRIDS[TAPS[1]])
    low, high = new.amin((1, 2), keepdim=True), new.amax((1, 2), keepdim=True)
    new = ((new - low) / (high - low + 1e-5) > 0.3).double()
    fading = around(own)
    pairs = ((fading * own, new), ((1 - fading) * (1 - own), 1 - new))
    for name in TAPS:
        weight = (30.0 if name.startswith("down") else 200.0) / len(TAPS)
        k, k_beside = seen.seen[name][1], beside.seen[name][1]
        if words:
            for mine, other in pairs:
                target = mean_key(k_beside, spread(other, GRIDS[name]))
                total = total + weight * ((mean_key(k, spread(mine, GRIDS[name])) - target) ** 2).mean()
        else:
            total = total + weight * ((k.mean(0) - k_beside.mean((0, 1))) ** 2).mean()
    return total


@pytest.mark.parametrize("words", [CAT, Words("a cat")], ids=["words", "whole frame"])
def test_the_gradient_is_that_of_both_energies_written_out(words):
    host, x, unguided, rep = ToyHost(FRAMES), noise(FRAMES), noise(FRAMES, seed=3), motion()
    guidance = MotionGuidance(rep, semantics=Semantics(words, WEIGHTS))
    literal = x.clone().requires_grad_()
    energy = energy_by_hand(host, literal, unguided, rep, bool(words.tokens))
    (expected,) = torch.autograd.grad(energy, literal)
    got = gradient(host, x, guidance, shown(host, unguided, guidance))
    # Masks are float32.
    assert (2000.0 * got.value - expected).norm() < 1e-6 * expected.norm()
    assert 2000.0 * got.energies[0] == pytest.approx(energy.item(), rel=1e-6)
    bare = gradient(host, x, MotionGuidance(rep), None)
    assert (2000.0 * bare.value - expected).norm() > 0.01 * expected.norm(), "semantics must matter here"


def test_semantics_of_weight_0_are_none():
    guidance = MotionGuidance(motion(), semantics=Semantics(CAT, {"up_blocks.1": 0.0}))
    assert not any(guidance.compares(step, 100) for step in range(100))
    host, x = ToyHost(FRAMES), noise(FRAMES)
    got, bare = gradient(host, x, guidance, None), gradient(host, x, MotionGuidance(motion()), None)
    assert torch.equal(got.value, bare.value)


def test_the_motion_rests_in_the_last_half_of_the_guided_steps():
    """Published: off for i > G - 60, where G = 120; only the semantic energy is left then."""
    host, x = ToyHost(FRAMES), noise(FRAMES)
    window = GuidanceWindow(0, 120, 10, 0)
    guidance = MotionGuidance(motion(), window=window, semantics=Semantics(CAT, WEIGHTS, alone=0.5))
    without = MotionGuidance(motion(), 0.0, window, semantics=Semantics(CAT, WEIGHTS))
    appearance = shown(host, noise(FRAMES, seed=3), guidance)
    steps = {step: gradient(host, x, guidance, appearance, step=step, total_steps=200).value for step in (0, 60, 61)}
    alone = gradient(host, x, without, appearance, step=61, total_steps=200).value
    assert torch.equal(steps[0], steps[60])
    assert not torch.allclose(steps[60], steps[61])
    torch.testing.assert_close(2000.0 * steps[61], alone)
    assert [guidance.strength(step, 200) for step in (0, 4, 9, 119, 120)] == [200.0, 1000.0, 2000.0, 2000.0, 0.0]
    assert [without.strength(step, 200) for step in (0, 119, 120)] == [0.1, 1.0, 0.0]
    assert [guidance.compares(step, 200) for step in (0, 119, 120)] == [True, True, False]


def test_semantics_alone_have_no_push_of_their_own_under_normalised():
    semantics = Semantics(CAT, WEIGHTS)
    with pytest.raises(ValueError, match=r"weight is 0: the rule normalised .* take the rule published"):
        MotionGuidance(motion(), 0.0, update_rule="normalised", semantics=semantics)
    assert MotionGuidance(motion(), 0.0, update_rule="normalised").strength(0, 10) == 0.0


def test_a_curve_that_takes_a_motion_away_leaves_semantics_their_weight():
    fades = StrengthCurve((Keyframe(0.0, 1.0), Keyframe(1.0, 0.0)))
    guidance = MotionGuidance(
        Motion((MotionPart(motion(), ramp=fades),)), semantics=Semantics(CAT, WEIGHTS, alone=0.0)
    )
    host, x = ToyHost(FRAMES), noise(FRAMES)
    appearance = shown(host, noise(FRAMES, seed=3), guidance)
    alone = MotionGuidance(motion(), 0.0, semantics=Semantics(CAT, WEIGHTS))
    last = {"step": 10, "total_steps": 11}
    expected = gradient(host, x, alone, appearance, **last).value * alone.strength(**last)
    torch.testing.assert_close(
        gradient(host, x, guidance, appearance, **last).value * guidance.strength(**last), expected
    )


def test_block_weights_multiply_the_energies_of_their_layers():
    host, x = ToyHost(FRAMES), noise(FRAMES)
    by_block = {}
    for block in ("down_blocks.0", "up_blocks.1"):
        rep = reference(FRAMES)
        (taps,) = rep.windows.values()
        kept = {name: tap for name, tap in taps.items() if name.startswith(block)}
        by_block[block] = gradient(host, x, MotionGuidance(replace(rep, windows={tuple(range(FRAMES)): kept})), None)
    weighed = MotionGuidance(reference(FRAMES), block_weights={"up_blocks.1": 0.25})
    expected = by_block["down_blocks.0"].value + 0.25 * by_block["up_blocks.1"].value
    torch.testing.assert_close(gradient(host, x, weighed, None).value, expected)


def test_a_preset_for_other_blocks_says_which():
    with pytest.raises(ValueError, match=r"^this preset is for a motion read from up_blocks\.1 and up_b.*: .*holds"):
        MotionGuidance.of(motion(), PRESETS["first version"])


def test_a_preset_s_own_block_weights_stay():
    preset = replace(PRESETS["first version"], block_weights=(("up_blocks.1", 0.5),))
    assert MotionGuidance.of(motion(), preset, block_weights={"up_blocks.1": 3.0}).block_weights == {"up_blocks.1": 0.5}
    chosen = MotionGuidance.of(motion(), PRESETS["camera"], block_weights={"up_blocks.1": 3.0})
    assert chosen.block_weights == {"up_blocks.1": 3.0}


# --- the reader -----------------------------------------------------------------------------------


def test_keys_that_come_before_the_words_wait_for_them():
    host, x = ToyHost(FRAMES), noise(FRAMES)
    guidance = MotionGuidance(motion(), semantics=Semantics(CAT, WEIGHTS))
    late = guidance.reader(FRAMES, LATENT)
    host.run(x, late)
    with pytest.raises(ValueError, match=r"never reached down_blocks\.0"):
        late.result()
    late.attend(attention())
    recorder = Recorder()
    host.run(x, recorder)
    late.observe(TAPS[2], *recorder.seen[TAPS[2]], 2)
    early = shown(host, x, guidance)
    for tap in TAPS:
        for got, expected in zip(late.result().means[tap].values, early.means[tap].values, strict=True):
            assert torch.equal(got, expected)


def test_words_may_come_after_the_last_tap():
    host, x = ToyHost(FRAMES), noise(FRAMES)
    guidance = MotionGuidance(motion(), semantics=Semantics(CAT, {"down_blocks.0": 30.0}))
    late, early = guidance.reader(FRAMES, LATENT), shown(host, x, guidance)
    host.run(x, late)
    late.attend(attention())
    for got, expected in zip(late.result().means[TAPS[0]].values, early.means[TAPS[0]].values, strict=True):
        assert torch.equal(got, expected)


def test_a_tap_that_the_second_of_two_motions_reads_is_pulled():
    host, x, unguided = ToyHost(FRAMES), noise(FRAMES), noise(FRAMES, seed=3)
    whole = motion()
    windows = {w: {name: tap for name, tap in taps.items() if name == TAPS[0]} for w, taps in whole.windows.items()}
    parts = (MotionPart(replace(whole, windows=windows), 0.5), MotionPart(whole, 0.5))
    semantics, weight = Semantics(Words("a cat"), WEIGHTS), {"weight": 0.0}
    got, expected = (
        gradient(host, x, guidance, shown(host, unguided, guidance))
        for guidance in (MotionGuidance(m, semantics=semantics, **weight) for m in (Motion(parts), whole))
    )
    torch.testing.assert_close(got.value, expected.value)


def test_masks_take_the_place_of_words():
    host, x, unguided = ToyHost(FRAMES), noise(FRAMES), noise(FRAMES, seed=3)
    own = (motion().foreground > 0.3).float()
    new = attention().unflatten(1, GRIDS[TAPS[1]])
    low, high = new.amin((1, 2), keepdim=True), new.amax((1, 2), keepdim=True)
    new = ((new - low) / (high - low + 1e-5) > 0.3).float()
    by_words = MotionGuidance(motion(), semantics=Semantics(CAT, WEIGHTS))
    masks = {"reference_mask": spread(own, GRIDS[TAPS[0]]), "appearance_mask": spread(new, GRIDS[TAPS[0]])}
    by_masks = MotionGuidance(reference(FRAMES), semantics=Semantics(Words("a cat"), WEIGHTS, **masks))
    assert by_masks.reader(FRAMES, LATENT).tokens == ()
    expected, got = (gradient(host, x, one, shown(host, unguided, one)) for one in (by_words, by_masks))
    torch.testing.assert_close(got.value, expected.value)


def test_an_attention_that_is_no_number_is_refused():
    bad = attention()
    bad[0, 0] = float("nan")
    with pytest.raises(ValueError, match="--force-fp32"):
        word_map(bad, LATENT)


def test_words_of_a_retimed_and_placed_motion_go_with_it():
    rep = motion(timing=(3, 3, 0), frame=Frame(0.0, 1 / 3, 1.0, 1.0))
    held, kept = foreground_held(rep), rep.foreground.float()
    assert held.shape == (3, 2, 3)
    assert not held[:, :, 0].any()
    assert torch.equal(held[:, :, 1:], kept[[3, 3, 0]][:, :, :2])


# --- bad input ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("made", "words"),
    [
        (lambda: MotionGuidance(motion(), block_weights={"up_blocks.2": 1.0}), "block_weights: .*'up_blocks.2'; "),
        (lambda: MotionGuidance(motion(), semantics=Semantics(CAT, {"mid_block": 1.0})), "Semantic Guidance: .*mid_bl"),
        (lambda: MotionGuidance(reference(FRAMES), semantics=Semantics(CAT, WEIGHTS)), "extracted without words"),
        (
            lambda: MotionGuidance(
                Motion((MotionPart(motion()), MotionPart(motion()))), semantics=Semantics(CAT, WEIGHTS)
            ),
            "off one motion, and 2 are combined",
        ),
        (
            lambda: MotionGuidance(
                motion(),
                semantics=Semantics(CAT, WEIGHTS, reference_mask=torch.ones(3, 4, 4)),
            ),
            "3 frames, the video 4",
        ),
        (
            lambda: MotionGuidance(
                motion(),
                semantics=Semantics(CAT, WEIGHTS, appearance_mask=torch.ones(3, 4, 4)),
            ),
            "3 frames, the video 4",
        ),
    ],
)
def test_what_does_not_fit_is_named_before_anything_runs(made, words):
    with pytest.raises(ValueError, match=words):
        made()


def test_a_host_without_an_unguided_video_is_told():
    guidance = MotionGuidance(motion(), semantics=Semantics(CAT, WEIGHTS))
    with pytest.raises(ValueError, match="needs an unguided video"):
        guidance.observer(noise(FRAMES), view_of(None), scale=1.0)


def test_windows_of_the_unguided_video_are_named():
    reader = AppearanceReader(Semantics(CAT, WEIGHTS), TAPS, frames=FRAMES, latent_size=LATENT)
    with pytest.raises(RepresentationMismatchError, match="3 frames, not over all 4"):
        reader.observe(TAPS[0], torch.zeros(24, 3, 8), torch.zeros(24, 3, 8), 2)
