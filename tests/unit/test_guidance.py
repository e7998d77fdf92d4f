"""The gradient of the energy and the update rules, against formulas written out here in float64.

Symbols: z is the variance-preserving latent, x = z * sqrt(1 + sigma^2) ComfyUI's, abar the noise schedule.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from motionclone_core.energy_gradient import EnergyGradient, Target
from motionclone_core.grids import Crop, RepresentationMismatchError
from motionclone_core.guidance import MotionGuidance
from motionclone_core.hosts.base import ModelIdentity, VideoSize, View
from motionclone_core.mixing import Motion, MotionPart
from motionclone_core.representation import MotionRepresentation, Provenance, TapRepresentation
from motionclone_core.schedule import PRESETS, UPDATE_RULES, GuidanceWindow, Keyframe, StrengthCurve
from motionclone_core.updates import corrected_denoised
from toy_host import CHANNELS, HEADS, TAPS, Recorder, ToyHost, written_out_attention, written_out_energy

LATENT = (4, 6)
GRIDS = {TAPS[0]: (4, 6), TAPS[1]: (2, 3), TAPS[2]: (2, 3)}
WHOLE = Crop(0, 0, *LATENT)


def noise(frames, *, entries=1, size=LATENT, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(entries * frames, CHANNELS, *size, generator=generator, dtype=torch.float64)


def reference(frames, k=1, *, heads=HEADS, taps=TAPS, seed=100):
    """A made-up motion in float64, so that nothing is lost to rounding."""
    generator = torch.Generator().manual_seed(seed)
    kept = {}
    for name in taps:
        shape = (math.prod(GRIDS[name]), heads, frames, frames)
        attention = torch.randn(shape, generator=generator, dtype=torch.float64).mul(2).softmax(-1)
        values, indices = attention.sort(-1, descending=True)
        kept[name] = TapRepresentation(values[..., :k], indices[..., :k], GRIDS[name])
    return MotionRepresentation.whole(kept, LATENT)


def energy_by_hand(host, x, representation, *, heads=HEADS):
    recorder = Recorder()
    host.run(x, recorder)
    return sum(
        written_out_energy(written_out_attention(*recorder.seen[name], heads), tap.values, tap.indices)
        for name, tap in representation.taps.items()
    )


def gradient_by_hand(host, x, representation, *, heads=HEADS):
    x = x.clone().requires_grad_()
    energy = energy_by_hand(host, x, representation, heads=heads)
    return energy.item(), torch.autograd.grad(energy, x)[0]


def view_of(frames, crops=(WHOLE,)):
    return View([tuple(range(frames))], crops, LATENT)


def observe(host, x, guidance, crops=(WHOLE,), **options):
    """Run as a host does: the observer, the prediction, and whether gradients were on after it."""
    with torch.enable_grad():
        x = x.detach().clone().requires_grad_()
        observer = guidance.observer(x, view_of(len(x) // len(crops), crops), scale=1.0)
        prediction = host.run(x, observer, **options)
        still_on = torch.is_grad_enabled()
    return observer, prediction, still_on


# --- the gradient ---------------------------------------------------------------------------------


@pytest.mark.parametrize(("frames", "k", "heads"), [(4, 1, 2), (5, 2, 1), (6, 6, 3)])
def test_the_gradient_is_that_of_the_energy_written_out(frames, k, heads):
    host, x, motion = ToyHost(frames, heads=heads), noise(frames), reference(frames, k, heads=heads)
    energy, expected = gradient_by_hand(host, x, motion, heads=heads)
    observer, _, _ = observe(host, x, MotionGuidance(motion))
    assert expected.abs().max() > 1e-4
    torch.testing.assert_close(observer.result().value, expected, rtol=1e-10, atol=1e-15)
    assert observer.result().energies == pytest.approx([energy], rel=1e-12)


@pytest.mark.parametrize("direction", range(3))
def test_the_gradient_is_the_slope_of_the_energy(direction):
    host, x, motion = ToyHost(4), noise(4), reference(4, 2)
    v, h = noise(4, seed=50 + direction), 1e-5
    with torch.no_grad():
        slope = (energy_by_hand(host, x + h * v, motion) - energy_by_hand(host, x - h * v, motion)) / (2 * h)
    observer, _, _ = observe(host, x, MotionGuidance(motion))
    assert (observer.result().value * v).sum().item() == pytest.approx(slope.item(), rel=1e-6)


def test_gradcheck_through_the_network():
    """The observer's gradient as the backward pass of its energy, checked by torch at every input."""
    host, motion = ToyHost(4), reference(4, 1)

    class Energy(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            observer, _, _ = observe(host, x, MotionGuidance(motion))
            result = observer.result()
            ctx.save_for_backward(result.value)
            return torch.tensor(result.energies[0], dtype=torch.float64)

        @staticmethod
        def backward(ctx, output):
            return output * ctx.saved_tensors[0]

    assert torch.autograd.gradcheck(Energy.apply, (noise(4).requires_grad_(),))


def test_in_float32_it_is_as_exact_as_float32():
    host, x, motion = ToyHost(4), noise(4), reference(4, 2)
    _, expected = gradient_by_hand(host, x, motion)
    observer, _, _ = observe(host.float(), x.float(), MotionGuidance(motion))
    result = observer.result().value
    assert result.dtype == torch.float32
    assert ((result - expected).norm() / expected.norm()).item() < 1e-5


def test_some_taps_only_and_in_the_order_of_execution_whatever_the_order_in_the_file():
    host, x, motion = ToyHost(4), noise(4), reference(4, taps=(TAPS[2], TAPS[0]))
    guidance = MotionGuidance(motion)
    assert guidance.taps == (TAPS[0], TAPS[2])
    observer, _, _ = observe(host, x, guidance)
    assert observer.taps == (TAPS[0], TAPS[2])
    torch.testing.assert_close(
        observer.result().value, gradient_by_hand(host, x, motion)[1], rtol=1e-10, atol=1e-15
    )


def test_taps_are_ordered_by_number():
    tap = reference(4).taps[TAPS[0]]
    names = [f"up_blocks.1.motion.{module}.attention.0" for module in (10, 9, 2)]
    motion = MotionRepresentation.whole(dict.fromkeys(names, tap), LATENT)
    assert MotionGuidance(motion).taps == tuple(names[::-1])


def test_recording_stops_at_the_last_tap_and_the_callers_mode_comes_back():
    host, x = ToyHost(4), noise(4)
    with torch.no_grad():
        observer, prediction, still_on = observe(host, x, MotionGuidance(reference(4)))
        assert not torch.is_grad_enabled()
    assert not still_on
    assert not prediction.requires_grad
    assert not observer.result().value.requires_grad
    with torch.enable_grad():
        observe(host, x, MotionGuidance(reference(4)))
        assert torch.is_grad_enabled()
    torch.testing.assert_close(prediction, host.run(x), rtol=0, atol=0)


def test_recording_goes_on_until_the_last_tap():
    """With the last tap of the network unused, recording must have ended before it, and not earlier."""
    modes = []

    class Noting(EnergyGradient):
        def observe(self, tap, q, k, heads):
            modes.append((tap, torch.is_grad_enabled(), q.requires_grad))
            super().observe(tap, q, k, heads)
            modes.append((tap, torch.is_grad_enabled()))

    motion = reference(4, taps=TAPS[:2])
    with torch.enable_grad():
        x = noise(4).requires_grad_()
        ToyHost(4).run(x, Noting(x, [{name: [[Target(motion.taps[name])]] for name in TAPS[:2]}]))
    assert modes == [(TAPS[0], True, True), (TAPS[0], True), (TAPS[1], True, True), (TAPS[1], False)]


def test_two_batch_entries_with_different_crops_each_get_their_own_gradient():
    frames, size = 4, (4, 4)
    host, motion = ToyHost(frames), reference(frames, 2)
    crops = (Crop(0, 0, *size), Crop(0, 2, *size))
    x = noise(frames, entries=2, size=size)
    observer, _, _ = observe(host, x, MotionGuidance(motion), crops)
    result = observer.result()
    # At full resolution the crops begin at columns 0 and 2, at half of it at 0 and 1.
    for entry, start in enumerate((0, 2)):
        taps = {}
        for name, tap in motion.taps.items():
            side = GRIDS[TAPS[0]][0] // tap.grid[0]
            columns = slice(start // side, (start + 4) // side)
            values, indices = (
                t.unflatten(0, tap.grid)[:, columns].flatten(0, 1) for t in (tap.values, tap.indices)
            )
            taps[name] = TapRepresentation(values, indices, (4 // side, 4 // side))
        part = slice(entry * frames, (entry + 1) * frames)
        energy, expected = gradient_by_hand(host, x[part], MotionRepresentation.whole(taps, size))
        torch.testing.assert_close(result.value[part], expected, rtol=1e-10, atol=1e-15)
        assert result.energies[entry] == pytest.approx(energy, rel=1e-12)
    assert result.energies[0] != pytest.approx(result.energies[1], rel=1e-3)


def test_an_unreached_tap_is_an_error_with_the_counts():
    observer, _, still_on = observe(ToyHost(4), noise(4), MotionGuidance(reference(4)), skip=TAPS[2:])
    assert still_on
    with pytest.raises(ValueError, match=r"reached 2 of 3 guided layers"):
        observer.result()


def test_a_wrong_number_of_frames_is_named_with_both_numbers():
    observer = MotionGuidance(reference(4)).observer(noise(4), view_of(4), scale=1.0)
    with pytest.raises(RepresentationMismatchError, match=rf"{TAPS[0]} works on 5 frames.* has 4 frames"):
        ToyHost(5).run(noise(5), observer)


def test_each_window_follows_its_own_part_of_the_motion():
    windows = {(0, 1, 2, 3): reference(4), (2, 3, 4, 5): reference(4, seed=5)}
    motion = MotionRepresentation({window: part.taps for window, part in windows.items()}, LATENT)
    x = noise(6)
    for window, part in windows.items():
        with torch.enable_grad():
            seen = x[list(window)].clone().requires_grad_()
            observer = MotionGuidance(motion).observer(seen, View([window], [WHOLE], LATENT), scale=1.0)
            host = ToyHost(4)
            host.run(seen, observer)
        _, expected = gradient_by_hand(host, x[list(window)], part)
        torch.testing.assert_close(observer.result().value, expected)
    with pytest.raises(RepresentationMismatchError, match="frames 2 to 5 at once"):
        MotionGuidance(motion).observer(x[1:5], View([(1, 2, 3, 4)], [WHOLE], LATENT), scale=1.0)


def test_views_of_a_call_share_its_energy():
    """Attention that sees two windows in turn: the energy is the mean over all that they are held against."""
    windows = {(0, 1, 2, 3): reference(4), (2, 3, 4, 5): reference(4, seed=5)}
    motion = MotionRepresentation({window: part.taps for window, part in windows.items()}, LATENT)
    x = noise(6).requires_grad_()
    observer = MotionGuidance(motion).observer(x, View(list(windows), [WHOLE], LATENT), scale=1.0)
    with torch.enable_grad():
        seen, energies = [], []
        for window, part in windows.items():
            recorder = Recorder()
            ToyHost(4).run(x[list(window)], recorder)
            seen.append(recorder.seen)
            energies.append(
                sum(
                    written_out_energy(written_out_attention(*recorder.seen[name], HEADS), tap.values, tap.indices)
                    for name, tap in part.taps.items()
                )
            )
        (expected,) = torch.autograd.grad(sum(energies) / 2, x, retain_graph=True)
        for tap in TAPS:
            for view in seen:
                observer.observe(tap, *view[tap], HEADS)
    torch.testing.assert_close(observer.result().value, expected, rtol=1e-10, atol=1e-15)
    assert observer.result().energies[0] == pytest.approx(float(sum(energies).detach()) / 2, rel=1e-12)


def test_of_several_motions_the_one_that_does_not_fit_is_named():
    taps, moving = reference(4).taps, [(0, 1, 2, 3), (1, 2, 3, 4), (2, 3, 4, 5)]
    several, two = (MotionRepresentation(dict.fromkeys(windows, taps), LATENT) for windows in (moving, moving[::2]))
    both = MotionGuidance(Motion((MotionPart(several), MotionPart(two))))
    with pytest.raises(RepresentationMismatchError, match=r"motion 2 of 2: .* read in frames 1 to 4, frames 3 to 6"):
        both.observer(noise(4).requires_grad_(), View([moving[1]], [WHOLE], LATENT), scale=1.0)


def test_a_curve_that_is_0_everywhere_is_refused():
    with pytest.raises(ValueError, match="curve is 0 everywhere"):
        MotionGuidance(reference(4), window=StrengthCurve((Keyframe(0.5, 0.0),)))


def test_a_wrong_number_of_positions_is_named_with_both_numbers():
    with pytest.raises(RepresentationMismatchError, match=r"32 positions, .* 4 frames and 24 positions"):
        observe(ToyHost(4), noise(4, size=(4, 8)), MotionGuidance(reference(4)))


def test_after_an_error_in_the_network_the_mode_comes_back():
    with torch.no_grad():
        with pytest.raises(RepresentationMismatchError):
            observe(ToyHost(5), noise(5), MotionGuidance(reference(4)))
        assert not torch.is_grad_enabled()


def test_a_run_leaves_the_representation_as_it_was():
    motion = reference(4)
    before = {name: (tap.values.clone(), tap.indices.clone()) for name, tap in motion.taps.items()}
    observe(ToyHost(4), noise(4), MotionGuidance(motion))
    for name, (values, indices) in before.items():
        assert torch.equal(motion.taps[name].values, values)
        assert torch.equal(motion.taps[name].indices, indices)


def test_a_step_against_the_gradient_lowers_the_energy():
    host, x, motion = ToyHost(4), noise(4), reference(4)
    observer, _, _ = observe(host, x, MotionGuidance(motion))
    energy, gradient = observer.result().energies[0], observer.result().value
    step = 1e-3 / gradient.norm()
    with torch.no_grad():
        assert energy_by_hand(host, x - step * gradient, motion).item() < energy


# --- the update rules -----------------------------------------------------------------------------

BETAS = np.linspace(0.00085, 0.012, 1000, dtype=np.float64)
ABAR = np.cumprod(1 - BETAS)


def sigma_of(abar):
    return math.sqrt((1 - abar) / abar)


def uneven(N, G, r):
    """METHOD: the guided points, then the others, then the end, which has abar 1."""
    boundary = int((1 - r) * 1000)
    guided = np.round(np.linspace(boundary, 999, G))[::-1]
    rest = np.round(np.linspace(0, boundary - 1, N - G))[::-1]
    timesteps = np.concatenate([guided, rest]).astype(int)
    return timesteps, [*(float(ABAR[t]) for t in timesteps), 1.0]


def ddim(z, eps, score, abar, abar_prev, rule):
    """One literal DDIM step, eta 0; ``score`` is the gradient of lambda * w * g by z."""
    if rule == "paper":
        # Eq. 2: the guided noise stands everywhere.
        eps = eps + math.sqrt(1 - abar) * score
        z_0 = (z - math.sqrt(1 - abar) * eps) / math.sqrt(abar)
        return math.sqrt(abar_prev) * z_0 + math.sqrt(1 - abar_prev) * eps
    # The authors' code: only in the direction to x_t.
    z_0 = (z - math.sqrt(1 - abar) * eps) / math.sqrt(abar)
    direction = eps - math.sqrt(1 - abar) * score
    return math.sqrt(abar_prev) * z_0 + math.sqrt(1 - abar_prev) * direction


def euler(x, denoised, sigma, sigma_next):
    return x + (x - denoised) / sigma * (sigma_next - sigma)


@pytest.mark.parametrize("rule", ["published", "paper"])
@pytest.mark.parametrize(("t", "t_prev"), [(999, 899), (899, 800), (700, 699), (400, 0)])
def test_one_euler_step_is_one_ddim_step(rule, t, t_prev):
    z, eps, score = (noise(2, seed=seed) for seed in range(3))
    abar, abar_prev, strength = ABAR[t], ABAR[t_prev], 0.7
    expected = ddim(z, eps, strength * score, abar, abar_prev, rule)
    sigma, sigma_next = sigma_of(abar), sigma_of(abar_prev)
    denoised = (z - math.sqrt(1 - abar) * eps) / math.sqrt(abar)
    corrected = corrected_denoised(
        denoised,
        score / math.sqrt(1 + sigma**2),
        strength=strength,
        sigma=sigma,
        sigma_next=sigma_next,
        rule=rule,
    )
    x = euler(z * math.sqrt(1 + sigma**2), corrected, sigma, sigma_next)
    difference = (x / math.sqrt(1 + sigma_next**2) - expected).norm() / expected.norm()
    assert difference.item() < 1e-12


def guided_weight(i):
    # Warm-up over 10 steps, no cool-down.
    return 2000.0 * (i + 1) / 10


def z_space(host, z, motion, N, G, rule):
    timesteps, abars = uneven(N, G, 0.3)
    for i in range(N):
        with torch.no_grad():
            eps = host.run(z) + 0.1 * math.cos(timesteps[i])
        score = torch.zeros_like(z)
        if motion is not None and i < G:
            score = guided_weight(i) * gradient_by_hand(host, z, motion)[1]
        z = ddim(z, eps, score, abars[i], abars[i + 1], rule)
    return z


def sigma_space(host, z, motion, N, G, rule):
    timesteps, abars = uneven(N, G, 0.3)
    sigmas = [sigma_of(abar) for abar in abars]
    guidance = MotionGuidance(motion, window=GuidanceWindow(0, G, 10, 0), update_rule=rule)
    x = z * math.sqrt(1 + sigmas[0] ** 2)
    for i in range(N):
        sigma, sigma_next = sigmas[i], sigmas[i + 1]
        with torch.enable_grad():
            x = x.detach().clone().requires_grad_()
            observer = guidance.observer(x, view_of(len(x)), scale=1.0)
            eps = host.run(x / math.sqrt(1 + sigma**2), observer) + 0.1 * math.cos(timesteps[i])
        x = x.detach()
        denoised = x - sigma * eps
        if guidance.guides(i, N, sigma_next=sigma_next):
            gradient = observer.result().value
            levels = {"sigma": sigma, "sigma_next": sigma_next}
            denoised = guidance.correct(denoised, gradient, step=i, total_steps=N, **levels)
        x = euler(x, denoised, sigma, sigma_next)
    return x


@pytest.mark.parametrize("rule", ["published", "paper"])
def test_an_euler_run_in_sigma_space_is_the_ddim_run_in_z_space(rule):
    host, z, motion, N, G = ToyHost(4), noise(4), reference(4), 6, 4
    expected = z_space(host, z, motion, N, G, rule)
    unguided = z_space(host, z, None, N, G, rule)
    got = sigma_space(host, z, motion, N, G, rule)
    assert ((expected - unguided).norm() / unguided.norm()).item() > 1e-2
    assert ((got - expected).norm() / expected.norm()).item() < 1e-10


def test_the_rules_differ_by_the_ratio_of_the_step():
    gradient, zero = noise(2), torch.zeros_like(noise(2))
    options = {"strength": 3.0, "sigma": 8.0, "sigma_next": 6.0}
    published = corrected_denoised(zero, gradient, **options, rule="published")
    paper = corrected_denoised(zero, gradient, **options, rule="paper")
    torch.testing.assert_close(paper, -3.0 * 64.0 * gradient, rtol=1e-14, atol=0)
    torch.testing.assert_close(published, paper * (6.0 / (8.0 - 6.0)), rtol=1e-14, atol=0)


def test_the_published_rule_moves_the_next_latent_by_the_same_whatever_the_step_length():
    gradient, zero = noise(2), torch.zeros_like(noise(2))
    for sigma in (10.0, 5.5, 5.001):
        corrected = corrected_denoised(zero, gradient, strength=2.0, sigma=sigma, sigma_next=5.0)
        moved = euler(zero, corrected, sigma, 5.0)
        # A difference of 0.001 between sigmas costs digits, no more than that.
        torch.testing.assert_close(moved, -5.0 * 2.0 * sigma * gradient, rtol=1e-11, atol=0)


@pytest.mark.parametrize("sigma", [3.9, 4.0, 5.2])
def test_an_evaluation_inside_a_step_pushes_the_whole_step_by_its_own_sigma(sigma):
    """DPM-2 takes its whole step, from 5.2 to 3.1, along the direction at a sigma between."""
    sigma_from, sigma_next, strength = 5.2, 3.1, 7.0
    x, denoised, gradient = (noise(4, seed=seed) for seed in range(3))

    def midpoint_step(prediction):
        return x + (x - prediction) / sigma * (sigma_next - sigma_from)

    corrected = corrected_denoised(
        denoised, gradient, strength=strength, sigma=sigma, sigma_next=sigma_next, sigma_from=sigma_from
    )
    push = midpoint_step(corrected) - midpoint_step(denoised)
    torch.testing.assert_close(push, -sigma_next * strength * sigma * gradient, rtol=1e-12, atol=1e-12)


def test_strength_0_changes_no_bit():
    denoised, gradient = noise(2).float(), noise(2, seed=1).float()
    for rule in UPDATE_RULES:
        corrected = corrected_denoised(
            denoised, gradient, strength=0.0, sigma=9.0, sigma_next=7.0, rule=rule
        )
        assert torch.equal(corrected, denoised)


@pytest.mark.parametrize("rule", ["published", "normalised"])
def test_all_rules_but_the_papers_leave_the_last_step_alone(rule):
    denoised, gradient = noise(2), noise(2, seed=1)
    corrected = corrected_denoised(denoised, gradient, strength=5.0, sigma=0.03, sigma_next=0.0, rule=rule)
    assert torch.equal(corrected, denoised)


@pytest.mark.parametrize("sigma", [3.9, 4.0, 5.2])
def test_a_normalised_evaluation_inside_a_step_pushes_the_whole_step(sigma):
    x, denoised, gradient = (noise(4, seed=seed) for seed in range(3))
    corrected = corrected_denoised(
        denoised, gradient, strength=1000.0, sigma=sigma, sigma_next=3.1, sigma_from=5.2, rule="normalised"
    )
    push = (x - corrected) / sigma * (3.1 - 5.2) - (x - denoised) / sigma * (3.1 - 5.2)
    direction = gradient / gradient.square().mean().sqrt()
    torch.testing.assert_close(push, -3.1 * 0.035 * direction, rtol=1e-11, atol=1e-12)


class WithoutFloat64(torch.Tensor):
    """A tensor of a device that has no float64."""

    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        if func is torch.Tensor.double or any(a is torch.float64 for a in (*args, *(kwargs or {}).values())):
            raise TypeError("this device has no float64")
        return super().__torch_function__(func, types, args, kwargs or {})


@pytest.mark.parametrize("rule", UPDATE_RULES)
@pytest.mark.parametrize("limit", [None, 0.01])
def test_no_rule_asks_for_float64(rule, limit):
    denoised, gradient = (noise(2, seed=seed).float().as_subclass(WithoutFloat64) for seed in range(2))
    corrected = corrected_denoised(
        denoised, gradient, strength=1000.0, sigma=2.0, sigma_next=1.0, rule=rule, limit=limit
    )
    assert bool(corrected.isfinite().all()) and not torch.equal(corrected, denoised)


def test_a_faint_gradient_is_not_rounded_away_before_it_is_scaled():
    gradient = 1e-9 * noise(2, seed=1).float()
    options = {"strength": 2000.0, "sigma": 2.0, "sigma_next": 1.0, "rule": "normalised"}
    fine, coarse = (
        corrected_denoised(torch.zeros_like(gradient, dtype=dtype), gradient, **options)
        for dtype in (torch.float32, torch.float16)
    )
    torch.testing.assert_close(coarse.float(), fine, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("rule", UPDATE_RULES)
def test_a_gradient_too_small_for_its_inverse_is_none(rule):
    gradient = torch.full((2, 3), 1e-42)
    corrected = corrected_denoised(
        torch.zeros(2, 3), gradient, strength=2000.0, sigma=9.0, sigma_next=8.9, rule=rule, limit=0.1
    )
    assert float(corrected.abs().max()) < 1e-30


def test_the_arguments_are_left_as_they_were_and_the_type_is_kept():
    denoised, gradient = noise(2).to(torch.float16), noise(2, seed=1).float()
    before = denoised.clone(), gradient.clone()
    corrected = corrected_denoised(denoised, gradient, strength=0.01, sigma=2.0, sigma_next=1.0)
    assert corrected.dtype == torch.float16
    assert torch.equal(denoised, before[0])
    assert torch.equal(gradient, before[1])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rule": "eq2"}, r"'eq2' is unknown: choose one of published, paper, normalised"),
        ({"sigma_next": 8.0}, r"from 8\.0 to 8\.0"),
        ({"sigma_next": 9.0}, r"from 8\.0 to 9\.0"),
        ({"sigma_next": -1.0}, r"from 8\.0 to -1\.0"),
        ({"sigma": 0.0, "sigma_next": 0.0}, r"from 0\.0 to 0\.0"),
        ({"sigma": math.nan}, r"from nan to 6\.0"),
    ],
)
def test_bad_steps_and_rules_are_named(options, message):
    step = {"strength": 1.0, "sigma": 8.0, "sigma_next": 6.0, **options}
    with pytest.raises(ValueError, match=message):
        corrected_denoised(torch.zeros(1), torch.zeros(1), **step)


# --- the settings ---------------------------------------------------------------------------------


def push_of(gradient, *, strength, limit=None, sigma=2.0, sigma_next=1.0, rule="published"):
    """delta and its root mean square, read back from what it does to ``denoised``."""
    corrected = corrected_denoised(
        torch.zeros_like(gradient),
        gradient,
        strength=strength,
        sigma=sigma,
        sigma_next=sigma_next,
        limit=limit,
        rule=rule,
    )
    delta = -corrected / (sigma * sigma_next / (sigma - sigma_next))
    return delta, float(delta.square().mean().sqrt())


def test_a_limit_shortens_a_strong_push_and_keeps_its_direction():
    gradient = torch.randn(3, 4, 5, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    free, size = push_of(gradient, strength=0.7)
    assert size == pytest.approx(0.7 * 2.0 * float(gradient.square().mean().sqrt()))
    held, held_size = push_of(gradient, strength=0.7, limit=size / 3)
    assert held_size == pytest.approx(size / 3, rel=1e-6)
    torch.testing.assert_close(held * 3, free, rtol=1e-6, atol=1e-12)


def test_a_limit_leaves_weaker_pushes_and_none_alone():
    gradient = torch.randn(3, 4, 5, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    free, size = push_of(gradient, strength=0.7)
    assert torch.equal(push_of(gradient, strength=0.7, limit=1.01 * size)[0], free)
    assert torch.equal(push_of(torch.zeros_like(gradient), strength=0.7, limit=0.1)[0], torch.zeros_like(gradient))


@pytest.mark.parametrize("scale", [1.0, 1e-12, 1e6])
@pytest.mark.parametrize("sigma, sigma_next", [(2.0, 1.0), (14.6, 12.0), (1.0, 0.9)])
def test_a_normalised_push_is_as_hard_whatever_the_gradient_and_the_noise(scale, sigma, sigma_next):
    gradient = torch.randn(3, 4, 5, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    delta, size = push_of(
        scale * gradient, strength=1000.0, sigma=sigma, sigma_next=sigma_next, rule="normalised"
    )
    assert size == pytest.approx(0.035, rel=1e-12)  # half of what the weight 2000 does
    torch.testing.assert_close(delta / size, gradient / gradient.square().mean().sqrt())
    held = push_of(scale * gradient, strength=1000.0, sigma=sigma, sigma_next=sigma_next, rule="normalised", limit=0.01)
    assert held[1] == pytest.approx(0.01)


def test_a_normalised_step_without_a_gradient_moves_nothing():
    delta, _ = push_of(torch.zeros(2, 3, dtype=torch.float64), strength=2000.0, rule="normalised")
    assert torch.equal(delta, torch.zeros_like(delta))


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_brings_its_limit_and_its_rule(name):
    preset = replace(PRESETS[name], block_weights=())
    guidance = MotionGuidance.of(reference(4), preset)
    assert (guidance.limit, guidance.update_rule) == (preset.limit, preset.update_rule)
    assert guidance.update_rule == ("normalised" if name == "fast" else "published")


@pytest.mark.parametrize(("name", "k", "said"), [("fast", 1, True), ("fast", 2, False), ("camera", 2, True)])
def test_a_motion_with_another_k_than_the_preset_s_is_remarked_on(name, k, said, caplog):
    with caplog.at_level("INFO"):
        MotionGuidance.of(reference(4, k), PRESETS[name])
    assert (f"this one has k = {k}" in caplog.text) == said


@pytest.mark.parametrize("limit", [0.0, -1.0, float("nan")])
def test_a_limit_is_above_0(limit):
    with pytest.raises(ValueError, match=rf"limit is {limit}: it must be above 0"):
        MotionGuidance(reference(4), limit=limit)


def test_strength_is_weight_times_ramp():
    guidance = MotionGuidance(reference(4), weight=500.0, window=GuidanceWindow(1, 4, 2, 2))
    assert [guidance.strength(step, 8) for step in range(8)] == [0, 250, 500, 500, 250, 0, 0, 0]


def test_weight_0_is_off():
    guidance = MotionGuidance(reference(4), weight=0.0)
    assert {guidance.strength(step, 60) for step in range(60)} == {0.0}


def test_of_takes_the_weight_and_window_of_a_preset():
    guidance = MotionGuidance.of(reference(4), replace(PRESETS["object"], weight=1500.0, update_rule="paper"))
    assert guidance.update_rule == "paper"
    # 300 steps, 180 of them guided, ramps of 10.
    strengths = [guidance.strength(step, 300) for step in range(300)]
    expected = [1500 * min(1, (i + 1) / 10, (180 - i) / 10) for i in range(180)] + [0] * 120
    assert strengths == pytest.approx(expected, rel=1e-14, abs=0)


@pytest.mark.parametrize("weight", [-1.0, math.nan, math.inf])
def test_a_weight_that_is_no_weight_is_named(weight):
    with pytest.raises(ValueError, match=rf"weight is {weight}: .*0 is off"):
        MotionGuidance(reference(4), weight=weight)


def test_an_unknown_rule_is_named():
    with pytest.raises(ValueError, match=r"'eq2' is unknown: choose one of published, paper, normalised"):
        MotionGuidance(reference(4), update_rule="eq2")


MODEL = ModelIdentity("toy/1", "abc", dict.fromkeys(TAPS, HEADS))


def made_with(architecture):
    return replace(reference(4), provenance=Provenance(architecture=architecture))


@pytest.mark.parametrize("architecture", ["toy/1", ""])
def test_the_model_and_video_that_it_was_made_with_pass(architecture):
    MotionGuidance(made_with(architecture)).require(MODEL, VideoSize(4, *LATENT))


@pytest.mark.parametrize(
    ("model", "video", "message"),
    [
        (replace(MODEL, architecture="toy/2"), VideoSize(4, *LATENT), r"made with toy/1, this model is toy/2"),
        (replace(MODEL, heads={TAPS[0]: HEADS}), VideoSize(4, *LATENT), rf"reads {TAPS[1]}.*it has {TAPS[0]}\)"),
        (replace(MODEL, heads={**MODEL.heads, TAPS[2]: 8}), VideoSize(4, *LATENT), rf"2 heads at {TAPS[2]}.*has 8"),
        (MODEL, VideoSize(5, *LATENT), r"has 4 frames, the latent to sample has 5"),
    ],
)
def test_what_does_not_fit_is_named_with_both_sides(model, video, message):
    with pytest.raises(RepresentationMismatchError, match=message):
        MotionGuidance(made_with("toy/1")).require(model, video)


# --- masks, sizes, several motions ----------------------------------------------------------------------


def masked_energy(host, x, representation, weights):
    """The sum over taps of mean(w * (A - L)^2), written out."""
    recorder = Recorder()
    host.run(x, recorder)
    total = 0.0
    for name, tap in representation.taps.items():
        attention = written_out_attention(*recorder.seen[name], HEADS)
        distances = (attention.gather(-1, tap.indices) - tap.values).square()
        total = total + (distances * weights[name][:, None, :, None]).mean()
    return total


def test_a_mask_weighs_the_cells_of_every_tap():
    host, x, motion = ToyHost(4), noise(4), reference(4, 2)
    # Sixty-fourths: their means are exact.
    mask = torch.randint(0, 65, (4, *LATENT), generator=torch.Generator().manual_seed(9)) / 64
    weights = {TAPS[0]: mask.flatten(1).T.double()}
    # Each cell of the smaller taps covers four of the latent.
    halves = mask.unflatten(1, (2, 2)).unflatten(3, (3, 2)).mean(dim=(2, 4)).flatten(1).T.double()
    weights |= {TAPS[1]: halves, TAPS[2]: halves}
    leaf = x.clone().requires_grad_()
    energy = masked_energy(host, leaf, motion, weights)
    (expected,) = torch.autograd.grad(energy, leaf)
    result = observe(host, x, MotionGuidance(replace(motion, mask=mask)))[0].result()
    torch.testing.assert_close(result.value, expected, rtol=1e-10, atol=1e-15)
    assert result.energies == pytest.approx([energy.item()], rel=1e-12)


def test_a_mask_of_ones_changes_nothing():
    host, x, motion = ToyHost(4), noise(4), reference(4, 2)
    motions = (motion, replace(motion, mask=torch.ones(1, 4, 6)))
    plain, under_ones = (observe(host, x, MotionGuidance(m))[0].result().value for m in motions)
    assert torch.equal(plain, under_ones)


@pytest.mark.parametrize("size", [(8, 12), (4, 4), (6, 9)])
def test_a_motion_of_one_size_guides_another(size, caplog):
    host, motion = ToyHost(4), reference(4, 1)
    guidance, x = MotionGuidance(motion), noise(4, size=size)
    with caplog.at_level("INFO"):
        guidance.require(MODEL, VideoSize(4, *size))
    assert f"a motion read at 6 x 4 latent cells guides {size[1]} x {size[0]}" in caplog.text
    with torch.enable_grad():
        leaf = x.requires_grad_()
        observer = guidance.observer(leaf, View([(0, 1, 2, 3)], [Crop(0, 0, *size)], size), scale=1.0)
        host.run(leaf, observer)
    stretched = {}
    for name, tap in motion.taps.items():
        grid = tuple(-(-side // (LATENT[0] // tap.grid[0])) for side in size)
        # In whole numbers: centre (2 i + 1) / (2 n) of the new grid, in cells of the old one.
        sides = zip(grid, tap.grid, strict=True)
        rows, columns = ([(2 * i + 1) * old // (2 * n) for i in range(n)] for n, old in sides)
        cells = [r * tap.grid[1] + c for r in rows for c in columns]
        stretched[name] = TapRepresentation(tap.values[cells], tap.indices[cells], grid)
    if size == (6, 9):
        return  # an odd length has no such plain formula; that it runs is what is seen here
    energy, expected = gradient_by_hand(host, x.detach(), MotionRepresentation.whole(stretched, size))
    torch.testing.assert_close(observer.result().value, expected, rtol=1e-10, atol=1e-15)
    assert observer.result().energies == pytest.approx([energy])


def test_several_motions_add_up_by_their_strengths():
    host, x = ToyHost(4), noise(4)
    one, other = reference(4, 1, seed=1), reference(4, 2, seed=2, taps=TAPS[1:])
    mix = Motion((MotionPart(one, 0.5), MotionPart(other, 2.0)))
    guidance = MotionGuidance(mix, weight=100.0, window=GuidanceWindow(0, 5, 0, 0))
    result = observe(host, x, guidance)[0].result()
    (_, first), (_, second) = (gradient_by_hand(host, x, motion) for motion in (one, other))
    pushed = guidance.strength(0, 10) * result.value
    torch.testing.assert_close(pushed, 100.0 * (0.5 * first + 2.0 * second), rtol=1e-9, atol=1e-15)
    assert guidance.taps == TAPS


def test_every_k_that_is_not_the_presets_is_named(caplog):
    mix = Motion(tuple(MotionPart(reference(4, k)) for k in (1, 2, 3)))
    with caplog.at_level("INFO"):
        MotionGuidance.of(mix, PRESETS["camera"])
    said = [record.getMessage() for record in caplog.records]
    assert [message[-1] for message in said] == ["2", "3"] and all("with k = 1;" in message for message in said)


def test_a_motion_that_has_faded_out_is_not_read():
    fading = StrengthCurve((Keyframe(0.0, 1.0), Keyframe(1.0, 0.0)))
    mix = Motion((MotionPart(reference(4, taps=TAPS[:1])), MotionPart(reference(4, taps=TAPS[1:]), ramp=fading)))
    guidance = MotionGuidance(mix)
    last = View([(0, 1, 2, 3)], [WHOLE], LATENT, step=9, total_steps=10)
    assert tuple(guidance.targets(last)[0]) == TAPS[:1]
    assert tuple(guidance.targets(replace(last, step=8))[0]) == TAPS


def test_a_curve_takes_the_place_of_window_and_ramps():
    late = StrengthCurve((Keyframe(0.0, 0.0, "hold"), Keyframe(0.5, 1.0)))
    guidance = MotionGuidance.of(reference(4), PRESETS["camera"], curve=late)
    assert [guidance.strength(step, 5) for step in range(5)] == [0.0, 0.0, 2000.0, 2000.0, 2000.0]


def test_normalised_pushes_a_part_of_the_clip_as_hard_as_it_would_push_the_whole():
    left = torch.zeros(1, *LATENT)
    left[..., :3] = 1.0
    whole, part = (
        MotionGuidance(m, 1000.0, GuidanceWindow(0, 5, 0, 0), "normalised")
        for m in (reference(4), replace(reference(4), mask=left))
    )
    gradient = torch.zeros(4, CHANNELS, *LATENT, dtype=torch.float64)
    gradient[..., :3] = noise(4)[..., :3]
    step = {"step": 0, "total_steps": 10, "sigma": 4.0, "sigma_next": 2.0}
    pushes = []
    for guidance, seen in ((whole, noise(4)), (part, gradient)):
        pushes.append(-guidance.correct(torch.zeros_like(seen), seen, **step))
    assert pushes[1][..., 3:].abs().max() == 0
    inside = pushes[1][..., :3].square().mean().sqrt()
    torch.testing.assert_close(inside, pushes[0].square().mean().sqrt(), rtol=1e-6, atol=0)


def test_a_limit_is_that_of_the_part_that_is_guided():
    left = torch.zeros(1, *LATENT)
    left[..., :3] = 1.0
    gradient = torch.zeros(4, CHANNELS, *LATENT, dtype=torch.float64)
    gradient[..., :3] = 1.0
    guidance = MotionGuidance(replace(reference(4), mask=left), 1e6, limit=0.25)
    step = {"step": 0, "total_steps": 100, "sigma": 4.0, "sigma_next": 2.0}
    moved = -guidance.correct(torch.zeros_like(gradient), gradient, **step)
    # By delta * sigma * sigma_next / (sigma - sigma_next).
    torch.testing.assert_close(moved[..., 0], torch.full_like(moved[..., 0], 0.25 * 4.0), rtol=1e-6, atol=0)


def test_a_limit_goes_by_the_motions_that_a_step_follows():
    left = torch.zeros(1, *LATENT)
    left[..., :3] = 1.0
    fading = StrengthCurve((Keyframe(0.0, 1.0), Keyframe(1.0, 0.0)))
    mix = Motion((MotionPart(reference(4), ramp=fading), MotionPart(replace(reference(4), mask=left))))
    guidance = MotionGuidance(mix, 1e6, window=GuidanceWindow(0, 10, 0, 0), limit=0.25)
    gradient = torch.ones(4, CHANNELS, *LATENT, dtype=torch.float64)
    levels = {"total_steps": 10, "sigma": 4.0, "sigma_next": 2.0}
    first, last = (-guidance.correct(torch.zeros_like(gradient), gradient, step=i, **levels) for i in (0, 9))
    torch.testing.assert_close(first, torch.full_like(first, 0.25 * 4.0), rtol=1e-6, atol=0)
    torch.testing.assert_close(last, first * math.sqrt(0.5), rtol=1e-6, atol=0)


@pytest.mark.parametrize(("rule", "guided"), [("published", False), ("normalised", False), ("paper", True)])
def test_a_step_that_ends_without_noise_is_guided_where_it_could_be_pushed(rule, guided):
    guidance = MotionGuidance(reference(4), window=GuidanceWindow(0, 5, 0, 0), update_rule=rule)
    assert guidance.guides(4, 5, sigma_next=0.0) is guided
    assert guidance.guides(4, 5, sigma_next=1e-3)
    last = {"step": 4, "total_steps": 5, "sigma": 4.0, "sigma_next": 0.0}
    assert guidance.correct(torch.zeros_like(noise(4)), noise(4), **last).any() == guided
