"""DDIM inversion against the published formula, and against a model whose every noise level is known."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from motionclone_core.headless import extract, extract_series
from motionclone_core.hosts.diffusers_animatediff import DiffusersAnimateDiff, invert, sample
from motionclone_core.inversion import (
    Inversion,
    InversionMismatchError,
    InversionOrigin,
    digest,
    inversion_timesteps,
    inverted,
    kept_among,
    levels_of,
    nearest,
    risen,
)
from motionclone_core.schedule import alphas_cumprod, sigma_at
from motionclone_core.serialization import (
    MotionFileError,
    load_inversion,
    load_representation,
    save_inversion,
)
from tiny_unet import tiny_unet

ABAR = np.cumprod(1.0 - np.linspace(0.00085, 0.012, 1000))
SPREAD = 0.4  # of the data that the toy below knows


def toy_noise(z, timestep):
    """What a perfect network predicts of data that is normal with a deviation of `SPREAD`."""
    abar = ABAR[timestep]
    return z * math.sqrt(1 - abar) / (abar * SPREAD**2 + 1 - abar)


def clip(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def levels(steps):
    timesteps = inversion_timesteps(steps)
    return levels_of(timesteps, [sigma_at(timestep) for timestep in timesteps])


def by_the_toy(z, steps):
    return {level.timestep: z for level, z in inverted(z, levels(steps), lambda z, at: toy_noise(z, at.timestep))}


def published(z, steps):
    """The first version's program, in float64: the latent is taken to be at t - 1000 // steps, clean below 0."""
    found = {}
    for t in (round(float(t)) for t in np.linspace(0, 999, steps)):
        s = t - 1000 // steps
        abar_s, abar_t = 1.0 if s < 0 else ABAR[s], ABAR[t]
        noise = toy_noise(z, t)
        z = math.sqrt(abar_t) * (z - math.sqrt(1 - abar_s) * noise) / math.sqrt(abar_s) + math.sqrt(1 - abar_t) * noise
        found[t] = z
    return found


def test_a_thousand_steps_are_those_of_the_published_program():
    z = SPREAD * clip(2, 3)
    ours, theirs = by_the_toy(z, 1000), published(z, 1000)
    assert list(ours) == list(theirs) == list(range(1000))
    for timestep in (0, 1, 400, 999):
        assert torch.allclose(ours[timestep], theirs[timestep], rtol=1e-10, atol=0)


def test_levels_are_exact_where_the_published_program_drifts():
    z = SPREAD * clip(2, 3)
    # The flow of this toy leaves z over its deviation unchanged.
    true = {t: z / SPREAD * math.sqrt(ABAR[t] * SPREAD**2 + 1 - ABAR[t]) for t in range(1000)}
    ours, theirs = (
        [max(float((latent / true[t] - 1).abs().max()) for t, latent in route(z, n).items()) for n in (120, 240)]
        for route in (by_the_toy, published)
    )
    assert ours[1] < 0.65 * ours[0]
    assert theirs[1] > 0.9 * theirs[0] and ours[1] < theirs[1] / 2


def test_more_steps_come_back_closer():
    z = SPREAD * clip(2, 3)
    errors = []
    for steps in (50, 100, 200):
        latent, found = by_the_toy(z, steps)[999], levels(steps)
        for level, below in zip(found[::-1], [0.0, *(one.sigma for one in found)][-2::-1], strict=True):
            noise = toy_noise(latent, level.timestep)
            x = latent * math.sqrt(1 + level.sigma**2) + noise * (below - level.sigma)
            latent = x / math.sqrt(1 + below**2)
        errors.append(float((latent - z).norm() / z.norm()))
    # Euler's method is of the first order.
    assert errors[0] / errors[1] == pytest.approx(2, rel=0.15)
    assert errors[1] / errors[2] == pytest.approx(2, rel=0.15)


def test_a_step_may_not_fall():
    with pytest.raises(ValueError, match=r"sigma goes from 2\.0 to 1\.0"):
        risen(clip(1), clip(1), 2.0, 1.0)


@pytest.mark.parametrize(("steps", "expected"), [(2, [0, 999]), (4, [0, 333, 666, 999])])
def test_timesteps(steps, expected):
    assert inversion_timesteps(steps) == expected


@pytest.mark.parametrize("steps", [1, 1001])
def test_steps_out_of_range(steps):
    with pytest.raises(ValueError, match=f"an inversion of {steps} steps: choose from 2 to 1000"):
        inversion_timesteps(steps)


def test_a_schedule_of_few_levels_is_refused():
    with pytest.raises(ValueError, match="one level for the timesteps 10 and 20: invert with fewer than 3 steps"):
        levels_of([0, 10, 20], [0.1, 0.2, 0.2])


def test_the_nearest_levels_are_kept():
    assert nearest([0, 10, 20], 15) == 10
    assert kept_among([0, 10, 20], [16.0, 21.0, 3.0]) == {0, 20}


# --- an inversion -----------------------------------------------------------------------------------------


ORIGIN = InversionOrigin("clip", "model", "words", 100)


def made(seed=0, timesteps=(0, 400, 999)):
    z = clip(4, 3, 2, 2, seed=seed).float()
    return Inversion({t: z * (t + 1) for t in timesteps}, z, replace(ORIGIN, clip=digest(z)))


def test_it_comes_back_from_its_file_bit_by_bit(tmp_path):
    inversion, path = made(), tmp_path / "deep" / "one.safetensors"
    save_inversion(inversion, path)
    found = load_inversion(path)
    assert found.origin == inversion.origin and found.timesteps == inversion.timesteps
    assert torch.equal(found.clean, inversion.clean)
    assert all(torch.equal(found.latents[t], inversion.latents[t]) for t in found.timesteps)


def test_its_file_is_no_motion_file(tmp_path):
    save_inversion(made(), tmp_path / "one.safetensors")
    with pytest.raises(MotionFileError, match="not a motion file"):
        load_representation(tmp_path / "one.safetensors")


@pytest.mark.parametrize("size", [0, 7, 500])
def test_a_file_that_was_cut_off_is_refused(tmp_path, size):
    path = tmp_path / "one.safetensors"
    save_inversion(made(), path)
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(MotionFileError, match="delete it, and it is computed anew"):
        load_inversion(path)


def test_the_nearest_level_is_read_and_said(caplog):
    with caplog.at_level("INFO"):
        assert made().level_at(400) == 400
        assert caplog.text == ""
        assert made().level_at(450) == 400
    assert "no latent at timestep 450: the motion is read at 400" in caplog.text


def test_levels_are_left_out_and_added():
    few = made(timesteps=(0, 400)).only({400})
    assert few.timesteps == (400,)
    assert made(timesteps=(999,)).with_levels(few).timesteps == (400, 999)


def test_another_clip_is_refused_and_the_same_one_encoded_again_is_not():
    inversion = made()
    near, far = inversion.clean * 1.001, made(seed=1).clean
    inversion.require_clip(near, digest(near))
    with pytest.raises(InversionMismatchError, match=rf"another clip \({inversion.origin.clip}\).*\({digest(far)}\)"):
        inversion.require_clip(far, digest(far))
    with pytest.raises(InversionMismatchError, match="4 frames of 2 x 2 latent cells, the reference has 3 frames"):
        inversion.require_clip(far[:3], digest(far))


def test_another_model_is_refused():
    with pytest.raises(InversionMismatchError, match=r"another model \(model\) than this one \(other\)"):
        made().require_model("other")


@pytest.mark.parametrize(
    ("key", "value", "named"),
    [("model", "other", "model"), ("conditioning", "x", "prompt"), ("steps", 7, "number of steps")],
)
def test_a_name_that_is_taken_says_by_what(key, value, named):
    inversion = made()
    wanted = replace(inversion.origin, **{key: value})
    expected = rf"one is of another {named} \({getattr(inversion.origin, key)}, not {value}\): choose another name"
    with pytest.raises(InversionMismatchError, match=expected):
        inversion.require(wanted, inversion.clean, "one")


def test_the_same_clip_encoded_again_has_the_same_name():
    inversion = made()
    near = inversion.clean * 1.001
    inversion.require(replace(inversion.origin, clip=digest(near)), near, "one")


@pytest.mark.parametrize(
    ("latents", "message"),
    [
        ({}, "at least 1"),
        ({400: torch.zeros(4, 3, 2, 1)}, "one shape"),
        ({400: torch.full((4, 3, 2, 2), math.nan)}, "timestep 400 holds values that are not numbers"),
        ({400: torch.zeros(4, 3, 2, 2), 3: torch.zeros(4, 3, 2, 2)}, r"rise from 0 to 999, got \[400, 3\]"),
        ({1000: torch.zeros(4, 3, 2, 2)}, "rise from 0 to 999"),
    ],
)
def test_latents_that_cannot_be_are_refused(latents, message):
    with pytest.raises(ValueError, match=message):
        Inversion(latents, torch.zeros(4, 3, 2, 2), ORIGIN)


# --- the diffusers host -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def host():
    pytest.importorskip("diffusers")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return DiffusersAnimateDiff(tiny_unet().double().eval())


def test_the_host_inverts_by_the_published_formula(host):
    latent, text = clip(1, 4, 4, 8, 8), clip(1, 3, 8, seed=1)
    found = invert(host, latent, text, steps=4, keep=[333, 666])
    z, abar_s = latent, 1.0
    for t in (0, 333, 666):
        with torch.no_grad():
            noise = host.predict(z, t, text)
        abar_t = ABAR[t]
        z = math.sqrt(abar_t) * (z - math.sqrt(1 - abar_s) * noise) / math.sqrt(abar_s) + math.sqrt(1 - abar_t) * noise
        abar_s = abar_t
    assert list(found) == [333, 666]
    assert torch.allclose(found[666], z, rtol=1e-9, atol=1e-12)


def test_a_clip_comes_back_by_sampling(host):
    latent, text = clip(1, 4, 4, 8, 8), clip(1, 3, 8, seed=1)
    errors = []
    for steps in (10, 40):
        top = invert(host, latent, text, steps=steps, keep=[999])[999]
        back = sample(host, top, text, text, timesteps=inversion_timesteps(steps)[::-1], cfg=1.0)
        errors.append(float((back - latent).norm() / latent.norm()))
    assert errors[1] < errors[0] / 2


def test_a_motion_is_read_off_what_it_is_given(host):
    latent, text = clip(1, 4, 4, 8, 8), clip(1, 3, 8, seed=1)
    abar = float(alphas_cumprod()[333])
    noise = torch.randn(latent.shape, generator=torch.Generator().manual_seed(5)).to(latent)
    z = math.sqrt(abar) * latent + math.sqrt(1 - abar) * noise
    noised = extract(host, latent, text, t_alpha=333, noise_seed=5)
    given = extract(host, latent, text, t_alpha=333, inverted=z)
    other = extract(host, latent, text, t_alpha=333, inverted=2 * z)
    for tap, kept in noised.taps.items():
        assert torch.equal(kept.values, given.taps[tap].values)
    assert any(not torch.equal(kept.values, other.taps[tap].values) for tap, kept in noised.taps.items())


def test_a_series_is_read_level_by_level(host):
    latent, text = clip(1, 4, 4, 8, 8), clip(1, 3, 8, seed=1)
    latents = invert(host, latent, text, steps=4)
    series = extract_series(host, latent, text, latents, k=2)
    assert series.timesteps == (0, 333, 666, 999) and series.k == 2
    alone = extract(host, latent, text, t_alpha=666, k=2, inverted=latents[666])
    for tap, kept in alone.taps.items():
        assert torch.equal(kept.values, series.at(640.0).taps[tap].values)
